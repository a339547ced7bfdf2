"""LaTeX tables: escaped, reproducible, with only significant differences marked."""

import numpy as np
import pandas as pd
import pytest

from csgn_lib import figures
from csgn_lib.records import InputError


def _frame(**columns):
    """Two rows by two columns, and what is given of the four cells."""
    frame = pd.DataFrame({"row": ["a_b", "a_b", "C & D", "C & D"], "column": ["mAP", "time", "mAP", "time"]})
    return frame.assign(**({"mean": [40.0, 12.0, 45.25, 20.0], "sd": [1.0, np.nan, 2.0, np.nan]} | columns))


def _lines(frame, tmp_path, **options):
    return figures.latex_table(frame, tmp_path / "table", **options).with_suffix(".tex").read_text().splitlines()


def test_latex_table_is_deterministic_booktabs(tmp_path):
    frame = _frame(p=[np.nan, np.nan, 0.01, np.nan], digits=[1, 0, 1, 0])
    assert figures.latex_table(frame, tmp_path / "a.b") == tmp_path / "a.b"  # a point in the name is no suffix
    first = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    figures.latex_table(frame, tmp_path / "a.b")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == first and set(first) == {
        "a.b.tex",
        "a.b.csv",
    }
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "a.b.csv"), frame)
    assert first["a.b.tex"].decode().splitlines()[1:] == [
        r"\begin{tabular}{lrr}",
        r"\toprule",
        r" & mAP & time \\",
        r"\midrule",
        r"a\_b & $40.0 \pm 1.0$ & $12$ \\",
        r"C \& D & $45.2 \pm 2.0^{*}$ & $20$ \\",
        r"\bottomrule",
        r"\end{tabular}",
    ]


def test_only_significant_best_row_is_bold(tmp_path):
    def bold(p_best):
        return [line.split(" & ")[0] for line in _lines(_frame(p_best=p_best), tmp_path) if "mathbf" in line]

    assert bold([np.nan] * 4) == bold([0.05] * 4) == []
    assert "mathbf" not in "".join(_lines(_frame(), tmp_path))
    assert bold([0.01, np.nan, 0.01, np.nan]) == [r"C \& D"]  # not the other, whatever its p
    lines = _lines(_frame(p=[0.05, np.nan, np.nan, 0.04]), tmp_path)[5:7]
    assert lines == [r"a\_b & $40.0 \pm 1.0$ n.s. & $12.0$ \\", r"C \& D & $45.2 \pm 2.0$ & $20.0^{*}$ \\"]


def test_intervals_and_missing_cells(tmp_path):
    frame = _frame(low=[39, np.nan, 44, np.nan], high=[41, np.nan, 46.5, np.nan]).drop(index=1)
    frame.loc[3, "mean"] = np.nan
    lines = _lines(frame, tmp_path, spread="interval", note="Of two runs.")
    assert lines[1] == "% Of two runs."
    assert lines[6:8] == [r"a\_b & $40.0\ [39.0, 41.0]$ & -- \\", r"C \& D & $45.2\ [44.0, 46.5]$ & -- \\"]


def test_columns_are_grouped_by_protocol(tmp_path):
    places = [("cross", "rank-1"), ("cross", "mAP"), ("general", "rank-1"), ("general", "mAP"), (np.nan, "GiB")]
    frame = pd.DataFrame(places, columns=["group", "column"]).assign(row="a", mean=[1.0, 2.0, 3.0, 4.0, 5.0], sd=0.5)
    assert _lines(frame, tmp_path, spread="none")[1:6] == [
        r"\begin{tabular}{lrrrrr}",
        r"\toprule",
        r" & \multicolumn{2}{c}{cross} & \multicolumn{2}{c}{general} &  \\",
        r" & rank-1 & mAP & rank-1 & mAP & GiB \\",
        r"\midrule",
    ]
    assert _lines(frame, tmp_path, spread="none")[6] == r"a & $1.0$ & $2.0$ & $3.0$ & $4.0$ & $5.0$ \\"


def test_results_table_describes_protocols():
    frame = pd.DataFrame({"row": ["a"], "protocol": "cross_clothes", "rank1": 0.5, "mean_ap": 0.25, "minp": 0.1})
    described = {"cross_clothes": "queries <in> other clothes", "general": "not in this table"}
    table = figures.results_table(frame.assign(counted=4), described)
    assert table.text.endswith("\n\ncross_clothes: queries <in> other clothes")
    assert "<p>cross-clothes: queries &lt;in&gt; other clothes</p>" in table.html


def test_invalid_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="table 'table' lacks the column mean"):
        _lines(_frame().drop(columns="mean"), tmp_path)
    with pytest.raises(InputError, match="has no line"):
        _lines(_frame()[:0], tmp_path)
    with pytest.raises(InputError, match="holds 'a_b' under 'mAP' twice"):
        _lines(pd.concat([_frame(), _frame()]), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("said", "printed"), [("50 % ± 2", r"50 \% $\pm$ 2"), ("x^2~\\", None), ("a–b", "a--b")])
def test_names_are_escaped(tmp_path, said, printed):
    line = _lines(_frame(row=[said, said, "z", "z"]), tmp_path)[5]
    assert line.startswith((printed or r"x\textasciicircum{}2\textasciitilde{}\textbackslash{}") + " & ")
