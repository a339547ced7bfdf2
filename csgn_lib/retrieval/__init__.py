"""Query meets gallery: score, re-rank, expand, search.

``evaluate`` and ``evaluate_distances`` are exact and stream in blocks. Re-ranking (``rerank``), query expansion
(``expand_queries``) and flip averaging (``embed(flip=True)``) are options that are off in a headline: each gives
other features, or distances, which are then scored as any others.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from csgn_lib.retrieval.evaluation import evaluate, evaluate_all, evaluate_all_distances, evaluate_distances
from csgn_lib.retrieval.neighbours import Neighbours, approximate_index, expand_queries, search, search_index
from csgn_lib.retrieval.rankings import Rankings
from csgn_lib.retrieval.reranking import rerank, rerank_blocks
from csgn_lib.retrieval.scores import Scores

_MODELS = {  # these bring torch and the towers along: seconds that a scorer of features need not wait
    "embedding": (
        "CLOTHING_OUT", "Descriptor", "Embedded", "PERSON_ONLY", "PLAIN", "Vocabularies", "choose",
        "chosen_descriptors", "descriptors_for", "embed", "embed_benchmark", "features_of", "score_run",
    ),
    "baselines": ("chance", "colour_histogram"),
}  # fmt: skip


def __getattr__(name: str) -> Any:
    for module, names in _MODELS.items():
        if name in names:
            return getattr(import_module(f"csgn_lib.retrieval.{module}"), name)
    raise AttributeError(f"module 'csgn_lib.retrieval' has no attribute {name!r}")


__all__ = [
    *(name for names in _MODELS.values() for name in names),
    "Neighbours",
    "Rankings",
    "Scores",
    "approximate_index",
    "evaluate",
    "evaluate_all",
    "evaluate_all_distances",
    "evaluate_distances",
    "expand_queries",
    "rerank",
    "rerank_blocks",
    "search",
    "search_index",
]
