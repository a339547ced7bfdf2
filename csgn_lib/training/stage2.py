"""Stage 2 (VSS + HSF): the descriptions are fixed, and the visual encoder learns.

L = w_id * sum L_id + w_tri * sum L_tri + w_text * L_HSF   (+ a vocabulary penalty, + CAL)
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from csgn_lib import hsf, losses, vocabulary
from csgn_lib.batches import Ahead, Augmentation, AugmentationDraw, Batch, IdentitySampler, ImageSet, random_stream
from csgn_lib.config import Experiment
from csgn_lib.training.checkpoints import Checkpoints
from csgn_lib.training.cuda_graphs import CudaGraphStep, Step, adam, can_capture, set_lr
from csgn_lib.training.distributed import BatchShard, sync_resume_point
from csgn_lib.training.steps import STREAMS, Stage2Targets, StepContext, TrainingState, optimizer_step
from csgn_lib.vss import (
    WITH_RESNET,
    Embeddings,
    FeatureMap,
    HeadOutputs,
    Heads,
    VisualEncoder,
    concatenate,
    parameter_groups,
)


class Learner(nn.Module):
    """The encoder with its heads, as one module: images in, embeddings and head outputs out.

    gather: from this process's embeddings to the whole batch's, which the heads and losses see.
    parts: how many parts the images are embedded in, one after another. Only embeddings are kept of a part; its
    activations are computed a second time in the backward pass (as GradCache does, Gao et al., RepL4NLP 2021), so
    that the memory is a part's, while hardest negatives, head statistics and text losses are the whole batch's. A
    ResNet's own batch norms see a part.
    """

    def __init__(self, encoder: VisualEncoder, heads: Heads, f_map: FeatureMap | None, parts: int = 1) -> None:
        super().__init__()
        self.encoder, self.heads, self.f_map, self.parts = encoder, heads, f_map, parts
        self.gather: Callable[[Embeddings], Embeddings] = lambda embeddings: embeddings

    def forward(self, images: Tensor) -> tuple[Embeddings, HeadOutputs]:
        """Images (B, 3, H, W), or this process's share of them, to the batch's Embeddings and HeadOutputs."""
        embeddings = self.gather(self._embedded(images))
        return embeddings, self.heads(embeddings, self.f_map)

    def _embedded(self, images: Tensor) -> Embeddings:
        if self.parts == 1 or not torch.is_grad_enabled():
            return self.encoder(images)
        again = partial(
            checkpoint, self.encoder, use_reentrant=False, preserve_rng_state=False,
            context_fn=lambda: (nullcontext(), _statistics_kept(self.encoder)),
        )  # fmt: skip
        return concatenate([again(part) for part in images.chunk(self.parts)])


@contextmanager
def _statistics_kept(module: nn.Module) -> Iterator[None]:
    """Batch norms normalise as they did and note nothing: they see the same images a second time."""
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    before = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, seen) in zip(norms, before, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(seen)


def stage2_terms(
    experiment: Experiment, embeddings: Embeddings, outputs: HeadOutputs, batch: Batch, targets: Stage2Targets
) -> dict[str, Tensor]:
    """All terms of stage 2's loss by name, weighted; their sum is what the encoder descends.

    L = w_id * sum L_id + w_tri * sum L_tri + w_text * L_HSF [C, extended]; w_id differs by branch.
    """
    terms = {}
    for name, logits in outputs.logits.items():
        of_resnet = name == "c" and experiment.vss in WITH_RESNET
        weight = experiment.id_weight_resnet if of_resnet else experiment.id_weight_vit
        terms[f"id_{name}"] = weight * losses.identity_loss(logits, batch.person, experiment.label_smoothing)
    for name, features in outputs.triplet.items():
        terms[f"triplet_{name}"] = experiment.triplet_weight * losses.triplet_loss(
            features, batch.person, experiment.triplet_margin
        )
    if targets.text is not None:
        described = hsf.hsf_loss(
            embeddings.f, targets.text.rgb, targets.text.gray, batch.person, variant=experiment.hsf,
            beta=experiment.beta, label_smoothing=experiment.label_smoothing, similarity=experiment.similarity,
            consistency_weight=experiment.consistency_weight, colour_basis=targets.colour,
            orthogonal_weight=experiment.orthogonal_weight,
        )  # fmt: skip
        terms |= {name: experiment.hsf_weight * value for name, value in described.items()}
    if experiment.vocabulary_train == "penalty":
        terms["vocabulary"] = experiment.penalty_weight * vocabulary.penalty(embeddings.f, targets.clothing)
    return terms


def train_encoder(
    experiment: Experiment,
    learner: Learner,
    images: ImageSet,
    targets: Stage2Targets,
    accelerator: Accelerator,
    checkpoints: Checkpoints,
) -> Iterator[dict[str, Any]]:
    """Stage 2, one record an epoch: mean of each loss term, rate, images a second; from where it was stopped.

    ``waiting`` is the share of an epoch's time in which a step had to wait for its images.

    Adam; linear warm-up from a tenth of the rate, then a tenth at each milestone [C]. With ``ema`` the encoder ends
    with the exponential average of its weights and statistics over the steps [O].
    """
    frame = pd.DataFrame({"person": images.person.numpy(), "clothes": images.clothes.numpy()})
    sampler = identity_sampler(experiment, frame)
    augment = Augmentation.from_experiment(experiment)
    shard = BatchShard(accelerator, experiment.batch_persons)
    part = shard.rows(experiment.batch_persons * experiment.batch_images)
    size = (experiment.image_height, experiment.image_width)
    learner.to(accelerator.device)
    learner.gather = shard.gather
    clothes = _clothes_adversary(experiment, learner, images, accelerator.device)
    together = shard.wrap_ddp(learner)
    groups = parameter_groups(learner.encoder, learner.heads, experiment)
    optimizer = adam(groups, accelerator.device)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    parts: dict[str, Any] = {"learner": learner, "optimizer": optimizer}
    average = None
    if experiment.ema is not None:
        average = WeightEMA(learner.encoder, experiment.ema)
        parts["average"] = average
    if clothes is not None:
        parts |= {"clothes": clothes, "clothes_optimizer": clothes.optimizer}
    state = TrainingState(parts, accelerator.device)
    first, done = sync_resume_point(accelerator, checkpoints.restore(2, state.load))
    descended = encoder_step(experiment, together, targets, optimizer, accelerator, clothes)
    descended = CudaGraphStep(descended, accelerator.device, can_capture(experiment, shard))
    with checkpoints.stopping():
        for epoch in range(first, experiment.stage2_epochs + 1):
            learner.train()
            started, rows_of = time.time(), sampler.epoch(epoch)
            where = StepContext(2, epoch, images.paths, rows_of, checkpoints.say)

            def made(step: int, epoch: int = epoch, rows_of: np.ndarray = rows_of) -> tuple[Batch, AugmentationDraw]:
                stream = random_stream(experiment.seed, STREAMS["augmentation"], epoch, step)
                drawn = augment.draw(rows_of.shape[1], size, stream).rows(part)
                return images.batch(rows_of[step], part), drawn

            batches = Ahead(made, range(done, len(rows_of)), accelerator.device)
            for step, (batch, drawn) in enumerate(batches, done):
                factor = lr_multiplier(experiment, epoch - 1 + step / len(rows_of))
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    set_lr(group, rate * factor)
                labels = batch.person, batch.camera, batch.clothes, batch.index
                terms = descended(augment.apply(batch.images, drawn), *labels)
                if average is not None:
                    average.update(learner.encoder)
                state.terms.add(terms)
                state.keep(checkpoints, where, step)
            means = state.end_epoch(where)
            seconds, images_done = time.time() - started, rows_of[done:].size
            factor, done = lr_multiplier(experiment, epoch - 1 / len(rows_of)), 0
            yield {
                "stage": 2, "epoch": epoch, "epochs": experiment.stage2_epochs, "rate": round(factor, 4),
                "seconds": round(seconds, 2), "images_per_second": round(images_done / seconds, 1),
                "waiting": round(batches.waited / seconds, 4), **means,
            }  # fmt: skip
    if average is not None:
        learner.encoder.load_state_dict(average.module.state_dict())


def encoder_step(
    experiment: Experiment,
    together: Callable[[Tensor], tuple[Embeddings, HeadOutputs]],
    targets: Stage2Targets,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    clothes: ClothesAdversary | None = None,
) -> Step:
    """One descent of stage 2 as a function of augmented images and the rest of a Batch, to the terms descended."""

    def step(images: Tensor, *labels: Tensor) -> dict[str, Tensor]:
        batch = Batch(images, *labels)
        with accelerator.autocast():
            embeddings, outputs = together(images)
        terms = stage2_terms(experiment, embeddings, outputs, batch, targets)
        if clothes is not None:
            terms |= clothes.terms(embeddings, batch, experiment.clothes_adversarial_weight)
        optimizer_step(sum(terms.values()), optimizer)
        return terms

    return step


def identity_sampler(experiment: Experiment, frame: pd.DataFrame) -> IdentitySampler:
    """The batches of stage 2, of a frame with person and clothes labels. Raises what IdentitySampler raises."""
    return IdentitySampler(
        frame, experiment.batch_persons, experiment.batch_images, experiment.seed, experiment.sampler == "clothes"
    )


def lr_multiplier(experiment: Experiment, epoch: float) -> float:
    """What all rates are multiplied by after ``epoch`` epochs (a fraction inside one) [C]."""
    warm = experiment.stage2_warmup
    warming = 0.1 + 0.9 * epoch / warm if epoch < warm else 1.0
    return warming * 0.1 ** sum(epoch >= milestone for milestone in experiment.stage2_milestones)


class WeightEMA(nn.Module):
    """The exponential average of a module's weights and statistics, from those after the first step on; what is counted
    in integers is taken as it is. torch's AveragedModel gives the same, and has a GPU waited for at every step."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        super().__init__()
        self.module, self.decay = copy.deepcopy(module).requires_grad_(False), decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))  # on the CPU, where it may be looked at

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Take in the weights after a step."""
        pairs = [*zip(_tensors(self.module), _tensors(module), strict=True)]
        means, now = zip(*(pair for pair in pairs if pair[0].is_floating_point()), strict=True)
        torch._foreach_lerp_(means, now, 1 - self.decay if self.steps else 1.0)
        if counts := [pair for pair in pairs if not pair[0].is_floating_point()]:
            torch._foreach_copy_(*zip(*counts, strict=True))
        self.steps += 1


def _tensors(module: nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


class ClothesAdversary(nn.Module):
    """CAL's clothes classifier with its own optimiser, on f, or on c where there is no f."""

    def __init__(
        self, width: int, images: ImageSet, rate: float, generator: torch.Generator, device: torch.device
    ) -> None:
        super().__init__()
        self.register_buffer("own", losses.clothes_by_person(images.person, images.clothes), persistent=False)
        self.classifier = losses.ClothesClassifier(width, self.own.shape[1], generator=generator)
        self.to(device)
        self.optimizer = adam([{"params": [*self.classifier.parameters()], "lr": rate}], device)

    def terms(self, embeddings: Embeddings, batch: Batch, weight: float) -> dict[str, Tensor]:
        """One step of the classifier on detached features; then the term that the features minimise."""
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
