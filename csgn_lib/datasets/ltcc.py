"""LTCC (Qian et al., ACCV 2020), and any folder in its layout, such as the embedded benchmark.

``train query test`` hold ``<pid>_<outfit>_c<cam>_<frame>.png`` (the gallery is called test);
``info/cloth-change_id_{train,test}.txt`` list the people who change clothes. The outfit counts from 1 for
each person, so ``<pid>_<outfit>`` is the outfit's label. Public loaders match their patterns
against the whole path, where ``_c`` in the root corrupts the outfit; here only the file name is parsed.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.files import IMAGE, by_number, find_root, list_files, parse, read_lines
from csgn_lib.datasets.frames import number_cameras, number_clothes, number_train, raw_frame
from csgn_lib.records import InputError

FOLDER = "LTCC_ReID"
NEEDED = ("train", "query", "test")
_NAME = re.compile(rf"(?P<outfit>(?P<pid>\d+)_\d+)_c(?P<camera>\d+)_\d+{IMAGE}")
_EXPECTED = "<pid>_<outfit>_c<camera>_<frame>.png, such as 094_1_c9_015833.png"


def read(root: str | Path, name: str = "ltcc") -> Benchmark:
    """Read the layout. ``validation/{query,test}``, if there, becomes ``.validation``.

    ``camera`` counts from 0. The column ``changes_clothes`` says whether the person is listed in
    ``info/cloth-change_id_*.txt`` (1), is not (0), or the list is missing (-1).

    Raises:
        InputError: a wrong root, an unreadable name, an empty split, a damaged list.
    """
    root = find_root(root, NEEDED, "LTCC" if name == "ltcc" else f"{name} (LTCC layout)")
    folders = ["train", "query", "test"]
    if (root / "validation").is_dir():
        folders += ["validation/query", "validation/test"]
    train, query, gallery, *held = number_cameras(*(_split(root, folder) for folder in folders))
    validation = None
    if held:
        held = number_clothes(*held)
        validation = Benchmark(name, root, held[0].iloc[:0].copy(), *held)
    return Benchmark(name, root, number_train(train), *number_clothes(query, gallery), validation)


def _split(root: Path, folder: str) -> pd.DataFrame:
    paths = list_files(root, folder)
    names = parse(root, paths, _NAME, _EXPECTED)
    people = folder.split("/")[0].replace("query", "test")
    changes = _changes(root / "info" / f"cloth-change_id_{people}.txt", names["pid"])
    return raw_frame(
        paths, names["pid"], names["camera"], names["outfit"], camera=names["camera"], changes_clothes=changes
    )


def _changes(file: Path, pid: tuple[str, ...]) -> np.ndarray:
    if not file.is_file():
        return np.full(len(pid), -1)
    listed = set()
    for number, line in read_lines(file):
        if not line.isdecimal():
            raise InputError(f"{file}, line {number}: {line!r} is not a person number; expected one integer a line")
        listed.add(by_number(line, f"{file}, line {number}"))
    return np.array([text in listed for text in pid], dtype=np.int64)
