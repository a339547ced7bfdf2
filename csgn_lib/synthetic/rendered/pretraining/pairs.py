"""Rendered pictures of people who are in no benchmark: a cache on disk that a second call goes on with.

A chunk is a pure function of its number. Its file holds the pixels and the people's measures; people, clothes and
moments are drawn again from the number, which takes no time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from csgn_lib.records import InputError, atomic_path
from csgn_lib.synthetic.rendered.attributes import MEASURES, measure
from csgn_lib.synthetic.rendered.body import load_body
from csgn_lib.synthetic.rendered.cameras import Camera, draw_camera
from csgn_lib.synthetic.rendered.garments import draw_outfit
from csgn_lib.synthetic.rendered.people import Person, draw_person
from csgn_lib.synthetic.rendered.scenes import Scene, draw, draw_moment
from csgn_lib.synthetic.rendered.settings import MIDDLE
from csgn_lib.synthetic.rendered.worlds import FORMAT

HEIGHT, WIDTH = 96, 48
PRETRAINING_SEED = 20_251_123  # worlds are seeded below 10**6: no person of a benchmark is ever drawn here
CAMERAS = 16  # of their own, of the setting middle
BLOCKS, PEOPLE, OUTFITS, IMAGES = 25, 2, 2, 3  # a chunk; a block: people in the same outfits, pictures of each
CHUNK = BLOCKS * PEOPLE * OUTFITS * IMAGES
UNSEEN = 50_000  # chunks from here on are for scoring, never for training
Report = Callable[[str], None]


@dataclass(frozen=True)
class Pictures:
    """images (N, 96, 48, 3) uint8; scenes: what each shows; measures (N, M) float32, in the order of MEASURES."""

    images: NDArray[np.uint8]
    scenes: Sequence[Scene]
    measures: NDArray[np.float32]


@cache
def cameras() -> list[Camera]:
    """The cameras of the pretraining people: no benchmark's."""
    return [
        draw_camera(np.random.default_rng((PRETRAINING_SEED, 9, k)), k, MIDDLE.places[k % len(MIDDLE.places)],
                    MIDDLE.ranges)
        for k in range(CAMERAS)
    ]  # fmt: skip


def scenes_of(chunk: int) -> list[Scene]:
    """The scenes of a chunk, in blocks of people in the same outfits: half of a block's pictures differ only in the
    person and half only in the clothes, which makes good negatives."""
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


def render(chunks: Sequence[int], folder: Path, processes: int = 1, report: Report = lambda line: None) -> Pictures:
    """The pictures of some chunks; those that ``folder`` holds are not rendered again.

    Raises InputError if ``chunks`` is empty, DiskError if a file cannot be written."""
    if not chunks:
        raise InputError("no pictures to render; ask for one chunk at least")
    folder = folder / f"format-{FORMAT}"
    waiting = [chunk for chunk in chunks if not _file(folder, chunk).exists()]
    started = time.monotonic()
    for done, _ in enumerate(_each(waiting, folder, processes), start=1):
        left = (time.monotonic() - started) / done * (len(waiting) - done)
        report(f"rendered {done}/{len(waiting)} chunks of {CHUNK} pictures, about {left / 60:.1f} min left")
    parts = [np.load(_file(folder, chunk)) for chunk in chunks]
    images, measures = (np.concatenate([part[name] for part in parts]) for name in ("images", "measures"))
    return Pictures(images, [scene for chunk in chunks for scene in scenes_of(chunk)], measures)


def _each(waiting: Sequence[int], folder: Path, processes: int) -> Iterator[None]:
    if processes == 1:
        yield from (_render_chunk(chunk, folder) for chunk in waiting)
        return
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        yield from pool.map(_render_chunk, waiting, [folder] * len(waiting))


def _file(folder: Path, chunk: int) -> Path:
    return folder / f"{chunk:05d}.npz"


def _render_chunk(chunk: int, folder: Path) -> None:
    torch.set_num_threads(1)
    scenes = scenes_of(chunk)
    images = np.stack([picture.image for picture in draw(scenes, HEIGHT)])
    with atomic_path(_file(folder, chunk)) as temporary:
        np.savez(temporary, images=images, measures=measures_of([scene.person for scene in scenes]))


def measures_of(people: Sequence[Person]) -> NDArray[np.float32]:
    """(N, M) measures of people who may be repeated, in the order of MEASURES."""
    body, known = load_body(), {}
    for person in people:
        if id(person) not in known:
            known[id(person)] = [measure(body, person)[name] for name in MEASURES]
    return np.array([known[id(person)] for person in people], dtype=np.float32)
