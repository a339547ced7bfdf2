"""Pinhole cameras over level ground: geometry, lighting and colour response."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from numpy.random import Generator
from torch import Tensor

FRAME = (594, 1056)  # height and width of a camera's full frame in pixels; pictures are crops of it
PLACES = ("plaza", "street", "park", "hall", "mall", "corridor", "car park", "crossing")
INDOOR = ("hall", "mall", "corridor")


@dataclass(frozen=True)
class CameraRanges:
    """Ranges (low, high) from which the cameras of a setting are drawn."""

    height: tuple[float, float]  # metres
    focal: tuple[float, float]  # pixels of the full frame
    sun: tuple[float, float]  # strength of sunlight outdoors
    ambient: tuple[float, float]
    tint: float  # strength of colour casts
    contrast: tuple[float, float]
    saturation: tuple[float, float]
    noise: tuple[float, float]  # standard deviation, for intensities in [0, 1]
    blur: tuple[float, float]  # standard deviation in pixels of a picture 256 pixels high
    clutter: tuple[int, int]  # number of objects behind the people
    softness: float  # of the background: 0 sharp, 1 blurred with low contrast


@dataclass(frozen=True)
class Camera:
    """A camera above (0, 0), with its lighting. World axes: x to the right, y away from the camera, z up."""

    number: int  # from 0
    place: str  # one of PLACES
    seed: int  # of the background
    height: float  # metres
    focal: float  # pixels of the full frame
    distance: float  # from the camera to the walking line, metres
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
        """Angle of the optical axis below the horizontal, radians."""
        return math.atan2(self.height - 0.98, self.distance)

    def axes(self, device: torch.device | str = "cpu") -> Tensor:
        """Camera axes (3, 3) in the world; the rows are right, up and forward."""
        c, s = math.cos(self.pitch), math.sin(self.pitch)
        return torch.tensor([[1.0, 0.0, 0.0], [0.0, s, c], [0.0, c, -s]], device=device)

    def project(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Project points into the full frame.

        Args:
            points: (..., 3) world coordinates in metres.

        Returns:
            Pixels (..., 2), x to the right and y downwards, and depths (...) in metres.
        """
        seen = (points - points.new_tensor([0.0, 0.0, self.height])) @ self.axes(points.device).T
        depth = seen[..., 2]
        x = FRAME[1] / 2 + self.focal * seen[..., 0] / depth
        y = FRAME[0] / 2 - self.focal * seen[..., 1] / depth
        return torch.stack([x, y], -1), depth


def draw_camera(rng: Generator, number: int, place: str, ranges: CameraRanges) -> Camera:
    """Draw a random camera.

    Args:
        number: of the camera in its world, from 0.
        place: one of PLACES.
        ranges: of the setting.
    """
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
    """Camera and light parameters of B pictures."""

    position: Tensor  # (B, 3)
    sun: Tensor  # (B, 3)
    sun_colour: Tensor  # (B, 3)
    sky_colour: Tensor  # (B, 3)
    gain: Tensor  # (B, 3)
    scale: Tensor  # (B, 3): exposure, contrast, saturation

    @classmethod
    def of(cls, cameras: Sequence[Camera], exposures: Sequence[float], device: torch.device) -> Lights:
        """Collect the parameters of B cameras; ``exposures`` are factors on their own exposure."""

        def table(rows: list[tuple[float, ...]]) -> Tensor:
            return torch.tensor(rows, device=device)

        return cls(
            table([(0.0, 0.0, c.height) for c in cameras]), table([c.sun for c in cameras]),
            table([c.sun_colour for c in cameras]), table([c.sky_colour for c in cameras]),
            table([c.gain for c in cameras]),
            table([(c.exposure * e, c.contrast, c.saturation) for c, e in zip(cameras, exposures, strict=True)]),
        )  # fmt: skip

    def expose(self, light: Tensor, picture: Tensor) -> Tensor:
        """Convert linear light to sRGB: gain, saturation, soft shoulder, gamma and contrast.

        Args:
            light: (n, 3) linear light.
            picture: (n,) index of the picture.

        Returns:
            (n, 3) in [0, 1].
        """
        scale = self.scale[picture]
        value = light * scale[:, :1] * self.gain[picture]
        gray = value.mean(1, keepdim=True)
        value = (gray + (value - gray) * scale[:, 2:3]).clamp(min=0)
        value = (value / (1 + 0.18 * value) / 0.95).clamp(0, 1) ** (1 / 2.2)
        return ((value - 0.45) * scale[:, 1:2] + 0.45).clamp(0, 1)


def soften(pictures: Tensor, strength: Tensor) -> Tensor:
    """Blur pictures with a separable kernel of 3 x 3 pixels.

    Args:
        pictures: (B, 3, H, W).
        strength: (B,) weight of each neighbour, below 1/3.
    """
    k = strength.view(-1, 1, 1, 1)
    padded = functional.pad(pictures, (1, 1, 1, 1), mode="replicate")
    across = (1 - 2 * k) * padded[..., 1:-1] + k * (padded[..., :-2] + padded[..., 2:])
    return (1 - 2 * k) * across[:, :, 1:-1] + k * (across[:, :, :-2] + across[:, :, 2:])


def tap(sigma: float) -> float:
    """Weight of each neighbour in a three-tap Gaussian with standard deviation ``sigma`` in pixels."""
    side = math.exp(-0.5 / max(sigma, 1e-3) ** 2)
    return side / (1 + 2 * side)


def sensor_noise(rng: np.random.Generator, height: int, width: int) -> Tensor:
    """Standard normal noise (3, H, W)."""
    return torch.from_numpy(rng.standard_normal((3, height, width), dtype=np.float32))
