"""Features and distances that another program stored, matched to a benchmark's images by their paths.

| file | features | distances |
|---|---|---|
| ``x.npy`` | the array; paths in ``x.txt``, one a line | the array; paths in ``x.query.txt`` and ``x.gallery.txt`` |
| ``x.npz`` | ``features``, ``paths`` | ``distances``, ``query_paths``, ``gallery_paths`` |
| ``x.safetensors`` | tensor ``features``; ``paths`` in the header, a JSON list | likewise |
| ``x.h5``, ``x.hdf5`` | datasets ``features``, ``paths`` | likewise |

If a file has paths, each row is assigned to the image of its path, whatever the order of rows. A file without paths is
an error unless ``in_order`` is set: its rows are then in the order of the benchmark's frame, which is sorted by path.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from csgn_lib.datasets import Benchmark
from csgn_lib.records import InputError, sha256
from csgn_lib.retrieval.blocks import thread_count
from csgn_lib.retrieval.features import as_array, lengths

SUFFIXES = (".npy", ".npz", ".safetensors", ".h5", ".hdf5")
H5PY_MISSING = 'reading HDF5 needs h5py: pip install "csgn-workbench[hdf5]"; or save .npz'


@dataclass(frozen=True)
class Matched:
    """One split's features, in the order of the benchmark's frame.

    Attributes:
        features: (N, D) floating point.
        file: their file, and ``digest``, its SHA-256.
        note: how the file's rows were assigned.
    """

    features: NDArray[np.floating]
    file: Path
    digest: str
    note: str


def read_features(file: str | Path, benchmark: Benchmark, split: str, in_order: bool = False) -> Matched:
    """Read the features of one split's images.

    Rows of the benchmark's other images (another split, junk) are ignored and counted in the note.

    Args:
        split: "query" or "gallery".
        in_order: accept a file without paths, whose rows are taken to be in the frame's order.

    Raises:
        InputError: a file that cannot be read, or has no paths; an image that is not in the benchmark, named twice or
            missing; another number of rows; NaN or infinity.
    """
    file = Path(file)
    arrays = _read(file, ("features",), ("paths",))
    values = as_array(arrays["features"], str(file))
    lengths(values, str(file), thread_count())
    rows, note = match(arrays["paths"], len(values), benchmark, split, file, in_order)
    whole = len(rows) == len(values) and (rows == np.arange(len(rows))).all()
    return Matched(values if whole else values[rows], file, sha256(file), note)


@dataclass(frozen=True)
class Distances:
    """Distances of queries and gallery: ``values[query_rows][:, gallery_rows]`` is in the order of the frames."""

    values: NDArray[np.floating]
    query_rows: NDArray[np.int64]
    gallery_rows: NDArray[np.int64]
    file: Path
    digest: str
    note: str

    def blocks(self, rows: int = 256) -> Any:
        """Blocks (B, G) in the frames' order, as ``evaluate_distances`` reads them."""
        for start in range(0, len(self.query_rows), rows):
            yield np.asarray(self.values[self.query_rows[start : start + rows]])[:, self.gallery_rows]


def read_distances(file: str | Path, benchmark: Benchmark, in_order: bool = False) -> Distances:
    """Read distances (Q, G), smaller is closer. Raises InputError as ``read_features``."""
    file = Path(file)
    arrays = _read(file, ("distances",), ("query_paths", "gallery_paths"))
    values = as_array(arrays["distances"], str(file))
    query, note = match(arrays["query_paths"], values.shape[0], benchmark, "query", file, in_order)
    gallery, more = match(arrays["gallery_paths"], values.shape[1], benchmark, "gallery", file, in_order)
    return Distances(values, query, gallery, file, sha256(file), f"{note}; {more}")


def match(
    paths: Sequence[str] | None, count: int, benchmark: Benchmark, split: str, file: Path, in_order: bool
) -> tuple[NDArray[np.int64], str]:
    """The row of each image of a split among a file's ``count`` rows (N,), and a note on the assignment.

    A path is compared relative to the benchmark's root, without a leading folder that all of the file's paths share, or
    as a bare file name if these are unique in the split. Spellings that differ in Unicode
    composition (NFC, NFD) are one path.
    """
    frame = getattr(benchmark, split)
    if paths is None:
        return _trusted(count, frame, split, file, in_order), f"{split}: rows taken in the benchmark's order, unchecked"
    if len(paths) != count:
        raise InputError(f"{file} has {count} rows for {len(paths)} paths; write one path for each row")
    wanted = [_spelled(path) for path in frame["path"]]
    known = {_spelled(path) for path in _all_paths(benchmark)}
    names = _as_the_benchmark_spells([_spelled(path) for path in paths], wanted, known)
    row_of: dict[str, int] = {}
    for row, name in enumerate(names):
        if name not in known:
            raise InputError(
                f"{file}, row {row}: {paths[row]!r} is no image of {benchmark.name} at {benchmark.root}; give the "
                "features of this benchmark, with paths relative to its root"
            )
        if row_of.setdefault(name, row) != row:
            raise InputError(f"{file} names {paths[row]!r} twice, in rows {row_of[name]} and {row}; keep one of them")
    if lacking := [name for name in wanted if name not in row_of]:
        raise InputError(
            f"{file} lacks {len(lacking)} of the {len(wanted)} {split} images of {benchmark.name}, {lacking[0]!r} "
            "first; embed them too, or leave them out of the benchmark (left_out.csv in its root)"
        )
    rows = np.array([row_of[name] for name in wanted], dtype=np.int64)
    return rows, f"{split}: {_what_was_done(rows, count)}"


def _what_was_done(rows: NDArray[np.int64], count: int) -> str:
    order = "rows in order" if (np.diff(rows) > 0).all() else "rows put in order by path"
    return order + (f", {count - len(rows):,} of other images left out" if count > len(rows) else "")


def _trusted(count: int, frame: pd.DataFrame, split: str, file: Path, in_order: bool) -> NDArray[np.int64]:
    if not in_order:
        raise InputError(
            f"{file} has no image paths, so the order of its rows cannot be checked; add them (docs/using-a-model.md "
            f"says how), or say --in-order if they are sorted by path as the {split} images are"
        )
    if count != len(frame):
        raise InputError(f"{file} has {count} rows for {len(frame)} {split} images; give one row an image, or paths")
    return np.arange(count)


def _all_paths(benchmark: Benchmark) -> list[str]:
    frames = [frame for _, frame in benchmark.frames()]
    frames += [benchmark.unused] if benchmark.unused is not None else []
    return [path for frame in frames for path in frame["path"]] + [omission.path for omission in benchmark.omissions]


def _spelled(path: str) -> str:
    return unicodedata.normalize("NFC", PurePosixPath(str(path).replace("\\", "/")).as_posix())


def _as_the_benchmark_spells(paths: list[str], wanted: list[str], known: set[str]) -> list[str]:
    """The file's paths without a shared leading folder, or the full paths of bare file names."""
    parts = paths[0].split("/")
    for cut in range(len(parts)):
        if "/".join(parts[cut:]) in known:
            prefix = "/".join(parts[:cut]) + "/" if cut else ""
            return [path.removeprefix(prefix) for path in paths]
    full = {PurePosixPath(path).name: path for path in wanted}
    if len(full) < len(wanted) or any("/" in path for path in paths):
        return paths
    return [full.get(path, path) for path in paths]


def _read(file: Path, values: tuple[str, ...], lists: tuple[str, ...]) -> dict[str, Any]:
    """The named arrays and lists of strings; None for a list that is not there."""
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a file that ends in {', '.join(SUFFIXES)}")
    readers = {".npy": _read_npy, ".npz": _read_npz, ".safetensors": _read_safetensors}
    readers |= {".h5": _read_hdf5, ".hdf5": _read_hdf5}
    if file.suffix.lower() not in readers:
        raise InputError(f"{file} is of an unknown kind; give a file that ends in {', '.join(SUFFIXES)}")
    try:
        arrays = readers[file.suffix.lower()](file, values, lists)
    except InputError:
        raise
    except (OSError, ValueError, KeyError, EOFError, SafetensorError) as error:
        raise InputError(f"{file} cannot be read ({error}); write it again as docs/using-a-model.md says") from None
    if absent := [name for name in values if arrays.get(name) is None]:
        raise InputError(f"{file} has no array {absent[0]!r}; name the array of numbers so")
    return {name: arrays.get(name) for name in (*values, *lists)}


def _read_npy(file: Path, values: tuple[str, ...], lists: tuple[str, ...]) -> dict[str, Any]:
    arrays: dict[str, Any] = {values[0]: np.load(file, mmap_mode="r", allow_pickle=False)}
    for name in lists:
        text = file.with_suffix(".txt" if name == "paths" else f".{name.removesuffix('_paths')}.txt")
        arrays[name] = text.read_text(encoding="utf-8").splitlines() if text.is_file() else None
    return arrays


def _read_npz(file: Path, values: tuple[str, ...], lists: tuple[str, ...]) -> dict[str, Any]:
    with np.load(file, allow_pickle=False) as opened:
        arrays = {name: opened[name] for name in (*values, *lists) if name in opened}
    return {name: _texts(array, file) if name in lists else array for name, array in arrays.items()}


def _read_safetensors(file: Path, values: tuple[str, ...], lists: tuple[str, ...]) -> dict[str, Any]:
    with safe_open(file, framework="numpy") as opened:
        header = opened.metadata() or {}
        arrays: dict[str, Any] = {name: opened.get_tensor(name) for name in values if name in opened.keys()}
    return arrays | {name: _texts(json.loads(header[name]), file) for name in lists if name in header}


def _read_hdf5(file: Path, values: tuple[str, ...], lists: tuple[str, ...]) -> dict[str, Any]:
    try:
        import h5py
    except ImportError:
        raise InputError(H5PY_MISSING) from None
    with h5py.File(file) as opened:
        arrays = {name: opened[name][()] for name in values if name in opened}
        return arrays | {name: _texts(opened[name].asstr()[()], file) for name in lists if name in opened}


def _texts(array: Any, file: Path) -> list[str]:
    texts = [text.decode() if isinstance(text, bytes) else text for text in np.asarray(array).ravel().tolist()]
    if not all(isinstance(text, str) for text in texts):
        raise InputError(f"the paths of {file} are no text; write each image's path as a string")
    return texts
