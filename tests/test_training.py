"""Both stages on a tiny world: losses, trained parameters, written files, and resuming."""

from __future__ import annotations

import copy
import hashlib
import json
import math
import random
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trees
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode

from csgn_lib import backbones, losses, mdg, progress, synthetic, training, vocabulary
from csgn_lib.backbones import ClipTower
from csgn_lib.batches import Batch, open_images, random_stream
from csgn_lib.config import Experiment
from csgn_lib.records import BOOKS, InputError, Run
from csgn_lib.training import checkpoints, stage1, stage2, steps
from csgn_lib.training.checkpoints import Checkpoints
from csgn_lib.training.precision import usable_precision
from csgn_lib.training.stage1 import stage1_batches
from csgn_lib.training.steps import STREAMS, LossMeter, Stage2Targets, StepContext, save_tensors
from csgn_lib.vss import Embeddings, Heads, concatenate

SIZE = (48, 24)
FEW_WORDS = vocabulary.Vocabulary(
    vocabulary.clothing_phrases({"upper": ("shirt", "coat"), "shoes": ("boots",)}, ("red", "blue", "white"),
                                ("plain", "striped"), ("person",)),
    vocabulary.person_phrases({"stature": ("short {}", "tall {}"), "legs": ("{} with long legs",)},
                              {"long": "with long {} hair"}, ("red", "black"), ("a red coat",)),
)  # fmt: skip


def small(**changes: Any) -> Experiment:
    """CLIP-ReID's shape, without weights, at a size that trains in a third of a second."""
    values = dict(
        clip_checkpoint=None, resnet_checkpoint=None, image_height=SIZE[0], image_width=SIZE[1], precision="fp32",
        vss="none", stage1_epochs=1, stage1_warmup=0, stage2_epochs=1, stage2_warmup=1, stage2_milestones=(7,),
        batch_persons=4, batch_images=2, clothing_rank=4, person_rank=3, id_weight_vit=0.25,
    )  # fmt: skip
    return Experiment.from_parameters(**(values | changes))


def terms_of(record: dict[str, Any]) -> set[str]:
    return set(record) - BOOKS


def records(run: Run, stage: int) -> list[dict[str, Any]]:
    return [record for record in run.metrics() if record["stage"] == stage]


@pytest.fixture(autouse=True)
def few_words(monkeypatch) -> None:
    monkeypatch.setattr(vocabulary, "ENGLISH", FEW_WORDS)


@pytest.fixture
def towers(monkeypatch) -> dict[str, Any]:
    """The CLIP of the last fit, and all weights as they were before."""
    kept: dict[str, Any] = {}
    load = training.load_towers

    def remember(experiment: Experiment) -> tuple:
        kept["clip"], kept["resnet"] = load(experiment)
        for name in ("clip", "resnet"):
            if kept[name] is not None:
                kept[f"{name}_before"] = {n: v.clone() for n, v in kept[name].model.state_dict().items()}
        return kept["clip"], kept["resnet"]

    monkeypatch.setattr(training, "load_towers", remember)
    return kept


# ---------------------------------------------------------------- the loss is CLIP-ReID's


def smoothed_cross_entropy(logits: torch.Tensor, targets: list[int], smoothing: float) -> float:
    """By hand, in float64: mean over images of -sum_k q_k log p_k."""
    total = 0.0
    for row, target in zip(logits.double().tolist(), targets, strict=True):
        norm = math.log(sum(math.exp(value - max(row)) for value in row)) + max(row)
        for k, value in enumerate(row):
            q = smoothing / len(row) + (1 - smoothing) * (k == target)
            total -= q * (value - norm)
    return total / len(targets)


def hardest_triplet(features: torch.Tensor, targets: list[int], margin: float) -> float:
    """By hand: mean over anchors of max(0, margin + furthest of its own - nearest of the others)."""
    rows, total = features.double(), 0.0
    for i, anchor in enumerate(rows):
        far = [float((anchor - rows[j]).norm()) for j in range(len(rows))]
        own = max(far[j] for j in range(len(rows)) if targets[j] == targets[i] and j != i)
        other = min(far[j] for j in range(len(rows)) if targets[j] != targets[i])
        total += max(0.0, margin + own - other)
    return total / len(rows)


@torch.no_grad()
def clip_reid_loss(
    clip: ClipTower, classifiers: dict[str, torch.Tensor], images: torch.Tensor, targets: list[int], text: torch.Tensor
) -> dict[str, float]:
    """CLIP-ReID's stage 2 from its paper's equations (Li, Sun, Li, AAAI 2023), one batch, ViT-B/16's form.

    Features are read off open_clip's own forward by hooks; BNNeck is a batch norm at its start.
    """
    seen: dict[str, torch.Tensor] = {}
    visual = clip.model.visual
    hooks = [
        visual.transformer.resblocks[-2].register_forward_hook(lambda *call: seen.update(z11=call[-1][:, 0])),
        visual.ln_post.register_forward_hook(lambda *call: seen.update(z12=call[-1][:, 0])),
    ]
    cfg = visual.preprocess_cfg
    mean, std = (torch.tensor(cfg[name]).view(3, 1, 1) for name in ("mean", "std"))
    seen["f"] = clip.model.encode_image((images - mean) / std)
    [hook.remove() for hook in hooks]
    terms = {}
    for name, weight in classifiers.items():
        x = seen[name]
        neck = (x - x.mean(dim=0)) / (x.var(dim=0, correction=0) + 1e-5).sqrt()
        terms[f"id_{name}"] = 0.25 * smoothed_cross_entropy(neck @ weight.T, targets, 0.1)
    for name in ("z11", "z12", "f"):
        terms[f"triplet_{name}"] = hardest_triplet(seen[name], targets, 0.3)
    terms["text_rgb"] = smoothed_cross_entropy(seen["f"] @ text.T, targets, 0.1)
    return terms


def test_beta_zero_without_resnet_equals_clip_reid(people, towers, tmp_path):
    """The one step of a whole run: stage 1, sampler, pixels, encoder, heads and the sum that is descended."""
    experiment = small(
        mdg="separate", beta=0.0, batch_persons=8, flip=0.0, padding=0, erasing=0.0, stage1_epochs=2, lr_vit=0.0
    )
    descended: list[float] = []
    step = stage2.optimizer_step

    def watch(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        descended.append(float(loss.detach()))
        step(loss, optimizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage2, "optimizer_step", watch)
        run = training.fit(experiment, people, tmp_path / "run")
    rows = stage2.identity_sampler(experiment, people.train).epoch(1)[0]
    batch = open_images(people.train, people.root, SIZE).batch(rows)
    heads = training.build_learner(experiment, towers["clip"], None, 8, Stage2Targets()).heads
    classifiers = {name: heads.classifiers[name].weight.detach() for name in ("z12", "f")}
    text = load_file(run.path("text.safetensors"))["rgb"]
    expected = clip_reid_loss(
        towers["clip"], classifiers, batch.images.float() / 255, batch.person.tolist(), text
    )  # lr_vit = 0: the ViT is as it was
    assert descended == pytest.approx([sum(expected.values())], abs=1e-5)
    (record,) = records(run, 2)
    assert {name: record[name] for name in terms_of(record)} == pytest.approx(expected, abs=1e-5)


def test_stage_2_terms_equal_formulas(random_clip):
    experiment = small(mdg="separate", beta=0.0)
    learner = training.build_learner(experiment, copy.deepcopy(random_clip), None, 5, Stage2Targets())
    assert {name: heads.weight.shape for name, heads in learner.heads.classifiers.items()} == {
        "z12": (5, 128),
        "f": (5, 128),
    }
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(6, 3, 96, 48, generator=generator)
    text = 3 * torch.randn(5, 128, generator=generator)
    targets = torch.tensor([0, 0, 3, 3, 4, 4])
    with torch.no_grad():
        for classifier in learner.heads.classifiers.values():  # the start, N(0, 0.001), would hide a wrong neck
            classifier.weight.copy_(torch.randn(5, 128, generator=generator))
        embeddings, outputs = learner.train()(images)
        got = training.stage2_terms(
            experiment, embeddings, outputs, Batch(images, targets, targets, targets, targets),
            Stage2Targets(text=stage1.mdg.TextFeatures(text, torch.full_like(text, math.nan))),
        )  # fmt: skip
    weights = {name: layer.weight.detach() for name, layer in learner.heads.classifiers.items()}
    expected = clip_reid_loss(random_clip, weights, images, targets.tolist(), text)
    assert {name: float(value) for name, value in got.items()} == pytest.approx(expected, abs=1e-5)


# ---------------------------------------------------------------- every variant learns

Z, RES = {"id_z12", "id_f", "triplet_z11", "triplet_z12", "triplet_f"}, {"id_c", "triplet_c"}
PAIRS = {"i2t_rgb", "t2i_rgb", "i2t_gray", "t2i_gray"}
CROSS = {"i2t_rgb_to_gray", "t2i_gray_to_rgb", "i2t_gray_to_rgb", "t2i_rgb_to_gray"}
BOTH = {"text_rgb", "text_gray"}
CASES = [  # parameters, terms of stage 1 (None: it is skipped), terms of stage 2
    (dict(mdg="separate", vss="none", hsf="convex"), PAIRS, Z | BOTH),
    (dict(mdg="cross", vss="steer", hsf="sum", vocabulary_train="head"), PAIRS | CROSS, Z | RES | BOTH),
    (dict(mdg="mutual", vss="concat", hsf="text", vocabulary_train="targets", mdg_modality="token"),
     PAIRS | {"mutual"}, Z | RES | {"text"}),
    (dict(mdg="second_rgb", vss="cross_attention", hsf="logit", vocabulary_train="penalty"),
     PAIRS | {"mutual"}, Z | RES | {"text", "vocabulary"}),
    (dict(mdg="random", vss="none", hsf="consistent", similarity="cosine"), None, Z | BOTH | {"consistency"}),
    (dict(mdg="mutual", vss="none", hsf="orthogonal", mdg_modality="same"),
     PAIRS | {"mutual"}, Z | BOTH | {"colour"}),
    (dict(mdg="mutual", vss="steer", hsf="convex", sampler="clothes", gray_probability=0.5),
     PAIRS | {"mutual"}, Z | RES | BOTH),
    (dict(mdg="separate", vss="two_vits", hsf="convex", colour_jitter=0.5), PAIRS, Z | RES | BOTH),
    (dict(vss="resnet", hsf="none", clothes_adversarial_weight=0.1), None, RES | {"clothes_adversarial"}),
    (dict(vss="none", hsf="none", vocabulary_train="head"), None, Z),
]  # fmt: skip


def test_cases_cover_every_variant():
    for name in ("mdg", "vss", "hsf", "vocabulary_train", "mdg_modality", "sampler", "similarity"):
        values = {getattr(small(**parameters), name) for parameters, _, _ in CASES}
        assert values == set(Experiment.model_fields[name].annotation.__args__), name


@pytest.mark.parametrize(
    ("parameters", "first", "second"), CASES, ids=[" ".join(map(str, p.values())) for p, *_ in CASES]
)
def test_every_variant_trains_expected_parameters(people, towers, tmp_path, parameters, first, second):
    run = training.fit(small(**parameters), people, tmp_path / "run")
    assert [terms_of(record) for record in records(run, 1)] == ([first] if first else [])
    (record,) = records(run, 2)
    assert terms_of(record) == second
    assert all(math.isfinite(record[name]) for name in second)

    model, vss = load_file(run.path("model.safetensors")), parameters.get("vss")
    used = {
        "none": {"vit"},
        "resnet": {"resnet"},
        "concat": {"vit", "resnet"},
        "two_vits": {"vit", "second_vit", "join"},
    }
    used = used.get(vss, {"vit", "resnet", "join"})
    normalisation = {"vit_mean", "vit_std"} if "vit" in used else set()
    assert {name.split(".")[0] for name in model} == used | normalisation
    for name, value in towers.get("clip_before", {}).items():
        if name.startswith("visual."):
            assert not torch.equal(model["vit." + name.removeprefix("visual.")], value), f"{name} did not learn"
        else:  # the text tower, the temperature
            assert torch.equal(towers["clip"].model.state_dict()[name], value), f"{name} is not frozen"
    if towers["clip"] is not None:
        rest = [value for name, value in towers["clip"].model.named_parameters() if not name.startswith("visual.")]
        assert all(value.grad is None for value in rest)  # no time is spent on it either
    for name, value in towers.get("resnet_before", {}).items():
        if value.is_floating_point():
            assert not torch.equal(model[f"resnet.model.{name}"], value), f"{name} did not learn"
    if vss in ("steer", "two_vits"):
        assert model["join.gamma"] != 0
    if vss == "cross_attention":
        assert model["join.gate"] != 0


def test_zero_learning_rate_keeps_weights(people, towers, tmp_path):
    run = training.fit(small(vss="steer", lr_vit=0.0, lr_resnet=0.0), people, tmp_path / "run")
    model = load_file(run.path("model.safetensors"))
    for name, value in towers["clip_before"].items():
        if name.startswith("visual."):
            assert torch.equal(model["vit." + name.removeprefix("visual.")], value)
    learned = {name for name, _ in towers["resnet"].model.named_parameters()}
    assert all(torch.equal(model[f"resnet.model.{name}"], towers["resnet_before"][name]) for name in learned)
    assert model["join.gamma"] != 0  # the heads' rate


def test_stage_1_trains_prompts_only(people, random_clip, accelerator):
    images, heard = open_images(people.train, people.root, (96, 48)), []
    before = {name: value.clone() for name, value in random_clip.state_dict().items()}
    start = training.learn_prompts(small(stage1_epochs=0), random_clip, images, accelerator, heard.append)
    assert heard == []
    end = training.learn_prompts(
        small(stage1_epochs=3, stage1_lr=0.002), random_clip, images, accelerator, heard.append
    )
    for name, value in random_clip.state_dict().items():
        assert torch.equal(value, before[name]), name
    for part in ("rgb", "gray"):
        moved = (getattr(end, part) - getattr(start, part)).norm(dim=1)
        assert getattr(end, part).shape == (8, 128) and (moved > 1e-3).all()
    assert [record["epoch"] for record in heard] == [1, 2, 3]
    total = [sum(record[name] for name in terms_of(record)) for record in heard]
    assert total[2] < total[0]


def test_stage_1_embeds_unaugmented_images_once(people, random_clip, accelerator):
    images = open_images(people.train.head(3), people.root, (96, 48))
    rgb, gray = training.frozen_features(random_clip, images, accelerator)
    pictures = torch.from_numpy(images.pixels).float() / 255
    luminance = (pictures * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(dim=1, keepdim=True)
    with torch.no_grad():
        torch.testing.assert_close(rgb, random_clip.visual_features(pictures).zp, rtol=1e-4, atol=1e-5)
        expected = random_clip.visual_features(luminance.expand(-1, 3, -1, -1)).zp
        torch.testing.assert_close(gray, expected, rtol=1e-4, atol=1e-5)


def test_targets_contain_named_subspaces(people, random_clip, accelerator, tmp_path):
    images = open_images(people.train, people.root, (96, 48))

    def targets(**parameters: Any) -> Stage2Targets:
        run = Run(tmp_path / str(len(list(tmp_path.iterdir()))))
        given = small(**parameters), random_clip, images, run, accelerator, lambda record: None, Checkpoints(None)
        return stage1.prepare_targets(*given)

    plain = targets()
    assert plain.clothing is plain.person is plain.colour is None and plain.text.gray.shape == (8, 128)
    for name in ("head", "penalty"):
        clothing = targets(vocabulary_train=name).clothing
        torch.testing.assert_close(clothing, vocabulary.clothing_subspace(random_clip, 4))
    read = targets(vocabulary_train="targets")
    person = vocabulary.person_subspace(random_clip, 3)
    for part in (read.text.rgb, read.text.gray):
        torch.testing.assert_close(vocabulary.keep(part, person), part, rtol=1e-4, atol=1e-5)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(vocabulary.keep(plain.text.rgb, person), plain.text.rgb, rtol=1e-4, atol=1e-5)
    assert targets(hsf="orthogonal").colour.shape == (128, 4)
    assert targets(hsf="none").text is None
    lengths = targets(mdg="random").text.rgb.norm(dim=1)
    assert lengths == pytest.approx(lengths.mean().expand(8), rel=1e-4)


def test_heads_use_f_without_clothing_directions(random_clip):
    basis = vocabulary.clothing_subspace(random_clip, 4)
    clip = copy.deepcopy(random_clip)
    learner = training.build_learner(small(vocabulary_train="head"), clip, None, 8, Stage2Targets(clothing=basis))
    with torch.no_grad():
        embeddings, outputs = learner(torch.rand(4, 3, 96, 48, generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(outputs.triplet["f"] @ basis, torch.zeros(4, 4), rtol=0, atol=1e-4)
    assert (embeddings.f @ basis).abs().max() > 0.01


# ---------------------------------------------------------------- chance


def test_seed_determines_run_and_global_state_is_kept(people, tmp_path):
    experiment = small(vss="steer", hsf="convex")  # a ResNet from scratch too
    model = {}
    for name, seed in (("one", 0), ("same", 0), ("other", 1)):
        [chance(len(name)) for chance in (torch.manual_seed, np.random.seed, random.seed)]
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
        run = training.fit(experiment.model_copy(update={"seed": seed}), people, tmp_path / name)
        assert torch.equal(torch.get_rng_state(), before[0])
        assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]
        model[name] = run.path("model.safetensors").read_bytes()
    assert model["one"] == model["same"] and model["one"] != model["other"]
    texts = [(tmp_path / name / "text.safetensors").read_bytes() for name in ("one", "same", "other")]
    assert texts[0] == texts[1] != texts[2]


class Stop(Exception):
    pass


@pytest.mark.parametrize(("place", "again"), [((1, 2), 4), ((2, 1), 3), ((2, 2), 2)])
def test_epoch_is_recorded_once(people, tmp_path, uninterrupted, place, again, monkeypatch):
    """``report`` comes after a record is written: a run that is killed in it writes that record again."""
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    experiment, model, whole = uninterrupted

    def stop(record: dict[str, Any]) -> None:
        if (record["stage"], record["epoch"]) == place:
            raise Stop

    heard: list[dict[str, Any]] = []
    with pytest.raises(Stop):
        training.fit(experiment, people, tmp_path, report=stop)
    assert not (tmp_path / "model.safetensors").exists()
    run = training.fit(experiment, people, tmp_path, report=heard.append)
    assert run.path("model.safetensors").read_bytes() == model
    times = {"seconds", "images_per_second", "waiting"}
    assert [{k: v for k, v in record.items() if k not in times} for record in run.metrics()] == [
        {k: v for k, v in record.items() if k not in times} for record in whole
    ]
    assert len(heard) == again  # and not from the beginning


@pytest.fixture(scope="module")
def uninterrupted(people, tmp_path_factory) -> tuple[Experiment, bytes, list[dict[str, Any]]]:
    experiment = small(
        stage1_epochs=2, stage2_epochs=3, stage2_warmup=2, stage2_milestones=(2,), clothes_adversarial_weight=0.1
    )
    run = training.fit(experiment, people, tmp_path_factory.mktemp("whole"))
    assert [(record["stage"], record["epoch"]) for record in run.metrics()] == [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]
    return experiment, run.path("model.safetensors").read_bytes(), run.metrics()


def test_finished_run_is_not_trained_again(people, tmp_path):
    run, heard = training.fit(small(vss="steer"), people, tmp_path), []
    model, metrics = run.path("model.safetensors").read_bytes(), run.path("metrics.jsonl").read_bytes()
    assert training.fit(small(vss="steer"), people, tmp_path, report=heard.append) == run
    assert heard == [] and run.path("model.safetensors").read_bytes() == model
    assert run.path("metrics.jsonl").read_bytes() == metrics
    assert run.config == json.loads(small(vss="steer").model_dump_json())
    assert len(run.path("log.txt").read_text().splitlines()) == 2

    described, stored = training.read_descriptions(run), load_file(run.path("text.safetensors"))
    assert torch.equal(described.rgb, stored["rgb"]) and torch.equal(described.gray, stored["gray"])
    assert len(described.rgb) == people.train["person"].nunique()
    assert described.words_gray.shape[:2] == (len(described.rgb), run.config["prompt_tokens"])

    encoder, state = training.load_encoder(run), load_file(run.path("model.safetensors"))
    assert not encoder.training
    assert all(torch.equal(value, state[name]) for name, value in encoder.state_dict().items())
    images = open_images(people.query, people.root, SIZE).batch(range(4)).images
    with torch.no_grad():
        assert torch.isfinite(encoder(images).descriptor()).all()


def test_run_records_initial_checkpoints(people, tmp_path):
    experiment = small(vss="steer", hsf="none", stage2_epochs=0, resnet_checkpoint="embedded")
    run = training.fit(experiment, people, tmp_path / "run")
    file = backbones.TOWERS / "csgn-tiny-resnet.safetensors"
    known = {"clip": None, "resnet": hashlib.sha256(file.read_bytes()).hexdigest()}
    origin = json.loads(run.path("towers.json").read_text())
    terms = ["id_z12", "id_f", "id_c", "triplet_z11", "triplet_z12", "triplet_f", "triplet_c"]
    assert origin == {"checkpoints": known, "plugins": {}, "terms": terms}
    alone = training.fit(small(hsf="none", stage2_epochs=0), people, tmp_path / "alone")
    assert json.loads(alone.path("towers.json").read_text())["checkpoints"] == {"clip": None}


def test_missing_or_mismatched_model_is_named(people, tmp_path):
    with pytest.raises(InputError, match="config.json does not exist"):
        training.load_encoder(Run(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="text.safetensors does not exist: stage 1 of this run has not ended"):
        training.read_descriptions(Run(tmp_path / "nowhere"))
    with pytest.raises(Stop):
        training.fit(small(), people, tmp_path, report=lambda record: raise_stop())
    with pytest.raises(InputError, match="model.safetensors does not exist: the run is not finished"):
        training.load_encoder(Run(tmp_path))
    run = training.fit(small(), people, tmp_path)
    run.path("config.json").write_text(small(vss="steer").model_dump_json())
    words = (
        r"does not fit its config.json: its tensors differ: \d+ missing \(.*; restore both files from the same run, or"
    )
    with pytest.raises(InputError, match=words) as caught:
        training.load_encoder(run)
    assert len(str(caught.value)) < 400


def test_foreign_descriptions_are_refused(people, random_clip, accelerator, tmp_path):
    images, run, file = open_images(people.train, people.root, (96, 48)), Run(tmp_path), tmp_path / "text.safetensors"

    def targets(**parts: torch.Tensor) -> Stage2Targets:
        save_file(parts, file)
        given = small(), random_clip, images, run, accelerator, lambda record: pytest.fail("learned"), Checkpoints(None)
        return stage1.prepare_targets(*given)

    def both(*shape: int) -> dict[str, torch.Tensor]:
        return {"rgb": torch.zeros(shape), "gray": torch.zeros(shape)}

    words = torch.zeros(8, 4, 128)
    assert targets(**both(8, 128)).text.words_rgb is None  # of before words were kept
    assert targets(**both(8, 128), words_rgb=words, words_gray=words.clone()).text.words_gray.shape == (8, 4, 128)
    cure = "; remove it; the same command then learns the descriptions again"
    for parts, name in (
        (both(5, 128), "rgb is of shape (5, 128)"),
        (both(16, 128), "rgb is of shape (16, 128)"),
        (both(8, 64), "rgb is of shape (8, 64)"),
        (both(8), "rgb is of shape (8,)"),
        (both(8, 128) | {"gray": torch.zeros(5, 128)}, "gray is of shape (5, 128)"),
        (both(8, 128) | {"words_gray": words[:5]}, "words_gray is of shape (5, 4, 128)"),
    ):
        with pytest.raises(InputError) as caught:
            targets(**parts)
        has = "there are 8 identities and a CLIP of width 128"
        assert str(caught.value) == f"{file} does not fit this run: its {name}, and {has}{cure}, or name another folder"
    for parts, wrong in (
        (both(8, 128) | {"visual.proj": words}, "holds 'visual.proj', one of 1 foreign tensors"),
        ({"rgb": torch.zeros(8, 128)}, "lacks gray"),
    ):
        save_file(parts, file)
        for read in (lambda: training.read_descriptions(run), lambda parts=parts: targets(**parts)):
            with pytest.raises(InputError) as caught:
                read()
            assert str(caught.value) == f"{file} {wrong}, and descriptions are rgb, gray, words_rgb, words_gray{cure}"


def raise_stop() -> None:
    raise Stop


# ---------------------------------------------------------------- rates


def test_stage_2_learning_rate_schedule():
    experiment = small(stage2_warmup=2, stage2_milestones=(4, 6), stage2_epochs=8)
    by_hand = {0: 0.1, 0.5: 0.325, 1: 0.55, 1.5: 0.775, 2: 1, 3.9: 1, 4: 0.1, 5.9: 0.1, 6: 0.01, 8: 0.01}
    assert {epoch: stage2.lr_multiplier(experiment, epoch) for epoch in by_hand} == pytest.approx(by_hand)
    assert stage2.lr_multiplier(small(stage2_warmup=0, stage2_milestones=()), 0) == 1


def test_stage_1_learning_rate_schedule():
    experiment = small(stage1_lr=0.1, stage1_warmup=2, stage1_epochs=6)
    middle = (0.1 + 1e-6) / 2
    quarter = 1e-6 + (0.1 - 1e-6) * (1 + math.sqrt(0.5)) / 2
    by_hand = [0.05, 0.1, quarter, middle, 0.1 + 1e-6 - quarter, 1e-6]
    assert [stage1.prompt_lr(experiment, epoch) for epoch in range(1, 7)] == pytest.approx(by_hand)
    assert stage1.prompt_lr(small(stage1_warmup=9, stage1_lr=0.1), 1) == pytest.approx(0.1 / 9)


def test_steps_use_schedule_and_double_bias_rate(people, tmp_path, monkeypatch):
    taken: list[dict[str, float]] = []

    class Watched(torch.optim.Adam):
        def step(self, *args: Any) -> None:
            taken.append({group.get("name", "prompts"): group["lr"] for group in self.param_groups})
            super().step(*args)

    monkeypatch.setattr(torch.optim, "Adam", Watched)
    training.fit(
        small(vss="steer", stage1_epochs=2, stage1_warmup=2, stage1_lr=0.2, stage2_epochs=2, stage2_warmup=1,
              stage2_milestones=(1,), lr_vit=1e-5, lr_resnet=1e-3, lr_heads=1e-2),
        people, tmp_path,
    )  # fmt: skip
    assert [step["prompts"] for step in taken if "prompts" in step] == pytest.approx([0.1, 0.2])
    steps = [step for step in taken if "vit" in step]
    for factor, step in zip([0.1, 0.55, 0.1, 0.1], steps, strict=True):  # two epochs of two steps
        rates = {"vit": 1e-5, "resnet": 1e-3, "heads": 1e-2}
        rates |= {f"{name}_bias": 2 * rate for name, rate in rates.items()}
        assert step == pytest.approx({name: rates[name] * factor for name in step})


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (dict(batch_persons=8, batch_images=3, triplet_weight=1e39), "triplet_z11 became inf in epoch 1 of stage 2"),
        (dict(mdg="cross", mdg_cross_weight=1e39), "i2t_rgb_to_gray became inf in epoch 1 of stage 1"),
        (dict(lr_heads=1e38, stage2_epochs=2), "became nan.* in epoch [12] of stage 2"),
    ],
)
def test_non_finite_loss_names_term(people, tmp_path, parameters, message):
    with pytest.raises(InputError, match=message):
        training.fit(small(**parameters), people, tmp_path)
    assert not (tmp_path / "model.safetensors").exists()


def test_partial_tensor_files_are_removed(tmp_path):
    (tmp_path / ".model-x1y2.safetensors").write_bytes(b"half")
    save_tensors({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_loss_means_are_over_steps():
    terms = LossMeter()
    for value in (1.0, 2.0, 6.0):
        terms.add({"a": torch.tensor(value), "b": torch.tensor(-value)})
    log: list[str] = []
    here = StepContext(2, 7, ("x.png", "y.png"), [[0], [1], [0], [1, 0]], log.append)
    assert terms.means(here) == {"a": 3.0, "b": -3.0}
    terms = LossMeter.from_state(terms.state(), torch.device("cpu"))  # as if stopped there
    for value in (math.nan, 1.0):
        terms.add({"b": torch.tensor(value), "a": torch.tensor(0.0)})
    message = "loss term b became nan in epoch 7 of stage 2, step 4, with the images y.png, x.png; the update before"
    with pytest.raises(InputError, match=message):
        terms.means(here)
    assert log == ["loss term b became nan in epoch 7 of stage 2, step 4, with these images: y.png x.png"]


def test_loss_meter_uses_constant_number_of_kernels():
    """Each is a kernel that a GPU is given one by one, between recorded steps."""

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, operation, kinds, given=(), named=None):
            counts[-1] += not operation.is_view
            return operation(*given, **(named or {}))

    counts = []
    for size in (2, 12):
        terms, values = LossMeter(), {str(i): torch.tensor(float(i)) for i in range(size)}
        terms.add(values)
        counts.append(0)
        with Counting():
            terms.add(values)
    assert counts[0] == counts[1] <= 10


def test_stage_1_batches_are_copied_together(monkeypatch):
    person, steps = torch.tensor([4, 4, 0, 2, 0, 2, 2]), [torch.tensor(rows) for rows in ([5, 0, 1], [2, 4, 3], [6])]
    copies, to = [], torch.Tensor.to
    monkeypatch.setattr(torch.Tensor, "to", lambda value, *given: copies.append(1) or to(value, *given))
    found = [*stage1_batches(steps, person, torch.device("cpu"))]
    assert len(copies) == 1
    for rows, (there, *persons) in zip(steps, found, strict=True):
        assert there.tolist() == rows.tolist()
        for value, expected in zip(persons, mdg.BatchIdentities.of(person[rows]), strict=True):
            assert torch.equal(value, expected)
    assert not [*stage1_batches([], person, torch.device("cpu"))]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (dict(vss="resnet"), "vss=resnet has no joint embedding for text; set hsf=none"),
        (dict(vss="resnet", hsf="none", vocabulary_train="head"), "vocabulary_train=none"),
        (dict(hsf="none", vocabulary_train="targets"), "hsf=none has none"),
        (dict(hsf="orthogonal", mdg="random"), "mdg=random makes none"),
        (dict(hsf="orthogonal", mdg="second_rgb"), "mdg=second_rgb makes none"),
        (dict(batch_persons=9), "batch_persons=9, but the frame has 8"),
        (dict(clip_checkpoint="nowhere.pt"), "nowhere.pt"),
        (dict(vss="steer", resnet_checkpoint="nowhere.safetensors"), "nowhere.safetensors does not exist"),
        (dict(hsf="orthogonal", clothing_rank=8), "needs more training people than that, and .* has 8"),
    ],
)  # fmt: skip
def test_contradictions_and_missing_files_are_refused(people, tmp_path, parameters, message):
    with pytest.raises(InputError, match=message):
        training.fit(small(**parameters), people, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_missing_labels_are_found_before_training(people, tmp_path):
    bare = replace(people, train=people.train.assign(clothes=-1))
    for parameters in (dict(clothes_adversarial_weight=0.1), dict(sampler="clothes")):
        with pytest.raises(InputError, match="clothes labels"):
            training.fit(small(**parameters), bare, tmp_path / "run")
    with pytest.raises(InputError, match="no training images"):
        training.fit(small(), people.validation, tmp_path / "run")
    broken = people.train.copy()
    broken.loc[3, "path"] = "train/gone.png"
    with pytest.raises(InputError, match="listed files do not exist: 1 .*train/gone.png"):
        training.fit(small(), replace(people, train=broken), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_folder_of_another_experiment_is_refused(people, tmp_path):
    run = training.fit(small(mdg="random"), people, tmp_path)
    before = {path: path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file()}
    for parameters, name in (
        (dict(beta=0.25), "beta: 0.5, and now 0.25"),
        (dict(seed=1), "seed: 0, and now 1"),
        (dict(stage2_epochs=2), "stage2_epochs: 1, and now 2"),
    ):
        with pytest.raises(InputError, match=f"another {name}; remove this folder"):
            training.fit(small(mdg="random", **parameters), people, tmp_path)
    assert {path: path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file()} == before
    for damage in (lambda path: path.write_text("{"), Path.unlink):  # what stays was trained with nobody knows what
        damage(run.path("config.json"))
        with pytest.raises(InputError, match=r"config\.json.*bring the file back, or remove the folder"):
            training.fit(small(mdg="random"), people, tmp_path)
    run.path("config.json").write_bytes(before[run.path("config.json")])
    for gone in ("metrics.jsonl", "model.safetensors"):  # killed in its first epoch
        run.path(gone).unlink()
    shutil.rmtree(run.path("checkpoint"))
    with pytest.raises(InputError, match="another mdg"):  # else its random text would pass for learned
        training.fit(small(mdg="mutual"), people, tmp_path)
    fewer = replace(people, train=people.train.iloc[:-1])  # as if an image had been left out since
    with pytest.raises(InputError, match="its number of training images was 24, and is 23; name .*bring the data back"):
        training.fit(small(mdg="random"), fewer, tmp_path)
    run.path("text.safetensors").unlink()
    training.fit(small(mdg="mutual", stage1_epochs=0, stage2_epochs=0), people, tmp_path)


def test_data_problems_are_reported_before_training(people, tiny_root, tmp_path):
    copied = shutil.copytree(tiny_root, tmp_path / "data")
    data = replace(people, root=copied)
    image = copied / data.query["path"][1]
    image.write_bytes(image.read_bytes()[:200])
    alone = people.query.assign(camera=0, clothes=0), people.gallery.assign(camera=0, clothes=0)
    one = people.train[people.train["person"] == 0]
    leak = people.query.assign(person_label=people.train["person_label"][0])
    for benchmark, words in (
        (data, data.query["path"][1]),
        (replace(people, query=people.query.iloc[:0]), "no query image"),
        (replace(people, query=alone[0], gallery=alone[1]), "no protocol"),
        (replace(people, train=one), "1 training people"),
        (replace(people, query=leak), "people_in_train_and_test"),
    ):
        with pytest.raises(InputError, match=f"synthetic at .* is not ready: .*{words}"):
            training.fit(small(), benchmark, tmp_path / "run")
        assert not (tmp_path / "run").exists()
    training.check(small(), data)  # without ``images`` no image is opened
    with pytest.raises(InputError, match=data.query["path"][1]):
        training.check(small(), data, images=True)


def test_benchmark_with_other_name_is_recognised(tmp_path):
    root = trees.prcc(tmp_path / "PRCC")
    with pytest.raises(InputError, match="is not the embedded benchmark .*; set benchmark=prcc: "):
        synthetic.benchmark_for(Experiment.from_parameters(root=str(root)))


def test_only_training_data_must_be_unchanged(people, tiny_root, tmp_path):
    copied = shutil.copytree(tiny_root, tmp_path / "data")
    data = replace(people, root=copied)
    run = training.fit(small(stage1_epochs=0, mdg="random"), data, tmp_path / "run")
    model, before = run.path("model.safetensors").read_bytes(), json.loads(run.path("benchmark.json").read_text())
    (copied / data.query["path"][1]).write_bytes(b"mended")
    fewer = replace(data.without([data.gallery["path"][0]], "spoilt"), validation=data.validation)
    for changed in (data, fewer):
        assert training.fit(small(stage1_epochs=0, mdg="random"), changed, run.dir) == run
        after = json.loads(run.path("benchmark.json").read_text())
        assert after["training"] == before["training"] and after["manifest"] != before["manifest"]
    assert run.path("model.safetensors").read_bytes() == model
    image = copied / data.train["path"][0]
    image.write_bytes(image.read_bytes() + b"0")
    with pytest.raises(InputError, match="other data: its SHA-256 of the training data was .*bring the data back"):
        training.fit(small(stage1_epochs=0, mdg="random"), data, run.dir)


def test_moved_root_is_named(people, tmp_path):
    training.fit(small(mdg="random", root="/data/"), people, tmp_path / "run")
    training.fit(small(mdg="random", root="/data"), people, tmp_path / "run")
    with pytest.raises(InputError, match="begun with root=/data, and now root=/elsewhere; bring the data back there"):
        training.fit(small(mdg="random", root="/elsewhere"), people, tmp_path / "run")


def test_epoch_time_includes_earlier_processes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(steps.time, "time", lambda: now[0])
    saved: dict[str, Any] = {}

    class Kept:
        due = True

        def save(self, stage: int, epoch: int, step: int, state: dict[str, Any]) -> None:
            saved.update(state)

    state = steps.TrainingState({}, torch.device("cpu"))
    now[0] += 7.0
    state.keep(Kept(), StepContext(2, 1, (), [[]], print), 0)
    resumed = steps.TrainingState({}, torch.device("cpu"))
    resumed.load(saved)
    now[0] += 1000.0  # nothing ran
    resumed.begin_epoch()
    now[0] += 5.0
    assert resumed.seconds == pytest.approx(12.0)
    resumed.end_epoch(StepContext(2, 1, (), [[]], print))
    resumed.begin_epoch()
    assert resumed.seconds == 0.0


def test_image_features_report_progress(people, random_clip, accelerator, monkeypatch, capsys):
    monkeypatch.setattr(progress, "LONG", 0.0)
    monkeypatch.setattr(stage1, "CHUNK", 6)
    images = open_images(people.train, people.root, (96, 48))
    capsys.readouterr()  # decoding reports too
    training.frozen_features(random_clip, images, accelerator)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("stage 1: image features: 20 %, 6 of 24") and lines[-1].startswith(
        "stage 1: image features: 100 %, 24 of 24"
    )


# ---------------------------------------------------------------- options


def test_clothes_adversarial_loss_is_separate_term(people, tmp_path):
    plain = training.fit(small(stage1_epochs=0), people, tmp_path / "plain")
    adversarial = training.fit(small(stage1_epochs=0, clothes_adversarial_weight=0.5), people, tmp_path / "cal")
    (one,), (other,) = records(plain, 2), records(adversarial, 2)
    assert terms_of(other) - terms_of(one) == {"clothes_adversarial"} and other["clothes_adversarial"] > 0
    assert plain.path("model.safetensors").read_bytes() != adversarial.path("model.safetensors").read_bytes()
    assert load_file(plain.path("model.safetensors")).keys() == load_file(adversarial.path("model.safetensors")).keys()


def test_clothes_classifier_is_trained_separately(people):
    images = open_images(people.train, people.root, SIZE)
    clothes = stage2.ClothesAdversary(16, images, 0.05, random_stream(0, STREAMS["clothes"]), torch.device("cpu"))
    features = torch.randn(24, 16, generator=torch.Generator().manual_seed(0), requires_grad=True)
    batch = images.batch(range(24))
    embeddings = stage2.Embeddings(None, None, features, None)
    owned = {i: set(people.train.loc[people.train["person"] == i, "clothes"]) for i in range(8)}
    before = clothes.classifier.weight.detach().clone()
    first = clothes.terms(embeddings, batch, 2.0)["clothes_adversarial"]
    assert not torch.equal(clothes.classifier.weight, before) and features.grad is None
    learned = clothes.classifier.weight.grad.clone()
    first.backward()
    assert torch.equal(clothes.classifier.weight.grad, learned) and features.grad.abs().sum() > 0
    own = torch.tensor([[c in owned[int(person)] for c in range(24)] for person in batch.person])
    expected = losses.clothes_adversarial_loss(clothes.classifier, features, batch.clothes, own)
    assert float(first.detach()) == pytest.approx(2 * float(expected.detach()), rel=1e-6)


def test_weight_ema_equals_loop_and_survives_stop(people, tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", math.inf)
    experiment, seen = small(vss="steer", stage1_epochs=0, stage2_epochs=2, ema=0.7), []
    optimizer_step, build, learners = stage2.optimizer_step, training.build_learner, []
    monkeypatch.setattr(training, "build_learner", lambda *given: learners.append(build(*given)) or learners[-1])

    def spied(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        optimizer_step(loss, optimizer)
        seen.append({name: value.clone() for name, value in learners[-1].encoder.state_dict().items()})

    monkeypatch.setattr(stage2, "optimizer_step", spied)
    model = load_file(training.fit(experiment, people, tmp_path / "whole").path("model.safetensors"))
    for name in ("vit.conv1.weight", "join.gamma", "resnet.model.bn1.running_mean"):
        average = seen[0][name]
        for later in seen[1:]:
            average = 0.7 * average + 0.3 * later[name]
        torch.testing.assert_close(model[name], average, rtol=1e-5, atol=1e-7)
        assert not torch.equal(model[name], seen[-1][name])
    assert model["resnet.model.bn1.num_batches_tracked"] == seen[-1]["resnet.model.bn1.num_batches_tracked"] > 1

    def stop(record: dict[str, Any]) -> None:
        raise Stop

    with pytest.raises(Stop):
        training.fit(experiment, people, tmp_path / "stopped", report=stop)
    again = load_file(training.fit(experiment, people, tmp_path / "stopped").path("model.safetensors"))
    assert all(torch.equal(value, model[name]) for name, value in again.items())


def test_gradient_checkpointing_changes_memory_only(people, tmp_path):
    model = []
    for name, value in (("plain", None), ("recomputed", True)):
        experiment = small(stage1_epochs=0, gradient_checkpointing=value)
        run = training.fit(experiment, people, tmp_path / name)
        model.append(run.path("model.safetensors").read_bytes())
    assert model[0] == model[1]
    assert training.build_learner(experiment, *training.load_towers(experiment), 8, Stage2Targets()).encoder.recompute


@pytest.mark.parametrize("native", [True, False])
def test_bfloat16_is_used_where_the_cpu_has_it(native, people, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: native)
    cpu = torch.device("cpu")
    assert usable_precision("bf16", cpu) == ("bf16" if native else "fp32")
    assert usable_precision("fp32", cpu) == "fp32" and usable_precision("bf16", torch.device("cuda")) == "bf16"
    assert training.accelerator_for("bf16").mixed_precision == ("bf16" if native else "no")
    run = training.fit(small(precision="bf16", stage1_epochs=0, stage2_epochs=0), people, tmp_path)
    said = run.path("log.txt").exists() and "precision fp32 in place of bf16" in run.path("log.txt").read_text()
    assert said == (not native) and run.config["precision"] == "bf16"


def test_precision_can_change_between_runs(people, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "usable_precision", lambda precision, device: precision)
    for precision in ("bf16", "fp32", "bf16"):
        run = training.fit(small(precision=precision, stage1_epochs=0), people, tmp_path / precision)
    exact, rounded = (load_file(tmp_path / name / "model.safetensors") for name in ("fp32", "bf16"))
    assert all(value.dtype == torch.float32 for value in rounded.values())
    assert any(not torch.equal(exact[name], rounded[name]) for name in exact)
    assert run.dir == tmp_path / "bf16"


def test_loss_weights_scale_their_terms_only():
    weights = {
        "id_weight_vit": {"id_z12", "id_f"}, "id_weight_resnet": {"id_c"},
        "triplet_weight": {"triplet_z11", "triplet_z12", "triplet_f", "triplet_c"},
        "hsf_weight": {"text_rgb", "text_gray", "consistency"}, "consistency_weight": {"consistency"},
        "penalty_weight": {"vocabulary"},
    }  # fmt: skip
    stream = torch.Generator().manual_seed(0)
    widths = {"z11": 12, "z12": 12, "f": 8, "c": 6}
    embeddings = Embeddings(**{name: torch.randn(6, width, generator=stream) for name, width in widths.items()})
    outputs = Heads(widths, 3, stream)(embeddings)
    rgb, gray = (torch.randn(3, 8, generator=stream) for _ in range(2))
    targets = Stage2Targets(mdg.TextFeatures(rgb, gray), clothing=torch.eye(8)[:, :2])
    person = torch.arange(3).repeat_interleave(2)
    batch = Batch(torch.empty(6), person, person, person, torch.arange(6))

    def terms(**changed):
        base = dict(vss="steer", hsf="consistent", vocabulary_train="penalty")
        experiment = Experiment.from_parameters(**base, **changed)
        return training.stage2_terms(experiment, embeddings, outputs, batch, targets)

    plain = terms()
    for name, scaled in weights.items():
        for term, value in terms(**{name: 3 * getattr(Experiment.from_parameters(), name)}).items():
            torch.testing.assert_close(value, plain[term] * (3 if term in scaled else 1), msg=f"{name}: {term}")


# ---------------------------------------------------------------- a batch in parts


def learner_of(vss: str, parts: int, **changes: Any) -> training.Learner:
    experiment = small(vss=vss, hsf="none", batch_parts=parts, **changes)
    torch.manual_seed(0)
    clip, resnet = training.load_towers(experiment)
    return training.build_learner(experiment, clip, resnet, 4, Stage2Targets()).train()


def whole_loss(learner: training.Learner, images: torch.Tensor, kept: list[int] | None = None) -> torch.Tensor:
    """Triplet and identity over the batch; ``kept`` counts the numbers that the forward pass keeps."""
    kept = kept if kept is not None else []

    def keep(value: torch.Tensor) -> torch.Tensor:
        kept.append(value.numel())
        return value

    person = torch.arange(4).repeat_interleave(2)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
        _, outputs = learner(images)
    triplets = sum(losses.triplet_loss(features, person) for features in outputs.triplet.values())
    return triplets + sum(losses.identity_loss(logits, person) for logits in outputs.logits.values())


def test_batch_parts_give_whole_batch_gradients():
    images = torch.rand(8, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    found = {}
    for parts in (1, 4):
        learner, kept = learner_of("none", parts), []
        loss = whole_loss(learner, images, kept)
        loss.backward()
        found[parts] = loss.detach(), {name: value.grad for name, value in learner.named_parameters()}, sum(kept)
    torch.testing.assert_close(found[4][0], found[1][0])
    for name, gradient in found[1][1].items():
        torch.testing.assert_close(found[4][1][name], gradient, rtol=1e-4, atol=1e-6, msg=name)
    assert found[4][2] < 0.3 * found[1][2]


def test_batch_norms_update_once_per_part():
    images = torch.rand(8, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    learner, twin = learner_of("resnet", 2), learner_of("resnet", 1)
    whole_loss(learner, images).backward()
    made = [twin.encoder(part) for part in images.chunk(2)]  # without checkpoints, but part by part
    outputs = twin.heads(concatenate(made))
    person = torch.arange(4).repeat_interleave(2)
    loss = losses.triplet_loss(outputs.triplet["c"], person) + losses.identity_loss(outputs.logits["c"], person)
    loss.backward()
    for (name, value), other in zip(
        learner.encoder.state_dict().items(), twin.encoder.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(value, other, msg=name)
    for (name, value), other in zip(learner.named_parameters(), twin.parameters(), strict=True):
        if value.requires_grad:
            torch.testing.assert_close(value.grad, other.grad, rtol=1e-4, atol=1e-6, msg=name)
    assert all(norm.momentum == 0.1 for norm in learner.modules() if isinstance(norm, torch.nn.BatchNorm2d))


def test_run_in_parts_equals_whole(people, tmp_path):
    one, two = (
        training.fit(small(vss="none", batch_parts=parts), people, tmp_path / str(parts)).metrics() for parts in (1, 2)
    )
    for before, now in zip(one, two, strict=True):
        assert {name: now[name] for name in terms_of(now)} == pytest.approx(
            {name: before[name] for name in terms_of(before)}, rel=1e-3
        )
    with pytest.raises(InputError, match="batch_parts=3 does not divide a batch of 8 images"):
        training.fit(small(batch_parts=3), people, tmp_path / "3")


def test_compiled_run_equals_eager(people, tmp_path, monkeypatch):
    whole, made = torch.compile, []

    def captured(function: Any, **options: Any) -> Any:
        """Graphs as torch.compile takes them; writing C++ for them would take this test a minute, and a compiler."""
        made.append(function)
        return whole(function, backend="aot_eager", **options)

    monkeypatch.setattr(torch, "compile", captured)
    eager, compiled = (
        training.fit(small(vss="none", compile=given, stage1_epochs=0), people, tmp_path / str(given))
        for given in (None, True)
    )
    for before, now in zip(records(eager, 2), records(compiled, 2), strict=True):
        assert {name: now[name] for name in terms_of(now)} == pytest.approx(
            {name: before[name] for name in terms_of(before)}, rel=1e-3
        )
    weights = [load_file(run.path("model.safetensors")) for run in (eager, compiled)]
    blocks = len(training.load_towers(small(vss="none"))[0].visual.transformer.resblocks)
    assert weights[0].keys() == weights[1].keys() and len(made) == blocks
