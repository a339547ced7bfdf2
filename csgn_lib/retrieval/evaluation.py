"""Scores from features or distances, under one protocol or several."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from csgn_lib.datasets import Protocol
from csgn_lib.datasets import protocol as resolve
from csgn_lib.records import InputError
from csgn_lib.retrieval import features as checked
from csgn_lib.retrieval.blocks import thread_count
from csgn_lib.retrieval.ranking import Pairs, rank_distances, rank_features, same_person
from csgn_lib.retrieval.scores import RANKS, Scores, score

Features = ArrayLike | Any  # (N, D) array, nested lists or torch tensor


def evaluate(
    query_features: Features,
    gallery_features: Features,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    protocol: str | Protocol = "cloth_changing",
    *,
    ranks: int = RANKS,
    threads: int | None = None,
) -> Scores:
    """Exact CMC, mAP and mINP of features by cosine, in blocks of queries.

    Distance is 1 - cosine of the features, which orders as the squared Euclidean distance of L2-normalised
    features (2 - 2 cosine) does. Arithmetic is float32; equal distances are ranked by gallery row. Distances of
    equal features are equal only up to the rounding of the matrix product.

    Args:
        query_features: (Q, D) array or torch tensor, any scale; row i is row i of ``query``.
        gallery_features: (G, D), likewise. Tensors on an accelerator are copied to the CPU, where ranking takes place.
        query, gallery: frames with ``person`` and the labels that the protocol reads.
        protocol: a protocol's name on the frames' benchmark, or a Protocol.
        ranks: length of the CMC curve.
        threads: None for all cores (at most 8).

    Returns:
        Scores. Re-ranking, query expansion and flip averaging are not included; apply them to the features or
        distances first.

    Raises:
        InputError: an empty split, mismatched lengths or widths, a row with NaN, infinity or only zeros, an unknown
            protocol, a missing label that it needs, or no query with a match.

    Example: one query and four gallery images, of which the nearest is dropped because it is from the same camera.

        >>> query = pd.DataFrame({"person": [7], "camera": [0], "clothes": [0]})
        >>> gallery = pd.DataFrame({"person": [7, 9, 7, 7], "camera": [0, 1, 1, 2], "clothes": [0, 2, 1, 0]})
        >>> features = np.array([[1.0, 0.0], [0.9, 0.1], [0.8, 0.2], [0.5, 0.5]])
        >>> print(evaluate(np.array([[1.0, 0.0]]), features, query, gallery, "general"))
        general: rank-1 0.0%, mAP 58.3%, mINP 66.7% (1 queries counted, 0 dropped: no match left)
    """
    return _only(
        evaluate_all(query_features, gallery_features, query, gallery, [protocol], ranks=ranks, threads=threads)
    )


def evaluate_all(
    query_features: Features,
    gallery_features: Features,
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    protocols: Sequence[str | Protocol],
    *,
    ranks: int = RANKS,
    threads: int | None = None,
) -> dict[str, Scores]:
    """``evaluate`` under several protocols from one pass over the distances: protocol's name -> Scores."""
    threads = thread_count(threads)
    query_features = checked.as_array(query_features, "query_features")
    gallery_features = checked.as_array(gallery_features, "gallery_features")
    checked.check_rows(len(query_features), query, "query_features", "query")
    checked.check_rows(len(gallery_features), gallery, "gallery_features", "gallery")
    checked.check_columns(query_features, gallery_features)
    chosen = _resolve(protocols, query, gallery, ranks)
    tracklets = [protocol for protocol in chosen if protocol.aggregate == "tracklet"]
    images = [protocol for protocol in chosen if protocol.aggregate is None]

    def rank(query_rows: Features, gallery_rows: Features) -> Callable[[list[Pairs]], None]:
        return lambda pairs: _rank(query_rows, gallery_rows, pairs, threads)

    scores = {}
    if images:
        scores |= _score(images, query, gallery, rank(query_features, gallery_features), ranks)
    if tracklets:
        query_means, query_units, rows = checked.ranked_units(query_features, query, "query", "tracklet")
        gallery_means, gallery_units, _ = checked.ranked_units(gallery_features, gallery, "gallery", "tracklet")
        scores |= _score(tracklets, query_units, gallery_units, rank(query_means, gallery_means), ranks, rows)
    return {protocol.name: scores[protocol.name] for protocol in chosen}


def evaluate_distances(
    distances: Features | Iterable[NDArray[np.floating]],
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    protocol: str | Protocol = "cloth_changing",
    *,
    ranks: int = RANKS,
    threads: int | None = None,
) -> Scores:
    """Exact CMC, mAP and mINP of distances, ranked at the precision given; ties keep gallery order.

    Args:
        distances: (Q, G), smaller is closer: array or torch tensor. Or an iterator of blocks (B, G) in the
            order of the queries, as from ``rerank_blocks``; only a few are in memory at a time.
        query, gallery, protocol, ranks, threads: as for ``evaluate``. For a protocol that ranks tracklets the
            frames must have one row a tracklet.

    Raises:
        InputError: as ``evaluate``; a shape other than (Q, G); NaN or infinity, naming the query.
    """
    return _only(evaluate_all_distances(distances, query, gallery, [protocol], ranks=ranks, threads=threads))


def evaluate_all_distances(
    distances: Features | Iterable[NDArray[np.floating]],
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    protocols: Sequence[str | Protocol],
    *,
    ranks: int = RANKS,
    threads: int | None = None,
) -> dict[str, Scores]:
    """``evaluate_distances`` under several protocols from one pass: protocol's name -> Scores."""
    threads = thread_count(threads)
    chosen = _resolve(protocols, query, gallery, ranks)
    for protocol in chosen:
        units = [frame[protocol.aggregate] for frame in (query, gallery) if protocol.aggregate in frame.columns]
        if any(unit.duplicated().any() for unit in units):
            raise InputError(
                f"protocol {protocol.name!r} ranks {protocol.aggregate}s: give distances and frames with one row a "
                f"{protocol.aggregate}, or features of the images to evaluate"
            )
    shape = len(query), len(gallery)
    whole = checked.is_tensor(distances) or hasattr(distances, "__array__")
    if whole or (isinstance(distances, (list, tuple)) and not any(np.ndim(part) == 2 for part in distances[:1])):
        distances = [distances]  # and not a list of blocks
    if not isinstance(distances, Iterable):
        raise InputError(f"distances are {distances!r}; a (Q, G) array, or an iterator of blocks (B, G), is needed")
    blocks = (checked.as_array(block, "distances") for block in distances)
    return _score(chosen, query, gallery, lambda pairs: rank_distances(blocks, shape, pairs, threads), ranks)


def _only(scores: dict[str, Scores]) -> Scores:
    return next(iter(scores.values()))


def _resolve(
    protocols: Sequence[str | Protocol], query: pd.DataFrame, gallery: pd.DataFrame, ranks: int
) -> list[Protocol]:
    if isinstance(protocols, str):
        raise InputError(f"protocols = {protocols!r}: a list of names; for one protocol call evaluate")
    if ranks < 1:
        raise InputError(f"ranks = {ranks}: the CMC curve has at least one")
    chosen = [resolve(protocol, query.attrs.get("benchmark")) for protocol in protocols]
    names = [protocol.name for protocol in chosen]
    if not names or len(set(names)) < len(names):
        raise InputError(f"protocols = {names}: at least one, and each name once")
    for protocol in chosen:
        protocol.check(query, gallery)
    return chosen


def _rank(query: NDArray[np.floating], gallery: NDArray[np.floating], pairs: list[Pairs], threads: int) -> None:
    length = checked.lengths(gallery, "gallery_features", threads)
    gallery = np.ascontiguousarray(gallery, dtype=np.float32)
    rank_features(checked.unit_rows(query, "query_features", threads), gallery, length, pairs, threads)


def _score(
    protocols: list[Protocol],
    query: pd.DataFrame,
    gallery: pd.DataFrame,
    rank: Callable[[list[Pairs]], None],
    ranks: int,
    rows: NDArray[np.int64] | None = None,
) -> dict[str, Scores]:
    """Rank each gallery once, then compute all protocols' scores from the ranks.

    ``rows``, if given, are the positions of the rows of ``query`` in the caller's frame.
    """
    galleries = {protocol.name: protocol.gallery_rows(gallery) for protocol in protocols}
    query_rows: dict[bytes, list[NDArray[np.int64]]] = {}
    gallery_rows: dict[bytes, NDArray[np.int64]] = {}
    for protocol in protocols:
        for drawn in galleries[protocol.name]:
            query_rows.setdefault(drawn.tobytes(), []).append(protocol.query_rows(query))
            gallery_rows[drawn.tobytes()] = drawn
    people = query["person"].to_numpy(), gallery["person"].to_numpy()
    pairs = {
        key: same_person(*people, np.unique(np.concatenate(query_rows[key])), drawn)
        for key, drawn in gallery_rows.items()
    }
    rank(list(pairs.values()))
    scores = {}
    for protocol in protocols:
        draws = [pairs[drawn.tobytes()] for drawn in galleries[protocol.name]]
        result = score(protocol, query, gallery, draws, ranks)
        if rows is not None:
            result.per_query["row"] = rows[result.per_query["row"]]
        scores[protocol.name] = result
    return scores
