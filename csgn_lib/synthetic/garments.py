"""Types of garments with their outlines, colours and patterns, and random outfits composed of them.

Outlines are heights and lengths on the template body in metres. Its height z is -0.85 at the soles, -0.76 at the
ankles, -0.40 at the knees, -0.06 at the crotch, 0.15 at the waist and 0.82 at the crown. The arm coordinate is 0 at the
shoulder and 1 at the wrist. A garment's surface lies ``thickness`` to ``thickness + loose`` outside the body.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from numpy.random import Generator

COLOURS = {
    "black": (28, 28, 31), "charcoal": (62, 64, 68), "gray": (128, 130, 134), "light gray": (188, 190, 192),
    "white": (232, 232, 230), "navy": (30, 40, 72), "denim": (62, 88, 128), "light blue": (140, 172, 208),
    "blue": (38, 76, 168), "teal": (30, 110, 116), "olive": (92, 94, 56), "green": (40, 112, 66),
    "khaki": (176, 156, 116), "beige": (212, 196, 166), "brown": (96, 66, 44), "burgundy": (104, 30, 42),
    "red": (186, 38, 40), "orange": (222, 118, 44), "mustard": (204, 162, 58), "pink": (224, 158, 172),
    "purple": (98, 66, 130),
}  # fmt: skip
PATTERNS = ("plain", "striped", "checked", "dotted", "block", "logo")
_PATTERN_SHARES = (0.5, 0.14, 0.12, 0.05, 0.07, 0.12)


@dataclass(frozen=True)
class Upper:
    """A type of upper garment. Lengths in metres on the template body."""

    sleeve: float  # arm coordinate of the cuff; negative: no sleeves
    hem: tuple[float, ...]  # height of the lower edge, one for each available length
    neck: float  # height of the neckline
    thickness: float  # distance from the body at the tightest fit
    loose: float  # additional distance at the loosest fit
    smoothing: int  # iterations of Laplacian smoothing
    slope: float  # largest decrease of the radius per metre downwards
    folds: float  # amplitude of the wrinkles
    relief: float  # strength of the folds in the shading
    share: float  # probability of this type


UPPERS = {
    "t-shirt": Upper(0.42, (-0.03, -0.05), 0.588, 0.012, 0.016, 3, 0.25, 0.003, 0.5, 0.2),
    "shirt": Upper(0.98, (-0.05, -0.08), 0.606, 0.013, 0.014, 4, 0.25, 0.004, 0.7, 0.12),
    "sweater": Upper(1.0, (0.0, -0.02), 0.598, 0.02, 0.014, 5, 0.35, 0.004, 0.6, 0.15),
    "hoodie": Upper(1.01, (-0.01, -0.04), 0.62, 0.026, 0.014, 5, 0.3, 0.005, 0.7, 0.13),
    "jacket": Upper(1.01, (0.0, -0.04), 0.612, 0.028, 0.014, 5, 0.3, 0.005, 0.8, 0.15),
    "coat": Upper(1.02, (-0.22, -0.34, -0.48), 0.615, 0.034, 0.012, 5, 0.2, 0.005, 0.7, 0.1),
    "tank top": Upper(-0.02, (-0.01, -0.03), 0.588, 0.009, 0.008, 2, 0.5, 0.0015, 0.3, 0.04),
    "dress": Upper(0.36, (-0.24, -0.36, -0.56), 0.588, 0.010, 0.006, 2, 0.9, 0.002, 0.45, 0.07),
    "polo shirt": Upper(0.42, (-0.03, -0.05), 0.60, 0.013, 0.012, 3, 0.25, 0.003, 0.5, 0.04),
}
DRESS_SLEEVES = (0.36, 0.98, -0.02)
OPEN_FRONT = ("jacket", "coat")
OUTER = (*OPEN_FRONT, "hoodie")


@dataclass(frozen=True)
class Lower:
    """A type of lower garment. Lengths in metres on the template body."""

    hem: tuple[float, ...]  # height of the lower edge, one for each available length
    thickness: float  # distance from the body at the tightest fit
    loose: float  # additional distance at the loosest fit
    smoothing: int  # iterations of Laplacian smoothing
    folds: float  # amplitude of the wrinkles
    relief: float  # strength of the folds in the shading
    share: float  # probability of this type
    flare: tuple[tuple[float, ...], tuple[float, ...]] = ((1.0,) * 5, (1.0,) * 5)  # factors at FLARE_AT: tight, loose
    legs: bool = True  # False: a skirt


FLARE_AT = (-0.8, -0.55, -0.35, -0.1, 0.13)
LOWERS = {
    "trousers": Lower((-0.785,), 0.013, 0.012, 4, 0.003, 0.7, 0.3, ((2.4, 1.6, 1.1, 1, 0.6), (2.6, 2.1, 1.4, 1, 0.6))),
    "jeans": Lower((-0.78,), 0.008, 0.011, 3, 0.003, 0.75, 0.3, ((1.8, 1.3, 1.0, 1, 0.6), (2.8, 2.2, 1.3, 1, 0.6))),
    "shorts": Lower((-0.24, -0.32, -0.38), 0.018, 0.016, 3, 0.003, 0.7, 0.14, ((1.6, 1.6, 1.6, 1, 0.5),) * 2),
    "skirt": Lower((-0.2, -0.28, -0.36), 0.010, 0.02, 0, 0.02, 0.35, 0.1, legs=False),
    "leggings": Lower((-0.735,), 0.004, 0.001, 0, 0.0, 0.15, 0.1),
    "long skirt": Lower((-0.5, -0.62), 0.010, 0.02, 0, 0.02, 0.35, 0.06, legs=False),
}
SHOES = {"sneakers": (-0.755, 0.012), "shoes": (-0.765, 0.009), "boots": (-0.60, 0.014)}  # top edge, thickness
BAGS = ("no bag", "backpack", "shoulder bag", "handbag")
HATS = ("no hat", "cap", "beanie")
_NEUTRAL = ("black", "charcoal", "navy", "gray", "khaki", "beige", "olive", "brown", "white")
_JEANS = ("denim", "denim", "navy", "black", "light blue", "gray")
_SHOE_COLOURS = ("black", "white", "brown", "gray", "navy", "red", "white", "black")
_BAG_COLOURS = ("black", "brown", "gray", "navy", "olive", "burgundy", "red")
_INNER = ("white", "gray", "black", "light blue", "beige")
COLOUR_FIELDS = ("upper_colour", "second", "inner", "lower_colour", "shoes_colour", "bag_colour", "hat_colour")


@dataclass(frozen=True)
class Outfit:
    """An outfit. ``second`` is the second colour of the pattern, ``inner`` the colour under an open jacket or coat."""

    upper: str
    upper_colour: str
    pattern: str
    second: str
    inner: str
    open: bool
    upper_loose: float  # 0 tight, 1 loose
    lower: str  # "none" with a dress
    lower_colour: str
    lower_loose: float  # 0 tight, 1 loose
    shoes: str
    shoes_colour: str
    bag: str
    bag_colour: str
    hat: str
    hat_colour: str
    seed: int  # of lengths, folds and the scale of the pattern

    def option(self, options: tuple[float, ...], salt: int = 1) -> float:
        """Select one of several lengths by the outfit's seed."""
        return options[(self.seed // salt) % len(options)]

    @property
    def upper_hem(self) -> float:
        """Height of the upper garment's lower edge on the template, in metres; raised over skirts."""
        hem = self.option(UPPERS[self.upper].hem)
        return max(hem, 0.03) if self.lower in ("skirt", "long skirt") and self.upper != "coat" else hem

    @property
    def sleeve(self) -> float:
        """Arm coordinate of the cuff; negative without sleeves."""
        return self.option(DRESS_SLEEVES, 3) if self.upper == "dress" else UPPERS[self.upper].sleeve

    @property
    def lower_hem(self) -> float:
        """Height of the lower garment's lower edge on the template, in metres."""
        return self.option(LOWERS[self.lower].hem, 5)

    @property
    def longest_skirt(self) -> float:
        """Length of a skirt, dress or coat below the crotch in metres, at least 0; it shortens the steps."""
        hems = [self.upper_hem] + ([self.lower_hem] if self.lower in ("skirt", "long skirt") else [])
        return max(0.0, -0.06 - min(hems))

    def recoloured(self, rng: Generator) -> Outfit:
        """Return the same garments with every colour replaced, each independently, by another one."""
        return replace(self, **{name: _other(rng, getattr(self, name)) for name in COLOUR_FIELDS})


def _other(rng: Generator, colour: str) -> str:
    return str(rng.choice([name for name in COLOURS if name != colour]))


def draw_outfit(rng: Generator) -> Outfit:
    """Draw an outfit, independent of the person who wears it."""

    def pick(names: tuple[str, ...]) -> str:
        return str(rng.choice(list(names)))

    upper = str(rng.choice(list(UPPERS), p=[kind.share for kind in UPPERS.values()]))
    lower = str(rng.choice(list(LOWERS), p=[kind.share for kind in LOWERS.values()]))
    lower_colour = pick(_JEANS) if lower == "jeans" else pick(_NEUTRAL if rng.random() < 0.75 else tuple(COLOURS))
    upper_colour = pick(tuple(COLOURS))
    return Outfit(
        upper=upper, upper_colour=upper_colour, pattern=str(rng.choice(PATTERNS, p=_PATTERN_SHARES)),
        second=_other(rng, upper_colour), inner=pick(_INNER), open=bool(rng.random() < 0.6),
        upper_loose=float(rng.uniform()), lower="none" if upper == "dress" else lower, lower_colour=lower_colour,
        lower_loose=float(rng.uniform()), shoes=pick(tuple(SHOES)), shoes_colour=pick(_SHOE_COLOURS),
        bag=str(rng.choice(BAGS, p=(0.5, 0.22, 0.15, 0.13))), bag_colour=pick(_BAG_COLOURS),
        hat=str(rng.choice(HATS, p=(0.84, 0.09, 0.07))), hat_colour=pick(tuple(COLOURS)),
        seed=int(rng.integers(1 << 30)),
    )  # fmt: skip
