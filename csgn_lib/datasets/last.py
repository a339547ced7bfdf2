"""LaST (Shu et al., TCSVT 2021): frames of films, a very large gallery, no cameras.

``train/<pid>/``, ``{val,test}/query/`` (flat), ``{val,test}/gallery/<pid>/`` hold
``<pid>_<img>_<video>_<frame>_<box>_<clothes>.jpg``. A few names have a double underscore and a few files
are in another person's folder, so person and clothes are the first and last field of the *name*.
People numbered 0 are distractors: ranked, never matched. Clothes are labelled in train only, and 000
there means unlabelled: such images have ``clothes`` -1.
"""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.files import IMAGE, find_root, list_files, parse
from csgn_lib.datasets.frames import number_train, raw_frame

FOLDER = "last"
NEEDED = ("train", "test/query", "test/gallery")
_NAME = re.compile(rf"(?P<pid>\d+)_(?:.*_)?(?P<clothes>\d+){IMAGE}")
_EXPECTED = "<pid>_<image>_<video>_<frame>_<box>_<clothes>.jpg, such as 000051_003_00013_0270_04_001.jpg"


def read(root: str | Path, name: str = "last") -> Benchmark:
    """Read the layout; ``val`` (other people), if there, becomes ``.validation``.

    Raises:
        InputError: a wrong root, an unreadable name, an empty split.
    """
    root = find_root(root, NEEDED, "LaST")
    validation = None
    if (root / "val").is_dir():
        query, gallery = _split(root, "val/query"), _split(root, "val/gallery", 1)
        validation = Benchmark(name, root, query.iloc[:0].copy(), query, gallery)
    train = number_train(_split(root, "train", 1, clothes=True))
    return Benchmark(name, root, train, _split(root, "test/query"), _split(root, "test/gallery", 1), validation)


def _split(root: Path, folder: str, depth: int = 0, clothes: bool = False) -> pd.DataFrame:
    paths = list_files(root, folder, depth)
    names = parse(root, paths, _NAME, _EXPECTED)
    outfit = None
    if clothes:
        pairs = zip(names["pid"], names["clothes"], strict=True)
        outfit = [f"{pid}_{number}" if int(number) else "" for pid, number in pairs]
    return raw_frame(paths, names["pid"], clothes_label=outfit)
