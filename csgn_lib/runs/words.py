"""Text output: run listings, the line of a finished run, and the report of a sweep.

The report counts the cells by state, and describes each one that is not done: parameters, error, command.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from csgn_lib.records import STATES, InputError, Run, write_text
from csgn_lib.runs import folders


def listing(folder: str | Path | None = None) -> list[str]:
    """All runs as a text table, the newest last: state, last epoch or cell, seconds, peak MiB, error."""
    table = folders.table(folder)
    if table.empty:
        return [f"no runs under {folder or folders.runs_folder()}"]
    shown = table[["run", "state", "at", "seconds", "memory_mib", "error"]].rename(columns={"memory_mib": "MiB"})
    shown["MiB"] = ["" if pd.isna(peak) else f"{peak:.0f}" for peak in shown["MiB"]]
    shown["error"] = ["" if pd.isna(error) else one_line(error) for error in shown["error"]]
    return shown.astype(object).fillna("").to_string(index=False, max_colwidth=80).splitlines()


def ended(run: Run, name: str) -> str:
    """The line of a finished cell: state, name, time, and the error if there is one."""
    try:
        state, last = folders.state(run), run.status if run.path("status.json").exists() else {}
        seconds = clock(last.get("seconds", 0.0))
    except (InputError, TypeError, ValueError) as damage:
        state, last, seconds = "damaged", {"error": damage}, "?"
    error = f": {one_line(last['error'])}" if last.get("error") else ""
    return f"{state:<11}  {name} ({seconds}){error}"


def label(row: Mapping[str, Any]) -> str:
    """A cell's name: those of row, seed and world that it has."""
    names = [str(row["row"])] if "row" in row else []
    return ", ".join(names + [f"{key} {row[key]}" for key in ("seed", "world") if key in row and not pd.isna(row[key])])


def one_line(text: Any) -> str:
    """The text without line breaks, for a table or a list."""
    return " ".join(str(text).split())


def clock(seconds: float) -> str:
    """Seconds as ``m:ss``."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def write_report(path: Path, frame: pd.DataFrame, given: Sequence[Mapping[str, Any]], grid: Path | None) -> Path | str:
    """Write the report of a sweep; returns its path, or the reason if it cannot be written.

    Args:
        path: the page, Markdown.
        frame: what `sweep` returns.
        given: the parameters of each cell, in the frame's order.
        grid: the sweep's YAML file, if it has one.
    """
    try:
        write_text(path, page(path.stem, frame, given, grid))
        return path
    except OSError as error:  # all information is also in the runs' folders
        return f"the report {path} cannot be written ({error.strerror or error}); free disk space, and use csgn status"


def page(title: str, frame: pd.DataFrame, given: Sequence[Mapping[str, Any]], grid: Path | None) -> str:
    """The page's text."""
    counts = frame["state"].value_counts()
    order = [state for state in (*STATES, *counts.index) if state in counts]
    lines = [f"# {title}", "", "| state | cells |", "|---|---|"]
    lines += [f"| {state} | {counts[state]} |" for state in dict.fromkeys(order)]
    wrong = [index for index in range(len(frame)) if frame["state"].iloc[index] != "done"]
    again = (
        f"`{shlex.join(['csgn', 'sweep', str(grid)])}`, with the options that it was started with"
        if grid
        else "the same call of `runs.sweep`"
    )
    lines += ["", f"To continue all cells that are not done: {again}." if wrong else "Every cell is done."]
    for index in wrong:
        lines += ["", *_section(frame.iloc[index], given[index])]
    return "\n".join(lines) + "\n"


def _section(row: pd.Series, given: Mapping[str, Any]) -> list[str]:
    run = Run(Path(row["run"]))
    try:
        status, metrics = run.status, run.metrics()
    except InputError:
        status, metrics = {}, []
    title = label({**given, **({"row": row["row"]} if "row" in row.index else {})})
    facts = {
        "parameters": f"`{json.dumps(dict(given))}`",
        "cell": f"In [{status['cell']}]" if status.get("cell") else "",
        "error": one_line(row["error"]) if row["error"] else "",
        "came to": folders.progress(run) if metrics else "",
        "last metrics": f"`{json.dumps(metrics[-1])}`" if metrics else "",
        "memory": f"{status['memory_mib']} MiB at most" if status.get("memory_mib") else "",
        "folder": f"`{run.dir}`",
        "again": f"`{status['command']}`" if status.get("command") else "",
    }
    lines = [f"- {fact}: {text}" for fact, text in facts.items() if text]
    return [f"## {title or run.dir.name}: {row['state']}", "", *lines]
