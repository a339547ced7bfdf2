"""Intervals over people: against a bootstrap by hand, equal in all modules, errors for invalid input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csgn_lib import datasets, statistics
from csgn_lib.records import InputError
from csgn_lib.retrieval import Scores
from csgn_lib.statistics import intervals


@given(st.lists(st.tuples(st.integers(0, 3), st.floats(0, 5), st.floats(0.1, 5)), min_size=4, max_size=20))
@settings(max_examples=20, deadline=None)
def test_interval_equals_bootstrap_over_people(rows: list) -> None:
    people, values, per = (np.array(column) for column in zip(*[*rows, (8, 1.0, 1.0), (9, 2.0, 1.0)], strict=True))
    found = intervals.over_people(values, people, per, resamples=50, seed=3)
    known = sorted(set(people))
    drawn = []
    rng = np.random.default_rng(3)
    for times in rng.multinomial(len(known), np.full(len(known), 1 / len(known)), size=50):
        pick = [
            i for who, count in zip(known, times, strict=True) for i in np.flatnonzero(people == who).tolist() * count
        ]
        drawn.append(values[pick].sum() / per[pick].sum())
    assert found.value == pytest.approx(values.sum() / per.sum())
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_repeated_rows_do_not_narrow_interval() -> None:
    values, people = np.array([0.0, 1.0, 2.0, 3.0]), np.arange(4)
    once, often = intervals.over_people(values, people), intervals.over_people(values.repeat(50), people.repeat(50))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(
    ("values", "people", "per", "said"),
    [
        ([1.0], [0], None, "two"),
        ([1.0, 2.0], [0], None, "2 values, 1 people"),
        ([1.0, 2.0], [0, 1], [0.0, 0.0], "zero"),
        ([1.0, float("nan"), 2.0], [0, 1, 2], None, "1 of 3 rows"),
    ],
)
def test_invalid_intervals_are_refused(values: list, people: list, per: list | None, said: str) -> None:
    with pytest.raises(InputError, match=said):
        intervals.over_people(values, people, per)


def test_interval_prints_three_numbers() -> None:
    assert f"{intervals.Interval(0.5, 0.25, 1.0):.1f}" == "0.5 [0.2, 1.0]"
    assert intervals.Interval(0.5, 0.25, 1.0).record() == {"value": 0.5, "low": 0.25, "high": 1.0}


def test_scores_runs_and_probes_give_identical_intervals() -> None:
    """And it is the formula written out, so that no rearrangement moves a digit of what is published."""
    rng = np.random.default_rng(4)
    rows = pd.DataFrame({"row": range(60), "draw": 0, "person": np.sort(rng.integers(0, 9, 60)), "valid": True})
    rows["ap"], rows["first_hit"], rows["inp"] = rng.random(60), 1, 0.5
    again = rows.assign(draw=1, ap=rng.random(60))[rows.person != 3]  # a draw in which one person counts nowhere
    both = pd.concat([rows, again], ignore_index=True)
    grouped = both.groupby(["person", "draw"]).ap
    total, count = grouped.sum().unstack(fill_value=0).to_numpy(), grouped.size().unstack(fill_value=0).to_numpy(float)
    n = len(total)
    times = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=1000)
    expected = tuple(np.quantile(np.mean((times @ total) / (times @ count), axis=1), [0.05, 0.95]))
    scores = Scores(datasets.PROTOCOLS["general"], both)
    assert scores.interval("mean_ap", level=0.9) == expected
    record = both.rename(columns={"row": "query"}).assign(seed=0, world=0)
    assert statistics.people_interval(record, "mean_ap", level=0.9) == expected


def test_single_person_world_is_named() -> None:
    with pytest.raises(InputError, match="needs two of them, world 4 has 1"):
        intervals.people_drawn(1, np.random.default_rng(0), whose="world 4 has")
