"""Checks of drawn people: bare skin where a garment covers, holes, floating parts, people who leave the picture.

``python -m csgn_lib.synthetic.rendered.quality --people 1000`` (make world-check) prints the counts and fails above the
limits.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from csgn_lib.synthetic.rendered.body import Body, load_body
from csgn_lib.synthetic.rendered.dressing import Figure, dress
from csgn_lib.synthetic.rendered.garments import UPPERS
from csgn_lib.synthetic.rendered.materials import MATERIALS
from csgn_lib.synthetic.rendered.outlines import cloths, lower_outline, shoe_outline, upper_outline
from csgn_lib.synthetic.rendered.people import rest_shape
from csgn_lib.synthetic.rendered.posing import Posed, Shot, crops, pose, projected
from csgn_lib.synthetic.rendered.rasteriser import Fragments, rasterise
from csgn_lib.synthetic.rendered.scenes import Scene
from csgn_lib.synthetic.rendered.settings import SETTINGS
from csgn_lib.synthetic.rendered.worlds import World, cameras_of, entries_of, split_of, wardrobe_of

INSIDE = 0.03  # metres inside a garment's edge from where on skin counts as bare
LARGEST_SPECK = 4  # samples: smaller detached parts are ends of strands and fingers
LIMIT = 0.005  # of a person's samples may be bare skin


@dataclass(frozen=True)
class Counts:
    """Over pictures: samples of people, of bare skin in garments and of holes; pictures with a floating part or
    someone cut off.
    """

    pictures: int
    samples: int
    bare: int
    holes: int
    floating: int
    cut_off: int

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def passed(self) -> bool:
        return (
            self.bare <= LIMIT * self.samples
            and self.holes <= 5e-5 * self.samples
            and not self.floating
            and not self.cut_off
        )


def examine(scenes: Sequence[Scene], height: int = 256) -> Counts:
    """Counts over scenes, drawn without their occluders."""
    body = load_body()
    scenes = [replace(scene, moment=replace(scene.moment, occluder=None)) for scene in scenes]
    rests = [rest_shape(body, scene.person) for scene in scenes]
    figures = [dress(body, s.person, s.outfit, rest) for s, rest in zip(scenes, rests, strict=True)]
    shape = (len(scenes), height, height // 2)
    posed, dressed, inside = _seen(body, scenes, figures, shape)
    nude = [_undressed(body, figure, rest[0]) for figure, rest in zip(figures, rests, strict=True)]
    lowest = [float(posed.vertices[posed.vertex_picture == k, 2].min()) for k in range(len(scenes))]
    assert max(map(abs, lowest)) < 1e-4, "figures stand on the ground"
    silhouettes = _silhouettes(dressed, shape)
    return Counts(
        len(scenes),
        len(dressed.pixel),
        _bare(posed, dressed, figures),
        _holes(body, scenes, figures, nude, silhouettes),
        sum(_floats(silhouette) for silhouette in silhouettes),
        int((~inside).sum()),
    )


def _seen(
    body: Body, scenes: Sequence[Scene], figures: Sequence[Figure], shape: tuple[int, int, int]
) -> tuple[Posed, Fragments, Tensor]:
    shots = [Shot(figure, scene.camera, scene.moment) for figure, scene in zip(figures, scenes, strict=True)]
    posed = pose(body, shots)
    triangles = projected(posed, shots, *crops(shots, shape[1], posed.vertices.device))
    drawn = triangles.faces[(triangles.cut[triangles.faces] < 0).all(1)].unique()
    outside = ((triangles.points[drawn] < 0) | (triangles.points[drawn] > torch.tensor([shape[2], shape[1]]))).any(1)
    inside = torch.ones(len(scenes), dtype=torch.bool)
    inside[posed.vertex_picture[drawn[outside]]] = False
    return posed, rasterise(triangles, shape), inside


def _bare(posed: Posed, seen: Fragments, figures: Sequence[Figure]) -> int:
    """Samples of skin, hands and head aside, that lie inside a garment's outline by more than INSIDE."""
    skin = posed.material[seen.triangle] == MATERIALS.index("skin")
    values = seen.interpolate(posed.attributes, posed.faces)[skin]
    picture = posed.picture[seen.triangle][skin]
    count = 0
    for number, figure in enumerate(figures):
        mine = values[picture == number]
        template, arm = mine[:, 6:9], mine[:, 9]
        on_arm = (arm > -0.1).float()
        upper = upper_outline(figure.outfit, template, arm, UPPERS[figure.outfit.upper].neck)
        covered = torch.minimum(
            upper, torch.minimum(lower_outline(figure.outfit, template, on_arm), shoe_outline(figure.outfit, template))
        )
        count += int((covered < -INSIDE).sum())
    return count


def _undressed(body: Body, figure: Figure, vertices: Tensor) -> Figure:
    cloth = cloths(body)["skin"]
    never = torch.full_like(cloth.arm, -1.0)
    zeros = torch.zeros(len(cloth.faces), dtype=torch.long)
    return replace(
        figure,
        vertices=vertices[cloth.vertex],
        normals=torch.zeros_like(cloth.template),
        template=cloth.template,
        arm=cloth.arm,
        weights=cloth.weights,
        faces=cloth.faces,
        material=zeros,
        cut=never,
        two_sided=zeros > 0,
    )


def _silhouettes(seen: Fragments, shape: tuple[int, int, int]) -> np.ndarray:
    covered = np.zeros(shape[0] * shape[1] * shape[2], dtype=bool)
    covered[seen.pixel.numpy()] = True
    return covered.reshape(shape)


def _holes(
    body: Body, scenes: Sequence[Scene], figures: Sequence[Figure], nude: Sequence[Figure], dressed: np.ndarray
) -> int:
    """Samples where the undressed body is seen, a sample inside its outline, and the dressed one is not.

    Shoes lift a dressed person: the undressed one is lifted as much, by the joints' heights.
    """
    shots = [Shot(figure, scene.camera, scene.moment) for figure, scene in zip(figures, scenes, strict=True)]
    bare = [Shot(figure, scene.camera, scene.moment) for figure, scene in zip(nude, scenes, strict=True)]
    lift = pose(body, shots).grounds - pose(body, bare).grounds
    posed = pose(body, bare)
    posed = replace(posed, vertices=posed.vertices + torch.stack([lift * 0, lift * 0, lift], 1)[posed.vertex_picture])
    seen = rasterise(projected(posed, bare, *crops(bare, dressed.shape[1], posed.vertices.device)), dressed.shape)
    body_seen = _silhouettes(seen, dressed.shape)
    inner = ndimage.binary_erosion(body_seen, np.ones((1, 3, 3)))
    return int((inner & ~dressed).sum())


def _floats(silhouette: np.ndarray) -> bool:
    """Whether a part larger than a speck is not joined to the largest."""
    labels, count = ndimage.label(silhouette, np.ones((3, 3)))
    sizes = np.sort(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    return count > 1 and bool(sizes[-2] > LARGEST_SPECK)


def scenes_of_people(setting: str, people: int, seed: int, each: int = 2) -> list[Scene]:
    """Some scenes of each of a world's people, in outfits and before cameras of their own."""
    world = World(people=people, setting=setting, seed=seed, outfits=each, cameras_each=1).checked()
    cameras, wardrobes = cameras_of(world), [wardrobe_of(world, split) for split in range(3)]
    return [
        entry.scene
        for number in range(people)
        for entry in entries_of(world, number, wardrobes[split_of(world, number)], cameras)[:: world.images]
    ]


def main() -> None:
    """The command behind ``make world-check``: count faults over many people; status 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description="count bare skin, holes, floating parts and people cut off")
    parser.add_argument("--people", type=int, default=1000)
    parser.add_argument("--setting", choices=tuple(SETTINGS), default="middle")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    scenes = scenes_of_people(given.setting, given.people, given.seed, each=1)
    counts = Counts(0, 0, 0, 0, 0, 0)
    for first in range(0, len(scenes), 16):
        counts = counts + examine(scenes[first : first + 16])
        print(f"{min(first + 16, len(scenes))}/{len(scenes)} {counts}", file=sys.stderr)
    shares = f"bare skin {counts.bare / counts.samples:.3%}, holes {counts.holes / counts.samples:.4%}"
    print(f"{counts}\nshares of people's samples: {shares}")
    sys.exit(0 if counts.passed else 1)


if __name__ == "__main__":
    main()
