"""Attention of the ViT's class token: rollout through all blocks, and the heads of the last block."""

from __future__ import annotations

import torch
from torch import Tensor

from csgn_lib.analysis.attribution.images import checked, to_pixels
from csgn_lib.backbones import attention_weights, vit_features, vit_grid
from csgn_lib.records import InputError
from csgn_lib.vss import VisualEncoder


def rollout(encoder: VisualEncoder, images: Tensor, batch_size: int = 32) -> Tensor:
    """Attention rollout (Abnar and Zuidema, ACL 2020): the patches that the class token's feature is mixed from.

    R = A'_L ... A'_1 with A' = (A + I) / 2, A the mean over heads; the class token's row without its own entry. It
    ignores values, MLPs, the ResNet and the other image.

    Args:
        images: (B, 3, H, W), RGB, uint8 or float in [0, 1].

    Returns:
        maps (B, H, W) of unit sum.

    Raises:
        InputError: an encoder without a ViT, attention that cannot be read, images that do not fit.
    """
    found = []
    for layers in _attention(encoder, images, batch_size):
        mixed = torch.eye(layers[0].shape[-1], device=images.device).expand(len(layers[0]), -1, -1)
        for weights in layers:
            step = weights.float().mean(dim=1)  # (B, 1 + N, 1 + N)
            mixed = (step @ mixed + mixed) / 2
        found.append(mixed[:, 0, 1:])
    return to_pixels(_cells(encoder, torch.cat(found)), tuple(images.shape[-2:]))


def heads(encoder: VisualEncoder, images: Tensor, batch_size: int = 32) -> Tensor:
    """Attention of the class token in each head of the last block: maps (B, heads, H, W), each of unit sum.

    Arguments and errors as for ``rollout``.
    """
    rows = torch.cat([layers[-1][:, :, 0, 1:].float() for layers in _attention(encoder, images, batch_size)])
    maps = to_pixels(_cells(encoder, rows.flatten(0, 1)), tuple(images.shape[-2:]))
    return maps.unflatten(0, tuple(rows.shape[:2]))


def _attention(encoder: VisualEncoder, images: Tensor, batch_size: int) -> list[list[Tensor]]:
    if encoder.vit is None:
        raise InputError("rollout and heads need a ViT, and this encoder is vss=resnet; use grad_cam or occlusion")
    made = []
    for batch in checked(encoder, images).split(batch_size):
        with torch.no_grad(), attention_weights(encoder.vit) as layers:
            vit_features(encoder.vit, (batch - encoder.vit_mean) / encoder.vit_std, tokens=True)
        made.append(layers)
    return made


def _cells(encoder: VisualEncoder, patches: Tensor) -> Tensor:
    return patches.unflatten(-1, vit_grid(encoder.vit)[1])
