"""Image files to pixels: RGB, 8 bits, upright. All image files are opened here."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from csgn_lib import progress
from csgn_lib.records import InputError, cores

Result = TypeVar("Result")
LARGEST = 2 * (Image.MAX_IMAGE_PIXELS or 2**27)  # pixels; Pillow itself refuses more


def open_image(
    file: str | Path | BinaryIO, name: str = "", largest: int = LARGEST, formats: Sequence[str] | None = None
) -> Image.Image:
    """Decode an image: RGB, 8 bits a channel, turned upright as its EXIF orientation says, at its own size.

    16-bit gray images are scaled to 8 bits. Of an animation the first frame is read.

    Args:
        file: a path, or an open binary file.
        name: name in error messages; by default ``file``.
        largest: pixels; a larger image is refused before it is decoded.
        formats: Pillow formats to try; by default all.

    Raises:
        InputError: the file is missing, damaged, no image, too large, or has 32-bit pixels.
    """
    name = name or str(file)
    try:
        return decode(file, largest, formats)
    except Exception as error:  # decoders raise what they like on damaged bytes
        raise unopened(name, error) from error


def unopened(name: object, error: Exception) -> InputError:
    """The error to raise for an image that could not be opened or decoded."""
    if isinstance(error, FileNotFoundError):
        return InputError(f"{name} does not exist; check the benchmark's root, or extract its images again")
    return InputError(f"{name} cannot be read as an image ({failure(error)}); replace it, or remove it")


def decode(file: str | Path | BinaryIO, largest: int = LARGEST, formats: Sequence[str] | None = None) -> Image.Image:
    """As ``open_image``, but with the decoder's exceptions; ``failure`` summarises them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # instead, ``largest`` is the limit
        with Image.open(file, formats=formats) as image:
            if image.width * image.height > largest:
                raise Image.DecompressionBombError(f"{image.width * image.height} pixels, more than {largest}")
            image.load()
            with suppress(Exception):  # a damaged EXIF block: the orientation is unknown
                ImageOps.exif_transpose(image, in_place=True)
            return _eight_bits(image).convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A 16-bit gray image as 8 bits: the higher byte, as Pillow reads 16-bit colour."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"pixels of 32 bits (mode {image.mode}); save it with 8 or 16 bits a channel")
    return image


def failure(error: Exception) -> str:
    """Why an image could not be decoded: the same text for every file with this damage."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, UnidentifiedImageError):  # Pillow's message holds an address in memory
        return "not an image of a known format"
    if isinstance(error, Image.DecompressionBombError):  # Pillow's decompression-bomb error, or the limit above
        megapixels, limit = (int(number) / 1e6 for number in re.findall(r"\d+", str(error))[:2])
        return f"{megapixels:.0f} megapixels, more than {limit:.0f}; make it smaller"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{type(error).__name__}: " + re.sub(r"\d+", "..", str(error))  # omit byte positions, which differ by file


def unreadable(root: Path, paths: Sequence[str], workers: int | None = None) -> dict[str, str]:
    """Decode every image; ``{path: reason}`` of those that cannot be, "missing" for a file that does not exist."""

    def reason(path: str) -> str:
        try:
            decode(os.path.join(root, path))
        except Exception as error:
            return failure(error)
        return ""

    reasons = in_threads(reason, paths, "opening images", workers)
    return {path: text for path, text in zip(paths, reasons, strict=True) if text}


def in_threads(
    work: Callable[[str], Result], paths: Sequence[str], what: str, workers: int | None = None
) -> list[Result]:
    """``[work(path) for path in paths]`` in threads, with progress; decoding releases Python's lock."""
    with ThreadPoolExecutor(workers or cores()) as pool:
        return list(progress.track(pool.map(work, paths), len(paths), what))
