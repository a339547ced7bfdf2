"""Sweeps: grid files, executors, concurrent sweeps, a full disk, the report, and the records of scores."""

import json
import os
import signal
import threading
import time
from concurrent.futures import CancelledError, ProcessPoolExecutor
from pathlib import Path

import pytest
from test_runs import write_notebook

from csgn_lib import runs
from csgn_lib.__main__ import main
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.runs import executors, folders, notebooks, sweeps, words

GRID = """
every: {name: x}
rows:
  half: {}
  small: {beta: 1e-3}
seeds: [0, 1]
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    write_notebook(tmp_path / "notebooks" / "12_train.ipynb")
    before = signal.getsignal(signal.SIGTERM)
    yield tmp_path
    signal.signal(signal.SIGTERM, before)


def grid(home: Path, text: str = GRID) -> Path:
    path = home / "grid.yaml"
    path.write_text(text)
    return path


# ---- the file


def test_grid_combines_rows_values_and_seeds(home):
    text = GRID + "worlds: [5, 6]\ngrid: {layers: [[1], [2, 3]]}\ngpus_per_cell: 2"
    parameters = "beta = 0.5\nname = ''\nlayers = (1,)\nseed = 0\nworld = 0"
    notebook = write_notebook(home / "notebooks/12_train.ipynb", parameters=parameters)
    read = runs.read_grid(grid(home, text))
    assert (read.notebook, read.gpus_per_cell, len(read.cells)) == (notebook, 2, 8)
    assert read.cells[0] == {"name": "x", "layers": [1], "seed": 0, "world": 5}
    assert read.cells[-1] == {"name": "x", "beta": 0.001, "layers": [2, 3], "seed": 1, "world": 6}
    assert read.names[0] == "half, layers=[1]" and read.names[-1] == "small, layers=[2, 3]"
    assert runs.read_grid(grid(home, "seeds: [3]")).cells == [{"seed": 3}]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("[1, 2]", "write names with their values"),
        ("rows: {a: [", "is not valid YAML"),
        ("rows: {a: {}}\nsedes: [1]", "unknown key 'sedes'; did you mean 'seeds'"),
        ("rows: {a: {}, a: {beta: 0.1}}", "'a' stands twice"),
        ("rows: {}", "rows is empty, so the grid has no cell"),
        ("seeds: []", "seeds = []; give a list"),
        ("seeds: 3", "seeds = 3; give a list"),
        ("grid: {}", "grid is empty"),
        ("grid: {beta: []}", "no value for 'beta'"),
        ("seeds: [0, 1]\nworlds: [0]", "1 worlds for 2 seeds"),
        ("rows: {a: {bta: 1.0}}", "row 'a': "),
        ("rows: {a: {bta: 1.0}}", "did you mean 'beta'"),
        ("rows: {a: {beta: high}}", "beta = 'high'"),
        ("rows: {a: {beta: 0.1}}\ngrid: {beta: [0.2]}", "'beta' is set by row 'a' and varied"),
        ("rows: {a: {}, b: {beta: 0.5}}", "rows 'a' and 'b' are the same cell"),
        ("seeds: [1, 1]", "are the same cell"),
        ("seeds: [1]\ngpus_per_cell: some", "gpus_per_cell = 'some'"),
        ("notebook: 12_trian\nseeds: [1]", "did you mean '12_train'"),
    ],
)
def test_invalid_grid_file_is_refused(home, capsys, text, words):
    with pytest.raises(InputError) as error:
        runs.read_grid(grid(home, text))
    assert words in str(error.value)
    with pytest.raises(SystemExit) as left:
        main(["sweep", str(home / "grid.yaml")])
    assert left.value.code == 2 and words in capsys.readouterr().err and not (home / "reports").exists()


def test_grid_accepts_every_parameter(home):
    parameters = 'preset: str = "demo"\nclip_checkpoint: str = ""\nmore: dict = {}\nseed: int = 0'
    write_notebook(home / "notebooks/12_train.ipynb", parameters=parameters)
    every = "every: {image_height: 48, clip_checkpoint: null, more: {flip: 0.0}}\nseeds: [1]"
    [cell] = runs.read_grid(grid(home, every)).cells
    assert cell == {"more": {"flip": 0.0, "image_height": 48, "clip_checkpoint": None}, "seed": 1}
    with pytest.raises(InputError, match="unknown parameter 'image_hight' .did you mean 'image_height'"):
        runs.read_grid(grid(home, every.replace("height", "hight")))


def test_missing_grid_file_is_named(home):
    with pytest.raises(InputError, match="none.yaml cannot be read"):
        runs.read_grid(home / "none.yaml")


# ---- cells whose execution is replaced


@pytest.fixture
def pretended(home, monkeypatch):
    """Runs that are done at once, but for beta: 0.9 fails in a cell; the calls are listed."""
    calls = []

    def execute(notebook, parameters, run_dir, timeout=None, *, threads=None, stop=None, variables=None):
        calls.append((parameters, variables))
        run, full = Run(Path(run_dir)), notebooks.checked(notebook, parameters)
        run.append_metrics({"stage": 1, "epoch": 2, "epochs": 4, "loss": 0.5})
        facts = {"key": folders.key(notebook, full), "seconds": 61.0, "memory_mib": 300, "command": "csgn run again"}
        bad = full["beta"] == 0.9
        run.set_status("failed" if bad else "done", error="ValueError: a\nb" if bad else None, cell=3, **facts)
        return run

    monkeypatch.setattr(sweeps, "execute", execute)
    return calls


def test_csgn_sweep_runs_unfinished_cells(home, pretended, capsys):
    def call(*options):
        with pytest.raises(SystemExit) as left:
            main(["sweep", str(grid(home, GRID + "  # \n")), *options])
        return left.value.code, capsys.readouterr()

    status, said = call("--dry-run")
    assert status == 0 and not pretended and not (home / "reports").exists()
    assert [line.split()[:3] for line in said.out.splitlines()[1:]] == [
        ["half", "0", "new"], ["half", "1", "new"], ["small", "0", "new"], ["small", "1", "new"],
    ]  # fmt: skip
    status, said = call("--workers", "2")
    lines = said.out.splitlines()
    assert status == 0 and lines[0] == "4 cells, 0 of them done before" and "done" in lines[1] and "(1:01)" in lines[1]
    assert "half, seed 0" in said.out and "small, seed 1" in said.out
    assert {line.split("/4  done")[0].strip() for line in lines[1:5]} == {"1", "2", "3", "4"}
    report = Path(lines[-1])
    assert report.parent == home / "reports/runs" and "Every cell is done." in report.read_text()
    pretended.clear()
    assert call()[0] == 0 and not pretended  # skipped

    (home / "grid.yaml").write_text("rows: {bad: {beta: 0.9}, good: {beta: 0.1}}\nseeds: [7]")
    with pytest.raises(SystemExit) as left:
        main(["sweep", str(home / "grid.yaml")])
    said = capsys.readouterr()
    assert left.value.code == 1 and "1 of 2 cells are not done" in said.err
    assert "failed       bad, seed 7 (1:01): ValueError: a b" in said.out
    page = Path(said.out.splitlines()[-1]).read_text()
    for line in (
        "| done | 1 |", "| failed | 1 |", f"`csgn sweep {home / 'grid.yaml'}`", "## bad, seed 7: failed",
        '- parameters: `{"beta": 0.9, "seed": 7}`', "- cell: In [3]", "- error: ValueError: a b",
        "- came to: stage 1, epoch 2/4", '"loss": 0.5', "- memory: 300 MiB at most", "- again: `csgn run again`",
    ):  # fmt: skip
        assert line in page
    assert "good" not in page


@pytest.fixture
def scored(pretended, monkeypatch):
    """Runs that record scores of a benchmark whose first protocol is cross_clothes, two queries of two people each."""
    finish = sweeps.execute

    def execute(notebook, parameters, run_dir, *arguments, **options):
        run, beta = Run(Path(run_dir)), notebooks.checked(notebook, parameters)["beta"]
        scores = {p: {"rank1": beta, "mean_ap": beta / 2, "minp": 0.1} for p in ("cross_clothes", "general")}
        write_json(run.path("results.json"), {"plain": {"descriptor": "f", "protocols": scores}})
        write_json(run.path("config.json"), {})
        lines = [f"plain,{p},{q},0,{q},{beta},1,True" for p in scores for q in (0, 1)]
        header = "descriptor,protocol,row,draw,person,ap,first_hit,valid"
        run.path("per_query.csv").write_text("\n".join([header, *lines]) + "\n")
        return finish(notebook, parameters, run_dir, *arguments, **options)

    monkeypatch.setattr(sweeps, "execute", execute)


def test_sweep_prints_scores_and_tables_command(home, scored, capsys, monkeypatch):
    path = grid(home)
    with pytest.raises(InputError, match=f"4 of 4 runs of {path} are not done; run csgn sweep {path} first"):
        runs.load_sweep_records(path)
    with pytest.raises(SystemExit) as left:
        main(["sweep", str(path)])
    said = capsys.readouterr().out
    assert left.value.code == 0
    for line in ("cross_clothes", "half 50.0 ± 0.0 25.0 ± 0.0 50.0 ± 0.0", "small 0.1 ± 0.0", "s.d. over 2 seeds"):
        assert line in " ".join(said.split())
    monkeypatch.chdir(home / "notebooks")  # as in JupyterLab
    folder = runs.records_folder("grid.yaml")
    assert f"-p grid {folder.name}" in said
    for source in ("grid.yaml", folder.name, f"reports/runs/{folder.name}", folder):
        records = runs.load_sweep_records(source)
        assert (records.baseline, records.protocols) == ("half", ("cross_clothes", "general"))
        assert records.differences.query("protocol == 'general'")["mean"].tolist() == pytest.approx([-49.9])
        assert records.of("rank1").means["mean"].tolist() == pytest.approx([50, 50, 0.1, 0.1])
    with pytest.raises(InputError, match="no protocol 'cross_cloth'; there are: cross_clothes, general"):
        runs.load_sweep_records("grid.yaml", protocols=["cross_cloth"])
    with pytest.raises(InputError, match="no descriptor 'person only'; there are: plain"):
        runs.load_sweep_records("grid.yaml", descriptors=["person only"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--executor", "dsk"], "executor 'dsk' does not exist"),
        (["--job", "timeout_min=3"], "--job applies to --executor submitit"),
        (["--address", "tcp://x"], "--address applies to --executor dask"),
        (["--executor", "submitit", "--workers", "2"], "--workers does not apply to a cluster"),
    ],
)
def test_conflicting_options_are_refused(home, pretended, capsys, options, words):
    with pytest.raises(SystemExit) as left:
        main(["sweep", str(grid(home)), *options])
    assert left.value.code == 2 and words in capsys.readouterr().err and not pretended


def test_concurrent_sweep_is_refused(home, monkeypatch, pretended):
    inside, go, finish = threading.Event(), threading.Event(), sweeps.execute

    def execute(*arguments, **options):
        inside.set()
        assert go.wait(60)
        return finish(*arguments, **options)

    monkeypatch.setattr(sweeps, "execute", execute)
    first = threading.Thread(target=runs.sweep, args=({"beta": [0.1, 0.2]},))
    first.start()
    try:
        assert inside.wait(60)
        with pytest.raises(InputError, match=f"over the same cells is running: .* .pid {os.getpid()} on "):
            runs.sweep({"beta": [0.1, 0.2]})
        with pytest.raises(InputError, match=f"is queued by another process .pid {os.getpid()} on .*; wait for it"):
            runs.sweep({"beta": [0.2, 0.3]})  # another sweep that shares a cell
    finally:
        go.set()
        first.join()
    assert [given["beta"] for given, _ in pretended] == [0.1, 0.2]
    assert runs.sweep({"beta": [0.1, 0.2]})["state"].tolist() == ["done", "done"]


def test_interrupted_sweep_marks_queued_cells(home, pretended):
    def interrupt(progress, cell):
        raise KeyboardInterrupt

    inside = sweeps.execute

    def slow(*arguments, stop, **options):
        if not pretended:
            return inside(*arguments, stop=stop, **options)
        assert stop.wait(60)
        return None

    with pytest.MonkeyPatch.context() as patch, executors.local(1) as pool, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweeps, "execute", slow)
        patch.setattr(sweeps.Progress, "ended", interrupt)  # Ctrl-C after the first cell
        runs.sweep({"beta": [0.1, 0.2, 0.3]}, pool)
    states = runs.table().set_index("run")["state"].tolist()
    assert sorted(states) == ["done", "interrupted", "interrupted"]
    assert "| interrupted | 2 |" in next((home / "reports/runs").glob("sweep-*.md")).read_text()
    assert runs.sweep({"beta": [0.1, 0.2, 0.3]})["state"].tolist() == ["done"] * 3


def test_full_disk_fails_only_its_cell(home, monkeypatch, pretended):
    finish, set_status = sweeps.execute, Run.set_status

    def execute(notebook, parameters, run_dir, *arguments, **options):
        if parameters["beta"] == 0.2:
            raise OSError(28, "No space left on device")
        return finish(notebook, parameters, run_dir, *arguments, **options)

    def full(self, state, **fields):
        if full_for in str(self.dir):
            raise OSError(28, "No space left on device")
        set_status(self, state, **fields)

    def refuse(path, text):
        raise OSError(28, "No space left on device")

    full_for = sweeps.planned_cells({"beta": [0.2]})[0].run.dir.name
    monkeypatch.setattr(sweeps, "execute", execute)
    monkeypatch.setattr(Run, "set_status", full)
    monkeypatch.setattr(words, "write_text", refuse)
    frame = runs.sweep({"beta": [0.1, 0.2, 0.3]})
    assert frame["state"].tolist() == ["done", "failed", "done"] and "No space left" in frame["error"][1]
    assert "cannot be written (No space left on device); free disk space" in frame.attrs["report"]


# ---- where cells run


def test_concurrent_cells_have_separate_gpus():
    together, seen = threading.Barrier(2), []

    def look():
        together.wait(60)
        seen.append(executors.variables()["CUDA_VISIBLE_DEVICES"])
        together.wait(60)

    with executors.local(gpus=[0, 1, 2, 3], gpus_per_cell=2) as pool:
        for future in [pool.submit(look) for _ in range(4)]:
            future.result()
    assert [sorted(seen[:2]), sorted(seen[2:])] == [["0,1", "2,3"]] * 2 and executors.variables() == {}
    with pytest.raises(InputError, match="2 GPUs for each cell, and there are 1"):
        executors.local(gpus=["0"], gpus_per_cell=2)


def test_kernel_sees_reserved_gpus(home, monkeypatch):
    tell = "import os\nfrom csgn_lib import runs\nfrom csgn_lib.records import write_json\n"
    source = tell + "write_json(runs.current('x').path('results.json'), {'gpu': os.environ['CUDA_VISIBLE_DEVICES']})"
    write_notebook(home / "notebooks/12_train.ipynb", source)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    frame = runs.sweep(runs.read_grid(grid(home, "seeds: [0]\ngpus_per_cell: 1")))
    assert (
        frame["state"].tolist() == ["done"] and frame["gpu"].tolist() == ["5"] and frame["row"].tolist() == ["12_train"]
    )


# the first time a cell begins it waits to be killed; the second time it ends
RESUMES = """import time
from csgn_lib import runs
run = runs.current('x')
before = len(run.metrics())
run.append_metrics({'stage': 1, 'epoch': before + 1, 'epochs': 2})
if beta == 0.25 and not before:
    time.sleep(600)
"""


def _kill_the_worker_of(run: Run) -> None:
    while not run.metrics():
        time.sleep(0.1)
    assert run.status["pid"] != os.getpid()
    os.kill(run.status["pid"], signal.SIGKILL)


def _killed(cells: dict, pool) -> tuple:
    victim = sweeps.planned_cells(cells)[0].run
    killer = threading.Thread(target=_kill_the_worker_of, args=(victim,), daemon=True)
    killer.start()
    with pool:
        frame = runs.sweep(cells, pool, threads=1)
    killer.join(60)
    return victim, frame


def test_killed_dask_worker_loses_nothing(home):
    pytest.importorskip("distributed")
    write_notebook(home / "notebooks/12_train.ipynb", RESUMES)
    victim, frame = _killed({"beta": [0.25, 0.5]}, executors.dask(workers=2))
    assert frame["state"].tolist() == ["done", "done"]
    assert [record["epoch"] for record in victim.metrics()] == [1, 2]  # it went on in its folder


def test_broken_pool_is_died_and_sweep_resumes(home):
    write_notebook(home / "notebooks/12_train.ipynb", RESUMES)
    victim, frame = _killed({"beta": [0.25]}, ProcessPoolExecutor(1))
    assert frame["state"].tolist() == ["died"] and "BrokenProcessPool" in frame["error"][0]
    assert runs.sweep({"beta": [0.25]})["state"].tolist() == ["done"]
    assert [record["epoch"] for record in victim.metrics()] == [1, 2]


def test_dask_cells_run_where_gpus_are_declared():
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, resources={"GPU": 1}, host="127.0.0.1", dashboard_address=None
    ) as cluster:
        with executors.dask(cluster.scheduler_address, gpus_per_cell=1) as pool:
            assert pool.submit(int, "7").result(60) == 7
    with pytest.raises(InputError, match="have no GPUs of their own; omit it"):
        executors.named("dask", 2, 1, None, {})
    with pytest.raises(InputError, match="no dask scheduler answers"):
        executors.dask("not an address")


def test_submitit_runs_cells_as_jobs(home):
    pytest.importorskip("submitit")
    write_notebook(home / "notebooks/12_train.ipynb", "assert beta < 0.8, 'too big'")
    with executors.submitit(home / "jobs", cluster="local", timeout_min=5) as pool:
        frame = runs.sweep({"beta": [0.5, 0.9]}, pool, threads=1)
        assert frame["state"].tolist() == ["done", "failed"] and frame["error"][1] == "AssertionError: too big"
        assert isinstance(pool.submit(int, "x").exception(), Exception)
        waiting = pool.submit(time.sleep, 600)
        assert waiting.cancel()
        with pytest.raises(CancelledError):
            waiting.result()
    with pytest.raises(InputError, match="submitit does not accept"):
        executors.submitit(home / "jobs", cluster="local", timeout_minn=5)


def test_missing_slurm_is_an_error(home, monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match="SLURM was not found .* omit --executor"):
        executors.submitit(home / "jobs")


def test_preempted_job_is_requeued():
    pytest.importorskip("submitit")
    again = executors._Resumable().checkpoint(int, ("7",), {})
    assert again.result() == 7


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell it")
def test_status_shows_memory_of_running_cell(home, monkeypatch):
    monkeypatch.setattr(folders, "HEARTBEAT", 0.1)
    notebook = write_notebook(home / "sleeps.ipynb", "import time; time.sleep(600)", parameters=None)
    stop, run = threading.Event(), Run(home / "run")
    thread = threading.Thread(target=runs.execute, args=(notebook, None, run.dir), kwargs={"stop": stop})
    thread.start()
    while not (run.path("status.json").exists() and run.status.get("memory_mib")):
        time.sleep(0.1)
    running = run.status
    stop.set()
    thread.join()
    assert running["state"] == "running" and run.status["state"] == "interrupted"
    assert run.status["memory_mib"] >= running["memory_mib"] > 10


def test_listing_survives_damaged_runs(home):
    write_json(home / "reports/runs/a/status.json", json.loads('{"state": "done"}'))
    assert "damaged" in words.listing()[1]
    assert words.ended(Run(home / "reports/runs/a"), "a").startswith("done         a (0:00)")
    Run(home / "reports/runs/a").path("status.json").write_text("[1]")
    assert words.ended(Run(home / "reports/runs/a"), "a").startswith("damaged      a (?): ")
