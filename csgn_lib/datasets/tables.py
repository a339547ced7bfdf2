"""Tables written by hand or by a spreadsheet: comma-, semicolon- or tab-separated text."""

from __future__ import annotations

import csv
import difflib
import io
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from csgn_lib.datasets.files import read_text
from csgn_lib.records import InputError

DELIMITERS = ",;\t"


def read_table(file: Path, columns: Sequence[str], free_text: bool = False) -> pd.DataFrame:
    """A table's cells as text, stripped, without empty rows; the index is each row's line in the file.

    The header's cells are separated by one of DELIMITERS, and so are all others.

    Args:
        columns: required columns.
        free_text: whether the last column may hold the delimiter without quotes.

    Raises:
        InputError: the file cannot be read, a column is missing or named twice, a row has more or fewer cells than
            the header (named by its line), or a quote is not closed.
    """
    text = read_text(file)
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(DELIMITERS, key=lambda mark: len(set(columns) & {cell.strip(' "') for cell in first.split(mark)}))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        raise InputError(
            f"{file}, line {reader.line_num}: not a valid table ({error}); is a quote not closed?"
        ) from None
    rows = [(line, cells) for line, cells in rows if any(cells)]
    if not rows:
        raise InputError(f"{file} is empty; its first line names the columns {', '.join(columns)}")
    header = rows[0][1]
    _check_header(file, header, columns)
    body = [_fit(file, line, cells, header, delimiter if free_text else "") for line, cells in rows[1:]]
    return pd.DataFrame(body, columns=header, index=pd.Index([line for line, _ in rows[1:]], dtype=int), dtype="str")


def _check_header(file: Path, header: list[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in header:
            close = difflib.get_close_matches(column, header, n=1)
            hint = f" (is {close[0]!r} meant?)" if close else "; name it in the first line"
            raise InputError(f"{file}: column {column!r} is missing{hint}; found {', '.join(header)}")
        if header.count(column) > 1:
            raise InputError(f"{file}: column {column!r} is named twice; keep one of them")


def _fit(file: Path, line: int, cells: list[str], header: list[str], joiner: str) -> list[str]:
    width = len(header)
    if joiner and len(cells) > width:
        cells = [*cells[: width - 1], f"{joiner} ".join(cells[width - 1 :])]
    if len(cells) < width or any(cells[width:]):
        raise InputError(
            f"{file}, line {line}: {len(cells)} cells, and the header names {width} columns; "
            "put a cell that holds the separator in double quotes, and write an unknown label as an empty cell"
        )
    return cells[:width]
