"""Models side by side on the same people, and every feature of theirs that a probe may compare."""

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
    CLOTHING_OUT,
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

CLOTHING_PART, JOINT = "clothing part of f", "f"
FROZEN = "frozen CLIP"


@dataclass(frozen=True)
class Row:
    """A row of a comparison: its name, its experiment, and the trained run, or None for the frozen CLIP."""

    name: str
    experiment: Experiment
    run: Run | None


@dataclass(frozen=True)
class Compared:
    """A row's test and validation people, embedded, with the descriptors that it is reported with."""

    row: Row
    test: Embedded
    validation: Embedded | None
    descriptors: dict[str, Descriptor]
    words: Vocabularies

    @property
    def clothing_rank(self) -> int:
        """Directions of the clothing subspace: as many as the reported descriptor takes out."""
        return self.descriptors[CLOTHING_OUT].rank

    def reported(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """The clothing part of f, and the reported descriptors (plain, clothing out, person only): (B, D) each."""
        own = {name: features_of(descriptor, self.words)(embeddings) for name, descriptor in self.descriptors.items()}
        return {CLOTHING_PART: self._clothing(embeddings)} | own

    def parts(self, embeddings: Embeddings) -> dict[str, Tensor]:
        """The clothing part of f, f, f with words out or kept, other branches, the plain descriptor: (B, D) each."""
        found = {CLOTHING_PART: self._clothing(embeddings), JOINT: embeddings.f}
        for kind in (CLOTHING_OUT, PERSON_ONLY):
            found[f"f, {kind}"] = self.words.map(kind, self.descriptors[kind].rank)(embeddings.f)
        found |= {name: value for name, value in embeddings.parts().items() if name in ("z12", "c")}
        return found | {f"descriptor {self.descriptors[PLAIN]}": features_of(self.descriptors[PLAIN])(embeddings)}

    def _clothing(self, embeddings: Embeddings) -> Tensor:
        return vocabulary.keep(embeddings.f, self.words.basis(CLOTHING_OUT, self.clothing_rank))


def rows_of(runs: Mapping[str, str | Path], preset: str = "demo", world: int = 0) -> list[Row]:
    """The rows of a comparison, read and checked before any work.

    Args:
        runs: row's name -> folder of a finished run; none: the frozen CLIP of ``preset`` in the embedded ``world``.

    Raises:
        InputError: a folder without a finished run; a run without a joint embedding; runs on different benchmarks.
    """
    if not runs:
        return [Row(FROZEN, Experiment.from_parameters(preset=preset, world=world, vss="none"), None)]
    rows = []
    for name, folder in runs.items():
        run = Run(Path(folder))
        for file in ("config.json", "model.safetensors"):
            if not run.path(file).exists():
                raise InputError(
                    f"{name}: {run.path(file)} does not exist; give the folder of a finished run of 12_train"
                )
        experiment = Experiment.from_parameters(**run.config)
        if experiment.vss == "resnet":
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


def embed_row(row: Row, benchmark: Benchmark) -> Compared:
    """Embed a benchmark's test and validation people with a row's model.

    A scored run is read with the parts and ranks that it was reported with; any other model with those that
    validation people choose, as ``descriptors_for`` does.
    """
    clip, _ = load_towers(row.experiment)
    encoder = load_encoder(row.run) if row.run else VisualEncoder(clip, None, "none", torch.Generator())
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, size = encoder.to(device), (row.experiment.image_height, row.experiment.image_width)
    test = embed_benchmark(encoder, benchmark, size, device=device)
    other = benchmark.validation
    validation = None if other is None else embed_benchmark(encoder, other, size, device=device)
    own = _own_descriptors(row.run)
    if own:
        return Compared(row, test, validation, own, Vocabularies(clip))
    ranks = row.experiment.clothing_rank, row.experiment.person_rank
    chosen, words, _ = descriptors_for(encoder, clip, validation, ranks)
    return Compared(row, test, validation, chosen, words)


def _own_descriptors(run: Run | None) -> dict[str, Descriptor]:
    """Those that a run was scored with; none for no run, or one that is not scored (or by an older version)."""
    try:
        return chosen_descriptors(run) if run else {}
    except InputError:
        return {}
