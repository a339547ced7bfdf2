"""Every notebook runs headless through papermill on the embedded benchmark, and says what it found."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest
import trees

from csgn_lib import runs
from csgn_lib.records import Run

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
BRIEF = {  # the others run with their defaults
    "12_train": {"stage1_epochs": 1, "stage2_epochs": 1, "seed": 1},  # seed 0 is a cell of the sweep's
    "11_stage1_prompts": {"stage1_epochs": 1},
    "10_colour_bias": {"pictures_per_person": 2, "sentences": 40, "resamples": 100},
    "21_search": {"strangers": 3000},
    "30_embedding_map": {"mapped": 120, "perplexities": [10], "pictures": 20, "resamples": 100},
    "31_clothes_leakage": {"shuffles": 1, "resamples": 100},
    "32_attention": {"people": 4, "shown": 1, "stride": 16, "resamples": 100},
    "50_explore": {"queries": 12},
}


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
    assert any("".join(data.get("text/markdown", "")).startswith("**Answer.** ") for data in shown)
    sweep = notebook.stem in ("40_ablation_sweep", "41_ablation_tables", "90_paper_figures")  # of other runs
    assert sweep or json.loads(run.path("benchmark.json").read_text())["manifest"]
    for figure in run.path("figures").glob("*.png"):
        assert all(figure.with_suffix(suffix).stat().st_size for suffix in (".pdf", ".csv", ".json"))
    for cell in executed["cells"]:
        if "figures.save(" in "".join(cell["source"]) and cell["cell_type"] == "code":
            assert any("image/png" in output.get("data", {}) for output in cell["outputs"]), cell["id"]
    ALSO.get(notebook.stem, lambda run: None)(run)


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
