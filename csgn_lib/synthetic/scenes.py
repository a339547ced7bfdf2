"""Scenes: a person, an outfit, a camera and a moment; and counterfactuals with one of them changed.

A counterfactual keeps everything else, including the sensor noise, because each picture has a random stream of its own.
The methods state which pixels may differ from the original at the same resolution; the tests verify it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from csgn_lib.records import InputError
from csgn_lib.synthetic.accessories import carrying_side
from csgn_lib.synthetic.body import Body, load_body
from csgn_lib.synthetic.cameras import Camera
from csgn_lib.synthetic.dressing import Figure, dress
from csgn_lib.synthetic.gait import Pose
from csgn_lib.synthetic.garments import Outfit, draw_outfit
from csgn_lib.synthetic.occluders import draw_occluder
from csgn_lib.synthetic.people import Person, rest_shape
from csgn_lib.synthetic.posing import Moment, Shot
from csgn_lib.synthetic.rendering import Picture, render
from csgn_lib.synthetic.settings import Setting

REACH = 2  # pixels: largest distance over which blur spreads a change
BATCH = 16  # pictures rendered at once
KINDS = ("recoloured", "reclothed", "rebodied", "reposed", "gray")  # of counterfactuals


@dataclass(frozen=True)
class Scene:
    """Everything that determines a picture, except its size."""

    person: Person
    outfit: Outfit
    camera: Camera
    moment: Moment
    gray: bool = False

    def draw(self, size: int = 128, device: torch.device | str = "cpu") -> Picture:
        """Render the scene.

        Args:
            size: height of the picture in pixels, even, at least 32; the width is half of it.
        """
        return draw([self], size, device)[0]

    def recoloured(self, seed: int = 0) -> Scene:
        """Return the scene with other colours of clothes and bag.

        The mask is equal. Only pixels within REACH of clothes or bag differ.
        """
        return replace(self, outfit=self.outfit.recoloured(self._rng(77, seed)))

    def reclothed(self, outfit: Outfit | None = None, seed: int = 0) -> Scene:
        """Return the scene with another outfit, by default a random one. The background differs only in the shadow."""
        return replace(self, outfit=outfit or draw_outfit(self._rng(78, seed)))

    def rebodied(self, person: Person) -> Scene:
        """Return the scene with another person, including gait, in the same outfit, place and moment.

        If crops are relative to stature, the other person is scaled to the stature of this one, to fit into the crop.
        The background differs only in the person's shadow.
        """
        fitting = person if self.moment.crop_fixed else person.scaled(self.person.stature)
        return replace(self, person=fitting)

    def reposed(self, seed: int = 0) -> Scene:
        """Return the scene at another phase of the walk. The background differs only in the shadow."""
        rng = self._rng(79, seed)
        pose = replace(self.moment.pose, phase=(self.moment.pose.phase + float(rng.uniform(0.15, 0.85))) % 1,
                       head_turn=self.moment.pose.head_turn * float(rng.uniform(-1, 1)))  # fmt: skip
        return replace(self, moment=replace(self.moment, pose=pose))

    def grayed(self) -> Scene:
        """Return the scene in gray: luma (Rec. 601) as three equal channels. The mask is equal."""
        return replace(self, gray=True)

    def counterfactuals(self, other: Person, seed: int = 0) -> dict[str, Scene]:
        """The scene with one change, for each of KINDS; ``rebodied`` shows ``other``."""
        changed = (
            self.recoloured(seed),
            self.reclothed(seed=seed),
            self.rebodied(other),
            self.reposed(seed),
            self.grayed(),
        )
        return dict(zip(KINDS, changed, strict=True))

    def _rng(self, *salt: int) -> Generator:
        return np.random.default_rng((*self.moment.seed, *salt))


def draw(scenes: Sequence[Scene], size: int = 128, device: torch.device | str = "cpu") -> list[Picture]:
    """Render scenes.

    Args:
        size: height of the pictures in pixels, even, at least 32; the width is half of it.

    Returns:
        One picture per scene, in order.

    Raises:
        InputError: the size is odd or too small.
    """
    if size < 32 or size % 2:
        raise InputError(f"pictures {size} pixels high cannot be rendered; the height must be even and at least 32")
    body = load_body(device=device)
    pictures: list[Picture] = []
    for first in range(0, len(scenes), BATCH):
        group = scenes[first : first + BATCH]
        figures = [_figure(body, scene.person, scene.outfit) for scene in group]
        shots = [Shot(figure, scene.camera, scene.moment) for figure, scene in zip(figures, group, strict=True)]
        pictures += render(body, shots, size)
    return [replace(p, image=luminance(p.image)) if s.gray else p for p, s in zip(pictures, scenes, strict=True)]


@functools.lru_cache(maxsize=32)
def _figure(body: Body, person: Person, outfit: Outfit) -> Figure:
    return dress(body, person, outfit, _rest(body, person))


@functools.lru_cache(maxsize=32)
def _rest(body: Body, person: Person) -> tuple[torch.Tensor, torch.Tensor]:
    return rest_shape(body, person)


def luminance(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Luma (Rec. 601) of images (..., 3) uint8, repeated over the channels."""
    luma = np.rint(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=-1)


def draw_moment(
    rng: Generator, setting: Setting, camera: Camera, person: Person, outfit: Outfit, seed: tuple[int, ...]
) -> Moment:
    """Draw the moment at which a person passes a camera.

    It depends on person and outfit only by the crop relative to stature, the stride in long skirts and the arm with a
    bag.

    Args:
        seed: of the sensor noise and of counterfactuals.
    """

    def around(width: float) -> float:
        return float(rng.uniform(-width, width))

    carrying = carrying_side(outfit) if outfit.bag == "handbag" else ""
    pose = Pose(float(rng.random()), around(setting.head_turn), float(rng.uniform(0.4, 1.3)), carrying,
                1 - 0.9 * min(outfit.longest_skirt, 0.5))  # fmt: skip
    heading = float(rng.uniform(0, 2 * np.pi))
    if not setting.any_heading:
        heading = (int(heading / (np.pi / 2)) * 90 + around(25.0)) * np.pi / 180
    position = (around(setting.aside), camera.distance * float(rng.uniform(*setting.distance)))
    size = setting.crop or person.stature * float(rng.uniform(1.47, 1.57))
    crop = size * (1 + around(setting.crop_jitter))
    shift = (around(setting.crop_jitter), around(setting.crop_jitter * 0.6))
    exposure, blur = 1 + around(setting.exposure), float(rng.uniform(0.8, 1.3))
    occluder = draw_occluder(rng) if rng.random() < setting.occluded else None
    return Moment(pose, heading, position, crop, shift, exposure, blur, occluder, seed, setting.crop > 0)
