"""Occlusion: the drop of a pair's similarity when a gray patch hides a region."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from csgn_lib.analysis.attribution.images import Read, checked, unit_sum, whole
from csgn_lib.analysis.attribution.pairs import features
from csgn_lib.records import InputError
from csgn_lib.vss import VisualEncoder

GRAY = 0.5  # of [0, 1]: the value of hidden pixels
ROUNDING = 1e-6  # of a float32 cosine: smaller drops are rounding errors and would make an empty map look relevant


@torch.no_grad()
def occlusion(
    encoder: VisualEncoder,
    images: Tensor,
    others: Tensor,
    read: Read = whole,
    patch: int = 16,
    stride: int = 8,
    batch_size: int = 64,
) -> Tensor:
    """Occlusion (Zeiler and Fergus, ECCV 2014) of a pair's cosine: the mean drop of the patches over each pixel.

    Args:
        images, others: (B, 3, H, W), RGB, uint8 or float in [0, 1]; gray patches cover ``images``.
        read: Embeddings to the compared features (B, D).
        patch, stride: side of the square and its step, in pixels; the last step ends at the border.

    Returns:
        maps (B, H, W) of unit sum; 0 where hiding does not reduce the similarity.

    Raises:
        InputError: a patch that does not fit into the image, a stride that leaves gaps, images that do not fit.
    """
    check_patch(images, patch, stride)
    height, width = images.shape[-2:]
    images, others = checked(encoder, images, others), checked(encoder, others)
    towards = features(encoder, others, read, batch_size)
    before = F.cosine_similarity(features(encoder, images, read, batch_size), towards)
    drops, covers = torch.zeros_like(images[:, 0]), torch.zeros_like(images[0, 0])
    for top in places(height, patch, stride):
        for left in places(width, patch, stride):
            here = (..., slice(top, top + patch), slice(left, left + patch))
            hidden = images.clone()
            hidden[here] = GRAY
            after = F.cosine_similarity(features(encoder, hidden, read, batch_size), towards)
            drops[here] += (before - after)[:, None, None]
            covers[here] += 1
    drops = drops / covers
    return unit_sum(torch.where(drops > ROUNDING, drops, torch.zeros_like(drops)))


def check_patch(images: Tensor, patch: int, stride: int) -> None:
    """Raises InputError for a patch that does not fit into images (..., H, W), or a stride that leaves gaps."""
    side = min(images.shape[-2:])
    if not 0 < stride <= patch <= side:
        raise InputError(f"patch {patch}, stride {stride}: need 0 < stride <= patch <= {side} pixels")


def places(side: int, patch: int, stride: int) -> list[int]:
    """Start positions of the patches along a side, in pixels; the last patch ends at the border."""
    return sorted({*range(0, side - patch + 1, stride), side - patch})
