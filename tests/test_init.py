"""Training that starts from a trained model: what is loaded, what is new, what is recorded, and what is refused."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_runs import small
from test_models import call

from csgn_lib import datasets, models, runs, training
from csgn_lib.records import InputError, Run, read_json

FEW = {"stage1_epochs": 1, "stage2_epochs": 1, "stage2_milestones": (7,)}


@pytest.fixture(scope="module")
def trained(people, tmp_path_factory) -> Run:
    """Not to be written to."""
    return training.fit(small(**FEW), people, tmp_path_factory.mktemp("trained"))


@pytest.fixture
def others(people) -> datasets.Benchmark:
    """Five of the eight people."""
    train = people.train[people.train.person >= 3].copy()
    return replace(people, train=train.assign(person=train.person - 3))


def test_stage_1_alone_is_redone_for_other_people_and_the_encoder_is_loaded(trained, others, tmp_path):
    run = training.fit(small(init=str(trained.dir), **FEW | {"stage2_epochs": 0}), others, tmp_path / "new")
    before, after = (load_file(one.path("model.safetensors")) for one in (trained, run))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert len(training.read_descriptions(run).rgb) == 5  # new: the trained run had eight people
    assert {record["stage"] for record in run.metrics()} == {1}


def test_stage_2_moves_on_from_the_trained_encoder_with_new_heads(trained, others, tmp_path):
    rates = {"lr_vit": 1e-9, "lr_heads": 1e-9}
    run = training.fit(small(init=str(trained.dir), **FEW | rates), others, tmp_path / "new")
    before, after = (load_file(one.path("model.safetensors")) for one in (trained, run))
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before if "in_proj_weight" in name}
    assert moved and all(0 < distance < 1e-6 for distance in moved.values())


def test_stage_1_is_not_repeated_for_the_same_images_and_parameters(trained, people, tmp_path):
    run = training.fit(small(init=str(trained.dir), **FEW), people, tmp_path / "again")
    assert {record["stage"] for record in run.metrics()} == {2}
    first, again = (training.read_descriptions(one) for one in (trained, run))
    assert torch.equal(first.rgb, again.rgb) and "stage 1 is not repeated" in run.path("log.txt").read_text()
    changed = training.fit(
        small(init=str(trained.dir), **FEW | {"stage1_lr": 1e-3, "stage2_epochs": 0}), people, tmp_path / "changed"
    )
    assert {record["stage"] for record in changed.metrics()} == {1}


def test_init_counts_by_content_and_is_recorded(trained, people, tmp_path):
    moved = Path(shutil.copytree(trained.dir, tmp_path / "moved"))
    here, there, none = (small(**FEW, **given) for given in ({"init": str(trained.dir)}, {"init": str(moved)}, {}))
    assert here.digest() == there.digest() != none.digest()
    keys = [runs.key(None, one.model_dump(mode="json")) for one in (here, there, none)]
    assert keys[0] == keys[1] != keys[2]
    run = training.fit(here, people, tmp_path / "run")
    files = (trained.path(name).read_bytes() for name in ("model.safetensors", "text.safetensors"))
    assert read_json(run.path("towers.json"))["init"] == "-".join(hashlib.sha256(data).hexdigest() for data in files)
    training.refuse_another(run, there, people)
    weights = load_file(moved / "model.safetensors")
    save_file(weights | {"vit_mean": weights["vit_mean"] + 0.1}, moved / "model.safetensors")
    assert there.digest() != here.digest()
    with pytest.raises(InputError, match="was begun with another init: SHA-256"):
        training.refuse_another(run, there, people)


def test_an_exported_folder_starts_a_training_too(trained, others, tmp_path, monkeypatch):
    from csgn_lib.models import exporting

    monkeypatch.setattr(exporting, "missing_packages", lambda: ["onnx"])
    monkeypatch.setattr(exporting, "export_program", lambda model, path: 0.0)  # seconds, tested elsewhere
    folder = models.export(trained.dir, tmp_path / "hub").folder
    run = training.fit(small(init=str(folder), **FEW | {"stage2_epochs": 0}), others, tmp_path / "new")
    again = models.export(run.dir, tmp_path / "again").folder
    assert json.loads((again / "config.json").read_text())["init"] == "hub"  # no path of this machine
    models.open_model(again, "cpu")


def _damaged(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _nan(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["vit.proj"][0, 0] = torch.nan
    save_file(weights, folder / "model.safetensors")


def _narrow(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["vit.proj"] = weights["vit.proj"][:, :8].contiguous()
    save_file(weights, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("broken", "changes", "message"),
    [
        (lambda folder: shutil.rmtree(folder), {}, "init=.*copy: it is not a folder; give a finished run's folder"),
        (lambda f: (f / "model.safetensors").unlink(), {}, "init=.*copy: it holds no model.safetensors; give a"),
        (lambda f: (f / "config.json").unlink(), {}, "copy/config.json does not exist; give the folder of a"),
        (_damaged, {}, "init: .*copy/model.safetensors is damaged .*; copy it again"),
        (_nan, {}, "init: .*model.safetensors holds NaN or infinity in vit.proj; start from another run"),
        (_narrow, {}, r"init: .*does not fit this run's encoder: vit.proj is \(\d+, 8\) in the file and"),
        (None, {"vss": "concat"}, "init=.*: it was trained with vss=none, and this run has vss=concat; set vss=none"),
        (None, {"image_height": 64}, "it was trained with image_height=48, .*image_height=64; set image_height=48"),
    ],
    ids=["folder", "weights", "config", "damaged", "nan", "narrow", "towers", "size"],
)
def test_what_cannot_be_started_from_is_refused_before_any_work(trained, people, tmp_path, broken, changes, message):
    copy = Path(shutil.copytree(trained.dir, tmp_path / "copy"))
    if broken:
        broken(copy)
    with pytest.raises(InputError, match=message):
        training.fit(small(init=str(copy), **FEW | changes), people, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_line_takes_a_bare_runs_name_and_names_what_is_missing(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    shutil.copytree(trained.dir, tmp_path / "reports" / "runs" / "mine")
    assert small(init="mine").digest() == small(init=str(trained.dir)).digest()
    status, _, err = call(capsys, "train", "--set", "init=absent")
    assert status == 2 and "init=absent: it is not a folder; give a finished run's folder" in err
