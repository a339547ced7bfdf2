"""Work on a large matrix of distances in blocks of rows, over threads, without ever holding it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from queue import SimpleQueue
from threading import Lock
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from csgn_lib.progress import track
from csgn_lib.records import InputError, cores

BLOCK_BYTES = 2**29  # distances held at a time, all threads together
BLOCK_ROWS = 1536  # a matrix product of fewer rows repacks the gallery too often, of more gains nothing
MOST_THREADS = 8  # beyond it, memory for blocks grows and Python's lock eats the gain

Item = TypeVar("Item")
Result = TypeVar("Result")
_one_blas = Lock()


def thread_count(threads: int | None = None) -> int:
    """The number of threads to use: ``threads``, or the cores this process may use (at most 8)."""
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads = {threads}: at least 1, or None for all cores")
        return threads
    return min(cores(), MOST_THREADS)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """``map(function, items)`` over threads, in order; ``items`` is read only as far as there is work.

    (``ThreadPoolExecutor.map`` would read all of ``items`` at once, and hold every block of distances.)
    """
    if threads == 1:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) >= 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def block_rows(rows: int, columns: int, threads: int, itemsize: int = 4) -> int:
    """Rows of a block: within BLOCK_BYTES for all threads together, and even for all of them."""
    most = int(np.clip(BLOCK_BYTES // (itemsize * columns * threads), 1, BLOCK_ROWS))
    rounds = -(-rows // (most * threads))
    return -(-rows // (rounds * threads))


def each_product(
    left: NDArray[np.float32],
    right: NDArray[np.float32],
    use: Callable[[NDArray[np.float32], int], Result],
    threads: int,
) -> list[Result]:
    """``use(left[start:stop] @ right.T, start)`` for blocks that cover ``left``; results in order.

    Each thread has a block of its own and calls a BLAS of one thread: no thread waits for another, and
    none spins beside a sorting one. Long work reports its progress on standard error.

    Args:
        left, right: (N, D) and (M, D).
        use: called in several threads; its block (B, M) may be overwritten and must not be kept.
    """
    rows = block_rows(len(left), len(right), threads)
    scratch: SimpleQueue[NDArray[np.float32]] = SimpleQueue()
    for _ in range(threads):
        scratch.put(np.empty((rows, len(right)), dtype=np.float32))

    def work(start: int) -> Result:
        memory = scratch.get()
        try:
            part = left[start : start + rows]
            return use(np.matmul(part, right.T, out=memory[: len(part)]), start)
        finally:
            scratch.put(memory)  # or the next thread would wait for it for ever

    starts = range(0, len(left), rows)
    with single_threaded_blas():
        return list(track(in_threads(work, starts, threads), len(starts), "comparing with the gallery"))


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """BLAS on one thread; the limit is the process's, so only one caller at a time sets and restores it."""
    with _one_blas, threadpool_limits(1, user_api="blas"):
        yield
