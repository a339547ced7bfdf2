"""Runs one notebook: ``python -m csgn_lib.runs.kernel``, started by `execute`.

The job is one line of JSON on standard input; progress and outcome are lines of JSON on standard output. Standard input
stays open. When it is closed, the parent has stopped the run or has ended, and the kernel with all its workers is
killed immediately.

papermill's status is not used: after an out-of-memory kill, a time-out or Ctrl-C its notebook is marked `completed`.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager

from csgn_lib import progress

_ARGV = [
    sys.executable,
    "-m",
    "ipykernel_launcher",
    "-f",
    "{connection_file}",
    "--HistoryManager.enabled=False",
    "--log-level=40",
]


class ThisPython(AsyncKernelManager):
    """Starts kernels with this interpreter, independent of installed kernel specs."""

    running: ThisPython | None = None

    def __init__(self, **traits: Any) -> None:
        super().__init__(**traits)
        self._kernel_spec = KernelSpec(argv=list(_ARGV), display_name="Python 3", language="python")
        ThisPython.running = self

    @property
    def pid(self) -> int | None:
        """The kernel's process, which leads its own process group; None before it has started."""
        return getattr(self.provisioner, "pid", None)


def main() -> None:
    """Run the job read from standard input, report its outcome, exit with status 0."""
    tell = _teller()
    os.environ[progress.HEADLESS] = "1"  # for the kernel, which inherits it
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.getLogger("papermill").setLevel(logging.ERROR)
    tell(_outcome(job, tell) | {"memory_mib": _peak_memory()})
    os._exit(0)  # exit even if a library's thread is still running


def _teller() -> Callable[[dict[str, Any]], None]:
    """Reserve standard output for messages; native output of the kernel goes to standard error, the log."""
    output = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda message: print(json.dumps(message), file=output, flush=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    if ThisPython.running and ThisPython.running.pid and hasattr(os, "killpg"):
        os.killpg(ThisPython.running.pid, signal.SIGKILL)
    os._exit(1)


class _Output:
    """A stream that sends the output of the cells to the parent process."""

    def __init__(self, tell: Callable[[dict[str, Any]], None]) -> None:
        self.tell = tell

    def write(self, text: str) -> None:
        self.tell({"text": text})

    def flush(self) -> None:
        """Every message is flushed already."""


def _outcome(job: dict[str, Any], tell: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError

    count = 0

    def started(cell: Any, cell_index: int) -> None:
        nonlocal count
        count += cell["cell_type"] == "code"  # what Jupyter shows as In [count]
        tell({"cell": count, "kernel": ThisPython.running.pid if ThisPython.running else None})

    try:
        papermill.execute_notebook(
            _unformatted(job["notebook"]), _unformatted(job["output"]), parameters=job["parameters"],
            kernel_name="python3", language="python", progress_bar=False, start_timeout=300,
            kernel_manager_class=ThisPython, on_cell_start=started, stdout_file=_Output(tell),
        )  # fmt: skip
        return {"outcome": "done"}
    except PapermillExecutionError as error:
        return {"outcome": "failed", "cell": error.exec_count, "error": f"{error.ename}: {error.evalue}"}
    except DeadKernelError:
        return {"outcome": "died", "cell": count, "error": "the kernel died, usually for lack of memory"}
    except Exception as error:  # such as a full disk, or a kernel that does not start: the run failed outside its cells
        return {"outcome": "failed", "cell": count or None, "error": f"{type(error).__name__}: {error}"}


def _peak_memory() -> int | None:
    """Peak memory of the kernel or one of its workers, in MiB; None if unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return peak // (1024 * 1024 if sys.platform == "darwin" else 1024)  # bytes there, KiB elsewhere


def _unformatted(path: str) -> str:
    return path.replace("{", "{{").replace("}", "}}")  # papermill reads a path as a format string


if __name__ == "__main__":
    main()
