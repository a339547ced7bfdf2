"""`swept`: a sweep as its committed records tell it, for tables and figures; no run folder is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from csgn_lib.records import InputError
from csgn_lib.runs.explain import RECORD
from csgn_lib.statistics.paired import against, clusters_of, smallest_p, spread

QUERIES, COSTS, COLOURS = "per-query.csv.gz", "costs-records.csv", "colours-records.csv"
PLAIN = "plain"
_DIFFERENCES = "label row descriptor protocol runs clusters people mean sd low high holm_runs holm_people p".split()


@dataclass(frozen=True)
class Swept:
    """What `swept` read. A label is a row and, unless plain, its descriptor: ``CSGN, clothing out``.

    Attributes:
        folder: where the records lie.
        baseline: the label that is subtracted.
        values: one line a run, descriptor and protocol: ``label, row, descriptor, protocol, seed, world, value``
            (percent).
        means: of these: ``label, row, descriptor, protocol, runs, clusters, mean, sd, low, high`` (95 %, Student's t);
            runs of one world are one cluster where there are several worlds, else each seed is one.
        differences: to the baseline, paired, in points, the same columns and ``people, holm_runs, holm_people,
            p`` (the larger of the two); p values are NaN where single queries are not recorded.
        costs: one line a row: ``row, encoder_parameters, seconds, memory_mib`` of the median run; empty if none.
        colours: colour sensitivity: as means, without a protocol; empty if not recorded.
        sources: the files that were read.
    """

    folder: Path
    baseline: str
    values: pd.DataFrame
    means: pd.DataFrame
    differences: pd.DataFrame
    costs: pd.DataFrame
    colours: pd.DataFrame
    sources: tuple[Path, ...]

    @property
    def least_p(self) -> float:
        """The smallest p over runs, corrected, that so many clusters and rows can give; NaN if nothing was tested."""
        tested = self.differences.dropna(subset="p")
        if tested.empty:
            return float("nan")
        return min(1.0, tested["label"].nunique() * smallest_p(int(tested["clusters"].min())))


def swept(
    folder: str | Path,
    baselines: Sequence[str] = (),
    descriptors: Sequence[str] = (PLAIN,),
    protocols: Sequence[str] = ("cloth_changing", "general"),
    metric: str = "mean_ap",
) -> Swept:
    """Read a sweep's records: ``runs-records.csv`` and, where they are, single queries, costs and colours.

    Args:
        folder: what ``40_ablation_sweep`` wrote its records to.
        baselines: the first of these labels that there is, is subtracted; none of them: the first label.
        descriptors: of plain, clothing out, person only.
        protocols: names of protocols.
        metric: mean_ap, rank1 or minp; of single queries the first two.

    Raises:
        InputError: no ``runs-records.csv``, or none of its columns is that descriptor's, protocol's and metric's.
    """
    folder = Path(folder)
    found = _table(folder / RECORD)
    values = _values(found, folder, descriptors, protocols, metric)
    rows, labels = (list(dict.fromkeys(values[name])) for name in ("row", "label"))
    baseline = next((name for name in baselines if name in labels), labels[0])
    keys = ["label", "row", "descriptor", "protocol"]
    means = _spread(values, keys, clusters_of(values))
    sources = [folder / RECORD]
    if (folder / QUERIES).is_file() and metric in ("mean_ap", "rank1"):
        sources.append(folder / QUERIES)
        differences = _tested(_table(folder / QUERIES), values, baseline, metric)
    else:
        differences = _untested(values, baseline)
    costs, colours = _of_rows(folder / COSTS, rows), _coloured(folder / COLOURS, values)
    sources += [path for path in (folder / COSTS, folder / COLOURS) if path.is_file()]
    return Swept(folder, baseline, values, means, differences[_DIFFERENCES], costs, colours, tuple(sources))


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the folder of 40_ablation_sweep's records") from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); run the sweep again") from None


def _label(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["descriptor"] == PLAIN, frame["row"], frame["row"] + ", " + frame["descriptor"])


def _values(
    found: pd.DataFrame, folder: Path, descriptors: Sequence[str], protocols: Sequence[str], metric: str
) -> pd.DataFrame:
    parts = []
    for descriptor in descriptors:
        for protocol in protocols:
            column = f"{descriptor}.protocols.{protocol}.{metric}"
            if column in found:
                part = found[["row", "seed", "world"]].assign(descriptor=descriptor, protocol=protocol)
                parts.append(part.assign(value=100 * found[column]).dropna(subset="value"))
    if not parts:
        raise InputError(
            f"{folder / RECORD} holds no {metric} of {', '.join(descriptors)} under {', '.join(protocols)}; name others"
        )
    values = pd.concat(parts, ignore_index=True)
    order = {row: place for place, row in enumerate(dict.fromkeys(found["row"]))}
    values = values.sort_values("row", kind="stable", key=lambda row: row.map(order), ignore_index=True)
    values.insert(0, "label", _label(values))
    return values


def _tested(queries: pd.DataFrame, values: pd.DataFrame, baseline: str, metric: str) -> pd.DataFrame:
    """`against`, protocol by protocol, as 41_ablation_tables has it: runs of one world are one draw."""
    queries = queries.assign(row=_label(queries))
    queries = queries[queries["row"].isin(values["label"])]
    known = values[["label", "row", "descriptor"]].drop_duplicates()
    parts = []
    for protocol in dict.fromkeys(values["protocol"]):
        part = queries[queries["protocol"] == protocol]
        if part.empty:
            continue
        compared = against(part, baseline, metric, clusters_of(queries)).rename(columns={"row": "label"})
        compared[["mean", "sd", "low", "high"]] *= 100
        parts.append(compared.assign(protocol=protocol, p=compared[["holm_runs", "holm_people"]].max(axis=1)))
    if not parts:
        raise InputError("the single queries are of none of the protocols that the runs have; run the sweep again")
    order = {label: place for place, label in enumerate(known["label"])}
    found = pd.concat(parts, ignore_index=True).merge(known, on="label", how="left")
    return found.sort_values("label", kind="stable", key=lambda label: label.map(order), ignore_index=True)


def _untested(values: pd.DataFrame, baseline: str) -> pd.DataFrame:
    """The same means and intervals from the runs' own, worlds clustered alike; without single queries no test."""
    keys = ["protocol", "seed", "world"]
    base = values[values["label"] == baseline].set_index(keys)["value"]
    others = values[values["label"] != baseline]
    if others.empty:
        return pd.DataFrame(columns=_DIFFERENCES)
    gains = others["value"].to_numpy() - base.reindex(others.set_index(keys).index).to_numpy()
    found = _spread(others.assign(value=gains), ["label", "row", "descriptor", "protocol"], clusters_of(values))
    return found.assign(**dict.fromkeys(["people", "holm_runs", "holm_people", "p"], np.nan))


def _spread(values: pd.DataFrame, keys: list[str], unit: str) -> pd.DataFrame:
    """Keys, ``runs, clusters, mean, sd, low, high`` of ``value``, the mean within each unit taken first."""
    of_keys = values.groupby(keys, sort=False)[["value", unit]]
    return of_keys.apply(lambda part: spread(part["value"], part[unit])).reset_index()


def _of_rows(path: Path, rows: Sequence[str]) -> pd.DataFrame:
    names = ["encoder_parameters", "seconds", "memory_mib"]
    if not path.is_file():
        return pd.DataFrame(columns=["row", *names])
    return _table(path).groupby("row", sort=False)[names].median().reindex(rows).reset_index()


def _coloured(path: Path, values: pd.DataFrame) -> pd.DataFrame:
    keys = ["label", "row", "descriptor"]
    if not path.is_file():
        return pd.DataFrame(columns=[*keys, "runs", "clusters", "mean", "sd", "low", "high"])
    found = _table(path)
    found.insert(0, "label", _label(found))
    found = found[found["label"].isin(values["label"])]
    return _spread(found, keys, clusters_of(values))
