"""LaTeX for a paper: `latex_table`, which marks significant differences, and `number_macros` for its text."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from csgn_lib.records import InputError, atomic_path

ALPHA = 0.05  # corrected p values below it are significant, here and in 41_ablation_tables
MARK = "^{*}"
_NAMED = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_ESCAPES = str.maketrans({c: f"\\{c}" for c in "&%$#_{}"} | _NAMED)
_DIGITS = "Zero One Two Three Four Five Six Seven Eight Nine".split()


def latex_table(
    frame: pd.DataFrame, target: str | Path, spread: Literal["sd", "interval", "none"] = "sd", note: str = ""
) -> Path:
    """Write a booktabs tabular, ``<target>.tex``, and the frame, ``<target>.csv``: both or none. Deterministic.

    Args:
        frame: one line for each cell: ``row``, ``column``, ``mean``; optionally ``sd``, or ``low`` and ``high``;
            ``p``, of the difference to the baseline, corrected; ``p_best``, of the lead of the column's
            best row over the others, corrected; ``digits`` after the point (default 1); ``group``, a heading over
            neighbouring columns, such as a protocol over rank-1 and mAP. Rows and columns keep the order of
            their first appearance; a missing cell is a dash.
        target: path without a suffix.
        spread: mean ± s.d., mean [low, high], or none; the mean alone where the spread is unknown.
        note: lines written into the file as LaTeX comments.

    A star marks ``p`` below ALPHA, n.s. a larger one. The highest mean of a column is bold only if its ``p_best`` is
    below ALPHA.

    Returns the path without a suffix.

    Raises:
        InputError: a column of the frame is missing, a cell is given twice, or there is none.
    """
    target = Path(target)
    absent = [name for name in ("row", "column", "mean") if name not in frame]
    if absent or frame.empty:
        fault = f"lacks the column {', '.join(absent)}" if absent else "has no line"
        raise InputError(f"the frame of table {target.name!r} {fault}; give row, column and mean of every cell")
    columns = [name for name in ("group", "column") if name in frame]
    if len(twice := frame[frame.duplicated(["row", *columns])]):
        raise InputError(
            f"table {target.name!r} holds {twice['row'].iloc[0]!r} under {twice['column'].iloc[0]!r} twice; keep one"
        )
    return _write(target, _tabular(frame, spread, note), frame)


def macro_name(words: str, prefix: str = "csgn") -> str:
    r"""The name of the LaTeX command for ``words``: letters only, each word capitalized, digits spelled out.

    >>> macro_name("CSGN, clothing removed: cloth_changing mAP, 2 worlds")
    'csgnCsgnClothingRemovedClothChangingMapTwoWorlds'

    Raises InputError if no letter or digit is left.
    """
    plain = unicodedata.normalize("NFKD", str(words)).encode("ascii", "ignore").decode()
    spelled = re.sub(r"\d", lambda digit: f" {_DIGITS[int(digit[0])]} ", plain)
    parts = [word.capitalize() for word in re.findall(r"[A-Za-z]+", spelled)]
    if not parts:
        raise InputError(f"the name {words!r} of a number holds no letter and no digit; give it a word")
    return prefix + "".join(parts)


def number_macros(frame: pd.DataFrame, target: str | Path) -> Path:
    r"""Write a ``\newcommand`` for every number, ``<target>.tex``, and all of them, ``<target>.csv``: both or none.

    A text that uses ``\csgnSeedsCsgnClothChangingMapMean{}`` always quotes the recorded number.

    Args:
        frame: one line for each number: ``name`` (words, see `macro_name`), ``value`` (a number, or a text, which is
            escaped; one that is not known is a dash), optionally ``format`` (as of Python; default ``.1f``).
        target: path without a suffix.

    Returns the path without a suffix.

    Raises:
        InputError: a column is missing, a name has neither letter nor digit, a format fits no number, or two
            names give the same command; nothing is written then.
    """
    target = Path(target)
    if absent := [name for name in ("name", "value") if name not in frame]:
        raise InputError(f"the numbers of {target.name!r} lack the column {', '.join(absent)}; give name and value")
    formats = frame["format"] if "format" in frame else [".1f"] * len(frame)
    named: dict[str, str] = {}
    lines, shown = ["% Generated from the records; do not edit."], []
    for name, value, form in zip(frame["name"], frame["value"], formats, strict=True):
        macro = macro_name(name)
        if macro in named:
            raise InputError(
                f"{named[macro]!r} and {name!r} of {target.name!r} both give \\{macro}; rename one of them"
            )
        named[macro] = name
        shown.append(_quoted(name, value, form))
        lines.append(rf"\newcommand{{\{macro}}}{{{shown[-1]}}}")
    return _write(target, "\n".join(lines) + "\n", frame.assign(macro=list(named), shown=shown))


def latex_float(kind: Literal["figure", "table"], name: str, caption: str) -> str:
    r"""A LaTeX float with a saved figure or table, at most as wide as the text, and its caption; needs graphicx.

    Args:
        kind: ``figure`` (``<name>.pdf`` is shown) or ``table`` (``<name>.tex`` is).
        name: the file from the document's own folder, without a suffix; ``\ref{<name>}`` refers to it.
        caption: plain text, which is escaped.
    """
    heading = rf"\caption{{{_escaped(caption)}}}\label{{{name}}}"
    fitted = r"\ifdim\wd2>\linewidth\resizebox{\linewidth}{!}{\usebox2}\else\usebox2\fi"
    if kind == "figure":
        lines = [rf"\includegraphics[width=\linewidth,height=0.85\textheight,keepaspectratio]{{{name}.pdf}}", heading]
    else:  # captions of tables are above the table
        lines = [heading, r"\medskip", rf"\sbox2{{\input{{{name}.tex}}}}{fitted}"]
    return "\n".join([rf"\begin{{{kind}}}[htbp]\centering", *lines, rf"\end{{{kind}}}"]) + "\n"


def _write(target: Path, text: str, frame: pd.DataFrame) -> Path:
    with atomic_path(f"{target}.tex") as tex, atomic_path(f"{target}.csv") as csv:
        tex.write_text(text, encoding="utf-8")
        frame.to_csv(csv, index=False, float_format="%.6g")
    return target


def _quoted(name: str, value: Any, form: Any) -> str:
    if isinstance(value, str):
        return _escaped(" ".join(value.split()))
    if pd.isna(value):
        return "--"
    try:
        text = format(value, form if isinstance(form, str) else ".1f")
    except (ValueError, TypeError) as error:
        raise InputError(
            f"the format {form!r} of {name!r} does not fit {value!r} ({error}); give one such as .1f"
        ) from None
    return rf"\ensuremath{{{_escaped(text)}}}"


def _tabular(frame: pd.DataFrame, spread: str, note: str) -> str:
    frame = frame.assign(group=frame["group"].fillna("") if "group" in frame else "")
    keys = ["group", "column"] if frame["group"].any() else ["column"]
    best = frame.loc[frame.dropna(subset="mean").groupby(keys)["mean"].idxmax()].index
    frame["cell"] = [_cell(cell, spread, i in best) for i, cell in frame.to_dict("index").items()]
    columns = frame[keys].drop_duplicates()
    order = pd.MultiIndex.from_frame(columns) if len(keys) > 1 else pd.Index(columns["column"])
    table = frame.pivot(index="row", columns=keys, values="cell").reindex(frame["row"].unique())[order].fillna("--")
    style = table.rename_axis(index=None, columns=[None] * len(keys)).style
    style = style.format_index(_escaped, axis="index").format_index(_escaped, axis="columns")
    content = {"sd": "mean and s.d.", "interval": "mean and its interval"}.get(spread, "mean")
    meaning = f"*: differs from the baseline, corrected p < {ALPHA}; bold: better than every other row, likewise"
    comments = "".join(f"% {line}\n" for line in [f"{content}; {meaning}", *note.splitlines()])
    return comments + style.to_latex(column_format="l" + "r" * len(order), hrules=True, multicol_align="c")


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
    plain = str(text).translate(_ESCAPES).replace("–", "--").replace("±", r"$\pm$")
    return plain.replace("<", r"\textless{}").replace(">", r"\textgreater{}")
