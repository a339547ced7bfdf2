"""Your own images: a folder with a CSV of ``path, person, camera, clothes`` and optionally ``split``.

Paths are relative to the CSV's folder. Labels are numbers or any text. ``7``, ``07`` and ``7.0`` (which pandas writes
once a cell of the column is empty) are one number. An empty cell, ``-1`` or ``nan`` means unknown. The outfit's label
counts per person. ``split`` is train, query or gallery; without that column all images are for testing: the query is
one image per person x outfit x camera, the gallery is the rest. Person -1 marks a distractor in the
gallery.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from csgn_lib.datasets import frames as fr
from csgn_lib.datasets.benchmark import LEFT_OUT, Benchmark
from csgn_lib.datasets.files import checked, scan
from csgn_lib.datasets.tables import read_table
from csgn_lib.records import InputError

FOLDER = "csv"
COLUMNS = ("path", "person", "camera", "clothes")
SPLITS = ("train", "query", "gallery")
MISSING = ("", "nan", "NaN", "<NA>", "None")  # what pandas writes for a missing label
_NUMBER = re.compile(r"([+-]?)0*([0-9]+)(?:[.,]0{0,2})?")
_AMBIGUOUS = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]*)?[eE][+-][0-9]+|[0-9]{1,3}(?:[.,]000)+")  # 1e+16, 1.000


def read(root: str | Path, name: str = "csv") -> Benchmark:
    """Read the CSV in ``root`` (or ``root`` itself, if it is the CSV).

    Numeric people and cameras keep their numbers; other texts are numbered in sorted order.

    Raises:
        InputError: no CSV or several, a missing column, or a cell, named by line and column, that is
            empty, has an unknown split, repeats a path, names a file that does not exist, or holds a label that
            reads like another one (``Red`` and ``red``).
    """
    file = _find(checked(root))
    table = read_table(file, COLUMNS)
    if table.empty:
        raise InputError(f"{file} lists no image")
    _check_paths(file, table)
    for column in ("person", "camera", "clothes"):
        table[column] = _labels(file, table, column)
    table["split"] = _splits(file, table)
    everything = fr.raw_frame(
        table["path"],
        table["person"],
        table["camera"],
        _outfits(file, table),
        person=_numbers(table["person"]),
        camera=_numbers(table["camera"]),
    )
    split = table["split"].iloc[np.argsort(table["path"].to_numpy(dtype=object), kind="stable")].to_numpy()
    train = fr.number_train(fr.select(everything, split == "train"))
    tested = fr.select(everything, split != "train")
    split = split[split != "train"]
    tested = fr.number_clothes(tested)[0]
    is_query = fr.pick_queries(tested) if (split == "").all() else split == "query"
    return Benchmark(name, file.parent, train, fr.select(tested, is_query), fr.select(tested, ~is_query))


def _find(root: Path) -> Path:
    if os.path.isfile(root):
        return root
    if not os.path.isdir(root):
        raise InputError(f"{root} is neither a folder nor a CSV file")
    names = [entry.name for entry in scan(str(root)) if entry.name.endswith(".csv") and entry.name != LEFT_OUT]
    if len(names) != 1:
        found = f"found {', '.join(names)}" if names else "found none"
        raise InputError(f"{root}: expected one CSV with the columns {', '.join(COLUMNS)}; {found}; or give its path")
    return root / names[0]


def _fail(file: Path, table: pd.DataFrame, bad: pd.Series, column: str, what: str) -> None:
    """Raise an error for the first row in which ``bad`` is true."""
    if bad.any():
        line = bad.index[bad.argmax()]
        more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
        raise InputError(f"{file}, line {line}, column {column!r}: {what.format(table[column][line])}{more}")


def _check_paths(file: Path, table: pd.DataFrame) -> None:
    """Normalise paths to the spelling of the file on disk; refuse rows without person or file, and repeated paths."""
    for column in ("path", "person"):
        _fail(file, table, table[column].isin(MISSING), column, "{!r} names nothing; fill the cell in")
    paths = table["path"].str.replace("\\", "/")
    outside = [PurePosixPath(p).is_absolute() or ".." in PurePosixPath(p).parts or ":" in p for p in paths]
    _fail(file, table, pd.Series(outside, table.index), "path", "{!r} must be relative to the CSV's folder")
    table["path"] = [_on_disk(file.parent, posixpath.normpath(path)) for path in paths]
    _fail(file, table, table["path"].duplicated(), "path", "{!r} is listed before")
    missing = [not os.path.isfile(file.parent / path) for path in table["path"]]
    _fail(file, table, pd.Series(missing, table.index), "path", "{!r} does not exist below " + str(file.parent))


def _on_disk(folder: Path, path: str) -> str:
    """The path, or its other Unicode spelling (composed or decomposed accents) if only that one exists."""
    spellings = (path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD")))
    return next((spelling for spelling in spellings if os.path.isfile(folder / spelling)), path)


def _labels(file: Path, table: pd.DataFrame, column: str) -> list[str]:
    """A column's labels in a normalised spelling; "" if unknown. Ambiguous numbers and labels are refused."""
    cells = table[column]
    ambiguous = cells.map(lambda cell: _AMBIGUOUS.fullmatch(cell) is not None)
    _fail(file, table, ambiguous, column, "{!r} may stand for several numbers; write it with digits only")
    labels = [_label(cell) for cell in cells]
    owner = table["person"] if column == "clothes" else [""] * len(labels)
    first: dict[tuple[str, str], str] = {}
    alike = [
        first.setdefault((person, _key(label)), label) != label for person, label in zip(owner, labels, strict=True)
    ]
    what = "{!r} reads like another label of this column (letter case, zeros or spaces); write both the same way"
    _fail(file, table, pd.Series(alike, table.index), column, what)
    return labels


def _label(cell: str) -> str:
    if number := _NUMBER.fullmatch(cell):
        sign, digits = number.groups()
        cell = ("-" if sign == "-" and digits != "0" else "") + digits
    return "" if cell in (*MISSING, "-1") else unicodedata.normalize("NFC", cell)


def _key(label: str) -> str:
    """The normal form that all spellings of one label have in common."""
    text = " ".join(unicodedata.normalize("NFKC", label).casefold().split())
    if re.fullmatch(r"[+-]?[0-9]+[.,][0-9]+", text):
        return text.replace(",", ".").rstrip("0")  # 1.50 is 1.5
    return re.sub(r"(?<![0-9.,])0+(?=[0-9])", "", text)


def _splits(file: Path, table: pd.DataFrame) -> pd.Series:
    if "split" not in table:
        return pd.Series("", table.index)
    _fail(file, table, ~table["split"].isin(SPLITS), "split", "{!r} is not one of " + ", ".join(SPLITS))
    nobody = (table["split"] != "gallery") & (table["person"] == "")
    _fail(file, table, nobody, "person", "-1 means nobody, which only gallery images may show")
    return table["split"]


def _outfits(file: Path, table: pd.DataFrame) -> list[str]:
    """A label for each outfit of each person; "" if the clothes are unknown."""
    labels = (table["person"].replace("", "-1") + "_" + table["clothes"]).mask(table["clothes"] == "", "")
    pairs = table.assign(label=labels)[labels != ""].drop_duplicates(["person", "clothes"])
    alike = table.index.isin(pairs.index[pairs["label"].duplicated()])  # "a_b" in "c" and "a" in "b_c"
    _fail(file, table, pd.Series(alike, table.index), "clothes", "{!r} of this person reads as another's; rename it")
    return labels.tolist()


def _numbers(labels: pd.Series) -> np.ndarray:
    """Labels as integers: their own if all are numbers of int64, else 0..N-1 in sorted order; "" is -1."""
    known = labels[labels != ""]
    if known.str.fullmatch(r"[0-9]{1,18}").all():
        return labels.replace("", "-1").to_numpy(dtype=object).astype(np.int64)
    return fr.rank_labels(labels)
