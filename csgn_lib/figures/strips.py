"""Strips of ranked images: a query and its first gallery images, with correct and wrong matches marked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from csgn_lib.datasets.portrait import picture
from csgn_lib.figures.saving import TEXT_WIDTH, styled
from csgn_lib.records import InputError

RIGHT, WRONG, INK = "#009E73", "#D55E00", "#262626"
_UNKNOWN = -1  # the clothes label of a benchmark that has none


def rank_strips(
    rows: Sequence[tuple[Mapping[str, Any] | pd.Series, pd.DataFrame]],
    root: str | Path = ".",
    top: int = 10,
    titles: Sequence[str] | None = None,
    hide_faces: bool = False,
    answers: bool = True,
) -> Figure:
    """Queries, one a row, each with its first ``top`` gallery images in the order of the ranking.

    All images have the size of a column, at the median aspect ratio of the images.

    A correct match has a solid green frame and a tick, a wrong one a dashed red frame and a cross, so that the figure
    is readable without colour. The label of a correct match states whether its clothes are the same or changed.

    Args:
        rows: (query, ranked) pairs: the query's row of its frame, and the gallery rows in ranked order without those
            that the protocol removes; both with ``path`` (relative to ``root``), ``person`` and ``clothes``.
        root: the benchmark's folder.
        top: number of gallery images in a row.
        titles: one title per row.
        hide_faces: pixelate faces, as the terms of some benchmarks require: ``benchmark.hide_faces``.
        answers: False for images of one person that were not ranked: no ticks, only whether clothes changed.

    Returns:
        A figure as wide as a page.

    Raises:
        InputError: an image that cannot be read, or a missing column.
    """
    cells = [_cells(query, ranked, Path(root), top, hide_faces, answers) for query, ranked in rows]
    columns, gap = [1, 0.15, *[1] * top], 0.14
    wide = 0.99 * TEXT_WIDTH * len(columns) / (len(columns) + gap * (len(columns) - 1)) / sum(columns)
    shape = np.median([image.shape[0] / image.shape[1] for strip in cells for image, *_ in strip])
    head, foot, tall = (0.2 if titles else 0.06), 0.2, wide * shape  # inches: title, label, image
    total = len(rows) * (head + foot + tall)
    # a layout engine, even one that is switched off later, would draw every image twice
    with styled(), plt.rc_context({"figure.constrained_layout.use": False}):
        figure = plt.figure(figsize=(TEXT_WIDTH, total))
        grid = figure.add_gridspec(
            len(rows), top + 2, width_ratios=columns, wspace=gap, hspace=(head + foot) / tall,
            left=0.005, right=0.995, top=1 - head / total, bottom=foot / total,
        )  # fmt: skip
        for row, strip in enumerate(cells):
            for column, cell in zip([0, *range(2, top + 2)], strip, strict=False):
                _draw(figure.add_subplot(grid[row, column]), *cell)
            if titles:
                figure.axes[-len(strip)].set_title(shorten(titles[row], 100, placeholder=" ..."), fontsize=8, pad=4)
    return figure


def strip_frame(query: Mapping[str, Any] | pd.Series, ranked: pd.DataFrame, top: int = 10) -> pd.DataFrame:
    """The contents of a strip as a table, to save with it.

    Columns: ``rank`` (0 is the query), ``path``, ``right`` and ``clothes`` (`same`, `changed`, or
    empty where the answer is wrong or the benchmark has no clothes labels).
    """
    missing = [name for name in ("path", "person", "clothes") if name not in ranked or name not in query]
    if missing:
        raise InputError(f"a strip needs the columns path, person and clothes; missing: {', '.join(missing)}")
    shown = ranked.head(top)
    right = shown["person"].to_numpy() == query["person"]
    known = right & (shown["clothes"].to_numpy() != _UNKNOWN) & (query["clothes"] != _UNKNOWN)
    changed = np.where(shown["clothes"].to_numpy() == query["clothes"], "same", "changed")
    answers = {
        "rank": range(1, len(shown) + 1), "path": shown["path"].to_numpy(), "right": right,
        "clothes": np.where(known, changed, ""),
    }  # fmt: skip
    first = pd.DataFrame({"rank": [0], "path": [query["path"]], "right": [True], "clothes": [""]})
    return pd.concat([first, pd.DataFrame(answers)], ignore_index=True)


def _cells(
    query: Mapping[str, Any] | pd.Series, ranked: pd.DataFrame, root: Path, top: int, hide_faces: bool, answers: bool
) -> list[tuple[np.ndarray, str, str, str]]:
    """(image, label, colour, line style) of the query and of each gallery image."""
    cells = []
    for row in strip_frame(query, ranked, top).itertuples():
        if not answers:
            look = ({"same": "same clothes", "changed": "other clothes"}.get(row.clothes, ""), INK, "-")
        elif row.rank == 0:
            look = ("query", INK, "-")
        elif row.right:
            look = (f"✓ {row.clothes}".strip(), RIGHT, "-")
        else:
            look = ("✗", WRONG, (0, (3, 1.5)))
        cells.append((np.asarray(picture(root / row.path, hide_faces)), *look))
    return cells


def _draw(axes: Axes, image: np.ndarray, label: str, colour: str, style: Any) -> None:
    axes.imshow(image, aspect="auto", interpolation="lanczos")
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    axes.spines[:].set_visible(False)
    frame = Rectangle((0, 0), 1, 1, transform=axes.transAxes, fill=False, clip_on=False, joinstyle="miter")
    axes.add_patch(frame).set(edgecolor=colour, linewidth=2.0, linestyle=style)  # spines leave notches at corners
    wide = len(label) > 10  # words of ten images in a row would touch each other
    axes.set_xlabel(
        label, color=colour, fontsize=5.5 if wide else 6.5, labelpad=3, fontweight="normal" if wide else "bold"
    )
