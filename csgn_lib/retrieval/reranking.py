"""k-reciprocal re-ranking (Zhong et al., CVPR 2017), sparse and in blocks. Off by default.

Query and gallery images are ranked together, so the result for one query depends on the other queries.
With u the L2-normalised features and M_i the largest distance of image i,

    d(i, j)  = (1 - u_i . u_j) / M_i            (the squared Euclidean distance 2 - 2 cos gives the same)
    N(i, k)  = the k + 1 images nearest to i, itself among them
    R(i, k)  = {j in N(i, k): i in N(j, k)}
    R*(i)    = R(i, k1) and each R(j, k1 / 2), j in R(i, k1), of which more than 2/3 lie in R(i, k1)
    V_ij     = exp(-d(i, j)) on R*(i), rows summing to 1; then each row the mean of its k2 nearest's
    d_J(i,j) = 1 - sum_m min(V_im, V_jm) / sum_m max(V_im, V_jm)
    result   = (1 - lambda) d_J + lambda d

Each row of V has a few tens of entries, so V is sparse, and only N, V and one block are in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from csgn_lib.records import InputError
from csgn_lib.retrieval.blocks import each_product, in_threads, thread_count
from csgn_lib.retrieval.features import check_columns, unit_rows
from csgn_lib.retrieval.neighbours import nearest

ROWS = 128  # queries in a block of re-ranked distances
PAIR_BYTES = 2**25  # features gathered at a time for single pairs
ROUNDING = 1e-5  # of a float32 cosine: images whose largest distance is below this are identical


def rerank(
    query_features: ArrayLike | Any,
    gallery_features: ArrayLike | Any,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Re-ranked distances (Q, G) in [0, 1] up to rounding, smaller is closer; for ``evaluate_distances``.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), arrays or torch tensors (computed on the CPU), any scale.
        k1: neighbours that may be reciprocal.
        k2: neighbours over which encodings are averaged; 1 for none.
        lambda_value: weight of the original distance, in [0, 1].
        threads: None for all cores (at most 8).

    Raises:
        InputError: features as in ``evaluate``; a parameter out of range.
    """
    blocks = rerank_blocks(query_features, gallery_features, k1, k2, lambda_value, threads=threads)
    distances = np.empty((len(query_features), len(gallery_features)), dtype=np.float32)
    start = 0
    for block in blocks:
        distances[start : start + len(block)] = block
        start += len(block)
    return distances


def rerank_blocks(
    query_features: ArrayLike | Any,
    gallery_features: ArrayLike | Any,
    k1: int = 20,
    k2: int = 6,
    lambda_value: float = 0.3,
    *,
    rows: int = ROWS,
    threads: int | None = None,
) -> Iterator[NDArray[np.float32]]:
    """``rerank`` in blocks (rows, G) in the order of the queries, for large Q x G.

    ``evaluate_distances(rerank_blocks(...), query, gallery)`` has only a few blocks in memory.
    """
    if k1 < 1 or k2 < 1 or rows < 1 or not 0 <= lambda_value <= 1:
        raise InputError(
            f"k1 = {k1}, k2 = {k2}, lambda_value = {lambda_value}, rows = {rows}: at least 1, 1, 0 to 1, and 1"
        )
    threads = thread_count(threads)
    query = unit_rows(query_features, "query_features", threads)
    gallery = unit_rows(gallery_features, "gallery_features", threads)
    check_columns(query, gallery)
    encoded = encode(np.concatenate([query, gallery]), k1, k2, threads)
    return _blocks(encoded, len(query), lambda_value, rows, threads)


@dataclass(frozen=True)
class Encoding:
    """Encodings of N images for re-ranking.

    Attributes:
        unit: (N, D) L2-normalised features.
        farthest: (N,) largest distance 1 - cosine of each image, M.
        neighbours: (N, n) int64, each image's nearest, nearest first, itself among them.
        weights: (N, N) sparse V, rows summing to 1.
    """

    unit: NDArray[np.float32]
    farthest: NDArray[np.float32]
    neighbours: NDArray[np.int64]
    weights: sparse.csr_array


def encode(unit: NDArray[np.float32], k1: int, k2: int, threads: int) -> Encoding:
    """Encode N unit features (N, D) by their k-reciprocal neighbours."""
    neighbours, farthest = _neighbourhoods(unit, max(k1 + 1, k2), threads)
    members = _members(neighbours, k1)
    weights = _weights(members, unit, farthest, threads)
    if k2 > 1:
        weights = _indicator(neighbours[:, :k2], np.float32(1 / min(k2, len(unit)))) @ weights
    return Encoding(unit, farthest, neighbours, weights)


def _neighbourhoods(
    unit: NDArray[np.float32], count: int, threads: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest images (N, count) and largest distance (N,) of each image."""
    count = min(count, len(unit))

    def use(block: NDArray[np.float32], start: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        return nearest(block, count)[0], 1 + block.max(axis=1)

    neighbours, farthest = zip(*each_product(-unit, unit, use, threads), strict=True)
    return np.concatenate(neighbours), np.maximum(np.concatenate(farthest), ROUNDING)


def _indicator(columns: NDArray[np.int64], value: Any) -> sparse.csr_array:
    """The (N, N) matrix with ``value`` at ``columns`` (N, k) of each row."""
    size, k = columns.shape
    data = np.full(columns.size, value)
    return sparse.csr_array((data, columns.ravel(), np.arange(0, columns.size + 1, k)), shape=(size, size))


def _reciprocal(neighbours: NDArray[np.int64]) -> sparse.csr_array:
    """R as an (N, N) matrix of ones, from N (N, k + 1)."""
    forward = _indicator(neighbours, np.int32(1))
    return sparse.csr_array(forward.multiply(forward.T))


def _members(neighbours: NDArray[np.int64], k1: int) -> sparse.csr_array:
    """R* as an (N, N) matrix whose stored entries are the members."""
    reciprocal = _reciprocal(neighbours[:, : k1 + 1])
    half = _reciprocal(neighbours[:, : round(k1 / 2) + 1])
    size = np.diff(half.indptr)
    common = sparse.csr_array((reciprocal @ half.T).multiply(reciprocal)).tocoo()
    agreed = 3 * common.data > 2 * size[common.col]
    ones = np.ones(agreed.sum(), dtype=np.int32)
    joined = sparse.csr_array((ones, (common.row[agreed], common.col[agreed])), shape=common.shape)
    return sparse.csr_array(reciprocal + joined @ half)


def _weights(
    members: sparse.csr_array, unit: NDArray[np.float32], farthest: NDArray[np.float32], threads: int
) -> sparse.csr_array:
    """V before averaging: exp(-d) on the members, each row summing to 1."""
    row, column = members.nonzero()
    step = max(1, PAIR_BYTES // (4 * unit.shape[1]))

    def distance(start: int) -> NDArray[np.float32]:
        left, right = row[start : start + step], column[start : start + step]
        return (1 - np.einsum("nd,nd->n", unit[left], unit[right])) / farthest[left]

    weight = np.exp(-np.concatenate(list(in_threads(distance, range(0, len(row), step), threads))))
    weight /= np.bincount(row, weight, minlength=len(unit))[row].astype(np.float32)
    return sparse.csr_array((weight, (row, column)), shape=members.shape)


def _blocks(
    encoded: Encoding, queries: int, lambda_value: float, rows: int, threads: int
) -> Iterator[NDArray[np.float32]]:
    """Re-ranked distances (rows, G) of the first ``queries`` images to all others, block by block."""
    gallery = encoded.unit[queries:]
    inverted = sparse.csc_array(encoded.weights[queries:])  # for each encoding entry, the gallery images that have it

    def products() -> Iterator[tuple[int, NDArray[np.float32]]]:
        for start in range(0, queries, rows):
            yield start, encoded.unit[start : min(start + rows, queries)] @ gallery.T

    def finish(item: tuple[int, NDArray[np.float32]]) -> NDArray[np.float32]:
        start, block = item
        part = slice(start, start + len(block))
        np.subtract(1, block, out=block)
        block *= np.float32(lambda_value) / encoded.farthest[part, None]
        block += np.float32(1 - lambda_value)
        for row, query in zip(block, range(start, start + len(block)), strict=True):
            row -= np.float32(1 - lambda_value) * _jaccard_similarity(encoded.weights, query, inverted)
        return block

    yield from in_threads(finish, products(), threads)


def _jaccard_similarity(weights: sparse.csr_array, query: int, inverted: sparse.csc_array) -> NDArray[np.float32]:
    """Similarity (G,) of a query's encoding to that of every gallery image: sum of minima / sum of maxima.

    Rows of V sum to 1, so the sum of maxima is 2 minus the sum of minima.
    """
    entries = slice(*weights.indptr[query : query + 2])
    own = weights.data[entries]
    first, last = inverted.indptr[weights.indices[entries]], inverted.indptr[weights.indices[entries] + 1]
    count = last - first
    place = np.repeat(first - (np.cumsum(count) - count), count) + np.arange(count.sum())
    least = np.minimum(np.repeat(own, count), inverted.data[place])
    minima = np.bincount(inverted.indices[place], least, minlength=inverted.shape[0])
    return (minima / (2 - minima)).astype(np.float32)
