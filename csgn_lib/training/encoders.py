"""The networks of a training run: towers with their starting weights, encoder and heads, and trained encoders."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from csgn_lib import vocabulary
from csgn_lib.backbones import ClipTower, Misfit, fill, load_clip, load_resnet
from csgn_lib.batches import random_stream
from csgn_lib.config import WEIGHTS, Experiment, content_digests
from csgn_lib.records import InputError, Run, locate
from csgn_lib.training.stage2 import Learner
from csgn_lib.training.steps import STREAMS, Stage2Targets
from csgn_lib.vss import Heads, VisualEncoder, uses_resnet

SHAPING = ("vss", "clip_model", "resnet_model", "image_height", "image_width", "vit_stride")  # they determine shapes


def load_towers(experiment: Experiment) -> tuple[ClipTower | None, nn.Module | None]:
    """The networks ("towers") of the experiment's ``vss`` form with their initial weights; None for one that it lacks.

    A tower that a plugin registers replaces the model of that name: a module with ``width``, ``checkpoint`` (the
    file of its weights, or None) and images (B, 3, H, W) in [0, 1] to ``ResNetFeatures`` in place of the ResNet, or a
    ``ClipTower``. It is built by ``(checkpoint, (H, W))``.

    Raises:
        InputError: an unknown model, a checkpoint that is missing or does not fit, a plugin's tower that fails.
    """
    size = (experiment.image_height, experiment.image_width)
    clip = resnet = None
    if experiment.form("vss").trait("vit"):
        clip = _plugin_tower(experiment, experiment.clip_model, experiment.clip_checkpoint)
        clip = clip or load_clip(experiment.clip_model, experiment.clip_checkpoint, size, experiment.vit_stride)
    if uses_resnet(experiment):
        resnet = _plugin_tower(experiment, experiment.resnet_model, experiment.resnet_checkpoint)
        resnet = resnet or load_resnet(experiment.resnet_model, experiment.resnet_checkpoint)
    return clip, resnet


def _plugin_tower(experiment: Experiment, model: str, checkpoint: str | None) -> Any:
    tower = experiment.added("tower").get(model)
    if tower is None:
        return None
    if timm.is_model(model):
        raise InputError(f"{tower.entry} has the name of one of timm's models; give it another name")
    return tower(checkpoint, (experiment.image_height, experiment.image_width))


def build_learner(
    experiment: Experiment,
    clip: ClipTower | None,
    resnet: nn.Module | None,
    identities: int,
    targets: Stage2Targets,
) -> Learner:
    """Encoder and heads at the start of stage 2; everything that stage 2 trains requires gradients."""
    generator = random_stream(experiment.seed, STREAMS["heads"])
    encoder = VisualEncoder(clip, resnet, experiment.form("vss"), generator).requires_grad_(True)
    head_map = partial(vocabulary.remove, basis=targets.clothing) if experiment.vocabulary_train == "head" else None
    if encoder.resnet is not None:
        encoder.resnet.to(memory_format=torch.channels_last)  # faster convolutions, most of all in bf16
    encoder.recompute = bool(experiment.gradient_checkpointing)
    if experiment.compile:
        encoder.compile_blocks()
    heads = Heads(encoder.widths, identities, generator)
    return Learner(encoder, heads, head_map, experiment.batch_parts)


def without_data(experiment: Experiment, identities: int) -> tuple[ClipTower | None, Learner]:
    """The CLIP and the learner as training builds them, on the meta device: shapes without weights."""
    blank = {"clip_checkpoint": None, "resnet_checkpoint": None, "vocabulary_train": "none"}
    blank = experiment.model_copy(update=blank)  # text subspaces have a negligible cost
    with torch.random.fork_rng(devices=[]):  # weights on meta are not initialised, but random states advance
        with torch.device("meta"):
            clip, resnet = load_towers(blank)
        if clip is not None:
            clip.requires_grad_(False)
        return clip, build_learner(blank, clip, resnet, identities, Stage2Targets()).to("meta")


def start_from(encoder: VisualEncoder, experiment: Experiment) -> None:
    """Load into an encoder the trained weights that ``init`` names. Raises InputError as ``initial_weights``."""
    fill(encoder, initial_weights(experiment))


def initial_weights(experiment: Experiment) -> dict[str, torch.Tensor]:
    """The tensors of the encoder that ``init`` names.

    Raises:
        InputError: no such folder, another tower or image size than the experiment's, a damaged file, tensors of
            another shape, NaN. The folder, the value and the cure are named.
    """
    run = Run(locate(experiment.init))
    content_digests({"init": experiment.init})  # refuses a folder without weights
    trained = Experiment.from_parameters(**run.config)
    for name in SHAPING:
        theirs, ours = getattr(trained, name), getattr(experiment, name)
        if theirs != ours:
            raise InputError(
                f"init={run.dir}: it was trained with {name}={theirs}, and this run has {name}={ours}; set "
                f"{name}={'none' if theirs is None else theirs}, or start from another run"
            )
    path = run.path(WEIGHTS)
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise InputError(f"init: {path} is damaged ({error}); copy it again, or start from another run") from error
    if bad := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise InputError(f"init: {path} holds NaN or infinity in {bad[0]}; start from another run")
    wanted = without_data(experiment, 2)[1].encoder.state_dict()
    other = [name for name in wanted.keys() | weights.keys() if _shape(wanted, name) != _shape(weights, name)]
    if other:
        raise InputError(
            f"init: {path} does not fit this run's encoder: {min(other)} is {_shape(weights, min(other))} in the file "
            f"and {_shape(wanted, min(other))} here, one of {len(other)}; start from a run of the same towers"
        )
    return weights


def _shape(tensors: dict[str, torch.Tensor], name: str) -> str:
    return str(tuple(tensors[name].shape)) if name in tensors else "absent"


def load_encoder(run: Run) -> VisualEncoder:
    """The trained encoder of a finished run, on the CPU, in eval mode.

    Raises:
        InputError: the run has no model.safetensors, or one of another shape.
    """
    experiment = Experiment.from_parameters(**run.config)
    path = run.path("model.safetensors")
    if not path.exists():
        raise InputError(f"{path} does not exist: the run is not finished; continue it with the same command")
    blank = experiment.model_copy(update={"clip_checkpoint": None, "resnet_checkpoint": None})
    encoder = VisualEncoder(*load_towers(blank), experiment.form("vss"), torch.Generator())
    try:
        fill(encoder, load_file(path))
    except Misfit as error:
        raise InputError(
            f"{path} does not fit its config.json: {error}; restore both files from the same run, or train again"
        ) from error
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); copy it again, or train again") from error
    return encoder.eval()
