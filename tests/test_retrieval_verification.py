"""Verification and open-set rates against an implementation that counts each pair and search."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from test_retrieval import frame, is_match, world

from csgn_lib import figures, retrieval
from csgn_lib.records import InputError
from csgn_lib.retrieval import verification
from csgn_lib.retrieval.verification import STEP


def distances_of(query_features, gallery_features):
    unit = [f / np.linalg.norm(f, axis=1, keepdims=True) for f in (query_features, gallery_features)]
    return 1 - unit[0] @ unit[1].T


def slow_pairs(distances, query, gallery, name):
    """Distances of genuine and of impostor pairs, by two loops."""
    genuine, impostor = [], []
    for i, q in enumerate(query.itertuples()):
        for j, g in enumerate(gallery.itertuples()):
            if -1 in (q.person, g.person):
                continue
            if q.person != g.person:
                impostor.append(distances[i, j])
            elif is_match(name, q, g):
                genuine.append(distances[i, j])
    return np.array(genuine), np.array(impostor)


def slow_searches(distances, query, gallery, name, threshold):
    """FPIR and FNIR at a threshold, by searching twice for each query."""
    alarms, missed, mated, asked = 0, 0, 0, 0
    for i, q in enumerate(query.itertuples()):
        if q.person == -1:
            continue
        asked += 1
        others = [distances[i, j] for j, g in enumerate(gallery.itertuples()) if g.person not in (q.person, -1)]
        own = [
            distances[i, j] for j, g in enumerate(gallery.itertuples()) if g.person == q.person and is_match(name, q, g)
        ]
        alarms += min(others) < threshold
        if own:
            mated += 1
            missed += not (min(own) < threshold and min(own) <= min(others))
    return alarms / asked, missed / mated


@pytest.fixture(scope="module")
def small():
    query_features, gallery_features, query, gallery = world(seed=3)
    gallery.loc[[4, 9], "person"] = -1
    query.loc[2, "person"] = -1
    return query_features, gallery_features, query, gallery


@pytest.mark.parametrize("name", ["general", "cloth_changing", "same_clothes"])
def test_rates_equal_counts(small, name):
    found = retrieval.verify(*small, [name], resamples=5)[name]
    distances = distances_of(*small[:2])
    genuine, impostor = slow_pairs(distances, *small[2:], name)
    assert found.counts | {"genuine": len(genuine), "impostor": len(impostor)} == found.counts
    for level in (0.1, 0.01):
        tar = found.rate("tar", level)
        assert (impostor < tar.threshold - 1e-6).mean() <= level
        assert (impostor < tar.threshold + STEP + 1e-6).mean() > level  # the next threshold accepts too many
        assert tar.value == pytest.approx((genuine < tar.threshold).mean(), abs=2 / len(genuine))
    thresholds = np.sort(np.r_[genuine, impostor])
    gaps = [abs((impostor < t).mean() - (genuine >= t).mean()) for t in thresholds]
    t = thresholds[int(np.argmin(gaps))]
    assert found.rate("eer").value == pytest.approx(((impostor < t).mean() + (genuine >= t).mean()) / 2, abs=0.01)
    fnir = found.rate("fnir", 0.1)
    fpir, slow = slow_searches(distances, *small[2:], name, fnir.threshold - 1e-7)
    assert fpir <= 0.1 and fnir.value == pytest.approx(slow, abs=1e-9)
    beyond, _ = slow_searches(distances, *small[2:], name, fnir.threshold + 1e-5)
    assert beyond > 0.1
    for point in found.searches.iloc[::40].itertuples():
        slow = slow_searches(distances, *small[2:], name, point.threshold - 1e-7)
        assert (point.fpir, point.fnir) == pytest.approx(slow, abs=1e-9)


def test_verification_by_hand():
    """One genuine pair at distance 0, one at 1; impostors at 1 and 0: half of each is right at any threshold."""
    query, gallery = frame([(0, 0, 0), (1, 0, 1)]), frame([(0, 1, 2), (1, 1, 3)])
    features = np.eye(2, dtype=np.float32)
    found = retrieval.verify(features, features, query, gallery, ["general"], resamples=20)["general"]
    assert found.counts == {
        "genuine": 2, "impostor": 2, "mated": 2, "non_mated": 2, "people": 2, "gallery": 2,
    }  # fmt: skip
    assert found.rate("eer").value == 0 and np.isnan(found.rate("tar", 0.1).value)  # two impostor pairs tell no 10 %
    swapped = retrieval.verify(features, features[::-1], query, gallery, ["general"], resamples=20)["general"]
    assert swapped.rate("eer").value == 1  # every impostor is nearer than every genuine pair


def test_rates_with_too_few_pairs_are_missing(small):
    found = retrieval.verify(*small, ["general"], resamples=5)["general"]
    assert found.counts["impostor"] < 10_000
    rare = found.rate("tar", 1e-4)
    assert np.isnan([rare.value, rare.low, rare.high, rare.threshold]).all()
    assert found.record()["rates"][3]["value"] is None
    json.dumps(found.record(), allow_nan=False)


def test_blocks_and_threads_have_no_effect(small, monkeypatch):
    expected = retrieval.verify(*small, ["general"], resamples=5, threads=1)["general"].record()
    monkeypatch.setattr("csgn_lib.retrieval.blocks.BLOCK_BYTES", 4 * 120 * 3)
    found = retrieval.verify(*small, ["general"], resamples=5, threads=3)["general"].record()
    assert found["counts"] == expected["counts"]
    for name in ("rates", "pairs", "searches"):
        pd.testing.assert_frame_equal(pd.DataFrame(found[name]), pd.DataFrame(expected[name]), atol=2 * STEP)


def test_verification_intervals_resample_people(small):
    """The interval is that of a loop which draws people, repeats their rows and measures again."""
    query_features, gallery_features, query, gallery = small
    found = retrieval.verify(*small, ["general"], resamples=200)["general"]
    people = np.unique(query["person"][query["person"] != -1])
    rng, drawn = np.random.default_rng(5), {"tar": [], "eer": [], "fnir": []}
    for _ in range(40):
        rows = np.concatenate([np.flatnonzero(query["person"] == p) for p in rng.choice(people, len(people))])
        again = retrieval.verify(
            query_features[rows],
            gallery_features,
            query.iloc[rows].reset_index(drop=True),
            gallery,
            ["general"],
            resamples=2,
        )["general"]
        for metric, level in (("tar", 0.1), ("eer", None), ("fnir", 0.1)):
            drawn[metric].append(again.rate(metric, level).value)
    for metric, level in (("tar", 0.1), ("eer", None), ("fnir", 0.1)):
        rate = found.rate(metric, level)
        assert rate.low <= rate.value <= rate.high
        low, high = np.quantile(drawn[metric], [0.025, 0.975])
        assert (rate.low, rate.high) == pytest.approx((low, high), abs=0.5 * (high - low))


def test_suggested_threshold_keeps_error_rate(small):
    query_features, gallery_features, query, gallery = small
    record = retrieval.verify(*small, ["general"], resamples=5)["general"].record()
    for wanted in (0.05, 0.1, 0.5):
        threshold = retrieval.suggested_threshold(record, wanted)
        fpir, _ = slow_searches(distances_of(*small[:2]), query, gallery, "general", threshold - 1e-7)
        assert 0 < threshold and fpir <= wanted
    with pytest.raises(InputError, match="only 39 searches were measured.*below 0.026"):
        retrieval.suggested_threshold(record, 0.01)
    with pytest.raises(InputError, match="between 0 and 1"):
        retrieval.suggested_threshold(record, 1.5)


def test_protocols_with_same_pairs_are_measured_once():
    names = [p.name for p in verification._distinct(["general", "general_trapezoid", "general_official"], "celebreid")]
    assert names == ["general", "general_official"]
    prcc = ["cross_clothes", "same_clothes", "cross_clothes_single_shot"]
    assert [p.name for p in verification._distinct(prcc, "prcc")] == ["cross_clothes", "same_clothes"]


def test_single_person_and_no_pairs_are_refused(small):
    query_features, gallery_features, query, gallery = small
    one = (query["person"] == 0).to_numpy()
    with pytest.raises(InputError, match="needs two of them, general asks for 1"):
        retrieval.verify(query_features[one], gallery_features, query[one], gallery, ["general"])
    everybody = gallery.assign(camera=0), query.assign(camera=0)
    with pytest.raises(InputError, match="0 genuine"):
        retrieval.verify(query_features, gallery_features, everybody[1], everybody[0], ["general"])
    with pytest.raises(InputError, match="was not measured"):
        retrieval.verify(*small, ["general"], resamples=2)["general"].rate("tar", 0.5)


def test_tracklets_are_verified_as_tracklets():
    query_features, gallery_features, query, gallery = world(seed=6)
    frames = [f.assign(tracklet=np.arange(len(f)) // 2, person=p, camera=c) for f, p, c in (
        (query, np.arange(40) // 2 % 5, 0), (gallery, np.arange(120) // 2 % 5, 1))]  # fmt: skip
    for f in frames:
        f.attrs["benchmark"] = "ccvid"
    found = retrieval.verify(query_features, gallery_features, *frames, ["general"], resamples=3)["general"]
    assert found.counts["non_mated"] == 20 and found.counts["gallery"] == 60


def test_error_curves_are_read_and_drawn(small):
    found = retrieval.verify(*small, ["general", "cloth_changing"], resamples=5)
    curves = retrieval.error_curves({name: v.record() for name, v in found.items()})
    part = curves[(curves.protocol == "general") & (curves.curve == "pairs")]
    assert part.false_alarms.is_monotonic_increasing and part.misses.is_monotonic_decreasing and len(part) > 20
    np.testing.assert_allclose(part.misses, 1 - found["general"].pairs["tar"])
    left, right = figures.error_rates(curves).axes
    assert [line.get_label() for line in left.lines] == ["general", "cloth-changing"]
    assert right.lines[0].get_ydata()[-1] == found["general"].searches["fnir"].iloc[-1]
    with pytest.raises(InputError, match="no protocol was measured"):
        retrieval.error_curves({})
