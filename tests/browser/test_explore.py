"""The explorer in a real JupyterLab: it opens, runs, answers to a slider and a click. `make test-browser` runs it."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")
HOME = Path(__file__).resolve().parents[2]
NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
CELLS = len(json.loads((HOME / "notebooks/50_explore.ipynb").read_text(encoding="utf-8"))["cells"])
PATIENCE = 300_000  # milliseconds: the machine may be busy
STRIP = ".jp-OutputArea-output img[alt^='test/']"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a JupyterLab of our own, with the notebook in it, set to interactive."""
    folder = tmp_path_factory.mktemp("lab")
    book = json.loads((HOME / "notebooks/50_explore.ipynb").read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            text = "".join(cell["source"]).replace("interactive: bool = False", "interactive: bool = True")
            cell["source"] = re.sub(r"queries: int = \d+", "queries: int = 4", text)
    (folder / "explore.ipynb").write_text(json.dumps(book), encoding="utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", f"--IdentityProvider.token={token}", "--allow-root"]
    lines = [sys.executable, "-m", "jupyterlab", *options, f"--ServerApp.root_dir={folder}"]
    paths = {"JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_DATA_DIR": str(folder / "data")}
    home = os.environ.get("CSGN_HOME", str(folder / "home"))
    environment = os.environ | paths | {"PYTHONPATH": str(HOME), "CSGN_HOME": home}
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(lines, env=environment, stdout=log, stderr=log)
    try:
        base = f"http://127.0.0.1:{port}"
        for _ in range(240):
            try:
                urllib.request.urlopen(f"{base}/api?token={token}", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None, (folder / "log").read_text()
                time.sleep(0.5)
        yield f"{base}/lab/tree/explore.ipynb?token={token}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def page(lab: str) -> Iterator[playwright.Page]:
    with playwright.sync_playwright() as driver:
        try:
            browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        except playwright.Error as error:
            pytest.skip(f"no Chromium can be started ({error}); set CHROMIUM, or: playwright install chromium")
        page = browser.new_page(viewport={"width": 1500, "height": 1700})
        page.set_default_timeout(PATIENCE)
        page.goto(lab)
        page.wait_for_selector(".jp-Notebook .jp-CodeCell")
        page.wait_for_selector("text=/Python 3.*Idle/")
        page.locator(".jp-Notebook .jp-Cell").first.click()
        page.keyboard.press("Escape")  # command mode
        for _ in range(CELLS):
            page.keyboard.press("Shift+Enter")
        page.wait_for_selector(".widget-select select")
        yield page
        if folder := os.environ.get("CSGN_SCREENSHOTS"):
            page.locator(".widget-select").first.scroll_into_view_if_needed()
            page.wait_for_timeout(3000)
            page.screenshot(path=str(Path(folder) / "explore.png"))
        browser.close()


def _shown(page: playwright.Page) -> list[str]:
    """What the first strip shows: the answers' files, in order."""
    page.wait_for_selector(STRIP)
    return page.eval_on_selector_all(STRIP, "images => images.slice(0, 10).map(image => image.alt)")


def _changed(page: playwright.Page, before: list[str]) -> bool:
    for _ in range(240):
        if _shown(page) != before:
            return True
        page.wait_for_timeout(500)
    return False


def test_a_click_on_another_query_changes_the_pictures(page: playwright.Page) -> None:
    before = _shown(page)
    page.locator(".widget-select select").select_option(index=5)
    assert _changed(page, before)


def test_a_slider_changes_the_pictures(page: playwright.Page) -> None:
    before = _shown(page)
    label = page.get_by_text("hue, °", exact=True)
    handle = label.locator("xpath=..").locator(".noUi-handle").first
    handle.focus()
    for _ in range(12):
        handle.press("ArrowRight")
    assert _changed(page, before)


def test_both_maps_are_drawn(page: playwright.Page) -> None:
    page.wait_for_selector("canvas", state="attached")
    assert page.locator("canvas").count() >= 2
