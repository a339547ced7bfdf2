"""Two maps of one gallery, by clothes and by identity: what is chosen in one is shown in the other."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from csgn_lib import figures
from csgn_lib.analysis.probes import flat_map
from csgn_lib.panels.sources import Source
from csgn_lib.panels.thumbnails import Thumbnails, data_url
from csgn_lib.records import InputError
from csgn_lib.retrieval import CLOTHING_OUT, features_of
from csgn_lib.vocabulary import coordinates

LARGEST = 3000  # images that t-SNE places in seconds; more are placed by their first two principal components
PREVIEWS = 2000  # images whose small pictures are made at once for the tooltips; beyond, a hover makes its own
SHOWN = 24  # pictures of a selection
EDGES = (-1.08, 1.08)  # of the maps in the browser, so that no point lies on the border


def sides(source: Source, rank: int = 0) -> dict[str, NDArray[np.float32]]:
    """Gallery features (G, .) read two ways: ``clothes``, the coordinates of f along ``rank`` clothing directions, and
    ``identity``, the descriptor with those directions out [O]. ``rank`` 0: as the run was reported.

    Raises InputError for a model without a joint embedding.
    """
    words = source.words
    chosen = source.descriptors[CLOTHING_OUT]
    basis = words.basis(CLOTHING_OUT, rank or chosen.rank)
    f = source.gallery.f / source.gallery.f.norm(dim=1, keepdim=True)
    clothes = coordinates(f - f.mean(dim=0), basis)
    return {"clothes": clothes.numpy(), "identity": features_of(chosen, words)(source.gallery).numpy()}


def layout(features: NDArray[np.floating], seed: int = 0, largest: int = LARGEST) -> NDArray[np.float32]:
    """(N, D) features to places (N, 2) in [-1, 1]: ``flat_map`` up to ``largest`` rows, beyond it two components.

    Raises InputError for fewer than four rows, or one without a direction.
    """
    if len(features) < 4:
        raise InputError(f"a map needs four images at least, given are {len(features)}")
    if len(features) > largest:
        placed = PCA(2, random_state=seed).fit_transform(features)
    else:
        placed = flat_map(features, min(30, (len(features) - 1) / 3), seed)
    placed = placed - (placed.max(axis=0) + placed.min(axis=0)) / 2
    return (placed / np.abs(placed).max()).astype(np.float32)


def maps_figure(
    places: Mapping[str, NDArray[np.floating]], chosen: Sequence[int], frame: pd.DataFrame, thumbnails: Thumbnails
) -> Figure:
    """The maps side by side, chosen images marked in both, and their pictures below."""
    with figures.styled():
        figure = plt.figure(figsize=(figures.TEXT_WIDTH, 4.3))
        above, below = figure.subfigures(2, 1, height_ratios=[3, 1.15])
        for axes, (name, points) in zip(above.subplots(1, len(places)), places.items(), strict=True):
            axes.plot(*points.T, ".", color="#b0b0b0", ms=2)
            axes.plot(*points[list(chosen)].T, "o", color="C1", ms=5, mec="white", mew=0.5)
            axes.set(title=name, xticks=[], yticks=[])
            axes.spines[:].set_visible(True)
            axes.grid(visible=False)
        strip = np.atleast_1d(below.subplots(1, max(1, len(chosen))))
        for axes, row in zip(strip, chosen, strict=False):
            axes.imshow(np.asarray(thumbnails.image(frame["path"].iloc[row])))
            axes.set(xticks=[], yticks=[], xlabel=f"person {frame['person'].iloc[row]}")
            axes.xaxis.label.set_size(6)
            axes.grid(visible=False)
            axes.spines[:].set_visible(False)
    return figure


def linked_maps(places: Mapping[str, NDArray[np.floating]], frame: pd.DataFrame, thumbnails: Thumbnails) -> LinkedMaps:
    """The maps in a browser, on jupyter-scatter; display its ``box``."""
    return LinkedMaps(places, frame, thumbnails)


class LinkedMaps:
    """Maps whose selections are one: a lasso in one lights up in the other and fills ``strip``.

    Attributes:
        scatters: jscatter's, by the names of ``places``; their ``widget.selection`` are rows of ``frame``.
        strip: pictures of what is selected (HTML); preview: the picture under the pointer (HTML).
    """

    def __init__(self, places: Mapping[str, NDArray[np.floating]], frame: pd.DataFrame, thumbnails: Thumbnails) -> None:
        import ipywidgets
        import jscatter

        self.frame, self.thumbnails = frame, thumbnails
        data = frame[["path", "person", "camera", "clothes"]].reset_index(drop=True)
        data["colour"] = (data["person"] % 8).astype(str).astype("category")  # eight colours, not one a person
        for name, points in places.items():
            data[f"{name} x"], data[f"{name} y"] = points.T
        if len(data) <= PREVIEWS:
            data["picture"] = [data_url(thumbnails.jpeg(path)) for path in data["path"]]
        self.strip, self.preview = ipywidgets.HTML(), ipywidgets.HTML(layout={"height": "140px"})
        self.scatters: dict[str, Any] = {}
        for name in places:
            scatter = jscatter.Scatter(data=data, x=f"{name} x", y=f"{name} y", color_by="colour", height=360, size=5,
                                       x_scale=EDGES, y_scale=EDGES)  # fmt: skip
            scatter.axes(False)
            scatter.mouse("lasso")  # shift and a drag, its other way, is JupyterLab's own gesture for cells
            if "picture" in data:
                scatter.tooltip(True, properties=["person", "camera", "clothes"], preview="picture",
                                preview_type="image", preview_image_height=112)  # fmt: skip
            self.scatters[name] = scatter
        linked = [(scatter, name) for name, scatter in self.scatters.items()]
        maps = jscatter.compose(linked, sync_selection=True, sync_hover=True, rows=1, row_height=400)
        for scatter in self.scatters.values():
            scatter.widget.observe(lambda change: self.show(change["new"]), names="selection")
            scatter.widget.observe(lambda change: self._hover(change["new"]), names="hovering")
        self.show([])
        self.box = ipywidgets.VBox([maps, ipywidgets.HBox([self.preview, self.strip])])

    def show(self, rows: Sequence[int]) -> None:
        """Pictures of the selected rows, the first few of them."""
        rows = [int(row) for row in ([] if rows is None else rows)]
        if not rows:
            self.strip.value = (
                "Draw around points in either map; the wheel zooms. The arrows in its bar: a drag moves the map."
            )
            return
        chosen = self.frame.iloc[rows]
        counts = f"Images: {len(rows)}, people: {chosen['person'].nunique()}, outfits: {chosen['clothes'].nunique()}"
        more = f"; the first {SHOWN}" if len(rows) > SHOWN else ""
        images = "".join(self._image(row) for row in rows[:SHOWN])
        self.strip.value = f'<b>{counts}{more}</b><div style="display:flex;flex-wrap:wrap;gap:4px">{images}</div>'

    def _hover(self, row: int | None) -> None:
        self.preview.value = "" if row is None or row < 0 else self._image(int(row))

    def _image(self, row: int) -> str:
        one = self.frame.iloc[row]
        name = html.escape(f"{one['path']}, person {one['person']}, outfit {one['clothes']}", quote=True)
        try:
            url = data_url(self.thumbnails.jpeg(one["path"]))
        except InputError as error:
            return f'<span title="{html.escape(str(error), quote=True)}">no image</span>'
        return f'<img src="{url}" alt="{name}" title="{name}" style="height:96px">'
