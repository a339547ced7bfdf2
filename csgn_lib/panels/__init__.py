"""Everything that knows it is in a notebook. State and logic stand apart from widgets, which only show them."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {  # each brings its own: torch, ipywidgets, jupyter-scatter
    "explorer": ("Explorer",),
    "explorer_widgets": ("panel", "strip_html"),
    "looks": ("Answer", "Filter", "Look"),
    "maps": ("layout", "linked_maps", "maps_figure", "neighbour_shares", "sides"),
    "sources": ("Source", "frozen_clip", "open_source"),
    "thumbnails": ("Thumbnails", "decode_upload"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"csgn_lib.panels.{module}"), name)
    raise AttributeError(f"module 'csgn_lib.panels' has no attribute {name!r}")


__all__ = [name for names in _NAMES.values() for name in names]
