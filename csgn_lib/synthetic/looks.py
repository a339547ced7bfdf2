"""Colour and gloss of fragments: skin and face, hair, cloth with patterns, shoes, bags, hats and occluders.

Appearance is a function of a fragment's template coordinates, so that patterns follow the body. Fragments of many
pictures are processed at once, grouped by material; parameters of a picture are gathered by its index.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csgn_lib.synthetic.accessories import carrying_side
from csgn_lib.synthetic.faces import paint_eyes, paint_skin
from csgn_lib.synthetic.garments import COLOURS, LOWERS, OPEN_FRONT, OUTER, PATTERNS, UPPERS, Outfit
from csgn_lib.synthetic.materials import MATERIALS
from csgn_lib.synthetic.people import Person, linear, skin_colour
from csgn_lib.synthetic.surfaces import noise

_GLOSS = {"skin": (0.05, 18.0), "eye": (0.2, 60.0), "hair": (0.10, 16.0), "upper": (0.02, 10.0), "lower": (0.02, 10.0),
          "shoes": (0.08, 20.0), "bag": (0.06, 12.0), "hat": (0.02, 8.0), "occluder": (0.03, 10.0)}  # fmt: skip


@dataclass(frozen=True)
class Surface:
    """Geometry and material of P fragments."""

    template: Tensor  # (P, 3) template coordinates, metres
    arm: Tensor  # (P,) arm coordinate
    cut: Tensor  # (P,) negative inside the outline
    material: Tensor  # (P,) index into MATERIALS
    picture: Tensor  # (P,) index of the picture
    inside: Tensor  # (P,) bool: the back of a two-sided surface


@dataclass(frozen=True)
class Look:
    """Appearance of P fragments."""

    colour: Tensor  # (P, 3) linear RGB
    gloss: Tensor  # (P,) strength of the specular highlight
    exponent: Tensor  # (P,) of the specular highlight
    relief: Tensor  # (P,) strength of the folds
    strap: Tensor  # (P,) bool: on the strap of a bag


@dataclass(frozen=True)
class Wearers:
    """The people and outfits of B pictures, with their parameters as tensors (B, ...)."""

    people: Sequence[Person]
    outfits: Sequence[Outfit]
    base: Tensor  # (B, materials, 3) linear colours
    second: Tensor  # (B, 3) second colour of the pattern
    inner: Tensor  # (B, 3) colour under an open jacket or coat
    scale: Tensor  # (B,) of the pattern, in [0, 1)
    shift: Tensor  # (B, 3) offset of the folds
    hair_style: Tensor  # (B,) bool: hair with a soft hairline

    @classmethod
    def of(
        cls,
        people: Sequence[Person],
        outfits: Sequence[Outfit],
        things: Sequence[tuple[float, ...]],
        device: torch.device,
    ) -> Wearers:
        """Collect the parameters of B pictures.

        Args:
            things: linear colour of each picture's occluder.
        """

        def named(name: str) -> list[tuple[float, ...]]:
            return [linear(COLOURS[getattr(outfit, name)]) for outfit in outfits]

        skins, hairs = [skin_colour(p) for p in people], [linear(p.hair) for p in people]
        columns = [skins, skins, hairs, named("upper_colour"), named("lower_colour"), named("shoes_colour"),
                   named("bag_colour"), named("hat_colour"), things]  # fmt: skip
        base = torch.tensor(columns, device=device).transpose(0, 1)
        shift = torch.tensor([[(o.seed >> k) % 1009 / 101 for k in (0, 7, 14)] for o in outfits], device=device)
        soft = torch.tensor([p.hair_style not in ("bob", "long hair") for p in people], device=device)
        return cls(people, outfits, base, torch.tensor(named("second"), device=device),
                   torch.tensor(named("inner"), device=device),
                   torch.tensor([o.seed % 17 / 17 for o in outfits], device=device), shift, soft)  # fmt: skip


def paint(surface: Surface, wearers: Wearers) -> Look:
    """Compute the appearance of fragments."""
    colour = wearers.base[surface.picture, surface.material]
    gloss = torch.tensor([_GLOSS[name] for name in MATERIALS], device=colour.device)[surface.material]
    look = Look(colour, gloss[:, 0].contiguous(), gloss[:, 1].contiguous(), torch.zeros_like(surface.arm),
                torch.zeros_like(surface.inside))  # fmt: skip
    for number, name in enumerate(MATERIALS):
        rows = (surface.material == number).nonzero()[:, 0]
        if len(rows):
            _PAINTERS[name](surface, wearers, look, rows)
    look.colour[surface.inside & (surface.material != MATERIALS.index("hair"))] *= 0.5
    return look


def _per_picture(values: Sequence[float], surface: Surface, rows: Tensor) -> Tensor:
    return torch.tensor(values, device=rows.device)[surface.picture[rows]]


def _among(names: Sequence[str], kinds: Sequence[str], surface: Surface, rows: Tensor) -> Tensor:
    """Select the rows whose picture's name is one of ``kinds``."""
    flags = torch.tensor([name in kinds for name in names], device=rows.device)
    return rows[flags[surface.picture[rows]]]


def _skin(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    look.colour[rows] = paint_skin(surface.template[rows], surface.picture[rows], wearers.people, wearers.base)


def _eye(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    look.colour[rows] = paint_eyes(surface.template[rows], surface.picture[rows], wearers.people)


def _hair(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    """Strands as stretched noise, blended with the skin at soft hairlines."""
    place, picture = surface.template[rows], surface.picture[rows]
    moved = place + wearers.shift[picture] * 0.01
    strands = noise(moved * place.new_tensor([1.0, 1.0, 0.15]), 11, 190, 5) + 0.7 * noise(moved, 12, 60, 4)
    colour = look.colour[rows] * (1 + 0.3 * strands.clamp(-1.6, 1.6))[:, None].clamp(0.25, 2)
    share = ((-surface.cut[rows] + 0.004 * strands) / 0.013).clamp(0.3, 1)
    share = torch.where(wearers.hair_style[picture], share, torch.ones_like(share))[:, None]
    look.colour[rows] = colour * share + wearers.base[picture, 0] * 0.75 * (1 - share)
    look.relief[rows] = 0.5


def _upper(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    look.relief[rows] = _per_picture([UPPERS[o.upper].relief for o in wearers.outfits], surface, rows)
    _patterns(surface, wearers, look, rows)
    _details(surface, wearers, look, rows)
    _straps(surface, wearers, look, rows)


def _patterns(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    names = [outfit.pattern for outfit in wearers.outfits]
    for pattern in PATTERNS[1:]:
        chosen = _among(names, (pattern,), surface, rows)
        if not len(chosen):
            continue
        x, y, z = surface.template[chosen].unbind(1)
        picture = surface.picture[chosen]
        scale, arm = wearers.scale[picture], surface.arm[chosen]
        sleeve = arm > -0.1
        along = torch.where(sleeve, 0.47 - arm * 0.48, z)
        across = torch.where(sleeve, y + z * 0.3, x)
        share = _SHARES[pattern](along, across, scale, (z, x, y, sleeve))[:, None]
        base = look.colour[chosen]
        look.colour[chosen] = base + share * (wearers.second[picture] - base)


def _soft(distance: Tensor, width: float) -> Tensor:
    """Antialiased step from 0 to 1 over ``width`` where ``distance`` changes sign, for one sample per pixel."""
    return (distance / width + 0.5).clamp(0, 1)


def _striped(along: Tensor, across: Tensor, scale: Tensor, _: tuple[Tensor, ...]) -> Tensor:
    return _soft(torch.sin(along * (55 + 70 * scale)) - 0.25, 0.3)


def _checked(along: Tensor, across: Tensor, scale: Tensor, _: tuple[Tensor, ...]) -> Tensor:
    frequency = 60 + 60 * scale
    return 0.5 * sum(_soft(torch.sin(place * frequency) - 0.1, 0.3) for place in (along, across))


def _dotted(along: Tensor, across: Tensor, scale: Tensor, _: tuple[Tensor, ...]) -> Tensor:
    size = 0.045 + 0.02 * scale
    column = across / size
    row = along / size + 0.5 * (column.floor() % 2)
    return _soft(0.05 - (column % 1 - 0.5) ** 2 - (row % 1 - 0.5) ** 2, 0.03)


def _block(along: Tensor, across: Tensor, scale: Tensor, _: tuple[Tensor, ...]) -> Tensor:
    return _soft(along - 0.30 + 0.1 * scale, 0.008)


def _logo(along: Tensor, across: Tensor, scale: Tensor, place: tuple[Tensor, ...]) -> Tensor:
    z, x, y, sleeve = place
    height = 0.03 + 0.03 * scale
    inside = (x.abs() < 0.065) & ((z - 0.33).abs() < height) & (y < -0.02) & ~sleeve
    hollow = (x.abs() < 0.04) & ((z - 0.33).abs() < height * 0.45)
    return (inside & ~hollow).float()


_SHARES = {"striped": _striped, "checked": _checked, "dotted": _dotted, "block": _block, "logo": _logo}


def _details(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    """Open fronts, zips, buttons, collars, ribbed cuffs and hems, pockets and knit."""
    uppers = [outfit.upper for outfit in wearers.outfits]
    fronts = [f"{o.upper}{' open' if o.open and o.upper in OPEN_FRONT else ''}" for o in wearers.outfits]

    def place(kinds: Sequence[str], names: Sequence[str] = uppers) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        chosen = _among(names, kinds, surface, rows)
        x, y, z = surface.template[chosen].unbind(1)
        front = (y < 0.0) & (surface.arm[chosen] <= -0.1)
        return chosen, x.abs(), y, z, front

    def darken(chosen: Tensor, where: Tensor, factor: float) -> None:
        look.colour[chosen[where]] *= factor

    chosen, x, y, z, front = place(("jacket open", "coat open"), fronts)
    width = 0.022 + 0.055 * (z / 0.5).clamp(0, 1) + 0.03 * ((z - 0.45) / 0.1).clamp(0, 1)
    opened = front & (x < width)
    look.colour[chosen[opened]] = wearers.inner[surface.picture[chosen[opened]]]
    darken(chosen, front & (x < width + 0.01) & ~opened, 0.55)
    chosen, x, y, z, front = place(("jacket", "coat", "hoodie"), fronts)
    darken(chosen, front & (x < 0.005), 0.4)
    chosen, x, y, z, front = place(("shirt", "polo shirt"))
    darken(chosen, front & ((x - 0.014).abs() < 0.002), 0.6)
    look.colour[chosen[front & (x < 0.005) & ((z * 11) % 1 < 0.14)]] = 0.6
    chosen, x, y, z, front = place(("shirt", "polo shirt", "jacket", "coat"))
    darken(chosen, (z > 0.535 - 0.35 * y) & (surface.arm[chosen] <= -0.1), 0.78)
    chosen, x, y, z, front = place(("sweater", *OUTER))
    hem = _per_picture([outfit.upper_hem for outfit in wearers.outfits], surface, chosen)
    cuff = (surface.arm[chosen] > 0.94) | ((z < hem + 0.03) & (surface.arm[chosen] <= -0.1))
    darken(chosen, cuff, 0.78)
    chosen, x, y, z, front = place(("hoodie", "coat", "jacket"))
    slanted = (x - (0.105 - 0.25 * (z - 0.05).clamp(min=0))).abs() < 0.005
    darken(chosen, front & (z < 0.14) & (z > 0.02) & slanted, 0.55)
    chosen, x, y, z, front = place(("sweater",))
    look.colour[chosen] *= (1 + 0.08 * torch.sin(z * 420) * torch.sin(x * 300))[:, None]


def _straps(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    """Straps of a backpack or shoulder bag, painted on the garment."""
    bags = [outfit.bag for outfit in wearers.outfits]
    for bag in ("backpack", "shoulder bag"):
        chosen = _among(bags, (bag,), surface, rows)
        x, y, z = surface.template[chosen].unbind(1)
        trunk = (surface.arm[chosen] <= -0.1) & ~surface.inside[chosen]
        if bag == "backpack":
            off = (x.abs() - (0.10 + 0.03 * ((0.5 - z) / 0.3).clamp(0, 1))).abs()
            share = _soft(0.02 - off, 0.01) * ((z > 0.2) & (y < 0.04))
        else:
            sides = [1.0 if carrying_side(outfit) == "L" else -1.0 for outfit in wearers.outfits]
            share = _soft(0.028 - (z - (0.27 - _per_picture(sides, surface, chosen) * x * 1.55)).abs(), 0.014)
        share = (share * trunk)[:, None]
        strap = wearers.base[surface.picture[chosen], MATERIALS.index("bag")] * 0.8
        look.colour[chosen] += share * (strap - look.colour[chosen])
        look.strap[chosen] = share[:, 0] > 0.5


def _lower(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    kinds = [outfit.lower for outfit in wearers.outfits]
    look.relief[rows] = _per_picture([LOWERS[k].relief if k != "none" else 0.0 for k in kinds], surface, rows)
    z = surface.template[rows, 2]
    look.colour[rows[z > 0.105]] *= 0.55
    chosen = _among(kinds, ("jeans",), surface, rows)
    x, y, z = surface.template[chosen].unbind(1)
    x = x.abs()
    worn = torch.exp(-(((x - 0.12) / 0.05) ** 2) - ((z + 0.2) / 0.14) ** 2) + 0.6 * torch.exp(
        -(((z + 0.36) / 0.05) ** 2)
    )
    grain = noise(surface.template[chosen], 3, 160, 4) + noise(surface.template[chosen], 4, 30, 4)
    factor = 1 + 0.5 * worn * (y < -0.02) + 0.07 * grain
    seam = (((y + 0.02).abs() < 0.005) & (x > 0.1)) | ((z - 0.10).abs() < 0.004)
    dx, dz = (x - 0.085).abs(), (z - 0.02).abs()
    pocket = (y > 0.03) & (dx < 0.045) & (dz < 0.05) & ~((dx < 0.040) & (dz < 0.045))
    look.colour[chosen] *= torch.where(seam | pocket, factor * 0.62, factor)[:, None]
    chosen = _among(kinds, ("trousers",), surface, rows)
    x, y, z = surface.template[chosen].unbind(1)
    look.colour[chosen[((y + 0.02).abs() < 0.004) & (x.abs() > 0.1)]] *= 0.7


def _shoes(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    kinds = [outfit.shoes for outfit in wearers.outfits]
    z = surface.template[rows, 2]
    sole = rows[z < -0.808]
    look.colour[sole] = 0.025
    look.colour[_among(kinds, ("sneakers",), surface, sole)] = 0.6
    chosen = _among(kinds, ("sneakers",), surface, rows)
    x, y, z = surface.template[chosen].unbind(1)
    laces = (((z + 0.775) + 0.1 * (y + 0.1)).abs() < 0.012) & (torch.sin((z + y) * 420) > 0.2) & (y < -0.06)
    look.colour[chosen[laces]] = 0.5
    chosen = _among(kinds, ("shoes", "boots"), surface, rows)
    look.gloss[chosen] = 0.15


def _bag(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    place = surface.template[rows]
    unit = place[:, 2] / 0.15
    seam = ((unit - 0.3).abs() < 0.04) | ((unit + 0.35).abs() < 0.03)
    look.colour[rows] *= torch.where(seam, 0.5, 1 + 0.06 * noise(place, 2, 90))[:, None]
    look.relief[rows] = 0.3


def _hat(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    look.relief[rows] = 0.15
    chosen = _among([outfit.hat for outfit in wearers.outfits], ("beanie",), surface, rows)
    x, y, _ = surface.template[chosen].unbind(1)
    look.colour[chosen] *= (1 + 0.12 * torch.sin(torch.atan2(y + 0.04, x) * 60))[:, None]


def _occluder(surface: Surface, wearers: Wearers, look: Look, rows: Tensor) -> None:
    grain = noise(surface.template[rows], 21, 40) + 0.5 * noise(surface.template[rows], 22, 9)
    look.colour[rows] *= (1 + 0.08 * grain)[:, None]


_PAINTERS = {"skin": _skin, "eye": _eye, "hair": _hair, "upper": _upper, "lower": _lower, "shoes": _shoes, "bag": _bag,
             "hat": _hat, "occluder": _occluder}  # fmt: skip


def fold_relief(place: Tensor, shift: Tensor) -> Tensor:
    """Gradient (P, 3) of the folds of cloth.

    Args:
        place: (P, 3) template coordinates in metres.
        shift: (P, 3) offsets of the folds.
    """
    waves = place.new_tensor([[21.0, 14.0, -27.0, 33.0, -9.0, 18.0], [-17.0, 29.0, 8.0, -22.0, 26.0, 11.0],
                              [38.0, -12.0, 45.0, 21.0, -31.0, 52.0]])  # fmt: skip
    warped = place + 0.012 * torch.sin(place.flip(1) * 31 + shift) + 0.006 * torch.sin(place.roll(1, 1) * 67 + shift)
    slopes = torch.cos(warped @ waves + shift.repeat(1, 2)) / waves.norm(dim=0)
    return slopes @ waves.T * (0.25 / math.sqrt(waves.shape[1]))
