"""A dressed person as one mesh at rest: skin, garments built from the helper meshes, shoes, hair, hat and bag."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csgn_lib.synthetic.accessories import bag_pieces, hat_pieces
from csgn_lib.synthetic.body import Body
from csgn_lib.synthetic.garments import FLARE_AT, LOWERS, SHOES, UPPERS, Outfit
from csgn_lib.synthetic.hair import hair_pieces
from csgn_lib.synthetic.materials import MATERIALS
from csgn_lib.synthetic.outlines import (
    SEAM,
    WAIST_TOP,
    Cloth,
    cloths,
    lower_outline,
    shoe_outline,
    skin_outline,
    upper_outline,
)
from csgn_lib.synthetic.people import Person, rest_shape
from csgn_lib.synthetic.surfaces import Piece, hang, interpolate, noise, normals, push_outside


@dataclass(frozen=True)
class Figure:
    """Mesh of a dressed person at rest. n vertices, f triangles, J joints."""

    person: Person
    outfit: Outfit
    joints: Tensor  # (J, 3) metres
    vertices: Tensor  # (n, 3) metres
    normals: Tensor  # (n, 3) unit length
    template: Tensor  # (n, 3) template coordinates, metres
    arm: Tensor  # (n,) arm coordinate
    weights: Tensor  # (n, J + 2) skinning weights
    faces: Tensor  # (f, 3)
    material: Tensor  # (f,) index into MATERIALS
    cut: Tensor  # (n,) the surface ends where this interpolates to 0 or more
    two_sided: Tensor  # (f,) bool


def dress(body: Body, person: Person, outfit: Outfit, rest: tuple[Tensor, Tensor] | None = None) -> Figure:
    """Build the mesh of a dressed person.

    Args:
        rest: vertices and joints from ``rest_shape``; computed if None.
    """
    vertices, joints = rest if rest is not None else rest_shape(body, person)
    sewn = cloths(body)
    skin = vertices[sewn["skin"].vertex]
    pieces = [_skin(sewn["skin"], skin, outfit), _eyes(body, vertices)]
    pieces += _garments(sewn, vertices, outfit)
    head = vertices[sewn["head"].vertex]
    facing = normals(head, sewn["head"].faces)
    trunk = (vertices[sewn["tights"].vertex], sewn["tights"].template)
    pieces += hair_pieces(body, sewn["head"], head, facing, trunk, person, outfit)
    pieces += hat_pieces(sewn["head"], head, facing, outfit)
    pieces += bag_pieces(body, sewn["tights"], vertices[sewn["tights"].vertex], joints, outfit)
    return _joined(person, outfit, joints, pieces)


def _joined(person: Person, outfit: Outfit, joints: Tensor, pieces: Sequence[Piece]) -> Figure:
    """Merge all pieces into one mesh, without triangles that are cut away completely and unused vertices."""
    starts = [0]
    for piece in pieces:
        starts.append(starts[-1] + len(piece.vertices))
    faces = torch.cat([piece.faces + start for piece, start in zip(pieces, starts, strict=False)])
    lengths = torch.tensor([len(piece.faces) for piece in pieces], device=faces.device)
    material = torch.tensor([piece.material for piece in pieces], device=faces.device).repeat_interleave(lengths)
    two_sided = torch.tensor([piece.two_sided for piece in pieces], device=faces.device).repeat_interleave(lengths)
    vertices, template, arm, cut = (torch.cat([getattr(piece, name) for piece in pieces])
                                    for name in ("vertices", "template", "arm", "cut"))  # fmt: skip
    kept = (cut[faces].amin(1) < 0).nonzero()[:, 0]
    used = torch.zeros(len(vertices), dtype=torch.bool, device=faces.device)
    used[faces[kept].flatten()] = True
    rows, number = used.nonzero()[:, 0], used.cumsum(0) - 1
    faces, vertices = number[faces[kept]], vertices[rows]
    weights = torch.cat(
        [
            piece.weights[mine]
            for piece, mine in zip(pieces, used.split([len(piece.vertices) for piece in pieces]), strict=True)
        ]
    )
    return Figure(person, outfit, joints, vertices, normals(vertices, faces), template[rows], arm[rows], weights, faces,
                  material[kept], cut[rows], two_sided[kept])  # fmt: skip


def _skin(cloth: Cloth, skin: Tensor, outfit: Outfit) -> Piece:
    outline = skin_outline(outfit, cloth, UPPERS[outfit.upper].neck)
    return Piece(skin, cloth.template, cloth.arm, cloth.weights, cloth.faces, MATERIALS.index("skin"), outline, False)


def _eyes(body: Body, vertices: Tensor) -> Piece:
    vertex, faces = torch.unique(body.faces["eyes"], return_inverse=True)
    weights = torch.cat([body.weights[vertex], body.weights.new_zeros(len(vertex), 2)], 1)
    none = torch.full_like(vertices[vertex, 0], -1.0)
    return Piece(vertices[vertex], body.template[vertex], none, weights, faces, MATERIALS.index("eye"), none)


def _garments(sewn: dict[str, Cloth], vertices: Tensor, outfit: Outfit) -> list[Piece]:
    tights, skirt = sewn["tights"], sewn["skirt"]
    base = vertices[tights.vertex]
    facing = normals(base, tights.faces)
    tube = vertices[skirt.vertex]
    tube_facing = normals(tube, skirt.faces)
    pieces = [_shoes(tights, base, facing, outfit)]
    gap = torch.zeros_like(base[:, 0])  # between the body and the lower garment, metres
    if outfit.lower != "none":
        if LOWERS[outfit.lower].legs:
            piece, gap = _trousers(tights, base, facing, outfit)
        else:
            piece = _skirt(skirt, tube, tube_facing, outfit, "lower", outfit.lower_hem)
        pieces.append(piece)
    upper = _upper(tights, base, facing, outfit, gap)
    pieces.append(upper)
    if outfit.upper_hem < SEAM:
        z = tights.template[:, 2]
        rim = upper.vertices[(z > SEAM - 0.01) & (z < WAIST_TOP + 0.03) & (tights.on_arm < 0.3)]
        pieces.append(_upper_tube(skirt, tube, tube_facing, outfit, rim))
    return pieces


def _shoes(cloth: Cloth, base: Tensor, facing: Tensor, outfit: Outfit) -> Piece:
    """Shoes: the smoothed feet of the tights with a flat sole one centimetre thick."""
    _, thickness = SHOES[outfit.shoes]
    z = cloth.template[:, 2]
    foot = z < -0.70
    shoe = torch.where(foot[:, None], cloth.smooth(base, 2), base) + facing * thickness
    shoe = push_outside(shoe, base, facing, torch.full_like(z, 0.6 * thickness))
    ground = base[:, 2].min()
    low = (z < -0.775) & (shoe[:, 2] < ground + 0.022)
    shoe[:, 2] = torch.where(low, ground - 0.014, shoe[:, 2])
    return Piece(shoe, cloth.template, cloth.arm, cloth.weights, cloth.faces, MATERIALS.index("shoes"),
                 shoe_outline(outfit, cloth.template))  # fmt: skip


def _trousers(cloth: Cloth, base: Tensor, facing: Tensor, outfit: Outfit) -> tuple[Piece, Tensor]:
    """A lower garment with legs, and its distance (n,) from the body in metres."""
    kind = LOWERS[outfit.lower]
    z, loose = cloth.template[:, 2], outfit.lower_loose
    flare = [a + (b - a) * loose for a, b in zip(*kind.flare, strict=True)]
    gap = (kind.thickness + kind.loose * loose) * interpolate(z, FLARE_AT, flare)
    shape = cloth.smooth(base + facing * gap[:, None], kind.smoothing)
    template = cloth.smooth_template(kind.smoothing)
    if kind.folds:
        where = interpolate(z, (-0.8, -0.6, -0.4, -0.2, 0.0), (1.0, 0.5, 0.8, 0.2, 0.5))
        shape = shape + facing * (noise(cloth.template, outfit.seed % 997, 20) * kind.folds * (1 + where))[:, None]
    shape = push_outside(shape, base, facing, 0.6 * gap + 0.002)
    outline = lower_outline(outfit, template, cloth.on_arm)
    piece = Piece(shape, template, cloth.arm, cloth.weights, cloth.faces, MATERIALS.index("lower"), outline)
    return piece, ((shape - base) * facing).sum(1)


def _skirt(cloth: Cloth, tube: Tensor, facing: Tensor, outfit: Outfit, material: str, hem: float) -> Piece:
    """A skirt: the tube mesh with folds that widen downwards."""
    x, y, z = cloth.template.unbind(1)
    loose = outfit.lower_loose if material == "lower" else 0.4 + 0.6 * outfit.upper_loose
    gap = 0.012 + 0.02 * loose * interpolate(z, (-0.7, 0.1), (2.0, 0.2))
    angle = torch.atan2(y + 0.02, x)
    waves = torch.sin(angle * (10 + outfit.seed % 9) + noise(cloth.template, outfit.seed % 997, 8))
    gap = gap + waves * interpolate(z, (-0.7, 0.1), (0.022, 0.0)) * loose
    shape = tube + facing * gap[:, None]
    outline = torch.maximum(hem - z, z - (WAIST_TOP if material == "lower" else WAIST_TOP + 0.015))
    return Piece(shape, cloth.template, cloth.arm, cloth.weights, cloth.faces, MATERIALS.index(material), outline)


def _upper(cloth: Cloth, base: Tensor, facing: Tensor, outfit: Outfit, gap_below: Tensor) -> Piece:
    """The upper garment above the seam: trunk and sleeves."""
    kind = UPPERS[outfit.upper]
    x, y, z = cloth.template.unbind(1)
    gap = (kind.thickness + kind.loose * outfit.upper_loose) * _upper_profile(cloth, outfit)
    shape = cloth.smooth(base + facing * gap[:, None], kind.smoothing)
    template = cloth.smooth_template(kind.smoothing)
    trunk = (cloth.on_arm < 0.35) & (z < 0.44) & (z > 0.04)
    hung = shape.clone()
    hung[trunk] = hang(shape[trunk], kind.slope)
    if outfit.upper == "hoodie":
        hood = torch.exp(-(((z - 0.53) / 0.035) ** 2) - ((y - 0.04) / 0.06) ** 2)
        hung = hung + facing * (0.035 * hood)[:, None]
    wrinkles = noise(cloth.template * z.new_tensor([1.0, 1.0, 1.8]), outfit.seed % 991, 24)
    hung = hung + facing * (wrinkles * kind.folds)[:, None]
    least = torch.where(z < 0.17, gap_below + 0.007, torch.full_like(z, 0.004))
    hung = push_outside(hung, base, facing, torch.maximum(least, 0.55 * gap))
    outline = upper_outline(outfit, template, cloth.arm, kind.neck)
    outline = torch.maximum(outline, (SEAM if outfit.upper_hem < SEAM else outfit.upper_hem) - template[:, 2])
    open_ = outfit.sleeve < 0.9  # short sleeves show their inside
    return Piece(hung, template, cloth.arm, cloth.weights, cloth.faces, MATERIALS.index("upper"), outline, open_)


def _upper_profile(cloth: Cloth, outfit: Outfit) -> Tensor:
    """Factor (n,) on the distance from the body: large at hem and elbows, small at cuffs and collar."""
    profile = interpolate(cloth.template[:, 2], (-0.1, 0.0, 0.2, 0.42, 0.52, 0.6), (1.25, 1.2, 1.1, 1.0, 0.75, 0.7))
    elbow = 1.15 if outfit.sleeve < 0.6 else 1.0
    cuff = 0.6 if outfit.upper in ("sweater", "hoodie", "jacket") else 0.9
    sleeve = interpolate(cloth.arm, (0.0, 0.25, 0.4, 0.9, 1.0), (0.6, 0.9, elbow, 0.85, cuff))
    return torch.where(cloth.on_arm > 0.5, sleeve, profile)


def _gap_below(outfit: Outfit) -> float:
    """Largest distance of the lower garment from the hips, in metres."""
    if outfit.lower == "none":
        return 0.0
    kind = LOWERS[outfit.lower]
    return kind.thickness + kind.loose * outfit.lower_loose + 2 * kind.folds * kind.legs


def _upper_tube(cloth: Cloth, tube: Tensor, facing: Tensor, outfit: Outfit, rim: Tensor) -> Piece:
    """The upper garment below the seam: a tube around both legs that hangs almost straight from ``rim`` (m, 3)."""
    if outfit.upper == "dress":
        return _skirt(cloth, tube, facing, outfit, "upper", outfit.upper_hem)
    kind = UPPERS[outfit.upper]
    x, y, z = cloth.template.unbind(1)
    gap = max(kind.thickness + kind.loose * outfit.upper_loose, _gap_below(outfit) + 0.012)
    gap = (
        gap * 1.15
        + 0.016 * interpolate(z, (-0.5, 0.13), (2.0, 0.0))
        + noise(cloth.template, outfit.seed % 991, 24) * kind.folds
    )
    shape = hang(torch.cat([rim, tube + facing * gap[:, None]]), 0.1)[len(rim) :]
    outline = torch.maximum(outfit.upper_hem - z, z - (WAIST_TOP - 0.01))
    if outfit.upper == "coat" and outfit.open:
        outline = torch.where(y < 0, torch.maximum(outline, 0.012 + 0.05 * (0.1 - z).clamp(min=0) - x.abs()), outline)
    return Piece(shape, cloth.template, cloth.arm, cloth.weights, cloth.faces, MATERIALS.index("upper"), outline)
