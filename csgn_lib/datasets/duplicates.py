"""Fingerprints of images: damage, exact copies and near duplicates.

A fingerprint is a hash of the bytes (exact duplicates), an 8 x 8 difference hash (Krawetz 2013: whether each of 8 x 9
gray cells is brighter than its left neighbour) and its 8 x 9 colour thumbnail, which excludes accidental matches of the
hash.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from csgn_lib.datasets.image_files import decode, failure, in_threads

ROWS, COLUMNS = 8, 9
FLAT = 3.0  # standard deviation over the image (levels of 255) below which a thumbnail carries no information
# Bits of 64. Of 458 images of the embedded benchmark saved again as JPEG (quality 60 to 95, or scaled first), 6 bits
# find 91 to 98 %, 2 bits 68 to 82 %: cells of a plain background are nearly equal, so their order is noise. Neither
# matches two of its 5,040 images, thanks to the thumbnails. 180,000 images take a minute, with 2 bits a few seconds.
NEAR = 6
ALIKE = 10.0  # mean absolute difference (levels of 255) up to which two thumbnails look alike


@dataclass(frozen=True)
class Fingerprints:
    """Fingerprints of N images.

    Attributes:
        error: (N,) text, "" for an image that decodes, "missing" for a file that does not exist.
        content: (N,) sha256 of the bytes; b"" with an error.
        dhash: (N,) uint64; 0 with an error.
        thumbnail: (N, 8, 9, 3) uint8, RGB.
        height, width: (N,) pixels; 0 with an error.
    """

    error: NDArray[np.object_]
    content: NDArray[np.object_]
    dhash: NDArray[np.uint64]
    thumbnail: NDArray[np.uint8]
    height: NDArray[np.int64]
    width: NDArray[np.int64]


def fingerprints(root: Path, paths: Sequence[str], workers: int | None = None) -> Fingerprints:
    """Read, verify and decode every file; a damaged one raises nothing, its ``error`` states the reason.

    Args:
        workers: threads; none: as many as there are processors (decoding releases Python's lock).
    """
    rows = in_threads(lambda path: _fingerprint(os.path.join(root, path)), paths, "opening images", workers)
    thumbnail = np.stack([row[2] for row in rows]) if rows else np.zeros((0, ROWS, COLUMNS, 3), np.uint8)
    error, content = np.empty(len(rows), object), np.empty(len(rows), object)
    error[:], content[:] = [row[0] for row in rows], [row[1] for row in rows]
    height, width = (np.array([row[i] for row in rows], dtype=np.int64) for i in (3, 4))
    return Fingerprints(error, content, difference_hash(thumbnail), thumbnail, height, width)


def _fingerprint(file: str) -> tuple[str, bytes, NDArray[np.uint8], int, int]:
    nothing = np.zeros((ROWS, COLUMNS, 3), np.uint8)
    try:
        data = Path(file).read_bytes()
        if not data:
            return "empty file", b"", nothing, 0, 0
        Image.open(io.BytesIO(data)).verify()  # checksums; an image cannot be used after it
        image = decode(io.BytesIO(data))
        small = image.resize((COLUMNS, ROWS), Image.Resampling.BOX)
        return "", hashlib.sha256(data).digest(), np.asarray(small), image.height, image.width
    except Exception as error:  # decoders raise arbitrary exceptions for damaged files
        return failure(error), b"", nothing, 0, 0


def difference_hash(thumbnail: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """8 x 8 difference hash: (N, 8, 9, 3) uint8 RGB -> (N,) uint64; a bit is set if a cell exceeds its left one."""
    gray = thumbnail.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    bits = (gray[:, :, 1:] > gray[:, :, :-1]).reshape(len(thumbnail), ROWS * (COLUMNS - 1))
    return np.packbits(bits, axis=1).view(">u8").astype(np.uint64).reshape(-1)


def featureless(thumbnail: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Which thumbnails (N, 8, 9, 3) have a standard deviation below FLAT in every channel: (N,) bool."""
    return thumbnail.std(axis=(1, 2), dtype=np.float32).max(axis=1) < FLAT


def near_pairs(prints: Fingerprints, distance: int = NEAR) -> Iterator[NDArray[np.int64]]:
    """Blocks (n, 2) of positions i < j whose images look alike but whose bytes differ; each pair once.

    Two hashes at most ``distance`` bits apart agree in at least one of ``distance + 1`` bands of bits. So
    the images are sorted by one band after another, and only those with equal bands are compared: memory
    stays O(N). Pairs must then have thumbnails at most ALIKE apart. Damaged and featureless images
    (FLAT) are excluded, because they all look alike.
    """
    usable = np.flatnonzero((prints.error == "") & ~featureless(prints.thumbnail))
    edges = np.linspace(0, 64, distance + 2).round().astype(int)
    bands = [
        (prints.dhash >> np.uint64(low)) & np.uint64((1 << int(high - low)) - 1)
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    for band in range(len(bands)):
        order = usable[np.argsort(bands[band][usable], kind="stable")]
        for left, right in _equal_neighbours(bands[band][order]):
            i, j = order[left], order[right]
            keep = np.bitwise_count(prints.dhash[i] ^ prints.dhash[j]) <= distance
            for earlier in bands[:band]:  # the pair was found in an earlier band
                keep &= earlier[i] != earlier[j]
            i, j = i[keep], j[keep]
            apart = np.abs(prints.thumbnail[i].astype(np.int16) - prints.thumbnail[j]).mean(axis=(1, 2, 3))
            keep = (apart <= ALIKE) & (prints.content[i] != prints.content[j])
            if keep.any():
                pairs = np.stack([i[keep], j[keep]], axis=1)
                yield np.sort(pairs, axis=1)


def _equal_neighbours(values: NDArray[np.uint64]) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of positions with equal values in a sorted array, by their distance in it."""
    left = np.arange(len(values))
    for step in range(1, len(values)):
        left = left[left + step < len(values)]
        left = left[values[left] == values[left + step]]
        if not len(left):
            return
        yield left, left + step


def exact_pairs(prints: Fingerprints) -> NDArray[np.int64]:
    """Pairs (n, 2) of positions whose bytes are the same: each image with the first of its kind."""
    whole = np.flatnonzero(prints.error == "")
    codes, _ = pd.factorize(prints.content[whole])
    _, first = np.unique(codes, return_index=True)  # codes count from 0 in order of appearance
    pairs = np.stack([whole[first[codes]], whole], axis=1) if len(whole) else np.zeros((0, 2), dtype=np.int64)
    return pairs[pairs[:, 0] != pairs[:, 1]]
