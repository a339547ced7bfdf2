"""VC-Clothes (Wan et al., CVPR workshops 2020), synthetic.

``train query gallery`` hold ``<pid>-<cam>-<clothes>-<n>.jpg``; the owners' page shows underscores
instead of hyphens, so both are accepted.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.files import IMAGE, find_root, list_files, parse
from csgn_lib.datasets.frames import number_cameras, number_clothes, number_train, raw_frame
from csgn_lib.records import InputError

FOLDER = "VC-Clothes"
NEEDED = ("train", "query", "gallery")
_NAME = re.compile(rf"(?P<pid>\d+)(?P<mark>[-_])(?P<camera>\d+)(?P=mark)(?P<clothes>\d+)(?P=mark)\d+{IMAGE}")
_EXPECTED = "<pid>-<camera>-<clothes>-<n>.jpg or the same with underscores, such as 0001-01-01-01.jpg"


def read(root: str | Path, name: str = "vcclothes") -> Benchmark:
    """Read the layout; ``camera`` counts from 0 (the camera-subset protocols use these numbers).

    Raises:
        InputError: a wrong root, an unreadable name, an empty split.
    """
    root = find_root(root, NEEDED, "VC-Clothes")
    train, query, gallery = number_cameras(*(_split(root, folder) for folder in NEEDED))
    return Benchmark(name, root, number_train(train), *number_clothes(query, gallery))


def _split(root: Path, folder: str) -> pd.DataFrame:
    paths = list_files(root, folder)
    names = parse(root, paths, _NAME, _EXPECTED)
    outfit = [f"{pid}-{clothes}" for pid, clothes in zip(names["pid"], names["clothes"], strict=True)]
    if "0" in names["camera"]:
        file = root / paths[names["camera"].index("0")]
        raise InputError(f"{file}: camera 0; cameras of VC-Clothes count from 1, as its protocols name them")
    return raw_frame(paths, names["pid"], names["camera"], outfit, camera=names["camera"])
