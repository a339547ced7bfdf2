"""The cosine similarity of a pair of images, and its gradient (Grad-CAM)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from csgn_lib.analysis.attribution.images import Read, checked, to_pixels, whole
from csgn_lib.backbones import last_norm, vit_grid
from csgn_lib.records import InputError
from csgn_lib.vss import VisualEncoder

TOWERS = ("vit", "resnet")


@torch.no_grad()
def pair_similarity(
    encoder: VisualEncoder, images: Tensor, others: Tensor, read: Read = whole, batch_size: int = 64
) -> Tensor:
    """Cosine of each image (B, 3, H, W) with the other image of its row, of the features ``read``: (B,) in [-1, 1].

    Raises InputError for images that do not fit.
    """
    images, others = checked(encoder, images, others), checked(encoder, others)
    return F.cosine_similarity(features(encoder, images, read, batch_size), features(encoder, others, read, batch_size))


@torch.no_grad()
def features(encoder: VisualEncoder, images: Tensor, read: Read, batch_size: int) -> Tensor:
    """The features ``read`` of images (B, 3, H, W): (B, D)."""
    return torch.cat([read(encoder(batch)) for batch in images.split(batch_size)])


def grad_cam(
    encoder: VisualEncoder,
    images: Tensor,
    others: Tensor,
    read: Read = whole,
    tower: str = "vit",
    batch_size: int = 32,
) -> Tensor:
    """Grad-CAM (Selvaraju et al., ICCV 2017) towards a pair's cosine instead of a class [O].

    ReLU(sum_k a_k A_k), a_k the mean over cells of d cosine / d A_k: regions that increase the similarity of the pair.
    A is the input of the last block's attention for the ViT (patches after the block no longer reach the class token),
    and the feature map of the last stage for the ResNet.

    Args:
        images, others: (B, 3, H, W), RGB, uint8 or float in [0, 1]; the maps are of ``images``, ``others`` are fixed.
        read: Embeddings to the compared features (B, D), such as ``lambda e: e.f``.
        tower: vit or resnet. A steered f and the whole descriptor depend on both.

    Returns:
        maps (B, H, W) of unit sum, all zero where every cell makes the pair less similar.

    Raises:
        InputError: a tower that the encoder lacks or that ``read`` does not depend on, images that do not fit.
    """
    if tower not in TOWERS:
        raise InputError(f"unknown tower {tower!r}; one of {', '.join(TOWERS)}")
    if getattr(encoder, tower) is None:
        there = [name for name in TOWERS if getattr(encoder, name) is not None]
        raise InputError(f"vss={encoder.variant} has no {tower}; it has {', '.join(there)}")
    images, others = checked(encoder, images, others), checked(encoder, others)
    size, found = tuple(images.shape[-2:]), []
    for batch, other in zip(images.split(batch_size), others.split(batch_size), strict=True):
        found.append(to_pixels(_cam(encoder, batch, features(encoder, other, read, batch_size), read, tower), size))
    return torch.cat(found)


def _cam(encoder: VisualEncoder, images: Tensor, towards: Tensor, read: Read, tower: str) -> Tensor:
    """Cells (B, h, w) before the ReLU."""
    kept: list[Tensor] = []
    module = last_norm(encoder.vit) if tower == "vit" else encoder.resnet
    recompute, encoder.recompute = encoder.recompute, False  # a block that runs again would be read twice
    handle = module.register_forward_hook(lambda _, given, made: kept.append(getattr(made, "feature_map", made)))
    try:
        with torch.enable_grad():  # images want a gradient, so that frozen weights have a graph too
            embeddings = encoder(images.clone().requires_grad_())
            similarity = F.cosine_similarity(read(embeddings), towards)
            (slope,) = torch.autograd.grad(similarity.sum(), kept[0], allow_unused=True)
    finally:
        handle.remove()
        encoder.recompute = recompute
    if slope is None:
        raise InputError(f"the compared features do not depend on the {tower}; choose the other tower, or another part")
    activation, slope = kept[0].detach().float(), slope.float()
    if tower == "resnet":
        return (slope.mean(dim=(2, 3), keepdim=True) * activation).sum(dim=1)
    activation, slope = activation[:, 1:], slope[:, 1:]  # patches: (B, N, W)
    return (slope.mean(dim=1, keepdim=True) * activation).sum(dim=2).unflatten(1, vit_grid(encoder.vit)[1])
