"""`demo`: the plan behind ``make demo``, run two notebooks at a time, with a line of progress."""

from __future__ import annotations

import shutil
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from csgn_lib.records import InputError, Run
from csgn_lib.runs import folders, notebooks
from csgn_lib.runs.execution import execute
from csgn_lib.runs.machine import cores
from csgn_lib.runs.words import clock

TICK = 0.5  # seconds between two looks at the runs
QUIET = 15.0  # seconds between two lines where the output is not a terminal


@dataclass(frozen=True)
class Step:
    """One notebook of the plan.

    ``name`` is what the terminal and the page call it; ``needs`` names the steps that must be done
    first. A notebook that declares a parameter ``runs`` is given the folders of its needs,
    ``{name: folder}``. ``seconds`` is what it is expected to take on two cores: it only feeds the
    estimate of the time left.
    """

    name: str
    notebook: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    seconds: float = 30.0


@dataclass(frozen=True)
class Outcome:
    """What became of a step: its run's state, or `skipped` where a need was not met (run is None)."""

    step: Step
    run: Run | None
    state: str
    seconds: float
    reused: bool = False
    error: str | None = None


_TRAINED = (  # the longest first, so that two workers end together
    Step("CSGN", "12_train", {}, seconds=150),
    Step("identity + triplet", "12_train", {"hsf": "none", "vss": "none"}, seconds=85),
    Step("CLIP-ReID", "12_train", {"mdg": "separate", "vss": "none", "beta": 0.0}, seconds=110),
    Step("random text", "12_train", {"mdg": "random", "vss": "none", "beta": 0.0}, seconds=85),
)
_ROWS = tuple(step.name for step in (*_TRAINED[1:], _TRAINED[0]))  # in the table CSGN comes last
PLAN: tuple[Step, ...] = (
    *_TRAINED,
    Step("colour bias", "10_colour_bias", seconds=30),
    Step("stage-1 prompts", "11_stage1_prompts", needs=("CSGN",), seconds=20),
    Step("evaluation", "20_evaluate", needs=_ROWS, seconds=20),
    Step("first result", "00_first_result", needs=_ROWS, seconds=20),
)


def demo(
    plan: Sequence[Step] = PLAN, workers: int = 2, fresh: bool = False, stream: TextIO = sys.stdout
) -> list[Outcome]:
    """Run the plan's notebooks, ``workers`` at a time, and say all along how far it is.

    A step that is already done, by the same parameters, library and notebook, and with nothing that it needs
    done anew, is not run again unless ``fresh``. Steps whose needs failed are skipped; the others go on.

    Returns one outcome a step, in the plan's order. Raises InputError before anything starts for a
    plan that cannot be run, and KeyboardInterrupt once every run under way has been stopped.
    """
    board = _Board(tuple(plan), workers, fresh, stream)
    board.announce()
    with ThreadPoolExecutor(workers) as pool:
        try:
            while board.advance(pool):
                wait([task.future for task in board.running.values()], TICK, FIRST_COMPLETED)
                board.show()
        except BaseException:
            board.stop.set()
            raise
    return [board.outcomes[step.name] for step in plan]


@dataclass
class _Task:
    future: Future[Run]
    run: Run
    started: float


class _Board:
    """Which steps are done, which run, and what can start now."""

    def __init__(self, plan: tuple[Step, ...], workers: int, fresh: bool, stream: TextIO) -> None:
        self.plan, self.workers, self.fresh, self.stream = plan, workers, fresh, stream
        self.outcomes: dict[str, Outcome] = {}
        self.running: dict[str, _Task] = {}
        self.stop = threading.Event()
        self.started = self.spoken = time.monotonic()
        names = [step.name for step in plan]
        for position, step in enumerate(plan):
            notebooks.checked(notebooks.find(step.notebook), step.parameters)
            if names.index(step.name) != position or not set(step.needs) <= set(names[:position]):
                raise InputError(f"step {step.name!r}: its name must be new, and what it needs must stand before it")

    def announce(self) -> None:
        """Say what is about to happen, and how long it may take."""
        count = f"{len(self.plan)} notebooks, {self.workers} at a time"
        self._write(f"{count}, about {clock(self.remaining())} on two cores if nothing is done yet", last=True)

    def advance(self, pool: ThreadPoolExecutor) -> bool:
        """Collect what has ended, start what can start; whether anything is left to wait for."""
        for name in [name for name, task in self.running.items() if task.future.done()]:
            self._collect(name, self.running.pop(name))
        for step in self.plan:
            if step.name in self.outcomes or step.name in self.running:
                continue
            if any(self.outcomes[need].state != "done" for need in step.needs if need in self.outcomes):
                self._settle(Outcome(step, None, "skipped", 0.0, error="a step it needs is not done"))
            elif len(self.running) < self.workers and all(need in self.outcomes for need in step.needs):
                self._start(step, pool)
        return bool(self.running) or len(self.outcomes) < len(self.plan)

    def _start(self, step: Step, pool: ThreadPoolExecutor) -> None:
        path = notebooks.find(step.notebook)
        given = dict(step.parameters)
        if "runs" in notebooks.declared(path):
            given["runs"] = {need: _from_here(self.outcomes[need].run) for need in step.needs}
        values = notebooks.checked(path, given)
        run = Run(folders.folder_for(step.name, path, values))
        as_before = not self.fresh and all(self.outcomes[need].reused for need in step.needs)
        if as_before and folders.finished(run, folders.key(path, values)):
            return self._settle(Outcome(step, run, "done", run.status.get("seconds", 0.0), reused=True))
        if self.fresh and folders.state(run) != "running":
            shutil.rmtree(run.dir, ignore_errors=True)
        threads = max(1, cores() // min(self.workers, len(self.plan) - len(self.outcomes)))
        future = pool.submit(execute, path, given, run.dir, threads=threads, stop=self.stop)
        self.running[step.name] = _Task(future, run, time.monotonic())
        return None

    def _collect(self, name: str, task: _Task) -> None:
        step = next(step for step in self.plan if step.name == name)
        seconds = time.monotonic() - task.started
        if error := task.future.exception():
            return self._settle(Outcome(step, task.run, "failed", seconds, error=str(error)))
        status = task.run.status
        return self._settle(Outcome(step, task.run, status["state"], seconds, error=status.get("error")))

    def _settle(self, outcome: Outcome) -> None:
        self.outcomes[outcome.step.name] = outcome
        word = "done before" if outcome.reused else outcome.state
        line = f"{self._clock()}  {word:<11}  {outcome.step.name} ({clock(outcome.seconds)})"
        self._write(line + (f": {outcome.error}" if outcome.error else ""), last=True)

    def show(self) -> None:
        """Say how far the runs are: one line that is rewritten in a terminal, now and then elsewhere."""
        if self.stream.isatty():
            self._write(self._line(), last=False)
        elif time.monotonic() - self.spoken >= QUIET:
            self._write(self._line(), last=True)

    def _line(self) -> str:
        details = [f"{name} ({folders.progress(task.run) or 'starting'})" for name, task in self.running.items()]
        rest = f"{len(self.outcomes)}/{len(self.plan)} done, about {clock(self.remaining())} left"
        return f"{self._clock()}  {rest}   {' | '.join(details)}"

    def _write(self, line: str, last: bool) -> None:
        if self.stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            line = line if last else line[:width]
            self.stream.write(f"\r\033[K{line}" + ("\n" if last else ""))
        else:
            self.spoken = time.monotonic()
            self.stream.write(f"{line}\n")
        self.stream.flush()

    def _clock(self) -> str:
        return f"{clock(time.monotonic() - self.started):>6}"

    def remaining(self) -> float:
        """Seconds to the end: the plan played forward, with this machine's speed as seen so far."""
        elapsed = {name: time.monotonic() - task.started for name, task in self.running.items()}
        seen = pace(self.plan, self.outcomes.values(), elapsed)
        return forecast(self.plan, set(self.outcomes), elapsed, self.workers, seen)


def pace(plan: Sequence[Step], ended: Iterable[Outcome], elapsed: Mapping[str, float]) -> float:
    """How many times its ``seconds`` a step has taken so far; 1 before anything is known.

    A step that runs on beyond its time counts too: a busy machine is slow before its first step ends.
    """
    ran = [(one.seconds, one.step.seconds) for one in ended if not one.reused and one.run]
    ran += [(elapsed[step.name], step.seconds) for step in plan if elapsed.get(step.name, 0) > step.seconds]
    expected = sum(seconds for _, seconds in ran)
    return sum(took for took, _ in ran) / expected if expected else 1.0


def forecast(
    plan: Sequence[Step], ended: set[str], elapsed: Mapping[str, float], workers: int, pace: float = 1.0
) -> float:
    """Seconds until the last step ends, if each takes ``pace`` times its ``seconds`` (list scheduling)."""
    ends = dict.fromkeys(ended, 0.0)
    ends |= {step.name: _rest(pace * step.seconds, elapsed[step.name]) for step in plan if step.name in elapsed}
    free = sorted([ends[name] for name in elapsed] + [0.0] * (workers - len(elapsed)))
    for step in plan:
        if step.name not in ends:
            start = max([free.pop(0), *(ends[need] for need in step.needs)])
            ends[step.name] = start + pace * step.seconds
            free = sorted([*free, ends[step.name]])
    return max(ends.values(), default=0.0)


def _from_here(run: Run | None) -> str:
    """The run's folder as a notebook started from here can open it, without this machine's own path if possible."""
    assert run is not None  # what a started step needs is done
    return str(run.dir.relative_to(Path.cwd()) if run.dir.is_relative_to(Path.cwd()) else run.dir)


def _rest(expected: float, elapsed: float) -> float:
    return max(expected - elapsed, 0.1 * expected)  # what takes longer than expected is never "0:00 left"
