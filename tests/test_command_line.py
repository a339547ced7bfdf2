"""Command-line interface: an input error is one line and status 2; a command prints where its result is."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from csgn_lib import figures, records, runs, synthetic
from csgn_lib.__main__ import app, main
from csgn_lib.config import Experiment
from csgn_lib.records import Run, write_json

NOTEBOOK = {
    "nbformat": 4,
    "nbformat_minor": 5,
    "metadata": {},
    "cells": [
        {
            "cell_type": "code", "id": "a", "metadata": {"tags": ["parameters"]},
            "outputs": [], "execution_count": None,
            "source": "beta: float = 0.5  # weight\nname: str = 'a'  # text\nlayers: tuple[int, ...] = (1,)  # blocks",
        }
    ],
}  # fmt: skip


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").mkdir()
    (tmp_path / "notebooks" / "12_train.ipynb").write_text(json.dumps(NOTEBOOK))
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def call(capsys, *arguments):
    """(status, standard output, standard error) of one command."""
    with pytest.raises(SystemExit) as left:
        main(list(arguments))
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "12_trian"], "did you mean '12_train'"),
        (["run", "12_train", "-p", "bta", "1"], "no parameter 'bta'; did you mean 'beta'"),
        (["run", "12_train", "-p", "beta", "high"], "beta = 'high'"),
        (["run", "12_train", "-p", "beta"], "write beta=VALUE"),
        (["train", "--preset", "dmo"], "unknown preset 'dmo' (did you mean 'demo'?)"),
        (["train", "--set", "hfs=none"], "unknown parameter 'hfs' (did you mean 'hsf'?)"),
        (["train", "--set", "beta=2"], "beta = 2"),
        (["train", "--set", "beta=0.1", "--set", "beta=0.2"], "'beta' is given twice, as '0.1' and as '0.2'"),
        (["run", "12_train", "-p", "beta", "0.1", "-p", "beta", "0.1"], "'beta' is given twice"),
        (["status", "--folder", "no/such/folder"], "no/such/folder is not a folder"),
        (["train", "--set", "benchmark=ltc", "--set", "root=x"], "'ltc'"),
        (["check", "ltc", "."], "'ltc'"),
        (["check", "ltcc", "no/such/folder"], "no/such/folder"),
    ],
)
def test_input_error_is_one_line_with_status_2(capsys, home, arguments, words):
    status, out, err = call(capsys, *arguments)
    assert status == 2 and out == ""
    assert err.startswith("csgn: ") and err.count("\n") == 1 and words in err
    assert not (home / "reports").exists()


def test_input_error_has_no_traceback(home):
    shell = subprocess.run(
        [sys.executable, "-m", "csgn_lib", "run", "x"], cwd=Path(__file__).parents[1], capture_output=True
    )
    assert shell.returncode == 2 and b"Traceback" not in shell.stderr and shell.stderr.startswith(b"csgn: notebook 'x'")


@pytest.mark.parametrize("arguments", [["fly"], ["run"], ["check", "ltcc"], ["demo", "--workers", "0"]])
def test_invalid_command_line_is_refused(capsys, arguments):
    assert call(capsys, *arguments)[0] == 2


def test_all_commands_are_listed():
    assert {command.callback.__name__ for command in app.registered_commands} == {
        "run",
        "train",
        "sweep",
        "status",
        "words",
        "check",
        "explain",
        "demo",
        "world",
        "embed",
        "search",
        "export",
        "score",
        "evaluate",
    }


@pytest.mark.parametrize("state", ["done", "failed", "died", "timed_out"])
def test_run_parses_values_and_returns_status_of_run(capsys, home, monkeypatch, state):
    seen = {}

    def execute(notebook, parameters, run_dir, timeout, echo):
        assert echo is sys.stderr  # so that a long run is seen to go on, and standard output is the folder alone
        seen.update(notebook=notebook, parameters=parameters, run_dir=run_dir, timeout=timeout)
        run = Run(home / "run")
        run.set_status(state, cell=3, error="ValueError: x")
        return run

    monkeypatch.setattr(runs, "execute", execute)
    arguments = ["-p", "beta", "0.25", "-p", "name=012", "--parameter", "layers", "[3, 5]", "--timeout", "9"]
    status, out, err = call(capsys, "run", "12_train", *arguments)
    assert seen == {
        "notebook": home / "notebooks" / "12_train.ipynb", "run_dir": None, "timeout": 9.0,
        "parameters": {"beta": 0.25, "name": "012", "layers": [3, 5]},
    }  # fmt: skip
    assert out.strip() == str(home / "run")
    assert status == (0 if state == "done" else 1)
    assert (err == "") == (state == "done") and (state == "done" or f"{state} in In [3]: ValueError: x" in err)


def _some_runs(home):
    Run(home / "reports/runs/a-1-s0").set_status("done", started=0.0, heartbeat=61.0, memory_mib=512)
    Run(home / "reports/runs/a-1-s0").append_metrics({"stage": 2, "epoch": 3, "epochs": 5})
    Run(home / "reports/runs/b-2-s0").set_status(
        "failed", started=1.0, heartbeat=2.0, error="ValueError:\n x", cell=3, cells=7
    )


def test_status_lists_the_runs(capsys, home):
    assert "no runs under" in call(capsys, "status")[1]
    _some_runs(home)
    for options in ([], ["--watch"], ["--folder", str(home / "reports/runs")]):  # no terminal here: once
        lines = call(capsys, "status", *options)[1].splitlines()
        assert lines[0].split() == ["run", "state", "at", "seconds", "MiB", "error"]
        assert lines[1].split() == ["a-1-s0", "done", "stage", "2,", "epoch", "3/5", "61.0", "512"]
        assert lines[2].split() == ["b-2-s0", "failed", "cell", "3/7", "1.0", "ValueError:", "x"]


def test_status_watch_refreshes_until_ctrl_c(capsys, home, monkeypatch):
    _some_runs(home)
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt
        Run(home / "reports/runs/c-3-s0").set_status("queued")

    monkeypatch.setattr("time.sleep", nap)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    status, out, _ = call(capsys, "status", "--watch")
    assert status == 0 and naps == [2, 2]
    first, second = out.split("\033[H\033[J")[1:]
    assert "c-3-s0" not in first and "c-3-s0" in second


def test_check_returns_1_for_errors(capsys, monkeypatch):
    from csgn_lib import datasets

    class Report:
        errors = ()

        def __str__(self):
            return "what was found"

    class Benchmark:
        def check(self):
            return report

    report = Report()
    monkeypatch.setattr(datasets, "load", lambda name, root: Benchmark())
    assert call(capsys, "check", "ltcc", ".")[:2] == (0, "what was found\n")
    report.errors = ("missing",)
    assert call(capsys, "check", "ltcc", ".")[0] == 1


def _outcomes(home, state="done", written=True):
    run = Run(home / "reports/runs/first-result")
    run.set_status(state)
    if written:
        frame = pd.DataFrame(
            {"row": ["chance"], "protocol": "general", "rank1": 0.5, "mean_ap": 0.25, "minp": 0.1, "counted": 4}
        )
        frame.to_csv(run.path("results.csv"), index=False)
    return [runs.Outcome(runs.Step("first result", "00_first_result"), run, state, 1.0, error="x" * (state != "done"))]


def test_demo_prints_table_and_report_path(capsys, home, monkeypatch):
    monkeypatch.setattr(runs, "demo", lambda **options: _outcomes(home))
    monkeypatch.setattr(synthetic, "ensure", lambda: None)
    status, out, _ = call(capsys, "demo")
    assert status == 0
    table = figures.results_table(pd.read_csv(home / "reports/demo/results.csv")).text
    assert out.rstrip().endswith(f"{table}\n\nopen {home / 'reports/demo/index.html'}")
    assert (home / "reports/demo/index.html").exists()
    assert json.loads((home / "reports/demo/seconds.json").read_text()) == {"first result": 1.0}
    assert json.loads((home / "reports/demo/runs.json").read_text()) == {"first result": "reports/runs/first-result"}


@pytest.mark.parametrize(("state", "written", "status"), [("failed", True, 1), ("died", False, 1), ("done", False, 2)])
def test_incomplete_demo_writes_no_report(capsys, home, monkeypatch, state, written, status):
    monkeypatch.setattr(runs, "demo", lambda **options: _outcomes(home, state, written))
    monkeypatch.setattr(synthetic, "ensure", lambda: None)
    left, _, err = call(capsys, "demo")
    assert left == status and err.startswith("csgn: ")
    assert not (home / "reports/demo").exists()


def test_train_records_final_state(capsys, home, monkeypatch):
    from csgn_lib import synthetic, training
    from csgn_lib.commands import running

    def fit(experiment, benchmark, folder, report, cache_dir):
        assert (experiment.seed, experiment.beta, benchmark) == (3, 0.25, "people")
        report({"stage": 2, "epoch": 1, "epochs": 2, "seconds": 1.5, "rate": 0.1, "id_f": 3.14159})
        assert runs.state(Run(folder)) == "running"
        if experiment.hsf == "sum":
            raise KeyboardInterrupt
        if experiment.hsf == "none":
            raise RuntimeError("no memory")
        return Run(folder)

    monkeypatch.setattr(training, "fit", fit)
    monkeypatch.setattr(synthetic, "benchmark_for", lambda experiment: "people")
    monkeypatch.setattr(running, "_score", lambda made, benchmark: print("mAP 50 %"))
    monkeypatch.setattr(running, "_announce", lambda experiment, benchmark, images: print("what it needs"))
    status, out, _ = call(capsys, "train", "--seed", "3", "--set", "beta=0.25", "--run-dir", str(home / "run"))
    assert status == 0
    epoch = "stage 2  epoch 1/2  1.5 s  rate 0.1  id_f 3.14"
    assert out.splitlines() == ["what it needs", epoch, "mAP 50 %", str(home / "run")]
    assert Run(home / "run").status["state"] == "done"
    run = Run(home / "stopped")
    run.append_metrics({"stage": 1, "epoch": 4, "epochs": 8})
    begun = Experiment.from_parameters(seed=3, beta=0.25, hsf="sum")
    write_json(run.path("config.json"), begun.model_dump(mode="json"))
    for name in ("1-0008-000003-ab", "2-0001-000007-cd"):  # resumes from the newest state, not the last whole epoch
        run.path("checkpoint").mkdir(exist_ok=True)
        run.path("checkpoint", f"{name}.pt").touch()
    again = ["train", "--seed", "3", "--set", "beta=0.25", "--set", "hsf=sum", "--run-dir", str(run.dir)]
    status, out, err = call(capsys, *again)
    assert status == 130 and f"resumes in {run.dir} after stage 2  epoch 1  step 7" in out
    assert "stage 2  epoch 1/2  1.5 s since step 7  rate 0.1" in out
    assert err == f"csgn: interrupted; the same command continues {run.dir}\n"
    assert (run.status["state"], run.status["error"]) == ("interrupted", runs.folders.STOPPED)
    assert run.status["key"] == runs.key(None, begun.model_dump(mode="json")) and len(run.status["key"]) == 8
    with pytest.raises(RuntimeError):  # a defect keeps its traceback, and status 1
        main(["train", "--seed", "3", "--set", "beta=0.25", "--set", "hsf=none", "--run-dir", str(home / "other")])
    assert Run(home / "other").status["state"] == "failed"


def test_full_disk_is_one_error_line(capsys, home, monkeypatch):
    from csgn_lib.commands import running

    monkeypatch.setattr(synthetic, "benchmark_for", lambda experiment: "people")

    monkeypatch.setattr(running, "_announce", lambda experiment, benchmark, images: None)

    def full(*given, **named):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.tempfile, "mkstemp", full)
    status, _, err = call(capsys, "train", "--run-dir", str(home / "run"))
    assert status == 2 and err == (
        f"csgn: {home / 'run' / 'status.json'} cannot be written (No space left on device); make room, or choose "
        "another place\n"
    )


def test_train_does_not_change_record_of_another_run(capsys, home, monkeypatch):
    monkeypatch.setattr(synthetic, "benchmark_for", lambda experiment: "people")
    run = Run(home / "run")
    run.set_status("done")
    run.append_metrics({"stage": 2, "epoch": 1})
    write_json(run.path("config.json"), Experiment.from_parameters().model_dump(mode="json"))
    before = {path: path.read_bytes() for path in run.dir.iterdir()}
    status, _, err = call(capsys, "train", "--set", "hsf=sum", "--run-dir", str(run.dir))
    assert status == 2 and "holds a run with another hsf" in err
    assert {path: path.read_bytes() for path in run.dir.iterdir()} == before


def _dry_run(capsys, *settings):
    arguments = [word for setting in settings for word in ("--set", setting)]
    return call(capsys, "train", "--dry-run", *arguments)


def test_dry_run_prints_parameters_and_cost_only(capsys, home, tiny_root):
    before = {path: path.stat().st_mtime_ns for path in [*home.rglob("*"), *tiny_root.rglob("*")]}
    status, out, _ = _dry_run(capsys, f"root={tiny_root}", "batch_persons=4", "beta=0.25", "stage2_milestones=[3, 4]")
    assert status == 0
    table, needs = out.rstrip("\n").split("\n\n")
    lines = table.splitlines()
    assert [line[2:].split()[0] for line in lines] == list(Experiment.model_fields)
    starred = {line[2:].split()[0]: line.split("   ")[-1].strip() for line in lines if line.startswith("* ")}
    assert starred == {
        "root": "demo: none", "batch_persons": "demo: 16", "beta": "demo: 0.5", "stage2_milestones": "demo: [4]",
    }  # fmt: skip
    assert len({line.index(line[2:].split()[1], 29) for line in lines}) == 1  # aligned
    assert "pixels of 168 images, 3 x 96 x 48 bytes each" in needs and "at least" in needs
    assert "5 epochs of" in needs and "for the backward pass" in needs and "GFLOP/s, measured" in needs
    assert {path: path.stat().st_mtime_ns for path in [*home.rglob("*"), *tiny_root.rglob("*")]} == before


def test_dry_run_does_not_render_benchmark(capsys, home):
    before = sorted(home.rglob("*"))
    status, out, _ = _dry_run(capsys)
    assert status == 0 and "pixels of 3,840 images" in out and not any(line[:1] == "*" for line in out.splitlines())
    assert sorted(home.rglob("*")) == before


def test_dry_run_refuses_invalid_training(capsys, home):
    status, out, err = _dry_run(capsys, "vss=resnet")
    assert (status, out) == (2, "") and "set hsf=none" in err
    assert _dry_run(capsys, "vit_stride=12")[2].startswith("csgn: vit_stride=12: csgn-tiny has patches of 8 pixels")
