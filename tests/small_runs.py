"""Trainings that take a second, and comparisons of their results."""

from __future__ import annotations

from typing import Any

from csgn_lib.config import Experiment
from csgn_lib.records import Run

TIMES = {"seconds", "images_per_second", "waiting"}


def small(**changes: Any) -> Experiment:
    values = dict(
        clip_checkpoint=None, resnet_checkpoint=None, image_height=48, image_width=24, precision="fp32", vss="none",
        stage1_epochs=2, stage1_batch=8, stage1_warmup=0, stage2_epochs=2, stage2_warmup=1, stage2_milestones=(2,),
        batch_persons=4, batch_images=2,
    )  # fmt: skip
    return Experiment.from_parameters(**(values | changes))


def told(run: Run) -> list[dict[str, Any]]:
    """What was recorded of each epoch, but for the time it took."""
    return [{name: value for name, value in record.items() if name not in TIMES} for record in run.metrics()]


def assert_same(run: Run, other: Run) -> None:
    for name in ("model.safetensors", "text.safetensors"):
        assert run.path(name).read_bytes() == other.path(name).read_bytes(), name
    assert told(run) == told(other)
