"""Rendered pictures of people who occur in no benchmark, cached on disk in chunks.

A chunk is a pure function of its number. Its file contains the pixels and the people's measures; people, outfits and
moments are drawn again from the number, which takes little time. An interrupted rendering resumes with missing chunks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import joblib
import numpy as np
import torch
from numpy.typing import NDArray

from csgn_lib.progress import track
from csgn_lib.records import InputError, atomic_path
from csgn_lib.synthetic.attributes import MEASURES, measure
from csgn_lib.synthetic.body import load_body
from csgn_lib.synthetic.cameras import Camera, draw_camera
from csgn_lib.synthetic.garments import draw_outfit
from csgn_lib.synthetic.people import Person, draw_person
from csgn_lib.synthetic.scenes import Scene, draw, draw_moment
from csgn_lib.synthetic.settings import MIDDLE
from csgn_lib.synthetic.worlds import FORMAT

HEIGHT, WIDTH = 96, 48
PRETRAINING_SEED = 20_251_123  # seeds of worlds are below 10**6: people of benchmarks do not occur here
CAMERAS = 16  # of the setting middle, used only here
BLOCKS, PEOPLE, OUTFITS, IMAGES = 25, 2, 2, 3  # per chunk; per block; per block; of each person and outfit
CHUNK = BLOCKS * PEOPLE * OUTFITS * IMAGES
UNSEEN = 50_000  # chunks from this number on are for scoring only


@dataclass(frozen=True)
class Pictures:
    """Pictures with their scenes and body measures."""

    images: NDArray[np.uint8]  # (N, 96, 48, 3) RGB
    scenes: Sequence[Scene]  # N
    measures: NDArray[np.float32]  # (N, M), in the order of MEASURES


@cache
def cameras() -> list[Camera]:
    """Draw the cameras of the pretraining pictures, which occur in no benchmark; cached."""
    return [
        draw_camera(np.random.default_rng((PRETRAINING_SEED, 9, k)), k, MIDDLE.places[k % len(MIDDLE.places)],
                    MIDDLE.ranges)
        for k in range(CAMERAS)
    ]  # fmt: skip


def scenes_of(chunk: int) -> list[Scene]:
    """Draw the scenes of a chunk, in blocks of people who wear the same outfits.

    Pictures of a block with the same person or with the same outfit are hard negatives of the contrastive loss.
    """
    rng = np.random.default_rng((PRETRAINING_SEED, chunk))
    return [scene for _ in range(BLOCKS) for scene in _block(rng)]


def _block(rng: np.random.Generator) -> Iterator[Scene]:
    people = [draw_person(rng, MIDDLE.spread, MIDDLE.stature_sd, MIDDLE.colour_identity) for _ in range(PEOPLE)]
    outfits = [draw_outfit(rng) for _ in range(OUTFITS)]
    for person in people:
        for outfit in outfits:
            for _ in range(IMAGES):
                camera = cameras()[int(rng.integers(CAMERAS))]
                seed = (PRETRAINING_SEED, 5, int(rng.integers(1 << 40)))
                moment = draw_moment(np.random.default_rng(seed), MIDDLE, camera, person, outfit, seed)
                yield Scene(person, outfit, camera, moment)


def render(chunks: Sequence[int], folder: Path, processes: int = 1) -> Pictures:
    """Return the pictures of some chunks; chunks that exist in ``folder`` are not rendered again.

    Args:
        chunks: numbers of chunks.
        processes: number of processes for rendering.

    Raises:
        InputError: ``chunks`` is empty.
        DiskError: a file cannot be written.
    """
    if not chunks:
        raise InputError("no pictures to render; give at least one chunk")
    folder = folder / f"format-{FORMAT}"
    waiting = [chunk for chunk in chunks if not _file(folder, chunk).exists()]
    made = joblib.Parallel(processes, return_as="generator")(
        joblib.delayed(_render_chunk)(chunk, folder) for chunk in waiting
    )
    deque(track(made, len(waiting), f"rendering chunks of {CHUNK} pictures"), maxlen=0)
    parts = [np.load(_file(folder, chunk)) for chunk in chunks]
    images, measures = (np.concatenate([part[name] for part in parts]) for name in ("images", "measures"))
    return Pictures(images, [scene for chunk in chunks for scene in scenes_of(chunk)], measures)


def _file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.npz"


def _render_chunk(chunk: int, folder: Path) -> None:
    torch.set_num_threads(1)
    scenes = scenes_of(chunk)
    images = np.stack([picture.image for picture in draw(scenes, HEIGHT)])
    with atomic_path(_file(folder, chunk)) as temporary:
        np.savez(temporary, images=images, measures=measures_of([scene.person for scene in scenes]))


def measures_of(people: Sequence[Person]) -> NDArray[np.float32]:
    """Measures (N, M) of people in the order of MEASURES; each distinct person is measured once."""
    body, known = load_body(), {}
    for person in people:
        if id(person) not in known:
            known[id(person)] = [measure(body, person)[name] for name in MEASURES]
    return np.array([known[id(person)] for person in people], dtype=np.float32)
