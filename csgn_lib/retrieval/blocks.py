"""Computation on a large distance matrix in blocks of rows, with threads, without storing it."""

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

BLOCK_BYTES = 2**29  # distances in memory at a time, all threads together
BLOCK_ROWS = 1536  # with fewer rows, a matrix product repacks the gallery too often; more rows are not faster
MOST_THREADS = 8  # more threads need more memory, and Python's lock cancels the gain

Item = TypeVar("Item")
Result = TypeVar("Result")
_one_blas = Lock()


def thread_count(threads: int | None = None) -> int:
    """The number of threads: ``threads``, or the cores available to this process (at most 8)."""
    if threads is not None:
        if threads < 1:
            raise InputError(f"threads = {threads}: at least 1, or None for all cores")
        return threads
    return min(cores(), MOST_THREADS)


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """``map(function, items)`` over threads, in order; ``items`` is read lazily.

    (``ThreadPoolExecutor.map`` reads all of ``items`` at once, so every block of distances would be in memory.)
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
    """Rows per block: within BLOCK_BYTES for all threads together, and about the same for each block."""
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

    Each thread has its own block and calls a single-threaded BLAS, so threads do not wait for each other. Long
    computations report their progress on standard error.

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
            scratch.put(memory)  # otherwise the next thread would wait forever

    starts = range(0, len(left), rows)
    with single_threaded_blas():
        return list(track(in_threads(work, starts, threads), len(starts), "comparing with the gallery"))


@contextmanager
def single_threaded_blas() -> Iterator[None]:
    """Limit BLAS to one thread; the limit applies to the process, so only one caller at a time sets and restores it."""
    with _one_blas, threadpool_limits(1, user_api="blas"):
        yield
