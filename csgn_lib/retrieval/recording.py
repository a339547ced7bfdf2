"""Scores of a model on a benchmark, and their files on disk.

A folder of scores holds ``results.json`` (metrics with 95 % intervals over people), ``per_query.csv``,
``verification.json`` (thresholds and their error rates), ``embeddings.safetensors`` and ``benchmark.json``.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from csgn_lib.config import WEIGHTS, Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.records import InputError, Run, atomic_path, read_json, write_json
from csgn_lib.retrieval.descriptors import (
    PLAIN,
    Descriptor,
    Vocabularies,
    chosen_descriptors,
    descriptors_for,
    features_of,
)
from csgn_lib.retrieval.embedding import Embedded, embed_benchmark
from csgn_lib.retrieval.score_files import RESULTS, VERIFICATION, ScoresByDescriptor, refuse_occupied, write_scores
from csgn_lib.retrieval.verification import verify
from csgn_lib.training import load_encoder, load_towers
from csgn_lib.vss import DESCRIPTOR, VisualEncoder

CONFIG = "config.json"
EVALUATED = "evaluated.json"
SHAPING = ("vss", "clip_model", "resnet_model", "image_height", "image_width")


def score_run(run: Run, benchmark: Benchmark, device: torch.device | str | None = None) -> ScoresByDescriptor:
    """Score a trained run with every descriptor under every protocol of its benchmark; the files are in its folder.

    Text subspaces come from the frozen text encoder that the run was trained with; their ranks are chosen on
    validation people if there are any. embeddings.safetensors holds ``query`` and ``gallery`` (the plain descriptor)
    and ``query.f`` and so on (its parts), in the frames' order, with the images' paths in its header.

    Args:
        device: where images are embedded; by default the GPU if there is one.

    Returns:
        {descriptor: {protocol: Scores}}.

    Raises:
        InputError: another benchmark than the run's; ``score_model`` scores it into a folder of its own.
    """
    _refuse_another_benchmark(run, benchmark)
    experiment = Experiment.from_parameters(**run.config)
    encoder, (clip, _) = load_encoder(run).to(_device(device)), load_towers(experiment)
    test, validation = _embed(encoder, benchmark, experiment), None
    if benchmark.validation is not None:
        validation = _embed(encoder, benchmark.validation, experiment)
    chosen, words, reached = descriptors_for(encoder, clip, validation, experiment)
    chosen |= {name: Descriptor(vocabulary=name, form=form) for name, form in experiment.added("descriptor").items()}
    return _score_and_write(test, chosen, words, reached, model_digest(run), run.dir)


def score_model(
    model_dir: str | Path, benchmark: Benchmark, out: str | Path, device: torch.device | str | None = None
) -> ScoresByDescriptor:
    """Score a finished run or an export on any benchmark, into a separate folder.

    The descriptors and their ranks are those of the run's own scores; nothing is tuned on the new benchmark.
    Descriptors that need a text encoder whose weights are missing are omitted, and evaluated.json states why.

    Args:
        model_dir: a run's folder, or one that ``csgn export`` made.
        out: the folder to write; new, empty, or holding an earlier evaluation of this model on this benchmark.

    Returns:
        {descriptor: {protocol: Scores}}.

    Raises:
        InputError: no finished model; an ``out`` that is ``model_dir`` or holds something else.
    """
    run, out = Run(Path(model_dir)), Path(out)
    encoder, experiment, digest = load_encoder(run), Experiment.from_parameters(**run.config), model_digest(run)
    about = {"model": digest, "trained_on": experiment.benchmark, "benchmark": benchmark.record()["manifest"]}
    refuse_occupied(out, lambda: _is_of(out, about), run.dir)
    chosen, words, without = _reported_descriptors(run, experiment, encoder)
    test = _embed(encoder.to(_device(device)), benchmark, experiment)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / EVALUATED, about | {"left_out": without})
    write_json(out / "benchmark.json", benchmark.record())
    return _score_and_write(test, chosen, words, {}, digest, out)


def model_digest(run: Run) -> str:
    """64 hexadecimal digits of a folder's weights and of everything else that affects an embedding.

    For example, ViT-B-16 and ViT-B-16-quickgelu have tensors of the same shapes.
    """
    experiment = Experiment.from_parameters(**run.config)
    shaping = {name: getattr(experiment, name) for name in SHAPING}
    with run.path(WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(json.dumps(shaping).encode())
    return digest.hexdigest()


def _score_and_write(
    test: Embedded,
    chosen: dict[str, Descriptor],
    words: Vocabularies | None,
    reached: dict[str, float | None],
    digest: str,
    folder: Path,
) -> ScoresByDescriptor:
    benchmark = test.benchmark
    scores = {name: test.scores(features_of(d, words), benchmark.protocols) for name, d in chosen.items()}
    about = {
        name: {"descriptor": str(d), "compared": d.record(), "validation_mean_ap": reached.get(name)}
        for name, d in chosen.items()
    }
    plain = features_of(chosen[PLAIN])
    _save_embeddings(test, plain, folder / "embeddings.safetensors")
    write_verification(folder, plain(test.query), plain(test.gallery), benchmark, digest)
    write_scores(folder, scores, about)
    return scores


def write_verification(folder: Path, query: Any, gallery: Any, benchmark: Benchmark, digest: str) -> None:
    """Write verification.json: rates, thresholds and curves by protocol, and their model and benchmark.

    A benchmark with fewer than two query people has no intervals: the file then contains the reason and no protocol.
    """
    about = {"model": digest, "benchmark": benchmark.name, "manifest": benchmark.manifest()}
    try:
        results = verify(query, gallery, benchmark.query, benchmark.gallery, benchmark.protocols)
        write_json(folder / VERIFICATION, about | {"protocols": {name: v.record() for name, v in results.items()}})
    except InputError as error:
        write_json(folder / VERIFICATION, about | {"protocols": {}, "why": str(error)})


def _embed(encoder: nn.Module, benchmark: Benchmark, experiment: Experiment) -> Embedded:
    size, device = (experiment.image_height, experiment.image_width), next(encoder.parameters()).device
    return embed_benchmark(encoder, benchmark, size, device=device)


def _device(device: torch.device | str | None) -> torch.device | str:
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _reported_descriptors(
    run: Run, experiment: Experiment, encoder: VisualEncoder
) -> tuple[dict[str, Descriptor], Vocabularies | None, dict[str, str]]:
    """The descriptors by name, their text subspaces, and the reason why others are omitted."""
    plain = Descriptor(tuple(name for name in DESCRIPTOR if name in encoder.widths))
    chosen = {PLAIN: plain} | (chosen_descriptors(run) if run.path(RESULTS).exists() else {})
    worded = [name for name, descriptor in chosen.items() if descriptor.vocabulary != PLAIN and descriptor.form is None]
    if not worded:
        return chosen, None, {}
    try:
        clip, _ = load_towers(experiment)
    except InputError as error:  # an export names its CLIP checkpoint but does not contain it
        kept = {name: descriptor for name, descriptor in chosen.items() if name not in worded}
        return kept, None, dict.fromkeys(worded, str(error))
    return chosen, Vocabularies(clip, experiment.vocabulary_file), {}


def _refuse_another_benchmark(run: Run, benchmark: Benchmark) -> None:
    if not run.path("benchmark.json").exists():
        return
    before, now = read_json(run.path("benchmark.json")), benchmark.record()
    if any(before.get(name) != now[name] for name in ("benchmark", "manifest")):
        raise InputError(
            f"{run.dir} was trained on {before.get('benchmark')}, and these are other data ({benchmark.name} at "
            f"{benchmark.root}): its records would be replaced; score it into a folder of its own: "
            f"csgn evaluate {run.dir} {benchmark.name} {benchmark.root}"
        )


def _is_of(out: Path, about: dict[str, Any]) -> bool:
    held = read_json(out / EVALUATED) if (out / EVALUATED).exists() else {}
    return all(held.get(name) == about[name] for name in ("model", "benchmark"))


def _save_embeddings(test: Embedded, plain: Any, path: Path) -> None:
    tensors, header = {}, {}
    for split, embeddings in (("query", test.query), ("gallery", test.gallery)):
        tensors[split] = plain(embeddings)
        tensors |= {f"{split}.{name}": value for name, value in embeddings.parts().items()}
        header[f"{split}_paths"] = json.dumps(list(getattr(test.benchmark, split)["path"]))
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary, metadata=header)
