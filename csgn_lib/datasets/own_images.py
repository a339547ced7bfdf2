"""Your own images: a folder with a CSV of ``path, person, camera, clothes`` and, if you like, ``split``.

Paths are relative to the CSV's folder. Labels are any text; an empty ``camera`` or ``clothes`` cell means
unknown (-1). The outfit's text counts per person. ``split`` is train, query or gallery; without that
column all images are for testing: the query is one image per person x outfit x camera, the gallery is
the rest. Person -1 marks a gallery image of nobody in particular.
"""

from __future__ import annotations

import difflib
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from csgn_lib.datasets import frames as fr
from csgn_lib.datasets.benchmark import LEFT_OUT, Benchmark
from csgn_lib.records import InputError

FOLDER = "csv"
COLUMNS = ("path", "person", "camera", "clothes")
SPLITS = ("train", "query", "gallery")


def read(root: str | Path, name: str = "csv") -> Benchmark:
    """Read the CSV in ``root`` (or ``root`` itself, if it is the CSV).

    Numeric people and cameras keep their numbers; other texts are numbered in sorted order.

    Raises:
        InputError: no CSV or several, a missing column, or a cell, named by row and column, that is
            empty, has an unknown split, repeats a path, or names a file that does not exist.
    """
    file = _find(Path(root).expanduser())
    table = _table(file)
    _check_paths(file, table)
    table["split"] = _splits(file, table)
    people = _numbers(table["person"])
    if pd.Series(people).nunique() < table["person"].nunique():
        table["person"] = people.astype(str)  # 0042 and 42 are one person: one label for both
    everything = fr.raw_frame(
        table["path"],
        table["person"],
        table["camera"],
        _outfits(file, table),
        person=people,
        camera=_numbers(table["camera"]),
    )
    split = table["split"].iloc[np.argsort(table["path"].to_numpy(dtype=object), kind="stable")].to_numpy()
    train = fr.number_train(fr.select(everything, split == "train"))
    tested = fr.select(everything, split != "train")
    split = split[split != "train"]
    tested = fr.number_clothes(tested)[0]
    asked = fr.pick_queries(tested) if (split == "").all() else split == "query"
    return Benchmark(name, file.parent, train, fr.select(tested, asked), fr.select(tested, ~asked))


def _find(root: Path) -> Path:
    if root.is_file():
        return root
    if not root.is_dir():
        raise InputError(f"{root} is neither a folder nor a CSV file")
    files = sorted(path for path in root.glob("*.csv") if path.name[0] != "." and path.name != LEFT_OUT)
    if len(files) != 1:
        found = f"found {', '.join(file.name for file in files)}" if files else "found none"
        raise InputError(f"{root}: expected one CSV with the columns {', '.join(COLUMNS)}; {found}; or give its path")
    return files[0]


def _table(file: Path) -> pd.DataFrame:
    """The CSV as text, without empty rows; the index is the row's number, the header being row 0."""
    try:
        table = pd.read_csv(
            file, dtype=str, keep_default_na=False, skip_blank_lines=False, encoding="utf-8-sig", index_col=False
        )
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise InputError(f"{file} cannot be read as a comma-separated UTF-8 file: {error}") from None
    table.columns = [str(column).strip() for column in table.columns]
    for column in COLUMNS:
        if column not in table:
            close = difflib.get_close_matches(column, list(table.columns), n=1)
            hint = f" (is {close[0]!r} meant?)" if close else "; leave its cells empty where it is unknown"
            raise InputError(f"{file}: column {column!r} is missing{hint}; found {', '.join(table.columns)}")
    keep = [column for column in (*COLUMNS, "split") if column in table]
    table = table[keep].fillna("").apply(lambda cells: cells.str.strip())
    table.index = np.arange(1, len(table) + 1)
    table = table[(table != "").any(axis=1)]
    if table.empty:
        raise InputError(f"{file} lists no image")
    return table


def _fail(file: Path, table: pd.DataFrame, bad: pd.Series, column: str, what: str) -> None:
    """Raise an error for the first row in which ``bad`` is true."""
    if bad.any():
        row = bad.index[bad.argmax()]
        more = f" (and {int(bad.sum()) - 1} more rows)" if bad.sum() > 1 else ""
        place = f"{file}, row {row} (line {row + 1} of the file), column {column!r}"
        raise InputError(f"{place}: {what.format(table[column][row])}{more}")


def _check_paths(file: Path, table: pd.DataFrame) -> None:
    for column in ("path", "person"):
        _fail(file, table, table[column] == "", column, "the cell is empty")
    table["path"] = [path.replace("\\", "/").removeprefix("./") for path in table["path"]]
    outside = [PurePosixPath(p).is_absolute() or ".." in PurePosixPath(p).parts or ":" in p for p in table["path"]]
    _fail(file, table, pd.Series(outside, table.index), "path", "{!r} must be relative to the CSV's folder")
    _fail(file, table, table["path"].duplicated(), "path", "{!r} is listed before")
    missing = [not (file.parent / path).is_file() for path in table["path"]]
    _fail(file, table, pd.Series(missing, table.index), "path", "{!r} does not exist below " + str(file.parent))


def _splits(file: Path, table: pd.DataFrame) -> pd.Series:
    if "split" not in table:
        return pd.Series("", table.index)
    _fail(file, table, ~table["split"].isin(SPLITS), "split", "{!r} is not one of " + ", ".join(SPLITS))
    nobody = (table["split"] != "gallery") & (_numbers(table["person"]) == fr.UNKNOWN)
    _fail(file, table, nobody, "person", "{!r} means nobody, which only gallery images may show")
    return table["split"]


def _outfits(file: Path, table: pd.DataFrame) -> list[str]:
    """A label for each outfit of each person; "" where the clothes are unknown."""
    labels = (table["person"] + "_" + table["clothes"]).mask(table["clothes"] == "", "")
    pairs = table.assign(label=labels)[labels != ""].drop_duplicates(["person", "clothes"])
    alike = table.index.isin(pairs.index[pairs["label"].duplicated()])  # "a_b" in "c" and "a" in "b_c"
    _fail(file, table, pd.Series(alike, table.index), "clothes", "{!r} of this person reads as another's; rename it")
    return labels.tolist()


def _numbers(labels: pd.Series) -> np.ndarray:
    """Labels as integers: their own if all are numeric, else 0..N-1 in sorted order; "" and -1 are -1."""
    known = ~labels.isin(["", "-1"])
    out = np.full(len(labels), fr.UNKNOWN, dtype=np.int64)
    texts = labels[known]
    if texts.str.fullmatch(r"[0-9]{1,18}").all():
        out[known.to_numpy()] = texts.astype("int64")
    else:
        out[known.to_numpy()] = pd.factorize(texts, sort=True)[0]
    return out
