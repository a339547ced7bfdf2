"""Contact sheets of rendered people: ``python -m csgn_lib.synthetic.sheets FOLDER`` (make world-sheets).

- ``identities``: people in the same clothes.
- ``outfits``: two people in many outfits.
- ``settings``: one row each of calm, middle and street.
- ``masks``: pictures above their masks.
- ``counterfactuals``: rows of the original, other colours, other clothes, another body, another step, and gray.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from csgn_lib.records import atomic_path
from csgn_lib.synthetic.export import PALETTE
from csgn_lib.synthetic.gait import Pose
from csgn_lib.synthetic.scenes import Scene, draw
from csgn_lib.synthetic.worlds import World, cameras_of, entries_of, person_of, split_of, wardrobe_of

COLUMNS, SIZE = 12, 256  # pictures per row, their height in pixels


def _scenes(setting: str, count: int, seed: int = 5) -> list[Scene]:
    """Draw one scene of each of ``count`` people."""
    world = World(people=max(count, 6), setting=setting, seed=seed, outfits=1, cameras_each=1, sharing=1.0)
    cameras, wardrobes = cameras_of(world), [wardrobe_of(world, split) for split in range(3)]
    return [entries_of(world, n, wardrobes[split_of(world, n)], cameras)[0].scene for n in range(count)]


def _standing(scene: Scene) -> Scene:
    moment = replace(
        scene.moment, pose=Pose(0.22, 0.0), heading=0.4, position=(0.0, scene.camera.distance), shift=(0.0, 0.0)
    )
    return replace(scene, moment=moment)


def identities() -> list[list[Scene]]:
    """Scenes of the sheet ``identities``: one row of people in the same clothes and scene."""
    first, *others = _scenes("middle", COLUMNS)
    plain = replace(
        first.outfit,
        upper="t-shirt",
        upper_colour="white",
        pattern="plain",
        lower="jeans",
        lower_colour="denim",
        shoes="sneakers",
        shoes_colour="white",
        bag="no bag",
        hat="no hat",
    )
    first = _standing(replace(first, outfit=plain))
    return [[first, *(replace(first, person=other.person) for other in others)]]


def outfits() -> list[list[Scene]]:
    """Scenes of the sheet ``outfits``: one row per person, with a different outfit in every picture."""
    scenes = _scenes("middle", 2 * COLUMNS)
    people = [person_of(World(people=24, seed=5), number) for number in (3, 4)]
    return [[replace(scene, person=person) for scene in scenes[row * COLUMNS : (row + 1) * COLUMNS]]
            for row, person in enumerate(people)]  # fmt: skip


def settings() -> list[list[Scene]]:
    """Scenes of the sheet ``settings``: one row each of calm, middle and street."""
    return [_scenes(name, COLUMNS, seed=6) for name in ("calm", "middle", "street")]


def masks() -> list[list[Scene]]:
    """Scenes of the sheet ``masks``: one row of street."""
    return [_scenes("street", COLUMNS, seed=7)]


def counterfactuals() -> list[list[Scene]]:
    """Scenes of the sheet ``counterfactuals``: a row of originals, then one row per kind of change."""
    scenes = _scenes("middle", COLUMNS, seed=8)
    others = scenes[5:] + scenes[:5]
    return [scenes, [s.recoloured() for s in scenes], [s.reclothed() for s in scenes],
            [s.rebodied(o.person) for s, o in zip(scenes, others, strict=True)], [s.reposed() for s in scenes],
            [s.grayed() for s in scenes]]  # fmt: skip


SHEETS: dict[str, Callable[[], list[list[Scene]]]] = {
    "identities": identities,
    "outfits": outfits,
    "settings": settings,
    "masks": masks,
    "counterfactuals": counterfactuals,
}


def sheet(name: str) -> NDArray[np.uint8]:
    """Render a sheet as one image (H, W, 3) uint8; masks are shown in their palette below their pictures.

    Args:
        name: key of SHEETS.
    """
    rows: list[Sequence[NDArray[np.uint8]]] = []
    for scenes in SHEETS[name]():
        pictures = draw(scenes, SIZE)
        rows.append([picture.image for picture in pictures])
        if name == "masks":
            colours = np.array(PALETTE, dtype=np.uint8).reshape(-1, 3)
            rows.append([colours[picture.mask] for picture in pictures])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def main(arguments: Sequence[str]) -> None:
    """Write sheets as JPEG files. The arguments are a folder and names of sheets, all by default."""
    torch.set_num_threads(1)
    folder, *names = arguments
    for name in names or SHEETS:
        image = Image.fromarray(sheet(name))
        with atomic_path(Path(folder) / f"{name}.jpg") as temporary:
            image.save(temporary, "JPEG", quality=88)
        print(Path(folder) / f"{name}.jpg")


if __name__ == "__main__":
    main(sys.argv[1:])
