"""What people wear: kinds of garments with their outlines, colours and patterns, and outfits drawn from them.

Outlines are heights and lengths on the template body in metres (z from -0.85 at the soles to 0.82 at the crown; the
waist is at 0.15, the crotch at -0.06, the knees at -0.40, the ankles at -0.76). An arm's coordinate runs from 0 at the
shoulder to 1 at the wrist. A garment's surface lies ``thickness`` to ``thickness + loose`` outside the body.
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
    """An upper garment. ``hem``: lowest height, several for several lengths. ``slope``: how fast it may narrow
    downwards.
    """

    sleeve: float
    hem: tuple[float, ...]
    neck: float
    thickness: float
    loose: float
    smoothing: int
    slope: float
    folds: float  # amplitude of wrinkles, metres
    relief: float  # of the shading
    share: float  # of outfits


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
    """A lower garment. ``flare``: factors on the thickness at heights FLARE_AT, tight then loose."""

    hem: tuple[float, ...]
    thickness: float
    loose: float
    smoothing: int
    folds: float
    relief: float
    share: float
    flare: tuple[tuple[float, ...], tuple[float, ...]] = ((1.0,) * 5, (1.0,) * 5)
    legs: bool = True


FLARE_AT = (-0.8, -0.55, -0.35, -0.1, 0.13)
LOWERS = {
    "trousers": Lower((-0.785,), 0.013, 0.012, 4, 0.003, 0.7, 0.3, ((2.4, 1.6, 1.1, 1, 0.6), (2.6, 2.1, 1.4, 1, 0.6))),
    "jeans": Lower((-0.78,), 0.008, 0.011, 3, 0.003, 0.75, 0.3, ((1.8, 1.3, 1.0, 1, 0.6), (2.8, 2.2, 1.3, 1, 0.6))),
    "shorts": Lower((-0.24, -0.32, -0.38), 0.018, 0.016, 3, 0.003, 0.7, 0.14, ((1.6, 1.6, 1.6, 1, 0.5),) * 2),
    "skirt": Lower((-0.2, -0.28, -0.36), 0.010, 0.02, 0, 0.02, 0.35, 0.1, legs=False),
    "leggings": Lower((-0.735,), 0.004, 0.001, 0, 0.0, 0.15, 0.1),
    "long skirt": Lower((-0.5, -0.62), 0.010, 0.02, 0, 0.02, 0.35, 0.06, legs=False),
}
SHOES = {"sneakers": (-0.755, 0.012), "shoes": (-0.765, 0.009), "boots": (-0.60, 0.014)}  # top, thickness
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
    """What changes. ``second`` is the pattern's other colour, ``inner`` what shows under an open jacket or coat."""

    upper: str
    upper_colour: str
    pattern: str
    second: str
    inner: str
    open: bool
    upper_loose: float  # 0 close, 1 loose
    lower: str  # "none" under a dress
    lower_colour: str
    lower_loose: float
    shoes: str
    shoes_colour: str
    bag: str
    bag_colour: str
    hat: str
    hat_colour: str
    seed: int  # lengths, folds and the pattern's scale

    def option(self, options: tuple[float, ...], salt: int = 1) -> float:
        """One of several lengths, always the same for this outfit."""
        return options[(self.seed // salt) % len(options)]

    @property
    def upper_hem(self) -> float:
        """The lowest height of the upper garment on the template, in metres; higher over a skirt."""
        hem = self.option(UPPERS[self.upper].hem)
        return max(hem, 0.03) if self.lower in ("skirt", "long skirt") and self.upper != "coat" else hem

    @property
    def sleeve(self) -> float:
        return self.option(DRESS_SLEEVES, 3) if self.upper == "dress" else UPPERS[self.upper].sleeve

    @property
    def lower_hem(self) -> float:
        return self.option(LOWERS[self.lower].hem, 5)

    @property
    def longest_skirt(self) -> float:
        """How far below the crotch a skirt, dress or coat reaches, in metres: long ones shorten the steps."""
        hems = [self.upper_hem] + ([self.lower_hem] if self.lower in ("skirt", "long skirt") else [])
        return max(0.0, -0.06 - min(hems))

    def recoloured(self, rng: Generator) -> Outfit:
        """The same garments with every colour another one, and none that two garments shared before kept."""
        return replace(self, **{name: _other(rng, getattr(self, name)) for name in COLOUR_FIELDS})


def _other(rng: Generator, colour: str) -> str:
    return str(rng.choice([name for name in COLOURS if name != colour]))


def draw_outfit(rng: Generator) -> Outfit:
    """Draw an outfit, independent of who wears it."""

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
