"""An exact triangle rasteriser in torch: which triangle is nearest at each pixel centre, for many pictures at once.

A pixel belongs to a triangle if its centre lies inside or on its edge; among those the nearest wins (z-buffer), and
among equally near ones the first. Triangles are grouped by the size of their bounding boxes, so that each group is
tested as one dense block. Everything runs on the device of the inputs; nothing is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EDGE = 1e-5  # barycentric slack, so that rounding opens no crack between two triangles
NEAR = 0.05  # metres: triangles that reach nearer than this are left out
BLOCK = 2_000_000  # candidates tested at once
_FAR = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Fragments:
    """P visible (pixel, triangle) pairs. Each pixel occurs at most once; ``pixel`` increases."""

    pixel: Tensor  # (P,) flat index into (B, H, W)
    triangle: Tensor  # (P,) row of the triangles
    weights: Tensor  # (P, 3) perspective-correct barycentric coordinates
    depth: Tensor  # (P,) metres along the camera's axis

    def interpolate(self, values: Tensor, triangles: Tensor) -> Tensor:
        """(P, C) or (P,): values (N, C) or (N,) of vertices, interpolated over triangles (T, 3)."""
        corners = values[triangles[self.triangle]]
        if values.dim() == 1:
            return (corners * self.weights).sum(1)
        return torch.bmm(self.weights[:, None], corners)[:, 0]


@dataclass(frozen=True)
class Triangles:
    """T triangles over N vertices, in B pictures.

    ``points`` (N, 2): pixel coordinates, x to the right and y downwards; pixel (0, 0) has its centre at (.5, .5).
    ``depth`` (N,): metres along the camera's axis. ``faces`` (T, 3): counter-clockwise as seen from the front; others
    are culled unless ``two_sided`` (T,). ``picture`` (T,): which picture a triangle belongs to. ``cut`` (N,): the
    surface ends where this interpolates to 0 or more.
    """

    points: Tensor
    depth: Tensor
    faces: Tensor
    picture: Tensor
    cut: Tensor
    two_sided: Tensor


def rasterise(triangles: Triangles, shape: tuple[int, int, int]) -> Fragments:
    """The visible fragments in B pictures of ``shape`` (B, H, W)."""
    best = torch.full((math.prod(shape),), _FAR, dtype=torch.int64, device=triangles.points.device)
    found = [(best[:0], best[:0], best[:0], triangles.depth[:0, None].expand(0, 3), triangles.depth[:0])]
    for pixel, row, weights, nearness in _candidates(triangles, shape):
        key = ((1 / nearness).view(torch.int32).long() << 31) | row  # positive floats sort as their bits do
        best.scatter_reduce_(0, pixel, key, "amin")
        found.append((pixel, key, row, weights, nearness))
    pixel, key, row, weights, nearness = (torch.cat(column) for column in zip(*found, strict=True))
    won = (best[pixel] == key).nonzero()[:, 0]
    slot = torch.full_like(best, -1)
    slot[pixel[won]] = won
    covered = (slot >= 0).nonzero()[:, 0]
    won = slot[covered]
    corrected = weights[won] / (triangles.depth[triangles.faces[row[won]]] * nearness[won, None])
    return Fragments(covered, row[won], corrected, 1 / nearness[won])


def depth_map(triangles: Triangles, shape: tuple[int, int, int], empty: float) -> Tensor:
    """The nearest depth at each pixel of (B, H, W), ``empty`` where there is nothing."""
    nearest = torch.full((math.prod(shape),), empty, device=triangles.points.device)
    for pixel, _, _, nearness in _candidates(triangles, shape):
        nearest.scatter_reduce_(0, pixel, 1 / nearness, "amin")
    return nearest.view(shape)


def _candidates(triangles: Triangles, shape: tuple[int, int, int]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Pixel centres inside triangles: flat pixel (c,), triangle (c,), weights (c, 3) in the picture, 1 / depth (c,)."""
    _, height, width = shape
    chosen, corners, low, size = _visible(triangles, height, width)
    slopes, first = _barycentric(corners, low)
    inverse = 1 / triangles.depth[triangles.faces[chosen]]  # 1 / z is linear in the picture, z is not
    cut = triangles.cut[triangles.faces[chosen]]
    start = triangles.picture[chosen] * (height * width) + low[:, 1] * width + low[:, 0]
    bounded = cut.amax(1) >= 0  # the others need no look at their cut
    for members in (~bounded).nonzero()[:, 0], bounded.nonzero()[:, 0]:
        for rows, steps in _blocks(members, size):  # steps (2, n)
            weights = first[rows, :, None] + slopes[rows] @ steps.to(slopes.dtype)  # (t, 3, n)
            inside = (weights.amin(1) >= -EDGE) & (steps[0] < size[rows, 0, None]) & (steps[1] < size[rows, 1, None])
            if len(bounded) and bounded[rows[0]]:
                inside &= torch.bmm((cut * inverse)[rows, None], weights)[:, 0] < 0
            row, step = inside.nonzero(as_tuple=True)
            weights, row = weights[row, :, step], rows[row]
            pixel = start[row] + (steps[1] * width + steps[0])[step]
            yield pixel, chosen[row], weights, (weights * inverse[row]).sum(1)


def _visible(triangles: Triangles, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rows (T',) that may cover a pixel centre, their corners (T', 3, 2), and their boxes' first pixel and size (T',
    2).
    """
    faces = triangles.faces
    a, b, c = (triangles.points[faces[:, k]] for k in range(3))
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    seen = ((area < 0) | (triangles.two_sided & (area != 0))).nonzero()[:, 0]
    corners = torch.stack([a[seen], b[seen], c[seen]], 1)
    low = (corners.amin(1) - 0.5).ceil().clamp(min=0)
    high = torch.minimum((corners.amax(1) + 0.5).floor(), corners.new_tensor([width, height]))
    mine = faces[seen]
    kept = (high > low).all(1) & (triangles.depth[mine].amin(1) > NEAR) & (triangles.cut[mine].amin(1) < 0)
    kept = kept.nonzero()[:, 0]
    low = low[kept].long()
    return seen[kept], corners[kept], low, high[kept].long() - low


def _barycentric(corners: Tensor, origin: Tensor) -> tuple[Tensor, Tensor]:
    """Barycentric coordinates as linear functions of the pixel: slopes (T, 3, 2), and values (T, 3) at ``origin`` (T,
    2).
    """
    near = corners - (origin + 0.5)[:, None]  # exact enough in single precision, as the origin is near
    following, last = near.roll(-1, 1), near.roll(-2, 1)  # the next corner, and the one after
    slopes = (following - last).flip(2)
    slopes = torch.stack([slopes[..., 0], -slopes[..., 1]], 2)
    first = following[..., 0] * last[..., 1] - last[..., 0] * following[..., 1]
    area = first.sum(1, keepdim=True)
    return slopes / area[..., None], first / area


def _blocks(members: Tensor, size: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Groups of triangles of like boxes: their rows (t,), and pixels relative to the box' first as columns (2, n)."""
    levels = torch.ceil(torch.log2(size[members].float())).long()
    code = levels[:, 0] * 16 + levels[:, 1]
    for level in torch.bincount(code).nonzero()[:, 0].tolist():
        wide, tall = level // 16, level % 16
        number = torch.arange(1 << (wide + tall), device=size.device)
        steps = torch.stack([number % (1 << wide), number >> wide])
        for rows in members[code == level].split(max(1, BLOCK >> (wide + tall))):
            yield rows, steps
