"""Stage 1 (MDG): the frozen CLIP's features are computed once, then only prompt words learn."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csgn_lib import hsf, mdg, vocabulary
from csgn_lib.backbones import ClipTower
from csgn_lib.batches import Ahead, Batch, ImageSet, random_stream, to_float, to_gray
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run
from csgn_lib.training.checkpoints import Checkpoints
from csgn_lib.training.cuda_graphs import CudaGraphStep, Step, adam, set_lr
from csgn_lib.training.distributed import sync_resume_point
from csgn_lib.training.steps import (
    STREAMS,
    Report,
    Stage2Targets,
    StepContext,
    TrainingState,
    optimizer_step,
    save_tensors,
)

TEXT_FILE = "text.safetensors"
LEARN_AGAIN = "remove it, and the same command learns the descriptions again"


def prepare_targets(
    experiment: Experiment,
    clip: ClipTower | None,
    images: ImageSet,
    run: Run,
    accelerator: Accelerator,
    report: Report,
    checkpoints: Checkpoints,
) -> Stage2Targets:
    """Run stage 1 if the experiment needs text, and build the subspaces that it names."""
    clothing = person = colour = text = None
    if experiment.vocabulary_train in ("head", "penalty"):
        clothing = vocabulary.clothing_subspace(clip, experiment.clothing_rank)
    if experiment.vocabulary_train == "targets":
        person = vocabulary.person_subspace(clip, experiment.person_rank)
    if experiment.hsf != "none":
        described = run.path(TEXT_FILE).exists()
        accelerator.wait_for_everyone()  # all have looked before one of them writes it
        if described:
            text = read_descriptions(run, accelerator.device)
            _refuse_other_people(text, int(images.person.max()) + 1, clip.embed_dim, run)
        else:
            text = learn_prompts(experiment, clip, images, accelerator, report, checkpoints)
            text = mdg.TextFeatures(**{name: broadcast(part.contiguous()) for name, part in text.parts().items()})
            if accelerator.is_main_process:
                save_tensors(text.parts(), run.path(TEXT_FILE))
    if experiment.hsf == "orthogonal":
        colour = hsf.colour_subspace(text.rgb, text.gray, experiment.clothing_rank)
    if person is not None:
        text = mdg.TextFeatures(*(vocabulary.text_targets(part, person) for part in (text.rgb, text.gray)))
    return Stage2Targets(text, clothing, person, colour)


def read_descriptions(run: Run, device: torch.device | str = "cpu") -> mdg.TextFeatures:
    """The descriptions (N, D) that a run learned in stage 1, in the order of its training identities, and their words.

    The words are None where random vectors stand in place of text, and in runs of before they were kept.

    Raises:
        InputError: the run has none: it used no text, or stage 1 has not ended; a damaged file, or one that holds
            something else.
    """
    path = run.path(TEXT_FILE)
    if not path.exists():
        raise InputError(f"{path} does not exist: stage 1 of this run has not ended, or hsf=none needs none")
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); {LEARN_AGAIN}") from error
    names = [field.name for field in fields(mdg.TextFeatures)]
    foreign, absent = sorted(stored.keys() - set(names)), [name for name in names[:2] if name not in stored]
    if foreign or absent:
        wrong = f"holds {foreign[0][:60]!r}, one of {len(foreign)} foreign tensors" if foreign else f"lacks {absent[0]}"
        raise InputError(f"{path} {wrong}, and descriptions are {', '.join(names)}; {LEARN_AGAIN}")
    return mdg.TextFeatures(**{name: part.to(device) for name, part in stored.items()})


def _refuse_other_people(text: mdg.TextFeatures, identities: int, width: int, run: Run) -> None:
    """Raise InputError for descriptions of another number of identities, or in another CLIP's joint space."""
    wanted = dict.fromkeys(("rgb", "gray"), (identities, width))
    for name, part in text.parts().items():
        if tuple(part.shape) != wanted.get(name, (identities, *part.shape[1:])):
            raise InputError(
                f"{run.path(TEXT_FILE)} does not fit this run: its {name} is of shape {tuple(part.shape)}, and there "
                f"are {identities} identities and a CLIP of width {width}; {LEARN_AGAIN}, or name another folder"
            )


def learn_prompts(
    experiment: Experiment,
    clip: ClipTower,
    images: ImageSet,
    accelerator: Accelerator,
    report: Report,
    checkpoints: Checkpoints | None = None,
) -> mdg.TextFeatures:
    """Stage 1: descriptions (N, D) of every training identity, from the frozen CLIP.

    Adam, linear warm-up, cosine to 1e-6 [C]. mdg=random skips it and returns random vectors, as long as
    real text features are. With ``checkpoints`` it goes on where it was stopped. Processes that share a run
    all do the same here: prompts are few, and text towers small beside stage 2.
    """
    checkpoints = checkpoints or Checkpoints(None)
    identities = int(images.person.max()) + 1
    generator = random_stream(experiment.seed, STREAMS["prompts"])
    variant = "separate" if experiment.mdg == "random" else experiment.mdg
    tokens, modality = experiment.prompt_tokens, experiment.mdg_modality
    bank = mdg.PromptBank(clip, identities, tokens, variant, modality, generator=generator)
    bank.to(accelerator.device)
    if experiment.mdg == "random":
        return mdg.random_text_features(identities, bank.all_text_features().rgb, generator)
    rgb, gray = frozen_features(clip, images, accelerator)
    optimizer = prompts_optimizer(experiment, bank, accelerator.device)
    alone = accelerator.num_processes == 1
    descended = prompts_step(experiment, bank, rgb, gray, optimizer, accelerator)
    descended = CudaGraphStep(descended, accelerator.device, alone)
    order_of = random_stream(experiment.seed, STREAMS["stage1"])
    state = TrainingState({"bank": bank, "optimizer": optimizer}, accelerator.device)
    first, done = sync_resume_point(accelerator, checkpoints.restore(1, state.load))
    with checkpoints.stopping():
        for epoch in range(1, experiment.stage1_epochs + 1):
            started, batches = time.time(), torch.randperm(len(images), generator=order_of)
            if epoch < first:  # its order was drawn so that the next one's is the same as ever
                continue
            set_lr(optimizer.param_groups[0], prompt_lr(experiment, epoch))
            steps = batches.split(experiment.stage1_batch)
            where = StepContext(1, epoch, images.paths, steps, checkpoints.say)
            for step, seen in enumerate(stage1_batches(steps[done:], images.person, accelerator.device), done):
                state.terms.add(descended(*seen))
                state.keep(checkpoints, where, step)
            means = state.end_epoch(where)
            done = 0
            report({
                "stage": 1, "epoch": epoch, "epochs": experiment.stage1_epochs,
                "seconds": round(time.time() - started, 2), **means,
            })  # fmt: skip
    return bank.all_text_features()


def prompts_optimizer(experiment: Experiment, bank: mdg.PromptBank, device: torch.device) -> torch.optim.Adam:
    """Adam on the learned words [C]."""
    groups = [{"params": [*bank.parameters()], "lr": experiment.stage1_lr, "weight_decay": experiment.weight_decay}]
    return adam(groups, device)


def prompts_step(
    experiment: Experiment,
    bank: mdg.PromptBank,
    rgb: Tensor,
    gray: Tensor,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
) -> Step:
    """One optimizer step of stage 1 on cached image features (N, D), RGB and grayscale.

    The step takes what ``stage1_batches`` yields and returns the weighted loss terms.
    """

    def step(rows: Tensor, *persons: Tensor) -> dict[str, Tensor]:
        batch = mdg.BatchIdentities(*persons)
        with accelerator.autocast():
            text = bank(batch)
        terms = mdg.mdg_loss(
            rgb[rows], gray[rows], mdg.TextFeatures(text.rgb.float(), text.gray.float()), batch,
            variant=experiment.mdg, cross_weight=experiment.mdg_cross_weight,
            mutual_weight=experiment.mdg_mutual_weight, similarity=experiment.similarity,
        )  # fmt: skip
        optimizer_step(sum(terms.values()), optimizer)
        return terms

    return step


def stage1_batches(steps: Sequence[Tensor], person: Tensor, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """The rows (B,) of each step, and the BatchIdentities of who is there, on the device.

    One copy for all of them: a GPU ends what it does before it takes one from ordinary memory, so that a copy a step
    would have it wait for the next step, and that for it.
    """
    parts = [(rows, *mdg.BatchIdentities.of(person[rows])) for rows in steps]
    values = [value for part in parts for value in part]
    there = iter(torch.cat(values).to(device).split([len(value) for value in values]) if values else ())
    for part in parts:
        yield tuple(islice(there, len(part)))


@torch.inference_mode()
def frozen_features(clip: ClipTower, images: ImageSet, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """zp (N, D) of all images and of their gray versions, unaugmented, float32 on the device [C]."""
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])

    def made(start: int) -> tuple[Batch]:
        return (images.batch(range(start, min(start + 256, len(images)))),)

    for (batch,) in Ahead(made, range(0, len(images), 256), accelerator.device):
        rgb = to_float(batch.images)
        for part, seen in zip(parts, (rgb, to_gray(rgb)), strict=True):
            with accelerator.autocast():
                part.append(clip.visual_features(seen).zp.float())
    return tuple(torch.cat(part).clone() for part in parts)


def prompt_lr(experiment: Experiment, epoch: int) -> float:
    """Linear warm-up, then cosine from the rate to 1e-6 [C]."""
    warm, last, floor = experiment.stage1_warmup, experiment.stage1_epochs, 1e-6
    if epoch <= warm:
        return experiment.stage1_lr * epoch / warm
    progress = (epoch - warm) / max(1, last - warm)
    return floor + (experiment.stage1_lr - floor) * (1 + math.cos(math.pi * progress)) / 2
