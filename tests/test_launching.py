"""Starting, stopping and resuming: notebook launchers, a real process that is stopped, every kind of state."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import notebook_launcher
from safetensors.torch import load_file
from small_runs import assert_same, small, told

from csgn_lib import training
from csgn_lib.__main__ import main
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run
from csgn_lib.training import checkpoints, trackers
from csgn_lib.training.checkpoints import Checkpoints

ALONE = {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}  # of a process that tests start


# ---------------------------------------------------------------- accelerate.notebook_launcher


@pytest.fixture(scope="module")
def plain(people, tmp_path_factory) -> Run:
    return training.fit(small(), people, tmp_path_factory.mktemp("plain"))


def test_notebook_launcher_with_one_process_is_identical(people, plain, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)  # whatever a notebook drew before
        notebook_launcher(training.fit, (small(), people, tmp_path), num_processes=1)
    assert_same(Run(tmp_path), plain)


LAUNCHED = """
import json, sys
from accelerate import notebook_launcher
from csgn_lib import datasets, training
from csgn_lib.config import Experiment

given = json.loads(sys.argv[1])
data = datasets.load("synthetic", given["root"])
eight = data.train[data.train.person < 8]
first = eight.groupby(["person", "clothes"]).head(1).reset_index(drop=True)
people = datasets.Benchmark(data.name, data.root, first, data.query, data.gallery)
experiment = Experiment.from_parameters(**given["experiment"])
arguments = (experiment, people, given["run"])
notebook_launcher(
    training.fit, arguments, num_processes=2, rdzv_backend="c10d", rdzv_endpoint="127.0.0.1:0", rdzv_id=given["run"]
)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the launcher forks")
def test_notebook_launcher_with_two_processes_equals_one(plain, tiny_root, tmp_path):
    given = {"root": str(tiny_root), "run": str(tmp_path / "run"), "experiment": small().model_dump(mode="json")}
    command = [sys.executable, "-c", LAUNCHED, json.dumps(given)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, env=os.environ | ALONE)
    assert done.returncode == 0, done.stderr[-4000:]
    run = Run(tmp_path / "run")
    for one, two in zip(told(plain), told(run), strict=True):
        assert two == pytest.approx(one, rel=1e-3)
    lines = [len(one.path("log.txt").read_text().splitlines()) for one in (plain, run)]
    assert lines[0] == lines[1]  # one of the two writes
    texts, models = ([load_file(one.path(name)) for one in (plain, run)]
                     for name in ("text.safetensors", "model.safetensors"))  # fmt: skip
    torch.testing.assert_close(texts[1], texts[0], rtol=1e-4, atol=1e-5)
    assert models[0].keys() == models[1].keys()
    # Adam turns the rounding of a gradient near zero into a step of a whole rate
    assert max(float((models[0][name] - value).abs().max()) for name, value in models[1].items()) < 2e-3


# ---------------------------------------------------------------- stopped in the middle of an epoch


class Stop(Exception):
    pass


@pytest.fixture
def saved(monkeypatch) -> Iterator[dict[str, Any]]:
    """Every step is saved. ``at``: after which (stage, epoch, step) a run stops; ``places``: where states were kept."""
    seen: dict[str, Any] = {"at": None, "places": []}
    save = Checkpoints.save

    def stopping(self: Checkpoints, stage: int, epoch: int, step: int, state: dict[str, Any]) -> None:
        save(self, stage, epoch, step, state)
        seen["places"].append((stage, epoch, step))
        if seen["at"] == (stage, epoch, step):
            raise Stop

    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))
    monkeypatch.setattr(Checkpoints, "save", stopping)
    yield seen


VARIANTS = {
    "ResNet, average, bf16, cross terms, a learned word for gray, jitter": dict(
        vss="steer", ema=0.8, precision="bf16", mdg="cross", mdg_modality="token", colour_jitter=0.7
    ),
    "ResNet, average, in parts, second RGB prompt, jitter": dict(
        vss="steer", ema=0.8, batch_parts=2, mdg="second_rgb", colour_jitter=0.7
    ),
}


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)
def test_stop_within_epoch_is_bit_identical(people, tmp_path, saved, changes):
    experiment = small(**changes)
    whole = training.fit(experiment, people, tmp_path / "whole")
    every, run = list(saved["places"]), Run(tmp_path / "run")
    for place in ((1, 2, 2), (2, 2, 1)):
        saved.update(at=place, places=[])
        with pytest.raises(Stop):
            training.fit(experiment, people, run.dir)
        stage, epoch, step = place
        assert (stage, epoch, step + 1) in every  # the epoch was not at its end
        assert (stage, epoch) not in [(record["stage"], record["epoch"]) for record in run.metrics()]
        assert saved["places"][0] == ((1, 1, 1) if stage == 1 else (1, 2, 3))  # it went on with the very next step
    saved.update(at=None, places=[])
    training.fit(experiment, people, run.dir)
    assert saved["places"] == every[every.index((2, 2, 1)) + 1 :]
    assert_same(run, whole)


# ---------------------------------------------------------------- a real process


@pytest.fixture
def home(tmp_path, monkeypatch) -> Iterator[Path]:
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def call(capsys, *arguments: str) -> tuple[int, str, str]:
    """(status, standard output, standard error) of one command, in this process."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def read_until(process: subprocess.Popen, start: str) -> list[str]:
    """What the process prints, up to and with the first line that begins so, and not a byte more."""
    lines: list[str] = []
    while not (lines and lines[-1].startswith(start)):
        line = process.stdout.readline()
        assert line, process.stderr.read().decode()
        lines.append(line.decode().rstrip("\n"))
    return lines


@pytest.mark.skipif(sys.platform != "linux", reason="SIGTERM, and a pipe whose size is chosen")
def test_csgn_train_prints_locks_and_stops(capsys, home, tiny_root):
    """One run of ``csgn train``: what it prints first, a second one in its folder, SIGTERM, the same command again.

    It cannot be over too early: nobody reads on, and a pipe of 4 KiB has no room for the lines of its 60 epochs.
    """
    given = dict(
        root=str(tiny_root), clip_checkpoint=None, resnet_checkpoint=None, image_height=48, image_width=24,
        precision="fp32", vss="none", stage1_epochs=60, stage2_epochs=1, batch_persons=4, batch_images=2,
    )  # fmt: skip
    run = Run(home / "run")
    settings = [f"--set={name}={'none' if value is None else value}" for name, value in given.items()]
    arguments = ["train", "--run-dir", str(run.dir), *settings]
    process = subprocess.Popen(
        [sys.executable, "-m", "csgn_lib", *arguments], env=os.environ | ALONE, bufsize=0, pipesize=4096,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        *before, first = read_until(process, "stage ")
        said = "\n".join(before)
        assert said.startswith(Experiment.from_parameters(**given).table() + "\n\nneeds at least, in all:\n")
        assert (
            "trained parameters x 16 bytes" in said and "pixels of 168 images" in said and "measured just now" in said
        )
        assert first.startswith("stage 1  epoch 1/60  ")

        status, _, err = call(capsys, *arguments)
        assert status == 2 and f"csgn: {run.dir} is in use by another process (pid {process.pid} on " in err
        assert (run.status["state"], run.status["pid"]) == ("running", process.pid)

        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=100)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert "stopping after this step" in err.decode()
    assert f"csgn: interrupted; the same command continues {run.dir}" in err.decode()
    assert run.status["state"] == "interrupted" and not run.path("model.safetensors").exists()
    last = run.metrics()[-1]["epoch"]
    assert 1 <= last < 60 and any(run.path("checkpoint").iterdir())

    status, out, _ = call(capsys, *arguments)
    assert status == 0 and re.search(rf"resumes in {re.escape(str(run.dir))} after stage 1  epoch \d+", out)
    assert run.status["state"] == "done" and run.path("model.safetensors").exists()
    assert f"stage 1  epoch {last}/60  " not in out  # nothing is done twice
    epochs = [(record["stage"], record["epoch"]) for record in run.metrics()]
    assert epochs == [*((1, epoch) for epoch in range(1, 61)), (2, 1)]


# ---------------------------------------------------------------- trackers


def test_tensorboard_receives_all_metrics(people, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = training.fit(small(tracker="tensorboard"), people, tmp_path / "run")
    (events,) = [path for path in run.path("tracker", "csgn").iterdir() if path.is_file()]
    read = EventAccumulator(str(events)).Reload()
    expected = {
        (f"stage{record['stage']}/{name}", record["epoch"]): value
        for record in run.metrics() for name, value in record.items() if name not in ("stage", "epochs")
    }  # fmt: skip
    found = {(tag, event.step): event.value for tag in read.Tags()["scalars"] for event in read.Scalars(tag)}
    assert found == pytest.approx(expected, rel=1e-5)
    assert not run.path("tracker", "wandb").exists()
    again = training.fit(small(), people, run.dir)  # a tracker is no part of what the run is
    assert (
        again.path("model.safetensors").read_bytes()
        == training.fit(small(), people, tmp_path / "plain").path("model.safetensors").read_bytes()
    )
    assert not (tmp_path / "plain" / "tracker").exists()


@pytest.mark.parametrize("tracker", ["wandb", "mlflow", "trackio"])
def test_missing_tracker_is_named_before_training(people, tmp_path, monkeypatch, tracker):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=f"tracker={tracker} needs a package .*pip install {tracker}"):
        training.fit(small(tracker=tracker), people, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_trackers_use_no_network(tmp_path, monkeypatch):
    """What accelerate is given: a folder of the run, and wandb's offline mode."""
    given: list[tuple] = []

    class Recorded:
        is_main_process = True

        def init_trackers(self, *arguments: Any) -> None:
            given.append(arguments)

    for name in ("MLFLOW_TRACKING_URI", "TRACKIO_DIR", "WANDB_MODE"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    for tracker in ("wandb", "mlflow", "trackio"):
        trackers.start_tracker(small(tracker=tracker), Run(tmp_path / "run"), Recorded())
    (_, config, wandb), (_, _, mlflow), (_, _, trackio) = given
    assert config["stage1_epochs"] == 2 and config["root"] == "None"
    assert wandb["wandb"]["mode"] == "offline" and wandb["wandb"]["dir"] == str(tmp_path / "run" / "tracker")
    assert os.environ["MLFLOW_TRACKING_URI"] == f"sqlite:///{tmp_path}/run/tracker/mlflow.db"
    assert os.environ["TRACKIO_DIR"] == str(tmp_path / "run" / "tracker")
    assert mlflow["mlflow"]["run_name"] == trackio["trackio"]["name"] == "run"
