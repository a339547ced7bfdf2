"""Spellings of labels and file names: all score the same or raise an InputError.

A drawn table is one to five images of up to three people. TABLES of them make a benchmark, in which each query is
scored against all tables' images, so that one load tries them all. What is expected is scored from the drawn numbers
themselves, without any reader. In all 10,000 tables and names are drawn.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from csgn_lib import datasets, retrieval
from csgn_lib.datasets import celebreid, deepchange, files, last, ltcc, market1501, prcc, vcclothes
from csgn_lib.records import InputError

TABLES = 50
PEOPLE = 3  # of a table
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)  # shrinking a failure would take minutes
FEW = settings(deadline=None, suppress_health_check=list(HealthCheck), phases=PHASES)


@dataclass(frozen=True)
class Row:
    """One image: labels as numbers, camera 1 to 4, and how each of the three is to be spelled (0 to 4)."""

    number: int
    split: str
    person: int
    camera: int
    clothes: int
    spelling: tuple[int, int, int]


@st.composite
def rows(draw: st.DrawFn) -> list[Row]:
    """TABLES tables of one to five images; one integer an image."""
    tables = draw(st.lists(st.lists(st.integers(0, 8999), min_size=1, max_size=5), min_size=TABLES, max_size=TABLES))
    found = []
    for table, codes in enumerate(tables):
        for code in codes:
            sizes = (2, PEOPLE, 4, 3, 5, 5, 5)
            split, person, camera, clothes, *spelling = np.unravel_index(code % np.prod(sizes), sizes)
            person = 1 + PEOPLE * table + int(person)
            row = ("query", "gallery")[split], person, 1 + int(camera), int(clothes) + 1, tuple(map(int, spelling))
            found.append(Row(len(found), *row))
    for split in ("query", "gallery"):  # a benchmark has both
        found.append(Row(len(found), split, 1, 1 + (split == "query"), 1, (0, 0, 0)))
    return found


def padded(number: int, spelling: int) -> str:
    return f"{number:0{1 + spelling}d}"


def expected_frames(table: list[Row]) -> dict[str, pd.DataFrame]:
    columns = [(r.number, r.split, r.person, r.camera, 10 * r.person + r.clothes) for r in table]
    frame = pd.DataFrame(columns, columns=["number", "split", "person", "camera", "clothes"])
    return {split: frame[frame["split"] == split].reset_index(drop=True) for split in ("query", "gallery")}


def per_query(query: pd.DataFrame, gallery: pd.DataFrame, numbers: dict, protocol: datasets.Protocol) -> pd.DataFrame:
    """What each query scores, by the image's number; the features belong to the image, whatever it is called."""
    features = np.random.default_rng(0).normal(size=(1000, 4))
    sides = [features[[numbers[key] for key in frame.iloc[:, 0]]] for frame in (query, gallery)]
    scored = retrieval.evaluate(*sides, query, gallery, protocol).per_query
    scored.insert(0, "number", [numbers[key] for key in query.iloc[protocol.query_rows(query), 0]])
    return scored.sort_values("number").reset_index(drop=True)[["number", "ap", "first_hit", "valid"]]


def compare(benchmark: datasets.Benchmark, numbers: dict[str, int], expected: dict[str, pd.DataFrame]) -> None:
    """Score a benchmark that was read, and what it should have been read as, under every protocol without draws."""
    plain = {number: number for number in numbers.values()}
    for protocol in map(benchmark.protocol, benchmark.protocols):
        if protocol.draws:  # they depend on the spelling of paths
            continue
        found = per_query(benchmark.query, benchmark.gallery, numbers, protocol)
        wanted = per_query(expected["query"], expected["gallery"], plain, protocol)
        pd.testing.assert_frame_equal(found, wanted)


# A CSV

UNKNOWN = ("", "-1", "-1.0", "nan", "<NA>")
NUMBERS: tuple[Callable[[int], str], ...] = (
    str, "{:03d}".format, "{}.0".format, " {} ".format, "{}.".format,
)  # fmt: skip
TEXTS: tuple[Callable[[int], str], ...] = (
    "kamera é{}".format,
    lambda n: unicodedata.normalize("NFD", f"kamera é{n}"),
    " kamera é{} ".format,
    lambda n: unicodedata.normalize("NFD", f"kamera é{n} "),
    "kamera é{}".format,
)
PATHS: tuple[Callable[[str], str], ...] = (
    str, "./{}".format, lambda p: p.replace("/", "//"), lambda p: p.replace("/", "\\"), lambda p: p.replace("/", "/./"),
)  # fmt: skip


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """A folder of empty files ``x/0.jpg`` and so on, for CSVs beside it."""
    root = tmp_path_factory.mktemp("photos")
    (root / "x").mkdir()
    for number in range(5 * TABLES + 2):
        (root / "x" / f"{number}.jpg").touch()
    return root


@given(
    table=rows(),
    delimiter=st.sampled_from(",;\t"),
    newline=st.sampled_from(["\n", "\r\n"]),
    mark=st.sampled_from(["", "\ufeff"]),
    quote=st.booleans(),
    texts=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    first_camera=st.integers(0, 1),
)
@settings(FEW, max_examples=30)
def test_csv_spelling_does_not_change_scores(photos, table, delimiter, newline, mark, quote, texts, first_camera):
    unknown = {(row.number, column) for row in table for column in (1, 2) if row.number % 7 == 3 * column}

    def cell(row: Row, column: int) -> str:
        if (row.number, column) in unknown:
            return UNKNOWN[row.spelling[column]]
        number = (row.person, row.camera - 1 + first_camera, row.clothes)[column]
        return (TEXTS if texts[column] else NUMBERS)[row.spelling[column]](number)

    lines = [["path", "person", "camera", "clothes", "split"]]
    for row in table:
        path = PATHS[row.spelling[0]](f"x/{row.number}.jpg")
        lines.append([path, *(cell(row, column) for column in range(3)), row.split])
    cells = [[f'"{cell}"' if quote else cell for cell in line] for line in lines]
    file = photos / "people.csv"
    file.write_bytes((mark + newline.join(delimiter.join(line) for line in cells)).encode())
    expected = expected_frames(table)
    for frame in expected.values():
        for column, name in ((1, "camera"), (2, "clothes")):
            frame.loc[[(number, column) in unknown for number in frame["number"]], name] = -1
    benchmark = datasets.load("csv", file)
    compare(benchmark, {f"x/{row.number}.jpg": row.number for row in table}, expected)


# Layouts with labels in file names: each writes one file a row and says which file it is


def write_ltcc(root: Path, row: Row, first: int) -> str:
    person, camera, clothes = spelled(row, first)
    return f"{'query' if row.split == 'query' else 'test'}/{person}_{clothes}_c{camera}_{row.number:06d}.png"


def write_market1501(root: Path, row: Row, first: int) -> str:
    person, camera, _ = spelled(row, first)
    folder = "query" if row.split == "query" else "bounding_box_test"
    return f"{folder}/{person}_c{camera}s1_{row.number:06d}_00.{('jpg', 'JPG', 'jpeg', 'png', 'Jpg')[row.spelling[2]]}"


def write_vcclothes(root: Path, row: Row, first: int) -> str:
    person, camera, clothes = spelled(row, 1)
    return f"{row.split}/" + "-_"[row.number % 2].join([person, camera, clothes, f"{row.number}.jpg"])


def write_celebreid(root: Path, row: Row, first: int) -> str:
    return f"{row.split}/{padded(row.person, row.spelling[0])}_{row.number + 1}_0.jpg"


def write_last(root: Path, row: Row, first: int) -> str:
    person, _, clothes = spelled(row, 1)
    folder = "test/query" if row.split == "query" else f"test/gallery/{person}"
    return f"{folder}/{person}_{row.number}_0_0_{clothes}.jpg"


def write_deepchange(root: Path, row: Row, first: int) -> str:
    person, camera, clothes = spelled(row, first)
    path = f"test-set-{row.split}/P{person}_C{camera}_d{clothes}_0_0_{row.number}.jpg"
    with (root / f"test-set-{row.split}-bbox.txt").open("a") as file:
        file.write(f"{path.split('/')[1]},{padded(row.number, row.spelling[2])}\n")
    return path


def write_ccvid(root: Path, row: Row, first: int) -> str:
    person, camera, clothes = spelled(row, 1)
    folder = f"session{1 + row.number % 2}/{row.number}_{camera}"
    with (root / f"{row.split}.txt").open("a") as file:
        file.write(f"{folder}\t{person}\tu{clothes}_l0\n")
    return f"{folder}/00001.jpg"


def write_prcc(root: Path, row: Row, first: int) -> str:
    letter = "A" if row.split == "gallery" else "BC"[row.camera % 2]
    return f"rgb/test/{letter}/{padded(row.person, row.spelling[0])}/cropped_rgb{row.number:03d}.jpg"


def spelled(row: Row, first: int) -> tuple[str, str, str]:
    numbers = (row.person, row.camera - 1 + first, row.clothes)
    person, camera, clothes = (padded(n, spelling) for n, spelling in zip(numbers, row.spelling, strict=True))
    return person, camera, clothes


TRAIN = {
    "ltcc": ["train/900_1_c1_0.png"],
    "market1501": ["bounding_box_train/0900_c1s1_000001_00.jpg"],
    "vcclothes": ["train/0900-01-01-01.jpg"],
    "celebreid": ["train/900_1_0.jpg"],
    "last": ["train/900/900_1_0_0_1.jpg", "test/gallery/0/0_1_0_0_0.jpg"],
    "deepchange": [],
    "ccvid": ["session1/900_1/00001.jpg"],
    "prcc": ["rgb/train/900/A_cropped_rgb001.jpg", *(f"rgb/test/{c}/901/cropped_rgb001.jpg" for c in "ABC")],
}


def prepare(name: str, root: Path) -> list[str]:
    """Files of other people that the layout needs, and its lists; returns those that are ranked."""
    if name == "deepchange":
        for folder in deepchange._FOLDERS:
            (root / folder).mkdir()
            (root / f"{folder}-bbox.txt").write_text("")
        for folder in deepchange._FOLDERS[:3]:
            (root / f"{folder}-bbox.txt").write_text("P900_C1_d1_0_0_0.jpg,9999\n")
    if name == "ccvid":
        (root / "train.txt").write_text("session1/900_1\t900\tu1_l0\n")
    for path in TRAIN[name]:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    return [path for path in TRAIN[name] if "test" in path]


def expected_of(name: str, table: list[Row], extra: list[str]) -> dict[str, pd.DataFrame]:
    """The drawn numbers as the layout has them: some have no cameras or clothes, some other cameras."""
    frames = expected_frames(table)
    for split, frame in frames.items():
        by_number = {row.number: row for row in table}
        drawn = [by_number[number] for number in frame["number"]]
        if name in ("celebreid", "last"):
            frame[["camera", "clothes"]] = -1
        if name in ("vcclothes",):
            frame["camera"] -= 1
        if name == "market1501":
            frame["clothes"] = -1
        frame["first_digit"] = [int(str(row.number + 1)[0]) for row in drawn]
        frame["tracklet"] = frame["number"]
        frame["changes_clothes"] = -1
        if name == "prcc":
            letters = [0 if split == "gallery" else 1 + row.camera % 2 for row in drawn]
            frame["camera"], frame["clothes"] = letters, 10 * frame["person"] + (np.array(letters) == 2)
            others = [path for path in extra if ("/A/" in path) == (split == "gallery")]
            for path in others:
                frame.loc[len(frame)] = frame.iloc[0].to_dict() | {
                    "number": 900 + extra.index(path), "person": 901, "camera": "ABC".index(path[9]), "clothes": 9999,
                }  # fmt: skip
        if name == "last" and split == "gallery":
            frame.loc[len(frame)] = frame.iloc[0].to_dict() | {"number": 900, "person": 0}
    return frames


@pytest.mark.parametrize("name", sorted(TRAIN))
@given(table=rows(), first=st.integers(0, 1))
@settings(FEW, max_examples=5)
def test_layout_spelling_does_not_change_scores(name, table, first):
    root = Path(tempfile.mkdtemp())
    try:
        extra = prepare(name, root)
        numbers = {path: 900 + i for i, path in enumerate(extra)}
        for row in table:
            path = globals()[f"write_{name}"](root, row, first)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
            numbers[path] = row.number
        compare(datasets.load(name, root), numbers, expected_of(name, table, extra))
    finally:
        shutil.rmtree(root)


# Names and files that nobody would write


@given(names=st.lists(st.text("0123456789_-cspPC.jpgJ \u0663\u00b2/\x00\udce9", max_size=30), min_size=60, max_size=60))
@settings(FEW, max_examples=108)
def test_random_file_names_are_parsed_or_refused(names):
    patterns = [module._NAME for module in (celebreid, deepchange, last, ltcc, market1501, vcclothes)]
    for pattern in [*patterns, prcc._TRAIN, prcc._TEST]:
        for name in names:
            try:
                read = files.parse(Path("x"), [name], pattern, "this")
            except InputError as error:
                assert "expected this" in str(error) or "larger than" in str(error)
            else:
                assert all(str(int(text)) == text for (text,) in read.values() if text.isdecimal())


@pytest.mark.parametrize(
    ("pattern", "name"),
    [
        (ltcc._NAME, "{n}_1_c1_000001.png"),
        (ltcc._NAME, "1_{n}_c1_000001.png"),
        (ltcc._NAME, "1_1_c{n}_000001.png"),
        (market1501._NAME, "{n}_c1s1_000451_03.jpg"),
        (vcclothes._NAME, "{n}-01-01-01.jpg"),
        (celebreid._NAME, "{n}_1_0.jpg"),
        (last._NAME, "{n}_001_00001_0001_01_001.jpg"),
        (deepchange._NAME, "P{n}_C1_d1_h1_0_0.jpg"),
    ],
)
def test_number_beyond_64_bits_is_refused(pattern, name):
    assert files.parse(Path("x"), [name.format(n=2**63 - 1)], pattern, "")
    for number in (2**63, 10**200):
        with pytest.raises(InputError, match=rf"{number}.*: the number {number} is larger than {2**63 - 1}"):
            files.parse(Path("x"), [name.format(n=number)], pattern, "")


CELLS = st.sampled_from(
    ["x/0.jpg", "x/1.jpg", "1", "01", "1.0", "-1", "", "red", "Red", '"', "a,b", "train", "query", "é"]
)


@given(
    lines=st.lists(st.lists(CELLS, max_size=6), max_size=5),
    header=st.booleans(),
    tail=st.binary(max_size=4),
    delimiter=st.sampled_from(",;\t|"),
)
@settings(FEW, max_examples=60)
def test_random_csvs_are_parsed_or_refused(photos, lines, header, tail, delimiter):
    lines = [["path", "person", "camera", "clothes", "split"]] * header + lines
    file = photos / "drawn.csv"
    file.write_bytes("\n".join(delimiter.join(line) for line in lines).encode() + tail)
    try:
        read = datasets.load("csv", file)
    except InputError as error:
        assert str(file) in str(error)
    else:
        assert len(read.train) + len(read.query) + len(read.gallery) == len(set(map(tuple, lines[1:])) - {()})


@given(
    names=st.lists(st.binary(min_size=1, max_size=12).filter(lambda b: b"/" not in b and b"\0" not in b), max_size=5)
)
@settings(FEW, max_examples=30)
def test_folder_of_random_names_is_listed_or_refused(names):
    root = tempfile.mkdtemp()
    try:
        for name in set(names) - {b".", b".."}:
            with open(os.path.join(os.fsencode(root), name), "wb"):
                pass
        try:
            listed = list(files.walk(root))
        except InputError as error:
            assert "is not UTF-8" in str(error)
            str(error).encode()
        else:
            visible = {name.decode() for name in names if not name.startswith(b".")}
            assert set(listed) == {name for name in visible if name.lower() not in files.IGNORED}
    finally:
        shutil.rmtree(root)
