"""Stage 2 (VSS + HSF): the visual encoder is trained; descriptions are fixed.

L = w_id sum L_id + w_tri sum L_tri + w_text L_HSF   (+ vocabulary penalty, + CAL, + terms of plugins)   [C, extended]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from csgn_lib import hsf, losses, vocabulary
from csgn_lib.batches import Augmentation, AugmentationDraw, Batch, IdentitySampler, ImageSet, Prefetcher, random_stream
from csgn_lib.config import Experiment
from csgn_lib.records import BOOKS, InputError
from csgn_lib.registry import Form
from csgn_lib.training.checkpoints import Checkpoints
from csgn_lib.training.cuda_graphs import CudaGraphStep, Step, adam, can_capture, set_lr
from csgn_lib.training.distributed import BatchShard, sync_resume_point
from csgn_lib.training.steps import STREAMS, Stage2Targets, StepContext, TrainingState, optimizer_step
from csgn_lib.vss import (
    Embeddings,
    FeatureMap,
    HeadOutputs,
    Heads,
    VisualEncoder,
    concatenate,
    parameter_groups,
    uses_resnet,
)


class Learner(nn.Module):
    """Encoder and heads as one module: images in, embeddings and head outputs out.

    Attributes:
        gather: function from this process's embeddings to those of the whole batch, for heads and losses.
        parts: number of parts in which the images are embedded, one after another. Only a part's embeddings are kept;
            its activations are recomputed in the backward pass (as in GradCache, Gao et al., RepL4NLP 2021). Memory is
            that of a part, while hardest negatives, head statistics and text losses are those of the whole batch. The
            batch norms of a ResNet use the statistics of one part.
    """

    def __init__(self, encoder: VisualEncoder, heads: Heads, f_map: FeatureMap | None, parts: int = 1) -> None:
        super().__init__()
        self.encoder, self.heads, self.f_map, self.parts = encoder, heads, f_map, parts
        self.gather: Callable[[Embeddings], Embeddings] = lambda embeddings: embeddings

    def forward(self, images: Tensor) -> tuple[Embeddings, HeadOutputs]:
        """Images (B, 3, H, W), or this process's shard of them, to the batch's Embeddings and HeadOutputs."""
        embeddings = self.gather(self._embedded(images))
        return embeddings, self.heads(embeddings, self.f_map)

    def _embedded(self, images: Tensor) -> Embeddings:
        if self.parts == 1 or not torch.is_grad_enabled():
            return self.encoder(images)
        again = partial(
            checkpoint, self.encoder, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), _frozen_statistics(self.encoder)),
        )  # fmt: skip
        return concatenate([again(part) for part in images.chunk(self.parts)])


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Context manager: batch norms do not update their running statistics, since the images are seen a second time."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(tracked)


@dataclass(frozen=True)
class Stage2Step:
    """Input of a plugin's ``stage2_term``: one training step.

    Attributes:
        embeddings: z11, z12, f, c of the B images, each (B, width) or None, float32, with gradients.
        outputs: logits (B, N) of the heads, and the inputs of the triplet loss, by name.
        batch: augmented images, and person, camera, clothes, index, each (B,) int64; with several processes ``images``
            is this process's shard.
        targets: descriptions (N, D) and subspaces.
    """

    embeddings: Embeddings
    outputs: HeadOutputs
    batch: Batch
    targets: Stage2Targets


def stage2_terms(
    experiment: Experiment, embeddings: Embeddings, outputs: HeadOutputs, batch: Batch, targets: Stage2Targets
) -> dict[str, Tensor]:
    """All terms of stage 2's loss by name, weighted; the encoder minimises their sum.

    L = w_id sum L_id + w_tri sum L_tri + w_text L_HSF [C, extended]; w_id differs by branch. The terms of plugins come
    last, in the order in which they were registered.

    Raises:
        InputError: a plugin's term fails, is no scalar, or has a name that is taken.
    """
    terms = {}
    for name, logits in outputs.logits.items():
        of_resnet = name == "c" and uses_resnet(experiment)
        weight = experiment.id_weight_resnet if of_resnet else experiment.id_weight_vit
        terms[f"id_{name}"] = weight * losses.identity_loss(logits, batch.person, experiment.label_smoothing)
    for name, features in outputs.triplet.items():
        triplet = losses.triplet_loss(features, batch.person, experiment.triplet_margin)
        terms[f"triplet_{name}"] = experiment.triplet_weight * triplet
    if targets.text is not None:
        text = targets.text.rgb, targets.text.gray
        compared = hsf.HsfBatch(embeddings.f, *text, batch.person, experiment.similarity, targets.colour)
        described = experiment.form("hsf")(compared)
        terms |= {name: experiment.hsf_weight * value for name, value in described.items()}
    if experiment.vocabulary_train == "penalty":
        terms["vocabulary"] = experiment.penalty_weight * vocabulary.penalty(embeddings.f, targets.clothing)
    for form in experiment.added("stage2_term").values():
        _add_term(terms, form, Stage2Step(embeddings, outputs, batch, targets))
    return terms


def _add_term(terms: dict[str, Tensor], form: Form, step: Stage2Step) -> None:
    """Evaluate a plugin's term and add it, or each scalar of the dict that it returns."""
    value = form(step)
    for name, scalar in (value if isinstance(value, dict) else {form.name: value}).items():
        if not isinstance(scalar, Tensor) or scalar.numel() != 1:
            what = f"shape {tuple(scalar.shape)}" if isinstance(scalar, Tensor) else type(scalar).__name__
            raise InputError(
                f"{form.entry} returns {name} as {what}; return a scalar tensor, or a dict of scalar tensors"
            )
        if name in terms or name in BOOKS:
            raise InputError(f"{form.entry} returns a term {name!r}, which already exists; rename it")
        terms[name] = scalar.reshape(())


def train_encoder(
    experiment: Experiment,
    learner: Learner,
    images: ImageSet,
    targets: Stage2Targets,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
) -> Iterator[dict[str, Any]]:
    """Stage 2, from the last checkpoint on; yields one record per epoch.

    Adam; linear warm-up from a tenth of the learning rate, then a tenth at each milestone [C]. With ``ema`` the encoder
    ends with the exponential moving average of its weights and buffers over the steps [O]. A record has the mean of
    each loss term, ``rate`` (the factor of all learning rates), ``seconds``, ``images_per_second``, and ``waiting``,
    the share of the time in which a step waited for its images.
    """
    shard = BatchShard(accelerator, experiment.batch_persons)
    learner.to(accelerator.device)
    learner.gather = shard.gather
    clothes = _clothes_adversary(experiment, learner, images, accelerator.device)
    model = shard.wrap_ddp(learner)
    optimizer = adam(parameter_groups(learner.encoder, learner.heads, experiment), accelerator.device)
    parts: dict[str, Any] = {"learner": learner, "optimizer": optimizer}
    average = WeightEMA(learner.encoder, experiment.ema) if experiment.ema is not None else None
    if average is not None:
        parts["average"] = average
    if clothes is not None:
        parts |= {"clothes": clothes, "clothes_optimizer": clothes.optimizer}
    step = encoder_step(experiment, model, targets, optimizer, accelerator, clothes)
    step = CudaGraphStep(step, accelerator.device, can_capture(experiment, shard))
    state = TrainingState(parts, accelerator.device)

    def update(images: Tensor, *labels: Tensor) -> None:
        state.terms.add(step(images, *labels))
        if average is not None:
            average.update(learner.encoder)

    yield from _epochs(experiment, learner, images, shard, optimizer, update, state, checkpoints, accelerator)
    if average is not None:
        learner.encoder.load_state_dict(average.module.state_dict())


def _epochs(
    experiment: Experiment,
    learner: Learner,
    images: ImageSet,
    shard: BatchShard,
    optimizer: torch.optim.Optimizer,
    update: Callable[..., None],
    state: TrainingState,
    checkpoints: Checkpoints,
    accelerator: Accelerator,
) -> Iterator[dict[str, Any]]:
    """The epochs of stage 2: draw, augment, update, save."""
    frame = pd.DataFrame({"person": images.person.numpy(), "clothes": images.clothes.numpy()})
    sampler = identity_sampler(experiment, frame)
    augment = Augmentation.from_experiment(experiment)
    rates = [float(group["lr"]) for group in optimizer.param_groups]  # before a checkpoint changes them
    first, done = sync_resume_point(accelerator, checkpoints.restore(2, state.load))
    with checkpoints.handle_signals():
        for epoch in range(first, experiment.stage2_epochs + 1):
            learner.train()
            state.begin_epoch()
            rows_of = sampler.epoch(epoch)
            context = StepContext(2, epoch, images.paths, rows_of, checkpoints.log)
            load = partial(_load, experiment, images, augment, shard, rows_of, epoch)
            batches, began = Prefetcher(load, range(done, len(rows_of)), accelerator.device), state.seconds
            for index, (batch, drawn) in enumerate(batches, done):
                factor = lr_multiplier(experiment, epoch - 1 + index / len(rows_of))
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    set_lr(group, rate * factor)
                update(augment.apply(batch.images, drawn), batch.person, batch.camera, batch.clothes, batch.index)
                state.keep(checkpoints, context, index)
            seconds, images_done = state.seconds, rows_of[done:].size
            means, done = state.end_epoch(context), 0
            yield {
                "stage": 2, "epoch": epoch, "epochs": experiment.stage2_epochs,
                "rate": round(lr_multiplier(experiment, epoch - 1 / len(rows_of)), 4), "seconds": round(seconds, 2),
                "images_per_second": round(images_done / (seconds - began), 1),
                "waiting": round(batches.waited / (seconds - began), 4), **means,
            }  # fmt: skip


def _load(
    experiment: Experiment,
    images: ImageSet,
    augment: Augmentation,
    shard: BatchShard,
    rows_of: np.ndarray,
    epoch: int,
    step: int,
) -> tuple[Batch, AugmentationDraw]:
    """The batch of a step and its augmentation, a function of (seed, epoch, step)."""
    part = shard.rows(experiment.batch_persons * experiment.batch_images)
    size = (experiment.image_height, experiment.image_width)
    stream = random_stream(experiment.seed, STREAMS["augmentation"], epoch, step)
    drawn = augment.draw(rows_of.shape[1], size, stream).rows(part)
    return images.batch(rows_of[step], part), drawn


def encoder_step(
    experiment: Experiment,
    model: Callable[[Tensor], tuple[Embeddings, HeadOutputs]],
    targets: Stage2Targets,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    clothes: ClothesAdversary | None = None,
) -> Step:
    """One optimizer step of stage 2: augmented images and the other fields of a Batch to the weighted loss terms."""

    def step(images: Tensor, *labels: Tensor) -> dict[str, Tensor]:
        batch = Batch(images, *labels)
        with accelerator.autocast():
            embeddings, outputs = model(images)
        terms = stage2_terms(experiment, embeddings, outputs, batch, targets)
        if clothes is not None:
            terms |= clothes.terms(embeddings, batch, experiment.clothes_adversarial_weight)
        optimizer_step(sum(terms.values()), optimizer)
        return terms

    return step


def identity_sampler(experiment: Experiment, frame: pd.DataFrame) -> IdentitySampler:
    """The batches of stage 2, from a frame with person and clothes labels. Raises as IdentitySampler."""
    return IdentitySampler(
        frame, experiment.batch_persons, experiment.batch_images, experiment.seed, experiment.sampler == "clothes"
    )


def lr_multiplier(experiment: Experiment, epoch: float) -> float:
    """Factor of all learning rates after ``epoch`` epochs (a fraction inside one): warm-up, then milestones [C]."""
    warm = experiment.stage2_warmup
    warming = 0.1 + 0.9 * epoch / warm if epoch < warm else 1.0
    return warming * 0.1 ** sum(epoch >= milestone for milestone in experiment.stage2_milestones)


class WeightEMA(nn.Module):
    """Exponential moving average of a module's weights and buffers, starting from those after the first step.

    Integer tensors are copied. torch's AveragedModel computes the same, but synchronises the GPU at every step.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.module, self.decay = copy.deepcopy(module).requires_grad_(False), decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # on the CPU: read at every step

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Update with the weights after a step."""
        pairs = [*zip(_tensors(self.module), _tensors(module), strict=True)]
        means, now = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(means, now, 1 - self.decay if self.steps else 1.0)
        if counts := [pair for pair in pairs if not pair[0].is_floating_point()]:
            torch._foreach_copy_(*zip(*counts, strict=True))
        self.steps += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class ClothesAdversary(nn.Module):
    """CAL's clothes classifier with its own optimizer, on f, or on c where there is no f.

    Args:
        width: of f or c.
        images: the training images, with clothes labels.
        rate: learning rate of the classifier.
    """

    def __init__(
        self, width: int, images: ImageSet, rate: float, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        self.register_buffer("own", losses.clothes_by_person(images.person, images.clothes), persistent=False)
        self.classifier = losses.ClothesClassifier(width, self.own.shape[1], generator=generator)
        self.to(device)
        self.optimizer = adam([{"params": [*self.classifier.parameters()], "lr": rate}], device)

    def terms(self, embeddings: Embeddings, batch: Batch, weight: float) -> dict[str, Tensor]:
        """One step of the classifier on detached features, then the weighted term that the features minimise."""
        features = embeddings.f if embeddings.f is not None else embeddings.c
        optimizer_step(losses.clothes_loss(self.classifier, features, batch.clothes), self.optimizer)
        own = self.own[batch.person]
        adversarial = losses.clothes_adversarial_loss(self.classifier, features, batch.clothes, own)
        return {"clothes_adversarial": weight * adversarial}


def _clothes_adversary(
    experiment: Experiment, learner: Learner, images: ImageSet, device: torch.device
) -> ClothesAdversary | None:
    if not experiment.clothes_adversarial_weight:
        return None
    width = learner.encoder.widths.get("f", learner.encoder.widths.get("c"))
    generator = random_stream(experiment.seed, STREAMS["clothes"])
    return ClothesAdversary(width, images, experiment.lr_heads, generator, device)
