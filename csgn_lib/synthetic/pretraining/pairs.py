"""Rendered pictures with their captions and attribute labels, and the batches that training draws of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csgn_lib.backbones import CompactTokenizer
from csgn_lib.batches import to_gray
from csgn_lib.records import InputError, atomic_path
from csgn_lib.synthetic import people, scenes

SIZE = (scenes.HEIGHT, scenes.WIDTH)
CHUNK = 4000
CHUNKS = 100_000  # at most, of one seed; fewer than 10**8 in all, where scoring draws its people
PRETRAINING_SEED = 20_251_123  # worlds are seeded below 10**6: no person of a benchmark is ever drawn here
IGNORED = -1


@dataclass(frozen=True)
class Pairs:
    """images (N, 96, 48, 3) uint8; colour, gray (N, L) token ids of two captions; labels (N, A) int16,
    one column per attribute of ``people.attribute_prompts``, IGNORED where no sentence fits."""

    images: NDArray[np.uint8]
    colour: NDArray[np.uint8]
    gray: NDArray[np.uint8]
    labels: NDArray[np.int16]


def label_row(row: dict[str, str]) -> list[int]:
    """Which sentence of each attribute is true of an image, or IGNORED."""
    keys = ("*".join(row[part] for part in name.split("*")) for name in people.attribute_prompts())
    return [
        list(prompts).index(key) if key in prompts else IGNORED
        for key, prompts in zip(keys, people.attribute_prompts().values(), strict=True)
    ]


def render_chunk(seed: int, count: int) -> Pairs:
    """``count`` pairs in blocks of two people in the same two outfits: good negatives, since half of a
    block's images differ only in the person and half only in the clothes."""
    tokenizer = CompactTokenizer(people.world_words(), 64)
    rng = np.random.default_rng((PRETRAINING_SEED, seed))
    images, colour, gray, labels = [], [], [], []
    for _ in range(count // 4):
        pair, outfits = [people.draw_person(rng) for _ in range(2)], [people.draw_outfit(rng) for _ in range(2)]
        for person in pair:
            for outfit in outfits:
                images.append(scenes.picture(person, outfit, scenes.draw_camera(rng), rng)[0])
                colour.append(people.caption(person, outfit, rng))
                gray.append(people.caption(person, outfit, rng, gray=True))
                labels.append(label_row(people.attributes(person, outfit)))
    tokens = [tokenizer(texts).numpy().astype(np.uint8) for texts in (colour, gray)]
    return Pairs(np.stack(images), *tokens, np.array(labels, dtype=np.int16))


def render(count: int, folder: Path, processes: int, seed: int = 0) -> Pairs:
    """Render ``count`` pairs in chunks, kept in ``folder``; what is already there, drawn and worded by the same code,
    is not drawn again. Another ``seed`` shares no person and no outfit with this one's.

    Raises InputError unless ``count`` is a multiple of CHUNK, and ``seed`` one of 0 .. 99."""
    if count < CHUNK or count % CHUNK or count > CHUNK * CHUNKS:
        raise InputError(f"pairs = {count}: they are drawn in chunks of {CHUNK}; give a multiple of it")
    if not 0 <= seed < 100:
        raise InputError(f"seed = {seed}: the towers' own draws are numbered 0 to 99")
    folder = folder / _drawn_by()
    files = [folder / f"{seed}-{count}-{name}.npy" for name in ("images", "colour", "gray", "labels")]
    chunks = range(seed * CHUNKS, seed * CHUNKS + count // CHUNK)
    if not all(file.exists() for file in files):
        jobs = [i for i in chunks if not (folder / f"{i:05d}.npz").exists()]
        with ProcessPoolExecutor(processes) as pool:
            for i, _ in zip(jobs, pool.map(_render_to, jobs, [folder] * len(jobs)), strict=True):
                print(f"rendered chunk {i - chunks[0] + 1} of {len(chunks)}", flush=True)
        for file in files:
            _join_chunks(folder, chunks, file)
    return Pairs(*(np.load(file, mmap_mode="r") for file in files))  # one copy in memory for all processes


def _drawn_by() -> str:
    """Eight hexadecimal digits of the code that draws and words the pairs."""
    sources = [Path(__file__), *sorted(Path(people.__file__).parent.glob("*.py"))]
    return hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]


def _render_to(chunk: int, folder: Path) -> None:
    pairs = render_chunk(chunk, CHUNK)
    with atomic_path(folder / f"{chunk:05d}.npz") as temporary:
        np.savez(temporary, images=pairs.images, colour=pairs.colour, gray=pairs.gray, labels=pairs.labels)


def _join_chunks(folder: Path, chunks: Iterable[int], file: Path) -> None:
    name = file.stem.split("-")[-1]
    parts = [np.load(folder / f"{i:05d}.npz")[name] for i in chunks]
    with atomic_path(file) as temporary:
        np.save(temporary, np.concatenate(parts))


def batches(pairs: Pairs, size: int, steps: int, seed: int, gray_share: float = 0.15) -> Iterator[tuple[Tensor, ...]]:
    """images (B, 3, H, W) in [0, 1], tokens (B, L), labels (B, A). Whole blocks of four, in random order;
    half are mirrored, ``gray_share`` are gray with a caption that says so and names no clothes' colour."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < size // 4:
            order = np.concatenate([order, rng.permutation(len(pairs.images) // 4)])
        blocks, order = order[: size // 4], order[size // 4 :]
        rows = (blocks[:, None] * 4 + np.arange(4)).ravel()
        images = torch.from_numpy(pairs.images[rows]).permute(0, 3, 1, 2).float() / 255
        mirrored = torch.from_numpy(rng.random(size) < 0.5)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
        gray = rng.random(size) < gray_share
        is_gray = torch.from_numpy(gray)[:, None, None, None]
        images = torch.where(is_gray, to_gray(images), images)
        tokens = np.where(gray[:, None], pairs.gray[rows], pairs.colour[rows])
        labels = np.where(gray[:, None] & coloured(), IGNORED, pairs.labels[rows])
        yield images, torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(labels.astype(np.int64))


def coloured() -> NDArray[np.bool_]:
    """(A,) which attributes cannot be seen in a gray image."""
    return np.array(["colour" in name or name == "skin" for name in people.attribute_prompts()])
