"""Exact ranks of the gallery rows that show the query's person, in blocks of queries.

AP, CMC and INP need only the rank of each row of the query's person. So a row of distances is sorted by
*value* (no index sort), its same-person distances are looked up in it, and the rank is one more than
the number of smaller values; values beyond the last match need not be sorted. Equal values are ranked by gallery row.
Nothing of size Q x G is stored.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from csgn_lib.datasets import protocols
from csgn_lib.records import InputError
from csgn_lib.retrieval.blocks import each_product, in_threads

LINES = 16  # rows that a thread sorts at a time: with fewer, threads wait for Python's lock; more do not fit the cache

Block = NDArray[np.floating]


@dataclass(frozen=True)
class Pairs:
    """The same-person pairs of some queries with one ranked gallery; ``rank`` is filled by the functions below.

    Attributes:
        gallery_rows: (G',) ascending positions of the gallery rows that are ranked; None for all.
        query, gallery: (n,) positions in the frames, ascending by query, then gallery.
        column: (n,) position of ``gallery`` among the ranked rows.
        rank: (n,) from 1, among all ranked rows, before anything is dropped.
    """

    gallery_rows: NDArray[np.int64] | None
    query: NDArray[np.int64]
    gallery: NDArray[np.int64]
    column: NDArray[np.int64]
    rank: NDArray[np.int64] = field(repr=False)


def same_person(
    query_person: NDArray[np.int64],
    gallery_person: NDArray[np.int64],
    query_rows: NDArray[np.int64],
    gallery_rows: NDArray[np.int64],
) -> Pairs:
    """All pairs of ``query_rows`` (ascending) and ``gallery_rows`` (ascending) that show one known person."""
    row, column = protocols.same_person(query_person[query_rows], gallery_person[gallery_rows])
    everything = len(gallery_rows) == len(gallery_person)
    query = query_rows[row]
    return Pairs(
        None if everything else gallery_rows, query, gallery_rows[column], column, np.zeros(len(query), np.int64)
    )


def full_ranks(
    block: Block, row: NDArray[np.int64], column: NDArray[np.int64], scale: NDArray[np.float32] | None = None
) -> NDArray[np.int64]:
    """Ranks, from 1, of n entries of a block of distances, each in its own row.

    Args:
        block: (B, G) finite distances, smaller is closer.
        row, column: (n,) entries, ascending by row.
        scale: (G,) factors of the columns; None for 1.

    Returns:
        (n,) the number of entries of the row that are smaller, or equal with a smaller column, plus 1.

    Example:
        >>> block = np.array([[0.5, 0.2, 0.5, 0.9]])
        >>> full_ranks(block, np.array([0, 0, 0]), np.array([0, 2, 3]))
        array([2, 3, 4])
    """
    value = block[row, column] if scale is None else block[row, column] * scale[column]
    keys = np.stack(
        [value, np.nextafter(value, np.inf)], axis=1
    )  # first position not smaller, and first position larger
    bounds = np.searchsorted(row, np.arange(len(block) + 1)).tolist()
    farthest = np.full(len(block), -np.inf, dtype=block.dtype)
    np.maximum.at(farthest, row, value)
    places = np.empty(keys.shape, dtype=np.int64)
    memory = [np.empty((min(LINES, len(block)), block.shape[1]), dtype) for dtype in (block.dtype, block.dtype, bool)]
    for top in range(0, len(block), LINES):
        lines, ordered, near = (part[: len(block) - top] for part in memory)
        np.multiply(block[top : top + LINES], 1 if scale is None else scale, out=lines)  # also loads it into the cache
        for line, nearest in enumerate(_sorted_up_to(lines, farthest[top : top + LINES], ordered, near), top):
            part = slice(bounds[line], bounds[line + 1])
            places[part] = nearest.searchsorted(keys[part])
    rank = places[:, 0] + 1
    for entry in np.flatnonzero(places[:, 1] > rank):  # equal values: smaller columns come first
        line = block[row[entry], : column[entry]]
        line = line if scale is None else line * scale[: column[entry]]
        rank[entry] += np.count_nonzero(line == value[entry])
    return rank


def _sorted_up_to(lines: Block, farthest: Block, ordered: Block, near: NDArray[np.bool_]) -> Iterator[Block]:
    """Each row of ``lines`` (L, G), sorted, without values larger than its entry in ``farthest`` (L,).

    Values beyond a query's last match need not be sorted; selecting is faster if it selects less than half.
    ``ordered`` and ``near`` (L, G) are buffers: allocating them anew would take longer than the sorting.
    """
    np.less_equal(lines, farthest[:, None], out=near)
    count = np.count_nonzero(near)
    if 2 * count > near.size:
        np.copyto(ordered, lines)
        ordered.sort(axis=1)
        yield from ordered
        return
    index = near.ravel().nonzero()[0]
    picked = lines.ravel().take(index, mode="clip", out=ordered.ravel()[:count])  # other modes copy
    stops = index.searchsorted(lines.shape[1] * np.arange(len(lines) + 1)).tolist()
    for start, stop in zip(stops, stops[1:], strict=False):
        picked[start:stop].sort()
        yield picked[start:stop]


def rank_block(block: Block, start: int, pairs: Iterable[Pairs], scale: NDArray[np.float32] | None = None) -> None:
    """Fill the ranks of all pairs whose query is in this block.

    Args:
        block: (B, G) distances of queries ``start`` to ``start + B``.
        pairs: for each gallery that is ranked; only their ``rank`` is written.
        scale: (G,) factors of the columns; None for 1.
    """
    for pair in pairs:
        part = slice(*np.searchsorted(pair.query, [start, start + len(block)]))
        if part.start < part.stop:
            rows = slice(None) if pair.gallery_rows is None else pair.gallery_rows
            of_columns = None if scale is None else scale[rows]
            pair.rank[part] = full_ranks(block[:, rows], pair.query[part] - start, pair.column[part], of_columns)


def rank_features(
    query: NDArray[np.float32],
    gallery: NDArray[np.float32],
    length: NDArray[np.float32],
    pairs: list[Pairs],
    threads: int,
) -> None:
    """Fill all ranks by descending cosine.

    The ranked value is -(q . g) / |g|. It has the same order as 1 - cosine and as the squared Euclidean distance
    2 - 2 cosine, without the ties that rounding these to float32 would add. Dividing by the norm while a row is read
    avoids a normalised copy of the gallery.

    Args:
        query: (Q, D), one positive scale a row.
        gallery, length: (G, D), C-contiguous, and their norms (G,).
        pairs: whose ``rank`` is filled.
        threads: how many.
    """
    scale = 1 / length
    each_product(-query, gallery, lambda block, start: rank_block(block, start, pairs, scale), threads)


def rank_distances(distances: Iterable[Block], shape: tuple[int, int], pairs: list[Pairs], threads: int) -> None:
    """Fill all ranks from blocks of distances (B, G) in the order of the queries.

    Raises:
        InputError: blocks that do not add up to ``shape`` (Q, G), or a distance that is not finite.
    """

    def work(item: tuple[int, Block]) -> None:
        check_finite(item[1], item[0])
        rank_block(item[1], item[0], pairs)

    for _ in in_threads(work, _cut(distances, shape, threads), threads):
        pass


def _cut(distances: Iterable[Block], shape: tuple[int, int], threads: int) -> Iterator[tuple[int, Block]]:
    """(first query, distances) of blocks that are small enough to keep all threads busy."""
    total = 0
    for block in distances:
        if block.ndim != 2 or block.shape[1] != shape[1] or total + len(block) > shape[0]:
            raise InputError(
                f"distances of shape {tuple(block.shape)} from query {total} on, for {shape[0]} queries and a gallery "
                f"of {shape[1]}: one row a query and one column a gallery image, in the frames' order"
            )
        step = max(1, min(64, -(-len(block) // threads)))
        for start in range(0, len(block), step):
            yield total + start, block[start : start + step]
        total += len(block)
    if total != shape[0]:
        raise InputError(f"distances have {total} rows and the query frame {shape[0]}: one row a query, in its order")


def check_finite(block: Block, start: int) -> None:
    """Raise InputError naming the first query whose distances hold NaN or infinity.

    The sum of a row shows both in one fast pass; a row whose sum only overflowed is checked again.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        suspect = np.flatnonzero(~np.isfinite(block.sum(axis=1)))
    for row in suspect:
        if not np.isfinite(block[row]).all():
            raise InputError(f"the distances of query {start + row} hold NaN or infinity: compute them again")
