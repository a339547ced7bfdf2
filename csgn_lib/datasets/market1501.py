"""Market-1501 (Zheng et al., ICCV 2015): people keep their clothes, a sanity check; no outfit labels.

``bounding_box_train query bounding_box_test`` hold ``<pid>_c<cam>s<sequence>_<frame>_<n>.jpg``. Of the
gallery folder, ``-1_...`` (bad detections) is junk and is excluded, as in every loader; it is
kept in ``unused``. Person 0 (``0000_...``) are distractors: ranked, never matched.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.files import IMAGE, find_root, list_files, parse
from csgn_lib.datasets.frames import number_cameras, number_train, raw_frame, select

FOLDER = "Market-1501-v15.09.15"
NEEDED = ("bounding_box_train", "query", "bounding_box_test")
_NAME = re.compile(rf"(?P<pid>-1|\d+)_c(?P<camera>\d+)s\d+_\d+_\d+{IMAGE}")
_EXPECTED = "<pid>_c<camera>s<sequence>_<frame>_<n>.jpg, such as 0001_c1s1_001051_00.jpg"


def read(root: str | Path, name: str = "market1501") -> Benchmark:
    """Read the layout; ``camera`` counts from 0.

    Raises:
        InputError: a wrong root, an unreadable name, an empty split.
    """
    root = find_root(root, NEEDED, "Market-1501")
    frames = number_cameras(*(_split(root, folder) for folder in NEEDED))
    train, query, gallery = (select(frame, frame["person"] >= 0) for frame in frames)
    junk = pd.concat([select(frame, frame["person"] < 0) for frame in frames], ignore_index=True)
    return Benchmark(name, root, number_train(train), query, gallery, unused=junk.assign(split="junk"))


def _split(root: Path, folder: str) -> pd.DataFrame:
    paths = list_files(root, folder)
    names = parse(root, paths, _NAME, _EXPECTED)
    return raw_frame(paths, names["pid"], names["camera"], camera=names["camera"])
