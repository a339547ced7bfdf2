"""Label statistics against loops over all pairs, and contact sheets."""

from __future__ import annotations

import math

import dense
import numpy as np
import pandas as pd
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from csgn_lib import datasets
from csgn_lib.datasets import portrait
from csgn_lib.records import InputError

LABEL = st.integers(-1, 2)
ROWS = st.lists(st.tuples(LABEL, LABEL, LABEL), min_size=1, max_size=12)


def frame(rows: list[tuple[int, int, int]]) -> pd.DataFrame:
    table = pd.DataFrame(rows, columns=["person", "camera", "clothes"])
    return table.assign(person_label=table["person"].astype(str), path=[f"{i}.jpg" for i in range(len(rows))])


def relation(a: int, b: int) -> str:
    return "unknown" if -1 in (a, b) else "same" if a == b else "different"


@given(query=ROWS, gallery=ROWS)
@settings(max_examples=25, deadline=None)
def test_pairs_and_shares_equal_loops(query, gallery):
    q, g = frame(query), frame(gallery)
    expected = [(i, j) for i, a in enumerate(query) for j, b in enumerate(gallery) if a[0] == b[0] != -1]
    assert sorted(zip(*map(list, portrait.pairs(q, g)), strict=True)) == expected
    counts: dict[tuple[str, str], int] = {}
    for i, j in expected:
        key = relation(query[i][1], gallery[j][1]), relation(query[i][2], gallery[j][2])
        counts[key] = counts.get(key, 0) + 1
    table = portrait.shares(q, g)
    assert {(r.camera, r.clothes): r.pairs for r in table.itertuples()} == counts
    if expected:
        assert table["share"].sum() == pytest.approx(1)


@given(query=ROWS, gallery=ROWS)
@settings(max_examples=25, deadline=None)
def test_camera_rule_equals_loop_over_pairs(query, gallery):
    judged = [
        (a[1] == b[1], a[2] == b[2])
        for a in query
        for b in gallery
        if a[0] == b[0] != -1 and -1 not in (a[1], b[1], a[2], b[2])
    ]
    rule = portrait.camera_rule(portrait.shares(frame(query), frame(gallery)))
    assert rule["pairs"] == len(judged)
    if not judged:
        assert math.isnan(rule["accuracy"])
        return
    assert rule["accuracy"] == pytest.approx(np.mean([camera == clothes for camera, clothes in judged]))
    same = np.mean([clothes for _, clothes in judged])
    assert rule["always"] == pytest.approx(max(same, 1 - same))
    in_one = [clothes for camera, clothes in judged if camera]
    assert not in_one or rule["same_if_same"] == pytest.approx(np.mean(in_one))


@given(query=ROWS, gallery=ROWS)
@settings(max_examples=25, deadline=None)
def test_camera_pairs_equal_loops(query, gallery):
    cells: dict[tuple[int, int], list[tuple[int, bool]]] = {}
    for person, camera, clothes in query:
        for other, seen_by, worn in gallery:
            if person == other != -1 and -1 not in (camera, clothes, seen_by, worn):
                cells.setdefault((camera, seen_by), []).append((person, clothes == worn))
    table = portrait.camera_pairs(frame(query), frame(gallery))
    assert list(zip(table["query_camera"], table["gallery_camera"], strict=True)) == sorted(cells)
    for row in table.itertuples():
        held = cells[row.query_camera, row.gallery_camera]
        assert (row.people, row.pairs) == (len({person for person, _ in held}), len(held))
        assert row.same_clothes == pytest.approx(np.mean([same for _, same in held]))


def test_camera_tells_outfit_by_hand(tmp_path):
    prcc = datasets.load("prcc", trees.prcc(tmp_path, decodable=False))
    told = portrait.camera_tells_outfit(prcc.train)
    assert told["guess"] == pytest.approx(2 / 3) and told["people"] == 2 and told["guess_from_camera"] == 1.0
    assert 2 / 3 <= told["guess_shuffled"] < 1
    mixed = frame([(0, 0, 0), (0, 0, 1), (0, 1, 0), (0, 1, 1), (1, 0, 2), (1, 0, 2)])
    told = portrait.camera_tells_outfit(mixed)
    assert (told["people"], told["guess"], told["guess_from_camera"]) == (1, 0.5, 0.5)
    many = frame([(p, i % 4, 10 * p + i // 4 % 2) for p in range(6) for i in range(400)])  # no tie of camera and outfit
    assert portrait.camera_tells_outfit(many)["guess_shuffled"] == pytest.approx(0.5, abs=0.06)
    assert portrait.camera_tells_outfit(frame([(0, 0, -1)]))["people"] == 0


def test_spread_counts_outfits_and_cameras(tmp_path):
    table = portrait.spread(datasets.load("ltcc", trees.ltcc(tmp_path, decodable=False)).train)
    row = table[table["person_label"] == "0"].iloc[0]
    assert (row["images"], row["outfits"], row["cameras"]) == (4, 3, 3)
    assert row["cameras_per_outfit"] == pytest.approx(4 / 3)
    celeb = portrait.spread(datasets.load("celebreid", trees.celebreid(tmp_path / "c", decodable=False)).train)
    assert set(celeb["outfits"]) == {0} and celeb["cameras_per_outfit"].isna().all()


@pytest.mark.parametrize("name", datasets.NAMES)
def test_protocol_table_equals_dense_masks(name, tmp_path):
    b = datasets.load(name, trees.TREES[name](tmp_path, decodable=False))
    query, gallery = portrait.units(b.query), portrait.units(b.gallery)
    table = portrait.protocol_table(b).set_index("protocol")
    assert list(table.index) == [p for p in b.protocols if not b.protocol(p).draws]
    for protocol, row in table.iterrows():
        good, _ = dense.masks(b.protocol(protocol), query, gallery)
        assert row["matches"] == good.sum() and row["counted"] == good.any(axis=1).sum()
        clothes = query["clothes"].to_numpy()[:, None], gallery["clothes"].to_numpy()[None, :]
        if (query["clothes"] != -1).all():
            same = good & (clothes[0] == clothes[1])
            assert row["clothes_alone"] == pytest.approx(same.any(axis=1).sum() / good.any(axis=1).sum())
        elif (query["clothes"] == -1).all():
            assert math.isnan(row["clothes_alone"])
    if name == "ccvid":
        assert len(query) == 2 and len(gallery) == 3


def test_contact_sheet_shows_every_outfit_first(tmp_path):
    b = datasets.load("ltcc", trees.ltcc(tmp_path))
    sheet = portrait.contact_sheet(b, "train", people=2, columns=3, cell=(32, 16))
    shown = sheet.table[sheet.table["row"] == 0]
    assert set(shown["clothes_label"]) == {"0_1", "0_2", "0_10"}
    assert sheet.image.shape == (2 * sheet.row_height, 3 * 18, 3)
    first = sheet.table.iloc[0]
    pixels = np.asarray(Image.open(tmp_path / first["path"]).resize((16, 32), Image.Resampling.BICUBIC))
    top, left = first["row"] * sheet.row_height + 4, first["column"] * 18
    assert (sheet.image[top : top + 32, left : left + 16] == pixels).all()
    assert list(sheet.table["row"]) == [0, 0, 0, 1, 1]


def test_faces_are_hidden_if_required(tmp_path):
    b = datasets.load("deepchange", trees.deepchange(tmp_path))
    path = b.train["path"][0]
    rows = np.arange(128)[:, None, None] * np.ones((1, 64, 3))
    Image.fromarray(rows.astype(np.uint8)).save(tmp_path / path, quality=95)
    sheet = portrait.contact_sheet(b, "train", people=2, columns=1)
    at = sheet.table.index[sheet.table["path"] == path][0] * sheet.row_height + 4
    assert len(np.unique(sheet.image[at : at + 32, :64, 0])) <= 4  # blocks of 8 x 8 pixels
    assert len(np.unique(sheet.image[at + 32 : at + 128, :64, 0])) > 60


def test_contact_sheet_names_invalid_split_and_broken_image(tmp_path):
    b = datasets.load("ltcc", trees.ltcc(tmp_path))
    with pytest.raises(InputError, match="split 'test' of ltcc is empty or unknown; one of train, query, gallery"):
        portrait.contact_sheet(b, "test")
    (tmp_path / b.train["path"][0]).write_bytes(b"x")
    with pytest.raises(InputError, match="cannot be read"):
        portrait.contact_sheet(b, "train")


def test_pair_sheet_layout_and_hidden_faces(tmp_path):
    b = datasets.load("ltcc", trees.ltcc(tmp_path))
    paths = list(b.train["path"][:4]) + list(b.train["path"][:2])
    sheet = portrait.pair_sheet(b.root, paths, False, across=2, cell=(32, 16))
    assert sheet.image.shape == (2 * sheet.row_height, 4 * 18, 3)
    assert sheet.table.values.tolist() == [[i // 4, i % 4, path] for i, path in enumerate(paths)]
    for i, path in enumerate(paths):
        pixels = np.asarray(Image.open(tmp_path / path).resize((16, 32), Image.Resampling.BICUBIC))
        top, left = i // 4 * sheet.row_height + 4, i % 4 * 18
        assert (sheet.image[top : top + 32, left : left + 16] == pixels).all()
    hidden = portrait.pair_sheet(b.root, paths, True, across=2, cell=(32, 16)).image
    assert (hidden[4:12, :16] != sheet.image[4:12, :16]).any()  # the upper quarter of the first image
    assert (hidden[12:36, :16] == sheet.image[12:36, :16]).all()
    with pytest.raises(InputError, match="3 paths; give two for each pair"):
        portrait.pair_sheet(b.root, paths[:3], False)
