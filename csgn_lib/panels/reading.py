"""Read a run's folder in any state as a `Reading`. Nothing is raised: problems are listed as remarks.

The folder may be of a running, killed or removed run, or of an older version.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from csgn_lib import runs
from csgn_lib.config import Experiment
from csgn_lib.panels import background
from csgn_lib.records import BOOKS, InputError, Run
from csgn_lib.runs.machine import resident

MARKS = {  # symbol and colour of each state; the symbol and the name suffice without colour
    "running": ("▶", "#cfe6f7"), "queued": ("…", "#eeeeee"), "done": ("✔", "#cdebdf"), "failed": ("✖", "#f9d6c4"),
    "died": ("†", "#f9d6c4"), "timed_out": ("⏱", "#fbe7bf"), "interrupted": ("■", "#fbe7bf"),
    "damaged": ("?", "#f3d9e7"), "gone": ("∅", "#f3d9e7"), "missing": ("∅", "#f3d9e7"),
}  # fmt: skip

_REPORT = re.compile(r"[^$].*: \d+ %")  # a line of `csgn_lib.progress`


@dataclass(frozen=True)
class Reading:
    """The content of a run's folder.

    state: as `runs.state`, or `damaged`, or `gone` for a folder that does not exist. records: the readable epochs.
    mean_ap, validation: fractions, None before the run is scored. memory_mib: of its process now, or the peak of a
    run that has ended. age, seconds_left: seconds. remarks: problems of the folder.
    """

    run: Run
    state: str
    status: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    mean_ap: float | None = None
    protocol: str = ""
    validation: float | None = None
    remarks: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The folder's bare name."""
        return self.run.dir.name

    @property
    def where(self) -> str:
        """Its progress: the last epoch, or scoring; without an epoch, the notebook's cell."""
        if self.records:
            last = self.records[-1]
            if self._scores:
                return "scoring" + (f", {reported}" if (reported := _progress(self.run)) else "")
            return f"stage {last['stage']}, epoch {last['epoch']}" + (f"/{last['epochs']}" if "epochs" in last else "")
        return f"cell {self.status['cell']}/{self.status.get('cells', '?')}" if self.status.get("cell") else ""

    @property
    def _scores(self) -> bool:
        """Whether every epoch is recorded and the run still works, without a score yet."""
        last, plan = self.records[-1], self.config.get("stage2_epochs")
        done = last["stage"] == 2 and last["epoch"] == last.get("epochs", plan)
        return self.state == "running" and done and self.mean_ap is None

    @property
    def benchmark(self) -> str:
        """The benchmark that it is trained on, as from `named`; ``unknown`` without a config."""
        config = self.config or self.status.get("parameters") or {}
        return _named(config) if isinstance(config, dict) and "benchmark" in config else "unknown"

    @property
    def age(self) -> float | None:
        """Seconds since its last heartbeat."""
        last = self.status.get("heartbeat", self.status.get("time"))
        return time.time() - last if isinstance(last, int | float) else None

    @property
    def images_per_second(self) -> float | None:
        """The rate of the last epoch that recorded one."""
        return next((r["images_per_second"] for r in reversed(self.records) if r.get("images_per_second")), None)

    @property
    def memory_mib(self) -> int | None:
        """MiB of its process now if it runs on this machine, else the recorded peak."""
        if self.state == "running" and self.status.get("host") == socket.gethostname():
            with suppress(
                OSError, ValueError, StopIteration, KeyError
            ):  # available on Linux; that of a kernel is in the status
                return self.status.get("memory_mib") or resident("VmRSS", self.status["pid"]) // 1024
        return self.status.get("memory_mib")

    @property
    def seconds_left(self) -> float | None:
        """Of the current stage, from the median time of its epochs, without scoring; None if unknown."""
        if self.state != "running" or not self.records or not {"epochs", "seconds"} <= self.records[-1].keys():
            return None
        last = self.records[-1]
        times = [r["seconds"] for r in self.records if r["stage"] == last["stage"] and "seconds" in r]
        return (last["epochs"] - last["epoch"]) * median(times)

    @property
    def last_metric(self) -> str:
        """The mAP of a scored run, else the sum of the last epoch's loss terms."""
        if self.mean_ap is not None:
            return f"mAP {self.mean_ap:.1%}"
        terms = _terms(self.records[-1]) if self.records else []
        return f"loss {sum(terms):.3g}" if terms else ""

    @property
    def losses(self) -> list[float]:
        """The training loss of each epoch of stage 2: the sum of its terms."""
        return [sum(terms) for record in self.records if record["stage"] == 2 and (terms := _terms(record))]


def _terms(record: Mapping[str, Any]) -> list[float]:
    """The weighted loss terms of an epoch."""
    return [value for name, value in record.items() if name not in BOOKS and isinstance(value, float)]


def named(experiment: Experiment) -> str:
    """An experiment's benchmark for a reader: ``synthetic, world 0``, or its name and folder."""
    return _named(experiment.model_dump())


def _named(config: Mapping[str, Any]) -> str:
    root, world = config.get("root"), config.get("world", 0)
    return f"{config['benchmark']}, {Path(str(root)).name if root else f'world {world}'}"


def readings(given: Iterable[Run | str | Path]) -> list[Reading]:
    """`read` of each."""
    return [read(run if isinstance(run, Run) else Run(Path(run))) for run in given]


def read(run: Run) -> Reading:
    """The current content of a run's folder. Raises nothing; problems are in ``remarks``."""
    background.reap()
    remarks: list[str] = []
    if not run.dir.is_dir():
        return Reading(run, "gone", remarks=("its folder is gone: it was removed or renamed",))
    try:
        state = runs.state(run)
        status = run.status if state != "missing" else {}
        if state == "missing":
            remarks.append("it has no status.json: it was made by hand or by an older version")
    except (InputError, KeyError, TypeError, AttributeError, OSError) as error:
        state, status = "damaged", {}
        remarks.append(f"its status.json cannot be read ({_word(error)})")
    config = _object(run, "config.json", remarks)
    records = _records(run, remarks)
    mean_ap, protocol, validation = _scores(_object(run, "results.json", remarks), remarks)
    if state == "interrupted" and str(status.get("error", "")) == runs.folders.STOPPED:
        remarks.append("it was stopped; it can continue from its last saved state")
    elif status.get("error"):
        remarks.append(" ".join(str(status["error"]).split()))
    elif state in ("interrupted", "died", "failed") and status.get("launched"):
        remarks += _console(run)
    return Reading(run, state, status, config, records, mean_ap, protocol, validation, tuple(remarks))


def _object(run: Run, name: str, remarks: list[str]) -> dict[str, Any]:
    try:
        text = run.path(name).read_text(encoding="utf-8")
        if isinstance(value := json.loads(text), dict):
            return value
        remarks.append(f"its {name} is not what this version writes")
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:
        remarks.append(f"its {name} cannot be read ({_word(error)})")
    return {}


def _records(run: Run, remarks: list[str]) -> list[dict[str, Any]]:
    """The complete lines of metrics.jsonl; text after the last line break is still being written."""
    try:
        lines = run.path("metrics.jsonl").read_text(encoding="utf-8", errors="replace").split("\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        remarks.append(f"its metrics.jsonl cannot be read ({_word(error)})")
        return []
    records: list[dict[str, Any]] = []
    damaged, foreign = [], []
    for number, line in enumerate(lines[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError:
            damaged.append(number)
            continue
        if not isinstance(record, dict) or not all(isinstance(record.get(name), int) for name in ("stage", "epoch")):
            foreign.append(number)
            continue
        records.append({k: v for k, v in record.items() if k not in BOOKS or isinstance(v, int | float)})
    if lines[-1].strip():
        remarks.append("the last line of metrics.jsonl is half written, and left out")
    if damaged:
        remarks.append(f"metrics.jsonl is damaged in line {_numbers(damaged)}, left out")
    if foreign:
        remarks.append(
            f"metrics.jsonl has no stage and epoch in line {_numbers(foreign)}: an older version's, left out"
        )
    return records


def _scores(results: dict[str, Any], remarks: list[str]) -> tuple[float | None, str, float | None]:
    """mAP of the plain descriptor under the headline protocol, that protocol, and the validation people's mAP."""
    plain = results.get("plain")
    try:
        name, scores = next(iter(plain["protocols"].items()))  # type: ignore[index]
        return float(scores["mean_ap"]), str(name), plain.get("validation_mean_ap")  # type: ignore[union-attr]
    except (KeyError, TypeError, ValueError, AttributeError, StopIteration):
        if plain is not None:
            remarks.append("its results.json has no mAP where this version looks: an older version's")
        return None, "", None


def _console(run: Run) -> list[str]:
    """The last line that its process printed before it exited without reporting a result."""
    with suppress(OSError):
        lines = run.path(background.CONSOLE).read_text(encoding="utf-8", errors="replace").split("\n")
        printed = [line for line in lines if line.strip() and not line.startswith("$ ")]
        return printed[-1:]
    return []


def _progress(run: Run) -> str:
    """The last progress report that the run's process printed, such as ``embedding gallery images: 30 %``."""
    with suppress(OSError):
        text = run.path(background.CONSOLE).read_text(encoding="utf-8", errors="replace")[-4000:]
        return next((line for line in reversed(text.splitlines()) if _REPORT.match(line)), "")
    return ""


def _numbers(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:5])) + (f" and {len(numbers) - 5} more" if len(numbers) > 5 else "")


def _word(error: BaseException) -> str:
    return " ".join((str(error) or type(error).__name__).split())
