"""A JupyterLab that is served on this machine only, and shared code of its tests."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, Locator, Page

HOME = Path(__file__).resolve().parents[2]
PATIENCE = 240_000  # milliseconds: the machine may be busy
ERROR = "application/vnd.jupyter.error"  # of a cell's output
PATIENT = "const limit = AbortSignal.timeout; AbortSignal.timeout = ms => limit.call(AbortSignal, 60 * ms)"
Lab = Callable[[Path, Path], str]


def opened(browser: Browser, address: str, height: int) -> Page:
    """A notebook in a page of its own, with its kernel there: cells that are run before it is are lost."""
    page = browser.new_page(viewport={"width": 1500, "height": height})
    page.set_default_timeout(PATIENCE)
    page.add_init_script(PATIENT)  # anywidget gives up on a model after 2 s, too early on a busy machine
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell")
    page.wait_for_selector("text=/Python 3.*Idle/")
    return page


def run_cells(page: Page, cells: int) -> None:
    """From the first cell on, by the keyboard, as a person would."""
    page.locator(".jp-Notebook .jp-Cell").first.click()
    page.keyboard.press("Escape")  # command mode
    for _ in range(cells):
        page.keyboard.press("Shift+Enter")


def wait_for_panel(page: Page, part: Locator) -> None:
    """Wait for a part of a panel to be visible; a cell's error ends the wait."""
    error = page.locator(f"[data-mime-type='{ERROR}']").first
    part.or_(error).first.wait_for()
    assert not error.is_visible(), error.inner_text()


@contextmanager
def serving(folder: Path, home: Path) -> Iterator[str]:
    """Its address, with the token and ``{}`` for a notebook's name, while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    options = ["--no-browser", "--ip=127.0.0.1", f"--port={port}", "--allow-root", f"--ServerApp.root_dir={folder}"]
    options += [
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.news_url=None",
        f"--LabApp.app_settings_dir={HOME / 'csgn_lib/panels/jupyterlab'}",
    ]  # as make lab
    own = {
        "JUPYTER_CONFIG_DIR": str(folder / "config"), "JUPYTER_DATA_DIR": str(folder / "data"), "JUPYTER_TOKEN": token,
        "PYTHONPATH": str(HOME), "CSGN_HOME": str(home), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    with (folder / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", *options], env=os.environ | own, stdout=log, stderr=log
        )
    try:
        end = time.monotonic() + PATIENCE / 1000
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=5).close()
                break
            except OSError:
                assert time.monotonic() < end and server.poll() is None, (folder / "lab.log").read_text()
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/lab/tree/{{}}?reset&token={token}"
    finally:
        server.terminate()
        server.wait(60)
