"""README and the generated pages: their numbers are those of the records, and they are short."""

import re
import sys
from pathlib import Path

import pandas as pd
import pytest

HOME = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(HOME / "docs" / "tools"))

import method_figure  # noqa: E402
import results  # noqa: E402


def test_the_generated_pages_are_what_make_results_writes():
    for path, text in results.outputs().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name}: edit docs/templates and run make results"


def test_no_score_is_typed_into_a_template():
    for path in results.TEMPLATES.glob("*.md"):
        prose = re.sub(r"\{[{%].*?[}%]\}", "", path.read_text(encoding="utf-8"), flags=re.S)
        assert not re.search(r"(?<!\w)[+-]\d+\.\d|\d\.\d+ ?%|± ?\d", prose), path.name


@pytest.mark.parametrize("record", ["seeds", "ablation/main", "ablation/controls"])
def test_a_difference_is_the_one_that_the_sweep_recorded(record):
    recorded = pd.read_csv(HOME / "reports" / record / "differences-records.csv").query("descriptor == 'plain'")
    assert len(recorded) >= 6
    for line in recorded.itertuples():
        computed = results.difference_values(record, line.row, line.against, line.protocol)
        assert computed == pytest.approx((line.low, line.mean, line.high), abs=1e-3), (line.row, line.against)


def test_a_difference_by_hand(tmp_path, monkeypatch):
    (tmp_path / "reports" / "two").mkdir(parents=True)
    lines = ["row,seed,world,plain.protocols.general.mean_ap", "a,0,0,0.5", "a,1,1,0.7", "b,0,0,0.4", "b,1,1,0.5"]
    (tmp_path / "reports" / "two" / "runs-records.csv").write_text("\n".join(lines))
    monkeypatch.setattr(results, "HOME", tmp_path)
    # differences 10 and 20: mean 15, s.d. 7.071, half an interval 12.706 x 7.071 / sqrt(2) = 63.53
    assert results.difference("two", "a", "b", "general") == "+15.0 [-48.5, +78.5]"
    assert results.mean("two", "b", "general") == "45.0 ± 7.1"


def test_a_row_or_a_line_that_is_not_recorded_is_an_error():
    with pytest.raises(KeyError, match="no row 'CSGM'"):
        results.difference("seeds", "CSGM", "CSGN")
    with pytest.raises(ValueError, match="unpack"):
        results.bench("training/bench.csv", "no such line")


def test_the_readme_is_short():
    readme = HOME / "README.md"
    assert len(readme.read_text(encoding="utf-8").split()) <= 1100
    assert readme.stat().st_size <= 8192


@pytest.mark.parametrize("page", sorted((HOME / "docs").glob("*.md")), ids=lambda page: page.stem)
def test_no_page_is_longer_than_900_words(page):
    assert len(page.read_text(encoding="utf-8").split()) <= 900


def test_the_method_figure_is_what_its_script_draws(tmp_path):
    method_figure.draw(tmp_path / "method.svg")
    drawn, committed = (  # matplotlib writes each text beside its outlines, as a comment
        re.findall(r"<!-- (.+?) -->", path.read_text(encoding="utf-8"))
        for path in (tmp_path / "method.svg", method_figure.OUT)
    )
    assert drawn == committed and len(drawn) > 20
