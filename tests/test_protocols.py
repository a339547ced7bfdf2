"""Protocols against masks that are computed pair by pair."""

from __future__ import annotations

import doctest
import math

import dense
import numpy as np
import pandas as pd
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from csgn_lib import datasets
from csgn_lib.datasets import benchmark_protocols, ccvid, protocols
from csgn_lib.datasets.benchmark_protocols import BENCHMARK_PROTOCOLS, PROTOCOLS
from csgn_lib.datasets.protocols import Protocol
from csgn_lib.records import InputError

LABELS = st.integers(-1, 3)
ROW = st.fixed_dictionaries(
    {"person": LABELS, "camera": LABELS, "clothes": LABELS, "tracklet": LABELS, "first_digit": st.integers(0, 3)}
    | {"changes_clothes": st.integers(0, 1)}
)
ROWS = st.lists(ROW, min_size=1, max_size=7)


def frame(rows: list[dict[str, int]]) -> pd.DataFrame:
    return pd.DataFrame(rows).assign(path=[f"{i}.jpg" for i in range(len(rows))])


def known_same(q: dict, g: dict, column: str) -> bool:
    return q[column] == g[column] != -1


def general(q: dict, g: dict) -> bool:
    return not known_same(q, g, "camera")


def cloth_changing(q: dict, g: dict) -> bool:
    unknown = q["clothes"] == -1 or g["clothes"] == -1
    return not unknown and q["clothes"] != g["clothes"] and general(q, g)


def same_clothes(q: dict, g: dict) -> bool:
    return known_same(q, g, "clothes") and general(q, g)


def on_cameras(*cameras: int):
    return lambda q, g: q["camera"] in cameras and g["camera"] in cameras and q["camera"] != g["camera"]


# Whether a gallery image of the query's person counts as a match: one sentence of BENCHMARKS.md each.
MATCHES = {
    ("ltcc", "general"): general,
    ("ltcc", "cloth_changing"): cloth_changing,
    ("ltcc", "same_clothes"): same_clothes,
    ("ltcc", "cloth_changing_changers"): lambda q, g: (
        q["changes_clothes"] == g["changes_clothes"] == 1 and cloth_changing(q, g)
    ),
    ("prcc", "cross_clothes"): lambda q, g: q["camera"] == 2 and g["camera"] == 0,
    ("prcc", "same_clothes"): lambda q, g: q["camera"] == 1 and g["camera"] == 0,
    ("vcclothes", "general"): general,
    ("vcclothes", "cloth_changing"): on_cameras(2, 3),
    ("vcclothes", "same_clothes"): on_cameras(1, 2),
    ("celebreid", "general"): lambda q, g: True,
    ("celebreid", "general_trapezoid"): lambda q, g: True,
    ("celebreid", "general_camera_digit"): lambda q, g: q["first_digit"] != g["first_digit"],
    ("celebreid", "general_official"): lambda q, g: q["first_digit"] != g["first_digit"],
    ("deepchange", "general"): lambda q, g: not known_same(q, g, "tracklet"),
    ("deepchange", "general_camera"): general,
    ("deepchange", "general_day"): lambda q, g: not known_same(q, g, "clothes"),
    ("last", "general"): lambda q, g: True,
    ("ccvid", "general"): general,
    ("ccvid", "cloth_changing"): cloth_changing,
    ("ccvid", "same_clothes"): same_clothes,
    ("market1501", "general"): general,
}


@pytest.mark.parametrize(("benchmark", "name"), MATCHES)
@given(query=ROWS, gallery=ROWS)
@settings(max_examples=25, deadline=None)
def test_masks_equal_rules_pair_by_pair(benchmark, name, query, gallery):
    protocol, match = BENCHMARK_PROTOCOLS[benchmark][name], MATCHES[benchmark, name]
    try:
        good, junk = dense.masks(protocol, frame(query), frame(gallery))
    except InputError:
        return  # no row has a label or camera that this protocol needs
    assert protocol.counts_any(frame(query), frame(gallery)) == good.any()
    ranked = [_allowed(row, protocol.gallery_where) for row in gallery]
    for i, q in enumerate(query):
        for j, g in enumerate(gallery):
            same_person = q["person"] == g["person"] != -1
            assert good[i, j] == (same_person and match(q, g))
            if _allowed(q, protocol.query_where):
                assert junk[i, j] == (not ranked[j] or (same_person and not match(q, g)))


def _allowed(row: dict[str, int], where: protocols.Where) -> bool:
    return all(row[column] in values for column, values in where)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"clothes": [0, None]}, "clothes of row 1 of the gallery frame is missing; an unknown label is -1"),
        ({"person": ["0", "1"]}, "person is a number in one frame and text in the other"),
    ],
)
def test_incomparable_labels_are_named(change, message):
    query = frame([{"person": 0, "camera": 0, "clothes": 0}])
    gallery = frame([{"person": i, "camera": 1, "clothes": 1} for i in range(2)])
    assert PROTOCOLS["cloth_changing"].counts_any(query, gallery)
    with pytest.raises(InputError, match=message):
        PROTOCOLS["cloth_changing"].check(query, gallery.assign(**change))


def test_protocol_must_be_one_name():
    with pytest.raises(InputError, match="one name or one Protocol"):
        datasets.protocol(["general"])


def test_every_rule_is_tested():
    independent = {(b, n) for b in ("synthetic", "csv", "celebreid_light") for n in BENCHMARK_PROTOCOLS[b]}
    drawn = {("prcc", f"{name}_single_shot") for name in ("cross_clothes", "same_clothes")} | {("prcc", "general")}
    everything = {(benchmark, name) for benchmark, named in BENCHMARK_PROTOCOLS.items() for name in named}
    assert everything - independent - drawn == set(MATCHES)


@given(query=ROWS, gallery=ROWS)
@settings(max_examples=50, deadline=None)
def test_streaming_pairs_equal_dense_masks(query, gallery):
    q, g = frame(query), frame(gallery)
    for protocol in (p for named in BENCHMARK_PROTOCOLS.values() for p in named.values() if not p.draws):
        try:
            good, _ = dense.masks(protocol, q, g)
        except InputError:
            continue
        streamed = np.zeros_like(good)
        rows = protocol.gallery_rows(g)[0]
        for i in protocol.query_rows(q):
            same = rows[(g["person"].to_numpy()[rows] == q["person"][i]) & (q["person"][i] != -1)]
            streamed[i, same] = ~protocol.is_junk(q, g, np.full(len(same), i), same)
        assert (streamed == good).all()


@pytest.fixture(scope="module")
def prcc(tmp_path_factory):
    return datasets.load("prcc", trees.prcc(tmp_path_factory.mktemp("prcc"), decodable=False))


def test_single_shot_draws_one_image_of_each_person_ten_times(prcc):
    galleries = prcc.protocol("cross_clothes_single_shot").gallery_rows(prcc.gallery)
    assert len(galleries) == 10
    for rows in galleries:
        assert prcc.gallery["person"][rows].tolist() == [3, 102]
    assert len({tuple(rows) for rows in galleries}) > 3  # nine pairs are possible


def test_single_shot_draw_by_hand(prcc):
    """The numbers are part of the protocol: another draw is another protocol."""
    galleries = prcc.protocol("same_clothes_single_shot").gallery_rows(prcc.gallery)
    drawn = [[int(path[-5]) for path in prcc.gallery["path"][rows]] for rows in galleries]
    assert drawn == [[2, 1], [3, 3], [3, 3], [2, 1], [3, 3], [2, 1], [1, 1], [3, 2], [2, 3], [2, 3]]


def test_single_shot_draw_ignores_row_order_and_other_people(prcc):
    protocol = prcc.protocol("cross_clothes_single_shot")
    gallery = prcc.gallery
    shuffled = gallery.sample(frac=1, random_state=1).reset_index(drop=True)
    fewer = gallery[gallery["path"] != "rgb/test/A/003/cropped_rgb002.jpg"].reset_index(drop=True)
    for draw, rows in enumerate(protocol.gallery_rows(gallery)):
        paths = set(gallery["path"][rows])
        assert set(shuffled["path"][protocol.gallery_rows(shuffled)[draw]]) == paths
        other = {path for path in paths if "/102/" in path}
        assert other <= set(fewer["path"][protocol.gallery_rows(fewer)[draw]])


def test_single_shot_masks_show_drawn_images_only(prcc):
    protocol = prcc.protocol("cross_clothes_single_shot")
    for draw in (0, 9):
        good, junk = dense.masks(protocol, prcc.query, prcc.gallery, draw)
        asked = (prcc.query["camera"] == 2).to_numpy()
        assert (good.sum(axis=1) == asked).all()
        assert (~junk).sum(axis=1).tolist() == [2] * len(prcc.query)


def test_protocol_name_depends_on_benchmark():
    assert datasets.protocol("same_clothes") is PROTOCOLS["same_clothes"]
    assert datasets.protocol("same_clothes", "prcc").query_where == (("camera", (1,)),)
    assert datasets.protocol("cloth_changing", "vcclothes").junk == ((("camera", "same"),),)
    assert datasets.protocol("cloth_changing", "prcc") is PROTOCOLS["cloth_changing"]
    own = Protocol("mine", "", ())
    assert datasets.protocol(own, "prcc") is own
    assert list(PROTOCOLS) == ["cloth_changing", "general", "same_clothes"]


def test_celebreid_digit_and_trapezoid_protocols():
    named = BENCHMARK_PROTOCOLS["celebreid"]
    assert {name: (p.ap, bool(p.junk)) for name, p in named.items()} == {
        "general": ("field", False),
        "general_camera_digit": ("field", True),
        "general_trapezoid": ("trapezoid", False),
        "general_official": ("trapezoid", True),
    }


def test_ccvid_ranks_tracklets():
    assert {p.aggregate for p in BENCHMARK_PROTOCOLS["ccvid"].values()} == {"tracklet"}


def test_frames_name_their_benchmark(prcc):
    assert prcc.query.attrs["benchmark"] == "prcc"


@pytest.mark.parametrize(
    ("name", "benchmark", "message"),
    [
        ("cloth_chnging", None, "did you mean 'cloth_changing'"),
        ("cross_clothes_singleshot", "prcc", "did you mean 'cross_clothes_single_shot'"),
        ("xyz", "ltcc", "unknown protocol 'xyz' on ltcc; one of cloth_changing, general"),
    ],
)
def test_unknown_protocol_suggests_nearest_name(name, benchmark, message):
    with pytest.raises(InputError, match=message):
        datasets.protocol(name, benchmark)


def test_missing_label_is_named(tmp_path):
    celeb = datasets.load("celebreid", trees.celebreid(tmp_path, decodable=False))
    with pytest.raises(InputError, match="'cloth_changing' needs clothes labels, and no query image has one"):
        celeb.protocol("cloth_changing").check(celeb.query, celeb.gallery)
    celeb.protocol().check(celeb.query, celeb.gallery)


def test_empty_splits_missing_columns_and_absent_cameras_are_named():
    rows = frame([{"person": 1, "camera": 0, "clothes": 0}])
    with pytest.raises(InputError, match="the gallery split is empty"):
        PROTOCOLS["general"].check(rows, rows.iloc[:0])
    with pytest.raises(InputError, match="column 'clothes'; the query frame has none"):
        PROTOCOLS["cloth_changing"].check(rows.drop(columns="clothes"), rows)
    with pytest.raises(InputError, match=r"no query image has camera in \[2\]"):
        datasets.protocol("cross_clothes", "prcc").check(rows, rows)


def naive_clips(n: int) -> list[list[int]]:
    """The rule as a person would walk it: full blocks, a reduced stride, a padded rest."""
    out, at = [], 0
    while n - at >= 32:
        out += [[at + shift + 4 * step for step in range(8)] for shift in range(4)]
        at += 32
    stride = math.floor((n - at) / 8)
    if stride:
        out += [[at + shift + stride * step for step in range(8)] for shift in range(stride)]
        at += stride * 8
    rest = list(range(at, n))
    if rest:
        while len(rest) < 8:
            rest += list(range(at, n))
        out.append(rest[:8])
    return out


@given(n=st.integers(1, 400))
@settings(max_examples=60, deadline=None)
def test_clips_equal_loop(n):
    clips = ccvid.clips(n)
    assert clips.tolist() == naive_clips(n)
    assert len(clips) == math.ceil(n / 8)
    assert set(clips.ravel()) == set(range(n))


@given(lengths=st.lists(st.integers(1, 70), min_size=1, max_size=4), seed=st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_weights_equal_mean_of_clip_means(lengths, seed):
    tracklet = np.repeat(np.arange(len(lengths)), lengths)
    features = np.random.default_rng(seed).normal(size=len(tracklet))
    weighted = features * ccvid.weights(tracklet)
    for number in range(len(lengths)):
        own = features[tracklet == number]
        expected = np.mean([own[clip].mean() for clip in naive_clips(len(own))])
        assert weighted[tracklet == number].sum() == pytest.approx(expected, abs=1e-12)


def test_tracklet_without_frames_is_refused():
    with pytest.raises(InputError, match="0 frames"):
        ccvid.clips(0)


def test_docstring_examples():
    for module in (protocols, benchmark_protocols, ccvid):
        assert doctest.testmod(module).failed == 0
