"""Outlines of garments: signed functions on the template body, negative where the garment covers it.

Also the surfaces from which garments are built, with their smoothing and arm coordinates, computed once per body file.
The helper mesh ``tights`` follows trunk, arms and legs; ``skirt`` is a tube of 20 rings around both legs.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from csgn_lib.synthetic.body import Body
from csgn_lib.synthetic.garments import SHOES, Outfit
from csgn_lib.synthetic.surfaces import grid_faces, neighbours, smooth

WAIST_TOP = 0.13  # height of the upper edge of trousers and skirts
SEAM = 0.085  # height below which an upper garment is a tube around both legs
RINGS, COLUMNS = 20, 36  # of the skirt
_ARM = ("upperarm01", "upperarm02", "lowerarm01", "lowerarm02", "wrist")


@dataclass(frozen=True, eq=False)
class Cloth:
    """A surface from which garments are built. n vertices, f triangles."""

    vertex: Tensor  # (n,) indices of the vertices in the body
    faces: Tensor  # (f, 3)
    template: Tensor  # (n, 3) template coordinates, metres
    arm: Tensor  # (n,) arm coordinate, negative elsewhere
    on_arm: Tensor  # (n,) share of the skinning weights that belongs to an arm
    weights: Tensor  # (n, J + 2) skinning weights
    near: Tensor  # (n, k) neighbours, padded with the vertex itself
    degree: Tensor  # (n, 1) number of neighbours

    def smooth(self, values: Tensor, times: int) -> Tensor:
        """Apply Laplacian smoothing to values (n, c)."""
        return smooth(values, self.near, self.degree, times)

    @functools.lru_cache(maxsize=32)  # noqa: B019 - few instances, which live as long as the process
    def smooth_template(self, times: int) -> Tensor:
        """Smoothed template coordinates (n, 3); cached."""
        return self.smooth(self.template, times)


@functools.lru_cache(maxsize=4)
def cloths(body: Body) -> dict[str, Cloth]:
    """Build the surfaces ``skin``, ``head`` (a part of it), ``tights`` and ``skirt`` of a body; cached."""
    arm, on_arm = _arm_coordinate(body)
    weights = torch.cat([body.weights, body.weights.new_zeros(len(body.weights), 2)], 1)
    found = {}
    x, _, z = body.template.unbind(1)
    head = ((z > 0.56) & (x.abs() < 0.15))[body.faces["body"]].all(1)
    for name, own in (
        ("skin", body.faces["body"]),
        ("head", body.faces["body"][head]),
        ("tights", body.faces["tights"]),
    ):
        vertex = torch.unique(own)
        number = torch.full((len(body.template),), -1, device=vertex.device)
        number[vertex] = torch.arange(len(vertex), device=vertex.device)
        faces = number[own]
        found[name] = Cloth(vertex, faces, body.template[vertex], arm[vertex], on_arm[vertex], weights[vertex],
                            *neighbours(len(vertex), faces, name == "tights"))  # fmt: skip
    found["skirt"] = _skirt(body, weights)
    return found


def _skirt(body: Body, weights: Tensor) -> Cloth:
    """The tube as a grid from the waist down, with weights blurred around it so that the legs do not tear it."""
    vertex = torch.unique(body.faces["skirt"])  # ring by ring from the waist down
    grid = weights[vertex].view(RINGS, COLUMNS, -1)
    for _ in range(12):
        grid = 0.5 * grid + 0.25 * (grid.roll(1, 1) + grid.roll(-1, 1))
    faces = grid_faces(RINGS, COLUMNS, True).to(vertex.device)
    template = body.template[vertex]
    none = torch.full_like(template[:, 0], -0.3)
    return Cloth(vertex, faces, template, none, torch.zeros_like(none), grid.flatten(0, 1),
                 *neighbours(len(vertex), faces, True))  # fmt: skip


def _arm_coordinate(body: Body) -> tuple[Tensor, Tensor]:
    shoulder, elbow, wrist = (body.joints[body.bone(f"{name}.L")] for name in ("upperarm01", "lowerarm01", "wrist"))
    points = body.template.clone()
    points[:, 0] = points[:, 0].abs()
    upper, lower = elbow - shoulder, wrist - elbow
    first = ((points - shoulder) @ upper / (upper @ upper)).clamp(max=1) * upper.norm()
    second = ((points - elbow) @ lower / (lower @ lower)).clamp(min=0) * lower.norm()
    along = (first + second) / (upper.norm() + lower.norm())
    bones = [i for i, bone in enumerate(body.bones) if bone.split(".")[0] in _ARM or bone.startswith("finger")]
    on_arm = body.weights[:, bones].sum(1)
    return torch.where(on_arm > 0.5, along, torch.full_like(along, -0.3)), on_arm


def upper_outline(outfit: Outfit, template: Tensor, arm: Tensor, neck: float) -> Tensor:
    """Outline (n,) of the whole upper garment.

    Args:
        template: (n, 3) template coordinates in metres.
        arm: (n,) arm coordinate.
        neck: height of the neckline in metres.
    """
    x, y, z = template.unbind(1)
    outline = torch.maximum(arm - outfit.sleeve, outfit.upper_hem - z)
    outline = torch.maximum(outline, z - (neck + 0.45 * y + 1.3 * (x.abs() - 0.055).clamp(min=0)))
    if outfit.upper == "tank top" or (outfit.upper == "dress" and outfit.sleeve < 0.9):
        side = (x.abs() - 0.05).clamp(min=0)
        scoop = torch.where(y < -0.01, z - (0.505 + 2.2 * side), z - (0.55 + 1.5 * side))
        outline = torch.maximum(outline, scoop)
    return outline


def lower_outline(outfit: Outfit, template: Tensor, on_arm: Tensor) -> Tensor:
    """Outline (n,) of the lower garment; 1 everywhere if there is none.

    Args:
        template: (n, 3) template coordinates in metres.
        on_arm: (n,) share of the skinning weights that belongs to an arm.
    """
    z = template[:, 2]
    if outfit.lower == "none":
        return torch.ones_like(z)
    return torch.maximum(torch.maximum(z - WAIST_TOP, outfit.lower_hem - z), on_arm - 0.3)


def shoe_outline(outfit: Outfit, template: Tensor) -> Tensor:
    """Outline (n,) of the shoes: height in metres of template points (n, 3) above their top edge."""
    return template[:, 2] - SHOES[outfit.shoes][0]


def skin_outline(outfit: Outfit, cloth: Cloth, neck: float) -> Tensor:
    """Outline (n,) of the skin that is rendered; it continues for 2 to 6 cm under each garment's edge."""
    z, on_arm = cloth.template[:, 2], cloth.on_arm
    upper, lower = upper_outline(outfit, cloth.template, cloth.arm, neck), lower_outline(outfit, cloth.template, on_arm)
    if outfit.upper_hem < -0.1:  # keep the thighs, which are visible under a swinging skirt
        upper = torch.maximum(upper, outfit.upper_hem + 0.1 - z)
    if outfit.lower in ("skirt", "long skirt"):
        lower = torch.maximum(lower, outfit.lower_hem + 0.1 - z)
    if outfit.sleeve < 0:  # the meshes differ at the armhole: keep the skin under its edge
        armhole = (cloth.template[:, 0].abs() > 0.11) & (z > 0.42)
        upper = torch.where(armhole, torch.ones_like(z), upper)
    covered = torch.minimum(torch.minimum(upper, lower), shoe_outline(outfit, cloth.template))
    margin = torch.where((z > 0.4) & (on_arm < 0.9), -0.05, -0.02)  # necklines too
    margin = torch.where(on_arm > 0.5, -0.12, margin)  # in arm coordinates: smoothing shrinks the edges of cloth
    return (margin - covered).clamp(max=1)
