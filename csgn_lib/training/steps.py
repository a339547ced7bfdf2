"""What both stages share: named terms, one step of descent, and guides."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from csgn_lib import mdg
from csgn_lib.records import InputError, atomic_path

Report = Callable[[dict[str, Any]], None]
# each kind of chance has a stream of its own, a function of (seed, kind, ...)
STREAMS = {"prompts": 1, "stage1": 2, "heads": 3, "clothes": 4, "augmentation": 5}


@dataclass(frozen=True)
class Guides:
    """What stage 2 is guided by, on the device, or None where the experiment has no use for it.

    text: descriptions (N, P) of each identity; clothing (P, K): W; person (P, K): P; colour (P, K): C.
    """

    text: mdg.TextFeatures | None = None
    clothing: Tensor | None = None
    person: Tensor | None = None
    colour: Tensor | None = None


class Terms:
    """Sums of named loss terms, kept on the device so that no step waits for a number."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0

    def add(self, terms: dict[str, Tensor]) -> None:
        """Count one step."""
        for name, value in terms.items():
            self.sums[name] = self.sums.get(name, torch.zeros((), device=value.device)) + value.detach()
        self.count += 1

    def means(self, where: str) -> dict[str, float]:
        """Mean of each term over the steps counted.

        Raises:
            InputError: a term is NaN or infinite; names it, and ``where``.
        """
        values = {name: round(float(total) / self.count, 5) for name, total in self.sums.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise InputError(f"loss term {name} became {value} in {where}; lower the rate, or use precision=fp32")
        return values


def descend(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step down ``loss``."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def save_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically."""
    with atomic_path(path) as temporary:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, temporary)
