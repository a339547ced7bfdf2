"""Re-ranking against a dense implementation with sets and loops, and differences to other implementations."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from csgn_lib import retrieval
from csgn_lib.records import InputError
from csgn_lib.retrieval import reranking


def people(count: int, seed: int, width: int = 12, spread: float = 0.8) -> np.ndarray:
    """Features (count, width) of 6 people, unit length, float64."""
    centres = np.random.default_rng(0).standard_normal((6, width))
    generator = np.random.default_rng(seed)
    features = centres[generator.integers(0, 6, count)] + spread * generator.standard_normal((count, width))
    return features / np.linalg.norm(features, axis=1, keepdims=True)


def naive(query, gallery, k1=20, k2=6, lambda_value=0.3, dtype=np.float64, power=1):
    """k-reciprocal re-ranking (Zhong et al., 2017), one image at a time.

    ``dtype`` of the encodings, and ``power`` of the distances 1 - cosine, are where implementations differ.
    """
    unit = np.concatenate([query, gallery])
    distance = (1 - unit @ unit.T).clip(0) ** power
    distance /= distance.max(axis=1, keepdims=True)
    order = [sorted(range(len(unit)), key=lambda j, row=row: (row[j], j)) for row in distance]

    def reciprocal(i, k):
        return {j for j in order[i][: k + 1] if i in order[j][: k + 1]}

    encoding = np.zeros(distance.shape, dtype)
    for i in range(len(unit)):
        near = reciprocal(i, k1)
        members = set(near)
        for j in near:
            half = reciprocal(j, round(k1 / 2))
            if len(half & near) > 2 / 3 * len(half):
                members |= half
        weight = {j: np.exp(-distance[i, j]) for j in members}
        for j, value in weight.items():
            encoding[i, j] = value / sum(weight.values())
    if k2 > 1:
        encoding = np.stack([np.mean(encoding[order[i][:k2]], axis=0) for i in range(len(unit))]).astype(dtype)
    result = np.empty((len(query), len(gallery)))
    for i in range(len(query)):
        for j in range(len(gallery)):
            low = np.minimum(encoding[i], encoding[len(query) + j]).sum(dtype=dtype)
            high = np.maximum(encoding[i], encoding[len(query) + j]).sum(dtype=dtype)
            result[i, j] = (1 - lambda_value) * (1 - low / high) + lambda_value * distance[i, len(query) + j]
    return result


@pytest.mark.parametrize(
    ("k1", "k2", "lambda_value"), [(20, 6, 0.3), (5, 1, 0.0), (7, 3, 1.0), (50, 15, 0.3), (1, 9, 0.5)]
)
def test_reranking_equals_dense_implementation(k1, k2, lambda_value):
    query, gallery = people(12, 1), people(60, 2)
    expected = naive(query, gallery, k1, k2, lambda_value)
    # Any scale of the features: cosines are re-ranked.
    result = retrieval.rerank(9 * query, gallery.astype(np.float32), k1, k2, lambda_value)
    np.testing.assert_allclose(result, expected, atol=2e-6)


def test_large_neighbourhoods_are_limited_to_data():
    query, gallery = people(2, 3), people(5, 4)
    np.testing.assert_allclose(retrieval.rerank(query, gallery, 20, 12), naive(query, gallery, 20, 12), atol=2e-6)


def test_equal_images_do_not_divide_by_zero():
    same = np.ones((5, 3))
    assert np.isfinite(retrieval.rerank(same[:2], same)).all()
    for seed in range(20):  # equal, but 1 - u . u is rounding
        same = np.tile(np.random.default_rng(seed).normal(size=512), (20, 1))
        distances = retrieval.rerank(same[:3], same)
        assert (np.abs(distances) <= 1).all()


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_equal_rows_of_whole_matrix(threads, monkeypatch):
    query, gallery = people(11, 5), people(40, 6)
    whole = retrieval.rerank(query, gallery, threads=1)
    monkeypatch.setattr(reranking, "PAIR_BYTES", 4 * 12 * 10)  # ten pairs at a time
    blocks = list(retrieval.rerank_blocks(query, gallery, rows=4, threads=threads))
    assert [len(block) for block in blocks] == [4, 4, 3]
    np.testing.assert_allclose(np.concatenate(blocks), whole, atol=1e-6)
    frames = [pd.DataFrame({"person": np.arange(n) % 6, "camera": side}) for side, n in enumerate((11, 40))]
    streamed = retrieval.evaluate_distances(retrieval.rerank_blocks(query, gallery, rows=4), *frames, "general")
    np.testing.assert_allclose(
        streamed.per_query["ap"], retrieval.evaluate_distances(whole, *frames, "general").per_query["ap"]
    )


def test_reranking_uses_reciprocal_neighbours():
    """A third view, far from the query, whose neighbours are the query's: re-ranked before a lone stranger."""
    angle = np.deg2rad([0, 12, 24, 36, 48, 60, 72, -50])
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    query, gallery = points[:1], points[1:]
    plain = 1 - query @ gallery.T
    assert plain[0, 4] > plain[0, 6]  # 60 degrees on the chain is further than the stranger at -50
    result = retrieval.rerank(query, gallery, k1=3, k2=2, lambda_value=0.0)
    assert result[0, 2] < result[0, 6]


@pytest.mark.parametrize("bad", [{"k1": 0}, {"k2": 0}, {"lambda_value": 1.5}])
def test_parameters_out_of_range_are_refused(bad):
    with pytest.raises(InputError, match=next(iter(bad))):
        retrieval.rerank(people(2, 0), people(9, 0), **bad)


def test_invalid_features_are_refused():
    broken = people(9, 0)
    broken[4, 0] = np.nan
    with pytest.raises(InputError, match="row 4 of gallery_features"):
        retrieval.rerank(people(2, 0), broken)
    with pytest.raises(InputError, match="12 wide and gallery_features 11"):
        retrieval.rerank(people(2, 0), people(9, 0)[:, :11])


def test_float16_encodings_of_peers_differ_slightly():
    query, gallery = people(8, 7), people(80, 8)
    ours, exact = retrieval.rerank(query, gallery), naive(query, gallery)
    half = naive(query, gallery, dtype=np.float16)
    assert np.abs(ours - exact).max() < 2e-6 < 2e-4 < np.abs(half - exact).max() < 5e-3


def test_torchreid_reranking_differs():
    """Its re-ranking squares what its default distance has squared already: a power of 4, where Zhong has 2."""
    query, gallery = people(8, 9), people(80, 10)
    zhong, fourth = naive(query, gallery), naive(query, gallery, power=2)
    assert np.abs(zhong - fourth).max() > 0.02
    assert (zhong.argsort(kind="stable") != fourth.argsort(kind="stable")).any()
    np.testing.assert_allclose(retrieval.rerank(query, gallery), zhong, atol=2e-6)
