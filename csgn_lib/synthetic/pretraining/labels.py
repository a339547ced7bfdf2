"""Training targets of the pictures: tokenized captions, attribute values and continuous targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csgn_lib.backbones import CompactTokenizer
from csgn_lib.batches import to_gray
from csgn_lib.synthetic.attributes import MEASURES, Levels
from csgn_lib.synthetic.garments import COLOURS
from csgn_lib.synthetic.pretraining.pairs import IMAGES, PRETRAINING_SEED, Pictures
from csgn_lib.synthetic.scenes import Scene
from csgn_lib.synthetic.words import UNSEEN_IN_GRAY, attribute_prompts, photo_caption, values, world_words

IGNORED = -1
GROUP = 4  # pictures of a block in a batch: one per person and outfit
SHIFT = 3  # largest shift of an augmented picture, pixels
OWN, WORN = ("skin", "beard", "hair red", "hair green", "hair blue"), 6  # person, colour channels of clothes
TARGETS = len(MEASURES) + len(OWN) + WORN
COLOURED = TARGETS - WORN - len(OWN)  # targets from here on are colours, except the beard


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures with their training targets. ``colour`` and ``gray`` are token ids of two captions of each picture."""

    images: NDArray[np.uint8]  # (N, 96, 48, 3) RGB
    colour: NDArray[np.uint8]  # (N, L)
    gray: NDArray[np.uint8]  # (N, L)
    labels: NDArray[np.int16]  # (N, A) values of ``attribute_prompts``; IGNORED where no sentence is true
    targets: NDArray[np.float32]  # (N, TARGETS)


def levels_of(pictures: Pictures) -> Levels:
    """Limits of the outer fifths of the measures among some pictures."""
    return Levels.of([dict(zip(MEASURES, row, strict=True)) for row in pictures.measures])


def labelled(pictures: Pictures, levels: Levels, seed: int = 0) -> LabelledPictures:
    """Compute the training targets of pictures.

    Args:
        levels: outer fifths of the measures, which have words.
        seed: of the order and the omissions of captions.
    """
    tokenizer, rng = CompactTokenizer(world_words(), 64), np.random.default_rng((PRETRAINING_SEED, 3, seed))
    prompts = {name: {value: i for i, value in enumerate(sentences)} for name, sentences in attribute_prompts().items()}
    colour, gray, labels = [], [], []
    for scene, row in zip(pictures.scenes, pictures.measures, strict=True):
        measures = dict(zip(MEASURES, map(float, row), strict=True))
        described = (rng, scene.person, scene.outfit, measures, levels)
        colour.append(photo_caption(*described))
        gray.append(photo_caption(*described, gray=True))
        true = values(scene.person, scene.outfit, measures, levels)
        labels.append([prompts[name].get(true[name], IGNORED) for name in prompts])
    tokens = [tokenizer(texts).numpy().astype(np.uint8) for texts in (colour, gray)]
    targets = np.array([_numbers(s, m) for s, m in zip(pictures.scenes, pictures.measures, strict=True)], np.float32)
    return LabelledPictures(pictures.images, *tokens, np.array(labels, dtype=np.int16), targets)


def _numbers(scene: Scene, measures: NDArray[np.float32]) -> list[float]:
    person, outfit = scene.person, scene.outfit
    worn = [COLOURS[outfit.upper_colour], COLOURS[outfit.lower_colour if outfit.lower != "none" else
                                                  outfit.upper_colour]]  # fmt: skip
    own = [person.skin, person.beard, *(c / 255 for c in person.hair)]
    return [*map(float, measures), *own, *(c / 255 for rgb in worn for c in rgb)]


def batches(
    data: LabelledPictures, size: int, steps: int, seed: int, gray_share: float = 0.15
) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Yield augmented batches. Of each block in a batch there is one picture per person and outfit.

    Args:
        size: B, a multiple of GROUP.
        steps: number of batches.
        gray_share: share of pictures that are gray, with the caption for gray pictures.

    Yields:
        images (B, 3, H, W) in [0, 1], tokens (B, L), labels (B, A), and targets (B, TARGETS) in standard deviations,
        NaN where they are not visible.
    """
    rng, order = np.random.default_rng(seed), np.empty(0, dtype=np.int64)
    mean, deviation = data.targets.mean(0), data.targets.std(0)
    for _ in range(steps):
        if len(order) < size // GROUP:
            order = np.concatenate([order, rng.permutation(len(data.images) // (GROUP * IMAGES))])
        blocks, order = order[: size // GROUP], order[size // GROUP :]
        rows = (blocks[:, None] * GROUP + np.arange(GROUP)).ravel() * IMAGES + rng.integers(IMAGES, size=size)
        gray = rng.random(size) < gray_share
        tokens = np.where(gray[:, None], data.gray[rows], data.colour[rows])
        labels = np.where(gray[:, None] & unseen_in_gray(), IGNORED, data.labels[rows])
        targets = (data.targets[rows] - mean) / deviation
        targets[gray, COLOURED:] = np.nan
        images = augmented(torch.from_numpy(data.images[rows]).permute(0, 3, 1, 2).float() / 255, rng)
        images = torch.where(torch.from_numpy(gray)[:, None, None, None], to_gray(images), images)
        yield (images, *(torch.from_numpy(array.astype(kind)) for array, kind in
                         ((tokens, np.int64), (labels, np.int64), (targets, np.float32))))  # fmt: skip


def augmented(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Augment images (B, 3, H, W) in [0, 1] by mirroring, shifts of up to SHIFT pixels, exposure and noise."""
    size = len(images)

    def each(array: NDArray[np.floating]) -> Tensor:
        return torch.from_numpy(np.asarray(array, dtype=np.float32))[:, None, None, None]

    images = torch.where(each(rng.random(size)) < 0.5, images.flip(3), images)
    down, right = (int(n) for n in rng.integers(-SHIFT, SHIFT + 1, 2))
    images = torch.roll(images, (down, right), (2, 3)) * each(rng.uniform(0.9, 1.1, size))
    return (images + 0.015 * torch.from_numpy(rng.standard_normal(tuple(images.shape), dtype=np.float32))).clamp(0, 1)


def unseen_in_gray() -> NDArray[np.bool_]:
    """Boolean mask (A,) of the attributes that are not visible in a gray picture."""
    return np.array([name in UNSEEN_IN_GRAY for name in attribute_prompts()])
