"""Fixtures: a local JupyterLab and headless Chromium. `make test-browser` runs these tests, `make test` does not.

CSGN_SCREENSHOTS names a folder for pictures of what was seen; CHROMIUM a browser, else it is playwright's own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright
from served import PATIENCE, Lab, serving

# The maps are drawn by WebGL, on the CPU where there is no GPU; nothing else is looked up on the network.
SWITCHES = [
    "--no-sandbox",
    "--enable-unsafe-swiftshader",
    "--disable-background-networking",
    "--disable-component-update",
]
expect.set_options(timeout=PATIENCE)  # 5 s by default, whatever a page's own


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Chromium without a window."""
    path = os.environ.get("CHROMIUM") or None
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=SWITCHES)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A function from (folder that is served, the workbench's home for its kernels) to JupyterLab's address.

    The address holds ``{}`` for the notebook's name, and the token.
    """
    with ExitStack() as servers:
        yield lambda folder, home: servers.enter_context(serving(folder, home))


@pytest.fixture(scope="session")
def see() -> Callable[[Page, str], None]:
    """Keeps a picture of a page, where a folder for it is named."""

    def keep(page: Page, name: str) -> None:
        if folder := os.environ.get("CSGN_SCREENSHOTS"):
            Path(folder).mkdir(parents=True, exist_ok=True)
            page.screenshot(path=f"{folder}/{name}.png")

    return keep
