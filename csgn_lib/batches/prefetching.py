"""Prefetching: a thread prepares the next batches while one is in use."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import fields
from typing import Any, Self

import torch

PENDING = 2  # batches that are prepared in advance


class Movable:
    """A dataclass of tensors that are moved to a device together."""

    def to(self, device: torch.device | str) -> Self:
        """A copy on another device; from pinned memory the copy is asynchronous."""
        return type(self)(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def pinned(self) -> Self:
        """A copy in page-locked memory, which a GPU reads without the CPU's help."""
        return type(self)(*(getattr(self, field.name).contiguous().pin_memory() for field in fields(self)))


class Prefetcher:
    """Iterates over ``make(step)`` for each step, in order, on the device; a thread prepares the next one.

    One thread is enough: making a batch indexes the pixel cache and draws random numbers, which hold Python's lock only
    briefly. An exception in the thread is raised when that batch is requested.

    Args:
        make: maps a step to a tuple of Movables on the CPU; called in another thread.
        steps: the arguments of ``make``.
        device: where the batches go.

    Attributes:
        waited: seconds that the consumer has waited for batches so far.
    """

    def __init__(
        self, make: Callable[[Any], tuple[Movable, ...]], steps: Iterable[Any], device: torch.device | str
    ) -> None:
        self.make, self.steps, self.device, self.waited = make, steps, torch.device(device), 0.0

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        with ThreadPoolExecutor(1, "batches") as pool:
            pending: deque[Future] = deque()
            for step in self.steps:
                pending.append(pool.submit(self._prepare, step))
                if len(pending) == PENDING:
                    yield self._next(pending)
            while pending:
                yield self._next(pending)

    def _prepare(self, step: Any) -> tuple[Movable, ...]:
        parts = self.make(step)
        return tuple(part.pinned() for part in parts) if self.device.type == "cuda" else parts

    def _next(self, pending: deque[Future]) -> tuple[Any, ...]:
        started = time.perf_counter()
        parts = pending.popleft().result()
        self.waited += time.perf_counter() - started
        return tuple(part.to(self.device) for part in parts)
