"""The results as a table: text and HTML."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from csgn_lib.records import InputError

SIDE_BY_SIDE = 2  # protocols; more of them make a table wider than a page
COLUMNS = ("row", "protocol", "rank1", "mean_ap", "minp", "counted")
_HEADS = ("rank-1", "mAP", "mINP", "queries")


@dataclass(frozen=True, repr=False)
class Table:
    """One table as plain ``text`` and as an ``html`` element."""

    text: str
    html: str

    def __str__(self) -> str:
        return self.text

    __repr__ = __str__  # shown where HTML is not available

    def _repr_html_(self) -> str:
        return self.html


def protocol_name(protocol: str) -> str:
    """A protocol's name as notebooks, figures and tables print it: ``cloth_changing`` is *cloth-changing*."""
    return protocol.replace("_", "-")


def results_table(frame: pd.DataFrame, descriptions: Mapping[str, str] | None = None) -> Table:
    """Rows by protocols: rank-1, mAP, mINP in percent, and the queries counted; further protocols below the first two.

    Args:
        frame: columns row, protocol, rank1, mean_ap, minp (fractions in [0, 1]) and counted;
            optionally low and high, the ends of an interval of mean_ap, which HTML prints.
            Rows and protocols keep the order of their first appearance; a missing cell is a dash.
        descriptions: one line for each protocol, printed with the table.

    Nothing is bold, since a single run per row cannot show which differences are significant.
    Raises InputError naming a missing column, or a row that is given twice.
    """
    absent = [name for name in COLUMNS if name not in frame]
    if absent:
        raise InputError(f"results lack the column {', '.join(absent)}; needed: {', '.join(COLUMNS)}")
    twice = frame[frame.duplicated(["row", "protocol"])]
    if len(twice):
        raise InputError(f"results hold {twice['row'].iloc[0]!r} under {twice['protocol'].iloc[0]!r} twice; keep one")
    protocols, descriptions = list(frame["protocol"].unique()), descriptions or {}
    lines = [f"{name}: {descriptions[name]}" for name in protocols if name in descriptions]
    shown = [protocols[i : i + SIDE_BY_SIDE] for i in range(0, len(protocols), SIDE_BY_SIDE)]
    blocks = [frame[frame["protocol"].isin(names)] for names in shown]
    text = "\n\n".join(filter(None, [*map(_text, blocks), "\n".join(lines)]))
    return Table(text, "".join(_html(block, descriptions) for block in blocks))


def _entries(frame: pd.DataFrame, intervals: bool) -> list[tuple[str, list[str]]]:
    """(row, its cells of text, protocol after protocol)."""
    records = {(record["row"], record["protocol"]): record for record in frame.to_dict("records")}
    rows = []
    for row in frame["row"].unique():
        cells: list[str] = []
        for protocol in frame["protocol"].unique():
            record = records.get((row, protocol))
            cells += _values(record, intervals) if record else ["–"] * len(_HEADS)
        rows.append((str(row), cells))
    return rows


def _values(record: dict[str, float], intervals: bool) -> list[str]:
    rank1, mean_ap, minp = (_percent(record[name]) for name in ("rank1", "mean_ap", "minp"))
    if intervals and pd.notna(record.get("low")) and pd.notna(record.get("high")):
        mean_ap += f" <small>{100 * record['low']:.1f}–{100 * record['high']:.1f}</small>"
    return [rank1, mean_ap, minp, "–" if pd.isna(record["counted"]) else f"{record['counted']:.0f}"]


def _percent(fraction: float) -> str:
    return "–" if pd.isna(fraction) else f"{100 * fraction:.1f}"


def _text(frame: pd.DataFrame) -> str:
    rows = _entries(frame, intervals=False)
    protocols = list(frame["protocol"].unique())
    first = max(len("row"), *(len(name) for name, _ in rows))
    widths = [max(len(head), 6) + 2 for head in _HEADS]
    block = sum(widths)
    lines = [" " * first + "".join(f"{protocol:>{block}}" for protocol in protocols)]
    lines.append("row".ljust(first) + _aligned(_HEADS * len(protocols), widths * len(protocols)))
    lines.append("-" * (first + block * len(protocols)))
    lines += [name.ljust(first) + _aligned(cells, widths * len(protocols)) for name, cells in rows]
    return "\n".join(lines)


def _aligned(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def _html(frame: pd.DataFrame, descriptions: Mapping[str, str]) -> str:
    protocols = list(frame["protocol"].unique())
    span = f'colspan="{len(_HEADS)}" scope="colgroup" style="text-align: center"'
    over = "".join(f"<th {span}>{_name(name)}</th>" for name in protocols)
    heads = "".join(f'<th scope="col">{head}</th>' for head in _HEADS * len(protocols))
    body = ""
    for name, cells in _entries(frame, intervals=True):
        marks = ["start" if i % len(_HEADS) == 0 else "" for i in range(len(cells))]
        tds = "".join(f'<td class="{mark}">{cell}</td>' for mark, cell in zip(marks, cells, strict=True))
        body += f'<tr><th scope="row">{html.escape(name)}</th>{tds}</tr>\n'
    head = f'<thead><tr><th rowspan="2" scope="col"></th>{over}</tr><tr>{heads}</tr></thead>'
    lines = [f"{_name(name)}: {html.escape(descriptions[name])}" for name in protocols if name in descriptions]
    above = f"<p>{'<br>'.join(lines)}</p>" if lines else ""  # a caption would be as narrow as the table
    return f'{above}<table class="results">{head}<tbody>\n{body}</tbody></table>'


def _name(protocol: object) -> str:
    return html.escape(protocol_name(str(protocol)))
