"""Published counts of the data sets (published.csv), each with its source.

Marks: L, read in public loader code; R, on the owner's page; T, counted by a third party; M, memory of the
paper, **unverified**. These numbers were not verified against the images.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

if TYPE_CHECKING:
    from csgn_lib.datasets.benchmark import Benchmark

MARKS = {
    "L": "loader code",
    "R": "owner's page",
    "T": "third-party count",
    "M": "memory of the paper, unverified",
}


@dataclass(frozen=True)
class Count:
    """A published number: ``number`` of ``what`` in ``split``, known from ``mark`` (a key of MARKS).

    ``split`` is a split of the benchmark, several joined by "+", "all", or the ``split`` of an unused frame. ``what``
    is images, people, outfits, tracklets or distractors. ``camera`` restricts the rows to a camera_label.
    ``note``: remark on the number.
    """

    split: str
    what: str
    number: int
    mark: str
    camera: str | None = None
    note: str = ""


def _published() -> dict[str, tuple[Count, ...]]:
    """The counts of ``published.csv``, by benchmark."""
    found: dict[str, tuple[Count, ...]] = {}
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            number, camera = int(row["number"]), row["camera"] or None
            count = Count(row["split"], row["what"], number, row["mark"], camera, row["note"])
            found[row["benchmark"]] = (*found.get(row["benchmark"], ()), count)
    return found


PUBLISHED = _published()


def count_table(benchmark: Benchmark) -> pd.DataFrame:
    """Found and published counts: ``split what published mark source found agrees``.

    ``agrees`` is "yes", "no", or with the mark M "yes, unverified" / "no, unverified"; "" where
    nothing is published.
    """
    published = PUBLISHED.get(benchmark.name, ())
    rows = [_row(count, found_count(benchmark, count)) for count in published]
    known = {(count.split, count.what) for count in published}
    for split, _ in benchmark.frames():
        for what in ("images", "people", "outfits", "cameras"):
            found = found_count(benchmark, Count(split, what, 0, ""))
            if found and (split, what) not in known:
                rows.append((split, what, None, "", "", found, ""))
    table = pd.DataFrame(rows, columns=["split", "what", "published", "mark", "source", "found", "agrees"])
    return table.astype({"published": "Int64"})


def _row(count: Count, found: int) -> tuple:
    agrees = ("yes" if found == count.number else "no") + (", unverified" if count.mark == "M" else "")
    what = count.what if count.camera is None else f"{count.what}, camera {count.camera}"
    source = MARKS[count.mark] + (f"; {count.note}" if count.note else "")
    return count.split, what, count.number, count.mark, source, found, agrees


def found_count(benchmark: Benchmark, count: Count) -> int:
    """The number that a published Count speaks of, as found in this download."""
    splits = dict(benchmark.frames())
    if benchmark.unused is not None:
        splits |= dict(iter(benchmark.unused.groupby("split")))
    names = set(count.split.split("+"))
    if "all" in names:
        names |= {split for split, _ in benchmark.frames()}
    rows = [frame.assign(side=split) for split, frame in splits.items() if split in names]
    if not rows:
        return 0
    frame = pd.concat(rows, ignore_index=True)
    if count.camera is not None:
        frame = frame[frame["camera_label"] == count.camera]
    nobody = (frame["side"] != "train") & frame["person"].isin([-1, benchmark.distractor])
    if count.what == "distractors":
        return int(nobody.sum())
    if count.what == "images":
        return len(frame)
    return _distinct(frame[~nobody], count.what)


def _distinct(frame: pd.DataFrame, what: str) -> int:
    if what == "tracklets":
        return int(frame["path"].str.rpartition("/")[0].nunique())
    if what == "changers":
        return int(frame["person_label"][frame.get("changes_clothes", pd.Series(0, frame.index)) == 1].nunique())
    labels = frame[{"people": "person_label", "outfits": "clothes_label", "cameras": "camera_label"}[what]]
    return int(labels[labels != ""].nunique())
