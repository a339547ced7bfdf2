"""Shading: sunlight with shadow maps, light from sky and ground, gloss and ambient occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as functional
from torch import Tensor

from csgn_lib.synthetic.cameras import Lights
from csgn_lib.synthetic.looks import Look, Surface, fold_relief
from csgn_lib.synthetic.materials import MATERIALS
from csgn_lib.synthetic.posing import Posed
from csgn_lib.synthetic.rasteriser import Triangles, depth_map
from csgn_lib.synthetic.surfaces import interpolate

CELL = 0.025  # metres per pixel of a shadow map
MAP = 112  # pixels per side of a shadow map: 2.8 m around each person
_EMPTY = 50.0
_OFFSET = 20.0  # keeps depths positive
_FOLDS_AT = (-0.8, -0.7, -0.5, -0.38, -0.25, -0.05, 0.05, 0.2, 0.4, 0.6)
_FOLDS = (0.75, 0.5, 0.35, 0.7, 0.35, 0.6, 0.75, 0.6, 0.4, 0.35)


@dataclass(frozen=True)
class Shadows:
    """Shadow maps: one depth map per picture, seen from the sun."""

    depth: Tensor  # (B, MAP * MAP) metres
    axes: Tensor  # (B, 3, 3): rows right, down and towards the sun
    centre: Tensor  # (B, 3) world coordinates

    @classmethod
    def cast(cls, posed: Posed, lights: Lights, centre: Tensor) -> Shadows:
        """Render the shadow maps from all triangles that face the sun.

        Args:
            centre: (B, 3) world coordinates of the centre of each map.
        """
        sun = lights.sun
        right = functional.normalize(torch.linalg.cross(sun, sun.new_tensor([0.0, 0.0, 1.0]).expand_as(sun)), dim=1)
        axes = torch.stack([right, torch.linalg.cross(right, sun), sun], 1)
        points, depth = cls(sun, axes, centre).project(posed.vertices, posed.vertex_picture)
        triangles = Triangles(points, depth, posed.faces, posed.picture, posed.cut, posed.two_sided)
        return cls(depth_map(triangles, (len(sun), MAP, MAP), _EMPTY).flatten(1), axes, centre)

    def project(self, points: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """Project world points (n, 3) of pictures (n,) to pixels (n, 2) and depths (n,) of the shadow maps."""
        seen = torch.bmm(self.axes[picture], (points - self.centre[picture])[..., None])[..., 0]
        return seen[:, :2] / CELL + MAP / 2, _OFFSET - seen[:, 2]

    def lit(self, points: Tensor, picture: Tensor, bias: float) -> Tensor:
        """Share of sunlight (n,) at world points: 1 lit, 0 in shadow, with soft edges of a few centimetres.

        Args:
            points: (n, 3) metres.
            picture: (n,) index of the picture.
            bias: smallest depth difference of a shadow, metres.
        """
        place, depth = self.project(points, picture)
        inside = ((place > 1) & (place < MAP - 1)).all(1)
        share = torch.zeros_like(depth)
        for dx in (-0.7, 0.7):
            for dy in (-0.7, 0.7):
                column, row = (place[:, 0] + dx).long().clamp(0, MAP - 1), (place[:, 1] + dy).long().clamp(0, MAP - 1)
                behind = depth - self.depth[picture, row * MAP + column]
                share += 0.25 * (1 - ((behind - bias) / 0.04).clamp(0, 1))
        return torch.where(inside, share, torch.ones_like(share))


def hollows(pixel: Tensor, depth: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Screen-space ambient occlusion: darker where a fragment lies behind the mean depth around it.

    Args:
        pixel: (P,) flat index into (B, H, W).
        depth: (P,) metres.
        shape: (B, H, W).

    Returns:
        (P,) in [0.4, 1].
    """
    size = shape[0] * shape[1] * shape[2]
    radius = max(1, shape[1] // 50)
    sums = torch.zeros(2, size, device=depth.device)
    sums[0].index_add_(0, pixel, depth)
    sums[1].index_add_(0, pixel, torch.ones_like(depth))
    blurred = functional.avg_pool2d(sums.view(2, *shape), (2 * radius + 1, 1), 1, (radius, 0))
    blurred = functional.avg_pool2d(blurred, (1, 2 * radius + 1), 1, (0, radius)).flatten(1)
    around = blurred[0][pixel] / blurred[1][pixel].clamp_min(1e-6)
    return 1 - ((depth - around) / 0.10).clamp(0, 1) * 0.6


def wrinkled(surface: Surface, look: Look, facing: Tensor, shift: Tensor) -> Tensor:
    """Perturb unit normals (P, 3) by the folds of cloth.

    Args:
        facing: (P, 3) unit normals.
        shift: (B, 3) offsets of the folds in each picture.
    """
    rows = (look.relief > 0).nonzero()[:, 0]
    place = surface.template[rows]
    strength = look.relief[rows] * interpolate(place[:, 2], _FOLDS_AT, _FOLDS)
    facing = facing.clone()
    facing[rows] -= fold_relief(place, shift[surface.picture[rows]]) * strength[:, None]
    return functional.normalize(facing, dim=1)


def illuminate(surface: Surface, look: Look, points: Tensor, facing: Tensor, shelter: Tensor, lights: Lights,
               ground: Tensor, shadows: Shadows) -> Tensor:  # fmt: skip
    """Compute the linear light (P, 3) reflected by fragments.

    Args:
        points: (P, 3) world coordinates in metres.
        facing: (P, 3) unit normals.
        shelter: (P,) ambient occlusion, from ``hollows``.
        ground: (B, 3) albedo of the ground.
    """
    picture = surface.picture
    sun, sun_colour, sky = lights.sun[picture], lights.sun_colour[picture], lights.sky_colour[picture]
    view = functional.normalize(lights.position[picture] - points, dim=1)
    direct = (facing * sun).sum(1)
    wrap = torch.where(surface.material == MATERIALS.index("skin"), 0.25, 0.08)
    lit = shadows.lit(points + facing * 0.03, picture, 0.02)
    diffuse = ((direct + wrap) / (1 + wrap)).clamp(0, 1) * lit
    halfway = functional.normalize(sun + view, dim=1)
    shine = look.gloss * (facing * halfway).sum(1).clamp(0, 1) ** look.exponent * lit * 2.2
    toward = (facing * view).sum(1).clamp(0, 1)
    rim = (1 - toward) ** 4 * 0.05
    shelter = shelter * (0.72 + 0.28 * (points[:, 2] / 0.9).clamp(0, 1))
    up = (0.5 + 0.5 * facing[:, 2])[:, None]
    bounced = (sky * 0.6 + sun_colour * 0.25) * ground[picture] * 1.4
    ambient = (sky * up + bounced * (1 - up)) * (shelter * (0.85 + 0.15 * toward))[:, None]
    return (
        look.colour * (ambient + sun_colour * diffuse[:, None])
        + shine[:, None] * sun_colour
        + (rim * shelter)[:, None] * sky
    )
