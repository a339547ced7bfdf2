"""Bootstrap intervals over people: images of one person are correlated, so people are resampled, not images."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from csgn_lib.records import InputError

if TYPE_CHECKING:
    import pandas as pd

RESAMPLES = 1000  # bootstrap resamples
METRICS = {"rank1": "rank-1", "mean_ap": "mAP", "minp": "mINP"}  # columns of records, as the field writes them


@dataclass(frozen=True)
class Interval:
    """A number and its 95 % interval; ``f"{interval:.2f}"`` prints all three."""

    value: float
    low: float
    high: float

    def __format__(self, spec: str) -> str:
        return f"{self.value:{spec}} [{self.low:{spec}}, {self.high:{spec}}]"

    def record(self) -> dict[str, float]:
        """The three numbers by name, as a row of a table or of JSON."""
        return {"value": self.value, "low": self.low, "high": self.high}


def percent(value: float, low: float | None, high: float | None, sign: str = "") -> str:
    """A share and its interval in percent, such as ``12.5 [11.0, 14.1]``; without one if ``low`` is None."""
    if low is None or high is None:
        return f"{100 * value:{sign}.1f}"
    return format(Interval(100 * value, 100 * low, 100 * high), f"{sign}.1f")


def over_people(
    values: ArrayLike, people: ArrayLike, per: ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """sum(values) / sum(per), with the 95 % percentile bootstrap interval over people.

    People are resampled with replacement, each with all of their rows (as in ``Scores.interval``).

    Args:
        values: (N,) what is averaged.
        people: (N,) the person of each row.
        per: (N,) the denominator of a ratio of means; without it the mean of ``values``.

    Raises:
        InputError: different numbers of rows, NaN, fewer than two people, a denominator that sums to zero.

    Example: the mean of two people's rows; the interval extends from one person's mean to the other's.

        >>> f"{over_people([1.0, 1.0, 4.0], [7, 7, 9]):.1f}"
        '2.0 [1.0, 4.0]'
    """
    values, people = np.asarray(values, dtype=float), np.asarray(people)
    per = np.ones(len(values)) if per is None else np.asarray(per, dtype=float)
    if not len(values) == len(people) == len(per):
        raise InputError(f"{len(values)} values, {len(people)} people, {len(per)} denominators: give one of each a row")
    if lacking := int((np.isnan(values) | np.isnan(per)).sum()):
        raise InputError(f"{lacking} of {len(values)} rows have no value (NaN); leave them out first")
    _, group = np.unique(people, return_inverse=True)
    total, count = (np.bincount(group, weights=column) for column in (values, per))
    times = people_drawn(len(total), seed, resamples)
    if count.sum() == 0:
        raise InputError("the ratio's denominator is zero in every row; nothing to compare with")
    return Interval(float(total.sum() / count.sum()), *percentile_interval(_ratio(times, total, count)))


def people_drawn(
    people: int, generator: np.random.Generator | int, resamples: int = RESAMPLES, whose: str = "given is"
) -> NDArray[np.int64]:
    """How often each person is in each bootstrap resample: (resamples, people).

    ``generator`` may be a seed: the draws are then made once for all metrics and protocols, and are read-only.
    Raises InputError for fewer than two people; ``whose`` describes the people in the message.
    """
    if people < 2:
        raise InputError(f"an interval over people needs two of them, {whose} {people}")
    if not isinstance(generator, np.random.Generator):
        return _drawn(people, int(generator), resamples)
    return generator.multinomial(people, np.full(people, 1 / people), size=resamples)


@lru_cache(maxsize=4)
def _drawn(people: int, seed: int, resamples: int) -> NDArray[np.int64]:
    times = people_drawn(people, np.random.default_rng(seed), resamples)
    times.flags.writeable = False
    return times


def means_drawn(counted: pd.DataFrame, people: ArrayLike, times: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean ``value`` of the queries of the people drawn, mean over a protocol's draws of its gallery: (resamples,).

    Args:
        counted: one row a query: person, draw, value. people: (P,) all people, sorted.
        times: (resamples, P), from ``people_drawn``.
    """
    grouped = counted.groupby(["person", "draw"])["value"]
    total = grouped.sum().unstack(fill_value=0).reindex(people, fill_value=0).to_numpy()  # (P, draws)
    count = grouped.size().unstack(fill_value=0).reindex(people, fill_value=0).to_numpy(float)
    return np.nanmean(_ratio(times, total, count), axis=1)


def percentile_interval(drawn: NDArray[np.float64], level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of resampled values (resamples,) with coverage ``level``; NaN is left out."""
    low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _ratio(times: NDArray[np.int64], total: NDArray[np.float64], count: NDArray[np.float64]) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore", divide="ignore"):  # a resample of people without queries
        return (times @ total) / (times @ count)
