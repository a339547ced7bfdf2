"""Compare queries with a gallery: score, verify, re-rank, expand, search.

``evaluate`` and ``evaluate_distances`` are exact and work in blocks of queries. Re-ranking (``rerank``), query
expansion (``expand_queries``) and flip averaging (``embed(flip=True)``) are off by default: each returns new features
or distances, which are then scored like any others.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from csgn_lib.retrieval.evaluation import evaluate, evaluate_all, evaluate_all_distances, evaluate_distances
from csgn_lib.retrieval.neighbours import Neighbours, approximate_index, expand_queries, search, search_index
from csgn_lib.retrieval.rankings import Rankings
from csgn_lib.retrieval.reranking import rerank, rerank_blocks
from csgn_lib.retrieval.scores import Scores
from csgn_lib.retrieval.thresholds import error_curves, suggested_threshold
from csgn_lib.retrieval.verification import Verification, verify

_MODELS = {  # these import torch and the networks, which takes seconds and is not needed to score features
    "embedding": ("Embedded", "embed", "embed_benchmark"),
    "descriptors": (
        "CLOTHING_REMOVED", "Descriptor", "PERSON_ONLY", "PLAIN", "Vocabularies", "choose", "chosen_descriptors",
        "descriptors_for", "features_of",
    ),
    "recording": ("model_digest", "score_model", "score_run"),
    "stored": ("load_embeddings",),
    "text_search": ("evaluate_words", "text_to_image"),
    "baselines": ("chance", "colour_histogram"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _MODELS.items():
        if name in names:
            return getattr(import_module(f"csgn_lib.retrieval.{module}"), name)
    raise AttributeError(f"module 'csgn_lib.retrieval' has no attribute {name!r}")


__all__ = [name for names in _MODELS.values() for name in names]  # and what is imported above
