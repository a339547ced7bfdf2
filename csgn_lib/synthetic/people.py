"""People: shape, face, hair, skin and gait, drawn from a random generator.

Identity is independent of clothes. Hair styles depend on sex, but every style occurs in both; skin depends on the
ancestry mix with noise; only men have beards. No real person is depicted.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from csgn_lib.synthetic.body import PHENOTYPES, RACES, Body

SKIN_TONES = ((246, 214, 194), (236, 196, 168), (222, 174, 140), (200, 150, 112), (172, 118, 80), (138, 90, 60),
              (104, 66, 45), (76, 48, 34))  # fmt: skip
HAIR_COLOURS = {"black": (24, 20, 19), "dark brown": (50, 34, 25), "brown": (90, 60, 38), "light brown": (130, 94, 60),
                "blond": (200, 164, 102), "red": (146, 66, 30), "gray": (142, 140, 138),
                "white": (208, 206, 202)}  # fmt: skip
HAIR_STYLES = ("bald", "buzz cut", "short hair", "side parting", "bob", "long hair", "bun", "ponytail", "afro")
EYE_COLOURS = ((70, 45, 30), (90, 60, 40), (70, 95, 120), (85, 100, 70))
_STYLE_SHARES = {"female": (0.01, 0.02, 0.09, 0.07, 0.2, 0.3, 0.12, 0.14, 0.05),
                 "male": (0.12, 0.2, 0.32, 0.2, 0.01, 0.05, 0.03, 0.02, 0.05)}  # fmt: skip
_HAIR_SHARES = (0.2, 0.22, 0.2, 0.14, 0.12, 0.08, 0.04, 0.0)
_OLD_HAIR_SHARES = (0.06, 0.12, 0.1, 0.07, 0.04, 0.01, 0.36, 0.24)

# Standard deviation of each local morph at spread 1, in the order of the body file.
MORPH_SPREAD = {
    "head-scale-vert-incr": 0.35, "head-scale-horiz-incr": 0.4, "head-scale-depth-incr": 0.3, "head-fat-incr": 0.45,
    "measure-upperarm-length-incr": 0.5, "measure-lowerarm-length-incr": 0.45, "measure-upperleg-height-incr": 0.6,
    "measure-lowerleg-height-incr": 0.6, "measure-shoulder-dist-incr": 0.6, "measure-hips-circ-incr": 0.55,
    "measure-waist-circ-incr": 0.5, "measure-neck-height-incr": 0.5, "measure-neck-circ-incr": 0.4,
    "measure-thigh-circ-incr": 0.4, "measure-calf-circ-incr": 0.4, "measure-upperarm-circ-incr": 0.4,
    "torso-vshape-incr": 0.5, "torso-scale-vert-incr": 0.4, "torso-scale-depth-incr": 0.35,
    "buttocks-volume-incr": 0.4, "chin-jaw-drop-incr": 0.4, "chin-height-incr": 0.4, "chin-prominent-incr": 0.45,
    "chin-width-incr": 0.5, "chin-bones-incr": 0.5, "nose-scale-depth-incr": 0.45, "nose-scale-vert-incr": 0.4,
    "nose-scale-horiz-incr": 0.45, "nose-hump-incr": 0.5, "nose-point-up": 0.5, "forehead-scale-vert-incr": 0.35,
    "forehead-trans-forward": 0.35, "mouth-scale-horiz-incr": 0.5, "mouth-lowerlip-volume-incr": 0.5,
    "mouth-upperlip-volume-incr": 0.5, "eyebrows-trans-up": 0.4, "eyebrows-angle-up": 0.4,
}  # fmt: skip
STATURE = {"female": 1.63, "male": 1.76}  # means, metres


@dataclass(frozen=True)
class Gait:
    """Parameters of a person's walk: factors around 1 and angles in degrees."""

    stride: float  # factor
    swing: float  # of the arms, factor
    sway: float  # of the pelvis, factor
    stance: float  # legs apart
    toe_out: float
    arm_down: float
    elbow: float
    lean: float  # of the trunk, forward
    hunch: float  # of the upper back
    head_pitch: float


@dataclass(frozen=True)
class Person:
    """The identity of a person: everything that does not change with clothes."""

    phenotypes: tuple[float, ...]  # (11,) PHENOTYPES then RACES
    morphs: tuple[float, ...]  # aligned with MORPH_SPREAD
    stature: float  # metres, barefoot
    female: bool
    skin: float  # in [0, 1], position in SKIN_TONES
    hair_colour: str  # key of HAIR_COLOURS
    hair: tuple[float, float, float]  # sRGB in [0, 255]
    hair_style: str  # one of HAIR_STYLES
    beard: float  # 0 none, 1 full
    eyes: tuple[int, int, int]  # sRGB in [0, 255]
    gait: Gait
    seed: int  # of curls, hairline and other details

    def phenotype(self, name: str) -> float:
        """Value of a phenotype or share of a race."""
        return self.phenotypes[[*PHENOTYPES, *RACES].index(name)]

    def scaled(self, stature: float) -> Person:
        """Return the same person with another stature in metres."""
        return replace(self, stature=stature)


def draw_person(rng: Generator, spread: float = 1.0, stature_sd: float = 0.07, colour_identity: float = 1.0) -> Person:
    """Draw a person.

    Args:
        spread: factor on the standard deviations of shape and face.
        stature_sd: standard deviation of stature in metres. The means are STATURE; values are clipped to 1.40 and 2.00.
        colour_identity: share of people with their own hair and skin colour; the others have the same colours.
    """
    female = bool(rng.random() < 0.5)
    sex = "female" if female else "male"
    phenotypes = _phenotypes(rng, female, spread)
    morphs = tuple(float(np.clip(rng.normal() * sd * spread, -1, 1)) for sd in MORPH_SPREAD.values())
    stature = float(np.clip(STATURE[sex] + stature_sd * rng.normal(), 1.40, 2.00))
    age, african, asian = phenotypes[1], phenotypes[8], phenotypes[9]
    skin = float(np.clip(rng.normal(0.10 + 0.75 * african**1.3 + 0.10 * asian, 0.13), 0, 1))
    hair = str(rng.choice(list(HAIR_COLOURS), p=_OLD_HAIR_SHARES if age > 0.85 else _HAIR_SHARES))
    if skin > 0.6 and age <= 0.85:
        hair = str(rng.choice(["black", "dark brown"]))
    style = str(rng.choice(HAIR_STYLES, p=_STYLE_SHARES[sex]))
    beard = 0.0 if female else float(rng.choice([0.0, 0.0, 0.0, 0.4, 0.75, 0.95]))
    jitter = rng.uniform(0.85, 1.15)
    if rng.random() >= colour_identity:
        hair, skin, jitter = "dark brown", 0.3, 1.0
    return Person(
        phenotypes, morphs, stature, female, skin, hair,
        tuple(float(c * jitter) for c in HAIR_COLOURS[hair]), style, beard,
        EYE_COLOURS[int(rng.integers(len(EYE_COLOURS)))], _draw_gait(rng), int(rng.integers(1 << 30)),
    )  # fmt: skip


def _phenotypes(rng: Generator, female: bool, spread: float) -> tuple[float, ...]:
    def centred(mean: float, width: float) -> float:
        return float(np.clip(mean + (rng.random() - 0.5) * width * spread, 0, 1))

    gender = float(rng.uniform(0.85, 1) if female else rng.uniform(0, 0.15))
    age = float(rng.choice([rng.uniform(0.58, 0.72), rng.uniform(0.6, 0.8), rng.uniform(0.8, 1.0)]))
    values = (gender, age, centred(0.48, 0.75), centred(0.5, 1.0), float(rng.uniform(0.42, 0.58)),
              float(rng.uniform(0.1, 0.9)), float(rng.uniform(0.2, 0.8)), float(rng.uniform(0.3, 0.7)))  # fmt: skip
    return (*values, *(float(share) for share in rng.dirichlet([0.5, 0.5, 0.5])))


def _draw_gait(rng: Generator) -> Gait:
    ranges = {
        "stride": (0.65, 1.0),
        "swing": (0.4, 1.1),
        "sway": (0.3, 1.5),
        "stance": (-1, 3.5),
        "toe_out": (-3, 12),
        "arm_down": (25, 31),
        "elbow": (6, 24),
        "lean": (-2, 5),
        "hunch": (-3, 9),
        "head_pitch": (-8, 9),
    }
    return Gait(**{field.name: float(rng.uniform(*ranges[field.name])) for field in fields(Gait)})


def rest_shape(body: Body, person: Person) -> tuple[Tensor, Tensor]:
    """Compute vertices (V, 3) and joints (J, 3) at rest in metres, scaled to the person's stature."""
    device = body.template.device
    phenotypes = torch.tensor([person.phenotypes], device=device)
    vertices, joints = (value[0] for value in body.rest(phenotypes, torch.tensor([person.morphs], device=device)))
    skin = vertices[body.faces["body"].flatten(), 2]
    factor = person.stature / (skin.max() - skin.min())
    return vertices * factor, joints * factor


def linear(colour: tuple[float, ...]) -> tuple[float, ...]:
    """Convert sRGB in [0, 255] to linear light in [0, 1] with gamma 2.2."""
    return tuple(float((c / 255) ** 2.2) for c in colour)


def skin_colour(person: Person) -> tuple[float, ...]:
    """Linear RGB of the skin in [0, 1]."""
    place = person.skin * (len(SKIN_TONES) - 1)
    low = min(int(place), len(SKIN_TONES) - 2)
    first, second = linear(SKIN_TONES[low]), linear(SKIN_TONES[low + 1])
    return tuple(a + (b - a) * (place - low) for a, b in zip(first, second, strict=True))
