"""Image files to pixels: decoded once, cached, memory-mapped, and returned as batches."""

from __future__ import annotations

import hashlib
import io
import math
import os
import struct
import warnings
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from csgn_lib import progress, records
from csgn_lib.batches.prefetching import Movable
from csgn_lib.datasets.image_files import open_image, unopened
from csgn_lib.records import InputError, atomic_path, clear_killed, cores

CACHE_FORMAT = 3  # part of the key: increase it when decoding or the file format changes
DECODED_AT_ONCE = 256  # images
CHECKED_AT_ONCE = 2**24  # bytes
TAG, CHECKSUM = struct.Struct("<4s32s"), struct.Struct("<I")  # after the pixels: b"CSGN" and key; CRC-32 of all before
LOCK = ".lock"  # locked by the process that builds a cache in this folder


@dataclass(frozen=True)
class Batch(Movable):
    """B images and their labels.

    images (B, 3, H, W): uint8, or float in [0, 1]; RGB. person, camera, clothes (B,): int64 labels of
    the frame, -1 where the benchmark has none. index (B,): int64, rows of the frame.
    """

    images: Tensor
    person: Tensor
    camera: Tensor
    clothes: Tensor
    index: Tensor


@dataclass(frozen=True)
class ImageSet:
    """The images of a frame, decoded. pixels: uint8 (N, 3, H, W); labels: int64 (N,); paths: the frame's (N)."""

    pixels: np.ndarray
    person: Tensor
    camera: Tensor
    clothes: Tensor
    paths: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, rows: np.ndarray | Sequence[int], part: slice = slice(None)) -> Batch:
        """Rows of the frame, in the given order, as a Batch of uint8 images.

        With ``part``, only these rows' images are read, for processes that share a batch; labels are complete.
        """
        rows = np.asarray(rows, dtype=np.int64)
        index, pixels = torch.from_numpy(rows), torch.from_numpy(self.pixels[rows[part]])
        return Batch(pixels, self.person[index], self.camera[index], self.clothes[index], index)


def open_images(
    frame: pd.DataFrame, root: str | Path, size: tuple[int, int], cache_dir: str | Path | None = None
) -> ImageSet:
    """Decode each image of a frame once, resized to ``size`` by an antialiased bicubic filter.

    Args:
        frame: columns path (relative to ``root``), person, camera, clothes.
        root: the benchmark's folder.
        size: (H, W) in pixels. An image of this size is not resampled.
        cache_dir: folder of the pixel cache; None keeps the pixels in memory. The cache's name and its last bytes
            contain its key, a digest of ``root``, paths, file sizes, modification times and ``size``: images that
            changed or moved are decoded again. A damaged cache is rebuilt, with a warning. If several processes need
            the same cache, one builds it and the others wait.

    Raises:
        InputError: an image that is missing or cannot be decoded, an empty frame, no room for the cache, a
            cache that was copied from other images.
    """
    if frame.empty:
        raise InputError(f"no images to read below {root}; check the benchmark's frames")
    paths = _paths(frame, root)
    if cache_dir is None:
        return ImageSet(np.concatenate(list(_decode_all(paths, size))), *_labels(frame), tuple(frame["path"]))
    key, shape = _cache_key(root, frame["path"], paths, size), (len(paths), 3, *size)
    cache = Path(cache_dir) / f"pixels-{size[0]}x{size[1]}-{_short(key)}.npy"
    pixels = _read_cache(cache, key, shape)
    if pixels is None:
        with records.locked(cache.parent / LOCK) as alone:
            pixels = _read_cache(cache, key, shape)  # another process may have built it in the meantime
            if pixels is None:
                if cache.exists():
                    warnings.warn(f"{cache} is damaged: the images are decoded again", stacklevel=2)
                if alone:
                    clear_killed(cache.parent / "pixels.npy")  # whatever their key
                _write_cache(cache, key, paths, size)
                pixels = _read_cache(cache, key, shape)
    if pixels is None:
        raise InputError(f"{cache} cannot be read back as it was written; check the disk, or use another cache folder")
    return ImageSet(pixels, *_labels(frame), tuple(frame["path"]))


def iterate(
    frame: pd.DataFrame,
    root: str | Path,
    size: tuple[int, int],
    batch_size: int = 128,
    cache_dir: str | Path | None = None,
) -> Iterator[Batch]:
    """All images of a frame in its order, as batches of uint8 images; the last may be smaller.

    Without a cache, images are decoded on demand, the next batch while the current one is used, so memory holds two
    batches for a gallery of any size. Raises as ``open_images``.
    """
    if cache_dir is not None:
        images = open_images(frame, root, size, cache_dir)
        for start in range(0, len(images), batch_size):
            yield images.batch(np.arange(start, min(start + batch_size, len(images))))
        return
    labels, start = _labels(frame), 0
    for pixels in _decode(_paths(frame, root), size, batch_size):
        index = torch.arange(start, start + len(pixels))
        yield Batch(torch.from_numpy(pixels), *(label[index] for label in labels), index)
        start += len(pixels)


def _paths(frame: pd.DataFrame, root: str | Path) -> list[Path]:
    return [Path(root, path) for path in frame["path"]]


def _labels(frame: pd.DataFrame) -> list[Tensor]:
    return [torch.tensor(frame[name].to_numpy(dtype=np.int64).copy()) for name in ("person", "camera", "clothes")]


def _decode(paths: Sequence[Path], size: tuple[int, int], count: int) -> Iterator[np.ndarray]:
    """uint8 blocks (count, 3, H, W), one block ahead. Threads suffice, because Pillow decodes without Python's lock."""
    with ThreadPoolExecutor(min(8, cores())) as pool:
        blocks: deque = deque()
        for start in range(0, len(paths), count):
            blocks.append([pool.submit(_decode_one, path, size) for path in paths[start : start + count]])
            if len(blocks) == 2:
                yield np.stack([image.result() for image in blocks.popleft()])
        while blocks:
            yield np.stack([image.result() for image in blocks.popleft()])


def _decode_all(paths: Sequence[Path], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """As ``_decode``, in blocks of DECODED_AT_ONCE, with progress."""
    blocks = _decode(paths, size, DECODED_AT_ONCE)
    return progress.track(blocks, len(paths), "decoding images", size=len)


def _decode_one(path: Path, size: tuple[int, int]) -> np.ndarray:
    height, width = size
    image = open_image(path)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BICUBIC)  # Pillow widens the filter when it downscales
    return np.ascontiguousarray(np.asarray(image).transpose(2, 0, 1))


def _cache_key(root: str | Path, names: Sequence[str], paths: Sequence[Path], size: tuple[int, int]) -> bytes:
    digest = hashlib.sha256(os.fsencode(f"{CACHE_FORMAT} {size[0]}x{size[1]} {Path(root).resolve()}"))
    for name, path in zip(names, paths, strict=True):
        try:
            stat = path.stat()
        except OSError as error:
            raise unopened(path, error) from None
        digest.update(os.fsencode(f"\n{name}\0{stat.st_size}\0{stat.st_mtime_ns}"))
    return digest.digest()


def _short(key: bytes) -> str:
    return key.hex()[:16]


def _cache_header(shape: tuple[int, ...]) -> bytes:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


def _write_cache(cache: Path, key: bytes, paths: Sequence[Path], size: tuple[int, int]) -> None:
    """A .npy file that numpy reads, with its key and a checksum after the pixels.

    Written as a stream: on a full disk a write raises an error, whereas a memory map would kill the process.
    """
    checksum = 0
    blocks = (block.data for block in _decode_all(paths, size))
    try:
        with atomic_path(cache) as temporary, temporary.open("wb") as file:
            for part in chain([_cache_header((len(paths), 3, *size))], blocks, [TAG.pack(b"CSGN", key)]):
                file.write(part)
                checksum = zlib.crc32(part, checksum)
            file.write(CHECKSUM.pack(checksum))
    except OSError as error:
        need = len(paths) * 3 * size[0] * size[1] / 2**20
        raise InputError(
            f"{cache} cannot be written ({error}): it takes {need:.1f} MiB; make room, or use another cache folder"
        ) from error


def _read_cache(cache: Path, key: bytes, shape: tuple[int, ...]) -> np.ndarray | None:
    """The pixels, memory-mapped; None if there is no cache, or a damaged one. InputError: one of other images."""
    if not cache.exists():
        return None
    count, after = math.prod(shape), TAG.size + CHECKSUM.size
    with cache.open("rb") as file:
        if os.fstat(file.fileno()).st_size < after:
            return None
        # mapped through the open file, because another process may replace the name
        data = np.asarray(np.memmap(file, np.uint8, "r"))
    checked, checksum = data[: -CHECKSUM.size], 0
    for start in range(0, len(checked), CHECKED_AT_ONCE):
        checksum = zlib.crc32(checked[start : start + CHECKED_AT_ONCE], checksum)
    mark, own = TAG.unpack(checked[-TAG.size :])
    if mark != b"CSGN" or data[-CHECKSUM.size :].tobytes() != CHECKSUM.pack(checksum):
        return None
    if own != key:
        raise InputError(
            f"{cache} holds other images: its key is {_short(own)}, and that of these images is {_short(key)}; "
            "remove it; it is then rebuilt"
        )
    return data[-after - count : -after].reshape(shape)
