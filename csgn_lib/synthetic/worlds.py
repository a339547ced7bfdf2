"""A world: people, outfits and cameras of one draw of the benchmark, as a list of scenes with file names and labels.

Training, validation and test people are disjoint, and so are their wardrobes; cameras are shared. Several people wear
each outfit of a wardrobe, so that clothes are a misleading cue for identity. Every draw is a pure function of the
world's seed and the number of the person, split, camera or picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from csgn_lib.records import InputError
from csgn_lib.synthetic.cameras import Camera, draw_camera
from csgn_lib.synthetic.garments import Outfit, draw_outfit
from csgn_lib.synthetic.people import Person, draw_person
from csgn_lib.synthetic.scenes import Scene, draw_moment
from csgn_lib.synthetic.settings import setting_named

FORMAT = 2  # of the files: increase it when a code change alters any pixel or the columns of a table
SPLITS = ("train", "validation", "test")
SHARES = (0.6, 0.15, 0.25)  # of the people in each split
FEWEST = 6  # people: with fewer, a split could be empty
LARGEST = (10_000, 1024, 100)  # people, height of a picture in pixels, images


@dataclass(frozen=True)
class World:
    """Parameters of one draw of the embedded benchmark.

    Args:
        people: number of people in training, validation and test together.
        setting: name in ``settings.SETTINGS``.
        seed: of the people, outfits, cameras and pictures.
        size: height of a picture in pixels, even; the width is half of it.
        images: pictures per person, outfit and camera.
        outfits: outfits per person.
        cameras_each: cameras per person and outfit.
        colour_identity: share of people with their own hair and skin colour; the others have the same colours.
        spread: factor on the standard deviations of shape and face; None: the setting's.
        sharing: mean number of people who wear the same outfit; None: the setting's.
        extras: whether to write masks, counterfactual pairs and a datasheet.
    """

    people: int = 400
    setting: str = "middle"
    seed: int = 0
    size: int = 96
    images: int = 2
    outfits: int = 4
    cameras_each: int = 2
    colour_identity: float = 1.0
    spread: float | None = None
    sharing: float | None = None
    extras: bool = False

    def checked(self) -> World:
        """Validate the parameters and return this world.

        Raises:
            InputError: a parameter is out of range; the message names it and its range.
        """
        setting = setting_named(self.setting)
        ranges = {
            "people": (FEWEST, LARGEST[0]),
            "size": (32, LARGEST[1]),
            "images": (2, LARGEST[2]),
            "seed": (0, 10**6 - 1),
            "outfits": (1, 100),
            "cameras_each": (1, setting.cameras),
            "colour_identity": (0, 1),
        }
        for name, (low, high) in ranges.items():
            if not low <= getattr(self, name) <= high:
                raise InputError(f"{name} {getattr(self, name)}: a world has from {low} to {high}")
        if self.size % 2:
            raise InputError(f"size {self.size}: the height of a picture is an even number; its width is half of it")
        for name in ("spread", "sharing"):
            value = getattr(self, name)
            if value is not None and not 0 < value <= 20:
                raise InputError(f"{name} {value}: a number above 0, at most 20")
        return self

    def counts(self) -> tuple[int, int, int]:
        """Numbers of training, validation and test people."""
        test, validation = (max(1, round(self.people * share)) for share in (SHARES[2], SHARES[1]))
        return self.people - test - validation, validation, test

    def description(self) -> dict[str, object]:
        """Parameters and format, which determine every byte of the files up to library versions."""
        return asdict(self) | {"format": FORMAT}


@dataclass(frozen=True)
class Entry:
    """A picture of a world: path relative to the world's folder, labels and scene."""

    path: str
    split: str
    person: int
    outfit: int  # from 1, per person
    wardrobe: int  # index of the outfit in the split's wardrobe
    scene: Scene

    @property
    def camera(self) -> int:
        """Number of the camera, from 1."""
        return self.scene.camera.number + 1


def entries(world: World, split: str | None = None) -> list[Entry]:
    """List the pictures of a world, person by person.

    Args:
        split: one of SPLITS; None for all.

    Raises:
        InputError: a parameter of the world is out of range.
    """
    cameras, wardrobes = cameras_of(world.checked()), [wardrobe_of(world, s) for s in range(len(SPLITS))]
    people = [n for n in range(world.people) if split in (None, SPLITS[split_of(world, n)])]
    return [entry for n in people for entry in entries_of(world, n, wardrobes[split_of(world, n)], cameras)]


def cameras_of(world: World) -> list[Camera]:
    """Draw the cameras of a world. A kind of place is repeated only if there are more cameras than kinds."""
    setting = setting_named(world.setting)
    order = np.random.default_rng((world.seed, 10)).permutation(len(setting.places))
    places = [setting.places[order[k % len(order)]] for k in range(setting.cameras)]
    return [
        draw_camera(np.random.default_rng((world.seed, 9, k)), k, place, setting.ranges)
        for k, place in enumerate(places)
    ]


def person_of(world: World, number: int) -> Person:
    """Draw a person, determined by the world's parameters and the person's number.

    Raises:
        InputError: the world's setting is unknown.
    """
    setting = setting_named(world.setting)
    spread = setting.spread if world.spread is None else world.spread
    rng = np.random.default_rng((world.seed, 7, number))
    return draw_person(rng, spread, setting.stature_sd, world.colour_identity)


def split_of(world: World, number: int) -> int:
    """Index into SPLITS of the split to which a person belongs."""
    train, validation, _ = world.counts()
    return 0 if number < train else 1 if number < train + validation else 2


def wardrobe_of(world: World, split: int) -> list[Outfit]:
    """Draw the outfits worn by the people of a split, given as an index into SPLITS."""
    sharing = setting_named(world.setting).sharing if world.sharing is None else world.sharing
    size = max(world.outfits, round(world.counts()[split] * world.outfits / sharing))
    rng = np.random.default_rng((world.seed, 8, split))
    return [draw_outfit(rng) for _ in range(size)]


def entries_of(world: World, number: int, wardrobe: Sequence[Outfit], cameras: Sequence[Camera]) -> list[Entry]:
    """List the pictures of one person.

    Args:
        number: of the person; frame numbers are consecutive over the whole world.
        wardrobe: outfits of the person's split.
        cameras: of the world.
    """
    setting, split = setting_named(world.setting), split_of(world, number)
    person = person_of(world, number)
    rng = np.random.default_rng((world.seed, 6, number))
    per_person = world.outfits * world.cameras_each * world.images
    entries: list[Entry] = []
    for worn, place in enumerate(rng.choice(len(wardrobe), world.outfits, replace=False), start=1):
        for camera in sorted(int(c) for c in rng.choice(len(cameras), world.cameras_each, replace=False)):
            for image in range(world.images):
                frame = number * per_person + len(entries)
                seed = (world.seed, 5, frame)
                moment = draw_moment(
                    np.random.default_rng(seed), setting, cameras[camera], person, wardrobe[place], seed
                )
                name = f"{number:04d}_{worn}_c{camera + 1}_{frame:06d}.png"
                entries.append(Entry(f"{_folder(SPLITS[split], image)}/{name}", SPLITS[split], number, worn, int(place),
                                     Scene(person, wardrobe[place], cameras[camera], moment)))  # fmt: skip
    return entries


def _folder(split: str, image: int) -> str:
    """Folder in LTCC's layout. The first image of a person, outfit and camera is a query; the gallery is ``test``."""
    if split == "train":
        return "train"
    folder = "query" if image == 0 else "test"
    return f"validation/{folder}" if split == "validation" else folder
