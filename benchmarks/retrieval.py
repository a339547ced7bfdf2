"""Time, memory and exactness of the evaluation: ``python -m benchmarks.retrieval`` (= ``make bench-retrieval``).

Every time is compared with a reference that is measured in the same run, interleaved, as the median of several rounds,
so that other load on the machine affects both alike. Code of other projects runs once if its path is set in
SIMPLE_CCREID, CLIP_REID, FAST_REID or FIRE_CCREID; otherwise its row is marked as skipped. The run writes ``bench.csv``
and ``bench.md`` to reports/retrieval; ``--quick`` omits the size of LaST (minutes, 3 GiB) and writes nothing.
``--only PART --out FOLDER`` writes the report of one part.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks import retrieval_peers as peers
from benchmarks.measurement import Row, in_turns, missing, peak, quiet, write
from csgn_lib import datasets
from csgn_lib.records import home, read_json, write_json
from csgn_lib.retrieval import (
    approximate_index,
    evaluate,
    evaluate_all,
    evaluate_distances,
    rerank,
    rerank_blocks,
    search,
    search_index,
    verify,
)
from csgn_lib.retrieval.blocks import thread_count
from csgn_lib.retrieval.neighbours import has_faiss, read_index, set_candidates, write_index
from csgn_lib.retrieval.score_files import record

MB, GIB = 1e6, 2**30
TRAINED, WEAK = 0.09, 0.15  # noise of features, times the square root of their width: mAP some 85 % and 5 %
LAST = (10_176, 125_353, 5_806, 1_280)  # queries, gallery, people, width
TITLE = "Time, memory and exactness of the evaluation"
COMMAND = "python -m benchmarks.retrieval"


def main() -> None:
    """Print the table, and write it if it is complete; non-zero exit status if a target was missed or a part failed."""
    parts: dict[str, Callable[[int], Iterator[Row]]] = {
        "distances": from_distances,
        "features": from_features,
        "protocols": every_protocol,
        "search": search_a_million,
        "reranking": reranking,
        "index": reading_an_index,
        "last": last,
        "last-rerank": last_reranked,
        "last-verify": last_verified,
    }
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, interleaved")
    parser.add_argument("--quick", action="store_true", help="without LaST's size; writes no report")
    parser.add_argument("--only", choices=list(parts), help="one part, in this process")
    parser.add_argument("--rows", type=Path, help="with --only: a JSON file for its rows")
    parser.add_argument("--out", type=Path, help="with --only: a folder for its report")
    options = parser.parse_args()
    if options.only:
        rows = []
        for row in parts[options.only](options.rounds):
            print(row, flush=True)
            rows.append(row)
        if options.rows:
            write_json(options.rows, [asdict(row) for row in rows])
        if options.out:
            write(options.out, rows, TITLE, f"{COMMAND} --only {options.only} --rounds {options.rounds}")
        raise SystemExit(any(row.met is False for row in rows))
    print(f"{thread_count()} threads, {options.rounds} rounds", flush=True)
    wanted = [name for name in parts if not (options.quick and name.startswith("last"))]
    rows = [row for name in wanted for row in in_fresh_memory(name, options.rounds)]
    if not options.quick:
        folder = home() / "reports" / "retrieval"
        write(folder, rows, TITLE, f"{COMMAND} --rounds {options.rounds}")
        print(f"written: {folder / 'bench.md'} and bench.csv")
    raise SystemExit(any(row.met is False for row in rows))


def in_fresh_memory(part: str, rounds: int) -> list[Row]:
    """Run one part in a separate process. Exits if it fails, because the table would be incomplete."""
    with tempfile.TemporaryDirectory() as folder:
        rows = Path(folder, "rows.json")
        command = [sys.executable, "-m", "benchmarks.retrieval", "--only", part, "--rounds", str(rounds)]
        subprocess.run([*command, "--rows", str(rows)], check=False)
        if not rows.exists():
            raise SystemExit(f"{part} failed; nothing was written")
        return [Row(**row) for row in read_json(rows)]


def from_distances(rounds: int) -> Iterator[Row]:
    """3,000 x 20,000 distances, compared with np.argsort and with other projects' code."""
    asked, ranked, query, gallery = world(3_000, 20_000, 1_000, 64, WEAK)
    distances = -(asked @ ranked.T)
    ours: dict[str, Callable[[], Any]] = {
        "np.argsort": lambda: np.argsort(distances, axis=1),
        "general": lambda: evaluate_distances(distances, query, gallery, "general"),
        "cloth_changing": lambda: evaluate_distances(distances, query, gallery, "cloth_changing"),
        "general, one thread": lambda: evaluate_distances(distances, query, gallery, "general", threads=1),
    }
    seconds, results = in_turns(ours, rounds)
    base = seconds.pop("np.argsort")
    yield Row("3,000 x 20,000 distances: np.argsort alone", base, "s")
    for name, taken in seconds.items():
        yield Row(f"evaluate_distances, {name}, over np.argsort", taken / base, "x", 0.3)
    with quiet():
        others = peers.scorers()
    for name, (protocol, scorer) in others.items():
        start = time.perf_counter()
        with quiet():
            curve, mean_ap = scorer(distances, query, gallery)
        yield Row(f"{name}, over np.argsort", (time.perf_counter() - start) / base, "x")
        mine = results[protocol]
        ranks = min(len(curve), len(mine.cmc))
        error = max(abs(mine.mean_ap - mean_ap), np.abs(mine.cmc[:ranks] - curve[:ranks]).max())
        yield Row(f"{name}: its mAP and CMC differ from ours by", float(error), "", 1e-6)
    for line in missing():
        yield Row(line, None)


def from_features(rounds: int) -> Iterator[Row]:
    """3,000 x 20,000 x 512: features of a trained model and of one that has learned little.

    In the second case a match of every query is ranked near the end, so nearly all of each row must be sorted.
    """
    yield from _from_features(rounds, (3_000, 20_000, 1_000, 512), TRAINED, (300, MB, "MB"))
    yield from _from_features(rounds, (3_000, 20_000, 1_000, 512), WEAK, None)


def every_protocol(rounds: int) -> Iterator[Row]:
    """Market-1501's size, 256 numbers, three protocols and the intervals of three metrics over people."""
    query_features, gallery_features, query, gallery = world(3_368, 15_913, 750, 256, TRAINED)

    def ours() -> list[dict[str, Any]]:
        scores = evaluate_all(query_features, gallery_features, query, gallery, list(datasets.PROTOCOLS))
        return [record(score) for score in scores.values()]

    seconds, _ = in_turns({"ours": ours}, rounds)
    yield Row("3,368 x 15,913 x 256: three protocols with intervals", seconds["ours"], "s", 2)


def search_a_million(rounds: int) -> Iterator[Row]:
    """One query among a million images of 512 numbers: exactly, in compressed form, and by HNSW (minutes to build).

    The queries show people of the gallery. The variances of the features' principal components fall as 1/i, and the
    noise is chosen so that mAP at Market-1501's size, which is a row, is about that of published models.
    """
    yield from searching(rounds, 1_000_000, 512)


def searching(rounds: int, images: int, width: int) -> Iterator[Row]:
    """Search times of a gallery, and the share of the 10 exact neighbours that the approximate indexes find."""
    noise = 0.9 / width**0.5
    score = evaluate(*world(3_368, 15_913, 750, width, noise, decay=1), "general")
    yield Row("3,368 x 15,913 of the same features: mAP under general", 100 * score.mean_ap, "%")
    query, gallery, _, _ = world(100, images, images // 20, width, noise, decay=1)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    shape = f"{images:,} x {width}"
    seconds, _ = in_turns({"exact": lambda: search(query[:1], gallery, 10)}, rounds)
    yield Row(f"{shape}: exact search, one query", seconds["exact"], "s", 0.3)
    if has_faiss():
        exact = search(query, gallery, 10).rows
        start = time.perf_counter()
        compressed = approximate_index(gallery, "pq")
        set_candidates(compressed, gallery)
        yield Row(f"{shape}: build of the compressed index, candidates chosen", time.perf_counter() - start, "s")
        indexes = {"compressed": (compressed, 10, 99), "HNSW, 1,024 candidates,": (_graph(gallery), None, None)}
        for name, (index, limit, recall) in indexes.items():
            seconds, _ = in_turns({"one": partial(search_index, index, query[:1], 10)}, rounds)
            yield Row(f"{shape}: {name} search, one query", 1000 * seconds["one"], "ms", limit)
            found = search_index(index, query, 10).rows
            shares = [len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
            yield Row(
                f"{shape}: {name} finds of the 10 nearest", 100 * float(np.mean(shares)), "%", recall, at_least=True
            )


def _graph(gallery: NDArray[np.float32]) -> Any:
    """The HNSW index of a gallery of `world`, kept in build/retrieval because it takes many minutes to build."""
    file = home() / "build/retrieval" / f"hnsw-{len(gallery)}-{gallery.shape[1]}.faiss"
    if not file.exists():
        write_index(approximate_index(gallery, "hnsw", probes=256), file)
    return read_index(file)


def last_verified(rounds: int) -> Iterator[Row]:
    """Verification and open-set rates at LaST's size; takes minutes, so it runs once."""
    del rounds
    query_features, gallery_features, query, gallery = world(*LAST, TRAINED)
    start = time.perf_counter()
    with peak() as memory:
        found = verify(query_features, gallery_features, query, gallery, ["general"])["general"]
    shape = f"{LAST[0]:,} x {LAST[1]:,} x {LAST[3]:,}"
    yield Row(f"{shape} verified, EER {found.rate('eer').value:.1%}", time.perf_counter() - start, "s")
    held = query_features.nbytes + gallery_features.nbytes
    yield Row("verify: memory in all, features included", memory.over(GIB, held), "GiB", 3)


def last(rounds: int) -> Iterator[Row]:
    """LaST's size: minutes, so once."""
    del rounds
    yield from _from_features(1, LAST, TRAINED, (3, GIB, "GiB"), whole=True)


def _from_features(
    rounds: int, size: tuple[int, ...], noise: float, most: tuple[float, float, str] | None, whole: bool = False
) -> Iterator[Row]:
    """Scores from features against the bare float32 product of the same size.

    ``most``: allowed memory, the unit in bytes and its name; ``whole`` includes the features.
    """
    asked, ranked, query, gallery = world(*size, noise)
    memory = []

    def ours() -> Any:
        with peak() as used:
            scores = evaluate(asked, ranked, query, gallery, "general")
        memory.append(used)
        return scores

    seconds, results = in_turns({"ours": ours, "product": lambda: bare_product(asked, ranked)}, rounds)
    shape = f"{size[0]:,} x {size[1]:,} x {size[3]:,}"
    yield Row(f"{shape} features: bare float32 product", seconds["product"], "s")
    why = " (matches lie far back: most of a row is sorted)" if noise == WEAK else ""
    yield Row(
        f"evaluate, general, mAP {results['ours'].mean_ap:.0%}{why}, over the product",
        seconds["ours"] / seconds["product"],
        "x",
        1.3,
    )
    if most is not None:
        before = asked.nbytes + ranked.nbytes if whole else 0
        what = "evaluate: memory in all, features included" if whole else "evaluate: memory above the features"
        yield Row(what, memory[0].over(most[1], before), most[2], most[0])


def bare_product(left: NDArray[np.float32], right: NDArray[np.float32]) -> None:
    """The product alone; in blocks if it is larger than 2 GiB, so that it fits into memory."""
    rows = max(1, min(len(left), 2**31 // (4 * len(right))))
    out = np.empty((rows, len(right)), dtype=np.float32)
    for start in range(0, len(left), rows):
        part = left[start : start + rows]
        np.matmul(part, right.T, out=out[: len(part)])


def reranking(rounds: int) -> Iterator[Row]:
    """Re-ranking 1,000 x 10,000 against CLIP-ReID's."""
    asked, ranked, _, _ = world(1_000, 10_000, 500, 512, TRAINED)
    with peak() as memory:
        ours = rerank(asked, ranked)
    runs: dict[str, Callable[[], Any]] = {"ours": lambda: rerank(asked, ranked)}
    theirs = peers.reranker()
    if theirs is not None:
        import torch

        unit = [torch.nn.functional.normalize(torch.from_numpy(side)) for side in (asked, ranked)]
        runs["CLIP-ReID"] = lambda: theirs(*unit, 20, 6, 0.3)
    with quiet():
        seconds, results = in_turns(runs, (rounds + 1) // 2)  # theirs is slow
    yield Row("1,000 x 10,000 x 512 re-ranked", seconds["ours"], "s")
    yield Row("rerank: memory above the features", memory.over(GIB), "GiB", 1)
    if theirs is not None:
        yield Row("CLIP-ReID's re-ranking, over ours", seconds["CLIP-ReID"] / seconds["ours"], "x", 5, at_least=True)
        error = float(np.abs(results["CLIP-ReID"] - ours).max())
        yield Row("CLIP-ReID's float16 re-ranked distances differ from ours by", error, "", 0.01)


def last_reranked(rounds: int) -> Iterator[Row]:
    """Re-ranking at LaST's size, scored block by block; takes many minutes, so it runs once."""
    del rounds
    asked, ranked, query, gallery = world(*LAST, TRAINED)
    start = time.perf_counter()
    with peak() as memory:
        scores = evaluate_distances(rerank_blocks(asked, ranked), query, gallery, "general")
    shape = f"{LAST[0]:,} x {LAST[1]:,} x {LAST[3]:,}"
    yield Row(f"{shape} re-ranked and scored, mAP {scores.mean_ap:.0%}", time.perf_counter() - start, "s")
    what = "rerank_blocks: memory in all, features included"
    yield Row(what, memory.over(GIB, asked.nbytes + ranked.nbytes), "GiB", 12)


def reading_an_index(rounds: int) -> Iterator[Row]:
    """A benchmark of 180,000 (empty) files."""
    del rounds
    with tempfile.TemporaryDirectory() as root:
        for folder, count in (("bounding_box_train", 80_000), ("query", 10_000), ("bounding_box_test", 90_000)):
            Path(root, folder).mkdir()
            for i in range(count):
                Path(root, folder, f"{i % 1500:04d}_c{i % 6 + 1}s1_{i:06d}_00.jpg").touch()
        start = time.perf_counter()
        benchmark = datasets.load("market1501", root)
        seconds = time.perf_counter() - start
    count = sum(len(frame) for frame in (benchmark.train, benchmark.query, benchmark.gallery))
    yield Row(f"reading an index of {count:,} files", seconds, "s", 10)


def world(
    queries: int, images: int, people: int, width: int, noise: float, seed: int = 0, decay: float = 0
) -> tuple[NDArray[np.float32], NDArray[np.float32], pd.DataFrame, pd.DataFrame]:
    """Features at distance ``noise`` from their person's centre; frames with 8 cameras and 3 outfits per person.

    The i-th principal component of the features has variance i ** -decay.
    """
    generator = np.random.default_rng(seed)
    scale = np.arange(1, width + 1, dtype=np.float32) ** (-decay / 2)
    centres = scale * generator.standard_normal((people, width), dtype=np.float32)
    features, frames = [], []
    for count in (queries, images):
        person = generator.integers(0, people, count)
        made = generator.standard_normal((count, width), dtype=np.float32)
        made *= np.float32(noise * width**0.5) * scale
        made += centres[person]
        features.append(made)
        labels = {"camera": generator.integers(0, 8, count), "clothes": 3 * person + generator.integers(0, 3, count)}
        frames.append(pd.DataFrame({"person": person} | labels))
    return features[0], features[1], frames[0], frames[1]


if __name__ == "__main__":
    main()
