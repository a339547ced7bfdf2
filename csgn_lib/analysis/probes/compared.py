"""Models to compare on the same benchmark, and their features that probes can read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from csgn_lib import vocabulary
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.records import InputError, Run
from csgn_lib.retrieval import (
    CLOTHING_REMOVED,
    PERSON_ONLY,
    PLAIN,
    Descriptor,
    Embedded,
    Vocabularies,
    chosen_descriptors,
    descriptors_for,
    embed_benchmark,
    features_of,
)
from csgn_lib.training import load_encoder, load_towers
from csgn_lib.vss import Embeddings, VisualEncoder

JOINT, CLOTHING_PART, WHOLE = "joint embedding", "clothing part of the joint embedding", "whole descriptor"
FROZEN = "frozen CLIP"
_BRANCHES = {"z12": "ViT output z12", "c": "ResNet output c"}


@dataclass(frozen=True)
class Row:
    """A row of a comparison: its name, its experiment, and the trained run, or None for the frozen CLIP."""

    name: str
    experiment: Experiment
    run: Run | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the model's images in pixels."""
        return self.experiment.image_height, self.experiment.image_width

    def encoder(self) -> VisualEncoder:
        """The run's trained encoder, or the frozen CLIP's, in evaluation mode."""
        if self.run:
            return load_encoder(self.run).eval()
        return VisualEncoder(load_towers(self.experiment)[0], None, "none", torch.Generator()).eval()


@dataclass(frozen=True)
class Compared:
    """The embeddings of a row's test and validation people, and the descriptors that the row is reported with."""

    row: Row
    test: Embedded
    validation: Embedded | None
    descriptors: dict[str, Descriptor]
    words: Vocabularies

    @property
    def clothing_rank(self) -> int:
        """Dimension of the clothing subspace: the rank that the reported descriptor removes."""
        return self.descriptors[CLOTHING_REMOVED].rank

    def reported(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """The clothing part of f, and the reported descriptors (plain, clothing removed, person only): (B, D) each."""
        own = {name: features_of(descriptor, self.words)(embeddings) for name, descriptor in self.descriptors.items()}
        return {CLOTHING_PART: self._clothing(embeddings)} | own

    def parts(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """The clothing part of f, f, f with words removed or kept, the other branches, the descriptor: (B, D) each."""
        features = {CLOTHING_PART: self._clothing(embeddings), JOINT: embeddings.f}
        for kind in (CLOTHING_REMOVED, PERSON_ONLY):
            features[f"{JOINT}, {kind}"] = self.words.map(kind, self.descriptors[kind].rank)(embeddings.f)
        features |= {_BRANCHES[name]: value for name, value in embeddings.parts().items() if name in _BRANCHES}
        return features | {WHOLE: features_of(self.descriptors[PLAIN])(embeddings)}

    def _clothing(self, embeddings: Embeddings) -> Tensor:
        return vocabulary.keep(embeddings.f, self.words.basis(CLOTHING_REMOVED, self.clothing_rank))


def rows_of(
    runs: Mapping[str, Run | str | Path],
    preset: str = "demo",
    world: int = 0,
    benchmark: str = "",
    root: str = "",
    joint: bool = True,
    vocabulary_file: str = "",
) -> list[Row]:
    """The rows of a comparison, read and checked before any work.

    Args:
        runs: row's name -> a finished run, or its folder; none: the frozen CLIP of ``preset``.
        benchmark, root, world: what the models are compared on; both names empty: the runs' own data, or without runs
            the preset's, which is the embedded benchmark of ``world`` for demo.
        joint: every row needs a joint embedding f.
        vocabulary_file: of the frozen CLIP's phrases; empty: English. A run brings its own.

    Raises:
        InputError: a folder without a finished run; a run without a joint embedding; runs on different benchmarks.
    """
    if not runs:
        data = {name: value for name, value in (("benchmark", benchmark), ("root", root)) if value}
        given = {"preset": preset, "world": world, "vss": "none", "vocabulary_file": vocabulary_file or None}
        return [Row(FROZEN, Experiment.from_parameters(**given | data), None)]
    rows = []
    for name, given in runs.items():
        run = given if isinstance(given, Run) else Run(Path(given))
        for file in ("config.json", "model.safetensors"):
            if not run.path(file).exists():
                raise InputError(f"{name}: {run.path(file)} does not exist; give a finished run of 12_train")
        experiment = on_benchmark(Experiment.from_parameters(**run.config), benchmark, root, world)
        if joint and experiment.vss == "resnet":
            raise InputError(f"{name}: {run.dir} has no joint embedding f (vss=resnet); give a run that has a ViT")
        rows.append(Row(str(name), experiment, run))
    first = rows[0]
    for row in rows[1:]:
        for what in ("benchmark", "root", "world", "validation_people"):
            ours, theirs = getattr(first.experiment, what), getattr(row.experiment, what)
            if ours != theirs:
                raise InputError(
                    f"{row.name} has {what}={theirs}, {first.name} {what}={ours}; compare runs on the same people"
                )
    return rows


def on_benchmark(experiment: Experiment, benchmark: str = "", root: str = "", world: int = 0) -> Experiment:
    """The experiment of a model that is looked at on other data than its own; unchanged for two empty names."""
    if not benchmark and not root:
        return experiment
    data = {"benchmark": benchmark or experiment.benchmark, "root": root or None, "world": world}
    return Experiment.from_parameters(**experiment.model_dump() | data | {"validation_people": 0})


def embed_row(row: Row, benchmark: Benchmark) -> Compared:
    """Embed a benchmark's test and validation people with a row's model.

    The descriptors are those that a scored run was reported with, and otherwise those that ``descriptors_for``
    chooses on validation people.
    """
    clip, _ = load_towers(row.experiment)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, size = row.encoder().to(device), row.size
    test = embed_benchmark(encoder, benchmark, size, device=device)
    other = benchmark.validation
    validation = None if other is None else embed_benchmark(encoder, other, size, device=device)
    own = _own_descriptors(row.run)
    if own:
        return Compared(row, test, validation, own, Vocabularies(clip, row.experiment.vocabulary_file))
    chosen, words, _ = descriptors_for(encoder, clip, validation, row.experiment)
    return Compared(row, test, validation, chosen, words)


def _own_descriptors(run: Run | None) -> dict[str, Descriptor]:
    """The descriptors that a run was scored with; empty without a run, or for one that is not scored."""
    try:
        return chosen_descriptors(run) if run else {}
    except InputError:
        return {}
