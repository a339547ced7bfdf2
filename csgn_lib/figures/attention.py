"""Figures of attribution maps: overlays on images, shares on the parts of a person, and checks of the maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from csgn_lib.figures.saving import COLUMN_WIDTH, TEXT_WIDTH, styled

TILT = "tilt to the body"
_WEIGHTS = {
    "own": {"fmt": "o", "color": "C0", "label": "trained weights"},
    "shuffled": {"fmt": "D", "color": "C1", "mfc": "white", "label": "shuffled weights"},
    "none": {"fmt": "s", "color": "C2", "mfc": "white", "label": "uniform over the person, as coarse"},
}


@dataclass(frozen=True)
class ExplainedPair:
    """A query, a gallery image, and their attribution maps.

    Attributes:
        images: query and gallery image, at the size of the maps.
        labels: the text below each.
        maps: method -> (2, H, W), the maps of the two images, non-negative.
    """

    images: tuple[Image.Image, Image.Image]
    labels: tuple[str, str]
    maps: Mapping[str, NDArray[np.floating]]


def overlay(axes: Axes, image: Image.Image, heat: NDArray[np.floating] | None = None) -> None:
    """Draw an image; with ``heat`` (H, W) in gray, below the map scaled to its own maximum."""
    axes.imshow(image if heat is None else image.convert("L"), cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
    if heat is not None:
        heat = heat / max(float(heat.max()), 1e-12)
        axes.imshow(heat, cmap="inferno", vmin=0, vmax=1, alpha=0.15 + 0.6 * heat)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    axes.grid(visible=False)


def attention_pair(pair: ExplainedPair) -> Figure:
    """The query and its maps above, the gallery image and its maps below."""
    (width, height), columns = pair.images[0].size, 1 + len(pair.maps)
    tall = min(2.6, TEXT_WIDTH / columns * height / width)
    with styled():
        figure, grid = plt.subplots(2, columns, figsize=(TEXT_WIDTH, 0.9 + 2 * tall))
        for side, axes in enumerate(grid):
            overlay(axes[0], pair.images[side])
            axes[0].set_xlabel(pair.labels[side])
            for cell, (method, maps) in zip(axes[1:], pair.maps.items(), strict=True):
                overlay(cell, pair.images[side], maps[side])
                _small_title(cell, "" if side else method)
        figure.colorbar(
            plt.cm.ScalarMappable(cmap="inferno"), ax=grid, label="relevance, share of the map's maximum", shrink=0.6,
            location="bottom", aspect=40, pad=0.02,
        )  # fmt: skip
    return figure


def attention_heads(images: Sequence[Image.Image], looks: NDArray[np.floating]) -> Figure:
    """One image per row, then the map of each head: ``looks`` are (images, heads, H, W)."""
    heads = looks.shape[1]
    wide, tall = (COLUMN_WIDTH, 1.75) if heads < 5 else (TEXT_WIDTH, 1.2)
    with styled():
        figure, grid = plt.subplots(len(images), 1 + heads, figsize=(wide, tall * len(images)), squeeze=False)
        for i, (axes, image) in enumerate(zip(grid, images, strict=True)):
            overlay(axes[0], image)
            for head, cell in enumerate(axes[1:]):
                overlay(cell, image, looks[i, head])
                _small_title(cell, f"head {head + 1}" if i == 0 else "")
    return figure


def attention_shares(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """The shares of maps on the parts of the person, one panel per part, one line per method, with the controls.

    Args:
        table: columns ``row part method weights value low high``; the first row of each part is the uniform map.
        methods: the order of the methods.
    """
    parts = list(table["part"].unique())
    with styled():
        size = (TEXT_WIDTH, 1.1 + 0.42 * len(methods))
        figure, panels = plt.subplots(1, len(parts), figsize=size, sharey=True, squeeze=False)
        for axes, part in zip(panels[0], parts, strict=True):
            _plot_share(axes, table[table["part"] == part], methods)
            axes.set(title=part, xlabel="beyond the share of pixels" if part == TILT else "share of the map")
        handles, labels = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4)
    return figure


def attention_layers(table: pd.DataFrame) -> Figure:
    """Rank correlation of maps with those of shuffled weights, by the number of shuffled layers; one line per method.

    Args:
        table: columns ``layers method value low high``.
    """
    with styled():
        figure, axes = plt.subplots(figsize=(COLUMN_WIDTH, 2.5))
        for i, (name, group) in enumerate(table.groupby("method", sort=False)):
            error = [group["value"] - group["low"], group["high"] - group["value"]]
            axes.errorbar(group["layers"] + 0.06 * i, group["value"], yerr=error, marker="o^sD"[i % 4], label=name)
        axes.axhline(0, color="gray", lw=0.8)
        lowest = min(-0.5, table["low"].min() - 0.05)
        axes.set(xlabel="layers shuffled, from the output down", ylabel="rank correlation with own map")
        axes.set(xticks=sorted(set(table["layers"])), ylim=(lowest, 1.05))
        figure.legend(loc="outside upper center", ncols=2, fontsize=6)
    return figure


def attention_deletion(table: pd.DataFrame, methods: Sequence[str]) -> Figure:
    """Deletion and insertion curves, one panel each, with bands for the interval.

    Args:
        table: columns ``method kind percent value low high``; kind is deletion or insertion.
        methods: methods that have a colour; all others are gray controls.
    """
    with styled():
        figure, panels = plt.subplots(1, 2, figsize=(TEXT_WIDTH, 2.6), sharey=True)
        for axes, (kind, shown) in zip(panels, {"deletion": "grayed", "insertion": "shown"}.items(), strict=True):
            controls = iter((":", "-", "--"))
            for name, line in table[table["kind"] == kind].groupby("method", sort=False):
                style = {} if name in methods else {"color": "gray", "ls": next(controls)}
                axes.plot(line["percent"], line["value"], label=name, **style)
                band = {"alpha": 0.08, "lw": 0, "color": axes.lines[-1].get_color()}
                axes.fill_between(line["percent"], line["low"], line["high"], **band)
            axes.set(title=kind, xlabel=f"% of pixels {shown}")
        panels[0].set_ylabel("cosine of the pair")
        figure.legend(*panels[1].get_legend_handles_labels(), loc="outside upper center", ncols=3, fontsize=6)
    return figure


def _plot_share(axes: Axes, rows: pd.DataFrame, methods: Sequence[str]) -> None:
    uniform = rows.iloc[0]
    if uniform["part"] != TILT:
        axes.axvspan(uniform["low"], uniform["high"], color="gray", alpha=0.25, lw=0)
    axes.axvline(uniform["value"], color="gray", lw=0.8, label="share of pixels")
    for i, (weights, style) in enumerate(_WEIGHTS.items()):
        some = rows[(rows["weights"] == weights) & rows["method"].isin(methods)]
        y = np.array([methods.index(method) for method in some["method"]]) + 0.22 * i
        error = [some["value"] - some["low"], some["high"] - some["value"]]
        axes.errorbar(some["value"], y, xerr=error, ls="none", **style)
    axes.set(yticks=range(len(methods)), yticklabels=methods, ylim=(len(methods) - 0.4, -0.4))
    axes.grid(axis="x")
    axes.grid(visible=False, axis="y")


def _small_title(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=7, loc="center", fontweight="normal")
