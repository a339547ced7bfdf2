"""The next batches are made while this one is used."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from typing import Any, Self

import torch

AHEAD = 2  # batches begun: the one that is handed out next, and the one after it


class Movable:
    """A dataclass of tensors that move together."""

    def to(self, device: torch.device | str) -> Self:
        """The same on another device; from pinned memory the copy does not wait for what the device is doing."""
        return type(self)(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def pinned(self) -> Self:
        """The same in memory that a GPU reads by itself."""
        return type(self)(*(getattr(self, field.name).contiguous().pin_memory() for field in fields(self)))


class Ahead:
    """``make(step)`` of each step, in their order, on the device; a thread makes the next while one is used.

    One thread is enough: to make a batch is to index the pixel cache and to draw, neither of which holds Python's
    lock for long. What it raises is raised where the batch is asked for.

    Args:
        make: a step to a tuple of Movables on the CPU; called in another thread.
        steps: what it is called with.
        device: where they go.

    Attributes:
        waited: seconds that whoever iterates has waited for batches so far.
    """

    def __init__(
        self, make: Callable[[Any], tuple[Movable, ...]], steps: Iterable[Any], device: torch.device | str
    ) -> None:
        self.make, self.steps, self.device, self.waited = make, steps, torch.device(device), 0.0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        with ThreadPoolExecutor(1, "batches") as pool:
            coming: deque[Future] = deque()
            for step in self.steps:
                coming.append(pool.submit(self._made, step))
                if len(coming) == AHEAD:
                    yield self._next(coming)
            while coming:
                yield self._next(coming)

    def _made(self, step: Any) -> tuple[Movable, ...]:
        made = self.make(step)
        return tuple(part.pinned() for part in made) if self.device.type == "cuda" else made

    def _next(self, coming: deque[Future]) -> tuple[Any, ...]:
        started = time.perf_counter()
        made = coming.popleft().result()
        self.waited += time.perf_counter() - started
        return tuple(part.to(self.device) for part in made)
