"""Figures of an ablation: forest plot of differences, dot plot of runs, scatter plot of two quantities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from csgn_lib.figures.saving import TEXT_WIDTH, styled
from csgn_lib.figures.tables import protocol_name
from csgn_lib.records import InputError

_INK, _LINE, _DOT = "#262626", "#bfbfbf", "#0072B2"
_ROOM = 6.5  # of a number beside other numbers and dots, in points


def forest(frame: pd.DataFrame, baseline: str, unit: str = "points") -> Figure:
    """Forest plot of differences to a baseline: one line per row, one panel per protocol, bars for the interval.

    A dot is black where ``p`` is below 0.05, gray where only ``holm_people`` is, open where neither is, and
    black throughout if nothing was tested (no ``p``, or all NaN).

    Args:
        frame: ``row, protocol, mean, low, high``, optionally ``p, holm_people``; order as in the frame.
        baseline: what was subtracted, for the axis.
        unit: of the difference.

    Returns a figure as wide as a page. Raises InputError naming a missing column, or if there is no line.
    """
    _check(frame, ["row", "protocol", "mean", "low", "high"])
    rows = list(dict.fromkeys(frame["row"]))
    with styled():
        figure, panels = _panels(frame, rows)
        for axes, part in panels:
            y = [rows.index(row) for row in part["row"]]
            axes.axvline(0, color="0.6", lw=0.8)
            axes.hlines(y, part["low"], part["high"], color="black", lw=1)
            axes.scatter(part["mean"], y, c=_fill(part), edgecolors="black", lw=0.8, s=13, zorder=3)
        figure.supxlabel(f"{unit} over {baseline}", fontsize="medium")
    return figure


def dots(frame: pd.DataFrame, xlabel: str) -> Figure:
    """Every run as a dot, the mean of its row as a stroke: one line per row, one panel per protocol.

    Args:
        frame: ``row, protocol, value``; order as in the frame.
        xlabel: what the value is, with its unit.

    Returns a figure as wide as a page. Raises InputError naming a missing column, or if there is no line.
    """
    _check(frame, ["row", "protocol", "value"])
    rows = list(dict.fromkeys(frame["row"]))
    with styled():
        figure, panels = _panels(frame, rows)
        for axes, part in panels:
            axes.plot(part["value"], [rows.index(row) for row in part["row"]], "o", alpha=0.55, ms=4, mew=0)
            means = part.groupby("row", sort=False)["value"].mean()
            axes.plot(means, [rows.index(row) for row in means.index], "|", color=_INK, ms=9, mew=1.2)
            axes.margins(x=0.04)  # the right-most dot is complete
            axes.set(xlim=(0, None))
        figure.supxlabel(xlabel, fontsize="medium")
    return figure


def tradeoff(frame: pd.DataFrame, x: Mapping[str, str], y: tuple[str, str], diagonal: bool = False) -> Figure:
    """Scatter plot of two quantities: a dot with the row's number beside it, and the legend below.

    No number covers another one or a dot; a line joins each to its dot.

    Panels: one column for each kind, one line for each quantity of ``x`` (of a single kind, side by side); each has
    its own scale.

    Args:
        frame: ``row, kind`` and the columns that ``x`` and ``y`` name; where ``<column>_low`` and ``<column>_high``
            exist, a gray bar is drawn between them. A row that lacks a value is omitted from that panel.
        x: column -> label.
        y: column and label.
        diagonal: also draw where both are equal.

    Returns a figure as wide as a page. Raises InputError naming a missing column, or if there is no line.
    """
    _check(frame, ["row", "kind", *x, y[0]])
    rows, kinds = list(dict.fromkeys(frame["row"])), list(dict.fromkeys(frame["kind"]))
    with styled():
        lines, columns = (len(x), len(kinds)) if len(kinds) > 1 else (1, len(x))
        height = 0.5 + 1.9 * lines + 0.13 * -(-len(rows) // 4)
        figure, grid = plt.subplots(lines, columns, figsize=(TEXT_WIDTH, height), squeeze=False)
        panels = grid.reshape(len(x), len(kinds))
        for i, (column, label) in enumerate(x.items()):
            for axes, kind in zip(panels[i], kinds, strict=True):
                _points(axes, frame[frame["kind"] == kind].dropna(subset=[column, y[0]]), column, y[0], rows)
                if diagonal:
                    axes.set(xlim=axes.get_xlim(), ylim=axes.get_ylim())  # the diagonal must not change the limits
                    axes.axline((0, 0), slope=1, color="0.6", lw=0.8, ls=":", zorder=0)
                axes.set(title="" if i else kind, xlabel=label, ylabel=y[1] if axes in grid[:, 0] else "")
                axes.grid(True, axis="both")
        figure.legend(handles=_key(rows), loc="outside lower center", ncols=4, handlelength=1, labelspacing=0.3)
        figure.draw_without_rendering()  # lays the figure out, so that distances are known
        for column, of_column in zip(x, panels, strict=True):
            for axes, kind in zip(of_column, kinds, strict=True):
                _numbers(axes, frame[frame["kind"] == kind].dropna(subset=[column, y[0]]), column, y[0], rows)
    return figure


def _points(axes: Axes, frame: pd.DataFrame, x: str, y: str, rows: Sequence[str]) -> None:
    for draw, across, column in ((axes.hlines, y, x), (axes.vlines, x, y)):
        if {f"{column}_low", f"{column}_high"} <= set(frame):
            draw(frame[across], frame[f"{column}_low"], frame[f"{column}_high"], color=_LINE, lw=0.6, zorder=1)
    axes.plot(frame[x], frame[y], "o", color=_DOT, ms=3.5, mec="white", mew=0.4, ls="", zorder=3)
    axes.margins(0.1)


def _numbers(axes: Axes, frame: pd.DataFrame, x: str, y: str, rows: Sequence[str]) -> None:
    dots = frame[[x, y]].to_numpy(float)
    pixels = axes.transData.transform(dots)
    offsets = (_apart(pixels, _ROOM * axes.get_figure().dpi / 72) - pixels) * 72 / axes.get_figure().dpi
    line = {"arrowstyle": "-", "color": _DOT, "lw": 0.5, "shrinkA": 0, "shrinkB": 0, "relpos": (0.5, 0.5)}
    for dot, offset, row in zip(dots, offsets, frame["row"], strict=True):
        axes.annotate(
            str(rows.index(row) + 1), dot, offset, textcoords="offset points", fontsize=6, ha="center", va="center",
            bbox={"pad": 0.3, "fc": "none", "ec": "none"}, arrowprops=line,
        )  # fmt: skip


def _apart(dots: np.ndarray, gap: float) -> np.ndarray:
    """A place for each of the points (N, 2), near it and, where possible, ``gap`` away from every other and point."""
    turns = 2.4 * np.arange(len(dots))  # radians; the places of equal points differ
    places = dots + 0.1 * gap * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    for _ in range(500):
        step = places[:, None] - np.concatenate([places, dots])
        distance = np.linalg.norm(step, axis=2)
        distance[np.diag_indices(len(dots))] = gap  # from itself
        push = np.clip(gap - distance, 0, None) / 2 / distance
        places = places + (push[:, :, None] * step).sum(axis=1)
    return places


def _key(rows: Sequence[str]) -> list[Line2D]:
    return [
        Line2D([], [], ls="none", marker=f"${i}$", color=_INK, mew=0, ms=4 if i < 10 else 6, label=row)
        for i, row in enumerate(rows, start=1)
    ]


def _fill(part: pd.DataFrame) -> np.ndarray:
    if "p" not in part or part["p"].isna().all():
        return np.full(len(part), "black")
    return np.select([part["p"] < 0.05, part["holm_people"] < 0.05], ["black", "0.7"], "white")


def _panels(frame: pd.DataFrame, rows: Sequence[str]) -> tuple[Figure, list[tuple[Axes, pd.DataFrame]]]:
    """A panel for each protocol, and its lines of the frame; the rows are named on the left."""
    parts = dict(list(frame.groupby("protocol", sort=False)))
    size = TEXT_WIDTH, 0.6 + 0.2 * len(rows)
    figure, [grid] = plt.subplots(1, len(parts), figsize=size, sharey=True, squeeze=False)
    for axes, protocol in zip(grid, parts, strict=True):
        axes.set(title=protocol_name(str(protocol)))
    grid[0].set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.5))
    return figure, list(zip(grid, parts.values(), strict=True))


def _check(frame: pd.DataFrame, names: Sequence[str]) -> None:
    if absent := [name for name in names if name not in frame]:
        raise InputError(f"no column {', '.join(absent)}; there are: {', '.join(map(str, frame))}")
    if frame.empty:
        raise InputError("there is no row to draw; check that these are records of a sweep")
