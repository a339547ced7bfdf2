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
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.measurement import quiet
from benchmarks.training_candidates import Candidate, together
from benchmarks.training_peers import STAGE1, STAGE2, clip_reid_steps
from csgn_lib import mdg
from csgn_lib.backbones import ClipTower, ResNetTower
from csgn_lib.batches import Augmentation, AugmentationDraw, Batch, ImageSet, Prefetcher, random_stream
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.training import accelerator_for, build_learner, load_towers
from csgn_lib.training.cuda_graphs import WARM, CudaGraphStep
from csgn_lib.training.distributed import BatchShard
from csgn_lib.training.encoders import without_data
from csgn_lib.training.estimate import count_flops, saved_bytes
from csgn_lib.training.precision import usable_precision
from csgn_lib.training.stage1 import prompts_optimizer, prompts_step, stage1_batches
from csgn_lib.training.stage2 import encoder_step
from csgn_lib.training.steps import LossMeter, Stage2Targets
from csgn_lib.vss import parameter_groups, uses_resnet

IDENTITIES = 751  # Market-1501's
IMAGES, PEOPLE = 17_896, 150  # PRCC's training split
SMALL: dict[str, Any] = {}  # parameters of a rehearsal: small towers
Step = Callable[[], Any]
Change = Callable[[ClipTower, mdg.PromptBank], None]


def rehearse() -> None:
    """From now on everything is small, so that a CPU measures it in seconds: what is measured then means nothing."""
    global IDENTITIES, IMAGES, PEOPLE
    IDENTITIES, IMAGES, PEOPLE = 12, 96, 16
    SMALL.update(clip_model="csgn-tiny", resnet_model="csgn_tiny_resnet", image_height=32, image_width=16, padding=2,
                 precision="fp32")  # fmt: skip


def is_rehearsed() -> bool:
    """Whether this is a rehearsal."""
    return bool(SMALL)


def persons(count: int) -> int:
    """Identities in a batch: an eighth in a rehearsal."""
    return count // 8 if SMALL else count


def rounds(count: int) -> int:
    """Measurements of each, or steps: two in a rehearsal."""
    return min(count, 2) if SMALL else count


def memory() -> int:
    """Bytes of the GPU in use; 0 on a CPU."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


class Stage2Step:
    """One step of ours on a batch: augmentation, forward, all losses, backward, Adam.

    Args:
        images: the whole batch, 4 images of a person; several processes share it.
        recorded: whether it is captured as a CUDA graph on a GPU.
        candidate: a change to it.
        parameters: of the experiment.
    """

    def __init__(
        self, images: ImageSet, precision: str, recorded: bool = True, candidate: Candidate | None = None,
        **parameters: Any,
    ) -> None:  # fmt: skip
        candidate = candidate or Candidate()
        experiment = experiment_of(precision, **parameters | candidate.parameters)
        accelerator = accelerator_for(experiment.precision)
        device, shard = accelerator.device, BatchShard(accelerator, len(images) // 4)
        clip, resnet = towers(experiment)
        drawn = torch.Generator().manual_seed(0)
        text = [torch.randn(IDENTITIES, clip.embed_dim, generator=drawn).to(device) for _ in range(2)]
        targets = Stage2Targets(text=mdg.TextFeatures(*text))
        learner = build_learner(experiment, clip, resnet, IDENTITIES, targets).to(device).train()
        learner.gather = shard.gather
        candidate.change(learner)
        groups = parameter_groups(learner.encoder, learner.heads, experiment)
        optimizer = candidate.optimizer(groups, device, learner)
        step = encoder_step(experiment, shard.wrap_ddp(learner), targets, optimizer, accelerator)

        def changed(*given: Tensor) -> dict[str, Tensor]:
            with candidate.during():
                return step(*given)

        self.learner, self.optimizer = learner, optimizer
        self.augment = Augmentation.from_experiment(experiment)
        self.graph = CudaGraphStep(changed, device, recorded and shard.world_size == 1)

        def made(number: int) -> tuple[Batch, AugmentationDraw]:
            part = shard.rows(len(images))
            drawn = self.augment.draw(len(images), tuple(images.pixels.shape[2:]), random_stream(0, 1)).rows(part)
            return images.batch(np.arange(len(images)), part), drawn

        self.batches = iter(Prefetcher(made, count(), device))

    @property
    def is_recorded(self) -> bool:
        """Whether its steps are replayed from a graph."""
        return bool(self.graph.graphs) and self.graph.stream is not None

    def __call__(self) -> None:
        batch, drawn = next(self.batches)
        self.graph(self.augment.apply(batch.images, drawn), batch.person, batch.camera, batch.clothes, batch.index)


def stage2_step(images: ImageSet, precision: str, recorded: bool = True, **given: Any) -> Stage2Step:
    """See ``Stage2Step``."""
    return Stage2Step(images, precision, recorded, **given)


def weights_after(images: ImageSet, steps: int, recorded: bool = True, **given: Any) -> list[Tensor]:
    """The encoder's weights after some steps of bf16, float32: those that the optimizer holds."""
    step = Stage2Step(images, "bf16", recorded, **given)
    for _ in range(steps):
        step()
    wide = {id(narrow): value for value, narrow in getattr(step.optimizer, "pairs", ())}
    return [wide.get(id(value), value).detach().float().clone() for value in step.learner.encoder.parameters()]


def apart(one: list[Tensor], other: list[Tensor], start: list[Tensor]) -> float:
    """Distance of two ends, over the way from the start to the second: 0 if they round alike, about 1 if unrelated."""
    between, moved = (
        sum(float((a - b).square().sum()) for a, b in zip(other, end, strict=True)) ** 0.5 for end in (one, start)
    )
    return between / moved


def stage1_step(
    images: ImageSet,
    precision: str,
    change: Callable[[ClipTower, mdg.PromptBank], None] | None = None,
    at_once: int = 1,
) -> Step:
    """One step of ours: RGB and gray prompts of a batch's people through the text tower, both losses, Adam.

    Args:
        change: of the CLIP and its prompts, before the first step.
        at_once: steps in one graph; every so many calls compute so many steps.
    """
    experiment = experiment_of(precision, mdg="separate")
    accelerator = accelerator_for(experiment.precision)
    device = accelerator.device
    clip = towers(experiment)[0].to(device).requires_grad_(False)
    bank = mdg.PromptBank(clip, IDENTITIES, experiment.prompt_tokens, "separate", generator=random_stream(0, 1))
    bank.to(device)
    if change is not None:
        change(clip, bank)
    rgb, gray = (torch.randn(len(images), clip.embed_dim, device=device) for _ in range(2))
    optimizer = prompts_optimizer(experiment, bank, device)
    single, inputs = prompts_step(experiment, bank, rgb, gray, optimizer, accelerator), len(mdg.BatchIdentities._fields)
    descended = CudaGraphStep(together(single, at_once, 1 + inputs), device)
    epoch, terms, waiting = [torch.arange(len(images))] * 64, LossMeter(), []
    seen = chain.from_iterable(stage1_batches(epoch, images.person, device) for _ in count())

    def step() -> None:
        waiting.extend(next(seen))
        if len(waiting) == at_once * (1 + inputs):
            terms.add(descended(*waiting))
            waiting.clear()

    for _ in range((at_once - 1) * (WARM + 1)):  # so that the graph is recorded when as many calls as usual are over
        step()
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
    return Experiment.from_parameters(**given | SMALL | parameters)


def size() -> tuple[int, int]:
    """(H, W) of its images."""
    return SMALL.get("image_height", 256), SMALL.get("image_width", 128)


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
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, *size()), dtype=np.uint8)
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
    return 3 * count_flops(clip.visual_features, torch.zeros(len(images), *images.pixels.shape[1:], device="meta"))


def step_flops(images: ImageSet) -> float:
    """FLOPs of a step with ViT, ResNet and heads: forward and twice that backward."""
    _, learner = without_data(experiment_of("fp32", vss="steer"), IDENTITIES)
    return 3 * count_flops(learner, torch.zeros(len(images), *images.pixels.shape[1:], device="meta"))


def step_bytes(images: ImageSet) -> float:
    """Bytes that a step moves at least, unless it computes twice: what autograd keeps, written and read once, and
    weights, gradients and Adam's moments, read and written once (28 bytes a parameter)."""
    experiment, device = experiment_of("bf16", vss="steer"), accelerator_for("bf16").device
    learner = build_learner(experiment, *towers(experiment), IDENTITIES, Stage2Targets()).to(device).train()
    weights = sum(value.numel() for value in learner.parameters())
    with accelerator_for("bf16").autocast():
        kept = saved_bytes(learner, torch.rand(len(images), *images.pixels.shape[1:], device=device))
    return 2 * kept + 28 * weights


def finish() -> None:
    """Wait until a GPU has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def peak_of(step: Step) -> int | None:
    """Bytes of the GPU that are in use at most over the first steps and their recording: replays allocate nothing.

    None on a CPU."""
    if not torch.cuda.is_available():
        return None
    torch.cuda.reset_peak_memory_stats()
    for _ in range(WARM + 1):
        step()
    finish()
    return torch.cuda.max_memory_allocated()


def longest(step: Step, most: int = 10) -> dict[str, float]:
    """The kernels that take most of a step's time (on a GPU, the GPU's), by name, with their share."""
    gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CUDA if gpu else ProfilerActivity.CPU]) as seen:
        step()
        finish()
    spent = {row.key: row.self_device_time_total if gpu else row.self_cpu_time_total for row in seen.key_averages()}
    ordered = sorted(spent, key=spent.__getitem__, reverse=True)[:most]
    return {name: spent[name] / sum(spent.values()) for name in ordered}


def copy_rate(device: torch.device) -> float:
    """Bytes a second that a large copy on the device reads and writes, together."""
    size = 2**22 if SMALL else 2**30
    source = torch.empty(size, device=device, dtype=torch.uint8)
    target, best = torch.empty_like(source), float("inf")
    for _ in range(10):
        finish()
        started = time.perf_counter()
        target.copy_(source)
        finish()
        best = min(best, time.perf_counter() - started)
    return 2 * size / best


def has_bf16() -> bool:
    """Whether this machine's device computes bfloat16 products itself."""
    return usable_precision("bf16", accelerator_for("fp32").device) == "bf16"
