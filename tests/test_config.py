"""Parameters: unknown names and wrong types are errors; the digest identifies an experiment."""

import math

import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from csgn_lib import mdg
from csgn_lib.batches import Augmentation, Batch
from csgn_lib.config import METHODS, PRESETS, Experiment
from csgn_lib.records import InputError
from csgn_lib.training import stage1, stage2, stage2_terms
from csgn_lib.training.cuda_graphs import adam
from csgn_lib.training.encoders import without_data
from csgn_lib.training.steps import Stage2Targets
from csgn_lib.vss import Embeddings, Heads, parameter_groups


@pytest.mark.parametrize("preset", [*PRESETS, *(f"{setting}+{method}" for setting in PRESETS for method in METHODS)])
def test_every_preset_is_valid(preset):
    experiment = Experiment.from_parameters(preset=preset)
    assert experiment.preset == preset
    assert experiment.difference() == {}


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"hfs": "none"}, "unknown parameter 'hfs' (did you mean 'hsf'?)"),
        ({"preset": "dmo"}, "unknown preset 'dmo' (did you mean 'demo'?)"),
        ({"preset": "demo+call"}, "unknown method 'call' (did you mean 'cal'?); one of csgn, identity-triplet"),
        ({"preset": "cal"}, "preset 'cal' is a method; name the setting before it: demo+cal"),
        ({"preset": "demo+"}, "unknown method ''"),
        ({"preset": "prcc"}, "unknown preset 'prcc' (did you mean 'prcc-paper'?)"),
        ({"preset": 3}, "unknown preset 3"),
        ({"beta": "0.5"}, "beta = '0.5'"),
        ({"beta": 1.5}, "beta = 1.5"),
        ({"seed": 1.0}, "seed = 1.0"),
        ({"seed": True}, "seed = True"),
        ({"seed": 2**64}, "seed = 18446744073709551616: Input should be less than"),
        ({"vit_stride": 4}, "vit_stride = 4"),
        ({"vss": "steering"}, "vss = 'steering'"),
        ({"stage2_milestones": [7, "x"]}, "stage2_milestones"),
    ],
)
def test_invalid_parameter_is_named(parameters, words):
    with pytest.raises(InputError) as error:
        Experiment.from_parameters(**parameters)
    assert words in str(error.value)


def test_values_override_preset_and_lists_become_tuples():
    experiment = Experiment.from_parameters(preset="demo", beta=0.25, stage2_milestones=[3, 5])
    assert experiment.clip_model == "csgn-tiny"
    assert experiment.difference() == {"beta": 0.25, "stage2_milestones": (3, 5)}


def test_method_overrides_setting_and_parameters_override_both():
    experiment = Experiment.from_parameters(preset="prcc-paper+cal", clothes_adversarial_weight=0.5)
    assert (experiment.benchmark, experiment.vss, experiment.hsf) == ("prcc", "none", "none")
    assert experiment.difference() == {"clothes_adversarial_weight": 0.5}


def test_experiment_is_immutable():
    with pytest.raises(ValueError):
        Experiment.from_parameters().beta = 0.1


@settings(deadline=None)
@given(seed=st.integers(0, 10**6), beta=st.floats(0, 1), epochs=st.integers(0, 200))
def test_digest_covers_all_parameters_but_seed(seed, beta, epochs):
    base = Experiment.from_parameters()
    other = Experiment.from_parameters(seed=seed, beta=beta, stage2_epochs=epochs)
    same = (other.beta, other.stage2_epochs) == (base.beta, base.stage2_epochs)
    assert (other.digest() == base.digest()) == same
    assert len(other.digest()) == 8 and int(other.digest(), 16) >= 0


def test_digest_survives_json():
    experiment = Experiment.from_parameters(mdg="cross", beta=0.3)
    assert Experiment.from_parameters(**experiment.model_dump(mode="json")).digest() == experiment.digest()


@pytest.mark.parametrize("given", [{"tracker": "tensorboard"}, {"seed": 3}])
def test_digest_ignores_parameters_without_influence(given):
    assert Experiment.from_parameters(**given).digest() == Experiment.from_parameters().digest()


def test_trailing_slash_of_root_is_ignored():
    roots = {Experiment.from_parameters(root=root).root for root in ("/data", "/data/", "/data/.", "//data")}
    assert roots <= {"/data", "//data"} and Experiment.from_parameters(root=".").root == "."


# ---------------------------------------------------------------- market-clipreid is CLIP-ReID's published setting
# The values of its configs/person/vit_clipreid.yml and of its paper (Li, Sun, Li, AAAI 2023), written out.

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def clip_reid() -> Experiment:
    return Experiment.from_parameters(preset="market-clipreid")


def test_market_clipreid_values_are_published(clip_reid):
    published = {
        "benchmark": "market1501", "clip_model": "ViT-B-16-quickgelu", "clip_checkpoint": "openai", "vit_stride": None,
        "image_height": 256, "image_width": 128, "batch_persons": 16, "batch_images": 4, "sampler": "identity",
        "stage1_epochs": 120, "stage1_batch": 64, "stage1_lr": 3.5e-4, "stage1_warmup": 5, "prompt_tokens": 4,
        "stage2_epochs": 60, "stage2_warmup": 10, "stage2_milestones": (30, 50), "lr_vit": 5e-6, "lr_heads": 5e-6,
        "weight_decay": 1e-4, "label_smoothing": 0.1, "triplet_margin": 0.3, "triplet_weight": 1.0,
        "id_weight_vit": 0.25, "hsf_weight": 1.0, "similarity": "dot", "flip": 0.5, "padding": 10, "erasing": 0.5,
        # and nothing of ours: one description that counts, no second branch, no words taken out, no other data
        "mdg": "separate", "vss": "none", "hsf": "convex", "beta": 0.0, "vocabulary_train": "none", "ema": None,
        "clothes_adversarial_weight": 0.0, "gray_probability": 0.0, "colour_jitter": 0.0, "batch_parts": 1,
        "validation_people": 0,
    }  # fmt: skip
    assert {name: getattr(clip_reid, name) for name in published} == published
    assert Augmentation.from_experiment(clip_reid) == Augmentation(0.5, 10, 0.5, 0.0, 0.0)
    frame = pd.DataFrame({"person": [i // 5 for i in range(100)], "clothes": -1})
    for rows in stage2.identity_sampler(clip_reid, frame).epoch(1):
        assert sorted(frame.person[rows].value_counts()) == [4] * 16


def test_market_clipreid_stage1_optimiser_and_rates(clip_reid, random_clip):
    stream = torch.Generator().manual_seed(0)
    bank = mdg.PromptBank(random_clip, 3, clip_reid.prompt_tokens, clip_reid.mdg, generator=stream)
    optimizer = stage1.prompts_optimizer(clip_reid, bank, CPU)
    (group,) = optimizer.param_groups
    assert type(optimizer) is torch.optim.Adam
    assert (group["lr"], group["weight_decay"], group["betas"]) == (3.5e-4, 1e-4, (0.9, 0.999))
    assert sum(value.numel() for value in group["params"]) == 2 * 3 * 4 * bank.words_rgb.shape[-1]
    rates = [stage1.prompt_lr(clip_reid, epoch) for epoch in range(1, 121)]
    warming = [3.5e-4 * epoch / 5 for epoch in range(1, 6)]
    falling = [1e-6 + 3.49e-4 * (1 + math.cos(math.pi * epoch / 115)) / 2 for epoch in range(1, 116)]
    assert rates == pytest.approx(warming + falling) and rates[-1] == pytest.approx(1e-6)


def test_market_clipreid_stage2_optimiser_and_rates(clip_reid):
    clip, learner = without_data(clip_reid, 751)
    vit = learner.encoder.vit
    assert (vit.conv1.kernel_size, vit.conv1.stride, vit.conv1.out_channels) == ((16, 16), (16, 16), 768)
    assert len(vit.transformer.resblocks) == 12 and vit.positional_embedding.shape == (1 + 16 * 8, 768)
    assert type(vit.transformer.resblocks[0].mlp.gelu).__name__ == "QuickGELU"
    assert learner.encoder.resnet is None and learner.encoder.widths == {"z11": 768, "z12": 768, "f": 512}
    shapes = {name: tuple(layer.weight.shape) for name, layer in learner.heads.classifiers.items()}
    assert shapes == {"z12": (751, 768), "f": (751, 512)}

    groups = parameter_groups(learner.encoder, learner.heads, clip_reid)
    rates = {group["name"]: (group["lr"], group["weight_decay"]) for group in groups}
    assert rates == {"vit": (5e-6, 1e-4), "vit_bias": (1e-5, 1e-4), "heads": (5e-6, 1e-4)}  # biases: x 2
    members = {id(value): group["name"] for group in groups for value in group["params"]}
    assert len(members) == sum(len(group["params"]) for group in groups)
    for name, value in learner.named_parameters():
        fixed = name.startswith("heads.necks") and name.endswith("bias")  # BNNeck's bias stays 0
        whose = "heads" if name.startswith("heads") else "vit_bias" if name.endswith("bias") else "vit"
        assert members.get(id(value)) == (None if fixed else whose), name
    text = [value for name, value in clip.model.named_parameters() if not name.startswith("visual.")]
    assert len(text) > 100 and not {id(value) for value in text} & members.keys()
    optimizer = adam(groups, CPU)
    assert type(optimizer) is torch.optim.Adam and {group["betas"] for group in optimizer.param_groups} == {
        (0.9, 0.999)
    }

    by_hand = {0: 0.1, 1: 0.19, 5: 0.55, 9: 0.91, 10: 1, 29.9: 1, 30: 0.1, 49.9: 0.1, 50: 0.01, 60: 0.01}
    assert {epoch: stage2.lr_multiplier(clip_reid, epoch) for epoch in by_hand} == pytest.approx(by_hand)


def test_market_clipreid_loss_is_published_sum(clip_reid):
    """0.25 identity on z12 and f, 1 triplet on z11, z12 and f, 1 image to text: smoothed by 0.1, margin 0.3."""
    stream = torch.Generator().manual_seed(0)
    widths = {"z11": 12, "z12": 12, "f": 8}
    parts = {name: torch.randn(8, width, generator=stream) for name, width in widths.items()}
    rgb, gray = (torch.randn(4, 8, generator=stream) for _ in range(2))
    person = torch.arange(4).repeat_interleave(2)
    embeddings, heads = Embeddings(**parts, c=None), Heads(widths, 4, stream)
    for classifier in heads.classifiers.values():
        classifier.weight.data.mul_(1000)  # else all logits are nearly 0
    outputs = heads(embeddings)
    batch = Batch(torch.empty(8), person, person, person, torch.arange(8))
    found = stage2_terms(clip_reid, embeddings, outputs, batch, Stage2Targets(mdg.TextFeatures(rgb, gray)))

    def smoothed(logits: torch.Tensor) -> torch.Tensor:
        wanted = 0.9 * F.one_hot(person, 4) + 0.1 / 4
        return -(wanted * logits.log_softmax(dim=1)).sum(dim=1).mean()

    def hardest(features: torch.Tensor) -> torch.Tensor:
        far = (features[:, None] - features[None]).norm(dim=2)
        same = person[:, None] == person
        return (far.where(same, 0.0).amax(dim=1) - far.where(~same, math.inf).amin(dim=1) + 0.3).relu().mean()

    expected = {f"id_{name}": 0.25 * smoothed(outputs.logits[name]) for name in ("z12", "f")}
    expected |= {f"triplet_{name}": hardest(parts[name]) for name in widths}
    expected |= {"text_rgb": smoothed(parts["f"] @ rgb.T)}
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=name)
