"""Run folders: names and keys, the lock of a running process, the state, and the table of all runs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from csgn_lib.config import RECORDED, Experiment, content_digests, plugins_of
from csgn_lib.records import (
    InputError,
    Run,
    did_you_mean,
    home,
    locate,
    lock,
    read_record,
    stops_on_sigterm,
    write_json,
    writing,
)
from csgn_lib.runs import processes
from csgn_lib.runs.machine import core_digest, environment, file_digest
from csgn_lib.runs.notebooks import cells

if TYPE_CHECKING:
    from csgn_lib.datasets import Benchmark

HEARTBEAT = 2.0  # seconds between two writes of a running status
SILENCE = 60.0  # seconds without one after which a run on another host counts as dead
_COLUMNS = ("run", "state", "at", "seconds", "memory_mib", "error")  # the first columns of the table of runs
FOLDER_VARIABLE, COMMAND_VARIABLE = "CSGN_RUN_DIR", "CSGN_COMMAND"  # environment variables that name a notebook's run
_live: Path | None = None  # the folder of this process's live notebook, after it called `current`


STOPPED = "stopped by Ctrl-C or SIGTERM; the same command continues it"


class InUse(InputError):
    """Another process works in the folder."""


def runs_folder() -> Path:
    """The folder of all runs: ``reports/runs`` of the workbench's folder."""
    return home() / "reports" / "runs"


def open_run(name: str | Path) -> Run:
    """The run in the folder that `locate` finds for ``name``.

    Raises InputError if there is no such folder, with the nearest name of a run.
    """
    folder = locate(name)
    if folder.is_dir() and str(name):
        return Run(folder)
    names = [path.name for path in runs_folder().glob("*") if path.is_dir()]
    cure = did_you_mean(Path(name).name, names, "`csgn status` lists the runs")
    raise InputError(f"{str(name)!r} is not a run's folder, nor a run's name in {runs_folder()}; {cure}")


def experiment_folder(experiment: Experiment) -> Path:
    """The folder that ``csgn train`` uses for an experiment: ``reports/runs/<preset>-<digest>-s<seed>``."""
    return runs_folder() / f"{experiment.preset}-{experiment.digest()}-s{experiment.seed}"


def current(name: str, benchmark: Benchmark | None = None, experiment: Experiment | None = None) -> Run:
    """The run of the current notebook.

    In a headless notebook it is the folder that ``execute`` created; in a live one the folder of ``experiment``, if it
    trains one, else ``reports/runs/<name>-live``. With ``benchmark``, a description of the data with their hash is
    written to the run's benchmark.json.
    """
    global _live
    folder = os.environ.get(FOLDER_VARIABLE)
    live = experiment_folder(experiment) if experiment else runs_folder() / f"{name}-live"
    run = Run(Path(folder) if folder else live)
    _live = None if folder else run.dir
    if benchmark is not None:
        write_json(run.path("benchmark.json"), benchmark.record())
    return run


def current_folder() -> Path | None:
    """The folder of the current notebook's run; None before a live notebook has called `current`."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else _live


def key(notebook: Path | None, parameters: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of everything that determines a run's result, except its seed.

    These are the parameters, the content of plugins, of ``init`` and of every file that they name, the core's code and
    weights (`machine.core_digest`), and the notebook's code cells (None: ``csgn train``, which has no notebook). Text
    cells, docstrings, comments and the rest of the library, such as figures and panels, are left out.
    """
    code = [cell["source"] for cell in cells(notebook) if cell["cell_type"] == "code"] if notebook else []
    values = {name: value for name, value in parameters.items() if name not in RECORDED}
    if isinstance(more := values.get("more"), Mapping):
        values["more"] = {name: value for name, value in more.items() if name not in RECORDED}
    plugins = sorted(plugin.digest for plugin in plugins_of(parameters))
    contents = [named_files(values), plugins, content_digests(parameters)]
    text = json.dumps([values, contents, core_digest(), code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def named_files(parameters: Any) -> dict[str, str]:
    """SHA-256 of every file named by a parameter, such as a checkpoint or a CSV."""
    if isinstance(parameters, Mapping):
        parameters = list(parameters.values())
    if isinstance(parameters, list | tuple):
        return {path: digest for value in parameters for path, digest in named_files(value).items()}
    with suppress(OSError, ValueError):  # a text too long for a path, or with a null byte
        if isinstance(parameters, str) and Path(parameters).is_file():
            return {parameters: file_digest(Path(parameters))}
    return {}


def folder_for(name: str, notebook: Path, config: Mapping[str, Any]) -> Path:
    """``reports/runs/<name>-<key>-s<seed>``, with characters replaced that some file systems do not allow."""
    slug = re.sub(r"[^\w.]+", "-", name.lower()).strip("-")
    return runs_folder() / f"{slug}-{key(notebook, config)}-s{config.get('seed', 0)}"


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Lock the run's folder for this process. Raises InUse if another process works in it.

    The operating system releases the lock when the process ends. For other hosts, and file systems without locks, the
    heartbeat is used.
    """
    with writing(run.dir):
        run.dir.mkdir(parents=True, exist_ok=True)
        opened = run.path(processes.LOCK).open("a")
    with opened as file:
        locked = lock(file, wait=False)
        foreign = locked is None or not _written_here(run)
        if locked is False or (foreign and state(run) == "running"):
            raise InUse(f"{run.dir} is in use by another process{_holder(run)}; wait for it, or give another folder")
        yield


def _holder(run: Run) -> str:
    """The process that wrote the last status; empty if it is not recorded."""
    try:
        return f" (pid {run.status['pid']} on {run.status['host']})"
    except (InputError, KeyError):
        return ""


@contextmanager
def recorded(run: Run, **facts: Any) -> Iterator[None]:
    """Write the run's status while the block works on it: running, then done, failed or interrupted.

    ``facts`` are fields of every status. Raises InputError for a folder with a training of other core code.
    """
    facts |= {"started": time.time(), "stops_on_sigterm": stops_on_sigterm()}
    with claimed(run):
        refuse_other_core(run)
        try:
            with beating(run, **facts):
                write_json(run.path("environment.json"), environment())
                yield
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt)
            state, reason = ("interrupted", STOPPED) if stopped else ("failed", f"{type(error).__name__}: {error}")
            with suppress(OSError):  # the disk may be what failed
                run.set_status(state, heartbeat=time.time(), **facts, error=reason)
            raise
        run.set_status("done", heartbeat=time.time(), **facts)


@contextmanager
def beating(run: Run, **facts: Any) -> Iterator[None]:
    """Write a heartbeat every few seconds while the block runs."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            with suppress(OSError):  # a full disk must not stop a run, since space may become available
                run.set_status("running", heartbeat=time.time(), **facts)

    run.set_status("running", heartbeat=time.time(), **facts)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def refuse_other_core(run: Run) -> None:
    """Raise InputError if the folder contains a training, complete or not, of other core code or weights.

    Continuing it would mix two versions; a finished one would be recorded as the result of other code.
    """
    if not run.trained or not run.path("environment.json").exists():
        return
    before, now = read_record(run.path("environment.json")).get("core"), core_digest()
    if before != now:
        raise InputError(
            f"{run.dir} was trained by other core code ({before or 'not recorded'}, now {now}); give another folder, "
            "remove it, or check out the code that environment.json names"
        )


def _written_here(run: Run) -> bool:
    return run.path("status.json").exists() and run.status.get("host") == socket.gethostname()


def state(run: Run) -> str:
    """The run's recorded state, corrected if its process has ended without recording one.

    ``running`` becomes ``died`` if its process has ended or has written no heartbeat for a minute; ``queued`` becomes
    ``interrupted`` if the sweep's process has ended. ``missing``: the folder has no status.json. Raises InputError if
    it is damaged.
    """
    if not run.path("status.json").exists():
        return "missing"
    status = run.status
    gone = status.get("host") == socket.gethostname() and not processes.alive(status)
    try:
        if status["state"] == "running":
            silent = time.time() - status.get("heartbeat", status["time"]) > SILENCE
            return "died" if silent or gone else "running"
        return "interrupted" if status["state"] == "queued" and gone else str(status["state"])
    except (KeyError, TypeError) as error:
        raise InputError(f"{run.path('status.json')} is no status ({error}); remove it and run again") from None


def stop(run: Run) -> str:
    """Send SIGTERM to the process that works on a run; a training saves its state first. Returns a message.

    Raises InputError as `processes.request_stop` if no signal was sent.
    """
    status = run.status
    processes.request_stop(run.dir, state(run), status)
    then = "it ends now and goes on from its last saved state" if "notebook" in status else "it saves its state"
    return f"{run.dir.name}: pid {status['pid']} was asked to stop; {then} after the step under way."


def table(folder: str | Path | None = None) -> pd.DataFrame:
    """All runs under ``folder`` (default ``reports/runs``), one row each, oldest first.

    Columns: ``run`` (the folder's name), ``state``, ``at`` (the last epoch or cell), ``seconds``, ``memory_mib``
    (the peak), ``error``, then every parameter of config.json and every number of results.json, nested
    names joined by dots. A run with a damaged file has the state `damaged`; ``error`` names the file.

    Raises InputError if ``folder`` is given and is no folder.
    """
    root = Path(folder) if folder else runs_folder()
    if folder and not root.is_dir():
        raise InputError(f"{root} is not a folder; give the folder that holds the runs' folders")
    rows = [_row(Run(path.parent)) for path in root.glob("*/status.json")]
    rows.sort(key=lambda row: row.pop("_started"))
    return pd.DataFrame(rows, columns=None if rows else list(_COLUMNS))


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_COLUMNS) | {"run": run.dir.name, "state": "damaged", "_started": 0.0}
    try:
        status = run.status
        started = float(status.get("started", status["time"]))
        now = state(run)
        end = time.time() if now == "running" else status.get("heartbeat", status["time"])
        current = {"state": now, "at": _position(run), "seconds": round(end - started, 1), "_started": started}
        current |= {"memory_mib": status.get("memory_mib"), "error": status.get("error")}
        config = run.config if run.path("config.json").exists() else status.get("parameters", {})
        return row | current | config | (flat(run.results) if run.path("results.json").exists() else {})
    except InputError as error:
        return row | {"error": str(error)}
    except (KeyError, TypeError, ValueError) as error:
        return row | {"error": f"{run.path('status.json')} is no status of a run ({error!r}); remove the run"}


def progress(run: Run) -> str:
    """The last recorded epoch of a run, else the current cell of its notebook; empty if neither is known."""
    try:
        return _position(run)
    except (InputError, KeyError):
        return ""


def _position(run: Run) -> str:
    if records := run.metrics():
        last = records[-1]
        return f"stage {last['stage']}, epoch {last['epoch']}" + (f"/{last['epochs']}" if "epochs" in last else "")
    status = run.status
    return f"cell {status['cell']}/{status['cells']}" if status.get("cell") else ""


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``. Lists are omitted, because a table cell has one value."""
    row: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            row |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            row[f"{prefix}{name}"] = value
    return row


def finished(run: Run, run_key: str) -> bool:
    """Whether the run is done and has this `key`."""
    return state(run) == "done" and run.status.get("key") == run_key
