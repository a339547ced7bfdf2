"""Hair as surfaces: a shell over the scalp, a curtain around head and neck, a bun and a ponytail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from csgn_lib.synthetic.body import Body
from csgn_lib.synthetic.garments import UPPERS, Outfit
from csgn_lib.synthetic.materials import MATERIALS
from csgn_lib.synthetic.outlines import Cloth
from csgn_lib.synthetic.people import Person
from csgn_lib.synthetic.surfaces import Piece, bone_weights, closed, grid_faces, interpolate, noise, sphere

HAIR = MATERIALS.index("hair")
# Hairline: heights on the template at depths y, from the forehead to the nape, metres.
LINE_AT = (-0.2, -0.135, -0.10, -0.07, -0.045, -0.03, 0.0, 0.03)
LINE = (0.797, 0.794, 0.775, 0.735, 0.690, 0.70, 0.645, 0.622)
# Lower edge of a hat, in the same form.
HAT_AT = (-0.2, -0.12, -0.05, 0.0, 0.05)
HAT = (0.785, 0.78, 0.757, 0.735, 0.715)
THICKNESS = {"buzz cut": 0.003, "short hair": 0.016, "side parting": 0.02, "bob": 0.016, "long hair": 0.014,
             "bun": 0.011, "ponytail": 0.011, "afro": 0.055}  # fmt: skip
ENDS = {"bob": (0.60, 0.575), "long hair": (0.52, 0.46, 0.40)}  # heights of the lower edge
ROWS, COLUMNS = 10, 26


def hair_pieces(
    body: Body, cloth: Cloth, skin: Tensor, facing: Tensor, trunk: tuple[Tensor, Tensor], person: Person, outfit: Outfit
) -> list[Piece]:
    """Build the hair of a person. Hair under a hat is left out; long hair lies outside the collar.

    Args:
        cloth: surface of the head.
        skin: (n, 3) its vertices on this person, metres.
        facing: (n, 3) its unit normals.
        trunk: vertices (m, 3) of the trunk, on which long hair lies, and their template coordinates (m, 3).
    """
    if person.hair_style == "bald":
        return []
    scalp = _scalp(cloth)
    pieces = [_shell(body, cloth, skin, facing, scalp, person, outfit.hat)]
    if person.hair_style in ENDS:
        pieces.append(_curtain(body, cloth, skin, trunk, person, outfit))
    elif person.hair_style == "bun" and outfit.hat == "no hat":
        pieces.append(_bun(body, cloth, skin, person))
    elif person.hair_style == "ponytail":
        pieces.append(_ponytail(body, cloth, skin, person))
    return pieces


def hat_edge(template: Tensor) -> Tensor:
    """Height (n,) of a hat's lower edge at template points (n, 3), metres."""
    return interpolate(template[:, 1], HAT_AT, HAT)


def _scalp(cloth: Cloth) -> Tensor:
    """Boolean mask (f,) of the triangles of the head above the jaw."""
    x, y, z = cloth.template.unbind(1)
    return ((z > 0.60) & (x.abs() < 0.1))[cloth.faces].all(1)


def _ears(template: Tensor) -> Tensor:
    x, y, z = template.unbind(1)
    return (x.abs() > 0.072) & (z < 0.765) & (z > 0.64) & (y > -0.065) & (y < 0.03)


def _shell(body: Body, cloth: Cloth, skin: Tensor, facing: Tensor, scalp: Tensor, person: Person, hat: str) -> Piece:
    """Hair that follows the scalp: thin at the hairline, thick on top, with noise as locks."""
    template = cloth.template
    y, z = template[:, 1], template[:, 2]
    variety = person.seed % 7 / 7
    line = interpolate(y, LINE_AT, LINE) - 0.012 * variety
    if person.hair_style in ("short hair", "bob", "long hair") and person.seed % 3 == 0:  # a fringe
        line = torch.where(y < -0.09, line - 0.022, line)
    above = z - line
    style = person.hair_style
    thickness = THICKNESS[style]
    grow = (above / 0.05).clamp(0.2, 1)
    if style in ("short hair", "side parting"):
        grow = grow * (1 + 0.55 * ((z - 0.74) / 0.06).clamp(0, 1) * (1.3 - variety))
    curls = 0.16 * thickness if style != "afro" else 0.007
    locks = noise(template, person.seed % 983, 95 if style == "afro" else 60) * curls
    shape = skin + facing * ((thickness + locks) * grow)[:, None]
    if style == "side parting":
        side = 1.0 if person.seed % 2 else -1.0
        shape = shape + skin.new_tensor([0.010 * side, -0.006, 0.006]) * grow[:, None]
    cut = -above + noise(template, person.seed % 977, 60) * 0.003
    cut = torch.where(_ears(template), cut.clamp(min=0.02), cut)
    if hat != "no hat":
        cut = torch.maximum(cut, z - hat_edge(template) - 0.012)
    cut = torch.where(z > 0.60, cut, torch.ones_like(cut))
    faces = cloth.faces[scalp]
    return Piece(shape, template, torch.full_like(z, -1.0), cloth.weights, faces, HAIR, cut, False)


def _radii(points: Tensor, centre: Tensor, levels: Tensor, angles: Tensor) -> Tensor:
    """Largest distance (rows, columns) of points (n, 3) from a vertical axis, near each height and angle."""
    offset = points[:, :2] - centre[:2]
    radius = offset.norm(dim=1)
    angle = torch.atan2(offset[:, 0], -offset[:, 1])  # 0 in front, increasing to the person's left
    near_level = (points[:, 2] - levels[:, None]).abs() < 0.025  # (rows, n)
    turn = (angle - angles[:, None] + math.pi) % (2 * math.pi) - math.pi
    near = near_level[:, None] & (turn.abs() < 0.22)[None]  # (rows, columns, n)
    return torch.where(near, radius, torch.zeros_like(radius)).amax(2)


def _curtain(
    body: Body, cloth: Cloth, skin: Tensor, trunk: tuple[Tensor, Tensor], person: Person, outfit: Outfit
) -> Piece:
    """Long hair along the sides and the back of the head, pushed outwards by the head and partly by the back."""
    device = skin.device
    template = cloth.template
    below = trunk[1]
    collar = UPPERS[outfit.upper].thickness + (0.035 if outfit.upper == "hoodie" else 0.01)
    head = (template[:, 2] > 0.62) & (template[:, 0].abs() < 0.1)
    middle = skin[head & (template[:, 2] > 0.70)].mean(0)
    top = skin[:, 2].max()
    scale = top / body.template[:, 2].max()
    height = ENDS[person.hair_style][person.seed % len(ENDS[person.hair_style])]
    opening = 0.75 + 0.25 * (person.seed % 5) / 4  # half-angle of the opening at the face, radians
    angles = torch.linspace(opening, 2 * math.pi - opening, COLUMNS, device=device)
    levels = torch.linspace(0, 1, ROWS, device=device)
    z = (0.79 + (height - 0.79) * levels) * scale  # (rows,)
    radius = _radii(skin[head], middle, z, angles)
    shoulders = _radii(trunk[0][(below[:, 2] > 0.3) & (below[:, 0].abs() < 0.13)], middle, z, angles) + 0.012 + collar
    widest = radius.amax(0)  # (columns,)
    back = -torch.cos(angles)  # 1 behind the head
    radius = torch.maximum(radius, widest * (1 - 0.12 * levels[:, None]) * (levels[:, None] > 0.12))
    lifted = torch.minimum(shoulders, widest + 0.02 + (0.03 + collar) * back.clamp(min=0))
    radius = torch.maximum(radius, torch.where(levels[:, None] > 0.4, lifted, radius))
    radius = (radius + radius.roll(1, 0).index_copy(0, torch.zeros(1, dtype=torch.long, device=device), radius[:1])) / 2
    ripple = torch.sin(angles * 9 + person.seed % 6)[None] * 0.005 * levels[:, None]
    radius = radius + THICKNESS[person.hair_style] * 0.8 + ripple
    directions = torch.stack([torch.sin(angles), -torch.cos(angles)], 1)  # (columns, 2)
    flat = middle[:2] + radius[..., None] * directions
    points = torch.cat([flat, z[:, None, None].expand(ROWS, COLUMNS, 1)], 2).flatten(0, 1)
    texture = torch.stack([torch.sin(angles) * 0.08, -torch.cos(angles) * 0.1], 1).expand(ROWS, COLUMNS, 2)
    texture = torch.cat([texture, (z / scale)[:, None, None].expand(ROWS, COLUMNS, 1)], 2).flatten(0, 1)
    faces = grid_faces(ROWS, COLUMNS, False).to(device).flip(1)
    edge = noise(texture, person.seed % 971, 40) * 0.010
    cut = height + 0.02 - texture[:, 2] + edge
    if outfit.hat != "no hat":
        cut = torch.maximum(cut, texture[:, 2] - 0.745)
    falling = (levels * 0.8).clamp(0, 0.75)[:, None].expand(ROWS, COLUMNS).flatten()
    weights = bone_weights(body, len(points), {"head": 1 - falling, "spine01": falling}, points.device)
    return Piece(points, texture, torch.full_like(cut, -1.0), weights, faces, HAIR, cut)


def _landmarks(cloth: Cloth, skin: Tensor) -> tuple[Tensor, Tensor]:
    """Top and back of the head, (3,) each."""
    y, z = cloth.template[:, 1], cloth.template[:, 2]
    return skin[z > 0.80].mean(0), skin[(y > 0.03) & (z > 0.70)].mean(0)


def _bun(body: Body, cloth: Cloth, skin: Tensor, person: Person) -> Piece:
    top, back = _landmarks(cloth, skin)
    unit, faces = sphere(14, 10, skin.device)
    high = person.seed % 2 == 1
    centre = (
        (top + back) / 2 + skin.new_tensor([0, 0.03, 0.018]) if high else back + skin.new_tensor([0.0, 0.022, -0.03])
    )
    lumps = 1 + 0.08 * noise(unit, person.seed % 967, 5)[:, None]
    points = centre + unit * lumps * skin.new_tensor([0.042, 0.040, 0.036])
    return _lump(body, points, unit * 0.04 + skin.new_tensor([0, 0.1, 0.75]), faces)


def _ponytail(body: Body, cloth: Cloth, skin: Tensor, person: Person) -> Piece:
    _, back = _landmarks(cloth, skin)
    unit, faces = sphere(12, 14, skin.device)
    along = (1 - unit[:, 2]) / 2
    length = 0.2 + 0.12 * (person.seed % 7) / 7
    radius = 0.036 * (1 - 0.5 * along)
    points = torch.stack([unit[:, 0] * radius * 1.1, unit[:, 1] * radius + 0.055 * torch.sin(along * 2.2),
                          0.03 - along * length], 1)  # fmt: skip
    points = back + skin.new_tensor([0, 0.012, 0.035]) + points
    return _lump(body, points, unit * 0.05 + skin.new_tensor([0, 0.1, 0.7]), faces)


def _lump(body: Body, points: Tensor, template: Tensor, faces: Tensor) -> Piece:
    weights = bone_weights(body, len(points), {"head": 1.0}, points.device)
    return closed(points, template, faces, HAIR, weights, two_sided=False)
