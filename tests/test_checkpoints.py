"""A run that is stopped or killed at any step and resumed is bit-identical to an uninterrupted one."""

from __future__ import annotations

import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from small_runs import assert_same
from small_runs import small as small_run

from csgn_lib import datasets, training
from csgn_lib.batches import pixels
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run
from csgn_lib.training import checkpoints as places
from csgn_lib.training import steps
from csgn_lib.training.checkpoints import Checkpoints
from csgn_lib.training.cuda_graphs import adam, set_lr

small = partial(small_run, clothes_adversarial_weight=0.1)


@pytest.fixture(scope="module")
def whole(people, tmp_path_factory) -> Run:
    return training.fit(small(), people, tmp_path_factory.mktemp("whole"))


@pytest.fixture
def every_step(monkeypatch) -> None:
    monkeypatch.setattr(places, "SHARE", float("inf"))


def counted(monkeypatch, at: int, act: Callable[[], None]) -> list[int]:
    """Call ``act`` right after the ``at``-th step of descent, of both stages together; what was counted."""
    seen = [0]

    def optimizer_step(loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
        steps.optimizer_step(loss, optimizer)
        seen[0] += 1
        if seen[0] == at:
            act()

    for stage in (training.stage1, training.stage2):
        monkeypatch.setattr(stage, "optimizer_step", optimizer_step)
    return seen


class Crash(Exception):
    pass


def crash() -> None:
    raise Crash


def test_optimizer_state_moves_between_devices():
    """On a GPU rates are tensors there, and Adam one kernel; what was kept elsewhere must not change that."""
    home, other = (
        adam([{"params": [torch.nn.Parameter(torch.ones(2))], "lr": 0.5}], torch.device("cpu")) for _ in "ab"
    )
    other.param_groups[0]["params"][0].grad = torch.ones(2)
    other.step()
    state = other.state_dict()
    foreign = {"fused": True, "capturable": True, "lr": torch.tensor(0.25)}
    state["param_groups"] = [group | foreign for group in state["param_groups"]]
    home.load_state_dict(state)
    (group,) = home.param_groups
    assert (group["lr"], group["fused"], group["capturable"]) == (0.25, False, False)
    group["params"][0].grad = torch.ones(2)
    home.step()
    set_lr(group, 0.125)
    assert group["lr"] == 0.125
    held = {"lr": torch.tensor(0.5)}
    set_lr(held, 0.125)
    assert isinstance(held["lr"], torch.Tensor) and float(held["lr"]) == 0.125


# ---------------------------------------------------------------- stopped


@pytest.mark.parametrize("at", [1, 2, 3, 5, 6, 7, 9, 12, 14])
def test_crash_loses_one_step(people, whole, tmp_path, every_step, monkeypatch, at):
    with monkeypatch.context() as patch:
        counted(patch, at, crash)
        with pytest.raises(Crash):
            training.fit(small(), people, tmp_path)
    seen = counted(monkeypatch, 0, crash)
    assert_same(training.fit(small(), people, tmp_path), whole)
    steps = 2 * 3 + 2 * 2 * len(
        training.stage2.identity_sampler(small(), people.train)
    )  # CAL's classifier descends too
    assert seen[0] <= steps - at + 2  # what a crash loses is the step under way


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("at", [2, 8])
def test_sigterm_saves_and_run_resumes(people, whole, tmp_path, monkeypatch, capsys, number, at):
    monkeypatch.setattr(places, "SHARE", 0.0)  # nothing is saved but what the stop saves
    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        counted(patch, at, lambda: signal.raise_signal(number))
        with pytest.raises(KeyboardInterrupt):
            training.fit(small(), people, tmp_path)
    assert signal.getsignal(number) is before
    assert "stopping after this step" in capsys.readouterr().err
    assert len(list((tmp_path / "checkpoint").iterdir())) >= 1
    assert_same(training.fit(small(), people, tmp_path), whole)


def test_signal_handlers_are_restored_after_exception(people, tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Crash) as kept:  # the traceback holds the frames, and they the generator
        training.fit(small(stage1_epochs=0), people, tmp_path, report=lambda record: crash())
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before and kept


def test_second_signal_stops_immediately():
    checkpoints = Checkpoints(None)
    with pytest.raises(KeyboardInterrupt), checkpoints.handle_signals():
        signal.raise_signal(signal.SIGINT)
        assert checkpoints.due
        signal.raise_signal(signal.SIGINT)


KILLED = """
import json, os, random, signal, sys, time
from dataclasses import replace
from functools import partial
from pathlib import Path
import torch
torch.set_num_threads(1)
from csgn_lib import datasets, training
from csgn_lib.config import Experiment
from csgn_lib.training import checkpoints
checkpoints.SHARE = float("inf")
given = json.loads(sys.argv[1])
chance, experiment = random.Random(given["seed"]), Experiment.from_parameters(**given["experiment"])
people = datasets.load("synthetic", given["root"])
people = replace(people, train=people.train.groupby(["person", "clothes"]).head(1).reset_index(drop=True))
def start(folder):
    child = os.fork()
    if child == 0:
        training.fit(experiment, people, folder)
        os._exit(0)
    return child
began = time.monotonic()
assert os.waitpid(start(given["whole"]), 0)[1] == 0
longest, kills = 0.5 * (time.monotonic() - began), 0
while True:
    child = start(given["run"])
    time.sleep(chance.uniform(0.0, longest))
    os.kill(child, signal.SIGKILL)
    if os.waitpid(child, 0)[1] == 0:
        break
    kills, longest = kills + 1, longest * 1.05
files = [str(path) for path in Path(given["run"], "checkpoint").iterdir()]
print(json.dumps({"kills": kills, "files": files}))
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")
@pytest.mark.parametrize("seed", [0, 1])
def test_run_killed_at_random_equals_uninterrupted_run(tiny_root, tmp_path, seed):
    """SIGKILL, again and again, wherever it falls: between steps, in one, while a checkpoint is written."""
    folders = {name: str(tmp_path / name) for name in ("whole", "run")}
    given = folders | {"seed": seed, "root": str(tiny_root), "experiment": small().model_dump(mode="json")}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, json.dumps(given)], capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["kills"] >= 2
    kept = sum(file.endswith(".pt") and "new" not in file for file in told["files"])
    assert kept in (2, 3)  # a kill after the last checkpoint was written leaves the oldest one in place
    assert_same(Run(tmp_path / "run"), Run(tmp_path / "whole"))


# ---------------------------------------------------------------- damaged, or no room


def stopped(people: datasets.Benchmark, folder: Path, patch: pytest.MonkeyPatch, at: int = 12) -> list[Path]:
    """A run that crashed in stage 2, and its two checkpoints, the older one first."""
    with patch.context() as inner:
        counted(inner, at, crash)
        with pytest.raises(Crash):
            training.fit(small(), people, folder)
    return sorted((folder / "checkpoint").iterdir())


class Runs:
    """A pickle that leaves a mark when it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple:
        return (Path.touch, (self.mark,))


DAMAGES = {
    "empty": lambda data: b"",
    "cut off": lambda data: data[:-2000],
    "one bit": lambda data: data[:3000] + bytes([data[3000] ^ 1]) + data[3001:],
    "a pickle": lambda data: pickle.dumps({"epoch": 1}, protocol=2),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoint_falls_back_to_previous(people, whole, tmp_path, every_step, monkeypatch, damage):
    _, last = stopped(people, tmp_path, monkeypatch)
    last.write_bytes(DAMAGES[damage](last.read_bytes()))
    with pytest.warns(UserWarning, match=f"{last.name} is damaged .*what was saved before it is used"):
        run = training.fit(small(), people, tmp_path)
    assert_same(run, whole)
    assert f"{last.name} is damaged" in run.path("log.txt").read_text()


def test_malicious_checkpoint_is_refused(people, whole, tmp_path, every_step, monkeypatch):
    _, last = stopped(people, tmp_path / "run", monkeypatch)
    mark = tmp_path / "ran"
    last.write_bytes(pickle.dumps(Runs(mark), protocol=2))
    stage, epoch, step, _ = last.stem.split("-")
    last.rename(last.with_name(f"{stage}-{epoch}-{step}-{places._digest(last)}.pt"))
    with pytest.warns(UserWarning, match="is damaged"):
        run = training.fit(small(), people, tmp_path / "run")
    assert not mark.exists()
    assert_same(run, whole)


def test_no_intact_checkpoint_is_an_error(people, tmp_path, every_step, monkeypatch):
    both = stopped(people, tmp_path, monkeypatch)
    for file in both:
        file.write_bytes(b"hello")
    with pytest.warns(UserWarning), pytest.raises(InputError, match="no checkpoint in .* is whole; remove that folder"):
        training.fit(small(), people, tmp_path)
    assert all(file.read_bytes() == b"hello" for file in both)


@pytest.mark.parametrize("trouble", [torch.OutOfMemoryError("no memory"), ValueError("another shape")])
def test_incompatible_checkpoint_is_kept(people, whole, tmp_path, every_step, monkeypatch, trouble):
    both = stopped(people, tmp_path, monkeypatch)

    def refuse(optimizer: torch.optim.Adam, state: dict[str, Any]) -> None:
        raise trouble

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "load_state_dict", refuse)
        with pytest.raises(InputError, match="is whole, but cannot be put back .*nothing was removed"):
            training.fit(small(), people, tmp_path)
    assert sorted((tmp_path / "checkpoint").iterdir()) == both
    assert_same(training.fit(small(), people, tmp_path), whole)


def test_unreadable_checkpoint_is_not_reported_as_damaged(people, whole, tmp_path, every_step, monkeypatch):
    both = stopped(people, tmp_path, monkeypatch)

    def forbidden(file: Path) -> str:
        raise PermissionError(errno.EACCES, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr(places, "_digest", forbidden)
        with pytest.raises(InputError, match="cannot be read .*Permission denied"):
            training.fit(small(), people, tmp_path)
    assert sorted((tmp_path / "checkpoint").iterdir()) == both


def test_newer_checkpoints_are_removed_on_restart(people, whole, tmp_path, every_step, monkeypatch):
    stopped(people, tmp_path, monkeypatch)
    text = tmp_path / "text.safetensors"
    text.write_bytes(text.read_bytes()[:-100])
    with pytest.raises(InputError, match="text.safetensors is damaged .*remove it; the same command"):
        training.fit(small(), people, tmp_path)
    text.unlink()
    with monkeypatch.context() as patch:
        counted(patch, 3, crash)
        with pytest.raises(Crash):
            training.fit(small(), people, tmp_path)
    assert [path.name[:13] for path in sorted((tmp_path / "checkpoint").iterdir())] == [
        "1-0001-000001",
        "1-0001-000002",
    ]
    assert_same(training.fit(small(), people, tmp_path), whole)


@pytest.mark.parametrize(("at", "file"), [(6, "text.safetensors"), (14, "model.safetensors")])
def test_non_finite_weights_in_last_step_are_not_saved(people, tmp_path, monkeypatch, at, file):
    monkeypatch.setattr(places, "SHARE", 0.0)
    made: list[Any] = []
    for module, name in ((training.stage1.mdg, "PromptBank"), (training, "build_learner")):
        build = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, build=build, **k: made.append(build(*a, **k)) or made[-1])

    def spoil() -> None:
        for value in made[-1].parameters():
            value.data.fill_(float("nan"))

    counted(monkeypatch, at, spoil)
    with pytest.raises(InputError, match=f"{file} is not written: .* became nan or inf in the last step"):
        training.fit(small(), people, tmp_path)
    assert not (tmp_path / file).exists()


def test_export_folder_is_not_trained_over(people, whole, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(whole.path(name).read_bytes())
    with pytest.raises(InputError, match="holds a run with another seed: 0, and now 5"):
        training.fit(small(seed=5), people, tmp_path)


def test_damaged_only_checkpoint(people, whole, tmp_path, every_step, monkeypatch):
    first, last = stopped(people, tmp_path, monkeypatch, at=10)
    assert first.name.startswith("1-") and last.name.startswith("2-0001-000001")
    last.write_bytes(b"hello")
    with pytest.warns(UserWarning, match=f"{last.name} is damaged"):
        assert_same(training.fit(small(), people, tmp_path), whole)


def test_full_disk_keeps_checkpoint_and_run_resumes(people, whole, tmp_path, every_step, monkeypatch):
    def full(state: dict[str, Any], path: Path) -> None:
        Path(path).write_bytes(b"half of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    before = stopped(people, tmp_path, monkeypatch)
    with monkeypatch.context() as patch:
        patch.setattr(places.torch, "save", full)
        with pytest.raises(
            InputError, match=f"No space left on device.*free disk space.*continues from {before[-1].name}"
        ):
            training.fit(small(), people, tmp_path)
    assert sorted((tmp_path / "checkpoint").iterdir()) == before
    assert_same(training.fit(small(), people, tmp_path), whole)


def test_partial_files_are_removed(tmp_path):
    (tmp_path / ".new-abc.pt").write_bytes(b"half")
    Checkpoints(tmp_path).save(1, 1, 1, {"a": torch.zeros(1)})
    assert [path.name[:14] for path in tmp_path.iterdir()] == ["1-0001-000001-"]


def test_last_two_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for step in (1, 2, 10):
        checkpoints.save(2, 3, step, {"a": torch.tensor(step)})
    assert [path.name[:13] for path in sorted(tmp_path.iterdir())] == ["2-0003-000002", "2-0003-000010"]
    got: list[dict[str, Any]] = []
    assert checkpoints.restore(2, got.append) == (3, 10) and int(got[0]["a"]) == 10
    assert checkpoints.restore(1, got.append) == (1, 0) and len(got) == 1


def test_saving_respects_time_share(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(torch, "save", lambda state, path: now.__setitem__(0, now[0] + 2.0))
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.due  # the first step's: a disk without room is found out before hours are spent
    checkpoints.save(1, 1, 1, {})
    for later, due in ((0.0, False), (99.0, False), (101.0, True)):
        now[0] = 102.0 + later
        assert checkpoints.due is due
    assert not Checkpoints(None).due


# ---------------------------------------------------------------- numbers that are none


def test_non_finite_loss_names_images_and_keeps_checkpoint(people, whole, tmp_path, every_step, monkeypatch):
    count, terms_of = [0], training.stage2.stage2_terms

    def poisoned(experiment: Experiment, embeddings: Any, outputs: Any, batch: Any, targets: Any) -> dict[str, Any]:
        count[0] += 1
        named.append([people.train["path"][int(i)] for i in batch.index])
        terms = terms_of(experiment, embeddings, outputs, batch, targets)
        return terms | {"id_f": terms["id_f"] * (float("nan") if count[0] == 2 else 1.0)}

    named: list[list[str]] = []
    with monkeypatch.context() as patch:
        patch.setattr(training.stage2, "stage2_terms", poisoned)
        with pytest.raises(InputError, match="loss term id_f became nan in epoch 1 of stage 2, step 2") as error:
            training.fit(small(), people, tmp_path)
    assert ", ".join(named[1]) in str(error.value)
    assert " ".join(named[1]) in (tmp_path / "log.txt").read_text()
    assert [path.name[:13] for path in sorted((tmp_path / "checkpoint").iterdir())][-1] == "2-0001-000001"
    assert_same(training.fit(small(), people, tmp_path), whole)


def test_non_finite_step_is_located_later(people, tmp_path, monkeypatch):
    """No step waits for a number: an epoch's check, steps later, still names the first bad step's images."""
    monkeypatch.setattr(places, "SHARE", 0.0)
    count, terms_of = [0], training.stage2.stage2_terms

    def poisoned(experiment: Experiment, embeddings: Any, outputs: Any, batch: Any, targets: Any) -> dict[str, Any]:
        count[0] += 1
        terms = terms_of(experiment, embeddings, outputs, batch, targets)
        return terms | {"extra": torch.tensor(float("inf") if count[0] >= 2 else 1.0)}

    monkeypatch.setattr(training.stage2, "stage2_terms", poisoned)
    with pytest.raises(InputError, match="extra became inf in epoch 1 of stage 2, step 2"):
        training.fit(small(stage1_epochs=0, batch_persons=2), people, tmp_path)


def test_non_finite_weights_are_not_saved(people, tmp_path, every_step, monkeypatch):
    def overflow() -> None:
        learner[0].heads.classifiers["f"].weight.data[0, 0] = float("inf")

    learner: list[Any] = []
    build = training.build_learner
    monkeypatch.setattr(training, "build_learner", lambda *given: learner.append(build(*given)) or learner[-1])
    counted(monkeypatch, 10, overflow)
    with pytest.raises(InputError, match="weight heads.classifiers.f.weight became nan or inf in epoch 1 of stage 2"):
        training.fit(small(), people, tmp_path)
    last = sorted((tmp_path / "checkpoint").iterdir())[-1]
    state = torch.load(last, weights_only=True)["learner"]
    assert all(value.isfinite().all() for value in state.values())


# ---------------------------------------------------------------- a second start


def test_run_from_cache_equals_run_from_files(people, whole, tmp_path, monkeypatch):
    training.fit(small(), people, tmp_path / "first", cache_dir=tmp_path / "cache")
    monkeypatch.setattr(pixels, "_decode_one", lambda path, size: pytest.fail("decoded again"))
    assert_same(training.fit(small(), people, tmp_path / "second", cache_dir=tmp_path / "cache"), whole)


def test_finished_run_is_not_changed(people, tmp_path):
    run = training.fit(small(), people, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    training.fit(small(), people, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before and run.dir == tmp_path


def test_resume_requires_same_initial_weights(people, tmp_path, every_step, monkeypatch):
    stopped(people, tmp_path, monkeypatch)
    began = tmp_path / "towers.json"
    began.write_text('{"checkpoints": {"clip": "0123"}}')
    with pytest.raises(InputError, match="begun from another clip_checkpoint: its SHA-256 was 0123, and is None"):
        training.fit(small(), people, tmp_path)
    assert began.read_text() == '{"checkpoints": {"clip": "0123"}}'
