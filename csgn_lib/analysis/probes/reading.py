"""Linear classifiers of attributes, tested on people and outfits that they were not trained on.

Clothes labels are nested in people, so a classifier of outfits is a classifier of people. The attributes here are
shared by many outfits (a colour, a pattern) or many people (their hair). No test image shares its outfit or person with
a training image.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.dummy import DummyClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from csgn_lib.records import InputError
from csgn_lib.retrieval.blocks import single_threaded_blas
from csgn_lib.retrieval.features import unit_rows
from csgn_lib.statistics.intervals import over_people

MISSING = ("", "none")  # values of an attribute that an image does not have
Cut = tuple[NDArray[np.int64], NDArray[np.int64]]  # training rows, test rows


def crossed_folds(
    person: ArrayLike, outfit: ArrayLike, tested: ArrayLike, folds: int = 2, seed: int = 0
) -> Iterator[Cut]:
    """(training rows, test rows), folds^2 times, that share neither a person nor an outfit.

    People and outfits of the ``tested`` rows are both split at random into ``folds``. A test set is one part of the
    people in one part of the outfits; rows with any of either are not trained on. Each tested row is tested once.

    Raises:
        InputError: fewer people or outfits than folds.
    """
    person, outfit, tested = np.asarray(person), np.asarray(outfit), np.asarray(tested, dtype=bool)
    rng, parts = np.random.default_rng((seed, 4)), []
    for name, group in (("people", person), ("outfits", outfit)):
        known = np.unique(group[tested])
        if not 2 <= folds <= len(known):
            raise InputError(f"folds = {folds}, but {len(known)} {name} are tested; choose from 2 to {len(known)}")
        part = dict(zip(known.tolist(), rng.permutation(len(known)) % folds, strict=True))
        parts.append(np.array([part.get(value, -1) for value in group.tolist()]))  # -1: never tested
    for i in range(folds):
        for j in range(folds):
            held = tested & (parts[0] == i) & (parts[1] == j)
            yield np.flatnonzero((parts[0] != i) & (parts[1] != j)), np.flatnonzero(held)


def read_linearly(
    features: ArrayLike,
    labels: ArrayLike,
    person: ArrayLike,
    outfit: ArrayLike,
    tested: ArrayLike,
    *,
    about: str = "clothes",
    folds: int = 2,
    shuffles: int = 3,
    least: int = 4,
    strength: float = 0.1,
    seed: int = 0,
    resamples: int = 1000,
) -> dict[str, Any]:
    """Balanced accuracy of a linear classifier of an attribute, on new people in new outfits.

    Multinomial logistic regression on standardised unit rows, over ``crossed_folds``. Controls over the same folds:
    always the most frequent value, and labels shuffled over outfits (clothes) or people (person) instead of images, so
    that each outfit keeps one label and only its meaning is lost.

    Args:
        features: (N, D).
        labels: (N,) text; MISSING values are not tested, nor values that fewer than ``least`` outfits (people) have.
        person, outfit: (N,).
        tested: (N,) rows that are reported; the others are only trained on.
        about: "clothes" or "person": whether an outfit or a person has the label.
        strength: inverse of the L2 penalty.

    Returns:
        value, low, high (over people), outfit_low, outfit_high (over outfits), majority, shuffled (mean) and
        shuffled_high (largest), values (number of classes), images.

    Raises:
        InputError: fewer than two values left, two labels of one outfit or person, too few people or outfits.
    """
    labels, tested = np.asarray(labels, dtype=str), np.asarray(tested, dtype=bool)
    person, outfit = np.asarray(person), np.asarray(outfit)
    bearer = outfit if about == "clothes" else person
    own = _common_labels(bearer, labels, about, least)
    common = np.isin(labels, own["label"].unique())
    x = unit_rows(features, "features")[common]
    y, person, outfit, tested = (values[common] for values in (labels, person, outfit, tested))
    cuts = list(crossed_folds(person, outfit, tested, folds, seed))
    reader = make_pipeline(
        StandardScaler(), LogisticRegression(C=strength, class_weight="balanced", max_iter=100, tol=1e-3)
    )
    who, what, right, weight = _answers(reader, x, y, cuts, person, outfit)
    rng, chance = np.random.default_rng((seed, 5)), []
    for _ in range(shuffles):
        other = pd.Series(rng.permutation(own["label"].to_numpy()), index=own["bearer"]).loc[bearer[common]].to_numpy()
        chance.append(_accuracy(*_answers(reader, x, other, cuts, person, outfit)[2:]))
    commonest = _answers(DummyClassifier(strategy="most_frequent"), x, y, cuts, person, outfit)
    people_interval = over_people(right * weight, who, weight, resamples=resamples, seed=seed)
    outfit_interval = over_people(right * weight, what, weight, resamples=resamples, seed=seed)
    return people_interval.record() | {
        "outfit_low": outfit_interval.low, "outfit_high": outfit_interval.high, "majority": _accuracy(*commonest[2:]),
        "shuffled": float(np.mean(chance)) if chance else None, "shuffled_high": max(chance, default=None),
        "values": len(set(y[tested])), "images": len(right),
    }  # fmt: skip


def _common_labels(bearer: NDArray[Any], labels: NDArray[np.str_], about: str, least: int) -> pd.DataFrame:
    """``bearer, label`` of each outfit or person, once, of labels that at least ``least`` of them have."""
    own = pd.DataFrame({"bearer": bearer, "label": labels}).drop_duplicates()
    if own["bearer"].duplicated().any():
        raise InputError(f"one outfit or person has two labels of the {about}; give each one label")
    counts = own["label"].value_counts()
    common = counts[(counts >= least) & ~counts.index.isin(MISSING)].index
    if len(common) < 2:
        raise InputError(
            f"{len(common)} values occur in {least} outfits or people or more, and two are needed; lower least"
        )
    return own[own["label"].isin(common)]


def _accuracy(right: NDArray[Any], weight: NDArray[Any]) -> float:
    return float((right * weight).sum() / weight.sum())


def _answers(
    reader: Pipeline | ClassifierMixin,
    x: NDArray[Any],
    y: NDArray[Any],
    cuts: Sequence[Cut],
    person: NDArray[Any],
    outfit: NDArray[Any],
) -> tuple[NDArray[Any], ...]:
    """Person, outfit, whether right, and weight of each tested row; a weight is 1 / images of its value."""
    rows, right = [], []
    for learned, held in cuts:
        if not len(held):
            continue
        one = len(set(y[learned])) < 2  # a single class
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # 100 steps are enough here
            learner = DummyClassifier() if one else reader
            with single_threaded_blas():  # several threads are slower for matrices of this size
                answer = learner.fit(x[learned], y[learned]).predict(x[held])
        rows.append(held), right.append(answer == y[held])
    rows, right = np.concatenate(rows), np.concatenate(right).astype(float)
    _, place, counts = np.unique(y[rows], return_inverse=True, return_counts=True)
    return person[rows], outfit[rows], right, 1 / counts[place]
