"""A scene: a person, clothes, a camera and a moment; and the same scene with one of them changed.

A counterfactual keeps everything else, the sensor's noise included, because each picture draws from a random stream of
its own. What may differ from the original, at the original's resolution, is stated with each method; tests hold it.
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
from csgn_lib.synthetic.rendered.accessories import carrying_side
from csgn_lib.synthetic.rendered.body import Body, load_body
from csgn_lib.synthetic.rendered.cameras import Camera
from csgn_lib.synthetic.rendered.dressing import Figure, dress
from csgn_lib.synthetic.rendered.gait import Pose
from csgn_lib.synthetic.rendered.garments import Outfit, draw_outfit
from csgn_lib.synthetic.rendered.occluders import draw_occluder
from csgn_lib.synthetic.rendered.people import Person, rest_shape
from csgn_lib.synthetic.rendered.posing import Moment, Shot
from csgn_lib.synthetic.rendered.rendering import Picture, render
from csgn_lib.synthetic.rendered.settings import Setting

REACH = 2  # pixels: how far blur carries a change beyond the parts that changed
BATCH = 16  # pictures rendered at once


@dataclass(frozen=True)
class Scene:
    """Everything that one picture is made of."""

    person: Person
    outfit: Outfit
    camera: Camera
    moment: Moment
    gray: bool = False

    def draw(self, size: int = 128, device: torch.device | str = "cpu") -> Picture:
        """The picture (size, size // 2, 3) and its part mask."""
        return draw([self], size, device)[0]

    def recoloured(self, seed: int = 0) -> Scene:
        """The same garments in other colours. Masks are equal; only pixels within REACH of clothes or bag differ."""
        return replace(self, outfit=self.outfit.recoloured(self._rng(77, seed)))

    def reclothed(self, outfit: Outfit | None = None, seed: int = 0) -> Scene:
        """Other clothes on the same body in the same pose. The background differs only in the person's shadow."""
        return replace(self, outfit=outfit or draw_outfit(self._rng(78, seed)))

    def rebodied(self, person: Person) -> Scene:
        """The same clothes, place and moment on another body, which walks as it does.

        Where the setting crops by stature, the other body takes this one's stature, so that it fits.
        The background differs only in the person's shadow.
        """
        fitting = person if self.moment.crop_fixed else person.scaled(self.person.stature)
        return replace(self, person=fitting)

    def reposed(self, seed: int = 0) -> Scene:
        """Another step of the same walk in the same place and light. The background differs only in the shadow."""
        rng = self._rng(79, seed)
        pose = replace(self.moment.pose, phase=(self.moment.pose.phase + float(rng.uniform(0.15, 0.85))) % 1,
                       head_turn=self.moment.pose.head_turn * float(rng.uniform(-1, 1)))  # fmt: skip
        return replace(self, moment=replace(self.moment, pose=pose))

    def grayed(self) -> Scene:
        """The same picture in luminance (Rec. 601), as three equal channels; its mask is equal."""
        return replace(self, gray=True)

    def _rng(self, *salt: int) -> Generator:
        return np.random.default_rng((*self.moment.seed, *salt))


def draw(scenes: Sequence[Scene], size: int = 128, device: torch.device | str = "cpu") -> list[Picture]:
    """Pictures of scenes, in their order. Raises InputError for a size that is not an even number from 32 up."""
    if size < 32 or size % 2:
        raise InputError(f"pictures {size} pixels high cannot be drawn; the height is an even number, at least 32")
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
    """(..., 3) uint8 to its luma (Rec. 601), repeated over the channels."""
    luma = np.rint(image @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    return np.repeat(luma[..., None], 3, axis=-1)


def draw_moment(
    rng: Generator, setting: Setting, camera: Camera, person: Person, outfit: Outfit, seed: tuple[int, ...]
) -> Moment:
    """When and how a person passes a camera. Only ``crop``, steps in a long skirt and a carrying arm look at the
    person.
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
    size = setting.crop or person.stature * float(rng.uniform(1.33, 1.43))
    crop = size * (1 + around(setting.crop_jitter))
    shift = (around(setting.crop_jitter), around(setting.crop_jitter * 0.6))
    exposure, blur = 1 + around(setting.exposure), float(rng.uniform(0.8, 1.3))
    occluder = draw_occluder(rng) if rng.random() < setting.occluded else None
    return Moment(pose, heading, position, crop, shift, exposure, blur, occluder, seed, setting.crop > 0)
