"""Cameras: a pinhole over a level ground, the light of its place, and how it turns light into pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.random import Generator
from torch import Tensor

FRAME = (594, 1056)  # height and width of a camera's full frame, pixels; pictures are crops of it
PLACES = ("plaza", "street", "park", "hall", "mall", "corridor", "car park", "crossing")
INDOOR = ("hall", "mall", "corridor")


@dataclass(frozen=True)
class CameraRanges:
    """What cameras of a setting are drawn from: (low, high) each. ``tint``: strength of colour casts."""

    height: tuple[float, float]  # metres
    focal: tuple[float, float]  # pixels of the full frame
    sun: tuple[float, float]  # outdoors
    ambient: tuple[float, float]
    tint: float
    contrast: tuple[float, float]
    saturation: tuple[float, float]
    noise: tuple[float, float]  # standard deviation, of a range of 1
    blur: tuple[float, float]  # standard deviation, pixels of a picture 256 high
    clutter: tuple[int, int]  # objects behind the people
    softness: float  # 0 sharp background, 1 blurred and of low contrast


@dataclass(frozen=True)
class Camera:
    """A camera and its light. World axes: x to the right, y away from the camera, z up; the camera is above (0, 0)."""

    number: int
    place: str
    seed: int  # of the place behind
    height: float
    focal: float
    distance: float  # metres to where people walk
    sun: tuple[float, float, float]  # unit vector towards the light
    sun_colour: tuple[float, float, float]
    sky_colour: tuple[float, float, float]
    gain: tuple[float, float, float]
    exposure: float
    contrast: float
    saturation: float
    noise: float
    blur: float
    clutter: int
    softness: float

    @property
    def pitch(self) -> float:
        """Radians below the horizontal."""
        return math.atan2(self.height - 0.98, self.distance)

    def axes(self, device: torch.device | str = "cpu") -> Tensor:
        """(3, 3): rows right, up and forwards."""
        c, s = math.cos(self.pitch), math.sin(self.pitch)
        return torch.tensor([[1.0, 0.0, 0.0], [0.0, s, c], [0.0, c, -s]], device=device)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels (..., 2) of the full frame, and depths (...) in metres, of world points (..., 3)."""
        seen = (points - points.new_tensor([0.0, 0.0, self.height])) @ self.axes(points.device).T
        depth = seen[..., 2]
        x = FRAME[1] / 2 + self.focal * seen[..., 0] / depth
        y = FRAME[0] / 2 - self.focal * seen[..., 1] / depth
        return torch.stack([x, y], -1), depth


def draw_camera(rng: Generator, number: int, place: str, ranges: CameraRanges) -> Camera:
    """Draw a camera before a kind of place."""
    focal = float(rng.uniform(*ranges.focal))
    indoor = place in INDOOR
    azimuth = rng.uniform(-2.6, 2.6)
    elevation = rng.uniform(1.1, 1.35) if indoor else rng.uniform(0.5, 1.05)
    sun = (math.cos(elevation) * math.sin(azimuth), -math.cos(elevation) * math.cos(azimuth), math.sin(elevation))
    warmth = float(rng.uniform(-1, 1)) * ranges.tint
    cloudy = bool(rng.random() < 0.35)
    drawn = float(rng.uniform(*ranges.sun))
    strength = 0.55 if indoor else min(0.5, drawn) if cloudy else drawn
    ambient = float(rng.uniform(*ranges.ambient))
    ambient = max(ambient, 0.75) if indoor or cloudy else ambient
    gain = 1 + ranges.tint * rng.uniform(-0.1, 0.1, 3)
    sun_tint = (1.0 + 0.08 * warmth, 0.98, 0.94 - 0.1 * warmth)
    sky_tint = (1.04 + 0.08 * warmth, 1.0, 0.94 - 0.08 * warmth) if indoor else (0.95 - 0.05 * warmth, 0.99, 1.05)
    return Camera(
        number, place, int(rng.integers(1 << 30)), float(rng.uniform(*ranges.height)), focal, 3.0 + focal / 184, sun,
        tuple(float(strength * c) for c in sun_tint), tuple(float(ambient * c) for c in sky_tint),
        tuple(float(g) for g in gain / gain.mean()), float(rng.uniform(1.12, 1.32) / (strength * 0.5 + ambient)),
        float(rng.uniform(*ranges.contrast)), float(rng.uniform(*ranges.saturation)), float(rng.uniform(*ranges.noise)),
        float(rng.uniform(*ranges.blur)), int(rng.integers(ranges.clutter[0], ranges.clutter[1] + 1)), ranges.softness,
    )  # fmt: skip


@dataclass(frozen=True)
class Lights:
    """Per-picture parameters of B cameras as tensors."""

    position: Tensor  # (B, 3)
    sun: Tensor  # (B, 3)
    sun_colour: Tensor  # (B, 3)
    sky_colour: Tensor  # (B, 3)
    gain: Tensor  # (B, 3)
    scale: Tensor  # (B, 3): exposure, contrast, saturation

    @classmethod
    def of(cls, cameras: Sequence[Camera], exposures: Sequence[float], device: torch.device) -> Lights:
        def table(rows: list[tuple[float, ...]]) -> Tensor:
            return torch.tensor(rows, device=device)

        return cls(
            table([(0.0, 0.0, c.height) for c in cameras]), table([c.sun for c in cameras]),
            table([c.sun_colour for c in cameras]), table([c.sky_colour for c in cameras]),
            table([c.gain for c in cameras]),
            table([(c.exposure * e, c.contrast, c.saturation) for c, e in zip(cameras, exposures, strict=True)]),
        )  # fmt: skip

    def expose(self, light: Tensor, picture: Tensor) -> Tensor:
        """sRGB in [0, 1] from linear light (n, 3) of pictures (n,): gain, saturation, shoulder, gamma, contrast."""
        scale = self.scale[picture]
        value = light * scale[:, :1] * self.gain[picture]
        gray = value.mean(1, keepdim=True)
        value = (gray + (value - gray) * scale[:, 2:3]).clamp(min=0)
        value = (value / (1 + 0.18 * value) / 0.95).clamp(0, 1) ** (1 / 2.2)
        return ((value - 0.45) * scale[:, 1:2] + 0.45).clamp(0, 1)


def soften(pictures: Tensor, strength: Tensor) -> Tensor:
    """A 3 x 3 binomial-like blur of pictures (B, 3, H, W); ``strength`` (B,) is the weight of each neighbour, below
    1/3.
    """
    k = strength.view(-1, 1, 1, 1)
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    across = (1 - 2 * k) * padded[..., 1:-1] + k * (padded[..., :-2] + padded[..., 2:])
    return (1 - 2 * k) * across[:, :, 1:-1] + k * (across[:, :, :-2] + across[:, :, 2:])


def tap(sigma: float) -> float:
    """The neighbours' weight of a three-tap Gaussian of standard deviation ``sigma`` pixels."""
    side = math.exp(-0.5 / max(sigma, 1e-3) ** 2)
    return side / (1 + 2 * side)


def sensor_noise(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """(3, H, W) standard normal."""
    return torch.from_numpy(rng.standard_normal((3, height, width), dtype=np.float32))
