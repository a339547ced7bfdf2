"""What of an embedding is compared: its parts, and f with or without the directions of a vocabulary.

Which parts, and the rank of a vocabulary subspace, are chosen on validation people, never on the people who are
reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
from csgn_lib.vss import Embeddings, VisualEncoder

CLOTHING_RANKS = (4, 8, 12, 16, 24, 32, 48, 64)
PERSON_RANKS = (4, 6, 8, 12, 16, 24)
PLAIN, CLOTHING_OUT, PERSON_ONLY = "plain", "clothing out", "person only"


@dataclass(frozen=True)
class Descriptor:
    """What is compared at test. parts: of z11, z12, f, c; none: those of z12, f, c that there are.
    vocabulary: plain, "clothing out" or "person only", applied to f with ``rank`` directions; or the name of a plugin's
    descriptor, whose ``form`` is Embeddings to (B, width)."""

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
        joint = {PLAIN: "f", CLOTHING_OUT: f"f without {self.rank} clothing directions"}
        joint[PERSON_ONLY] = f"{self.rank} person directions of f"
        return "[" + "; ".join(joint[self.vocabulary] if part == "f" else part for part in self.parts) + "]"


class Vocabularies:
    """The word subspaces of one CLIP's text encoder, at any rank, from phrases that are encoded once.

    Args:
        file: a vocabulary as ``vocabulary_files`` reads it, an experiment's ``vocabulary_file``; None: English.
    """

    def __init__(self, clip: ClipTower, file: str | None = None) -> None:
        self.phrases = vocabulary_for(clip, file)
        self.features = {
            CLOTHING_OUT: vocabulary.phrase_features(clip, self.phrases.clothing),
            PERSON_ONLY: vocabulary.phrase_features(clip, self.phrases.person),
        }
        self._bases: dict[str, Tensor] = {}

    def ranks(self, kind: str) -> list[int]:
        """Ranks worth trying: the usual ones that the phrases span, or for few phrases all that they span."""
        usual, spanned = CLOTHING_RANKS if kind == CLOTHING_OUT else PERSON_RANKS, min(self.features[kind].shape)
        return [rank for rank in usual if rank < spanned] or [self.basis(kind).shape[1]]

    def basis(self, kind: str, rank: int | None = None) -> Tensor:
        """``vocabulary.subspace`` of a kind's phrases, (P, rank); decomposed once for all ranks."""
        if kind not in self._bases:
            self._bases[kind] = vocabulary.subspace(self.features[kind], None)
        whole = self._bases[kind]
        if rank is None or 0 <= rank <= whole.shape[1]:
            return whole[:, :rank]
        return vocabulary.subspace(self.features[kind], rank)  # refuses it

    def map(self, kind: str, rank: int) -> Callable[[Tensor], Tensor]:
        """The change of f (B, P) that a kind and rank stand for."""
        basis = self.basis(kind, rank)
        return partial(vocabulary.remove if kind == CLOTHING_OUT else vocabulary.keep, basis=basis)


def features_of(descriptor: Descriptor, words: Vocabularies | None = None) -> Callable[[Embeddings], Tensor]:
    """A descriptor as a function from Embeddings to (B, D)."""
    if descriptor.form is not None:
        return descriptor.form
    f_map = None
    if descriptor.vocabulary != PLAIN:
        if words is None:
            raise InputError(f"descriptor {descriptor} needs a text encoder's vocabulary; give words")
        f_map = words.map(descriptor.vocabulary, descriptor.rank)
    return lambda embeddings: embeddings.descriptor(descriptor.parts or None, f_map)


def choose(
    validation: Embedded | None, words: Vocabularies, kind: str, parts: Sequence[tuple[str, ...]], default: int
) -> tuple[Descriptor, float | None]:
    """The parts and the rank of a vocabulary descriptor with the best mAP on validation people.

    Scored under their headline protocol, cloth_changing where there are clothes labels. Without
    validation people nothing is chosen: the first parts and the ``default`` rank, and None for the mAP.
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
    """The descriptors that a model is reported with, by name, and the validation mAP that chose them.

    plain: [z12; f; c], those that there are [C]. clothing out, person only: our step beyond the paper,
    on f, joined by c where there is one; for ``clothing out`` z12 may stay, if validation people say so. Vocabulary,
    and ranks where there are no validation people, are the experiment's.
    """
    own = tuple(name for name in ("z12", "f", "c") if name in encoder.widths)
    chosen: dict[str, Descriptor] = {PLAIN: Descriptor(own)}
    if clip is None or "f" not in own:
        return chosen, None, {}
    words, reached = Vocabularies(clip, experiment.vocabulary_file), {}
    without_z12 = tuple(name for name in own if name != "z12")
    for kind, parts, rank in (
        (CLOTHING_OUT, [without_z12, own], experiment.clothing_rank),
        (PERSON_ONLY, [without_z12], experiment.person_rank),
    ):
        chosen[kind], reached[kind] = choose(validation, words, kind, parts, rank)
    return chosen, words, reached


def chosen_descriptors(run: Run) -> dict[str, Descriptor]:
    """The descriptors that ``score_run`` reported a run with, by name, with the parts and ranks that it chose.

    Raises InputError for a run that is not scored, or was scored by a version that did not write them down.
    """
    path = run.path("results.json")
    if not path.exists():
        raise InputError(f"{path} does not exist; score the run first (12_train does, and csgn train)")
    try:
        compared = {name: found["compared"] for name, found in run.results.items()}
        trained = run.path("config.json").exists()  # the folder of an evaluation holds no experiment
        forms = Experiment.from_parameters(**run.config).added("descriptor") if trained else {}
        return {
            name: Descriptor(tuple(c["parts"]), c["vocabulary"], c["rank"], forms.get(c["vocabulary"]))
            for name, c in compared.items()
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} does not say what was compared (no {error}); score the run again") from error
