"""Published counts of the data sets, each with its source.

Marks: L, read in public loader code; R, on the owner's page; T, counted by a third party; M, memory of the
paper, **unverified**. These numbers were not verified against the images.
"""

from __future__ import annotations

from dataclasses import dataclass
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

    ``split`` is a split of the benchmark, several joined by "+", "all", or the ``split`` of an unused
    frame. ``what`` is images, people, outfits, tracklets or distractors. ``camera`` restricts the rows.
    ``note``: remark on the number.
    """

    split: str
    what: str
    number: int
    mark: str
    camera: int | None = None
    note: str = ""


def _counts(split: str, mark: str, **numbers: int) -> tuple[Count, ...]:
    return tuple(Count(split, what, number, mark) for what, number in numbers.items())


PUBLISHED: dict[str, tuple[Count, ...]] = {
    "ltcc": (
        *_counts("train", "T", people=77, images=9_576),
        Count("train", "outfits", 256, "M", note="printed by a loader; the paper says 478 in all"),
        *_counts("query", "T", people=75, images=493),
        *_counts("gallery", "T", people=75, images=7_050),
        Count("query+gallery", "outfits", 221, "M", note="printed by a loader; the paper says 478 in all"),
        *_counts("all", "T", people=152, images=17_119),
        Count("train", "changers", 46, "M"),
        Count("query+gallery", "changers", 45, "M"),
    ),
    "prcc": (
        *_counts("train", "T", people=150, images=17_896, outfits=300),
        *_counts("val", "T", people=150, images=5_002),
        Count("gallery", "images", 3_384, "T", camera=0),
        Count("query", "images", 3_873, "T", camera=1),
        Count("query", "images", 3_543, "T", camera=2),
        Count("query+gallery", "people", 71, "T"),
        *_counts("all+val", "T", people=221, images=33_698),
    ),
    "vcclothes": (
        *_counts("train", "R", people=256, images=9_449),
        *_counts("query", "R", images=1_020),
        *_counts("gallery", "R", images=8_591),
        *_counts("all", "R", people=512, images=19_060),
    ),
    "celebreid": (
        *_counts("train", "R", people=632, images=20_208),
        *_counts("query", "R", images=2_972),
        *_counts("gallery", "R", images=11_006),
        *_counts("query+gallery", "R", people=420),
        *_counts("all", "R", images=34_186),
    ),
    "celebreid_light": (
        *_counts("train", "R", people=490, images=9_021),
        *_counts("query", "R", images=887),
        *_counts("gallery", "R", images=934),
        *_counts("query+gallery", "R", people=100),
        *_counts("all", "R", images=10_842),
    ),
    "deepchange": (
        *_counts("train", "M", people=450, images=75_083),
        *_counts("validation_query", "M", images=4_976),
        *_counts("validation_gallery", "M", images=17_865),
        *_counts("validation_query+validation_gallery", "M", people=150),
        *_counts("query", "M", images=17_527),
        *_counts("gallery", "M", images=62_956),
        *_counts("query+gallery", "M", people=521),
        *_counts("all", "R", people=1_121, images=178_407, cameras=17),
    ),
    "last": (
        *_counts("train", "L", people=5_000, images=71_248),
        Count("train", "outfits", 16_012, "L", note="about; docstring of the older release, 000 perhaps counted too"),
        *_counts("validation_query", "R", images=100),
        *_counts("validation_gallery", "R", images=21_279),
        *_counts("validation_query+validation_gallery", "R", people=56),
        *_counts("validation_gallery", "T", distractors=20_000),
        *_counts("query", "R", people=5_805, images=10_176),
        *_counts("gallery", "R", people=5_806, images=125_353),
        *_counts("gallery", "T", distractors=20_275),
    ),
    "ccvid": (
        *_counts("train", "T", people=75, tracklets=948, outfits=159),
        *_counts("query", "T", tracklets=834),
        *_counts("gallery", "T", tracklets=1_074),
        *_counts("query+gallery", "T", people=151, outfits=321),
        *_counts("all", "T", people=226, tracklets=2_856, images=347_833),
    ),
    "market1501": (
        *_counts("train", "T", people=751, images=12_936),
        *_counts("query", "T", people=750, images=3_368),
        *_counts("gallery", "T", images=15_913, distractors=2_798),
        *_counts("junk", "T", images=3_819),
    ),
}


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
        frame = frame[frame["camera"] == count.camera]
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
