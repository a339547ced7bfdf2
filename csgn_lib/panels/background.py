"""Training in a separate process, started and resumed from a notebook and independent of it.

The process is in a separate session, so a closed tab or a restarted kernel does not end it. Its state is in its run's
folder.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from csgn_lib import runs
from csgn_lib.config import Experiment, written
from csgn_lib.records import InputError, Run, home, writing
from csgn_lib.runs.folders import COMMAND_VARIABLE, FOLDER_VARIABLE, claimed
from csgn_lib.runs.machine import LIBRARY

CONSOLE = "console.txt"  # file with the output of the process, in the run's folder
_STARTED: list[subprocess.Popen[bytes]] = []  # polled by `reap`, so that ended processes do not remain zombies


def command(experiment: Experiment, run_dir: str | Path | None = None) -> str:
    """The command line that trains it: ``csgn train --preset ... --set name=value``; run again, it resumes."""
    return shlex.join(["csgn", *_train_words(experiment, run_dir)])


def command_again(run: Run) -> str:
    """The command line that runs or resumes a run; empty if its folder does not record one.

    The run's folder is given relative to the workbench's folder where it is inside.
    """
    words = _words_again(run, _near(run.dir))
    return shlex.join(["csgn", *words]) if words else ""


def start(experiment: Experiment, run_dir: str | Path | None = None) -> Run:
    """Start ``csgn train`` on the experiment in a separate process and return its run at once.

    Raises:
        InputError: the folder's run is queued, running or done, or its folder cannot be written.
    """
    run = Run(Path(run_dir) if run_dir else runs.experiment_folder(experiment))
    state = runs.state(run)
    if state in ("queued", "running", "done"):
        raise InputError(f"{run.dir} is {state}; use it, or change a parameter or the seed for another run")
    _launch(run, _train_words(experiment, run.dir.resolve()), {"parameters": experiment.model_dump(mode="json")})
    return run


def resume(run: Run) -> Run:
    """Resume a run that was stopped, failed or died from its last checkpoint, in a separate process.

    Raises:
        InputError: it is running, done or queued by a sweep, or its folder does not record its command.
    """
    state = runs.state(run)
    if state in ("running", "done", "queued", "missing"):
        raise InputError(f"{run.dir} is {state}; only a run that ended before it was done can be resumed")
    words = _words_again(run, str(run.dir.resolve()))
    if not words:
        raise InputError(f"{run.dir} does not record its command; start it again with csgn run or csgn train")
    kept = {name: value for name, value in run.status.items() if name in ("notebook", "parameters", "command", "key")}
    _launch(run, words, kept)
    return run


def reap() -> None:
    """Release started processes that have ended."""
    _STARTED[:] = [child for child in _STARTED if child.poll() is None]


def _launch(run: Run, words: list[str], facts: dict[str, Any]) -> None:
    with writing(run.dir):
        run.dir.mkdir(parents=True, exist_ok=True)
        console = run.path(CONSOLE).open("ab")
    own = (FOLDER_VARIABLE, COMMAND_VARIABLE, "MPLBACKEND")  # set by a headless notebook that calls this
    variables = {name: value for name, value in os.environ.items() if name not in own}
    paths = [str(LIBRARY.parent), variables.get("PYTHONPATH")]
    variables |= {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "CSGN_HOME": str(home().resolve())}
    with console, claimed(run):  # it takes seconds until the process itself writes its status
        console.write(f"$ csgn {shlex.join(words)}\n".encode())
        console.flush()
        child = subprocess.Popen(
            [sys.executable, "-m", "csgn_lib", *words], stdin=subprocess.DEVNULL, stdout=console, stderr=console,
            env=variables, start_new_session=True,
        )  # fmt: skip
        _STARTED.append(child)
        run.set_status("queued", **facts, pid=child.pid, launched=True)


def _train_words(experiment: Experiment, run_dir: str | Path | None) -> list[str]:
    words = ["train", "--preset", experiment.preset, "--seed", str(experiment.seed)]
    for name, value in experiment.difference().items():
        if name != "seed":
            words += ["--set", f"{name}={written(value)}"]
    return words + (["--run-dir", str(run_dir)] if run_dir else [])


def _words_again(run: Run, folder: str) -> list[str]:
    with suppress(InputError, KeyError, TypeError, ValueError):
        status = run.status
        if "notebook" in status:
            return [*shlex.split(status["command"])[1:], "--run-dir", folder]
        return _train_words(Experiment.from_parameters(**status["parameters"]), folder)
    return []


def _near(folder: Path) -> str:
    with suppress(ValueError):
        return str(folder.resolve().relative_to(home().resolve()))
    return str(folder)
