"""Search index of image folders: descriptors, and in the header the image files and the model.

The index is a safetensors file: ``features`` (N, D) float32, and as text in its header ``paths`` (a JSON list of N),
``files`` (size in bytes, modification time and SHA-256 of each), ``folders``, ``model`` (its digest) and
``descriptor``. For APPROXIMATE_FROM images or more, an approximate index is written beside it if FAISS is installed
and the index finds nearly all of the nearest images.
"""

from __future__ import annotations

import glob
import json
import os
import tempfile
import uuid
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from csgn_lib.datasets.files import walk
from csgn_lib.models.opening import Model, describe
from csgn_lib.records import InputError, atomic_path, sha256, writing
from csgn_lib.retrieval import neighbours

SUFFIXES = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff")
FEATURES = "features"
APPROXIMATE_FROM = 1_000_000  # images; for fewer, exact search takes less than a third of a second
File = tuple[int, int, str]  # size in bytes, modification time in ns, SHA-256


@dataclass(frozen=True)
class Gallery:
    """Embedded images of a gallery.

    Attributes:
        features: (N, D) float32, each part of the descriptor of unit length.
        paths: N image files, each with its folder as it was given.
        files: size, modification time and SHA-256 of each.
        folders: folders of the images.
        model: digest of the model that made the features.
        descriptor: its parts, such as [z12; f; c].
        index: file of the approximate index; None without one.
    """

    features: NDArray[np.float32]
    paths: list[str]
    files: list[File]
    folders: list[str]
    model: str
    descriptor: str
    index: Path | None = None

    def nearest(self, query: NDArray[np.float32], k: int) -> neighbours.Neighbours:
        """The k nearest images of each query (Q, D): approximate if there is an index, else exact."""
        k = min(k, len(self.paths))
        if self.index is None:
            return neighbours.search(query, self.features, k)
        return neighbours.search_index(self._approximate, query, k)

    @cached_property
    def _approximate(self) -> Any:
        return neighbours.read_index(self.index)


@dataclass(frozen=True)
class Changes:
    """Result of an update: paths of added, changed, moved (from, to) and deleted images; number of unchanged ones."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    moved: list[tuple[str, str]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    unchanged: int = 0

    def __str__(self) -> str:
        counts = {name: len(getattr(self, name)) for name in ("added", "changed", "moved", "deleted")}
        lines = [", ".join(f"{count} {name}" for name, count in counts.items()) + f", {self.unchanged} unchanged"]
        lines += [f"moved: {old} -> {new}" for old, new in self.moved] + [f"deleted: {path}" for path in self.deleted]
        return "\n".join(lines)


def list_images(folder: str | Path) -> list[str]:
    """Every image file below ``folder``, at any depth, relative to it; sorted. Links to folders are followed.

    Hidden files and system folders are skipped; a warning counts other files by their suffix.

    Raises:
        InputError: no such folder, no image in it, a sub-folder that cannot be listed, a name that is not UTF-8.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder} is not a folder; give the one that holds the images")
    files = sorted(walk(folder))
    images = [file for file in files if file.lower().endswith(SUFFIXES)]
    if not images:
        raise InputError(f"{folder} holds no image at any depth; a name must end in {', '.join(SUFFIXES)}")
    if len(images) < len(files):
        kinds = Counter(Path(file).suffix.lower() or "no suffix" for file in set(files) - set(images))
        names = ", ".join(f"{kind} ({count})" for kind, count in sorted(kinds.items()))
        warnings.warn(f"{folder}: skipped files that are not {', '.join(SUFFIXES)}: {names}", stacklevel=2)
    return images


def embed_folder(
    model: Model, folders: str | Path | Sequence[str | Path], out: str | Path, *, batch_size: int = 128
) -> Gallery:
    """Embed every image below one or several folders and write the index ``out`` atomically.

    Raises:
        InputError: as ``list_images``; an image that cannot be read; an ``out`` that is a folder, cannot be written, or
            is a file that is no index: only an index is replaced.
    """
    folders = _as_list(folders)
    _refuse_out(Path(out))
    gallery, _ = _embed(model, folders, None, batch_size)
    return _write(gallery, Path(out))


def update_gallery(
    model: Model, folders: str | Path | Sequence[str | Path], out: str | Path, *, batch_size: int = 128
) -> tuple[Gallery, Changes]:
    """Update an index after changes of its folders, or with additional folders; embed only new and changed images.

    An image is unchanged if its size and modification time, or else its content, are the same; moved if a missing image
    had its content; deleted if it is in none of the folders. The index is rewritten atomically.

    Raises:
        InputError: as ``embed_folder`` and ``read_gallery``; a folder of the index that is not there; an index of
            another model.
    """
    before = read_gallery(out)
    refuse_other_model(model, before)
    given = [folder for folder in _as_list(folders) if folder not in before.folders]
    gallery, changes = _embed(model, before.folders + given, before, batch_size)
    return _write(gallery, Path(out)), changes


def read_gallery(file: str | Path) -> Gallery:
    """Read an index that ``embed_folder`` wrote.

    Raises:
        InputError: no such file, or one that ``embed_folder`` did not write.
    """
    file = Path(file)
    if not file.is_file():
        raise InputError(f"{file} does not exist; make it: csgn embed MODEL_DIR FOLDER --out {file}")
    try:
        with safe_open(file, framework="numpy") as opened:
            header = opened.metadata() or {}
            features = opened.get_tensor(FEATURES)
        lists = {name: json.loads(header[name]) for name in ("paths", "files", "folders")}
        lists["files"] = [tuple(entry) for entry in lists["files"]]
        gallery = Gallery(features, **lists, model=header["model"], descriptor=header["descriptor"])
    except (SafetensorError, KeyError, ValueError) as error:
        raise InputError(
            f"{file} was not written by csgn embed, or is damaged ({error}); embed the folder again"
        ) from None
    if features.ndim != 2 or not len(gallery.paths) == len(gallery.files) == len(features):
        raise InputError(f"{file} has {len(gallery.paths)} paths for features {features.shape}; embed the folder again")
    index = file.with_name(header["index"]) if "index" in header else None
    return Gallery(**_fields(gallery) | {"index": index if index is not None and index.is_file() else None})


def refuse_other_model(model: Model, gallery: Gallery) -> None:
    """Raise InputError if another model made the gallery."""
    if gallery.model != model.digest:
        raise InputError(
            f"the gallery was embedded by another model ({gallery.model[:12]}, not {model.digest[:12]}): their "
            "distances cannot be compared; embed it again: "
            f"csgn embed {model.run.dir} {' '.join(gallery.folders)} --out FILE"
        )


def _embed(model: Model, folders: list[str], before: Gallery | None, batch_size: int) -> tuple[Gallery, Changes]:
    paths = _all_images(folders)
    held = dict(zip(before.paths, before.files, strict=True)) if before is not None else {}
    row_of = {path: row for row, path in enumerate(held)}
    files = {path: _file(path, held.get(path)) for path in paths}
    vanished = {held[path][2]: path for path in held if path not in files}
    same = {path: path for path in paths if path in held and held[path][2] == files[path][2]}
    moved = {path: vanished[files[path][2]] for path in paths if path not in held and files[path][2] in vanished}
    new = [path for path in paths if path not in same and path not in moved]
    features = np.empty((len(paths), model.width), dtype=np.float32)
    place = {path: row for row, path in enumerate(paths)}
    if new:
        features[[place[path] for path in new]] = describe(model, ".", new, batch_size=batch_size)
    for path, old in (same | moved).items():
        features[place[path]] = before.features[row_of[old]]
    changes = Changes(
        added=[path for path in new if path not in held],
        changed=[path for path in new if path in held],
        moved=[(old, path) for path, old in moved.items()],
        deleted=[path for path in held if path not in files and path not in moved.values()],
        unchanged=len(same),
    )
    return Gallery(features, paths, [files[path] for path in paths], folders, model.digest, model.descriptor), changes


def _all_images(folders: list[str]) -> list[str]:
    """Every image of the folders with its folder's name; once if one folder contains another."""
    paths = {}
    for folder in folders:
        for name in list_images(folder):
            path = Path(folder, name).as_posix()
            paths.setdefault(os.path.abspath(path), path)
    return list(paths.values())


def _file(path: str, held: File | None) -> File:
    """Size, time and hash of a file; the hash is reused if size and time are unchanged."""
    try:
        state = os.stat(path)
        if held is not None and held[:2] == (state.st_size, state.st_mtime_ns):
            return held
        return state.st_size, state.st_mtime_ns, sha256(Path(path))
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); make it readable, or remove it") from None


def _refuse_out(out: Path) -> None:
    """Raise InputError for a path where an index cannot or must not be written, before images are embedded."""
    if out.is_dir():
        raise InputError(f"{out} is a folder; name a file in it, such as {out / 'gallery.safetensors'}")
    if out.exists():
        try:
            read_gallery(out)
        except InputError:
            raise InputError(f"{out} exists and is no index of csgn embed; name another file, or remove it") from None
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out.parent).close()


def _write(gallery: Gallery, out: Path) -> Gallery:
    header = {"model": gallery.model, "descriptor": gallery.descriptor}
    header |= {name: json.dumps(getattr(gallery, name)) for name in ("paths", "files", "folders")}
    index = _approximate(gallery, out) if len(gallery.paths) >= APPROXIMATE_FROM and neighbours.has_faiss() else None
    if index is not None:
        header["index"] = index.name
    with writing(out), atomic_path(out) as temporary:
        save_file({FEATURES: gallery.features}, temporary, metadata=header)
    for old in out.parent.glob(f"{glob.escape(out.stem)}-{'[0-9a-f]' * 8}.faiss"):  # not those of g-2 beside g
        if old != index:
            old.unlink()
    return Gallery(**_fields(gallery) | {"index": index})


def _approximate(gallery: Gallery, out: Path) -> Path | None:
    """Write a compressed index beside ``out``; None, with a warning, if it misses too many of the nearest images."""
    built = neighbours.approximate_index(gallery.features, "pq")
    recall = neighbours.set_candidates(built, gallery.features)
    if recall < neighbours.RECALL:
        warnings.warn(
            f"{out}: an approximate index finds {recall:.1%} of the nearest images of these features, less than "
            f"{neighbours.RECALL:.0%}, so search stays exact",
            stacklevel=2,
        )
        return None
    index = out.with_name(f"{out.stem}-{uuid.uuid4().hex[:8]}.faiss")
    neighbours.write_index(built, index)
    return index


def _fields(gallery: Gallery) -> dict[str, Any]:
    return {name: getattr(gallery, name) for name in Gallery.__dataclass_fields__}


def _as_list(folders: str | Path | Sequence[str | Path]) -> list[str]:
    return [str(folders)] if isinstance(folders, str | Path) else list(dict.fromkeys(map(str, folders)))
