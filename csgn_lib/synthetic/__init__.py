"""The embedded benchmark: people x outfits x cameras, drawn from a seed, written in LTCC's layout."""

from csgn_lib.synthetic.drawing import PARTS
from csgn_lib.synthetic.people import Outfit, Person
from csgn_lib.synthetic.worlds import (
    Scene,
    World,
    benchmark_for,
    ensure,
    planned_for,
    planned_train,
    scenes_of,
    world_of,
)  # fmt: skip

__all__ = [
    "PARTS",
    "Outfit",
    "Person",
    "Scene",
    "World",
    "benchmark_for",
    "ensure",
    "planned_for",
    "planned_train",
    "scenes_of",
    "world_of",
]
