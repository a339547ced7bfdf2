"""`execute`: run a notebook headless with papermill, and record its state."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, TextIO

from csgn_lib import plugins
from csgn_lib.records import InputError, Run, read_json, stops_on_sigterm, write_json, write_text
from csgn_lib.runs import folders, notebooks
from csgn_lib.runs.answers import answered
from csgn_lib.runs.machine import LIBRARY, environment, resident

GRACE = 5.0  # seconds in which the child can end its kernel before it is killed


def execute(
    notebook: str | Path,
    parameters: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    timeout: float | None = None,
    *,
    name: str | None = None,
    threads: int | None = None,
    stop: threading.Event | None = None,
    echo: TextIO | None = None,
    variables: Mapping[str, str] | None = None,
) -> Run:
    """Run a notebook in a separate process and return its run, whatever its state.

    ``run.status["state"]`` is `done`, `failed` (with ``cell`` as in ``In [cell]``, and
    ``error``), `died` (the kernel or its process was killed, usually for lack of memory), `timed_out`
    or `interrupted`. The folder contains config.json, environment.json, executed.ipynb, the files
    that the notebook writes to ``runs.current(...)``, and the status, which is written last.

    Args:
        notebook: a file, or a bare name such as ``12_train``.
        parameters: values that replace defaults of the notebook's `parameters` cell.
        run_dir: the run's folder; default ``reports/runs/<name>-<key>-s<seed>``. A folder that
            holds an unfinished run of the same parameters is continued.
        timeout: seconds of wall clock; none: no limit.
        name: first part of the folder's name; default the notebook's.
        threads: CPU threads of the kernel; default: as set in the environment.
        stop: when set, the run is ended as `interrupted`.
        echo: stream to which the output of the cells is copied while they run.
        variables: environment variables of the kernel, in addition to this process's.

    Raises:
        InputError: before anything starts: no such notebook, unknown parameter, wrong type, a
            folder that is in use or belongs to other parameters.
        KeyboardInterrupt: raised again after the status is `interrupted`.
    """
    with ExitStack() as held:
        held.enter_context(plugins.copies_in(run_dir))  # folder in which a worker finds the plugins of its cell
        path = notebooks.find(notebook)
        values = notebooks.checked(path, parameters or {})
        run = Run(Path(run_dir) if run_dir else folders.folder_for(name or path.stem, path, values))
        held.enter_context(folders.claimed(run))
        _refuse_other(run, path, values)
        given = {name: values[name] for name in parameters or {}}
        job = _Job(run, path, values, given, timeout, threads, stop or threading.Event(), echo, variables or {})
        try:
            _prepare(job)
            _finish(job, *_supervised(job))
        except BaseException as error:
            state, word = ("interrupted", "Ctrl-C") if isinstance(error, KeyboardInterrupt) else ("failed", repr(error))
            with suppress(OSError):  # the disk may be the cause
                _finish(job, state, {"error": f"{word}, outside of the cells"})
            raise
    return run


@dataclass
class _Job:
    """A run in progress, and the last messages of its process."""

    run: Run
    notebook: Path
    values: dict[str, Any]
    given: dict[str, Any]
    timeout: float | None
    threads: int | None
    stop: threading.Event
    echo: TextIO | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    heard: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    before: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        code = [cell for cell in notebooks.cells(self.notebook) if cell["cell_type"] == "code"]
        self.facts = {
            "started": self.started,
            "notebook": str(self.notebook),
            "parameters": self.values,
            "key": folders.key(self.notebook, self.values),  # of the code at the start of the run
            "cells": len(code) + bool(self.given),
            "command": self.command,
            "stops_on_sigterm": stops_on_sigterm(),
        }
        if self.run.path("metrics.jsonl").exists() and self.run.path("status.json").exists():
            self.before = self.run.status  # of the training that is continued

    @property
    def output(self) -> Path:
        """The file that papermill writes; moved to executed.ipynb after the run."""
        return self.run.path(".executing.ipynb")

    @property
    def command(self) -> str:
        """The command line that repeats the run."""
        words = ["csgn", "run", notebooks.shortest(self.notebook)]
        for name, value in self.given.items():
            words += ["-p", name, value if isinstance(value, str) else json.dumps(value)]
        return shlex.join(words)

    def beat(self, state: str, **fields: Any) -> None:
        """Write the status with the run's fields and the heartbeat."""
        self.run.set_status(state, heartbeat=time.time(), **self.facts, **fields)


def _refuse_other(run: Run, notebook: Path, values: Mapping[str, Any]) -> None:
    """Raise InputError if the folder contains a run with other parameters or core code."""
    if not run.path("status.json").exists():
        return
    folders.refuse_other_core(run)
    status = run.status
    before = {"notebook": Path(status.get("notebook", notebook)).name} | status.get("parameters", values)
    now = {"notebook": notebook.name, **values}
    for name in now:
        if before.get(name) != now[name]:
            raise InputError(
                f"{run.dir} holds a run with {name} = {before.get(name)!r}, not {now[name]!r}; "
                "give another folder, or remove it"
            )


def _prepare(job: _Job) -> None:
    for stale in ("results.json", "per_query.csv", "executed.ipynb"):
        job.run.path(stale).unlink(missing_ok=True)
    job.beat("running")
    write_json(job.run.path("environment.json"), environment())


def _supervised(job: _Job) -> tuple[str, dict[str, Any]]:
    """Start the child process and watch it until it ends. Returns the state and further fields of the status."""
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as errors:
        child = subprocess.Popen(
            [sys.executable, "-m", "csgn_lib.runs.kernel"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=errors, env=_environment(job), start_new_session=True, text=True,
        )  # fmt: skip
        listener = threading.Thread(target=_listen, args=(child.stdout, job), daemon=True)
        listener.start()
        try:
            state = _watched(child, job)
        finally:  # only this process receives Ctrl-C, since the child is in a separate session
            _end(child, job)
        listener.join(GRACE)
        return _verdict(state, child.returncode, job, errors)


def _environment(job: _Job) -> dict[str, str]:
    own = {
        folders.FOLDER_VARIABLE: str(job.run.dir.resolve()),
        folders.COMMAND_VARIABLE: job.command,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(LIBRARY.parent), os.environ.get("PYTHONPATH")])),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # avoids a warning about frozen modules in every log
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    }
    if job.threads:
        own |= {variable: str(job.threads) for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return dict(os.environ) | own | dict(job.variables)


def _listen(messages: IO[str], job: _Job) -> None:
    for line in messages:
        with suppress(json.JSONDecodeError):
            message = json.loads(line)
            text = message.pop("text", "")
            job.heard.update(message)
            if job.echo:
                with suppress(OSError):  # the reader may have closed the stream
                    job.echo.write(text)
                    job.echo.flush()


def _watched(child: subprocess.Popen[str], job: _Job) -> str | None:
    """Write heartbeats until the child ends (None) or must be terminated (the state to record)."""
    assert child.stdin is not None
    with suppress(BrokenPipeError):  # a child that ended immediately is handled below
        request = {"notebook": str(job.notebook), "output": str(job.output), "parameters": job.given}
        child.stdin.write(json.dumps(request) + "\n")
        child.stdin.flush()
    beat = time.monotonic()
    while child.poll() is None:
        late = job.timeout is not None and time.time() - job.started > job.timeout
        if late or job.stop.wait(0.1):
            _hear_memory(job)
            return "timed_out" if late else "interrupted"
        if time.monotonic() - beat > folders.HEARTBEAT:
            beat = time.monotonic()
            _hear_memory(job)
            with suppress(OSError):  # a full disk must not stop the run
                job.beat("running", cell=job.heard.get("cell"), memory_mib=job.heard.get("memory_mib"))
    return None


def _hear_memory(job: _Job) -> None:
    """Record the kernel's peak memory so far, in case it ends without reporting it (Linux only)."""
    with suppress(OSError, ValueError, StopIteration):
        job.heard["memory_mib"] = resident("VmHWM", job.heard.get("kernel")) // 1024


def _end(child: subprocess.Popen[str], job: _Job) -> None:
    """End the child and its kernel if they run: close its input, then kill it."""
    if child.poll() is not None:
        return
    with suppress(OSError):
        child.stdin.close()  # type: ignore[union-attr]
    try:
        child.wait(GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    _end_kernel(job)


def _end_kernel(job: _Job) -> None:
    if job.heard.get("kernel") and hasattr(os, "killpg"):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(job.heard["kernel"], signal.SIGKILL)


def _verdict(state: str | None, code: int, job: _Job, errors: IO[str]) -> tuple[str, dict[str, Any]]:
    fields = {name: job.heard[name] for name in ("cell", "error", "memory_mib") if job.heard.get(name) is not None}
    if state == "timed_out":
        fields["error"] = f"longer than {job.timeout:g} s"
    elif state == "interrupted":
        fields["error"] = "stopped"
    elif "outcome" in job.heard:
        state = job.heard["outcome"]
    else:
        state = "died"
        _end_kernel(job)
        cause = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        fields["error"] = f"the notebook's process exited without reporting a result ({cause})"
    if state != "done":
        errors.seek(0)
        job.run.log("".join(errors.readlines()[-40:]))
    return str(state), fields


def _finish(job: _Job, state: str, fields: dict[str, Any]) -> None:
    """Save the executed notebook, then the status: `done` is written last."""
    if not job.run.path("config.json").exists():
        write_json(job.run.path("config.json"), job.values)
    _publish(job, state, fields)
    job.beat(state, seconds=round(_seconds(job), 1), **fields)


def _seconds(job: _Job) -> float:
    """Seconds of the run, including earlier sessions that it continues; those of a finished run are not added."""
    now, before = time.time() - job.started, job.before
    spent = before.get("seconds", before.get("heartbeat", 0.0) - before.get("started", 0.0))
    return max(spent, now) if before.get("state") == "done" else spent + now


def _publish(job: _Job, state: str, fields: Mapping[str, Any]) -> None:
    try:
        document = read_json(job.output)
    except InputError:  # the process ended before papermill had written it
        job.output.unlink(missing_ok=True)
        return
    answered(document)
    document["metadata"]["csgn"] = {"state": state, **fields}
    outcome = {"exception": state != "done", "input_path": job.notebook.name, "output_path": "executed.ipynb"}
    document["metadata"].get("papermill", {}).update(outcome)
    if state != "done":
        where = f" in In [{fields['cell']}]" if fields.get("cell") else ""
        text = f"**This run is not complete: {state}{where}.** {fields.get('error', '')}\n\nAgain: `{job.command}`"
        note = {"cell_type": "markdown", "id": "csgn-status", "metadata": {}, "source": text}
        document["cells"].insert(0, note)
    write_text(job.run.path("executed.ipynb"), json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    job.output.unlink()
