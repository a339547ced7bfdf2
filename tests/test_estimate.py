"""The cost estimate against torch's memory, sums by hand, and a closed form for the ViT."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from csgn_lib import synthetic, training
from csgn_lib.config import Experiment
from csgn_lib.training import estimate as counting
from csgn_lib.training.estimate import Estimate, estimate, matrix_rate
from csgn_lib.training.steps import Stage2Targets
from csgn_lib.vss import parameter_groups

HEIGHT, WIDTH, PATCH = 96, 48, 8


def count(train, **changes: Any) -> Estimate:
    return estimate(Experiment.from_parameters(**({"batch_persons": 4, "batch_images": 2} | changes)), train)


@pytest.fixture(autouse=True)
def a_rate(monkeypatch) -> None:
    monkeypatch.setattr(counting, "matrix_rate", lambda *_: 2e9)
    monkeypatch.setattr(counting, "usable_precision", lambda precision, device: precision)  # as if the CPU had bfloat16


@pytest.mark.parametrize("vss", ["steer", "concat", "cross_attention", "none", "resnet"])
def test_estimated_bytes_equal_torch_after_step(tiny_benchmark, vss):
    text = {} if vss != "resnet" else {"hsf": "none"}
    experiment = Experiment.from_parameters(vss=vss, clip_checkpoint=None, resnet_checkpoint=None, **text)
    clip, resnet = training.load_towers(experiment)
    if clip is not None:
        clip.requires_grad_(False)
    people = tiny_benchmark.train.person.nunique()
    learner = training.build_learner(experiment, clip, resnet, people, Stage2Targets())
    trained = [
        value for group in parameter_groups(learner.encoder, learner.heads, experiment) for value in group["params"]
    ]
    optimizer = torch.optim.Adam(trained)
    sum(value.sum() for value in trained).backward()
    optimizer.step()
    held = 0
    for value in trained:
        moments = [optimizer.state[value][name] for name in ("exp_avg", "exp_avg_sq")]
        held += sum(tensor.numel() * tensor.element_size() for tensor in (value, value.grad, *moments))
    needed = count(tiny_benchmark.train, vss=vss, **text)
    assert needed.trained_bytes == held
    everything = {id(value): value for part in (clip, learner) if part is not None for value in part.parameters()}
    assert needed.frozen_bytes == 4 * sum(v.numel() for v in everything.values()) - 4 * needed.trained
    assert needed.pixel_bytes == len(tiny_benchmark.train) * 3 * HEIGHT * WIDTH


@pytest.mark.parametrize(("precision", "vss"), [("fp32", "steer"), ("bf16", "steer"), ("bf16", "cross_attention")])
def test_estimated_activations_equal_saved_tensors(tiny_benchmark, precision, vss):
    """Against a real pass of eight images: no more than it keeps, and nearly all of it."""
    changes = {"precision": precision, "vss": vss, "clip_checkpoint": None, "resnet_checkpoint": None}
    experiment = Experiment.from_parameters(**changes)
    learner = training.build_learner(experiment, *training.load_towers(experiment), 8, Stage2Targets()).train()
    weights = {value.untyped_storage().data_ptr() for value in (*learner.parameters(), *learner.buffers())}
    held: dict[int, torch.Tensor] = {}

    def noted(value: torch.Tensor) -> torch.Tensor:
        return held.setdefault(value.untyped_storage().data_ptr(), value)

    images = torch.rand(8, 3, HEIGHT, WIDTH)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        with torch.autograd.graph.saved_tensors_hooks(noted, lambda value: value):
            learner(images)
    kept = sum(v.untyped_storage().nbytes() for place, v in held.items() if place not in weights)
    needed = count(tiny_benchmark.train, precision=precision, vss=vss)
    assert needed.images_at_once == 8 and 0.75 * kept < needed.kept_bytes <= kept
    assert f"activations of 8 images for the backward pass, {needed.activation_bytes / 2**20:.1f} MiB each" in str(
        needed
    )


def test_batch_parts_and_average_are_counted(tiny_benchmark):
    whole, parts = (count(tiny_benchmark.train, batch_parts=n, ema=0.9) for n in (1, 4))
    assert (whole.images_at_once, parts.images_at_once) == (8, 2)
    assert whole.activation_bytes == parts.activation_bytes
    assert whole.averaged == sum(v.numel() for v in training.build_learner(
        Experiment.from_parameters(), *training.load_towers(Experiment.from_parameters()), 8, Stage2Targets()
    ).encoder.parameters())  # fmt: skip
    assert "moving average of the weights" in str(whole) and count(tiny_benchmark.train).averaged == 0


def test_vit_flops_equal_closed_form(tiny_benchmark, random_clip):
    width, joint = random_clip.width, random_clip.embed_dim
    patches = (HEIGHT // PATCH) * (WIDTH // PATCH)
    tokens, layers = patches + 1, len(random_clip.visual.transformer.resblocks)
    mlp = 2 * width * random_clip.visual.transformer.resblocks[0].mlp.c_fc.out_features

    def block(asking: int) -> int:
        """Keys and values of all tokens; queries, two products of attention, output and MLP of those that ask."""
        return 2 * (2 * tokens * width**2 + asking * (2 * width**2 + 2 * tokens * width + mlp))

    expected = 2 * patches * width * 3 * PATCH**2 + (layers - 1) * block(tokens) + block(1) + 2 * width * joint
    assert count(tiny_benchmark.train).vit_flops == expected


def test_arithmetic_grows_with_epochs_images_and_patches_and_time_with_arithmetic(tiny_benchmark):
    train = tiny_benchmark.train
    chance = torch.get_rng_state()
    once, twice = (count(train, stage1_epochs=n, stage2_epochs=n) for n in (1, 2))
    assert torch.equal(torch.get_rng_state(), chance)  # the caller's own
    assert min(once.flops) > 0 and twice.flops[1] == 2 * once.flops[1]
    reading = once.features * once.vit_flops  # of frozen features: once, however many epochs
    assert once.features == 2 * len(train) and twice.flops[0] - reading == 2 * (once.flops[0] - reading)
    assert once.flops[1] == 3 * once.stage2_images * once.image_flops and once.stage2_images <= len(train)
    assert once.seconds == sum(once.flops) / 2e9
    assert count(train, image_height=192).vit_flops > 1.9 * once.vit_flops
    assert once.image_flops > once.vit_flops  # the ResNet and the heads


def test_unused_parts_are_not_counted(tiny_benchmark):
    for changes in ({"hsf": "none"}, {"mdg": "random"}, {"stage1_epochs": 0, "hsf": "none"}):
        assert count(tiny_benchmark.train, **changes).flops[0] == 0
    alone = count(tiny_benchmark.train, vss="resnet", hsf="none")
    assert (alone.vit_flops, alone.prompt_flops) == (0, 0) and alone.image_flops > 0


def test_full_size_model_is_counted_without_weights(tiny_benchmark, monkeypatch):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("reached for another machine"))
    needed = count(tiny_benchmark.train, preset="ltcc-paper", benchmark="synthetic", vit_stride=12)
    assert 22e6 + 86e6 < needed.trained < 120e6 and 60e6 < needed.frozen < 66e6
    assert 35e9 < needed.vit_flops < 40e9  # 211 tokens


@pytest.mark.parametrize(("preset", "visual"), [("ltcc-large", 303e6), ("prcc-large-vit", 303e6)])
def test_the_large_presets_are_counted_and_fit_16_gb(tiny_benchmark, preset, visual):
    needed = count(tiny_benchmark.train, preset=preset, benchmark="synthetic", batch_images=16)
    assert visual < needed.trained < visual + 40e6 and needed.size == (252, 126)  # the ViT, the ResNet and the heads
    assert 90e9 < needed.vit_flops < 105e9 and needed.images_at_once == 64  # 163 tokens, 24 blocks of width 1,024
    assert needed.trained_bytes + needed.frozen_bytes + needed.kept_bytes < 12 * 2**30


def test_prompts_of_first_epoch_are_counted(tiny_benchmark):
    train = tiny_benchmark.train
    people = train.person.nunique()
    assert count(train, stage1_batch=len(train)).prompts == 2 * people
    assert 2 * people < count(train, stage1_batch=2).prompts <= 2 * len(train)


def test_rate_is_that_of_matrix_product():
    threads, chance = torch.get_num_threads(), torch.get_rng_state()
    assert 1e8 < matrix_rate(torch.device("cpu"), torch.float32, 0.05) < 1e14
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), chance)


def test_planned_world_equals_rendered_world(tiny_world, tiny_benchmark):
    planned, read = synthetic.planned_train(tiny_world), tiny_benchmark.train
    columns = ["path", "person", "camera", "clothes"]
    planned = planned.sort_values("path").reset_index(drop=True)
    read = read.assign(path=read.path.astype(str)).sort_values("path").reset_index(drop=True)
    assert planned[columns].astype(str).equals(read[columns].astype(str))
