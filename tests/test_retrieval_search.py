"""Exact and approximate search and query expansion, against sorting."""

from __future__ import annotations

import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csgn_lib import retrieval
from csgn_lib.records import InputError
from csgn_lib.retrieval import neighbours


def features(count: int, seed: int, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float32, (3, 10), elements=st.integers(-2, 2).map(float)), st.integers(1, 10))
def test_nearest_equals_stable_sort(block, k):
    columns, values = neighbours.nearest(block, k)
    expected = block.argsort(axis=1, kind="stable")[:, :k]
    assert columns.tolist() == expected.tolist()
    assert values.tolist() == np.take_along_axis(block, expected, axis=1).tolist()


@pytest.mark.parametrize("queries", [3, 40])  # few read the gallery once; many work in blocks
def test_block_search_is_exact(monkeypatch, queries):
    monkeypatch.setattr(neighbours, "CHUNK", 7)
    monkeypatch.setattr("csgn_lib.retrieval.blocks.BLOCK_BYTES", 4 * 50 * 3)
    query, gallery = features(queries, 0), features(50, 1)
    found = retrieval.search(5 * query, 3 * gallery, 7, threads=2)
    distance = 1 - unit(query) @ unit(gallery).T
    expected = distance.argsort(axis=1, kind="stable")[:, :7]
    assert found.rows.tolist() == expected.tolist()
    np.testing.assert_allclose(found.distances, np.take_along_axis(distance, expected, axis=1), atol=1e-6)


@pytest.mark.parametrize("k", [0, 51])
def test_invalid_k_is_refused(k):
    with pytest.raises(InputError, match=f"k = {k}: 1 to 50"):
        retrieval.search(features(2, 0), features(50, 1), k)


def test_missing_neighbours_are_ranked_last():
    found = retrieval.Neighbours(
        np.array([[3, -1], [0, 2]]), np.array([[0.5, neighbours.BEYOND], [0.1, 0.2]], np.float32)
    )
    (first, second) = found.blocks(4, rows=1)
    assert first.tolist() == [[3.0, 3.0, 3.0, 0.5]]
    np.testing.assert_allclose(second, [[0.1, 3.0, 0.2, 3.0]])


def test_found_neighbours_give_exact_rank_1():
    query, gallery = features(20, 2), features(60, 3)
    frames = [pd.DataFrame({"person": np.arange(n) % 5, "camera": side}) for side, n in enumerate((20, 60))]
    exact = retrieval.evaluate(query, gallery, *frames, "general")
    blocks = retrieval.search(query, gallery, 4).blocks(60, rows=6)
    assert retrieval.evaluate_distances(blocks, *frames, "general").rank1 == exact.rank1


@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_expansion_is_weighted_mean(alpha):
    query, gallery = features(6, 4), features(30, 5)
    asked, ranked = unit(query.astype(float)), unit(gallery.astype(float))
    expected = []
    for row in asked:
        cosine = ranked @ row
        near = np.argsort(-cosine)[:3]
        expected.append(row + sum(max(cosine[j], 0) ** alpha * ranked[j] for j in near))
    result = retrieval.expand_queries(query, gallery, 3, alpha)
    np.testing.assert_allclose(result, unit(np.array(expected)), atol=1e-6)
    with pytest.raises(InputError, match="alpha = -1"):
        retrieval.expand_queries(query, gallery, 3, -1)


def test_expansion_does_not_modify_input():
    query = unit(features(3, 6))
    before = query.copy()
    retrieval.expand_queries(query, features(9, 7), 2)
    assert (query == before).all()


@pytest.mark.parametrize(
    "settings",
    [{"kind": "ivf", "lists": 4, "probes": 4}, {"kind": "hnsw", "probes": 100}, {"kind": "pq", "probes": 60}],
)
def test_full_probe_index_is_exact(settings):
    pytest.importorskip("faiss")
    query, gallery = features(10, 8), features(300, 9)
    index = retrieval.approximate_index(3 * gallery, **settings)
    found, exact = retrieval.search_index(index, 2 * query, 5), retrieval.search(query, gallery, 5)
    assert found.rows.tolist() == exact.rows.tolist()
    np.testing.assert_allclose(found.distances, exact.distances, atol=1e-5)


def test_index_with_too_few_results_is_marked():
    pytest.importorskip("faiss")
    index = retrieval.approximate_index(features(200, 10), lists=5, probes=1)
    found = retrieval.search_index(index, features(4, 11), 150)
    assert (found.rows[:, -1] == -1).all() and (found.distances[:, -1] == neighbours.BEYOND).all()
    assert (found.rows[:, 0] >= 0).all()


def test_candidates_are_as_few_as_the_recall_needs():
    pytest.importorskip("faiss")
    gallery = features(3000, 12, 64) + 3  # a mean, as real features have
    index = retrieval.approximate_index(gallery, "pq")
    reached, few = neighbours.set_candidates(index, gallery, 0.5), index.k_factor
    assert reached >= 0.5 and neighbours.set_candidates(index, gallery, 1.1) <= 1 and few < index.k_factor == 128
    chosen = np.random.default_rng(0).choice(3000, neighbours.CHECKED, replace=False)
    index.k_factor = few
    found, exact = retrieval.search_index(index, gallery[chosen], 11), retrieval.search(gallery[chosen], gallery, 11)
    shares = [len(set(a) & set(b) - {own}) / 10 for a, b, own in zip(found.rows, exact.rows, chosen, strict=True)]
    assert reached == pytest.approx(np.mean(shares), abs=0.02)
    with pytest.raises(InputError, match="an index of kind pq needs 16 images, and there are 15; search exactly"):
        retrieval.approximate_index(gallery[:15], "pq")


def test_unknown_index_and_missing_faiss_are_named(monkeypatch):
    with pytest.raises(InputError, match="pip install csgn-workbench\\[faiss\\]"):
        monkeypatch.setitem(sys.modules, "faiss", None)
        retrieval.approximate_index(features(50, 0))
    monkeypatch.undo()
    pytest.importorskip("faiss")
    with pytest.raises(InputError, match="'lsh'; one of ivf, hnsw, pq"):
        retrieval.approximate_index(features(50, 0), "lsh")


def test_zero_gallery_row_is_named_for_few_queries():
    gallery = features(50, 1)
    gallery[33] = 0
    for queries in (3, 40):
        with pytest.raises(InputError, match="row 33 of gallery_features is zero"):
            retrieval.search(features(queries, 0), gallery, 2)
    with pytest.raises(InputError, match="8 wide and gallery_features 5"):
        retrieval.search(features(3, 0), gallery[:, :5], 2)
    np.testing.assert_allclose(
        neighbours.cosine_distances(features(3, 0), gallery[:5]),
        1 - unit(features(3, 0)) @ unit(gallery[:5]).T,
        atol=1e-6,
    )
