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

``datasets.benchmark_protocols`` defines those of the field.

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
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csgn_lib.records import InputError

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
