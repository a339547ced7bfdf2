"""The two stages of training: prompts (MDG), then the visual encoder (VSS + HSF). The entry point is ``fit``.

Modules: ``stage1`` and ``stage2`` (loops), ``steps`` (shared code), ``encoders`` (networks), ``checkpoints``,
``distributed`` (several processes), ``cuda_graphs``, ``run_files`` (records of a run's folder), ``trackers``, and
``estimate`` (cost before training).

All random streams derive from (seed, epoch, step), so an interrupted and resumed run is bit-identical to an
uninterrupted one, on a CPU with the same number of threads. Another number of threads, or a GPU, rounds differently.
"""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import parse_flag_from_env

from csgn_lib.backbones import load_tokenizer
from csgn_lib.batches import open_images
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark, readiness
from csgn_lib.losses import clothes_by_person
from csgn_lib.records import InputError, Run
from csgn_lib.training import run_files, trackers
from csgn_lib.training.checkpoints import Checkpoints
from csgn_lib.training.distributed import BatchShard
from csgn_lib.training.encoders import build_learner, initial_weights, load_encoder, load_towers, start_from
from csgn_lib.training.precision import usable_precision
from csgn_lib.training.run_files import refuse_another
from csgn_lib.training.stage1 import frozen_features, learn_prompts, prepare_targets, read_descriptions
from csgn_lib.training.stage2 import Learner, Stage2Step, identity_sampler, stage2_terms, train_encoder
from csgn_lib.training.steps import Report, Stage2Targets, save_tensors
from csgn_lib.vocabulary_files import read_vocabulary
from csgn_lib.vss import embedding_widths


def fit(
    experiment: Experiment,
    benchmark: Benchmark,
    run_dir: str | Path,
    report: Report | None = None,
    cache_dir: str | Path | None = None,
) -> Run:
    """Train both stages on ``benchmark.train`` and write the model to ``run_dir``.

    Writes config.json, plugins/ and vocabulary.yaml (copies), benchmark.json (description and hashes of the data),
    towers.json (SHA-256 of each starting checkpoint, null for random weights, and of each plugin; names of the loss
    terms), metrics.jsonl (one record per epoch), log.txt, text.safetensors (the descriptions), checkpoint/ (the last
    two) and, last, model.safetensors. The same call again resumes an unfinished run. A first Ctrl-C or SIGTERM stops it
    after the current step, with its state saved.

    Several processes (``accelerate launch -m csgn_lib train ...``, ``accelerate.notebook_launcher(fit, ...)``) split
    each batch of the same size by whole identities, so that the result is that of one process, up to rounding. They
    need one file system.

    Args:
        report: called with the record of each epoch.
        cache_dir: folder of the pixel cache, from which later runs read the decoded images
            (``records.cache()``); None keeps the pixels in memory.

    Raises:
        InputError: data that cannot be trained on or scored, a folder of another experiment, plugin or training data,
            contradictory parameters, labels that the benchmark lacks, a loss or weight that is not finite (the batch is
            named, the last good checkpoint is kept), only damaged checkpoints, a full disk.
        KeyboardInterrupt: training was stopped by a signal.
    """
    run = Run(Path(run_dir))
    begun = run.path("towers.json").exists()
    check(experiment, benchmark, images=not begun and os.environ.get("RANK", "0") == "0")  # once for all processes
    refuse_another(run, experiment, benchmark)
    if run.path("model.safetensors").exists():  # written last: the run is finished
        if begun and run.path("benchmark.json").exists():
            run_files.write_data_record(run, benchmark)  # test data may have changed
        return run
    accelerator = accelerator_for(experiment.precision, experiment.tracker, run.path(trackers.FOLDER))
    BatchShard(accelerator, experiment.batch_persons)  # refuses a number of processes that does not divide the batch
    used = {"no": "fp32"}.get(accelerator.mixed_precision, accelerator.mixed_precision)
    if used != experiment.precision and accelerator.is_main_process:
        run.log(f"precision {used} in place of {experiment.precision}, which this CPU has no instructions for")
    trackers.start_tracker(experiment, run, accelerator)
    try:
        _train(experiment, benchmark, run, accelerator, report, cache_dir)
    finally:
        accelerator.end_training()
    return run


def _train(
    experiment: Experiment,
    benchmark: Benchmark,
    run: Run,
    accelerator: Accelerator,
    report: Report | None,
    cache_dir: str | Path | None,
) -> None:
    """Both stages, from the last checkpoint on."""
    first = accelerator.is_main_process  # the process that writes

    def publish(record: dict[str, Any]) -> None:
        if first:
            run_files.publish(run, record, report)
        if experiment.tracker:
            trackers.track_record(record, accelerator)

    checkpoints = Checkpoints(run.path("checkpoint"), run.log if first else lambda line: None, writes=first)
    size = (experiment.image_height, experiment.image_width)
    images = open_images(benchmark.train, benchmark.root, size, cache_dir)
    with torch.random.fork_rng(devices=[]):  # the caller's random state is restored afterwards
        torch.manual_seed(experiment.seed)  # for networks without pretrained weights
        clip, resnet = load_towers(experiment)
        if clip is not None:
            clip.to(accelerator.device).requires_grad_(False)
        weights = run_files.starting_weights(clip=clip, resnet=resnet)
        run_files.refuse_other_weights(run, weights)
        terms = run_files.loss_terms(experiment, embedding_widths(experiment.form("vss"), clip, resnet))
        if first:
            run_files.write_origin(run, experiment, benchmark, weights, terms)
        targets = prepare_targets(experiment, clip, images, run, accelerator, publish, checkpoints)
        learner = build_learner(experiment, clip, resnet, int(images.person.max()) + 1, targets)
        if experiment.init:  # after stage 1, which reads the CLIP that the ViT shares its weights with
            start_from(learner.encoder, experiment)
        # closed in any case, so that the caller's signal handlers are restored at once
        with closing(train_encoder(experiment, learner, images, targets, accelerator, checkpoints)) as epochs:
            for record in epochs:
                publish(record)
    if first:
        save_tensors(learner.encoder.state_dict(), run.path("model.safetensors"))
    accelerator.wait_for_everyone()


def check(experiment: Experiment, benchmark: Benchmark, images: bool = False) -> None:
    """Raise InputError for every problem that can be found before training.

    These are contradictory parameters, an unusable ``init`` or ``vocabulary_file``, missing labels, a tracker that is
    not installed, and the errors of ``datasets.readiness``: no query, no query with a match, fewer than two
    training people, people in train and test, missing images.

    Args:
        images: also open every image, test images too (1 to 2 ms each).
    """
    trackers.check_tracker(experiment)
    _check_parameters(experiment, benchmark)
    if experiment.vocabulary_file:
        _check_vocabulary(experiment)
    if experiment.init:
        initial_weights(experiment)
    if benchmark.train.empty:
        raise InputError(f"{benchmark.name} at {benchmark.root} has no training images")
    if Path(benchmark.root).exists():  # an embedded benchmark that is not rendered yet has no images to look at
        errors = [problem for problem in readiness(benchmark, images=images) if problem.severity == "error"]
        if errors:
            more = f" and {len(errors) - 1} more problems" if errors[1:] else ""
            raise InputError(
                f"{benchmark.name} at {benchmark.root} is not ready: {errors[0].text}{more}; `csgn check` lists all; "
                "correct the data, or exclude images (data/README.md)"
            )
    identity_sampler(experiment, benchmark.train)  # both raise errors for unsuitable labels, before stage 1
    if experiment.clothes_adversarial_weight:
        clothes_by_person(*(torch.tensor(benchmark.train[name].to_numpy()) for name in ("person", "clothes")))


def _check_parameters(experiment: Experiment, benchmark: Benchmark) -> None:
    vss, mdg = experiment.form("vss"), experiment.form("mdg")
    if not vss.trait("vit") and (experiment.hsf != "none" or experiment.vocabulary_train != "none"):
        raise InputError(f"vss={vss.name} has no joint embedding for text; set hsf=none and vocabulary_train=none")
    if experiment.hsf == "none" and experiment.vocabulary_train == "targets":
        raise InputError("vocabulary_train=targets changes the text loss, and hsf=none has none; choose one")
    if experiment.hsf == "orthogonal" and not (mdg.trait("learned") and mdg.trait("gray")):
        raise InputError(f"hsf=orthogonal needs gray descriptions, and mdg={mdg.name} makes none")
    if experiment.hsf == "orthogonal" and benchmark.train.person.nunique() <= experiment.clothing_rank:
        raise InputError(
            f"hsf=orthogonal with clothing_rank={experiment.clothing_rank} needs more training people than that, and "
            f"{benchmark.name} has {benchmark.train.person.nunique()}; set a smaller clothing_rank"
        )
    images = experiment.batch_persons * experiment.batch_images
    if images % experiment.batch_parts:
        raise InputError(f"batch_parts={experiment.batch_parts} does not divide a batch of {images} images evenly")


def _check_vocabulary(experiment: Experiment) -> None:
    read = read_vocabulary(experiment.vocabulary_file)
    if experiment.clip_model not in experiment.added("tower"):  # a plugin's tower has its own tokenizer
        read.refuse_unreadable(load_tokenizer(experiment.clip_model))
    for name, phrases in (("clothing_rank", read.words.clothing), ("person_rank", read.words.person)):
        if getattr(experiment, name) >= len(phrases):
            raise InputError(
                f"{name}={getattr(experiment, name)} needs more phrases than that, and {read.path} has {len(phrases)}; "
                f"set {name} to {len(phrases) - 1} or less, or add phrases"
            )


def accelerator_for(precision: str, tracker: str | None = None, folder: Path | None = None) -> Accelerator:
    """The available device with the experiment's precision, and a tracker that writes to ``folder``.

    "bf16" becomes "fp32" on a CPU that only emulates it (``usable_precision``). An existing Accelerator keeps its own
    precision.
    """
    AcceleratorState._reset_state()  # otherwise every run of a process would need the same precision
    device = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU")).device
    precision = usable_precision(precision, device)
    options = {"log_with": tracker, "project_dir": str(folder)} if tracker else {}
    return Accelerator(mixed_precision={"fp32": "no"}.get(precision, precision), **options)
