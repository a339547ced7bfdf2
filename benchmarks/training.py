"""Time of a training step: ``python -m benchmarks.training`` (= ``make bench-train``), some minutes.

One step of each stage at full size (ViT-B/16 at 256 x 128) on the available device, in float32 and in bfloat16, and
with CLIP-ReID's own code if CLIP_REID is its path, on the same images, interleaved. Weights are random, which takes
the same time. This library's step starts from uint8 images and includes augmentation; CLIP-ReID's gets augmented
images. On a GPU: batches of 64 and 256 with the ResNet, and with ``--run`` a twentieth of a training of PRCC's size.
Writes ``bench.csv`` and ``bench.md`` to reports/training, on a GPU to reports/training/gpu.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks import training_steps as timed
from benchmarks.measurement import Row, in_turns, missing, quiet, write
from benchmarks.training_peers import STAGE1, STAGE2
from csgn_lib.config import Experiment
from csgn_lib.records import home
from csgn_lib.training import accelerator_for, fit
from csgn_lib.training.cuda_graphs import WARM
from csgn_lib.training.estimate import matrix_rate

COMMAND = "python -m benchmarks.training"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def main() -> None:
    """Print the table and write it; non-zero exit status if a target was missed."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, interleaved")
    parser.add_argument("--persons", type=int, default=4, help="identities in a batch of stage 2, 4 images of each")
    parser.add_argument("--prompts", type=int, default=64, help="images in a batch of stage 1")
    parser.add_argument("--compile", action="store_true", help="also a compiled step of stage 2; takes minutes more")
    parser.add_argument(
        "--kernels", action="store_true", help="also the kernels that take most time in a step of stage 2"
    )
    parser.add_argument("--run", action="store_true", help="on a GPU: also part of a training of PRCC's size")
    options = parser.parse_args()
    gpu, rows = torch.cuda.is_available(), []
    folder = home() / "reports" / "training" / ("gpu" if gpu else "")
    command = f"{COMMAND} --rounds {options.rounds}" + f" --persons {options.persons}" * (not gpu)
    command += "".join(f" --{name}" for name in ("compile", "kernels", "run") if getattr(options, name))
    for row in measurements(options, gpu):
        print(row, flush=True)
        rows.append(row)
        write(folder, rows, "Time of a training step", command, [device_name()] if gpu else [])
    print(f"written: {folder / 'bench.md'} and bench.csv")
    raise SystemExit(any(row.met is False for row in rows))


def measurements(options: argparse.Namespace, gpu: bool) -> Iterator[Row]:
    """All rows, each as soon as it is measured."""
    if gpu:
        yield from stage2_on_gpu(options.rounds, 16, options.compile, options.kernels)
    else:
        yield from stage2(options.rounds, options.persons, options.compile, options.kernels)
    yield from stage1(options.rounds, options.prompts)
    for line in missing(["CLIP-ReID"]):
        yield Row(line, None)
    if gpu and options.run:
        yield from whole_run(options.compile)
    if gpu:
        yield from stage2_on_gpu(options.rounds, 64, options.compile, options.kernels)


def stage2_on_gpu(rounds: int, persons: int, compiled: bool, kernels: bool) -> Iterator[Row]:
    """A step of stage 2 with ViT and ResNet in bfloat16, compared with CLIP-ReID's ViT and with two lower bounds."""
    images, device = timed.random_images(persons * 4), accelerator_for("fp32").device
    rate, bandwidth = matrix_rate(device, torch.bfloat16), timed.copy_rate(device)
    flops, moved = timed.step_flops(images), timed.step_bytes(images)
    name = f"stage 2, batch {len(images)}, ViT-B/16 + ResNet-50, bf16"
    before = timed.memory()
    steps = {"recorded": timed.stage2_step(images, "bf16", vss="steer")}
    peak = timed.peak_of(steps["recorded"])
    if persons <= 16:  # the memory of one more batch of 256 is more than some cards have
        steps["kernel by kernel"] = timed.stage2_step(images, "bf16", recorded=False, vss="steer")
    if compiled:
        started = time.perf_counter()
        steps["compiled"] = timed.stage2_step(images, "bf16", compile=True, vss="steer")
        steps["compiled"]()
        timed.finish()
        yield Row(f"{name}: compiling its blocks", time.perf_counter() - started, "s")
    theirs = timed.peer_steps(images)
    if theirs:
        steps["CLIP-ReID"] = theirs[STAGE2]
    seconds, _ = measured(steps, rounds)
    best = "compiled" if compiled else "recorded"
    yield Row(f"{name}: a step of ours", seconds["recorded"], "s")
    yield Row(f"{name}: images a second", len(images) / seconds[best], "")
    yield Row(f"{name}: peak of GPU memory", None if peak is None else (peak - before) / 2**30, "GiB")
    yield Row(f"{name}: arithmetic alone, {flops / 1e12:.2f} TFLOP at {rate / 1e12:.0f} TFLOP/s", flops / rate, "s")
    traffic = f"{moved / 1e9:.1f} GB at {bandwidth / 1e12:.2f} TB/s"
    yield Row(f"{name}: memory traffic alone, {traffic}", moved / bandwidth, "s")
    if "kernel by kernel" in seconds:
        ratio = seconds["kernel by kernel"] / seconds["recorded"]
        yield Row(f"{name}: started kernel by kernel, over recorded", ratio, "x")
    if compiled:
        yield Row(f"{name}: a compiled step of ours", seconds["compiled"], "s")
    share = flops / rate / seconds[best]
    yield Row(f"{name}: share of the card's rate of matrix products", 100 * share, "%", 40, at_least=True)
    if theirs:
        yield Row(f"{name}: a step of CLIP-ReID's own code, ViT-B/16 alone, float16", seconds["CLIP-ReID"], "s")
        ratio, target = seconds["CLIP-ReID"] / seconds[best], 3 if persons == 16 else 1.3
        yield Row(f"{name}: CLIP-ReID's time over ours", ratio, "x", target, at_least=True)
    if kernels:
        yield from shares(steps[best], f"{name}, {best}")


def whole_run(compiled: bool) -> Iterator[Row]:
    """Training of PRCC's size by the preset, from image files: a twentieth of the epochs, extrapolated to all."""
    given = {"preset": "prcc-paper", "clip_checkpoint": None, "resnet_checkpoint": None, "precision": "bf16"}
    full = Experiment.from_parameters(**given | timed.SMALL, compile=compiled or None)
    epochs = {"stage1_epochs": full.stage1_epochs // 20, "stage2_epochs": full.stage2_epochs // 20}
    part = full.model_copy(update=epochs)
    with tempfile.TemporaryDirectory() as folder:
        benchmark = timed.made_up(Path(folder), full)
        started = time.perf_counter()
        run = fit(part, benchmark, Path(folder) / "run", cache_dir=Path(folder) / "cache")
        whole = time.perf_counter() - started
        records = {stage: [record for record in run.metrics() if record["stage"] == stage] for stage in (1, 2)}
    epoch = {stage: float(np.median([record["seconds"] for record in records[stage]])) for stage in records}
    once = whole - sum(record["seconds"] for stage in records for record in records[stage])
    once += sum(records[stage][0]["seconds"] - epoch[stage] for stage in records)
    total = once + epoch[1] * full.stage1_epochs + epoch[2] * full.stage2_epochs
    name = f"a run of PRCC's size, {timed.IMAGES:,} images, bf16{', compiled before' * compiled}"
    yield Row(f"{name}: an epoch of stage 1, the median of {part.stage1_epochs}", epoch[1], "s")
    yield Row(f"{name}: an epoch of stage 2, the median of {part.stage2_epochs}", epoch[2], "s")
    rate = float(np.median([record["images_per_second"] for record in records[2]]))
    yield Row(f"{name}: images a second of stage 2", rate, "")
    yield Row(f"{name}: all else, once: decoding, features of stage 1, recording, weights written", once, "s")
    epochs = f"{full.stage1_epochs} + {full.stage2_epochs} epochs"
    yield Row(f"{name}: {epochs}, from these", total / 60, "min", 6)
    waiting = float(np.median([record["waiting"] for record in records[2]]))
    yield Row(f"{name}: share of stage 2 that waits for images", 100 * waiting, "%", 5)


def stage2(rounds: int, persons: int, compiled: bool, kernels: bool) -> Iterator[Row]:
    """A step of stage 2, compared with CLIP-ReID's and with the time of its matrix products alone."""
    images = timed.random_images(persons * 4)
    plain, full = {"vss": "none", "hsf": "text", "beta": 0.0}, {"vss": "steer"}
    bf16, device = timed.has_bf16(), accelerator_for("fp32").device
    steps = {"fp32": timed.stage2_step(images, "fp32", **plain)}
    if bf16:
        steps |= {
            "bf16": timed.stage2_step(images, "bf16", **plain),
            "with ResNet-50": timed.stage2_step(images, "bf16", **full),
        }
    best = "bf16" if bf16 else "fp32"
    if compiled:
        steps["compiled"] = timed.stage2_step(images, best, compile=True, **plain)
    theirs = timed.peer_steps(images)
    if theirs:
        steps["CLIP-ReID"] = theirs[STAGE2]
    seconds, _ = measured(steps, rounds)
    name = f"stage 2, batch {len(images)}, ViT-B/16"
    rates = {precision: matrix_rate(device, dtype) for precision, dtype in DTYPES.items() if precision in seconds}
    for precision, rate in rates.items():
        yield Row(f"{name}, {precision}: a step of ours", seconds[precision], "s")
        over = seconds[precision] * rate / timed.vit_flops(images)
        yield Row(f"{name}, {precision}: over its matrix products alone, at this machine's rate", over, "x")
    if bf16:
        yield Row("this machine's rate of matrix products, bf16 over fp32", rates["bf16"] / rates["fp32"], "x")
    if "with ResNet-50" in seconds:
        ratio = seconds["with ResNet-50"] / seconds["bf16"]
        yield Row(f"{name} + ResNet-50 and both descriptions, bf16: over the ViT alone", ratio, "x")
    if compiled:
        ratio = seconds[best] / seconds["compiled"]
        yield Row(f"{name}, {best}: the step's time over that of a compiled one", ratio, "x")
    yield from against(seconds, name, {"fp32": 1.0, "bf16": 2.5})
    if kernels:
        yield from shares(steps["compiled" if compiled else best], f"{name}, {best}{', compiled' * compiled}")


def stage1(rounds: int, prompts: int) -> Iterator[Row]:
    """A step of stage 1 on given image features, each of another person: two descriptions here, one in CLIP-ReID."""
    images = timed.random_images(prompts, each=1)
    steps = {
        precision: timed.stage1_step(images, precision)
        for precision in (["fp32", "bf16"] if timed.has_bf16() else ["fp32"])
    }
    theirs = timed.peer_steps(images)
    if theirs:
        steps["CLIP-ReID"] = theirs[STAGE1]
    seconds, _ = measured(steps, rounds)
    name = f"stage 1, batch {prompts} of as many people, RGB and gray prompts"
    for precision in steps:
        if precision != "CLIP-ReID":
            yield Row(f"{name}, {precision}: a step of ours", seconds[precision], "s")
    best = "bf16" if "bf16" in seconds else "fp32"
    yield from against(seconds, name, {best: 5.0})


def shares(step: timed.Step, name: str) -> Iterator[Row]:
    """Rows with the kernels that take most of a step's time."""
    for kernel, share in timed.longest(step).items():
        yield Row(f"{name}: share of its kernels' time, {kernel[:80]}", 100 * share, "%")


def against(seconds: dict[str, float], name: str, targets: dict[str, float]) -> Iterator[Row]:
    """Rows with CLIP-ReID's time and its ratio to this library's."""
    if "CLIP-ReID" in seconds:
        theirs = "float16" if torch.cuda.is_available() else "float32"
        yield Row(f"{name}: a step of CLIP-ReID's own code, {theirs}", seconds["CLIP-ReID"], "s")
        for precision, target in targets.items():
            if precision in seconds:
                ratio = seconds["CLIP-ReID"] / seconds[precision]
                yield Row(f"{name}, {precision}: CLIP-ReID's time over ours", ratio, "x", target, at_least=True)


def measured(steps: dict[str, timed.Step], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of a step; each turn runs several steps, because the first one starts with cold caches.
    Three are not counted: on a GPU the step is captured in them. There, ten steps are launched before a
    synchronisation."""
    several = 10 if torch.cuda.is_available() else 1 if timed.is_rehearsed() else 3

    def turn(step: timed.Step) -> None:
        for _ in range(several):
            step()
        timed.finish()

    with quiet():
        for step in steps.values():
            for _ in range(1 if timed.is_rehearsed() else WARM + 1):
                step()
        seconds, results = in_turns({name: partial(turn, step) for name, step in steps.items()}, rounds)
    return {name: value / several for name, value in seconds.items()}, results


def device_name() -> str:
    """The GPU, torch and CUDA versions, in one line."""
    return f"{torch.cuda.get_device_name()}, one of them; torch {torch.__version__}, CUDA {torch.version.cuda}."


if __name__ == "__main__":
    main()
