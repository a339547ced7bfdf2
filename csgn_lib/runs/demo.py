"""`demo`: the notebooks of ``make demo``: trainings first, then comparisons."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from csgn_lib.records import Run
from csgn_lib.runs import executors, folders, notebooks
from csgn_lib.runs.machine import cores
from csgn_lib.runs.progress import Progress
from csgn_lib.runs.sweeps import Cell, cell, exclusive, run_cells
from csgn_lib.runs.words import clock


@dataclass(frozen=True)
class Step:
    """One notebook of the demo.

    ``name`` is printed and is the first part of the run folder's name; ``needs`` names steps that must be done first. A
    notebook with a parameter ``runs`` is given their folders, ``{name: folder}``. ``seconds``: the expected time on two
    cores, for the estimate of the time left.
    """

    name: str
    notebook: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    seconds: float = 30.0


@dataclass(frozen=True)
class Outcome:
    """The result of a step: its run's state, or `skipped` (run is None) if a step it needs is not done."""

    step: Step
    run: Run | None
    state: str
    seconds: float
    reused: bool = False
    error: str | None = None


_TRAINED = (  # the longest first, so that two workers finish together; CSGN is the last row of the table
    Step("CSGN", "12_train", seconds=157),
    Step("CLIP-ReID", "12_train", {"preset": "demo+clip-reid"}, seconds=130),
    Step("identity + triplet", "12_train", {"preset": "demo+identity-triplet"}, seconds=93),
)
_ROWS = ("identity + triplet", "CLIP-ReID", "CSGN")
PLAN: tuple[Step, ...] = (
    *_TRAINED,
    Step("colour bias", "10_colour_bias", seconds=47),
    Step("stage-1 prompts", "11_stage1_prompts", needs=("CSGN",), seconds=37),
    Step("evaluation", "20_evaluate", needs=_ROWS, seconds=29),
    Step("first result", "00_first_result", needs=_ROWS, seconds=24),
)


def demo(
    plan: Sequence[Step] = PLAN, workers: int = 2, fresh: bool = False, stream: TextIO = sys.stdout
) -> list[Outcome]:
    """Run the steps' notebooks, ``workers`` at a time, with progress and the estimated time left.

    First the steps without needs, then the others. A step whose run and needs are done is not run again unless
    ``fresh``. Steps whose needs failed are skipped; the others continue.

    Returns one outcome per step, in the plan's order. Raises InputError for an unknown notebook or parameter, and
    KeyboardInterrupt after every current run has been stopped.
    """
    seconds = sum(step.seconds for step in plan) / workers
    stream.write(
        f"{len(plan)} notebooks, {workers} at a time, about {clock(seconds)} on two cores if nothing is done yet\n"
    )
    outcomes: dict[str, Outcome] = {}
    for stage in ([step for step in plan if not step.needs], [step for step in plan if step.needs]):
        _run_stage(stage, outcomes, workers, fresh, stream)
    return [outcomes[step.name] for step in plan]


def _run_stage(steps: Sequence[Step], outcomes: dict[str, Outcome], workers: int, fresh: bool, stream: TextIO) -> None:
    cells: dict[str, Cell] = {}
    for step in steps:
        if any(outcomes[need].state != "done" for need in step.needs):
            outcomes[step.name] = Outcome(step, None, "skipped", 0.0, error="a step it needs is not done")
            stream.write(f"skipped      {step.name}: a step it needs is not done\n")
            continue
        cells[step.name] = _cell_of(step, outcomes)
        if fresh or not all(outcomes[need].reused for need in step.needs):
            _remove(cells[step.name].run)
    reused = [name for name, cell in cells.items() if cell.done]
    for name in reused:
        stream.write(f"done before  {name}\n")
    _run(list(cells.values()), {step.name: step.seconds for step in steps}, workers, stream, errors := {})
    for step in (step for step in steps if step.name in cells):
        run = cells[step.name].run
        status = run.status if folders.state(run) != "missing" else {}
        error = errors.get(run.dir)
        state = "failed" if error else folders.state(run)
        outcomes[step.name] = Outcome(
            step, run, state, status.get("seconds", 0.0), step.name in reused, error or status.get("error")
        )


def _cell_of(step: Step, outcomes: Mapping[str, Outcome]) -> Cell:
    path, given = notebooks.find(step.notebook), dict(step.parameters)
    if "runs" in notebooks.declared(path):
        given["runs"] = {need: _relative(outcomes[need].run) for need in step.needs}
    return cell(path, given, step.name, folder=step.name)


def _remove(run: Run) -> None:
    if folders.state(run) != "running":
        shutil.rmtree(run.dir, ignore_errors=True)


def _run(
    cells: Sequence[Cell], expected: Mapping[str, float], workers: int, stream: TextIO, errors: dict[Path, str]
) -> None:
    if all(cell.done for cell in cells):
        return
    seconds = {cell.run.dir: expected[cell.name] for cell in cells}
    threads = max(1, cores() // min(workers, len(cells)))
    with executors.local(workers) as pool, exclusive(cells) as lock:
        run_cells(pool, cells, lock, (None, threads), errors, Progress(cells, stream, seconds, workers))


def _relative(run: Run | None) -> str:
    """The run's folder relative to the working folder if it is inside, so that records contain no absolute path."""
    assert run is not None  # the needs of a started step are done
    return str(run.dir.relative_to(Path.cwd()) if run.dir.is_relative_to(Path.cwd()) else run.dir)
