"""Ground truth of people and outfits: body measures, attribute values and captions.

Measures are taken from the mesh, not from the parameters that generated it. Captions name only what pictures show:
stature, proportions, hair, skin, beard, sex and age as presented, garments, colours and pattern, but not muscle or
gait.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator

from csgn_lib.synthetic.body import Body
from csgn_lib.synthetic.garments import Outfit
from csgn_lib.synthetic.people import Person, rest_shape

# Words for the lowest and the highest fifth of each measure among the training people.
WORDS = {
    "stature": ("short", "tall"), "legs": ("short legs", "long legs"), "arms": ("short arms", "long arms"),
    "head": ("a small head", "a large head"), "neck": ("a short neck", "a long neck"),
    "shoulders": ("narrow shoulders", "wide shoulders"), "waist": ("a narrow waist", "a wide waist"),
    "hips": ("narrow hips", "wide hips"), "girth": ("slim", "heavy"),
}  # fmt: skip
MEASURES = tuple(WORDS)
SKIN_TONES = ("pale", "light", "tan", "brown", "dark")


def measure(body: Body, person: Person) -> dict[str, float]:
    """Measure the body of a person.

    Returns:
        ``stature`` in metres, and as shares of it the lengths of legs, arms, head and neck, the widths of shoulders,
        waist and hips, and the depth of the trunk (``girth``).
    """
    vertices, joints = rest_shape(body, person)
    skin = torch.unique(body.faces["body"])
    place, template = vertices[skin], body.template[skin]
    height = float(place[:, 2].max() - place[:, 2].min())

    def joint(name: str) -> torch.Tensor:
        return joints[body.bone(name)]

    def band(low: float, high: float) -> torch.Tensor:
        return place[(template[:, 2] > low) & (template[:, 2] < high) & (template[:, 0].abs() < 0.19)]

    arm = (joint("upperarm01.L") - joint("lowerarm01.L")).norm() + (joint("lowerarm01.L") - joint("wrist.L")).norm()
    trunk = band(0.1, 0.3)[:, 1]
    lengths = {
        "legs": joint("upperleg01.L")[2] - place[:, 2].min(), "arms": arm,
        "head": place[:, 2].max() - joint("head")[2], "neck": (joint("head") - joint("neck01")).norm(),
        "shoulders": (joint("upperarm01.L") - joint("upperarm01.R")).norm(),
        "waist": 2 * band(0.15, 0.22)[:, 0].max(), "hips": 2 * band(-0.03, 0.05)[:, 0].max(),
        "girth": trunk.max() - trunk.min(),
    }  # fmt: skip
    return {"stature": height} | {name: float(value) / height for name, value in lengths.items()}


@dataclass(frozen=True)
class Levels:
    """Limits of the lowest and the highest fifth of each measure among some people."""

    low: Mapping[str, float]
    high: Mapping[str, float]

    @classmethod
    def of(cls, measures: Sequence[Mapping[str, float]]) -> Levels:
        """Compute the limits from the measures of people."""
        table = {name: np.quantile([row[name] for row in measures], (0.2, 0.8)) for name in MEASURES}
        return cls({name: float(q[0]) for name, q in table.items()}, {name: float(q[1]) for name, q in table.items()})

    def word(self, name: str, value: float) -> str | None:
        """Word for a value in an outer fifth of a measure, None between them."""
        if value < self.low[name]:
            return WORDS[name][0]
        return WORDS[name][1] if value > self.high[name] else None


def skin_tone(person: Person) -> str:
    """Name of the skin tone, one of SKIN_TONES."""
    return SKIN_TONES[min(int(person.skin * len(SKIN_TONES)), len(SKIN_TONES) - 1)]


def person_attributes(person: Person) -> dict[str, object]:
    """Attributes of a person other than the measures; clothes do not change them."""
    light = np.mean([(c / 255) for c in person.hair])
    bald = person.hair_style == "bald"
    return {
        "presents_as": "woman" if person.female else "man", "older": int(person.phenotype("age") > 0.85),
        "skin": round(person.skin, 4), "hair_style": person.hair_style,
        "hair_colour": "none" if bald else person.hair_colour, "hair_lightness": round(float(light), 4),
        "beard": round(person.beard, 4),
    }  # fmt: skip


def outfit_attributes(outfit: Outfit) -> dict[str, object]:
    """Types, colours and pattern of an outfit. A dress has no lower garment and its colour as ``lower_colour``."""
    dress = outfit.lower == "none"
    return {
        "upper": outfit.upper, "upper_colour": outfit.upper_colour, "pattern": outfit.pattern,
        "second_colour": "none" if outfit.pattern == "plain" else outfit.second, "lower": outfit.lower,
        "lower_colour": outfit.upper_colour if dress else outfit.lower_colour, "shoes": outfit.shoes,
        "shoes_colour": outfit.shoes_colour, "bag": outfit.bag,
        "bag_colour": "none" if outfit.bag == "no bag" else outfit.bag_colour, "hat": outfit.hat,
        "hat_colour": "none" if outfit.hat == "no hat" else outfit.hat_colour,
    }  # fmt: skip


def caption(rng: Generator, person: Person, outfit: Outfit, measures: Mapping[str, float], levels: Levels) -> str:
    """Draw a caption of one sentence. The order of phrases is random, and some are left out at random."""
    traits = [levels.word(name, measures[name]) for name in MEASURES]
    adjectives = [word for word in (traits[0], traits[-1]) if word] + (
        ["older"] if person_attributes(person)["older"] else []
    )
    parts = [word for word in traits[1:-1] if word] + _head_words(person)
    worn = _worn_words(outfit)
    kept_parts, kept_worn = (_some(rng, words) for words in (parts, worn))
    who = " ".join(["a", *_some(rng, adjectives), "woman" if person.female else "man"])
    phrases = [
        f"with {_listed(kept_parts)}" if kept_parts else "",
        f"wearing {_listed(kept_worn)}" if kept_worn else "",
    ]
    if rng.random() < 0.5:
        phrases.reverse()
    sentence = " ".join([who, *(phrase for phrase in phrases if phrase)])
    return sentence.replace("a older", "an older") + "."


def _head_words(person: Person) -> list[str]:
    words = [f"{skin_tone(person)} skin"]
    if person.hair_style == "bald":
        words.append("a bald head")
    else:
        noun = {
            "buzz cut": "very short hair",
            "short hair": "short hair",
            "side parting": "short hair",
            "bob": "a bob of hair",
            "long hair": "long hair",
            "bun": "hair in a bun",
            "ponytail": "a ponytail",
            "afro": "an afro",
        }
        words.append(f"{person.hair_colour} hair")
        words.append(noun[person.hair_style])
    return words + (["a beard"] if person.beard > 0.5 else [])


def _worn_words(outfit: Outfit) -> list[str]:
    pattern = (
        ""
        if outfit.pattern == "plain"
        else {"block": "two-coloured ", "logo": "printed "}.get(outfit.pattern, outfit.pattern + " ")
    )
    words = [f"a {outfit.upper_colour} {pattern}{outfit.upper}"]
    if outfit.lower != "none":
        article = "a " if outfit.lower.endswith("skirt") else ""
        words.append(f"{article}{outfit.lower_colour} {outfit.lower}")
    words.append(f"{outfit.shoes_colour} {outfit.shoes}")
    if outfit.bag != "no bag":
        words.append(f"a {outfit.bag_colour} {outfit.bag}")
    if outfit.hat != "no hat":
        words.append(f"a {outfit.hat_colour} {outfit.hat}")
    return [_with_article(word) for word in words]


def _with_article(phrase: str) -> str:
    return "an" + phrase[1:] if phrase[:3] in ("a o", "a i", "a a", "a e") else phrase


def _some(rng: Generator, words: Sequence[str], keep: float = 0.75) -> list[str]:
    kept = [word for word in words if rng.random() < keep]
    return [kept[i] for i in rng.permutation(len(kept))]


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
