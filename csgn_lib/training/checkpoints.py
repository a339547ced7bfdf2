"""Where a run goes on after it was stopped: whole states on disk, the last two, each told from a damaged one.

A state is a file whose name says where it belongs and what it holds: ``stage-epoch-step-digest.pt``. It is
written beside, then renamed, so that no moment, a kill or a power cut, leaves half of one under that name.
"""

from __future__ import annotations

import pickle
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from csgn_lib.backbones import sha256
from csgn_lib.records import InputError, atomic_path, clear_killed, move

KEPT = 2
SHARE = 0.02  # of a run's time that saving may take: small models save every second, large ones every few minutes

State = dict[str, Any]


class Checkpoints:
    """The states of one run's training; the first step's, then as often as ``SHARE`` allows, and when it is stopped.

    Args:
        folder: where they lie; None keeps none.
        writes: whether this process saves them, and listens to signals; of several that share a run, one does.
        say: called with one line when something is amiss that training survives.
    """

    def __init__(
        self, folder: Path | None, say: Callable[[str], None] = lambda line: None, writes: bool = True
    ) -> None:
        self.folder, self.say, self.writes = folder, say, writes
        self.asked = False  # to stop, by Ctrl-C or a polite kill
        self.saved, self.cost = -float("inf"), 0.0

    @contextmanager
    def stopping(self) -> Iterator[None]:
        """Inside, a first SIGINT or SIGTERM is remembered until the step has ended; a second one stops at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._ask) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        if not self.writes:  # waits for the one that saves, and ends with it
            return
        self.asked = True
        print("stopping after this step; again to stop at once", file=sys.stderr, flush=True)

    @property
    def due(self) -> bool:
        """Whether the state should be saved after this step."""
        if self.folder is None or not self.writes:
            return self.asked
        return self.asked or (time.monotonic() - self.saved) * SHARE >= self.cost

    def save(self, stage: int, epoch: int, step: int, state: State) -> None:
        """Keep the state after ``step`` steps of an epoch, and the one before it.

        Raises:
            KeyboardInterrupt: the run was asked to stop; the state is safe.
            InputError: no room, or another trouble of the disk; the states before are as they were.
        """
        started = time.monotonic()
        if self.folder is not None:
            self._write(f"{stage}-{epoch:04d}-{step:06d}", state)
        self.saved = time.monotonic()
        self.cost = self.saved - started
        if self.asked:
            raise KeyboardInterrupt

    def _write(self, place: str, state: State) -> None:
        clear_killed(self.folder / "new.pt")
        try:
            with atomic_path(self.folder / "new.pt") as temporary:
                torch.save(state, temporary)
                made = self.folder / f"{place}-{_digest(temporary)}.pt"
            move(self.folder / "new.pt", made)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError when a disk is full
            raise InputError(
                f"a checkpoint cannot be written to {self.folder} ({error}); make room: the same command goes on from "
                f"{self._last()}"
            ) from error
        for later in (file for file in self._files() if file.name > made.name):  # damaged, or of an earlier life
            later.unlink(missing_ok=True)
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)

    def restore(self, stage: int, into: Callable[[State], None]) -> tuple[int, int]:
        """Give the newest whole state of a stage to ``into``; the epoch and steps after which it was saved.

        A damaged one is said and the one before it is taken; (1, 0), the beginning, if there is none before it.
        Nothing is removed here: what is damaged goes when the next state is saved.

        Raises:
            InputError: older states were given up for these, and none of them is whole; a file that cannot be read;
                a whole state that ``into`` has no room or use for.
        """
        found = [file for file in reversed(self._files()) if file.name.startswith(f"{stage}-")]
        for file in found:
            if (state := self._read(file)) is None:
                continue
            try:
                into(state)
            except (RuntimeError, KeyError, ValueError, TypeError) as error:
                raise InputError(
                    f"{file} is whole, but cannot be put back ({_first_line(error)}); nothing was removed"
                ) from error
            _, epoch, step, _ = file.stem.split("-")
            return int(epoch), int(step)
        if len(found) >= KEPT:
            raise InputError(
                f"no checkpoint in {self.folder} is whole; remove that folder to begin stage {stage} again"
            )
        return 1, 0

    def _read(self, file: Path) -> State | None:
        try:
            if _digest(file) != file.stem.split("-")[-1]:
                raise ValueError("its content is not what was written")
            return torch.load(file, map_location="cpu", weights_only=True)
        except (OSError, MemoryError) as error:
            raise InputError(f"{file} cannot be read ({_first_line(error)}); nothing was removed") from error
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
            line = f"{file} is damaged ({_first_line(error)}); what was saved before it is used"
            warnings.warn(line, stacklevel=3)
            self.say(line)
            return None

    def _files(self) -> list[Path]:
        """Oldest first: names sort as stage, epoch and step do."""
        return sorted(self.folder.glob("[12]-*-*-*.pt")) if self.folder is not None else []

    def _last(self) -> str:
        files = self._files()
        return files[-1].name if files else "its beginning"


def _digest(file: Path) -> str:
    return sha256(file)[:16]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
