"""`sweep`: a grid of parameters over one notebook, cell by cell, whatever becomes of each."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, ThreadPoolExecutor, as_completed, wait
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd

from csgn_lib import plugins
from csgn_lib.config import plugins_of
from csgn_lib.records import InputError, Run, writing
from csgn_lib.runs import executors, folders, notebooks
from csgn_lib.runs.execution import GRACE, execute
from csgn_lib.runs.grids import Grid, check, combinations
from csgn_lib.runs.machine import gpus as visible_gpus
from csgn_lib.runs.words import write_report

_KEPT = ("notebook", "parameters", "command", "started", "heartbeat", "seconds")  # of a status that is written again


def sweep(
    grid: Grid | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    executor: Executor | None = None,
    *,
    notebook: str | Path = "12_train",
    timeout: float | None = None,
    threads: int | None = None,
    workers: int | None = None,
    report: Callable[[Run], None] | None = None,
) -> pd.DataFrame:
    """Run the notebook for every cell of the grid; one row a cell, in their order.

    A cell that is done, with the same parameters, library and notebook, is not run again; one that
    failed, died or was interrupted is continued. A cell that fails does not stop the others: its
    row says what became of it, and ``reports/runs/sweep-<digest>.md`` what is to be done.

    Args:
        grid: what `read_grid` read; or parameter -> list of values (a single value stands for a list of
            one), for example ``{"hsf": ["none", "convex"], "seed": [0, 1, 2]}``; or a list of cells,
            each with its own parameters.
        executor: where cells run; each is a process of its own anyway. Default: this machine, with
            a GPU of its own for each cell if the grid wants some.
        notebook: the cell's notebook, a file or a bare name; a `Grid` names its own.
        timeout: seconds of wall clock for each cell.
        threads: CPU threads of each cell; with as many workers as cores, 1.
        workers: cells at a time, without an executor; default 1, or as many as have GPUs.
        report: called with each run that was not done before, when it has ended.

    Returns a frame: the cells' parameters (a `Grid`'s ``row`` first), ``run`` (folder), ``state``, ``error``, and
    the results; ``frame.attrs["report"]`` is the report's path, or the reason why it could not be written.

    Raises:
        InputError: before anything runs: an empty grid, an unknown parameter, a wrong type, the same
            cell twice, or a cell that another sweep or run is working on.
        KeyboardInterrupt: passed on, once every cell has been told to stop and the report is written.
    """
    plan = _planned(grid, notebook)
    report_to = folders.runs_folder() / f"sweep-{plan.digest}.md"
    source = grid.path if isinstance(grid, Grid) else None
    gpus = visible_gpus() if isinstance(grid, Grid) and grid.gpus_per_cell and executor is None else None
    pool = executor or executors.local(workers, gpus, grid.gpus_per_cell if isinstance(grid, Grid) else 1)
    try:
        with _alone(plan) as lock:
            errors: dict[Path, str] = {}
            try:
                _run_all(pool, plan, lock, (timeout, threads), errors, report)
            finally:
                _say_interrupted(plan)
                frame = pd.DataFrame([_row(plan, index, errors) for index in range(len(plan.runs))])
                frame.attrs["report"] = write_report(report_to, frame, plan.given, source)
            return frame
    finally:
        if executor is None:
            pool.shutdown()


def planned(grid: Grid) -> pd.DataFrame:
    """The grid's cells as they stand now, as `sweep` returns them, and nothing run or written."""
    plan = _planned(grid, grid.notebook)
    frame = pd.DataFrame([_row(plan, index, {}) for index in range(len(plan.runs))])
    return frame.assign(state=[state if state != "missing" else "new" for state in frame["state"]])


class _Plan:
    """The sweep's cells: what is given to each, all its values, its folder, its row's name."""

    def __init__(
        self, notebook: Path, given: list[dict[str, Any]], full: list[dict[str, Any]], names: list[str]
    ) -> None:
        self.notebook, self.given, self.full, self.names = notebook, given, full, names
        self.runs = [Run(folders.folder_for(notebook.stem, notebook, values)) for values in full]
        self.keys = [folders.key(notebook, values) for values in full]
        text = json.dumps([notebook.name, full], sort_keys=True)
        self.digest = hashlib.sha256(text.encode()).hexdigest()[:8]

    def waiting(self) -> list[int]:
        """The cells that are not done."""
        cells = enumerate(zip(self.runs, self.keys, strict=True))
        return [index for index, (run, key) in cells if not folders.finished(run, key)]


def _planned(grid: Grid | Mapping[str, Any] | Sequence[Mapping[str, Any]], notebook: str | Path) -> _Plan:
    if isinstance(grid, Grid):
        return _Plan(grid.notebook, _own(grid.cells, full := check(grid)), full, grid.names)
    path = notebooks.find(notebook)
    given = combinations(grid) if isinstance(grid, Mapping) else [dict(cell) for cell in grid]
    if not given:
        raise InputError("the grid has no cell; give at least one")
    full = [notebooks.checked(path, cell) for cell in given]
    if any(values in full[:index] for index, values in enumerate(full)):
        raise InputError("the grid names the same cell twice; leave one of them out")
    return _Plan(path, _own(given, full), full, [])


def _own(given: list[dict[str, Any]], full: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{name: values[name] for name in own} for own, values in zip(given, full, strict=True)]


@contextmanager
def _alone(plan: _Plan) -> Iterator[Run]:
    """Hold the sweep for this process, its waiting cells queued. Raises InputError naming who else works on them."""
    lock = Run(folders.runs_folder() / ".sweeps" / plan.digest)
    with ExitStack() as held:
        try:
            held.enter_context(folders.claimed(lock))
        except folders.InUse as error:
            raise InputError(f"a sweep over the same cells is running: {error}") from None
        with writing(lock.dir):
            held.callback(_let_go, lock)
            held.enter_context(folders.beating(lock))
        lock.path("stop").unlink(missing_ok=True)
        for index in plan.waiting():
            run = plan.runs[index]
            if (state := folders.state(run)) in ("running", "queued"):
                raise InputError(
                    f"{run.dir} is {state} by another process (pid {run.status['pid']} on {run.status['host']}); "
                    "wait for it, or end it"
                )
        for index in plan.waiting():
            with suppress(OSError):  # a full disk: the cell itself will say so
                plan.runs[index].set_status("queued", **_kept(plan.runs[index]))
        yield lock


def _let_go(lock: Run) -> None:
    with suppress(OSError):  # then other hosts wait until it has been silent long enough
        lock.set_status("done")


def _kept(run: Run) -> dict[str, Any]:
    """What a run that goes on still needs of its last status: its parameters, and what it has cost so far."""
    status = run.status if run.path("status.json").exists() else {}
    return {name: status[name] for name in _KEPT if name in status}


def _run_all(
    pool: Executor,
    plan: _Plan,
    lock: Run,
    limits: tuple[float | None, int | None],
    errors: dict[Path, str],
    report: Callable[[Run], None] | None,
) -> None:
    """Run the cells that wait; ``errors`` gets what went wrong outside of a run, by folder."""
    stop = threading.Event() if isinstance(pool, ThreadPoolExecutor) else _StopFile(lock.path("stop"))
    futures: dict[Future[None], Run] = {}
    try:
        for index in plan.waiting():
            run = plan.runs[index]
            plugins.keep_copies(plugins_of(plan.full[index]), run.dir)  # for workers that do not have the files
            job = (plan.notebook, plan.given[index], run.dir, plan.keys[index], *limits, stop)
            try:
                futures[pool.submit(_cell, *job)] = run
            except (BrokenExecutor, OSError) as error:  # the pool has died: so have its cells, each by its name
                _blame(run, error, errors)
        for future in as_completed(futures):
            if error := _error(future):
                _blame(futures[future], error, errors)
            if report:
                report(futures[future])
    except BaseException:
        stop.set()
        wait(futures, 2 * GRACE)  # each cell looks at stop, and ends by itself
        for future in futures:
            future.cancel()
        raise


class _StopFile:
    """The part of an event that `execute` needs, for cells in other processes and on other hosts."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def set(self) -> None:
        with suppress(OSError):
            self.path.touch()

    def is_set(self) -> bool:
        return self.path.exists()

    def wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return self.is_set()


def _cell(
    notebook: Path,
    given: dict[str, Any],
    folder: Path,
    key: str,
    timeout: float | None,
    threads: int | None,
    stop: Any,
) -> None:
    run = Run(folder)
    deadline = time.monotonic() + folders.SILENCE + folders.HEARTBEAT
    while folders.state(run) == "running" and time.monotonic() < deadline and not stop.wait(1.0):
        pass  # a worker of another host was killed with it: dead once it has been silent long enough
    if not stop.is_set() and not folders.finished(run, key):
        execute(notebook, given, folder, timeout, threads=threads, stop=stop, variables=executors.variables())


def _error(future: Future[None]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error


def _blame(run: Run, error: BaseException, errors: dict[Path, str]) -> None:
    """Note what went wrong outside of the run, and let its status say it, where it says nothing yet itself."""
    errors[run.dir] = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    with suppress(OSError, InputError):
        patience = time.monotonic() + GRACE
        while _verdict(error) == "died" and folders.state(run) == "running" and time.monotonic() < patience:
            time.sleep(0.1)  # the worker has let go of us, and is about to be gone
        if folders.state(run) in ("queued", "missing"):
            run.set_status(_verdict(error), **_kept(run), error=errors[run.dir])


def _verdict(error: BaseException) -> str:
    if isinstance(error, CancelledError):
        return "interrupted"
    died = isinstance(error, BrokenExecutor) or type(error).__name__ in ("KilledWorker", "UncompletedJobError")
    return "died" if died else "failed"


def _say_interrupted(plan: _Plan) -> None:
    """What this sweep has queued and will not come to is interrupted."""
    for run in plan.runs:
        with suppress(OSError, InputError):
            if folders.state(run) == "queued" and run.status["pid"] == os.getpid():
                run.set_status("interrupted", **_kept(run), error="the sweep was stopped before this cell began")


def _row(plan: _Plan, index: int, errors: Mapping[Path, str]) -> dict[str, Any]:
    run, error = plan.runs[index], errors.get(plan.runs[index].dir)
    try:
        state = folders.state(run)
        status = run.status if state != "missing" else {}
        results = folders.flat(run.results) if run.path("results.json").exists() else {}
    except InputError as damaged:
        state, status, results, error = "failed", {}, {}, error or str(damaged)
    if error and state in ("missing", "queued", "done"):  # the disk did not take the word
        state, results = "failed", {}
    name = {"row": plan.names[index]} if plan.names else {}
    row = {"run": str(run.dir), "state": state, "error": error or status.get("error")}
    return {**name, **plan.given[index], **row, **results}
