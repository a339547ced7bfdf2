"""Every notebook runs headless on the embedded benchmark and answers its question; so it does on other benchmarks.

The others are trees without clothes labels and without cameras, each with one tiny trained run that all notebooks read.
``make test`` runs a part of these; ``make test-notebooks`` (``pytest -m wide``) runs the rest.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import trees

from csgn_lib import retrieval, runs, synthetic, training
from csgn_lib.config import Experiment
from csgn_lib.records import Run

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
BRIEF = {  # the others run with their defaults
    "12_train": {"stage1_epochs": 1, "stage2_epochs": 1, "seed": 1},  # seed 0 is a cell of the sweep's
    "11_stage1_prompts": {"stage1_epochs": 1},
    "10_colour_bias": {"pictures_per_person": 2, "sentences": 40, "resamples": 100},
    "21_search": {"distractors": 3000},
    "30_embedding_map": {"mapped": 120, "perplexities": [10], "pictures": 20, "resamples": 100},
    "31_clothes_leakage": {"shuffles": 1, "resamples": 100},
    "32_attention": {"people": 4, "shown": 1, "stride": 16, "resamples": 100},
    "50_explore": {"queries": 12},
}
OTHERS = ("12_train", "40_ablation_sweep", "41_ablation_tables", "50_explore", "51_training", "90_paper_figures")


@pytest.fixture(scope="session")
def workbench(tmp_path_factory, worker_id) -> Path:
    """One home for all, so that the world is drawn once; the sweep finds its template in it."""
    base = tmp_path_factory.getbasetemp()
    home = (base if worker_id == "master" else base.parent) / "workbench"
    home.mkdir(exist_ok=True)
    with suppress(FileExistsError):  # the other worker was faster
        (home / "notebooks").symlink_to(NOTEBOOKS[0].parent)
    return home


def _the_sweep_hands_on_the_colour_sensitivity(run: Run) -> None:
    written = pd.read_csv(run.path("colours-records.csv"))
    made = pd.read_csv(run.path("runs-records.csv"))
    assert len(written) == 3 * len(made)  # plain, clothing out, person only
    for cell in made.to_dict("records"):
        own = written[(written.row == cell["row"]) & (written.seed == cell["seed"])].set_index("descriptor")
        for name in ("plain", "clothing out", "person only"):
            assert own.value[name] == pytest.approx(cell[f"{name}.colour_sensitivity.value"], rel=1e-5)
            assert own.low[name] < own.value[name] < own.high[name]


def _the_tables_show_the_colour_sensitivity(run: Run) -> None:
    records = (pd.read_csv(path) for path in run.dir.parent.glob("40_ablation_sweep-*/colours-records.csv"))
    [short] = [frame for frame in records if "frozen small CLIP" in set(frame.row)]  # the sweep that 41 ran
    shown = pd.read_csv(run.path("results.csv")).query("column == 'colour sensitivity'").set_index("row")
    means = short.query("descriptor == 'plain'").groupby("row").value.mean()
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


ALSO = {
    "40_ablation_sweep": _the_sweep_hands_on_the_colour_sensitivity,
    "41_ablation_tables": _the_tables_show_the_colour_sensitivity,
}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_answers_its_question(notebook, workbench, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(workbench))
    run = runs.execute(notebook, BRIEF.get(notebook.stem), threads=1, timeout=600)
    assert run.status["state"] == "done", f"{run.status.get('error')}; see {run.dir}"
    executed = json.loads(run.path("executed.ipynb").read_text(encoding="utf-8"))
    shown = [output.get("data", {}) for cell in executed["cells"] for output in cell.get("outputs", [])]
    assert any("".join(data.get("text/markdown", "")).startswith("**Answer.**") for data in shown)
    sweep = notebook.stem in ("40_ablation_sweep", "41_ablation_tables", "90_paper_figures")  # of other runs
    assert sweep or json.loads(run.path("benchmark.json").read_text())["manifest"]
    for figure in run.path("figures").glob("*.png"):
        assert all(figure.with_suffix(suffix).stat().st_size for suffix in (".pdf", ".csv", ".json"))
    for cell in executed["cells"]:
        if "figures.save(" in "".join(cell["source"]) and cell["cell_type"] == "code":
            assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), cell["id"]
    _shows_its_figures_and_no_noise(run, executed)
    ALSO.get(notebook.stem, lambda run: None)(run)


# ---- benchmarks without some labels

FEW = {"batch_persons": 2, "batch_images": 2, "stage1_epochs": 1, "stage2_epochs": 1}
UNLABELLED = {  # what each notebook needs besides the tree and, where it reads one, the trained run
    "00_first_result": {},
    "01_dataset_integrity": {},
    "02_dataset_portrait": {"people": 2},
    "10_colour_bias": {"pictures_per_person": 2, "sentences": 10, "resamples": 50, "most_people": 6},
    "11_stage1_prompts": {},
    "20_evaluate": {},
    "21_search": {"distractors": 300, "k1": 5, "k2": 2},
    "22_failures": {},
    "30_embedding_map": {"perplexities": [4], "seeds": [0], "pictures": 8, "resamples": 50, "neighbours": 4},
    "31_clothes_leakage": {"resamples": 50},
    "32_attention": {"people": 3, "shown": 1, "stride": 16, "steps": 3, "resamples": 50},
}
SKIPPED = {  # how many sections say that they are skipped, by benchmark and notebook
    "market1501": {"01_dataset_integrity": 1, "02_dataset_portrait": 1, "31_clothes_leakage": 2},
    "csv": {"02_dataset_portrait": 1, "31_clothes_leakage": 1},
}
WITHOUT_RENDERING = {"10_colour_bias": 3, "11_stage1_prompts": 1, "32_attention": 1}  # not embedded
QUICK = {("20_evaluate", "market1501"), ("30_embedding_map", "market1501"), ("31_clothes_leakage", "market1501"),
         ("22_failures", "csv"), ("31_clothes_leakage", "csv")}  # fmt: skip


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


LAYOUTS = {"market1501": _market, "csv": _no_cameras}


@pytest.fixture(scope="module", params=list(LAYOUTS))
def unlabelled(request, tmp_path_factory) -> tuple[str, Path, Path]:
    """(benchmark, its folder, the folder of one tiny run trained and scored on it)."""
    folder = tmp_path_factory.mktemp(request.param)
    root = LAYOUTS[request.param](folder / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSGN_HOME", str(folder))
        experiment = Experiment.from_parameters(preset="demo", benchmark=request.param, root=str(root), **FEW)
        data = synthetic.benchmark_for(experiment)
        run = training.fit(experiment, data, folder / "run")
        retrieval.score_run(run, data)
    return request.param, root, run.dir


def _wide(notebook: str, benchmark: str):
    marks = [] if (notebook, benchmark) in QUICK else [pytest.mark.wide]
    return pytest.param(notebook, benchmark, marks=marks, id=f"{notebook}-{benchmark}")


@pytest.mark.parametrize(
    ("notebook", "unlabelled"), [_wide(name, kind) for kind in LAYOUTS for name in UNLABELLED], indirect=["unlabelled"]
)
def test_a_notebook_works_without_clothes_labels_or_without_cameras(notebook, unlabelled, workbench, monkeypatch):
    benchmark, root, trained = unlabelled
    monkeypatch.setenv("CSGN_HOME", str(workbench))
    path = NOTEBOOKS[0].parent / f"{notebook}.ipynb"
    known = runs.declared(path)
    reads = {"runs": {"CSGN": str(trained)}} if "runs" in known else {"run_dir": str(trained)}
    data = {"benchmark": benchmark, "root": str(root)}
    given = UNLABELLED[notebook] | (data if notebook[:2] in ("00", "01", "02") else reads)
    run = runs.execute(path, given, threads=1, timeout=600)
    assert run.status["state"] == "done", f"{run.status.get('error')}; see {run.dir}"
    executed = json.loads(run.path("executed.ipynb").read_text(encoding="utf-8"))
    _shows_its_figures_and_no_noise(run, executed)
    shown = [
        "".join(o.get("data", {}).get("text/markdown", "")) for c in executed["cells"] for o in c.get("outputs", [])
    ]
    assert sum(text.startswith("**Skipped:**") for text in shown) == SKIPPED[benchmark].get(notebook, 0)


def test_a_sweep_on_another_benchmark_is_read_by_its_own_headline(workbench, tmp_path, monkeypatch):
    """PRCC's is cross_clothes; no world, no words that a CLIP could hear."""
    monkeypatch.setenv("CSGN_HOME", str(workbench))
    every = {
        "benchmark": "prcc", "root": str(trees.prcc(tmp_path / "prcc")), "batch_persons": 2, "batch_images": 2,
        "stage1_epochs": 1, "stage2_epochs": 1, "hsf": "none", "vss": "none",
    }  # fmt: skip
    given = {"rows": {"plain": {}}, "seeds": [0, 1], "every": every, "out": str(tmp_path / "made")}
    run = runs.execute(NOTEBOOKS[0].parent / "40_ablation_sweep.ipynb", given, threads=1, timeout=600)
    assert run.status["state"] == "done", f"{run.status.get('error')}; see {run.dir}"
    asked = pd.read_csv(tmp_path / "made" / "per-query.csv.gz")
    assert {"cross_clothes", "same_clothes"} <= set(asked.protocol)
    table = pd.read_csv(tmp_path / "made" / "table-records.csv")
    assert table.protocol.iloc[0] == "cross_clothes" and set(table.runs) == {2}
