"""Checkpoints: the last two are kept, with a digest of their content; training resumes from the newest intact one.

The name of a checkpoint is ``stage-epoch-step-digest.pt``. It is written to a temporary file and then renamed, so that
a kill or a power failure does not leave a partial file under this name.
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

from csgn_lib.records import InputError, atomic_path, clear_killed, move, sha256

KEPT = 2
SHARE = (
    0.02  # largest share of the training time for saving: small models save every second, large ones every few minutes
)

State = dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: saved after the first step, then as often as ``SHARE`` allows, and at a stop.

    Args:
        folder: their folder; None: none are saved.
        writes: whether this process saves them and handles signals, as one process of a run does.
        log: called with one line about a problem that does not stop training.
    """

    def __init__(
        self, folder: Path | None, log: Callable[[str], None] = lambda line: None, writes: bool = True
    ) -> None:
        self.folder, self.log, self.writes = folder, log, writes
        self.stop_requested = False  # by SIGINT (Ctrl-C) or SIGTERM
        self.saved, self.cost = -float("inf"), 0.0

    @contextmanager
    def handle_signals(self) -> Iterator[None]:
        """Context manager: a first SIGINT or SIGTERM stops training after the current step, a second one at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self.stop_requested:
            raise KeyboardInterrupt
        if not self.writes:  # stopped by the process that saves
            return
        self.stop_requested = True
        print("stopping after this step; again to stop at once", file=sys.stderr, flush=True)

    @property
    def due(self) -> bool:
        """Whether to save the state after this step."""
        if self.folder is None or not self.writes:
            return self.stop_requested
        return self.stop_requested or (time.monotonic() - self.saved) * SHARE >= self.cost

    def save(self, stage: int, epoch: int, step: int, state: State) -> None:
        """Save the state after ``step`` steps of an epoch; the previous checkpoint is kept too.

        Raises:
            KeyboardInterrupt: the run was asked to stop; the state is saved.
            InputError: a full disk, or another failure to write; earlier checkpoints are unchanged.
        """
        started = time.monotonic()
        if self.folder is not None:
            self._write(f"{stage}-{epoch:04d}-{step:06d}", state)
        self.saved = time.monotonic()
        self.cost = self.saved - started
        if self.stop_requested:
            raise KeyboardInterrupt(f"stopped after stage {stage}, epoch {epoch}, step {step}")

    def _write(self, place: str, state: State) -> None:
        clear_killed(self.folder / "new.pt")
        try:
            with atomic_path(self.folder / "new.pt") as temporary:
                torch.save(state, temporary)
                named = self.folder / f"{place}-{_digest(temporary)}.pt"
            move(self.folder / "new.pt", named)
        except (OSError, RuntimeError) as error:  # torch raises RuntimeError when a disk is full
            raise InputError(
                f"a checkpoint cannot be written to {self.folder} ({error}); free disk space, then repeat the "
                f"command, which continues from {self._last()}"
            ) from error
        for later in (file for file in self._files() if file.name > named.name):  # damaged, or left by a previous run
            later.unlink(missing_ok=True)
        for old in self._files()[:-KEPT]:
            old.unlink(missing_ok=True)

    def restore(self, stage: int, into: Callable[[State], None]) -> tuple[int, int]:
        """Pass the newest intact checkpoint of a stage to ``into``; returns the epoch and the steps done in it.

        A damaged checkpoint is reported and the previous one used; (1, 0), the beginning, if there is none. A damaged
        file is removed when the next checkpoint is saved.

        Raises:
            InputError: both checkpoints are damaged; a file cannot be read; ``into`` does not accept an intact one.
        """
        candidates = [file for file in reversed(self._files()) if file.name.startswith(f"{stage}-")]
        for file in candidates:
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
        if len(candidates) >= KEPT:
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
            self.log(line)
            return None

    def _files(self) -> list[Path]:
        """Oldest first: names sort by stage, epoch and step."""
        return sorted(self.folder.glob("[12]-*-*-*.pt")) if self.folder is not None else []

    def _last(self) -> str:
        files = self._files()
        return files[-1].name if files else "its beginning"


def _digest(file: Path) -> str:
    return sha256(file)[:16]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
