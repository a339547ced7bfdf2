"""A model over a frame of images: embeddings, and the descriptors that are compared.

Which part of an embedding is compared is a choice, and so is the rank of a vocabulary subspace. Both
are made on validation people, never on the people who are reported.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from csgn_lib import vocabulary
from csgn_lib.backbones import ClipTower
from csgn_lib.batches import iterate
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.records import InputError, Run, atomic_path, write_json
from csgn_lib.retrieval.evaluation import evaluate, evaluate_all
from csgn_lib.retrieval.scores import Scores
from csgn_lib.training import load_encoder, load_towers
from csgn_lib.vss import Embeddings, VisualEncoder, concatenate

CLOTHING_RANKS = (4, 8, 12, 16, 24, 32, 48, 64)
PERSON_RANKS = (4, 6, 8, 12, 16, 24)
PLAIN, CLOTHING_OUT, PERSON_ONLY = "plain", "clothing out", "person only"


@dataclass(frozen=True)
class Descriptor:
    """What is compared at test. parts: of z11, z12, f, c; none: those of z12, f, c that there are.
    vocabulary: plain, "clothing out" or "person only", applied to f with ``rank`` directions."""

    parts: tuple[str, ...] = ()
    vocabulary: str = PLAIN
    rank: int = 0

    def __str__(self) -> str:
        joint = {PLAIN: "f", CLOTHING_OUT: f"f without {self.rank} clothing directions"}
        joint[PERSON_ONLY] = f"{self.rank} person directions of f"
        return "[" + "; ".join(joint[self.vocabulary] if part == "f" else part for part in self.parts) + "]"


@dataclass(frozen=True)
class Embedded:
    """A benchmark's queries and gallery, embedded, with the frames they come from."""

    benchmark: Benchmark
    query: Embeddings
    gallery: Embeddings

    def scores(self, features: Callable[[Embeddings], Tensor], protocols: Sequence[str]) -> dict[str, Scores]:
        """Score what ``features`` makes of the embeddings, (B, D), under each protocol."""
        frames = self.benchmark.query, self.benchmark.gallery
        return evaluate_all(features(self.query), features(self.gallery), *frames, list(protocols))


@torch.inference_mode()
def embed(
    encoder: Callable[[Tensor], Embeddings],
    frame: pd.DataFrame,
    root: str | Path,
    size: tuple[int, int],
    *,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
    flip: bool = False,
    cache_dir: str | Path | None = None,
) -> Embeddings:
    """Embed every image of a frame, in its order; Embeddings of (N, D) tensors on the CPU.

    Args:
        encoder: images (B, 3, H, W) uint8 to Embeddings, such as a VisualEncoder in eval mode.
        size: (H, W) that the encoder was built for.
        flip: average each embedding with that of the mirrored image; off in a headline.

    Raises:
        InputError: an unreadable image, an empty frame.
    """
    made = []
    for batch in iterate(frame, root, size, batch_size, cache_dir):
        images = batch.images.to(device)
        parts = encoder(images).parts()
        if flip:
            mirrored = encoder(images.flip(-1)).parts()
            parts = {name: (value + mirrored[name]) / 2 for name, value in parts.items()}
        made.append(
            Embeddings(**{name: None for name in ("z11", "z12", "f", "c")} | {n: v.cpu() for n, v in parts.items()})
        )
    return concatenate(made)


def embed_benchmark(encoder: nn.Module, benchmark: Benchmark, size: tuple[int, int], **options: Any) -> Embedded:
    """Embed a benchmark's queries and gallery with an encoder, set to eval mode. Options as for ``embed``."""
    encoder.eval()
    query, gallery = (embed(encoder, f, benchmark.root, size, **options) for f in (benchmark.query, benchmark.gallery))
    return Embedded(benchmark, query, gallery)


class Vocabularies:
    """The word subspaces of one CLIP's text encoder, at any rank, from phrases that are encoded once."""

    def __init__(self, clip: ClipTower) -> None:
        words = vocabulary.ENGLISH.understood_by(clip)
        self.features = {
            CLOTHING_OUT: vocabulary.phrase_features(clip, words.clothing),
            PERSON_ONLY: vocabulary.phrase_features(clip, words.person),
        }
        self._bases: dict[str, Tensor] = {}

    def ranks(self, kind: str) -> list[int]:
        """Ranks worth trying: the usual ones that the phrases span."""
        usual = CLOTHING_RANKS if kind == CLOTHING_OUT else PERSON_RANKS
        return [rank for rank in usual if rank < min(self.features[kind].shape)]

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
    encoder: VisualEncoder, clip: ClipTower | None, validation: Embedded | None, default_ranks: tuple[int, int]
) -> tuple[dict[str, Descriptor], Vocabularies | None, dict[str, float | None]]:
    """The descriptors that a model is reported with, by name, and the validation mAP that chose them.

    plain: [z12; f; c], those that there are [C]. clothing out, person only: our step beyond the paper,
    on f, joined by c where there is one; for ``clothing out`` z12 may stay, if validation people say so.
    """
    own = tuple(name for name in ("z12", "f", "c") if name in encoder.widths)
    chosen: dict[str, Descriptor] = {PLAIN: Descriptor(own)}
    if clip is None or "f" not in own:
        return chosen, None, {}
    words, reached = Vocabularies(clip), {}
    without_z12 = tuple(name for name in own if name != "z12")
    for kind, parts, rank in (
        (CLOTHING_OUT, [without_z12, own], default_ranks[0]),
        (PERSON_ONLY, [without_z12], default_ranks[1]),
    ):
        chosen[kind], reached[kind] = choose(validation, words, kind, parts, rank)
    return chosen, words, reached


def score_run(run: Run, benchmark: Benchmark, device: torch.device | str | None = None) -> dict[str, dict[str, Scores]]:
    """Score a trained run with every descriptor under every protocol of its benchmark, and record it.

    Writes embeddings.safetensors (``query``, ``gallery``: the plain descriptor; ``query.f`` and so on: the
    parts), per_query.csv (every descriptor and protocol) and results.json. The vocabulary is read with the frozen
    text encoder that the run was trained with.

    Args:
        device: where images are embedded; by default the GPU if there is one.

    Returns:
        {descriptor: {protocol: Scores}}.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    experiment = Experiment.from_parameters(**run.config)
    encoder, (clip, _) = load_encoder(run).to(device), load_towers(experiment)
    size = (experiment.image_height, experiment.image_width)
    test = embed_benchmark(encoder, benchmark, size, device=device)
    validation = None
    if benchmark.validation is not None:
        validation = embed_benchmark(encoder, benchmark.validation, size, device=device)
    default_ranks = experiment.clothing_rank, experiment.person_rank
    chosen, words, reached = descriptors_for(encoder, clip, validation, default_ranks)
    scores = {name: test.scores(features_of(d, words), benchmark.protocols) for name, d in chosen.items()}
    _save_embeddings(test, chosen[PLAIN], run.path("embeddings.safetensors"))
    rows = [
        s.per_query.assign(protocol=protocol, descriptor=name)
        for name, by_protocol in scores.items()
        for protocol, s in by_protocol.items()
    ]
    with atomic_path(run.path("per_query.csv")) as temporary:
        pd.concat(rows).to_csv(temporary, index=False)
    results = {
        name: {
            "descriptor": str(chosen[name]),
            "compared": asdict(chosen[name]),
            "validation_mean_ap": reached.get(name),
            "protocols": {protocol: record(s) for protocol, s in by_protocol.items()},
        }
        for name, by_protocol in scores.items()
    }
    write_json(run.path("results.json"), results)
    return scores


def chosen_descriptors(run: Run) -> dict[str, Descriptor]:
    """The descriptors that ``score_run`` reported a run with, by name, with the parts and ranks that it chose.

    Raises InputError for a run that is not scored, or was scored by a version that did not write them down.
    """
    path = run.path("results.json")
    if not path.exists():
        raise InputError(f"{path} does not exist; score the run first (12_train does, and csgn train)")
    try:
        compared = {name: found["compared"] for name, found in run.results.items()}
        return {name: Descriptor(tuple(c["parts"]), c["vocabulary"], c["rank"]) for name, c in compared.items()}
    except (KeyError, TypeError) as error:
        raise InputError(f"{path} does not say what was compared (no {error}); score the run again") from error


def record(scores: Scores) -> dict[str, Any]:
    """Plain numbers for results.json: the metrics, the counts, and 95 % intervals over people.

    An interval is [None, None] where a single person is counted: nothing is known of others.
    """
    several = scores.per_query.loc[scores.per_query["valid"], "person"].nunique() > 1
    intervals = {
        f"{metric}_interval": list(scores.interval(metric)) if several else [None, None]
        for metric in ("rank1", "mean_ap", "minp")
    }
    return scores.summary() | intervals


def _save_embeddings(test: Embedded, plain: Descriptor, path: Path) -> None:
    tensors = {"query": features_of(plain)(test.query), "gallery": features_of(plain)(test.gallery)}
    for split, embeddings in (("query", test.query), ("gallery", test.gallery)):
        tensors |= {f"{split}.{name}": value for name, value in embeddings.parts().items()}
    with atomic_path(path) as temporary:
        save_file({name: value.contiguous() for name, value in tensors.items()}, temporary)
