"""The steps that the training benchmark measures: one of each stage, here and in CLIP-ReID, on generated images.

Everything is at full size, including Market-1501's number of identities. Weights are random, which takes the same time.
The lower bounds of a step are here too: FLOPs, bytes, and the rates of this machine.
"""

from __future__ import annotations

import copy
import io
import time
from collections.abc import Callable
from functools import lru_cache
from itertools import chain, count
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.profiler import ProfilerActivity, profile

from benchmarks.measurement import quiet
from benchmarks.training_peers import STAGE1, STAGE2, clip_reid_steps
from csgn_lib import mdg
from csgn_lib.backbones import ClipTower, ResNetTower
from csgn_lib.batches import Augmentation, AugmentationDraw, Batch, ImageSet, Prefetcher, random_stream
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.training import accelerator_for, build_learner, load_towers
from csgn_lib.training.cuda_graphs import WARM, CudaGraphStep, adam
from csgn_lib.training.encoders import without_data
from csgn_lib.training.estimate import count_flops, matrix_rate, saved_bytes
from csgn_lib.training.stage1 import prompts_optimizer, prompts_step, stage1_batches
from csgn_lib.training.stage2 import encoder_step
from csgn_lib.training.steps import LossMeter, Stage2Targets
from csgn_lib.vss import parameter_groups, uses_resnet

IDENTITIES = 751  # Market-1501's
IMAGES, PEOPLE = 17_896, 150  # PRCC's training split
Step = Callable[[], Any]


def stage2_step(images: ImageSet, precision: str, recorded: bool = True, **parameters: Any) -> Step:
    """One step of ours on a batch: augmentation, forward, all losses, backward, Adam."""
    experiment, accelerator = experiment_of(precision, **parameters), accelerator_for(precision)
    device = accelerator.device
    clip, resnet = towers(experiment)
    text = mdg.TextFeatures(*(torch.randn(IDENTITIES, clip.embed_dim, device=device) for _ in range(2)))
    targets = Stage2Targets(text=text)
    learner = build_learner(experiment, clip, resnet, IDENTITIES, targets).to(device).train()
    optimizer = adam(parameter_groups(learner.encoder, learner.heads, experiment), device)
    augment = Augmentation.from_experiment(experiment)
    descended = CudaGraphStep(encoder_step(experiment, learner, targets, optimizer, accelerator), device, recorded)

    def made(step: int) -> tuple[Batch, AugmentationDraw]:
        drawn = augment.draw(len(images), tuple(images.pixels.shape[2:]), random_stream(0, 1))
        return images.batch(range(len(images))), drawn

    batches = iter(Prefetcher(made, count(), device))

    def step() -> None:
        batch, drawn = next(batches)
        descended(augment.apply(batch.images, drawn), batch.person, batch.camera, batch.clothes, batch.index)

    return step


def stage1_step(images: ImageSet, precision: str) -> Step:
    """One step of ours: RGB and gray prompts of a batch's people, text encoder, both losses, Adam."""
    experiment, accelerator = experiment_of(precision, mdg="separate"), accelerator_for(precision)
    device = accelerator.device
    clip = towers(experiment)[0].to(device).requires_grad_(False)
    bank = mdg.PromptBank(clip, IDENTITIES, experiment.prompt_tokens, "separate", generator=random_stream(0, 1))
    bank.to(device)
    rgb, gray = (torch.randn(len(images), clip.embed_dim, device=device) for _ in range(2))
    optimizer = prompts_optimizer(experiment, bank, device)
    descended = CudaGraphStep(prompts_step(experiment, bank, rgb, gray, optimizer, accelerator), device)
    epoch, terms = [torch.arange(len(images))] * 64, LossMeter()
    seen = chain.from_iterable(stage1_batches(epoch, images.person, device) for _ in count())

    def step() -> None:
        terms.add(descended(*next(seen)))

    return step


def peer_steps(images: ImageSet) -> dict[str, Step] | None:
    """CLIP-ReID's steps on the same images, prepared as by its loaders."""
    device = accelerator_for("fp32").device
    batch = images.batch(range(len(images))).to(device)
    with quiet():
        ready = batch.images.float().div(127.5).sub(1)
        return clip_reid_steps(ready, batch.person, IDENTITIES, {STAGE1: 3.5e-4, STAGE2: 5e-6})


def experiment_of(precision: str, **parameters: Any) -> Experiment:
    """Market-1501's preset with random weights."""
    given = {"preset": "market-clipreid", "clip_checkpoint": None, "resnet_checkpoint": None, "precision": precision}
    return Experiment.from_parameters(**given | parameters)


@lru_cache
def full_towers() -> tuple[ClipTower, ResNetTower]:
    """ViT-B/16 with its text encoder, and ResNet-50, with random weights; cached."""
    return load_towers(experiment_of("fp32", vss="steer"))


def towers(experiment: Experiment) -> tuple[ClipTower, ResNetTower | None]:
    """Copies of the networks that the experiment uses."""
    clip, resnet = full_towers()
    return copy.deepcopy(clip), copy.deepcopy(resnet) if uses_resnet(experiment) else None


def random_images(count: int, each: int = 4) -> ImageSet:
    """Noise images, ``each`` per person, as in the batches of stage 2; person numbers are spread over Market-1501's.

    Stage 1 draws its batches from all images, so two images of one person in a batch are rare.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 256, 128), dtype=np.uint8)
    person = torch.arange(count) // each * 7 % IDENTITIES
    return ImageSet(pixels, person, torch.zeros_like(person), person, tuple(map(str, range(count))))


def made_up(root: Path, experiment: Experiment) -> Benchmark:
    """JPEG files of smooth noise from three cameras: PRCC's number of training images and people.

    One more person is query and gallery: training refuses a benchmark without a test.
    """
    pixels = np.random.default_rng(0).integers(0, 256, (64, 32, 16, 3), dtype=np.uint8)
    size = (experiment.image_width, experiment.image_height)
    files = []
    for kind in pixels:
        buffer = io.BytesIO()
        Image.fromarray(kind).resize(size, Image.Resampling.BICUBIC).save(buffer, "JPEG")
        files.append(buffer.getvalue())
    number = np.arange(IMAGES + 2)
    frame = pd.DataFrame({
        "path": [f"{i:05}.jpg" for i in number], "person": number % PEOPLE, "camera": number // PEOPLE % 3,
        "clothes": 2 * (number % PEOPLE) + (number // PEOPLE % 3 == 2),
    })  # fmt: skip
    frame.loc[IMAGES:, ["person", "camera", "clothes"]] = [[PEOPLE, 2, 2 * PEOPLE + 1], [PEOPLE, 0, 2 * PEOPLE]]
    for label in ("person", "camera", "clothes"):
        frame[f"{label}_label"] = frame[label].astype(str)
    for i, path in enumerate(frame["path"]):
        (root / path).write_bytes(files[i % len(files)])
    test = frame[IMAGES:].reset_index(drop=True)
    return Benchmark("prcc", root, frame[:IMAGES], test[:1], test[1:].reset_index(drop=True))


def vit_flops(images: ImageSet) -> float:
    """FLOPs of a step of the ViT: forward and twice that backward."""
    experiment = experiment_of("fp32", vss="none", hsf="none")
    clip, _ = without_data(experiment, IDENTITIES)
    return 3 * count_flops(clip.visual_features, torch.zeros(len(images), 3, 256, 128, device="meta"))


def step_flops(images: ImageSet) -> float:
    """FLOPs of a step with ViT, ResNet and heads: forward and twice that backward."""
    _, learner = without_data(experiment_of("fp32", vss="steer"), IDENTITIES)
    return 3 * count_flops(learner, torch.zeros(len(images), 3, 256, 128, device="meta"))


def step_bytes(images: ImageSet) -> float:
    """Lower bound of the bytes that a step moves without recomputation: activations saved by autograd, written and read
    once, and weights, gradients and Adam's moments, read and written once (28 bytes per parameter)."""
    experiment, device = experiment_of("bf16", vss="steer"), torch.device("cuda")
    learner = build_learner(experiment, *towers(experiment), IDENTITIES, Stage2Targets()).to(device).train()
    weights = sum(value.numel() for value in learner.parameters())
    with accelerator_for("bf16").autocast():
        kept = saved_bytes(learner, torch.rand(len(images), 3, 256, 128, device=device))
    return 2 * kept + 28 * weights


def peak_of(step: Step) -> int:
    """Peak GPU memory in bytes over the first steps and their capture; replays allocate nothing."""
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM + 1):
        step()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()


def longest(step: Step, most: int = 10) -> dict[str, float]:
    """The kernels that take most of a step's time (on a GPU, the GPU's), by name, with their share."""
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as seen:
        step()
        if gpu:
            torch.cuda.synchronize()
    spent = {row.key: row.self_device_time_total if gpu else row.self_cpu_time_total for row in seen.key_averages()}
    ordered = sorted(spent, key=spent.__getitem__, reverse=True)[:most]
    return {name: spent[name] / sum(spent.values()) for name in ordered}


def copy_rate(device: torch.device, size: int = 2**30) -> float:
    """Bytes per second, read plus written, of a large copy on the device."""
    source = torch.empty(size, device=device, dtype=torch.uint8)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(10):
        torch.cuda.synchronize()
        started = time.perf_counter()
        target.copy_(source)
        torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def has_bf16() -> bool:
    """Whether bfloat16 products are faster than float32 products on this CPU."""
    device = accelerator_for("fp32").device
    return matrix_rate(device, torch.bfloat16) > 1.2 * matrix_rate(device, torch.float32)
