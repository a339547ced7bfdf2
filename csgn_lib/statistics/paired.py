"""Statistics over runs: spread over seeds, bootstrap over people, paired differences, costs of runs.

Two units are kept separate: *runs* (a seed in a world) estimate the variation of another training, *people* that of
other people with the same trained models. Frames here are stacked per-query rows (`queries`): columns
``seed``, ``world``, ``query`` and ``person``, and ``ap`` (mean_ap), ``first_hit`` (rank1) or ``inp`` (minp);
``draw`` where the protocol draws several galleries, ``row`` where several experiments are stacked.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from safetensors import SafetensorError, safe_open
from scipy.special import stdtrit

from csgn_lib.records import InputError, Run
from csgn_lib.statistics.intervals import RESAMPLES, means_drawn, people_drawn, percentile_interval

EXACT = 16  # largest number of units for which all sign patterns are enumerated
DRAWS = 10_000  # random sign patterns for more units
COLUMNS = {"mean_ap": "ap", "rank1": "first_hit", "minp": "inp"}
_RUN = ["seed", "world"]
_BUFFERS = ("running_mean", "running_var", "num_batches_tracked", "vit_mean", "vit_std")
_CHUNK = 1000  # sign patterns in memory at once


def clusters_of(draws: pd.DataFrame) -> str:
    """``world`` if there are several, else ``seed``: runs in one world share its people and clothes, so only worlds are
    independent."""
    return "world" if draws["world"].nunique() > 1 else "seed"


def spread(values: ArrayLike, clusters: ArrayLike | None = None, *, level: float = 0.95) -> pd.Series:
    """``runs, clusters`` (how many), ``mean``, ``sd`` (n - 1), and ``low``, ``high`` of Student's t interval.

    With ``clusters``, the cluster of each value, values are averaged within clusters first, and s.d. and interval are
    over clusters. NaN is ignored. A single cluster has neither s.d. nor interval (NaN). Raises InputError for a level
    outside (0, 1).

        >>> spread([1.0, 2.0, 3.0]).round(2).to_dict()
        {'runs': 3.0, 'clusters': 3.0, 'mean': 2.0, 'sd': 1.0, 'low': -0.48, 'high': 4.48}
        >>> spread([0.0, 2.0, 3.0], ["first", "first", "second"]).round(2).to_dict()
        {'runs': 3.0, 'clusters': 2.0, 'mean': 2.0, 'sd': 1.41, 'low': -10.71, 'high': 14.71}
    """
    _check_level(level)
    sample = np.asarray(values, dtype=float).ravel()
    runs = np.count_nonzero(~np.isnan(sample))
    if clusters is not None:
        sample = pd.Series(sample).groupby(np.asarray(clusters), sort=False).mean().to_numpy()
    sample = sample[~np.isnan(sample)]
    n = len(sample)
    mean = sample.mean() if n else np.nan
    sd = sample.std(ddof=1) if n > 1 else np.nan
    half = stdtrit(n - 1, (1 + level) / 2) * sd / np.sqrt(n) if n > 1 else np.nan
    return pd.Series({"runs": runs, "clusters": n, "mean": mean, "sd": sd, "low": mean - half, "high": mean + half})


def queries(run: Run, **labels: Any) -> pd.DataFrame:
    """The counted queries of a run's per_query.csv, with ``labels`` as first columns (row, seed, world).

    Columns after them: ``descriptor, protocol, query`` (row in the query frame), ``draw, person, ap, first_hit``.

    Raises InputError if the run has no such file: it is not scored yet.
    """
    path = run.path("per_query.csv")
    if not path.exists():
        raise InputError(f"{path} does not exist; score the run first (12_train does, and csgn train)")
    scores = pd.read_csv(path)
    scores = scores[scores["valid"]].rename(columns={"row": "query"})
    kept = scores[["descriptor", "protocol", "query", "draw", "person", "ap", "first_hit"]].reset_index(drop=True)
    return pd.concat([pd.DataFrame(labels, index=kept.index), kept], axis=1)


def people_interval(
    frame: pd.DataFrame, metric: str = "mean_ap", level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Percentile bootstrap over *people* of the mean over runs of a metric, as fractions (low, high).

    People are resampled with replacement within each world, with their queries in all runs of that world; runs are not
    resampled. For one run it equals ``Scores.interval`` exactly.

    Args:
        frame: the queries of one row, all its runs stacked.
        metric: mean_ap, rank1 or minp.
        level: coverage, in (0, 1).
        resamples: how many times people are drawn.
        seed: of the draws.

    Raises:
        InputError: a missing column, a level outside (0, 1), or a world with fewer than two people.
    """
    _check_level(level)
    counted = _counted(frame, metric)
    generator = np.random.default_rng(seed)
    values = []
    for world, part in counted.groupby("world"):
        people = np.sort(part["person"].unique())
        times = people_drawn(len(people), generator, resamples, f"world {world} has")
        values += [means_drawn(one, people, times) for _, one in part.groupby("seed")]
    return percentile_interval(np.mean(values, axis=0), level)


def paired(
    base: pd.DataFrame,
    row: pd.DataFrame,
    metric: str = "mean_ap",
    *,
    clusters: str | None = None,
    level: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.Series:
    """``row`` minus ``base`` on the same seeds, worlds and queries: mean, t interval, two sign-flip p values.

    Under the null hypothesis the difference of a unit is equally likely to have the other sign. The unit determines the
    conclusion:

    - ``p_runs``: clusters of runs (one run each unless ``clusters`` says otherwise). Small: the difference
      is expected in another training (in another world, if worlds differ). Exact, all 2^n sign patterns, up to
      n = 16 clusters; with 5 runs the smallest two-sided p is 2/32 = 0.0625, so 5 runs can never fall below 0.05.
    - ``p_people``: people of a world, each with its part of the mean difference over all runs of that
      world. Small: the difference is expected for these trained models on other people. It does not replace
      ``p_runs``, because it says nothing about another training.

    Runs that share a world or a CLIP are not independent. With the column that identifies these clusters, values are
    averaged within clusters first; the t interval and ``p_runs`` are over clusters.

    Args:
        base, row: the queries of two rows, their runs stacked.
        metric: mean_ap, rank1 or minp.
        clusters: a column of ``row`` whose value runs of one cluster share, such as ``world``.
        level: coverage of the t interval.
        draws: random sign patterns if there are more than 16 units.
        seed: their seed.

    Returns:
        ``runs, clusters, people`` (counts), ``mean, sd, low, high`` (fractions; over clusters), ``p_runs, p_people``.

    Raises:
        InputError: the two do not hold the same runs and queries, a column is missing, or a run lies in two clusters.
    """
    mine, theirs = _counted(row, metric, clusters), _counted(base, metric)
    keys = [*_RUN, "query", "draw", "person"]
    _refuse_unpaired(mine[keys], theirs[keys])
    label = clusters or "run"
    runs = mine[_RUN].drop_duplicates()
    mine["run"] = mine.groupby(_RUN).ngroup()
    if mine.groupby("run")[label].nunique().max() > 1:
        raise InputError(f"a run lies in two clusters of {label!r}; give a column that is constant within a run")
    # each query's share: clusters weigh the same, in them runs, in them draws, in them queries
    share = mine.groupby(["run", "draw"])["value"].transform("size") * mine.groupby("run")["draw"].transform("nunique")
    share = share * mine.groupby(label)["run"].transform("nunique")
    mine["part"] = (mine["value"] - theirs["value"]) / share
    of_clusters = mine.groupby(label)["part"].sum()
    of_people = mine.groupby(["world", "person"])["part"].sum() / len(of_clusters)
    counts = {"runs": len(runs), "clusters": len(of_clusters), "people": len(of_people)}
    flips = {"p_runs": of_clusters, "p_people": of_people}
    tests = {name: sign_flip(parts, draws=draws, seed=seed) for name, parts in flips.items()}
    return pd.Series(counts | spread(of_clusters, level=level).drop(["runs", "clusters"]).to_dict() | tests)


def against(
    frame: pd.DataFrame, baseline: str, metric: str = "mean_ap", clusters: str | None = None, **options: Any
) -> pd.DataFrame:
    """`paired` of every other ``row`` of the frame to ``baseline``, corrected for their number.

    Args:
        frame: the queries of all rows under one protocol and descriptor.
        baseline: the value of ``row`` that is subtracted.
        metric, clusters, options: as in `paired`.

    Returns a frame: ``row``, what `paired` returns, and ``holm_runs``, ``holm_people``, the p values after `holm`.

    Raises InputError if no row has that name, with the existing names, and as `paired`.
    """
    names = list(dict.fromkeys(frame["row"]))
    if baseline not in names:
        raise InputError(f"no row is named {baseline!r}; there are: {', '.join(map(str, names))}")
    base = frame[frame["row"] == baseline]
    others = [name for name in names if name != baseline]
    comparisons = [paired(base, frame[frame["row"] == name], metric, clusters=clusters, **options) for name in others]
    columns = "runs clusters people mean sd low high p_runs p_people".split()
    table = pd.DataFrame(comparisons, columns=columns).reset_index(drop=True)
    table = table.astype(dict.fromkeys(["runs", "clusters", "people"], int))
    table.insert(0, "row", pd.Series(others, dtype=object))
    return table.assign(holm_runs=holm(table["p_runs"]), holm_people=holm(table["p_people"]))


def sign_flip(values: ArrayLike, *, draws: int = DRAWS, seed: int = 0) -> float:
    """Two-sided p value of the mean of ``values`` under random sign flips.

    Exact for up to 16 values; for more, ``draws`` random patterns and the observed one. NaN for no value.
    """
    parts = np.asarray(values, dtype=float)
    n = len(parts)
    if n == 0 or np.isnan(parts).any():
        return math.nan
    bound = abs(parts.sum()) - 1e-12 * np.abs(parts).sum()  # equal up to rounding
    if n <= EXACT:
        sums = np.zeros(1)
        for part in parts:
            sums = np.concatenate([sums + part, sums - part])
        return float(np.mean(np.abs(sums) >= bound))
    generator = np.random.default_rng(seed)
    beyond = 0
    for start in range(0, draws, _CHUNK):
        signs = generator.integers(0, 2, size=(min(_CHUNK, draws - start), n), dtype=np.int8)
        beyond += int((np.abs(2 * (signs @ parts) - parts.sum()) >= bound).sum())
    return (beyond + 1) / (draws + 1)


def smallest_p(units: int) -> float:
    """The smallest two-sided p of `sign_flip` for this number of units: 2 / 2^n, or one over the number of patterns."""
    return min(1.0, 2.0 ** (1 - units)) if units <= EXACT else 1 / (DRAWS + 1)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's step-down correction, in the order given; NaN stays NaN and is not counted.

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=float)
    known = np.flatnonzero(~np.isnan(p))
    order = known[np.argsort(p[known], kind="stable")]
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.maximum.accumulate((len(order) - np.arange(len(order))) * p[order]).clip(max=1)
    return corrected


def cost(run: Run) -> dict[str, float | None]:
    """Costs of a run: ``encoder_parameters``, ``seconds`` and ``memory_mib`` (peak); None if not recorded.

    Parameters are counted from the header of model.safetensors: those of the encoder, without buffers (identified by
    name), classifiers and descriptions, which are used only in training.

    Raises InputError for a damaged model.safetensors or status.json.
    """
    status = run.status if run.path("status.json").exists() else {}
    model = run.path("model.safetensors")
    parameters = _parameters(model) if model.exists() else None
    return {"encoder_parameters": parameters, "seconds": status.get("seconds"), "memory_mib": status.get("memory_mib")}


def _parameters(path: Path) -> int:
    try:
        with safe_open(path, framework="numpy") as file:
            tensors = {name: file.get_slice(name) for name in file.keys()}
            return sum(
                math.prod(tensor.get_shape())
                for name, tensor in tensors.items()
                if tensor.get_dtype().startswith(("F", "BF")) and name.rpartition(".")[2] not in _BUFFERS
            )
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path} is no safetensors file ({error}); remove it and train the run again") from error


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"level = {level}: give a coverage between 0 and 1, such as 0.95")


def _counted(frame: pd.DataFrame, metric: str, cluster: str | None = None) -> pd.DataFrame:
    """seed, world, query, draw, person, the metric's ``value`` and the cluster of every query, sorted."""
    if metric not in COLUMNS:
        raise InputError(f"unknown metric {metric!r}; one of {', '.join(COLUMNS)}")
    keys = [*_RUN, "query", "draw", "person"]
    frame = frame if "draw" in frame else frame.assign(draw=0)
    more = [cluster] if cluster and cluster not in keys else []
    absent = [name for name in [*keys, COLUMNS[metric], *more] if name not in frame]
    if absent:
        raise InputError(f"the queries lack the column {', '.join(absent)}; there are: {', '.join(map(str, frame))}")
    if frame.empty:
        raise InputError("there are no queries; check the names of protocol, descriptor and row in the record")
    if (twice := frame.duplicated(keys)).any():
        raise InputError(
            f"{twice.sum()} queries occur twice in a run; give one row under one protocol and one descriptor at a time"
        )
    value = frame[COLUMNS[metric]]
    value = (value == 1) if metric == "rank1" else value
    return frame[keys + more].assign(value=value.astype(float)).sort_values(keys, ignore_index=True)


def _refuse_unpaired(mine: pd.DataFrame, theirs: pd.DataFrame) -> None:
    if mine.equals(theirs):
        return
    ours, others = (set(map(tuple, frame[_RUN].drop_duplicates().to_numpy().tolist())) for frame in (mine, theirs))
    if alone := ours ^ others:
        named = ", ".join(f"seed {seed} in world {world}" for seed, world in sorted(alone))
        raise InputError(f"only one of the two rows has {named}; differences are paired: run both, or remove both")
    raise InputError("the two rows do not count the same queries; score both under one protocol, on the same benchmark")
