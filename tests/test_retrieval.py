"""Scores against a naive implementation, and known mistakes of other evaluation code."""

from __future__ import annotations

import doctest
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csgn_lib import datasets, retrieval
from csgn_lib.datasets import Protocol
from csgn_lib.records import InputError
from csgn_lib.retrieval import blocks, evaluation, features, ranking, scores

LABELS = st.integers(-1, 3)
ROWS = st.lists(st.tuples(LABELS, LABELS, LABELS), min_size=1, max_size=9)
CORE = ("general", "cloth_changing", "same_clothes")


def frame(rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["person", "camera", "clothes"]).assign(
        path=[f"{i}.png" for i in range(len(rows))]
    )


def world(queries: int = 40, gallery: int = 120, people: int = 8, width: int = 6, seed: int = 0):
    """Features that know the person a little, and frames with all labels known."""
    generator = np.random.default_rng(seed)
    centres = generator.standard_normal((people, width))
    sides = []
    for count in (queries, gallery):
        person = generator.integers(0, people, count)
        rows = np.stack([person, generator.integers(0, 4, count), 3 * person + generator.integers(0, 3, count)], axis=1)
        noise = generator.standard_normal((count, width))
        sides.append(((centres[person] + noise).astype(np.float32), frame(rows)))
    (query_features, query), (gallery_features, gallery_frame) = sides
    return query_features, gallery_features, query, gallery_frame


def is_match(name: str, q, g) -> bool:
    """Whether a gallery image of the query's person counts, in the words of the field."""
    if name != "general" and -1 in (q.clothes, g.clothes):
        return False
    other_camera = q.camera != g.camera or q.camera == -1
    other_clothes = q.clothes != g.clothes
    return other_camera and {"general": True, "cloth_changing": other_clothes, "same_clothes": not other_clothes}[name]


def naive(distances, query, gallery, name, ap="field"):
    """(ap, first hit, inp) of each query or None, by sorting, dropping and counting one image at a time."""
    results, images = [], list(gallery.itertuples())
    for i, q in enumerate(query.itertuples()):
        order = sorted(range(len(gallery)), key=lambda j: (distances[i][j], j))
        hits, rank, found, area, previous = [], 0, 0, 0.0, 1.0
        for j in order:
            same = q.person == images[j].person != -1
            if same and not is_match(name, q, images[j]):
                continue
            rank += 1
            found += same
            if same:
                hits.append(rank)
                area += (previous + found / rank) / 2
            previous = found / rank
        if not hits:
            results.append(None)
            continue
        precision = sum((h + 1) / r for h, r in enumerate(hits)) / len(hits)
        results.append((precision if ap == "field" else area / len(hits), hits[0], len(hits) / hits[-1]))
    return results


def same_as_naive(result: retrieval.Scores, expected) -> None:
    assert result.per_query["valid"].tolist() == [row is not None for row in expected]
    counted = [row for row in expected if row is not None]
    seen = result.per_query[result.per_query["valid"]]
    np.testing.assert_allclose(seen[["ap", "first_hit", "inp"]].to_numpy(float), counted, rtol=1e-12)
    first = np.array([row[1] for row in counted])
    np.testing.assert_allclose(result.cmc, [(first <= k).mean() for k in range(1, result.ranks + 1)], rtol=1e-12)
    means = np.mean(counted, axis=0)
    np.testing.assert_allclose([result.mean_ap, result.minp], means[[0, 2]], rtol=1e-12)
    assert (result.counted, result.dropped) == (len(counted), len(expected) - len(counted))


@settings(max_examples=100, deadline=None)
@given(ROWS, ROWS, st.data(), st.sampled_from(CORE), st.sampled_from(["field", "trapezoid"]))
def test_scores_equal_naive_implementation(asked, ranked, data, name, ap):
    query, gallery = frame(asked), frame(ranked)
    whole = st.integers(0, 3).map(float)  # few values: many ties
    distances = data.draw(hnp.arrays(np.float32, (len(query), len(gallery)), elements=whole))
    protocol = datasets.PROTOCOLS[name]
    protocol = Protocol(name, protocol.description, protocol.junk, ap=ap, needs=protocol.needs)
    expected = naive(distances, query, gallery, name, ap)
    if any(name != "general" and (f["clothes"] == -1).all() for f in (query, gallery)) or not any(expected):
        with pytest.raises(InputError, match=name):
            retrieval.evaluate_distances(distances, query, gallery, protocol)
        return
    same_as_naive(retrieval.evaluate_distances(distances, query, gallery, protocol, threads=2), expected)


@pytest.mark.parametrize("name", CORE)
def test_features_score_like_their_distances(name):
    query_features, gallery_features, query, gallery = world()
    unit = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in (query_features, gallery_features)]
    expected = naive(-(unit[0].astype(float) @ unit[1].T.astype(float)), query, gallery, name)
    same_as_naive(retrieval.evaluate(query_features * 7, gallery_features / 3, query, gallery, name), expected)


@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_have_no_effect(threads, monkeypatch):
    arguments = world(seed=1)
    whole = retrieval.evaluate(*arguments, "general", threads=1)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 4 * 120 * 7)
    assert blocks.block_rows(40, 120, 1) <= 7
    pieces = retrieval.evaluate(*arguments, "general", threads=threads)
    pd.testing.assert_frame_equal(pieces.per_query, whole.per_query)


def test_long_comparisons_report_progress_by_tenths(monkeypatch, capfd):
    query_features, gallery_features, query, gallery = world()
    monkeypatch.setattr("csgn_lib.progress.LONG", 0)
    monkeypatch.setattr("csgn_lib.progress._is_watched", lambda: False)
    monkeypatch.setattr("csgn_lib.retrieval.blocks.BLOCK_BYTES", 4 * 120 * 2)
    retrieval.evaluate(query_features, gallery_features, query, gallery, threads=1)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[0].startswith("comparing with the gallery: 10 %, 2 of 20, ")


def test_block_size_respects_memory_limit():
    rows = blocks.block_rows(10_176, 125_353, threads=2)
    assert 4 * 125_353 * rows * 2 <= blocks.BLOCK_BYTES and rows > 400
    assert blocks.block_rows(3, 10**12, threads=8) == 1


def test_several_protocols_equal_single_ones():
    arguments = world(seed=2)
    together = retrieval.evaluate_all(*arguments, CORE)
    assert list(together) == list(CORE)
    for name in CORE:
        pd.testing.assert_frame_equal(together[name].per_query, retrieval.evaluate(*arguments, name).per_query)


def test_protocols_share_one_pass():
    query_features, gallery_features, query, gallery = world(seed=12)
    asked = [
        Protocol(f"camera {camera}", "one camera asks", junk=(), query_where=(("camera", (camera,)),))
        for camera in (0, 1)
    ]
    together = retrieval.evaluate_all(query_features, gallery_features, query, gallery, asked)
    for protocol in asked:
        alone = retrieval.evaluate(query_features, gallery_features, query, gallery, protocol)
        pd.testing.assert_frame_equal(together[protocol.name].per_query, alone.per_query)
        assert set(alone.per_query["camera"]) == {int(protocol.name[-1])}


def test_distances_in_blocks_and_as_tensors():
    query_features, gallery_features, query, gallery = world(seed=3)
    distances = -(query_features @ gallery_features.T)
    whole = retrieval.evaluate_distances(distances, query, gallery).per_query
    cut = (distances[start : start + 7] for start in range(0, 40, 7))
    pd.testing.assert_frame_equal(retrieval.evaluate_distances(cut, query, gallery).per_query, whole)
    tensor = torch.from_numpy(distances)
    pd.testing.assert_frame_equal(retrieval.evaluate_distances(tensor, query, gallery).per_query, whole)
    wide = np.asfortranarray(distances.astype(np.float64))
    pd.testing.assert_frame_equal(retrieval.evaluate_distances(wide, query, gallery).per_query, whole)


def test_blocks_are_read_lazily():
    taken, done = [], []

    def stream():
        for start in range(20):
            taken.append(start)
            yield start

    for item in blocks.in_threads(lambda item: item, stream(), 2):
        done.append(item)
        assert len(taken) - len(done) <= 4
    assert done == list(range(20))


def test_float64_distances_keep_precision():
    query, gallery = frame([(0, 0, 0)]), frame([(1, 1, 1), (0, 1, 1)])
    near, far = 1.0, np.nextafter(1.0, 2.0)  # equal as float32
    assert retrieval.evaluate_distances(np.array([[far, near]]), query, gallery).rank1 == 1
    assert retrieval.evaluate_distances(np.array([[far, near]], np.float32), query, gallery).rank1 == 0


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.float32, (20, 12), elements=st.integers(-3, 3).map(float)), st.data())
def test_column_scale_equals_scaled_input(block, data):
    scale = np.array(data.draw(st.lists(st.sampled_from([0.5, 1, 2]), min_size=12, max_size=12)), np.float32)
    entries = data.draw(st.sets(st.tuples(st.integers(0, 19), st.integers(0, 11)), min_size=1))
    row, column = np.array(sorted(entries)).T
    ready = block * scale
    expected = [np.sum(ready[i] < ready[i, j]) + np.sum(ready[i, :j] == ready[i, j]) + 1 for i, j in sorted(entries)]
    assert ranking.full_ranks(block, row, column, scale).tolist() == expected


def test_gallery_subsets_are_ranked_separately():
    query_features, gallery_features, query, gallery = world(seed=5)
    where = (("camera", (1, 2)),)
    subset = Protocol("cameras", "two cameras", junk=((("camera", "same"),),), query_where=where, gallery_where=where)
    result = retrieval.evaluate(query_features, gallery_features, query, gallery, subset)
    asked, ranked = (np.flatnonzero(f["camera"].isin([1, 2])) for f in (query, gallery))
    alone = retrieval.evaluate(
        query_features[asked], gallery_features[ranked], query.iloc[asked], gallery.iloc[ranked], "general"
    )
    assert result.per_query["row"].tolist() == asked.tolist()
    pd.testing.assert_frame_equal(result.per_query.drop(columns="row"), alone.per_query.drop(columns="row"))


def test_single_shot_is_mean_of_galleries():
    query_features, gallery_features, query, gallery = world(seed=6)
    query, gallery = query.assign(camera=2), gallery.assign(camera=0)
    query.attrs["benchmark"] = "prcc"
    result = retrieval.evaluate(query_features, gallery_features, query, gallery, "cross_clothes_single_shot")
    draws = result.protocol.gallery_rows(gallery)
    each = [
        retrieval.evaluate(query_features, gallery_features[rows], query, gallery.iloc[rows], "general")
        for rows in draws
    ]
    assert len(each) == 10 and (result.counted, result.dropped) == (40, 0)
    assert len({one.mean_ap for one in each}) > 1
    for metric in ("rank1", "mean_ap", "minp"):
        np.testing.assert_allclose(getattr(result, metric), np.mean([getattr(one, metric) for one in each]))
    np.testing.assert_allclose(result.cmc, np.mean([one.cmc for one in each], axis=0))
    assert result.interval()[0] < result.mean_ap < result.interval()[1]


def test_draws_have_equal_weight():
    per_query = pd.DataFrame({"row": [0, 1, 0, 1], "draw": [0, 0, 1, 1], "person": [0, 1, 0, 1]})
    per_query["valid"], per_query["ap"] = [True, True, True, False], [1.0, 0.0, 0.0, np.nan]
    per_query["inp"], per_query["first_hit"] = per_query["ap"], [1, 2, 3, 0]
    result = retrieval.Scores(datasets.PROTOCOLS["general"], per_query, ranks=3)
    assert (result.mean_ap, result.counted, result.dropped) == (0.25, 2, 0)
    assert result.cmc.tolist() == [0.25, 0.5, 1.0]


def test_tracklet_features_are_weighted_means():
    generator = np.random.default_rng(7)
    query = frame([(0, 0, 0)] * 9 + [(1, 0, 1)]).assign(tracklet=[4] * 9 + [2])
    gallery = frame([(1, 1, 2), (0, 1, 3)]).assign(tracklet=[0, 1])
    query_features = generator.standard_normal((10, 5)) * generator.uniform(0.1, 9, (10, 1))
    gallery_features = generator.standard_normal((2, 5))
    query.attrs["benchmark"] = "ccvid"
    result = retrieval.evaluate(query_features, gallery_features, query, gallery)
    first = (query_features[:8].mean(axis=0) + query_features[8]) / 2  # clips: frames 0-7, then frame 8 repeated
    asked = np.stack([first, query_features[9]])
    alone = retrieval.evaluate(
        asked, gallery_features, query.iloc[[0, 9]], gallery, datasets.PROTOCOLS["cloth_changing"]
    )
    np.testing.assert_allclose(features.by_tracklet(query_features, query, "query_features")[0], asked)
    assert result.per_query["row"].tolist() == [0, 9]
    assert result.per_query["ap"].tolist() == alone.per_query["ap"].tolist()
    with pytest.raises(InputError, match="one row a tracklet"):
        retrieval.evaluate_distances(np.ones((10, 2)), query, gallery)


def bad(what: str):
    query_features, gallery_features, query, gallery = (part.copy() for part in world(6, 9))
    name = "general"
    if what == "nan":
        query_features[3, 1] = np.nan
    elif what == "infinity":
        gallery_features[4:] = np.inf
    elif what == "zero":
        gallery_features[2] = 0
    elif what == "short":
        query_features = query_features[:-1]
    elif what == "narrow":
        gallery_features = gallery_features[:, :-1]
    elif what == "flat":
        query_features = query_features[:, 0]
    elif what == "text":
        query_features = query_features.astype(str)
    elif what == "empty":
        gallery, gallery_features = gallery[:0], gallery_features[:0]
    elif what == "unknown":
        name = "cloth_changin"
    elif what == "unlabelled":
        query["clothes"], name = -1, "cloth_changing"
    elif what == "nobody":
        gallery["person"] = 99
    return query_features, gallery_features, query, gallery, name


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("nan", "row 3 of query_features holds NaN or infinity"),
        ("infinity", "row 4 of gallery_features holds NaN or infinity"),
        ("zero", "row 2 of gallery_features is zero"),
        ("short", "query_features has 5 rows and the query frame 6"),
        ("narrow", "6 wide and gallery_features 5"),
        ("flat", r"query_features has the shape \(6,\)"),
        ("text", "query_features has the type"),
        ("empty", r"gallery_features has the shape \(0, 6\)"),
        ("unknown", "did you mean 'cloth_changing'"),
        ("unlabelled", "needs clothes labels"),
        ("nobody", "none of the 6 queries has a match left"),
    ],
)
def test_invalid_input_is_named(what, message):
    with pytest.raises(InputError, match=message):
        retrieval.evaluate(*bad(what))


def test_empty_split_is_named():
    with pytest.raises(InputError, match="gallery split is empty"):
        retrieval.evaluate(np.ones((1, 2)), np.ones((1, 2)), frame([(0, 0, 0)]), frame([])[:0], "general")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_distances_name_query(value):
    _, _, query, gallery = world(6, 9)
    distances = np.ones((6, 9), np.float32)
    distances[4:, 2] = value
    with pytest.raises(InputError, match="distances of query 4 hold NaN or infinity"):
        retrieval.evaluate_distances(distances, query, gallery, "general")
    large = np.full((6, 9), 1e38, np.float32)  # finite, though a row's sum overflows
    assert retrieval.evaluate_distances(large, query, gallery, "general").counted


@pytest.mark.parametrize("shape", [(5, 9), (7, 9), (6, 8), (6,)])
def test_distances_of_wrong_shape_are_refused(shape):
    _, _, query, gallery = world(6, 9)
    with pytest.raises(InputError, match="distances"):
        retrieval.evaluate_distances(np.ones(shape), query, gallery, "general")


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32])
def test_large_distances_in_tensors_are_finite(kind):
    _, _, query, gallery = world(6, 9)
    distances = torch.full((6, 9), 6e4 if kind == torch.float16 else 1e38, dtype=kind)
    assert retrieval.evaluate_distances(distances, query, gallery, "general").counted
    distances[4, 2] = torch.nan
    with pytest.raises(InputError, match="distances of query 4 hold NaN"):
        retrieval.evaluate_distances(distances, query, gallery, "general")


def test_list_of_blocks_is_accepted():
    query_features, gallery_features, query, gallery = world(7, 30)
    distances = -query_features @ gallery_features.T
    whole = retrieval.evaluate_distances(distances, query, gallery, "general")
    for blocks_given in ([distances[:2], distances[2:]], [torch.from_numpy(distances)], distances.tolist()):
        listed = retrieval.evaluate_distances(blocks_given, query, gallery, "general")
        pd.testing.assert_frame_equal(listed.per_query, whole.per_query)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"distances": [[1.0, 2.0], [1.0]]}, "distances cannot be read as one table"),
        ({"distances": None}, "distances are None"),
        ({"distances": []}, "distances"),
        ({"ranks": 0}, "ranks = 0"),
    ],
)
def test_invalid_distances_are_refused(given, message):
    query, gallery = frame([(0, 0, 0)] * 2), frame([(0, 1, 1)] * 2)
    with pytest.raises(InputError, match=message):
        retrieval.evaluate_distances(**{"distances": np.ones((2, 2)), "query": query, "gallery": gallery} | given)


@pytest.mark.parametrize("name", ["ltcc", "prcc", "ccvid", "celebreid", "vcclothes", "last"])
def test_rankings_agree_with_scores(name, tmp_path):
    b = datasets.load(name, trees.TREES[name](tmp_path, decodable=False))
    generator = np.random.default_rng(0)
    sides = [generator.standard_normal((len(side), 5)).astype(np.float32) for side in (b.query, b.gallery)]
    assert b.protocols
    for protocol in b.protocols:
        rankings = retrieval.Rankings(*sides, b.query, b.gallery, protocol)
        scored = retrieval.evaluate(*sides, b.query, b.gallery, protocol).per_query
        for query in scored.itertuples():
            order = rankings.of(query.row, query.draw)
            right = b.gallery["person"].to_numpy()[order] == query.person
            assert right.sum() == query.matches
            assert (np.argmax(right) + 1 if query.valid else 0) == query.first_hit


def test_non_query_row_has_no_ranking(tmp_path):
    b = datasets.load("prcc", trees.prcc(tmp_path, decodable=False))
    rankings = retrieval.Rankings(
        np.eye(len(b.query), 3) + 1, np.eye(len(b.gallery), 3) + 1, b.query, b.gallery, "cross_clothes"
    )
    same_clothes = int(np.argmax(b.query["camera"] == 1))
    for row in (same_clothes, len(b.query)):
        with pytest.raises(InputError, match=f"row {row} is no query of cross_clothes"):
            rankings.of(row)


def test_protocol_names_must_be_unique():
    arguments = world(6, 9)
    for names in ([], ["general", "general"], "general"):
        with pytest.raises(InputError, match="protocols"):
            retrieval.evaluate_all(*arguments, names)


def test_interval_resamples_people():
    rows = [{"row": i, "draw": 0, "person": i // 50, "valid": True, "ap": float(i >= 50)} for i in range(100)]
    per_query = pd.DataFrame(rows).assign(inp=0.5, first_hit=1)
    result = retrieval.Scores(datasets.PROTOCOLS["general"], per_query)
    # Two people drawn of two: mAP 0, 1/2 or 1 with probabilities 1/4, 1/2, 1/4.
    assert result.interval(level=0.95) == (0.0, 1.0)
    assert result.interval(level=0.4) == (0.5, 0.5)
    assert result.interval("minp") == (0.5, 0.5) and result.interval("rank1") == (1.0, 1.0)


def test_interval_is_seeded_and_refuses_invalid_input():
    result = retrieval.evaluate(*world(seed=8))
    assert result.interval(seed=3) == result.interval(seed=3) != result.interval(seed=4)
    for arguments in ({"metric": "mAP"}, {"level": 95}, {"resamples": 0}):
        with pytest.raises(InputError):
            result.interval(**arguments)
    alone = retrieval.Scores(result.protocol, result.per_query.query("person == 0"))
    with pytest.raises(InputError, match="two of them, counted is 1"):
        alone.interval()


def test_gain_is_paired_query_by_query():
    rows = [{"row": i, "draw": 0, "person": i // 2, "valid": i != 5, "ap": float(i % 4) / 4} for i in range(20)]
    per_query = pd.DataFrame(rows).assign(inp=0.5, first_hit=1)
    before = retrieval.Scores(datasets.PROTOCOLS["general"], per_query)
    after = retrieval.Scores(before.protocol, per_query.assign(ap=per_query["ap"] + 0.125, first_hit=2))
    assert after.gain(before) == (0.125, 0.125, 0.125)  # however much the queries differ among themselves
    assert before.interval()[1] - before.interval()[0] > 0.05
    assert after.gain(before, "rank1") == (-1, -1, -1)
    better = np.where(per_query["person"] == 0, 1.0, per_query["ap"])  # one person of ten gains
    mean, low, high = retrieval.Scores(before.protocol, per_query.assign(ap=better)).gain(before)
    assert low == 0 < mean < high
    with pytest.raises(InputError, match="do not count the same queries"):
        after.gain(retrieval.Scores(before.protocol, per_query.assign(valid=True)))


def test_all_representations_show_counted_queries():
    query = frame([(0, 0, 0), (1, 0, 1), (5, 0, 2)])
    gallery = frame([(0, 1, 3), (1, 0, 4)])  # the second query's only image is from its camera
    result = retrieval.evaluate_distances(np.ones((3, 2)), query, gallery)
    assert "1 queries counted, 2 dropped" in str(result)
    assert "<td>1</td><td>2</td>" in result._repr_html_()
    assert (result.summary()["counted"], result.summary()["dropped"]) == (1, 2)
    assert result.per_query["person"].tolist() == [0, 1, 5] and result.per_query["path"].tolist()[0] == "0.png"
    assert result.per_query["ap"].isna().tolist() == [False, True, True]


def test_unit_features_are_not_copied():
    unit = features.unit_rows(world()[1] * 3)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, atol=1e-6)
    assert features.unit_rows(unit) is unit
    assert features.unit_rows(unit.astype(np.float64)).dtype == np.float32


def test_scoring_arrays_does_not_import_torch():
    code = "import sys; from csgn_lib.retrieval import evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_docstring_examples_of_retrieval():
    for module in (evaluation, features, ranking, scores):
        assert doctest.testmod(module).failed == 0
