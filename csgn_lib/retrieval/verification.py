"""Verification and open-set search: error rates of distance thresholds, with intervals over people.

Verification is a decision about a pair of images. A *genuine* pair shows one person and is not dropped by the
protocol; an *impostor* pair shows two people. At threshold t a pair is accepted if its distance 1 - cosine is below t:

    FAR(t) = accepted impostor pairs / impostor pairs        TAR(t) = accepted genuine pairs / genuine pairs
    EER    = FAR(t) = 1 - TAR(t), where the two are nearest

Open-set search is a decision about a query and a gallery (ISO/IEC 19795-1). Each query is searched twice: with its
person in the gallery (mated), and with all images of that person removed (non-mated):

    FPIR(t) = non-mated searches whose nearest image is below t / all of them
    FNIR(t) = mated searches whose nearest image is another person's, or not below t / all of them

FPIR increases with the size of the gallery, so a threshold is valid for galleries of about that size. Images of unknown
people are in no pair. Thresholds are multiples of STEP; nothing of size Q x G is stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from threading import Lock
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from csgn_lib.datasets import Protocol
from csgn_lib.datasets import protocol as resolve
from csgn_lib.datasets.protocols import UNKNOWN
from csgn_lib.records import InputError
from csgn_lib.retrieval.blocks import each_product, thread_count
from csgn_lib.retrieval.features import as_array, check_columns, ranked_units, unit_rows
from csgn_lib.retrieval.ranking import Pairs, same_person
from csgn_lib.statistics.intervals import RESAMPLES, people_drawn

BINS = 2**16  # distances lie in [0, 2]
STEP = 2 / BINS  # between thresholds
COARSE = 16  # bins of one step of the bootstrap: 4,096 thresholds, so that people x thresholds fit into memory
FAR_LEVELS = (1e-1, 1e-2, 1e-3, 1e-4)
FPIR_LEVELS = (1e-1, 1e-2)
CURVE = 200  # points of a recorded curve
CHUNK = 100  # resamples at a time
COLUMNS = ("metric", "at", "level", "value", "low", "high", "threshold")


@dataclass(frozen=True)
class Verification:
    """Error rates of thresholds under one protocol.

    Attributes:
        protocol: determines the genuine pairs.
        rates: one row per rate: ``metric`` (tar, eer, fnir), ``at`` (far or fpir), ``level`` (NaN for eer), ``value``,
            ``low``, ``high`` (95 % over people) and ``threshold``; NaN where there are fewer than 1 / level pairs or
            searches.
        pairs: ``threshold``, ``far``, ``tar``: the ROC curve, at up to CURVE thresholds.
        searches: ``threshold``, ``fpir``, ``fnir``: the open-set curve.
        counts: ``genuine``, ``impostor`` pairs; ``mated``, ``non_mated`` searches; ``people``; ``gallery`` images.
    """

    protocol: Protocol
    rates: pd.DataFrame = field(repr=False)
    pairs: pd.DataFrame = field(repr=False)
    searches: pd.DataFrame = field(repr=False)
    counts: dict[str, int]

    def rate(self, metric: str, level: float | None = None) -> pd.Series:
        """The row of ``rates`` of a metric at a level. Raises InputError for one that was not measured."""
        rows = self.rates[self.rates["metric"] == metric]
        rows = rows if level is None else rows[np.isclose(rows["level"], level)]
        if rows.empty:
            raise InputError(f"{metric} at {level} was not measured; there are the levels {FAR_LEVELS}, {FPIR_LEVELS}")
        return rows.iloc[0]

    def record(self) -> dict[str, Any]:
        """Plain numbers for verification.json; None for NaN."""
        frames = {"rates": self.rates, "pairs": self.pairs, "searches": self.searches}
        tables = {name: _plain(frame) for name, frame in frames.items()}
        return {"description": self.protocol.description, "counts": self.counts} | tables


def verify(
    query_features: ArrayLike | Any,
    gallery_features: ArrayLike | Any,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    protocols: Sequence[str | Protocol],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    threads: int | None = None,
) -> dict[str, Verification]:
    """Verification and open-set rates under each protocol: protocol's name -> Verification.

    Protocols that draw single-shot galleries or differ only in the average precision are skipped, because their pairs
    are those of other protocols.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), any scale; compared by 1 - cosine.
        query, gallery: their frames, with ``person`` and the labels that the protocols read.
        resamples, seed: of the bootstrap over people, each with all of their queries.

    Raises:
        InputError: features or frames as in ``evaluate``; fewer than two people with a genuine pair.
    """
    threads, results = thread_count(threads), {}
    query_array, gallery_array = (
        as_array(query_features, "query_features"),
        as_array(gallery_features, "gallery_features"),
    )
    measured: dict[tuple[bytes, ...], _Distances] = {}
    for protocol in _distinct(protocols, query.attrs.get("benchmark")):
        protocol.check(query, gallery)
        query_side, query_frame, _ = ranked_units(query_array, query, "query", protocol.aggregate)
        gallery_side, gallery_frame, _ = ranked_units(gallery_array, gallery, "gallery", protocol.aggregate)
        rows = (
            _known(protocol.query_rows(query_frame), query_frame),
            _known(protocol.gallery_rows(gallery_frame)[0], gallery_frame),
        )
        key = (rows[0].tobytes(), rows[1].tobytes(), str(protocol.aggregate).encode())
        if key not in measured:
            measured[key] = _measure(query_side, gallery_side, query_frame, gallery_frame, rows, threads)
        results[protocol.name] = _rates(protocol, measured[key], query_frame, gallery_frame, resamples, seed)
    return results


@dataclass(frozen=True)
class _Distances:
    """Results of one pass over the distances: (n,) of genuine pairs, (Q,) of other people, counts of impostors."""

    rows: NDArray[np.int64]  # (Q,) positions of the queries in their frame
    pairs: Pairs
    distance: NDArray[np.float32]  # (n,) of each pair
    nearest_other: NDArray[np.float32]  # (Q,) of another person's nearest image; infinity if there is none
    impostors: NDArray[np.int64]  # (BINS,) impostor pairs
    person: NDArray[np.int64]  # (Q,) position of each query's person among the sorted people
    of_people: NDArray[np.float32]  # (people, BINS / COARSE) impostor pairs of each person's queries
    gallery: int


def _distinct(protocols: Sequence[str | Protocol], benchmark: str | None) -> list[Protocol]:
    kept: dict[tuple[Any, ...], Protocol] = {}
    for protocol in (resolve(name, benchmark) for name in protocols):
        if not protocol.draws:
            key = (protocol.junk, protocol.query_where, protocol.gallery_where, protocol.needs, protocol.aggregate)
            kept.setdefault(key, protocol)
    return list(kept.values())


def _known(rows: NDArray[np.int64], frame: pd.DataFrame) -> NDArray[np.int64]:
    return rows[frame["person"].to_numpy()[rows] != UNKNOWN]


def _measure(
    query_features: Any,
    gallery_features: Any,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    rows: tuple[NDArray[np.int64], NDArray[np.int64]],
    threads: int,
) -> _Distances:
    """One pass over the distances of the queries and gallery images in ``rows``, in blocks."""
    query_unit, gallery_unit = (
        unit_rows(query_features, "query_features"),
        unit_rows(gallery_features, "gallery_features"),
    )
    check_columns(query_unit, gallery_unit)
    query_unit, gallery_unit = (
        side if len(kept) == len(side) else side[kept]
        for side, kept in zip((query_unit, gallery_unit), rows, strict=True)
    )
    people = query["person"].to_numpy()[rows[0]], gallery["person"].to_numpy()[rows[1]]
    pairs = same_person(*people, np.arange(len(people[0])), np.arange(len(people[1])))
    names, person = np.unique(people[0], return_inverse=True)
    impostors, of_people = np.zeros(BINS, np.int64), np.zeros((len(names), BINS // COARSE), np.float32)
    distance, other = np.empty(len(pairs.query), np.float32), np.empty(len(query_unit), np.float32)
    lock = Lock()

    def count(block: NDArray[np.float32], start: int) -> None:
        block += 1  # 1 - cosine
        part = slice(*np.searchsorted(pairs.query, [start, start + len(block)]))
        row, column = pairs.query[part] - start, pairs.column[part]
        distance[part] = np.maximum(block[row, column], 0)
        block[row, column] = np.inf
        other[start : start + len(block)] = np.maximum(block.min(axis=1), 0)
        block[row, column] = 2 + 2 * STEP  # in a separate bin, which is not counted
        block /= STEP
        for line, who in zip(block, person[start:], strict=False):
            counts = np.bincount(line.astype(np.intp), minlength=BINS + 3)
            counts[BINS - 1] += counts[BINS]  # 2 plus rounding
            with lock:
                impostors[:] += counts[:BINS]
                of_people[who] += counts[:BINS].reshape(-1, COARSE).sum(axis=1)

    each_product(-query_unit, gallery_unit, count, threads)
    return _Distances(rows[0], pairs, distance, other, impostors, person, of_people, len(gallery_unit))


def _rates(
    protocol: Protocol, measured: _Distances, query: pd.DataFrame, gallery: pd.DataFrame, resamples: int, seed: int
) -> Verification:
    columns = _known(protocol.gallery_rows(gallery)[0], gallery)[measured.pairs.gallery]
    kept = ~protocol.is_junk(query, gallery, measured.rows[measured.pairs.query], columns)
    queries, distance = measured.pairs.query[kept], measured.distance[kept]
    nearest = np.full(len(measured.person), np.inf, np.float32)
    np.minimum.at(nearest, queries, distance)
    counts = {"genuine": len(distance), "impostor": int(measured.impostors.sum())}
    if not all(counts.values()):
        raise InputError(f"{protocol.name}: {counts['genuine']} genuine and {counts['impostor']} impostor pairs")
    times = people_drawn(len(measured.of_people), seed, resamples, f"{protocol.name} asks for")
    pairs, pair_rates = _pair_rates(measured, measured.person[queries], distance, times)
    searches, search_rates = _search_rates(measured.nearest_other, nearest, measured.person, times)
    rates = pd.DataFrame(pair_rates + search_rates, columns=list(COLUMNS))
    counts |= {"mated": int(np.isfinite(nearest).sum()), "non_mated": len(nearest), "people": times.shape[1]}
    return Verification(protocol, rates, pairs, searches, counts | {"gallery": measured.gallery})


def _pair_rates(
    measured: _Distances, person: NDArray[np.int64], distance: NDArray[np.float32], times: NDArray[np.int64]
) -> tuple[pd.DataFrame, list[tuple[Any, ...]]]:
    """The ROC curve, and TAR at each FAR and the EER with their intervals."""
    bins = np.minimum((distance / STEP).astype(np.int64), BINS - 1)
    genuine = np.bincount(bins, minlength=BINS)
    far, tar = _share(measured.impostors[None]), _share(genuine[None])
    drawn = _drawn_pair_rates(measured.of_people, person, bins // COARSE, times)
    rows = []
    for place, level in enumerate((*FAR_LEVELS, None)):
        value, at = (part[0] for part in (_tar_at(far, tar, level) if level else _eer(far, tar)))
        value = value if level is None or level * measured.impostors.sum() >= 1 else np.nan
        low, high = _interval(drawn[place]) if not np.isnan(value) else (np.nan, np.nan)
        threshold = (at + 1) * STEP if not np.isnan(value) else np.nan
        rows.append(("tar" if level else "eer", "far" if level else "", level or np.nan, value, low, high, threshold))
    shown = np.unique(
        np.searchsorted(far[0], np.geomspace(1 / max(measured.impostors.sum(), 2), 1, CURVE)).clip(0, BINS - 1)
    )
    return pd.DataFrame({"threshold": (shown + 1) * STEP, "far": far[0][shown], "tar": tar[0][shown]}), rows


def _drawn_pair_rates(
    of_people: NDArray[np.float32], person: NDArray[np.int64], bins: NDArray[np.int64], times: NDArray[np.int64]
) -> list[NDArray[np.float64]]:
    """TAR at each FAR level, and the EER, in each resample: (resamples,) each, at every COARSE-th threshold."""
    steps = of_people.shape[1]
    genuine = np.bincount(person * steps + bins, minlength=of_people.size).reshape(of_people.shape).astype(np.float32)
    parts: list[list[NDArray[np.float64]]] = [[] for _ in (*FAR_LEVELS, None)]
    for start in range(0, len(times), CHUNK):
        weight = times[start : start + CHUNK].astype(np.float32)
        far, tar = _share(weight @ of_people), _share(weight @ genuine)
        for place, level in enumerate((*FAR_LEVELS, None)):
            parts[place].append((_tar_at(far, tar, level) if level else _eer(far, tar))[0])
    return [np.concatenate(part) for part in parts]


def _share(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Counts in bins (R, T) to the share at or below the end of each bin; NaN for a row without any."""
    total = counts.cumsum(axis=1, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        return total / total[:, -1:]


def _tar_at(
    far: NDArray[np.float64], tar: NDArray[np.float64], level: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """TAR (R,) at the largest threshold whose FAR is at most ``level``, and its bin (R,), -1 if there is none."""
    at = (far <= level).sum(axis=1) - 1
    value = np.where(at >= 0, np.take_along_axis(tar, at.clip(0)[:, None], axis=1)[:, 0], 0.0)
    return np.where(np.isnan(tar[:, -1]), np.nan, value), at


def _eer(far: NDArray[np.float64], tar: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean of FAR and 1 - TAR (R,) where they are nearest, and that bin (R,)."""
    at = np.abs(far - (1 - tar)).argmin(axis=1)
    rows = np.arange(len(far))
    return (far[rows, at] + 1 - tar[rows, at]) / 2, at


def _search_rates(
    other: NDArray[np.float32], nearest: NDArray[np.float32], person: NDArray[np.int64], times: NDArray[np.int64]
) -> tuple[pd.DataFrame, list[tuple[Any, ...]]]:
    """The open-set curve, and FNIR at each FPIR with its interval, from (Q,) distances of another person's and of the
    query's own nearest image."""
    order = np.argsort(other, kind="stable")
    limit, mated = other[order], np.isfinite(nearest)
    first = np.where(
        mated & (nearest <= other), nearest, np.inf
    )  # the mated search succeeds if this is below the threshold
    rows = []
    for level in FPIR_LEVELS:
        threshold = limit[min(int(level * len(limit)), len(limit) - 1)]
        value, interval = 1 - (first < threshold).sum() / max(mated.sum(), 1), (np.nan, np.nan)
        if level * len(limit) >= 1:
            interval = _interval(_drawn_fnir(limit, order, first, mated, person, times, level))
        else:
            value = threshold = np.nan
        rows.append(("fnir", "fpir", level, float(value), *interval, float(threshold)))
    some = np.r_[np.linspace(0, 1, CURVE // 2), np.geomspace(1 / len(limit), 1, CURVE // 2), FPIR_LEVELS]
    shown = np.unique((some * len(limit)).astype(int).clip(0, len(limit) - 1))
    fpir = np.searchsorted(limit, limit[shown]) / len(limit)
    hits = np.searchsorted(np.sort(first), limit[shown])
    curve = pd.DataFrame(
        {"threshold": limit[shown].astype(float), "fpir": fpir, "fnir": 1 - hits / max(mated.sum(), 1)}
    )
    return curve[np.isfinite(curve["threshold"])], rows


def _drawn_fnir(
    limit: NDArray[np.float32],
    order: NDArray[np.int64],
    first: NDArray[np.float32],
    mated: NDArray[np.bool_],
    person: NDArray[np.int64],
    times: NDArray[np.int64],
    level: float,
) -> NDArray[np.float64]:
    """FNIR in each resample (resamples,), at the largest distance of its non-mated searches that keeps its FPIR."""
    values = []
    for start in range(0, len(times), CHUNK):
        weight = times[start : start + CHUNK][:, person]  # (R, Q)
        below = np.cumsum(weight[:, order], axis=1)
        at = (below <= level * below[:, -1:]).sum(axis=1).clip(max=len(limit) - 1)
        hit = (weight * (first < limit[at][:, None])).sum(axis=1)
        with np.errstate(invalid="ignore"):
            values.append(1 - hit / (weight * mated).sum(axis=1))
    return np.concatenate(values)


def _interval(drawn: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)


def _plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {name: None if isinstance(value, float) and np.isnan(value) else value for name, value in row.items()}
        for row in frame.to_dict("records")
    ]
