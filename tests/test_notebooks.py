"""Every notebook runs headless on the embedded benchmark and answers its question; so it does on other benchmarks.

The others are trees without clothes labels, without cameras and with one outfit per camera, each with one tiny trained
run that all notebooks read.
``make test`` runs a part of these; ``make test-notebooks`` (``pytest -m wide``) runs the rest.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path

import pandas as pd
import pytest
import trees

from csgn_lib import retrieval, runs, synthetic, training
from csgn_lib.config import Experiment
from csgn_lib.records import Run, write_json

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
SWEEP = {
    "rows": {"frozen": {"preset": "demo+identity-triplet", "stage2_epochs": 0}, "CSGN": {"stage2_epochs": 1}},
    "every": {"stage1_epochs": 1},
    "seeds": [0, 1],
}
BRIEF = {  # the others run with their defaults
    "11_stage1_prompts": {"stage1_epochs": 1},
    "10_colour_bias": {"pictures_per_person": 2, "sentences": 40, "resamples": 100},
    "21_search": {"distractors": 3000},
    "30_embedding_map": {"mapped": 120, "perplexities": [10], "pictures": 20, "resamples": 100},
    "31_clothes_leakage": {"shuffles": 1, "resamples": 100, "least": 2},
    "32_attention": {"people": 4, "shown": 1, "stride": 16, "resamples": 100},
    "50_explore": {"queries": 12},
}
SMALL = synthetic.World(people=40, outfits=3)  # 24, 6 and 10 people: 480 images
OF_SWEEPS = ("12_train", "40_ablation_sweep", "41_ablation_tables")  # one trains, one runs it for each cell, one reads
OTHERS = ("12_train", "40_ablation_sweep", "41_ablation_tables", "50_explore", "51_training", "90_paper_figures")


@pytest.fixture(scope="session")
def workbench(tmp_path_factory, worker_id) -> Path:
    """One workbench folder for all tests, with a small world, and a sweep that finds its notebook in it."""
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "workbench"
    home.mkdir(exist_ok=True)
    with suppress(FileExistsError):  # another worker was faster
        (home / "notebooks").symlink_to(NOTEBOOKS[0].parent)
    root = synthetic.ensure(SMALL, home / "small", processes=1)
    write_json(home / "sweep.yaml", SWEEP | {"every": SWEEP["every"] | {"root": str(root)}})  # JSON is YAML
    return home


def _the_sweep_records_both_sensitivities(run: Run) -> None:
    for cell in pd.read_csv(run.path("runs-records.csv")).to_dict("records"):
        for name in ("plain", "clothing removed", "person only"):
            for kind in ("colour", "clothes"):
                value, low, high = (cell[f"{name}.{kind}_sensitivity.{part}"] for part in ("value", "low", "high"))
                assert 0 < low < value < high


def _the_tables_show_both_sensitivities(run: Run) -> None:
    short = runs.load_sweep_records("sweep.yaml")
    results = pd.read_csv(run.path("results.csv"))
    for metric, name in (("rank1", "rank-1"), ("mean_ap", "mAP")):  # side by side under each protocol
        own = results[(results.column == name) & (results.group == "cloth-changing")].set_index("row")["mean"]
        expected = short.of(metric).means.query("protocol == 'cloth_changing'").set_index("label")["mean"]
        assert own.to_dict() == pytest.approx(expected.to_dict(), rel=1e-5)
    tex = run.path("results.tex").read_text()
    assert r" & \multicolumn{2}{c}{cloth-changing} & \multicolumn{2}{c}{general}" in tex and "GiB" not in tex
    assert "mean and s.d. over runs" in run.path("results-float.tex").read_text()
    for kind, means in short.sensitivities.groupby("kind"):
        shown = results[results.column == kind.replace("_", " ")].set_index("row")
        means = means.set_index("label")["mean"]
        assert shown["mean"].to_dict() == pytest.approx(means.to_dict(), rel=1e-5) and (shown.digits == 2).all()


RAW = re.compile(r"<.* object at 0x|PosixPath\(|\[?Text\(|\(?None[,)]|Run\(")  # a last line that is a call


def _shows_its_figures_and_no_noise(run: Run, executed: dict) -> None:
    """Every figure that the run saved is displayed with its caption; no warnings, no raw reprs."""
    outputs = [output for cell in executed["cells"] for output in cell.get("outputs", [])]
    texts = ["".join(output.get("data", {}).get("text/plain", "")) for output in outputs]
    if Path(run.status["notebook"]).stem not in OTHERS:
        assert not [text for text in texts if RAW.match(text)]
        assert not [output for output in outputs if "Warning" in "".join(output.get("text", ""))]
    captions = [json.loads(path.read_text())["caption"] for path in run.path("figures").glob("*.json")]
    displayed = ["".join(output.get("data", {}).get("text/markdown", "")) for output in outputs]
    assert not [caption for caption in captions if f"*{caption}*" not in displayed]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= len(captions)


def _saves_a_figure(source: str) -> bool:
    """Whether the cell itself calls ``figures.save``, not only in a function that it defines."""
    statements = [part for part in ast.parse(source).body if not isinstance(part, ast.FunctionDef)]
    calls = [node for part in statements for node in ast.walk(part) if isinstance(node, ast.Call)]
    return any(ast.unparse(call.func) == "figures.save" for call in calls)


def _ran(notebook: Path | str, run: Run) -> Run:
    """The run of a notebook, after checks that it ended well, answered its question and shows its figures."""
    assert run.status["state"] == "done", f"{run.status.get('error')}; see {run.dir}"
    executed = json.loads(run.path("executed.ipynb").read_text(encoding="utf-8"))
    shown = [output.get("data", {}) for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert any("".join(data.get("text/markdown", "")).startswith("**Answer.**") for data in shown)
    sweep = notebook in ("40_ablation_sweep", "41_ablation_tables", "90_paper_figures")  # of other runs
    assert sweep or json.loads(run.path("benchmark.json").read_text())["manifest"]
    for figure in run.path("figures").glob("*.png"):
        assert all(figure.with_suffix(suffix).stat().st_size for suffix in (".pdf", ".csv", ".json"))
    for cell in executed["cells"]:
        if cell["cell_type"] == "code" and _saves_a_figure("".join(cell["source"])):
            assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), cell["id"]
    _shows_its_figures_and_no_noise(run, executed)
    return run


@pytest.mark.parametrize("notebook", [path.stem for path in NOTEBOOKS if path.stem not in OF_SWEEPS])
def test_notebook_runs_and_displays_answer(notebook, workbench, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(workbench))
    small = {} if notebook == "90_paper_figures" else {"benchmark": "synthetic", "root": str(workbench / "small")}
    _ran(notebook, runs.execute(notebook, small | BRIEF.get(notebook, {}), threads=1, timeout=1800))


def test_sweep_trains_cells_and_grid_leads_to_tables(workbench, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(workbench))
    swept = _ran(
        "40_ablation_sweep", runs.execute("40_ablation_sweep", {"grid": "sweep.yaml"}, threads=1, timeout=1800)
    )
    _the_sweep_records_both_sensitivities(swept)
    for name in runs.planned(runs.read_grid(workbench / "sweep.yaml")).run:
        cell = Run(workbench / "reports/runs" / name)
        if cell.config.get("stage2_epochs"):
            _ran("12_train", cell)
    tables = runs.execute("41_ablation_tables", {"grid": "sweep.yaml"}, threads=1, timeout=1800)
    _the_tables_show_both_sensitivities(_ran("41_ablation_tables", tables))


# ---- benchmarks without some labels

FEW = {"batch_persons": 2, "batch_images": 2, "stage1_epochs": 1, "stage2_epochs": 1}
ELSEWHERE = {  # what each notebook needs besides the tree and, where it reads one, the trained run
    "00_first_result": {},
    "01_dataset_integrity": {},
    "02_dataset_portrait": {"people": 2},
    "10_colour_bias": {"pictures_per_person": 2, "sentences": 10, "resamples": 50, "most_people": 6},
    "11_stage1_prompts": {},
    "12_train": FEW,
    "20_evaluate": {},
    "21_search": {"distractors": 300, "k1": 5, "k2": 2},
    "22_failures": {},
    "30_embedding_map": {"perplexities": [4], "seeds": [0], "pictures": 8, "resamples": 50, "neighbours": 4},
    "31_clothes_leakage": {"resamples": 50},
    "32_attention": {"people": 3, "shown": 1, "stride": 16, "steps": 3, "resamples": 50},
    "50_explore": {"queries": 3, "neighbours": 4},
}
SKIPPED = {  # how many sections say that they are skipped, by benchmark and notebook
    "market1501": {"01_dataset_integrity": 1, "02_dataset_portrait": 1, "31_clothes_leakage": 2},
    "csv": {"02_dataset_portrait": 1, "31_clothes_leakage": 1},
    "prcc": {"31_clothes_leakage": 1},
}
WITHOUT_RENDERING = {"10_colour_bias": 3, "11_stage1_prompts": 1, "12_train": 1, "32_attention": 1}  # not embedded
QUICK = {("31_clothes_leakage", "market1501"), ("22_failures", "csv")}


def _market(root: Path) -> Path:
    """Market-1501's layout: cameras, no clothes labels. 6 training people, 5 test people, distractors, junk."""
    names = [f"bounding_box_train/{p:04d}_c{c}s1_{n:06d}_01" for p in range(1, 7) for c in (1, 2) for n in (1, 2)]
    names += [f"query/{p:04d}_c1s1_000001_00" for p in range(20, 25)]
    names += [f"bounding_box_test/{p:04d}_c{c}s1_{n:06d}_01" for p in range(20, 25) for c in (1, 2, 3) for n in (3, 4)]
    names += [f"bounding_box_test/{p}_c4s1_00000{n}_01" for p in ("0000", "-1") for n in (1, 2)]
    return trees.images(root, [f"{name}.jpg" for name in names])


def _no_cameras(root: Path) -> Path:
    """A list of one's own images: clothes, no cameras. 6 training people, 5 test people, two outfits each."""
    rows = [(f"{p}/{o}{n}.jpg", p, o, "train") for p in "abcdef" for o in "xy" for n in (1, 2)]
    rows += [(f"{p}/{o}1.jpg", p, o, "query") for p in "ghijk" for o in "xy"]
    rows += [(f"{p}/{o}{n}.jpg", p, o, "gallery") for p in "ghijk" for o in "xy" for n in (2, 3, 4)]
    trees.images(root, [row[0] for row in rows])
    lines = [f"{path},{person},,{outfit},{split}" for path, person, outfit, split in rows]
    (root / "people.csv").write_text("\n".join(["path,person,camera,clothes,split", *lines]) + "\n")
    return root


def _prcc(root: Path) -> Path:
    """PRCC's layout: the gallery is one camera, with one outfit of each person. 6 training people, 5 test people."""
    names = [f"train/{p:03d}/{c}_cropped_rgb{n:03d}" for p in range(1, 7) for c in "ABC" for n in (1, 2)]
    test = {"A": (1, 2, 3), "B": (4, 5, 6), "C": (7, 8, 9)}
    names += [f"test/{c}/{p:03d}/cropped_rgb{n:03d}" for p in range(20, 25) for c in "ABC" for n in test[c]]
    return trees.images(root, [f"rgb/{name}.jpg" for name in names])


LAYOUTS = {"market1501": _market, "csv": _no_cameras, "prcc": _prcc}


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory) -> Callable[[str], tuple[Path, Path]]:
    """Benchmark -> (its folder, the folder of one tiny run that is trained and scored on it, once)."""

    @cache
    def folders(benchmark: str) -> tuple[Path, Path]:
        folder = tmp_path_factory.mktemp(benchmark)
        root = LAYOUTS[benchmark](folder / "data")
        experiment = Experiment.from_parameters(preset="demo", benchmark=benchmark, root=str(root), **FEW)
        data = synthetic.benchmark_for(experiment)
        run = training.fit(experiment, data, folder / "run")
        retrieval.score_run(run, data)
        return root, run.dir

    return folders


def _wide(notebook: str, benchmark: str):
    marks = [] if (notebook, benchmark) in QUICK else [pytest.mark.wide]
    return pytest.param(notebook, benchmark, marks=marks, id=f"{notebook}-{benchmark}")


@pytest.mark.parametrize(("notebook", "benchmark"), [_wide(name, kind) for kind in LAYOUTS for name in ELSEWHERE])
def test_notebook_works_on_other_benchmark(notebook, benchmark, trained_on, workbench, monkeypatch):
    root, trained = trained_on(benchmark)
    monkeypatch.setenv("CSGN_HOME", str(workbench))
    path = NOTEBOOKS[0].parent / f"{notebook}.ipynb"
    known = runs.declared(path)
    reads = {"runs": {"CSGN": str(trained)}} if "runs" in known else {"run_dir": str(trained)}
    reads = {"run_dirs": {"CSGN": str(trained)}} if "run_dirs" in known else reads
    data = {"benchmark": benchmark, "root": str(root)}
    given = ELSEWHERE[notebook] | (data if notebook[:2] in ("00", "01", "02", "12") else reads)
    run = runs.execute(path, given, threads=1, timeout=1800)
    assert run.status["state"] == "done", f"{run.status.get('error')}; see {run.dir}"
    executed = json.loads(run.path("executed.ipynb").read_text(encoding="utf-8"))
    _shows_its_figures_and_no_noise(run, executed)
    outputs = [output.get("data", {}) for cell in executed["cells"] for output in cell.get("outputs", [])]
    skipped = sum("".join(data.get("text/markdown", "")).startswith("**Skipped:**") for data in outputs)
    assert skipped == (SKIPPED[benchmark] | WITHOUT_RENDERING).get(notebook, 0)


@pytest.mark.wide
def test_sweep_on_other_benchmark_reports_first_protocol(workbench, tmp_path, monkeypatch):
    """PRCC's first protocol is cross_clothes; the runs use no text."""
    monkeypatch.setenv("CSGN_HOME", str(workbench))
    every = {
        "benchmark": "prcc", "root": str(trees.prcc(tmp_path / "prcc")), "batch_persons": 2, "batch_images": 2,
        "stage1_epochs": 1, "stage2_epochs": 1, "hsf": "none", "vss": "none",
    }  # fmt: skip
    grid = tmp_path / "grid.yaml"
    grid.write_text(json.dumps({"rows": {"plain": {}}, "seeds": [0, 1], "every": every}))
    given = {"grid": str(grid), "out": str(tmp_path / "made")}
    run = runs.execute(NOTEBOOKS[0].parent / "40_ablation_sweep.ipynb", given, threads=1, timeout=1800)
    assert run.status["state"] == "done", f"{run.status.get('error')}; see {run.dir}"
    asked = pd.read_csv(tmp_path / "made" / "per-query.csv.gz")
    assert {"cross_clothes", "same_clothes"} <= set(asked.protocol)
    table = pd.read_csv(tmp_path / "made" / "table-records.csv")
    assert table.protocol.iloc[0] == "cross_clothes" and set(table.runs) == {2}
