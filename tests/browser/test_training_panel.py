"""The training panels in JupyterLab with Chromium: training survives a closed tab and is stopped from another one."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page
from served import Lab, opened, run_cells, wait_for_panel

SET_UP = """
from pathlib import Path
from csgn_lib import panels, synthetic
from csgn_lib.config import Experiment
few = synthetic.World(people=16, outfits=2)
root = synthetic.ensure(few, Path("people").resolve(), processes=1)
small = {"batch_persons": 4, "stage1_batch": 64, "stage1_epochs": 2, "stage2_epochs": 900, "precision": "fp32"}
experiment = Experiment.from_parameters(root=str(root), **small)
"""
CURVES = """() => {
    const image = document.querySelector("img[alt='training curves']");
    return image && Math.abs(image.clientWidth - image.closest(".lm-Widget").clientWidth) < 40;
}"""
SHOW = """
dashboard = panels.TrainingDashboard()
form = panels.ParameterPanel(experiment, started=dashboard.choose)
dashboard.follow()
panels.show("The panel", dashboard.widget, form.widget, panels.Board().widget)
"""


def _notebook(path: Path) -> None:
    cells = [
        {"cell_type": "code", "execution_count": None, "id": name, "metadata": {}, "outputs": [], "source": source}
        for name, source in (("set-up", SET_UP.strip()), ("show", SHOW.strip()))
    ]  # fmt: skip
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    document = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(document))


@pytest.fixture
def notebook(lab: Lab, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The address of a notebook with the panels, and the folder that it works in."""
    _notebook(tmp_path / "panel.ipynb")
    yield lab(tmp_path, tmp_path).format("panel.ipynb"), tmp_path
    for path in (tmp_path / "reports" / "runs").glob("*/status.json"):
        status = json.loads(path.read_text())
        if status["state"] == "running":  # only where the test has failed: training outlives the server
            os.kill(status["pid"], signal.SIGTERM)


def _status(folder: Path) -> dict:
    [path] = (folder / "reports" / "runs").glob("*/status.json")
    return json.loads(path.read_text())


def _panels(browser: Browser, address: str) -> Page:
    page = opened(browser, address, 2400)
    run_cells(page, 2)
    wait_for_panel(page, page.get_by_role("button", name="Start training"))
    return page


def test_training_starts_and_stops_across_tabs(
    notebook: tuple[str, Path], browser: Browser, see: Callable[[Page, str], None]
) -> None:
    address, folder = notebook
    page = _panels(browser, address)
    method = page.get_by_role("tab", name="Training").or_(page.locator(".lm-TabBar-tabLabel", has_text="Training"))
    method.first.click()
    box = page.locator(".widget-hbox", has_text="batch_persons").locator("input").first
    box.fill("1")
    box.press("Tab")
    page.get_by_text("greater than or equal to 2").first.wait_for()
    assert page.get_by_role("button", name="Start training").is_disabled()
    see(page, "parameters")
    box.fill("4")
    box.press("Tab")
    page.get_by_text("greater than or equal to 2").first.wait_for(state="hidden")
    page.get_by_role("button", name="Start training").click()
    page.get_by_text("stage 2, epoch", exact=False).first.wait_for()
    page.wait_for_function(CURVES)
    start, scrolled = page.get_by_role("button", name="Start training"), set()
    for _ in range(6):  # several updates of the dashboard above the button
        page.wait_for_timeout(1000)
        scrolled.add(round(start.bounding_box()["y"]))
    assert len(scrolled) == 1, "the page does not jump"
    see(page, "training")
    page.close()  # training continues

    page = _panels(browser, address)
    page.get_by_text("▶ running").first.wait_for()
    assert _status(folder)["state"] == "running"
    page.locator("button", has_text="Stop").first.click()
    page.get_by_text("was asked to stop", exact=False).first.wait_for()
    page.get_by_text("■ interrupted").first.wait_for()
    see(page, "stopped")
    assert _status(folder)["state"] == "interrupted"
    page.close()
