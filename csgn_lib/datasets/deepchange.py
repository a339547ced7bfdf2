"""DeepChange (Xu and Zhu, ICCV 2023): 17 cameras over 12 months; outfits are known by day only.

Images are in ``train-set``, ``val-set-query`` etc. and are listed in ``<folder>-bbox.txt``, whose
lines are ``<file>.jpg,<tracklet>``. Names have six fields, ``P<pid>_C<cam>_<day>_<hour>_<..>_<..>.jpg``.
Person and day stand for an outfit: a weak label. Public loaders store the tracklet as camera; here both are kept, and
the protocol determines which one is used.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.files import IMAGE, by_number, find_root, parse, read_lines
from csgn_lib.datasets.frames import number_cameras, number_clothes, number_train, raw_frame
from csgn_lib.records import InputError

FOLDER = "DeepChangeDataset"
_FOLDERS = ("train-set", "val-set-query", "val-set-gallery", "test-set-query", "test-set-gallery")
NEEDED = tuple(path for folder in _FOLDERS for path in (folder, f"{folder}-bbox.txt"))
_NAME = re.compile(rf"P(?P<pid>\d+)_C(?P<camera>\d+)_(?P<day>[^_]+)_[^_]+_[^_]+_[^_]+{IMAGE}")
_EXPECTED = "P<pid>_C<camera>_<day>_<hour>_<..>_<..>.jpg, six fields"
_LINE = re.compile(r"(?P<file>[^,/]+?)\s*,\s*(?P<tracklet>-?\d+)")


def read(root: str | Path, name: str = "deepchange") -> Benchmark:
    """Read the lists; ``val-set-*`` (other people) becomes ``.validation``. ``camera`` counts from 0.

    ``Benchmark.check`` tests whether the listed files exist.

    Raises:
        InputError: a wrong root, an unreadable line or name, an empty list.
    """
    root = find_root(root, NEEDED, "DeepChange")
    train, *test = number_cameras(*(_split(root, folder) for folder in _FOLDERS))
    held, tested = number_clothes(*test[:2]), number_clothes(*test[2:])
    validation = Benchmark(name, root, held[0].iloc[:0].copy(), *held)
    return Benchmark(name, root, number_train(train), *tested, validation)


def _split(root: Path, folder: str) -> pd.DataFrame:
    files, tracklets = _list(root / f"{folder}-bbox.txt")
    paths = [f"{folder}/{file}" for file in files]
    names = parse(root, paths, _NAME, _EXPECTED)
    outfit = [f"P{pid}_{day}" for pid, day in zip(names["pid"], names["day"], strict=True)]
    return raw_frame(paths, names["pid"], names["camera"], outfit, camera=names["camera"], tracklet=tracklets)


def _list(file: Path) -> tuple[list[str], list[int]]:
    files, tracklets = [], []
    for number, line in read_lines(file):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{file}, line {number}: {line!r} cannot be read; expected <file>.jpg,<tracklet number>")
        files.append(match["file"])
        tracklets.append(int(by_number(match["tracklet"], f"{file}, line {number}")))
    if not files:
        raise InputError(f"{file} lists no image; is the download complete?")
    return files, tracklets
