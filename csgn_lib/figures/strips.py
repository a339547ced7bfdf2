"""Query strips: a query and what the gallery answers, right and wrong told by more than colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import PlaceHolderLayoutEngine

from csgn_lib.datasets.portrait import picture
from csgn_lib.figures.saving import TEXT_WIDTH, styled
from csgn_lib.records import InputError

RIGHT, WRONG, INK = "#009E73", "#D55E00", "#262626"
_UNKNOWN = -1  # the clothes label of a benchmark that has none


def rank_strip(
    query: Mapping[str, Any] | pd.Series,
    ranked: pd.DataFrame,
    root: str | Path = ".",
    top: int = 10,
    title: str = "",
    hide_faces: bool = False,
) -> Figure:
    """One query and its first ``top`` answers; see `rank_strips`."""
    return rank_strips([(query, ranked)], root, top, [title] if title else None, hide_faces)


def rank_strips(
    rows: Sequence[tuple[Mapping[str, Any] | pd.Series, pd.DataFrame]],
    root: str | Path = ".",
    top: int = 10,
    titles: Sequence[str] | None = None,
    hide_faces: bool = False,
    answers: bool = True,
) -> Figure:
    """Queries, one a row, each with its first ``top`` gallery images in the order of the ranking.

    A right answer has a solid green frame and a tick, a wrong one a dashed vermilion frame and a
    cross; below a right one stands whether it wears the query's clothes. So it also reads in gray.

    Args:
        rows: (query, ranked): the query's row of its frame and the gallery rows in ranked order,
            junk removed; both with ``path`` (relative to ``root``), ``person`` and ``clothes``.
        root: the benchmark's folder.
        top: how many answers to show.
        titles: a line above each row.
        hide_faces: make faces unrecognisable, as the owners of some images ask: ``benchmark.hide_faces``.
        answers: False where nothing was ranked: pictures of one person, without ticks, only whether clothes changed.

    Returns a figure as wide as a page. Raises InputError naming an image that cannot be read, or a
    missing column.
    """
    cells = [_cells(query, ranked, Path(root), top, hide_faces, answers) for query, ranked in rows]
    head, foot, tall = (0.2 if titles else 0.06), 0.2, 1.1  # inches: title, label, image
    total = len(rows) * (head + foot + tall)
    with styled():
        figure = plt.figure(figsize=(TEXT_WIDTH, total))
        # "none" would leave no engine, and saving a PDF would put the style's own back for the PNG after it
        figure.set_layout_engine(PlaceHolderLayoutEngine(adjust_compatible=True, colorbar_gridspec=False))
        grid = figure.add_gridspec(
            len(rows), top + 2, width_ratios=[1, 0.15, *[1] * top], wspace=0.14, hspace=(head + foot) / tall,
            left=0.005, right=0.995, top=1 - head / total, bottom=foot / total,
        )  # fmt: skip
        for row, strip in enumerate(cells):
            for column, cell in zip([0, *range(2, top + 2)], strip, strict=False):
                _draw(figure.add_subplot(grid[row, column]), *cell)
            if titles:
                figure.axes[-len(strip)].set_title(titles[row], fontsize=8, pad=4)
    return figure


def strip_frame(query: Mapping[str, Any] | pd.Series, ranked: pd.DataFrame, top: int = 10) -> pd.DataFrame:
    """What a strip shows, as the table to save beside it.

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
    """(image, label, colour, line style) of the query and of each answer."""
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
    for spine in axes.spines.values():
        spine.set(visible=True, color=colour, linewidth=2.0, linestyle=style)
    axes.set_xlabel(label, color=colour, fontsize=6.5, labelpad=2, fontweight="bold")
