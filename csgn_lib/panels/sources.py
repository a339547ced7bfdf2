"""Models that an explorer compares: a scored run's stored embeddings, or the frozen CLIP's, with their benchmark."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from csgn_lib import synthetic
from csgn_lib.backbones import ClipTower, load_clip
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.records import InputError, Run
from csgn_lib.retrieval import (
    CLOTHING_REMOVED,
    PERSON_ONLY,
    PLAIN,
    Descriptor,
    Vocabularies,
    chosen_descriptors,
    embed_benchmark,
    load_embeddings,
)
from csgn_lib.training import load_encoder
from csgn_lib.vss import DESCRIPTOR, Embeddings, VisualEncoder

NEUTRAL = "a photo of a person"  # the text whose feature is subtracted from that of a typed text
NO_JOINT = "{} has no joint image-text embedding; choose a run with a ViT"


@dataclass(eq=False)
class Source:
    """One model over one benchmark: embeddings of (Q, D) queries and (G, D) gallery images, and how they are compared.

    Attributes:
        name: of the run's folder, or of the frozen CLIP.
        descriptors: by name, as they were reported; the vocabulary ones only where there is a joint embedding; those
            of the run's plugins.
        run: None for the frozen CLIP.
        note: a warning that does not prevent use.
        vocabulary_file: the experiment's.
        make_encoder, make_clip: called once, when an image or a text is first embedded.
    """

    name: str
    benchmark: Benchmark
    size: tuple[int, int]
    query: Embeddings
    gallery: Embeddings
    descriptors: dict[str, Descriptor]
    make_encoder: Callable[[], VisualEncoder]
    make_clip: Callable[[], ClipTower | None]
    run: Run | None = None
    note: str = ""
    vocabulary_file: str | None = None

    @cached_property
    def encoder(self) -> VisualEncoder:
        """In eval mode, on the CPU. Raises InputError if the run's weights are missing or damaged."""
        return self.make_encoder().eval()

    @cached_property
    def clip(self) -> ClipTower | None:
        """The frozen CLIP from which training started; None for a ResNet alone."""
        return self.make_clip()

    @cached_property
    def words(self) -> Vocabularies:
        """The text subspaces. Raises InputError for a model without a joint embedding."""
        if self.clip is None or self.gallery.f is None:
            raise InputError(NO_JOINT.format(self.name))
        return _vocabularies(self.clip, self.vocabulary_file)

    def largest_rank(self, kind: str) -> int:
        """The largest number of directions that a vocabulary's phrases span."""
        return min(self.words.features[kind].shape) - 1

    @torch.inference_mode()
    def text(self, words: str) -> Tensor:
        """A text's feature, of unit length: (P,). Raises InputError naming a word that is unknown to the tokenizer."""
        if self.clip is None or self.gallery.f is None:
            raise InputError(NO_JOINT.format(self.name))
        return F.normalize(_text_feature(self.clip, words), dim=-1)

    def direction(self, words: str) -> Tensor:
        """The text's feature minus that of ``NEUTRAL``, of unit length: (P,) [O].

        Text features have a large common component, which would move every query in the same direction.
        """
        moved = self.text(words) - self.text(NEUTRAL)
        if moved.norm() < 1e-4:
            raise InputError(f"{words!r} has the same feature as {NEUTRAL!r}; describe what is visible")
        return F.normalize(moved, dim=0)


def frozen_clip(experiment: Experiment, benchmark: Benchmark | None = None, name: str = "frozen CLIP") -> Source:
    """The CLIP of an experiment before training; embeds all query and gallery images of the benchmark."""
    experiment = Experiment.from_parameters(**experiment.model_dump() | {"vss": "none", "hsf": "none"})
    benchmark = benchmark or synthetic.benchmark_for(experiment)
    clip = _frozen_tower(experiment)
    encoder = VisualEncoder(clip, None, "none", torch.Generator()).eval()
    size = (experiment.image_height, experiment.image_width)
    embedded = embed_benchmark(encoder, benchmark, size)
    chosen = _defaults(embedded.gallery, experiment)
    return Source(name, benchmark, size, embedded.query, embedded.gallery, chosen, lambda: encoder, lambda: clip,
                  vocabulary_file=experiment.vocabulary_file)  # fmt: skip


def open_source(folder: str | Path, benchmark: Benchmark | None = None) -> Source:
    """A scored run: stored embeddings and its benchmark's frames; weights are loaded only when needed.

    Args:
        benchmark: another benchmark than the run's own, whose images are embedded now; None: the run's own.

    Raises:
        InputError: no such folder; a file missing, damaged or of an older version; a benchmark that is not on disk or
            is not the one that was embedded.
    """
    run = Run(Path(folder))
    if not run.dir.is_dir():
        raise InputError(f"{folder} is not a folder; give a finished run's under reports/runs")
    experiment = Experiment.from_parameters(**run.config)
    size = (experiment.image_height, experiment.image_width)
    if benchmark is None:
        benchmark = synthetic.benchmark_for(experiment)
        stored = load_embeddings(run, benchmark)
        sides = [_embeddings(stored, split, run.path("embeddings.safetensors")) for split in ("query", "gallery")]
    else:
        embedded = embed_benchmark(load_encoder(run), benchmark, size)
        sides = [embedded.query, embedded.gallery]
    chosen, note = _defaults(sides[1], experiment), ""
    try:
        chosen |= chosen_descriptors(run)
    except InputError as error:
        note = f"{error}. Until then: {', '.join(map(str, chosen.values()))}."
    return Source(
        run.dir.name, benchmark, size, *sides, chosen,
        lambda: load_encoder(run), lambda: _frozen_tower(experiment), run, note,
        experiment.vocabulary_file,
    )  # fmt: skip


def _frozen_tower(experiment: Experiment) -> ClipTower | None:
    """The frozen CLIP of an experiment, cached for all runs that started from it."""
    if experiment.vss == "resnet":
        return None
    size = (experiment.image_height, experiment.image_width)
    return _tower(experiment.clip_model, experiment.clip_checkpoint, size, experiment.vit_stride)


@lru_cache(maxsize=2)
def _tower(model: str, checkpoint: str | None, size: tuple[int, int], stride: int | None) -> ClipTower:
    return load_clip(model, checkpoint, size, stride).eval().requires_grad_(False)


@lru_cache(maxsize=64)
def _text_feature(clip: ClipTower, words: str) -> Tensor:
    return clip.text_features([words]).float()[0]


@lru_cache(maxsize=2)
def _vocabularies(clip: ClipTower, file: str | None) -> Vocabularies:
    return Vocabularies(clip, file)


def _embeddings(stored: dict[str, Tensor], split: str, path: Path) -> Embeddings:
    parts = {name: stored.get(f"{split}.{name}") for name in ("z11", "z12", "f", "c")}
    if all(value is None for value in parts.values()):
        raise InputError(f"{path} holds no parts of the {split} embeddings: an older version wrote it; score it again")
    return Embeddings(**parts)


def _defaults(embedded: Embeddings, experiment: Experiment) -> dict[str, Descriptor]:
    own = tuple(name for name in DESCRIPTOR if name in embedded.parts())
    chosen = {PLAIN: Descriptor(own)}
    if "f" in own:
        rest = tuple(name for name in own if name != "z12")
        chosen[CLOTHING_REMOVED] = Descriptor(rest, CLOTHING_REMOVED, experiment.clothing_rank)
        chosen[PERSON_ONLY] = Descriptor(rest, PERSON_ONLY, experiment.person_rank)
    return chosen
