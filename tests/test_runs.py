"""Runs: headless notebooks and their states, folders and keys, sweeps, and the demo."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from csgn_lib import records, runs
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.runs import answers, execution, folders, machine, notebooks, sweeps
from csgn_lib.runs.demo import Outcome, Step
from csgn_lib.runs.progress import Progress

PARAMETERS = """beta: float = 0.5  # weight
seed: int = 0  # seed
root: str | None = None  # folder
layers: tuple[int, ...] = (3, 11)  # blocks
name = "plain"  # no annotation
"""


def write_notebook(path, *sources, parameters=PARAMETERS):
    def cell(source, tags=()):
        metadata = {"tags": list(tags)} if tags else {}
        return {"cell_type": "code", "metadata": metadata, "source": source, "outputs": [], "execution_count": None}

    cells = ([cell(parameters, ["parameters"])] if parameters else []) + [cell(source) for source in sources]
    for index, made in enumerate(cells):
        made["id"] = f"cell-{index}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells}))
    return path


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    return tmp_path


# ---- one notebook in a kernel of its own: four kernels for the whole file


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """Five notebooks run side by side: one that works, and one for each way to fail."""
    home = tmp_path_factory.mktemp("executed {home}")  # a space and braces: papermill reads paths as formats
    tell = "from csgn_lib import runs\nfrom csgn_lib.records import write_json\nimport os, sys, time\n"
    works = tell + (
        "write_json(runs.current('works').path('results.json'), {'beta': beta, 'layers': layers, 'root': root,"
        " 'seed': seed, 'python': sys.executable, 'threads': os.environ['OMP_NUM_THREADS']}); print('epoch', 1)"
    )
    sleeps = tell + (
        "import subprocess\nworker = subprocess.Popen(['sleep', '600'])\n"
        "write_json(runs.current('sleeps').path('pid.json'), worker.pid)\ntime.sleep(600)"
    )
    made = {
        "works": write_notebook(home / "works.ipynb", works),
        "fails": write_notebook(home / "fails.ipynb", "1 + 1", "raise ValueError('no such person')", "2"),
        "dies": write_notebook(home / "dies.ipynb", "import os, signal", "os.kill(os.getpid(), signal.SIGKILL)", "3"),
        "sleeps": write_notebook(home / "sleeps.ipynb", sleeps, parameters=None),
        "slow": write_notebook(home / "slow.ipynb", "import time; time.sleep(600)", parameters=None),
    }
    given = {"beta": np.float32(0.25), "layers": (1, np.int64(2)), "root": Path("some") / "folder", "seed": 3}
    stop, echo = threading.Event(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(5) as pool:
        patch.setenv("CSGN_HOME", str(home))
        futures = {
            "works": pool.submit(runs.execute, made["works"], given, threads=1, echo=echo),
            "fails": pool.submit(runs.execute, made["fails"]),
            "dies": pool.submit(runs.execute, made["dies"]),
            "sleeps": pool.submit(runs.execute, made["sleeps"], run_dir=home / "asleep", stop=stop),
            "slow": pool.submit(runs.execute, made["slow"], timeout=0.5),
        }
        while not (home / "asleep" / "pid.json").exists() and not futures["sleeps"].done():
            time.sleep(0.1)
        while_running = runs.table(home)  # asleep lies there; the others below reports/runs
        with pytest.raises(InputError, match="in use"):
            runs.execute(made["sleeps"], run_dir=home / "asleep")
        stop.set()
        results = {name: future.result() for name, future in futures.items()}
        return results | {"while_running": while_running, "table": runs.table(), "home": home, "echo": echo.getvalue()}


def test_run_receives_plain_values_and_interpreter(executed):
    run = executed["works"]
    assert run.status["state"] == "done"
    assert run.results == {
        "beta": 0.25, "layers": [1, 2], "root": "some/folder", "seed": 3, "python": sys.executable, "threads": "1",
    }  # fmt: skip
    assert run.config == {"beta": 0.25, "seed": 3, "root": "some/folder", "layers": [1, 2], "name": "plain"}
    assert run.dir.name == f"works-{run.status['key']}-s3"
    assert {path.name for path in run.dir.iterdir()} == {
        ".lock", "config.json", "environment.json", "executed.ipynb", "results.json", "status.json",
    }  # fmt: skip


def test_notebook_runs_from_path_with_space_and_umlaut(tmp_path):
    checkout = tmp_path / "csgn wörk"
    source = "import csgn_lib\nassert 'csgn wörk' in csgn_lib.__file__"
    write_notebook(checkout / "notebooks" / "a.ipynb", source, parameters=None)
    (checkout / "csgn_lib").symlink_to(machine.LIBRARY)
    variables = os.environ | {"PYTHONPATH": str(checkout), "CSGN_HOME": str(checkout)}
    command = [sys.executable, "-m", "csgn_lib", "run", "a"]
    done = subprocess.run(command, cwd=checkout, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert runs.state(Run(Path(done.stdout.strip()))) == "done" and done.stdout.startswith(str(checkout))


def test_cell_output_is_echoed(executed):
    assert executed["echo"] == "epoch 1\n"


def test_failed_run_names_cell(executed):
    status = executed["fails"].status
    assert (status["state"], status["cell"], status["error"]) == ("failed", 3, "ValueError: no such person")


@pytest.mark.parametrize(
    ("name", "state", "word"),
    [("dies", "died", "memory"), ("sleeps", "interrupted", "stopped"), ("slow", "timed_out", "0.5 s")],
)
def test_killed_run_is_not_completed(executed, name, state, word):
    run = executed[name]
    assert run.status["state"] == state and word in run.status["error"]
    if run.path("executed.ipynb").exists():  # the slow one may be stopped before papermill writes
        copy = json.loads(run.path("executed.ipynb").read_text())
        assert copy["metadata"]["csgn"]["state"] == state and copy["metadata"]["papermill"]["exception"] is True
        assert state in "".join(copy["cells"][0]["source"])
    assert not run.path(".executing.ipynb").exists()


def test_stopped_run_leaves_no_worker(executed):
    pid = json.loads(executed["sleeps"].path("pid.json").read_text())
    for _ in range(100):
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return
        if (
            Path(f"/proc/{pid}/stat").exists()
            and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
        ):
            return  # dead; its own parent is gone, and whoever adopted it has not asked yet
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("a worker survived its run")


def test_table_contains_state_parameters_and_results(executed):
    table = executed["table"].assign(name=lambda frame: frame["run"].str.split("-").str[0]).set_index("name")
    assert dict(table["state"]) == {"works": "done", "fails": "failed", "dies": "died", "slow": "timed_out"}
    assert table.loc["works", ["beta", "seed", "threads"]].tolist() == [0.25, 3, "1"]
    assert executed["while_running"].set_index("run")["state"].to_dict() == {"asleep": "running"}


def test_folder_does_not_mix_experiments(executed):
    run, notebook = executed["works"], executed["home"] / "works.ipynb"
    before = run.path("status.json").read_bytes()
    with pytest.raises(InputError, match="beta = 0.25, not 0.5"):
        runs.execute(notebook, run_dir=run.dir)
    assert run.path("status.json").read_bytes() == before


# ---- parameters, before any kernel


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"bta": 1.0}, "has no parameter 'bta'; did you mean 'beta'?"),
        ({"beta": "0.5"}, "beta = '0.5'"),
        ({"beta": float("nan")}, "beta = nan: must be finite"),
        ({"seed": 1.5}, "seed = 1.5"),
        ({"seed": True}, "seed = True"),
        ({"root": 3}, "root = 3"),
        ({"layers": ("a",)}, "layers = ('a',)"),
        ({"name": 3}, "name = 3"),
        ({"name": object()}, "name: a object cannot be given"),
    ],
)
def test_invalid_parameter_is_refused_before_writing(home, parameters, words):
    notebook = write_notebook(home / "a.ipynb", "1")
    with pytest.raises(InputError) as error:
        runs.execute(notebook, parameters)
    assert words in str(error.value)
    assert [path.name for path in home.iterdir()] == ["a.ipynb"]


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"hsf": "consistant"}, "parameter hsf = 'consistant'"),
        ({"beta": 1.5}, "parameter beta = 1.5"),
        ({"preset": "dmo"}, "unknown preset 'dmo' (did you mean 'demo'?)"),
        ({"more": {"flipp": 0.5}}, "unknown parameter 'flipp' (did you mean 'flip'?)"),
    ],
)
def test_invalid_experiment_is_refused_before_writing(home, parameters, words):
    source = 'preset: str = "demo"\nhsf: str = ""\nbeta: float | None = None\nmore: dict = {}'
    notebook = write_notebook(home / "a.ipynb", "1", parameters=source)
    with pytest.raises(InputError) as error:
        runs.execute(notebook, parameters)
    assert words in str(error.value)
    assert [path.name for path in home.iterdir()] == ["a.ipynb"]


def test_missing_notebook_suggests_nearest(home):
    write_notebook(home / "notebooks" / "12_train.ipynb")
    assert runs.find("12_train") == runs.find("12_train.ipynb") == home / "notebooks" / "12_train.ipynb"
    with pytest.raises(InputError, match="'12_trian' does not exist; did you mean '12_train'"):
        runs.execute("12_trian")
    with pytest.raises(InputError, match="elsewhere/12_train.ipynb' does not exist"):
        runs.execute("elsewhere/12_train.ipynb")


def test_invalid_notebook_is_refused(home):
    (home / "a.ipynb").write_text('{"cells": 3}')
    with pytest.raises(InputError, match="a.ipynb is not a notebook"):
        runs.execute(home / "a.ipynb")
    (home / "a.py").write_text("1")
    with pytest.raises(InputError, match="must end in .ipynb"):
        runs.execute(home / "a.py")


def test_types_from_annotation_or_default(home):
    known = runs.declared(write_notebook(home / "a.ipynb"))
    assert [(p.name, p.type, p.default) for p in known.values()] == [
        ("beta", float, 0.5), ("seed", int, 0), ("root", str | None, None), ("layers", tuple[int, ...], (3, 11)),
        ("name", str, "plain"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (float, "0.5", 0.5), (float, "1", 1.0), (int, "3", 3), (bool, "true", True), (bool, "False", False),
        (str, "012", "012"), (str, "none", "none"), (str | None, "none", None), (str | None, "12", "12"),
        (list[int], "[1, 2]", [1, 2]), (tuple[int, ...], "(1, 2)", [1, 2]), (dict, '{"a": 1}', {"a": 1}),
    ],
)  # fmt: skip
def test_command_line_text_is_parsed_by_type(type_, text, value):
    assert runs.from_text(type_, text, "x") == value
    assert type(runs.from_text(type_, text, "x")) is type(value)


@settings(deadline=None, max_examples=50)  # no clock: machines differ
@given(
    st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(), st.lists(st.integers()))
)
def test_printed_value_is_parsed_back(value):
    assert runs.from_text(type(value), repr(value), "x") == value


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.tuples(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=50)  # no clock: machines differ
@given(values)
def test_plain_values_survive_json(value):
    once = notebooks.plain(value)
    assert json.loads(json.dumps(once)) == once == notebooks.plain(once)


# ---- folders, keys and states


def test_key_covers_parameters_and_code_only(home):
    notebook = write_notebook(home / "a.ipynb", "1 + 1")
    config = {"beta": 0.5, "seed": 0}
    key = folders.key(notebook, config)
    assert folders.key(notebook, config | {"seed": 7}) == key
    assert folders.key(notebook, config | {"beta": 0.25}) != key
    document = json.loads(notebook.read_text())
    document["cells"].append({"cell_type": "markdown", "metadata": {}, "source": "prose", "id": "m"})
    notebook.write_text(json.dumps(document))
    assert folders.key(notebook, config) == key
    assert folders.key(write_notebook(home / "a.ipynb", "1 + 2"), config) != key


def test_library_digest_ignores_comments(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "LIBRARY", tmp_path)
    module, digests = tmp_path / "m.py", []
    for text in ('"""A."""\nx = 1  # b\n', '"""Another."""\n\nx = 1\n', "x = 2\n"):
        module.write_text(text)
        os.utime(module, ns=(len(digests), len(digests)))
        digests.append(machine.library_digest())
    assert digests[0] == digests[1] != digests[2]


def test_run_without_process_or_heartbeat_has_died(tmp_path):
    run = Run(tmp_path / "r")
    assert runs.state(run) == "missing"
    run.set_status("running", heartbeat=time.time())
    assert runs.state(run) == "running"  # this process lives
    run.set_status("running", heartbeat=time.time(), pid=2**22 + 1)
    assert runs.state(run) == "died"
    run.set_status("running", heartbeat=time.time(), process_start=5.0)
    assert runs.state(run) == "died"  # another process has this number now
    run.set_status("queued")
    assert runs.state(run) == "queued"
    run.set_status("queued", pid=2**22 + 1)
    assert runs.state(run) == "interrupted"  # its sweep will not come back to it
    run.set_status("running", heartbeat=time.time(), host="elsewhere", pid=1)
    assert runs.state(run) == "running"
    run.set_status("running", heartbeat=time.time() - 1000, host="elsewhere", pid=1)
    assert runs.state(run) == "died"


DAMAGE = {
    "status.json": [b"{", b"null", b"[1]", b"\xff", b"3", b'{"state": "done"}', b'{"state": "running", "time": "x"}'],
    "results.json": [b"[1]", b"null", b"\xff\xfe", b"{"],
    "config.json": [b"[1]", b"{"],
    "metrics.jsonl": [b"\xff\xfe\n", b"[1]\n", b"{\n"],
}


@pytest.mark.parametrize(("file", "damage"), [(file, damage) for file, kinds in DAMAGE.items() for damage in kinds])
def test_table_names_damaged_file(home, file, damage):
    for name in ("good", "bad"):
        Run(home / "reports/runs" / name).set_status("done", parameters={"beta": 0.5}, seconds=2.0)
        results = {"plain": {"general": {"mean_ap": 0.5, "interval": [0, 1]}}}
        write_json(home / "reports/runs" / name / "results.json", results)
    (home / "reports/runs/bad" / file).write_bytes(damage)
    table = runs.table().set_index("run")
    assert table["state"].to_dict() == {"good": "done", "bad": "damaged"}
    assert table.loc["good", "beta"] == 0.5 and table.loc["good", "plain.general.mean_ap"] == 0.5
    assert file in table.loc["bad", "error"] and len(runs.listing()) == 3


@settings(deadline=None, max_examples=100)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["state", "time", "pid", "started", "parameters", "cell", "x"]), inner)
        ),
        max_leaves=6,
    )
)
def test_listing_survives_any_json_in_status(tmp_path_factory, value):
    folder = tmp_path_factory.mktemp("runs")
    Run(folder / "good").set_status("done")
    (folder / "bad").mkdir()
    (folder / "bad/status.json").write_text(json.dumps(value))
    assert len(runs.listing(folder)) == 3 and "good" in runs.table(folder)["run"].tolist()


@pytest.mark.parametrize(
    ("named", "used"),
    [("0,-1,1", ["0"]), ("0, 2", ["0", "2"]), ("-1", []), ("", []), ("GPU-8f2,MIG-1", ["GPU-8f2", "MIG-1"])],
)
def test_visible_gpus_stop_at_first_invalid(monkeypatch, named, used):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert machine.gpus() == used


def test_empty_table_has_columns(home):
    assert list(runs.table()) == ["run", "state", "at", "seconds", "memory_mib", "error"] and runs.table().empty


@pytest.mark.parametrize(
    ("error", "state"), [(None, "done"), (ValueError("x"), "failed"), (KeyboardInterrupt(), "interrupted")]
)
def test_recorded_block_writes_final_state(tmp_path, error, state):
    run = Run(tmp_path / "r")
    try:
        with runs.recorded(run, parameters={"beta": 1}):
            assert run.status["state"] == "running"
            if error:
                raise error
    except BaseException as raised:
        assert raised is error
    assert run.status["state"] == state and run.status["parameters"] == {"beta": 1}


def test_unwritable_status_does_not_hide_error(tmp_path, monkeypatch):
    def full(*given: object, **named: object) -> None:
        raise OSError(28, "No space left on device")

    run = Run(tmp_path / "r")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="no room for a checkpoint"):
        with runs.recorded(run):
            patch.setattr(records.tempfile, "mkstemp", full)
            raise InputError("no room for a checkpoint")
    with monkeypatch.context() as patch, pytest.raises(InputError, match="status.json cannot be written"):
        with runs.recorded(run):  # what was done, and cannot be noted, must not pass for done
            patch.setattr(records.tempfile, "mkstemp", full)


DECIDE = [
    "losses.py", "batches/sampling.py", "datasets/protocols.py", "backbones/weights/csgn-tiny.safetensors",
    "statistics/intervals.py", "config.py",
]  # fmt: skip
DECIDE_NOT = [
    "figures/plots.py",
    "panels/board.py",
    "runs/sweeps.py",
    "__main__.py",
    "style.mplstyle",
    "models/opening.py",
]


@pytest.fixture
def library(tmp_path, monkeypatch):
    """Files with the names of the library's, which a test may edit; returns a function that appends to one of them."""
    for name in DECIDE + DECIDE_NOT:
        assert (machine.LIBRARY / name).is_file()
        (tmp_path / "csgn_lib" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "csgn_lib" / name).write_text("value = 1\n")
    monkeypatch.setattr(machine, "LIBRARY", tmp_path / "csgn_lib")
    monkeypatch.setattr(machine, "_git", lambda: None)

    def edit(name):
        with (tmp_path / "csgn_lib" / name).open("a") as file:
            file.write("edited = 1\n")

    return edit


@pytest.mark.parametrize(("files", "decides"), [(DECIDE, True), (DECIDE_NOT, False)])
def test_key_covers_core_but_not_workbench(home, library, files, decides):
    notebook = write_notebook(home / "a.ipynb", "1")
    for file in files:
        key, recorded = folders.key(notebook, {}), machine.environment()
        library(file)
        now = machine.environment()
        assert (folders.key(notebook, {}) != key) == decides, file
        assert (now["core"] != recorded["core"]) == decides and now["library"] != recorded["library"], file


@pytest.mark.parametrize("begin", ["csgn train", "csgn run"])
def test_resume_depends_on_core_code_only(home, library, begin):
    run = Run(home / "run")
    notebook = write_notebook(home / "a.ipynb", "1")
    given = notebooks.checked(notebook, {})

    def resume():
        if begin == "csgn run":
            return execution._refuse_other(run, notebook, given)
        with runs.recorded(run):
            return None

    with runs.recorded(run, notebook="a.ipynb", parameters=given):
        run.append_metrics({"stage": 1, "epoch": 1})
    for file in DECIDE_NOT:
        library(file)
    resume()
    library("losses.py")
    before = run.path("status.json").read_bytes()
    with pytest.raises(InputError, match="was trained by other core code .*now "):
        resume()
    assert run.path("status.json").read_bytes() == before
    run.path("metrics.jsonl").unlink()
    resume()  # nothing was trained there yet


def test_key_covers_content_of_named_files(home):
    notebook, checkpoint = write_notebook(home / "a.ipynb", "1"), home / "weights.safetensors"
    checkpoint.write_text("1")
    values = {"more": {"clip_checkpoint": str(checkpoint)}, "name": "x" * 5000, "layers": ["\0"]}
    key = folders.key(notebook, values)
    assert folders.key(notebook, values) == key and folders.key(None, values) != key
    checkpoint.write_text("2.0")
    assert folders.key(notebook, values) != key


IDEA = """from csgn_lib.registry import register

@register("hsf", "idea", meaning="a form")
def idea(*parts):
    return {}
"""


@pytest.mark.parametrize("given", [lambda path: {"plugin": path}, lambda path: {"more": {"plugin": path}}])
def test_key_covers_plugin_but_not_tracker(home, given):
    notebook, plugin = write_notebook(home / "a.ipynb", "1"), home / "idea.py"
    plugin.write_text(f"{IDEA}weight = 1\n")
    key = folders.key(notebook, given(str(plugin)))
    assert folders.key(notebook, given(str(plugin)) | {"tracker": "tensorboard"}) == key != folders.key(notebook, {})
    plugin.write_text(f"{IDEA}weight = 2.0\n")
    assert folders.key(notebook, given(str(plugin))) != key


def test_current_run_in_headless_notebook(home, monkeypatch):
    assert runs.current("12_train").dir == home / "reports/runs/12_train-live"
    first, other = (Experiment.from_parameters(preset="demo", seed=seed) for seed in (0, 1))
    assert runs.current("12_train", experiment=first).dir == runs.experiment_folder(first)
    assert runs.experiment_folder(first) != runs.experiment_folder(other)
    monkeypatch.setenv(folders.FOLDER_VARIABLE, str(home / "given"))
    assert runs.current("12_train").dir == home / "given"
    assert not (home / "given/benchmark.json").exists()
    described = type("Described", (), {"record": lambda self: {"manifest": "abc"}})()
    runs.current("12_train", described)
    assert json.loads((home / "given/benchmark.json").read_text()) == {"manifest": "abc"}


@pytest.mark.parametrize("inside", [".", "notebooks"])
def test_run_is_found_by_path_and_name(home, monkeypatch, inside):
    Run(home / "reports/runs/demo-1a2b3c4d-s0").set_status("done")
    Run(home / "exported/model").set_status("done")
    (home / "notebooks").mkdir()
    monkeypatch.chdir(home / inside)
    for name in ("demo-1a2b3c4d-s0", "reports/runs/demo-1a2b3c4d-s0", home / "reports/runs/demo-1a2b3c4d-s0"):
        assert runs.open_run(name).dir.samefile(home / "reports/runs/demo-1a2b3c4d-s0")
    assert runs.open_run("exported/model").dir.samefile(home / "exported/model")
    with pytest.raises(InputError, match="did you mean 'demo-1a2b3c4d-s0'"):
        runs.open_run("demo-1a2b3c4d-s1")
    for nothing in ("", "reports/runs/none"):
        with pytest.raises(InputError, match="is not a run's folder"):
            runs.open_run(nothing)
    assert runs.locate("reports/runs/new") == home / "reports/runs/new" and runs.locate("new") == Path("new")


# ---- sweeps


@pytest.fixture
def faked(home, monkeypatch):
    """A notebook 12_train whose runs are pretended: beta 0.9 fails, beta 0.8 raises; the calls are listed."""
    calls = []

    def execute(notebook, parameters, run_dir, timeout=None, *, threads=None, stop=None, variables=None):
        calls.append(parameters)
        run, full = Run(Path(run_dir)), notebooks.checked(notebook, parameters)
        if full["beta"] == 0.8:
            raise OSError("no space left on device")
        write_json(run.path("results.json"), {"mean_ap": full["beta"] / 2})
        state, key = "failed" if full["beta"] == 0.9 else "done", folders.key(notebook, full)
        run.set_status(state, key=key, seconds=1.0, error="ValueError: x" if state == "failed" else None)
        return run

    monkeypatch.setattr(sweeps, "execute", execute)
    write_notebook(home / "notebooks" / "12_train.ipynb")
    return calls


@pytest.mark.parametrize("pool", [None, ThreadPoolExecutor(2)])
def test_sweep_continues_after_failure(faked, pool):
    frame = runs.sweep({"beta": [0.9, 0.8, 0.5], "seed": [0, 1]}, pool)
    assert list(zip(frame["beta"], frame["seed"], strict=True)) == [(b, s) for b in (0.9, 0.8, 0.5) for s in (0, 1)]
    assert frame["state"].tolist() == ["failed"] * 4 + ["done", "done"]
    assert frame["error"].tolist()[2] == "OSError: no space left on device"
    assert frame["mean_ap"].tolist()[-1] == 0.25


def test_sweep_of_cells_with_own_parameters(faked):
    frame = runs.sweep([{"beta": 0.5, "seed": 1}, {"name": "other", "seed": 1}])
    assert frame["name"].tolist()[1] == "other" and frame["seed"].tolist() == [1, 1]
    assert faked == [{"beta": 0.5, "seed": 1}, {"name": "other", "seed": 1}]
    with pytest.raises(InputError, match="same cell twice"):
        runs.sweep([{"beta": 0.5}, {"beta": 0.5, "seed": 0}])


def test_sweep_skips_finished_cells(faked, home):
    runs.sweep({"beta": [0.9, 0.5]})
    faked.clear()
    runs.sweep({"beta": [0.9, 0.5], "seed": 0})
    assert faked == [{"beta": 0.9, "seed": 0}]
    faked.clear()
    write_notebook(home / "notebooks" / "12_train.ipynb", "changed = 1")
    assert runs.sweep({"beta": [0.5]})["state"].tolist() == ["done"]
    assert faked == [{"beta": 0.5}]


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({}, "grid is empty"),
        ({"beta": []}, "no value for 'beta'"),
        ({"bta": [1.0]}, "did you mean 'beta'"),
        ({"beta": [0.5, "high"]}, "beta = 'high'"),
    ],
)
def test_invalid_grid_is_refused_before_first_cell(faked, home, grid, words):
    with pytest.raises(InputError, match=words):
        runs.sweep(grid)
    assert not faked and not (home / "reports").exists()


# ---- the demo's plan


def test_demo_skips_steps_with_failed_needs(faked, home):
    write_notebook(home / "notebooks" / "00_first_result.ipynb", parameters="runs: dict = {}  # folders\nbeta = 0.1")
    plan = [
        Step("good", "12_train", {"beta": 0.5}),
        Step("bad", "12_train", {"beta": 0.9}),
        Step("broken", "12_train", {"beta": 0.8}),
        Step("sum of good", "00_first_result", needs=("good",)),
        Step("sum of both", "00_first_result", needs=("good", "bad")),
    ]
    out = io.StringIO()
    outcomes = runs.demo(plan, workers=2, stream=out)
    assert [o.state for o in outcomes] == ["done", "failed", "failed", "done", "skipped"]
    assert outcomes[2].error == "OSError: no space left on device"
    assert faked[-1] == {"runs": {"good": str(outcomes[0].run.dir)}}
    assert outcomes[3].run.dir.name.startswith("sum-of-good-")
    assert all(step.name in out.getvalue() for step in plan)

    faked.clear()
    again = runs.demo(plan, stream=io.StringIO())
    assert [o.reused for o in again] == [True, False, False, True, False]
    assert {"beta": 0.5} not in faked
    runs.demo(plan[:1], fresh=True, stream=io.StringIO())
    assert faked[-1] == {"beta": 0.5}
    shutil.rmtree(outcomes[0].run.dir)  # what is built on a step follows it
    assert [o.reused for o in runs.demo([plan[0], plan[3]], stream=io.StringIO())] == [False, False]


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        ([Step("a", "no_such")], "no_such"),
        ([Step("a", "12_train", {"bta": 1})], "bta"),
    ],
)
def test_invalid_plan_is_refused_before_first_step(faked, plan, words):
    with pytest.raises(InputError, match=words):
        runs.demo(plan, stream=io.StringIO())
    assert not faked


def _progress(folder, expected, workers):
    """A progress of cells a, b, ... and how long each is expected to take; none for a sweep, which knows nothing."""
    cells = [sweeps.Cell(folder, {}, {}, Run(folder / name), name) for name in expected]
    known = {cell.run.dir: seconds for cell in cells if (seconds := expected[cell.name])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweeps.Cell, "done", False)
        return cells, Progress(cells, io.StringIO(), known, workers)


def test_time_left_by_hand(tmp_path):
    (a, b, c), progress = _progress(tmp_path, {"a": 10, "b": 20, "c": 30}, 2)
    assert progress.seconds_left([a, b, c], {}) == 30  # the longest; (10 + 20 + 30) / 2 workers
    assert progress.seconds_left([b, c], {b.run.dir: 5.0}) == 30  # b 15 more, c 30: 45 / 2 is less than c alone
    progress.took[a.run.dir] = 20.0  # twice as long as expected
    assert progress.seconds_left([b, c], {b.run.dir: 5.0}) == 60
    assert progress.seconds_left([b], {b.run.dir: 80.0}) == pytest.approx(0.1 * 20 * 100 / 30)  # late, but not over
    assert progress.seconds_left([], {}) == 0


def test_time_left_is_known_after_first_cell(tmp_path):
    (a, b, c), progress = _progress(tmp_path, {"a": None, "b": None, "c": None}, None)
    assert progress.seconds_left([a, b, c], {a.run.dir: 5.0}) is None
    assert "time left unknown until the first cell has ended" in progress.line([a, b, c])
    progress.took[a.run.dir] = 60.0
    assert progress.seconds_left([b, c], {b.run.dir: 20.0}) == 100 and "about 2:00 left" in progress.line([b, c])


def test_progress_is_printed_at_intervals_without_terminal(tmp_path, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(runs.progress.time, "monotonic", lambda: clock[0])
    (a,), progress = _progress(tmp_path, {"a": 10}, 1)
    a.run.set_status("running", heartbeat=time.time(), started=time.time(), cell=3, cells=7)
    for clock[0] in (1.0, 16.0, 20.0, 600.0, 620.0, 700.0):
        progress.show([a])
    lines = progress.stream.getvalue().splitlines()
    assert [line.split()[0] for line in lines] == ["0:16", "10:00", "11:40"]
    assert "0/1 done" in lines[0] and "a (cell 3/7)" in lines[0]


def test_default_plan_is_consistent():
    names = [step.name for step in runs.PLAN]
    assert len(set(names)) == len(names)
    for step in runs.PLAN:
        assert set(step.needs) <= {other.name for other in runs.PLAN if not other.needs}


def test_clock():
    assert [runs.clock(s) for s in (0, 9.9, 61, 3600)] == ["0:00", "0:09", "1:01", "60:00"]


def test_outcomes_are_identified_by_step():
    assert Outcome(Step("a", "n"), None, "skipped", 0.0).reused is False


# ---- what a run found, under its notebook's question


def finished_run(folder: Path, *texts: str, state: str = "done") -> Run:
    run = Run(folder)
    outputs = [{"output_type": "display_data", "data": {"text/markdown": text}, "metadata": {}} for text in texts]
    cell = {"cell_type": "code", "metadata": {}, "source": "", "outputs": outputs}
    write_json(run.path("executed.ipynb"), {"cells": [cell]})
    write_json(run.path("environment.json"), {"cores": 2, "cpu": "A Processor", "gpu": None})
    run.set_status(state, seconds=12.3, memory_mib=2048)
    return run


def test_answer_is_last_and_replaces_previous(tmp_path):
    notebook = write_notebook(tmp_path / "asks.ipynb", "1")
    document = json.loads(notebook.read_text())
    document["cells"].insert(
        0, {"cell_type": "markdown", "metadata": {}, "source": "# Why?\n\nBecause.\n\n*Last answer:* x"}
    )
    notebook.write_text(json.dumps(document))
    run = finished_run(tmp_path / "run", "**Answer.** first", "no answer", "**Answer.**  forty\ntwo ", "and no more")
    for _ in range(2):  # the second time it replaces its own words
        assert runs.keep_answer(run, notebook, "csgn run asks") == "forty two"
        first, *rest = json.loads(notebook.read_text())["cells"]
        head, last, answer, cost = "".join(first["source"]).rsplit("\n\n", 3)
        assert head == "# Why?\n\nBecause."
        assert last == "*Last answer:* (`csgn run asks`)" and answer == "- forty two"
        assert cost == "*Cost:* 12 s, 2.0 GiB, 2 cores of A Processor."
        assert rest == document["cells"][1:]


def test_answer_can_be_list_with_figure(tmp_path):
    notebook = write_notebook(tmp_path / "notebooks" / "asks.ipynb", "1")
    document = json.loads(notebook.read_text())
    picture = '![Curves](../reports/asks.png "curves")'
    head = {"cell_type": "markdown", "metadata": {}, "source": f"# Why?\n\n{picture}\n\n*Last answer:* x"}
    notebook.write_text(json.dumps(document | {"cells": [head, *document["cells"]]}))
    run = finished_run(tmp_path / "run", "**Answer.**\n\n- forty\n  two\n- and more")
    run.path("figures").mkdir()
    Image.new("RGB", (1800, 90), "red").save(run.path("figures", "curves.png"))
    (tmp_path / "reports").mkdir()
    assert runs.keep_answer(run, notebook, "csgn run asks") == "- forty two\n- and more"
    first = "".join(json.loads(notebook.read_text())["cells"][0]["source"])
    assert first.startswith(
        f"# Why?\n\n{picture}\n\n*Last answer:* (`csgn run asks`)\n\n- forty two\n- and more\n\n*Cost:*"
    )
    with Image.open(tmp_path / "reports" / "asks.png") as kept:
        assert kept.size == (900, 45) and kept.convert("RGB").getpixel((0, 0)) == (255, 0, 0)


@pytest.mark.parametrize(
    ("texts", "state", "word"),
    [(["said nothing"], "done", "no Markdown that begins"), (["**Answer.** 42"], "failed", "is failed, not done")],
)
def test_run_without_answer_is_refused(tmp_path, texts, state, word):
    notebook = write_notebook(tmp_path / "asks.ipynb", "1")
    before = notebook.read_bytes()
    with pytest.raises(InputError, match=word):
        runs.keep_answer(finished_run(tmp_path / "run", *texts, state=state), notebook, "csgn run asks")
    assert notebook.read_bytes() == before


@pytest.mark.parametrize("image", ["", "\n\n![A map](../map.png)", '\n\n![A map](../map.png "map")'])
def test_executed_copy_begins_with_its_answer_instead_of_stored_image(image):
    kept = f"# Why?{image}\n\n*Last answer:* of another run\n\n*Cost:* 1 s"
    shown = {"output_type": "display_data", "data": {"text/markdown": ["**Answer.** of\n", "this run"]}}
    for outputs, said in (([shown], "# Why?\n\n**Answer.** of this run"), ([], "# Why?")):
        document = {"cells": [{"cell_type": "markdown", "source": kept}, {"cell_type": "code", "outputs": outputs}]}
        answers.answered(document)
        assert "".join(document["cells"][0]["source"]) == said


def test_collect_is_all_or_nothing(tmp_path):
    made = []
    for name in ("10_asks", "20_asks"):
        run = finished_run(tmp_path / "runs" / name, f"**Answer.** {name} says so")
        run.set_status("done", notebook=str(tmp_path / f"{name}.ipynb"))
        write_json(run.path("results.json"), {"of": name})
        run.path("figures").mkdir()
        run.path("figures", "curve.csv").write_text(name)
        made.append(run)
    made[1].set_status("failed", notebook="20_asks.ipynb")
    with pytest.raises(InputError, match="is failed, not done"):
        runs.collect(tmp_path / "out", made)
    assert not (tmp_path / "out").exists()
    made[1].set_status("done", notebook="20_asks.ipynb")
    said = runs.collect(tmp_path / "out", made).read_text(encoding="utf-8")
    assert said == "**10_asks.** 10_asks says so\n\n**20_asks.** 20_asks says so\n"
    assert (tmp_path / "out" / "20_asks-curve.csv").read_text() == "20_asks"
    assert json.loads((tmp_path / "out" / "10_asks-results.json").read_text()) == {"of": "10_asks"}
    assert len(list((tmp_path / "out").iterdir())) == 5


def test_command_names_notebook_by_name_or_path(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    (tmp_path / "notebooks").mkdir()
    for path in (tmp_path / "notebooks/asks.ipynb", tmp_path / "asks.ipynb"):
        path.write_text("{}")
    for path in ("asks", tmp_path / "notebooks/asks.ipynb", tmp_path / "asks.ipynb"):
        found = notebooks.find(path)
        assert notebooks.find(notebooks.shortest(found)).samefile(found)
    assert notebooks.shortest(tmp_path / "notebooks/asks.ipynb") == "asks"
    assert notebooks.shortest(tmp_path / "asks.ipynb") == str(tmp_path / "asks.ipynb")
