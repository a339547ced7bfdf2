"""Hats and bags. A bag with a handle hangs upright below the hand that holds it (gait.HANG)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from csgn_lib.synthetic.body import Body
from csgn_lib.synthetic.gait import grip
from csgn_lib.synthetic.garments import UPPERS, Outfit
from csgn_lib.synthetic.hair import hat_edge
from csgn_lib.synthetic.materials import MATERIALS
from csgn_lib.synthetic.outlines import Cloth
from csgn_lib.synthetic.surfaces import Piece, bone_weights, closed, grid_faces, rounded_box, sphere

BAG, HAT = MATERIALS.index("bag"), MATERIALS.index("hat")
OFF_BODY = 3.0  # added to the template's y or z, so that garment patterns do not apply


def carrying_side(outfit: Outfit) -> str:
    """Side of a handbag or shoulder bag, ``L`` or ``R``, determined by the outfit's seed."""
    return "L" if outfit.seed % 2 else "R"


def hat_pieces(cloth: Cloth, skin: Tensor, facing: Tensor, outfit: Outfit) -> list[Piece]:
    """Build the cap or beanie of an outfit, if any.

    Args:
        cloth: surface of the head.
        skin: (n, 3) its vertices on this person, metres.
        facing: (n, 3) its unit normals.
    """
    if outfit.hat == "no hat":
        return []
    x, y, z = cloth.template.unbind(1)
    cut = hat_edge(cloth.template) + (0.0 if outfit.hat == "cap" else -0.006) - z
    bulge = 0.018 if outfit.hat == "beanie" else 0.006
    shape = cloth.smooth(skin, 8) + facing * (0.020 + bulge * ((z - 0.76) / 0.05).clamp(0, 1))[:, None]
    faces = cloth.faces[((z > 0.66) & (x.abs() < 0.09))[cloth.faces].all(1)]
    none = torch.full_like(z, -1.0)
    pieces = [Piece(shape, cloth.template, none, cloth.weights, faces, HAT, cut, False)]
    if outfit.hat == "cap":
        pieces.append(_brim(cloth, skin))
    return pieces


def _brim(cloth: Cloth, skin: Tensor) -> Piece:
    front = skin[(cloth.template[:, 1] < -0.135) & (cloth.template[:, 2] > 0.778)].mean(0)
    unit, faces = sphere(20, 8, skin.device)
    points = front + skin.new_tensor([0, -0.035, 0.004]) + unit * skin.new_tensor([0.078, 0.085, 0.008])
    ahead = (points[:, 1] - front[1]).clamp(max=0).abs()
    points[:, 2] -= ahead * 0.25 + (unit[:, 0] ** 2) * 0.012
    crown = cloth.weights[cloth.template[:, 2].argmax()]
    return closed(points, unit + skin.new_tensor([0, 0, OFF_BODY]), faces, HAT, crown.expand(len(points), -1))


def bag_pieces(body: Body, cloth: Cloth, base: Tensor, joints: Tensor, outfit: Outfit) -> list[Piece]:
    """Build the bag of an outfit, if any.

    Args:
        cloth: surface of the tights.
        base: (n, 3) its vertices on this person, metres.
        joints: (J, 3) of this person at rest, metres.
    """
    if outfit.bag == "backpack":
        return [_backpack(body, cloth, base, outfit)]
    if outfit.bag == "shoulder bag":
        return [_shoulder_bag(body, cloth, base, outfit)]
    return _handbag(body, joints, outfit) if outfit.bag == "handbag" else []


def _thickness(outfit: Outfit) -> float:
    """Approximate distance of the upper garment from the body, in metres."""
    return UPPERS[outfit.upper].thickness + UPPERS[outfit.upper].loose * outfit.upper_loose


def _backpack(body: Body, cloth: Cloth, base: Tensor, outfit: Outfit) -> Piece:
    x, y, z = cloth.template.unbind(1)
    back = base[(z > 0.2) & (z < 0.46) & (x.abs() < 0.06) & (y > 0)]
    size = (0.145, 0.075, 0.205)
    points, faces, unit = rounded_box(size, base.device)
    bulge = torch.where(unit[:, 2] < 0, 1.12, 1.0) * torch.where(unit[:, 1] > 0, 1.0, 0.9)
    points = points * torch.stack([bulge.clamp(max=1.06), bulge, torch.ones_like(bulge)], 1)
    centre = back.mean(0) + base.new_tensor([0.0, size[1] * 0.9 + _thickness(outfit) * 0.7, 0.0])
    weights = bone_weights(body, len(points), {"spine02": 0.5, "spine01": 0.5}, base.device)
    return closed(centre + points, unit * 0.15 + base.new_tensor([0, OFF_BODY, 0]), faces, BAG, weights)


def _shoulder_bag(body: Body, cloth: Cloth, base: Tensor, outfit: Outfit) -> Piece:
    """A bag at the hip, at the end of the strap that is painted on the garment (looks.py)."""
    sign = 1.0 if carrying_side(outfit) == "L" else -1.0
    x, y, z = cloth.template.unbind(1)
    hip = base[(z > -0.03) & (z < 0.07) & (cloth.on_arm < 0.1) & (x * sign > 0.1)]
    outermost = (hip[:, 0] * sign).max() * sign
    points, faces, unit = rounded_box((0.042, 0.12, 0.09), base.device)
    centre = torch.stack([outermost + sign * (0.030 + _thickness(outfit)), hip[:, 1].mean(), hip[:, 2].mean()])
    weights = bone_weights(body, len(points), {"root": 0.6, "spine05": 0.4}, base.device)
    return closed(centre + points, unit * 0.15 + base.new_tensor([0, OFF_BODY, 0]), faces, BAG, weights)


def _handbag(body: Body, joints: Tensor, outfit: Outfit) -> list[Piece]:
    """A box below the hand, and an arc as its handle in the hand."""
    side = carrying_side(outfit)
    hand = grip(body, joints, side)
    points, faces, unit = rounded_box((0.045, 0.135, 0.10), joints.device)
    points = points * torch.stack([1.15 - 0.25 * unit[:, 2], 1.05 - 0.1 * unit[:, 2], torch.ones_like(unit[:, 2])], 1)
    drop = joints.new_tensor([0.0, 0.0, 0.20])
    weights = bone_weights(body, len(points), {f"hang.{side}": 1.0}, joints.device)
    box = closed(hand - drop + points, unit * 0.15 + joints.new_tensor([0, OFF_BODY, 0]), faces, BAG, weights)
    ring, ring_faces = _arc(joints.device)
    weights = bone_weights(body, len(ring), {f"hang.{side}": 1.0}, joints.device)
    handle = closed(hand - drop + joints.new_tensor([0, 0, 0.09]) + ring, ring * 0 + OFF_BODY, ring_faces, BAG, weights)
    return [box, handle]


def _arc(device: torch.device) -> tuple[Tensor, Tensor]:
    """A vertical half ring from front to back, with a radius of about 10 cm and a thickness of about 1.5 cm."""
    along = torch.linspace(0, math.pi, 12, device=device)[:, None]
    around = torch.linspace(0, 2 * math.pi, 7, device=device)[None, :-1]
    radius = 0.10 + 0.008 * torch.cos(around)
    points = torch.stack([(0.008 * torch.sin(around)).expand(12, 6), -torch.cos(along) * radius * 0.8,
                          torch.sin(along) * radius * 1.12], 2)  # fmt: skip
    return points.flatten(0, 1), grid_faces(12, 6, True).to(device)
