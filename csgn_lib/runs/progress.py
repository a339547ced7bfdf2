"""Progress of a sweep or the demo: finished cells, progress of running cells, and the estimated time left."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from csgn_lib.records import InputError
from csgn_lib.runs import folders
from csgn_lib.runs.words import clock, ended

if TYPE_CHECKING:
    from csgn_lib.runs.sweeps import Cell

INTERVAL = 1.0  # seconds between polls of the runs
QUIET = 15.0  # seconds between two lines without a terminal; later a tenth of the elapsed time


class Progress:
    """Prints one line for each cell that ends, and the progress of the others.

    In a terminal the progress line is rewritten in place; elsewhere it is printed at intervals.

    Args:
        cells: all cells; those that are already done are only counted.
        stream: where to print; None prints nothing.
        expected: seconds that cells are expected to take, by folder; where given, for all cells.
        workers: cells at a time; None if not known.
    """

    interval = INTERVAL

    def __init__(
        self, cells: Sequence[Cell], stream: TextIO | None, expected: Mapping[Path, float], workers: int | None
    ) -> None:
        self.cells, self.stream, self.expected = [cell for cell in cells if not cell.done], stream, expected
        self.workers, self.took = workers, dict[Path, float]()
        self.started = self.printed = time.monotonic()

    def ended(self, cell: Cell) -> None:
        """Print the line of a cell that has ended."""
        self.took[cell.run.dir] = _elapsed(cell)
        self._print(f"{len(self.took):>4}/{len(self.cells)}  {ended(cell.run, cell.label)}", last=True)

    def show(self, pending: Sequence[Cell]) -> None:
        """Print the progress of the pending cells, if the interval has passed."""
        if self.stream is None or not pending:
            return
        now = time.monotonic()
        if self.stream.isatty():
            self._print(self.line(pending), last=False)
        elif now - self.printed >= max(QUIET, (now - self.started) / 10):
            self._print(self.line(pending), last=True)

    def line(self, pending: Sequence[Cell]) -> str:
        """``1:23  3/8 done, about 4:10 left   CSGN, seed 0 (stage 2, epoch 3/5)``."""
        running = [cell for cell in pending if _state(cell) == "running"]
        left = self.seconds_left(pending, {cell.run.dir: _elapsed(cell) for cell in running})
        parts = [f"{cell.label} ({folders.progress(cell.run) or 'starting'})" for cell in running]
        count = f"{len(self.took)}/{len(self.cells)} done"
        estimate = "time left unknown until the first cell has ended" if left is None else f"about {clock(left)} left"
        return f"{clock(time.monotonic() - self.started):>6}  {count}, {estimate}   {' | '.join(parts)}"

    def seconds_left(self, pending: Sequence[Cell], elapsed: Mapping[Path, float]) -> float | None:
        """Estimated seconds until the last cell ends; None before the first one has ended.

        Each pending cell takes its expected time, scaled by the ratio of actual and expected time of finished ones. A
        cell that exceeds its expected time counts as finished, and has at least a tenth of its time left.
        """
        expected = self.expected or {cell.run.dir: 1.0 for cell in self.cells}
        known = dict(self.took)
        if self.expected:
            known |= {folder: seconds for folder, seconds in elapsed.items() if seconds > expected[folder]}
        units = sum(expected[folder] for folder in known)
        if not units and not self.expected:
            return None
        pace = sum(known.values()) / units if units else 1.0
        rest = [pace * expected[cell.run.dir] for cell in pending]
        passed = [elapsed.get(cell.run.dir, 0.0) for cell in pending]
        rest = [max(seconds - gone, 0.1 * seconds) for seconds, gone in zip(rest, passed, strict=True)]
        return max(sum(rest) / (self.workers or max(1, len(elapsed))), max(rest, default=0.0))

    def _print(self, line: str, last: bool) -> None:
        if self.stream is None:
            return
        self.printed = time.monotonic()
        if self.stream.isatty():
            width = shutil.get_terminal_size().columns - 1
            line = f"\r\033[K{line if last else line[:width]}"
        self.stream.write(line + ("\n" if last or not self.stream.isatty() else ""))
        self.stream.flush()


def _state(cell: Cell) -> str:
    try:
        return folders.state(cell.run)
    except (InputError, OSError):
        return "damaged"


def _elapsed(cell: Cell) -> float:
    """Seconds since the cell's process started; 0 before that."""
    try:
        status = cell.run.status
        end = time.time() if status["state"] == "running" else status["time"]
        return max(0.0, end - status["started"])
    except (InputError, KeyError, TypeError, OSError):
        return 0.0
