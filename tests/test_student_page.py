"""docs/student.md: its commands run on a generated PRCC tree and print the output that the page shows.

Numbers are masked on both sides, and small models with random weights take the place of the pretrained ones.
"""

from __future__ import annotations

import _thread
import re
import shlex
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trees
import yaml

from csgn_lib.__main__ import main
from csgn_lib.records import Run

pytestmark = pytest.mark.wide
HOME = Path(__file__).resolve().parents[1]
PAGE = HOME / "docs" / "student.md"
NOT_RUN = {"make install", "source .venv/bin/activate"}
TINY = {
    "clip_model": "csgn-tiny", "clip_checkpoint": None, "resnet_model": "csgn_tiny_resnet", "resnet_checkpoint": None,
    "image_height": 48, "image_width": 24, "precision": "fp32", "stage1_epochs": 2, "stage1_batch": 8,
    "stage1_warmup": 0, "stage2_epochs": 1, "stage2_warmup": 1, "stage2_milestones": [1], "batch_persons": 3,
    "batch_images": 2,
}  # fmt: skip


def prcc_tree(root: Path) -> Path:
    """PRCC's layout: four training and three test people, three cameras, no image twice."""
    cameras = {"A": 0, "B": 10, "C": 20}
    names = [f"rgb/train/{pid}/{camera}_cropped_rgb{first + n:03d}.jpg" for pid in ("001", "005", "007", "011")
             for camera, first in cameras.items() for n in (1, 2)]  # fmt: skip
    names += [f"rgb/test/{camera}/{pid}/cropped_rgb{first + n:03d}.jpg" for pid in ("003", "102", "104")
              for camera, first in cameras.items() for n in (1, 2, 3)]  # fmt: skip
    return trees.images(root, names)


def blocks() -> list[tuple[str, str]]:
    """The page's fenced blocks in order: (language, text); an output has no language."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S)


def masked(line: str) -> str:
    """A line without its numbers, hexadecimal digests and runs of blanks."""
    line = re.sub(r"\b[0-9a-f]{8,}\b", "#", line)
    line = re.sub(r"[+-]?\d[\d,]*(\.\d+)?(e[+-]?\d+)?", "#", line)
    return re.sub(r"[ -]*-[ -]+| +", " ", line).strip()


def assert_shown(shown: str, printed: str) -> None:
    """Every shown line is printed, in this order; ``...`` alone stands for any lines, within a line for any text."""
    lines = iter(masked(line) for line in printed.splitlines())
    for line in shown.splitlines():
        if line.strip() != "...":
            pattern = ".*".join(re.escape(part) for part in masked(line).split("..."))
            assert any(re.fullmatch(pattern, candidate) for candidate in lines), f"{line!r} is not in:\n{printed}"


def interrupt_after_first_epoch(run_dir: Path) -> Callable[[], None]:
    """Press Ctrl-C once the run's first record is written; returns what ends the watch."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            if Run(run_dir).metrics():
                return _thread.interrupt_main()

    threading.Thread(target=watch, daemon=True).start()
    return ended.set


def words(line: str, root: Path) -> list[str]:
    given = shlex.split(line.replace("/data/prcc", str(root)), comments=True)[1:]
    if given[0] == "train":
        given += [word for name, value in TINY.items()
                  for word in ("--set", f"{name}={'none' if value is None else value}")]  # fmt: skip
    return given


def run(line: str, root: Path) -> None:
    """One command of the page in this process; a comment that names Ctrl-C has it pressed."""
    given = words(line, root)
    stop = interrupt_after_first_epoch(Path(given[given.index("--run-dir") + 1])) if "Ctrl-C" in line else None
    try:
        main(given)
    except SystemExit as ended:
        assert ended.code in ((130,) if stop else (0, None)), (line, ended.code)
    else:
        assert not stop, "nothing was interrupted"
    finally:
        if stop:
            stop()


def save_grid(text: str) -> None:
    """The page's grid, with small models and one seed."""
    grid = yaml.safe_load(text.replace("/data/prcc", "data/prcc"))
    rows = dict(list(grid["rows"].items())[:: len(grid["rows"]) - 1])  # the first and the last
    Path("grid.yaml").write_text(yaml.safe_dump(grid | {"every": grid["every"] | TINY, "rows": rows, "seeds": [0]}))


def test_commands_of_page_print_shown_output(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notebooks").symlink_to(HOME / "notebooks")
    root = prcc_tree(tmp_path / "data" / "prcc")
    printed, ran, compared = "", 0, 0
    for language, text in blocks():
        if language == "yaml":
            save_grid(text)
        elif language == "sh":
            capfd.readouterr()
            for line in text.replace("\\\n", " ").splitlines():
                if line.partition("#")[0].strip() not in NOT_RUN:
                    assert line.startswith("csgn "), line
                    run(line, root)
                    ran += 1
            out, err = capfd.readouterr()
            printed = (out + err).replace(str(root), "/data/prcc").replace(f"{tmp_path}/", "")
        else:
            assert_shown(text, printed)
            compared += 1
    assert ran >= 7 and compared >= 4
    (tables,) = (tmp_path / "reports" / "runs").glob("41_ablation_tables-*")
    assert list(tables.rglob("*.tex")) and list(tables.rglob("*.png"))


@pytest.mark.parametrize(
    ("shown", "printed"),
    [("a 1\n", "b 2\n"), ("second\nfirst\n", "first\nsecond\n"), ("rank-1 5%\n", "mAP 5%\n")],
)
def test_missing_output_line_fails(shown, printed):
    with pytest.raises(AssertionError, match="is not in"):
        assert_shown(shown, printed)
