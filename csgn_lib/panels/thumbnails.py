"""Images for a browser: small JPEG bytes, made when they are asked for; and pictures that a user gives."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from csgn_lib.datasets.image_files import open_image
from csgn_lib.datasets.portrait import picture

HEIGHT = 128  # pixels of a thumbnail
KEPT = 2000  # thumbnails in memory, some 3 kB each
LARGEST = 40_000_000  # pixels of a picture that a user gives
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class Thumbnails:
    """A benchmark's images as small JPEGs, the last ``kept`` of them in memory.

    Args:
        root: the benchmark's folder; ``hide_faces``: make faces unrecognisable first.
        height: in pixels; the width follows.
    """

    def __init__(self, root: str | Path, hide_faces: bool = False, height: int = HEIGHT, kept: int = KEPT) -> None:
        self.root, self.hide_faces, self.height = Path(root), hide_faces, height
        self.jpeg: Callable[[str], bytes] = lru_cache(maxsize=kept)(self._jpeg)

    def image(self, path: str, blocked: bool = True) -> Image.Image:
        """A benchmark's image, RGB, at its own size, its face blocked where that is asked for.

        A model sees it with ``blocked=False``. Raises InputError naming one that cannot be read.
        """
        return picture(self.root / path, self.hide_faces and blocked)

    def _jpeg(self, path: str) -> bytes:
        return jpeg(self.image(path), self.height)


def jpeg(image: Image.Image, height: int = HEIGHT) -> bytes:
    """An image at ``height`` pixels, as JPEG bytes."""
    width = max(1, round(image.width * height / image.height))
    file = io.BytesIO()
    image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=85)
    return file.getvalue()


def data_url(content: bytes) -> str:
    """JPEG bytes as the address of an ``<img>``: nothing is served, nothing is written."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def overlaid(image: Image.Image, heat: NDArray[np.floating]) -> Image.Image:
    """An image with a map (H, W) over it: red where it is high, the image alone where it is lowest."""
    spread = float(heat.max() - heat.min()) or 1.0
    level = np.uint8(np.round(170 * (heat - heat.min()) / spread))
    mask = Image.fromarray(level).resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", image.size, (230, 30, 0)), image, mask)


def decode_upload(content: bytes, name: str = "the file", largest: int = LARGEST) -> Image.Image:
    """A picture that a user gives, as ``datasets.image_files.open_image`` reads it; at most ``largest`` pixels.

    Raises:
        InputError: no picture of FORMATS, one that is damaged, or more than ``largest`` pixels.
    """
    return open_image(io.BytesIO(content), name, largest, FORMATS)
