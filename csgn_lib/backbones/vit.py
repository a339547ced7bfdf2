"""The features of a ViT at the two depths that CLIP-ReID uses: open_clip's, and timm's EVA."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint


@dataclass(frozen=True)
class VitFeatures:
    """Outputs of a ViT for B images, at the depths that CLIP-ReID uses [C].

    z11 (B, W): class token after the last but one block. z12 (B, W): class token after the last
    block and its LayerNorm. zp (B, P): z12 projected into the space shared with text.
    tokens (B, L, W): patch tokens after the last block and its LayerNorm, row by row; None unless requested.
    """

    z11: Tensor
    z12: Tensor
    zp: Tensor
    tokens: Tensor | None = None


def vit_features(
    visual: VisionTransformer | TimmModel, normalised: Tensor, recompute: bool = False, tokens: bool = False
) -> VitFeatures:
    """Normalised images (B, 3, H, W) through open_clip's ViT or timm's EVA, read at two depths [C].

    ``recompute`` keeps only the input of each block and recomputes the rest in the backward pass: the same gradients,
    a fraction of the memory, a third more time. Without ``tokens``, open_clip's last block computes only the class
    token, which saves a fifteenth of ViT-B/16's arithmetic.
    """
    run = partial(checkpoint, _run_block, use_reentrant=False) if recompute else _run_block
    if isinstance(visual, TimmModel):
        trunk = visual.trunk
        x, rotation = trunk._pos_embed(trunk.patch_embed(normalised))
        x, norm, project = trunk.norm_pre(x), trunk.norm, trunk.head
        *blocks, final = (partial(block, rope=rotation) for block in trunk.blocks)
    else:
        x, norm, project = visual._embeds(normalised), visual.ln_post, partial(torch.matmul, other=visual.proj)
        *blocks, final = visual.transformer.resblocks
        final = final if tokens else partial(_class_token, final)
    for block in blocks:
        x = run(block, x)
    last = norm(run(final, x))
    z12 = last[:, 0]
    return VitFeatures(z11=x[:, 0], z12=z12, zp=project(z12), tokens=last[:, 1:] if tokens else None)


def _run_block(block: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with fast_attention(x.device):  # in a second run too
        return block(x)


def _class_token(block: nn.Module, x: Tensor) -> Tensor:
    """The class token (B, 1, W) after one of open_clip's blocks, computed without the other tokens' outputs."""
    normed = block.ln_1(x)
    first = x[:, :1] + block.ls_1(block.attention(normed[:, :1], normed, normed))
    return first + block.ls_2(block.mlp(block.ln_2(first)))


def fast_attention(device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Plain attention on the CPU, where its backward pass is three times as fast as the fused one (torch 2.14)."""
    plain = device.type == "cpu" and torch.is_grad_enabled()
    return sdpa_kernel([SDPBackend.MATH]) if plain else contextlib.nullcontext()
