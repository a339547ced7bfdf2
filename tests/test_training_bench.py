"""The benchmark of training steps on tiny networks: what it runs and writes."""

from __future__ import annotations

import json
import sys
import time

import pandas as pd
import pytest
import torch

from benchmarks import measurement as bench
from benchmarks import training as benchmark
from benchmarks import training_candidates as candidates
from benchmarks import training_gpu as gpu
from benchmarks import training_peers as peers
from benchmarks import training_steps as timed
from csgn_lib import mdg
from csgn_lib.batches import open_images
from csgn_lib.config import PRESETS, Experiment


@pytest.fixture
def rehearsed(monkeypatch) -> None:
    """As ``--rehearse``, and afterwards full size again."""
    for name in ("IDENTITIES", "IMAGES", "PEOPLE"):
        monkeypatch.setattr(timed, name, getattr(timed, name))
    monkeypatch.setattr(timed, "SMALL", {})
    monkeypatch.setattr(timed, "has_bf16", lambda: True)
    monkeypatch.setattr(bench, "PAUSE", 0.0)
    monkeypatch.delenv("CLIP_REID", raising=False)
    timed.full_towers.cache_clear()
    timed.rehearse()
    yield
    timed.full_towers.cache_clear()


def test_benchmark_measures_both_stages(rehearsed, tmp_path, monkeypatch, capsys):
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


def test_benchmark_step_equals_training_step(rehearsed):
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


def test_full_run_is_measured(rehearsed, tmp_path, monkeypatch):
    small = {"stage1_epochs": 40, "stage2_epochs": 20, "batch_persons": 8}
    monkeypatch.setitem(PRESETS, "prcc-paper", PRESETS["prcc-paper"] | small)
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
    assert (frame.groupby("person").clothes.nunique() == 2).all() and frame.clothes.nunique() == 32
    assert open_images(frame, tmp_path, (96, 48)).pixels.std() > 20


def test_lower_bounds_are_computed(rehearsed):
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


def test_every_candidate_is_measured_and_keeps_results_within_rounding(rehearsed, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "identity", lambda: {"core": "this", "device": "a card"})
    for name in ("candidates-64", "stage-1"):
        assert gpu.measure_part(tmp_path, name, 100) is False
    gpu.report(tmp_path)
    rows = pd.read_csv(tmp_path / "bench.csv").set_index("what")["value"]
    tried = [name for name, one in candidates.STAGE2.items() if one.rehearsed]
    assert len(tried) >= 5 and not rows.index.str.contains("fails|failed").any()
    for name in tried:
        assert rows[f"stage 2, batch 8, {name}: the step's time over that with it"] > 0
        assert rows[f"stage 2, batch 8, {name}: weights after 2 steps, apart over moved"] < 0.01
    assert rows["stage 1, whole prompts: the step's time over that with it"] > 0
    assert {f"part {name}: not measured" for name in ("steps-64", "tests")} < set(rows.index)


def test_weights_in_bfloat16_with_float32_in_the_optimizer_train_as_float32_weights_do(rehearsed, monkeypatch):
    monkeypatch.setattr("csgn_lib.training.usable_precision", lambda precision, device: precision)
    # oneDNN with AMX convolves maps of 4 x 2 values with stride 2 wrongly in bfloat16; images of 32 x 16 have such maps
    timed.SMALL |= {"precision": "bf16", "image_height": 96, "image_width": 48}
    images, bf16 = timed.random_images(8), {"vss": "steer"}
    start, plain = (timed.weights_after(images, count, **bf16) for count in (0, 2))
    masters = timed.weights_after(images, 2, candidate=candidates.Candidate(optimizer=candidates.MasterAdam), **bf16)
    assert timed.apart(masters, plain, start) < 0.01 < timed.apart(start, plain, start)


def test_padded_tokens_change_nothing_that_is_read_of_a_vit(rehearsed):
    learner = timed.stage2_step(timed.random_images(8), "fp32", vss="steer").learner.eval()
    images, tokens = torch.rand(2, 3, 32, 16), []
    with torch.no_grad():
        expected = learner.encoder(images)
        candidates.padded_tokens(learner)
        last = learner.encoder.vit.transformer.resblocks[-2]
        last.register_forward_hook(lambda _, given, made: tokens.append(made.shape[1]))
        found = learner.encoder(images)
    assert tokens == [16]  # 8 patches and the class token
    for name, value in expected.parts().items():
        torch.testing.assert_close(getattr(found, name), value, rtol=1e-4, atol=1e-5)


def test_several_steps_as_one_are_these_steps():
    inputs = [(torch.tensor([i % 3]), torch.tensor([float(i)])) for i in range(4)]

    def learned(at_once: int) -> tuple[list[float], float]:
        words = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.Adam([words], 0.1)

        def step(row: torch.Tensor, target: torch.Tensor) -> dict[str, torch.Tensor]:
            loss = (words[row] - target).square().sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss}

        several, total = candidates.together(step, at_once, 2), 0.0
        for first in range(0, 4, at_once):
            given = [value for part in inputs[first : first + at_once] for value in part]
            total += float(several(*given)["loss"].detach())
        return words.tolist(), total

    assert learned(2) == learned(4) == learned(1) and learned(1)[0] != [1.0] * 3


def test_a_text_tower_rounded_once_gives_the_numbers_of_one_rounded_at_every_step(rehearsed):
    clip = timed.towers(timed.experiment_of("bf16"))[0].requires_grad_(False)
    bank = mdg.PromptBank(clip, 3, generator=timed.random_stream(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        before = bank(torch.arange(3))
        candidates.narrow_text(clip, bank)
        after = bank(torch.arange(3))
    assert torch.equal(before.rgb, after.rgb) and torch.equal(before.gray, after.gray)
    assert clip.text.transformer.resblocks[0].mlp.c_fc.weight.dtype == torch.bfloat16


def test_a_part_that_is_cut_off_fails_or_is_of_other_code_is_recorded_and_tried_again(tmp_path, monkeypatch):
    calls = []

    def part(name: str, end: Exception | float | None = None):
        def rows():
            calls.append(name)
            yield bench.Row(f"{name}: first", 1.0)
            if isinstance(end, float):
                time.sleep(end)
            elif end is not None:
                raise end
            yield bench.Row(f"{name}: second", 2.0)

        return gpu.Part(rows, 0.2 if isinstance(end, float) else 30)

    parts = {"good": part("good"), "slow": part("slow", 5.0), "bad": part("bad", ValueError("no such thing"))}
    monkeypatch.setattr(gpu, "PARTS", parts)
    monkeypatch.setattr(gpu, "identity", lambda: {"core": "this", "device": "a card"})
    gpu.measure(tmp_path, list(parts), time.time() + 60)
    records = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in parts}
    assert {name: (one["state"], len(one["rows"])) for name, one in records.items()} == {
        "good": ("done", 2), "slow": ("timed out", 1), "bad": ("failed", 1),
    }  # fmt: skip
    assert gpu.report(tmp_path) is False and calls == ["good", "slow", "bad"]
    text = (tmp_path / "bench.md").read_text()
    assert "part bad: failed ValueError: no such thing" in text and "| bad: first | 1 |" in text

    (tmp_path / "bad.json").write_text(json.dumps(records["bad"] | {"state": "running"}))  # as after a kill
    (tmp_path / "good.json").write_text(json.dumps(records["good"] | {"core": "other"}))
    parts["bad"] = part("bad")
    gpu.measure(tmp_path, list(parts), time.time() + 60)
    assert calls[3:] == ["good", "bad"]
    gpu.measure(tmp_path, list(parts), time.time() + 60, again=True)
    assert calls[5:] == ["slow"]
    gpu.measure(tmp_path, list(parts), time.time() + 5, again=True)
    assert len(calls) == 6  # no time is left

    started = []
    monkeypatch.setattr("os.execv", lambda path, command: started.append(command))
    monkeypatch.setenv(gpu.END, "")
    parts["slow"] = part("slow", RuntimeError("CUDA error: an illegal memory access"))
    gpu.measure(tmp_path, ["slow"], time.time() + 60, again=True)
    assert started and json.loads((tmp_path / "slow.json").read_text())["state"] == "failed"
