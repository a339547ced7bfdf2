"""Statistics over runs: against slow implementations and examples by hand; correct under the null and for a shift."""

import struct

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from scipy import stats

from csgn_lib import datasets, retrieval, statistics
from csgn_lib.records import InputError, Run
from csgn_lib.statistics.paired import holm, sign_flip

NUMBERS = st.floats(-10, 10, allow_nan=False).map(lambda value: round(value, 2))


def _queries(ap, world=None, people=4, **columns):
    """Rows of a record from ``ap`` (runs, queries): run i is seed i, in ``world`` or a world of its own."""
    frames = [
        pd.DataFrame({"seed": i, "world": i if world is None else world[i], "query": range(len(values)), "ap": values})
        for i, values in enumerate(np.asarray(ap, dtype=float))
    ]
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(person=frame["query"] % people, first_hit=1 + (frame["ap"] < 0.5), **columns)


# ---- spread


@given(st.lists(NUMBERS, min_size=2, max_size=9))
def test_spread_equals_students_interval(values):
    found = statistics.spread(values)
    assert found["runs"] == len(values) and found["mean"] == pytest.approx(np.mean(values))
    assert found["sd"] == pytest.approx(np.std(values, ddof=1))
    if len(set(values)) > 1:
        low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
        assert [found["low"], found["high"]] == pytest.approx([low, high])


@given(st.lists(st.tuples(NUMBERS, st.integers(0, 3)), min_size=1, max_size=12))
def test_clusters_are_averaged_first(drawn):
    values, worlds = zip(*drawn, strict=True)
    found = statistics.spread(values, worlds)
    means = [np.mean([v for v, w in drawn if w == world]) for world in dict.fromkeys(worlds)]
    twin = statistics.spread(means)
    assert (found["runs"], found["clusters"]) == (len(values), len(means))
    kept = ["mean", "sd", "low", "high"]
    assert found[kept].to_list() == pytest.approx(twin[kept].to_list(), nan_ok=True)
    assert statistics.clusters_of(pd.DataFrame({"world": worlds, "seed": 0})) == ("world" if len(means) > 1 else "seed")


def test_single_value_has_mean_only():
    found = statistics.spread([0.25, np.nan])
    assert (found["runs"], found["mean"]) == (1, 0.25) and found[["sd", "low", "high"]].isna().all()
    assert statistics.spread([]).isna().sum() == 4
    with pytest.raises(InputError, match="level = 95"):
        statistics.spread([1, 2], level=95)


# ---- the bootstrap over people


def test_interval_of_one_run_equals_scores_interval():
    generator = np.random.default_rng(0)
    people = np.repeat(np.arange(6), 4)
    frame = pd.DataFrame({"path": "", "person": people, "camera": np.arange(24) % 4, "clothes": np.arange(24) % 2})
    features = generator.normal(size=(24, 3)) + people[:, None] / 2
    scores = retrieval.evaluate(features, features, frame, frame, datasets.PROTOCOLS["general"])
    record = scores.per_query.rename(columns={"row": "query"}).assign(seed=0, world=0)
    for metric in ("mean_ap", "rank1", "minp"):
        assert statistics.people_interval(record, metric) == pytest.approx(scores.interval(metric))


def test_people_are_resampled_within_worlds():
    generator = np.random.default_rng(1)
    worlds = [0, 0, 1]
    frame = _queries(generator.random((3, 10)), worlds, people=3)
    draws = np.random.default_rng(0)
    times = {world: draws.multinomial(3, np.full(3, 1 / 3), size=200) for world in (0, 1)}
    means = []
    for resample in range(200):  # the slow twin
        of_runs = []
        for seed, world in enumerate(worlds):
            one = frame[frame["seed"] == seed]
            drawn = [one.ap[one.person == p] for p in range(3) for _ in range(times[world][resample, p])]
            of_runs.append(np.concatenate(drawn).mean())
        means.append(np.mean(of_runs))
    assert statistics.people_interval(frame, resamples=200) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])))


# ---- paired differences


@settings(max_examples=25, deadline=None)
@given(st.lists(NUMBERS, min_size=2, max_size=8))
def test_sign_flip_equals_scipy_permutation_test(values):
    if abs(np.mean(values)) < 1e-9:
        assert sign_flip(values) == 1
        return
    twin = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert sign_flip(values) == pytest.approx(twin.pvalue)


def test_many_units_are_sampled_without_zero_p():
    values = np.linspace(0.1, 0.4, 40)
    assert sign_flip(values, draws=500) == 1 / 501 and sign_flip(values - 0.25) > 0.9
    sixteen = np.random.default_rng(2).normal(0.4, 1, size=16)
    drawn = sign_flip(np.append(sixteen, 0.0), draws=20_000)  # a 17th that changes nothing, but too many to enumerate
    assert drawn == pytest.approx(sign_flip(sixteen), abs=0.02)
    assert np.isnan(sign_flip([])) and np.isnan(sign_flip([1, np.nan])) and sign_flip([0, 0]) == 1


def test_paired_difference_by_hand():
    base = _queries([[0.5, 0.5, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2]], people=2)
    row = _queries([[0.6, 0.5, 0.3, 0.2], [0.2, 0.4, 0.2, 0.4]], people=2)
    found = statistics.paired(base, row.sample(frac=1, random_state=0))  # in any order
    assert found["mean"] == pytest.approx(0.1)  # both runs: 0.1
    assert (found["runs"], found["clusters"], found["people"]) == (2, 2, 4)
    assert found["p_runs"] == 2 / 4  # + + and - - of four patterns
    # people: 0.3/2 and 0.1/2 of a run in world 0, 0 and 0.4/2 in world 1, halved; the 0 doubles what is as far
    assert found["p_people"] == 4 / 16
    assert statistics.paired(base, row, "rank1")["mean"] == 0 and statistics.paired(row, base)["mean"] == pytest.approx(
        -0.1
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16))
def test_paired_mean_with_clusters(seed):
    generator = np.random.default_rng(seed)
    worlds = [0, 0, 0, 1, 2]
    base, row = (_queries(generator.random((5, 9)), worlds) for _ in range(2))
    differences = (row.groupby("seed").ap.mean() - base.groupby("seed").ap.mean()).to_numpy()
    alone, together = statistics.paired(base, row), statistics.paired(base, row, clusters="world")
    assert alone["mean"] == pytest.approx(differences.mean())
    assert alone["p_runs"] == pytest.approx(sign_flip(differences))
    clusters = [differences[:3].mean(), differences[3], differences[4]]
    twin = statistics.spread(clusters)
    assert (together["runs"], together["clusters"], together["people"]) == (5, 3, 12)
    assert together[["mean", "low", "high"]].to_list() == pytest.approx(twin[["mean", "low", "high"]].to_list())
    assert together["p_runs"] == pytest.approx(sign_flip(clusters))


def test_draws_have_weights_of_scores():
    base = pd.DataFrame({
        "seed": 0, "world": 0, "query": [0, 1, 0], "draw": [0, 0, 1], "person": [0, 1, 0], "ap": 0.0
    })  # fmt: skip
    row = base.assign(ap=[0.2, 0.4, 0.9])
    assert statistics.paired(base, row)["mean"] == pytest.approx((0.3 + 0.9) / 2)


def test_five_runs_cannot_be_significant():
    base = _queries(np.zeros((5, 40)), people=40)
    found = statistics.paired(base, base.assign(ap=1.0))
    assert found["p_runs"] == 2 / 32 == statistics.smallest_p(5) > 0.05 > statistics.smallest_p(6)
    assert found["p_people"] == 1 / 10_001 == statistics.smallest_p(200)


def test_p_is_uniform_under_null():
    generator = np.random.default_rng(3)
    p = {"p_runs": [], "p_people": []}
    for _ in range(150):
        base, row = (_queries(generator.normal(size=(8, 24)), people=12) for _ in range(2))
        found = statistics.paired(base, row, draws=400)
        for name, values in p.items():
            values.append(found[name])
    for name, values in p.items():
        assert stats.kstest(values, "uniform").pvalue > 0.01, name
        assert np.mean(np.array(values) < 0.05) < 0.1, name
    base = _queries(generator.normal(size=(8, 24)), people=12)
    found = statistics.paired(base, base.assign(ap=base.ap + generator.normal(0.5, 0.3, len(base))), draws=400)
    assert found["p_runs"] < 0.01 and found["p_people"] < 0.01 and found["low"] > 0


def test_unpairable_rows_are_refused():
    frame = _queries(np.zeros((2, 4)))
    with pytest.raises(InputError, match="only one of the two rows has seed 1 in world 1"):
        statistics.paired(frame, frame[frame["seed"] == 0])
    with pytest.raises(InputError, match="do not count the same queries"):
        statistics.paired(frame, frame[(frame["seed"] == 0) | (frame["query"] > 0)])
    with pytest.raises(InputError, match="2 queries occur twice"):
        statistics.paired(frame, pd.concat([frame, frame.head(2)]))
    with pytest.raises(InputError, match="lack the column inp"):
        statistics.paired(frame, frame, "minp")
    with pytest.raises(InputError, match="unknown metric 'map'; one of mean_ap, rank1, minp"):
        statistics.paired(frame, frame, "map")
    with pytest.raises(InputError, match="lies in two clusters of 'person'"):
        statistics.paired(frame, frame, clusters="person")
    with pytest.raises(InputError, match="there are no queries"):
        statistics.people_interval(frame[:0])
    with pytest.raises(InputError, match="world 0 has 1"):
        statistics.people_interval(_queries(np.zeros((1, 4)), people=1))


def test_comparisons_are_corrected():
    base = _queries(np.zeros((6, 8)), row="none")
    more = [base.assign(row=name, ap=value) for name, value in (("up", 0.5), ("same", 0.0), ("down", -0.5))]
    found = statistics.against(pd.concat([base, *more]), "none").set_index("row")
    assert found["mean"].to_dict() == pytest.approx({"up": 0.5, "same": 0.0, "down": -0.5})
    assert found["p_runs"].to_dict() == {"up": 2 / 64, "same": 1.0, "down": 2 / 64}
    assert found["holm_runs"].to_dict() == {"up": 6 / 64, "same": 1.0, "down": 6 / 64}
    assert statistics.against(base, "none").empty
    with pytest.raises(InputError, match="no row is named 'other'; there are: none"):
        statistics.against(base, "other")


# ---- Holm


def test_holm_by_hand():
    # ordered 0.01, 0.013, 0.014, 0.19 by 4, 3, 2, 1: 0.04, 0.039 raised to 0.04, 0.028 raised, 0.19
    assert holm([0.19, 0.013, np.nan, 0.01, 0.014]) == pytest.approx([0.19, 0.04, np.nan, 0.04, 0.04], nan_ok=True)
    assert holm([]).size == 0 and holm([0.7, 0.6]).tolist() == [1, 1]


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_equals_definition(p):
    order = sorted(range(len(p)), key=p.__getitem__)
    twin, reached = [0.0] * len(p), 0.0
    for position, index in enumerate(order):
        reached = max(reached, min(1.0, (len(p) - position) * p[index]))
        twin[index] = reached
    assert holm(p) == pytest.approx(twin)


# ---- runs: their queries, their cost


def test_cost_equals_record(tmp_path):
    run = Run(tmp_path)
    assert statistics.cost(run) == {"encoder_parameters": None, "seconds": None, "memory_mib": None}
    run.set_status("done", seconds=12.5, memory_mib=700)
    kept = {
        "vit.proj": torch.zeros(3, 4),
        "vit.bias": torch.zeros(5, dtype=torch.bfloat16),
        "vit.scale": torch.tensor(1.0),
    }
    left = {f"resnet.bn1.{name}": torch.zeros(3, 4) for name in ("running_mean", "running_var")}
    left |= {"vit_mean": torch.zeros(12), "resnet.bn1.num_batches_tracked": torch.tensor(7)}
    save_file(kept | left, run.path("model.safetensors"), metadata={"format": "pt"})
    assert statistics.cost(run) == {"encoder_parameters": 12 + 5 + 1, "seconds": 12.5, "memory_mib": 700}
    for damaged in (b"", b"\xff" * 20, struct.pack("<Q", 2) + b"[]"):
        run.path("model.safetensors").write_bytes(damaged)
        with pytest.raises(InputError, match="model.safetensors is no safetensors file"):
            statistics.cost(run)


def test_queries_are_counted_ones(tmp_path):
    run = Run(tmp_path)
    with pytest.raises(InputError, match="per_query.csv does not exist; score the run first"):
        statistics.queries(run)
    columns = {"row": [0, 1], "draw": 0, "path": "a", "person": 7, "valid": [True, False], "ap": [0.5, np.nan]}
    frame = pd.DataFrame(columns | {"first_hit": [2, 0], "inp": 0.5, "protocol": "general", "descriptor": "plain"})
    frame.to_csv(run.path("per_query.csv"), index=False)
    [record] = statistics.queries(run, row="CSGN", seed=1, world=2).to_dict("records")
    assert record == {
        "row": "CSGN", "seed": 1, "world": 2, "descriptor": "plain", "protocol": "general",
        "query": 0, "draw": 0, "person": 7, "ap": 0.5, "first_hit": 2,
    }  # fmt: skip
