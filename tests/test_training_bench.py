"""The benchmark of training steps on tiny networks: what it runs and writes."""

from __future__ import annotations

import sys

import pandas as pd
import pytest
import torch

from benchmarks import measurement as bench
from benchmarks import training as benchmark
from benchmarks import training_peers as peers
from benchmarks import training_steps as timed
from csgn_lib.batches import open_images
from csgn_lib.config import PRESETS, Experiment


@pytest.fixture
def tiny(monkeypatch) -> None:
    """Its steps with the embedded towers' shapes, two people and two rounds of no pause."""

    def experiment_of(precision: str, **parameters: object) -> Experiment:
        towers = {"clip_model": "csgn-tiny", "resnet_model": "csgn_tiny_resnet"}
        blank = {"clip_checkpoint": None, "resnet_checkpoint": None, "preset": "market-clipreid"}
        return Experiment.from_parameters(**blank | towers | {"precision": precision} | parameters)

    monkeypatch.setattr(timed, "experiment_of", experiment_of)
    monkeypatch.setattr(timed, "IDENTITIES", 12)
    monkeypatch.setattr(timed, "has_bf16", lambda: True)
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    monkeypatch.delenv("CLIP_REID", raising=False)


def test_benchmark_measures_both_stages(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["bench", "--rounds", "2", "--persons", "2", "--prompts", "8", "--kernels"])
    with pytest.raises(SystemExit) as end:
        benchmark.main()
    assert end.value.code is False or end.value.code == 0
    rows = pd.read_csv(tmp_path / "reports" / "training" / "bench.csv")
    said = "\n".join(rows["what"])
    for part in ("stage 2, batch 8, ViT-B/16, bf16: a step of ours", "ResNet-50", "stage 1, batch 8"):
        assert part in said
    shares = rows[rows["what"].str.contains("share of its kernels' time, ")]["value"]
    assert len(shares) == 10 and shares.is_monotonic_decreasing and 30 < shares.sum() <= 100
    assert (rows["value"].dropna() > 0).all() and "CLIP_REID is not set" in said
    assert "CLIP-ReID's time over ours" not in said and "NOT MET" not in capsys.readouterr().out


def test_benchmark_step_equals_training_step(tiny):
    images = timed.random_images(8)
    assert images.person.tolist() == [0, 0, 0, 0, 7, 7, 7, 7]
    moved = []
    build = timed.build_learner

    def kept(*given: object) -> torch.nn.Module:
        moved.append(build(*given))
        return moved[0]

    timed.build_learner = kept
    try:
        step = timed.stage2_step(images, "fp32", vss="steer")
    finally:
        timed.build_learner = build
    before = {name: value.clone() for name, value in moved[0].named_parameters()}
    step(), step()
    trained = {name: value for name, value in moved[0].named_parameters() if value.requires_grad}
    still = [name for name, value in trained.items() if torch.equal(value, before[name])]
    assert not still


def test_full_run_is_measured(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(timed, "IMAGES", 96)
    monkeypatch.setattr(timed, "PEOPLE", 8)
    demo = {name: value for name, value in PRESETS["demo"].items() if "checkpoint" not in name}
    small = {"stage1_epochs": 40, "stage2_epochs": 20, "batch_persons": 8, "batch_images": 4}
    monkeypatch.setitem(PRESETS, "prcc-paper", PRESETS["prcc-paper"] | demo | small)
    rows = {row.what.rsplit(": ", 1)[-1]: row for row in benchmark.whole_run(compiled=False)}
    assert (
        rows["an epoch of stage 1, the median of 2"].value > 0
        and rows["an epoch of stage 2, the median of 1"].value > 0
    )
    whole = next(row for what, row in rows.items() if what.startswith("40 + 20 epochs"))
    epochs = (
        40 * rows["an epoch of stage 1, the median of 2"].value
        + 20 * rows["an epoch of stage 2, the median of 1"].value
    )
    assert whole.value * 60 >= epochs and whole.target == 6
    frame = timed.made_up(tmp_path, Experiment.from_parameters(preset="demo")).train
    assert (frame.groupby("person").clothes.nunique() == 2).all() and frame.clothes.nunique() == 16
    assert open_images(frame, tmp_path, (96, 48)).pixels.std() > 20


def test_lower_bounds_are_computed(tiny):
    two, four = (timed.step_flops(timed.random_images(count)) for count in (8, 16))
    assert 2 * two == four > 0


def test_peer_ratio_has_target():
    seconds = {"CLIP-ReID": 6.0, "bf16": 2.0, "fp32": 6.5}
    rows = {row.what: row for row in benchmark.against(seconds, "stage 2", {"fp32": 1.0, "bf16": 2.5})}
    assert rows["stage 2, bf16: CLIP-ReID's time over ours"].met
    assert rows["stage 2, fp32: CLIP-ReID's time over ours"].met is False
    assert list(benchmark.against({"bf16": 2.0}, "stage 2", {"bf16": 2.5})) == []


def test_peer_requirements_are_temporary():
    with peers._at_home(torch.device("cpu")):
        assert torch.zeros(1).cuda().device.type == "cpu"
        assert next(torch.nn.Linear(1, 1).to("cuda").parameters()).device.type == "cpu"
        from turtle import pd as slip

        assert slip is None
    assert "turtle" not in sys.modules or hasattr(sys.modules["turtle"], "forward")
    assert peers.clip_reid_steps(torch.zeros(1), torch.zeros(1), 3, {}) is None
