"""Checks of attribution maps: shuffled weights (Adebayo 2018), deletion and insertion (Petsiuk 2018)."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor, nn

from csgn_lib.analysis.attribution.images import Read, checked, checked_maps, to_pixels, whole
from csgn_lib.analysis.attribution.occluding import GRAY
from csgn_lib.analysis.attribution.pairs import features
from csgn_lib.backbones import vit_grid, vit_layers
from csgn_lib.records import InputError
from csgn_lib.vss import VisualEncoder


def depth(encoder: VisualEncoder) -> int:
    """Number of layers of the deepest network for ``randomised``: embeddings or stem, blocks or stages, ViT's head."""
    return max(len(layers) for layers in _towers(encoder))


def randomised(encoder: VisualEncoder, generator: torch.Generator, top: int | None = None) -> VisualEncoder:
    """A copy with shuffled weights in the upper layers: the sanity check of Adebayo et al. (NeurIPS 2018).

    A map that does not change depends on the image, not on the learned weights. The entries of each weight tensor are
    permuted, which keeps their distribution, unlike a new initialisation [O]; scalars (a gate, gamma) and batch norm's
    running statistics stay.

    Args:
        generator: CPU generator; with the same seed the top layers are shuffled identically for every ``top``.
        top: number of layers of each network, from the output down (and the layer that joins them); None: all.

    Raises:
        InputError: ``top`` is not between 1 and ``depth(encoder)``.
    """
    most = depth(encoder)
    if top is not None and not 1 <= top <= most:
        raise InputError(f"top={top}: this encoder has {most} layers; give 1 to {most}, or None for all")
    copied = copy.deepcopy(encoder)
    join = list(copied.join.parameters()) if hasattr(copied, "join") else []
    with torch.no_grad():
        for level in range(top or most):
            for layers in _towers(copied):
                for value in layers[-1 - level] if level < len(layers) else []:
                    _shuffle(value, generator)
            for value in join if level == 0 else []:
                _shuffle(value, generator)
    return copied


def _towers(encoder: VisualEncoder) -> list[list[list[nn.Parameter]]]:
    vits = [vit_layers(vit) for vit in (encoder.vit, encoder.second_vit) if vit is not None]
    return [*vits, *([encoder.resnet.layers()] if encoder.resnet is not None else [])]


def _shuffle(value: Tensor, generator: torch.Generator) -> None:
    order = torch.randperm(value.numel(), generator=generator).to(value.device)
    value.copy_(value.flatten()[order].view_as(value))


def rank_correlation(maps: Tensor, others: Tensor) -> NDArray[np.float64]:
    """Spearman's correlation of each map (B, H, W) with the one in its row: (B,), NaN where one of them is constant.

    Raises InputError for maps of different shapes.
    """
    if maps.shape != others.shape:
        raise InputError(f"maps are {tuple(maps.shape)} and {tuple(others.shape)}; compare maps of the same images")
    ranks = [rankdata(m.flatten(1).cpu().double().numpy(), axis=1) for m in (maps, others)]
    one, other = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    with np.errstate(invalid="ignore"):
        return (one * other).sum(axis=1) / np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))


def random_maps(encoder: VisualEncoder, images: Tensor, generator: torch.Generator) -> Tensor:
    """Random maps (B, H, W) as coarse as the encoder's maps: uniform noise on the ViT's grid, unit sum.

    Without a ViT the grid has one cell for 8 x 8 pixels. ``generator`` is on the CPU.
    """
    size = tuple(images.shape[-2:])
    grid = vit_grid(encoder.vit)[1] if encoder.vit is not None else tuple(side // 8 for side in size)
    return to_pixels(torch.rand(len(images), *grid, generator=generator).to(images.device), size)


@dataclass(frozen=True)
class Curves:
    """Cosine of a pair while pixels of its first image are grayed or revealed in order of decreasing relevance.

    Attributes:
        deletion, insertion: (B, S + 1), after 0, 1/S, ... of the pixels were grayed, or shown on gray.
    """

    deletion: Tensor
    insertion: Tensor

    @property
    def deletion_area(self) -> Tensor:
        """Area under the curve (B,): small if the similarity depends on the pixels that the map marks first."""
        return torch.trapezoid(self.deletion, dx=1 / (self.deletion.shape[1] - 1))

    @property
    def insertion_area(self) -> Tensor:
        """Area under the curve (B,): large if the pixels that the map marks first suffice for the similarity."""
        return torch.trapezoid(self.insertion, dx=1 / (self.insertion.shape[1] - 1))


@torch.no_grad()
def deletion_insertion(
    encoder: VisualEncoder,
    images: Tensor,
    others: Tensor,
    maps: Tensor,
    read: Read = whole,
    steps: int = 10,
    batch_size: int = 64,
) -> Curves:
    """Deletion and insertion (Petsiuk et al., BMVC 2018) of a pair's cosine; hidden pixels are gray in both [O].

    Args:
        images, others: (B, 3, H, W); pixels of ``images`` are grayed or shown, ``others`` stay as they are.
        maps: (B, H, W), the order of the pixels; pixels of equal relevance are ordered row by row.
        steps: S, the number of equal portions.

    Returns:
        Curves. Compared with those of ``random_maps`` they show whether a map is better than chance.

    Raises:
        InputError: no steps, maps or images that do not fit.
    """
    if steps < 1:
        raise InputError(f"steps={steps}: give at least one portion of pixels")
    images, others = checked(encoder, images, others), checked(encoder, others)
    checked_maps(maps, images)
    towards = features(encoder, others, read, batch_size)
    order = maps.flatten(1).argsort(dim=1, descending=True, stable=True)
    place = torch.empty_like(order).scatter_(
        1, order, torch.arange(order.shape[1], device=order.device).expand_as(order)
    )
    place = place.view_as(maps)[:, None]  # 0 is the first
    gray, found = torch.full_like(images, GRAY), {"deletion": [], "insertion": []}
    for step in range(steps + 1):
        chosen = place < round(step / steps * order.shape[1])
        for name, seen in (("deletion", ~chosen), ("insertion", chosen)):
            shown = features(encoder, torch.where(seen, images, gray), read, batch_size)
            found[name].append(F.cosine_similarity(shown, towards))
    return Curves(**{name: torch.stack(values, dim=1) for name, values in found.items()})
