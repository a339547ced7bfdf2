"""The explorer in JupyterLab with Chromium: clicks, sliders, lasso, hover, upload, saved figures, no kernel."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect
from served import HOME, Lab, opened, run_cells, wait_for_panel

from csgn_lib import synthetic

BOOK = HOME / "notebooks/50_explore.ipynb"
STRIP = "img[alt^='test/']:is([style*='height:112px'], [style*='height:224px'])"  # none enlarged, none of the maps
END_KERNELS = """async () => {
    const headers = {"X-XSRFToken": document.cookie.match(/_xsrf=([^;]+)/)[1]};
    for (const {id} of await (await fetch("/api/kernels")).json())
        await fetch(`/api/kernels/${id}`, {method: "DELETE", headers});
}"""
POINT = "() => [...document.querySelectorAll('div')].find(part => part.api).api.getScreenPosition(0)"
DRAWN = "canvas => canvas.width > 0 && canvas.getBoundingClientRect().height > 100"


@pytest.fixture(scope="module")
def page(lab: Lab, browser: Browser, see: Callable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """The notebook with its panel, run from the first cell to the last."""
    folder = tmp_path_factory.mktemp("lab")
    few = synthetic.World(people=30, outfits=3)
    root = synthetic.ensure(few, folder / "people", processes=1)
    book = json.loads(BOOK.read_text(encoding="utf-8"))
    for cell in book["cells"]:
        if "parameters" in cell["metadata"].get("tags", []):
            text = re.sub(r"queries: int = \d+", "queries: int = 4", "".join(cell["source"]))
            text = text.replace("interactive: bool = False", "interactive: bool = True")
            cell["source"] = text.replace('root: str = ""', f"root: str = {str(root)!r}")
    (folder / "explore.ipynb").write_text(json.dumps(book), encoding="utf-8")
    address = lab(folder, folder)
    page = opened(browser, address.format("explore.ipynb"), 1700)
    run_cells(page, len(book["cells"]))
    listed = page.locator(".widget-select select")
    wait_for_panel(page, listed)
    page.locator("button", has_text="Save figure").scroll_into_view_if_needed()
    see(page, "explore")
    yield page
    page.close()


def _shown(page: Page) -> list[tuple[str, str]]:
    """The first strip's answers in order: their files, and their pictures."""
    page.wait_for_selector(STRIP)
    return page.eval_on_selector_all(STRIP, "images => images.slice(0, 11).map(image => [image.alt, image.src])")


def _changed(page: Page, before: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """The first strip as soon as it differs."""
    for _ in range(240):
        if (after := _shown(page)) != before:
            return after
        page.wait_for_timeout(500)
    raise AssertionError("the strip has not changed")


def test_click_on_query_changes_images(page: Page) -> None:
    before = _shown(page)
    page.locator(".widget-select select").select_option(index=5)
    _changed(page, before)


def test_click_on_image_enlarges_it(page: Page, see: Callable) -> None:
    before = _shown(page)
    page.locator(STRIP).nth(2).click()
    large = page.locator("img[style*='height:380px']")
    expect(large).to_have_count(2)
    expect(large.nth(1)).to_be_in_viewport()
    assert large.nth(1).get_attribute("alt") == before[2][0]
    see(page, "enlarged")
    page.keyboard.press("Escape")
    expect(large).to_have_count(0)
    page.locator(STRIP).nth(2).click()
    page.get_by_role("button", name="Search with this image").click()
    after = _changed(page, before)
    assert before[2][0] not in [name for name, _ in after[1:]]
    expect(large).to_have_count(0)
    page.locator("button", has_text=re.compile("^Reset$")).click()  # its name holds an icon too
    page.locator("img[alt^='query/'][style*='height:112px']").first.wait_for()
    assert _shown(page) != after


def test_saved_figure_is_reported(page: Page) -> None:
    name = page.locator(".widget-text input[type=text]").last
    assert name.input_value() == "explore-frozen-CLIP-1"
    page.get_by_role("button", name="Save figure").click()
    page.get_by_text(re.compile("saved in .* s: .*explore-frozen-CLIP-1.pdf")).wait_for()
    expect(name).to_have_value("explore-frozen-CLIP-2")


def test_slider_changes_images(page: Page) -> None:
    before = _shown(page)
    label = page.get_by_text("hue, °", exact=True)
    handle = label.locator("xpath=..").locator(".noUi-handle").first
    handle.focus()
    for _ in range(12):
        handle.press("ArrowRight")
    _changed(page, before)


def test_attention_overlay_keeps_ranking(page: Page) -> None:
    page.wait_for_timeout(3000)  # the slider's last answer
    before = _shown(page)
    page.get_by_text("show attention maps").click()
    after = _changed(page, before)
    assert [alt for alt, _ in after[1:]] == [alt for alt, _ in before[1:]], "the ranks are what they were"
    assert all(new != old for (_, new), (_, old) in zip(after, before, strict=True)), "over every image"
    expect(page.get_by_text("Attention rollout (Abnar and Zuidema")).to_be_visible()
    page.get_by_text("show attention maps").click()
    _changed(page, after)


def _upload(page: Page, file: Path | dict) -> None:
    with page.expect_file_chooser() as chooser:
        page.locator("button", has_text=re.compile("^Search with your image$")).click()
    chooser.value.set_files(file)


def test_upload_searches_gallery(page: Page, tmp_path: Path) -> None:
    before = _shown(page)
    _upload(page, {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no image at all"})
    alert = page.locator("b[role=alert]")
    expect(alert).to_contain_text("notes.txt")
    assert _shown(page) == before, "the strip stays"
    Image.new("RGB", (48, 96), (180, 20, 20)).save(tmp_path / "mine.png")
    _upload(page, tmp_path / "mine.png")
    after = _changed(page, before)
    expect(alert).to_have_count(0)
    page.get_by_role("button", name="Back to the selected query").click()
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


def test_lasso_fills_strip(page: Page, see: Callable) -> None:
    counts = []
    for side, radius in ((0, 0.45), (1, 0.2)):
        box = _canvases(page)[side]  # again: the page may have moved
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


def test_hover_shows_image(page: Page, see: Callable) -> None:
    box, _ = _canvases(page)
    shown, (x, y) = page.locator("img[style*='height:96px']"), page.evaluate(POINT)
    page.mouse.move(box["x"] - 50, box["y"] - 20)  # away from any point
    page.wait_for_timeout(1000)
    before = shown.count()
    page.mouse.move(box["x"] + x, box["y"] + y, steps=10)
    expect(shown).to_have_count(before + 1)
    see(page, "hover")


def test_link_in_first_cell_leads_to_panel(page: Page) -> None:
    link = page.get_by_role("link", name="Go to the interactive panel")
    link.scroll_into_view_if_needed()
    link.click()
    expect(page.get_by_role("heading", name="2. The interactive panel")).to_be_in_viewport()
    expect(page.get_by_text("Would you like to get notified about official Jupyter news")).to_have_count(0)


def test_notebook_without_kernel_shows_note(page: Page, see: Callable) -> None:
    note = page.locator(".csgn-offline")
    expect(note).to_be_hidden()
    page.keyboard.press("Control+s")
    page.wait_for_function("!document.querySelector('.lm-TabBar-tab.jp-mod-dirty')")
    page.evaluate(END_KERNELS)
    page.reload()
    page.wait_for_selector("text=/Python 3.*Idle/")
    page.get_by_role("link", name="Go to the interactive panel").click()
    expect(note).to_be_visible()
    expect(page.get_by_text("Error displaying widget")).to_be_hidden()
    see(page, "offline")
