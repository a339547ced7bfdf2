"""What both stages share: named terms, one step of descent, and targets."""

from __future__ import annotations

import math
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
NAMED = 8  # images that an error names
# each kind of chance has a stream of its own, a function of (seed, kind, ...)
STREAMS = {"prompts": 1, "stage1": 2, "heads": 3, "clothes": 4, "augmentation": 5}


@dataclass(frozen=True)
class Stage2Targets:
    """What stage 2 is trained towards, on the device; None for what the experiment does not use.

    text: descriptions (N, D) of each identity; clothing, person, colour: the bases Q_c, Q_p, Q_g, each (D, K).
    """

    text: mdg.TextFeatures | None = None
    clothing: Tensor | None = None
    person: Tensor | None = None
    colour: Tensor | None = None


class LossMeter:
    """Sums of named loss terms over an epoch's steps, kept on the device so that no step waits for a number."""

    def __init__(self, sums: dict[str, Tensor] | None = None, count: int = 0) -> None:
        self.names, self.count, self.began = tuple(sums or ()), count, count
        self.sums = torch.stack([*sums.values()]) if sums else None
        self.clean: Tensor | int = 0  # steps counted here before a sum was not finite: it stays so

    def add(self, terms: dict[str, Tensor]) -> None:
        """Count one step, by a handful of kernels however many terms there are."""
        self.names = self.names or tuple(terms)
        values = torch.stack([terms[name].detach() for name in self.names])
        self.sums = values if self.sums is None else self.sums + values
        self.clean = self.clean + self.sums.isfinite().all()
        self.count += 1

    def check(self, where: StepContext) -> None:
        """Wait for the numbers. Raises InputError for a term that is NaN or infinite: its name and its batch."""
        for name, total in self._totals().items():
            if not math.isfinite(total):
                raise where.error(f"loss term {name} became {total}", self.began + int(self.clean))

    def means(self, where: StepContext) -> dict[str, float]:
        """Mean of each term over the steps counted. Raises what ``check`` raises."""
        self.check(where)
        return {name: round(total / self.count, 5) for name, total in self._totals().items()}

    def state(self) -> dict[str, Any]:
        """Tensors and a number, to go on with."""
        sums = self.sums.unbind() if self.sums is not None else ()
        return {"sums": dict(zip(self.names, sums, strict=True)), "count": self.count}

    @classmethod
    def from_state(cls, state: dict[str, Any], device: torch.device) -> LossMeter:
        """The sums as they were, on the device."""
        return cls({name: value.to(device) for name, value in state["sums"].items()}, state["count"])

    def _totals(self) -> dict[str, float]:
        return dict(zip(self.names, self.sums.tolist() if self.sums is not None else (), strict=True))


@dataclass(frozen=True)
class StepContext:
    """An epoch, and the images of each of its steps: what an error names.

    paths: of the frame's images; rows: steps of rows of that frame; log: where all of them are written.
    """

    stage: int
    epoch: int
    paths: Sequence[str]
    rows: Sequence[Any]
    log: Callable[[str], None]

    def error(self, what: str, step: int) -> InputError:
        """``what`` happened at a step (from 0), in words that name the batch and the cure."""
        names = [self.paths[int(row)] for row in self.rows[step]] if self.paths else []
        place = f"epoch {self.epoch} of stage {self.stage}"
        self.log(f"{what} in {place}, step {step + 1}, with these images: {' '.join(names)}")
        some = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more (log.txt)" if len(names) > NAMED else "")
        return InputError(
            f"{what} in {place}, step {step + 1}, with the images {some}; it may have begun with the update before; "
            "lower the rate, or use precision=fp32, in another folder"
        )


class TrainingState:
    """All that a stage must have to go on from a step: modules, optimisers, and the epoch's terms so far.

    parts: modules and optimisers by name; their states are kept and put back in place.
    """

    def __init__(self, parts: dict[str, Any], device: torch.device) -> None:
        self.parts, self.device, self.terms = parts, device, LossMeter()

    def keep(self, checkpoints: Checkpoints, where: StepContext, step: int) -> None:
        """Save the state after a step (from 0) if that is due.

        Raises InputError for a loss or weight that is NaN or infinite: such a state is not kept.
        """
        if not checkpoints.due:
            return
        self.terms.check(where)
        for part in self.parts.values():
            if isinstance(part, nn.Module) and (name := _first_nonfinite(part.state_dict())):
                raise where.error(f"weight {name} became nan or inf", step)
        states = {name: part.state_dict() for name, part in self.parts.items()}
        checkpoints.save(where.stage, where.epoch, step + 1, states | {"terms": self.terms.state()})

    def load(self, state: dict[str, Any]) -> None:
        """Put a kept state back."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.terms = LossMeter.from_state(state["terms"], self.device)

    def end_epoch(self, where: StepContext) -> dict[str, float]:
        """The means of the epoch's terms; the next epoch's begin at nothing."""
        means, self.terms = self.terms.means(where), LossMeter()
        return means


def _first_nonfinite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity; the device is waited for once."""
    values = {name: value for name, value in tensors.items() if value.is_floating_point()}
    finite = torch.stack([value.isfinite().all() for value in values.values()]).tolist()
    return next((name for name, good in zip(values, finite, strict=True) if not good), None)


def optimizer_step(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step down ``loss``."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically. Raises InputError for NaN or infinite values, and for no room."""
    if name := _first_nonfinite(tensors):
        raise InputError(
            f"{path} is not written: {name} became nan or inf in the last step; lower the rate, or use "
            "precision=fp32, in another folder"
        )
    clear_killed(path)  # of a run, which one process writes
    with writing(path), atomic_path(path) as temporary:
        try:
            save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
        except SafetensorError as error:  # what it makes of a full disk
            raise OSError(str(error)) from error
