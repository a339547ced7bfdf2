"""On a GPU, where there is one: recorded steps train as steps started one by one, nothing waits, runs go on."""

from __future__ import annotations

import warnings
from typing import Any

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from csgn_lib import mdg, retrieval, training
from csgn_lib.batches import Augmentation, open_images, random_stream
from csgn_lib.config import Experiment
from csgn_lib.records import BOOKS, Run
from csgn_lib.training import checkpoints, cuda_graphs, stage2
from csgn_lib.training.cuda_graphs import CudaGraphStep, adam
from csgn_lib.training.stage1 import prompts_optimizer, prompts_step, stage1_batches
from csgn_lib.training.stage2 import encoder_step
from csgn_lib.training.steps import LossMeter, Stage2Targets
from csgn_lib.vss import parameter_groups

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def small(**changes: Any) -> Experiment:
    values = dict(
        clip_checkpoint=None, resnet_checkpoint=None, image_height=48, image_width=24, precision="fp32", vss="steer",
        resnet_model="csgn_tiny_resnet", stage1_epochs=4, stage1_batch=24, stage1_warmup=0, stage2_epochs=4,
        stage2_warmup=1, stage2_milestones=(3,), batch_persons=4, batch_images=2, erasing=0.5,
    )  # fmt: skip
    return Experiment.from_parameters(**(values | changes))


@pytest.fixture(autouse=True)
def on_the_gpu(monkeypatch):
    """The other tests run on the CPU everywhere."""
    monkeypatch.delenv("ACCELERATE_USE_CPU")
    AcceleratorState._reset_state(reset_partial_state=True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "this step cannot be captured")
        yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def starts(monkeypatch) -> list[dict[str, torch.Tensor]]:
    """The weights that each run began with."""
    seen, build = [], training.build_learner

    def noted(*given: Any) -> training.Learner:
        learner = build(*given)
        seen.append({name: value.clone() for name, value in learner.encoder.state_dict().items()})
        return learner

    monkeypatch.setattr(training, "build_learner", noted)
    return seen


@pytest.fixture
def made(monkeypatch) -> list[Any]:
    """What each try to record a step gave."""
    seen, record = [], CudaGraphStep._capture
    monkeypatch.setattr(CudaGraphStep, "_capture", lambda *given: seen.append(record(*given)) or seen[-1])
    return seen


def assert_close(run: Run, other: Run, start: dict[str, torch.Tensor], share: float = 0.25) -> None:
    """They end near each other, by their distance from where they began: a GPU adds in an order of its own."""
    one, two = (load_file(each.path("model.safetensors")) for each in (run, other))
    trained = [name for name, value in one.items() if value.is_floating_point() and "running_" not in name]
    apart, moved = (
        sum(float((a[name] - b[name].cpu()).square().sum()) for name in trained) ** 0.5
        for a, b in ((one, two), (two, start))
    )
    assert 0 < moved and apart < share * moved
    last = [{k: v for k, v in each.metrics()[-1].items() if k not in BOOKS} for each in (run, other)]
    assert last[0] == pytest.approx(last[1], rel=0.1, abs=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {}, {"precision": "bf16"}, {"mdg": "cross", "ema": 0.9}, {"clothes_adversarial_weight": 0.1, "hsf": "text"},
        {"vss": "cross_attention", "hsf": "orthogonal", "clothing_rank": 4}, {"vss": "two_vits", "mdg": "second_rgb"},
        {"colour_jitter": 0.5, "gray_probability": 0.5}, {"hsf": "none", "vss": "resnet"}, {"compile": True},
    ],
)  # fmt: skip
def test_recorded_steps_train_as_steps_started_one_by_one(people, tmp_path, monkeypatch, starts, made, changes):
    recorded = training.fit(small(**changes), people, tmp_path / "recorded")
    stages = 2 if "text.safetensors" in {path.name for path in recorded.dir.iterdir()} else 1
    assert len(made) >= stages and all(isinstance(one, cuda_graphs._CapturedGraph) for one in made)
    monkeypatch.setattr(cuda_graphs, "WARM", 10**9)
    plain = training.fit(small(**changes), people, tmp_path / "plain")
    assert_close(recorded, plain, starts[0], 0.5 if changes.get("precision") == "bf16" else 0.25)


@pytest.mark.parametrize("changes", [{"gradient_checkpointing": True}, {"batch_parts": 2}])
def test_what_is_computed_twice_is_not_recorded(people, tmp_path, starts, made, changes):
    plain = training.fit(small(vss="none", mdg="random"), people, tmp_path / "plain")
    assert made
    made.clear()
    twice = training.fit(small(vss="none", mdg="random", **changes), people, tmp_path / "twice")
    assert not made
    assert_close(twice, plain, starts[0])


@pytest.mark.parametrize("stage", [1, 2])
def test_no_step_waits_for_the_gpu(people, stage):
    experiment, device = small(), torch.device("cuda")
    accelerator = training.accelerator_for("fp32")
    clip, resnet = training.load_towers(experiment)
    clip.to(device).requires_grad_(False)
    images = open_images(people.train, people.root, (48, 24))
    batch = images.batch(range(8)).to(device)
    if stage == 1:
        bank = mdg.PromptBank(clip, 8, generator=random_stream(0, 1)).to(device)
        rgb, gray = torch.randn(2, 8, clip.embed_dim, device=device)
        optimizer = prompts_optimizer(experiment, bank, device)
        step = prompts_step(experiment, bank, rgb, gray, optimizer, accelerator)
        given = next(stage1_batches([torch.arange(8)], batch.person.cpu(), device))
    else:
        text = mdg.TextFeatures(*torch.randn(2, 8, clip.embed_dim, device=device))
        learner = training.build_learner(experiment, clip, resnet, 8, Stage2Targets(text)).to(device).train()
        optimizer = adam(parameter_groups(learner.encoder, learner.heads, experiment), device)
        step = encoder_step(experiment, learner, Stage2Targets(text), optimizer, accelerator)
        seen = Augmentation.from_experiment(experiment)(batch.images, random_stream(0, 1))
        given = [seen, batch.person, batch.camera, batch.clothes, batch.index]
    average, terms = stage2.WeightEMA(learner.encoder if stage == 2 else bank, 0.9), LossMeter()
    terms.add(step(*given))
    torch.cuda.set_sync_debug_mode("error")
    try:
        terms.add(step(*given))
        average.update(learner.encoder if stage == 2 else bank)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_run_stopped_on_a_gpu_goes_on_there_and_one_stopped_on_a_cpu_too(people, tmp_path, monkeypatch, starts):
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))  # saves after every step
    whole = training.fit(small(), people, tmp_path / "whole")

    class Enough(Exception):
        pass

    def stop(record: dict[str, Any]) -> None:
        if (record["stage"], record["epoch"]) == (2, 2):
            raise Enough

    for name in ("gpu", "cpu"):
        with monkeypatch.context() as patch, pytest.raises(Enough):
            if name == "cpu":
                patch.setenv("ACCELERATE_USE_CPU", "true")
                AcceleratorState._reset_state(reset_partial_state=True)
            training.fit(small(), people, tmp_path / name, stop)
        AcceleratorState._reset_state(reset_partial_state=True)
        assert_close(training.fit(small(), people, tmp_path / name), whole, starts[0], 0.5)


def test_a_step_that_looks_at_a_value_goes_on_unrecorded():
    seen = CudaGraphStep(lambda x: {"sum": x.sum() if float(x[0]) > 0 else x.sum() * 0}, torch.device("cuda"))
    value = torch.ones(3, device="cuda")
    found = [float(seen(value)["sum"]) for _ in range(cuda_graphs.WARM)]
    with pytest.warns(UserWarning, match="cannot be captured as a CUDA graph"):
        found.append(float(seen(value)["sum"]))
    found.append(float(seen(value * 2)["sum"]))
    assert found == [3, 3, 3, 6] and seen.stream is None


def test_features_on_the_gpu_are_scored_as_on_the_cpu():
    frames = [pd.DataFrame({"person": [i % 5 for i in range(n)], "camera": camera}) for n, camera in ((20, 0), (60, 1))]
    features = [torch.randn(len(frame), 16, generator=torch.Generator().manual_seed(0)) for frame in frames]
    expected = retrieval.evaluate(*features, *frames, "general")
    found = retrieval.evaluate(*(side.cuda() for side in features), *frames, "general")
    pd.testing.assert_frame_equal(found.per_query, expected.per_query)
