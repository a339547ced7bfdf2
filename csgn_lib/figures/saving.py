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
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.collections import FillBetweenPolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

from csgn_lib.records import InputError, Run, atomic_path, home, read_json, sha256
from csgn_lib.runs.explain import origin, within
from csgn_lib.runs.folders import COMMAND_VARIABLE, FOLDER_VARIABLE, current_folder
from csgn_lib.runs.machine import library_digest

STYLE = Path(__file__).parents[1] / "style.mplstyle"
COLUMN_WIDTH, TEXT_WIDTH = 3.35, 6.9  # inches: one column, and both, of a two-column paper
_METADATA: dict[str, dict[str, Any]] = {"pdf": {"CreationDate": None, "Creator": None}, "png": {"Software": None}}


def use_style() -> None:
    """Use the library's style for every figure drawn from now on."""
    _load_backend()
    plt.style.use(STYLE)


def subplots(rows: int = 1, columns: int = 1, height: float = 2.4, **options: Any) -> tuple[Figure, Any]:
    """``plt.subplots`` at the width of a page, for a figure that several cells of a notebook draw.

    The notebook displays it when it is saved, not at the end of the cell that created it.
    """
    _load_backend()
    with plt.ioff():
        return plt.subplots(rows, columns, figsize=(TEXT_WIDTH, height), **options)


@contextmanager
def styled() -> Iterator[None]:
    """Use the library's style for the figures drawn inside the ``with`` block.

    matplotlib loads its backend with the first figure, and Jupyter's backend then turns interactive mode on. Inside a
    style context this would be reset at the end of the block, and later figures would not appear in the notebook.
    Therefore the backend is loaded before the block starts.
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
    show: bool = True,
) -> Path:
    """Write ``<name>.pdf``, ``.png``, ``.csv`` and ``.json``: all four or none. Deterministic.

    In a notebook's cell the figure is also displayed, with its caption below it.

    Args:
        figure: the figure, at its printed size.
        name: a name without a folder is saved in ``figures/`` of the current run: the headless run that executes the
            notebook, or the run folder of a live notebook (`runs.current`), there in a folder named after the first
            of ``runs``. Without a current run it is saved in ``reports/figures``. A name with a folder is a path.
        data: the plotted numbers: a frame, columns, or named frames (stacked, with a first column ``part``).
        caption: one or two sentences. If the figure has error bars or bands, it names their interval and what the
            interval is over.
        runs: the runs that the numbers come from; their identity is recorded (`runs.explain.origin`).
        sources: the committed records that the numbers were read from; recorded with their SHA-256.
        show: False only writes the files, for example in the callback of a widget.

    Returns:
        The path without a suffix. A figure of other runs is never overwritten: ``name-2``, ``name-3`` ... is used then.

    Raises:
        InputError: ``data`` is not a table.

    Warns:
        UserWarning: the figure is not as wide as a column or a page, or its caption does not name the interval of its
            error bars. It is saved anyway, because the numbers may have taken hours.
    """
    base = _free(_place(name, runs), runs)
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
    with ExitStack() as stack, mpl.rc_context({"pdf.fonttype": 42, "figure.constrained_layout.use": False}):
        targets = {s: stack.enter_context(atomic_path(f"{base}.{s}")) for s in ("pdf", "png", "csv", "json")}
        for suffix, metadata in _METADATA.items():
            figure.savefig(targets[suffix], format=suffix, metadata=metadata, dpi=220)
        frame.to_csv(targets["csv"], index=False)
        provenance["csv_sha256"] = sha256(targets["csv"])
        targets["json"].write_text(json.dumps(provenance, indent=2) + "\n", encoding="utf-8")
    if show:
        _display(figure, caption)
    return base


def _display(figure: Figure, caption: str) -> None:
    """In a Jupyter kernel, display a pyplot figure now and its caption below it; pyplot then forgets the figure."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if getattr(shell, "kernel", None) is None or not plt.fignum_exists(getattr(figure, "number", -1)):
        return
    from IPython.display import Markdown, display

    display(figure, *([Markdown(f"*{caption}*")] if caption else []))
    plt.close(figure)


def _faults(figure: Figure, caption: str) -> list[str]:
    faults = []
    if round(width := figure.get_figwidth(), 2) not in (COLUMN_WIDTH, TEXT_WIDTH):
        faults.append(f"{width:.2f} inches wide; use COLUMN_WIDTH = {COLUMN_WIDTH} or TEXT_WIDTH = {TEXT_WIDTH}")
    bars = any(isinstance(drawn, ErrorbarContainer) for axes in figure.axes for drawn in axes.containers)
    bands = any(isinstance(drawn, FillBetweenPolyCollection) for axes in figure.axes for drawn in axes.collections)
    if (bars or bands) and not re.search(r"interval|s\.d\.", caption):
        faults.append("it has error bars or bands; name their interval, or s.d., and what it is over in the caption")
    return faults


def _place(name: str | Path, runs: Sequence[Run]) -> Path:
    path = Path(name)
    if path.parent != Path("."):
        return path
    folder = current_folder()
    if folder is None:
        return home() / "reports" / "figures" / path
    headless = FOLDER_VARIABLE in os.environ
    return Path(folder, "figures", *([] if headless else [run.dir.name for run in runs[:1]]), path)


def _free(base: Path, runs: Sequence[Run]) -> Path:
    """``base``, or the first of ``base-2``, ``base-3`` ... that is not a figure of other runs."""
    own = [run.dir.name for run in runs]
    candidates = (base.with_name(f"{base.name}-{number}") if number > 1 else base for number in count(1))
    return next(path for path in candidates if _runs_shown(Path(f"{path}.json")) in (None, own))


def _runs_shown(record: Path) -> list[str] | None:
    """The names of the runs that a saved figure shows; None if there is no such figure."""
    return [run["run"] for run in read_json(record).get("runs", [])] if record.exists() else None


def _frame(data: pd.DataFrame | Mapping[str, Any], name: str) -> pd.DataFrame:
    if isinstance(data, pd.DataFrame):
        return data
    try:
        if data and all(isinstance(part, pd.DataFrame) for part in data.values()):
            return pd.concat(dict(data), names=["part", None]).reset_index("part").reset_index(drop=True)
        return pd.DataFrame(dict(data))
    except (TypeError, ValueError) as error:
        raise InputError(f"the data of figure {name!r} is not a table ({error}); pass a frame or columns") from None
