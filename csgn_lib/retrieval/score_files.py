"""Scores on disk: results.json (metrics with intervals over people) and per_query.csv."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from csgn_lib.records import InputError, atomic_path, write_json
from csgn_lib.retrieval.scores import Scores
from csgn_lib.statistics.intervals import METRICS

RESULTS, PER_QUERY, VERIFICATION = "results.json", "per_query.csv", "verification.json"
ScoresByDescriptor = dict[str, dict[str, Scores]]


def refuse_occupied(out: Path, ours: Callable[[], bool], own: Path | None = None) -> None:
    """Raise InputError unless a folder is new, empty, or holds what is about to be written again, as ``ours`` tells.

    ``own``: the folder of the model itself, whose files must not be replaced.
    """
    if own is not None and out.resolve() == own.resolve():
        raise InputError(f"{out} is the model's own folder, whose files would be replaced; name another with --out")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; name a folder with --out")
    if out.exists() and any(path.name[0] != "." for path in out.iterdir()) and not ours():
        raise InputError(f"{out} holds something else; name an empty or a new folder with --out")


def record(scores: Scores) -> dict[str, Any]:
    """Plain numbers for results.json: the metrics, the counts, and 95 % intervals over people.

    An interval is [None, None] if a single person is counted.
    """
    several = scores.per_query.loc[scores.per_query["valid"], "person"].nunique() > 1
    intervals = {f"{name}_interval": list(scores.interval(name)) if several else [None, None] for name in METRICS}
    return scores.summary() | intervals


def write_scores(folder: Path, scores: ScoresByDescriptor, about: dict[str, dict[str, Any]]) -> None:
    """Write results.json and per_query.csv. ``about``: further fields of each descriptor in results.json."""
    rows = [
        s.per_query.assign(protocol=protocol, descriptor=name)
        for name, by_protocol in scores.items()
        for protocol, s in by_protocol.items()
    ]
    with atomic_path(folder / PER_QUERY) as temporary:
        pd.concat(rows).to_csv(temporary, index=False)
    results = {
        name: about[name] | {"protocols": {protocol: record(s) for protocol, s in by_protocol.items()}}
        for name, by_protocol in scores.items()
    }
    write_json(folder / RESULTS, results)
