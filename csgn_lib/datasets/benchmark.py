"""A benchmark: three frames, its protocols, and a record of excluded images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

from csgn_lib.datasets import frames as fr
from csgn_lib.datasets.benchmark_protocols import BENCHMARK_PROTOCOLS, PROTOCOLS, of_plugins, resolve
from csgn_lib.datasets.duplicates import NEAR
from csgn_lib.datasets.integrity import Report, check
from csgn_lib.datasets.protocols import Protocol
from csgn_lib.datasets.tables import read_table
from csgn_lib.records import InputError, write_text

_TRACKLETS = {"ccvid"}  # ranked by tracklet, not by image
LEFT_OUT = "left_out.csv"  # path and reason of images that are excluded at every load, in the benchmark's root
_FACES = {"deepchange", "ccvid"}  # their licence agreements require hidden faces in figures
_DISTRACTORS = {"market1501": 0, "last": 0}  # the person number of distractors in the gallery


@dataclass(frozen=True)
class Omission:
    """One excluded image, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True, eq=False)
class Benchmark:
    """Images with labels, in three frames.

    Every frame has ``path`` (relative to ``root``, "/"-separated), ``person, camera, clothes`` (int64;
    -1 where the benchmark has no such label), the same three as text in ``..._label``, and
    ``tracklet`` for video. Rows are sorted by path. ``frame.attrs["benchmark"]`` is ``name``.

    Attributes:
        train: people and clothes numbered 0..N-1.
        query, gallery: people by their raw number; clothes numbered over both.
        validation: other people, for tuning: their query and gallery, and an empty train.
        unused: images of the release that are in none of these, with a column ``split`` (PRCC's val, Market's junk).
        omissions: images that ``without`` excluded.
        held_out: true for a validation that ``hold_out`` cut from the training people.
    """

    name: str
    root: Path
    train: pd.DataFrame
    query: pd.DataFrame
    gallery: pd.DataFrame
    validation: Benchmark | None = None
    unused: pd.DataFrame | None = None
    omissions: tuple[Omission, ...] = ()
    held_out: bool = False

    def __post_init__(self) -> None:
        for frame in (self.train, self.query, self.gallery):
            frame.attrs["benchmark"] = self.name
            frame.attrs["unit"] = "tracklet" if self.name in _TRACKLETS else "image"

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split} {len(frame):,}" for split, frame in self.frames())
        left_out = f"; {len(self.omissions)} left out" if self.omissions else ""
        return f"Benchmark({self.name!r}, {str(self.root)!r}: {sizes}{left_out})"

    @property
    def protocols(self) -> tuple[str, ...]:
        """Names of the protocols under which at least one query has a match here; the headline first."""
        known = BENCHMARK_PROTOCOLS.get(self.name, PROTOCOLS) | of_plugins(self.name)  # else those of any benchmark
        return tuple(name for name, protocol in known.items() if self._allows(protocol))

    def _allows(self, protocol: Protocol) -> bool:
        try:
            return protocol.counts_any(self.query, self.gallery)
        except InputError:
            return False

    def protocol(self, name: str | Protocol | None = None) -> Protocol:
        """The benchmark's protocol of this name; by default the first one. Raises InputError."""
        if name is None:
            if not (possible := self.protocols):
                raise InputError(
                    f"no protocol of {self.name} counts any of the {len(self.query)} queries among the "
                    f"{len(self.gallery)} gallery images; give each person images of two cameras or outfits"
                )
            name = possible[0]
        return resolve(name, self.name)

    @property
    def distractor(self) -> int | None:
        """The person number of distractors in the gallery, which are ranked but match nobody."""
        return _DISTRACTORS.get(self.name)

    @property
    def hide_faces(self) -> bool:
        """Whether the licence agreement requires hidden faces in figures."""
        return self.name in _FACES

    def names(self, column: str) -> dict[int, str]:
        """The numbers of ``person``, ``camera`` or ``clothes`` in query and gallery as the data set names them.

        PRCC's camera 2 is "C". A number without a label, as -1, is its own name.
        """
        labels = pd.concat([frame[[column, f"{column}_label"]] for frame in (self.query, self.gallery)])
        pairs = labels.drop_duplicates(column).itertuples(index=False)
        return {int(number): label or str(number) for number, label in pairs}

    def frames(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """(split, frame) of every split that has rows; validation as ``validation_query`` and so on."""
        for split in ("train", "query", "gallery"):
            if len(getattr(self, split)):
                yield split, getattr(self, split)
        if self.validation is not None:
            yield from ((f"validation_{split}", frame) for split, frame in self.validation.frames())

    def check(self, images: bool = True, near: int = NEAR, workers: int | None = None) -> Report:
        """Compare with the published counts and search for damaged images; see ``integrity.check``."""
        return check(self, images=images, near=near, workers=workers)

    def without(self, paths: Iterable[str], reason: str) -> Benchmark:
        """This benchmark without some images; the reason is recorded in ``omissions`` and the manifest.

        Training people and clothes are numbered again, so that they stay contiguous.

        Raises:
            InputError: no reason, a path that is in no split, or no image left.
        """
        dropped = sorted(set(paths))
        if not reason.strip():
            raise InputError("excluding images requires a reason, which becomes part of every run's record")
        present = set().union(*(frame["path"] for _, frame in self.frames()))
        for path in dropped:
            if path not in present:
                raise InputError(f"{path!r} is in no split of {self.name}; paths are relative to {self.root}")
        kept = self._keep(set(dropped))
        if not any(True for _ in kept.frames()):
            raise InputError(f"this leaves no image of {self.name}; keep some")
        return replace(kept, omissions=self.omissions + tuple(Omission(path, reason.strip()) for path in dropped))

    def save_omissions(self) -> Path:
        """Write ``omissions`` to LEFT_OUT in ``root``; from then on ``load`` excludes these images.

        Raises InputError if the folder cannot be written; then call ``without`` after every load.
        """
        file = self.root / LEFT_OUT
        table = pd.DataFrame([(o.path, o.reason) for o in self.omissions], columns=["path", "reason"])
        try:
            write_text(file, table.to_csv(index=False))
        except OSError as error:
            raise InputError(f"{file} cannot be written ({error}); call without() after load() instead") from None
        return file

    def obey_omissions(self) -> Benchmark:
        """This benchmark without the images listed in LEFT_OUT in ``root``; itself if there is no such file.

        Raises InputError naming the file and lines: not such a table, a path that is in no split, a missing reason,
        or no image left.
        """
        file = self.root / LEFT_OUT
        if not file.is_file():
            return self
        table = read_table(file, ("path", "reason"), free_text=True)
        if list(table.columns) != ["path", "reason"]:
            raise InputError(f"{file}: expected the columns path, reason; found {', '.join(table.columns)}")
        left = self
        for reason, rows in table.groupby("reason", sort=False):
            try:
                left = left.without(rows["path"], reason)
            except InputError as error:
                raise InputError(f"{file}, lines {rows.index[0]} to {rows.index[-1]}: {error}") from None
        return left

    def _keep(self, dropped: set[str]) -> Benchmark:
        keep = {split: fr.select(f, ~f["path"].isin(dropped)) for split, f in self.frames() if "_" not in split}
        if "train" in keep:
            keep["train"] = fr.number_train(keep["train"])
        validation = None if self.validation is None else self.validation._keep(dropped)
        return replace(self, validation=validation, **keep)

    def hold_out(self, people: int, seed: int) -> Benchmark:
        """Move ``people`` people from train to ``validation``, chosen by ``seed``.

        Their query is one image per person x outfit x camera (CCVID: one tracklet), the rest is their gallery. People
        are chosen in the order of a hash of seed and label: the same on every machine, and a larger choice contains a
        smaller one. People with a single image stay in train.

        Raises:
            InputError: validation people exist already, or not enough people can be moved.
        """
        if people == 0:
            return self
        if self.validation is not None:
            raise InputError(f"{self.name} has validation people already; hold_out(people=0) keeps them")
        unit = "tracklet" if self.name in _TRACKLETS else "path"
        sizes = self.train.groupby("person_label")[unit].nunique()
        able = sorted(sizes.index[sizes > 1], key=lambda label: hashlib.sha256(f"{seed} {label}".encode()).digest())
        if not 0 < people < len(able):
            raise InputError(f"hold_out: people = {people}; {self.name} has {len(able)} training people to choose from")
        moved = self.train["person_label"].isin(able[:people])
        validation = self._as_validation(fr.select(self.train, moved))
        return replace(self, train=fr.number_train(fr.select(self.train, ~moved)), validation=validation)

    def _as_validation(self, held: pd.DataFrame) -> Benchmark:
        label = held["person_label"]
        are_numbers = label.str.fullmatch(r"[0-9]{1,18}").all()
        held = fr.number_clothes(held.assign(person=label.astype("int64") if are_numbers else held["person"]))[0]
        held.attrs = dict(self.train.attrs)
        is_query = fr.pick_queries(held)
        query, gallery = fr.select(held, is_query), fr.select(held, ~is_query)
        return Benchmark(self.name, self.root, held.iloc[:0].copy(), query, gallery, held_out=True)

    def manifest(self) -> str:
        """SHA-256 (hex) that identifies the data: sorted paths, sizes in bytes, labels, splits, omissions.

        A change that keeps a file's size and name is not detected. ``hold_out`` does not change it: the data are the
        same.
        """
        digest = hashlib.sha256()
        for line in sorted(self.manifest_lines()):
            digest.update(line.encode() + b"\n")
        return digest.hexdigest()

    def manifest_lines(self) -> Iterator[str]:
        """The lines that ``manifest`` hashes: split, path, size and labels of an image, or an omission."""
        for split, frame in self.frames():
            cut = self.validation is not None and self.validation.held_out and split.startswith("validation")
            own = sorted(set(frame.columns) - set(fr.LABELS))  # such as the tracklet: they affect scores too
            columns = [frame[c].tolist() for c in ("path", "person_label", "clothes_label", "camera_label", *own)]
            for path, *labels in zip(*columns, strict=True):
                size = _size(os.path.join(self.root, path))
                yield "\t".join(["train" if cut else split, path, size, *map(str, labels), ""])
        for omission in self.omissions:
            yield f"left out\t{omission.path}\t{omission.reason}"

    def record(self) -> dict[str, Any]:
        """The description of the data that a run records, ready for JSON."""
        left_out = [{"path": omission.path, "reason": omission.reason} for omission in self.omissions]
        images = {split: len(frame) for split, frame in self.frames()}
        return {"benchmark": self.name, "manifest": self.manifest(), "images": images, "left_out": left_out}


def _size(file: str) -> str:
    try:
        return str(os.stat(file).st_size)
    except FileNotFoundError:
        return "missing"
