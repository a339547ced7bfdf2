"""`sweep`: a grid of parameters over one notebook, cell by cell, whatever becomes of each."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd

from csgn_lib.records import InputError, Run
from csgn_lib.runs import folders, notebooks
from csgn_lib.runs.execution import execute


def sweep(
    grid: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    executor: Executor | None = None,
    *,
    notebook: str | Path = "12_train",
    timeout: float | None = None,
    threads: int | None = None,
    report: Callable[[Run], None] | None = None,
) -> pd.DataFrame:
    """Run the notebook for every cell of the grid, the combinations of its values; one row a cell, in their order.

    A cell that is done, with the same parameters, library and notebook, is not run again; one that
    failed, died or was interrupted is continued. A cell that fails does not stop the others: its
    row says what became of it.

    Args:
        grid: parameter -> list of values (a single value stands for a list of one), for example
            ``{"hsf": ["none", "convex"], "seed": [0, 1, 2]}``; or a list of cells, each with its own
            parameters.
        executor: where cells run; each is a process of its own anyway. Default: one at a time here.
        notebook: the cell's notebook, a file or a bare name.
        timeout: seconds of wall clock for each cell.
        threads: CPU threads of each cell; with as many workers as cores, 1.
        report: called with each run that was not done before, when it has ended, in the grid's order.

    Returns a frame: the cells' parameters, ``run`` (folder), ``state``, ``error``, and the results.

    Raises InputError, before anything runs, for an empty grid, an unknown parameter, a wrong type, or the
    same cell twice.
    """
    path = notebooks.find(notebook)
    given = combinations(grid) if isinstance(grid, Mapping) else [dict(cell) for cell in grid]
    cells = [notebooks.checked(path, cell) for cell in given]
    runs = [Run(folders.folder_for(path.stem, path, values)) for values in cells]
    chosen = {run.dir: {n: values[n] for n in own} for run, values, own in zip(runs, cells, given, strict=True)}
    if len(chosen) < len(cells):
        raise InputError("the grid names the same cell twice; leave one of them out")
    waiting = [run for run, values in zip(runs, cells, strict=True) if not _done(run, path, values)]
    for run in waiting:
        if folders.state(run) != "running":
            run.set_status("queued")
    errors = _run_all(executor, [(path, chosen[run.dir], run.dir, timeout, threads) for run in waiting], report)
    return pd.DataFrame([_row(run, chosen[run.dir], errors.get(run.dir)) for run in runs])


def combinations(grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Every combination of the grid's values. Raises InputError naming a parameter without any."""
    lists = {name: value if isinstance(value, list | tuple) else [value] for name, value in grid.items()}
    for name, values in lists.items():
        if not values:
            raise InputError(f"the grid has no value for {name!r}, so it has no cell; give at least one")
    if not lists:
        raise InputError('the grid is empty; give parameters with their values, such as {"seed": [0, 1, 2]}')
    return [dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values())]


def _done(run: Run, notebook: Path, values: Mapping[str, Any]) -> bool:
    return folders.finished(run, folders.key(notebook, values))


def _run_all(
    executor: Executor | None, jobs: list[tuple[Any, ...]], report: Callable[[Run], None] | None
) -> dict[Path, str]:
    """Run the jobs; what went wrong outside of a run, by folder."""
    stop = threading.Event()
    pool = executor or ThreadPoolExecutor(1)
    extra = () if executor else (stop,)  # an event cannot travel to another process
    futures = {job[2]: pool.submit(_cell, *job, *extra) for job in jobs}
    try:
        errors = {}
        for folder, future in futures.items():
            if error := _error(future):
                errors[folder] = error
            if report:
                report(Run(folder))
        return errors
    except KeyboardInterrupt:
        stop.set()
        for future in futures.values():
            future.cancel()
        raise
    finally:
        if executor is None:
            pool.shutdown()


def _cell(
    notebook: Path,
    given: dict[str, Any],
    folder: Path,
    timeout: float | None,
    threads: int | None,
    stop: threading.Event | None = None,
) -> None:
    execute(notebook, given, folder, timeout, threads=threads, stop=stop)


def _error(future: Future[None]) -> str | None:
    error = future.exception()
    return f"{type(error).__name__}: {error}" if error else None


def _row(run: Run, given: Mapping[str, Any], error: str | None) -> dict[str, Any]:
    state = folders.state(run)
    status = run.status if state != "missing" else {}
    results = folders.flat(run.results) if run.path("results.json").exists() else {}
    row = {"run": str(run.dir), "state": state, "error": error or status.get("error")}
    return {**given, **row, **results}
