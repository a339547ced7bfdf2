"""Progress: a bar in a terminal, lines elsewhere, nothing for short computations."""

import io
import re
import sys

import pytest
import trees

from csgn_lib import batches, datasets, progress
from csgn_lib.batches import pixels


class Clock:
    """A clock that only ``sleep`` moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_headless_run_writes_line_per_tenth(clock, capsys):
    for _ in progress.track(range(1000), what="reading"):
        clock.sleep(1)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "reading: 10 %, 100 of 1,000, 15 min 0 s left"
    assert lines[8] == "reading: 90 %, 900 of 1,000, 1 min 40 s left"
    assert lines[9] == "reading: 100 %, 1,000 of 1,000, 0 s left"


def test_short_computation_writes_nothing(clock, capsys):
    assert list(progress.track([3, 1, 2], what="reading")) == [3, 1, 2]
    assert capsys.readouterr().err == ""


def test_items_of_several_units(clock, capsys):
    for _ in progress.track(iter([[0] * 4, [0] * 4, [0] * 2]), total=10, what="images", size=len):
        clock.sleep(60)
    lines = capsys.readouterr().err.splitlines()
    assert [re.search(r"\d+ of", line)[0] for line in lines] == ["4 of", "8 of", "10 of"]


def test_terminal_bar_ends_at_100_percent(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.delenv(progress.HEADLESS, raising=False)
    monkeypatch.setattr(sys, "stderr", terminal)
    assert sum(progress.track(range(5), what="reading")) == 10
    assert "reading" in terminal.getvalue() and "100%" in terminal.getvalue() and "5/5" in terminal.getvalue()


def test_notebook_bar_is_no_warning(monkeypatch, capsys):
    monkeypatch.setattr(progress, "DELAY", 0)
    monkeypatch.setattr(progress, "_is_watched", lambda: True)
    assert sum(progress.track(range(5), what="reading")) == 10
    shown = capsys.readouterr()
    assert "5/5" in shown.out and shown.err == ""


def test_headless_kernel_writes_lines(monkeypatch, clock):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv(progress.HEADLESS, "1")
    for _ in progress.track(range(2), what="reading"):
        clock.sleep(30)
    assert terminal.getvalue().splitlines()[0] == "reading: 50 %, 1 of 2, 30 s left"


def test_only_the_first_of_several_processes_reports(monkeypatch, clock, capsys):
    monkeypatch.setenv("RANK", "1")
    for _ in progress.track(range(2), what="reading"):
        clock.sleep(30)
    assert capsys.readouterr().err == ""


def test_empty_iterable(capsys):
    assert list(progress.track([], what="reading")) == []


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (125, "2 min 5 s"), (12_000, "3 h 20 min")]
)
def test_durations_have_two_units(seconds, text):
    assert progress.duration(seconds) == text


def test_check_readiness_and_the_pixel_cache_report_each_tenth(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(progress, "LONG", 0)
    monkeypatch.setattr(pixels, "DECODED_AT_ONCE", 1)
    b = datasets.load("ltcc", trees.ltcc(tmp_path / "data"))
    steps = {
        "opening images": [lambda: b.check(workers=1), lambda: datasets.readiness(b, workers=1)],
        "decoding images": [lambda: batches.open_images(b.train, b.root, (16, 8), tmp_path / "cache"),
                            lambda: batches.open_images(b.train, b.root, (16, 8))],
    }  # fmt: skip
    for what, calls in steps.items():
        for call in calls:
            call()
            lines = capsys.readouterr().err.splitlines()
            assert lines and all(line.startswith(f"{what}: ") and line.endswith(" left") for line in lines)
            assert lines[-1].startswith(f"{what}: 100 %") and len(lines) <= 10
