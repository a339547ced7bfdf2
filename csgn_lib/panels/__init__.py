"""Everything that knows it is in a notebook. Each widget stands over a figure or table that is drawn without it.

Runs: `TrainingDashboard` follows them, `Board` lists all, `ParameterPanel` starts one (`start`, `stop`, `go_on`,
`command` without a widget); `read` and `summary`, `run_table`, `experiment_table` are what they show.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_NAMES = {
    "background": ("command", "go_on", "start", "stop"),
    "board": ("Board", "board_frame", "run_table"),
    "dashboard": ("TrainingDashboard", "drawn", "epochs", "summary", "summary_table"),
    "parameters": ("ParameterPanel", "experiment_table"),
    "reading": ("Reading", "read", "readings"),
}


def __getattr__(name: str) -> Any:
    for module, names in _NAMES.items():
        if name in names:
            return getattr(import_module(f"csgn_lib.panels.{module}"), name)
    raise AttributeError(f"module 'csgn_lib.panels' has no attribute {name!r}")


__all__ = [name for names in _NAMES.values() for name in names]
