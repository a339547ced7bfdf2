"""README and the generated pages: their numbers come from records, and they are short."""

import json
import re
import sys
from pathlib import Path

import pytest

from csgn_lib.records import InputError

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


@pytest.fixture
def records(tmp_path, monkeypatch):
    """A folder that stands for reports/: call it with a file's name and its content."""
    monkeypatch.setattr(results, "HOME", tmp_path)
    results._csv.cache_clear()
    results._sweep.cache_clear()

    def write(name: str, content: object) -> None:
        path = tmp_path / "reports" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))

    yield write
    results._csv.cache_clear()
    results._sweep.cache_clear()


def test_world_table_and_difference_by_hand(records):
    rows = [{"a": [0.5, 0.2], "b": [0.4, 0.3]}, {"a": [0.7, 0.4], "b": [0.65, 0.5]}, {"a": [0.6, 0.9]}]
    draws = [
        {"queries": 8, "rows": {k: {p: v for p in (results.HARD, results.GENERAL)} for k, v in r.items()}} for r in rows
    ]
    records("world/rows.json", {"setting": "middle", "people": {"train": 10, "validation": 4}, "draws": draws})
    table = results.world_table().splitlines()
    assert table[2] == "| a | 50.0 | 60.0 (50.0–70.0) | 50.0 | 60.0 (50.0–70.0) |"
    assert table[3] == "| b | 40.0 | 52.5 (40.0–65.0) | 40.0 | 52.5 (40.0–65.0) |" and len(table) == 4
    assert results.world_difference("a", "b") == "+7.5 (+5.0 to +10.0)"  # the third draw has no b
    with pytest.raises(KeyError, match="'a', 'c'"):
        results.world_difference("a", "c")


def test_demo_difference_and_time_by_hand(records):
    records("first-result/results.csv", "row,protocol,mean_ap\na,cloth_changing,0.30\nb,cloth_changing,0.334\n")
    assert results.demo_difference("a", "b") == "-3.4" and results.demo_difference("a", "a") == "+0.0"
    records("first-result/seconds.json", {"a": 100, "b": 180})
    records("world/speed.json", {"pictures_per_cpu_second": {"rendered world": 20}})
    assert results.demo_time() == "5 minutes"  # (100 + 180 + 6400 pictures / 20) / 2 = 300 seconds
    assert [results._about(seconds) for seconds in (290, 2187, 7269)] == ["5 minutes", "35 minutes", "2 hours"]


SEEDS = """row,seed,world,plain.protocols.cloth_changing.mean_ap,plain.colour_sensitivity.value
a,0,0,0.10,0.50
a,1,1,0.20,0.60
b,0,0,0.11,0.30
b,1,1,0.22,0.41
"""


def test_sweep_tables_differences_and_verdicts_by_hand(records):
    records("seeds/runs-records.csv", SEEDS)
    table = results.mean_table(
        "seeds", {"a": "A", "b": "B"}, {"mAP": ("plain", "cloth_changing"), "colour": ("plain", "colour_sensitivity")}
    ).splitlines()
    rows = [line.replace("\N{NO-BREAK SPACE}", " ") for line in table[2:]]
    assert rows == ["| A | 15.0 ± 7.1 | 0.55 ± 0.07 |", "| B | 16.5 ± 7.8 | 0.35 ± 0.08 |"]
    # differences 1 and 2 points: mean 1.5, s.d. 0.7071, t of one degree of freedom 12.706
    assert results.difference("seeds", "b", "a") == "+1.5 [-4.9, +7.9]"
    assert results.difference("seeds", "b", "a", "colour_sensitivity") == "-0.20 [-0.26, -0.13]"
    line = results.difference_table({"b minus a": ("b", "a")}, {"mAP": ("seeds", "cloth_changing")}).splitlines()[-1]
    assert line == "| b minus a | +1.5 [-4.9, +7.9] |" and results.runs_of("seeds") == {
        "runs": 4,
        "rows": 2,
        "draws": 2,
    }
    hypotheses = {
        name: {"pairs": pairs, "measure": measure, "wanted": wanted}
        for name, pairs, measure, wanted in (
            ("held", [["b", "a"]], "colour_sensitivity", "lower"),
            ("not held", [["b", "a"]], "colour_sensitivity", "higher"),
            ("undecided", [["b", "a"]], "cloth_changing", "higher"),
            ("not held too", [["a", "b"], ["b", "a"]], "colour_sensitivity", "lower"),
        )
    }
    records("seeds/hypotheses.yaml", hypotheses)  # JSON is YAML
    assert [results.verdict(name) for name in hypotheses] == ["held", "not held", "undecided", "not held"]
    with pytest.raises(InputError, match="no cloth_changing of 'c'"):
        results.difference("seeds", "c", "a")


def test_text_study_table_by_hand(records):
    rows = [("the preset", "identity + triplet", 0.1), ("the preset", "CLIP-ReID", 0.15), ("weight", "CLIP-ReID", 0.2)]
    lines = [f"{c},{r},{d},{p},{v},0" for c, r, v in rows for d in (0, 1) for p in (results.HARD, results.GENERAL)]
    records("text-study/rows.csv", "condition,row,draw,protocol,mean_ap,rank1\n" + "\n".join(lines))
    gains = [
        f"{c},{p},{m},{m - 1},{m + 1}"
        for c, m in (("the preset", 5), ("weight", 10))
        for p in (results.HARD, "general")
    ]
    records("text-study/differences.csv", "condition,protocol,mean,low,high\n" + "\n".join(gains))
    assert results.text_study_table().splitlines()[2:] == [
        "| the preset | 10.0 | 15.0 | +5.0 [+4.0, +6.0] | +5.0 [+4.0, +6.0] |",
        "| weight | 10.0 | 20.0 | +10.0 [+9.0, +11.0] | +10.0 [+9.0, +11.0] |",
    ]


def test_text_to_image_by_hand(records):
    lines = "name,queries,rank1,mean_ap,low,high,chance\ncaptions,4,0.75,0.5,0.4,0.6,0.02\nhat,3,1,1,,,0.1\n"
    records("retrieval/text-to-image/words.csv", lines)
    assert results.text_to_image() == "rank-1 75.0, mAP 50.0 [40.0, 60.0]; chance 2.0"


def test_vocabulary_study_tables_by_hand(records):
    lines = ["part,model,setting,vocabulary,descriptor,protocol,mean,low,high,plain"]
    for value, (part, model, setting, words) in enumerate(
        [("phrases", model, "middle", words) for words in ("default", "random") for model in ("CSGN", "frozen CLIP")]
        + [("pictures", model, "calm", "default") for model in ("CLIP-ReID", "frozen CLIP")]
    ):
        for kind, gain in (("clothing removed", value), ("person only", -value)):
            lines.append(f"{part},{model},{setting},{words},{kind},cloth_changing,{gain},{gain - 1},{gain + 1},20")
    records("vocabulary-study/differences.csv", "\n".join(lines))
    assert results.vocabulary_table().splitlines()[2:] == [
        "| default | +0.0 [-1.0, +1.0] | +0.0 [-1.0, +1.0] | +1.0 [+0.0, +2.0] | -1.0 [-2.0, +0.0] |",
        "| random | +2.0 [+1.0, +3.0] | -2.0 [-3.0, -1.0] | +3.0 [+2.0, +4.0] | -3.0 [-4.0, -2.0] |",
    ]
    assert results.settings_table().splitlines()[2:] == [
        "| calm, CLIP-ReID | 20.0 | +4.0 [+3.0, +5.0] | -4.0 [-5.0, -3.0] |",
        "| calm, frozen CLIP | 20.0 | +5.0 [+4.0, +6.0] | -5.0 [-6.0, -4.0] |",
    ]


def test_missing_line_is_an_error():
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
