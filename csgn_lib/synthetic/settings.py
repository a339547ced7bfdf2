"""Settings of different difficulty: ranges for cameras, moments and people."""

from __future__ import annotations

from dataclasses import dataclass, replace

from csgn_lib.records import InputError
from csgn_lib.synthetic.cameras import PLACES, CameraRanges


@dataclass(frozen=True)
class Setting:
    """A setting of the embedded benchmark. Ranges are (low, high), lengths in metres, angles in degrees.

    ``World`` can override ``spread`` and ``sharing``, and has its own ``colour_identity`` and ``size``.
    """

    name: str
    cameras: int  # number of cameras
    ranges: CameraRanges
    places: tuple[str, ...]  # kinds of places
    distance: tuple[float, float]  # factor on the distance between the camera and the walking line
    aside: float  # largest distance from the middle of the frame
    any_heading: bool  # False: front, left, back or right, within 25 degrees
    head_turn: float  # largest angle
    crop: float  # height of the picture at the person's depth; 0: relative to stature, like the crop of a detector
    crop_jitter: float  # largest change, as a share of the crop
    exposure: float  # largest relative change between pictures
    occluded: float  # share of pictures with an occluder
    colour_identity: float = 1.0  # share of people with their own hair and skin colour
    spread: float = 1.0  # factor on the standard deviations of shape and face
    stature_sd: float = 0.07  # standard deviation of stature
    sharing: float = 4.0  # people per outfit on average: a wardrobe has people x outfits / sharing outfits


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
    """Return the setting with a name.

    Raises:
        InputError: there is no such setting; the message lists the settings.
    """
    if name not in SETTINGS:
        raise InputError(f"unknown setting {name!r}; one of {', '.join(SETTINGS)}")
    return SETTINGS[name]
