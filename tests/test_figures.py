"""Figures: reproducible files, readable without colour, tables worked by hand, a self-contained report."""

import json
import re
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import trees
from matplotlib.colors import to_rgb
from matplotlib.offsetbox import AnnotationBbox
from PIL import Image

from csgn_lib import datasets, figures, runs
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.runs import Outcome, Step


@pytest.fixture(autouse=True)
def _closed(monkeypatch, tmp_path):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    yield
    plt.close("all")


def _plot(width=figures.COLUMN_WIDTH):
    figure, axes = plt.subplots(figsize=(width, 2))
    axes.plot([1, 2, 3], [0.1, 0.4, 0.2])
    axes.set_title("a title")
    return figure


# ---- save


def test_save_is_deterministic(tmp_path):
    run = Run(tmp_path / "run")
    run.set_status("done", key="12345678")
    data = {"x": np.array([1, 2, 3]), "y": [0.1, 0.4, 1 / 3]}
    first = figures.save(_plot(), tmp_path / "a" / "plot", data, "What it shows.", [run])
    second = figures.save(_plot(), tmp_path / "b" / "plot", data, "What it shows.", [run])
    assert first == tmp_path / "a" / "plot"
    assert {path.name for path in first.parent.iterdir()} == {"plot.pdf", "plot.png", "plot.csv", "plot.json"}
    for path in first.parent.iterdir():
        assert path.read_bytes() == (second.parent / path.name).read_bytes(), path.name
    assert b"Date" not in (tmp_path / "a" / "plot.pdf").read_bytes()  # both were saved within a second
    pd.testing.assert_frame_equal(pd.read_csv(f"{first}.csv"), pd.DataFrame(data))
    record = json.loads((tmp_path / "a" / "plot.json").read_text())
    assert (record["caption"], record["command"], record["made_in"]) == ("What it shows.", "", "")
    assert [{name: kept[name] for name in ("run", "key")} for kept in record["runs"]] == [
        {"run": "run", "key": "12345678"}
    ]


def test_failed_save_leaves_no_files(tmp_path):
    with pytest.raises(InputError, match="data of figure 'plot' is not a table"):
        figures.save(_plot(), tmp_path / "a" / "plot", {"x": [1, 2], "y": [1, 2, 3]})
    figure = _plot()
    figure.savefig = lambda *arguments, format, **options: 1 / 0 if format == "png" else None
    with pytest.raises(ZeroDivisionError):
        figures.save(figure, tmp_path / "a" / "plot", {"x": [1]})
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_name_without_folder_is_saved_in_run_or_reports(tmp_path, monkeypatch):
    assert figures.save(_plot(), "plot", {"x": [1]}) == tmp_path / "reports/figures/plot"
    monkeypatch.setenv("CSGN_RUN_DIR", str(tmp_path / "run"))
    monkeypatch.setenv("CSGN_COMMAND", "csgn run 20_evaluate")
    assert figures.save(_plot(), "plot.v2", {"x": [1]}) == tmp_path / "run/figures/plot.v2"
    assert json.loads((tmp_path / "run/figures/plot.v2.json").read_text())["command"] == "csgn run 20_evaluate"


def test_live_notebook_figures_are_saved_in_its_run(tmp_path, monkeypatch):
    monkeypatch.setattr("csgn_lib.runs.folders._live", None)
    runs.current("20_evaluate")
    folder = tmp_path / "reports/runs/20_evaluate-live/figures"
    assert figures.save(_plot(), "cmc", {"x": [1]}) == folder / "cmc"
    assert figures.save(_plot(), "cmc", {"x": [1]}, runs=[_run(tmp_path, "a")]) == folder / "a" / "cmc"


def test_figure_of_other_runs_is_not_overwritten(tmp_path):
    a, b, c = (_run(tmp_path, name) for name in "abc")
    names = [
        figures.save(_plot(), tmp_path / "f" / "cmc", {"x": [1]}, runs=of).name for of in ([a], [b], [a], [c], [b])
    ]
    assert names == ["cmc", "cmc-2", "cmc", "cmc-3", "cmc-2"]


def _run(tmp_path, name):
    run = Run(tmp_path / "runs" / name)
    run.set_status("done", key="12345678")
    return run


def test_named_frames_are_stacked(tmp_path):
    parts = {"a": pd.DataFrame({"x": [1, 2]}), "b": pd.DataFrame({"x": [3]})}
    written = pd.read_csv(f"{figures.save(_plot(), tmp_path / 'plot', parts)}.csv")
    assert written.to_dict("list") == {"part": ["a", "a", "b"], "x": [1, 2, 3]}


def test_pdf_has_column_width_and_truetype_text(tmp_path):
    figures.use_style()
    figure = _plot()
    figure.axes[0].set(xlabel="✓ right, ± s.d.", ylabel=r"$\beta$")
    pdf = Path(f"{figures.save(figure, tmp_path / 'plot', {'x': [1]})}.pdf").read_bytes()
    [box] = re.findall(rb"/MediaBox \[ ?([^]]+)\]", pdf)
    assert [float(number) for number in box.split()] == pytest.approx([0, 0, 72 * 3.35, 72 * 2], abs=0.01)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType: journals refuse Type 3


@pytest.mark.filterwarnings("error")
def test_save_warns_of_widths_and_unnamed_intervals(tmp_path):
    for width in (figures.COLUMN_WIDTH, figures.TEXT_WIDTH):
        figures.save(_plot(width), tmp_path / "plot", {"x": [1]})
    with pytest.warns(UserWarning, match="'plot': 5.00 inches wide; use COLUMN_WIDTH = 3.35 or TEXT_WIDTH"):
        figures.save(_plot(5), tmp_path / "plot", {"x": [1]})
    bars, band = _plot(), _plot()
    bars.axes[0].errorbar([1], [2], yerr=[[0.1], [0.2]])
    band.axes[0].fill_between([1, 2], [0, 1], [1, 2])
    for figure in (bars, band):
        with pytest.warns(UserWarning, match="name their interval"):
            figures.save(figure, tmp_path / "plot", {"x": [1]}, "Means.")
        figures.save(figure, tmp_path / "plot", {"x": [1]}, "Mean and 95 % interval over people.")


MACHADO = {  # Machado et al., TVCG 2009, severity 1, on linear RGB
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("eye", MACHADO)
def test_line_styles_are_colour_blind_safe(eye):
    with plt.style.context(figures.STYLE):
        cycle = list(plt.rcParams["axes.prop_cycle"])
    assert len(cycle) == 6
    linear = np.array([to_rgb(each["color"]) for each in cycle]) ** 2.2
    seen = (linear @ np.array(MACHADO[eye]).T).clip(0, 1) ** (1 / 2.2)
    for (i, one), (j, other) in combinations(enumerate(cycle), 2):
        same = one["linestyle"] == other["linestyle"]
        assert np.linalg.norm(seen[i] - seen[j]) > (0.3 if same else 0.1), (one, other)


# ---- query strips


def _strip(folder):
    """A query and four answers whose pixels are all 40 times their number."""
    for index in range(5):
        Image.fromarray(np.full((16, 8, 3), 40 * index, np.uint8)).save(folder / f"{index}.png")
    query = pd.Series({"path": "0.png", "person": 7, "clothes": 70})
    ranked = pd.DataFrame(
        {"path": ["1.png", "2.png", "3.png", "4.png"], "person": [7, 8, 7, 9], "clothes": [71, 70, 70, 90]}
    )
    return query, ranked, folder


@pytest.fixture
def strip(tmp_path):
    return _strip(tmp_path)


def test_strip_marks_matches_and_changed_clothes(strip):
    query, ranked, root = strip
    frame = figures.strip_frame(query, ranked)
    assert frame["rank"].tolist() == [0, 1, 2, 3, 4]
    assert frame["right"].tolist() == [True, True, False, True, False]
    assert frame["clothes"].tolist() == ["", "changed", "", "same", ""]
    axes = figures.rank_strips([(query, ranked)], root, titles=["person 7"]).axes
    assert [a.get_xlabel() for a in axes] == ["query", "✓ changed", "✗", "✓ same", "✗"]
    assert axes[0].get_title(loc="left") == "person 7"
    [right], [wrong] = axes[1].patches, axes[2].patches
    assert right.get_linestyle() != wrong.get_linestyle()  # distinct without colour, too
    assert not any(spine.get_visible() for spine in axes[1].spines.values())  # one closed frame, so no notches
    assert np.array_equal(np.unique(axes[3].images[0].get_array()), [120])  # the third answer's own pixels


def test_faces_are_pixelated_if_hide_faces_is_set(strip):
    query, ranked, root = strip
    noise = np.random.default_rng(0).integers(0, 256, (16, 8, 3), dtype=np.uint8)
    Image.fromarray(noise).save(root / "0.png")
    shown = figures.rank_strips([(query, ranked)], root).axes[0].images[0].get_array()
    hidden = figures.rank_strips([(query, ranked)], root, hide_faces=True).axes[0].images[0].get_array()
    assert np.array_equal(shown, noise) and np.array_equal(hidden[4:], noise[4:])
    assert (hidden[:4] != noise[:4]).any()


@pytest.mark.parametrize("name", trees.TREES)
def test_faces_are_hidden_for_the_benchmarks_whose_terms_require_it(name, tmp_path):
    root = trees.TREES[name](tmp_path, decodable=False) if name != "csv" else trees.own(tmp_path, decodable=False)
    assert datasets.load(name, root).hide_faces == (name in ("deepchange", "ccvid"))


def test_every_notebook_hides_faces_where_it_draws_images():
    for notebook in (Path(__file__).parents[1] / "notebooks").glob("*.ipynb"):
        cells = json.loads(notebook.read_text())["cells"]
        source = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
        drawn = re.findall(r"\b(?:figures\.rank_strips|portrait\.pair_sheet|(?<!\.)picture)\(", source)
        assert len(drawn) <= source.count("hide_faces"), notebook.name


def test_without_clothes_labels_a_strip_shows_no_clothes(strip):
    query, ranked, _ = strip
    frame = figures.strip_frame(query.replace(70, -1), ranked.assign(clothes=-1))
    assert set(frame["clothes"]) == {""}


def test_strips_are_stacked_and_truncated(strip):
    query, ranked, root = strip
    figure = figures.rank_strips([(query, ranked), (query, ranked[::-1])], root, top=2, titles=["one", "two"])
    assert [a.get_xlabel() for a in figure.axes] == ["query", "✓ changed", "✗", "query", "✗", "✓ same"]
    assert [a.get_title(loc="left") for a in figure.axes] == ["one", "", "", "two", "", ""]


def test_strip_error_names_missing_image_or_column(strip):
    query, ranked, root = strip
    (root / "2.png").write_text("no image")
    with pytest.raises(InputError, match=r"2\.png cannot be read"):
        figures.rank_strips([(query, ranked)], root)
    (root / "1.png").unlink()
    with pytest.raises(InputError, match=r"1\.png does not exist"):
        figures.rank_strips([(query, ranked)], root)
    with pytest.raises(InputError, match="missing: clothes"):
        figures.rank_strips([(query, ranked.drop(columns="clothes"))], root)


# ---- curves


def _metrics(tmp_path):
    run, plain = Run(tmp_path / "csgn"), Run(tmp_path / "plain")
    run.append_metrics({"stage": 1, "epoch": 1, "seconds": 2.0, "i2t_rgb": 3.0, "mutual": 0.5})
    for epoch in (1, 2):
        run.append_metrics(
            {"stage": 2, "epoch": epoch, "seconds": 2.0, "id_f": 1.0, "id_c": 3.0, "triplet_f": 0.5, "text_rgb": 2.0}
        )
        plain.append_metrics({"stage": 2, "epoch": epoch, "seconds": 2.0, "id_f": 4.0, "triplet_f": 0.25})
    return figures.metrics_frame({"csgn": run, "plain": plain})


def test_loss_terms_are_grouped(tmp_path):
    losses = figures.loss_frame(_metrics(tmp_path))
    by = losses.set_index(["run", "stage", "epoch"])
    assert by.loc[("csgn", 1, 1), "description loss"] == 3.5 and np.isnan(by.loc[("csgn", 1, 1), "identity loss"])
    assert by.loc[("csgn", 2, 2)].tolist()[1:] == [2.0, 0.5, 2.0]
    assert by.loc[("plain", 2, 1), "identity loss"] == 4.0 and np.isnan(by.loc[("plain", 2, 1), "text loss"])


def test_curves_have_a_panel_per_term_and_stage_and_a_line_per_run(tmp_path):
    figure = figures.curves(figures.loss_frame(_metrics(tmp_path)))
    panels = {axes.get_title(loc="left"): axes for axes in figure.axes}
    assert list(panels) == [
        "stage 1: description", "stage 2: identity", "stage 2: triplet", "stage 2: text",
    ]  # fmt: skip
    lines = {line.get_label(): line for line in panels["stage 2: identity"].lines}
    assert lines["csgn"].get_ydata().tolist() == [2.0, 2.0] and lines["plain"].get_ydata().tolist() == [4.0, 4.0]
    assert lines["csgn"].get_linestyle() != lines["plain"].get_linestyle()
    first = {line.get_label(): line for line in figure.axes[0].lines}  # a run without stage 1 is in the legend too
    assert first["plain"].get_color() == lines["plain"].get_color() != first["csgn"].get_color()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["csgn", "plain"]


def test_curves_refuse_a_missing_column(tmp_path):
    with pytest.raises(InputError, match="no column nothing"):
        figures.curves(_metrics(tmp_path), ["nothing"])
    with pytest.raises(InputError, match="no column to draw"):
        figures.curves(pd.DataFrame({"epoch": [1]}))


# ---- parameters


def test_parameter_table_shows_differences_and_collapses_rest():
    plain, other = (Experiment.from_parameters(preset="demo", vss="none", **more) for more in ({}, {"seed": 7}))
    table = figures.parameter_table(plain)
    assert list(table.changed.index) == ["vss"] and "vss" in str(table) and "Preset demo" in str(table)
    page = table._repr_html_()
    assert page.index("<td>none</td>") < page.index("<details>") < page.index("batch_persons")
    assert (
        str(figures.parameter_table(Experiment.from_parameters(preset="demo"))) == "Preset demo; no parameter differs."
    )
    both = figures.parameter_table({"a": plain, "b": other})
    assert both.changed.loc["seed"].tolist() == ["0", "7"] and list(both.changed.index) == ["seed", "vss"]


# ---- maps


def test_evenly_spaced_labels_include_both_ends():
    assert figures.evenly_spaced([5, 3, 3, 9, 7], 2).tolist() == [3, 9]
    assert figures.evenly_spaced([5, 3], 9).tolist() == [3, 5]


def test_images_on_a_map_do_not_overlap_and_are_joined_to_their_points():
    places = np.random.default_rng(0).normal(size=(60, 2))
    pictures = {row: Image.new("RGB", (8, 16)) for row in range(50)}
    figure = figures.picture_map(places, pictures, {0: "C1"}, "a map")
    figure.canvas.draw()
    boxes = [box for box in figure.axes[0].artists if isinstance(box, AnnotationBbox)]
    assert len(boxes) == 50 and all(box.arrow_patch is not None for box in boxes)
    extents = [box.patch.get_window_extent() for box in boxes]
    assert not any(one.overlaps(other) for one, other in combinations(extents, 2))
    assert min(extent.width for extent in extents) > 0.2 * figure.dpi  # inches


def test_label_maps_colour_evenly_spaced_labels_only():
    places, labels = np.arange(20.0).reshape(10, 2), np.repeat(np.arange(5), 2)
    panels = [figures.LabelMap(places, labels, f"panel {i}") for i in range(2)]
    axes = figures.label_maps(panels, columns=2, coloured=3).axes
    assert [a.get_title(loc="left") for a in axes] == ["panel 0", "panel 1"]
    assert [len(line.get_xdata()) for line in axes[0].lines] == [10, 2, 2, 2]  # all points in gray, then three labels


# ---- attribution


def test_attention_pair_shows_all_maps():
    image, maps = Image.new("RGB", (8, 16)), {"rollout": np.ones((2, 16, 8)), "occlusion": np.zeros((2, 16, 8))}
    pair = figures.ExplainedPair((image, image), ("query", "right answer"), maps)
    drawn = [a for a in figures.attention_pair(pair).axes if a.images]
    assert len(drawn) == 2 * 3
    assert [a.get_xlabel() for a in drawn if a.get_xlabel()] == ["query", "right answer"]
    assert len(figures.attention_heads([image], np.ones((1, 4, 16, 8))).axes) == 5


def test_checks_of_maps_have_a_line_per_method():
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    layers = [{"layers": n, "method": m} | interval for m in ("rollout", "occlusion") for n in (1, 2)]
    (axes,) = figures.attention_layers(pd.DataFrame(layers)).axes
    assert axes.get_legend_handles_labels()[1] == ["rollout", "occlusion"] and list(axes.get_xticks()) == [1, 2]
    curves = [
        {"method": m, "kind": kind, "percent": p} | interval
        for kind in ("deletion", "insertion") for m in ("rollout", "random map") for p in (0, 100)
    ]  # fmt: skip
    left, right = figures.attention_deletion(pd.DataFrame(curves), ["rollout"]).axes
    assert [axes.get_title(loc="left") for axes in (left, right)] == ["deletion", "insertion"]
    assert [line.get_color() == "gray" for line in right.lines] == [False, True]


def test_neighbour_kinds_have_a_line_per_feature_and_a_marker_per_kind():
    shares = {"times": 2.0, "times_low": 1.5, "times_high": 3.0}
    rows = [{"row": "a", "feature": f, "kind": k} | shares for f in ("plain", "person only") for k in ("same", "other")]
    figure = figures.neighbour_kinds(pd.DataFrame(rows), ["plain", "person only"])
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["plain", "person only"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["chance", "same", "other"]
    alone = figures.neighbour_kinds(pd.DataFrame(rows).query("kind == 'same'"), ["plain", "person only"]).axes[0]
    assert alone.get_xlim()[1] < 10  # the ticks do not widen the axis
    assert [float(y) for y in alone.containers[0].lines[0].get_ydata()] == [0, 1]  # one kind is not shifted


def test_attention_shares_fit_figure_with_legend():
    rows = [
        {"row": row, "part": part, "method": method, "weights": weights, "value": 0.5, "low": 0.4, "high": 0.6}
        for part in ("body", "tilt to the body")
        for row, method, weights in (("every pixel alike", "area", "none"), ("a", "rollout", "own"))
    ]
    figure = figures.attention_shares(pd.DataFrame(rows), ["rollout"])
    assert [a.get_xlabel() for a in figure.axes] == ["share of the map", "beyond the share of pixels"]
    assert len(figure.legends[0].get_texts()) == 4


# ---- tables

RESULTS = pd.DataFrame(
    [
        ("chance", "general", 0.021, 0.034, 0.01, 360, np.nan, np.nan),
        ("A & <b>", "general", 0.5, 0.25, 0.125, 360, 0.2, 0.3),
        ("A & <b>", "cloth_changing", 1 / 3, 0.1, 0.05, 351, 0.08, 0.123),
    ],
    columns=["row", "protocol", "rank1", "mean_ap", "minp", "counted", "low", "high"],
)


def test_text_table_by_hand():
    assert figures.results_table(RESULTS).text.splitlines() == [
        "                                 general                   cloth_changing",
        "row      rank-1     mAP    mINP  queries  rank-1     mAP    mINP  queries",
        "-------------------------------------------------------------------------",
        "chance      2.1     3.4     1.0      360       –       –       –        –",
        "A & <b>    50.0    25.0    12.5      360    33.3    10.0     5.0      351",
    ]


def test_html_tables_escape_names_and_print_intervals():
    table = figures.results_table(RESULTS)
    assert "A &amp; &lt;b&gt;" in table.html and "<b>" not in table.html
    assert "10.0 <small>8.0–12.3</small>" in table.html and table._repr_html_() == table.html
    assert table.html.count("<small>") == 2  # chance has no interval


def test_further_protocols_are_below_the_first_two():
    many = pd.concat([RESULTS[:1].assign(protocol=name) for name in ("cross_clothes", "same_clothes", "general")])
    table = figures.results_table(many, {"general": "all <images>"})
    assert [len(line) for line in table.text.splitlines() if line.startswith("chance")] == [72, 39]
    first, second = table.html.split("</table>")[:2]
    assert "cross-clothes" in first and "same-clothes" in first and "<p>" not in first
    assert "<p>general: all &lt;images&gt;</p>" in second and table.html.count("chance") == 2


def test_incomplete_or_duplicate_results_are_refused():
    with pytest.raises(InputError, match="lack the column minp"):
        figures.results_table(RESULTS.drop(columns="minp"))
    with pytest.raises(InputError, match="'chance' under 'general' twice"):
        figures.results_table(pd.concat([RESULTS, RESULTS[:1]]))


# ---- the demo's page


class _Page(HTMLParser):
    """Collects the resources that a page requests, and whether its elements are closed."""

    def __init__(self, text):
        super().__init__()
        self.asked, self.open, self.dots = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.asked += [(tag, attrs[name]) for name in ("src", "href", "xlink:href") if name in attrs]
        if tag == "i" and attrs["class"] in ("general", "cloth"):
            self.dots.append((attrs["class"], attrs["style"]))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.asked += [(tag, value) for name, value in attrs if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    tmp_path = tmp_path_factory.mktemp("page")
    query, ranked, root = _strip(tmp_path)
    run, failed = Run(tmp_path / "runs" / "evaluate"), Run(tmp_path / "runs" / "train")
    for made, state in ((run, "done"), (failed, "failed")):
        made.set_status(state)
    cells = [{"cell_type": "markdown", "metadata": {}, "source": "# Question <7>?", "id": "a"}]
    write_json(run.path("executed.ipynb"), {"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": cells})
    figures.save(figures.rank_strips([(query, ranked)], root), run.path("figures", "strip"), {"x": [1]}, "A <strip>.")
    figures.save(_plot(), run.path("figures", "cmc"), {"x": [1]}, "CMC.")
    run.append_metrics({"stage": 2, "epoch": 1, "seconds": 1.0, "id_f": 1.0, "triplet_f": 0.5})
    outcomes = [
        Outcome(Step("evaluation & more", "20_evaluate"), run, "done", 65.0),
        Outcome(Step("CSGN", "12_train", {"beta": 0.5}), failed, "failed", 3.0, error="ValueError: <x>"),
        Outcome(Step("later", "00_first_result"), None, "skipped", 0.0),
    ]
    return figures.write_page(outcomes, RESULTS, tmp_path / "demo", "make demo", 71.0)


def test_report_is_self_contained_and_well_formed(page):
    parsed = _Page(page.read_text())
    assert parsed.open == []
    links = [value for tag, value in parsed.asked if tag == "a"]
    assert links == ["notebooks/evaluation-more.html"]
    others = [value for tag, value in parsed.asked if tag != "a"]
    assert len([value for value in others if value.startswith("data:image/png;base64,")]) == 2
    assert all(value.startswith(("data:", "#")) for value in others)
    assert "$" not in page.read_text().replace("$(", "")


def test_report_shows_results_and_errors(page):
    text = page.read_text()
    assert text.index("A &lt;strip&gt;.") < text.index('class="results"') < text.index("CMC.")  # pictures first
    assert "33&thinsp;%" in text and "mAP of <b>10.0</b>" in text and "351 queries" in text
    assert "failed: ValueError: &lt;x&gt;" in text and "1:11" in text and "1:05" in text
    pd.testing.assert_frame_equal(pd.read_csv(page.parent / "results.csv"), RESULTS)


def test_dots_are_at_their_values(page):
    # the scale ends at 30, the next ten above 25.0: 25 -> 83.33 %, 10 -> 33.33 %, 3.4 -> 11.33 %
    assert _Page(page.read_text()).dots == [
        ("general", "left:11.33%"), ("general", "left:83.33%"), ("cloth", "left:33.33%"),
    ]  # fmt: skip


def test_exported_notebook_uses_no_network(page):
    text = (page.parent / "notebooks" / "evaluation-more.html").read_text()
    assert "Question &lt;7&gt;?" in text
    assert not re.search(r'<(?:script|link|img)[^>]+(?:src|href)="(?:https?:)?//', text)
    assert 'src=""' not in text
