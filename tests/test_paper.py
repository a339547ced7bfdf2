"""Figures, tables and numbers of a paper: made from records only, reproducible, traceable to the runs."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from csgn_lib import figures, runs
from csgn_lib.__main__ import main
from csgn_lib.figures.latex import latex_float, macro_name, number_macros
from csgn_lib.records import InputError, Run, write_json

HOME = Path(__file__).resolve().parents[1]
ROWS = {"identity + triplet": 30.0, "50 % & more_text": 25.0, "CSGN": 40.0}
SEEDS = dict.fromkeys(yaml.safe_load((HOME / "reports/seeds/grid.yaml").read_text(encoding="utf-8"))["rows"], 30.0)
RAISED = {"plain": 0, "clothing removed": 0.1}


def _queries(worlds=(0, 1, 2), people=8, seed=0, rows=ROWS, raised=RAISED):
    """Two queries a person, AP in [0, 1]; ``clothing removed`` is 0.1 higher, ``general`` 0.2."""
    generator = np.random.default_rng(seed)
    parts = []
    for row, level in rows.items():
        for world in worlds:
            for descriptor, more in raised.items():
                for protocol, easier in {"cloth_changing": 0, "general": 0.2}.items():
                    ap = level / 100 + more + easier + generator.normal(0, 0.05, 2 * people)
                    part = pd.DataFrame({"query": range(2 * people), "draw": 0, "person": np.arange(2 * people) // 2})
                    parts.append(part.assign(
                        row=row, seed=world, world=world, descriptor=descriptor, protocol=protocol, ap=ap, first_hit=1
                    ))  # fmt: skip
    return pd.concat(parts, ignore_index=True)


def _sweep(folder, tested=True, sensitivities=True, origins=False, rows=ROWS, raised=RAISED):
    """A sweep's committed records, as 40_ablation_sweep writes them."""
    folder.mkdir(parents=True)
    queries = _queries(rows=rows, raised=raised)
    of_runs = queries.groupby(["row", "seed", "world", "descriptor", "protocol"], sort=False).ap.mean().reset_index()
    of_runs["column"] = of_runs.descriptor + ".protocols." + of_runs.protocol + ".mean_ap"
    wide = of_runs.pivot(index=["row", "seed", "world"], columns="column", values="ap").reset_index()
    wide = wide.sort_values("row", key=lambda labels: labels.map(list(rows).index), kind="stable")
    if origins:
        wide = wide.assign(
            run=[f"12_train-0000000{i}-s0" for i in range(len(wide))], key="00000001", config="c0ffee000000",
            library="12345678", commit="0" * 40, dirty=False, data="dada",
        )  # fmt: skip
    if sensitivities:
        kinds = [f"{d}.{kind}_sensitivity.value" for d in raised for kind in ("colour", "clothes")]
        wide = wide.assign(**dict.fromkeys(kinds, 0.5))
    wide.to_csv(folder / "runs-records.csv", index=False)
    if tested:
        text = gzip.compress(queries.to_csv(index=False).encode(), mtime=0)
        (folder / "per-query.csv.gz").write_bytes(text)
        costs = pd.DataFrame({"row": list(rows), "encoder_parameters": 1e6, "seconds": range(60, 60 + len(rows))})
        costs.assign(memory_mib=1024).to_csv(folder / "costs-records.csv", index=False)
    return folder


# ---- numbers


def test_numbers_are_latex_commands(tmp_path):
    frame = pd.DataFrame({
        "name": ["CSGN, clothing removed cloth_changing mAP", "beta 0.25 gain", "best row", "unknown"],
        "value": [61.06, -7.05, "50 % & more_text", np.nan],
        "format": [".1f", "+.1f", None, ".1f"],
    })  # fmt: skip
    assert number_macros(frame, tmp_path / "numbers") == tmp_path / "numbers"
    assert (tmp_path / "numbers.tex").read_text().splitlines()[1:] == [
        r"\newcommand{\csgnCsgnClothingRemovedClothChangingMap}{\ensuremath{61.1}}",
        r"\newcommand{\csgnBetaZeroTwoFiveGain}{\ensuremath{-7.0}}",
        r"\newcommand{\csgnBestRow}{50 \% \& more\_text}",
        r"\newcommand{\csgnUnknown}{--}",
    ]
    assert list(pd.read_csv(tmp_path / "numbers.csv").macro)[-1] == "csgnUnknown"


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=30))
def test_macro_names_are_letters_or_refused(words):
    try:
        macro = macro_name(words)
    except InputError:
        return
    assert re.fullmatch(r"csgn[A-Za-z]+", macro)


@settings(max_examples=60, deadline=None)
@given(values=st.lists(st.one_of(st.text(max_size=12), st.floats(allow_infinity=False), st.integers()), max_size=5))
def test_macros_are_single_balanced_lines(values, tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    frame = pd.DataFrame(
        {"name": [f"n {chr(97 + i)}" for i in range(len(values))], "value": pd.Series(values, dtype=object)}
    )
    lines = number_macros(frame, folder / "n").with_suffix(".tex").read_text(encoding="utf-8").split("\n")
    assert len(lines) == len(values) + 2
    for line in lines[1:-1]:
        bare = re.sub(r"\\[\\{}%$#&_]", "", line)
        assert bare.count("{") == bare.count("}") and not re.search(r"[%$#&_]", bare.replace(r"$\pm$", ""))


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        ({"name": ["a + b", "a b"], "value": [1.0, 2.0]}, "'a \\+ b' and 'a b' .* both give .*csgnAB"),
        ({"name": ["+"], "value": [1.0]}, "no letter"),
        ({"name": ["a"]}, "value"),
        ({"name": ["a"], "value": [1.5], "format": ["d"]}, "format 'd' of 'a'"),
    ],
)
def test_misleading_numbers_are_refused(tmp_path, frame, words):
    with pytest.raises(InputError, match=words):
        number_macros(pd.DataFrame(frame), tmp_path / "n")
    assert not list(tmp_path.iterdir())


def test_latex_float_escapes_caption(tmp_path):
    assert latex_float("figure", "a", "p < 5 %").index("includegraphics") < latex_float("figure", "a", "x").index(
        "caption"
    )
    table = latex_float("table", "a", "p < 5 %")
    assert table.index(r"\caption{p \textless{} 5 \%}") < table.index(r"\input{a.tex}")


# ---- a sweep's records


def test_means_and_differences_equal_loops(tmp_path):
    folder = _sweep(tmp_path / "s")
    found = runs.load_sweep_records(folder, ["no such row", "identity + triplet"], ["plain", "clothing removed"])
    queries = _queries()
    assert found.baseline == "identity + triplet" and len(found.means) == 3 * 2 * 2
    for part in found.differences.itertuples():
        gaps = []
        for world in (0, 1, 2):
            here = queries[(queries.world == world) & (queries.protocol == part.protocol)]
            mine = here[(here.row == part.row) & (here.descriptor == part.descriptor)].ap.mean()
            gaps.append(100 * (mine - here[(here.row == found.baseline) & (here.descriptor == "plain")].ap.mean()))
        assert part.mean == pytest.approx(np.mean(gaps)) and part.sd == pytest.approx(np.std(gaps, ddof=1))
        assert part.low < part.mean < part.high and part.p == 1.0 and part.holm_people < 1
    assert found.least_p == 1.0  # five comparisons, three worlds: 5 * 2 / 8
    assert found.sensitivities["mean"].eq(0.5).all() and len(found.sensitivities) == 3 * 2 * 2
    assert found.costs.seconds.tolist() == [60, 61, 62]


def test_no_tests_without_scores_per_query(tmp_path):
    folders = [_sweep(tmp_path / "tested"), _sweep(tmp_path / "untested", tested=False)]
    tested, untested = (
        runs.load_sweep_records(folder, descriptors=["plain", "clothing removed"]) for folder in folders
    )
    keys = ["label", "protocol", "runs", "clusters", "mean", "sd", "low", "high"]
    left, right = (s.differences[keys].sort_values(keys[:2], ignore_index=True) for s in (tested, untested))
    pd.testing.assert_frame_equal(left, right, check_dtype=False)
    assert untested.differences.p.isna().all() and np.isnan(untested.least_p) and untested.costs.empty


def test_single_row_has_no_difference(tmp_path):
    frame = {"row": ["a"] * 2, "seed": [0, 1], "world": [0, 1], "plain.protocols.general.mean_ap": [0.1, 0.3]}
    pd.DataFrame(frame).to_csv(tmp_path / "runs-records.csv", index=False)
    found = runs.load_sweep_records(tmp_path)
    assert found.differences.empty and np.isnan(found.least_p) and found.means["mean"].tolist() == [20.0]


def test_runs_of_one_world_are_one_cluster(tmp_path):
    values = {(0, 0): 0.1, (1, 0): 0.3, (0, 1): 0.5, (1, 1): 0.3}
    frame = [{"row": "a", "seed": s, "world": w, "plain.protocols.general.mean_ap": v} for (s, w), v in values.items()]
    pd.DataFrame(frame).to_csv(tmp_path / "runs-records.csv", index=False)
    [mean] = runs.load_sweep_records(tmp_path).means.itertuples()
    assert (mean.runs, mean.clusters, mean.mean) == (4, 2, pytest.approx(30))
    assert mean.sd == pytest.approx(np.std([20, 40], ddof=1))


@pytest.mark.parametrize(
    ("text", "words"), [(None, "does not exist"), ("", "cannot be read"), ("row,seed,world\n", "contains no scores")]
)
def test_invalid_records_are_refused(tmp_path, text, words):
    if text is not None:
        (tmp_path / "runs-records.csv").write_text(text)
    with pytest.raises(InputError, match=words):
        runs.load_sweep_records(tmp_path)


FIRST = HOME / "reports/ablation/clips/first"


@pytest.mark.skipif(not (FIRST / "paired-records.csv").exists(), reason="make ablation-clips has not recorded it")
def test_committed_records_agree_with_notebook_41():
    """The control: another path through the same queries gives the same differences and p values."""
    asked = ["identity + triplet"], ["plain", "clothing removed", "person only"]
    found = runs.load_sweep_records(FIRST, *asked)
    theirs = pd.read_csv(found.path / "paired-records.csv").rename(columns={"row": "label"})
    both = found.differences.merge(theirs, on=["label", "protocol"], suffixes=("", "_41"))
    assert len(both) == len(theirs) == len(found.differences)
    for name in ("mean", "low", "high", "p", "holm_people"):
        assert np.allclose(both[name], both[f"{name}_41"], rtol=1e-4), name


# ---- drawings


def test_forest_is_black_only_if_significant():
    frame = pd.DataFrame(
        {"row": list("abc"), "protocol": "general", "mean": [1, 2, 3], "low": [0, 1, 2], "high": [2, 3, 4]}
    )
    drawn = figures.forest(frame.assign(p=[0.01, 0.5, 0.5], holm_people=[0.01, 0.01, 0.5]), "base").axes[0]
    assert [round(float(c[0]), 1) for c in drawn.collections[1].get_facecolors()] == [0.0, 0.7, 1.0]
    assert figures.forest(frame, "base").axes[0].collections[1].get_facecolors()[:, 0].max() == 0
    assert [label.get_text() for label in drawn.get_yticklabels()] == list("abc") and drawn.yaxis_inverted()
    plt.close("all")


def test_tradeoff_omits_unknown_values():
    frame = pd.DataFrame({"row": list("abab"), "kind": list("ppcc"), "x": [1, 2, 3, np.nan], "y": [1.0, 2, 3, 4]})
    figure = figures.tradeoff(frame, {"x": "X"}, ("y", "Y"), diagonal=True)
    numbers = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert numbers == [["1", "2"], ["1"]] and [axes.get_title("left") for axes in figure.axes] == ["p", "c"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]
    for draw in (
        lambda f: figures.tradeoff(f, {"z": ""}, ("y", "")),
        lambda f: figures.dots(f, ""),
        lambda f: figures.forest(f, ""),
    ):
        with pytest.raises(InputError, match="no column"):
            draw(frame)
    with pytest.raises(InputError, match="no row"):
        figures.tradeoff(frame[:0], {"x": ""}, ("y", ""))
    plt.close("all")


def test_tradeoff_numbers_cover_neither_dots_nor_each_other():
    frame = pd.DataFrame({"row": list("abcdef"), "kind": "p", "x": [1, 1, 1, 1.01, 2, 9], "y": [1, 1, 1.01, 1, 2, 9]})
    figure = figures.tradeoff(frame, {"x": "X"}, ("y", "Y"))
    [axes], point = figure.axes, figure.dpi / 72
    dots = axes.transData.transform(frame[["x", "y"]])
    numbers = dots + point * np.array([text.get_position() for text in axes.texts])
    assert np.linalg.norm(numbers[:, None] - numbers, axis=2)[np.triu_indices(6, 1)].min() > 5 * point
    assert np.linalg.norm(numbers[:, None] - dots, axis=2).min() > 5 * point
    assert np.linalg.norm(numbers[5] - dots[5]) < 7 * point  # beside its dot
    plt.close("all")


# ---- the notebook and the document


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    """The notebook, run twice on two sweeps' records: (home, its files after the first run, after the second)."""
    home = tmp_path_factory.mktemp("paper")
    (home / "notebooks").symlink_to(HOME / "notebooks")
    _sweep(home / "reports/ablation/main", origins=True)
    _sweep(home / "reports/seeds", tested=False, rows=SEEDS, raised=RAISED | {"person only": 0.2})
    shutil.copy(HOME / "reports/seeds/hypotheses.yaml", home / "reports/seeds")
    conditions = pd.DataFrame({"condition": ["the preset", "60 people"], "mean": [1.0, 2.0], "low": 0.5, "high": 3.0})
    (home / "reports/text-study").mkdir()
    conditions.assign(protocol="general").to_csv(home / "reports/text-study/differences.csv", index=False)
    for clip in ("first", "second"):
        rows = dict.fromkeys(["identity + triplet", "CLIP-ReID", "CSGN"], 30.0)
        folder = home / "reports/ablation/clips" / clip
        _sweep(folder, tested=False, sensitivities=False, rows=rows, raised=RAISED | {"person only": 0.2})
    words = conditions.rename(columns={"condition": "vocabulary"}).assign(
        part="phrases", model="CSGN", protocol="general"
    )
    (home / "reports/vocabulary-study").mkdir()
    words.assign(part="phrases", model="CSGN", descriptor="person only").to_csv(
        home / "reports/vocabulary-study/differences.csv", index=False
    )
    shutil.copytree(HOME / "reports/first-result", home / "reports/first-result")
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CSGN_HOME", str(home))
        for _ in range(2):
            run = runs.execute("90_paper_figures", {"out": "reports/paper"}, threads=1, timeout=600)
            assert run.status["state"] == "done", run.status.get("error")
            found.append({path.name: path.read_bytes() for path in (home / "reports/paper").iterdir()})
            shutil.move(home / "reports/paper", home / f"reports/paper-{len(found)}")
        shutil.move(home / "reports/paper-2", home / "reports/paper")
        shutil.copy(HOME / "reports/paper/paper.tex", home / "reports/paper")
    return home, *found


def test_same_records_give_identical_files(paper):
    _, first, second = paper
    assert set(first) == set(second) and len(first) > 40
    assert not [name for name in first if first[name] != second[name]]


def test_all_recorded_figures_and_tables_are_made(paper):
    kinds = {name.removesuffix(".pdf") for name in paper[1] if name.endswith(".pdf")}
    assert kinds == {
        *(f"main-{kind}" for kind in ("forest", "runs", "protocols", "sensitivities", "cost")),
        *(f"seeds-{kind}" for kind in ("forest", "runs", "protocols", "sensitivities")),
        *(f"clips-{clip}-{kind}" for clip in ("first", "second") for kind in ("forest", "runs", "protocols")),
        "text-study",
        "vocabulary-study",
    }
    for figure in kinds:
        assert {f"{figure}.{suffix}" for suffix in ("png", "csv", "json")} <= set(paper[1])
        caption = json.loads(paper[1][f"{figure}.json"])["caption"]
        assert "interval" in caption or "every run a dot" in caption, figure
    for table in (
        "main-means-general",
        "main-differences-cloth-changing",
        "main-costs",
        "main-colour-sensitivity",
        "main-clothes-sensitivity",
        "first-result",
    ):
        assert rb"\toprule" in paper[1][f"{table}.tex"] and f"{table}.csv" in paper[1]
    assert rb"50 \% \& more\_text" in paper[1]["main-costs.tex"]


def test_figures_of_the_main_part_are_not_repeated_in_the_appendix(paper):
    document, appendix = (HOME / "reports/paper/paper.tex").read_text(encoding="utf-8"), paper[1]["sweeps.tex"].decode()
    for figure in ("seeds-forest", "seeds-sensitivities"):
        assert f"{figure}.pdf" in document and f"{figure}.pdf" not in appendix
    assert "seeds-runs.pdf" in appendix and "main-forest.pdf" in appendix


def test_numbers_equal_records(paper):
    named = dict(re.findall(r"\\newcommand\{\\(\w+)\}\{(.*)\}", paper[1]["numbers.tex"].decode()))
    queries = _queries().query("row == 'CSGN' and descriptor == 'clothing removed' and protocol == 'cloth_changing'")
    assert named["csgnMainCsgnClothingRemovedClothChangingMap"] == rf"\ensuremath{{{100 * queries.ap.mean():.1f}}}"
    assert named["csgnMainHighestRow"] == "CSGN, clothing removed" and named["csgnSeedsBeyondNoise"] == "--"


def test_without_sweeps_first_result_is_the_only_table(tmp_path, monkeypatch):
    (tmp_path / "notebooks").symlink_to(HOME / "notebooks")
    shutil.copytree(HOME / "reports/first-result", tmp_path / "reports/first-result")
    shutil.copytree(HOME / "reports/seeds", tmp_path / "reports/seeds", ignore=lambda *_: ["runs-records.csv"])
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    run = runs.execute("90_paper_figures", {"out": "reports/paper"}, threads=1, timeout=600)
    assert "make seeds" in runs.answer(run) and run.results["tables"] == 1 and run.results["figures"] == 0
    assert "make seeds" in (tmp_path / "reports/paper/sweeps.tex").read_text()
    assert r"\csgnSweeps}{\ensuremath{0}}" in (tmp_path / "reports/paper/numbers.tex").read_text()


def test_committed_document_uses_defined_macros_only(paper):
    text = (HOME / "reports/paper/paper.tex").read_text(encoding="utf-8")
    numbers = paper[1]["numbers.tex"].decode()
    macro = r"\\newcommand\{\\(csgn\w+)\}"
    defined = set(re.findall(macro, numbers))
    (optional,) = re.findall(r"\\ifdefined\\csgnMain.*?\\fi", text, flags=re.DOTALL)  # rows of the real sweep
    committed = (HOME / "reports/paper/numbers.tex").read_text(encoding="utf-8")
    assert set(re.findall(r"\\(csgn\w+)", optional)) <= set(re.findall(macro, committed))
    text = text.replace(optional, "")
    asked = set(re.findall(r"\\(csgn\w+)", text.replace("csname csgn", "")))
    for sweep, name in re.findall(r"\\(?:of|interval)\{(\w+)\}\{(\w+)\}", text):
        asked |= {f"csgn{sweep}{name}"}
    asked |= {f"csgnSeeds{row}ClothChangingGain" for row in re.findall(r"\\gain\{(\w+)\}", text)}
    asked |= {
        f"csgnSeeds{a}Over{b}{what}"
        for a, b, what in re.findall(r"\\pair\{(\w+)\}\{(\w+)\}\{(\w+)\}", text.replace("\n", ""))
    }
    asked |= {
        f"csgnClips{clip}CsgnPersonOnlyOver{a}{b}"
        for a, b in re.findall(r"\\claim\{(\w+)\}\{(\w+)\}", text)
        for clip in ("First", "Second")
    }
    assert asked and asked <= defined, asked - defined
    for wanted in re.findall(r"\\of\{#2\}\{(\w+)\}", text):  # of every sweep's section
        assert f"csgnSeeds{wanted}" in defined, wanted
    body = re.sub(r"%.*|#\d|\\[a-z]+\{[^}]*\}|95\\,\\%", "", text.partition(r"\begin{document}")[2])
    assert set(re.findall(r"\d+", body.replace("CVIU 259, 2025, 104406", ""))) == set()


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="pdflatex is not installed")
def test_document_compiles(paper, tmp_path):
    shutil.copytree(paper[0] / "reports/paper", tmp_path / "paper")
    command = ["pdflatex", "-interaction=batchmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path / "paper", capture_output=True, text=True)
    assert done.returncode == 0, (tmp_path / "paper/paper.log").read_text(errors="replace")[-2000:]


# ---- explain


@pytest.fixture
def saved(tmp_path, monkeypatch):
    """A figure of two runs, one of which is still here, and of a record."""
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    made = []
    for name in ("12_train-00000001-s0", "12_train-00000002-s0"):
        run = Run(tmp_path / "reports/runs" / name)
        run.set_status("done", key=name[9:17])
        write_json(run.path("config.json"), {"name": name})
        write_json(run.path("environment.json"), {"library": "11111111", "git": {"commit": "a" * 40, "dirty": True}})
        write_json(run.path("benchmark.json"), {"manifest": "dada" * 16})
        made.append(run)
    record = tmp_path / "reports/seeds/records.csv"
    record.parent.mkdir()
    record.write_text("x\n1\n")
    figure = plt.figure()
    monkeypatch.setenv("CSGN_COMMAND", "csgn run 20_evaluate")
    base = figures.save(figure, tmp_path / "reports/x/plot", {"x": [1]}, "What.", made, [record])
    plt.close(figure)
    shutil.rmtree(made[1].dir)
    return base


def _states(found):
    return {(link.name, link.state) for link in found.links}


def test_explain_traces_figure_to_sources(saved):
    found = runs.explain("plot")
    digest = hashlib.sha256(Path(f"{saved}.csv").read_bytes()).hexdigest()
    told = str(found)
    for part in (digest, "csgn run 20_evaluate", "reports/seeds/records.csv", "11111111", "a" * 12 + " with changes"):
        assert part in told, part
    here, gone = [link for link in found.links if link.name == "run"]
    assert (
        here.state == gone.state == "found"
        and "folder is not on this machine" in gone.detail
        and "dadadadadada" in gone.detail
    )
    config = hashlib.sha256(b'{\n  "name": "12_train-00000001-s0"\n}\n').hexdigest()[:12]
    assert f"key 00000001, config {config}" in here.detail
    assert not found.broken and [link.name for link in found.missing] == ["drawn in"]  # it was drawn by a test
    assert all(
        runs.explain(asked).figure.name == "plot" for asked in (saved, f"{saved}.png", "x/plot", "reports/x/plot")
    )


def test_missing_links_fail_the_command(tmp_path, monkeypatch, capsys):
    """A figure that its run drew of itself, as 12_train does, from a run that ``csgn train`` recorded."""
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    run = Run(tmp_path / "reports/runs/demo-1-s0")
    with runs.recorded(run, parameters={}, key=runs.key(None, {})):
        write_json(run.path("config.json"), {})
        write_json(run.path("benchmark.json"), {"manifest": "dada" * 16})
    environment = json.loads(run.path("environment.json").read_text()) | {"git": {"commit": "a" * 40, "dirty": False}}
    write_json(run.path("environment.json"), environment)
    monkeypatch.setenv("CSGN_COMMAND", "csgn run 12_train")
    monkeypatch.setenv("CSGN_RUN_DIR", str(run.dir))
    figure = plt.figure()
    base = figures.save(figure, "curves", {"x": [1]}, "What.", [run, run])
    plt.close(figure)
    monkeypatch.delenv("CSGN_RUN_DIR")
    found = runs.explain(base)
    assert not found.missing
    assert [link.name for link in found.links if link.detail.startswith("demo-1-s0")] == ["run"]
    for missing, status in ((False, 0), (True, 1)):
        if missing:
            run.path("benchmark.json").unlink()
        with pytest.raises(SystemExit) as left:
            main(["explain", str(base)])
        out = capsys.readouterr().out
        assert left.value.code == status and ("MISSING" in out or "BROKEN" in out) == missing


@pytest.mark.parametrize("changed", ["numbers", "read", "run"])
def test_changed_link_is_broken(saved, tmp_path, capsys, changed):
    file = {
        "numbers": Path(f"{saved}.csv"), "read": tmp_path / "reports/seeds/records.csv",
        "run": tmp_path / "reports/runs/12_train-00000001-s0/config.json",
    }[changed]  # fmt: skip
    file.write_text(file.read_text() + "\n")
    assert [link.name for link in runs.explain(saved).broken] == [changed]
    with pytest.raises(SystemExit, match="1"):
        main(["explain", str(saved)])
    assert "BROKEN" in capsys.readouterr().out


def test_missing_link_is_named(saved, tmp_path):
    record = json.loads(Path(f"{saved}.json").read_text())
    write_json(f"{saved}.json", {"caption": record["caption"]})  # as an older library wrote it
    assert {("numbers", "missing"), ("command", "missing"), ("drawn in", "missing"), ("runs", "missing")} <= _states(
        runs.explain(saved)
    )
    write_json(f"{saved}.json", record)
    Path(f"{saved}.csv").unlink()
    (tmp_path / "reports/seeds/records.csv").unlink()
    assert {("numbers", "missing"), ("read", "missing")} <= _states(runs.explain(saved))


def test_invalid_figure_record_is_refused(saved):
    for text, words in {
        "{": "not valid JSON",
        "[1]": "no record of a figure",
        '{"runs": [3]}': "no record",
        None: "exist",
    }.items():
        Path(f"{saved}.json").unlink() if text is None else Path(f"{saved}.json").write_text(text)
        with pytest.raises(InputError, match=words) as refused:
            runs.explain(saved)
        assert f"{saved.name}.json" in str(refused.value)


def test_ambiguous_or_unknown_figure_is_refused(saved):
    with pytest.raises(InputError, match="no figure is named other"):
        runs.explain("other")
    shutil.copytree(saved.parent, saved.parents[1] / "y")
    with pytest.raises(InputError, match="2 figures are named plot; .*reports/x/plot; reports/y/plot"):
        runs.explain("plot")


def test_explain_traces_paper_figure_to_runs(paper, monkeypatch):
    home = paper[0]
    monkeypatch.setenv("CSGN_HOME", str(home))
    found = runs.explain(home / "reports/paper/main-forest")
    listed = [link for link in found.links if link.name == "run"]
    assert len(listed) == 9 and all(link.state == "found" and "library 12345678" in link.detail for link in listed)
    assert [link.name for link in found.links if link.name == "read"] == ["read"] * 3 and not found.broken
    assert "drawn in" not in {link.name for link in found.missing}
    untold = runs.explain(home / "reports/paper/seeds-forest").missing
    assert [link.detail for link in untold if link.name == "runs"] == [
        "reports/seeds/runs-records.csv lists 30, without their folders: older than that column"
    ]


def test_figures_and_records_do_not_import_torch():
    code = "import sys; from csgn_lib import figures, runs; runs.explain; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=HOME, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
