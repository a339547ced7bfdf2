"""Evaluation protocols as data: which rows are ranked, which matches are dropped, how AP is computed.

Interface (numpy and pandas only)::

    Term = tuple[column, "same" | "different"]        Rule = tuple[Term, ...]
    Protocol(name, description, junk=(Rule, ...), query_where=((column, values), ...),
             gallery_where=((column, values), ...), needs=(column, ...), draws=0,
             ap="field" | "trapezoid", aggregate=None | "tracklet")
        .columns                                      # label columns that decide junk, without "person"
        .check(query, gallery)                        # InputError: no such column, no label, nothing left
        .query_rows(query)            -> (Q',) int64  # rows that are queries, ascending
        .gallery_rows(gallery)        -> tuple of (G',) int64, one per gallery: 1, or ``draws`` of them
        .is_junk(query, gallery, query_rows, gallery_rows) -> (n,) bool   # for n pairs of ONE person each
    PROTOCOLS: dict[str, Protocol]                    # general, cloth_changing, same_clothes: any benchmark
    BENCHMARK_PROTOCOLS: dict[benchmark, dict[str, Protocol]]             # what a name means there; headline first
    resolve(protocol, benchmark=None) -> Protocol     # exported as ``datasets.protocol``

The frames that ``load`` returns carry ``frame.attrs["benchmark"]``, so a scorer that is given only a
name and two frames calls ``resolve(protocol, query.attrs.get("benchmark"))``.

How a score is computed (the usual rule): for each row of ``query_rows`` rank each gallery of
``gallery_rows`` by distance, ties in gallery order. Same-person gallery rows are *good*, unless
``is_junk``: those are removed from the ranking. Other people are never dropped. A query without a good row is not
counted. ``draws`` galleries: the mean over galleries. To stream, only same-person pairs need
``is_junk``, so nothing of size Q x G is kept. A label of -1 is unknown: it is neither the same nor
different, and a same-person pair whose label in a ``needs`` column is unknown is junk, since it is
unknown whether it is a match. ``person`` -1 matches nobody.

AP of a query with M good rows, the h-th at rank r_h (1-based, junk removed):
"field": mean of h / r_h. "trapezoid" (official Celeb-reID scorer): mean of (p_h + h / r_h) / 2 with
p_h = (h - 1) / (r_h - 1), and p_h = 1 where r_h = 1.

``aggregate="tracklet"``: rows of one ``tracklet`` are one unit; its feature is the weighted mean of its
rows (``datasets.ccvid.weights``), L2-normalised only afterwards; its labels are those of its first row.
If each row is a separate tracklet, this has no effect.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csgn_lib import registry
from csgn_lib.records import InputError, did_you_mean

Term = tuple[str, Literal["same", "different"]]
Rule = tuple[Term, ...]
Where = tuple[tuple[str, tuple[int, ...]], ...]
UNKNOWN = -1


@dataclass(frozen=True)
class Protocol:
    """One evaluation protocol. The module's docstring explains how a score is computed.

    Attributes:
        name: its name in results, unique within a benchmark.
        description: one sentence for tables: what is ranked and what is dropped.
        junk: a same-person pair is dropped if, for any rule, all of its terms hold.
        query_where, gallery_where: (column, allowed values) pairs; rows must satisfy all of them.
        needs: label columns that must not be unknown (-1) in all rows.
        draws: 0 for the whole gallery, else the number of random single-shot galleries (one image per person).
        ap: the form of average precision: "field" (usual) or "trapezoid".
        aggregate: "tracklet" if tracklets rather than images are ranked.
    """

    name: str
    description: str
    junk: tuple[Rule, ...]
    query_where: Where = ()
    gallery_where: Where = ()
    needs: tuple[str, ...] = ()
    draws: int = 0
    ap: Literal["field", "trapezoid"] = "field"
    aggregate: Literal["tracklet"] | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """The label columns that decide whether a same-person pair is junk."""
        return tuple(dict.fromkeys([column for rule in self.junk for column, _ in rule] + list(self.needs)))

    def check(self, query: pd.DataFrame, gallery: pd.DataFrame) -> None:
        """Raise InputError if the frames lack a column, a label that is needed, or any row to score."""
        for split, frame, where in (("query", query, self.query_where), ("gallery", gallery, self.gallery_where)):
            path = ("path",) if self.draws and split == "gallery" else ()  # draws depend on the path
            for column in ("person", *self.columns, *path, *(column for column, _ in where)):
                if column not in frame.columns:
                    raise InputError(f"protocol {self.name!r} needs a column {column!r}; the {split} frame has none")
                if frame[column].isna().any():
                    row = int(np.argmax(frame[column].isna()))
                    raise InputError(f"{column} of row {row} of the {split} frame is missing; an unknown label is -1")
            if frame.empty:
                raise InputError(f"protocol {self.name!r}: the {split} split is empty")
            for column in self.needs:
                if (frame[column] == UNKNOWN).all():
                    raise InputError(
                        f"protocol {self.name!r} needs {column} labels, and no {split} image has one "
                        "(all are -1); score it under 'general' or another protocol of this benchmark"
                    )
            if not _matching(frame, where).any():
                allowed = ", ".join(f"{column} in {list(values)}" for column, values in where)
                raise InputError(f"protocol {self.name!r}: no {split} image has {allowed}")
        for column in ("person", *self.columns):
            kinds = [pd.api.types.is_numeric_dtype(frame[column]) for frame in (query, gallery)]
            if kinds[0] != kinds[1]:
                raise InputError(f"{column} is a number in one frame and text in the other; use the same type in both")

    def counts_any(self, query: pd.DataFrame, gallery: pd.DataFrame) -> bool:
        """Whether at least one query has a match left. Raises InputError as ``check``.

        Rows with the same labels are grouped, so that no array of size Q x G is needed.
        """
        self.check(query, gallery)
        columns = list(dict.fromkeys(("person", *self.columns)))
        left, right = (frame[columns].reset_index(drop=True) for frame in (query, gallery))
        left = left.iloc[self.query_rows(query)].drop_duplicates()
        right = right.iloc[np.unique(np.concatenate(self.gallery_rows(gallery)))].drop_duplicates()
        pairs = left.reset_index(names="query_row").merge(right.reset_index(names="gallery_row"), on="person")
        pairs = pairs[pairs["person"] != UNKNOWN]
        return not self.is_junk(query, gallery, pairs["query_row"].to_numpy(), pairs["gallery_row"].to_numpy()).all()

    def query_rows(self, query: pd.DataFrame) -> NDArray[np.int64]:
        """Positions (Q',) of the rows of ``query`` that are queries under this protocol, ascending."""
        return np.flatnonzero(_matching(query, self.query_where))

    def gallery_rows(self, gallery: pd.DataFrame) -> tuple[NDArray[np.int64], ...]:
        """Positions (G',) of the rows that are ranked, ascending; one array for each gallery."""
        rows = np.flatnonzero(_matching(gallery, self.gallery_where))
        return tuple(_single_shot(gallery, rows, draw) for draw in range(self.draws)) if self.draws else (rows,)

    def is_junk(
        self,
        query: pd.DataFrame,
        gallery: pd.DataFrame,
        query_rows: NDArray[np.int64],
        gallery_rows: NDArray[np.int64],
    ) -> NDArray[np.bool_]:
        """Which of n same-person pairs are dropped: (n,) bool.

        ``query_rows`` and ``gallery_rows`` are positions, (n,) each (or shapes that broadcast): pair i
        is row ``query_rows[i]`` of ``query`` and row ``gallery_rows[i]`` of ``gallery``.
        """
        shape = np.broadcast_shapes(np.shape(query_rows), np.shape(gallery_rows))
        junk = np.zeros(shape, dtype=bool)
        pairs = {c: (query[c].to_numpy()[query_rows], gallery[c].to_numpy()[gallery_rows]) for c in self.columns}
        for column in self.needs:
            of_query, of_gallery = pairs[column]
            junk |= (of_query == UNKNOWN) | (of_gallery == UNKNOWN)
        for rule in self.junk:
            holds = np.ones(shape, dtype=bool)
            for column, relation in rule:
                of_query, of_gallery = pairs[column]
                equal = (of_query == of_gallery) if relation == "same" else (of_query != of_gallery)
                holds &= equal & (of_query != UNKNOWN) & (of_gallery != UNKNOWN)
            junk |= holds
        return junk


def same_person(people: NDArray[np.int64], others: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of one known person, without a Q x G matrix: positions (n,) in ``people`` (Q,) and ``others`` (G,).

    Ascending by the first, then the second.
    """
    order = np.argsort(others, kind="stable")
    first, last = (np.searchsorted(others[order], people, side) for side in ("left", "right"))
    counts = np.where(people == UNKNOWN, 0, last - first)
    rows = np.repeat(np.arange(len(people)), counts)
    within = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    return rows, order[first[rows] + within]


def _matching(frame: pd.DataFrame, where: Where) -> NDArray[np.bool_]:
    keep = np.ones(len(frame), dtype=bool)
    for column, values in where:
        keep &= np.isin(frame[column].to_numpy(), values)
    return keep


def _single_shot(gallery: pd.DataFrame, rows: NDArray[np.int64], draw: int) -> NDArray[np.int64]:
    """One row per person: of its images, the one whose sha256 of ``"<draw> <path>"`` is smallest.

    A hash instead of a seeded generator: the draw depends neither on the order in which a file system lists files nor
    on the NumPy version (``Generator`` streams may change). Excluding a broken image changes only that person's draw.
    """
    paths = gallery["path"].to_numpy()[rows]
    keys = [hashlib.sha256(f"{draw} {path}".encode()).digest() for path in paths]
    person = gallery["person"].to_numpy()[rows]
    order = sorted(range(len(rows)), key=lambda i: (person[i], keys[i]))
    first = [i for position, i in enumerate(order) if position == 0 or person[order[position - 1]] != person[i]]
    return np.sort(rows[first])


_SAME_CAMERA: Rule = (("camera", "same"),)
_SAME_CLOTHES: Rule = (("clothes", "same"),)
_OTHER_CLOTHES: Rule = (("clothes", "different"),)

GENERAL = Protocol(
    "general",
    "all images; matches from the query's camera are dropped (an unknown camera drops nothing)",
    junk=(_SAME_CAMERA,),
)
CLOTH_CHANGING = Protocol(
    "cloth_changing",
    "all images; matches from the query's camera or in the query's clothes are dropped",
    junk=(_SAME_CAMERA, _SAME_CLOTHES),
    needs=("clothes",),
)
SAME_CLOTHES = Protocol(
    "same_clothes",
    "all images; matches from the query's camera or in other clothes are dropped",
    junk=(_SAME_CAMERA, _OTHER_CLOTHES),
    needs=("clothes",),
)
PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (CLOTH_CHANGING, GENERAL, SAME_CLOTHES)}


def _ltcc() -> tuple[Protocol, ...]:
    changers = (("changes_clothes", (1,)),)
    text = "as cloth_changing, but queries and gallery show only people of info/cloth-change_id_test.txt"
    restricted = Protocol(
        "cloth_changing_changers",
        text,
        junk=CLOTH_CHANGING.junk,
        query_where=changers,
        gallery_where=changers,
        needs=("clothes", "changes_clothes"),
    )
    return CLOTH_CHANGING, GENERAL, SAME_CLOTHES, restricted


def _prcc() -> tuple[Protocol, ...]:
    """Query camera C (2) changed clothes, B (1) did not; the gallery is camera A (0)."""
    gallery = (("camera", (0,)),)
    full, single = [], []
    for name, camera, letter in (("cross_clothes", 2, "C"), ("same_clothes", 1, "B")):
        where = (("camera", (camera,)),)
        text = f"query camera {letter}, gallery camera A"
        full.append(Protocol(name, f"{text}: all its images", (_SAME_CAMERA,), where, gallery))
        shot = f"{text}: one image a person, mean of 10 drawn galleries"
        single.append(Protocol(f"{name}_single_shot", shot, (_SAME_CAMERA,), where, gallery, draws=10))
    return (*full, *single, GENERAL)


def _vcclothes() -> tuple[Protocol, ...]:
    """The usual camera subsets (cameras counted from 0); each under the standard rule only."""
    subsets = []
    for name, cameras, text in (("cloth_changing", (2, 3), "3 and 4"), ("same_clothes", (1, 2), "2 and 3")):
        where = (("camera", cameras),)
        description = f"cameras {text} only, query and gallery; matches from the query's camera are dropped"
        subsets.append(Protocol(name, description, (_SAME_CAMERA,), where, where))
    return subsets[0], GENERAL, subsets[1]


def _celebreid() -> tuple[Protocol, ...]:
    digit: tuple[Rule, ...] = ((("first_digit", "same"),),)
    everything, dropped = "all images, no camera labels", "matches whose image number starts with the query's digit"
    return (
        Protocol("general", f"{everything}: nothing is dropped", ()),
        Protocol("general_camera_digit", f"all images; {dropped} are dropped (official scorer's camera)", digit),
        Protocol("general_trapezoid", f"{everything}: nothing is dropped; trapezoid AP", (), ap="trapezoid"),
        Protocol("general_official", f"official scorer: {dropped} are dropped; trapezoid AP", digit, ap="trapezoid"),
    )


def _deepchange() -> tuple[Protocol, ...]:
    """The literature does not agree on what is dropped; the paper's public loaders drop the query's tracklet."""
    tracklet: Rule = (("tracklet", "same"),)
    return (
        Protocol("general", "all images; matches of the query's tracklet are dropped", (tracklet,)),
        Protocol("general_camera", "all images; matches from the query's camera are dropped", (_SAME_CAMERA,)),
        Protocol("general_day", "all images; matches from the query's day are dropped", (_SAME_CLOTHES,)),
    )


def _ccvid() -> tuple[Protocol, ...]:
    def tracklets(base: Protocol) -> Protocol:
        text = base.description.replace("all images", "all tracklets")
        return Protocol(base.name, text, base.junk, needs=base.needs, aggregate="tracklet")

    return tracklets(CLOTH_CHANGING), tracklets(GENERAL), tracklets(SAME_CLOTHES)


_LAST = Protocol("general", "all images, distractors included; no camera labels, nothing is dropped", ())

BENCHMARK_PROTOCOLS: dict[str, dict[str, Protocol]] = {
    benchmark: {p.name: p for p in protocols}
    for benchmark, protocols in {
        "ltcc": _ltcc(),
        "prcc": _prcc(),
        "vcclothes": _vcclothes(),
        "celebreid": _celebreid(),
        "celebreid_light": _celebreid(),
        "deepchange": _deepchange(),
        "last": (_LAST,),
        "ccvid": _ccvid(),
        "market1501": (GENERAL,),
        "synthetic": _ltcc(),
        "csv": (CLOTH_CHANGING, GENERAL, SAME_CLOTHES),
    }.items()
}


def resolve(protocol: str | Protocol, benchmark: str | None = None) -> Protocol:
    """The protocol of a name on a benchmark; a Protocol is returned unchanged.

    A name may have another meaning on another benchmark (``same_clothes`` on PRCC has queries of camera B), so the
    benchmark's own protocols come first and PROTOCOLS second.

    Raises:
        InputError: an unknown name, with the nearest one and all valid ones.

    Example:
        >>> resolve("same_clothes").query_where
        ()
        >>> resolve("same_clothes", "prcc").query_where
        (('camera', (1,)),)
    """
    if isinstance(protocol, Protocol):
        return protocol
    if not isinstance(protocol, str):
        raise InputError(f"protocol = {protocol!r}: give one name or one Protocol; use evaluate_all for several")
    known = PROTOCOLS | BENCHMARK_PROTOCOLS.get(benchmark or "", {}) | of_plugins(benchmark)
    if protocol in known:
        return known[protocol]
    raise InputError(f"unknown protocol {protocol!r}{_on(benchmark)}{nearest(protocol, list(known))}")


def of_plugins(benchmark: str | None) -> dict[str, Protocol]:
    """The protocols that loaded plugins add to a benchmark, by name."""
    added = {name: entry for name, entry in registry.entries("protocol").items() if entry.plugin}
    return {
        name: entry.code
        for name, entry in added.items()
        if entry.traits.get("benchmarks") is None or benchmark in entry.traits["benchmarks"]
    }


def _on(benchmark: str | None) -> str:
    return f" on {benchmark}" if benchmark else ""


def nearest(name: object, names: Sequence[str]) -> str:
    """The end of a message about an unknown name: the nearest known one, and all of them."""
    cure = did_you_mean(name, names)
    return (f" ({cure})" if cure else "") + f"; one of {', '.join(names)}"
