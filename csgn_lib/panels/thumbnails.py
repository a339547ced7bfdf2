"""Images for a browser: thumbnails made on demand, attention overlays, and uploaded images."""

from __future__ import annotations

import base64
import io
import textwrap
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from csgn_lib.datasets.image_files import open_image
from csgn_lib.datasets.portrait import picture

HEIGHT = 128  # pixels of a thumbnail
KEPT = 2000  # thumbnails in memory, some 3 kB each
LARGEST = 40_000_000  # pixels of an uploaded image
HEAT = colormaps["inferno"]  # of attention overlays
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF")


class Thumbnails:
    """A benchmark's images as small JPEGs, the last ``kept`` of them in memory.

    Args:
        root: the benchmark's folder. hide_faces: pixelate faces first. height: in pixels; the aspect ratio is kept.
    """

    def __init__(self, root: str | Path, hide_faces: bool = False, height: int = HEIGHT, kept: int = KEPT) -> None:
        self.root, self.hide_faces, self.height = Path(root), hide_faces, height
        self.jpeg: Callable[[str], bytes] = lru_cache(maxsize=kept)(self._jpeg)

    def image(self, path: str, blocked: bool = True) -> Image.Image:
        """A benchmark's image, RGB, at its own size, the face pixelated where the benchmark's terms ask for it.

        ``blocked=False`` gives the pixels that a model embeds. Raises InputError naming an unreadable file.
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
    """JPEG bytes as a data URL for an ``<img>``."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode()


def overlaid(image: Image.Image, heat: NDArray[np.floating], highest: float) -> Image.Image:
    """An image under a map (H, W) in the colours of HEAT, from 0 to ``highest``; low values are nearly transparent."""
    level = np.clip(heat / (highest or 1.0), 0, 1)
    colours = Image.fromarray(np.uint8(255 * HEAT(level)[..., :3])).resize(image.size, Image.Resampling.BICUBIC)
    mask = Image.fromarray(np.uint8(60 + 140 * level)).resize(image.size, Image.Resampling.BICUBIC)
    return Image.composite(colours, image, mask)


def lettered(text: str, size: tuple[int, int] = (256, 512)) -> Image.Image:
    """A text as an image, black on white, in place of a query image."""
    image, font = Image.new("RGB", size, "white"), ImageFont.load_default(36)
    lines = "\n".join(textwrap.wrap(text, 13))
    ImageDraw.Draw(image).multiline_text((size[0] // 2, size[1] // 2), lines, "black", font, "mm", align="center")
    return image


def decode_upload(content: bytes, name: str = "the file", largest: int = LARGEST) -> Image.Image:
    """An uploaded image, as ``datasets.image_files.open_image`` reads it: RGB, upright. Its size is checked first.

    Raises:
        InputError: not an image of one of FORMATS, a damaged one, or one of more than ``largest`` pixels.
    """
    return open_image(io.BytesIO(content), name, largest, FORMATS)
