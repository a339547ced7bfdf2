"""Scores per query, from which rank-1, mAP, mINP, CMC, counts and intervals are computed."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csgn_lib.datasets import Protocol
from csgn_lib.records import InputError
from csgn_lib.retrieval.ranking import Pairs
from csgn_lib.statistics.intervals import METRICS, RESAMPLES, means_drawn, people_drawn, percentile_interval

RANKS = 50  # length of the CMC curve
_LABELS = ("path", "person", "camera", "clothes", "tracklet")


@dataclass(frozen=True)
class Scores:
    """Scores of one protocol.

    Attributes:
        protocol: the protocol.
        per_query: one row per query (and gallery, if the protocol draws several), in the queries' order:
            ``row`` in the query frame; ``draw`` from 0; the frame's labels; ``matches``, the gallery images
            that count; ``valid``, whether there is a match; ``ap``, ``inp`` in [0, 1], NaN if not valid;
            ``first_hit``, the rank of the first match from 1, 0 if not valid.
        ranks: length of the CMC curve.
    """

    protocol: Protocol
    per_query: pd.DataFrame = field(repr=False)
    ranks: int = RANKS

    @property
    def rank1(self) -> float:
        """Share of counted queries whose nearest image is a match, in [0, 1]."""
        return float(self.cmc[0])

    @property
    def mean_ap(self) -> float:
        """Mean average precision, in [0, 1], of the form ``protocol.ap``."""
        return float(self._over_draws("ap"))

    @property
    def minp(self) -> float:
        """Mean of (number of matches / rank of the last match), in [0, 1] (Ye et al., TPAMI 2021)."""
        return float(self._over_draws("inp"))

    @property
    def cmc(self) -> NDArray[np.float64]:
        """(ranks,) share of counted queries with a match among the first k images, k = 1 .. ranks.

        Non-decreasing; constant beyond the size of a small gallery.
        """
        valid = self.per_query[self.per_query["valid"]]
        curves = [
            np.cumsum(np.bincount(hits.clip(upper=self.ranks + 1), minlength=self.ranks + 2))[1:-1] / len(hits)
            for _, hits in valid.groupby("draw")["first_hit"]
        ]
        return np.mean(curves, axis=0)

    @property
    def counted(self) -> int:
        """Queries with a match left in the gallery (in one of the draws, at least)."""
        return int(self.per_query.loc[self.per_query["valid"], "row"].nunique())

    @property
    def dropped(self) -> int:
        """Queries of the protocol without a match, which are in no mean."""
        return int(self.per_query["row"].nunique()) - self.counted

    def _over_draws(self, column: str) -> float:
        return self.per_query.groupby("draw")[column].mean().mean()  # pandas ignores NaN (not valid)

    def interval(
        self,
        metric: Literal["rank1", "mean_ap", "minp"] = "mean_ap",
        level: float = 0.95,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> tuple[float, float]:
        """Percentile bootstrap interval of a metric over *people*, as fractions (low, high).

        People are resampled with replacement, each with all of their queries. Queries of one person are correlated, so
        resampling queries would give an interval that is too narrow.

        Args:
            metric: rank1, mean_ap or minp.
            level: coverage, in (0, 1).
            resamples: number of bootstrap resamples.
            seed: seed of the resampling.

        Raises:
            InputError: an unknown metric, a level outside (0, 1), or fewer than two counted people.
        """
        return _bootstrap(self._counted(metric), level, resamples, seed)

    def gain(
        self,
        other: Scores,
        metric: Literal["rank1", "mean_ap", "minp"] = "mean_ap",
        level: float = 0.95,
        resamples: int = RESAMPLES,
        seed: int = 0,
    ) -> tuple[float, float, float]:
        """Paired difference to ``other`` on the same queries: (difference, low, high).

        The difference is computed per query before people are resampled, so the difficulty of a query cancels, and the
        interval is narrower than two separate intervals suggest.

        Raises:
            InputError: as ``interval``; the two do not count the same queries.
        """
        mine, theirs = self._counted(metric), other._counted(metric)
        keys = ["row", "draw", "person"]
        if not mine[keys].equals(theirs[keys]):
            raise InputError(
                f"{self.protocol.name} and {other.protocol.name} do not count the same queries; score both under one "
                "protocol, on the same frames"
            )
        paired = mine.assign(value=mine["value"] - theirs["value"])
        difference = float(paired.groupby("draw")["value"].mean().mean())
        return difference, *_bootstrap(paired, level, resamples, seed)

    def _counted(self, metric: str) -> pd.DataFrame:
        """``row``, ``draw``, ``person`` and the metric's ``value`` of every counted query."""
        if metric not in METRICS:
            raise InputError(f"unknown metric {metric!r}; one of {', '.join(METRICS)}")
        valid = self.per_query[self.per_query["valid"]].reset_index(drop=True)
        value = {"rank1": valid["first_hit"] == 1, "mean_ap": valid["ap"], "minp": valid["inp"]}[metric]
        return valid[["row", "draw", "person"]].assign(value=value.astype(float))

    def summary(self) -> dict[str, str | int | float]:
        """Plain numbers for a record: metrics as fractions, and the queries counted and dropped."""
        cmc = {f"rank{k}": float(self.cmc[k - 1]) for k in (1, 5, 10) if k <= self.ranks}
        means = {"mean_ap": self.mean_ap, "minp": self.minp}
        return {"protocol": self.protocol.name, **cmc, **means, "counted": self.counted, "dropped": self.dropped}

    def __str__(self) -> str:
        return (
            f"{self.protocol.name}: rank-1 {self.rank1:.1%}, mAP {self.mean_ap:.1%}, mINP {self.minp:.1%} "
            f"({self.counted} queries counted, {self.dropped} dropped: no match left)"
        )

    def _repr_html_(self) -> str:
        cells = {
            "rank-1": f"{self.rank1:.1%}",
            "mAP": f"{self.mean_ap:.1%}",
            "mINP": f"{self.minp:.1%}",
            "queries counted": self.counted,
            "dropped (no match left)": self.dropped,
        }
        head = "".join(f"<th>{name}</th>" for name in cells)
        body = "".join(f"<td>{value}</td>" for value in cells.values())
        title = f"<b>{html.escape(self.protocol.name)}</b>: {html.escape(self.protocol.description)}"
        return f"<table><caption>{title}</caption><tr>{head}</tr><tr>{body}</tr></table>"


def _bootstrap(counted: pd.DataFrame, level: float, resamples: int, seed: int) -> tuple[float, float]:
    """Percentile interval of the mean over draws of the mean ``value``, people drawn with replacement."""
    if not 0 < level < 1 or resamples < 1:
        raise InputError(f"level = {level}, resamples = {resamples}: a level between 0 and 1, and at least 1 draw")
    people = np.sort(counted["person"].unique())
    times = people_drawn(len(people), seed, resamples, "counted is")
    return percentile_interval(means_drawn(counted, people, times), level)


def score(
    protocol: Protocol, query: pd.DataFrame, gallery: pd.DataFrame, draws: list[Pairs], ranks: int = RANKS
) -> Scores:
    """Scores of one protocol from the ranks of all same-person pairs.

    Args:
        protocol: decides which queries there are and which pairs are junk.
        query, gallery: the frames to which the pairs' positions refer.
        draws: the ranked pairs of each of the protocol's galleries; they may contain further queries.
        ranks: length of the CMC curve.

    Raises:
        InputError: no query has a match left.
    """
    rows = protocol.query_rows(query)
    labels = query.iloc[rows][[name for name in _LABELS if name in query.columns]].reset_index(drop=True)
    frames = []
    for draw, pairs in enumerate(draws):
        kept = np.isin(pairs.query, rows)
        query_row, rank = pairs.query[kept], pairs.rank[kept]
        junk = protocol.is_junk(query, gallery, query_row, pairs.gallery[kept])
        measured = per_query(np.searchsorted(rows, query_row), rank, junk, len(rows), protocol.ap)
        frames.append(pd.concat([pd.DataFrame({"row": rows, "draw": draw}), labels, measured], axis=1))
    frame = pd.concat(frames, ignore_index=True)
    if not frame["valid"].any():
        raise InputError(
            f"protocol {protocol.name!r}: none of the {len(rows)} queries has a match left in the gallery after "
            f"dropping what the protocol drops ({protocol.description}); are these the right query and gallery?"
        )
    return Scores(protocol, frame, ranks)


def per_query(
    query: NDArray[np.int64],
    rank: NDArray[np.int64],
    junk: NDArray[np.bool_],
    queries: int,
    ap: Literal["field", "trapezoid"] = "field",
) -> pd.DataFrame:
    """AP, INP and first hit of each query from the ranks of its person's gallery rows.

    Args:
        query: (n,) in 0 .. queries - 1, which query a pair belongs to.
        rank: (n,) from 1, before anything is dropped; different within a query.
        junk: (n,) pairs that leave the ranking.
        queries: number of queries, Q.
        ap: "field" is the mean of h / r_h over the matches, h-th match at rank r_h; "trapezoid" the mean of
            that and (h - 1) / (r_h - 1), 1 where r_h = 1, as the official Celeb-reID scorer.

    Returns:
        Q rows with the columns ``matches, valid, ap, first_hit, inp`` of ``Scores.per_query``.

    Example: four images of one person at ranks 1, 2, 4 and 7; the first is junk, so the matches have
    ranks 1, 3 and 6: AP = (1/1 + 2/3 + 3/6) / 3, INP = 3 / 6.

        >>> row = per_query(np.zeros(4, int), np.array([4, 1, 7, 2]), np.array([False, True, False, False]), 1)
        >>> row.round(4).to_dict("records")
        [{'matches': 3, 'valid': True, 'ap': 0.7222, 'first_hit': 1, 'inp': 0.5}]
    """
    order = np.argsort(query * (rank.max(initial=0) + 1) + rank)  # by query, then rank; no two are equal
    query, rank, junk = query[order], rank[order], junk[order]
    rank = rank - _running(junk, query, queries)  # junk ranked before it
    query, rank = query[~junk], rank[~junk]
    hit = _running(np.ones(len(query), dtype=bool), query, queries)
    matches = np.bincount(query, minlength=queries)
    valid = matches > 0
    precision = hit / rank
    if ap == "trapezoid":
        before = np.divide(hit - 1, rank - 1, out=np.ones(len(rank)), where=rank > 1)
        precision = (precision + before) / 2
    first, last = np.zeros(queries, np.int64), np.zeros(queries, np.int64)
    last[query] = rank  # the last assignment counts; ranks ascend within a query
    first[query[::-1]] = rank[::-1]
    unknown = np.full(queries, np.nan)
    mean = np.divide(np.bincount(query, precision, minlength=queries), matches, out=unknown.copy(), where=valid)
    inp = np.divide(matches, last, out=unknown.copy(), where=valid)
    return pd.DataFrame({"matches": matches, "valid": valid, "ap": mean, "first_hit": first, "inp": inp})


def _running(flags: NDArray[np.bool_], query: NDArray[np.int64], queries: int) -> NDArray[np.int64]:
    """Cumulative number of flags within each query; ``query`` is ascending."""
    total = np.cumsum(flags)
    before = np.cumsum(np.bincount(query, flags, minlength=queries)) - np.bincount(query, flags, minlength=queries)
    return total - before[query].astype(np.int64)
