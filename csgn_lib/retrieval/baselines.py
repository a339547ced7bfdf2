"""Baselines without learning: random features and colour histograms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray

from csgn_lib.batches import iterate

STRIPES, LEVELS = 6, 4


def chance(images: int, generator: Generator) -> NDArray[np.float32]:
    """Random features (N, 32)."""
    return generator.standard_normal((images, 32), dtype=np.float32)


def colour_histogram(frame: pd.DataFrame, root: str | Path, size: tuple[int, int]) -> NDArray[np.float32]:
    """Square roots of RGB histograms in six horizontal stripes, (N, 6 * 64): their inner product is the
    Bhattacharyya coefficient. A classic descriptor of re-identification that depends on clothing.
    """
    parts = [_histograms(batch.images.numpy()) for batch in iterate(frame, root, size)]
    return np.concatenate(parts)


def _histograms(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(B, 3, H, W) uint8 to (B, STRIPES * LEVELS ** 3)."""
    count, _, height, width = images.shape
    level = images.astype(np.int64) * LEVELS // 256
    colour = (level[:, 0] * LEVELS + level[:, 1]) * LEVELS + level[:, 2]  # (B, H, W)
    stripe = np.arange(height) * STRIPES // height
    bins = STRIPES * LEVELS**3
    place = np.arange(count)[:, None, None] * bins + stripe[:, None] * LEVELS**3 + colour
    counts = np.bincount(place.ravel(), minlength=count * bins).reshape(count, bins)
    return np.sqrt(counts / (height * width)).astype(np.float32)
