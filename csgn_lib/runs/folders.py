"""Run folders: their names, who writes in one now, what became of it, and all of them as a table."""

from __future__ import annotations

import difflib
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
from typing import IO, TYPE_CHECKING, Any

import pandas as pd

from csgn_lib.records import InputError, Run, home, read_json, write_json, writing
from csgn_lib.runs.machine import environment, library_digest
from csgn_lib.runs.notebooks import cells

if TYPE_CHECKING:
    from csgn_lib.datasets import Benchmark

try:
    import fcntl
except ImportError:  # Windows: the heartbeat alone says who is alive
    fcntl = None  # type: ignore[assignment]

HEARTBEAT = 2.0  # seconds between two writes of a running status
SILENCE = 60.0  # seconds without one after which a run on another host counts as dead
_COLUMNS = ("run", "state", "at", "seconds", "memory_mib", "error")  # the first ones of the table of runs
FOLDER_VARIABLE, COMMAND_VARIABLE = "CSGN_RUN_DIR", "CSGN_COMMAND"  # how a notebook learns of its run
_live: Path | None = None  # the folder of this process's live notebook, once it has called `current`


class InUse(InputError):
    """Another process works in the folder."""


def runs_folder() -> Path:
    """Where runs are kept: ``reports/runs`` of the workbench's folder."""
    return home() / "reports" / "runs"


def locate(name: str | Path) -> Path:
    """The folder that a run's ``name`` means: a path, or the bare name that ``csgn status`` prints.

    A relative path is looked for in the working folder, then in the workbench's, then among the runs of
    ``reports/runs``, so that ``reports/runs/NAME`` and ``NAME`` work in every notebook and command. Where there is no
    such folder yet, ``reports/runs/NAME`` lies in the workbench's folder and any other path in the working folder.
    """
    path = Path(name)
    if path.is_absolute():
        return path
    for candidate in (path, home() / path, runs_folder() / path):
        if candidate.is_dir() and path != Path("."):
            return candidate
    return home() / path if path.parts[:2] == ("reports", "runs") else path


def open_run(name: str | Path) -> Run:
    """The run in the folder that ``name`` means, as `locate` finds it.

    Raises InputError if there is no such folder, with the nearest name of a run.
    """
    folder = locate(name)
    if folder.is_dir() and str(name):
        return Run(folder)
    names = [path.name for path in runs_folder().glob("*") if path.is_dir()]
    close = difflib.get_close_matches(Path(name).name, names, n=1)
    cure = f"did you mean {close[0]!r}?" if close else "`csgn status` lists the runs"
    raise InputError(f"{str(name)!r} is not a run's folder, nor a run's name in {runs_folder()}; {cure}")


def current(name: str, benchmark: Benchmark | None = None) -> Run:
    """The run that this code is part of.

    In a headless notebook it is the folder that ``execute`` made. In a live one it is
    ``reports/runs/<name>-live``, so that a notebook needs no second path. With ``benchmark``, what the
    run's data are, a hash of them among it, is written to its benchmark.json.
    """
    global _live
    folder = os.environ.get(FOLDER_VARIABLE)
    run = Run(Path(folder) if folder else runs_folder() / f"{name}-live")
    _live = None if folder else run.dir
    if benchmark is not None:
        write_json(run.path("benchmark.json"), benchmark.record())
    return run


def current_folder() -> Path | None:
    """The folder of the run that this code is part of; None before a live notebook has called `current`."""
    folder = os.environ.get(FOLDER_VARIABLE)
    return Path(folder) if folder else _live


def key(notebook: Path, config: Mapping[str, Any]) -> str:
    """Eight hexadecimal digits of what decides a run: parameters (without the seed), library, code cells.

    A changed docstring, comment or text cell keeps the key; a changed default, line or weight does not.
    """
    code = [cell["source"] for cell in cells(notebook) if cell["cell_type"] == "code"]
    parts = {name: value for name, value in config.items() if name != "seed"}
    text = json.dumps([parts, library_digest(), code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def folder_for(name: str, notebook: Path, config: Mapping[str, Any]) -> Path:
    """``reports/runs/<name>-<key>-s<seed>``; the name is made fit for a file system."""
    slug = re.sub(r"[^\w.]+", "-", name.lower()).strip("-")
    return runs_folder() / f"{slug}-{key(notebook, config)}-s{config.get('seed', 0)}"


@contextmanager
def claimed(run: Run) -> Iterator[None]:
    """Hold the run's folder for this process. Raises InUse if another one runs in it.

    The lock is the kernel's, so it ends with its process, however that ends. What it cannot see,
    another host or a file system without locks, the heartbeat tells.
    """
    with writing(run.dir):
        run.dir.mkdir(parents=True, exist_ok=True)
        lock = run.path(".lock").open("a")
    with lock as file:
        locked = _lock(file)
        foreign = locked is None or not _written_here(run)
        if locked is False or (foreign and state(run) == "running"):
            raise InUse(f"{run.dir} is in use by another process{_holder(run)}; wait for it, or give another folder")
        yield


def _holder(run: Run) -> str:
    """Who wrote the status last: the process that holds the folder, or one that it took over from a moment ago."""
    try:
        return f" (pid {run.status['pid']} on {run.status['host']})"
    except (InputError, KeyError):
        return ""


@contextmanager
def recorded(run: Run, **facts: Any) -> Iterator[None]:
    """Keep the run's status while the block works on it: running, then done, failed or interrupted.

    ``facts`` go into every status. Raises InputError for a folder that another version of the library wrote in.
    """
    facts |= {"started": time.time()}
    with claimed(run):
        _refuse_other_library(run)
        try:
            with beating(run, **facts):
                write_json(run.path("environment.json"), environment())
                yield
        except BaseException as error:
            state = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with suppress(OSError):  # the disk may be what failed
                run.set_status(state, heartbeat=time.time(), **facts, error=f"{type(error).__name__}: {error}")
            raise
        run.set_status("done", heartbeat=time.time(), **facts)


@contextmanager
def beating(run: Run, **facts: Any) -> Iterator[None]:
    """Write, every few seconds while the block works, that the run is running; nothing afterwards."""
    over = threading.Event()

    def beat() -> None:
        while not over.wait(HEARTBEAT):
            with suppress(OSError):  # a full disk must not end a run that may outlive it
                run.set_status("running", heartbeat=time.time(), **facts)

    run.set_status("running", heartbeat=time.time(), **facts)
    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _refuse_other_library(run: Run) -> None:
    """A model is what one library trained; its weights under another one's name would be a false record."""
    if not run.path("environment.json").exists():
        return
    before, now = read_json(run.path("environment.json")).get("library"), library_digest()
    if before != now:
        raise InputError(
            f"{run.dir} was begun by library {before}, and this is {now}; name another folder, or remove it"
        )


def _written_here(run: Run) -> bool:
    return run.path("status.json").exists() and run.status.get("host") == socket.gethostname()


def _lock(file: IO[str]) -> bool | None:
    """Whether the lock is ours now; None where the system has no such lock."""
    try:
        if fcntl is None:
            return None
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    except OSError:
        return None


def state(run: Run) -> str:
    """What became of the run: its recorded state, except that one which says running must be alive.

    A run whose process is gone, or silent for a minute, without a last word has `died`; one that a sweep
    queued is `interrupted` once that sweep's process is gone; ``missing`` is a folder without a status.
    """
    if not run.path("status.json").exists():
        return "missing"
    status = run.status
    gone = status.get("host") == socket.gethostname() and not _alive(status["pid"])
    if status["state"] == "running":
        silent = time.time() - status.get("heartbeat", status["time"]) > SILENCE
        return "died" if silent or gone else "running"
    return "interrupted" if status["state"] == "queued" and gone else str(status["state"])


def _alive(pid: int) -> bool:
    if os.name != "posix":  # elsewhere os.kill would end the process instead of asking
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    with suppress(OSError):  # Linux: a process that was killed, and that its parent has not asked for yet
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return True


def table(folder: str | Path | None = None) -> pd.DataFrame:
    """All runs under ``folder`` (default ``reports/runs``), one row each, oldest first.

    Columns: ``run`` (the folder's name), ``state``, ``at`` (how far it came), ``seconds``, ``memory_mib``
    (the peak), ``error``, then every parameter of config.json and every number of results.json, nested
    names joined by dots. A folder whose files are damaged has state `damaged` and says so under ``error``.
    """
    root = Path(folder) if folder else runs_folder()
    rows = [_row(Run(path.parent)) for path in root.glob("*/status.json")]
    rows.sort(key=lambda row: row.pop("_started"))
    return pd.DataFrame(rows, columns=None if rows else list(_COLUMNS))


def _row(run: Run) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(_COLUMNS) | {"run": run.dir.name, "state": "damaged", "_started": 0.0}
    try:
        status = run.status
        row |= {"state": state(run), "error": status.get("error"), "_started": status.get("started", status["time"])}
        end = time.time() if row["state"] == "running" else status.get("heartbeat", status["time"])
        row["seconds"] = round(end - row["_started"], 1)
        row |= {"at": progress(run), "memory_mib": status.get("memory_mib")}
        config = run.config if run.path("config.json").exists() else status.get("parameters", {})
        return row | config | (flat(run.results) if run.path("results.json").exists() else {})
    except (InputError, KeyError, TypeError) as error:
        return row | {"state": "damaged", "error": str(error)}


def progress(run: Run) -> str:
    """How far a run came: the last epoch that it recorded; before there is one, its cell; else nothing."""
    try:
        if records := run.metrics():
            last = records[-1]
            return f"stage {last['stage']}, epoch {last['epoch']}" + (f"/{last['epochs']}" if "epochs" in last else "")
        status = run.status
        return f"cell {status['cell']}/{status['cells']}" if status.get("cell") else ""
    except (InputError, KeyError):
        return ""


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """``{"a": {"b": 1}}`` as ``{"a.b": 1}``; lists are left out, they are no cell of a table."""
    row: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, Mapping):
            row |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            row[f"{prefix}{name}"] = value
    return row


def finished(run: Run, run_key: str) -> bool:
    """Whether the run is done and was made by these parameters, this library and this notebook."""
    return state(run) == "done" and run.status.get("key") == run_key
