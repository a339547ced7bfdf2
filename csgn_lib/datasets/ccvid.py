"""CCVID (Gu et al., CVPR 2022): video tracklets built on FVG.

``{train,query,gallery}.txt`` list tracklets, tab-separated: ``session1/001_01<TAB>001<TAB>u0_l0_s0_c0_a0``;
each is a folder of frames ``00001.jpg``. The outfit's digits count per person. The camera is the number after
the underscore, plus 12 in session 3, and counts from 1, as in the public loader.

Frames have one row per image and a column ``tracklet``. Tracklets are ranked, not images: see ``clips``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csgn_lib.datasets.benchmark import Benchmark
from csgn_lib.datasets.files import IMAGE, by_number, find_root, list_files, parse, read_lines
from csgn_lib.datasets.frames import number_clothes, number_train, raw_frame
from csgn_lib.records import InputError

FOLDER = "CCVID"
NEEDED = ("train.txt", "query.txt", "gallery.txt")
CAMERAS = 12  # of a session; session 3 has other ones
CLIP = 8  # frames in a video clip at test
STRIDE = 4  # between them, so a full block is 32 frames
_LINE = re.compile(r"(?P<folder>session(?P<session>\d)/\d+_(?P<camera>\d+))\t(?P<pid>\d+)\t(?P<outfit>\S+)")
_EXPECTED = "session<n>/<pid>_<camera>, a tab, <pid>, a tab, the outfit, such as session1/001_01\t001\tu0_l0_s0_c0_a0"
_FRAME = re.compile(rf"\d+{IMAGE}")


def read(root: str | Path, name: str = "ccvid") -> Benchmark:
    """Read the lists and the folders they name; ``tracklet`` numbers query and gallery together.

    Raises:
        InputError: a wrong root, an unreadable line, a listed folder that is missing or empty.
    """
    root = find_root(root, NEEDED, "CCVID")
    query, gallery = _split(root, "query"), _split(root, "gallery")
    gallery["tracklet"] += query["tracklet"].max() + 1
    query, gallery = number_clothes(query, gallery)
    return Benchmark(name, root, number_train(_split(root, "train")), query, gallery)


def _split(root: Path, split: str) -> pd.DataFrame:
    rows = _list(root, root / f"{split}.txt")
    frames = [list_files(root, row["folder"]) for row in rows]
    lengths = [len(paths) for paths in frames]
    paths = [path for listed in frames for path in listed]
    parse(root, paths, _FRAME, "a frame number, such as 00001.jpg")

    def spread(values: list) -> list:
        return [value for value, length in zip(values, lengths, strict=True) for _ in range(length)]

    cameras = [int(row["camera"]) + CAMERAS * (row["session"] == "3") for row in rows]
    return raw_frame(
        paths,
        spread([row["pid"] for row in rows]),
        spread([str(camera) for camera in cameras]),
        spread([f"{row['pid']}_{row['outfit']}" for row in rows]),
        camera=spread(cameras),
        tracklet=spread(list(range(len(rows)))),
    )


def _list(root: Path, file: Path) -> list[dict[str, str]]:
    rows: dict[str, dict[str, str]] = {}
    for number, line in read_lines(file):
        match = _LINE.fullmatch(line)
        if match is None:
            raise InputError(f"{file}, line {number}: {line!r} cannot be read; expected {_EXPECTED}")
        place, folder = f"{file}, line {number}", match["folder"]
        if folder in rows:
            raise InputError(f"{place}: {folder} is listed twice")
        if not os.path.isdir(root / folder):
            raise InputError(f"{place}: {root / folder} is missing; is the download complete?")
        row = {name: by_number(text, place) for name, text in match.groupdict().items() if name != "folder"}
        if not 1 <= int(row["camera"]) <= CAMERAS:
            raise InputError(f"{place}: camera {row['camera']}; cameras of {folder} count from 1 to {CAMERAS}")
        rows[folder] = row | {"folder": folder}
    if not rows:
        raise InputError(f"{file} lists no tracklet; is the download complete?")
    return [rows[folder] for folder in sorted(rows)]


def clips(n_frames: int, clip: int = CLIP, stride: int = STRIDE) -> NDArray[np.int64]:
    """Frame positions of a tracklet's video clips at test: (ceil(n_frames / clip), clip), each in [0, n_frames).

    Every full block of ``clip * stride`` frames gives ``stride`` interleaved clips; the remainder gives clips with the
    stride floor(remainder / clip), and a last partial clip is padded by repeating its frames.

    A tracklet's feature is the mean of its clips' raw features, L2-normalised afterwards (``weights``).

    Raises:
        InputError: a tracklet without frames.

    Example:
        >>> clips(9)
        array([[0, 1, 2, 3, 4, 5, 6, 7],
               [8, 8, 8, 8, 8, 8, 8, 8]])
    """
    if n_frames < 1:
        raise InputError(f"a tracklet of {n_frames} frames has no clip")
    block = clip * stride
    starts = [(start, stride) for start in range(0, n_frames - block + 1, block)]
    done = len(starts) * block
    reduced = (n_frames - done) // clip
    if reduced:
        starts.append((done, reduced))
        done += reduced * clip
    rows = [np.arange(start + shift, start + clip * step, step) for start, step in starts for shift in range(step)]
    if done < n_frames:
        rows.append(done + np.arange(clip) % (n_frames - done))
    return np.stack(rows)


def weights(tracklet: pd.Series | NDArray[np.int64]) -> NDArray[np.float64]:
    """Weight of each frame in its tracklet's feature if a clip's feature is the mean of its frames.

    Args:
        tracklet: (N,) numbers, frames in order within a tracklet.

    Returns:
        (N,) weights that sum to 1 within each tracklet; unequal only where a last clip is padded.
    """
    tracklet = np.asarray(tracklet)
    order = np.argsort(tracklet, kind="stable")
    _, counts = np.unique(tracklet, return_counts=True)
    out = np.empty(len(tracklet))
    out[order] = np.concatenate([_weights(int(n)) for n in counts]) if len(counts) else np.empty(0)
    return out


def _weights(n_frames: int) -> NDArray[np.float64]:
    index = clips(n_frames)
    return np.bincount(index.ravel(), minlength=n_frames) / index.size
