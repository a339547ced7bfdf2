"""What moves an image's feature: counterfactual pictures, and the colour sensitivity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from csgn_lib.batches import to_float, to_gray
from csgn_lib.probes.intervals import Interval, over_people
from csgn_lib.records import InputError
from csgn_lib.synthetic import Scene
from csgn_lib.vss import Embeddings, concatenate

PICTURE, RECOLOURED, GRAY, OTHER_PERSON, AGAIN = "picture", "recoloured", "gray", "other person", "drawn again"
CHANGES = (RECOLOURED, GRAY, OTHER_PERSON, AGAIN)


def counterfactuals(scenes: Sequence[Scene], seed: int = 0) -> dict[str, Tensor]:
    """Each scene as it is, and four times with one thing changed: name -> (N, 3, 96, 48), RGB, uint8.

    recoloured: other colours of the clothes, every other pixel as it was. gray: luminance in three
    channels, float in [0, 1]. other person: another of the scenes' people in the same clothes, pose, light
    and noise. drawn again: the same person, clothes and camera at another moment.

    Raises:
        InputError: scenes of one person only: there is nobody to exchange with.
    """
    who = {scene.person_id: scene.person for scene in scenes}
    if len(who) < 2:
        raise InputError(f"counterfactuals need scenes of two people at least, given are {len(who)}")
    rng = np.random.default_rng((seed, 3))
    others = [who[int(rng.choice([i for i in who if i != scene.person_id]))] for scene in scenes]
    drawn = {
        PICTURE: _drawn(scenes),
        RECOLOURED: _drawn([scene.recoloured(seed) for scene in scenes]),
        OTHER_PERSON: _drawn([replace(scene, person=other) for scene, other in zip(scenes, others, strict=True)]),
        AGAIN: _drawn([replace(scene, seed=(*scene.seed, 78, seed)) for scene in scenes]),
    }
    return drawn | {GRAY: to_gray(drawn[PICTURE])}


def evenly(scenes: Sequence[Scene], per_person: int) -> list[Scene]:
    """Up to ``per_person`` scenes of each person, at even steps through their own, so that outfits and cameras vary."""
    ours: dict[int, list[Scene]] = {}
    for scene in scenes:
        ours.setdefault(scene.person_id, []).append(scene)
    places = {p: np.linspace(0, len(own) - 1, min(per_person, len(own))).round() for p, own in ours.items()}
    return [ours[person][int(i)] for person, wanted in places.items() for i in wanted]


def _drawn(scenes: Sequence[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([scene.draw()[0] for scene in scenes])).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def embed_pictures(
    encoder: Callable[[Tensor], Embeddings], pictures: Tensor, size: tuple[int, int], batch_size: int = 128
) -> Embeddings:
    """Embeddings of pictures (N, 3, H, W), uint8 or float in [0, 1]; resized if they are not of ``size`` (H, W)."""
    made = []
    for images in pictures.split(batch_size):
        images = to_float(images)
        if tuple(images.shape[-2:]) != tuple(size):
            images = F.interpolate(images, size=tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
        made.append(encoder(images))
    return concatenate(made)


def cosine_distance(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """1 - cosine of each row of a with the same row of b: (N, P) and (N, P) to (N,), in [0, 2]."""
    return (1 - F.cosine_similarity(a.double(), b.double(), dim=-1)).numpy()


def movements(features: Mapping[str, Tensor]) -> pd.DataFrame:
    """How far each change of ``counterfactuals`` moves each picture's feature: a cosine distance, N rows."""
    return pd.DataFrame({name: cosine_distance(features[PICTURE], features[name]) for name in CHANGES})


def colour_sensitivity(moved: pd.DataFrame, people: ArrayLike, **options: Any) -> Interval:
    """Movement by recolouring the clothes / movement by exchanging the person; both at the same moment.

    0: blind to the clothes' colours. 1: a recoloured coat counts as much as another person. ``moved``
    as from ``movements``; options as for ``over_people``.
    """
    return over_people(moved[RECOLOURED], people, moved[OTHER_PERSON], **options)
