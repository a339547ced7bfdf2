"""A number with its interval: people, not pictures, are drawn again, since pictures of one person are alike."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from csgn_lib.records import InputError


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


def over_people(
    values: ArrayLike, people: ArrayLike, per: ArrayLike | None = None, *, resamples: int = 1000, seed: int = 0
) -> Interval:
    """sum(values) / sum(per), with the 95 % percentile bootstrap interval over people.

    People are drawn with replacement and bring all their rows along (as ``Scores.interval`` does).

    Args:
        values: (N,) what is averaged.
        people: (N,) who each row belongs to.
        per: (N,) the denominator of a ratio of means; without it the mean of ``values``.

    Raises:
        InputError: rows of different number, fewer than two people, a denominator that sums to zero.

    Example: the mean of two people's rows; the resamples run from one person's mean to the other's.

        >>> f"{over_people([1.0, 1.0, 4.0], [7, 7, 9]):.1f}"
        '2.0 [1.0, 4.0]'
    """
    values, people = np.asarray(values, dtype=float), np.asarray(people)
    per = np.ones(len(values)) if per is None else np.asarray(per, dtype=float)
    if not len(values) == len(people) == len(per):
        raise InputError(f"{len(values)} values, {len(people)} people, {len(per)} denominators: give one of each a row")
    _, group = np.unique(people, return_inverse=True)
    total, count = (np.bincount(group, weights=column) for column in (values, per))
    if len(total) < 2:
        raise InputError(f"an interval over people needs two of them, given is {len(total)}")
    if count.sum() == 0:
        raise InputError("the ratio's denominator is zero in every row; nothing to compare with")
    times = np.random.default_rng(seed).multinomial(len(total), np.full(len(total), 1 / len(total)), size=resamples)
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw of people who all have a zero denominator
        drawn = (times @ total) / (times @ count)
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return Interval(float(total.sum() / count.sum()), float(low), float(high))
