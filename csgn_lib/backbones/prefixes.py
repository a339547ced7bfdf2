"""The common beginning of prompts, read once: in a causal text tower no word depends on a later one.

"A photo of a" is the same for every identity and at every step of stage 1. Its keys and values in every block are
constants, so the frozen tower reads only what follows: 7 of the 12 tokens of CLIP-ReID's prompt, and in the last block
end-of-text alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


class PromptPrefix(NamedTuple):
    """M beginnings of prompts in a frozen text tower, at most P tokens long. S tokens follow on each.

    states (blocks, 2, M, heads, P, W / heads): keys and values. mask (M, S, P + S): 0 where a token may attend to an
    earlier one, minus infinity elsewhere. positions (M, S): int64, of the tokens that follow.
    """

    states: Tensor
    mask: Tensor
    positions: Tensor

    @classmethod
    @torch.no_grad()
    def of(cls, transformer: nn.Module, x: Tensor, lengths: Sequence[int], size: int) -> PromptPrefix:
        """Of prompts (M, L, W) with their positions added, which begin with ``lengths`` tokens; ``size`` tokens follow.

        What comes after a beginning in ``x`` is read and masked.
        """
        x = x[:, : max(lengths)]
        causal, states = torch.full((x.shape[1],) * 2, -torch.inf, device=x.device).triu(1), []
        for block in transformer.resblocks:
            states.append(torch.stack(_projected(block.attn, block.ln_1(x))[1:]))
            x = block(x, attn_mask=causal)
        starts, rows = torch.tensor(lengths, device=x.device)[:, None], torch.arange(size, device=x.device)
        past = torch.arange(x.shape[1], device=x.device) < starts  # (M, P)
        past = past[:, None].expand(-1, size, -1)
        allowed = torch.cat([past, (rows <= rows[:, None]).expand(len(past), -1, -1)], dim=2)
        mask = torch.zeros(allowed.shape, device=x.device).masked_fill(~allowed, -torch.inf)
        return cls(torch.stack(states), mask, starts + rows)


def has_plain_blocks(transformer: nn.Module) -> bool:
    """Whether all blocks are open_clip's own, whose keys and values can be computed apart."""
    blocks = getattr(transformer, "resblocks", None)
    return bool(blocks) and all(type(block) is ResidualAttentionBlock and block.attn.batch_first for block in blocks)


def last_after_prefix(transformer: nn.Module, x: Tensor, prefix: PromptPrefix) -> Tensor:
    """The output (N, W) at the last token of N prompts, of which only what follows their beginnings is given.

    Args:
        x: (N, S, W), positions added; the first N / M continue the first beginning, and so on.
    """
    each = len(x) // len(prefix.mask)
    mask = prefix.mask.repeat_interleave(each, dim=0)[:, None]  # (N, 1, S, P + S)
    for number, (block, past) in enumerate(zip(transformer.resblocks, prefix.states, strict=True), 1):
        kept = 1 if number == len(prefix.states) else x.shape[1]  # of the last block one token is read
        past = past.repeat_interleave(each, dim=1)
        attended = _attention(block.attn, block.ln_1(x), past, mask[:, :, -kept:])
        x = x[:, -kept:] + block.ls_1(attended)
        x = x + block.ls_2(block.mlp(block.ln_2(x)))
    return x[:, 0]


def _attention(attention: nn.MultiheadAttention, normed: Tensor, past: Tensor, mask: Tensor) -> Tensor:
    """Attention of the last rows of (N, S, W), as many as the mask has, to all of them and to those before."""
    query, *now = _projected(attention, normed)
    key, value = (torch.cat([old.to(new), new], dim=2) for old, new in zip(past, now, strict=True))
    query = query[:, :, -mask.shape[2] :]
    answer = F.scaled_dot_product_attention(query, key, value, attn_mask=mask.to(query))
    return attention.out_proj(answer.transpose(1, 2).flatten(2))


def _projected(attention: nn.MultiheadAttention, normed: Tensor) -> tuple[Tensor, ...]:
    """Queries, keys and values of (N, S, W), each (N, heads, S, W / heads)."""
    projected = F.linear(normed, attention.in_proj_weight, attention.in_proj_bias)
    return tuple(part.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2) for part in projected.chunk(3, dim=-1))
