"""Shared code of both stages: optimizer step, loss means, state for resuming, and errors that name a batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from csgn_lib import mdg
from csgn_lib.records import InputError, atomic_path, clear_killed, writing
from csgn_lib.training.checkpoints import Checkpoints

Report = Callable[[dict[str, Any]], None]
NAMED = 8  # largest number of images in an error message
# random streams, each derived from (seed, stream, ...)
STREAMS = {"prompts": 1, "stage1": 2, "heads": 3, "clothes": 4, "augmentation": 5}


@dataclass(frozen=True)
class Stage2Targets:
    """Fixed targets of stage 2, on the device; None for those that the experiment does not use.

    text: descriptions (N, D) of each identity; clothing, person, colour: the bases Q_c, Q_p, Q_g, each (D, K).
    """

    text: mdg.TextFeatures | None = None
    clothing: Tensor | None = None
    person: Tensor | None = None
    colour: Tensor | None = None


class LossMeter:
    """Sums of named loss terms over an epoch's steps, on the device, so that no step synchronises.

    Args:
        sums: scalars by name, to continue from.
        count: number of summed steps.
    """

    def __init__(self, sums: dict[str, Tensor] | None = None, count: int = 0) -> None:
        self.names, self.count, self.began = tuple(sums or ()), count, count
        self.sums = torch.stack([*sums.values()]) if sums else None
        self.finite: Tensor | int = 0  # number of steps in which all sums were finite

    def add(self, terms: dict[str, Tensor]) -> None:
        """Add one step's scalars, in a fixed number of kernels whatever the number of terms."""
        self.names = self.names or tuple(terms)
        values = torch.stack([terms[name].detach() for name in self.names])
        self.sums = values if self.sums is None else self.sums + values
        self.finite = self.finite + self.sums.isfinite().all()
        self.count += 1

    def check(self, context: StepContext) -> None:
        """Raise InputError for a term that is NaN or infinite, naming it and its batch. Synchronises."""
        for name, total in self._totals().items():
            if not math.isfinite(total):
                raise context.error(f"loss term {name} became {total}", self.began + int(self.finite))

    def means(self, context: StepContext) -> dict[str, float]:
        """Mean of each term over the steps added. Raises as ``check``."""
        self.check(context)
        return {name: round(total / self.count, 5) for name, total in self._totals().items()}

    def state(self) -> dict[str, Any]:
        """The sums and the count, for a checkpoint."""
        sums = self.sums.unbind() if self.sums is not None else ()
        return {"sums": dict(zip(self.names, sums, strict=True)), "count": self.count}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> LossMeter:
        """The meter that ``state`` was taken from, on a device."""
        return cls({name: value.to(device) for name, value in state["sums"].items()}, state["count"])

    def _totals(self) -> dict[str, float]:
        return dict(zip(self.names, self.sums.tolist() if self.sums is not None else (), strict=True))


@dataclass(frozen=True)
class StepContext:
    """An epoch and the images of each of its steps, for error messages.

    paths: of the frame's images; rows: for each step, row numbers of that frame; log: called with the full list.
    """

    stage: int
    epoch: int
    paths: Sequence[str]
    rows: Sequence[Any]
    log: Callable[[str], None]

    def error(self, what: str, step: int) -> InputError:
        """An InputError for a step (from 0), with its images and the remedy."""
        names = [self.paths[int(row)] for row in self.rows[step]] if self.paths else []
        where = f"epoch {self.epoch} of stage {self.stage}"
        self.log(f"{what} in {where}, step {step + 1}, with these images: {' '.join(names)}")
        some = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more (log.txt)" if len(names) > NAMED else "")
        return InputError(
            f"{what} in {where}, step {step + 1}, with the images {some}; the update before may be the cause; lower "
            "the learning rate, or use precision=fp32, in another folder"
        )


class TrainingState:
    """State from which a stage resumes after a step: modules, optimizers, and the current epoch's sums.

    Args:
        parts: modules and optimizers by name; their states are saved, and restored in place.
        device: where the loss sums are kept.
    """

    def __init__(self, parts: dict[str, Any], device: torch.device) -> None:
        self.parts, self.device, self.terms = parts, device, LossMeter()
        self.earlier, self.started = (
            0.0,
            time.time(),
        )  # seconds of the epoch in earlier processes; its start in this one

    def begin_epoch(self) -> None:
        """Start the clock of an epoch, or of the rest of it."""
        self.started = time.time()

    @property
    def seconds(self) -> float:
        """Elapsed seconds of the epoch, including earlier processes."""
        return self.earlier + time.time() - self.started

    def keep(self, checkpoints: Checkpoints, context: StepContext, step: int) -> None:
        """Save the state after a step (from 0) if a checkpoint is due.

        Raises:
            InputError: a loss or weight is NaN or infinite; such a state is not saved.
            KeyboardInterrupt: the run was stopped by a signal; the state is saved.
        """
        if not checkpoints.due:
            return
        self.terms.check(context)
        for part in self.parts.values():
            if isinstance(part, nn.Module) and (name := _first_nonfinite(part.state_dict())):
                raise context.error(f"weight {name} became nan or inf", step)
        states = {name: part.state_dict() for name, part in self.parts.items()}
        progress = {"terms": self.terms.state(), "seconds": self.seconds}
        checkpoints.save(context.stage, context.epoch, step + 1, states | progress)

    def load(self, state: dict[str, Any]) -> None:
        """Restore a saved state in place."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.terms = LossMeter.from_state(state["terms"], self.device)
        self.earlier = float(state.get("seconds", 0.0))

    def end_epoch(self, context: StepContext) -> dict[str, float]:
        """The means of the epoch's terms; the next epoch starts from zero. Raises as ``LossMeter.check``."""
        means, self.terms, self.earlier = self.terms.means(context), LossMeter(), 0.0
        return means


def _first_nonfinite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; synchronises once."""
    finite = torch.stack([value.isfinite().all() for value in tensors.values()]).tolist()
    return next((name for name, good in zip(tensors, finite, strict=True) if not good), None)


def optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """Backward pass of a scalar loss, and one step of the optimizer."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically. Raises InputError for NaN or infinite values, and for a full disk."""
    if name := _first_nonfinite(tensors):
        raise InputError(
            f"{path} is not written: {name} became nan or inf in the last step; lower the learning rate, or use "
            "precision=fp32, in another folder"
        )
    clear_killed(path)
    with writing(path), atomic_path(path) as temporary:
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
        except SafetensorError as error:  # what safetensors raises for a full disk
            raise OSError(str(error)) from error
