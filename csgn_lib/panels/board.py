"""All runs and their states: a table for a page, and the same with filters."""

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
from csgn_lib.records import Run
from csgn_lib.runs.words import clock

ALL = "all"
_HEADS = {
    "run": "run", "kind": "notebook", "state": "state", "at": "came to", "metric": "last metric", "age": "heartbeat",
    "again": "to go on, or the error",
}  # fmt: skip
_ENDED = ("failed", "died", "timed_out", "interrupted")


def board_frame(folder: str | Path | None = None) -> pd.DataFrame:
    """All runs, the newest first: run, kind (notebook, or train), state, at, metric, age (s), seconds, error, again.

    ``again`` is the command that goes on with a run that has ended and is not done.
    """
    root, rows = Path(folder) if folder else runs.runs_folder(), []
    found = runs.table(root)
    for name, seconds in reversed(list(zip(found["run"], found.get("seconds", []), strict=True))):
        seen = read(Run(root / name))
        rows.append({
            "run": name, "kind": Path(seen.status.get("notebook", "train")).stem, "state": seen.state, "at": seen.where,
            "metric": seen.last_metric, "age": seen.age, "seconds": seconds, "error": "; ".join(seen.remarks),
            "again": background.again(seen.run) if seen.state in _ENDED else "",
        })  # fmt: skip
    columns = ["run", "kind", "state", "at", "metric", "age", "seconds", "error", "again"]
    return pd.DataFrame(rows, columns=columns)


def run_table(frame: pd.DataFrame) -> HTML:
    """The frame as a table; each state with a sign and its word, so that no colour is needed to tell them."""
    return HTML(table_html(frame))


def table_html(frame: pd.DataFrame) -> str:
    """The same as text."""
    if frame.empty:
        return "<p>No run is here yet. <code>csgn train</code> or the parameter panel starts one.</p>"
    head = "".join(f'<th scope="col" style="text-align:left;padding:2px 8px">{name}</th>' for name in _HEADS.values())
    body = "".join(_line(row) for row in frame.to_dict("records"))
    return (
        '<table style="font-size:90%;border-collapse:collapse;line-height:1.35">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def badge(state: str) -> str:
    """A state as an element of a page: its sign and word on its colour."""
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


def _line(row: dict[str, Any]) -> str:
    said = f"<small>{html.escape(row['error'])}</small>" if row["error"] else ""
    again = f"<code>{html.escape(row['again'])}</code>" if row["again"] else ""
    cells = [
        html.escape(row["run"]), html.escape(row["kind"]), badge(row["state"]), html.escape(row["at"]),
        html.escape(row["metric"]), f"{ago(row['age'])} ago" if ago(row["age"]) else "",
        "<br>".join(filter(None, [again, said])),
    ]  # fmt: skip
    return "<tr>" + "".join(f'<td style="text-align:left;padding:2px 8px">{cell}</td>' for cell in cells) + "</tr>"


class Board:
    """The table of all runs, filtered by notebook and state. Show ``.widget``; ``refresh()`` reads the folders again.

    Args:
        folder: of runs; default ``reports/runs``.
        rows: lines at most.
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
        """Read all folders and show what the filters let through."""
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
        left = f" The newest {self.rows} are shown." if len(kept) > self.rows else ""
        total = clock(kept["seconds"].fillna(0).sum()) if len(kept) else "0:00"
        self.counts.value = f"<p>{counts} · {len(kept)} of {len(self.frame)} runs, {total} minutes of work.{left}</p>"
        self.table.value = table_html(kept.head(self.rows))
