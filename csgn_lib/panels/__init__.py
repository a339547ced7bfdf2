"""Notebook widgets. Each is displayed below a static figure or table that a notebook shows without it.

Queries: an `Explorer` ranks and `panel` shows it; `linked_maps` are two maps with one selection. Runs:
`TrainingDashboard` follows them, `Board` lists all, `ParameterPanel` starts one (`start`, `resume`, `command`
without a widget); `read`, `summary` and `run_table` are their contents. `show` displays a widget with a note for
readers without a kernel.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {  # imported on first use, since they need torch, ipywidgets or jupyter-scatter
    "background": ("command", "resume", "start"),
    "board": ("Board", "board_frame", "run_table"),
    "dashboard": ("TrainingDashboard", "epochs", "summary", "summary_table", "training_curves"),
    "explorer": ("Explorer",),
    "explorer_widgets": ("panel",),
    "looks": ("Answer", "Filter", "Look", "TYPICAL"),
    "maps": ("layout", "linked_maps", "maps_figure", "marks_of", "placed", "sides"),
    "parameters": ("ParameterPanel",),
    "reading": ("Reading", "named", "read", "readings"),
    "sources": ("Source", "frozen_clip", "open_source"),
    "strips": ("strip_cells", "strip_html"),
    "thumbnails": ("Thumbnails", "decode_upload"),
    "views": ("View", "show"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"csgn_lib.panels.{module}"), name)
    raise AttributeError(f"module 'csgn_lib.panels' has no attribute {name!r}")


__all__ = [name for names in _NAMES.values() for name in names]
