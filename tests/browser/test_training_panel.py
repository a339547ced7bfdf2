"""The training panels in a real JupyterLab, in headless Chromium: run by ``make test-browser``, not by ``make test``.

Needs playwright and a Chromium; JupyterLab is started from the environment that the workbench is installed in,
which BROWSER_PYTHON names where it is another than the one that runs this.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

sync_api = pytest.importorskip("playwright.sync_api")

HOME = Path(__file__).resolve().parents[2]
PYTHON = os.environ.get("BROWSER_PYTHON", sys.executable)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SHOTS = os.environ.get("BROWSER_SHOTS")  # a folder for pictures of what was seen
WAIT = 240_000  # milliseconds: kernels and training start slowly on a busy machine
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")

SET_UP = """
from pathlib import Path
from csgn_lib import panels, synthetic
from csgn_lib.config import Experiment
few = synthetic.World(people=(8, 4, 6), wardrobe=(6, 4, 4), images=(4, 2, 2), outfits=3)
root = synthetic.ensure(few, Path("people").resolve(), processes=1)
small = {"batch_persons": 4, "stage1_batch": 64, "stage1_epochs": 2, "stage2_epochs": 300, "precision": "fp32"}
experiment = Experiment.from_parameters(root=str(root), **small)
"""
SHOW = """
from IPython.display import display
dashboard = panels.TrainingDashboard()
form = panels.ParameterPanel(experiment, started=dashboard.choose)
dashboard.follow()
display(dashboard.widget, panels.Board().widget, form.widget)
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
def lab(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """JupyterLab on this machine alone, with a token, over a folder of its own: the notebook's address, the folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    token = secrets.token_hex(16)
    _notebook(tmp_path / "panel.ipynb")
    variables = os.environ | {
        "PYTHONPATH": str(HOME), "CSGN_HOME": str(tmp_path), "OMP_NUM_THREADS": "1", "JUPYTER_TOKEN": token,
        "JUPYTER_CONFIG_DIR": str(tmp_path / "config"), "JUPYTER_DATA_DIR": str(tmp_path / "data"),
    }  # fmt: skip
    words = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root", f"--ServerApp.root_dir={tmp_path}"]
    with (tmp_path / "lab.log").open("wb") as log:
        server = subprocess.Popen([PYTHON, "-m", "jupyterlab", *words], env=variables, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5)
                break
            except OSError:
                assert time.monotonic() < end and server.poll() is None, (tmp_path / "lab.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/panel.ipynb?reset&token={token}", tmp_path
    finally:
        for path in (tmp_path / "reports" / "runs").glob("*/status.json"):
            status = json.loads(path.read_text())
            if status["state"] == "running":  # only where the test has failed: training outlives the server
                os.kill(status["pid"], signal.SIGTERM)
        server.terminate()
        server.wait(60)


def _status(folder: Path) -> dict:
    [path] = (folder / "reports" / "runs").glob("*/status.json")
    return json.loads(path.read_text())


def _see(page, name: str) -> None:
    if SHOTS:
        Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png")


def _open(browser, address: str):
    page = browser.new_page(viewport={"width": 1500, "height": 2400})
    page.goto(address)
    page.get_by_text("experiment = Experiment").first.wait_for(timeout=WAIT)
    return page


def _run_all(page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.get_by_role("button", name="Start training").wait_for(timeout=WAIT)


def test_training_is_started_seen_from_a_second_tab_and_stopped(lab):
    address, folder = lab
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = _open(browser, address)
        _run_all(page)
        method = page.get_by_role("tab", name="Training").or_(page.locator(".lm-TabBar-tabLabel", has_text="Training"))
        method.first.click()
        box = page.locator(".widget-hbox", has_text="batch_persons").locator("input").first
        box.fill("1")
        box.press("Tab")
        page.get_by_text("greater than or equal to 2").first.wait_for(timeout=WAIT)
        assert page.get_by_role("button", name="Start training").is_disabled()
        _see(page, "error")
        box.fill("4")
        box.press("Tab")
        page.get_by_text("greater than or equal to 2").first.wait_for(state="hidden", timeout=WAIT)
        page.get_by_role("button", name="Start training").click()
        page.get_by_text("stage 2, epoch", exact=False).first.wait_for(timeout=WAIT)
        page.wait_for_function("[...document.querySelectorAll('img.widget-image')].some(i => i.naturalWidth > 400)")
        time.sleep(4)
        _see(page, "training")
        page.close()  # the tab is gone; training is not

        page = _open(browser, address)
        _run_all(page)
        page.get_by_text("▶ running").first.wait_for(timeout=WAIT)
        assert _status(folder)["state"] == "running"
        page.locator("button", has_text="Stop").first.click()
        page.get_by_text("was asked to stop", exact=False).first.wait_for(timeout=WAIT)
        page.get_by_text("■ interrupted").first.wait_for(timeout=WAIT)
        _see(page, "stopped")
        assert _status(folder)["state"] == "interrupted"
        browser.close()
