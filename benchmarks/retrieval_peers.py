"""Evaluation code of other projects, run for comparison if its path is set."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.measurement import load_peer, peer_root

Curve = tuple[NDArray[np.floating], float]  # CMC, mAP
Scorer = Callable[[NDArray[np.float32], pd.DataFrame, pd.DataFrame], Curve]


def scorers() -> dict[str, tuple[str, Scorer]]:
    """The available projects: name -> (protocol, their function of distances (Q, G) and the two frames)."""
    found: dict[str, tuple[str, Scorer]] = {}
    if peer_root("Simple-CCReID"):
        simple = _load("Simple-CCReID", "tools", "eval_metrics")
        found["Simple-CCReID general"] = "general", lambda d, q, g: simple.evaluate(d, *_labels(q, g))
        found["Simple-CCReID clothes-changing"] = (
            "cloth_changing",
            lambda d, q, g: simple.evaluate_with_clothes(d, *_labels(q, g), *_labels(q, g, "clothes")),
        )
    if peer_root("CLIP-ReID"):
        clip = _load("CLIP-ReID", "utils", "metrics")
        found["CLIP-ReID"] = "general", lambda d, q, g: clip.eval_func(d, *_labels(q, g))
    if peer_root("fast-reid"):
        fast = _load("fast-reid", "fastreid/evaluation", "rank")
        name = "fast-reid Cython" if fast.IS_CYTHON_AVAI else "fast-reid Python"
        found[name] = "general", lambda d, q, g: _mean(fast.evaluate_rank(d, *_labels(q, g)))
    if peer_root("FIRe"):
        fire = _load("FIRe", "evaluate", "metrics_for_cc")
        found["FIRe clothes-changing"] = (
            "cloth_changing",
            lambda d, q, g: fire.evaluate_ltcc(d, *_labels(q, g), *_labels(q, g, "clothes"), ltcc_cc_setting=True),
        )
    return found


def reranker() -> Callable[..., Any] | None:
    """CLIP-ReID's ``re_ranking(query tensor, gallery tensor, k1, k2, lambda)``; None without its code."""
    return _load("CLIP-ReID", "utils", "reranking").re_ranking if peer_root("CLIP-ReID") else None


def _mean(result: tuple[Any, ...]) -> Curve:
    return result[0], float(np.mean(result[1]))


def _labels(query: pd.DataFrame, gallery: pd.DataFrame, *columns: str) -> list[NDArray[np.int64]]:
    """Copies: fast-reid's Cython refuses the read-only arrays that pandas gives."""
    return [np.array(frame[column]) for column in columns or ("person", "camera") for frame in (query, gallery)]


def _load(peer: str, folder: str, module: str) -> ModuleType:
    if not hasattr(np, "in1d"):  # Simple-CCReID needs it; removed in NumPy 2.4
        np.in1d = lambda a, b, invert=False: np.isin(a, b, invert=invert)  # type: ignore[attr-defined]
    return load_peer(peer, folder, module)
