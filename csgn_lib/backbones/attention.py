"""Read access to a ViT: its patch grid, its layers, and the attention weights of each block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from open_clip.timm_model import TimmModel
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn

from csgn_lib.records import InputError

Vit = VisionTransformer | TimmModel


def vit_grid(visual: Vit) -> tuple[tuple[int, int], tuple[int, int]]:
    """Image size (H, W) in pixels and patch grid (rows, columns) of a ViT."""
    patches = visual.trunk.patch_embed if isinstance(visual, TimmModel) else None
    size, grid = (visual.image_size, visual.grid_size) if patches is None else (patches.img_size, patches.grid_size)
    return tuple(size), tuple(grid)


def last_norm(visual: Vit) -> nn.Module:
    """The last block's first LayerNorm, (B, 1 + N, W): the last layer whose patch tokens affect the class token."""
    block = _blocks(visual)[-1]
    return block.norm1 if isinstance(visual, TimmModel) else block.ln_1


def vit_layers(visual: Vit) -> list[list[nn.Parameter]]:
    """A ViT's parameters by layer, from pixels to feature: embeddings, each block, layers after the blocks."""
    blocks = [list(block.parameters()) for block in _blocks(visual)]
    inside = {id(value) for block in blocks for value in block}
    top = (visual.trunk.norm, visual.trunk.head) if isinstance(visual, TimmModel) else (visual.ln_post,)
    head = [value for module in top for value in module.parameters()]
    head += [] if isinstance(visual, TimmModel) else [visual.proj]
    inside |= {id(value) for value in head}
    return [[value for value in visual.parameters() if id(value) not in inside], *blocks, head]


@contextmanager
def attention_weights(visual: Vit) -> Iterator[list[Tensor]]:
    """Context manager: forward passes append the attention of each block (B, heads, 1 + N, 1 + N), first block first.

    Rows are queries and sum to one; token 0 is the class token. In a pass without ``tokens``, the last block has the
    class token as its only query: (B, heads, 1, 1 + N). The output of the ViT does not change, up to rounding.

    Raises:
        InputError: blocks whose attention is neither torch's nor timm's, and cannot be read.
    """
    weights: list[Tensor] = []
    attentions = [block.attn for block in _blocks(visual)]
    own = all(isinstance(attention, nn.MultiheadAttention) for attention in attentions)
    if not own and not all(hasattr(a, "fused_attn") and hasattr(a, "attn_drop") for a in attentions):
        kind = type(attentions[0]).__name__
        raise InputError(f"no attention maps: {kind} does not give its weights; use grad_cam or occlusion instead")
    with ExitStack() as stack:
        for attention in attentions:
            if own:
                handles = _read_torch(attention, weights)
            else:
                stack.callback(setattr, attention, "fused_attn", attention.fused_attn)
                attention.fused_attn = False  # the fused kernel does not return the weights
                handles = [attention.attn_drop.register_forward_pre_hook(lambda _, given: weights.append(given[0]))]
            for handle in handles:
                stack.callback(handle.remove)
        yield weights


def _read_torch(attention: nn.MultiheadAttention, weights: list[Tensor]) -> list[Any]:
    def ask(module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return given, named | {"need_weights": True, "average_attn_weights": False}

    def keep(module: nn.Module, given: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        weights.append(output[1])

    return [attention.register_forward_pre_hook(ask, with_kwargs=True), attention.register_forward_hook(keep)]


def _blocks(visual: Vit) -> list[nn.Module]:
    return list(visual.trunk.blocks if isinstance(visual, TimmModel) else visual.transformer.resblocks)
