"""`latex_table`: means with their spread, for a paper, where only what is more than noise is marked."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from csgn_lib.figures.tables import LATEX
from csgn_lib.records import InputError, atomic_path

ALPHA = 0.05  # a corrected p below it is marked, here and in 41_ablation_tables
MARK = "^{*}"


def latex_table(
    frame: pd.DataFrame, target: str | Path, spread: Literal["sd", "interval"] = "sd", note: str = ""
) -> Path:
    """Write a booktabs tabular, ``<target>.tex``, and the frame, ``<target>.csv``: both or none, always the same bytes.

    Args:
        frame: one line for each cell: ``row``, ``column``, ``mean``; optionally ``sd``, or ``low`` and ``high``;
            ``p``, of the difference to the baseline, corrected; ``p_best``, of the lead of the column's
            best row over the others, corrected; ``digits`` after the point (default 1). Rows and columns keep
            the order of their first appearance; a missing cell is a dash.
        target: path without a suffix.
        spread: mean ± s.d., or mean [low, high]; where that is not known, the mean alone.
        note: one line for whoever opens the file, as a comment of LaTeX.

    A star stands only where ``p`` is below ALPHA, and n.s. where it is known and not. Bold is only the highest mean
    of a column, and only if its ``p_best`` is below ALPHA; without one, nothing is.

    Returns the path without a suffix.

    Raises:
        InputError: a column of the frame is missing, a cell is given twice, or there is none.
    """
    target = Path(target)
    absent = [name for name in ("row", "column", "mean") if name not in frame]
    if absent or frame.empty:
        said = f"lacks the column {', '.join(absent)}" if absent else "has no line"
        raise InputError(f"the frame of table {target.name!r} {said}; give row, column and mean of every cell")
    if len(twice := frame[frame.duplicated(["row", "column"])]):
        raise InputError(
            f"table {target.name!r} holds {twice['row'].iloc[0]!r} under {twice['column'].iloc[0]!r} twice; keep one"
        )
    with ExitStack() as stack:
        tex, csv = (stack.enter_context(atomic_path(f"{target}.{suffix}")) for suffix in ("tex", "csv"))
        tex.write_text(_tabular(frame, spread, note), encoding="utf-8")
        frame.to_csv(csv, index=False, float_format="%.6g")
    return target


def _tabular(frame: pd.DataFrame, spread: str, note: str) -> str:
    columns = list(frame["column"].unique())
    best = (
        frame.loc[frame.dropna(subset="mean").groupby("column")["mean"].idxmax()].set_index("column")["row"].to_dict()
    )
    cells = {
        (cell["row"], cell["column"]): _cell(cell, spread, best.get(cell["column"]) == cell["row"])
        for cell in frame.to_dict("records")
    }
    told = "mean and s.d." if spread == "sd" else "mean and its interval"
    lines = [
        f"% {told}; *: differs from the baseline, corrected p < {ALPHA}; bold: better than every other row, likewise"
    ]
    lines += [f"% {line}" for line in note.splitlines()]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(columns)}}}", r"\toprule"]
    lines += [" & ".join(["", *map(_escaped, columns)]) + r" \\", r"\midrule"]
    for row in frame["row"].unique():
        lines.append(" & ".join([_escaped(row), *(cells.get((row, column), "--") for column in columns)]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _cell(cell: dict[str, Any], spread: str, best: bool) -> str:
    def number(name: str) -> str:
        return f"{cell[name]:.{int(_or(cell.get('digits'), 1))}f}"

    if pd.isna(cell["mean"]):
        return "--"
    text = number("mean")
    if best and _or(cell.get("p_best"), 1) < ALPHA:
        text = rf"\mathbf{{{text}}}"
    if spread == "sd" and _known(cell, "sd"):
        text += rf" \pm {number('sd')}"
    elif spread == "interval" and _known(cell, "low") and _known(cell, "high"):
        text += f"\\ [{number('low')}, {number('high')}]"
    if not _known(cell, "p"):
        return f"${text}$"
    return f"${text}{MARK}$" if cell["p"] < ALPHA else f"${text}$ n.s."


def _known(cell: dict[str, Any], name: str) -> bool:
    return bool(pd.notna(cell.get(name)))


def _or(value: Any, default: float) -> float:
    return default if pd.isna(value) else value


def _escaped(text: object) -> str:
    return str(text).translate(LATEX).replace("–", "--").replace("±", r"$\pm$")
