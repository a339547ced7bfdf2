"""`load_sweep_records`: a sweep's scores, sensitivities, scores per query and costs, with their statistics.

They are read from the run folders of a grid, or from CSV files of `write_sweep_records`.
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from csgn_lib.records import InputError, Run, atomic_path, did_you_mean
from csgn_lib.runs.explain import RECORD, origin
from csgn_lib.runs.folders import locate
from csgn_lib.runs.grids import read_grid
from csgn_lib.runs.sweeps import digest, frame_of, planned_cells
from csgn_lib.statistics.paired import against, clusters_of, cost, queries, smallest_p, spread

QUERIES, COSTS = "per-query.csv.gz", "costs-records.csv"
SENSITIVITIES = ("colour_sensitivity", "clothes_sensitivity")
PLAIN = "plain"
METRICS = {"rank1": "rank-1", "mean_ap": "mAP", "minp": "mINP"}
_COST = ["encoder_parameters", "seconds", "memory_mib"]
_KEYS = ["label", "row", "descriptor", "protocol"]
_DIFFERENCES = [*_KEYS, *"runs clusters people mean sd low high holm_runs holm_people p".split()]


@dataclass(frozen=True)
class SweepRecords:
    """The records of a sweep, and their statistics for one metric.

    A label is a row and, unless it is plain, its descriptor: ``CSGN, clothing removed``. Statistics are in percent,
    their intervals 95 % of Student's t. Runs of one world are one cluster where there are several worlds, else each
    seed is.

    Attributes:
        path: the folder or the grid that was read.
        runs: one row per run: ``row, seed, world``, its origin, its scores
            (``<descriptor>.protocols.<name>.<metric>``) and sensitivities (``<descriptor>.<name>.value``).
        queries: one row per run and query (`statistics.queries`); empty if not recorded.
        cost_records: one row per run; empty if not recorded.
        sources: the files that were read.
        baseline: the label that is subtracted.
        descriptors, protocols, metric: selection for the statistics.
    """

    path: Path
    runs: pd.DataFrame
    queries: pd.DataFrame
    cost_records: pd.DataFrame
    sources: tuple[Path, ...] = ()
    baseline: str = ""
    descriptors: tuple[str, ...] = (PLAIN,)
    protocols: tuple[str, ...] = ()
    metric: str = "mean_ap"

    @cached_property
    def values(self) -> pd.DataFrame:
        """One line a run, descriptor and protocol: ``label, row, descriptor, protocol, seed, world, value``."""
        columns = {name: f"protocols.{name}.{self.metric}" for name in self.protocols}
        values = self._values("protocol", columns)
        if values.empty:
            raise InputError(f"{self.path} records no {self.metric}; give another metric, or run the sweep again")
        return values.assign(value=100 * values["value"])

    @cached_property
    def unit(self) -> str:
        """The independent unit: ``world`` if there are several, else ``seed``."""
        return clusters_of(self.runs)

    @cached_property
    def means(self) -> pd.DataFrame:
        """One line a label and protocol: the keys, ``runs, clusters, mean, sd, low, high``."""
        return self._spread(self.values, _KEYS)

    @cached_property
    def differences(self) -> pd.DataFrame:
        """To the baseline, paired, in points: as `means`, with ``people, holm_runs, holm_people, p`` (the larger).

        Without scores per query, or for mINP, there is no test: p values are NaN, means and intervals are the same.
        """
        if self.queries.empty or self.metric not in ("mean_ap", "rank1"):
            return self._untested()[_DIFFERENCES]
        labelled = self.queries.assign(row=_label(self.queries))
        labelled = labelled[labelled["row"].isin(self.values["label"])]
        parts = []
        for protocol in dict.fromkeys(self.values["protocol"]):
            part = labelled[labelled["protocol"] == protocol]
            if not part.empty:
                gains = against(part, self.baseline, self.metric, self.unit).rename(columns={"row": "label"})
                gains[["mean", "sd", "low", "high"]] *= 100
                parts.append(gains.assign(protocol=protocol, p=gains[["holm_runs", "holm_people"]].max(axis=1)))
        if not parts:
            raise InputError(f"{self.path}: the scores per query are of other protocols than the runs; run it again")
        known = self.values[["label", "row", "descriptor"]].drop_duplicates()
        order = {label: place for place, label in enumerate(known["label"])}
        gains = pd.concat(parts, ignore_index=True).merge(known, on="label", how="left")
        gains = gains.sort_values("label", kind="stable", key=lambda label: label.map(order), ignore_index=True)
        return gains[_DIFFERENCES]

    @cached_property
    def costs(self) -> pd.DataFrame:
        """One line a row: ``row, encoder_parameters, seconds, memory_mib`` of the median run; empty if not recorded."""
        if self.cost_records.empty:
            return pd.DataFrame(columns=["row", *_COST])
        rows = list(dict.fromkeys(self.values["row"]))
        return self.cost_records.groupby("row", sort=False)[_COST].median().reindex(rows).reset_index()

    @cached_property
    def sensitivities(self) -> pd.DataFrame:
        """Sensitivity to colours and clothes: as `means`, with ``kind`` for the protocol; empty if not recorded."""
        if (values := self._moved).empty:
            return pd.DataFrame(columns=[*_KEYS[:3], "kind", "runs", "clusters", "mean", "sd", "low", "high"])
        return self._spread(values, [*_KEYS[:3], "kind"])

    def measured(self, label: str, measure: str) -> pd.Series:
        """A measure of each run of a label, by seed and world: a protocol's score in percent, or a sensitivity.

        Raises:
            InputError: it is not recorded, or not selected.
        """
        names = {"protocol": "measure", "kind": "measure"}
        lines = pd.concat([frame.rename(columns=names) for frame in (self.values, self._moved)])
        found = lines[(lines["label"] == label) & (lines["measure"] == measure)]
        if found.empty:
            known = list(dict.fromkeys(lines["label"]))
            cure = did_you_mean(label, known, f"recorded are: {', '.join(known)}")
            raise InputError(f"{self.path} has no {measure} of {label!r}; {cure}")
        return found.set_index(["seed", "world"])["value"]

    def difference(self, label: str, against: str, measure: str) -> pd.Series:
        """`statistics.spread` of the difference of two labels in a measure, paired by seed and world."""
        return self._over_units((self.measured(label, measure) - self.measured(against, measure)).dropna())

    def mean(self, label: str, measure: str) -> pd.Series:
        """`statistics.spread` of a label in a measure."""
        return self._over_units(self.measured(label, measure))

    def _over_units(self, values: pd.Series) -> pd.Series:
        return spread(values, values.index.get_level_values(self.unit))

    def verdict(self, hypothesis: Mapping[str, Any]) -> str:
        """``held``, ``not held`` or ``undecided``, by the 95 % intervals of `difference`, which are not corrected.

        Args:
            hypothesis: ``pairs`` of labels, ``measure``, and ``wanted``: a higher or lower first label. It is held if
                every difference has the wanted sign and an interval without 0, not held if one has the other sign so.
        """
        sign = -1 if hypothesis["wanted"] == "lower" else 1
        found = [self.difference(*pair, hypothesis["measure"]) for pair in hypothesis["pairs"]]
        sides = [sign * (int(over["low"] > 0) - int(over["high"] < 0)) for over in found]
        return "held" if min(sides) > 0 else "not held" if min(sides) < 0 else "undecided"

    @property
    def least_p(self) -> float:
        """The smallest possible corrected p over runs for this number of clusters and labels; NaN without tests."""
        tested = self.differences.dropna(subset="p")
        if tested.empty:
            return float("nan")
        return min(1.0, tested["label"].nunique() * smallest_p(int(tested["clusters"].min())))

    def of(self, metric: str) -> SweepRecords:
        """The same records with the statistics of another metric: mean_ap, rank1 or minp."""
        return replace(self, metric=metric)

    def table(
        self, metrics: Sequence[str] = ("rank1", "mean_ap"), spread: Literal["sd", "interval", "none"] = "sd"
    ) -> pd.DataFrame:
        """The labels with their scores in percent as text, metrics side by side under each protocol.

        ``spread``: ``35.8 ± 1.2`` (s.d.), ``35.8 [34.1, 37.5]`` (interval) or ``35.8``; where there is a single
        cluster, the mean alone.
        """
        parts = [self.of(metric).means.assign(metric=METRICS[metric]) for metric in metrics]
        means = pd.concat(parts, ignore_index=True)
        means["text"] = [_shown(line, spread) for line in means.to_dict("records")]
        columns = [(protocol, METRICS[metric]) for protocol in self.protocols for metric in metrics]
        wide = means.pivot(index="label", columns=["protocol", "metric"], values="text")
        wide = wide.reindex(index=list(dict.fromkeys(self.values["label"])), columns=pd.MultiIndex.from_tuples(columns))
        return wide.fillna("–").rename_axis(index=None, columns=[None, None])

    @cached_property
    def _moved(self) -> pd.DataFrame:
        return self._values("kind", {name: f"{name}.value" for name in SENSITIVITIES})

    def _values(self, name: str, columns: Mapping[str, str]) -> pd.DataFrame:
        """Columns of the runs as lines: ``label, row, descriptor, <name>, seed, world, value``; rows in their order."""
        parts = [
            self.runs[["row", "seed", "world"]].assign(
                descriptor=descriptor, **{name: key}, value=self.runs[f"{descriptor}.{column}"]
            )
            for descriptor in self.descriptors
            for key, column in columns.items()
            if f"{descriptor}.{column}" in self.runs
        ]
        if not parts:
            return pd.DataFrame()
        values = pd.concat(parts, ignore_index=True).dropna(subset="value")
        order = {row: place for place, row in enumerate(dict.fromkeys(self.runs["row"]))}
        values = values.sort_values("row", kind="stable", key=lambda row: row.map(order), ignore_index=True)
        values.insert(0, "label", _label(values))
        return values

    def _untested(self) -> pd.DataFrame:
        keys = ["protocol", "seed", "world"]
        base = self.values[self.values["label"] == self.baseline].set_index(keys)["value"]
        others = self.values[self.values["label"] != self.baseline]
        if others.empty:
            return pd.DataFrame(columns=_DIFFERENCES)
        gains = others["value"].to_numpy() - base.reindex(others.set_index(keys).index).to_numpy()
        differences = self._spread(others.assign(value=gains), _KEYS)
        return differences.assign(**dict.fromkeys(["people", "holm_runs", "holm_people", "p"], np.nan))

    def _spread(self, values: pd.DataFrame, keys: list[str]) -> pd.DataFrame:
        """`statistics.spread` of ``value`` for each combination of the keys."""
        of_keys = values.groupby(keys, sort=False)[["value", self.unit]]
        spreads = of_keys.apply(lambda part: spread(part["value"], part[self.unit])).reset_index()
        return spreads.astype({"runs": int, "clusters": int})


def load_sweep_records(
    source: str | Path,
    baselines: Sequence[str] = (),
    descriptors: Sequence[str] = (PLAIN,),
    protocols: Sequence[str] = (),
    metric: str = "mean_ap",
) -> SweepRecords:
    """The records of a sweep.

    Args:
        source: a grid's YAML file, whose runs are all done; or a folder of records (`write_sweep_records`). A relative
            path is looked for in the working folder and in the workbench's; a sweep's folder is found by its name.
        baselines: candidates; the first one that is recorded is subtracted, else the first label.
        descriptors: of plain, clothing removed, person only.
        protocols: names of protocols; empty: the benchmark's first one, and *general* if it is recorded.
        metric: mean_ap, rank1 or minp.

    Raises:
        InputError: missing or damaged records, runs that are not done (with the command that runs them), or a
            descriptor, protocol or metric that is not recorded (with the recorded ones).
    """
    path = locate(source)
    raw = _of_grid(path) if path.suffix in (".yaml", ".yml") else _of_folder(path)
    recorded = _recorded(raw.runs)
    if not recorded:
        raise InputError(f"{raw.path} contains no scores to compare; run the sweep again")
    kinds, names, metrics = (list(dict.fromkeys(part)) for part in zip(*recorded, strict=True))
    protocols = protocols or list(dict.fromkeys([names[0], *({"general"} & set(names))]))
    _refuse_unknown(raw.path, "protocol", protocols, names)
    _refuse_unknown(raw.path, "metric", [metric], metrics)
    descriptors = [name for name in descriptors if name in kinds] or list(descriptors)
    _refuse_unknown(raw.path, "descriptor", descriptors, kinds)
    chosen = replace(raw, descriptors=tuple(descriptors), protocols=tuple(protocols), metric=metric)
    labels = list(dict.fromkeys(chosen.values["label"]))
    return replace(chosen, baseline=next((name for name in baselines if name in labels), labels[0]))


def write_sweep_records(records: SweepRecords, folder: str | Path) -> list[Path]:
    """Write the records as CSV files that `load_sweep_records` reads; an empty one is not written.

    Scores per query are written for the benchmark's first protocol, *general* and *same_clothes*.
    """
    kept = records.queries
    if not kept.empty:
        first = records.protocols[:1] or tuple(dict.fromkeys(kept["protocol"]))[:1]
        kept = kept[kept["protocol"].isin([*first, "general", "same_clothes"])]
    files = {RECORD: records.runs, QUERIES: kept, COSTS: records.cost_records}
    written = []
    for name, frame in files.items():
        if not frame.empty:
            path = Path(folder) / name
            content = frame.to_csv(index=False, float_format="%.6g").encode()
            with atomic_path(path) as temporary:
                temporary.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
            written.append(path)
    return written


def collect_records(frame: pd.DataFrame, grid: str | Path) -> SweepRecords:
    """The records of the runs that `sweep` returned; runs without a row name have the row ``all``.

    Raises InputError if a run is not done, naming the command, or cannot be read.
    """
    if (wrong := frame["state"] != "done").any():
        raise InputError(f"{int(wrong.sum())} of {len(frame)} runs of {grid} are not done; run csgn sweep {grid} first")
    folders = [Run(Path(path)) for path in frame["run"]]
    table = frame.assign(row=frame["row"] if "row" in frame else "all")
    configs = [run.config for run in folders]
    for draw in ("seed", "world"):
        if draw not in table:
            table[draw] = [config.get(draw) or 0 for config in configs]
    labels = table[["row", "seed", "world"]].to_dict("records")
    pairs = list(zip(folders, labels, strict=True))
    origins = pd.DataFrame([origin(run) for run in folders], index=table.index)
    runs = origins.join(table.drop(columns=["run", *origins.columns.intersection(table.columns)]))
    scored = [(run, label) for run, label in pairs if run.path("per_query.csv").exists()]
    per_query = pd.concat([queries(run, **label) for run, label in scored]) if scored else pd.DataFrame()
    costs = pd.DataFrame([label | cost(run) for run, label in pairs])
    return SweepRecords(Path(grid), runs, per_query, costs)


def records_folder(grid: str | Path) -> Path:
    """Where `csgn sweep` writes the records of a grid: ``reports/runs/sweep-<digest>``."""
    return locate(f"reports/runs/sweep-{digest(planned_cells(read_grid(locate(grid))))}")


def _of_grid(path: Path) -> SweepRecords:
    return collect_records(frame_of(planned_cells(read_grid(path)), {}), path)


def _of_folder(folder: Path) -> SweepRecords:
    paths = [folder / name for name in (RECORD, QUERIES, COSTS)]
    frames = [_read(path) if path.is_file() or path.name == RECORD else pd.DataFrame() for path in paths]
    return SweepRecords(folder, *frames, sources=tuple(path for path in paths if path.is_file()))


def _read(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path)
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; give a sweep's YAML file, or the folder of its records (csgn sweep, or "
            "40_ablation_sweep, writes them)"
        ) from None
    except (ValueError, OSError, EOFError) as error:
        raise InputError(f"{path} cannot be read ({error}); run the sweep again") from None


def _recorded(runs: pd.DataFrame) -> list[tuple[str, str, str]]:
    """(descriptor, protocol, metric) of the columns that hold scores."""
    parts = [str(column).split(".") for column in runs]
    return [(p[0], p[2], p[3]) for p in parts if len(p) == 4 and p[1] == "protocols" and p[3] in METRICS]


def _refuse_unknown(name: Path, kind: str, given: Sequence[str], known: Sequence[str]) -> None:
    if unknown := [one for one in given if one not in known]:
        raise InputError(f"{name} has no {kind} {', '.join(map(repr, unknown))}; there are: {', '.join(known)}")


def _label(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["descriptor"] == PLAIN, frame["row"], frame["row"] + ", " + frame["descriptor"])


def _shown(line: dict[str, float], spread: str) -> str:
    if spread == "sd" and not np.isnan(line["sd"]):
        return f"{line['mean']:.1f} ± {line['sd']:.1f}"
    if spread == "interval" and not np.isnan(line["low"]):
        return f"{line['mean']:.1f} [{line['low']:.1f}, {line['high']:.1f}]"
    return f"{line['mean']:.1f}"
