"""Who is drawn and what they wear: attributes, how they vary, and the words for them.

Identity and clothes are drawn independently of each other, so nothing in the world ties a person to
an outfit. Body measures are continuous, uniform in [0, 1]; words name only their levels, as language
does. Every draw is a pure function of its seed.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from numpy.random import Generator

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 39, 40), "orange": (247, 135, 30), "yellow": (240, 215, 60), "green": (44, 140, 60),
    "cyan": (60, 195, 205), "blue": (45, 85, 200), "purple": (125, 65, 165), "pink": (240, 140, 190),
    "brown": (125, 80, 45), "black": (32, 32, 36), "white": (238, 238, 234), "gray": (135, 135, 140),
}  # fmt: skip
HAIR_COLOURS = {
    "black": (28, 24, 22), "brown": (105, 65, 35), "blond": (225, 190, 105),
    "red": (175, 70, 30), "gray": (150, 150, 150), "white": (232, 232, 230),
}  # fmt: skip
SKIN_TONES = {
    "pale": (250, 222, 200), "light": (232, 190, 155), "tan": (200, 150, 105),
    "brown": (145, 95, 60), "dark": (85, 55, 38),
}  # fmt: skip
HAIR_STYLES = ("bald", "short", "long", "curly", "ponytail", "bun", "mohawk")
UPPERS = ("tee", "shirt", "sweater", "jacket", "coat", "vest", "dress")
LOWERS = ("trousers", "shorts", "skirt")
PATTERNS = ("plain", "striped", "checked", "dotted")
BAGS = ("no bag", "backpack", "handbag")
HATS = ("no hat", "cap", "hat")
SHOES = ("shoes", "boots")

# A body measure's words, from its lowest level to its highest; None: the middle goes unsaid.
BODY: dict[str, tuple[str | None, ...]] = {
    "stature": ("very short", "short", "tall", "very tall"),
    "build": ("slim", "medium build", "heavy"),
    "shoulders": ("narrow shoulders", None, "wide shoulders"),
    "hips": ("narrow hips", None, "wide hips"),
    "legs": ("short legs", None, "long legs"),
    "limbs": ("thin limbs", None, "thick limbs"),
    "head": ("small head", None, "large head"),
    "stance": ("narrow stance", None, "wide stance"),
}
BODY_MEASURES = tuple(BODY)


@dataclass(frozen=True)
class Person:
    """What stays when clothes change. Measures are quantiles in [0, 1]; colours and style are names."""

    stature: float
    build: float
    shoulders: float
    hips: float
    legs: float
    limbs: float
    head: float
    stance: float
    hair_style: str
    hair_colour: str
    skin: str


@dataclass(frozen=True)
class Outfit:
    """What changes. ``second`` is the pattern's other colour, at a quarter of the area, so that the
    garment's colour stays unambiguous. A dress has no lower garment of its own."""

    upper: str
    upper_colour: str
    pattern: str
    second: str
    lower: str
    lower_colour: str
    shoes: str
    shoes_colour: str
    bag: str
    bag_colour: str
    hat: str
    hat_colour: str


def draw_person(rng: Generator, colour_identity: float = 1.0) -> Person:
    """One person. ``colour_identity`` in [0, 1] is the chance that hair colour and skin are the person's
    own; otherwise they are brown and light, as for everyone, and only shape tells people apart."""
    measures = {name: float(rng.random()) for name in BODY_MEASURES}
    style = str(rng.choice(HAIR_STYLES))
    hair, skin = str(rng.choice(list(HAIR_COLOURS))), str(rng.choice(list(SKIN_TONES)))
    own = rng.random() < colour_identity
    return Person(**measures, hair_style=style, hair_colour=hair if own else "brown", skin=skin if own else "light")


def draw_outfit(rng: Generator) -> Outfit:
    """One outfit, all parts independent."""
    names = list(COLOURS)
    upper_colour, second = (str(name) for name in rng.choice(names, 2, replace=False))
    colours = [str(name) for name in rng.choice(names, 4)]
    return Outfit(
        upper=str(rng.choice(UPPERS)),
        upper_colour=upper_colour,
        pattern=str(rng.choice(PATTERNS, p=(0.4, 0.2, 0.2, 0.2))),
        second=second,
        lower=str(rng.choice(LOWERS)),
        lower_colour=colours[0],
        shoes=str(rng.choice(SHOES)),
        shoes_colour=colours[1],
        bag=str(rng.choice(BAGS, p=(0.5, 0.25, 0.25))),
        bag_colour=colours[2],
        hat=str(rng.choice(HATS, p=(0.8, 0.1, 0.1))),
        hat_colour=colours[3],
    )


def recoloured(outfit: Outfit, rng: Generator) -> Outfit:
    """The same garments in other colours: every colour differs from the one it had."""
    changes: dict[str, str] = {}
    for part in ("upper_colour", "lower_colour", "shoes_colour", "bag_colour", "hat_colour", "second"):
        taken = {getattr(outfit, part), changes.get("upper_colour") if part == "second" else None}
        changes[part] = str(rng.choice([name for name in COLOURS if name not in taken]))
    return replace(outfit, **changes)


def level(person: Person, measure: str) -> int:
    """Which of the measure's levels the person falls in; levels are equally likely."""
    levels = len(BODY[measure])
    return min(int(getattr(person, measure) * levels), levels - 1)


def attributes(person: Person, outfit: Outfit) -> dict[str, str]:
    """The truth about one image, as a row of attributes.csv: levels for the body, names for the rest."""
    body = {name: str(level(person, name)) for name in BODY_MEASURES}
    hair = "none" if person.hair_style == "bald" else person.hair_colour
    own = body | {"hair_style": person.hair_style, "hair_colour": hair, "skin": person.skin}
    worn = asdict(outfit) | {"second": "none" if outfit.pattern == "plain" else outfit.second}
    for part in ("bag", "hat"):
        if worn[part].startswith("no "):
            worn[f"{part}_colour"] = "none"
    if outfit.upper == "dress":
        worn |= {"lower": "none", "lower_colour": "none"}
    return own | worn


def person_phrases(person: Person) -> list[str]:
    """What can be said of the person without naming a garment; each phrase follows "with"."""
    said = [BODY[name][level(person, name)] for name in BODY_MEASURES if name not in ("stature", "build")]
    hair = f"{person.hair_style} {person.hair_colour} hair"
    if person.hair_style == "bald":
        hair = "a bald head"
    elif person.hair_style in ("ponytail", "bun", "mohawk"):
        hair = f"{person.hair_colour} hair in a {person.hair_style}"
    return [*(words for words in said if words), hair, f"{person.skin} skin"]


def noun(person: Person) -> str:
    """Stature and build, as adjectives before the noun."""
    build = BODY["build"][level(person, "build")]
    stature = BODY["stature"][level(person, "stature")]
    return f"{stature} person of medium build" if build == "medium build" else f"{stature} {build} person"


def outfit_phrases(outfit: Outfit, colour: bool = True) -> list[str]:
    """What can be said of the clothes; without colour words if ``colour`` is false."""

    def piece(name: str, tint: str, pattern: str = "") -> str:
        return _piece(name, tint if colour else "", pattern)

    pieces = [piece(outfit.upper, outfit.upper_colour, "" if outfit.pattern == "plain" else outfit.pattern)]
    if outfit.upper != "dress":
        pieces.append(piece(outfit.lower, outfit.lower_colour))
    pieces.append(piece(outfit.shoes, outfit.shoes_colour))
    if outfit.bag != "no bag":
        pieces.append(piece(outfit.bag, outfit.bag_colour))
    if outfit.hat != "no hat":
        pieces.append(piece(outfit.hat, outfit.hat_colour))
    return pieces


def _piece(name: str, colour: str = "", pattern: str = "") -> str:
    said = " ".join(word for word in (colour, pattern, name) if word)
    if name in ("trousers", "shorts", "shoes", "boots"):
        return said
    return f"an {said}" if said[0] in "aeiou" else f"a {said}"


def caption(person: Person, outfit: Outfit, rng: Generator, gray: bool = False) -> str:
    """A sentence that says a random part of the truth, in random order, person or clothes first.

    Each phrase is left out with probability 0.3: a text that always said everything would be a code,
    not language, and would be memorised.
    """
    own = [words for words in person_phrases(person) if rng.random() > 0.3]
    worn = [words for words in outfit_phrases(outfit, colour=not gray) if rng.random() > 0.3]
    rng.shuffle(own)
    rng.shuffle(worn)
    who = noun(person) if rng.random() > 0.3 else "person"
    clothes = " wearing " + _join(worn) if worn else ""
    body = " with " + _join(own) if own else ""
    kind = "a grayscale photo of a" if gray else "a photo of a"
    stop = "." if rng.random() < 0.5 else ""
    return f"{kind} {who}{body}{clothes}{stop}" if rng.random() < 0.5 else f"{kind} {who}{clothes}{body}{stop}"


def _join(phrases: list[str]) -> str:
    return phrases[0] if len(phrases) == 1 else ", ".join(phrases[:-1]) + " and " + phrases[-1]


def attribute_prompts() -> dict[str, dict[str, str]]:
    """Per attribute, one sentence per value: how zero-shot classification asks, and pretraining teaches.

    Keys are columns of attributes.csv, or two of them joined by ``*``, with values joined alike.
    """
    prompts: dict[str, dict[str, str]] = {}
    for name, words in BODY.items():
        said = {str(i): word for i, word in enumerate(words) if word}
        if name in ("stature", "build"):
            prompts[name] = {k: f"a photo of a {w} person" for k, w in said.items()}
        else:
            prompts[name] = {k: f"a photo of a person with {w}" for k, w in said.items()}
    prompts["build"]["1"] = "a photo of a person of medium build"
    styles = {style: f"{style} hair" for style in HAIR_STYLES} | {"bald": "a bald head"}
    styles |= {style: f"hair in a {style}" for style in ("ponytail", "bun", "mohawk")}
    prompts["hair_style"] = {style: f"a photo of a person with {words}" for style, words in styles.items()}
    prompts["hair_colour"] = {c: f"a photo of a person with {c} hair" for c in HAIR_COLOURS}
    prompts["skin"] = {tone: f"a photo of a person with {tone} skin" for tone in SKIN_TONES}
    for part, kinds in (("upper", UPPERS), ("lower", LOWERS), ("shoes", SHOES), ("bag", BAGS[1:]), ("hat", HATS[1:])):
        prompts[f"{part}*{part}_colour"] = {
            f"{kind}*{colour}": f"a photo of a person wearing {_piece(kind, colour)}"
            for kind in kinds
            for colour in COLOURS
        }
    prompts["upper*pattern"] = {
        f"{kind}*{pattern}": f"a photo of a person wearing {_piece(kind, '', pattern)}"
        for kind in UPPERS
        for pattern in PATTERNS[1:]
    }
    for part, kinds in (("bag", BAGS), ("hat", HATS)):
        prompts[part] = {
            kind: f"a photo of a person with {kind if kind[:3] == 'no ' else 'a ' + kind}" for kind in kinds
        }
    return prompts


def world_words() -> tuple[str, ...]:
    """Every word of captions and attribute prompts, sorted: what the small CLIP gets to read."""
    texts = [text for prompts in attribute_prompts().values() for text in prompts.values()]
    texts.append("a grayscale photo of a person , with hair in no an and wearing plain . x")
    return tuple(sorted({word for text in texts for word in text.split()}))
