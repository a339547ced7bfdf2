"""Stored features and distances under a benchmark's protocols, and comparison of two scored models."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from test_models import call

from csgn_lib import retrieval
from csgn_lib.records import InputError
from csgn_lib.retrieval import feature_files, referee


def write(folder: Path, suffix: str, features, paths, name="x") -> Path:
    """Features and their paths as a file of one of the documented kinds."""
    file, texts = folder / f"{name}{suffix}", [str(path) for path in paths]
    if suffix == ".npy":
        np.save(file, features)
        file.with_suffix(".txt").write_text("\n".join(texts), encoding="utf-8")
    elif suffix == ".npz":
        np.savez(file, features=features, paths=np.array(texts))
    elif suffix == ".safetensors":
        save_file({"features": np.ascontiguousarray(features)}, file, metadata={"paths": json.dumps(texts)})
    else:
        with h5py.File(file, "w") as opened:
            opened["features"] = features
            opened["paths"] = texts
    return file


@pytest.fixture(scope="module")
def sides(tiny_benchmark):
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((100, 8))
    return [
        (centres[frame.person] + 1.5 * rng.standard_normal((len(frame), 8))).astype(np.float32)
        for frame in (tiny_benchmark.query, tiny_benchmark.gallery)
    ]


@pytest.fixture(scope="module")
def expected(sides, tiny_benchmark):
    return retrieval.evaluate_all(*sides, tiny_benchmark.query, tiny_benchmark.gallery, tiny_benchmark.protocols)


@pytest.mark.parametrize("suffix", feature_files.SUFFIXES)
def test_rows_are_ordered_by_path(tmp_path, sides, expected, tiny_benchmark, suffix):
    files = []
    for name, features, frame in zip("qg", sides, (tiny_benchmark.query, tiny_benchmark.gallery), strict=True):
        order = np.random.default_rng(1).permutation(len(frame))
        files.append(write(tmp_path, suffix, features[order], frame.path.iloc[order], name))
    found = referee.score_features(tiny_benchmark, *files)
    assert list(found.scores) == list(tiny_benchmark.protocols)
    for name, scores in found.scores.items():
        pd.testing.assert_frame_equal(scores.per_query, expected[name].per_query)
    assert found.sources[0]["rows"] == "query: rows put in order by path"


def test_one_file_for_all_images_with_absolute_or_bare_paths(tmp_path, sides, expected, tiny_benchmark):
    frames = [tiny_benchmark.query, tiny_benchmark.gallery, tiny_benchmark.train[:5]]
    everything = np.concatenate([*sides, np.ones((5, 8), np.float32)])
    paths = ["D:\\data\\set\\" + path.replace("/", "\\") for frame in frames for path in frame.path]
    file = write(tmp_path, ".npz", everything, paths)
    found = referee.score_features(tiny_benchmark, file, file)
    assert found.scores["general"].mean_ap == expected["general"].mean_ap
    assert found.sources[1]["rows"] == "gallery: rows in order, 41 of other images left out"
    names = [[Path(path).name for path in frame.path] for frame in frames[:2]]
    bare = [write(tmp_path, ".npz", *side, name) for *side, name in zip(sides, names, "ab", strict=True)]
    assert referee.score_features(tiny_benchmark, *bare).scores["general"].mean_ap == expected["general"].mean_ap


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f, p: (f, p[:-1]), "36 rows for 35 paths"),
        (lambda f, p: (f[:-1], p[:-1]), "lacks 1 of the 36 query images of synthetic"),
        (lambda f, p: (f, [*p[:-1], p[0]]), "twice, in rows 0 and 35"),
        (lambda f, p: (f, [*p[:-1], "query/no_such.png"]), "row 35: 'query/no_such.png' is no image of synthetic"),
        (lambda f, p: (np.where(np.arange(36)[:, None] == 7, np.nan, f), p), "row 7 of .* holds NaN or infinity"),
        (lambda f, p: (np.where(np.arange(36)[:, None] == 7, 0, f), p), "row 7 of .* is zero"),
        (lambda f, p: (f[:, 0], p), r"shape \(36,\)"),
        (lambda f, p: (f[:, :5], p), "5 wide and gallery_features 8"),
    ],
)
def test_mismatched_features_are_refused(tmp_path, sides, tiny_benchmark, change, words):
    query = write(tmp_path, ".npz", *change(sides[0], list(tiny_benchmark.query.path)), name="q")
    gallery = write(tmp_path, ".npz", sides[1], tiny_benchmark.gallery.path, name="g")
    with pytest.raises(InputError, match=words):
        referee.score_features(tiny_benchmark, query, gallery)


def test_file_without_paths_requires_in_order(tmp_path, sides, expected, tiny_benchmark):
    files = [tmp_path / "q.npy", tmp_path / "g.npy"]
    for file, features in zip(files, sides, strict=True):
        np.save(file, features)
    with pytest.raises(InputError, match="q.npy has no image paths.*--in-order"):
        referee.score_features(tiny_benchmark, *files)
    found = referee.score_features(tiny_benchmark, *files, in_order=True)
    assert found.scores["general"].mean_ap == expected["general"].mean_ap
    assert found.sources[0]["rows"] == "query: rows taken in the benchmark's order, unchecked"
    np.save(files[0], sides[0][:-1])
    with pytest.raises(InputError, match="35 rows for 36 query images"):
        referee.score_features(tiny_benchmark, *files, in_order=True)


@pytest.mark.parametrize("suffix", [*feature_files.SUFFIXES, ".mat"])
def test_damaged_or_unknown_file_is_named(tmp_path, tiny_benchmark, suffix):
    file = tmp_path / f"x{suffix}"
    with pytest.raises(InputError, match="does not exist"):
        referee.score_features(tiny_benchmark, file, file)
    file.write_bytes(b"<html>")
    with pytest.raises(InputError, match="cannot be read|unknown kind"):
        referee.score_features(tiny_benchmark, file, file)


def test_pickled_and_unnamed_arrays_are_refused(tmp_path, tiny_benchmark):
    file = tmp_path / "x.npz"
    np.savez(file, features=np.array([object()]))
    with pytest.raises(InputError, match="cannot be read .*allow_pickle"):
        referee.score_features(tiny_benchmark, file, file)
    np.savez(file, arr_0=np.ones((3, 2)))
    with pytest.raises(InputError, match="has no array 'features'"):
        referee.score_features(tiny_benchmark, file, file)
    np.savez(file, features=np.ones((3, 2)), paths=np.arange(3))
    with pytest.raises(InputError, match="are no text"):
        referee.score_features(tiny_benchmark, file, file)


def test_distances_score_like_features(tmp_path, sides, expected, tiny_benchmark):
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in sides]
    rows, columns = (np.random.default_rng(2).permutation(len(side)) for side in sides)
    distances = (1 - unit[0] @ unit[1].T)[rows][:, columns]
    query, gallery = tiny_benchmark.query.path.iloc[rows], tiny_benchmark.gallery.path.iloc[columns]
    file = tmp_path / "d.npz"
    np.savez(file, distances=distances, query_paths=query.to_numpy(str), gallery_paths=gallery.to_numpy(str))
    found = referee.score_distances(tiny_benchmark, file)
    assert found.scores["cloth_changing"].mean_ap == pytest.approx(expected["cloth_changing"].mean_ap)
    plain = tmp_path / "d.npy"
    np.save(plain, distances)
    with pytest.raises(InputError, match="has no image paths"):
        referee.score_distances(tiny_benchmark, plain)
    (tmp_path / "d.query.txt").write_text("\n".join(query))
    (tmp_path / "d.gallery.txt").write_text("\n".join(gallery))
    assert referee.score_distances(tiny_benchmark, plain).scores["general"].mean_ap == found.scores["general"].mean_ap


def test_trapezoid_ap_is_separate_protocol(tmp_path, sides, expected, tiny_benchmark):
    paths = tiny_benchmark.query.path, tiny_benchmark.gallery.path
    files = [write(tmp_path, ".npz", *side, name) for *side, name in zip(sides, paths, "qg", strict=True)]
    found = referee.score_features(tiny_benchmark, *files, trapezoid=True).scores
    assert found["general_trapezoid"].protocol.description.endswith("trapezoid AP")
    assert found["general"].mean_ap == expected["general"].mean_ap != found["general_trapezoid"].mean_ap
    assert found["general_trapezoid"].rank1 == found["general"].rank1
    official = [p.name for p in referee.protocols_of(_Named("celebreid", ("general", "general_trapezoid")), True)]
    assert official == ["general", "general_trapezoid"]


class _Named:
    """A benchmark's name and protocols."""

    def __init__(self, name: str, protocols: tuple[str, ...]) -> None:
        self.name, self.protocols = name, protocols


@pytest.fixture(scope="module")
def scored(tmp_path_factory, sides, tiny_benchmark):
    """Two models' folders: the second has noisier features."""
    folder = tmp_path_factory.mktemp("scored")
    frames = tiny_benchmark.query, tiny_benchmark.gallery
    for name, noise in (("good", 0.0), ("bad", 2.0)):
        rng = np.random.default_rng(3)
        files = [
            write(folder, ".npz", s + noise * rng.standard_normal(s.shape), f.path, f"{name}{n}")
            for n, s, f in zip("qg", sides, frames, strict=True)
        ]
        referee.score_features(tiny_benchmark, *files, trapezoid=True, thresholds=True).write(folder / name)
    return folder


def test_scored_folder_contains_sources_and_queries(scored, expected, tiny_benchmark):
    results = json.loads((scored / "good" / "results.json").read_text())["given"]["protocols"]
    assert results["general"]["mean_ap"] == pytest.approx(expected["general"].mean_ap)
    assert results["general"]["mean_ap_interval"] == pytest.approx(list(expected["general"].interval("mean_ap")))
    read = referee.read_scores(scored / "good", "synthetic")
    assert read["general"].summary() == pytest.approx(expected["general"].summary())
    about = json.loads((scored / "good" / "scored.json").read_text())
    assert about["sources"][0]["sha256"] == feature_files.sha256(scored / "goodq.npz")
    assert about["manifest"] == tiny_benchmark.manifest()
    assert set(json.loads((scored / "good" / "verification.json").read_text())["protocols"]) >= {"general"}


def test_two_models_are_compared_query_by_query(scored, tiny_benchmark):
    table = referee.compare(scored / "good", scored / "bad", "synthetic")
    row = table[(table.protocol == "general") & (table.metric == "mean_ap")].iloc[0]
    aps = [referee.read_scores(scored / name, "synthetic")["general"].per_query for name in ("good", "bad")]
    assert row.difference == pytest.approx((aps[0].ap - aps[1].ap).mean()) and row.low < row.difference < row.high
    parts = (aps[0].ap - aps[1].ap).groupby(aps[0].person).sum().to_numpy()
    signs = np.array(np.meshgrid(*[[1, -1]] * len(parts))).reshape(len(parts), -1)
    assert row.p == pytest.approx((np.abs(parts @ signs) >= abs(parts.sum()) - 1e-12).mean())
    assert row.people == aps[0].person.nunique()
    assert "general_trapezoid" in set(table.protocol)


def test_folders_of_other_data_are_not_compared(scored, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        referee.compare(scored / "good", tmp_path, "synthetic")
    (tmp_path / "benchmark.json").write_text('{"benchmark": "ltcc", "manifest": "ab"}')
    with pytest.raises(InputError, match="was scored on synthetic and .* on ltcc"):
        referee.compare(scored / "good", tmp_path, "synthetic")
    with pytest.raises(InputError, match="has no descriptor 'plain'; there are: given"):
        referee.read_scores(scored / "good", "synthetic", "plain")


def test_scores_do_not_overwrite_other_folders(scored, sides, tiny_benchmark, tmp_path):
    files = [scored / "goodq.npz", scored / "goodg.npz"]
    found = referee.score_features(tiny_benchmark, *files)
    found.write(scored / "good")  # the same files again
    with pytest.raises(InputError, match="holds something else"):
        found.write(scored / "bad")
    (tmp_path / "notes.txt").write_text("mine")
    for out, words in ((tmp_path, "holds something else"), (tmp_path / "notes.txt", "is a file")):
        with pytest.raises(InputError, match=words):
            found.write(out)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_csgn_score_prints_protocols_and_compares(capsys, scored, tiny_benchmark, tmp_path):
    command = [
        "score",
        "synthetic",
        tiny_benchmark.root,
        "--query",
        scored / "goodq.npz",
        "--gallery",
        scored / "goodg.npz",
    ]
    status, out, err = call(capsys, *command, "--trapezoid", "--against", scored / "bad", "--out", tmp_path / "s")
    assert status == 0 and err == ""
    for name in tiny_benchmark.protocols:
        assert f"{name}: {tiny_benchmark.protocol(name).description}" in out
    general = json.loads((tmp_path / "s" / "results.json").read_text())["given"]["protocols"]["general"]
    assert f"mAP {100 * general['mean_ap']:.1f} [{100 * general['mean_ap_interval'][0]:.1f}, " in out
    assert f"{general['counted']} queries counted" in out and "general_trapezoid" in out
    assert "minus those of" in out and " p " in out and (tmp_path / "s" / "differences.csv").exists()
    status, _, err = call(capsys, *command[:3], "--query", scored / "goodq.npz")
    assert status == 2 and "--gallery" in err
    status, _, err = call(capsys, *command, "--distances", scored / "goodq.npz")
    assert status == 2 and "not both" in err


def test_scoring_stored_features_does_not_import_torch():
    code = "import sys, csgn_lib.retrieval.referee; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
