"""Everything that knows it is in a notebook. Each widget stands over a figure or table that is drawn without it.

Queries: `Explorer` holds what is looked at and `panel` shows it; `linked_maps` are two maps that select together. Runs:
`TrainingDashboard` follows them, `Board` lists all, `ParameterPanel` starts one (`start`, `stop`, `go_on`, `command`
without a widget); `read` and `summary`, `run_table`, `experiment_table` are what they show.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {  # each brings its own: torch, ipywidgets, jupyter-scatter
    "background": ("command", "go_on", "start", "stop"),
    "board": ("Board", "board_frame", "run_table"),
    "dashboard": ("TrainingDashboard", "drawn", "epochs", "summary", "summary_table"),
    "explorer": ("Explorer",),
    "explorer_widgets": ("panel", "strip_html"),
    "looks": ("Answer", "Filter", "Look"),
    "maps": ("layout", "linked_maps", "maps_figure", "sides"),
    "parameters": ("ParameterPanel", "experiment_table"),
    "reading": ("Reading", "read", "readings"),
    "sources": ("Source", "frozen_clip", "open_source"),
    "thumbnails": ("Thumbnails", "decode_upload"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"csgn_lib.panels.{module}"), name)
    raise AttributeError(f"module 'csgn_lib.panels' has no attribute {name!r}")


__all__ = [name for names in _NAMES.values() for name in names]
