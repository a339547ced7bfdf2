"""Two-dimensional maps of embeddings: points coloured by label, and images at their positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.ticker import FixedLocator
from numpy.typing import ArrayLike, NDArray
from PIL import Image
from scipy.optimize import linear_sum_assignment

from csgn_lib.figures.saving import TEXT_WIDTH, styled

_MARKS = "osD^vP*X"
_CELLS = (7, 14)  # rows and columns of images on a map


@dataclass(frozen=True)
class LabelMap:
    """One panel: positions (N, 2), one label per point, a title, and a label of the vertical axis."""

    places: NDArray[np.floating]
    labels: NDArray[Any]
    title: str = ""
    side: str = ""


def evenly_spaced(labels: ArrayLike, count: int) -> NDArray[Any]:
    """At most ``count`` of the distinct labels, evenly spaced in sorted order."""
    known = np.unique(labels)
    return known[np.unique(np.linspace(0, len(known) - 1, min(count, len(known))).round().astype(int))]


def label_maps(panels: Sequence[LabelMap], columns: int, coloured: int = 8, size: float = 3.5) -> Figure:
    """Maps in a grid; ``coloured`` labels of each have a colour and a marker, all other points are gray.

    Args:
        panels: row by row.
        columns: panels in a row.
        coloured: labels with a colour, evenly spaced in sorted order.
        size: marker size in points.
    """
    rows = -(-len(panels) // columns)
    with styled():
        height = min(TEXT_WIDTH / columns, 2.5) + 0.3
        shape = (TEXT_WIDTH, 0.3 + rows * height)
        figure, grid = plt.subplots(rows, columns, figsize=shape, squeeze=False)
        for axes, panel in zip(grid.flat, panels, strict=True):
            _plot_labels(axes, panel, coloured, size)
    return figure


def _plot_labels(axes: Axes, panel: LabelMap, coloured: int, size: float) -> None:
    axes.plot(*panel.places.T, ".", color="0.85", ms=0.8 * size, zorder=0)
    for i, label in enumerate(evenly_spaced(panel.labels, coloured)):
        mark = _MARKS[i % len(_MARKS)]
        axes.plot(*panel.places[panel.labels == label].T, mark, color=f"C{i % 6}", ms=size, mew=0, ls="")
    axes.set_title(panel.title, fontsize=6.5, fontweight="normal")
    axes.set_ylabel(panel.side, fontsize=7)
    _bare(axes)


def neighbour_kinds(table: pd.DataFrame, labels: Sequence[str]) -> Figure:
    """Kinds of the nearest neighbours as multiples of chance: one line per feature, one marker per kind.

    Args:
        table: columns ``row feature kind times times_low times_high``.
        labels: one for each pair of row and feature, in the order of their first appearance.
    """
    order = list(dict.fromkeys(zip(table["row"], table["feature"], strict=True)))
    with styled():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH, 0.7 + 0.27 * len(order)))
        kinds = table.groupby("kind", sort=False)
        for i, (kind, part) in enumerate(kinds):
            shift = 0.2 * (i - (len(kinds) - 1) / 2)
            y = [order.index(key) + shift for key in zip(part["row"], part["feature"], strict=True)]
            error = [part["times"] - part["times_low"], part["times_high"] - part["times"]]
            axes.errorbar(part["times"], y, xerr=error, fmt="osD"[i], color=f"C{i}", ls="", label=kind)
        axes.axvline(1, color="gray", lw=0.8, ls="--", label="chance")
        axes.set(yticks=range(len(order)), yticklabels=labels, xscale="symlog", xlim=(0, None), xlabel="times chance")
        axes.xaxis.set(major_locator=FixedLocator([0, 1, 2, 5, 10, 20, 50, 100, 200, 500]), major_formatter="{x:g}")
        axes.grid(axis="x")
        axes.grid(visible=False, axis="y")
        axes.invert_yaxis()
        figure.legend(loc="outside upper center", ncols=4)
    return figure


def picture_map(
    places: NDArray[np.floating], pictures: Mapping[int, Image.Image], colours: Mapping[int, str], title: str
) -> Figure:
    """A map with images that do not overlap: each is in the free cell of a grid nearest to its point.

    The assignment minimises the total squared distance; a line joins each image to its point.

    Args:
        places: (N, 2).
        pictures: row of ``places`` -> its image. At most as many as the grid has cells, 98; the first are drawn.
        colours: row -> the colour of its image's frame; other frames are gray.
    """
    cells = [
        (x, y) for y in np.linspace(0, 1, 2 * _CELLS[0] + 1)[1::2] for x in np.linspace(0, 1, 2 * _CELLS[1] + 1)[1::2]
    ]
    low, high = places.min(axis=0), places.max(axis=0)
    points = 0.04 + 0.92 * (places - low) / np.where(high > low, high - low, 1)
    shown = list(pictures)[: len(cells)]
    distance = ((points[shown][:, None] - np.array(cells)) ** 2).sum(axis=2)
    assigned = np.array(cells)[linear_sum_assignment(distance)[1]]
    with styled():
        figure, axes = plt.subplots(figsize=(TEXT_WIDTH, TEXT_WIDTH))
        axes.plot(*points.T, ".", color="0.8", ms=3, zorder=0)
        for row, cell in zip(shown, assigned, strict=True):
            _place_picture(axes, pictures[row], points[row], cell, colours.get(row))
        axes.set(xlim=(0, 1), ylim=(0, 1), title=title)
        _bare(axes)
    return figure


def _place_picture(
    axes: Axes, picture: Image.Image, point: NDArray[np.floating], cell: NDArray[np.floating], colour: str | None
) -> None:
    small = np.asarray(picture.resize((96, 192)))
    frame = {"edgecolor": colour or "0.75", "lw": 1.8 if colour else 0.5, "boxstyle": "square,pad=0.12"}
    line = {"arrowstyle": "-", "color": colour or "0.6", "lw": 0.6, "shrinkA": 0, "shrinkB": 0}
    image = OffsetImage(small, zoom=0.31, dpi_cor=True)
    axes.add_artist(
        AnnotationBbox(image, point, cell, xycoords="data", boxcoords="data", pad=0, bboxprops=frame, arrowprops=line)
    )
    axes.plot(*point, "o", color=colour or "0.4", ms=2.5, zorder=3)


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])
    axes.grid(visible=False)
    axes.spines[:].set_visible(True)
