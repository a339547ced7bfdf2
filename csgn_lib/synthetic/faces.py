"""Procedural colours of the head: brows, lips, lids, beard, shaved scalp and irises."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from csgn_lib.synthetic.hair import LINE, LINE_AT
from csgn_lib.synthetic.people import Person, linear
from csgn_lib.synthetic.surfaces import interpolate, noise

_EYE = (0.0308, 0.7284)  # |x| and z of the iris centres on the template, metres


def paint_skin(place: Tensor, picture: Tensor, people: Sequence[Person], base: Tensor) -> Tensor:
    """Compute the colours of skin fragments.

    Args:
        place: (n, 3) template coordinates in metres.
        picture: (n,) index of each fragment's picture.
        people: of the B pictures.
        base: (B, materials, 3) linear colours.

    Returns:
        (n, 3) linear colours.
    """
    skin, hair = base[picture, 0], base[picture, 2]
    colour = skin * (1 + 0.04 * noise(place, 7, 60, 4))[:, None]
    head = (place[:, 2] > 0.59).nonzero()[:, 0]
    at, own = place[head], picture[head]
    traits = torch.tensor([(p.female, p.beard, p.hair_style == "bald", p.hair_style == "buzz cut") for p in people],
                          device=place.device, dtype=torch.float32)[own]  # fmt: skip
    colour[head] = _face(at, colour[head], skin[head], hair[head], traits)
    return colour


def _mix(colour: Tensor, other: Tensor, share: Tensor) -> Tensor:
    return colour + share[:, None] * (other - colour)


def _face(at: Tensor, colour: Tensor, skin: Tensor, hair: Tensor, traits: Tensor) -> Tensor:
    x, y, z = at[:, 0].abs(), at[:, 1], at[:, 2]
    female, beard, bald, buzzed = traits.unbind(1)
    front = (y < -0.095).float()
    cheeks = torch.exp(-(((x - 0.045) / 0.02) ** 2) - ((z - 0.695) / 0.02) ** 2) * front
    nose = torch.exp(-((x / 0.015) ** 2) - ((z - 0.692) / 0.012) ** 2) * (y < -0.15)
    colour = colour * (1 + (cheeks + nose)[:, None] * at.new_tensor([0.12, -0.10, -0.10]))
    lips = torch.exp(-((x / 0.026) ** 4) - ((z - 0.663) / 0.0085) ** 4) * front
    colour = _mix(colour, skin * at.new_tensor([0.86, 0.5, 0.5]), 0.8 * lips)
    brow_height = 0.7465 - 0.12 * (x - 0.03).abs()
    brows = torch.exp(-(((x - 0.031) / 0.017) ** 4) - ((z - brow_height) / 0.0055) ** 4) * front
    colour = _mix(colour, hair * 0.6, 0.85 * brows)
    lids = torch.exp(-(((x - 0.031) / 0.017) ** 4) - ((z - 0.729) / 0.009) ** 4) * front
    colour = colour * (1 - (0.35 + 0.15 * female) * lids)[:, None]
    jaw = ((0.684 + 0.9 * (x - 0.04).clamp(0, 0.05) - z) / 0.008).clamp(0, 1)
    jaw = jaw * ((z - 0.604) / 0.012).clamp(0, 1) * ((-0.045 - y) / 0.02).clamp(0, 1) * (1 - lips)
    colour = _mix(colour, hair * 0.9, (beard * jaw).clamp(0, 0.92))
    scalp = ((z - interpolate(y, LINE_AT, LINE)) / 0.012).clamp(0, 1)
    return _mix(colour, hair, scalp * (0.10 * bald + 0.55 * buzzed))


def paint_eyes(place: Tensor, picture: Tensor, people: Sequence[Person]) -> Tensor:
    """Compute the colours of eye fragments: white, iris and pupil.

    Args:
        place: (n, 3) template coordinates in metres.
        picture: (n,) index of each fragment's picture.
        people: of the B pictures.

    Returns:
        (n, 3) linear colours.
    """
    iris = torch.tensor([linear(person.eyes) for person in people], device=place.device)[picture]
    radius = torch.hypot(place[:, 0].abs() - _EYE[0], place[:, 2] - _EYE[1])[:, None]
    white = place.new_tensor([0.5, 0.48, 0.47])
    return torch.where(radius < 0.003, 0.01, torch.where(radius < 0.0068, iris, white))
