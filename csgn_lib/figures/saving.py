"""The library's matplotlib style, and `save`: writes a figure with its data and its provenance."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from csgn_lib.records import InputError, Run, atomic_path, home
from csgn_lib.runs.explain import origin, sha256, within
from csgn_lib.runs.folders import COMMAND_VARIABLE, FOLDER_VARIABLE
from csgn_lib.runs.machine import library_digest

STYLE = Path(__file__).parents[1] / "style.mplstyle"
COLUMN_WIDTH, TEXT_WIDTH = 3.35, 6.9  # inches: one column, and both, of a two-column paper
_METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None, "Creator": None}, "png": {"Software": None}}


def use_style() -> None:
    """Use the library's style for every figure drawn from now on."""
    plt.style.use(STYLE)


@contextmanager
def styled() -> Iterator[None]:
    """Use the library's style for the figures drawn inside the ``with`` block.

    matplotlib loads its backend when the first figure is made, and Jupyter's backend then switches interactive mode
    on. Inside a style context that switch would be undone at the end of the block, and no later figure would appear
    in the notebook. So the backend is loaded before the block starts.
    """
    _load_backend()
    with plt.style.context(STYLE):
        yield


@cache
def _load_backend() -> None:
    plt.switch_backend(mpl.get_backend())


def save(
    figure: Figure,
    name: str | Path,
    data: pd.DataFrame | Mapping[str, Any],
    caption: str = "",
    runs: Sequence[Run] = (),
    sources: Sequence[Path] = (),
) -> Path:
    """Write ``<name>.pdf``, ``.png``, ``.csv`` and ``.json``: all four or none, the same bytes each time.

    Args:
        figure: what to print, at its own size.
        name: a bare name lies in ``figures/`` of the headless run that this is part of, or in
            ``reports/figures`` of the workbench; a name with a folder lies there.
        data: the numbers that were drawn: a frame, columns, or named frames (stacked, with a first
            column ``part``).
        caption: one or two sentences; also what the demo's page prints below. Where there are error bars or
            bands it says what they are: of which interval, over what.
        runs: the runs that the numbers came from; recorded with what tells them from others (``runs.origin``).
        sources: the committed records that the numbers were read from; recorded with their SHA-256.

    Returns the path without a suffix. Raises InputError if ``data`` is no table. What a paper would not print, another
    width than a column's or the page's, or bars whose interval the caption does not name, is a warning: the numbers
    may have taken hours.
    """
    base = _place(name)
    frame = _frame(data, base.name)
    for fault in _faults(figure, caption):
        warnings.warn(f"figure {base.name!r}: {fault}", stacklevel=2)
    provenance = {
        "caption": caption,
        "command": os.environ.get(COMMAND_VARIABLE, ""),
        "made_in": Path(os.environ.get(FOLDER_VARIABLE, "")).name,
        "library": library_digest(),
        "runs": [origin(run) for run in runs],
        "sources": [{"path": within(Path(path)), "sha256": sha256(Path(path))} for path in sources],
    }
    with ExitStack() as stack, mpl.rc_context({"pdf.fonttype": 42}):
        targets = {s: stack.enter_context(atomic_path(f"{base}.{s}")) for s in ("pdf", "png", "csv", "json")}
        for suffix, metadata in _METADATA.items():
            figure.savefig(targets[suffix], format=suffix, metadata=metadata, dpi=220)
        frame.to_csv(targets["csv"], index=False)
        provenance["csv_sha256"] = sha256(targets["csv"])
        targets["json"].write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    return base


def _faults(figure: Figure, caption: str) -> list[str]:
    faults = []
    if round(width := figure.get_figwidth(), 2) not in (COLUMN_WIDTH, TEXT_WIDTH):
        faults.append(f"{width:.2f} inches wide; give COLUMN_WIDTH = {COLUMN_WIDTH} or TEXT_WIDTH = {TEXT_WIDTH}")
    bars = any(isinstance(drawn, ErrorbarContainer) for axes in figure.axes for drawn in axes.containers)
    bands = any(isinstance(drawn, FillBetweenPolyCollection) for axes in figure.axes for drawn in axes.collections)
    if (bars or bands) and not re.search(r"interval|s\.d\.", caption):
        faults.append("it has error bars or bands; let the caption name their interval, or s.d., and over what")
    return faults


def _place(name: str | Path) -> Path:
    path = Path(name)
    if path.parent != Path("."):
        return path
    folder = os.environ.get(FOLDER_VARIABLE)
    return (Path(folder) if folder else home() / "reports") / "figures" / path


def _frame(data: pd.DataFrame | Mapping[str, Any], name: str) -> pd.DataFrame:
    if isinstance(data, pd.DataFrame):
        return data
    try:
        if data and all(isinstance(part, pd.DataFrame) for part in data.values()):
            return pd.concat(dict(data), names=["part", None]).reset_index("part").reset_index(drop=True)
        return pd.DataFrame(dict(data))
    except (TypeError, ValueError) as error:
        raise InputError(f"the data of figure {name!r} is no table ({error}); give a frame or columns") from None
