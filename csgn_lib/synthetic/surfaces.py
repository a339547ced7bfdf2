"""Geometry of garments, hair and bags: mesh pieces, normals, smoothing, noise and closed solids."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from csgn_lib.synthetic.body import Body


@dataclass(frozen=True)
class Piece:
    """A part of a dressed person at rest. n vertices, f triangles, J + 2 bones, the last two of which are gait.HANG."""

    vertices: Tensor  # (n, 3) metres
    template: Tensor  # (n, 3) template coordinates of patterns, cuts and folds, metres
    arm: Tensor  # (n,) arm coordinate: 0 at the shoulder, 1 at the wrist; negative elsewhere
    weights: Tensor  # (n, J + 2) skinning weights
    faces: Tensor  # (f, 3)
    material: int  # index into MATERIALS
    cut: Tensor  # (n,) the surface ends where this interpolates to 0 or more
    two_sided: bool = True


def closed(
    points: Tensor, template: Tensor, faces: Tensor, material: int, weights: Tensor, two_sided: bool = True
) -> Piece:
    """Make a piece without a cut, which is not part of an arm."""
    none = torch.full_like(points[:, 0], -1.0)
    return Piece(points, template, none, weights, faces, material, none, two_sided)


def bone_weights(body: Body, count: int, shares: Mapping[str, float | Tensor], device: torch.device) -> Tensor:
    """Skinning weights (count, J + 2) from the share of each bone, or of gait.HANG: a number, or (count,)."""
    weights = torch.zeros(count, len(body.bones) + 2, device=device)
    for bone, share in shares.items():
        weights[:, body.bone(bone) if bone in body.bones else len(body.bones) + (bone == "hang.R")] = share
    return weights


def normals(vertices: Tensor, faces: Tensor) -> Tensor:
    """Area-weighted unit normals (n, 3) of vertices (n, 3) with faces (f, 3)."""
    a, b, c = vertices[faces].unbind(1)
    face = torch.linalg.cross(b - a, c - a)
    summed = torch.zeros_like(vertices).index_add(0, faces.T.reshape(-1), face.repeat(3, 1))
    return summed / summed.norm(dim=1, keepdim=True).clamp_min(1e-12)


def neighbours(count: int, faces: Tensor, quads: bool = False) -> tuple[Tensor, Tensor]:
    """Find the neighbours of each vertex.

    Args:
        count: n, the number of vertices.
        faces: (f, 3) triangles.
        quads: the faces are the halves (0, 1, 2) of quadrilaterals followed by the halves (0, 2, 3), whose diagonals
            are not edges.

    Returns:
        Neighbours (n, k), padded with the vertex itself, and their number (n, 1).
    """
    edges = torch.cat([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    if quads:
        first, second = faces.chunk(2)
        edges = torch.cat([first[:, [0, 1]], first[:, [1, 2]], second[:, [1, 2]], second[:, [2, 0]]])
    edges = torch.unique(torch.cat([edges, edges.flip(1)]), dim=0)  # sorted by the first vertex
    degree = torch.bincount(edges[:, 0], minlength=count)
    place = torch.arange(len(edges), device=faces.device) - (degree.cumsum(0) - degree)[edges[:, 0]]
    table = torch.arange(count, device=faces.device)[:, None].repeat(1, int(degree.max()))
    table[edges[:, 0], place] = edges[:, 1]
    return table, degree[:, None].clamp(min=1).float()


def smooth(values: Tensor, table: Tensor, degree: Tensor, times: int, strength: float = 0.6) -> Tensor:
    """Apply Laplacian smoothing.

    Args:
        values: (n, c) of the vertices.
        table: (n, k) neighbours, from ``neighbours``.
        degree: (n, 1) number of neighbours.
        times: iterations.
        strength: weight of the neighbours' mean in an iteration.
    """
    padding = table.shape[1] - degree
    for _ in range(times):
        mean = (values[table].sum(1) - padding * values) / degree
        values = torch.lerp(values, mean, strength)
    return values


def interpolate(x: Tensor, at: Sequence[float], values: Sequence[float]) -> Tensor:
    """Evaluate the piecewise linear function through (at, values) elementwise; it is constant outside."""
    result = torch.full_like(x, values[0])
    for a, b, low, high in zip(at, at[1:], values, values[1:], strict=False):
        if high != low:
            result = result + (high - low) * ((x - a) / (b - a)).clamp(0, 1)
    return result


@functools.lru_cache(maxsize=512)
def _waves(seed: int, count: int) -> tuple[Tensor, Tensor]:
    rng = np.random.default_rng(seed)
    waves = torch.from_numpy(rng.normal(size=(3, count))).float()
    return waves, torch.from_numpy(rng.uniform(0, 2 * math.pi, count)).float()


def noise(points: Tensor, seed: int, frequency: float, count: int = 4) -> Tensor:
    """Smooth noise (n,) with zero mean and approximately unit variance: a sum of plane waves.

    Args:
        points: (n, 3) metres.
        frequency: standard deviation of the wave vectors along each axis, radians per metre.
        count: number of waves.
    """
    waves, phase = (value.to(points.device) for value in _waves(seed, count))
    return torch.sin(torch.addmm(phase, points, waves * frequency)).sum(1) * math.sqrt(2 / count)


def push_outside(points: Tensor, base: Tensor, direction: Tensor, least: Tensor) -> Tensor:
    """Move points so that they lie at least a given distance in front of a surface.

    Args:
        points: (n, 3) metres.
        base: (n, 3) points of the surface, metres.
        direction: (n, 3) unit normals of the surface, along which points are moved.
        least: (n,) smallest distance, metres.
    """
    gap = ((points - base) * direction).sum(1)
    return points + direction * (least - gap).clamp(min=0)[:, None]


def hang(points: Tensor, slope: float, sectors: int = 24, step: float = 0.02) -> Tensor:
    """Let cloth hang around a vertical axis: downwards, its radius decreases by at most ``slope``.

    Args:
        points: (n, 3) metres; the axis is at x = 0 and their mean y.
        slope: metres per metre.
        sectors: angular resolution.
        step: vertical resolution, metres.
    """
    centre = points[:, 1].mean()
    radius = torch.hypot(points[:, 0], points[:, 1] - centre).clamp_min(1e-4)
    sector = (torch.atan2(points[:, 1] - centre, points[:, 0]) / (2 * math.pi) + 0.5) * sectors
    level = ((points[:, 2] - points[:, 2].min()) / step).long()
    rows = int(level.max()) + 1
    grid = radius.new_zeros(rows * sectors).scatter_reduce(0, level * sectors + sector.long() % sectors, radius, "amax")
    grid = grid.view(rows, sectors).flip(0)  # from the top
    drop = slope * step * torch.arange(rows, device=grid.device)[:, None]
    grid = ((grid + drop).cummax(0).values - drop).flip(0)
    grid = (grid + grid.roll(1, 1) + grid.roll(-1, 1)) / 3
    place = sector - 0.5
    left = place.floor().long() % sectors
    share = place - place.floor()
    target = grid[level, left] * (1 - share) + grid[level, (left + 1) % sectors] * share
    factor = (torch.maximum(target, radius) / radius)[:, None]
    axis = points.new_tensor([0.0, 1.0, 0.0]) * centre
    horizontal = points.new_tensor([1.0, 1.0, 0.0])
    return torch.where(horizontal > 0, axis + (points - axis) * factor, points)


@functools.lru_cache(maxsize=16)
def _sphere(columns: int, rows: int) -> tuple[Tensor, Tensor]:
    around = torch.linspace(0, 2 * math.pi, columns + 1)[:-1]
    up = torch.linspace(-math.pi / 2, math.pi / 2, rows)
    ring = torch.cos(up)[:, None]
    points = torch.stack([ring * torch.cos(around), ring * torch.sin(around),
                          torch.sin(up)[:, None].expand(rows, columns)], 2)  # fmt: skip
    return points.reshape(-1, 3), grid_faces(rows, columns, True)


def sphere(columns: int, rows: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Unit sphere: points (n, 3), and faces (f, 3) oriented outwards."""
    points, faces = _sphere(columns, rows)
    return points.to(device), faces.to(device)


def rounded_box(size: Sequence[float], device: torch.device, power: float = 5.0) -> tuple[Tensor, Tensor, Tensor]:
    """Superellipsoid.

    Args:
        size: half-axes in metres.
        power: exponent; the larger, the more similar to a box.

    Returns:
        Points (n, 3) in metres, faces (f, 3), and the points divided by ``size``.
    """
    unit, faces = sphere(20, 12, device)
    unit = unit * (unit.abs() ** power).sum(1, keepdim=True) ** (-1 / power)
    return unit * torch.tensor(size, device=device), faces, unit


def grid_faces(rows: int, columns: int, closed: bool) -> Tensor:
    """Triangles (f, 3) of a grid with vertices i * columns + j; ``closed`` joins the last column to the first."""
    i = torch.arange(rows - 1)[:, None]
    j = torch.arange(columns if closed else columns - 1)[None]
    a, b = i * columns + j, i * columns + (j + 1) % columns
    c, d = a + columns, b + columns
    first, second = torch.stack([a, b, d], -1).reshape(-1, 3), torch.stack([a, d, c], -1).reshape(-1, 3)
    return torch.cat([first, second])
