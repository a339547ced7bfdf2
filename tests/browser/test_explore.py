"""The explorer in a real JupyterLab: it runs, and answers to a click, a slider, a lasso, a pointer and an upload."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from served import HOME, PATIENCE, Lab, opened, run_cells

BOOK = HOME / "notebooks/50_explore.ipynb"
STRIP = ".jp-OutputArea-output img[alt^='test/']"
DRAWN = "canvas => canvas.width > 0 && canvas.getBoundingClientRect().height > 100"


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser, see: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The notebook, set to interactive, run from its first cell to its last."""
    folder = tmp_path_factory.mktemp("lab")
    book = json.loads(BOOK.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            text = "".join(cell["source"]).replace("interactive: bool = False", "interactive: bool = True")
            cell["source"] = re.sub(r"queries: int = \d+", "queries: int = 4", text)
    (folder / "explore.ipynb").write_text(json.dumps(book), encoding="utf-8")
    address = lab(folder, Path(os.environ.get("CSGN_HOME", folder / "home")))
    page = opened(browser, address.format("explore.ipynb"), 1700)
    run_cells(page, len(book["cells"]))
    page.wait_for_selector(".widget-select select")
    yield page
    page.locator(".widget-select").first.scroll_into_view_if_needed()
    see(page, "explore")
    page.close()


def _shown(page: Page) -> list[tuple[str, str]]:
    """What the first strip shows, in order: the answers' files, and their pictures."""
    page.wait_for_selector(STRIP)
    return page.eval_on_selector_all(STRIP, "images => images.slice(0, 11).map(image => [image.alt, image.src])")


def _changed(page: Page, before: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """What it shows as soon as that is something else."""
    for _ in range(240):
        if (after := _shown(page)) != before:
            return after
        page.wait_for_timeout(500)
    raise AssertionError("the strip has stayed as it was")


def test_a_click_on_another_query_changes_the_pictures(page: Page) -> None:
    before = _shown(page)
    page.locator(".widget-select select").select_option(index=5)
    _changed(page, before)


def test_a_slider_changes_the_pictures(page: Page) -> None:
    before = _shown(page)
    label = page.get_by_text("hue, °", exact=True)
    handle = label.locator("xpath=..").locator(".noUi-handle").first
    handle.focus()
    for _ in range(12):
        handle.press("ArrowRight")
    _changed(page, before)


def test_attention_is_laid_over_the_same_answers(page: Page) -> None:
    page.wait_for_timeout(3000)  # the slider's last answer
    before = _shown(page)
    page.get_by_text("attention over each image").click()
    after = _changed(page, before)
    assert [alt for alt, _ in after[1:]] == [alt for alt, _ in before[1:]], "the ranks are what they were"
    assert all(new != old for (_, new), (_, old) in zip(after, before, strict=True)), "over every image"
    page.get_by_text("attention over each image").click()
    _changed(page, after)


def _upload(page: Page, file: Path | dict) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator(".jupyter-widgets.widget-upload").click()
    chooser.value.set_files(file)


def test_an_image_of_ones_own_searches_the_gallery_and_one_that_is_none_is_refused(page: Page, tmp_path: Path) -> None:
    before = _shown(page)
    _upload(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image at all"})
    alert = page.locator("b[role=alert]")
    expect(alert).to_contain_text("notes.txt", timeout=PATIENCE)
    assert _shown(page) == before, "nothing is lost"
    Image.new("RGB", (48, 96), (180, 20, 20)).save(tmp_path / "mine.png")
    _upload(page, tmp_path / "mine.png")
    after = _changed(page, before)
    expect(alert).to_have_count(0)
    page.get_by_role("button", name="back to the benchmark's query").click()
    _changed(page, after)


def _canvases(page: Page) -> tuple[dict, dict]:
    """Where the two maps lie on the screen."""
    page.wait_for_selector("canvas", state="attached")
    canvases = page.locator("canvas")
    canvases.first.scroll_into_view_if_needed()
    page.wait_for_timeout(2000)
    boxes = [canvases.nth(i).bounding_box() for i in range(canvases.count()) if canvases.nth(i).evaluate(DRAWN)]
    large = sorted((box for box in boxes if box["width"] > 200), key=lambda box: box["x"])
    assert len(large) >= 2, boxes
    return large[0], large[-1]


def test_a_lasso_in_either_map_fills_the_strip(page: Page, see: Callable) -> None:
    counts = []
    for box, radius in zip(_canvases(page), (0.45, 0.2), strict=True):
        x, y, r = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, radius * box["height"]
        page.mouse.move(x + r, y)
        page.mouse.down()
        for step in range(1, 41):
            angle = 2 * math.pi * step / 40
            page.mouse.move(x + r * math.cos(angle), y + r * math.sin(angle))
            page.wait_for_timeout(20)  # a point of the lasso every 10 ms at most
        page.mouse.up()
        said = page.get_by_text(re.compile(r"^Images: \d+, people: \d+, outfits: \d+")).last
        if counts:
            expect(said).not_to_have_text(counts[0])
        counts.append(said.inner_text())
        see(page, f"lasso-{len(counts)}")
    wide, narrow = (int(re.search(r"\d+", said)[0]) for said in counts)
    assert wide > narrow > 0


def test_the_pointer_over_a_point_shows_its_image(page: Page, see: Callable) -> None:
    box, _ = _canvases(page)
    shown = page.locator("img[style*='height:96px']")
    page.mouse.move(box["x"] - 50, box["y"] - 20)  # off the map, where the lasso may have left it over a point
    page.wait_for_timeout(2000)
    before = shown.count()
    for line in range(1, 14):  # some line across the map meets a point
        for step in range(20, 80):
            page.mouse.move(box["x"] + step / 100 * box["width"], box["y"] + line / 14 * box["height"])
            if shown.count() > before:
                see(page, "hover")
                return
    raise AssertionError("no image was shown")
