"""Preparation of features for comparison: validated, float32, unit length, one row per image.

Features are (N, D) numpy arrays or torch tensors. CPU tensors are used as arrays without a copy; tensors on an
accelerator are copied to the CPU. torch is not imported.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from csgn_lib.datasets import ccvid
from csgn_lib.records import InputError
from csgn_lib.retrieval.blocks import in_threads, thread_count

CHUNK = 4096  # rows that one thread normalises at a time
UNIT = 1e-6  # features whose norms are this close to 1 are used without a copy


def is_tensor(values: Any) -> bool:
    """Whether ``values`` is a torch tensor; does not import torch."""
    return type(values).__module__.partition(".")[0] == "torch"


def as_array(values: ArrayLike | Any, name: str) -> NDArray[np.floating]:
    """``values`` as a floating-point array (rows, columns), without a copy if possible.

    Args:
        values: array, nested lists or torch tensor; integers become float64, half precisions float32.
        name: name in error messages.

    Raises:
        InputError: not numeric, not two-dimensional, or without rows or columns.
    """
    if is_tensor(values):
        values = values.detach()
        values = (values.float() if values.element_size() < 4 else values).cpu().numpy()
    try:
        array = np.asarray(values)
    except ValueError as error:  # rows of different lengths
        raise InputError(f"{name} cannot be read as one table ({error}); (rows, columns) is needed") from None
    if array.dtype.kind not in "fiub":
        raise InputError(f"{name} has the type {array.dtype}; floating-point numbers are needed")
    if array.ndim != 2 or 0 in array.shape:
        raise InputError(f"{name} has the shape {array.shape}; (rows, columns) without a 0 is needed")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float32 if array.dtype == np.float16 else np.float64)
    return array


def check_rows(count: int, frame: pd.DataFrame, name: str, split: str) -> None:
    """Raise InputError unless there is one row of features for each row of ``frame``."""
    if frame.empty:
        raise InputError(f"the {split} split is empty")
    if count != len(frame):
        raise InputError(
            f"{name} has {count} rows and the {split} frame {len(frame)}: one row of features an image, in its order"
        )


def check_columns(query: Any, gallery: Any) -> None:
    """Raise InputError unless query and gallery features have the same width."""
    if query.shape[1] != gallery.shape[1]:
        raise InputError(
            f"query_features are {query.shape[1]} wide and gallery_features {gallery.shape[1]}: embed both alike"
        )


def bad_row(index: int, row: NDArray[np.floating], name: str) -> InputError:
    """The error for a row of features that cannot be normalised."""
    if not np.isfinite(row).all():
        what = "holds NaN or infinity"
    else:
        what = "is zero" if not row.any() else "is too large or too small for float32"
    return InputError(f"row {index} of {name} {what}: it cannot be compared; embed that image again, or exclude it")


def lengths(array: NDArray[np.floating], name: str, threads: int) -> NDArray[np.float32]:
    """Norms (N,) of features (N, D).

    Raises:
        InputError: a row with NaN or infinity, or of length 0: the first one is named.
    """

    def norms(start: int) -> NDArray[np.float32]:
        with np.errstate(over="ignore"):
            chunk = np.asarray(array[start : start + CHUNK], dtype=np.float32)
            return np.sqrt(np.einsum("nd,nd->n", chunk, chunk))

    length = np.concatenate(list(in_threads(norms, range(0, len(array), CHUNK), threads)))
    bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if len(bad):
        raise bad_row(int(bad[0]), array[bad[0]], name)
    return length


def unit_rows(features: ArrayLike | Any, name: str = "features", threads: int | None = None) -> NDArray[np.float32]:
    """L2-normalised features (N, D), float32, C-contiguous; the input itself if it already is.

    Args:
        features: (N, D), any floating type, any scale.
        name: name in error messages.
        threads: None for all cores.

    Raises:
        InputError: no two-dimensional numbers, or as ``lengths``.
    """
    array, threads = as_array(features, name), thread_count(threads)
    length = lengths(array, name, threads)
    if array.dtype == np.float32 and array.flags.c_contiguous and np.abs(length - 1).max() <= UNIT:
        return array
    unit = np.empty(array.shape, dtype=np.float32)

    def scale(start: int) -> None:
        part = slice(start, start + CHUNK)
        np.divide(array[part], length[part, None], out=unit[part], casting="same_kind")

    deque(in_threads(scale, range(0, len(array), CHUNK), threads), maxlen=0)
    return unit


def by_tracklet(
    features: ArrayLike | Any, frame: pd.DataFrame, name: str
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """One feature per tracklet: the weighted mean of its frames' raw features (CCVID's video clips).

    Args:
        features: (N, D), one row a video frame, not normalised.
        frame: N rows with a column ``tracklet``.

    Returns:
        features (T, D) in the order in which tracklets first appear, and those first rows (T,).
    """
    if "tracklet" not in frame.columns:
        raise InputError(f"the frame of {name} has no column 'tracklet', and the protocol ranks tracklets")
    array = as_array(features, name)
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        bad = int(np.argmin(finite))
        raise bad_row(bad, array[bad], name)
    code, first = first_rows(frame)
    weight = ccvid.weights(code)
    mean = np.zeros((len(first), array.shape[1]))
    for start in range(0, len(array), CHUNK):
        part = slice(start, start + CHUNK)
        np.add.at(mean, code[part], array[part] * weight[part, None])
    return mean, first


def ranked_units(
    features: Any, frame: pd.DataFrame, split: str, aggregate: str | None
) -> tuple[Any, pd.DataFrame, NDArray[np.int64]]:
    """The units that a protocol ranks, images or tracklets: (features, frame, positions of its rows in ``frame``).

    Raises InputError unless there is one row of features for each row of the frame of this split.
    """
    check_rows(len(features), frame, f"{split}_features", split)
    if aggregate != "tracklet":
        return features, frame, np.arange(len(frame))
    means, rows = by_tracklet(features, frame, f"{split}_features")
    return means, frame.iloc[rows], rows


def first_rows(frame: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of each row's tracklet in order of appearance (N,), and each tracklet's first row (T,)."""
    code, _ = pd.factorize(frame["tracklet"].to_numpy())
    return code, np.unique(code, return_index=True)[1]
