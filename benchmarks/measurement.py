"""Measurement for the benchmarks: interleaved times, peak memory, the table of results, and other projects' code.

Code of other projects is not included. Clone it and set its path in an environment variable. It is loaded file by file,
without installing the project.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import importlib
import io
import os
import platform
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from threadpoolctl import threadpool_info

from csgn_lib.records import atomic_path, write_text
from csgn_lib.runs.machine import cores, cpu_model, resident

PEERS = {
    "Simple-CCReID": "SIMPLE_CCREID",
    "CLIP-ReID": "CLIP_REID",
    "fast-reid": "FAST_REID",
    "FIRe": "FIRE_CCREID",
}
PAUSE = 0.3  # seconds between runs: BLAS threads stay busy for a while after a product
STATUS = Path("/proc/self/status")


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        what: what was measured.
        value: the number; None if it could not be measured on this machine.
        unit: unit of the number; ``x`` for a ratio.
        target: the maximum, or with ``at_least`` the minimum; None without a target.
    """

    what: str
    value: float | None
    unit: str = ""
    target: float | None = None
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None without a target or a measurement."""
        if self.target is None or self.value is None:
            return None
        return self.value >= self.target if self.at_least else self.value <= self.target

    def words(self) -> tuple[str, str, str, str]:
        """What, measured, target and verdict, as printed."""
        measured = "not measured" if self.value is None else _number(self.value, self.unit)
        target = "" if self.target is None else f"{'>=' if self.at_least else '<='} {_number(self.target, self.unit)}"
        return self.what, measured, target, {True: "met", False: "NOT MET", None: ""}[self.met]

    def __str__(self) -> str:
        what, measured, target, verdict = self.words()
        return f"{what:<70} {measured:>14}  {target:<12} {verdict}".rstrip()


def _number(value: float, unit: str) -> str:
    if 0 < abs(value) < 0.001:
        return f"{value:.0e}".replace("e-0", "e-") + (f" {unit}" if unit else "")
    return f"{value:.3g} {unit}".strip() if abs(value) < 1000 else f"{value:,.0f} {unit}".strip()


def write(folder: Path, rows: Sequence[Row], title: str, command: str, devices: Sequence[str] = ()) -> None:
    """Write ``bench.csv`` and ``bench.md`` into ``folder``, each atomically; ``devices``: hardware besides the CPU."""
    with atomic_path(folder / "bench.csv") as path, path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["what", "value", "unit", "target", "at_least", "met"])
        for row in rows:
            value = "" if row.value is None else f"{row.value:.6g}"
            target = "" if row.target is None else f"{row.target:g}"
            table.writerow([row.what, value, row.unit, target, row.at_least, "" if row.met is None else row.met])
    lines = [f"# {title}", ""]
    lines += [f"Written by `{command}` on {time.strftime('%Y-%m-%d')}.", *devices, *machine(), ""]
    lines += ["| what | measured | target | |", "|---|---:|---:|---|"]
    lines += [f"| {' | '.join(row.words())} |" for row in rows]
    write_text(folder / "bench.md", "\n".join(lines) + "\n")


def machine() -> list[str]:
    """The processor and the libraries, in two lines."""
    blas = sorted({f"{lib['internal_api']} {lib['version']}" for lib in threadpool_info() if lib["user_api"] == "blas"})
    load = f", load {os.getloadavg()[0]:.1f} at the end" if hasattr(os, "getloadavg") else ""
    return [
        f"{cpu_model()}, {cores()} cores{load}; Python {platform.python_version()}, "
        f"NumPy {np.__version__}, {', '.join(blas)}.",
        "A time is the median of several measurements, interleaved with what it is compared with; x is a ratio of two.",
    ]


def in_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each function, measured interleaved, and the last result of each."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    results = {}
    for _ in range(rounds):
        for name, run in runs.items():
            time.sleep(PAUSE)
            start = time.perf_counter()
            results[name] = run()
            seconds[name].append(time.perf_counter() - start)
    return {name: float(np.median(values)) for name, values in seconds.items()}, results


@dataclass
class Peak:
    """Peak memory in bytes that a block of code added; None where the system does not report it."""

    size: float | None = None

    def over(self, unit: float, before: float = 0.0) -> float | None:
        """In units of so many bytes; ``before`` bytes are counted in."""
        return None if self.size is None else (self.size + before) / unit


@contextlib.contextmanager
def peak() -> Iterator[Peak]:
    """Measure the block's peak of resident memory above what was resident before it (Linux only)."""
    result = Peak()
    if not STATUS.exists():
        yield result
        return
    _give_back()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the memory that is resident now
    before = resident("VmRSS")
    yield result
    result.size = 1024 * (resident("VmHWM") - before)


def _give_back() -> None:
    """Return freed memory to the system, so that a block that reuses it does not seem to need none."""
    with contextlib.suppress(AttributeError):  # another C library than glibc
        ctypes.CDLL(None).malloc_trim(0)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress progress bars, prints and warnings of other projects' code."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        yield


def missing(peers: Sequence[str] = tuple(PEERS)) -> list[str]:
    """A line for each project whose path is not set."""
    return [f"{name}: skipped, {PEERS[name]} is not set" for name in peers if not peer_root(name)]


def peer_root(name: str) -> Path | None:
    """The folder of a project's code; None if its variable is not set."""
    path = os.environ.get(PEERS[name])
    return Path(path).expanduser() if path else None


def load_peer(name: str, folder: str, module: str) -> ModuleType:
    """Import ``folder/module.py`` of another project as part of a separate package, so that neither the ``__init__`` of
    its folder nor the project's imports run. Absolute imports of the project still resolve."""
    root = peer_root(name)
    package = ModuleType(f"peer_{PEERS[name].lower()}_{folder.replace('/', '_')}")
    package.__path__ = [str(root / folder)]
    sys.modules[package.__name__] = package
    sys.path.insert(0, str(root))
    try:
        return importlib.import_module(f"{package.__name__}.{module}")
    finally:
        sys.path.remove(str(root))
