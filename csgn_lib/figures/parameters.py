"""The table of an experiment's parameters: those that differ from the preset, and all of them, collapsed."""

from __future__ import annotations

import html
from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from csgn_lib.config import Experiment


@dataclass(frozen=True)
class ParameterTable:
    """What `parameter_table` returns; Jupyter displays its HTML.

    Attributes:
        changed: the parameters that differ from the preset, or between the experiments; one column per experiment.
        every: all parameters, with their meaning.
        presets: the presets, one per experiment.
    """

    changed: pd.DataFrame
    every: pd.DataFrame
    presets: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self._title()}\n{self.changed.to_string()}" if len(self.changed) else self._title()

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.changed.to_html(border=0) if len(self.changed) else ""
        summary = f"<summary>All {len(self.every)} parameters</summary>"
        return f"<p>{html.escape(self._title())}</p>{table}<details>{summary}{self.every.to_html(border=0)}</details>"

    def _title(self) -> str:
        presets = " and ".join(dict.fromkeys(self.presets))
        return f"Preset {presets}" + ("; these parameters differ:" if len(self.changed) else "; no parameter differs.")


def parameter_table(experiments: Experiment | Mapping[str, Experiment]) -> ParameterTable:
    """The parameters of one experiment, or of several by name, to show at the top of a notebook."""
    named = experiments if isinstance(experiments, Mapping) else {"value": experiments}
    values = pd.DataFrame({name: experiment.model_dump() for name, experiment in named.items()}, dtype=object)
    changed = {name for experiment in named.values() for name in experiment.difference()}
    changed |= {name for name in values.index if len(set(map(repr, values.loc[name]))) > 1}
    fields = {name: field for experiment in named.values() for name, field in type(experiment).model_fields.items()}
    meaning = [fields[name].description for name in values.index]  # plugins' parameters among them
    shown = values.astype(str)
    return ParameterTable(
        shown[[name in changed for name in values.index]],
        shown.assign(meaning=meaning),
        tuple(experiment.preset for experiment in named.values()),
    )
