"""PRCC (Yang, Wu, Zheng, TPAMI 2021): three cameras, of which A and B share one outfit.

``rgb/train/<pid>/<A|B|C>_cropped_rgb<nnn>.jpg``, ``rgb/val`` likewise, ``rgb/test/{A,B,C}/<pid>/cropped_rgb<nnn>.jpg``:
in test the camera is a folder. Outfits: ``<pid>`` seen by A and B, ``<pid>C`` by C. ``rgb/val`` shows
the *training* people (an image-level split), so it is kept in ``unused``, never as validation.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.files import IMAGE, find_root, list_files, parse
from csgn_lib.datasets.frames import number_train, raw_frame

FOLDER = "prcc"
NEEDED = ("rgb/train", "rgb/test/A", "rgb/test/B", "rgb/test/C")
_TRAIN = re.compile(rf"(?P<pid>\d+)/(?P<camera>[ABC])_cropped_rgb\d+{IMAGE}")
_TRAIN_EXPECTED = "<pid>/<A|B|C>_cropped_rgb<number>.jpg, such as 001/A_cropped_rgb001.jpg"
_TEST = re.compile(rf"(?P<camera>[ABC])/(?P<pid>\d+)/cropped_rgb\d+{IMAGE}")
_TEST_EXPECTED = "<A|B|C>/<pid>/cropped_rgb<number>.jpg (no camera letter), such as A/003/cropped_rgb071.jpg"


def read(root: str | Path, name: str = "prcc") -> Benchmark:
    """Read the layout: query is cameras B (1) and C (2), gallery is camera A (0).

    Test outfits are 2k for A and B and 2k + 1 for C, with k the rank of the person among all test
    people. ``unused`` holds ``rgb/val`` if it is there.

    Raises:
        InputError: a wrong root, an unreadable name, an empty split.
    """
    root = find_root(root, NEEDED, "PRCC")
    test = pd.concat([_folder(root, f"rgb/test/{camera}", _TEST, _TEST_EXPECTED, 3) for camera in "ABC"])
    rank, _ = pd.factorize(test["person"], sort=True)
    test = test.assign(clothes=(2 * rank + (test["camera"] == 2)).astype(np.int64)).sort_values("path")
    in_gallery = test["camera"] == 0
    unused = None
    if (root / "rgb/val").is_dir():
        unused = _folder(root, "rgb/val", _TRAIN, _TRAIN_EXPECTED, 2).assign(split="val")
    return Benchmark(
        name,
        root,
        train=number_train(_folder(root, "rgb/train", _TRAIN, _TRAIN_EXPECTED, 2)),
        query=test[~in_gallery].reset_index(drop=True),
        gallery=test[in_gallery].reset_index(drop=True),
        unused=unused,
    )


def _folder(root: Path, folder: str, pattern: re.Pattern[str], expected: str, parts: int) -> pd.DataFrame:
    paths = list_files(root, folder, depth=1)
    names = parse(root, paths, pattern, expected, parts)
    outfit = [pid + ("C" if camera == "C" else "") for pid, camera in zip(names["pid"], names["camera"], strict=True)]
    camera = ["ABC".index(letter) for letter in names["camera"]]
    return raw_frame(paths, names["pid"], names["camera"], outfit, camera=camera)
