"""README and the generated pages: their numbers come from records, and they are short."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME / "docs" / "tools"))

import method_figure  # noqa: E402
import results  # noqa: E402


def test_generated_pages_are_up_to_date():
    for path, text in results.outputs().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: edit docs/templates and run make results"


# Parts of a page in which digits are no results: template expressions, code, links, tags, numbers of headings and
# lists, and rows of a table with a year.
NOT_PROSE = re.compile(
    r"\{[{%].*?[}%]\}|^```.*?^```$|`[^`]*`|\]\([^)]*\)|<[^>]+>|^#+ \d+\.|^ *\d+\. |^\|[^\n]*\b(?:19|20)\d\d[^\n]*$",
    re.M | re.S,
)
NAMES_WITH_DIGITS = re.compile(
    r"[Ss]tage[- ][12]|[Rr]ank-1|95 %|\b[bf][fp](?:16|32)\b|ViT-B/16|ResNet-50|\bH[12]00\b|\bz1[12]\b|\bp 0\.\d"
    r"|\[0, 1\]|\([^()]*\b3, H, W\)|1 - beta|\(?beta [01]\b|starts at 0|at 0 or at 1|[Pp]erson -1|up to 350 lines"
    r"|UTF-8|\d+[- ]bits?\b|Market-1501|Apache-2\.0|Python 3\.\d+|\b[23]D\b|\b(?:19|20)\d\d\b|arXiv [\d.]+|CVIU 259"
    r"|104406"
)
NUMBER = re.compile(r"\d|\b(?:two|three|four|five|ten|fifteen|twenty|thirty|forty|ninety) (?:minutes|hours|points)\b")
GENERATED = {path.name for path in results.TEMPLATES.glob("*.md")}
WRITTEN = [path for path in sorted((HOME / "docs").glob("*.md")) if path.name not in GENERATED]
WRITTEN += [*sorted(results.TEMPLATES.glob("*.md")), HOME / "CONTRIBUTING.md", HOME / "data" / "README.md"]


def typed_numbers(text: str) -> list[str]:
    """The lines of a page or template that hold a number in their prose."""
    lines = NAMES_WITH_DIGITS.sub("", NOT_PROSE.sub("", text)).splitlines()
    return [line for line in lines if NUMBER.search(line)]


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: f"{page.parent.name}-{page.stem}")
def test_prose_has_no_typed_numbers(page):
    if page.stem == "world":
        pytest.skip("its numbers are settings of the renderer, not results")
    found = typed_numbers(page.read_text(encoding="utf-8"))
    assert not found, f"take these numbers from a record (docs/templates), or remove them: {found}"


TYPED = ["about 15 points", "in 12 minutes", "five minutes", "an mAP of 41.9 %", "+3.2 points", "| a | 4.8 ± 6.4 |"]


@pytest.mark.parametrize("line", TYPED)
def test_typed_numbers_are_found(line):
    assert typed_numbers(f"ViT-B/16 in stage 2, `batch=64`, {{{{ demo_time() }}}}\n{line}\n") == [line]


@pytest.mark.parametrize("record", ["seeds", "ablation/main", "ablation/controls"])
def test_differences_equal_recorded_ones(record):
    recorded = pd.read_csv(HOME / "reports" / record / "differences-records.csv").query("descriptor == 'plain'")
    assert len(recorded) >= 6
    for line in recorded.itertuples():
        computed = results.difference_values(record, line.row, line.against, line.protocol)
        assert computed == pytest.approx((line.low, line.mean, line.high), abs=1e-3), (line.row, line.against)


def test_difference_by_hand(tmp_path, monkeypatch):
    (tmp_path / "reports" / "two").mkdir(parents=True)
    lines = ["row,seed,world,plain.protocols.general.mean_ap", "a,0,0,0.5", "a,1,1,0.7", "b,0,0,0.4", "b,1,1,0.5"]
    (tmp_path / "reports" / "two" / "runs-records.csv").write_text("\n".join(lines))
    monkeypatch.setattr(results, "HOME", tmp_path)
    # differences 10 and 20: mean 15, s.d. 7.071, half an interval 12.706 x 7.071 / sqrt(2) = 63.53
    assert results.difference("two", "a", "b", "general") == "+15.0 [-48.5, +78.5]"
    assert results.mean("two", "b", "general") == "45.0 ± 7.1"


def test_times_by_hand(tmp_path, monkeypatch):
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "costs-records.csv").write_text("row,seconds\na,900\nb,1500\n")
    monkeypatch.setattr(results, "HOME", tmp_path)
    assert results.sweep_time(".") == "20 minutes"  # (900 + 1500) / 2 seconds, two runs at a time
    assert [results._about(seconds) for seconds in (290, 2187, 7269)] == ["5 minutes", "35 minutes", "2 hours"]


def test_missing_row_or_line_is_an_error():
    with pytest.raises(KeyError, match="no row 'CSGM'"):
        results.difference("seeds", "CSGM", "CSGN")
    with pytest.raises(ValueError, match="unpack"):
        results.bench("training/bench.csv", "no such line")


def test_readme_is_short():
    readme = HOME / "README.md"
    assert len(readme.read_text(encoding="utf-8").split()) <= 1100
    assert readme.stat().st_size <= 8192


@pytest.mark.parametrize("page", sorted((HOME / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_pages_have_at_most_900_words(page):
    assert len(page.read_text(encoding="utf-8").split()) <= 900


def test_method_figure_is_up_to_date(tmp_path):
    method_figure.draw(tmp_path / "method.svg")
    drawn, committed = (  # matplotlib writes each text beside its outlines, as a comment
        re.findall(r"<!-- (.+?) -->", path.read_text(encoding="utf-8"))
        for path in (tmp_path / "method.svg", method_figure.OUT)
    )
    assert drawn == committed and len(drawn) > 20
