"""Exact triangle rasteriser in torch: the nearest triangle at each pixel centre, for many pictures at once.

A triangle covers a pixel if the pixel's centre lies inside the triangle or on its edge. The nearest triangle is visible
(z-buffer); of equally near ones, the first. Triangles are grouped by the size of their bounding boxes, and each group
is tested as one dense block. Everything runs on the device of the inputs; nothing is differentiable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

EDGE = 1e-5  # barycentric tolerance: prevents cracks between triangles due to rounding
NEAR = 0.05  # metres: triangles that reach closer to the camera are skipped
BLOCK = 2_000_000  # candidates tested at once
_FAR = torch.iinfo(torch.int64).max


@dataclass(frozen=True)
class Fragments:
    """P visible (pixel, triangle) pairs, ascending by pixel; each pixel occurs at most once."""

    pixel: Tensor  # (P,) flat index into (B, H, W)
    triangle: Tensor  # (P,) index of the triangle
    weights: Tensor  # (P, 3) perspective-correct barycentric coordinates
    depth: Tensor  # (P,) metres along the optical axis

    def interpolate(self, values: Tensor, triangles: Tensor) -> Tensor:
        """Interpolate vertex attributes.

        Args:
            values: (N, C) or (N,) of the vertices.
            triangles: (T, 3) vertex indices.

        Returns:
            (P, C) or (P,) of the fragments.
        """
        corners = values[triangles[self.triangle]]
        if values.dim() == 1:
            return (corners * self.weights).sum(1)
        return torch.bmm(self.weights[:, None], corners)[:, 0]


@dataclass(frozen=True)
class Triangles:
    """T triangles over N vertices in B pictures.

    Attributes:
        points: (N, 2) pixel coordinates, x to the right and y downwards; pixel (0, 0) has its centre at (0.5, 0.5).
        depth: (N,) metres along the optical axis.
        faces: (T, 3) vertex indices, counter-clockwise as seen from the front.
        picture: (T,) index of the picture to which a triangle belongs.
        cut: (N,) the surface ends where this interpolates to 0 or more.
        two_sided: (T,) bool; back faces of other triangles are culled.
    """

    points: Tensor
    depth: Tensor
    faces: Tensor
    picture: Tensor
    cut: Tensor
    two_sided: Tensor


def rasterise(triangles: Triangles, shape: tuple[int, int, int]) -> Fragments:
    """Compute the visible fragments in B pictures.

    Args:
        shape: (B, H, W).
    """
    best = torch.full((math.prod(shape),), _FAR, dtype=torch.int64, device=triangles.points.device)
    found = [(best[:0], best[:0], best[:0], triangles.depth[:0, None].expand(0, 3), triangles.depth[:0])]
    for pixel, row, weights, nearness in _candidates(triangles, shape):
        key = ((1 / nearness).view(torch.int32).long() << 31) | row  # positive floats sort like their bit patterns
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
    """Compute the depth of the nearest surface at each pixel.

    Args:
        shape: (B, H, W).
        empty: value of pixels without a surface.

    Returns:
        (B, H, W) in metres.
    """
    nearest = torch.full((math.prod(shape),), empty, device=triangles.points.device)
    for pixel, _, _, nearness in _candidates(triangles, shape):
        nearest.scatter_reduce_(0, pixel, 1 / nearness, "amin")
    return nearest.view(shape)


def _candidates(triangles: Triangles, shape: tuple[int, int, int]) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield pixels inside triangles: flat pixel (c,), triangle (c,), screen-space weights (c, 3), 1 / depth (c,)."""
    _, height, width = shape
    chosen, corners, low, size = _visible(triangles, height, width)
    slopes, first = _barycentric(corners, low)
    inverse = 1 / triangles.depth[triangles.faces[chosen]]  # 1 / z is linear in screen space, z is not
    cut = triangles.cut[triangles.faces[chosen]]
    start = triangles.picture[chosen] * (height * width) + low[:, 1] * width + low[:, 0]
    bounded = cut.amax(1) >= 0  # the others are not cut
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
    """Select triangles that may cover a pixel centre.

    Returns:
        Rows (T',), corners (T', 3, 2), and the first pixel (T', 2) and size (T', 2) of the bounding boxes.
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
    """Barycentric coordinates as linear functions of the pixel: slopes (T, 3, 2) and values (T, 3) at ``origin``."""
    near = corners - (origin + 0.5)[:, None]  # a near origin keeps single precision sufficient
    following, last = near.roll(-1, 1), near.roll(-2, 1)  # the next corner and the one after it
    slopes = (following - last).flip(2)
    slopes = torch.stack([slopes[..., 0], -slopes[..., 1]], 2)
    first = following[..., 0] * last[..., 1] - last[..., 0] * following[..., 1]
    area = first.sum(1, keepdim=True)
    return slopes / area[..., None], first / area


def _blocks(members: Tensor, size: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Group triangles by the size of their boxes: rows (t,), and pixel offsets (2, n) from the first pixel of a box."""
    levels = torch.ceil(torch.log2(size[members].float())).long()
    code = levels[:, 0] * 16 + levels[:, 1]
    for level in torch.bincount(code).nonzero()[:, 0].tolist():
        wide, tall = level // 16, level % 16
        number = torch.arange(1 << (wide + tall), device=size.device)
        steps = torch.stack([number % (1 << wide), number >> wide])
        for rows in members[code == level].split(max(1, BLOCK >> (wide + tall))):
            yield rows, steps
