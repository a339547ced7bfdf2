"""`sweep`: run a notebook for every cell of a grid of parameters, each in a separate process."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ThreadPoolExecutor,
    wait,
)  # fmt: skip
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from csgn_lib import plugins
from csgn_lib.config import plugins_of
from csgn_lib.records import InputError, Run, writing
from csgn_lib.runs import executors, folders, notebooks
from csgn_lib.runs.execution import GRACE, execute
from csgn_lib.runs.grids import Grid, check, combinations
from csgn_lib.runs.machine import gpus as visible_gpus
from csgn_lib.runs.progress import Progress
from csgn_lib.runs.words import label, write_report

_KEPT = (
    "notebook",
    "parameters",
    "command",
    "started",
    "heartbeat",
    "seconds",
)  # fields that are kept when a status is replaced


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: the given parameters, all of the notebook's values, the run's folder and its key."""

    notebook: Path
    given: dict[str, Any]
    values: dict[str, Any]
    run: Run
    name: str = ""  # of its row; empty if the sweep has no named rows

    @property
    def key(self) -> str:
        """The key of the run for the current code."""
        return folders.key(self.notebook, self.values)

    @property
    def label(self) -> str:
        """The row's name, seed and world; the folder's name if it has none of them."""
        return label(({"row": self.name} if self.name else {}) | self.given) or self.run.dir.name

    @property
    def done(self) -> bool:
        """Whether the run is done, with the current code."""
        return folders.finished(self.run, self.key)


def cell(notebook: Path, given: Mapping[str, Any], name: str = "", folder: str = "") -> Cell:
    """The cell of these parameters. Raises InputError for parameters that the notebook does not accept."""
    values = notebooks.checked(notebook, given)
    run = Run(folders.folder_for(folder or notebook.stem, notebook, values))
    return Cell(notebook, {key: values[key] for key in given}, values, run, name)


def sweep(
    grid: Grid | Mapping[str, Any] | Sequence[Mapping[str, Any]],
    executor: Executor | None = None,
    *,
    notebook: str | Path = "12_train",
    timeout: float | None = None,
    threads: int | None = None,
    workers: int | None = None,
    stream: TextIO | None = None,
) -> pd.DataFrame:
    """Run the notebook for every cell of the grid; one row per cell, in their order.

    Cells that are done (by their `key`) are skipped; those that failed, died or were interrupted are continued. A cell
    that fails does not stop the others: its row has the error, and ``reports/runs/sweep-<digest>.md`` the command.

    Args:
        grid: from `read_grid`; or parameter -> list of values (a single value stands for a list of
            one), for example ``{"hsf": ["none", "convex"], "seed": [0, 1, 2]}``; or a list of cells,
            each with its own parameters.
        executor: where cells are started; each is a separate process. Default: this machine, with separate GPUs for
            each cell if the grid reserves some.
        notebook: the cell's notebook, a file or a bare name; a `Grid` names its own.
        timeout: seconds of wall clock for each cell.
        threads: CPU threads of each cell; 1 if there are as many workers as cores.
        workers: cells at a time, without an executor; default 1, or as many as have GPUs.
        stream: for progress and the estimated time left.

    Returns a frame: the cells' parameters (a `Grid`'s ``row`` first), ``run`` (folder), ``state``, ``error``, and
    the results; ``frame.attrs["report"]`` is the report's path, or the reason why it could not be written.

    Raises:
        InputError: before anything runs: an empty grid, an unknown parameter, a wrong type, the same
            cell twice, or a cell that another sweep or run is working on.
        KeyboardInterrupt: raised again after all cells were stopped and the report is written.
    """
    cells = planned_cells(grid, notebook)
    report_to = folders.runs_folder() / f"sweep-{digest(cells)}.md"
    source = grid.path if isinstance(grid, Grid) else None
    gpus = visible_gpus() if isinstance(grid, Grid) and grid.gpus_per_cell and executor is None else None
    pool = executor or executors.local(workers, gpus, grid.gpus_per_cell if isinstance(grid, Grid) else 1)
    errors: dict[Path, str] = {}
    frame = pd.DataFrame()
    try:
        with exclusive(cells) as lock:
            try:
                progress = Progress(cells, stream, {}, getattr(pool, "_max_workers", None))
                run_cells(pool, cells, lock, (timeout, threads), errors, progress)
            finally:
                frame = frame_of(cells, errors)
                frame.attrs["report"] = write_report(report_to, frame, [cell.given for cell in cells], source)
            return frame
    finally:
        if executor is None:
            pool.shutdown()


def planned(grid: Grid) -> pd.DataFrame:
    """The grid's cells with their current states, as returned by `sweep`. Runs and writes nothing."""
    frame = frame_of(planned_cells(grid), {})
    return frame.assign(state=[state if state != "missing" else "new" for state in frame["state"]])


def planned_cells(
    grid: Grid | Mapping[str, Any] | Sequence[Mapping[str, Any]], notebook: str | Path = "12_train"
) -> list[Cell]:
    """The cells of a sweep. Raises InputError as `sweep` does before anything runs."""
    if isinstance(grid, Grid):
        check(grid)
        named = zip(grid.cells, grid.names, strict=True)
        return [cell(grid.notebook, given, name) for given, name in named]
    path = notebooks.find(notebook)
    given = combinations(grid) if isinstance(grid, Mapping) else list(grid)
    if not given:
        raise InputError("the grid has no cell; give at least one")
    cells = [cell(path, one) for one in given]
    if any(one.values in [other.values for other in cells[:index]] for index, one in enumerate(cells)):
        raise InputError("the grid contains the same cell twice; remove one")
    return cells


def digest(cells: Sequence[Cell]) -> str:
    """Eight hexadecimal digits that identify a sweep: its notebooks and all their values."""
    text = json.dumps([[cell.notebook.name, cell.values] for cell in cells], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


@contextmanager
def exclusive(cells: Sequence[Cell]) -> Iterator[Run]:
    """Lock the cells for this process; those that are not done are queued.

    Yields the folder of the sweep's lock. Raises InputError naming another process that works on them.
    """
    lock = Run(folders.runs_folder() / ".sweeps" / digest(cells))
    with ExitStack() as held:
        try:
            held.enter_context(folders.claimed(lock))
        except folders.InUse as error:
            raise InputError(f"a sweep over the same cells is running: {error}") from None
        with writing(lock.dir):
            held.callback(_release, lock)
            held.enter_context(folders.beating(lock))
        lock.path("stop").unlink(missing_ok=True)
        waiting = [cell.run for cell in cells if not cell.done]
        for run in waiting:
            if (state := folders.state(run)) in ("running", "queued"):
                raise InputError(
                    f"{run.dir} is {state} by another process (pid {run.status['pid']} on {run.status['host']}); "
                    "wait for it, or stop it"
                )
        for run in waiting:
            with suppress(OSError):  # a full disk, which the cell itself will report
                run.set_status("queued", **_kept(run))
        yield lock


def _release(lock: Run) -> None:
    with suppress(OSError):  # then other hosts wait until its heartbeat has expired
        lock.set_status("done")


def _kept(run: Run) -> dict[str, Any]:
    """Status fields of a continued run: its parameters, and its cost so far."""
    status = run.status if run.path("status.json").exists() else {}
    return {name: status[name] for name in _KEPT if name in status}


def run_cells(
    pool: Executor,
    cells: Sequence[Cell],
    lock: Run,
    limits: tuple[float | None, int | None],
    errors: dict[Path, str],
    progress: Progress,
) -> None:
    """Run the cells that are not done; errors outside of a run are added to ``errors``, by folder.

    ``limits``: seconds of wall clock and CPU threads of each cell, None for no limit.
    """
    stop = threading.Event() if isinstance(pool, ThreadPoolExecutor) else _StopFile(lock.path("stop"))
    futures: dict[Future[None], Cell] = {}
    try:
        for one in (cell for cell in cells if not cell.done):
            plugins.keep_copies(plugins_of(one.values), one.run.dir)  # for workers that do not have these files
            job = (one.notebook, one.given, one.run.dir, one.key, *limits, stop)
            try:
                futures[pool.submit(_run_cell, *job)] = one
            except (BrokenExecutor, OSError) as error:  # the pool and its cells were killed
                _record_failure(one.run, error, errors)
        pending = set(futures)
        while pending:
            ended, pending = wait(pending, progress.interval, FIRST_COMPLETED)
            for future in ended:
                if error := _error(future):
                    _record_failure(futures[future].run, error, errors)
                progress.ended(futures[future])
            progress.show([futures[future] for future in pending])
    except BaseException:
        stop.set()
        wait(futures, 2 * GRACE)  # each cell checks stop and ends
        for future in futures:
            future.cancel()
        raise
    finally:
        _mark_interrupted(cells)


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


def _run_cell(
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
        pass  # its worker was killed on another host: `died` after its heartbeat has expired
    if not stop.is_set() and not folders.finished(run, key):
        execute(notebook, given, folder, timeout, threads=threads, stop=stop, variables=executors.variables())


def _error(future: Future[None]) -> BaseException | None:
    try:
        return future.exception()
    except CancelledError as error:
        return error


def _record_failure(run: Run, error: BaseException, errors: dict[Path, str]) -> None:
    """Store an error outside of the run, and write it to its status if no error is recorded there."""
    errors[run.dir] = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    with suppress(OSError, InputError):
        patience = time.monotonic() + GRACE
        while _verdict(error) == "died" and folders.state(run) == "running" and time.monotonic() < patience:
            time.sleep(0.1)  # the worker's process is ending
        if folders.state(run) in ("queued", "missing"):
            run.set_status(_verdict(error), **_kept(run), error=errors[run.dir])


def _verdict(error: BaseException) -> str:
    if isinstance(error, CancelledError):
        return "interrupted"
    died = isinstance(error, BrokenExecutor) or type(error).__name__ in ("KilledWorker", "UncompletedJobError")
    return "died" if died else "failed"


def _mark_interrupted(cells: Sequence[Cell]) -> None:
    """Set the state of cells that are still queued by this process to interrupted."""
    for run in (cell.run for cell in cells):
        with suppress(OSError, InputError):
            if folders.state(run) == "queued" and run.status["pid"] == os.getpid():
                run.set_status("interrupted", **_kept(run), error="the sweep was stopped before this cell began")


def frame_of(cells: Sequence[Cell], errors: Mapping[Path, str]) -> pd.DataFrame:
    """One row per cell: row (if named), given parameters, run, state, error and results."""
    return pd.DataFrame([_row(cell, errors.get(cell.run.dir)) for cell in cells])


def _row(cell: Cell, error: str | None) -> dict[str, Any]:
    run = cell.run
    try:
        state = folders.state(run)
        status = run.status if state != "missing" else {}
        results = folders.flat(run.results) if run.path("results.json").exists() else {}
    except InputError as damaged:
        state, status, results, error = "failed", {}, {}, error or str(damaged)
    if error and state in ("missing", "queued", "done"):  # the error could not be written to the status
        state, results = "failed", {}
    name = {"row": cell.name} if cell.name else {}
    row = {"run": str(run.dir), "state": state, "error": error or status.get("error")}
    return {**name, **cell.given, **row, **results}
