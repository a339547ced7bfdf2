"""Backgrounds: plazas, streets, parks, halls and other places, built from boxes and ellipsoids by a camera's seed."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.random import Generator
from torch import Tensor

from csgn_lib.synthetic.cameras import FRAME, INDOOR, Camera
from csgn_lib.synthetic.raycasting import Ground, Thing, cast

FREE = 2.6  # metres behind the walking line that are kept empty
_GROUNDS = {
    "plaza": ("tiles", "slabs", "cobbles"),
    "street": ("asphalt", "slabs"),
    "park": ("gravel", "grass", "asphalt"),
    "hall": ("lino", "tiles", "planks"),
    "mall": ("tiles", "lino"),
    "corridor": ("lino", "carpet"),
    "car park": ("asphalt", "concrete"),
    "crossing": ("asphalt",),
}
_ALBEDO = {"tiles": (0.3, 0.5), "slabs": (0.25, 0.42), "cobbles": (0.18, 0.32), "asphalt": (0.09, 0.17),
           "gravel": (0.28, 0.4), "grass": (0.10, 0.14), "lino": (0.3, 0.55), "planks": (0.2, 0.35),
           "carpet": (0.08, 0.2), "concrete": (0.25, 0.35)}  # fmt: skip
_TINTS = {
    "gravel": (1.1, 1.0, 0.82),
    "grass": (0.75, 1.25, 0.4),
    "planks": (1.25, 0.95, 0.65),
    "cobbles": (1.05, 1, 0.93),
}


@dataclass(frozen=True)
class Place:
    """Full frame of a camera without people: linear light from sky and sun, and a mask of level ground."""

    layers: Sequence[Tensor]  # mipmaps (1, 7, h, w), each half the size of the previous one
    coarse: int  # frame pixels per pixel of the first layer, along each axis
    ground: Tensor  # (3,) albedo

    def sample(self, x: Tensor, y: Tensor, step: float) -> Tensor:
        """Sample the frame bilinearly.

        Args:
            x: (W,) frame columns.
            y: (H,) frame rows.
            step: distance between columns and rows in frame pixels.

        Returns:
            (7, H, W).
        """
        level = min(len(self.layers) - 1, max(0, round(float(np.log2(max(step / self.coarse, 1e-3))))))
        grid = torch.stack(
            [(x / FRAME[1] * 2 - 1).expand(len(y), -1), (y / FRAME[0] * 2 - 1)[:, None].expand(-1, len(x))], 2
        )
        layer = self.layers[level]
        return functional.grid_sample(layer, grid[None], mode="bilinear", padding_mode="border", align_corners=False)[0]


@functools.lru_cache(maxsize=64)
def backdrop(camera: Camera, device: torch.device | str = "cpu", coarse: int = 1) -> Place:
    """Render the background of a camera, determined by the camera's seed; cached.

    Args:
        coarse: frame pixels per pixel of the background, along each axis.
    """
    rng = np.random.default_rng(camera.seed)
    ground, things = build(rng, camera)
    frame = cast(camera, ground, things, torch.device(device), int(rng.integers(1 << 16)), coarse)
    if camera.softness > 0:
        frame = _softened(frame, camera.softness, coarse)
    layers = [frame]
    while layers[-1].shape[2] > FRAME[0] // 5:
        layers.append(functional.avg_pool2d(layers[-1], 2))
    return Place(layers, coarse, torch.tensor(ground.colour, device=device) * 0.8)


def _softened(frame: Tensor, strength: float, coarse: int) -> Tensor:
    """Blur the background and lower its contrast; level ground is blurred less."""
    light, level = frame[:, :6], frame[:, 6:]
    blurred = light
    for _ in range(2):
        width = 5 if coarse == 1 else 3
        blurred = functional.avg_pool2d(blurred, width, 1, width // 2, count_include_pad=False)
    share = strength * (1 - 0.5 * level)
    light = light + share * (blurred - light)
    mean = light.mean((2, 3), keepdim=True)
    return torch.cat([mean + (light - mean) * (1 - 0.35 * strength), level], 1)


def build(rng: Generator, camera: Camera) -> tuple[Ground, list[Thing]]:
    """Draw the ground and the objects of a camera's place."""
    kind = camera.place
    name = str(rng.choice(_GROUNDS[kind]))
    value = rng.uniform(*_ALBEDO[name])
    cast_ = np.array(_TINTS.get(name, (1, 1, 1))) * (1 + rng.uniform(-0.12, 0.12, 3))
    marks = {"street": "lane", "crossing": "zebra", "car park": "bays", "park": "path" if name != "grass" else ""}.get(
        kind, ""
    )
    ground = Ground(name, tuple(float(c) for c in np.clip(value * cast_, 0.03, 0.8)), marks, float(rng.uniform(-4, 4)))
    far = camera.distance + float(rng.uniform(6, 15) if kind != "corridor" else rng.uniform(10, 20))
    things = _shell(rng, camera, far)
    for _ in range(camera.clutter):
        y = float(rng.uniform(camera.distance + FREE + 0.6, far - 0.8))
        x = float(rng.uniform(-0.85, 0.85)) * y * FRAME[1] / 2 / camera.focal
        things += _CLUTTER[str(rng.choice(_FURNITURE[kind]))](rng, x, y)
    return ground, things


def _colour(rng: Generator, low: float, high: float, chroma: float = 0.1) -> tuple[float, ...]:
    return tuple(float(c) for c in np.clip(rng.uniform(low, high) + rng.uniform(-chroma, chroma, 3), 0.02, 0.95))


def _shell(rng: Generator, camera: Camera, far: float) -> list[Thing]:
    """Walls, facades, trees and ceilings that bound the view."""
    wall = _colour(rng, 0.18, 0.62)
    if camera.place == "park":
        trees = []
        for _ in range(int(rng.integers(4, 8))):
            trees += _tree(rng, float(rng.uniform(-1, 1)) * far * 0.6, float(rng.uniform(far - 2, far + 8)))
        hedge = Thing(
            "box", (-40, far + 9, 0), (40, far + 10, float(rng.uniform(1.2, 2.5))), "hedge", (0.07, 0.14, 0.04), 0.5
        )
        return [*trees, hedge]
    texture = (
        "facade"
        if camera.place not in INDOOR
        else {"mall": "shops", "hall": "panels", "corridor": "panels"}[camera.place]
    )
    if camera.place == "car park":
        texture = "stripe"
    if camera.place in ("street", "plaza") and rng.random() < 0.5:
        texture = "shops"
    things = [Thing("box", (-40, far, 0), (40, far + 1, 12), texture, wall, float(rng.random()))]
    side = {"corridor": 1.0, "hall": 0.6, "mall": 0.7, "street": 0.4, "plaza": 0.4, "crossing": 0.2, "car park": 0.5}
    distance = 2.9 if camera.place == "corridor" else float(rng.uniform(4.5, 6.5))
    for sign in (-1, 1):
        if rng.random() < side[camera.place]:
            low, high = sorted((sign * distance, sign * (distance + 0.6)))
            height = 8.0 if camera.place in INDOOR else float(rng.choice([1.0, 4.0, 8.0]))
            things.append(
                Thing("box", (low, 0, 0), (high, far, height), texture, _colour(rng, 0.2, 0.6), float(rng.random()))
            )
    if camera.place in INDOOR or camera.place == "car park":
        top = 3.2 if camera.place in ("corridor", "car park") else 5.0
        top = max(top, camera.height + 0.6)
        things.append(Thing("box", (-40, 0, top), (40, far, top + 1), "ceiling", (0.7, 0.7, 0.68), float(rng.random())))
        for x in (-5.0, 5.0) if camera.place in ("hall", "car park") else ():
            y = camera.distance + FREE + 1.5
            things.append(
                Thing(
                    "box", (x * 0.6, y, 0), (x * 0.6 + 0.45, y + 0.45, top), "plain", _colour(rng, 0.3, 0.6, 0.03), 0.0
                )
            )
    return things


def _box(
    x: float, y: float, z: float, size: tuple[float, float, float], texture: str, colour: tuple[float, ...]
) -> Thing:
    """A box of size (width, depth, height) whose lower front edge is centred at (x, y, z)."""
    return Thing("box", (x - size[0] / 2, y, z), (x + size[0] / 2, y + size[1], z + size[2]), texture, colour, 0.3)


def _tree(rng: Generator, x: float, y: float) -> list[Thing]:
    trunk = float(rng.uniform(1.4, 2.4))
    green = tuple(float(c) for c in np.array([0.09, 0.16, 0.045]) * rng.uniform(0.7, 1.5))
    parts = [_box(x, y, 0, (0.25, 0.25, trunk + 0.8), "plain", (0.13, 0.09, 0.06))]
    for _ in range(3):
        radius = rng.uniform(0.9, 1.6)
        centre = np.array([x + rng.uniform(-0.8, 0.8), y + rng.uniform(-0.5, 0.5), trunk + rng.uniform(0.8, 2.0)])
        low, high = centre - radius, centre + radius
        parts.append(Thing("ball", tuple(low.tolist()), tuple(high.tolist()), "hedge", green, float(rng.random())))
    return parts


def _car(rng: Generator, x: float, y: float) -> list[Thing]:
    colour = _colour(rng, 0.05, 0.6, 0.2)
    body = _box(x, y, 0.28, (4.2, 1.7, 0.6), "car", colour)
    cabin = _box(x + 0.2, y + 0.12, 0.88, (2.3, 1.45, 0.52), "windows", colour)
    wheels = [_box(x + dx, y - 0.03, 0.0, (0.62, 0.2, 0.6), "plain", (0.02, 0.02, 0.022)) for dx in (-1.3, 1.3)]
    return [body, cabin, *wheels]


def _bench(rng: Generator, x: float, y: float) -> list[Thing]:
    wood = _colour(rng, 0.12, 0.3, 0.06)
    return [
        _box(x, y, 0.4, (1.6, 0.45, 0.07), "slats", wood),
        _box(x, y + 0.42, 0.45, (1.6, 0.06, 0.45), "slats", wood),
        *(_box(x + dx, y, 0, (0.08, 0.45, 0.4), "plain", (0.06, 0.06, 0.06)) for dx in (-0.7, 0.7)),
    ]


def _planter(rng: Generator, x: float, y: float) -> list[Thing]:
    low, high = (x - 0.55, y, 0.4), (x + 0.55, y + 0.9, 1.35)
    return [_box(x, y, 0, (1.1, 0.9, 0.55), "plain", _colour(rng, 0.2, 0.5, 0.04)),
            Thing("ball", low, high, "hedge", (0.08, 0.15, 0.05), 0.2)]  # fmt: skip


def _lamp(rng: Generator, x: float, y: float) -> list[Thing]:
    return [_box(x, y, 0, (0.12, 0.12, 4.0), "plain", _colour(rng, 0.04, 0.25, 0.02))]


def _poster(rng: Generator, x: float, y: float) -> list[Thing]:
    return [_box(x, y, 0, (1.2, 0.15, 2.1), "poster", _colour(rng, 0.2, 0.6, 0.2))]


def _kiosk(rng: Generator, x: float, y: float) -> list[Thing]:
    return [
        _box(
            x,
            y,
            0,
            (float(rng.uniform(1.2, 2.8)), 1.0, float(rng.uniform(0.9, 2.3))),
            "slats",
            _colour(rng, 0.1, 0.6, 0.2),
        )
    ]


def _counter(rng: Generator, x: float, y: float) -> list[Thing]:
    return [_box(x, y, 0, (float(rng.uniform(1.5, 3)), 0.7, 1.05), "panels", _colour(rng, 0.2, 0.7, 0.12))]


def _crate(rng: Generator, x: float, y: float) -> list[Thing]:
    return [_box(x, y, 0, tuple(float(s) for s in rng.uniform(0.4, 1.1, 3)), "plain", _colour(rng, 0.1, 0.5, 0.15))]


_CLUTTER = {
    "tree": _tree,
    "car": _car,
    "bench": _bench,
    "planter": _planter,
    "lamp": _lamp,
    "poster": _poster,
    "kiosk": _kiosk,
    "counter": _counter,
    "crate": _crate,
}
_FURNITURE = {
    "plaza": ("bench", "planter", "lamp", "tree", "kiosk"), "street": ("car", "lamp", "planter", "poster", "tree"),
    "park": ("tree", "tree", "bench", "planter"), "hall": ("counter", "planter", "poster", "bench"),
    "mall": ("poster", "planter", "kiosk", "counter"), "corridor": ("poster", "crate", "planter"),
    "car park": ("car", "car", "crate"), "crossing": ("car", "lamp", "tree", "poster"),
}  # fmt: skip
