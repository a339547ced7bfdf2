"""A person as coloured polygons: geometry from body measures, garments, view and step.

Lengths are in units of the picture's height; x runs from 0 to 0.5, y downward from 0 to 1. Every
shape knows which part of the person it is, so that a body and garment mask is drawn by the same
strokes as the picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from csgn_lib.synthetic.people import COLOURS, HAIR_COLOURS, SKIN_TONES, Outfit, Person

PARTS = ("background", "skin", "hair", "upper", "lower", "shoes", "bag", "hat", "occluder")
VIEWS = ("front", "back", "left", "right")
RGB = tuple[int, int, int]
FEET = 0.965


@dataclass(frozen=True)
class Pose:
    """How the person stands in one picture. ``step`` in [-1, 1] is the phase of the stride;
    ``dx`` and ``scale`` are the detector's error: a shift and a factor on all lengths."""

    view: str
    step: float
    dx: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Shape:
    """One polygon (N, 2) in picture heights, its part, its colour, and a pattern over it if any."""

    part: str
    points: NDArray[np.float64]
    fill: RGB
    pattern: str = "plain"
    second: RGB = (0, 0, 0)


@dataclass(frozen=True)
class Skeleton:
    """Where things are, from a person's measures; y downward, x from the body's middle."""

    head_size: float
    top: float
    shoulder_y: float
    hip_y: float
    shoulder: float
    hip: float
    limb: float
    spread: float
    width: float


def skeleton(person: Person, pose: Pose) -> Skeleton:
    """Body measures to lengths. Ranges are wide on purpose: a cue of less than two pixels is no cue."""
    stature = 0.64 + 0.30 * person.stature
    head = stature * (0.15 + 0.08 * person.head)
    legs = stature * (0.36 + 0.17 * person.legs)
    width = 0.70 if pose.view in ("left", "right") else 1.0
    build = 0.046 + 0.052 * person.build
    return Skeleton(
        head_size=head,
        top=FEET - stature,
        shoulder_y=FEET - stature + head * 1.06,
        hip_y=FEET - legs,
        shoulder=build * (0.90 + 0.55 * person.shoulders) * width,
        hip=build * (0.70 + 0.55 * person.hips) * width,
        limb=(0.014 + 0.020 * person.limbs) * (0.85 + 0.3 * person.build),
        spread=0.012 + 0.075 * person.stance,
        width=width,
    )


def figure(person: Person, outfit: Outfit, pose: Pose) -> list[Shape]:
    """All shapes of a dressed person, back to front, placed in the picture."""
    body = skeleton(person, pose)
    shapes = [
        *_bag(body, outfit, pose, behind=True),
        *_hair(body, person, pose, behind=True),
        *_legs(body, person, outfit, pose),
        *_torso(body, person, outfit, pose),
        *_arms(body, person, outfit, pose),
        *_head(body, person, pose),
        *_hair(body, person, pose, behind=False),
        *_hat(body, outfit),
        *_bag(body, outfit, pose, behind=False),
    ]
    return [_placed(shape, pose) for shape in shapes]


def _placed(shape: Shape, pose: Pose) -> Shape:
    points = shape.points * pose.scale
    points = points + np.array([0.25 + pose.dx, FEET * (1 - pose.scale)])
    return Shape(shape.part, points, shape.fill, shape.pattern, shape.second)


def _quad(*points: tuple[float, float]) -> NDArray[np.float64]:
    return np.array(points, dtype=np.float64)


_CIRCLE = np.stack([np.cos(np.linspace(0, 2 * np.pi, 20)), np.sin(np.linspace(0, 2 * np.pi, 20))], axis=1)


def _ellipse(x: float, y: float, rx: float, ry: float) -> NDArray[np.float64]:
    return _CIRCLE * (rx, ry) + (x, y)


def _limb(x0: float, y0: float, x1: float, y1: float, r0: float, r1: float) -> NDArray[np.float64]:
    return _quad((x0 - r0, y0), (x0 + r0, y0), (x1 + r1, y1), (x1 - r1, y1))


def _between(a: float, b: float, t: float) -> float:
    return a + (b - a) * t


def _feet(body: Skeleton, pose: Pose) -> tuple[tuple[float, float], tuple[float, float]]:
    """x of hip joint and ankle, left and right. Seen from the side, the stride opens the legs."""
    joint = body.hip * 0.52
    reach = body.spread * (0.35 + 0.65 * abs(pose.step))
    if body.width < 1:
        return (joint * 0.4, reach * 1.5), (-joint * 0.4, -reach * 1.5)
    return (joint, joint + reach), (-joint, -joint - reach)


def _legs(body: Skeleton, person: Person, outfit: Outfit, pose: Pose) -> Iterator[Shape]:
    skin, shoe = SKIN_TONES[person.skin], COLOURS[outfit.shoes_colour]
    dress = outfit.upper == "dress"
    cover = {"trousers": 0.93, "shorts": 0.42, "skirt": 0.5}["skirt" if dress else outfit.lower]
    cloth = COLOURS[outfit.upper_colour if dress else outfit.lower_colour]
    style = (outfit.pattern, COLOURS[outfit.second]) if dress else ("plain", (0, 0, 0))
    part = "upper" if dress else "lower"
    thick = body.limb * 1.5
    knee = _between(body.hip_y, FEET, cover)
    for joint, ankle in _feet(body, pose):
        yield Shape("skin", _limb(joint, body.hip_y, ankle, FEET, thick, body.limb), skin)
        if not dress and outfit.lower != "skirt":
            x = _between(joint, ankle, cover)
            loose = 1.12 if outfit.lower == "trousers" else 1.3
            end = _between(thick, body.limb, cover) * loose
            yield Shape(part, _limb(joint, body.hip_y - 0.01, x, knee, thick * 1.1, end), cloth)
        height = 0.075 if outfit.shoes == "boots" else 0.026
        x = _between(joint, ankle, 1 - height / (FEET - body.hip_y))
        toe = 0.02 if pose.view == "right" else -0.02 if pose.view == "left" else 0.0
        top = (x - body.limb * 1.15, FEET - height), (x + body.limb * 1.15, FEET - height)
        yield Shape("shoes", _quad(*top, (ankle + body.limb * 1.3 + max(toe, 0.004), FEET + 0.012),
                                   (ankle - body.limb * 1.3 + min(toe, -0.004), FEET + 0.012)), shoe)  # fmt: skip
    if dress or outfit.lower == "skirt":
        flare = body.hip * (1.25 + 0.35 * abs(pose.step))
        hem = _quad((-body.hip, body.hip_y - 0.02), (body.hip, body.hip_y - 0.02), (flare, knee), (-flare, knee))
        yield Shape(part, hem, cloth, *style)
    else:
        seat = _quad((-body.hip, body.hip_y - 0.02), (body.hip, body.hip_y - 0.02),
                     (body.hip * 0.95, body.hip_y + 0.03), (-body.hip * 0.95, body.hip_y + 0.03))  # fmt: skip
        yield Shape(part, seat, cloth)


def _torso(body: Skeleton, person: Person, outfit: Outfit, pose: Pose) -> Iterator[Shape]:
    cloth, second = COLOURS[outfit.upper_colour], COLOURS[outfit.second]
    bulk = {"coat": 1.12, "jacket": 1.07, "sweater": 1.06}.get(outfit.upper, 1.0)
    shoulder, hip = body.shoulder * bulk, body.hip * bulk
    waist, middle = min(shoulder, hip) * 0.88, _between(body.shoulder_y, body.hip_y, 0.62)
    neck = body.head_size * 0.16
    yield Shape(
        "skin", _limb(0, body.shoulder_y - 0.03, 0, body.shoulder_y + 0.01, neck, neck), SKIN_TONES[person.skin]
    )
    side = [(shoulder * 0.6, body.shoulder_y - 0.012), (shoulder, body.shoulder_y + 0.018), (waist, middle),
            (hip, body.hip_y + 0.005)]  # fmt: skip
    if outfit.upper == "coat":
        side.append((hip * 1.15, _between(body.hip_y, FEET, 0.42)))
    outline = _quad(*side, *[(-x, y) for x, y in reversed(side)])
    yield Shape("upper", outline, cloth, outfit.pattern, second)
    if outfit.upper in ("jacket", "coat") and pose.view != "back":
        x = {"left": -0.35, "right": 0.35}.get(pose.view, 0.0) * shoulder
        bottom = body.hip_y if outfit.upper == "jacket" else side[-1][1]
        dark = tuple(int(value * 0.45) for value in cloth)
        opening = _limb(x, body.shoulder_y - 0.01, x, bottom, shoulder * 0.12, shoulder * 0.07)
        yield Shape("upper", opening, dark)


def _arms(body: Skeleton, person: Person, outfit: Outfit, pose: Pose) -> Iterator[Shape]:
    skin, cloth, second = SKIN_TONES[person.skin], COLOURS[outfit.upper_colour], COLOURS[outfit.second]
    sleeve = {"tee": 0.42, "dress": 0.3, "vest": 0.0}.get(outfit.upper, 0.94)
    length = (body.hip_y - body.shoulder_y) * 1.12
    swing = 0.25 + 0.5 * person.stance
    sides = ((1.0, pose.step), (-1.0, -pose.step)) if body.width == 1 else ((0.15, pose.step),)
    for side, phase in sides:
        x0, y0 = side * (body.shoulder - body.limb * 0.3), body.shoulder_y + 0.012
        lean = side * 0.16 if body.width == 1 else 0.0
        angle = lean + (0.12 * side * abs(phase) * swing if body.width == 1 else 0.9 * phase * swing)
        x1, y1 = x0 + length * np.sin(angle), y0 + length * np.cos(angle)
        yield Shape("skin", _limb(x0, y0, x1, y1, body.limb * 1.05, body.limb * 0.85), skin)
        if sleeve:
            x2, y2 = _between(x0, x1, sleeve), _between(y0, y1, sleeve)
            arm = _limb(x0, y0 - 0.012, x2, y2, body.limb * 1.2, body.limb * 1.12)
            shade = tuple(int(value * 0.86) for value in cloth)
            yield Shape("upper", arm, shade, outfit.pattern, second)


def _head(body: Skeleton, person: Person, pose: Pose) -> Iterator[Shape]:
    size = body.head_size
    y, rx = body.top + size * 0.52, size * (0.40 if body.width == 1 else 0.38)
    yield Shape("skin", _ellipse(0, y, rx, size * 0.5), SKIN_TONES[person.skin])
    if pose.view == "back":
        return
    dark = tuple(int(value * 0.35) for value in SKIN_TONES[person.skin])
    for x in {"front": (-0.16, 0.16), "left": (-0.22,), "right": (0.22,)}[pose.view]:
        yield Shape("skin", _ellipse(x * size, y, size * 0.06, size * 0.05), dark)
    x = {"front": 0.0, "left": -0.2, "right": 0.2}[pose.view] * size
    yield Shape("skin", _ellipse(x, y + size * 0.26, size * 0.1, size * 0.03), dark)


def _hair(body: Skeleton, person: Person, pose: Pose, behind: bool) -> Iterator[Shape]:
    """Hair hangs behind the face from the front, and over the head from the back."""
    if person.hair_style == "bald":
        return
    fill, size, style = HAIR_COLOURS[person.hair_colour], body.head_size, person.hair_style
    y, back = body.top + size * 0.52, pose.view == "back"
    turned = {"left": 1.0, "right": -1.0}.get(pose.view, 0.0)
    if style == "long" and behind != back:
        top = body.top + size * 0.3
        fall = _quad(
            (-size * 0.48, top), (size * 0.48, top), (size * 0.52, y + size * 1.0), (-size * 0.52, y + size * 1.0)
        )
        yield Shape("hair", fall + (turned * size * 0.14, 0), fill)
    if style == "curly" and behind:
        yield Shape("hair", _ellipse(turned * size * 0.08, y - size * 0.16, size * 0.66, size * 0.56), fill)
    if style == "ponytail" and (behind != back):
        x = turned * size * 0.55
        tail = _limb(x, y - size * 0.25, x * 1.35, y + size * 0.75, size * 0.14, size * 0.08)
        yield Shape("hair", tail if turned or back else tail + (size * 0.42, 0), fill)
    if style == "bun" and behind:
        yield Shape("hair", _ellipse(turned * size * 0.25, body.top - size * 0.06, size * 0.22, size * 0.2), fill)
    if behind:
        return
    if style == "mohawk":
        crest = _quad((-0.12, 0.36), (-0.15, -0.2), (0, -0.3), (0.15, -0.2), (0.12, 0.36 if back else 0.12)) * size
        yield Shape("hair", crest * (2.2 if turned else 1.0, 1) + (0, body.top), fill)
        return
    if back:
        yield Shape("hair", _ellipse(0, y - size * 0.04, size * 0.42, size * 0.48), fill)
        return
    cap = _CIRCLE[(_CIRCLE[:, 1] < -0.25)] * (size * 0.43, size * 0.53) + (0, y)
    yield Shape("hair", cap, fill)
    if turned:
        nape = _quad((0.02, 0.05), (0.42, 0.1), (0.4, 0.75), (0.16, 0.72)) * size * (turned, 1) + (0, body.top)
        yield Shape("hair", nape, fill)


def _hat(body: Skeleton, outfit: Outfit) -> Iterator[Shape]:
    if outfit.hat == "no hat":
        return
    size, fill = body.head_size, COLOURS[outfit.hat_colour]
    crown = _CIRCLE[_CIRCLE[:, 1] < 0.05] * (size * 0.44, size * 0.36) + (0, body.top + size * 0.28)
    brim = size * (0.78 if outfit.hat == "hat" else 0.5)
    yield Shape("hat", crown, fill)
    y = body.top + size * 0.27
    yield Shape("hat", _quad((-brim, y), (brim, y), (brim, y + size * 0.09), (-brim, y + size * 0.09)), fill)


def _bag(body: Skeleton, outfit: Outfit, pose: Pose, behind: bool) -> Iterator[Shape]:
    """A backpack shows from the back and the side; from the front its straps do. A handbag hangs at the hip."""
    if outfit.bag == "no bag":
        return
    fill, y = COLOURS[outfit.bag_colour], body.shoulder_y
    drop = (body.hip_y - y) * 0.8
    if outfit.bag == "handbag":
        if not behind:
            x, top = body.hip * 1.25 + 0.015, body.hip_y - 0.01
            yield Shape(
                "bag", _quad((x - 0.03, top), (x + 0.03, top), (x + 0.036, top + 0.085), (x - 0.036, top + 0.085)), fill
            )
        return
    half = body.shoulder * 0.72
    if pose.view == "back" and not behind:
        yield Shape("bag", _quad((-half, y + 0.02), (half, y + 0.02), (half, y + drop), (-half, y + drop)), fill)
    elif pose.view in ("left", "right") and behind:
        x = body.shoulder * (1.05 if pose.view == "left" else -1.05)
        yield Shape("bag", _quad((x - 0.045, y), (x + 0.045, y), (x + 0.045, y + drop), (x - 0.045, y + drop)), fill)
    elif pose.view == "front" and not behind:
        for x in (-half * 0.75, half * 0.75):
            yield Shape("bag", _limb(x, y - 0.01, x, y + drop * 0.7, body.shoulder * 0.1, body.shoulder * 0.1), fill)
