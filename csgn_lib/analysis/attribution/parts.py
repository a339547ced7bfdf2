"""Shares of a map on the parts that an image shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor

from csgn_lib.analysis.attribution.images import to_pixels
from csgn_lib.backbones import vit_grid
from csgn_lib.records import InputError
from csgn_lib.vss import VisualEncoder


def coarse(weights: Tensor, cell: int) -> Tensor:
    """A map (B, H, W) averaged over cells of ``cell`` x ``cell`` pixels, bilinear between them, unit sum.

    A coarse map spills over edges, from thin parts more than from broad ones, so a control must be equally coarse.

    Raises:
        InputError: cells smaller than a pixel or larger than the map.
    """
    height, width = weights.shape[-2:]
    if not 1 <= cell <= min(height, width):
        raise InputError(
            f"cells of {cell} pixels do not fit maps of {height} x {width}; give 1 to {min(height, width)}"
        )
    cells = F.adaptive_avg_pool2d(weights[:, None].float(), (height // cell, width // cell))[:, 0]
    return to_pixels(cells, (height, width))


def cell_size(encoder: VisualEncoder, size: tuple[int, int]) -> int:
    """Side in pixels of a cell of the encoder's maps: a patch of the ViT, or a cell of the ResNet's last stage."""
    rows = vit_grid(encoder.vit)[1][0] if encoder.vit is not None else size[0] // 8
    return round(size[0] / rows)


def share_on(maps: Tensor, masks: ArrayLike, groups: Mapping[str, Sequence[int]]) -> pd.DataFrame:
    """The sum of each map on each group of parts; a uniform map gives the groups' shares of the pixels.

    Args:
        maps: (B, H, W) of unit sum; one that is all zero gives 0 everywhere.
        masks: (B, H, W) integers, the part that each pixel shows, such as ``Picture.mask``.
        groups: name -> the parts in it; every part of the masks in exactly one.

    Returns:
        B rows, a column for each group, in [0, 1].

    Raises:
        InputError: masks of another shape, a part in no group or in two.

    Example: a map of two pixels, three quarters of it on the part 1.

        >>> share_on(torch.tensor([[[0.75, 0.25]]]), [[[1, 0]]], {"garments": [1], "rest": [0]}).iloc[0].to_dict()
        {'garments': 0.75, 'rest': 0.25}
    """
    parts = torch.as_tensor(np.asarray(masks), dtype=torch.int64, device=maps.device)
    if maps.ndim != 3 or parts.shape != maps.shape:
        raise InputError(f"maps are {tuple(maps.shape)}, masks {tuple(parts.shape)}; give one part for each pixel")
    listed = [part for members in groups.values() for part in members]
    strange = sorted(set(parts.unique().tolist()) - set(listed))
    if strange or len(set(listed)) != len(listed):
        raise InputError(f"parts {strange or listed} are in no group or in two; each part belongs to exactly one")
    on = {name: torch.isin(parts, torch.tensor(list(of), device=maps.device)) for name, of in groups.items()}
    return pd.DataFrame({name: (maps.double() * mask).sum(dim=(1, 2)).cpu().numpy() for name, mask in on.items()})
