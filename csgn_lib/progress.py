"""Progress of long computations: a bar with the time left in a terminal or notebook, one line per tenth elsewhere.

Use ``for batch in track(batches, total, "embedding"):``. tqdm's text bar is used in terminals and notebooks, since its
notebook widget would be saved as ``0%``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

LONG = 10.0  # seconds; shorter computations write no lines
DELAY = 2.0  # seconds before a bar appears
HEADLESS = "CSGN_HEADLESS"  # set in the kernel of a headless notebook

Item = TypeVar("Item")


def track(
    iterable: Iterable[Item], total: int | None = None, what: str = "", size: Callable[[Item], int] | None = None
) -> Iterator[Item]:
    """Yield the items of ``iterable``, and report the progress.

    A terminal (standard error) or an open notebook (standard output) shows a bar with the time left. Elsewhere (a log,
    a sweep, papermill) each tenth is a line on standard error, if the whole takes LONG or more. Of several processes
    (``RANK``) only the first reports.

    Args:
        total: what the items add up to; by default ``len(iterable)``.
        what: name of the computation, such as "embedding gallery images".
        size: count of one item, such as the images of a batch; by default 1.
    """
    total = len(iterable) if total is None else total  # type: ignore[arg-type]
    if total < 1 or os.environ.get("RANK", "0") != "0":
        yield from iterable
    elif _is_watched():
        yield from _bar(iterable, total, what, size)
    else:
        yield from _lines(iterable, total, what, size)


def _is_watched() -> bool:
    """Whether standard error is a terminal or the output of an interactive notebook."""
    if os.environ.get(HEADLESS):
        return False
    kernel = sys.modules.get("ipykernel.zmqshell")
    return sys.stderr.isatty() or (kernel is not None and kernel.ZMQInteractiveShell.initialized())


def _bar(iterable: Iterable[Item], total: int, what: str, size: Callable[[Item], int] | None) -> Iterator[Item]:
    out = sys.stderr if sys.stderr.isatty() else sys.stdout  # a notebook shows standard error on red, as a warning
    with tqdm(total=total, desc=what or None, delay=DELAY, file=out, dynamic_ncols=True) as bar:
        for item in iterable:
            yield item
            bar.update(size(item) if size else 1)


def _lines(iterable: Iterable[Item], total: int, what: str, size: Callable[[Item], int] | None) -> Iterator[Item]:
    started, done, reported = time.monotonic(), 0, 0
    for item in iterable:
        yield item
        done += size(item) if size else 1
        tenths = min(10 * done // total, 10)
        if tenths == reported:
            continue
        reported, seconds = tenths, time.monotonic() - started
        if seconds * total / done >= LONG:
            left = duration(seconds * (total - done) / done)
            line = f"{what or 'progress'}: {10 * tenths} %, {done:,} of {total:,}, {left} left"
            print(line, file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """Seconds in words, to two units: ``45 s``, ``2 min 5 s``, ``3 h 20 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
