"""The process that works on a run: its identity, and how it is asked to stop.

A process is a run's because of what was recorded when it started (number, start time, host) and because of the locks
that it holds, never because of its command line.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from csgn_lib.records import InputError, process_start

LOCK = ".lock"  # in a run's folder, open and locked while a process works there
_TOLERANCE = 2.0  # seconds between two readings of one process's start: the system rounds the time of the boot


def alive(status: Mapping[str, Any]) -> bool:
    """Whether the process that a status names still runs on this machine: the same number and the same start."""
    now, recorded = process_start(status.get("pid")), status.get("process_start")
    return now is not None and isinstance(recorded, int | float) and abs(now - recorded) < _TOLERANCE


def request_stop(folder: Path, state: str, status: Mapping[str, Any]) -> None:
    """Send SIGTERM to the process that works on the run in ``folder``, of whose state and status the caller has read.

    Raises InputError that says why nothing was sent: the run has ended, runs on another machine, waits for a sweep or
    is a cell of one; nobody holds its folder; or its process is a program of its own, such as a notebook's kernel.
    """
    name, pid, host = folder.name, status.get("pid"), status.get("host")
    if state not in ("running", "queued"):
        raise InputError(f"{name} is {state}: there is nothing to stop")
    if host != socket.gethostname():
        raise InputError(f"{name} runs on {host}: stop it there, with kill {pid}")
    if state == "queued" and not status.get("launched"):
        raise InputError(f"{name} waits for its sweep (pid {pid}): stop the sweep, with Ctrl-C or kill {pid}")
    try:
        process = psutil.Process(pid)
        held = {Path(file.path).parent for file in process.open_files() if Path(file.path).name == LOCK}
    except psutil.Error as error:
        raise InputError(f"pid {pid} of {name} cannot be examined ({error}); stop it with kill {pid}") from None
    if not alive(status) or (state == "running" and folder.resolve() not in held):
        raise InputError(f"no process holds {name} any more: pid {pid} may be another's by now")
    if state == "running" and not status.get("stops_on_sigterm"):
        raise InputError(f"pid {pid} is another program than csgn, such as a notebook's kernel: end it there")
    if others := sorted(other.name for other in held - {folder.resolve()}):
        raise InputError(
            f"{name} is a cell of a sweep: pid {pid} works on {', '.join(others)} too; stop the sweep, with Ctrl-C or "
            f"kill {pid}"
        )
    process.terminate()
