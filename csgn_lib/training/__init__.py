"""The two stages: descriptions are learned, then the visual encoder that they guide.

All chance is a function of (seed, epoch, step), so that a run that was interrupted goes on, from the
step of its last checkpoint, as if it had not been: on a CPU, with the same number of threads, to the bit.
Another number of threads, or a GPU, adds in another order and so rounds otherwise.
"""

from __future__ import annotations

import json
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from safetensors import SafetensorError
from safetensors.torch import load_file

from csgn_lib import vocabulary
from csgn_lib.backbones import ClipTower, Misfit, ResNetTower, fill, load_clip, load_resnet, sha256
from csgn_lib.batches import open_images, random_stream
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.losses import clothes_by_person
from csgn_lib.records import BACK, InputError, Run, read_json, write_json, write_text
from csgn_lib.training.checkpoints import Checkpoints
from csgn_lib.training.distributed import BatchShard
from csgn_lib.training.stage1 import frozen_features, learn_prompts, prepare_targets, read_descriptions
from csgn_lib.training.stage2 import Learner, identity_sampler, stage2_terms, train_encoder
from csgn_lib.training.steps import STREAMS, Report, Stage2Targets, save_tensors
from csgn_lib.vss import WITH_RESNET, Heads, VisualEncoder

__all__ = [
    "Stage2Targets", "Learner", "build_learner", "check", "learn_prompts", "fit", "frozen_features", "load_encoder",
    "load_towers", "read_descriptions", "refuse_another", "stage2_terms",
]  # fmt: skip


def fit(
    experiment: Experiment,
    benchmark: Benchmark,
    run_dir: str | Path,
    report: Report | None = None,
    cache_dir: str | Path | None = None,
) -> Run:
    """Train both stages on ``benchmark.train`` and leave the model in ``run_dir``.

    Writes config.json, benchmark.json (what the data were, with a hash), towers.json (the SHA-256 of each
    checkpoint that it starts from, null for random weights), metrics.jsonl (one record an epoch), log.txt,
    text.safetensors (the descriptions), checkpoint/ (the last two states) and at last model.safetensors. The same
    call again continues an unfinished run. A first Ctrl-C or SIGTERM stops it after the step under way, with its
    state saved.

    Several processes (``accelerate launch -m csgn_lib train ...``, ``accelerate.notebook_launcher(fit, ...)``) share
    each batch of the same size, whole identities each, so that the result is that of one, up to rounding. They
    read and write one file system.

    Args:
        report: called with each record as it is made, for progress.
        cache_dir: folder of the pixel cache, which later runs on the same images read instead of decoding them
            (``records.cache()``); None keeps the pixels in memory.

    Raises:
        InputError: a folder that holds another experiment or was begun on other data, parameters that contradict
            each other, a benchmark that lacks labels which the experiment needs, a loss or weight that is not
            finite (its batch is named, the last good state is kept), no whole checkpoint, no room on the disk.
        KeyboardInterrupt: it was asked to stop.
    """
    check(experiment, benchmark)
    run = Run(Path(run_dir))
    refuse_another(run, experiment, benchmark)
    if run.path("model.safetensors").exists():  # written last: nothing is left to do
        return run
    accelerator = accelerator_for(experiment.precision)
    BatchShard(accelerator, experiment.batch_persons)  # refuses a number of processes that does not divide the batch
    first = accelerator.is_main_process  # the one of the processes that writes

    def publish(record: dict[str, Any]) -> None:
        if first:
            _publish(run, record, report)

    say = run.log if first else lambda line: None
    checkpoints = Checkpoints(run.path("checkpoint"), say, writes=first)
    size = (experiment.image_height, experiment.image_width)
    images = open_images(benchmark.train, benchmark.root, size, cache_dir)
    with torch.random.fork_rng(devices=[]):  # the caller's own stream of chance is left as it was
        torch.manual_seed(experiment.seed)  # decides the weights of a tower that starts from scratch
        clip, resnet = load_towers(experiment)
        if clip is not None:
            clip.to(accelerator.device).requires_grad_(False)
        weights = _checkpoints(clip, resnet)
        _refuse_other_weights(run, weights)
        if first:
            write_json(run.path("config.json"), experiment.model_dump(mode="json"))  # nothing is left to refuse
            write_json(run.path("benchmark.json"), benchmark.record())
            write_json(run.path("towers.json"), {"checkpoints": weights})
        targets = prepare_targets(experiment, clip, images, run, accelerator, publish, checkpoints)
        learner = build_learner(experiment, clip, resnet, int(images.person.max()) + 1, targets)
        # closed whatever happens: signals are the caller's again at once, not when the garbage is collected
        with closing(train_encoder(experiment, learner, images, targets, accelerator, checkpoints)) as epochs:
            for record in epochs:
                publish(record)
    if first:
        save_tensors(learner.encoder.state_dict(), run.path("model.safetensors"))
    accelerator.wait_for_everyone()
    return run


def check(experiment: Experiment, benchmark: Benchmark) -> None:
    """Raise InputError for parameters that contradict each other, or labels that the experiment needs and lacks."""
    if experiment.vss == "resnet" and (experiment.hsf != "none" or experiment.vocabulary_train != "none"):
        raise InputError("vss=resnet has no embedding that meets text; set hsf=none and vocabulary_train=none")
    if experiment.hsf == "none" and experiment.vocabulary_train == "targets":
        raise InputError("vocabulary_train=targets changes the text loss, and hsf=none has none; choose one")
    if experiment.hsf == "orthogonal" and experiment.mdg in ("random", "second_rgb"):
        raise InputError(f"hsf=orthogonal needs gray descriptions, and mdg={experiment.mdg} makes none")
    if experiment.hsf == "orthogonal" and benchmark.train.person.nunique() <= experiment.clothing_rank:
        raise InputError(
            f"hsf=orthogonal with clothing_rank={experiment.clothing_rank} needs more training people than that, and "
            f"{benchmark.name} has {benchmark.train.person.nunique()}; set a smaller clothing_rank"
        )
    images = experiment.batch_persons * experiment.batch_images
    if images % experiment.batch_parts:
        raise InputError(f"batch_parts={experiment.batch_parts} does not divide a batch of {images} images evenly")
    if benchmark.train.empty:
        raise InputError(f"{benchmark.name} at {benchmark.root} has no training images")
    identity_sampler(experiment, benchmark.train)  # both refuse labels that do not fit, before stage 1 costs time
    if experiment.clothes_adversarial_weight:
        clothes_by_person(*(torch.tensor(benchmark.train[name].to_numpy()) for name in ("person", "clothes")))


def _begun(run: Run) -> bool:
    return any(
        run.path(name).exists() for name in ("metrics.jsonl", "text.safetensors", "checkpoint", "model.safetensors")
    )


def refuse_another(run: Run, experiment: Experiment, benchmark: Benchmark) -> None:
    """Raise InputError if the folder holds a run with another parameter, or one that was begun on other data.

    Descriptions and classifiers are kept by identity number, which other data may give to other people.
    """
    if not _begun(run):
        return
    if not run.path("config.json").exists():  # it was written before anything else
        raise InputError(f"{run.dir} has no config.json, which alone says what its states were trained with; {BACK}")
    values = experiment.model_dump(mode="json")
    changed = [name for name, value in run.config.items() if name in values and values[name] != value]
    if changed:
        raise InputError(f"{run.dir} holds a run with another {changed[0]}; name another folder, or remove it")
    if not run.path("benchmark.json").exists():
        return
    before, now = read_json(run.path("benchmark.json"), BACK), benchmark.record()
    for name in ("benchmark", "images", "manifest"):
        if before.get(name) != now[name]:
            raise InputError(
                f"{run.dir} was begun on other data: its {name} was {before.get(name)}, and is {now[name]}; "
                "name another folder, or bring the data back"
            )


def _checkpoints(clip: ClipTower | None, resnet: ResNetTower | None) -> dict[str, str | None]:
    towers = {"clip": clip, "resnet": resnet}
    return {name: sha256(tower.checkpoint) for name, tower in towers.items() if tower is not None}


def _refuse_other_weights(run: Run, weights: dict[str, str | None]) -> None:
    if not _begun(run) or not run.path("towers.json").exists():
        return
    before = read_json(run.path("towers.json"), BACK).get("checkpoints")
    for name, digest in weights.items():
        if before.get(name) != digest:
            raise InputError(
                f"{run.dir} was begun from another {name}_checkpoint: its SHA-256 was {before.get(name)}, and is "
                f"{digest}; name another folder, or bring the file back"
            )


def accelerator_for(precision: str) -> Accelerator:
    """The device that is there, in an experiment's precision; one made before keeps working in its own."""
    AcceleratorState._reset_state()  # else every run of a process would need the precision of the first
    return Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision))


def _publish(run: Run, record: dict[str, Any], report: Report | None) -> None:
    """Append to metrics.jsonl and log.txt; an epoch that is done again replaces its record."""
    place = (record["stage"], record["epoch"])
    known = run.metrics()
    if any((old["stage"], old["epoch"]) >= place for old in known):
        kept = [old for old in known if (old["stage"], old["epoch"]) < place]
        write_text(run.path("metrics.jsonl"), "".join(json.dumps(old) + "\n" for old in kept))
    run.append_metrics(record)
    run.log(" ".join(f"{name} {value:.5g}" for name, value in record.items()))
    if report is not None:
        report(record)


def load_towers(experiment: Experiment) -> tuple[ClipTower | None, ResNetTower | None]:
    """The towers that the experiment's ``vss`` uses, with their starting weights; None for the other."""
    size = (experiment.image_height, experiment.image_width)
    clip = resnet = None
    if experiment.vss != "resnet":
        clip = load_clip(experiment.clip_model, experiment.clip_checkpoint, size, experiment.vit_stride)
    if experiment.vss in WITH_RESNET:
        resnet = load_resnet(experiment.resnet_model, experiment.resnet_checkpoint)
    return clip, resnet


def build_learner(
    experiment: Experiment,
    clip: ClipTower | None,
    resnet: ResNetTower | None,
    identities: int,
    targets: Stage2Targets,
) -> Learner:
    """Encoder and heads at the start of stage 2, everything trainable that stage 2 trains."""
    generator = random_stream(experiment.seed, STREAMS["heads"])
    encoder = VisualEncoder(clip, resnet, experiment.vss, generator).requires_grad_(True)
    head_map = partial(vocabulary.remove, basis=targets.clothing) if experiment.vocabulary_train == "head" else None
    if encoder.resnet is not None:
        encoder.resnet.to(memory_format=torch.channels_last)  # convolutions are faster so, most of all in bf16
    encoder.recompute = bool(experiment.gradient_checkpointing)
    if experiment.compile:
        encoder.compile_blocks()
    heads = Heads(encoder.widths, identities, generator)
    return Learner(encoder, heads, head_map, experiment.batch_parts)


def load_encoder(run: Run) -> VisualEncoder:
    """The trained encoder of a finished run, on the CPU, ready to embed.

    Raises:
        InputError: the run has no model.safetensors, or one of another shape.
    """
    experiment = Experiment.from_parameters(**run.config)
    path = run.path("model.safetensors")
    if not path.exists():
        raise InputError(f"{path} does not exist: the run is not finished; continue it with the same command")
    blank = experiment.model_copy(update={"clip_checkpoint": None, "resnet_checkpoint": None})
    clip, resnet = load_towers(blank)
    encoder = VisualEncoder(clip, resnet, experiment.vss, torch.Generator())
    try:
        fill(encoder, load_file(path))
    except Misfit as error:
        raise InputError(
            f"{path} does not fit its config.json: {error}; bring both back from one run, or train again"
        ) from error
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); copy it again, or train again") from error
    return encoder.eval()
