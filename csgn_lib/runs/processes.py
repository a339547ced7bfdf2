"""The process that works on a run: its identity, and how to stop it.

A process is identified by what was recorded at its start (pid, start time, host) and by the locks that it holds, not by
its command line.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from csgn_lib.records import InputError, process_start

LOCK = ".lock"  # in a run's folder, open and locked while a process works there
_TOLERANCE = 2.0  # tolerance in seconds of a process's start time, because the system rounds the boot time


def alive(status: Mapping[str, Any]) -> bool:
    """Whether the process of a status still runs on this machine: same pid and start time."""
    now, recorded = process_start(status.get("pid")), status.get("process_start")
    return now is not None and isinstance(recorded, int | float) and abs(now - recorded) < _TOLERANCE


def request_stop(folder: Path, state: str, status: Mapping[str, Any]) -> None:
    """Send SIGTERM to the process that works on the run in ``folder``, which has this state and status.

    Raises InputError if no signal was sent, with the reason: the run has ended, runs on another machine, waits for a
    sweep or is a cell of one; no process has locked its folder; or its process is another program, such as a kernel.
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
        raise InputError(f"no process has locked {name}; pid {pid} may now belong to another program")
    if state == "running" and not status.get("stops_on_sigterm"):
        raise InputError(f"pid {pid} is another program than csgn, such as a notebook's kernel: end it there")
    if others := sorted(other.name for other in held - {folder.resolve()}):
        raise InputError(
            f"{name} is a cell of a sweep: pid {pid} works on {', '.join(others)} too; stop the sweep, with Ctrl-C or "
            f"kill {pid}"
        )
    process.terminate()
