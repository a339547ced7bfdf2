"""Everything that a GPU has to tell, within ten minutes: ``python -m benchmarks.training_gpu`` (= ``make bench-gpu``).

Parts run in the order of their importance, each within its time limit. A part's record is written whenever a row of it
is measured, to reports/training/card; the same command goes on with what is missing, and measures again what another
version of the code or another card left. ``--rehearse`` runs all parts with small towers, on a CPU too, and writes to
build/rehearsal. CLIP_REID=/path/to/CLIP-ReID adds CLIP-ReID's own step.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch

from benchmarks import training, training_candidates, world
from benchmarks import training_steps as timed
from benchmarks.measurement import Row, quiet, write
from benchmarks.training_candidates import Candidate, whole_prompts
from csgn_lib.batches import ImageSet
from csgn_lib.records import clear_killed, home, read_record, write_json
from csgn_lib.runs.machine import core_digest, cores
from csgn_lib.synthetic.pretraining import labelled, levels_of, render, train_clip
from csgn_lib.synthetic.pretraining.recipe import BATCH, CLIP_STEPS, PICTURES
from csgn_lib.training import accelerator_for

COMMAND = "python -m benchmarks.training_gpu"
REPOSITORY = Path(__file__).resolve().parents[1]
ROUNDS, STEPS, CHUNKS, PAIR_STEPS = 3, 4, 14, 200
END = "CSGN_BENCH_END"  # the time at which a process that continues another one ends
Rows = Iterator[Row]


@dataclass(frozen=True)
class Part:
    """What is measured together: rows, the most seconds that they may take."""

    rows: Callable[[], Rows]
    limit: int


class TimeUp(BaseException):
    """A part's time is over. No Exception: nothing on the way may take it for an error of its own."""


def steps(persons: int) -> Rows:
    """A step of stage 2 and where it goes: floors, kernels by time, peak of memory, CLIP-ReID's own step."""
    compiled = not timed.is_rehearsed()
    yield from training.stage2_on_gpu(timed.rounds(ROUNDS), timed.persons(persons), compiled, kernels=True)


def candidates(persons: int) -> Rows:
    """Every candidate alone beside the step as it is, in turns; and how far apart their weights end."""
    images = timed.random_images(4 * timed.persons(persons))
    ends = [timed.weights_after(images, count, vss="steer") for count in (0, timed.rounds(STEPS))]
    plain = timed.stage2_step(images, "bf16", vss="steer")
    for name, candidate in training_candidates.STAGE2.items():
        if timed.is_rehearsed() and not candidate.rehearsed:
            continue
        try:
            yield from _compared(images, plain, ends, f"stage 2, batch {len(images)}, {name}", candidate)
        except Exception as error:  # the others are measured all the same
            if _is_fatal(error):
                raise
            yield Row(f"stage 2, batch {len(images)}, {name}: fails, {_line(error)}", None)


def _compared(
    images: ImageSet, plain: timed.Stage2Step, ends: list[list[torch.Tensor]], title: str, candidate: Candidate
) -> Rows:
    before = timed.memory()
    changed = timed.stage2_step(images, "bf16", candidate=candidate, vss="steer")
    peak = timed.peak_of(changed)
    seconds, _ = training.measured({"plain": plain, "changed": changed}, timed.rounds(ROUNDS))
    yield Row(f"{title}: the step's time over that with it", seconds["plain"] / seconds["changed"], "x")
    yield Row(f"{title}: peak of GPU memory", None if peak is None else (peak - before) / 2**30, "GiB")
    count = timed.rounds(STEPS)
    end = timed.weights_after(images, count, candidate=candidate, vss="steer")
    yield Row(f"{title}: weights after {count} steps, apart over moved", timed.apart(end, ends[1], ends[0]))


def stage1() -> Rows:
    """A step of stage 1 beside CLIP-ReID's; several steps in one graph, and the other candidates."""
    count = 4 * timed.persons(16)
    yield from training.stage1(timed.rounds(ROUNDS), count)
    images = timed.random_images(count, each=1)
    found = {"plain": timed.stage1_step(images, "bf16")}
    changes, counts = training_candidates.STAGE1, (5, 10)  # which divide the calls of a turn
    if timed.is_rehearsed():
        changes, counts = {"whole prompts": whole_prompts}, (2,)
    found |= {name: timed.stage1_step(images, "bf16", change) for name, change in changes.items()}
    found |= {f"{count} steps in one graph": timed.stage1_step(images, "bf16", at_once=count) for count in counts}
    seconds, _ = training.measured(found, timed.rounds(ROUNDS))
    for name in list(found)[1:]:
        yield Row(f"stage 1, {name}: the step's time over that with it", seconds["plain"] / seconds[name], "x")


def recomputed() -> Rows:
    """A batch in parts and gradient checkpointing, recorded and not: training does not record them until this row says
    that it works."""
    images = timed.random_images(4 * timed.persons(16))
    for name, given in {"batch_parts=2": {"batch_parts": 2}, "checkpointing": {"gradient_checkpointing": True}}.items():
        given, title = given | {"vss": "steer"}, f"stage 2, batch {len(images)}, {name}"
        before = timed.memory()
        found = {"kernel by kernel": timed.stage2_step(images, "bf16", False, **given)}
        peak = timed.peak_of(found["kernel by kernel"])
        found["recorded"] = timed.stage2_step(images, "bf16", **given)
        seconds, _ = training.measured(found, timed.rounds(ROUNDS))
        yield Row(f"{title}: a step, kernel by kernel", seconds["kernel by kernel"], "s")
        yield Row(f"{title}: peak of GPU memory", None if peak is None else (peak - before) / 2**30, "GiB")
        ratio = seconds["kernel by kernel"] / seconds["recorded"] if found["recorded"].is_recorded else None
        yield Row(f"{title}: kernel by kernel, over recorded", ratio, "x")
        count, start = timed.rounds(STEPS), timed.weights_after(images, 0, **given)
        ends = [timed.weights_after(images, count, recorded, **given) for recorded in (True, False)]
        apart = timed.apart(*ends, start)
        yield Row(f"{title}: weights after {count} steps, recorded and not, apart over moved", apart)


def processes() -> Rows:
    """Two processes on one card: one batch split over both, and two trainings at once. NCCL refuses two processes of
    one card, so they talk through gloo, whose collectives on the CPU cannot be part of a graph."""
    alone = _processes(1, shared=False)
    yield Row("stage 2, batch 64, a process alone: a step", alone, "s")
    yield Row("two trainings at once on one card: steps a second, over one training's", 2 * alone / _processes(2), "x")
    shared = _processes(2, shared=True)
    yield Row("one batch of 64 split over two processes on one card (gloo, not recorded): a step", shared, "s")


def _processes(count: int, shared: bool = False) -> float:
    """Median seconds of a step in ``count`` processes at once, which share each batch or train apart."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.training_gpu", "--process", folder, "--processes", str(count)]
        command += ["--rehearse"] * timed.is_rehearsed()
        started = []
        try:
            for rank in range(count):
                place = {"RANK": str(rank), "WORLD_SIZE": str(count), "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1",
                         "MASTER_PORT": "29511", "LOCAL_WORLD_SIZE": str(count)}  # fmt: skip
                environment = os.environ | {"CSGN_RANK": str(rank)} | (place if shared else {})
                started.append(subprocess.Popen(command, env=environment, cwd=REPOSITORY, stderr=subprocess.PIPE))
            errors = [process.communicate()[1].decode(errors="replace") for process in started]
        finally:
            for process in started:
                process.kill()
        found = [Path(folder) / f"{rank}.json" for rank in range(count)]
        if not all(path.exists() for path in found):
            raise RuntimeError(f"a process of {count} ended early: {next(filter(None, errors), '')[-300:]}")
        return float(np.median([json.loads(path.read_text())["seconds"] for path in found]))


def process(folder: Path, count: int) -> None:
    """One of ``_processes``: steps of stage 2 once all of them are ready."""
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    rank, images = os.environ["CSGN_RANK"], timed.random_images(4 * timed.persons(16))
    step = timed.stage2_step(images, "bf16", vss="steer")
    for _ in range(training.WARM + 1):
        step()
    timed.finish()
    (folder / f"ready-{rank}").touch()
    started = time.time()
    while len(list(folder.glob("ready-*"))) < count:
        if time.time() - started > 60:
            raise SystemExit("the other processes did not become ready within a minute")
        time.sleep(0.01)
    seconds, _ = training.measured({"step": step}, timed.rounds(ROUNDS))
    write_json(folder / f"{rank}.json", {"seconds": seconds["step"]})
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def gpu_tests() -> Rows:
    """tests/test_gpu.py as it is."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    if timed.is_rehearsed():
        command.append("--collect-only")
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    last = ended.stdout.strip().splitlines()[-1:] or [ended.stderr[-200:]]
    yield Row(f"tests/test_gpu.py: exit status ({last[0].strip('= ')})", ended.returncode, target=0)


def rendering() -> Rows:
    """Pictures a second of the rendered world, all on one core, and with the drawing on the GPU."""
    for device in dict.fromkeys(["cpu", accelerator_for("fp32").device.type]):
        draw, taken = world.ours(device), []
        for number in range(3):
            started = time.perf_counter()
            draw(number)
            taken.append(time.perf_counter() - started)
        yield Row(f"rendered world, drawn on {device}: pictures a second", world.PICTURES / min(taken[1:]))


def pretraining() -> Rows:
    """What the embedded CLIP's recipe takes with ten times its pairs: pictures and steps, from a fraction of them."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        small = timed.is_rehearsed()
        pictures = render(range(1 if small else CHUNKS), Path(folder), cores())
        rate = len(pictures.images) / (time.perf_counter() - started)
        yield Row(f"embedded world, {cores()} processes: pictures a second", rate)
        pairs = labelled(pictures, levels_of(pictures))
        count, batch = (2, 4) if small else (PAIR_STEPS, BATCH)
        started = time.perf_counter()
        with quiet():
            train_clip(pairs, count, batch, 0, Path(folder) / "log.jsonl", accelerator_for("bf16"))
        timed.finish()
        step = (time.perf_counter() - started) / count
    yield Row(f"embedded CLIP, batch {BATCH}: a step, the first ones included", step, "s")
    yield Row("embedded CLIP, ten times the pictures and steps: rendering and training, from these",
              10 * (PICTURES / rate + CLIP_STEPS * step) / 60, "min")  # fmt: skip


PARTS: dict[str, Part] = {
    "steps-64": Part(lambda: steps(16), 150),
    "candidates-64": Part(lambda: candidates(16), 180),
    "whole-run": Part(lambda: training.whole_run(compiled=not timed.is_rehearsed()), 150),
    "stage-1": Part(stage1, 60),
    "steps-256": Part(lambda: steps(64), 120),
    "tests": Part(gpu_tests, 150),
    "recomputed": Part(recomputed, 60),
    "candidates-256": Part(lambda: candidates(64), 150),
    "processes": Part(processes, 120),
    "rendering": Part(rendering, 60),
    "pretraining": Part(pretraining, 90),
}


def main() -> None:
    """Measure what is missing, and write the report; end non-zero if a part is missing or a target was missed."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=9.5, help="no part is begun or goes on after them")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts alone")
    parser.add_argument("--again", action="store_true", help="parts that failed or took too long, once more")
    parser.add_argument("--report", action="store_true", help="write the report and measure nothing")
    parser.add_argument("--rehearse", action="store_true", help="small towers; on a CPU too; some minutes there")
    parser.add_argument("--process", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--processes", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rehearse:
        timed.rehearse()
    elif not torch.cuda.is_available() and not options.report:
        parser.error("there is no GPU here; --rehearse tries all parts with small towers on a CPU")
    if options.process:
        return process(options.process, options.processes)
    folder = home() / "build" / "rehearsal" if options.rehearse else home() / "reports" / "training" / "card"
    if not options.report:
        end = float(os.environ.get(END, time.time() + 60 * options.minutes))
        measure(folder, options.only, end, options.again and END not in os.environ)
    raise SystemExit(not report(folder))


def measure(folder: Path, names: list[str], end: float, again: bool = False) -> None:
    """Measure the parts that are missing until ``end``; those that were cut off before come last."""
    states = {name: _state(folder, name) for name in names}
    missing = [name for name, state in states.items() if state in ("", "running") or (again and state != "done")]
    for name in sorted(missing, key=lambda name: states[name] == "running"):
        left = end - time.time()
        if left < 10:
            print(f"{name}: no time is left; the same command goes on from here", flush=True)
            return
        print(f"{name}: at most {min(left, PARTS[name].limit):.0f} s", flush=True)
        broken = measure_part(folder, name, min(left, PARTS[name].limit))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if broken:  # this process can compute nothing more
            os.environ[END] = str(end)
            os.execv(sys.executable, [sys.executable, "-m", "benchmarks.training_gpu", *sys.argv[1:]])


def measure_part(folder: Path, name: str, limit: float) -> bool:
    """Measure a part and keep its record; returns whether CUDA reported an error, after which nothing works."""
    started, rows, broken = time.time(), [], False
    file = _file(folder, name)
    clear_killed(file)

    def keep(state: str, error: str = "") -> None:
        record = {"state": state, "error": error, **identity(), "date": time.strftime("%Y-%m-%d"),
                  "seconds": round(time.time() - started, 1), "rows": [asdict(row) for row in rows]}  # fmt: skip
        write_json(file, record)

    keep("running")
    try:
        with _at_most(limit):
            for row in PARTS[name].rows():
                print(f"  {row}", flush=True)
                rows.append(row)
                keep("running")
        keep("done")
    except TimeUp:
        keep("timed out", f"after {limit:.0f} s")
        print("  its time is up", flush=True)
    except Exception as error:  # whatever it is, the other parts are measured
        keep("failed", _line(error))
        print(f"  failed: {_line(error)}", flush=True)
        broken = _is_fatal(error)
    return broken


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    def over(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@lru_cache
def identity() -> dict[str, str]:
    """What a record is valid for: the code that decides results, and the device with its torch."""
    device = training.device_name() if torch.cuda.is_available() else f"CPU; torch {torch.__version__}."
    return {"core": core_digest(), "device": device}


def report(folder: Path) -> bool:
    """Write bench.csv and bench.md of the records in ``folder``, in the order of the parts.

    Returns whether every part is measured and no target missed."""
    rows, devices, complete = [], {}, True
    for name in PARTS:
        record = {"state": "not measured", "rows": []}
        if _file(folder, name).exists():
            record = _record(folder, name)
            devices[f"{record['device']} Code {record['core']}, {record['date']}."] = None
        rows += [Row(**row) for row in record["rows"]]
        if record["state"] != "done":
            complete = False
            rows.append(Row(f"part {name}: {record['state']} {record.get('error', '')}".strip(), None))
    write(folder, rows, "A training step on one GPU, and what may make it faster", COMMAND, list(devices))
    print(f"written: {folder / 'bench.md'} and bench.csv")
    return complete and all(row.met is not False for row in rows)


def _file(folder: Path, name: str) -> Path:
    return folder / f"{name}.json"


def _state(folder: Path, name: str) -> str:
    """The state of a part's record; empty if there is none of this code and device."""
    if not _file(folder, name).exists():
        return ""
    record = _record(folder, name)
    same = all(record.get(key) == value for key, value in identity().items())
    return record["state"] if same else ""


def _record(folder: Path, name: str) -> dict[str, Any]:
    return read_record(_file(folder, name), "remove it, and the same command measures it again")


def _is_fatal(error: BaseException) -> bool:
    """Whether CUDA reported an error after which a process can compute nothing more."""
    return "CUDA error" in str(error)


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


if __name__ == "__main__":
    main()
