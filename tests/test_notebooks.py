"""Every notebook runs headless through papermill on the embedded benchmark, and says what it found."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

import pytest

from csgn_lib import runs

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "notebooks").glob("*.ipynb"))
BRIEF = {  # the others run with their defaults
    "12_train": {"stage1_epochs": 1, "stage2_epochs": 1, "seed": 1},  # seed 0 is a cell of the sweep's
    "11_stage1_prompts": {"stage1_epochs": 1},
    "10_colour_bias": {"pictures_per_person": 2, "sentences": 40, "resamples": 100},
    "21_search": {"strangers": 3000},
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
