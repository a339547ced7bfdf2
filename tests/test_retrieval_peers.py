"""Known errors in the evaluation code of other projects, and their absence here.

The wrong rules are written out here in our own words. Where those scorers are right, the twin in
``test_retrieval`` is theirs as well.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import measurement as bench
from benchmarks import retrieval as benchmark
from benchmarks import retrieval_peers as peers
from csgn_lib import datasets, retrieval
from csgn_lib.records import InputError


def frame(person, camera) -> pd.DataFrame:
    return pd.DataFrame({"person": person, "camera": camera})


def average_precision(right: list[bool]) -> float:
    """Of one ranking without junk."""
    hits = np.flatnonzero(right) + 1
    return float(np.mean(np.arange(1, len(hits) + 1) / hits))


def test_unstable_argsort_depends_on_ties():
    """Simple-CCReID, CLIP-ReID, fast-reid, torchreid, FIRe: np.argsort's default leaves ties to the processor."""
    query, gallery = frame([0], [0]), frame([1, 0, 1, 0], [1, 1, 1, 1])
    distances = np.array([[0.3, 0.3, 0.3, 0.1]], np.float32)
    person = gallery["person"].to_numpy()
    allowed = [[3, 0, 1, 2], [3, 1, 0, 2], [3, 2, 0, 1]]  # all of them sort the distances
    assert all((np.diff(distances[0, order]) >= 0).all() for order in allowed)
    values = [average_precision(person[order] == 0) for order in allowed]
    assert len(set(values)) == 3
    assert retrieval.evaluate_distances(distances, query, gallery, "general").mean_ap == values[0]


def test_cython_cmc_of_peers_drops_to_0():
    """Their curve is cut from a buffer as long as the gallery, of which only the kept images are written."""
    query, gallery = frame([0], [0]), frame([0, 0, 1, 0], [0, 0, 1, 1])  # two of four are junk
    distances = np.array([[0.1, 0.2, 0.3, 0.4]])
    right = [False, True]
    buffer = np.zeros(4)
    buffer[:2] = np.minimum(np.cumsum(right), 1)
    assert buffer.tolist() == [0, 1, 0, 0]
    assert retrieval.evaluate_distances(distances, query, gallery, "general", ranks=4).cmc.tolist() == [0, 1, 1, 1]


def test_cmc_is_defined_beyond_small_galleries():
    query, gallery = frame([0, 1], [0, 0]), frame([0, 0, 1], [0, 1, 1])  # the first query keeps two, the second three
    result = retrieval.evaluate_distances(np.array([[1.0, 2, 3], [1, 2, 3]]), query, gallery, "general")
    kept = [[1, 1], [0, 0, 1]]
    with pytest.raises(ValueError, match="inhomogeneous"):
        np.asarray(kept)  # what theirs does, since NumPy 1.24
    assert result.cmc.shape == (50,) and result.cmc[:4].tolist() == [0.5, 0.5, 1, 1]


def test_trapezoid_ap_of_celebreid():
    """Matches at ranks 2 and 3: the field's AP is (1/2 + 2/3) / 2; the area halves with the precision before."""
    query, gallery = frame([0], [0]), frame([1, 0, 0], [1, 1, 1])
    distances = np.array([[0.1, 0.2, 0.3]])
    precision, recall = np.array([1, 0, 1 / 2, 2 / 3]), np.array([0, 0, 1 / 2, 1])
    area = np.sum(np.diff(recall) * (precision[1:] + precision[:-1]) / 2)
    names = datasets.BENCHMARK_PROTOCOLS["celebreid"]
    field, official = names["general"], names["general_trapezoid"]
    assert retrieval.evaluate_distances(distances, query, gallery, field).mean_ap == pytest.approx(7 / 12)
    assert retrieval.evaluate_distances(distances, query, gallery, official).mean_ap == pytest.approx(area)
    assert area == pytest.approx(5 / 12)


def test_no_valid_query_is_an_error():
    query, gallery = frame([0], [0]), frame([0, 1], [0, 1])
    with pytest.raises(InputError, match="none of the 1 queries has a match left"):
        retrieval.evaluate_distances(np.ones((1, 2)), query, gallery, "general")


def test_torchreid_distance_depends_on_norms():
    query, gallery = frame([0], [0]), frame([1, 0], [1, 1])
    asked, ranked = np.array([[1.0, 0.0]]), np.array([[0.8, 0.6], [9.0, 0.0]])  # the right one is long
    squared = ((asked[:, None] - ranked) ** 2).sum(axis=-1)
    assert retrieval.evaluate_distances(squared, query, gallery, "general").rank1 == 0
    assert retrieval.evaluate(asked, ranked, query, gallery, "general").rank1 == 1


@pytest.mark.parametrize("distance", ["minus cosine", "squared Euclidean", "Euclidean", "arc cosine"])
def test_peer_distances_have_same_order(distance):
    generator = np.random.default_rng(0)
    query, gallery = frame(np.arange(30) % 7, 0), frame(np.arange(200) % 7, 1)
    asked, ranked = (generator.standard_normal((n, 5)) for n in (30, 200))
    cosine = (asked @ ranked.T) / np.linalg.norm(asked, axis=1)[:, None] / np.linalg.norm(ranked, axis=1)
    values = {
        "minus cosine": -cosine,
        "squared Euclidean": 2 - 2 * cosine,
        "Euclidean": np.sqrt(2 - 2 * cosine),
        "arc cosine": np.arccos(cosine),
    }
    theirs = retrieval.evaluate_distances(values[distance], query, gallery, "general")
    ours = retrieval.evaluate(asked, ranked, query, gallery, "general")
    assert ours.mean_ap == pytest.approx(theirs.mean_ap, abs=1e-6)
    np.testing.assert_allclose(ours.cmc, theirs.cmc, atol=1e-6)


def test_peers_are_loaded_by_file_or_skipped(tmp_path, monkeypatch):
    for variable in bench.PEERS.values():
        monkeypatch.delenv(variable, raising=False)
    assert peers.scorers() == {} and peers.reranker() is None
    assert len(bench.missing()) == 4 and "CLIP_REID is not set" in "".join(bench.missing())
    (tmp_path / "utils").mkdir()
    (tmp_path / "utils/__init__.py").write_text("raise ImportError('its project must not be imported')")
    rule = (
        "def eval_func(d, asked, ranked, *cameras):\n"
        "    assert asked.flags.writeable  # or Cython's buffers refuse it\n"
        "    return ranked[d.argmin(1)] == asked, 0.25\n"
    )
    (tmp_path / "utils/metrics.py").write_text(rule)
    monkeypatch.setenv("CLIP_REID", str(tmp_path))
    ((protocol, scorer),) = peers.scorers().values()
    right, mean_ap = scorer(np.array([[0.2, 0.1], [0.1, 0.2]]), frame([4, 4], [0, 0]), frame([3, 4], [1, 1]))
    assert (protocol, right.tolist(), mean_ap) == ("general", [True, False], 0.25)


def test_benchmark_row_shows_target():
    row = bench.Row("ours", 1.5, "x", 1.3)
    assert row.met is False and row.words() == ("ours", "1.5 x", "<= 1.3 x", "NOT MET") and "NOT MET" in str(row)
    assert bench.Row("ours", 1.3, "x", 1.3).met and bench.Row("theirs", 5.0, "x", 5, at_least=True).met
    assert bench.Row("theirs", 4.9, "x", 5, at_least=True).met is False
    assert bench.Row("skipped", None, "", 5).met is None and bench.Row("seconds", 2.0, "s").met is None
    assert bench.Row("error", 4.8e-7, "", 1e-6).words()[1:] == ("5e-7", "<= 1e-6", "met")


def test_benchmark_table_is_csv_and_markdown(tmp_path):
    rows = [bench.Row("ours", 0.123456789, "x", 0.3), bench.Row("a, peer: skipped", None)]
    bench.write(tmp_path / "new", rows, "What was measured", "the command")
    table = pd.read_csv(tmp_path / "new/bench.csv")
    assert table.what.tolist() == ["ours", "a, peer: skipped"]
    assert table.value[0] == 0.123457 and np.isnan(table.value[1]) and bool(table.met[0]) is True
    text = (tmp_path / "new/bench.md").read_text()
    assert "| ours | 0.123 x | <= 0.3 x | met |" in text and "`the command`" in text and np.__version__ in text


def test_peak_memory_of_code_block():
    earlier = [np.ones(64_000, dtype=np.uint8) for _ in range(2000)]  # freed but for the last, so glibc keeps them,
    earlier = earlier[-1:]  # and would serve the block from memory that is resident already
    with bench.peak() as memory:
        held = np.ones(100_000_000, dtype=np.uint8)
        del held
    assert len(earlier) == 1
    assert bench.Peak().over(1) is None and bench.Peak(2e6).over(1e6, before=1e6) == 3.0
    assert memory.size is None or 95e6 < memory.size < 130e6


def test_benchmark_interleaves_measurements():
    order = []
    seconds, results = bench.in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b") or 2}, rounds=2)
    assert seconds.keys() == {"a", "b"} and results == {"a": None, "b": 2} and order == ["a", "b", "a", "b"]
    asked, ranked, query, gallery = benchmark.world(20, 50, 5, 8, noise=0.01)
    assert retrieval.evaluate(asked, ranked, query, gallery, "general").mean_ap > 0.9


def test_failed_benchmark_part_writes_nothing(capfd):
    with pytest.raises(SystemExit, match="no such part failed; nothing was written"):
        benchmark.in_fresh_memory("no such part", rounds=1)
    assert "invalid choice" in capfd.readouterr().err
