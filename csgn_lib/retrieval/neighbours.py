"""The k nearest gallery images, exact or from an approximate index; query expansion."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from csgn_lib.progress import track
from csgn_lib.records import InputError, atomic_path, writing
from csgn_lib.retrieval.blocks import each_product, in_threads, single_threaded_blas, thread_count
from csgn_lib.retrieval.features import as_array, bad_row, check_columns, unit_rows

CHUNK = 1024  # gallery rows: 2 MB at width 512, which fit into the cache
FEW = 16  # up to this number of queries, the gallery is read once and not copied
BEYOND = 3.0  # larger than any 1 - cosine: the distance of rows that a search did not return
BLOCK = 10_000  # gallery rows that are added to an index between two reports of progress
CODES, TRAINING_ROWS = 16, 50_000  # values of a 4-bit code, which need as many images; images that train the codes
RECALL, CHECKED = 0.99, 100  # share of the nearest images that an approximate index has to find; queries that check it
FAISS_MISSING = (
    "approximate search needs FAISS: pip install csgn-workbench[faiss]; search() is exact and does not need it"
)


@dataclass(frozen=True)
class Neighbours:
    """The nearest gallery rows of each query, nearest first.

    Attributes:
        rows: (Q, k) positions in the gallery; -1 where an approximate index found fewer than k.
        distances: (Q, k) 1 - cosine, in [0, 2] up to rounding; BEYOND where ``rows`` is -1.
    """

    rows: NDArray[np.int64]
    distances: NDArray[np.float32]

    def blocks(self, gallery: int, rows: int = 256) -> Iterator[NDArray[np.float32]]:
        """Distances (B, G) for ``evaluate_distances``: rows that were not found are last, in gallery order."""
        for start in range(0, len(self.rows), rows):
            neighbours = self.rows[start : start + rows]
            block = np.full((len(neighbours), gallery), BEYOND, dtype=np.float32)
            query, place = np.nonzero(neighbours >= 0)
            block[query, neighbours[query, place]] = self.distances[start : start + rows][query, place]
            yield block


def nearest(block: NDArray[np.floating], k: int) -> tuple[NDArray[np.int64], NDArray[np.floating]]:
    """Columns (B, k) of the k smallest entries of each row, ascending, ties by column; and those entries.

    The k-th smallest *value* is found first, because partitioning values is several times as fast as partitioning
    indices; then only values that are not larger are sorted.
    """
    columns = np.empty((len(block), k), dtype=np.int64)
    scratch = np.empty(block.shape[1], dtype=block.dtype)
    for row, out in zip(block, columns, strict=True):
        np.copyto(scratch, row)
        scratch.partition(k - 1)
        near = np.flatnonzero(row <= scratch[k - 1])
        out[:] = near[np.argsort(row[near], kind="stable")[:k]]
    return columns, np.take_along_axis(block, columns, axis=1)


def search(
    query_features: ArrayLike | Any, gallery_features: ArrayLike | Any, k: int = 10, *, threads: int | None = None
) -> Neighbours:
    """The k nearest gallery images of each query by cosine: exact, ties by gallery row, in blocks of queries.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), arrays or torch tensors, any scale.
        k: neighbours a query, 1 to G.
        threads: None for all cores (at most 8).

    Raises:
        InputError: features as in ``evaluate``; a k out of range.
    """
    threads = thread_count(threads)
    query = unit_rows(query_features, "query_features", threads)
    _check_k(k, len(gallery_features))
    if len(query) <= FEW:
        columns, values = nearest(_negative_cosines(query, gallery_features, threads), k)
        return Neighbours(columns, 1 + values)
    gallery = unit_rows(gallery_features, "gallery_features", threads)
    check_columns(query, gallery)
    parts = each_product(-query, gallery, lambda block, start: nearest(block, k), threads)
    columns, values = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Neighbours(columns, 1 + values)


def cosine_distances(
    query_features: ArrayLike | Any, gallery_features: ArrayLike | Any, *, threads: int | None = None
) -> NDArray[np.float32]:
    """Distances 1 - cosine (Q, G) of few queries, in one pass over a large gallery.

    Args:
        query_features, gallery_features: (Q, D) and (G, D), any scale; neither is copied whole.

    Raises:
        InputError: features as in ``evaluate``.
    """
    threads = thread_count(threads)
    return 1 + _negative_cosines(unit_rows(query_features, "query_features", threads), gallery_features, threads)


def _negative_cosines(
    query: NDArray[np.float32], gallery_features: ArrayLike | Any, threads: int
) -> NDArray[np.float32]:
    """-cosine (Q, G) of unit queries. The gallery is read once, in chunks that stay in the cache while their norms and
    products are computed: with few queries, memory access dominates the time."""
    gallery = as_array(gallery_features, "gallery_features")
    check_columns(query, gallery)

    def products(start: int) -> NDArray[np.float32]:
        chunk = np.asarray(gallery[start : start + CHUNK], dtype=np.float32)
        length = np.sqrt(np.einsum("nd,nd->n", chunk, chunk))
        bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
        if len(bad):
            raise bad_row(start + int(bad[0]), gallery[start + bad[0]], "gallery_features")
        return -(query @ chunk.T) / length

    with single_threaded_blas():
        return np.concatenate(list(in_threads(products, range(0, len(gallery), CHUNK), threads)), axis=1)


def expand_queries(
    query_features: ArrayLike | Any,
    gallery_features: ArrayLike | Any,
    k: int = 5,
    alpha: float = 0.0,
    *,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Average query expansion: each query becomes the mean of itself and its k nearest gallery images.

    q' = q + sum_j max(cos(q, g_j), 0)^alpha g_j, then L2-normalised (Chum et al., ICCV 2007, alpha = 0;
    Radenovic et al., TPAMI 2019, alpha = 3). It uses no labels, so the averaged images may show other people, or
    be images that a protocol drops. Off by default.

    Returns:
        (Q, D) float32, unit length.
    """
    if alpha < 0:
        raise InputError(f"alpha = {alpha}: 0 for plain averages, larger to trust near images more")
    query, gallery = unit_rows(query_features, "query_features"), unit_rows(gallery_features, "gallery_features")
    neighbours = search(query, gallery, k, threads=threads)
    weight = np.clip(1 - neighbours.distances, 0, 1) ** np.float32(alpha)
    expanded = query.copy()
    for place in range(k):
        expanded += weight[:, place, None] * gallery[neighbours.rows[:, place]]
    return unit_rows(expanded, "expanded queries")


def approximate_index(
    gallery_features: ArrayLike | Any,
    kind: Literal["ivf", "hnsw", "pq"] = "ivf",
    *,
    lists: int | None = None,
    probes: int = 8,
    links: int = 64,
) -> Any:
    """A FAISS index of the gallery, for galleries that are too large for exact search.

    Args:
        gallery_features: (G, D), any scale; normalised, so that inner products are cosines.
        kind: "ivf" divides the gallery into k-means cells and searches the nearest ones; "hnsw" searches a neighbour
            graph; "pq" compares the query with every image in compressed form (product quantisation of PCA, 4 bits for
            2 numbers) and ranks the best candidates again, exactly.
        lists: ivf: number of cells; None for about 4 sqrt(G) (fewer if k-means would starve).
        probes: effort. ivf: cells that are searched; all of them is exact. hnsw: a quarter of the number of candidates.
            pq: candidates per image that is asked for; ``set_candidates`` chooses it.
        links: hnsw: neighbours per node.

    Raises:
        InputError: FAISS is not installed, an unknown kind, or fewer than CODES images for pq.
    """
    faiss = _faiss()
    gallery = unit_rows(gallery_features, "gallery_features")
    size, width = gallery.shape
    if kind == "hnsw":
        index = faiss.IndexHNSWFlat(width, links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = 2 * links  # the default, 40, is less than the number of links
        index.hnsw.efSearch = 4 * probes
    elif kind == "ivf":
        lists = lists or max(1, min(int(4 * size**0.5), size // 39))  # FAISS recommends 39 points per cell
        index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, lists, faiss.METRIC_INNER_PRODUCT)
        index.nprobe = min(probes, lists)
        index.train(gallery)
    elif kind == "pq":
        index = _compressed(faiss, gallery)
        index.k_factor = probes
    else:
        raise InputError(f"unknown kind of index {kind!r}; one of ivf, hnsw, pq")
    for block in track(np.array_split(gallery, -(-size // BLOCK)), size, f"building the {kind.upper()} index", len):
        index.add(block)
    return index


def _compressed(faiss: Any, gallery: NDArray[np.float32]) -> Any:
    if len(gallery) < CODES:
        raise InputError(f"an index of kind pq needs {CODES} images, and there are {len(gallery)}; search exactly")
    kept = min(256, gallery.shape[1] // 2 * 2, len(gallery) // 2 * 2)
    # L2 of unit vectors ranks as the cosine, and unlike an inner product does not change when PCA subtracts the mean
    index = faiss.index_factory(gallery.shape[1], f"PCAR{kept},PQ{kept // 2}x4fs,RFlat", faiss.METRIC_L2)
    index.train(gallery[np.random.default_rng(0).permutation(len(gallery))[:TRAINING_ROWS]])
    return index


def set_candidates(index: Any, gallery_features: ArrayLike | Any, recall: float = RECALL, k: int = 10) -> float:
    """Set an index of kind pq to the fewest candidates that find ``recall`` of the k nearest images of its gallery.

    How many are needed depends on the features: more if the nearest images are hardly nearer than others. 8 to 128 per
    image that is asked for are tried with CHECKED gallery images as queries, and compared with exact search.

    Returns the recall that was reached, which is lower than ``recall`` if 128 do not suffice.
    """
    gallery = as_array(gallery_features, "gallery_features")
    chosen = np.random.default_rng(0).choice(len(gallery), min(CHECKED, len(gallery)), replace=False)
    k = min(k, len(gallery) - 1)
    limit = search(gallery[chosen], gallery, k + 1).distances[:, -1:] + 1e-5  # equal distances count as found
    for candidates in (8, 16, 32, 64, 128):
        index.k_factor = candidates
        found = search_index(index, gallery[chosen], k + 1).distances <= limit
        reached = float((found.sum(1) - 1).mean() / k)  # each image finds itself
        if reached >= recall:
            break
    return reached


def search_index(index: Any, query_features: ArrayLike | Any, k: int = 10) -> Neighbours:
    """The k nearest gallery images according to an approximate index."""
    query = unit_rows(query_features, "query_features")
    _check_k(k, index.ntotal)
    found, rows = index.search(query, k)
    distances = found / 2 if index.metric_type == _faiss().METRIC_L2 else 1 - found
    return Neighbours(rows, np.where(rows < 0, np.float32(BEYOND), distances))


def has_faiss() -> bool:
    """Whether FAISS is installed."""
    return importlib.util.find_spec("faiss") is not None


def write_index(index: Any, path: str | Path) -> None:
    """Write a FAISS index atomically."""
    with writing(path), atomic_path(path) as temporary:
        _faiss().write_index(index, str(temporary))


def read_index(path: str | Path) -> Any:
    """Read an index of ``write_index``. Raises InputError for a file that FAISS cannot read."""
    faiss = _faiss()
    try:
        return faiss.read_index(str(path))
    except RuntimeError as error:
        raise InputError(f"{path} is no FAISS index, or is damaged ({error}); embed the folder again") from None


def _check_k(k: int, gallery: int) -> None:
    if not 1 <= k <= gallery:
        raise InputError(f"k = {k}: 1 to {gallery}, the size of the gallery")


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise InputError(FAISS_MISSING) from None
    return faiss
