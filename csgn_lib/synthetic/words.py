"""Text of the embedded benchmark: one sentence per value of each attribute, and captions for the small CLIP.

Sentences name only visible attributes. A body measure has words for its outer fifths only; its value is "none" between
them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from numpy.random import Generator

from csgn_lib.synthetic.attributes import (
    SKIN_TONES,
    WORDS,
    Levels,
    caption,
    outfit_attributes,
    person_attributes,
    skin_tone,
)
from csgn_lib.synthetic.garments import BAGS, COLOURS, HATS, LOWERS, PATTERNS, SHOES, UPPERS, Outfit
from csgn_lib.synthetic.people import HAIR_COLOURS, HAIR_STYLES, Person

STYLE_WORDS = {
    "bald": "a bald head", "buzz cut": "very short hair", "short hair": "short hair", "side parting": "parted hair",
    "bob": "a bob of hair", "long hair": "long hair", "bun": "hair in a bun", "ponytail": "a ponytail",
    "afro": "an afro",
}  # fmt: skip
PATTERN_WORDS = {"block": "two-coloured", "logo": "printed"}
OWN = (
    "stature",
    "legs",
    "arms",
    "head",
    "neck",
    "shoulders",
    "waist",
    "hips",
    "girth",
    "presents_as",
    "older",
    "bearded",
    "skin_tone",
    "hair_style",
    "hair_colour",
)  # attributes of the person; the others describe the clothes
UNSEEN_IN_GRAY = ("skin_tone", "hair_colour", "upper_colour", "lower_colour", "shoes_colour", "bag_colour",
                  "hat_colour")  # fmt: skip


def attribute_prompts() -> dict[str, dict[str, str]]:
    """Sentences for zero-shot classification and pretraining, as {attribute: {value: sentence}}."""

    def all_of(names: Mapping[str, str]) -> dict[str, str]:
        return {name: f"a photo of a person {words}" for name, words in names.items()}

    prompts = {"stature": {word: f"a photo of a {word} person" for word in WORDS["stature"]}}
    for name, words in WORDS.items():
        if name in ("legs", "arms", "head", "neck", "shoulders", "waist", "hips"):
            prompts[name] = all_of({word: f"with {word}" for word in words})
    prompts["girth"] = {word: f"a photo of a {word} person" for word in WORDS["girth"]}
    prompts["presents_as"] = {word: f"a photo of a {word}" for word in ("woman", "man")}
    prompts["older"] = {"0": "a photo of a younger person", "1": "a photo of an older person"}
    prompts["bearded"] = all_of({"0": "with no beard", "1": "with a beard"})
    prompts["skin_tone"] = all_of({tone: f"with {tone} skin" for tone in SKIN_TONES})
    prompts["hair_style"] = all_of({style: f"with {STYLE_WORDS[style]}" for style in HAIR_STYLES})
    prompts["hair_colour"] = all_of({colour: f"with {colour} hair" for colour in HAIR_COLOURS})
    prompts["upper"] = all_of({kind: f"wearing a {kind}" for kind in UPPERS})
    prompts["lower"] = all_of({kind: f"wearing {_one(kind)}" for kind in LOWERS})
    prompts["shoes"] = all_of({kind: f"wearing {kind}" for kind in SHOES})
    for name, kinds in (("bag", BAGS), ("hat", HATS)):
        prompts[name] = all_of({kind: f"with {kind if kind[:3] == 'no ' else 'a ' + kind}" for kind in kinds})
    prompts["pattern"] = all_of({kind: f"wearing a {PATTERN_WORDS.get(kind, kind)} top" for kind in PATTERNS})
    for part, noun in (("upper", "a {} top"), ("lower", "{} bottoms"), ("shoes", "{} shoes"), ("bag", "a {} bag"),
                       ("hat", "a {} hat")):  # fmt: skip
        sentences = {colour: f"wearing {noun.format(colour)}".replace("a orange", "an orange") for colour in COLOURS}
        prompts[f"{part}_colour"] = all_of(sentences)
    return prompts


def _one(kind: str) -> str:
    return f"a {kind}" if kind.endswith("skirt") else kind


def values(person: Person, outfit: Outfit, measures: Mapping[str, float], levels: Levels) -> dict[str, str]:
    """Value of each attribute of ``attribute_prompts``, "none" where no sentence is true.

    Args:
        measures: of the person, from ``attributes.measure``.
        levels: outer fifths of the measures among the training people.
    """
    own = person_attributes(person)
    named = {name: levels.word(name, measures[name]) or "none" for name in WORDS}
    named |= {"skin_tone": skin_tone(person), "bearded": str(int(person.beard > 0.5))}
    named |= {name: str(own[name]) for name in ("presents_as", "older", "hair_style", "hair_colour")}
    return named | {name: str(value) for name, value in outfit_attributes(outfit).items()}


def photo_caption(
    rng: Generator, person: Person, outfit: Outfit, measures: Mapping[str, float], levels: Levels, gray: bool = False
) -> str:
    """Draw a caption for the small CLIP. One in three has "person" instead of "man" or "woman", as the prompts do.

    Args:
        measures: of the person, from ``attributes.measure``.
        levels: outer fifths of the measures among the training people.
        gray: describe a gray picture: "a grayscale photo of ..." without colours of clothes.
    """
    text = caption(rng, person, outfit, measures, levels)
    if gray:
        text = _without_colours(text)
    if rng.random() < 1 / 3:
        text = text.replace(" woman", " person", 1).replace(" man", " person", 1)
    return f"a {'grayscale ' if gray else ''}photo of {text}"


def _without_colours(text: str) -> str:
    """Remove colour words from the clothes after "wearing"; colours of hair and skin are kept."""
    before, wearing, worn = text.partition(" wearing ")
    worn, with_, own = worn.partition(" with ")
    names = "|".join(sorted(COLOURS, key=len, reverse=True))
    worn = re.sub(rf"\ban? (?:{names}) ", "a ", worn)
    worn = re.sub(rf"(?<![\w-])(?:{names}) ", "", worn)
    return before + wearing + worn + with_ + own


def world_words() -> tuple[str, ...]:
    """Vocabulary of the small CLIP: every word of captions and attribute prompts, sorted."""
    texts = [text for prompts in attribute_prompts().values() for text in prompts.values()]
    texts.append("a grayscale photo of a person , with hair in no an and wearing plain . x man woman slim heavy older "
                 "younger one two-coloured")  # fmt: skip
    return tuple(sorted({word for text in texts for word in text.split()}))
