"""A world: which people wear which outfits before which cameras, as a list of scenes with their file names.

People of training, validation and test are disjoint, and so are their wardrobes; cameras are shared. Outfits come
from a wardrobe smaller than the crowd, so that several people wear each: clothes mislead. Every draw is a pure
function of the world's seed and its own numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from csgn_lib.records import InputError
from csgn_lib.synthetic.rendered.cameras import Camera, draw_camera
from csgn_lib.synthetic.rendered.garments import Outfit, draw_outfit
from csgn_lib.synthetic.rendered.people import Person, draw_person
from csgn_lib.synthetic.rendered.scenes import Scene, draw_moment
from csgn_lib.synthetic.rendered.settings import setting_named

FORMAT = 1  # of the pictures: raise it when a change to the rendering changes any pixel
SPLITS = ("train", "validation", "test")
SHARES = (0.5, 0.2, 0.3)  # of the people
FEWEST = 6  # so that every split has people
LARGEST = (10_000, 1024, 100)  # people, height of a picture, images


@dataclass(frozen=True)
class World:
    """A draw. ``images``: pictures of each person, outfit and camera; ``cameras_each``: cameras that see an outfit."""

    people: int = 500
    setting: str = "middle"
    seed: int = 0
    size: int = 128
    images: int = 2
    outfits: int = 4
    cameras_each: int = 2
    colour_identity: float = 1.0
    spread: float | None = None  # None: the setting's
    sharing: float | None = None

    def checked(self) -> World:
        """This world, if it can be drawn. Raises InputError that names the number and what is possible."""
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
        """People of training, validation and test."""
        test, validation = (max(1, round(self.people * share)) for share in (SHARES[2], SHARES[1]))
        return self.people - test - validation, validation, test

    def description(self) -> dict[str, object]:
        """What decides every byte, with the code's format and the libraries' versions aside."""
        return asdict(self) | {"format": FORMAT}


@dataclass(frozen=True)
class Entry:
    """A picture of a world: its file, labels and scene."""

    path: str
    split: str
    person: int
    outfit: int  # from 1, for each person
    wardrobe: int  # the outfit's number in the split's wardrobe
    scene: Scene


def cameras_of(world: World) -> list[Camera]:
    """The world's cameras, each before a place of another kind as far as there are kinds."""
    setting = setting_named(world.setting)
    order = np.random.default_rng((world.seed, 10)).permutation(len(setting.places))
    places = [setting.places[order[k % len(order)]] for k in range(setting.cameras)]
    return [
        draw_camera(np.random.default_rng((world.seed, 9, k)), k, place, setting.ranges)
        for k, place in enumerate(places)
    ]


def person_of(world: World, number: int) -> Person:
    """The person of a number, a pure function of the world's seed and that number. Raises InputError (setting)."""
    setting = setting_named(world.setting)
    spread = setting.spread if world.spread is None else world.spread
    rng = np.random.default_rng((world.seed, 7, number))
    return draw_person(rng, spread, setting.stature_sd, world.colour_identity)


def split_of(world: World, number: int) -> int:
    """Index into SPLITS of a person's number."""
    train, validation, _ = world.counts()
    return 0 if number < train else 1 if number < train + validation else 2


def wardrobe_of(world: World, split: int) -> list[Outfit]:
    """The outfits that people of a split wear."""
    sharing = setting_named(world.setting).sharing if world.sharing is None else world.sharing
    size = max(world.outfits, round(world.counts()[split] * world.outfits / sharing))
    rng = np.random.default_rng((world.seed, 8, split))
    return [draw_outfit(rng) for _ in range(size)]


def entries_of(world: World, number: int, wardrobe: Sequence[Outfit], cameras: Sequence[Camera]) -> list[Entry]:
    """Every picture of one person; frame numbers count over the world."""
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
    """LTCC's folders: the gallery is called test. The first picture of each person, outfit and camera is a query."""
    if split == "train":
        return "train"
    folder = "query" if image == 0 else "test"
    return f"validation/{folder}" if split == "validation" else folder
