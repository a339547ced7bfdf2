"""Training curves: one panel per quantity, one line per run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pandas.api.types import is_integer_dtype

from csgn_lib.figures.saving import TEXT_WIDTH, styled
from csgn_lib.records import BOOKS, InputError, Run
from csgn_lib.runs.folders import flat


def metrics_frame(runs: Mapping[str, Run]) -> pd.DataFrame:
    """The metrics.jsonl of several runs in one frame: a first column ``run``, then the recorded columns."""
    return pd.DataFrame([{"run": name, **flat(record)} for name, run in runs.items() for record in run.metrics()])


def loss_frame(metrics: pd.DataFrame) -> pd.DataFrame:
    """The loss terms in a few groups that are comparable between variants of the method.

    Stage 1: ``description loss``, the sum of its terms. Stage 2: ``identity loss`` and ``triplet loss``, each the
    mean over the embeddings that have one, and ``text loss``, the sum of all other terms. All with the weights of
    training.
    """
    terms = [str(name) for name in metrics if name not in BOOKS | {"run"}]
    second = metrics["stage"] == 2
    identity = [name for name in terms if name.startswith("id_")]
    triplet = [name for name in terms if name.startswith("triplet_")]
    text = [name for name in terms if name not in identity + triplet]
    frame = metrics[["run", "stage", "epoch"]].copy()
    frame["description loss"] = metrics[text].sum(axis=1, min_count=1).where(~second)
    frame["identity loss"] = metrics[identity].mean(axis=1).where(second)
    frame["triplet loss"] = metrics[triplet].mean(axis=1).where(second)
    frame["text loss"] = metrics[text].sum(axis=1, min_count=1).where(second)
    return frame


def curves(metrics: pd.DataFrame, terms: Sequence[str] | None = None, x: str = "epoch", hue: str = "run") -> Figure:
    """Plot each of ``terms`` over ``x``: one line per value of ``hue``, with its own colour and dashes.

    Args:
        metrics: one row per epoch (and run); a column ``stage`` splits the panels.
        terms: columns to draw; default: every column with ``loss`` in its name.
        x: the column of the horizontal axis.
        hue: the column that separates the lines; may be absent for a single run.

    Returns:
        A figure as wide as a page.

    Raises:
        InputError: a missing column.
    """
    terms = list(terms if terms is not None else [name for name in metrics if "loss" in str(name)])
    absent = [name for name in [x, *terms] if name not in metrics]
    if absent or not terms:
        raise InputError(f"no column {', '.join(absent) or 'to draw'}; available: {', '.join(map(str, metrics))}")
    panels = [panel for part in _stages(metrics) for panel in _panels(*part, terms)]
    lines = list(dict.fromkeys(metrics[hue])) if hue in metrics else [None]
    with styled():
        columns = len(panels) if len(panels) <= 4 else 3
        rows = -(-len(panels) // columns)
        figure, grid = plt.subplots(rows, columns, figsize=(TEXT_WIDTH, 0.35 + 1.75 * rows), squeeze=False)
        for axes, (title, frame, term) in zip(grid.flat, panels, strict=False):
            for line in lines:  # a run without this term has an empty line, so that colours stay the same
                part = frame if line is None else frame[frame[hue] == line]
                lone = part[term].count() == 1  # a line of one point would be invisible
                axes.plot(part[x], part[term], label=str(line), marker="o" if lone else "None")
            axes.margins(x=0.02)
            if is_integer_dtype(frame[x]):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6, min_n_ticks=1))
            axes.set(title=title, xlabel=x, ylabel="loss" if "loss" in term and axes in grid[:, 0] else "")
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        handles, labels = grid.flat[0].get_legend_handles_labels()
        if len(labels) > 1:
            figure.legend(handles, labels, loc="outside upper left", ncols=min(4, len(labels)), handlelength=3)
    return figure


def _stages(metrics: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    if "stage" not in metrics or metrics["stage"].nunique() < 2:
        return [("", metrics)]
    return [(f"stage {stage}: ", frame) for stage, frame in metrics.groupby("stage")]


def _panels(prefix: str, frame: pd.DataFrame, terms: Sequence[str]) -> list[tuple[str, pd.DataFrame, str]]:
    names = {term: term.replace("_", " ").removesuffix(" loss") for term in terms}
    return [(prefix + names[term], frame, term) for term in terms if frame[term].notna().any()]
