"""Quality checks of rendered people: bare skin inside garments, holes, floating parts, and people outside the frame.

``python -m csgn_lib.synthetic.quality --people 1000`` (make world-check) prints the counts; its exit status is 1 above
the limits.
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

from csgn_lib.synthetic.body import Body, load_body
from csgn_lib.synthetic.dressing import Figure, dress
from csgn_lib.synthetic.garments import UPPERS
from csgn_lib.synthetic.materials import MATERIALS
from csgn_lib.synthetic.outlines import cloths, lower_outline, shoe_outline, upper_outline
from csgn_lib.synthetic.people import rest_shape
from csgn_lib.synthetic.posing import Posed, Shot, crops, pose, projected
from csgn_lib.synthetic.rasteriser import Fragments, rasterise
from csgn_lib.synthetic.scenes import Scene
from csgn_lib.synthetic.settings import SETTINGS
from csgn_lib.synthetic.worlds import World, cameras_of, entries_of, split_of, wardrobe_of

INSIDE = 0.03  # distance from a garment's edge, in metres, beyond which skin inside the outline counts as bare
LARGEST_SPECK = 4  # samples: smaller detached parts are tips of hair and fingers
LIMIT = 0.005  # largest share of bare skin among the samples of people


@dataclass(frozen=True)
class Counts:
    """Counts of faults over pictures."""

    pictures: int
    samples: int  # of people
    bare: int  # samples of skin inside garments
    holes: int  # samples
    floating: int  # pictures with a floating part
    cut_off: int  # pictures with a person partly outside the frame

    def __add__(self, other: Counts) -> Counts:
        """Counts over the pictures of both."""
        return Counts(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    @property
    def passed(self) -> bool:
        """Whether all counts are within their limits."""
        return (
            self.bare <= LIMIT * self.samples
            and self.holes <= 5e-5 * self.samples
            and not self.floating
            and not self.cut_off
        )


def examine(scenes: Sequence[Scene], height: int = 256) -> Counts:
    """Count the faults of scenes, rendered without occluders.

    Args:
        height: of the pictures in samples.
    """
    body = load_body()
    scenes = [replace(scene, moment=replace(scene.moment, occluder=None)) for scene in scenes]
    rests = [rest_shape(body, scene.person) for scene in scenes]
    figures = [dress(body, s.person, s.outfit, rest) for s, rest in zip(scenes, rests, strict=True)]
    shape = (len(scenes), height, height // 2)
    posed, dressed, inside = _seen(body, scenes, figures, shape)
    nude = [_undressed(body, figure, rest[0]) for figure, rest in zip(figures, rests, strict=True)]
    lowest = [float(posed.vertices[posed.vertex_picture == k, 2].min()) for k in range(len(scenes))]
    assert max(map(abs, lowest)) < 1e-4, "figures must stand on the ground"
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
    """Count samples of skin that lie inside a garment's outline by more than INSIDE."""
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
    """Count samples that are covered by the undressed body, eroded by one sample, but not by the dressed one.

    Shoes raise a dressed person; the undressed body is raised by the same height.
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
    """Whether a part with more than LARGEST_SPECK samples is not connected to the largest part."""
    labels, count = ndimage.label(silhouette, np.ones((3, 3)))
    sizes = np.sort(np.bincount(labels.ravel(), minlength=count + 1)[1:])
    return count > 1 and bool(sizes[-2] > LARGEST_SPECK)


def scenes_of_people(setting: str, people: int, seed: int, each: int = 2) -> list[Scene]:
    """Draw scenes of each person of a world, one per outfit.

    Args:
        people: number of people.
        each: scenes per person.
    """
    world = World(people=people, setting=setting, seed=seed, outfits=each, cameras_each=1).checked()
    cameras, wardrobes = cameras_of(world), [wardrobe_of(world, split) for split in range(3)]
    return [
        entry.scene
        for number in range(people)
        for entry in entries_of(world, number, wardrobes[split_of(world, number)], cameras)[:: world.images]
    ]


def main() -> None:
    """Command line of ``make world-check``: count faults over many people; exit status 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description="count bare skin, holes, floating parts and people outside the frame")
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
