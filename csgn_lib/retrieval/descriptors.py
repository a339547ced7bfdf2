"""Descriptors: parts of an embedding, and f with text directions removed or kept.

The parts and the rank of a text subspace are chosen on validation people, never on test people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor

from csgn_lib import vocabulary
from csgn_lib.backbones import ClipTower
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run
from csgn_lib.registry import Form
from csgn_lib.retrieval.embedding import Embedded
from csgn_lib.retrieval.evaluation import evaluate
from csgn_lib.vocabulary_files import vocabulary_for
from csgn_lib.vss import DESCRIPTOR, Embeddings, VisualEncoder

CLOTHING_RANKS = (4, 8, 12, 16, 24, 32, 48, 64)
PERSON_RANKS = (4, 6, 8, 12, 16, 24)
PLAIN, CLOTHING_REMOVED, PERSON_ONLY = "plain", "clothing removed", "person only"


@dataclass(frozen=True)
class Descriptor:
    """A descriptor for comparison at test. parts: of z11, z12, f, c; None: those of z12, f, c that the model has.
    vocabulary: plain, "clothing removed" or "person only", applied to f with ``rank`` directions; or the name of a
    plugin's descriptor, whose ``form`` maps Embeddings to (B, width)."""

    parts: tuple[str, ...] = ()
    vocabulary: str = PLAIN
    rank: int = 0
    form: Form | None = field(default=None, repr=False, compare=False)

    def record(self) -> dict[str, Any]:
        """Its fields for results.json, which ``chosen_descriptors`` reads back."""
        return {"parts": list(self.parts), "vocabulary": self.vocabulary, "rank": self.rank}

    def __str__(self) -> str:
        if self.form is not None:
            return f"[{self.vocabulary}]"
        joint = {PLAIN: "f", CLOTHING_REMOVED: f"f without {self.rank} clothing directions"}
        joint[PERSON_ONLY] = f"{self.rank} person directions of f"
        return "[" + "; ".join(joint[self.vocabulary] if part == "f" else part for part in self.parts) + "]"


class Vocabularies:
    """Text subspaces of one CLIP's text encoder, of any rank; phrases are encoded once.

    Args:
        file: a vocabulary as ``vocabulary_files`` reads it, an experiment's ``vocabulary_file``; None: English.
    """

    def __init__(self, clip: ClipTower, file: str | None = None) -> None:
        self.phrases = vocabulary_for(clip, file)
        self.features = {
            CLOTHING_REMOVED: vocabulary.phrase_features(clip, self.phrases.clothing),
            PERSON_ONLY: vocabulary.phrase_features(clip, self.phrases.person),
        }
        self._bases: dict[str, Tensor] = {}

    def ranks(self, kind: str) -> list[int]:
        """Candidate ranks: the usual ones up to the rank that the phrases span, or for few phrases that rank."""
        usual, spanned = CLOTHING_RANKS if kind == CLOTHING_REMOVED else PERSON_RANKS, min(self.features[kind].shape)
        return [rank for rank in usual if rank < spanned] or [self.basis(kind).shape[1]]

    def basis(self, kind: str, rank: int | None = None) -> Tensor:
        """``vocabulary.subspace`` of the phrases of a kind, (P, rank); one decomposition for all ranks."""
        if kind not in self._bases:
            self._bases[kind] = vocabulary.subspace(self.features[kind], None)
        whole = self._bases[kind]
        if rank is None or 0 <= rank <= whole.shape[1]:
            return whole[:, :rank]
        return vocabulary.subspace(self.features[kind], rank)  # raises the error

    def map(self, kind: str, rank: int) -> Callable[[Tensor], Tensor]:
        """The projection of f (B, P) of a kind and rank."""
        basis = self.basis(kind, rank)
        return partial(vocabulary.remove if kind == CLOTHING_REMOVED else vocabulary.keep, basis=basis)


def features_of(descriptor: Descriptor, words: Vocabularies | None = None) -> Callable[[Embeddings], Tensor]:
    """A descriptor as a function from Embeddings to (B, D)."""
    if descriptor.form is not None:
        return descriptor.form
    f_map = None
    if descriptor.vocabulary != PLAIN:
        if words is None:
            raise InputError(f"descriptor {descriptor} needs text subspaces; pass words")
        f_map = words.map(descriptor.vocabulary, descriptor.rank)
    return lambda embeddings: embeddings.descriptor(descriptor.parts or None, f_map)


def choose(
    validation: Embedded | None, words: Vocabularies, kind: str, parts: Sequence[tuple[str, ...]], default: int
) -> tuple[Descriptor, float | None]:
    """The parts and the rank of a vocabulary descriptor with the best mAP on validation people.

    Scored under their default protocol (cloth_changing if there are clothes labels). Without validation people: the
    first parts, the ``default`` rank, and None for the mAP.
    """
    if validation is None:
        return Descriptor(tuple(parts[0]), kind, default), None
    protocol, tried = validation.benchmark.protocol(), []
    for names in parts:
        for rank in words.ranks(kind):
            descriptor = Descriptor(tuple(names), kind, rank)
            features = features_of(descriptor, words)
            frames = validation.benchmark.query, validation.benchmark.gallery
            tried.append(
                (
                    evaluate(features(validation.query), features(validation.gallery), *frames, protocol).mean_ap,
                    descriptor,
                )
            )
    best, descriptor = max(tried, key=lambda pair: pair[0])
    return descriptor, best


def descriptors_for(
    encoder: VisualEncoder, clip: ClipTower | None, validation: Embedded | None, experiment: Experiment
) -> tuple[dict[str, Descriptor], Vocabularies | None, dict[str, float | None]]:
    """`descriptors_with` of the experiment's vocabulary, and without validation people of its ranks."""
    words = None if clip is None or "f" not in encoder.widths else Vocabularies(clip, experiment.vocabulary_file)
    ranks = {CLOTHING_REMOVED: experiment.clothing_rank, PERSON_ONLY: experiment.person_rank}
    chosen, reached = descriptors_with(words, encoder, validation, ranks)
    return chosen, words, reached


def descriptors_with(
    words: Vocabularies | None, encoder: VisualEncoder, validation: Embedded | None, ranks: Mapping[str, int]
) -> tuple[dict[str, Descriptor], dict[str, float | None]]:
    """The descriptors that a model is reported with, by name, and the validation mAP that chose them.

    plain: those of [z12; f; c] that the model has [C]. clothing removed, person only: text subspaces applied to f,
    concatenated with c if there is one [O]; ``clothing removed`` also keeps z12 if that is better on validation people.

    Args:
        words: the text subspaces; None: plain alone.
        ranks: of each kind, used if there are no validation people.
    """
    own = tuple(name for name in DESCRIPTOR if name in encoder.widths)
    chosen, reached = {PLAIN: Descriptor(own)}, {}
    if words is not None:
        without_z12 = tuple(name for name in own if name != "z12")
        for kind, parts in ((CLOTHING_REMOVED, [without_z12, own]), (PERSON_ONLY, [without_z12])):
            chosen[kind], reached[kind] = choose(validation, words, kind, parts, ranks[kind])
    return chosen, reached


def chosen_descriptors(run: Run) -> dict[str, Descriptor]:
    """The descriptors with which ``score_run`` scored a run, by name, with their parts and ranks.

    Raises InputError for a run that is not scored, or was scored by a version that did not write them down.
    """
    path = run.path("results.json")
    if not path.exists():
        raise InputError(f"{path} does not exist; score the run first (12_train does, and csgn train)")
    try:
        compared = {name: scores["compared"] for name, scores in run.results.items()}
        trained = run.path("config.json").exists()  # the folder of an evaluation has no experiment
        forms = Experiment.from_parameters(**run.config).added("descriptor") if trained else {}
        return {
            name: Descriptor(tuple(c["parts"]), c["vocabulary"], c["rank"], forms.get(c["vocabulary"]))
            for name, c in compared.items()
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} does not describe the descriptors (no {error}); score the run again") from error
