"""Celeb-reID and Celeb-reID-light (Huang et al., IJCNN 2019 and TCSVT 2020): neither cameras nor outfits.

``train query gallery`` hold ``<pid>_<y>_<z>.jpg``: the y-th image of a person; z has no meaning. Test
people are numbered from 1 again: the same number in train is another person. The official evaluation code treats the
first digit of y as camera, which drops true matches; here it is a separate column, ``first_digit``, used only by the
protocols that name it. ``camera`` and ``clothes`` are -1.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.files import IMAGE, find_root, list_files, parse
from csgn_lib.datasets.frames import number_train, raw_frame

FOLDER = "Celeb-reID"
FOLDER_LIGHT = "Celeb-reID-light"
NEEDED = ("train", "query", "gallery")
_NAME = re.compile(rf"(?P<pid>\d+)_(?P<number>\d+)_\d+{IMAGE}")
_EXPECTED = "<pid>_<image>_<z>.jpg, such as 12_3_0.jpg"


def read(root: str | Path, name: str = "celebreid") -> Benchmark:
    """Read the layout, of either size.

    Raises:
        InputError: a wrong root, an unreadable name, an empty split.
    """
    root = find_root(root, NEEDED, "Celeb-reID")
    return Benchmark(name, root, number_train(_split(root, "train")), _split(root, "query"), _split(root, "gallery"))


def _split(root: Path, folder: str) -> pd.DataFrame:
    paths = list_files(root, folder)
    names = parse(root, paths, _NAME, _EXPECTED)
    return raw_frame(paths, names["pid"], first_digit=[int(number[0]) for number in names["number"]])
