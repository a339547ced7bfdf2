"""Shared fixtures: one tiny rendered world, and one small CLIP with random weights."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# bits and tolerances are a CPU's, on a machine with a GPU too; test_gpu.py says so where it wants the GPU
os.environ["ACCELERATE_USE_CPU"] = "true"

from csgn_lib import datasets, synthetic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from accelerate import Accelerator

    from csgn_lib.backbones import ClipTower

TINY = synthetic.World(people=24, outfits=3)


@pytest.fixture(autouse=True)
def _figures() -> Iterator[None]:
    """Close the figures that a test left open."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def tiny_world() -> synthetic.World:
    """14, 4 and 6 people in three outfits each: 168 + 48 + 72 pictures."""
    return TINY


@pytest.fixture(scope="session")
def tiny_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny world on disk; not to be written to."""
    return synthetic.ensure(TINY, tmp_path_factory.mktemp("world") / "synthetic", processes=1)


@pytest.fixture(scope="session")
def tiny_benchmark(tiny_root: Path) -> datasets.Benchmark:
    return datasets.load("synthetic", tiny_root)


@pytest.fixture(scope="session")
def people(tiny_benchmark: datasets.Benchmark) -> datasets.Benchmark:
    """The tiny world with one training image of each person and outfit, 8 people x 3 images: batches of 8 make three
    steps an epoch of stage 1, and two or more of stage 2."""
    eight = tiny_benchmark.train[tiny_benchmark.train.person < 8]
    first = eight.groupby(["person", "clothes"]).head(1).reset_index(drop=True)
    return replace(tiny_benchmark, train=first)


@pytest.fixture
def accelerator() -> Accelerator:
    """In float32, whatever precision an earlier test of this process trained in."""
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    return Accelerator(mixed_precision="no")


@pytest.fixture(scope="session")
def random_clip() -> ClipTower:
    """csgn-tiny at 96 x 48 with random weights, frozen; copy it to train it."""
    import torch

    from csgn_lib.backbones import load_clip

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return load_clip("csgn-tiny", None, (96, 48)).eval().requires_grad_(False)
