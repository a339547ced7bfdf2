"""How hard a world is: three settings, each a set of ranges for cameras, moments and people."""

from __future__ import annotations

from dataclasses import dataclass, replace

from csgn_lib.records import InputError
from csgn_lib.synthetic.rendered.cameras import PLACES, CameraRanges


@dataclass(frozen=True)
class Setting:
    """Ranges are (low, high). Lengths in metres, angles in degrees.

    Knobs that a study may turn, with the defaults of ``middle``:

    - ``colour_identity`` 1.0: share of people whose hair and skin colour are their own; the others share one colour;
    - ``spread`` 1.0: factor on the standard deviations of shape and face; ``stature_sd`` 0.07;
    - ``sharing`` 4.0: people who wear the same outfit, on average (the wardrobe holds people x outfits / sharing);
    - ``size`` 128: height of a picture in pixels; its width is half of it.
    """

    name: str
    cameras: int
    ranges: CameraRanges
    places: tuple[str, ...]
    distance: tuple[float, float]  # factor on the camera's
    aside: float  # farthest from the middle
    any_heading: bool  # else front, left, back and right, up to 25 degrees off
    head_turn: float
    crop: float  # height of the picture at the person's depth; 0: from the person's stature, as a detector crops
    crop_jitter: float  # share of the crop
    exposure: float  # largest relative change from picture to picture
    occluded: float  # share of pictures with something before the person
    colour_identity: float = 1.0
    spread: float = 1.0
    stature_sd: float = 0.07
    sharing: float = 4.0
    size: int = 128


_MILD = CameraRanges(height=(1.5, 2.3), focal=(900, 1200), sun=(0.7, 1.3), ambient=(0.68, 0.85), tint=0.4,
                     contrast=(0.98, 1.06), saturation=(0.94, 1.02), noise=(0.003, 0.007), blur=(0.35, 0.55),
                     clutter=(1, 3), softness=0.7)  # fmt: skip
_STRONG = CameraRanges(height=(1.6, 4.4), focal=(620, 1250), sun=(1.2, 2.5), ambient=(0.4, 0.62), tint=1.0,
                       contrast=(0.92, 1.12), saturation=(0.8, 1.05), noise=(0.004, 0.014), blur=(0.35, 0.9),
                       clutter=(2, 6), softness=0.0)  # fmt: skip
MIDDLE = Setting("middle", 4, _MILD, PLACES, (0.92, 1.08), 1.2, True, 12.0, 2.6, 0.01, 0.04, 0.0)
SETTINGS = {
    "middle": MIDDLE,
    "calm": replace(MIDDLE, name="calm", any_heading=False, spread=1.5, stature_sd=0.105),
    "street": Setting("street", 8, _STRONG, PLACES, (0.82, 1.25), 2.0, True, 25.0, 0.0, 0.008, 0.1, 0.25),
}


def setting_named(name: str) -> Setting:
    """Raises InputError, naming those there are."""
    if name not in SETTINGS:
        raise InputError(f"unknown setting {name!r}; one of {', '.join(SETTINGS)}")
    return SETTINGS[name]
