"""Other projects' scorers, run beside ours where whoever runs this has them.

None of their code is here: it is fetched by the user, given by path in an environment variable, and
loaded file by file, without installing their projects.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

VARIABLES = {
    "Simple-CCReID": "SIMPLE_CCREID",
    "CLIP-ReID": "CLIP_REID",
    "fast-reid": "FAST_REID",
    "FIRe": "FIRE_CCREID",
}
Curve = tuple[NDArray[np.floating], float]  # CMC, mAP
Scorer = Callable[[NDArray[np.float32], pd.DataFrame, pd.DataFrame], Curve]


def missing() -> list[str]:
    """A line for each peer that no path is given for."""
    return [f"{name}: skipped, {variable} is not set" for name, variable in VARIABLES.items() if not _root(name)]


def scorers() -> dict[str, tuple[str, Scorer]]:
    """The peers that there are: name -> (our protocol, their function of distances (Q, G) and the two frames)."""
    found: dict[str, tuple[str, Scorer]] = {}
    if _root("Simple-CCReID"):
        simple = _load("Simple-CCReID", "tools", "eval_metrics")
        found["Simple-CCReID general"] = "general", lambda d, q, g: simple.evaluate(d, *_labels(q, g))
        found["Simple-CCReID clothes-changing"] = (
            "cloth_changing",
            lambda d, q, g: simple.evaluate_with_clothes(d, *_labels(q, g), *_labels(q, g, "clothes")),
        )
    if _root("CLIP-ReID"):
        clip = _load("CLIP-ReID", "utils", "metrics")
        found["CLIP-ReID"] = "general", lambda d, q, g: clip.eval_func(d, *_labels(q, g))
    if _root("fast-reid"):
        fast = _load("fast-reid", "fastreid/evaluation", "rank")
        name = "fast-reid Cython" if fast.IS_CYTHON_AVAI else "fast-reid Python"
        found[name] = "general", lambda d, q, g: _mean(fast.evaluate_rank(d, *_labels(q, g)))
    if _root("FIRe"):
        fire = _load("FIRe", "evaluate", "metrics_for_cc")
        found["FIRe clothes-changing"] = (
            "cloth_changing",
            lambda d, q, g: fire.evaluate_ltcc(d, *_labels(q, g), *_labels(q, g, "clothes"), ltcc_cc_setting=True),
        )
    return found


def reranker() -> Callable[..., Any] | None:
    """CLIP-ReID's ``re_ranking(query tensor, gallery tensor, k1, k2, lambda)``, if it is there."""
    return _load("CLIP-ReID", "utils", "reranking").re_ranking if _root("CLIP-ReID") else None


def _root(name: str) -> Path | None:
    path = os.environ.get(VARIABLES[name])
    return Path(path).expanduser() if path else None


def _mean(result: tuple[Any, ...]) -> Curve:
    return result[0], float(np.mean(result[1]))


def _labels(query: pd.DataFrame, gallery: pd.DataFrame, *columns: str) -> list[NDArray[np.int64]]:
    """Copies: fast-reid's Cython refuses the read-only arrays that pandas gives."""
    return [np.array(frame[column]) for column in columns or ("person", "camera") for frame in (query, gallery)]


def _load(peer: str, folder: str, module: str) -> ModuleType:
    """Import ``folder/module.py`` as part of a package of its own, so that neither its neighbours'
    ``__init__`` nor its project's imports run; absolute imports of the project still resolve."""
    if not hasattr(np, "in1d"):  # Simple-CCReID needs it; gone since NumPy 2.4
        np.in1d = lambda a, b, invert=False: np.isin(a, b, invert=invert)  # type: ignore[attr-defined]
    root = _root(peer)
    package = ModuleType(f"peer_{VARIABLES[peer].lower()}")
    package.__path__ = [str(root / folder)]
    sys.modules[package.__name__] = package
    with _first_on_path(root):
        return importlib.import_module(f"{package.__name__}.{module}")


@contextmanager
def _first_on_path(root: Path) -> Any:
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
