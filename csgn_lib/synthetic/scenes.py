"""Cameras, light and pixels: what neither the person nor the clothes decide.

A picture is drawn at twice its size and averaged down, then seen through its camera. All chance in
a picture comes from one generator that never looks at person or outfit: the same seed with other
colours gives the same pose, background, light and noise, to the pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from csgn_lib.synthetic.drawing import PARTS, VIEWS, Pose, Shape, figure
from csgn_lib.synthetic.people import Outfit, Person

HEIGHT, WIDTH, OVERSAMPLING = 96, 48, 2
CANVAS = (WIDTH * OVERSAMPLING, HEIGHT * OVERSAMPLING)


@dataclass(frozen=True)
class Camera:
    """A camera's colour: gains (3,), gamma, contrast, and blur radius in pixels."""

    gains: tuple[float, float, float]
    gamma: float
    blur: float


def draw_camera(rng: Generator) -> Camera:
    """Moderate on purpose: strong light per camera drowns every other cue."""
    gains = 1 + rng.uniform(-0.08, 0.08, 3)
    return Camera(tuple(float(g) for g in gains), float(rng.uniform(0.85, 1.2)), float(rng.uniform(0.0, 0.5)))


def picture(
    person: Person, outfit: Outfit, camera: Camera, rng: Generator, *, with_mask: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """One image (96, 48, 3), RGB uint8, and, if asked, its part mask (96, 48), indices into PARTS."""
    pose = Pose(
        view=str(VIEWS[rng.choice(4, p=(0.35, 0.25, 0.2, 0.2))]),
        step=float(rng.uniform(-1, 1)),
        dx=float(rng.uniform(-0.03, 0.03)),
        scale=float(rng.uniform(0.96, 1.04)),
    )
    canvas = _background(rng)
    mask = Image.new("L", CANVAS, 0) if with_mask else None
    for shape in figure(person, outfit, pose):
        _paint(canvas, mask, shape)
    if rng.random() < 0.15:
        _paint(canvas, mask, _occluder(rng))
    small = canvas.reduce(OVERSAMPLING)
    pixels = _seen(small, camera, rng)
    parts = None if mask is None else np.asarray(mask)[::OVERSAMPLING, ::OVERSAMPLING].copy()
    return pixels, parts


def _background(rng: Generator) -> Image.Image:
    """Wall above, floor below, a few muted blocks; new for every picture."""
    wall, floor = _muted(rng, 70, 200), _muted(rng, 60, 170)
    canvas = Image.new("RGB", CANVAS, wall)
    draw = ImageDraw.Draw(canvas)
    width, height = CANVAS
    horizon = int(height * rng.uniform(0.6, 0.85))
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.integers(-20, width), rng.integers(0, horizon)
        w, h = rng.integers(10, 50), rng.integers(15, 80)
        draw.rectangle((x, y, x + w, min(y + h, horizon)), fill=_muted(rng, 50, 220))
    draw.rectangle((0, horizon, width, height), fill=floor)
    return canvas


def _muted(rng: Generator, low: int, high: int) -> tuple[int, int, int]:
    """A colour of streets and walls: any brightness between ``low`` and ``high``, little saturation."""
    level, tint = rng.integers(low, high), rng.integers(-28, 29, 3)
    return tuple(int(v) for v in np.clip(level + tint, 0, 255))


def _occluder(rng: Generator) -> Shape:
    """A post at a side, or something low in front."""
    fill = _muted(rng, 50, 180)
    if rng.random() < 0.5:
        x = float(rng.choice((0.02, 0.4))) + rng.uniform(-0.02, 0.02)
        box = ((x, 0.1), (x + 0.07, 0.1), (x + 0.07, 1.0), (x, 1.0))
    else:
        y = rng.uniform(0.84, 0.92)
        box = ((0.0, y), (0.5, y), (0.5, 1.0), (0.0, 1.0))
    return Shape("occluder", np.array(box), fill)


def _paint(canvas: Image.Image, mask: Image.Image | None, shape: Shape) -> None:
    points = [(float(x), float(y)) for x, y in shape.points * CANVAS[1]]
    ImageDraw.Draw(canvas).polygon(points, fill=shape.fill)
    if mask is not None:
        ImageDraw.Draw(mask).polygon(points, fill=PARTS.index(shape.part))
    if shape.pattern != "plain":
        area = Image.new("1", CANVAS, 0)
        ImageDraw.Draw(area).polygon(points, fill=1)
        canvas.paste(shape.second, mask=ImageChops.logical_and(area, _pattern(shape.pattern)))


@lru_cache(maxsize=4)
def _pattern(name: str) -> Image.Image:
    """Where the second colour goes: about a quarter of the canvas."""
    y, x = np.mgrid[: CANVAS[1], : CANVAS[0]]
    on = {
        "striped": y % 12 < 4,
        "checked": (y // 6 % 2 == 0) & (x // 6 % 2 == 0),
        "dotted": (x % 9 - 4) ** 2 + (y % 9 - 4) ** 2 <= 6,
    }[name]
    return Image.fromarray(on)


def _seen(image: Image.Image, camera: Camera, rng: Generator) -> NDArray[np.uint8]:
    """Blur, a gradient of light, the camera's colour, this picture's exposure, and noise."""
    radius = camera.blur + rng.uniform(0, 0.4)
    light = np.asarray(image.filter(ImageFilter.BoxBlur(radius)), dtype=np.float32) / 255
    across = 1 + rng.uniform(-0.15, 0.15) * np.linspace(-1, 1, WIDTH, dtype=np.float32)[None, :, None]
    gains = np.array(camera.gains, dtype=np.float32) * np.float32(rng.uniform(0.85, 1.15))
    light = np.clip(light * across * gains, 0, 1) ** np.float32(camera.gamma)
    light += rng.standard_normal(light.shape, dtype=np.float32) * np.float32(rng.uniform(0.01, 0.03))
    return (np.clip(light, 0, 1) * 255 + 0.5).astype(np.uint8)
