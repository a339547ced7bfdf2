"""The share of features in a subspace, compared with random subspaces of the same dimension."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Generator, Tensor

from csgn_lib import vocabulary
from csgn_lib.records import InputError
from csgn_lib.statistics.intervals import Interval, over_people


def centred(features: Tensor) -> Tensor:
    """Unit rows minus their mean, float64: (N, P) to (N, P)."""
    rows = F.normalize(features.double(), dim=-1)
    return rows - rows.mean(dim=0)


def energy_curve(
    features: Tensor, basis: Tensor, ranks: Sequence[int], people: ArrayLike, **options: Any
) -> pd.DataFrame:
    """Share of the features' squared norm that lies in the first k columns of a basis, for k in ``ranks``.

    |B_k^T X|^2 / |X|^2, with an interval over people. With ``centred`` features it is the share of their variance,
    with differences of two features the share of a movement.

    Args:
        features: (N, P). basis: (P, K), orthonormal, most important column first.
        ranks: from 0 to K. people: (N,). options: as for ``over_people``.

    Returns:
        Columns rank, value, low, high.
    """
    if max(ranks) > basis.shape[1]:
        raise InputError(f"rank {max(ranks)} exceeds the {basis.shape[1]} directions of the basis; lower it")
    inside = vocabulary.coordinates(features.double(), basis.double()).square().cumsum(dim=1)  # (N, K)
    inside, whole = F.pad(inside, (1, 0)).numpy(), features.double().square().sum(dim=1).numpy()
    return pd.DataFrame([{"rank": k} | over_people(inside[:, k], people, whole, **options).record() for k in ranks])


def random_basis(dimensions: int, rank: int, generator: Generator) -> Tensor:
    """An orthonormal basis (dimensions, rank) of a uniformly random subspace, the control of a text subspace."""
    return torch.linalg.qr(torch.randn(dimensions, rank, generator=generator, dtype=torch.float64)).Q


def random_energy(features: Tensor, rank: int, generator: Generator, draws: int = 200) -> Interval:
    """Share of the features' squared norm in random subspaces: its mean (rank / P) and the middle 95 % of draws."""
    rows = features.double()
    bases = (random_basis(rows.shape[1], rank, generator) for _ in range(draws))
    shares = [float((rows @ basis).square().sum() / rows.square().sum()) for basis in bases]
    low, high = np.quantile(shares, [0.025, 0.975])
    return Interval(float(np.mean(shares)), float(low), float(high))
