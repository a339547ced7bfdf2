"""`SweepRecords`: a sweep's scores, sensitivities, scores per query and costs, with their statistics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from csgn_lib.records import InputError, did_you_mean
from csgn_lib.statistics.intervals import METRICS
from csgn_lib.statistics.paired import against, clusters_of, smallest_p, spread

SENSITIVITIES = ("colour_sensitivity", "clothes_sensitivity")
PLAIN = "plain"
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


def _label(frame: pd.DataFrame) -> np.ndarray:
    return np.where(frame["descriptor"] == PLAIN, frame["row"], frame["row"] + ", " + frame["descriptor"])


def _shown(line: dict[str, float], spread: str) -> str:
    if spread == "sd" and not np.isnan(line["sd"]):
        return f"{line['mean']:.1f} ± {line['sd']:.1f}"
    if spread == "interval" and not np.isnan(line["low"]):
        return f"{line['mean']:.1f} [{line['low']:.1f}, {line['high']:.1f}]"
    return f"{line['mean']:.1f}"
