"""Two maps of a benchmark's images, by clothes and by identity. A selection in one map shows in the other."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anywidget
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
import traitlets
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from csgn_lib import figures
from csgn_lib.analysis.probes import flat_map
from csgn_lib.datasets import Benchmark
from csgn_lib.datasets.protocols import UNKNOWN
from csgn_lib.panels.looks import Answer
from csgn_lib.panels.sources import Source
from csgn_lib.panels.thumbnails import Thumbnails, data_url
from csgn_lib.records import InputError
from csgn_lib.retrieval import CLOTHING_REMOVED, features_of
from csgn_lib.vocabulary import coordinates

LARGEST = 3000  # largest number of images for t-SNE; more are placed by their first two principal components
SHOWN = 24  # images of a selection
NEVER = -1  # drawn messages, before a browser shows the maps
EDGES = (-1.08, 1.08)  # axis limits of the maps, so that no point lies on the border
MARKS = {  # colour and size of a point, by what it is; later ones are drawn above earlier ones
    "other image": ("#B5B5B5", 3), "same person, ranked lower": ("#56B4E9", 6), "answer": ("#0072B2", 9),
    "wrong answer": ("#D55E00", 9), "right answer": ("#009E73", 9), "query": ("#000000", 11),
}  # fmt: skip


def placed(benchmark: Benchmark) -> pd.DataFrame:
    """The images that maps show: gallery rows first, then query rows."""
    return pd.concat([benchmark.gallery, benchmark.query], ignore_index=True)


def sides(source: Source, rank: int = 0) -> dict[str, NDArray[np.float32]]:
    """Two features of gallery and query images, (G + Q, .) as in ``placed``.

    Args:
        rank: clothing directions; 0: as the run was reported.

    Returns:
        ``clothes``, the coordinates of f along the clothing directions, centred on the gallery's mean, and
        ``identity``, the descriptor without those directions [O].

    Raises:
        InputError: a model without a joint embedding.
    """
    words = source.words
    chosen = replace(source.descriptors[CLOTHING_REMOVED], rank=rank or source.descriptors[CLOTHING_REMOVED].rank)
    basis, read = words.basis(CLOTHING_REMOVED, chosen.rank), features_of(chosen, words)
    gallery, query = (F.normalize(side.f, dim=1) for side in (source.gallery, source.query))
    clothes = coordinates(torch.cat([gallery, query]) - gallery.mean(dim=0), basis)
    identity = torch.cat([read(source.gallery), read(source.query)])
    return {"clothes": clothes.numpy(), "identity": identity.numpy()}


def layout(features: NDArray[np.floating], seed: int = 0, largest: int = LARGEST) -> NDArray[np.float32]:
    """Positions (N, 2) in [-1, 1] of features (N, D): t-SNE up to ``largest`` rows, else two principal components.

    Raises InputError for fewer than four rows, or a zero row.
    """
    if len(features) < 4:
        raise InputError(f"a map needs at least four images, not {len(features)}")
    if len(features) > largest:
        places = PCA(2, random_state=seed).fit_transform(features)
    else:
        places = flat_map(features, min(30, (len(features) - 1) / 3), seed)
    places = places - (places.max(axis=0) + places.min(axis=0)) / 2
    return (places / np.abs(places).max()).astype(np.float32)


def maps_figure(
    places: Mapping[str, NDArray[np.floating]],
    marks: NDArray[np.str_],
    chosen: Sequence[int],
    frame: pd.DataFrame,
    thumbnails: Thumbnails,
) -> Figure:
    """The maps side by side with a legend of ``marks`` (N,), names of MARKS; images of the ``chosen`` rows below."""
    with figures.styled():
        figure = plt.figure(figsize=(figures.TEXT_WIDTH, 4.5))
        above, below = figure.subfigures(2, 1, height_ratios=[3, 1.1])
        for axes, (name, points) in zip(np.atleast_1d(above.subplots(1, len(places))), places.items(), strict=True):
            for mark in MARKS:
                colour, size = MARKS[mark]
                if (here := marks == mark).any():
                    axes.plot(*points[here].T, "o", color=colour, ms=size / 1.7, mew=0.4, mec="white", label=mark)
            axes.set(title=name, xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
            axes.grid(visible=False)
        above.legend(*above.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
        for axes, row in zip(np.atleast_1d(below.subplots(1, max(1, len(chosen)))), chosen, strict=False):
            axes.imshow(np.asarray(thumbnails.image(frame["path"].iloc[row])))
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(f"person {frame['person_label'].iloc[row]}", fontsize=6)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
    return figure


def marks_of(answer: Answer, top: pd.DataFrame, frame: pd.DataFrame) -> NDArray[np.str_]:
    """The role of each image of ``placed`` in a ranking: (N,) names of MARKS."""
    person = answer.query["person"]
    marks = np.full(len(frame), "other image", dtype=object)
    if person != UNKNOWN:
        marks[(frame["person"] == person).to_numpy()] = "same person, ranked lower"
        marks[len(answer.gallery) :] = "other image"
        marks[top["row"]] = np.where(top["right"], "right answer", "wrong answer")
    else:
        marks[top["row"]] = "answer"
    marks[(frame["path"] == answer.query["path"]).to_numpy()] = "query"
    return marks.astype(str)


def linked_maps(places: Mapping[str, NDArray[np.floating]], frame: pd.DataFrame, thumbnails: Thumbnails) -> LinkedMaps:
    """The maps as widgets of jupyter-scatter; display the ``box``."""
    return LinkedMaps(places, frame, thumbnails)


class Frames(anywidget.AnyWidget):
    """The browser's answers. Attributes: sent: messages so far; drawn: how many of them the browser has drawn."""

    _esm = Path(__file__).with_name("frames.js")
    sent = traitlets.Int(0).tag(sync=True)
    drawn = traitlets.Int(NEVER).tag(sync=True)


class LinkedMaps:
    """Maps with one selection: a lasso in one map also selects in the other, and fills ``strip``.

    Attributes:
        scatters: jscatter's, by the names of ``places``; their ``widget.selection`` are rows of ``frame``.
        strip: the selected images (HTML); preview: the image under the pointer (HTML).
    """

    def __init__(self, places: Mapping[str, NDArray[np.floating]], frame: pd.DataFrame, thumbnails: Thumbnails) -> None:
        import ipywidgets
        import jscatter

        self.frame, self.thumbnails = frame, thumbnails
        self._codes: NDArray[np.int8] | None = None  # of each image's mark, as last sent
        self._waiting = False  # whether other codes are to be sent
        data = frame[["path", "person", "camera", "clothes"]].reset_index(drop=True)
        for name, points in places.items():
            data[f"{name} x"], data[f"{name} y"] = points.T
        data["mark"] = pd.Categorical(["other image"] * len(data), categories=list(MARKS))
        colours, sizes = zip(*MARKS.values(), strict=True)
        self.strip, self.preview = ipywidgets.HTML(), ipywidgets.HTML(layout={"height": "140px"})
        self.scatters: dict[str, Any] = {}
        for name in places:
            scatter = jscatter.Scatter(
                data=data, x=f"{name} x", y=f"{name} y", color_by="mark", color_map=list(colours), size_by="mark",
                size_map=list(sizes), opacity=0.8, height=350, x_scale=EDGES, y_scale=EDGES,
            )  # fmt: skip
            scatter.axes(False)
            scatter.mouse("lasso")  # jscatter's other lasso, Shift and a drag, selects cells in JupyterLab
            scatter.widget.non_spatial_points_update = True  # marks change, places do not
            self.scatters[name] = scatter
        linked = [(scatter, f"by {name}") for name, scatter in self.scatters.items()]
        maps = jscatter.compose(linked, sync_selection=True, sync_hover=True, rows=1, row_height=430)
        for scatter in self.scatters.values():
            scatter.widget.observe(lambda change: self.show(change["new"]), names="selection")
            scatter.widget.observe(lambda change: self._hover(change["new"]), names="hovering")
        self._frames = Frames()
        self._frames.observe(self._drawn, names="drawn")
        self.show([])
        legend = ipywidgets.HTML(_legend())
        self.box = ipywidgets.VBox([legend, maps, ipywidgets.HBox([self.preview, self.strip]), self._frames])

    def mark(self, answer: Answer, top: pd.DataFrame) -> None:
        """Mark a query and its answers in every map, as soon as the browser has drawn the marks before them."""
        self._codes = pd.Categorical(marks_of(answer, top, self.frame), categories=list(MARKS)).codes
        self._waiting = True
        if self._frames.drawn in (NEVER, self._frames.sent):
            self._send()

    def _send(self) -> None:
        self._waiting = False
        for scatter in self.scatters.values():
            points = np.array(scatter.widget.points)  # x, y, category: a new data frame would cost 0.1 s
            points[:, 2] = self._codes
            points[:, 3] = self._frames.sent % 2  # not drawn; a browser ignores points that are equal to the last
            with scatter.widget.hold_sync():  # one message: an order without its points would not be applied
                scatter.order(by=np.argsort(self._codes, kind="stable"))
                scatter.widget.points = points
        self._frames.sent += 1

    def _drawn(self, change: dict[str, Any]) -> None:
        """Send marks that waited, and once those that were sent before the browser showed the maps."""
        again = change["old"] == NEVER and self._codes is not None
        if change["new"] != NEVER and (again or self._waiting):
            self._send()

    def show(self, rows: Sequence[int]) -> None:
        """Show the first few of the selected rows, or how to select."""
        rows = [] if rows is None else [int(row) for row in rows]
        if not rows:
            self.strip.value = (
                "Drag around points in either map to select them; the wheel zooms. The cross in a map's bar lets a "
                "drag move the map."
            )
            return
        chosen = self.frame.iloc[rows]
        outfits = chosen["clothes"][chosen["clothes"] != UNKNOWN].nunique()
        counts = f"Images: {len(rows)}, people: {chosen['person'].nunique()}" + f", outfits: {outfits}" * (outfits > 0)
        more = f"; the first {SHOWN}" if len(rows) > SHOWN else ""
        images = "".join(self._image(row) for row in rows[:SHOWN])
        self.strip.value = f'<b>{counts}{more}</b><div style="display:flex;flex-wrap:wrap;gap:4px">{images}</div>'

    def _hover(self, row: int | None) -> None:
        self.preview.value = "" if row is None or row < 0 else self._image(int(row))

    def _image(self, row: int) -> str:
        one = self.frame.iloc[row]
        name = html.escape(f"{one['path']}, person {one['person_label']}", quote=True)
        try:
            url = data_url(self.thumbnails.jpeg(one["path"]))
        except InputError as error:
            return f'<span title="{html.escape(str(error), quote=True)}">no image</span>'
        return f'<img src="{url}" alt="{name}" title="{name}" style="height:96px">'


def _legend() -> str:
    marks = (
        f'<span style="white-space:nowrap"><span style="display:inline-block;width:{size}px;height:{size}px;'
        f'border-radius:50%;background:{colour}"></span> {mark}</span>'
        for mark, (colour, size) in reversed(MARKS.items())
    )
    return f'<div style="display:flex;gap:18px;align-items:center">{"".join(marks)}</div>'
