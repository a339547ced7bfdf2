"""check(): counts, and damaged, duplicate and leaked images that were planted."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import trees
from PIL import Image

from csgn_lib import datasets
from csgn_lib.datasets import duplicates, integrity, published
from csgn_lib.datasets.published import MARKS, PUBLISHED, Count
from csgn_lib.synthetic import World, draw, entries


def kinds(report: datasets.Report) -> dict[str, datasets.Problem]:
    return {problem.kind: problem for problem in report.problems if problem.kind != "count"}


@pytest.fixture()
def synthetic(tmp_path):
    return trees.synthetic(tmp_path)


@pytest.mark.parametrize("name", datasets.NAMES)
def test_check_reads_every_layout(name, tmp_path):
    report = datasets.load(name, trees.TREES[name](tmp_path)).check(workers=1)
    assert report.opened and len(report.manifest) == 64
    assert not report.broken
    images = report.counts[report.counts["what"] == "images"]
    assert (images["found"] > 0).all()
    assert report.name in str(report) and len(report.frame) == len(report.problems)
    assert {problem.kind for problem in report.problems} <= set(integrity.KINDS) == set(report.overview["kind"])


def test_clean_tree_has_only_single_image_notes(synthetic):
    report = datasets.load("synthetic", synthetic).check(workers=1)
    assert set(kinds(report)) == {"outfit_seen_once"}
    assert report.errors == ()


def test_overview_distinguishes_none_from_not_checked(tmp_path):
    b = datasets.load("ltcc", trees.ltcc(tmp_path))
    (tmp_path / "train/007_1_c3_000006.png").unlink()
    for opened, undecodable in ((False, "not checked: images were not opened"), (True, "none")):
        rows = b.check(images=opened, workers=1).overview.set_index("kind")
        assert rows.loc["missing"].tolist() == ["error", "listed files do not exist: 1"]
        assert rows.loc["listed_twice"].tolist() == ["", "none"]
        assert rows.loc["undecodable", "found"] == undecodable
        assert rows.loc["count", "found"].endswith("more)") and rows.loc["count", "severity"] == "warning"


def test_counts_are_compared_and_marked_unverified(tmp_path):
    counts = datasets.load("ltcc", trees.ltcc(tmp_path, decodable=False)).check(images=False).counts
    rows = {(row.split, row.what): row for row in counts.itertuples()}
    assert rows["train", "images"].found == 6 and rows["train", "images"].published == 9_576
    assert rows["train", "images"].agrees == "no" and rows["train", "images"].mark == "T"
    outfits = rows["query+gallery", "outfits"]
    assert (outfits.found, outfits.agrees) == (3, "no, unverified") and "unverified" in outfits.source
    assert rows["all", "people"].found == 4
    assert rows["train", "changers"].found == 1
    assert rows["gallery", "cameras"].agrees == ""  # nothing is published about it


def test_agreeing_count_is_marked(tmp_path, monkeypatch):
    published = (Count("train", "images", 6, "T"), Count("train", "outfits", 4, "M"))
    monkeypatch.setitem(PUBLISHED, "ltcc", published)
    report = datasets.load("ltcc", trees.ltcc(tmp_path, decodable=False)).check(images=False)
    assert report.counts["agrees"].tolist()[:2] == ["yes", "yes, unverified"]
    assert not [problem for problem in report.problems if problem.kind == "count"]


@pytest.mark.parametrize(
    ("name", "count", "found"),
    [
        ("prcc", Count("val", "images", 0, "T"), 7),
        ("prcc", Count("query", "images", 0, "T", camera="C"), 6),
        ("prcc", Count("all+val", "people", 0, "T"), 4),
        ("market1501", Count("gallery", "distractors", 0, "T"), 1),
        ("market1501", Count("gallery", "people", 0, "T"), 1),
        ("market1501", Count("junk", "images", 0, "T"), 2),
        ("last", Count("gallery", "distractors", 0, "T"), 2),
        ("last", Count("validation_gallery", "distractors", 0, "T"), 1),
        ("last", Count("gallery", "people", 0, "R"), 2),
        ("ccvid", Count("all", "tracklets", 0, "T"), 7),
        ("ccvid", Count("query+gallery", "outfits", 0, "T"), 3),
        ("deepchange", Count("all", "cameras", 0, "R"), 4),
        ("ltcc", Count("gallery", "people", 0, "T"), 2),  # LTCC's person 000 is a person
    ],
)
def test_counted_labels(name, count, found, tmp_path):
    b = datasets.load(name, trees.TREES[name](tmp_path, decodable=False))
    assert published.found_count(b, count) == found


def test_published_numbers_have_marks_and_add_up():
    assert set(PUBLISHED) == set(datasets.NAMES) - {"synthetic", "csv"}
    numbers = {name: {(c.split, c.what): c.number for c in counts} for name, counts in PUBLISHED.items()}
    assert {c.mark for counts in PUBLISHED.values() for c in counts} <= set(MARKS)
    for name in ("ltcc", "vcclothes", "celebreid", "celebreid_light"):
        own = numbers[name]
        assert sum(own[split, "images"] for split in ("train", "query", "gallery")) == own["all", "images"]
    splits = ("train", "query", "gallery", "validation_query", "validation_gallery")
    assert sum(numbers["deepchange"][split, "images"] for split in splits) == 178_407
    assert sum(c.number for c in PUBLISHED["prcc"] if c.what == "images" and c.split[:3] != "all") == 33_698


def test_broken_images_are_listed_and_excluded_on_request(synthetic):
    b = datasets.load("synthetic", synthetic)
    cut, garbage = "train/000_1_c1_000001.png", "query/003_1_c1_000007.png"
    empty, gone = "validation/test/021_1_c1_000005.png", "test/005_1_c3_000014.png"
    data = (synthetic / cut).read_bytes()
    (synthetic / cut).write_bytes(data[: len(data) * 2 // 3])
    (synthetic / garbage).write_bytes(b"<html>not found</html>")
    (synthetic / empty).write_bytes(b"")
    (synthetic / gone).unlink()
    report = b.check(workers=2)
    reasons = {problem.paths: problem.detail for problem in report.problems if problem.kind == "undecodable"}
    assert set(reasons) == {(cut,), (garbage,), (empty,)}
    assert "empty file" in reasons[empty,] and "not an image" in reasons[garbage,] and "Truncated" in reasons[cut,]
    assert kinds(report)["missing"].paths == (gone,)
    assert {problem.kind for problem in report.errors} == {"undecodable", "missing"}
    assert report.problems[0].severity == "error"
    less = b.without(report.broken, "cannot be decoded")
    assert not less.check(workers=1).errors
    assert len(less.omissions) == 4
    *_, last = str(report).splitlines()
    assert last.startswith("error: ") and all(path in str(report) for path in (cut, garbage, empty, gone))


@pytest.mark.parametrize("share", [0.5, 0.98])
def test_truncated_jpeg_is_found(share, tmp_path):
    root = trees.vcclothes(tmp_path)
    file = root / "gallery/0257-04-02-02.jpg"
    noise = np.random.default_rng(0).integers(0, 255, (64, 32, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, quality=90)
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * share)])
    report = datasets.load("vcclothes", root).check(workers=1)
    assert report.broken == ("gallery/0257-04-02-02.jpg",)


def test_missing_files_are_found_without_opening_any(tmp_path):
    root = trees.deepchange(tmp_path, decodable=False)
    (root / "train-set/P1_C2_d2_h1_0_0.jpg").unlink()
    report = datasets.load("deepchange", root).check(images=False)
    assert not report.opened and report.broken == ("train-set/P1_C2_d2_h1_0_0.jpg",)


def test_file_listed_twice_is_an_error(tmp_path):
    root = trees.deepchange(tmp_path, decodable=False)
    file = root / "train-set-bbox.txt"
    file.write_text(file.read_text() + "P1_C2_d2_h1_0_0.jpg,8\n")
    report = datasets.load("deepchange", root).check(images=False)
    assert kinds(report)["listed_twice"].paths == ("train-set/P1_C2_d2_h1_0_0.jpg",)


@pytest.mark.parametrize(
    ("source", "copy", "kind", "severity"),
    [
        ("train/000_1_c1_000001.png", "train/000_2_c5_000099.png", "within_person", "note"),
        ("train/000_1_c1_000001.png", "train/007_1_c5_000099.png", "across_people", "warning"),
        ("train/000_1_c1_000001.png", "test/003_1_c5_000099.png", "across_sides", "error"),
        ("query/003_1_c1_000007.png", "test/003_1_c5_000099.png", "across_query_and_gallery", "note"),
    ],
)
def test_exact_and_reencoded_copies_are_found(source, copy, kind, severity, synthetic):
    shutil.copy(synthetic / source, synthetic / copy)
    found = kinds(datasets.load("synthetic", synthetic).check(workers=1))
    assert set(found) == {"outfit_seen_once", f"duplicates_{kind}"}
    assert found[f"duplicates_{kind}"].severity == severity
    assert set(found[f"duplicates_{kind}"].paths) == {source, copy}
    pixels = np.asarray(Image.open(synthetic / source)).astype(int)
    Image.fromarray(np.clip(pixels + 2, 0, 255).astype(np.uint8)).save(synthetic / copy)
    found = kinds(datasets.load("synthetic", synthetic).check(workers=1))
    near = found[f"near_duplicates_{kind}"]
    assert (
        set(near.paths) == {source, copy}
        and near.detail.startswith("near-duplicate pairs")
        and near.detail.endswith(": 1")
    )
    assert near.severity in ("note", "warning")


def test_same_garments_in_other_colours_are_no_duplicate(synthetic):
    source = Image.open(synthetic / "train/000_1_c1_000001.png")
    gray = source.convert("L").convert("RGB")  # the same difference hash: the hash reads luminance
    gray.save(synthetic / "train/000_2_c5_000099.png")
    assert "near_duplicates_within_person" not in kinds(datasets.load("synthetic", synthetic).check(workers=1))


def test_people_in_train_and_test_are_found(tmp_path):
    root = trees.ltcc(tmp_path / "ltcc", decodable=False)
    trees.image(root / "train/003_1_c1_000099.png", decodable=False)
    problem = kinds(datasets.load("ltcc", root).check(images=False))["people_in_train_and_test"]
    assert problem.severity == "error" and "train/003_1_c1_000099.png" in problem.paths
    celeb = datasets.load("celebreid", trees.celebreid(tmp_path / "celeb", decodable=False))
    assert "people_in_train_and_test" not in kinds(celeb.check(images=False))


def test_unmatched_queries_and_misplaced_files_are_reported(tmp_path):
    root = trees.ltcc(tmp_path / "ltcc", decodable=False)
    trees.image(root / "query/009_1_c1_000099.png", decodable=False)
    lost = kinds(datasets.load("ltcc", root).check(images=False))["query_without_match"]
    assert lost.paths == ("query/009_1_c1_000099.png",)
    last = datasets.load("last", trees.last(tmp_path / "last", decodable=False)).check(images=False)
    assert kinds(last)["folder_disagrees"].paths == ("test/gallery/005895/005859_003_00001__0004_01_000.jpg",)


def test_flat_images_are_reported_but_not_as_duplicates(synthetic):
    for name in ("train/000_1_c5_000098.png", "train/007_1_c5_000099.png"):
        Image.new("RGB", (8, 16), (90, 90, 91 + int(name[-5]))).save(synthetic / name)
    found = kinds(datasets.load("synthetic", synthetic).check(workers=1))
    assert len(found["featureless"].paths) == 2
    assert not any(kind.startswith("near_duplicates") for kind in found)


def prints(hashes: np.ndarray, thumbnail: np.ndarray | None = None) -> duplicates.Fingerprints:
    n = len(hashes)
    error, content = np.full(n, "", dtype=object), np.empty(n, dtype=object)
    content[:] = [str(i).encode() for i in range(n)]
    if thumbnail is None:
        thumbnail = np.zeros((n, 8, 9, 3), dtype=np.uint8)
        thumbnail[:, ::2] = 200  # not flat, and alike
    return duplicates.Fingerprints(error, content, hashes, thumbnail, np.ones(n, int), np.ones(n, int))


@pytest.mark.parametrize("distance", [0, 1, 2, 4])
def test_near_pairs_equal_brute_force(distance):
    rng = np.random.default_rng(distance)
    base = rng.integers(0, 2**63, 12, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, rng.integers(0, 6), replace=False)) for _ in range(120)]
    hashes = base[rng.integers(0, 12, 120)] ^ np.array(flips, dtype=np.uint64)
    found = [tuple(pair) for block in duplicates.near_pairs(prints(hashes), distance) for pair in block.tolist()]
    expected = {
        (i, j) for i in range(120) for j in range(i + 1, 120) if int(hashes[i] ^ hashes[j]).bit_count() <= distance
    }
    assert len(found) == len(set(found)) and set(found) == expected and expected


def test_low_quality_jpeg_copies_are_found(tmp_path):
    shown = entries(World(people=33), "train")[::16]  # one picture of each person
    for i, drawn in enumerate(draw([entry.scene for entry in shown], 96)):
        picture = Image.fromarray(drawn.image)
        picture.save(tmp_path / f"{i}.png")
        picture.save(tmp_path / f"{i}.jpg", quality=60)
    names = [f"{i}.{suffix}" for suffix in ("png", "jpg") for i in range(20)]
    found = np.concatenate(list(duplicates.near_pairs(duplicates.fingerprints(tmp_path, names, workers=1))))
    assert len(found) >= 18 and (found[:, 1] - found[:, 0] == 20).all()  # each with its own copy


def test_difference_hash_equals_loop():
    rng = np.random.default_rng(0)
    thumbnail = rng.integers(0, 255, (5, 8, 9, 3), dtype=np.uint8)
    for image, code in zip(thumbnail, duplicates.difference_hash(thumbnail), strict=True):
        bits = ""
        for row in image.astype(float):
            gray = [0.299 * r + 0.587 * g + 0.114 * b for r, g, b in row]
            bits += "".join("1" if gray[c + 1] > gray[c] else "0" for c in range(8))
        assert int(bits, 2) == int(code)


def test_valid_benchmark_is_ready(synthetic):
    assert datasets.readiness(datasets.load("synthetic", synthetic), workers=1) == []


@pytest.mark.parametrize("split", ["train", "query", "gallery"])
def test_unreadable_image_of_any_split_is_found_before_training(split, synthetic):
    b = datasets.load("synthetic", synthetic)
    path = getattr(b, split)["path"][0]
    (b.root / path).write_bytes((b.root / path).read_bytes()[:60])
    (problem,) = datasets.readiness(b, workers=1)
    assert (problem.kind, problem.severity, problem.paths) == ("undecodable", "error", (path,))
    assert path in problem.text
    assert datasets.readiness(b, images=False) == []
    (b.root / path).unlink()
    assert [problem.kind for problem in datasets.readiness(b, images=False)] == ["missing"]


def _own(root, rows):
    trees.images(root, [row.split(",")[0] for row in rows])
    (root / "people.csv").write_text("\n".join(["path,person,camera,clothes,split", *rows]) + "\n")
    return datasets.load("csv", root)


TRAINABLE = ["t/1.jpg,1,1,red,train", "t/2.jpg,2,1,red,train"]


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        (["q/1.jpg,7,1,red,query", "g/1.jpg,7,2,blue,gallery"], []),
        (["q/1.jpg,7,1,red,query", "g/1.jpg,7,1,red,gallery"], ["nobody_to_find"]),
        (["q/1.jpg,7,1,red,query", "g/1.jpg,8,2,red,gallery"], ["nobody_to_find"]),
        (["q/1.jpg,7,1,red,query"], ["empty_split"]),
        (["g/1.jpg,7,1,red,gallery"], ["empty_split"]),
        ([], ["empty_split", "empty_split"]),
        (["q/1.jpg,1.0,1,red,query", "g/1.jpg,01,2,blue,gallery"], ["people_in_train_and_test"]),
    ],
)
def test_unscorable_benchmark_is_found_before_training(rows, kinds, tmp_path):
    b = _own(tmp_path, TRAINABLE + rows)
    assert [problem.kind for problem in datasets.readiness(b, workers=1)] == kinds
    assert set(kinds) <= {problem.kind for problem in b.check(images=False).errors}


def test_single_training_person_is_refused(tmp_path):
    b = _own(tmp_path, ["t/1.jpg,1,1,red,train", "q/1.jpg,7,1,red,query", "g/1.jpg,7,2,blue,gallery"])
    assert [problem.kind for problem in datasets.readiness(b, images=False)] == ["training_people"]
