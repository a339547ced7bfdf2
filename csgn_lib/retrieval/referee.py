"""Score any model's stored features or distances on a benchmark, and compare two scored models.

Nothing here needs torch: any program can write the features.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from csgn_lib.datasets import Benchmark, Protocol
from csgn_lib.datasets import protocol as resolve
from csgn_lib.records import InputError, Run, read_json, write_json
from csgn_lib.retrieval.evaluation import evaluate_all, evaluate_all_distances
from csgn_lib.retrieval.feature_files import read_distances, read_features
from csgn_lib.retrieval.score_files import PER_QUERY, VERIFICATION, refuse_occupied, write_scores
from csgn_lib.retrieval.scores import Scores
from csgn_lib.retrieval.verification import Verification, verify
from csgn_lib.statistics import paired
from csgn_lib.statistics.intervals import METRICS, percent

GIVEN = "given"  # the descriptor's name in records of features from another program
SCORED = "scored.json"


@dataclass(frozen=True)
class Scored:
    """Stored features under every protocol of a benchmark.

    Attributes:
        scores: protocol's name -> Scores.
        verification: protocol's name -> Verification; empty for distances.
        sources: name and SHA-256 of each file, and how its rows were assigned.
    """

    benchmark: Benchmark = field(repr=False)
    scores: dict[str, Scores]
    verification: dict[str, Verification]
    sources: list[dict[str, str]]

    @property
    def digest(self) -> str:
        """16 hexadecimal digits that identify the scored files."""
        return "".join(source["sha256"][:8] for source in self.sources)[:16]

    def write(self, folder: str | Path) -> Path:
        """Write results.json, per_query.csv, benchmark.json and scored.json (the scored files); return the folder.

        Raises:
            InputError: a folder with other content than scores of the same files on the same data.
        """
        folder = Path(folder)
        about = {"sources": self.sources, "manifest": self.benchmark.manifest()}
        refuse_occupied(folder, lambda: self._is_in(folder))
        write_scores(folder, {GIVEN: self.scores}, {GIVEN: {"descriptor": "given features"}})
        write_json(folder / "benchmark.json", self.benchmark.record())
        if self.verification:
            protocols = {name: one.record() for name, one in self.verification.items()}
            write_json(folder / VERIFICATION, {"benchmark": self.benchmark.name, "protocols": protocols})
        write_json(folder / SCORED, about)
        return folder

    def _is_in(self, folder: Path) -> bool:
        held = read_json(folder / SCORED) if (folder / SCORED).exists() else {}
        return [source["sha256"] for source in held.get("sources", [])] == [s["sha256"] for s in self.sources]


def score_features(
    benchmark: Benchmark,
    query: str | Path,
    gallery: str | Path,
    *,
    in_order: bool = False,
    trapezoid: bool = False,
    thresholds: bool = False,
) -> Scored:
    """Score two files of features by cosine under every protocol of a benchmark.

    Args:
        query, gallery: files as ``feature_files`` describes; one file may hold both.
        in_order: accept files without paths.
        trapezoid: add each protocol again with the trapezoid average precision, named ``..._trapezoid``.
        thresholds: measure verification and open-set rates too.

    Raises:
        InputError: as ``read_features`` and ``evaluate``.
    """
    sides = [
        read_features(file, benchmark, split, in_order) for split, file in (("query", query), ("gallery", gallery))
    ]
    features, frames = [side.features for side in sides], (benchmark.query, benchmark.gallery)
    scores = evaluate_all(*features, *frames, protocols_of(benchmark, trapezoid))
    rates = verify(*features, *frames, benchmark.protocols) if thresholds else {}
    return Scored(benchmark, scores, rates, [_source(side) for side in sides])


def score_distances(
    benchmark: Benchmark, file: str | Path, *, in_order: bool = False, trapezoid: bool = False
) -> Scored:
    """Score a file of distances (Q, G), smaller is closer, under every protocol. Raises as ``score_features``."""
    distances = read_distances(file, benchmark, in_order)
    protocols = protocols_of(benchmark, trapezoid)
    scores = evaluate_all_distances(distances.blocks(), benchmark.query, benchmark.gallery, protocols)
    return Scored(benchmark, scores, {}, [_source(distances)])


def protocols_of(benchmark: Benchmark, trapezoid: bool = False) -> list[Protocol]:
    """The benchmark's protocols; ``trapezoid``: also a trapezoid variant of those with the usual average precision."""
    usual = [resolve(name, benchmark.name) for name in benchmark.protocols]
    if not trapezoid:
        return usual
    named = {protocol.name for protocol in usual}
    others = [
        replace(p, name=f"{p.name}_trapezoid", description=f"{p.description}; trapezoid AP", ap="trapezoid")
        for p in usual
        if p.ap == "field"
    ]
    return usual + [protocol for protocol in others if protocol.name not in named]


def compare(folder: str | Path, other: str | Path, benchmark: str, descriptors: Sequence[str] = ()) -> pd.DataFrame:
    """Paired differences of two scored folders, ``folder`` minus ``other``, protocol by protocol.

    Args:
        folder, other: folders of ``csgn score``, ``csgn evaluate`` or a training run, on one benchmark.
        benchmark: its name, which determines the protocols.
        descriptors: the descriptor of each folder; by default ``given``, else ``plain``.

    Returns:
        One row per protocol and metric: ``difference`` with its 95 % interval ``low``, ``high`` (bootstrap over
        people), ``p`` (two-sided sign-flip test over people) and the number of ``people``.

    Raises:
        InputError: a folder that is not scored; other data or other queries.
    """
    _refuse_other_data(Path(folder), Path(other))
    names = list(descriptors) or [None, None]
    mine, theirs = (read_scores(path, benchmark, name) for path, name in zip((folder, other), names, strict=True))
    both = [name for name in mine if name in theirs]
    if not both:
        raise InputError(f"{folder} and {other} have no protocol in common: {', '.join(mine)}; {', '.join(theirs)}")
    return pd.DataFrame([_difference(mine[name], theirs[name], metric) for name in both for metric in METRICS])


def read_scores(folder: str | Path, benchmark: str, descriptor: str | None = None) -> dict[str, Scores]:
    """The scores in a folder's per_query.csv: protocol's name -> Scores. Raises InputError for a folder without."""
    path = Path(folder, PER_QUERY)
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a folder that csgn score, csgn evaluate or csgn train wrote")
    table = pd.read_csv(path)
    there = list(dict.fromkeys(table["descriptor"]))
    descriptor = descriptor or (GIVEN if GIVEN in there else "plain")
    if descriptor not in there:
        raise InputError(f"{path} has no descriptor {descriptor!r}; there are: {', '.join(there)}")
    rows = table[table["descriptor"] == descriptor]
    return {
        name: Scores(_protocol(str(name), benchmark), part.reset_index(drop=True))
        for name, part in rows.groupby("protocol", sort=False)
    }


def report(folder: str | Path, benchmark: str) -> str:
    """A folder's results.json as text: each protocol with its description, metrics in percent with 95 % intervals over
    people, and the number of counted queries; then the rates of verification.json, if it exists."""
    lines, results = [], Run(Path(folder)).results
    for descriptor, record in results.items():
        lines.append(f"{descriptor}: {record['descriptor']}")
        for name, scores in record["protocols"].items():
            metrics = [f"{title} {percent(scores[m], *scores[f'{m}_interval'])}" for m, title in METRICS.items()]
            counted = f"{scores['counted']} queries counted, {scores['dropped']} dropped"
            lines += [f"  {name}: {_protocol(name, benchmark).description}", f"    {'  '.join(metrics)}  ({counted})"]
    if Path(folder, VERIFICATION).exists():
        for name, record in read_json(Path(folder, VERIFICATION))["protocols"].items():
            lines += [f"  {name}, thresholds:", *(f"    {_rate(rate)}" for rate in record["rates"])]
    return "\n".join(lines)


def differences_report(table: pd.DataFrame, other: str | Path) -> str:
    """The result of ``compare`` as text, in percentage points."""
    lines = [f"these scores minus those of {other}, in percentage points, 95 % intervals and p over people:"]
    lines += [
        f"  {row.protocol}: {METRICS[row.metric]} {percent(row.difference, row.low, row.high, '+')}  p {row.p:.3f}"
        for row in table.itertuples()
    ]
    return "\n".join(lines)


def _rate(rate: dict[str, Any]) -> str:
    title = {"tar": "TAR", "eer": "EER", "fnir": "FNIR"}[rate["metric"]]
    title += f" at {rate['at'].upper()} {rate['level']:g}" if rate["level"] else ""
    if rate["value"] is None:
        return f"{title}: too few pairs or searches to estimate it"
    return f"{title}: {percent(rate['value'], rate['low'], rate['high'])} at distance {rate['threshold']:.4f}"


def _protocol(name: str, benchmark: str) -> Protocol:
    try:
        return resolve(name, benchmark)
    except InputError:
        base = resolve(name.removesuffix("_trapezoid"), benchmark)
        return replace(base, name=name, ap="trapezoid")


def _difference(mine: Scores, theirs: Scores, metric: str) -> dict[str, Any]:
    difference, low, high = mine.gain(theirs, metric)
    rows = [
        s.per_query[s.per_query["valid"]].rename(columns={"row": "query"}).assign(seed=0, world=0)
        for s in (theirs, mine)
    ]
    tested = paired(*rows, metric)
    row = {"protocol": mine.protocol.name, "metric": metric, "difference": difference, "low": low, "high": high}
    return row | {"p": tested["p_people"], "people": int(tested["people"])}


def _refuse_other_data(folder: Path, other: Path) -> None:
    records = [read_json(path / "benchmark.json") for path in (folder, other)]
    mine, theirs = ([record.get(name) for name in ("benchmark", "manifest")] for record in records)
    if mine != theirs:
        raise InputError(
            f"{folder} was scored on {mine[0]} and {other} on {theirs[0]}, or on other files of it (their manifests "
            "differ); differences are paired, so score both on the same data"
        )


def _source(data: Any) -> dict[str, str]:
    return {"file": data.file.name, "sha256": data.digest, "rows": data.note}
