"""Images that differ in one respect, the distance of their features, and the sensitivity to colours and clothes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchvision.transforms.functional import adjust_hue

from csgn_lib.batches import to_float, to_gray
from csgn_lib.records import InputError
from csgn_lib.statistics.intervals import Interval, over_people
from csgn_lib.synthetic import Entry, Scene, draw
from csgn_lib.vss import Embeddings, concatenate

PICTURE, RECOLOURED, RECLOTHED, GRAY = "picture", "other colours", "other clothes", "gray"
OTHER_PERSON, AGAIN = "other person", "other step"
HUE, BY_CAMERA = "hue turned", "another's picture"
CHANGES = (RECOLOURED, RECLOTHED, HUE, GRAY, OTHER_PERSON, BY_CAMERA, AGAIN)
_KIND = {
    RECOLOURED: "recoloured", RECLOTHED: "reclothed", OTHER_PERSON: "rebodied", AGAIN: "reposed", GRAY: "gray",
}  # fmt: skip
_SMALLEST_TURN = 1 / 6  # of the hue circle, in either direction: red becomes at least yellow


def counterfactuals(
    pictures: Sequence[Entry],
    size: int,
    seed: int = 0,
    changes: Sequence[str] = (RECOLOURED, RECLOTHED, OTHER_PERSON, AGAIN, GRAY),
) -> dict[str, Tensor]:
    """Each picture of a world unchanged, and once for each of ``changes``: name -> (N, 3, size, size / 2), RGB, uint8.

    other colours: of the clothes and the bag; only their pixels and those beside them differ. other clothes: on the
    same body in the same pose. other person: another person of the pictures in the same clothes, pose, place and
    light. other step: the same person and clothes at another step of the same walk. gray: luminance in three channels.
    See ``Scene`` for what may differ besides.

    Args:
        size: height of the pictures.
        seed: of the new colours, clothes and steps, and of the choice of the other person.

    Raises:
        InputError: pictures of fewer than two people.
    """
    who = {entry.person: entry.scene.person for entry in pictures}
    if len(who) < 2:
        raise InputError(f"counterfactuals need pictures of two people or more, not {len(who)}")
    rng = np.random.default_rng((seed, 3))
    others = [who[int(rng.choice([i for i in who if i != entry.person]))] for entry in pictures]
    scenes = [entry.scene for entry in pictures]
    changed = [scene.counterfactuals(other, seed) for scene, other in zip(scenes, others, strict=True)]
    kinds = {change: [one[_KIND[change]] for one in changed] for change in changes}
    return {PICTURE: _drawn(scenes, size)} | {change: _drawn(scenes, size) for change, scenes in kinds.items()}


def real_changes(pictures: Tensor, people: ArrayLike, cameras: ArrayLike, seed: int = 0) -> dict[str, Tensor]:
    """Changes that are possible for any image: name -> (N, 3, H, W), RGB; PICTURE is the unchanged image.

    hue turned: the hue of all pixels, including skin and floor, because the clothes are not segmented; one angle per
    image, at least 60 degrees. gray: luminance in three channels. another's picture: an image of another of these
    people by the same camera, in other clothes. The first two are float in [0, 1].

    Args:
        pictures: (N, 3, H, W), uint8 or float in [0, 1].
        people, cameras: (N,), -1 without a label.
        seed: of the angles and of the other person.

    Raises:
        InputError: a camera that shows one person only.
    """
    people, cameras = np.asarray(people), np.asarray(cameras)
    rng, others = np.random.default_rng((seed, 5)), []
    for person, camera in zip(people, cameras, strict=True):
        strangers = np.flatnonzero((cameras == camera) & (people != person))
        if not len(strangers):
            raise InputError(f"camera {camera} shows person {person} alone; leave it out, or add other people")
        others.append(int(rng.choice(strangers)))
    turns = rng.uniform(_SMALLEST_TURN, 1 - _SMALLEST_TURN, len(pictures))
    turns = np.where(turns > 0.5, turns - 1, turns)  # of the whole circle, in (-1/2, 1/2]
    turned = [adjust_hue(to_float(picture), float(turn)) for picture, turn in zip(pictures, turns, strict=True)]
    return {PICTURE: pictures, HUE: torch.stack(turned), GRAY: to_gray(pictures), BY_CAMERA: pictures[others]}


def evenly(pictures: Sequence[Entry], per_person: int) -> list[Entry]:
    """Up to ``per_person`` pictures of each person, evenly spaced, so that outfits and cameras vary."""
    return [pictures[i] for i in even_rows([entry.person for entry in pictures], per_person)]


def even_rows(people: ArrayLike, per_person: int) -> list[int]:
    """Up to ``per_person`` rows of each person, evenly spaced; people in order of first appearance: (N,)."""
    ours: dict[int, list[int]] = {}
    for row, person in enumerate(np.asarray(people).tolist()):
        ours.setdefault(person, []).append(row)
    places = {p: np.linspace(0, len(own) - 1, min(per_person, len(own))).round() for p, own in ours.items()}
    return [ours[person][int(i)] for person, wanted in places.items() for i in wanted]


def _drawn(scenes: Sequence[Scene], size: int) -> Tensor:
    images = np.stack([picture.image for picture in draw(scenes, size)])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def embed_pictures(
    encoder: Callable[[Tensor], Embeddings], pictures: Tensor, size: tuple[int, int], batch_size: int = 128
) -> Embeddings:
    """Embeddings of pictures (N, 3, H, W), uint8 or float in [0, 1]; resized if they are not of ``size`` (H, W)."""
    embeddings = []
    for images in pictures.split(batch_size):
        images = to_float(images)
        if tuple(images.shape[-2:]) != tuple(size):
            images = F.interpolate(images, size=tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
        embeddings.append(encoder(images))
    return concatenate(embeddings)


def cosine_distance(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """1 - cosine of each row of a with the same row of b: (N, P) and (N, P) to (N,), in [0, 2]."""
    return (1 - F.cosine_similarity(a.double(), b.double(), dim=-1)).numpy()


def movements(features: Mapping[str, Tensor]) -> pd.DataFrame:
    """Cosine distance between the features of each changed and unchanged image: N rows, one column per change."""
    there = [name for name in CHANGES if name in features]
    return pd.DataFrame({name: cosine_distance(features[PICTURE], features[name]) for name in there})


def colour_sensitivity(moved: pd.DataFrame, people: ArrayLike, **options: Any) -> Interval:
    """Movement by recolouring the clothes / movement by exchanging the person [O].

    0: the colours of clothes have no influence. 1: they count as much as another person. ``moved`` as from
    ``movements``; options as for ``over_people``.
    """
    return over_people(moved[RECOLOURED], people, moved[OTHER_PERSON], **options)


def clothes_sensitivity(moved: pd.DataFrame, people: ArrayLike, **options: Any) -> Interval:
    """Movement by exchanging the clothes / movement by exchanging the person in the same clothes [O].

    0: clothes have no influence. 1: they count as much as another body. Clothes hide or change the outline too, so it
    is above 0 for any model that sees outlines. Options as for ``over_people``.
    """
    return over_people(moved[RECLOTHED], people, moved[OTHER_PERSON], **options)


def hue_sensitivity(moved: pd.DataFrame, people: ArrayLike, **options: Any) -> Interval:
    """Movement by turning the hue of the image / distance to another person's image by the same camera [O].

    It needs no rendering, but differs from the colour sensitivity: the hue of skin and floor changes too, gray pixels
    do not change, and the other person wears other clothes, so the denominator is larger. Compare it only with other
    hue sensitivities.
    """
    return over_people(moved[HUE], people, moved[BY_CAMERA], **options)
