"""Readers: every layout and its special cases, on small trees of generated images."""

from __future__ import annotations

import re
import shutil
import unicodedata
from dataclasses import replace
from pathlib import Path

import dense
import numpy as np
import pandas as pd
import pytest
import trees
from hypothesis import given, settings
from hypothesis import strategies as st

from csgn_lib import datasets
from csgn_lib.datasets import files, last, ltcc, market1501, own_images, vcclothes
from csgn_lib.records import InputError


def load(name: str, root: Path, **options) -> datasets.Benchmark:
    return datasets.load(name, trees.TREES[name](root, decodable=False, **options))


def labels(frame: pd.DataFrame, *columns: str) -> list[tuple]:
    return list(frame[list(columns)].itertuples(index=False, name=None))


# What every benchmark owes


@pytest.mark.parametrize("name", datasets.NAMES)
def test_frames_have_required_columns(name, tmp_path):
    b = load(name, tmp_path)
    assert b.name == name and b.root == tmp_path
    for split, frame in b.frames():
        for column in ("person", "camera", "clothes"):
            assert frame[column].dtype == np.int64
        for column in ("path", "person_label", "clothes_label", "camera_label"):
            assert frame[column].dtype == b.query["path"].dtype
        assert frame["path"].tolist() == sorted(frame["path"])
        assert frame.index.tolist() == list(range(len(frame)))
        assert all((tmp_path / path).is_file() for path in frame["path"])
        assert frame.attrs["benchmark"] == name, split
    for column in ("person", "clothes"):
        numbers = set(b.train[column]) - {-1}
        assert numbers == set(range(len(numbers)))
    both = pd.concat([b.query, b.gallery])
    for side in (b.train, both):
        known = side[side["clothes"] != -1]
        assert len(known.groupby("clothes")["person"].unique().explode()) == known["clothes"].nunique()
        assert len(known.groupby(["clothes", "clothes_label"])) == known["clothes"].nunique()


@pytest.mark.parametrize("name", datasets.NAMES)
@pytest.mark.parametrize("folder", ["my_cc_data", "query", "a_c1_b/gallery/005_1_c2_train", "u0\tc1"])
def test_root_does_not_affect_labels(name, folder, tmp_path):
    plain = load(name, tmp_path / "plain")
    odd = trees.litter(trees.TREES[name](tmp_path / folder, decodable=False))
    again = datasets.load(name, odd)
    for (split, frame), (other, same) in zip(plain.frames(), again.frames(), strict=True):
        assert split == other
        pd.testing.assert_frame_equal(frame, same)


@pytest.mark.parametrize("name", datasets.NAMES)
def test_every_listed_protocol_can_be_scored(name, tmp_path):
    b = load(name, tmp_path)
    for protocol in b.protocols:
        good, _ = dense.masks(b.protocol(protocol), b.query, b.gallery)
        assert good.any(), protocol
    assert b.protocol() is b.protocol(b.protocols[0])


@pytest.mark.parametrize("name", [name for name in datasets.NAMES if name != "csv"])
def test_invalid_file_name_is_named_with_pattern(name, tmp_path):
    root = trees.TREES[name](tmp_path, decodable=False)
    if name == "deepchange":
        file = root / "train-set-bbox.txt"
        file.write_text(file.read_text() + "P1_C1.jpg, 4\n")
        bad = "train-set/P1_C1.jpg"
    else:
        first = next(path for path in sorted(root.rglob("*.*g")) if "sketch" not in path.parts)
        bad = str(first.with_name("holiday photo.jpg").relative_to(root))
        trees.image(root / bad, decodable=False)
    with pytest.raises(InputError, match=re.escape(str(root / bad)) + ".*cannot be read; expected .+"):
        datasets.load(name, root)


@pytest.mark.parametrize("name", [name for name in datasets.NAMES if name != "csv"])
def test_wrong_root_suggests_right_one(name, tmp_path):
    root = trees.TREES[name](tmp_path / "downloads" / "the_release", decodable=False)
    with pytest.raises(InputError, match=f"looked for .*did you mean {re.escape(str(root))}") as caught:
        datasets.load(name, tmp_path / "downloads")
    assert str(tmp_path / "downloads") in str(caught.value)
    with pytest.raises(InputError, match=f"did you mean {re.escape(str(root))}"):
        datasets.load(name, tmp_path)  # two levels up
    with pytest.raises(InputError, match=f"the_relaese is not a folder .did you mean {re.escape(str(root))}"):
        datasets.load(name, root.with_name("the_relaese"))
    with pytest.raises(InputError, match="nor is"):
        datasets.load(name, tmp_path / "no" / "such")


def test_root_one_level_too_deep_is_suggested(tmp_path):
    root = trees.ltcc(tmp_path / "LTCC_ReID", decodable=False)
    with pytest.raises(InputError, match=f"did you mean {re.escape(str(root))}"):
        datasets.load("ltcc", root / "train")


@pytest.mark.parametrize(
    ("name", "meant"), [("LTCC", "ltcc"), ("vc-clothes", "vcclothes"), ("market", "market1501"), ("prc", "prcc")]
)
def test_unknown_benchmark_suggests_nearest_name(name, meant):
    with pytest.raises(InputError, match=f"unknown benchmark '{name}' .did you mean '{meant}'"):
        datasets.load(name, "anywhere")


def test_embedded_benchmark_must_be_rendered_first():
    with pytest.raises(InputError, match="synthetic.ensure"):
        datasets.load("synthetic")


def test_default_root_is_in_data_folder(tmp_path, monkeypatch):
    trees.ltcc(tmp_path / "LTCC_ReID", decodable=False)
    monkeypatch.setenv("CSGN_DATA", str(tmp_path))
    assert len(datasets.load("ltcc").train) == 6
    monkeypatch.delenv("CSGN_DATA")
    monkeypatch.setenv("CSGN_HOME", str(tmp_path / "bench"))
    with pytest.raises(InputError, match=f"{tmp_path}/bench/data/prcc is not a folder"):
        datasets.load("prcc")


def test_empty_split_and_unexpected_folder_are_named(tmp_path):
    root = trees.vcclothes(tmp_path / "a", decodable=False)
    shutil.rmtree(root / "query")
    (root / "query").mkdir()
    (root / "query" / "Thumbs.db").touch()
    with pytest.raises(InputError, match="query holds no image"):
        datasets.load("vcclothes", root)
    root = trees.vcclothes(tmp_path / "b", decodable=False)
    trees.image(root / "train/more/0001-01-01-09.jpg", decodable=False)
    with pytest.raises(InputError, match="train/more is a folder; expected an image"):
        datasets.load("vcclothes", root)


# The quirks, benchmark by benchmark


def test_ltcc_cameras_have_two_digits_and_outfits_count_per_person(tmp_path):
    b = load("ltcc", tmp_path)
    assert set(b.train["camera"]) == {0, 1, 2, 8, 11}
    assert labels(b.train, "clothes_label", "clothes")[:2] == [("0_10", 2), ("0_1", 0)]  # sorted by number
    assert b.train["clothes"].nunique() == 4 and b.train["person"].nunique() == 2
    assert labels(b.query, "person", "camera", "clothes") == [(3, 0, 0), (3, 1, 1), (5, 0, 2)]
    assert b.gallery["clothes"].tolist() == [0, 0, 1, 2, 2]  # one map over query and gallery
    assert set(labels(b.query, "person", "changes_clothes")) == {(3, 1), (5, 0)}


def test_ltcc_without_lists_has_no_changers_protocol(tmp_path):
    shutil.rmtree(trees.ltcc(tmp_path, decodable=False) / "info")
    b = datasets.load("ltcc", tmp_path)
    assert b.protocols == ("cloth_changing", "general", "same_clothes")
    with pytest.raises(InputError, match="changes_clothes"):
        b.protocol("cloth_changing_changers").check(b.query, b.gallery)


def test_damaged_list_names_line(tmp_path):
    (trees.ltcc(tmp_path, decodable=False) / "info/cloth-change_id_test.txt").write_text("3\n\nfive\n")
    with pytest.raises(InputError, match="cloth-change_id_test.txt, line 3: 'five' is not a person number"):
        datasets.load("ltcc", tmp_path)


def test_synthetic_has_validation_people(tmp_path):
    b = load("synthetic", tmp_path)
    assert set(b.validation.query["person"]) == {20} and set(b.validation.gallery["person"]) == {20, 21}
    assert b.validation.train.empty and list(b.validation.train) == list(b.validation.query)
    assert b.validation.protocols == ("cloth_changing", "general", "same_clothes")


def test_prcc_test_files_have_no_camera_and_two_cameras_share_an_outfit(tmp_path):
    b = load("prcc", tmp_path)
    assert set(labels(b.train, "person", "camera", "clothes")) == {
        (p, camera, 2 * p + (camera == 2)) for p in (0, 1) for camera in (0, 1, 2)
    }
    assert set(labels(b.query, "person", "camera", "clothes")) == {(3, 1, 0), (3, 2, 1), (102, 1, 2), (102, 2, 3)}
    assert set(labels(b.gallery, "person", "camera", "clothes")) == {(3, 0, 0), (102, 0, 2)}
    assert b.names("camera") == {0: "A", 1: "B", 2: "C"} and b.names("person") == {3: "3", 102: "102"}
    assert b.names("clothes") == {0: "3", 1: "3C", 2: "102", 3: "102C"}
    assert b.validation is None and set(b.unused["split"]) == {"val"} and len(b.unused) == 7


def test_prcc_reads_without_its_val_folder(tmp_path):
    shutil.rmtree(trees.prcc(tmp_path, decodable=False) / "rgb/val")
    assert datasets.load("prcc", tmp_path).unused is None


def test_both_vcclothes_spellings_give_the_same_labels(tmp_path):
    hyphens, underscores = (load("vcclothes", tmp_path / mark, mark=mark) for mark in "-_")
    for split in ("train", "query", "gallery"):
        drop = {"columns": "path"}
        pd.testing.assert_frame_equal(getattr(hyphens, split).drop(**drop), getattr(underscores, split).drop(**drop))
    assert set(hyphens.query["camera"]) == {0, 1, 2, 3}
    assert hyphens.query["person"].tolist() == [257, 257, 257, 257, 258]


def test_celebreid_has_no_cameras_but_digit_column(tmp_path):
    b = load("celebreid", tmp_path)
    assert labels(b.train, "person_label", "person") == [("10", 2), ("1", 0), ("1", 0), ("2", 1)]  # numbers, not text
    for frame in (b.train, b.query, b.gallery):
        assert set(frame["camera"]) == set(frame["clothes"]) == {-1}
    assert b.query["first_digit"].tolist() == [1, 3]
    assert b.gallery["first_digit"].tolist() == [1, 1, 2, 3, 4]


def test_deepchange_keeps_camera_and_tracklet_and_reads_lists_only(tmp_path):
    b = load("deepchange", tmp_path)
    assert labels(b.train, "person_label", "camera", "tracklet") == [("12", 16, 9), ("1", 0, 7), ("1", 1, 8)]
    assert not b.train["path"].str.contains("not_listed").any()
    assert set(b.validation.query["person"]) == {3}
    good, _ = dense.masks(b.protocol("general"), b.query, b.gallery)
    assert good[0].tolist() == [False, True, True, False]  # the same camera but another tracklet counts


@pytest.mark.parametrize("line", ["P1_C1_d1_h1_0_0.jpg", "P1_C1_d1_h1_0_0.jpg,x", "a,b,3"])
def test_invalid_deepchange_line_is_named(line, tmp_path):
    file = trees.deepchange(tmp_path, decodable=False) / "test-set-query-bbox.txt"
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(InputError, match=f"test-set-query-bbox.txt, line 4: '{line}' cannot be read"):
        datasets.load("deepchange", tmp_path)


def test_last_uses_first_and_last_field_of_name(tmp_path):
    b = load("last", tmp_path)
    moved = b.gallery[b.gallery["path"].str.contains("005895/005859_003_00001__0004")]
    assert moved["person"].tolist() == [5859]
    assert b.query["person"].tolist() == [5859, 5895]
    assert (b.gallery["person"] == 0).sum() == 2 and b.distractor == 0
    assert set(b.query["camera"]) == set(b.gallery["clothes"]) == {-1}
    assert labels(b.train, "person", "clothes") == [(0, 0), (0, 1), (0, -1), (1, 2)]  # 000 is unlabelled
    good, junk = dense.masks(b.protocol(), b.query, b.gallery)
    assert good.sum() == 3 and not junk.any()
    assert len(b.validation.gallery) == 2


def test_ccvid_session_three_has_other_cameras(tmp_path):
    b = load("ccvid", tmp_path)
    assert set(labels(b.train, "camera", "tracklet")) == {(1, 0), (24, 1)}
    assert set(labels(b.gallery, "person", "camera")) == {(8, 1), (7, 2), (7, 15)}
    assert not set(b.query["tracklet"]) & set(b.gallery["tracklet"])
    outfits = set(labels(pd.concat([b.query, b.gallery]), "person", "clothes"))
    assert len(outfits) == 3  # u0_l0_s0_c0_a0 of two people is two outfits
    lengths = b.train.groupby("tracklet").size().tolist()
    assert lengths == [9, 3]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("session1/001_01 001 u0", "train.txt, line 3: .* cannot be read; expected session<n>"),
        ("session2/001_02\t001\tu0", "train.txt, line 3: .*session2/001_02 is missing"),
        ("session1/001_01\t001\tu0", "train.txt, line 3: session1/001_01 is listed twice"),
    ],
)
def test_invalid_ccvid_line_is_named(line, message, tmp_path):
    file = trees.ccvid(tmp_path, decodable=False) / "train.txt"
    file.write_text(f"{file.read_text()}{line}\n")
    with pytest.raises(InputError, match=message):
        datasets.load("ccvid", tmp_path)


def test_market_junk_is_excluded_and_distractors_are_kept(tmp_path):
    b = load("market1501", tmp_path)
    assert b.gallery["person"].tolist() == [0, 1, 1]
    assert b.unused["path"].tolist() == [f"bounding_box_test/-1_c{x}.jpg" for x in ("1s1_000401_03", "6s4_002202_02")]
    assert set(b.unused["split"]) == {"junk"}
    assert b.query["camera"].tolist() == [0, 1] and set(b.query["clothes"]) == {-1}


# Names as hypothesis writes them

DIGITS = st.integers(0, 99_999)
WIDTH = st.integers(1, 6)
ROOTS = st.lists(st.text("abc_c0123-. ", min_size=1, max_size=12), max_size=4).map(lambda parts: "/".join(parts))


@given(pid=DIGITS, width=WIDTH, outfit=st.integers(1, 20), camera=st.integers(1, 12), folder=ROOTS)
@settings(max_examples=60, deadline=None)
def test_ltcc_names_round_trip(pid, width, outfit, camera, folder):
    name = f"{pid:0{width}d}_{outfit}_c{camera}_000123.png"
    read = files.parse(Path(folder), [f"{folder}/{name}"], ltcc._NAME, "")
    assert (int(read["pid"][0]), int(read["camera"][0])) == (pid, camera)
    assert read["outfit"][0] == f"{pid}_{outfit}"


@given(fields=st.lists(st.one_of(st.just(""), DIGITS.map(str)), max_size=5), pid=DIGITS, clothes=st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_last_labels_are_first_and_last_field(fields, pid, clothes):
    name = "_".join([f"{pid:06d}", *fields, f"{clothes:03d}"]) + ".jpg"
    read = files.parse(Path("x"), [f"test/gallery/000001/{name}"], last._NAME, "")
    assert (int(read["pid"][0]), int(read["clothes"][0])) == (pid, clothes)


@given(
    pid=st.integers(-1, 9_999), camera=st.integers(1, 6), mark=st.sampled_from("-_"), numbers=st.tuples(DIGITS, DIGITS)
)
@settings(max_examples=60, deadline=None)
def test_market_and_vcclothes_names_round_trip(pid, camera, mark, numbers):
    text = f"{pid:04d}" if pid >= 0 else "-1"
    read = files.parse(Path("x"), [f"{text}_c{camera}s1_{numbers[0]:06d}_00.jpg"], market1501._NAME, "")
    assert (int(read["pid"][0]), int(read["camera"][0])) == (pid, camera)
    if pid >= 0:
        name = mark.join([text, f"{camera:02d}", f"{numbers[0]:02d}", "01"]) + ".jpg"
        read = files.parse(Path("x"), [name], vcclothes._NAME, "")
        assert [int(read[group][0]) for group in ("pid", "camera", "clothes")] == [pid, camera, numbers[0]]


@given(name=st.text("019_c-s.jpg", max_size=24))
@settings(max_examples=100, deadline=None)
def test_names_are_parsed_completely_or_refused(name):
    try:
        read = files.parse(Path("x"), [name], market1501._NAME, "this")
    except InputError as error:
        assert "expected this" in str(error)
    else:
        assert name.startswith(f"{read['pid'][0]}_c{read['camera'][0]}s")


# Your own images


def test_own_images_with_splits(tmp_path):
    b = load("csv", tmp_path)
    assert labels(b.train, "person", "clothes", "clothes_label") == [(0, 1, "ann_red"), (0, 0, "ann_blue")]
    assert b.query["path"].tolist() == ["b/1.jpg"]
    assert labels(b.gallery, "person", "camera", "clothes") == [(1, 1, 1), (1, 0, -1), (1, 1, 0), (2, -1, 2)]
    assert b.protocols == ("cloth_changing", "general", "same_clothes")


def test_own_images_without_splits_are_test_images(tmp_path):
    root = trees.own(tmp_path, decodable=False, split=False)
    b = datasets.load("csv", root / "people.csv")
    assert b.train.empty and len(b.query) + len(b.gallery) == 7
    assert set(b.query["person_label"]) == {"ann", "bob"}  # cleo has one image: she can only be found
    assert b.query["person"].nunique() == len(b.query)


def test_own_images_with_missing_labels_have_fewer_protocols(tmp_path):
    trees.images(tmp_path, ["1.jpg", "2.jpg", "3.jpg"], decodable=False)
    rows = ["path,person,camera,clothes,split", "1.jpg,0042,3,,query", "./2.jpg,42,4,,gallery", "3.jpg,-1,,,gallery"]
    (tmp_path / "index.csv").write_text("\ufeff" + "\r\n".join([*rows, ",,,,", ""]))
    b = datasets.load("csv", tmp_path)
    assert labels(b.query, "person", "camera", "person_label") == [(42, 3, "42")]  # two spellings, one label
    assert labels(b.gallery, "path", "person", "camera") == [("2.jpg", 42, 4), ("3.jpg", -1, -1)]
    assert b.protocols == ("general",)
    good, _ = dense.masks(b.protocol(), b.query, b.gallery)
    assert good.tolist() == [[True, False]]


def own(folder, *rows: str) -> Path:
    trees.images(folder, [row.partition(",")[0] for row in rows], decodable=False)
    (folder / "index.csv").write_text("\n".join(["path,person,camera,clothes,split", *rows]))
    return folder


def test_outfit_label_ignores_number_spelling(tmp_path):
    rows = ("1.jpg,0042,1,red,query", "2.jpg,42,2,red,gallery", "3.jpg,42,2,blue,gallery")
    b = datasets.load("csv", own(tmp_path, *rows))
    assert b.query["clothes"].tolist() == [1] and b.gallery["clothes"].tolist() == [1, 0]
    good, junk = dense.masks(b.protocol("cloth_changing"), b.query, b.gallery)
    assert good.tolist() == [[False, True]] and junk.tolist() == [[True, False]]


def test_zero_padded_person_leak_is_found(tmp_path):
    b = datasets.load("csv", own(tmp_path / "one", "1.jpg,007,1,a,query", "2.jpg,007,2,b,gallery"))
    assert b.query["person_label"].tolist() == ["7"] and b.query["person"].tolist() == [7]
    rows = ("1.jpg,007,1,a,train", "2.jpg,7,2,b,query", "3.jpg,7,1,c,gallery")
    problems = datasets.load("csv", own(tmp_path / "two", *rows)).check(images=False).problems
    assert "people_in_train_and_test" in {problem.kind for problem in problems}


UNKNOWN = ["", "-1", "-1.0", "nan", "NaN", "<NA>", "None"]


@pytest.mark.parametrize("cell", UNKNOWN)
def test_unknown_labels_in_every_column(cell, tmp_path):
    b = datasets.load("csv", own(tmp_path, f"1.jpg,7,{cell},{cell},query", "2.jpg,7,1,a,gallery"))
    assert labels(b.query, "camera", "camera_label", "clothes", "clothes_label") == [(-1, "", -1, "")]
    if cell.startswith("-1"):
        b = datasets.load("csv", own(tmp_path, "1.jpg,7,1,a,query", "2.jpg,7,1,a,gallery", f"3.jpg,{cell},1,a,gallery"))
        assert b.gallery["person"].tolist() == [7, -1]


@pytest.mark.parametrize(
    ("column", "first", "second"),
    [(1, "Ann", "ann"), (2, "Door", "door"), (3, "Red", "red"), (2, "1.5", "1.50"), (1, "cam1", "cam01"),
     (2, "\uff11", "1"), (3, "dark  red", "dark red")],
)  # fmt: skip
def test_labels_differing_in_spelling_only_are_refused(column, first, second, tmp_path):
    lines = [["1.jpg", "7", "1", "a", "query"], ["2.jpg", "7", "2", "b", "gallery"]]
    lines[0][column], lines[1][column] = first, second
    with pytest.raises(InputError, match=f"line 3, column '{own_images.COLUMNS[column]}': .* reads like another label"):
        datasets.load("csv", own(tmp_path, *map(",".join, lines)))


def test_outfit_spelling_may_differ_between_people(tmp_path):
    b = datasets.load("csv", own(tmp_path, "1.jpg,7,1,Red,query", "2.jpg,8,2,red,gallery"))
    assert b.query["clothes_label"].tolist() == ["7_Red"] and b.gallery["clothes_label"].tolist() == ["8_red"]


def test_distractors_are_gallery_images_without_split(tmp_path):
    trees.images(tmp_path, [f"{n}.jpg" for n in range(8)], decodable=False)
    rows = [f"{n}.jpg,{-1 if n < 4 else 7},{n % 2},a" for n in range(8)]
    (tmp_path / "index.csv").write_text("\n".join(["path,person,camera,clothes", *rows]))
    b = datasets.load("csv", tmp_path)
    assert set(b.query["person"]) == {7} and (b.gallery["person"] == -1).sum() == 4


@pytest.mark.parametrize("spelling", ["x//a.jpg", "x/./a.jpg", "./x/a.jpg", "x\\a.jpg"])
def test_one_file_under_two_paths_is_an_error(spelling, tmp_path):
    trees.image(tmp_path / "x/a.jpg")
    (tmp_path / "index.csv").write_text(f"path,person,camera,clothes\nx/a.jpg,1,1,a\n{spelling},1,2,b\n")
    with pytest.raises(InputError, match="line 3, column 'path': 'x/a.jpg' is listed before"):
        datasets.load("csv", tmp_path)


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
def test_path_in_other_unicode_form_finds_file(on_disk, tmp_path):
    name, other = (unicodedata.normalize(form, "é.jpg") for form in (on_disk, {"NFC": "NFD", "NFD": "NFC"}[on_disk]))
    trees.image(tmp_path / name)
    (tmp_path / "index.csv").write_text(f"path,person,camera,clothes\n{other},1,1,a\n")
    assert datasets.load("csv", tmp_path).gallery["path"].tolist() == [name]
    with (tmp_path / "index.csv").open("a") as file:
        file.write(f"{name},1,2,b\n")
    with pytest.raises(InputError, match="line 3, column 'path': .* is listed before"):
        datasets.load("csv", tmp_path)


@pytest.mark.parametrize(
    ("content", "words"), [("é".encode("latin-1"), "not a UTF-8 text file"), ("é".encode("utf-16"), "save it as UTF-8")]
)
def test_csv_in_other_encoding_is_named(content, words, tmp_path):
    (tmp_path / "index.csv").write_bytes(content)
    with pytest.raises(InputError, match=f"index.csv is .*{words}"):
        datasets.load("csv", tmp_path)


def test_csv_without_permission_is_named(tmp_path, monkeypatch):
    def locked(*_, **__):
        raise PermissionError(13, "Permission denied")

    own(tmp_path, "1.jpg,7,1,a,query")
    monkeypatch.setattr(Path, "read_text", locked)
    with pytest.raises(InputError, match="index.csv cannot be read .Permission denied.; make it readable"):
        datasets.load("csv", tmp_path)


# The same label in two spellings, in every layout


@pytest.mark.parametrize(
    ("name", "renamed"),
    [
        ("ltcc", {"query/003_1_c1_000007.png": "query/3_01_c01_000007.png"}),
        ("synthetic", {"query/003_1_c1_000007.png": "query/03_1_c1_000007.png"}),
        ("market1501", {"query/0001_c1s1_001051_00.jpg": "query/1_c01s1_001051_00.JPG"}),
        ("vcclothes", {"query/0257-01-01-01.jpg": "query/257-1-1-01.jpg"}),
        ("celebreid", {"query/1_12_0.jpg": "query/01_12_0.jpg"}),
        ("last", {"test/query/005895_001_00002_0001_01_000.jpg": "test/query/5895_001_00002_0001_01_0.jpg"}),
        ("prcc", {"rgb/test/B/003": "rgb/test/B/3"}),
        ("prcc", {"rgb/train/001": "rgb/train/1"}),
    ],
)
def test_padding_does_not_change_labels(name, renamed, tmp_path):
    root = trees.TREES[name](tmp_path, decodable=False)
    before = [frame.drop(columns="path") for _, frame in datasets.load(name, root).frames()]
    for old, new in renamed.items():
        (root / old).rename(root / new)
    after = [frame.drop(columns="path") for _, frame in datasets.load(name, root).frames()]
    for one, two in zip(before, after, strict=True):
        columns = list(one)
        assert sorted(labels(one, *columns)) == sorted(labels(two, *columns))


def test_padding_does_not_change_labels_of_lists(tmp_path):
    before, after = (trees.ccvid(tmp_path / name, decodable=False) for name in "ab")
    file = after / "query.txt"
    file.write_text(file.read_text().replace("\t007\t", "\t7\t"))
    frames = [datasets.load("ccvid", root).query for root in (before, after)]
    pd.testing.assert_frame_equal(*frames)


def test_padding_does_not_hide_leaks(tmp_path):
    root = trees.ltcc(tmp_path, decodable=False)
    trees.images(root, ["train/0005_1_c1_000020.png"], decodable=False)
    problems = {problem.kind: problem for problem in datasets.load("ltcc", root).check(images=False).problems}
    assert problems["people_in_train_and_test"].detail == "people in train and in test: 1, such as 5"


@pytest.mark.parametrize("name", ["ltcc", "synthetic", "market1501", "deepchange"])
def test_camera_0_is_accepted(name, tmp_path):
    root = trees.TREES[name](tmp_path, decodable=False)
    before = datasets.load(name, root)
    for path in sorted(root.rglob("*.*")):  # every camera one less
        found = re.search(r"_[cC](\d+)(?=[s_])", path.name)
        if found and path.suffix != ".txt":
            path.rename(path.with_name(path.name.replace(found[0], f"{found[0][:2]}{int(found[1]) - 1}")))
        elif path.suffix == ".txt":
            path.write_text(re.sub(r"_C(\d+)_", lambda m: f"_C{int(m[1]) - 1}_", path.read_text()))
    after = datasets.load(name, root)
    for (_, one), (_, two) in zip(before.frames(), after.frames(), strict=True):
        assert sorted(labels(one, "person", "camera", "clothes")) == sorted(labels(two, "person", "camera", "clothes"))


@pytest.mark.parametrize(
    ("name", "path", "words"),
    [
        ("vcclothes", "query/0257-00-01-01.jpg", "0257-00-01-01.jpg: camera 0; cameras of VC-Clothes count from 1"),
        ("ccvid", "session1/007_00", "query.txt, line 3: camera 0; cameras of session1/007_00 count from 1 to 12"),
    ],
)
def test_camera_0_is_refused_where_protocols_name_cameras(name, path, words, tmp_path):
    root = trees.TREES[name](tmp_path, decodable=False)
    if name == "ccvid":
        trees.images(root, [f"{path}/00001.jpg"], decodable=False)
        with (root / "query.txt").open("a") as file:
            file.write(f"{path}\t007\tu0\n")
    else:
        trees.images(root, [path], decodable=False)
    with pytest.raises(InputError, match=words):
        datasets.load(name, root)


def test_ambiguous_outfits_are_refused(tmp_path):
    rows = ("1.jpg,a_b,1,c,train", "2.jpg,a,1,b_c,train", "3.jpg,x,1,c,query", "4.jpg,x,2,d,gallery")
    with pytest.raises(InputError, match="line 3, column 'clothes': 'b_c' of this person reads as another's"):
        datasets.load("csv", own(tmp_path, *rows))


def test_protocol_without_matches_is_not_listed(tmp_path):
    rows = ("1.jpg,a,1,r,query", "2.jpg,a,2,s,gallery", "3.jpg,b,1,r,query", "4.jpg,b,2,t,gallery")
    b = datasets.load("csv", own(tmp_path / "one", *rows))
    assert b.protocols == ("cloth_changing", "general")  # nobody is seen twice in the same clothes
    alone = datasets.load("csv", own(tmp_path / "two", "1.jpg,a,1,r,query", "2.jpg,b,2,s,gallery"))
    assert alone.protocols == ()
    with pytest.raises(InputError, match="no protocol of csv counts any of the 1 queries among the 1 gallery images"):
        alone.protocol()


def test_manifest_covers_everything_that_affects_scores(tmp_path):
    b = load("deepchange", tmp_path)
    moved = replace(b, gallery=b.gallery.assign(tracklet=b.gallery["tracklet"] + 1))
    assert moved.manifest() != b.manifest()


@pytest.mark.parametrize("given", [{"near": -1}, {"near": 64}, {"near": 1.5}, {"workers": 0}])
def test_invalid_check_arguments_are_refused(given, tiny_benchmark):
    with pytest.raises(InputError, match="near = .*, workers = "):
        tiny_benchmark.check(**given)


@pytest.mark.parametrize(
    ("header", "row", "message"),
    [
        ("path,person,camera,cloths", "a/1.jpg,1,1,1", "column 'clothes' is missing .is 'cloths' meant"),
        ("path;person;camera;clothes", "a/1.jpg;1;1;1", "line 3, column 'path': 'a/1.jpg' is listed before"),
        ("path\tperson\tcamera", "a/2.jpg\t1\t1", "column 'clothes' is missing; name it in the first line"),
        ("path,person,camera,clothes,person", "a/2.jpg,1,1,1,1", "column 'person' is named twice"),
        ("path,person,camera,clothes", "a/2.jpg,1,1,red, striped", "line 3: 5 cells, and the header names 4 columns"),
        ("path,person,camera,clothes", "a/2.jpg,1,1", "line 3: 3 cells, and the header names 4 columns"),
        ("path,person,camera,clothes", 'a/2.jpg,1,1,"red', "line 3: not a valid table .*quote"),
        ("path,person,camera,clothes", "a/2.jpg,1,1e+16,1", "line 3, column 'camera': '1e.16' may stand for several"),
        ("path,person,camera,clothes", "a/2.jpg,nan,1,1", "line 3, column 'person': 'nan' names nothing"),
        ("path,person,camera,clothes", ",1,1,1", "line 3, column 'path': '' names nothing"),
        ("path,person,camera,clothes", "a/2.jpg,,1,1", "line 3, column 'person': '' names nothing"),
        ("path,person,camera,clothes", "a/1.jpg,1,1,1", "line 3, column 'path': 'a/1.jpg' is listed before"),
        ("path,person,camera,clothes", "a/9.jpg,1,1,1", "line 3, column 'path': 'a/9.jpg' does not exist below"),
        ("path,person,camera,clothes", "../1.jpg,1,1,1", "line 3, .*'../1.jpg' must be relative"),
        ("path,person,camera,clothes", "/etc/1.jpg,1,1,1", "line 3, .*'/etc/1.jpg' must be relative"),
        (
            "path,person,camera,clothes,split",
            "a/2.jpg,1,1,1,test",
            "line 3, column 'split': 'test' is not one of train",
        ),
        ("path,person,camera,clothes,split", "a/2.jpg,-1,1,1,query", "line 3, column 'person': -1 means nobody"),
    ],
)
def test_invalid_csv_cell_is_named_by_row_and_column(header, row, message, tmp_path):
    trees.images(tmp_path, ["a/1.jpg", "a/2.jpg"], decodable=False)
    mark = next(mark for mark in ";\t," if mark in header)
    first = mark.join(["a/1.jpg", "1", "1", "1", "train"][: header.count(mark) + 1])
    (tmp_path / "index.csv").write_text(f"{header}\n{first}\n{row}\n")
    with pytest.raises(InputError, match=message) as caught:
        datasets.load("csv", tmp_path)
    assert str(tmp_path / "index.csv") in str(caught.value)


def test_folder_without_single_csv_is_named(tmp_path):
    with pytest.raises(InputError, match="expected one CSV with the columns path, person, camera, clothes; found none"):
        datasets.load("csv", tmp_path)
    for name in ("a.csv", "b.csv"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match="found a.csv, b.csv"):
        datasets.load("csv", tmp_path)
    with pytest.raises(InputError, match="a.csv is empty; its first line names the columns path, person"):
        datasets.load("csv", tmp_path / "a.csv")
    with pytest.raises(InputError, match="neither a folder nor a CSV"):
        datasets.load("csv", tmp_path / "c.csv")


# Holding people out, leaving images out


def many(root: Path, people: int = 8) -> datasets.Benchmark:
    """LTCC with `people` training people, 2 outfits x 2 cameras x 3 images each; person 0 has one image."""
    trees.ltcc(root, decodable=False)
    names = [
        f"train/{100 + p}_{outfit}_c{camera}_{n:06d}.png"
        for p in range(people)
        for outfit in (1, 2)
        for camera in (1, 2)
        for n in range(3)
    ]
    shutil.rmtree(root / "train")
    trees.images(root, [*names, "train/099_1_c1_000001.png"], decodable=False)
    return datasets.load("ltcc", root)


def test_hold_out_has_one_query_per_outfit_and_camera(tmp_path):
    b = many(tmp_path)
    held = b.hold_out(3, seed=0)
    assert held.train["person"].nunique() == 6 and set(held.train["person"]) == set(range(6))
    assert set(held.train["clothes"]) == set(range(11))
    v = held.validation
    assert v.held_out and v.train.empty and v.query["person"].nunique() == 3
    assert len(v.query) == 3 * 4 and len(v.gallery) == 3 * 8
    assert not v.query.duplicated(["person", "clothes", "camera"]).any()
    assert set(v.query["person"]) == {int(label) for label in v.query["person_label"]}
    assert not set(v.query["person_label"]) & set(held.train["person_label"])
    moved = sorted([*held.train["path"], *v.query["path"], *v.gallery["path"]])
    assert moved == b.train["path"].tolist()
    pd.testing.assert_frame_equal(held.query, b.query)
    for protocol in v.protocols:
        good, _ = dense.masks(v.protocol(protocol), v.query, v.gallery)
        assert good.any(axis=1).all()


def test_hold_out_depends_on_seed_and_is_nested(tmp_path):
    b = many(tmp_path)

    def people(count: int, seed: int) -> set[str]:
        return set(b.hold_out(count, seed).validation.query["person_label"])

    assert people(4, 0) == people(4, 0)
    assert len({frozenset(people(4, seed)) for seed in range(6)}) > 1
    assert people(2, 3) < people(5, 3)
    assert "099" not in set().union(*(people(7, seed) for seed in range(4)))  # one image cannot be asked and found
    assert b.hold_out(0, 0) is b


def test_hold_out_refuses_invalid_input(tmp_path):
    b = many(tmp_path / "a")
    for people in (-1, 8, 99):
        with pytest.raises(InputError, match=f"people = {people}; ltcc has 8 training people"):
            b.hold_out(people, 0)
    with pytest.raises(InputError, match="validation people already"):
        load("synthetic", tmp_path / "b").hold_out(1, 0)


def test_hold_out_of_prcc_can_be_scored(tmp_path):
    v = load("prcc", tmp_path).hold_out(1, seed=0).validation
    for protocol in v.protocols:
        good, _ = dense.masks(v.protocol(protocol), v.query, v.gallery)
        assert good.any(), protocol


def test_hold_out_of_ccvid_moves_whole_tracklets(tmp_path):
    trees.ccvid(tmp_path, decodable=False)
    rows = [(f"session1/{pid}_{camera:02d}", pid) for pid in ("050", "051") for camera in (1, 2, 3)]
    for folder, _ in rows:
        trees.images(tmp_path, [f"{folder}/{n:05d}.jpg" for n in (1, 2)], decodable=False)
    (tmp_path / "train.txt").write_text("".join(f"{folder}\t{pid}\tu0_l0_s0_c0_a0\n" for folder, pid in rows))
    v = datasets.load("ccvid", tmp_path).hold_out(1, seed=0).validation
    assert v.query["tracklet"].nunique() == 1 and v.gallery["tracklet"].nunique() == 2
    assert len(v.query) == 2 and len(v.gallery) == 4


def test_without_records_omissions(tmp_path):
    b = load("ltcc", tmp_path)
    less = b.without(["train/007_1_c2_000005.png", "train/007_1_c3_000006.png", "test/003_1_c1_000010.png"], "broken")
    assert set(less.train["person"]) == {0} and set(less.train["clothes"]) == {0, 1, 2}
    assert len(less.gallery) == 4 and less.gallery.index.tolist() == [0, 1, 2, 3]
    assert [o.path for o in less.omissions][0] == "test/003_1_c1_000010.png"
    assert {o.reason for o in less.omissions} == {"broken"}
    first_gone = b.without([path for path in b.train["path"] if "/000_" in path], "broken").train
    assert set(first_gone["person"]) == {0} and set(first_gone["clothes"]) == {0}  # numbered afresh
    assert less.record()["left_out"][0] == {"path": "test/003_1_c1_000010.png", "reason": "broken"}
    assert less.manifest() != b.manifest()
    again = less.without(["query/003_1_c1_000007.png"], "blurred")
    assert len(again.omissions) == 4 and len(b.gallery) == 5
    with pytest.raises(InputError, match="'train/nobody.png' is in no split"):
        b.without(["train/nobody.png"], "broken")
    with pytest.raises(InputError, match="requires a reason"):
        b.without(["test/003_1_c1_000010.png"], " ")


def test_saved_omissions_apply_to_later_loads(tmp_path):
    root = trees.own(tmp_path, decodable=False)
    first = datasets.load("csv", root).without(["b/3.jpg"], "blurred, by eye").without(["c/1.png"], "a mannequin")
    assert first.save_omissions() == root / "left_out.csv"
    again = datasets.load("csv", root)
    assert again.omissions == first.omissions and again.manifest() == first.manifest()
    assert again.gallery["path"].tolist() == ["b/2.jpg", "b/4.jpg"] and "2 left out" in repr(again)
    note = next(problem for problem in again.check(images=False).problems if problem.kind == "left_out")
    assert note.paths == ("b/3.jpg", "c/1.png") and "a mannequin, blurred, by eye" in note.detail
    (root / "left_out.csv").unlink()
    assert len(datasets.load("csv", root).gallery) == 4


OWN = ["a/1.jpg", "a/2.jpg", "b/1.jpg", "b/2.jpg", "b/3.jpg", "b/4.jpg", "c/1.png"]


def test_omission_reason_may_contain_commas(tmp_path):
    (trees.own(tmp_path, decodable=False) / "left_out.csv").write_text("path,reason\nb/3.jpg,blurred, by eye, twice\n")
    assert datasets.load("csv", tmp_path).omissions[0].reason == "blurred, by eye, twice"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,reason\nb/9.jpg,blurred\n", "left_out.csv, lines 2 to 2: 'b/9.jpg' is in no split"),
        ("path,reason\nb/3.jpg,\n", "left_out.csv, lines 2 to 2: .*requires a reason"),
        ("b/3.jpg\n", "column 'path' is missing.*; found b/3.jpg"),
        ("", "left_out.csv is empty"),
        ("path,reason\n" + "".join(f"{p},x\n" for p in OWN), "left_out.csv, lines 2 to 8: this leaves no image of csv"),
    ],
)
def test_invalid_omission_list_is_refused(text, message, tmp_path):
    (trees.own(tmp_path, decodable=False) / "left_out.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        datasets.load("csv", tmp_path)


def test_without_applies_to_validation(tmp_path):
    b = load("synthetic", tmp_path).without(["validation/test/021_1_c1_000005.png"], "broken")
    assert set(b.validation.gallery["person"]) == {20}


def test_manifest_does_not_depend_on_path(tmp_path):
    one, two = (datasets.load("ltcc", trees.ltcc(tmp_path / name)) for name in ("a", "b_c1"))
    assert one.manifest() == two.manifest() and len(one.manifest()) == 64
    file = tmp_path / "b_c1" / two.train["path"][0]
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))  # the same size
    assert one.manifest() == two.manifest()
    file.write_bytes(bytes(data) + b"\0")
    assert one.manifest() != two.manifest()
    file.unlink()
    assert one.manifest() != two.manifest()


def test_manifest_ignores_hold_out_and_covers_labels(tmp_path):
    b = many(tmp_path / "a")
    assert b.hold_out(3, seed=1).manifest() == b.manifest()
    root = trees.own(tmp_path / "b")
    before = datasets.load("csv", root).manifest()
    file = root / "people.csv"
    file.write_text(file.read_text().replace("green", "brown"))
    assert datasets.load("csv", root).manifest() != before
