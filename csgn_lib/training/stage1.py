"""Stage 1 (MDG): image features of the frozen CLIP are computed once, then only prompt tokens are trained."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import fields
from itertools import islice
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from csgn_lib import hsf, mdg, vocabulary
from csgn_lib.backbones import ClipTower
from csgn_lib.batches import Batch, ImageSet, Prefetcher, random_stream, to_float, to_gray
from csgn_lib.config import DESCRIPTIONS, Experiment
from csgn_lib.progress import track
from csgn_lib.records import InputError, Run, locate, read_json
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
from csgn_lib.vocabulary_files import vocabulary_for

LEARN_AGAIN = "remove it; the same command then learns the descriptions again"
RECORDS = ("benchmark.json", "towers.json")
STAGE1 = (  # parameters that decide the descriptions, besides those of plugins
    "seed", "mdg", "mdg_modality", "mdg_cross_weight", "mdg_mutual_weight", "prompt_tokens", "similarity",
    "weight_decay", "precision", "clip_model", "vit_stride", "image_height", "image_width", "stage1_epochs",
    "stage1_batch", "stage1_lr", "stage1_warmup",
)  # fmt: skip
CHUNK = 256  # images that the frozen CLIP embeds at a time


def prepare_targets(
    experiment: Experiment,
    clip: ClipTower | None,
    images: ImageSet,
    run: Run,
    accelerator: Accelerator,
    report: Report,
    checkpoints: Checkpoints,
) -> Stage2Targets:
    """Run stage 1 if the experiment needs text, and compute the subspaces that it uses.

    Stored descriptions of the run are loaded. Raises InputError if they do not fit the data or the CLIP.
    """
    clothing = person = colour = text = None
    if experiment.vocabulary_train != "none":
        words = vocabulary_for(clip, experiment.vocabulary_file)
    if experiment.vocabulary_train in ("head", "penalty"):
        clothing = vocabulary.clothing_subspace(clip, experiment.clothing_rank, words)
    if experiment.vocabulary_train == "targets":
        person = vocabulary.person_subspace(clip, experiment.person_rank, words)
    if experiment.hsf != "none":
        text = _descriptions(experiment, clip, images, run, accelerator, report, checkpoints)
    if experiment.hsf == "orthogonal":
        colour = hsf.colour_subspace(text.rgb, text.gray, experiment.clothing_rank)
    if person is not None:
        text = mdg.TextFeatures(*(vocabulary.text_targets(part, person) for part in (text.rgb, text.gray)))
    return Stage2Targets(text, clothing, person, colour)


def _descriptions(
    experiment: Experiment,
    clip: ClipTower,
    images: ImageSet,
    run: Run,
    accelerator: Accelerator,
    report: Report,
    checkpoints: Checkpoints,
) -> mdg.TextFeatures:
    """The run's stored descriptions, or newly learned ones, which the main process stores."""
    stored = run.path(DESCRIPTIONS).exists()
    accelerator.wait_for_everyone()  # every process has checked for the file before one of them writes it
    if stored:
        text = read_descriptions(run, accelerator.device)
        _refuse_other_people(text, int(images.person.max()) + 1, clip.embed_dim, run)
        return text
    text = _descriptions_of_init(experiment, run, accelerator.device)
    text = text or learn_prompts(experiment, clip, images, accelerator, report, checkpoints)
    text = mdg.TextFeatures(**{name: broadcast(part.contiguous()) for name, part in text.parts().items()})
    if accelerator.is_main_process:
        save_tensors(text.parts(), run.path(DESCRIPTIONS))
    return text


def _descriptions_of_init(experiment: Experiment, run: Run, device: torch.device) -> mdg.TextFeatures | None:
    """The descriptions of the run that ``init`` names, if it had the same training images and the same stage 1."""
    other = Run(locate(experiment.init)) if experiment.init else None
    if other is None or not all(other.path(name).exists() for name in (DESCRIPTIONS, *RECORDS)):
        return None
    deciding = {*STAGE1, *(type(experiment).model_fields.keys() - Experiment.model_fields.keys())}

    def origin(of: Run) -> tuple[Any, ...]:
        data, towers = (read_json(of.path(name)) for name in RECORDS)
        parameters = {name: value for name, value in of.config.items() if name in deciding}
        return parameters, data.get("training"), towers.get("plugins"), towers.get("checkpoints", {}).get("clip")

    if origin(other) != origin(run):
        return None
    run.log(f"stage 1 is not repeated: {other.dir} has descriptions of the same images, learned in the same way")
    return read_descriptions(other, device)


def read_descriptions(run: Run, device: torch.device | str = "cpu") -> mdg.TextFeatures:
    """The descriptions (N, D) that a run learned in stage 1, in the order of its training identities, and their tokens.

    The tokens are None with mdg=random, and in runs of versions that did not store them.

    Raises:
        InputError: the run used no text, or stage 1 is not finished; a damaged file, or other content.
    """
    path = run.path(DESCRIPTIONS)
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
                f"{run.path(DESCRIPTIONS)} does not fit this run: its {name} is of shape {tuple(part.shape)}, and "
                f"there are {identities} identities and a CLIP of width {width}; {LEARN_AGAIN}, or name another folder"
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

    Adam, linear warm-up, cosine to 1e-6 [C]. mdg=random skips it and returns random vectors with the norm of real text
    features. With ``checkpoints`` it resumes where it stopped. Every process of a run does the same computation here,
    because it is small compared with stage 2.

    Args:
        images: the training images, persons numbered 0 .. N-1.
        report: called with one record per epoch: stage, epoch, epochs, seconds, and the mean of each loss term.
    """
    identities = int(images.person.max()) + 1
    generator = random_stream(experiment.seed, STREAMS["prompts"])
    form = experiment.form("mdg")
    tokens, modality = experiment.prompt_tokens, experiment.mdg_modality
    variant = form if form.trait("learned") else "separate"  # untrained prompts determine the norm of random text
    bank = mdg.PromptBank(clip, identities, tokens, variant, modality, generator=generator)
    bank.to(accelerator.device)
    if not form.trait("learned"):
        return form.entry.code(identities, bank.all_text_features().rgb, generator)
    rgb, gray = frozen_features(clip, images, accelerator)
    optimizer = prompts_optimizer(experiment, bank, accelerator.device)
    step = prompts_step(experiment, bank, rgb, gray, optimizer, accelerator)
    step = CudaGraphStep(step, accelerator.device, accelerator.num_processes == 1 and not experiment.loaded)
    state = TrainingState({"bank": bank, "optimizer": optimizer}, accelerator.device)
    _train_prompts(experiment, images, step, optimizer, state, accelerator, report, checkpoints or Checkpoints(None))
    return bank.all_text_features()


def _train_prompts(
    experiment: Experiment,
    images: ImageSet,
    step: Step,
    optimizer: torch.optim.Optimizer,
    state: TrainingState,
    accelerator: Accelerator,
    report: Report,
    checkpoints: Checkpoints,
) -> None:
    """The epochs of stage 1, from the last checkpoint on."""
    order_of = random_stream(experiment.seed, STREAMS["stage1"])
    first, done = sync_resume_point(accelerator, checkpoints.restore(1, state.load))
    with checkpoints.handle_signals():
        for epoch in range(1, experiment.stage1_epochs + 1):
            batches = torch.randperm(len(images), generator=order_of)  # also for skipped epochs
            if epoch < first:
                continue
            state.begin_epoch()
            set_lr(optimizer.param_groups[0], prompt_lr(experiment, epoch))
            steps = batches.split(experiment.stage1_batch)
            context = StepContext(1, epoch, images.paths, steps, checkpoints.log)
            for index, inputs in enumerate(stage1_batches(steps[done:], images.person, accelerator.device), done):
                state.terms.add(step(*inputs))
                state.keep(checkpoints, context, index)
            seconds, done = state.seconds, 0
            means = state.end_epoch(context)
            epochs = experiment.stage1_epochs
            report({"stage": 1, "epoch": epoch, "epochs": epochs, "seconds": round(seconds, 2), **means})


def prompts_optimizer(experiment: Experiment, bank: mdg.PromptBank, device: torch.device) -> torch.optim.Adam:
    """Adam on the learned tokens [C]."""
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
    """One optimizer step of stage 1 on image features (N, D), RGB and grayscale, where N counts images.

    The step takes what ``stage1_batches`` yields and returns the weighted loss terms.
    """
    form = experiment.form("mdg")

    def step(rows: Tensor, *identities: Tensor) -> dict[str, Tensor]:
        batch = mdg.BatchIdentities(*identities)
        with accelerator.autocast():
            text = bank(batch)
        text = mdg.TextFeatures(text.rgb.float(), text.gray.float())
        terms = mdg.mdg_loss(rgb[rows], gray[rows], text, batch, variant=form, similarity=experiment.similarity)
        optimizer_step(sum(terms.values()), optimizer)
        return terms

    return step


def stage1_batches(steps: Sequence[Tensor], person: Tensor, device: torch.device) -> Iterator[tuple[Tensor, ...]]:
    """For each step its row numbers (B,) and the four tensors of its BatchIdentities, on the device.

    All steps are copied together, because each copy from pageable memory synchronises the GPU.
    """
    parts = [(rows, *mdg.BatchIdentities.of(person[rows])) for rows in steps]
    values = [value for part in parts for value in part]
    copied = iter(torch.cat(values).to(device).split([len(value) for value in values]) if values else ())
    for part in parts:
        yield tuple(islice(copied, len(part)))


@torch.inference_mode()
def frozen_features(clip: ClipTower, images: ImageSet, accelerator: Accelerator) -> tuple[Tensor, Tensor]:
    """zp (n, D) of all n images and of their grayscale versions, unaugmented, float32 on the device [C].

    Reports its progress on standard error.
    """
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])

    def load(start: int) -> tuple[Batch]:
        return (images.batch(range(start, min(start + CHUNK, len(images)))),)

    batches = Prefetcher(load, range(0, len(images), CHUNK), accelerator.device)
    for (batch,) in track(batches, len(images), "stage 1: image features", lambda item: len(item[0].index)):
        rgb = to_float(batch.images)
        for part, pixels in zip(parts, (rgb, to_gray(rgb)), strict=True):
            with accelerator.autocast():
                part.append(clip.visual_features(pixels).zp.float())
    return tuple(torch.cat(part).clone() for part in parts)


def prompt_lr(experiment: Experiment, epoch: int) -> float:
    """Learning rate of stage 1 in an epoch (from 1): linear warm-up, then cosine to 1e-6 [C]."""
    warm, last, floor = experiment.stage1_warmup, experiment.stage1_epochs, 1e-6
    if epoch <= warm:
        return experiment.stage1_lr * epoch / warm
    progress = (epoch - warm) / max(1, last - warm)
    return floor + (experiment.stage1_lr - floor) * (1 + math.cos(math.pi * progress)) / 2
