"""CSGN Workbench: clothes-changing person re-identification with CLIP.

Import the package you need (``from csgn_lib import retrieval``); ``import csgn_lib`` alone loads nothing else.
"""

__version__ = "0.1.0"

# Packages that decide a run's result, in import order: their code and weights are part of every run's key
# (runs.machine.core_digest). The other packages, the workbench, may change without making finished runs stale.
CORE = (
    "records", "statistics", "config", "images", "backbones", "vocabulary", "mdg", "hsf", "losses", "vss", "datasets",
    "batches", "training", "retrieval", "synthetic",
)  # fmt: skip
