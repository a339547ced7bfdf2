"""Frames of a benchmark from text labels: contiguous numbers for training, raw numbers for testing.

A *raw* frame has ``path, person`` (raw integer)``, person_label, camera, camera_label, clothes_label``
and the benchmark's own columns. ``clothes_label`` is unique per person and outfit, "" where unknown.
Numbering follows the usual data loaders: training people and outfits are 0..N-1 in the sorted order of
their raw values; test people keep their raw number; test outfits share one map over query and gallery.
Labels are sorted numerically, so leading zeros in file names have no effect.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

UNKNOWN = -1
LABELS = ("path", "person", "camera", "clothes", "person_label", "clothes_label", "camera_label")


def raw_frame(
    paths: Sequence[str],
    person_label: Sequence[str],
    camera_label: Sequence[str] | None = None,
    clothes_label: Sequence[str] | None = None,
    person: Any = None,
    camera: Any = None,
    **own: Any,
) -> pd.DataFrame:
    """A raw frame, sorted by path.

    Args:
        person: raw integers (N,); left out: the labels as integers.
        camera: integers (N,); left out: -1, no camera known.
        own: further integer columns of this benchmark, each (N,).
    """
    n = len(paths)
    columns = {
        "path": list(paths),
        "person": np.array(person_label if person is None else person, dtype=np.int64),
        "camera": np.full(n, UNKNOWN) if camera is None else np.asarray(camera, dtype=np.int64),
        "clothes": np.full(n, UNKNOWN),
        "person_label": list(person_label),
        "clothes_label": [""] * n if clothes_label is None else list(clothes_label),
        "camera_label": [""] * n if camera_label is None else list(camera_label),
    }
    frame = pd.DataFrame(columns | {name: np.asarray(values, dtype=np.int64) for name, values in own.items()})
    for name in ("path", "person_label", "clothes_label", "camera_label"):
        frame[name] = frame[name].astype("str")  # an empty frame would otherwise have no text columns
    return frame.sort_values("path", ignore_index=True)


def rank_labels(labels: pd.Series) -> np.ndarray:
    """Labels (N,) as 0..N-1 in sorted order, int64; "" is -1. Digits sort as numbers: ``2_1`` before ``10_1``."""
    order = {label: rank for rank, label in enumerate(sorted(set(labels) - {""}, key=_natural))}
    return np.array([order.get(label, UNKNOWN) for label in labels], dtype=np.int64)


def _natural(label: str) -> list[tuple[int, str]]:
    """A sort key of alternating text and numbers; numbers, which have no leading zeros, compare by length first."""
    return [(len(part) if i % 2 else 0, part) for i, part in enumerate(re.split(r"(\d+)", label))]


def number_clothes(*frames: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """The frames with ``clothes`` numbered 0..N-1 by sorted label over all of them; "" is -1."""
    clothes = rank_labels(pd.concat([frame["clothes_label"] for frame in frames], ignore_index=True))
    ends = np.cumsum([len(frame) for frame in frames])[:-1]
    return tuple(frame.assign(clothes=part) for frame, part in zip(frames, np.split(clothes, ends), strict=True))


def number_cameras(*frames: pd.DataFrame) -> tuple[pd.DataFrame, ...]:
    """The frames with ``camera`` counted from 0; in file names cameras count from 1, or from 0 where there is a 0."""
    first = min((int(frame["camera"].min()) for frame in frames if len(frame)), default=1)
    return tuple(frame.assign(camera=frame["camera"] - (first > 0)) for frame in frames)


def number_train(train: pd.DataFrame) -> pd.DataFrame:
    """The frame with ``person`` and ``clothes`` numbered 0..N-1 by sorted raw value."""
    codes, _ = pd.factorize(train["person"], sort=True)
    return number_clothes(train.assign(person=codes.astype(np.int64)))[0]


def select(frame: pd.DataFrame, keep: Any) -> pd.DataFrame:
    """The rows where ``keep`` (N,) is true, with a new index from 0."""
    return frame[np.asarray(keep)].reset_index(drop=True)


def pick_queries(frame: pd.DataFrame) -> np.ndarray:
    """One image (or tracklet) per person x outfit x camera: (N,) bool, true for queries.

    The middle one of each group in path order is the query; a group of one stays in the gallery. A person who would
    then have no query gets one per outfit, or else a single one, so that every person with at least two images
    (tracklets) has a query and a match. Distractors (person -1) are never queries.
    """
    unit = frame["tracklet"] if _by_tracklet(frame) else pd.Series(np.arange(len(frame)), index=frame.index)
    units = frame.assign(unit=unit).drop_duplicates("unit")
    chosen = pd.Series(False, index=units.index)
    for key in (["person", "clothes", "camera"], ["person", "clothes"], ["person"]):
        group = units.groupby(key)
        take = (units["person"] != UNKNOWN) & (group["unit"].transform("size") > 1)
        take &= group.cumcount() == group["unit"].transform("size") // 2
        served = units["person"].isin(units["person"][chosen])
        chosen |= take & ~served
    return unit.isin(units["unit"][chosen]).to_numpy()


def _by_tracklet(frame: pd.DataFrame) -> bool:
    """Whether tracklets are ranked instead of images (CCVID)."""
    return frame.attrs.get("unit") == "tracklet"
