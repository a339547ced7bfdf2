"""What is true of a person and an outfit: lengths and widths measured on the body, names, and a caption.

Measures are taken from the mesh, not from the dials that made it. Captions say only what a reader of pictures can
recover: stature, proportions, hair, skin, beard, sex and age as presented, garments, colours, pattern. Muscle and gait
are left out of the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator

from csgn_lib.synthetic.rendered.body import Body
from csgn_lib.synthetic.rendered.garments import Outfit
from csgn_lib.synthetic.rendered.people import Person, rest_shape

# A measure's words below and above its outer fifths among the people of training.
WORDS = {
    "stature": ("short", "tall"), "legs": ("short legs", "long legs"), "arms": ("short arms", "long arms"),
    "head": ("a small head", "a large head"), "neck": ("a short neck", "a long neck"),
    "shoulders": ("narrow shoulders", "wide shoulders"), "waist": ("a narrow waist", "a wide waist"),
    "hips": ("narrow hips", "wide hips"), "girth": ("slim", "heavy"),
}  # fmt: skip
MEASURES = tuple(WORDS)
_SKIN = ("pale", "light", "tan", "brown", "dark")


def measure(body: Body, person: Person) -> dict[str, float]:
    """Stature in metres; all else as a share of it: lengths of legs, arms, head and neck; widths of shoulders, waist
    and hips; girth is the trunk's depth.
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
    """The outer fifths of each measure among some people."""

    low: Mapping[str, float]
    high: Mapping[str, float]

    @classmethod
    def of(cls, measures: Sequence[Mapping[str, float]]) -> Levels:
        table = {name: np.quantile([row[name] for row in measures], (0.2, 0.8)) for name in MEASURES}
        return cls({name: float(q[0]) for name, q in table.items()}, {name: float(q[1]) for name, q in table.items()})

    def word(self, name: str, value: float) -> str | None:
        if value < self.low[name]:
            return WORDS[name][0]
        return WORDS[name][1] if value > self.high[name] else None


def person_attributes(person: Person) -> dict[str, object]:
    """Names and levels of what stays when clothes change, besides the measures."""
    light = np.mean([(c / 255) for c in person.hair])
    bald = person.hair_style == "bald"
    return {
        "presents_as": "woman" if person.female else "man", "older": int(person.phenotype("age") > 0.85),
        "skin": round(person.skin, 4), "hair_style": person.hair_style,
        "hair_colour": "none" if bald else person.hair_colour, "hair_lightness": round(float(light), 4),
        "beard": round(person.beard, 4),
    }  # fmt: skip


def outfit_attributes(outfit: Outfit) -> dict[str, object]:
    """Kinds, colours and patterns of what is worn; a dress has no lower garment."""
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
    """A sentence. Its order varies and phrases are left out at random, so that no position means an attribute."""
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
    skin = _SKIN[min(int(person.skin * len(_SKIN)), len(_SKIN) - 1)]
    words = [f"{skin} skin"]
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
