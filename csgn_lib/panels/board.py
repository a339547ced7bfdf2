"""All runs and their states, as a table and as a table with filters."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

import ipywidgets
import pandas as pd
from IPython.display import HTML

from csgn_lib import runs
from csgn_lib.panels import background
from csgn_lib.panels.reading import MARKS, read
from csgn_lib.panels.views import table_html
from csgn_lib.records import Run
from csgn_lib.runs.words import clock

ALL = "all"
_HEADS = ("run", "notebook", "state", "progress", "last metric", "last heartbeat", "command to continue, or error")
ENDED = ("failed", "died", "timed_out", "interrupted")


def board_frame(folder: str | Path | None = None) -> pd.DataFrame:
    """All runs, newest first: run, kind (notebook, or train), state, at, metric, age (s), seconds, error, again.

    ``again`` is the command that continues a run that ended before it was done.
    """
    root, rows = Path(folder) if folder else runs.runs_folder(), []
    table = runs.table(folder)  # the default folder does not exist before the first run
    for name, seconds in reversed(list(zip(table["run"], table.get("seconds", []), strict=True))):
        seen = read(Run(root / name))
        rows.append({
            "run": name, "kind": Path(seen.status.get("notebook", "train")).stem, "state": seen.state, "at": seen.where,
            "metric": seen.last_metric, "age": seen.age, "seconds": seconds, "error": "; ".join(seen.remarks),
            "again": background.command_again(seen.run) if seen.state in ENDED else "",
        })  # fmt: skip
    columns = ["run", "kind", "state", "at", "metric", "age", "seconds", "error", "again"]
    return pd.DataFrame(rows, columns=columns)


def run_table(frame: pd.DataFrame) -> HTML:
    """The frame as a table, each state with a symbol and its name."""
    return HTML(_table(frame))


def _table(frame: pd.DataFrame) -> str:
    if frame.empty:
        return "<p>There are no runs yet. <code>csgn train</code> or the parameter panel starts one.</p>"
    return table_html(_HEADS, map(_line, frame.to_dict("records")))


def badge(state: str) -> str:
    """A state as HTML: its symbol and name on its colour."""
    mark, colour = MARKS.get(state, MARKS["damaged"])
    style = f"background:{colour};color:#262626;padding:1px 7px;border-radius:3px;white-space:nowrap"
    return f'<span style="{style}">{mark} {html.escape(state.replace("_", " "))}</span>'


def ago(seconds: float | None) -> str:
    """Such as 4 s, 12 min, 3 h, 5 days."""
    if seconds is None or pd.isna(seconds):
        return ""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _line(row: dict[str, Any]) -> list[str]:
    error = f"<small>{html.escape(row['error'])}</small>" if row["error"] else ""
    again = f"<code>{html.escape(row['again'])}</code>" if row["again"] else ""
    text = [html.escape(row[name]) for name in ("run", "kind", "at", "metric")]
    age = f"{ago(row['age'])} ago" if ago(row["age"]) else ""
    return [*text[:2], badge(row["state"]), *text[2:], age, "<br>".join(filter(None, [again, error]))]


class Board:
    """The table of all runs, filtered by notebook and state. Display ``.widget``; ``refresh()`` reads the folders.

    Args:
        folder: of runs; default ``reports/runs``.
        rows: the largest number of lines.
    """

    def __init__(self, folder: str | Path | None = None, rows: int = 30) -> None:
        self.folder, self.rows = folder, rows
        self.kind = ipywidgets.Dropdown(description="notebook", options=[ALL])
        self.state = ipywidgets.Dropdown(description="state", options=[ALL])
        again = ipywidgets.Button(description="Read again", icon="refresh")
        self.counts, self.table = ipywidgets.HTML(), ipywidgets.HTML()
        for chooser in (self.kind, self.state):
            chooser.observe(lambda change: self._show(), "value")
        again.on_click(lambda button: self.refresh())
        self.frame = board_frame(folder)
        self.widget = ipywidgets.VBox([ipywidgets.HBox([self.kind, self.state, again]), self.counts, self.table])
        self.refresh()

    def refresh(self) -> None:
        """Read all folders and show the runs that pass the filters."""
        self.frame = board_frame(self.folder)
        for chooser, column in ((self.kind, "kind"), (self.state, "state")):
            options, chosen = [ALL, *sorted(set(self.frame[column]))], chooser.value
            if tuple(options) != tuple(chooser.options):
                chooser.options = options
                chooser.value = chosen if chosen in options else ALL
        self._show()

    def _show(self) -> None:
        kept = self.frame
        for chooser, column in ((self.kind, "kind"), (self.state, "state")):
            if chooser.value not in (ALL, None):
                kept = kept[kept[column] == chooser.value]
        counts = " ".join(f"{badge(state)} {count}" for state, count in kept["state"].value_counts().items())
        counts += " · " if counts else ""
        left = f" The newest {self.rows} are shown." if len(kept) > self.rows else ""
        total = clock(kept["seconds"].fillna(0).sum()) if len(kept) else "0:00"
        self.counts.value = f"<p>{counts}{len(kept)} of {len(self.frame)} runs, {total} minutes of work.{left}</p>"
        self.table.value = _table(kept.head(self.rows))
