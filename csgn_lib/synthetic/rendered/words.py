"""The words of the rendered world: sentences for values of attributes, and captions as the small CLIP reads them.

Sentences name only what pictures show. A measure is named in its outer fifths; in between no sentence is true of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from numpy.random import Generator

from csgn_lib.synthetic.rendered.attributes import WORDS, Levels, caption, outfit_attributes, person_attributes
from csgn_lib.synthetic.rendered.garments import BAGS, COLOURS, HATS, LOWERS, PATTERNS, SHOES, UPPERS, Outfit
from csgn_lib.synthetic.rendered.people import HAIR_COLOURS, HAIR_STYLES, Person

STYLE_WORDS = {
    "bald": "a bald head", "buzz cut": "very short hair", "short hair": "short hair", "side parting": "parted hair",
    "bob": "a bob of hair", "long hair": "long hair", "bun": "hair in a bun", "ponytail": "a ponytail",
    "afro": "an afro",
}  # fmt: skip
PATTERN_WORDS = {"block": "two-coloured", "logo": "printed"}
UNSEEN_IN_GRAY = ("skin_tone", "hair_colour", "upper_colour", "lower_colour", "shoes_colour", "bag_colour",
                  "hat_colour")  # fmt: skip


def attribute_prompts() -> dict[str, dict[str, str]]:
    """Per attribute, one sentence per value: how zero-shot classification asks, and pretraining teaches."""

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
    prompts["skin_tone"] = all_of({tone: f"with {tone} skin" for tone in ("pale", "light", "tan", "brown", "dark")})
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
    """The value of each attribute that ``attribute_prompts`` asks for; "none" where no sentence is true."""
    own = person_attributes(person)
    named = {name: levels.word(name, measures[name]) or "none" for name in WORDS}
    named |= {"skin_tone": skin_tone(person), "bearded": str(int(person.beard > 0.5))}
    named |= {name: str(own[name]) for name in ("presents_as", "older", "hair_style", "hair_colour")}
    return named | {name: str(value) for name, value in outfit_attributes(outfit).items()}


def skin_tone(person: Person) -> str:
    """Its name, one of five."""
    tones = ("pale", "light", "tan", "brown", "dark")
    return tones[min(int(person.skin * len(tones)), len(tones) - 1)]


def photo_caption(
    rng: Generator, person: Person, outfit: Outfit, measures: Mapping[str, float], levels: Levels, gray: bool = False
) -> str:
    """A caption as the small CLIP reads it: "a photo of ..." or, without the clothes' colours, "a grayscale photo of
    ...". Every third one says "person" instead of "man" or "woman", as prompts do."""
    said = caption(rng, person, outfit, measures, levels)
    if gray:
        said = _without_colours(said)
    if rng.random() < 1 / 3:
        said = said.replace(" woman", " person", 1).replace(" man", " person", 1)
    return f"a {'grayscale ' if gray else ''}photo of {said}"


def _without_colours(said: str) -> str:
    """Drop colour words that follow "wearing" up to the end of what is worn; hair and skin keep theirs."""
    before, wearing, worn = said.partition(" wearing ")
    worn, with_, own = worn.partition(" with ")
    names = "|".join(sorted(COLOURS, key=len, reverse=True))
    worn = re.sub(rf"\ban? (?:{names}) ", "a ", worn)
    worn = re.sub(rf"(?<![\w-])(?:{names}) ", "", worn)
    return before + wearing + worn + with_ + own


def world_words() -> tuple[str, ...]:
    """Every word of captions and attribute prompts, sorted: what the small CLIP gets to read."""
    texts = [text for prompts in attribute_prompts().values() for text in prompts.values()]
    texts.append("a grayscale photo of a person , with hair in no an and wearing plain . x man woman slim heavy older "
                 "younger one two-coloured")  # fmt: skip
    return tuple(sorted({word for text in texts for word in text.split()}))
