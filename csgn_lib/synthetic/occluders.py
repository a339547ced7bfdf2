"""Occluders between the camera and a person: posts, railings, crates, bushes and tables."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from numpy.random import Generator
from torch import Tensor

from csgn_lib.synthetic.cameras import Camera
from csgn_lib.synthetic.materials import MATERIALS
from csgn_lib.synthetic.surfaces import normals, rounded_box, sphere

OCCLUDERS = ("post", "railing", "crate", "bush", "table")
_COLOURS = ((0.08, 0.09, 0.1), (0.35, 0.33, 0.3), (0.25, 0.12, 0.06), (0.12, 0.2, 0.3), (0.4, 0.4, 0.42))


@dataclass(frozen=True)
class Occluder:
    """An object between the camera and a person."""

    kind: str  # one of OCCLUDERS
    place: tuple[float, float]  # metres to the right of the person and towards the camera
    size: float  # height in metres
    colour: tuple[float, ...]  # linear RGB


def draw_occluder(rng: Generator) -> Occluder:
    """Draw an occluder: kind, colour, height and place."""
    kind = str(rng.choice(OCCLUDERS))
    height = {"post": (1.0, 2.4), "railing": (0.8, 1.05), "crate": (0.4, 0.8), "bush": (0.5, 0.9), "table": (0.7, 0.8)}
    colour = (0.07, 0.13, 0.04) if kind == "bush" else _COLOURS[int(rng.integers(len(_COLOURS)))]
    return Occluder(kind, (float(rng.uniform(-0.4, 0.4)), float(rng.uniform(0.7, 1.1))),
                    float(rng.uniform(*height[kind])), colour)  # fmt: skip


def occluder_mesh(
    occluder: Occluder, camera: Camera, position: tuple[float, float], device: torch.device
) -> tuple[Tensor, ...]:
    """Build the mesh of an occluder in world coordinates.

    Args:
        position: of the person: metres to the right of the camera and away from it.

    Returns:
        Vertices (n, 3), normals (n, 3), template coordinates (n, 3), arm (n,), cut (n,), faces (f, 3), material (f,)
        and two_sided (f,), as in ``dressing.Figure``.
    """
    solids = [_solid(size, centre, occluder.kind == "bush", device) for size, centre in _parts(occluder)]
    toward = occluder.place[1] / camera.distance
    ground = torch.tensor([position[0] * (1 - toward) + occluder.place[0], position[1] - occluder.place[1], 0.0],
                          device=device)  # fmt: skip
    points, facing, faces, count = [], [], [], 0
    for vertices, triangles in solids:
        points.append(vertices + ground)
        facing.append(normals(vertices, triangles))
        faces.append(triangles + count)
        count += len(vertices)
    place, triangles = torch.cat(points), torch.cat(faces)
    none = torch.full((count,), -1.0, device=device)
    material = torch.full((len(triangles),), MATERIALS.index("occluder"), device=device)
    return (
        place,
        torch.cat(facing),
        place,
        none,
        none,
        triangles,
        material,
        torch.zeros_like(material, dtype=torch.bool),
    )


def _parts(occluder: Occluder) -> list[tuple[tuple[float, float, float], tuple[float, float, float]]]:
    """Half-axes and centres of the solids of an occluder, metres."""
    h = occluder.size
    if occluder.kind == "post":
        return [((0.055, 0.055, h / 2), (0, 0, h / 2))]
    if occluder.kind == "railing":
        bars = [((1.2, 0.022, 0.022), (0.0, 0.0, height)) for height in (0.45 * h, h)]
        return bars + [((0.025, 0.025, h / 2), (x, 0.0, h / 2)) for x in (-0.9, 0.0, 0.9)]
    if occluder.kind == "crate":
        return [((0.32, 0.25, h / 2), (0, 0, h / 2))]
    if occluder.kind == "bush":
        return [((0.3, 0.28, h * 0.5), (x, 0, h * 0.45)) for x in (-0.3, 0.0, 0.32)]
    legs = [((0.02, 0.02, h / 2), (x, 0.0, h / 2)) for x in (-0.4, 0.4)]
    return [((0.5, 0.3, 0.025), (0.0, 0.0, h)), *legs]


def _solid(
    size: tuple[float, ...], centre: tuple[float, ...], round_: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    if round_:
        unit, faces = sphere(20, 12, device)
        lumps = 1 + 0.07 * torch.sin(unit @ torch.tensor([[9.0, 5, 7], [4, 11, 3], [8, 2, 12]], device=device)).sum(1)
        points = unit * lumps[:, None] * torch.tensor(size, device=device)
    else:
        points, faces, _ = rounded_box(size, device, 12.0)
    return points + torch.tensor(centre, device=device, dtype=points.dtype), faces
