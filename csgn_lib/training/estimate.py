"""What a training needs at least: bytes and arithmetic counted, not guessed, before it starts.

Models are built on the meta device, where tensors have a shape and no data, so that neither weights nor
memory are needed to count.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from csgn_lib.backbones import ClipTower
from csgn_lib.batches import random_stream
from csgn_lib.config import Experiment
from csgn_lib.training import build_learner, load_towers
from csgn_lib.training.stage2 import Learner, identity_sampler
from csgn_lib.training.steps import STREAMS, Stage2Targets
from csgn_lib.vss import parameter_groups

TRAINED_BYTES = 16  # float32: a weight, its gradient, Adam's two moments
FROZEN_BYTES = 4
STAGE2_PASSES = 3  # forward, and backward to inputs and to weights
STAGE1_PASSES = 2  # forward, and backward to the prompts' words alone: the text tower is frozen


@dataclass(frozen=True)
class Estimate:
    """Lower bounds of a whole training. FLOPs: multiplications and additions of matrix products and convolutions.

    trained, frozen: parameters. images: of the training split, (height, width) in pixels. image_flops, vit_flops,
    prompt_flops: one image through encoder and heads, one through the ViT, one prompt through the text tower, each
    forward. kept: bytes of one image that stage 2 keeps from its forward pass for the backward one; together: images
    of which it does so at once. averaged: values of the weights' average. features: images that stage 1 reads once.
    prompts: in an epoch of stage 1. seen: images in an epoch of stage 2. rate: FLOP/s of a matrix product on
    ``device`` in ``precision``, measured.
    """

    trained: int
    frozen: int
    images: int
    size: tuple[int, int]
    image_flops: int
    vit_flops: int
    prompt_flops: int
    kept: int
    together: int
    averaged: int
    features: int
    prompts: int
    seen: int
    epochs: tuple[int, int]
    device: str
    precision: str
    rate: float

    @property
    def trained_bytes(self) -> int:
        """Weights, gradients and Adam's moments of what stage 2 trains."""
        return self.trained * TRAINED_BYTES

    @property
    def frozen_bytes(self) -> int:
        """Weights that are held and not trained: CLIP's text tower."""
        return self.frozen * FROZEN_BYTES

    @property
    def averaged_bytes(self) -> int:
        """The average of the encoder's weights over the steps, with ``ema``."""
        return self.averaged * FROZEN_BYTES

    @property
    def kept_bytes(self) -> int:
        """What stage 2 keeps of a batch, or of a part of it, from the forward pass for the backward one."""
        return self.together * self.kept

    @property
    def pixel_bytes(self) -> int:
        """The training images, uint8 (N, 3, H, W)."""
        return self.images * 3 * self.size[0] * self.size[1]

    @property
    def flops(self) -> tuple[int, int]:
        """Of all of stage 1, and of all of stage 2."""
        stage1 = self.features * self.vit_flops + self.epochs[0] * self.prompts * STAGE1_PASSES * self.prompt_flops
        return stage1, self.epochs[1] * self.seen * STAGE2_PASSES * self.image_flops

    @property
    def seconds(self) -> float:
        """If the machine did nothing but this arithmetic at the measured rate; processes share stage 2, not stage 1."""
        stage1, stage2 = self.flops
        return (stage1 + stage2 / int(os.environ.get("WORLD_SIZE", "1"))) / self.rate

    def __str__(self) -> str:
        (height, width), (stage1, stage2) = self.size, self.flops
        trained, frozen, averaged, kept, pixels = (_mib(count) for count in (
            self.trained_bytes, self.frozen_bytes, self.averaged_bytes, self.kept_bytes, self.pixel_bytes,
        ))  # fmt: skip
        each = f"{self.kept / 2**20:.1f}"
        lines = [
            "needs at least, in all:",
            f"  memory      {trained}  {self.trained:,} trained parameters x 16 bytes (weight, gradient, Adam's two)",
            f"              {frozen}  {self.frozen:,} frozen parameters x 4 bytes",
            *([f"              {averaged}  the average of the weights, 4 bytes each"] if self.averaged else []),
            f"              {kept}  kept of {self.together} images for the backward pass, {each} MiB each",
            f"              {pixels}  pixels of {self.images:,} images, 3 x {height} x {width} bytes each",
            "              the pixels lie in the computer's memory; stage 1's words come on top, and are not counted",
        ]
        if stage1:
            lines.append(
                f"  arithmetic  {_tera(stage1)}  stage 1: {self.features:,} images once through the ViT "
                f"({self.vit_flops / 1e9:.3g} GFLOP), {self.epochs[0]} epochs of {self.prompts:,} prompts "
                f"(2 x {self.prompt_flops / 1e9:.3g})"
            )
        label = "            " if stage1 else "  arithmetic"
        lines += [
            f"{label}  {_tera(stage2)}  stage 2: {self.epochs[1]} epochs of {self.seen:,} images "
            f"(3 x {self.image_flops / 1e9:.3g} GFLOP)",
            f"  time        {_clock(self.seconds)}  at {self.rate / 1e9:,.0f} GFLOP/s, measured just now by "
            f"{self.precision} matrix products on {self.device}",
        ]
        return "\n".join(lines)


def _mib(count: int) -> str:
    return f"{count / 2**20:8,.1f} MiB"


def _tera(flops: int) -> str:
    return f"{flops / 1e12:6,.1f} TFLOP"


def _clock(seconds: float) -> str:
    """Such as 5 s, 12 min 40 s, 3 h 2 min."""
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if minutes else f"{rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def estimate(experiment: Experiment, train: pd.DataFrame) -> Estimate:
    """Count what training ``experiment`` on a frame with person and clothes labels needs, in about a second.

    Raises:
        InputError: towers that do not exist or do not fit, labels that do not fit the batches.
    """
    clip, learner = without_data(experiment, train.person.nunique())
    groups = parameter_groups(learner.encoder, learner.heads, experiment)
    trained = _count([value for group in groups for value in group["params"]])
    held = {id(value): value for part in (clip, learner) if part is not None for value in part.parameters()}
    size = (experiment.image_height, experiment.image_width)
    pair = torch.empty(2, 3, *size, device="meta")  # two: a batch norm in training refuses one
    texts = experiment.hsf != "none" and experiment.mdg != "random"
    sampler = identity_sampler(experiment, train)
    flops = count_flops(learner, pair) // 2  # before the weights are changed for what is kept
    batch = experiment.batch_persons * experiment.batch_images
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    return Estimate(
        trained=trained,
        frozen=_count(held.values()) - trained,
        images=len(train),
        size=size,
        image_flops=flops,
        vit_flops=count_flops(clip.visual_features, pair) // 2 if clip is not None else 0,
        prompt_flops=_prompt_flops(clip, experiment.prompt_tokens) if texts else 0,
        kept=kept_of_an_image(learner, size, experiment.precision),
        together=batch // experiment.batch_parts // int(os.environ.get("WORLD_SIZE", "1")),
        averaged=_count(learner.encoder.parameters()) if experiment.ema is not None else 0,
        features=2 * len(train) if texts else 0,  # RGB and gray
        prompts=_prompts(experiment, train) if texts else 0,
        seen=len(sampler) * experiment.batch_persons * experiment.batch_images,
        epochs=(experiment.stage1_epochs if texts else 0, experiment.stage2_epochs),
        device=device.type if device.type != "cpu" else f"cpu ({torch.get_num_threads()} x one thread)",
        precision=experiment.precision,
        rate=matrix_rate(device, torch.bfloat16 if experiment.precision == "bf16" else torch.float32),
    )


def without_data(experiment: Experiment, identities: int) -> tuple[ClipTower | None, Learner]:
    """The CLIP and the learner as training builds them, on the meta device."""
    blank = {"clip_checkpoint": None, "resnet_checkpoint": None, "vocabulary_train": "none"}
    blank = experiment.model_copy(update=blank)  # subspaces of words cost next to nothing
    with torch.random.fork_rng(devices=[]):  # initial weights are not drawn on meta, but chance moves on
        with torch.device("meta"):
            clip, resnet = load_towers(blank)
        if clip is not None:
            clip.requires_grad_(False)
        return clip, build_learner(blank, clip, resnet, identities, Stage2Targets()).to("meta")


def count_flops(forward: Callable[..., Any], *inputs: Tensor) -> int:
    """FLOPs of one forward call, counted by torch."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(*inputs)
    return counter.get_total_flops()


def kept_of_an_image(learner: Learner, size: tuple[int, int], precision: str) -> int:
    """Bytes that autograd keeps of one image of a batch, of a learner on the meta device, whose weights' type changes.

    There is no autocast on meta: in bf16 all is taken to be bf16, which is a little less than what is. What gradient
    checkpointing computes again is left out, and what enters the ViT's blocks with it.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    learner.to(kind).train()
    learner.parts = 1  # each is kept whole while it is computed again
    two, four = (kept_bytes(learner, torch.empty(count, 3, *size, device="meta", dtype=kind)) for count in (2, 4))
    return (four - two) // 2


def kept_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that autograd keeps of a forward call for the backward one, beside the module's parameters."""
    owned = {value.untyped_storage()._cdata for value in module.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def noted(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        held[storage._cdata] = storage
        return value.detach()  # the value itself would hold on to what holds it

    with torch.autograd.graph.saved_tensors_hooks(noted, lambda value: value):
        module(*inputs)
    return sum(storage.nbytes() for place, storage in held.items() if place not in owned)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.25) -> float:
    """FLOP/s of the best of the square matrix products that fit into ``seconds``, on this machine now.

    On a CPU one thread's, times the threads: where others use the cores too, products of all threads wait for
    each other and measure the crowd, and a time that is to be a lower bound needs the machine's own rate.
    """
    if device.type != "cpu":
        return _best_rate(device, dtype, 4096, seconds)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return threads * _best_rate(device, dtype, 512, seconds)
    finally:
        torch.set_num_threads(threads)


def _best_rate(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> float:
    left = torch.rand(side, side, device=device, generator=torch.Generator(device)).to(dtype)
    best, end = float("inf"), time.perf_counter() + seconds
    while best == float("inf") or time.perf_counter() < end:
        started = time.perf_counter()
        left @ left
        if device.type != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * side**3 / best


def _count(parameters: object) -> int:
    return sum(value.numel() for value in parameters)


def _prompt_flops(clip: ClipTower, tokens: int) -> int:
    """One RGB prompt, to its end-of-text, forward; the gray one is a word longer at most."""
    ids = clip.tokenizer([" ".join(["A photo of a", *["a"] * tokens, "person."])])
    end = ids.argmax(dim=-1)
    return count_flops(clip.prompt_features, torch.empty(1, int(end) + 1, clip.text_width, device="meta"), end)


def _prompts(experiment: Experiment, train: pd.DataFrame) -> int:
    """In the first epoch of stage 1: two of every identity in each of its batches, which are drawn as there."""
    person = torch.tensor(train.person.to_numpy())
    order = torch.randperm(len(person), generator=random_stream(experiment.seed, STREAMS["stage1"]))
    return 2 * sum(len(person[rows].unique()) for rows in order.split(experiment.stage1_batch))
