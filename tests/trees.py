"""Small benchmarks on disk in every layout, with tiny generated images, for the tests.

Each function writes below ``root`` and returns it. People are few; every layout contains the quirks that
its release is known for. With ``decodable=False`` the files are empty: the index never opens them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def image(path: Path, decodable: bool = True) -> Path:
    """Write a 16 x 8 image whose pixels depend on the path alone; the suffix decides the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not decodable:
        path.touch()
        return path
    seed = [ord(letter) for letter in path.parent.name + "/" + path.name]
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((8, 16), Image.Resampling.NEAREST).save(path, quality=95)
    return path


def images(root: Path, names: list[str], decodable: bool = True) -> Path:
    for name in names:
        image(root / name, decodable)
    return root


def litter(root: Path) -> Path:
    """What Windows and macOS leave in every folder of an unpacked zip."""
    for folder in [root, *(path for path in root.rglob("*") if path.is_dir())]:
        (folder / "Thumbs.db").write_bytes(b"\xd0\xcf")
        (folder / "._copy.jpg").write_bytes(b"\x00")
        (folder / ".DS_Store").write_bytes(b"\x00")
    return root


def ltcc(root: Path, decodable: bool = True) -> Path:
    """Train people 000 (outfits 1, 2, 10; cameras 1, 9, 12) and 007; test people 003 (changes) and 005."""
    images(
        root,
        [
            "train/000_1_c1_000001.png",
            "train/000_1_c12_000002.png",
            "train/000_2_c9_000003.png",
            "train/000_10_c9_000004.png",
            "train/007_1_c2_000005.png",
            "train/007_1_c3_000006.png",
            "query/003_1_c1_000007.png",
            "query/003_2_c2_000008.png",
            "query/005_1_c1_000009.png",
            "test/003_1_c1_000010.png",
            "test/003_1_c2_000011.png",
            "test/003_2_c11_000012.png",
            "test/005_1_c2_000013.png",
            "test/005_1_c3_000014.png",
        ],
        decodable,
    )
    lists = {"change_id_train": "0\n", "unchange_id_train": "7\n", "change_id_test": "3\n", "unchange_id_test": "5\n"}
    for name, text in lists.items():
        (root / "info").mkdir(exist_ok=True)
        (root / "info" / f"cloth-{name}.txt").write_text(text)
    return root


def synthetic(root: Path, decodable: bool = True) -> Path:
    """The embedded benchmark's layout: LTCC's, with validation people beside."""
    ltcc(root, decodable)
    names = ["query/020_1_c1_000001.png", "query/020_2_c2_000002.png", "test/020_1_c3_000003.png"]
    images(root / "validation", [*names, "test/020_2_c1_000004.png", "test/021_1_c1_000005.png"], decodable)
    (root / "attributes.csv").write_text("path,height\n")
    return root


def prcc(root: Path, decodable: bool = True) -> Path:
    """Train people 001, 005 (val shows them again, one file name twice); test people 003, 102."""
    names = []
    for pid in ("001", "005"):
        names += [f"rgb/train/{pid}/{camera}_cropped_rgb{n:03d}.jpg" for camera in "ABC" for n in (1, 2)]
        names += [f"rgb/val/{pid}/{camera}_cropped_rgb003.jpg" for camera in "ABC"]
    names += ["rgb/val/001/A_cropped_rgb001.jpg"]
    for pid in ("003", "102"):
        names += [f"rgb/test/{camera}/{pid}/cropped_rgb{n:03d}.jpg" for camera in "ABC" for n in (1, 2, 3)]
    names += [f"sketch/test/{camera}/003/1.jpg" for camera in "AB"]
    return images(root, names, decodable)


def vcclothes(root: Path, decodable: bool = True, mark: str = "-") -> Path:
    """Train person 1; test person 257 on all four cameras, 258 on the first two."""
    names = ["train/0001-01-01-01", "train/0001-02-02-01", "train/0001-03-02-02"]
    names += ["query/0257-01-01-01", "query/0257-02-01-01", "query/0257-03-01-01", "query/0257-04-02-01"]
    names += ["query/0258-01-01-01", "gallery/0257-01-01-02", "gallery/0257-02-02-02", "gallery/0257-03-01-02"]
    names += ["gallery/0257-03-02-03", "gallery/0257-04-02-02", "gallery/0258-01-01-02", "gallery/0258-02-01-02"]
    return images(root, [f"{name.replace('-', mark)}.jpg" for name in names], decodable)


def celebreid(root: Path, decodable: bool = True) -> Path:
    """People 1, 2, 10 in train; 1, 2 (others of the same number) in test. The y of query 1 is 12."""
    names = ["train/1_1_0", "train/1_2_0", "train/2_1_0", "train/10_1_0", "query/1_12_0", "query/2_3_0"]
    names += ["gallery/1_1_0", "gallery/1_103_0", "gallery/1_2_0", "gallery/2_30_0", "gallery/2_4_0"]
    return images(root, [f"{name}.jpg" for name in names], decodable)


def deepchange(root: Path, decodable: bool = True) -> Path:
    """Train people 1, 12; validation person 3; test people 4, 5. One file on disk is in no list."""
    splits = {
        "train-set": [("P1_C1_d1_h1_0_0", 7), ("P1_C2_d2_h1_0_0", 8), ("P12_C17_d1_h2_0_0", 9)],
        "val-set-query": [("P3_C1_d1_h1_0_0", 1)],
        "val-set-gallery": [("P3_C2_d4_h1_0_0", 2)],
        "test-set-query": [("P4_C1_d1_h1_0_0", 1), ("P5_C3_d1_h1_0_0", 2)],
        "test-set-gallery": [
            ("P4_C1_d1_h1_0_1", 1),
            ("P4_C1_d1_h3_0_0", 3),
            ("P4_C2_d2_h1_0_0", 4),
            ("P5_C3_d3_h1_0_0", 5),
        ],
    }
    for folder, rows in splits.items():
        images(root, [f"{folder}/{name}.jpg" for name, _ in rows], decodable)
        text = "".join(f"{name}.jpg, {tracklet} \n" for name, tracklet in rows)
        (root / f"{folder}-bbox.txt").write_text(text + "\n")
    image(root / "train-set/not_listed.jpg", decodable)
    return root


def last(root: Path, decodable: bool = True) -> Path:
    """Double underscores, files in another person's folder, distractors, unlabelled clothes (000)."""
    names = ["train/000001/000001_001_00001_0001_01_001", "train/000001/000001_002_00001_0002_01_002"]
    names += ["train/000001/000001_003_00001_0003_01_000", "train/000051/000051_003_00013_0270_04_001"]
    names += ["val/query/000700_001_00001_0001_01_000", "val/gallery/000700/000700_002_00001_0002_01_000"]
    names += ["val/gallery/000000/000000_001_00001_0001_01_000"]
    names += ["test/query/005859_001_00001__0001_01_000", "test/query/005895_001_00002_0001_01_000"]
    names += ["test/gallery/005859/005859_002_00001_0003_01_000", "test/gallery/005895/005859_003_00001__0004_01_000"]
    names += ["test/gallery/005895/005895_004_00002_0005_01_000"]
    names += [f"test/gallery/000000/000000_{n:03d}_00001_0001_01_000" for n in (1, 2)]
    return images(root, [f"{name}.jpg" for name in names], decodable)


def ccvid(root: Path, decodable: bool = True) -> Path:
    """Tracklets of 9, 3 and 2 frames; camera 3 of session 3 is 15; people 001 (train), 007, 008 (test)."""
    splits = {
        "train": [("session1/001_01", "001", "u0_l0_s0_c0_a0", 9), ("session3/001_12", "001", "u1_l0_s0_c0_a0", 3)],
        "query": [("session1/007_01", "007", "u0_l0_s0_c0_a0", 9), ("session2/008_02", "008", "u0_l0_s0_c0_a0", 2)],
        "gallery": [
            ("session3/007_03", "007", "u1_l1_s0_c0_a0", 3),
            ("session2/007_02", "007", "u0_l0_s0_c0_a0", 2),
            ("session1/008_01", "008", "u0_l0_s0_c0_a0", 2),
        ],
    }
    for split, rows in splits.items():
        for folder, _, _, frames in rows:
            images(root, [f"{folder}/{n:05d}.jpg" for n in range(1, frames + 1)], decodable)
        (root / f"{split}.txt").write_text("".join(f"{folder}\t{pid}\t{label}\n" for folder, pid, label, _ in rows))
    return root


def market1501(root: Path, decodable: bool = True) -> Path:
    """Train people 2, 7; test person 1; two junk boxes and one distractor in the gallery folder."""
    names = ["bounding_box_train/0002_c1s1_000451_03", "bounding_box_train/0002_c2s1_000301_01"]
    names += ["bounding_box_train/0007_c3s3_077419_03", "query/0001_c1s1_001051_00", "query/0001_c2s1_000301_00"]
    names += ["bounding_box_test/0001_c1s1_001051_03", "bounding_box_test/0001_c3s1_000551_00"]
    names += ["bounding_box_test/-1_c1s1_000401_03", "bounding_box_test/-1_c6s4_002202_02"]
    names += ["bounding_box_test/0000_c4s2_000151_01"]
    return images(root, [f"{name}.jpg" for name in names], decodable)


def own(root: Path, decodable: bool = True, split: bool = True) -> Path:
    """People given by name; the CSV is ``people.csv``."""
    rows = [
        ("a/1.jpg", "ann", "door", "red", "train"),
        ("a/2.jpg", "ann", "yard", "blue", "train"),
        ("b/1.jpg", "bob", "door", "red", "query"),
        ("b/2.jpg", "bob", "yard", "red", "gallery"),
        ("b/3.jpg", "bob", "door", "", "gallery"),
        ("b/4.jpg", "bob", "yard", "blue", "gallery"),
        ("c/1.png", "cleo", "", "green", "gallery"),
    ]
    images(root, [row[0] for row in rows], decodable)
    columns = ["path", "person", "camera", "clothes"] + ["split"] * split
    lines = [",".join(row[: len(columns)]) for row in rows]
    (root / "people.csv").write_text("\n".join([",".join(columns), *lines]) + "\n")
    return root


TREES = {
    "ltcc": ltcc,
    "prcc": prcc,
    "vcclothes": vcclothes,
    "celebreid": celebreid,
    "celebreid_light": celebreid,
    "deepchange": deepchange,
    "last": last,
    "ccvid": ccvid,
    "market1501": market1501,
    "synthetic": synthetic,
    "csv": own,
}
