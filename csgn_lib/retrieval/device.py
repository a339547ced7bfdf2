"""Ranks on an accelerator: torch's sort and binary search on whole blocks.

Imported only for tensors on a device; the other modules that score features do not need torch.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from csgn_lib.retrieval.blocks import BLOCK_BYTES, block_rows
from csgn_lib.retrieval.features import CHUNK, bad_row, on_accelerator
from csgn_lib.retrieval.ranking import Pairs, pairs_in


def full_ranks(block: Tensor, row: NDArray[np.int64], column: NDArray[np.int64]) -> NDArray[np.int64]:
    """``ranking.full_ranks`` for a tensor (B, G) on any device; same arguments, same result (n,)."""
    rows, columns = (torch.from_numpy(index).to(block.device) for index in (row, column))
    value = block[rows, columns]
    count = torch.bincount(rows, minlength=len(block))
    place = torch.arange(len(rows), device=block.device) - (count.cumsum(0) - count)[rows]
    padded = block.new_zeros(len(block), int(count.max()))  # (B, most entries of a row)
    padded[rows, place] = value
    ordered = block.sort(dim=1).values
    below = torch.searchsorted(ordered, padded)[rows, place]
    upto = torch.searchsorted(ordered, padded, right=True)[rows, place]
    tied = torch.nonzero(upto - below > 1).flatten()
    positions = torch.arange(block.shape[1], device=block.device)
    step = max(1, BLOCK_BYTES // (16 * block.shape[1]))
    for part in tied.split(step):
        equal = block[rows[part]] == value[part, None]
        below[part] += (equal & (positions < columns[part, None])).sum(dim=1)
    return (below + 1).cpu().numpy()


def unit_rows(features: Tensor, name: str) -> Tensor:
    """L2-normalised float32 features (N, D); InputError as ``features.unit_rows``."""
    parts = []
    for start in range(0, len(features), CHUNK):
        part = features[start : start + CHUNK].detach().float()
        length = part.square().sum(dim=1, keepdim=True).sqrt()
        bad = torch.nonzero(~(length.isfinite() & (length > 0)).flatten()).flatten()
        if len(bad):
            raise bad_row(start + int(bad[0]), part[bad[0]].cpu().numpy(), name)
        parts.append(part / length)
    return torch.cat(parts)


def rank_block(block: Tensor, start: int, pairs: list[Pairs]) -> None:
    """``ranking.rank_block`` for a tensor on a device."""
    for rank, columns, _, row, column in pairs_in(block, start, pairs):
        rank[:] = full_ranks(columns, row, column)


def rank_features(query: Tensor, gallery: Tensor, pairs: list[Pairs]) -> None:
    """``ranking.rank_features`` for unit features on a device."""
    rows = block_rows(len(query), len(gallery), threads=1, itemsize=16)  # values, sorted values, their indices
    for start in range(0, len(query), rows):
        rank_block(-(query[start : start + rows] @ gallery.T), start, pairs)


def rank_mixed(query: Tensor | ArrayLike, gallery: Tensor | ArrayLike, pairs: list[Pairs]) -> None:
    """Normalise and rank features on the accelerator on which at least one side is stored."""
    home = next(side.device for side in (query, gallery) if on_accelerator(side))
    moved = [
        unit_rows(torch.as_tensor(side).to(home), name)
        for side, name in ((query, "query_features"), (gallery, "gallery_features"))
    ]
    rank_features(*moved, pairs)
