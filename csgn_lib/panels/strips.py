"""Rankings as HTML: a strip of images whose cells can be clicked, one image enlarged, the scale of attention maps."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from csgn_lib.panels.looks import Answer
from csgn_lib.panels.thumbnails import HEAT, Thumbnails, data_url
from csgn_lib.records import InputError

FRAMES = {"query": "#262626 solid", "right": "#009E73 solid", "wrong": "#D55E00 dashed", "unknown": "#808080 solid"}
SMALL, LARGE, ENLARGED = 112, 224, 380  # pixels: a strip's images, with attention maps, and one that is enlarged
QUERY = "query"  # choice of the query's cell; that of a gallery image is its row
SEARCH, CLOSE = "search", "close"  # choices below an enlarged image
_METHOD = (
    "Attention rollout (Abnar and Zuidema, ACL 2020): how strongly each patch contributes to the class token, in "
    "multiples of the image's mean. It ignores the ResNet and the other image of the pair."
)


@dataclass(frozen=True)
class Cell:
    """One image of a strip: its JPEG's data URL ("" if unreadable), its name, frame, label and the line below."""

    url: str
    name: str
    kind: str
    label: str
    below: str
    choice: str

    def html(self, height: int) -> str:
        """The cell, its image a button."""
        colour, line = FRAMES[self.kind].split()
        name = html.escape(self.name, quote=True)
        size = f"height:{height}px;min-width:{height // 4}px;display:block"
        image = f'<img src="{self.url}" alt="{name}" title="{name}" style="{size}">'
        if not self.url:
            image = f'<div title="{name}" style="{size};background:#ddd">no image</div>'
        border = f"border:3px {line} {colour};padding:0;background:none;border-radius:0;cursor:zoom-in"
        frame = f'<button type="button" data-choice="{self.choice}" style="{border}">{image}</button>'
        label = f'<span style="color:{colour}">{html.escape(self.label)}</span>'
        return f'<div style="text-align:center;font-size:11px">{frame}<br>{label}<br>{self.below}</div>'


def strip_cells(
    answer: Answer,
    top: pd.DataFrame,
    thumbnails: Thumbnails,
    images: Mapping[str, bytes] = MappingProxyType({}),
    text_alone: bool = False,
) -> list[Cell]:
    """The query, then its ranking, marked as in `figures.rank_strip`, with cosine and the rank before the change.

    Args:
        images: JPEGs, by path or QUERY, of images that differ from their files.
        text_alone: there is no query image; the query has no cell.
    """
    marked = answer.query["person"] != -1
    cells = []
    if not text_alone:
        cells.append(Cell(*_shown(thumbnails, answer.query["path"], images.get(QUERY)), "query", "query", "", QUERY))
    for row in top.itertuples():
        kind = "unknown" if not marked else "right" if row.right else "wrong"
        label = {"right": f"✓ {row.changed}", "wrong": "✗", "unknown": f"person {row.person_label}"}[kind]
        moved = "" if row.was in (0, row.rank) else f" (was {row.was})"
        below = f"rank {row.rank}{moved}<br>cosine {row.similarity:.3f}"
        cells.append(Cell(*_shown(thumbnails, row.path, images.get(row.path)), kind, label, below, str(row.row)))
    return cells


def strip_html(title: str, cells: list[Cell], height: int = SMALL) -> str:
    """The cells in rows below a title."""
    shown = "".join(cell.html(height) for cell in cells)
    return (
        f'<div style="line-height:1.25"><b>{html.escape(title)}</b>'
        f'<div style="display:flex;gap:6px;flex-wrap:wrap;margin-top:4px">{shown}</div></div>'
    )


def enlarged_html(cells: list[Cell], facts: str, searchable: bool) -> str:
    """Large images over the page, with information on the last one and buttons to search with it and to close it."""
    button = '<button type="button" class="jupyter-button" data-choice="{}" style="width:max-content">{}</button>'
    buttons = button.format(SEARCH, "Search with this image") * searchable + button.format(CLOSE, "Close")
    return (
        '<dialog style="margin:auto;padding:0;border:1px solid #ccc">'
        '<div style="display:flex;gap:14px;padding:12px;font-size:13px">'
        f"{''.join(cell.html(ENLARGED) for cell in cells)}"
        f'<div style="line-height:1.5">{facts}<div style="display:flex;gap:6px;margin-top:8px">{buttons}</div>'
        "</div></div></dialog>"
    )


def scale_html(highest: float) -> str:
    """The colour scale of attention maps from 0 to ``highest``, with the method's name."""
    colours = ", ".join(to_hex(HEAT(level)) for level in np.linspace(0, 1, 9))
    style = f"display:inline-block;width:180px;height:12px;background:linear-gradient(90deg,{colours})"
    return f'<div style="font-size:11px">0 <span style="{style}"></span> {highest:.1f} times the mean. {_METHOD}</div>'


def _shown(thumbnails: Thumbnails, path: str, image: bytes | None) -> tuple[str, str]:
    """Data URL and name of an image; without a URL, why the file cannot be read."""
    try:
        return data_url(image or thumbnails.jpeg(path)), path
    except InputError as error:
        return "", str(error)
