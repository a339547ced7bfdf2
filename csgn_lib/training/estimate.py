"""Lower bounds of memory, FLOPs and time of a training, computed before it starts.

Models are built on the meta device, where tensors have a shape but no data, so counting needs neither weights nor
memory.
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
from csgn_lib.progress import duration
from csgn_lib.training.encoders import without_data
from csgn_lib.training.precision import usable_precision
from csgn_lib.training.stage2 import Learner, identity_sampler
from csgn_lib.training.steps import STREAMS
from csgn_lib.vss import parameter_groups

TRAINED_BYTES = 16  # float32: a weight, its gradient, Adam's two moments
FROZEN_BYTES = 4
STAGE2_PASSES = 3  # forward, and backward to inputs and to weights
STAGE1_PASSES = 2  # forward, and backward to the prompts' tokens only, because the text encoder is frozen


@dataclass(frozen=True)
class Estimate:
    """Lower bounds of a whole training. FLOPs: multiplications and additions of matrix products and convolutions.

    Attributes:
        trained, frozen: parameters.
        images: images of the training split; size: (height, width) in pixels.
        image_flops, vit_flops, prompt_flops: forward, of one image through encoder and heads, one image through the
            ViT, one prompt through the text tower.
        activation_bytes: bytes per image that stage 2 saves in the forward pass for the backward pass.
        images_at_once: images whose activations are held at once.
        averaged: values of the weights' moving average.
        features: images that stage 1 embeds once: each in RGB and in grayscale.
        prompts: prompts in an epoch of stage 1. stage2_images: images in an epoch of stage 2.
        epochs: of stage 1 and stage 2.
        rate: FLOP/s of a matrix product on ``device`` in ``precision``, measured.
    """

    trained: int
    frozen: int
    images: int
    size: tuple[int, int]
    image_flops: int
    vit_flops: int
    prompt_flops: int
    activation_bytes: int
    images_at_once: int
    averaged: int
    features: int
    prompts: int
    stage2_images: int
    epochs: tuple[int, int]
    device: str
    precision: str
    rate: float

    @property
    def trained_bytes(self) -> int:
        """Weights, gradients and Adam's moments of the parameters that stage 2 trains."""
        return self.trained * TRAINED_BYTES

    @property
    def frozen_bytes(self) -> int:
        """Weights that are not trained: CLIP's text tower."""
        return self.frozen * FROZEN_BYTES

    @property
    def averaged_bytes(self) -> int:
        """The moving average of the encoder's weights, with ``ema``."""
        return self.averaged * FROZEN_BYTES

    @property
    def kept_bytes(self) -> int:
        """Activations of a batch, or of a part of it, that the backward pass needs."""
        return self.images_at_once * self.activation_bytes

    @property
    def pixel_bytes(self) -> int:
        """The training images, uint8 (N, 3, H, W)."""
        return self.images * 3 * self.size[0] * self.size[1]

    @property
    def flops(self) -> tuple[int, int]:
        """FLOPs of all of stage 1 and of all of stage 2."""
        stage1 = self.features * self.vit_flops + self.epochs[0] * self.prompts * STAGE1_PASSES * self.prompt_flops
        return stage1, self.epochs[1] * self.stage2_images * STAGE2_PASSES * self.image_flops

    @property
    def seconds(self) -> float:
        """Time of these FLOPs at the measured rate; stage 2 is divided by the number of processes, stage 1 is not."""
        stage1, stage2 = self.flops
        return (stage1 + stage2 / int(os.environ.get("WORLD_SIZE", "1"))) / self.rate

    def __str__(self) -> str:
        (height, width), (stage1, stage2) = self.size, self.flops
        trained, frozen, averaged, kept, pixels = (_mib(count) for count in (
            self.trained_bytes, self.frozen_bytes, self.averaged_bytes, self.kept_bytes, self.pixel_bytes,
        ))  # fmt: skip
        each = f"{self.activation_bytes / 2**20:.1f}"
        lines = [
            "needs at least, in all:",
            f"  memory      {trained}  {self.trained:,} trained parameters x 16 bytes (weight, gradient, Adam's two)",
            f"              {frozen}  {self.frozen:,} frozen parameters x 4 bytes",
            *([f"              {averaged}  moving average of the weights, 4 bytes each"] if self.averaged else []),
            f"              {kept}  activations of {self.images_at_once} images for the backward pass, {each} MiB each",
            f"              {pixels}  pixels of {self.images:,} images, 3 x {height} x {width} bytes each",
            "              pixels are in CPU memory; the learned tokens of stage 1 are not counted",
        ]
        if stage1:
            lines.append(
                f"  arithmetic  {_tera(stage1)}  stage 1: {self.features // 2:,} images, RGB and gray, through the ViT "
                f"({self.vit_flops / 1e9:.3g} GFLOP), {_epochs(self.epochs[0])} of {self.prompts:,} prompts "
                f"(2 x {self.prompt_flops / 1e9:.3g})"
            )
        label = "            " if stage1 else "  arithmetic"
        lines += [
            f"{label}  {_tera(stage2)}  stage 2: {_epochs(self.epochs[1])} of {self.stage2_images:,} images "
            f"(3 x {self.image_flops / 1e9:.3g} GFLOP)",
            f"  time        {duration(self.seconds)}  at {self.rate / 1e9:,.0f} GFLOP/s, measured just now with "
            f"{self.precision} matrix products on {self.device}",
        ]
        return "\n".join(lines)


def _mib(count: int) -> str:
    return f"{count / 2**20:8,.1f} MiB"


def _epochs(count: int) -> str:
    return f"{count} epoch{'s' * (count != 1)}"


def _tera(flops: int) -> str:
    return f"{flops / 1e12:6,.1f} TFLOP"


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
    pair = torch.empty(2, 3, *size, device="meta")  # two images: batch norm refuses one in training
    texts = experiment.hsf != "none" and experiment.mdg != "random"
    sampler = identity_sampler(experiment, train)
    flops = count_flops(learner, pair) // 2  # before activation_bytes_per_image changes the weights' type
    batch = experiment.batch_persons * experiment.batch_images
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    precision = usable_precision(experiment.precision, device)
    return Estimate(
        trained=trained,
        frozen=_count(held.values()) - trained,
        images=len(train),
        size=size,
        image_flops=flops,
        vit_flops=count_flops(clip.visual_features, pair) // 2 if clip is not None else 0,
        prompt_flops=_prompt_flops(clip, experiment.prompt_tokens) if texts else 0,
        activation_bytes=activation_bytes_per_image(learner, size, precision),
        images_at_once=batch // experiment.batch_parts // int(os.environ.get("WORLD_SIZE", "1")),
        averaged=_count(learner.encoder.parameters()) if experiment.ema is not None else 0,
        features=2 * len(train) if texts else 0,  # RGB and gray
        prompts=_prompts(experiment, train) if texts else 0,
        stage2_images=len(sampler) * experiment.batch_persons * experiment.batch_images,
        epochs=(experiment.stage1_epochs if texts else 0, experiment.stage2_epochs),
        device=device.type if device.type != "cpu" else f"cpu ({torch.get_num_threads()} x one thread)",
        precision=precision,
        rate=matrix_rate(device, torch.bfloat16 if precision == "bf16" else torch.float32),
    )


def count_flops(forward: Callable[..., Any], *inputs: Tensor) -> int:
    """FLOPs of one forward call, counted by torch."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        forward(*inputs)
    return counter.get_total_flops()


def activation_bytes_per_image(learner: Learner, size: tuple[int, int], precision: str) -> int:
    """Bytes that autograd saves per image of a batch, for a learner on the meta device; changes its weights' type.

    There is no autocast on meta: with bf16 all tensors count as bf16, a slight underestimate. Activations that gradient
    checkpointing recomputes are not counted, nor are the inputs of its blocks.
    """
    kind = torch.bfloat16 if precision == "bf16" else torch.float32
    learner.to(kind).train()
    learner.parts = 1  # all activations of a part are in memory while it is recomputed
    of_two, of_four = (
        saved_bytes(learner, torch.empty(count, 3, *size, device="meta", dtype=kind)) for count in (2, 4)
    )
    return (of_four - of_two) // 2


def saved_bytes(module: nn.Module, *inputs: Tensor) -> int:
    """Bytes that autograd saves in a forward call for the backward pass, without the module's parameters."""
    owned = {value.untyped_storage()._cdata for value in module.parameters()}
    held: dict[int, torch.UntypedStorage] = {}

    def note(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        held[storage._cdata] = storage
        return value.detach()  # not the value itself: it would form a reference cycle

    with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
        module(*inputs)
    return sum(storage.nbytes() for place, storage in held.items() if place not in owned)


def matrix_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.25) -> float:
    """FLOP/s of the fastest of the square matrix products that fit into ``seconds``, measured on this machine.

    On a CPU, the rate of one thread times the number of threads: with all threads the measurement would depend on the
    load of other programs, and a lower bound needs the rate of an idle machine.
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
    """Forward FLOPs of one RGB prompt after its beginning, up to end-of-text; the gray one is no shorter."""
    begun = "A photo of a"
    start, end = (
        int(clip.tokenizer([text]).argmax()) for text in (begun, " ".join([begun, *["a"] * tokens, "person."]))
    )
    prompt = torch.empty(1, end + 1, clip.text_width, device="meta")
    prefix = clip.prompt_prefix(prompt, [start], end + 1 - start)
    if prefix is None:
        return count_flops(clip.prompt_features, prompt, torch.tensor([end]))
    return count_flops(clip.continued_features, prompt[:, None, start:], prefix)


def _prompts(experiment: Experiment, train: pd.DataFrame) -> int:
    """Prompts in the first epoch of stage 1: two per identity in each batch, drawn as in training."""
    person = torch.tensor(train.person.to_numpy())
    order = torch.randperm(len(person), generator=random_stream(experiment.seed, STREAMS["stage1"]))
    return 2 * sum(len(person[rows].unique()) for rows in order.split(experiment.stage1_batch))
