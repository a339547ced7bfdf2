"""Clothes in an embedding: the nearest neighbours of an image, and the similarity of a person in different clothes.

Clothes labels are nested in people: a classifier of outfits is also a classifier of people. The comparisons are
therefore within a person in several outfits, and, where the benchmark says who shares an outfit, across people in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE
from sklearn.neighbors import NearestNeighbors

from csgn_lib.datasets import Benchmark, Protocol
from csgn_lib.records import InputError
from csgn_lib.retrieval import Rankings
from csgn_lib.retrieval.features import unit_rows
from csgn_lib.statistics.intervals import Interval, over_people

OTHER_CLOTHES, SAME_CLOTHES = "same person, other clothes", "same person, same clothes"
SAME_OUTFIT, OTHERS, SAME_PERSON = "other person, same outfit", "other person", "same person"


def worn(benchmark: Benchmark, frame: pd.DataFrame, attributes: Sequence[str] = ()) -> pd.DataFrame | None:
    """The true attributes of a frame's images as text, and ``outfit``, a number for each combination of garments.

    Outfits are numbered over the whole benchmark: two people in the same garments have the same number, which clothes
    labels, nested in people, cannot express.

    Returns:
        A frame of N rows; None for a benchmark without attributes.csv. Only the embedded benchmark has one.

    Raises:
        InputError: an embedded world without attributes.csv; a column that it lacks; an image that it lacks.
    """
    file = benchmark.root / "attributes.csv"
    if not file.exists():
        if benchmark.name != "synthetic":
            return None
        raise InputError(f"{file} does not exist; remove {benchmark.root}, and the benchmark is rendered again")
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    for name in ("path", "split", "wardrobe", *attributes):
        if name not in table:
            raise InputError(f"{file} has no column {name!r}; it has: {', '.join(table)}")
    table["outfit"] = table.groupby(["split", "wardrobe"]).ngroup()
    absent = set(frame["path"]) - set(table["path"])
    if absent:
        raise InputError(f"{file} has no row for {min(absent)!r}; the file and the images are from different worlds")
    return table.set_index("path").loc[frame["path"], ["outfit", *attributes]].reset_index(drop=True)


# ---------------------------------------------------------------- neighbours


@dataclass(frozen=True)
class Neighbourhood:
    """Kinds of the k nearest images of each image: ``shares`` (N rows, one column per kind) and their chance level."""

    shares: pd.DataFrame
    chance: pd.DataFrame
    person: NDArray[np.int64]

    def table(self, **options: Any) -> pd.DataFrame:
        """One row per kind: kind, value, low, high (a share, 95 % interval over people), chance, and the share as a
        multiple of chance with its interval: times, times_low, times_high; NaN for a kind that no image can have.
        Options as for ``over_people``."""
        rows = []
        for kind in self.shares:
            share = over_people(self.shares[kind], self.person, **options)
            scaled = dict.fromkeys(("times", "times_low", "times_high"), float("nan"))
            if self.chance[kind].any():
                times = over_people(self.shares[kind], self.person, self.chance[kind], **options)
                scaled = {"times": times.value, "times_low": times.low, "times_high": times.high}
            rows.append({"kind": kind} | share.record() | {"chance": float(self.chance[kind].mean())} | scaled)
        return pd.DataFrame(rows)

    def person_over_outfit(self, **options: Any) -> Interval:
        """Multiple of chance of the person in other clothes, minus that of another person in the same outfit.

        Above 0, neighbours are grouped by person; below 0, by clothes.

        Raises:
            InputError: it is not known who shares an outfit.
        """
        if SAME_OUTFIT not in self.shares:
            raise InputError("clothes labels are nested in people here: it is not known who shares an outfit")
        scaled = [self.shares[kind] / self.chance[kind].mean() for kind in (OTHER_CLOTHES, SAME_OUTFIT)]
        return over_people(scaled[0] - scaled[1], self.person, **options)


def neighbourhood(
    features: ArrayLike,
    person: ArrayLike,
    clothes: ArrayLike | None = None,
    k: int = 10,
    outfit: ArrayLike | None = None,
    on_map: bool = False,
) -> Neighbourhood:
    """Kinds of the k nearest other images of each image, by cosine in the full feature space.

    The chance level is exact: the share of all other images that are of the kind.

    Args:
        features: (N, D), any scale.
        person: (N,).
        clothes: (N,), nested in people; None without labels: then the only kind is the same person.
        k: number of neighbours.
        outfit: (N,) as from ``worn``; without it no kind covers a shared outfit.
        on_map: features are positions on a map (N, 2), compared by Euclidean distance.

    Raises:
        InputError: fewer than two people, fewer than k + 1 images, an image without a clothes label, a zero or
            non-finite row.

    Example: two people in the same outfit, each nearest to the other.

        >>> found = neighbourhood([[1, 0], [1, 0.1], [0, 1]], [1, 2, 1], [0, 1, 2], k=1, outfit=[5, 5, 6])
        >>> found.shares["other person, same outfit"].tolist()
        [1.0, 1.0, 0.0]
    """
    rows = np.asarray(features) if on_map else unit_rows(features, "features")
    person, labels = _labels(rows, person, np.zeros(len(rows), int) if clothes is None else clothes)
    if not 0 < k < len(rows):
        raise InputError(f"k = {k} neighbours of {len(rows)} images; choose between 1 and {len(rows) - 1}")
    near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows).kneighbors(return_distance=False)  # (N, k)
    of_person, same = _count(person) - 1, person[near] == person[:, None]
    shares, chance = {SAME_PERSON: same.mean(axis=1)}, {SAME_PERSON: of_person}
    if clothes is not None:
        alike, of_clothes = labels[near] == labels[:, None], _count(labels) - 1
        shares = {OTHER_CLOTHES: (same & ~alike).mean(axis=1), SAME_CLOTHES: (same & alike).mean(axis=1)}
        chance = {OTHER_CLOTHES: of_person - of_clothes, SAME_CLOTHES: of_clothes}
    if outfit is not None:
        outfit = np.asarray(outfit)
        shares[SAME_OUTFIT] = (~same & (outfit[near] == outfit[:, None])).mean(axis=1)
        chance[SAME_OUTFIT] = _count(outfit) - _count(pd.factorize(pd.MultiIndex.from_arrays([outfit, person]))[0])
    expected = pd.DataFrame({kind: count / (len(rows) - 1) for kind, count in chance.items()})
    return Neighbourhood(pd.DataFrame(shares), expected, person)


def flat_map(
    features: ArrayLike, perplexity: float = 30, seed: int = 0, components: int = 30, iterations: int = 1000
) -> NDArray[np.float32]:
    """t-SNE of unit rows (N, D), after a PCA: (N, 2). Only neighbourhoods are meaningful, not distances or cluster
    sizes.

    Seed 0 starts from the first two principal components, other seeds from random positions.

    Raises:
        InputError: a perplexity that is not between 1 and N.
    """
    rows = unit_rows(features, "features")
    if not 1 <= perplexity < len(rows):
        raise InputError(f"perplexity {perplexity} for {len(rows)} images; choose between 1 and {len(rows) - 1}")
    short = PCA(min(components, *rows.shape), random_state=0).fit_transform(rows)
    start = "random" if seed else "pca"
    return TSNE(perplexity=perplexity, init=start, random_state=seed, max_iter=iterations).fit_transform(short)


# ---------------------------------------------------------------- similarity within a person


def similarities(
    features: ArrayLike,
    person: ArrayLike,
    clothes: ArrayLike,
    camera: ArrayLike,
    outfit: ArrayLike | None = None,
    block: int = 1024,
) -> pd.DataFrame:
    """Mean cosine of each image with the images of each kind: N rows, NaN where there is no image of the kind.

    Kinds: same person in the same clothes, same person in other clothes, other person; with ``outfit`` also the other
    person in the same outfit, and "other person" then wears another one. Only images of other cameras are compared,
    because images of one camera are similar anyway; all images where there is one camera, or none is known.

    Raises:
        InputError: as ``neighbourhood``; no person of two outfits.
    """
    rows = unit_rows(features, "features")
    person, clothes = _labels(rows, person, clothes)
    camera = np.asarray(camera)
    if len(np.unique(clothes)) == len(np.unique(person)):
        raise InputError("no person has two outfits, so images of a person in other clothes cannot be compared")
    far, tables = len(np.unique(camera)) > 1, []
    for start in range(0, len(rows), block):
        here = np.arange(start, min(start + block, len(rows)))[:, None]
        cosine, same = rows[here[:, 0]] @ rows.T, person[here] == person
        apart = camera[here] != camera if far else here != np.arange(len(rows))
        alike = clothes[here] == clothes
        kinds = {SAME_CLOTHES: same & alike, OTHER_CLOTHES: same & ~alike, OTHERS: ~same}
        if outfit is not None:
            shared = np.asarray(outfit)[here] == np.asarray(outfit)
            kinds |= {OTHERS: ~same & ~shared, SAME_OUTFIT: ~same & shared}
        counted = {kind: mask & apart for kind, mask in kinds.items()}
        with np.errstate(invalid="ignore"):
            tables.append(pd.DataFrame({kind: (cosine * m).sum(axis=1) / m.sum(axis=1) for kind, m in counted.items()}))
    return pd.concat(tables, ignore_index=True)


def clothes_share(similar: pd.DataFrame, person: ArrayLike, **options: Any) -> Interval:
    """The share of a person's similarity to themselves that is lost when their clothes change.

    (same clothes - other clothes) / (same clothes - other person), cosines from ``similarities``. 0: clothes make
    no difference. 1: in other clothes a person is no more similar than another person. Options as for ``over_people``.
    """
    known = similar[[SAME_CLOTHES, OTHER_CLOTHES, OTHERS]].notna().all(axis=1).to_numpy()
    kept, person = similar[known], np.asarray(person)[known]
    gap, whole = kept[SAME_CLOTHES] - kept[OTHER_CLOTHES], kept[SAME_CLOTHES] - kept[OTHERS]
    return over_people(gap, person, whole, **options)


def shuffled_within(person: ArrayLike, clothes: ArrayLike, seed: int = 0) -> NDArray[np.int64]:
    """Clothes labels permuted within each person: the control in which clothes carry no information. (N,)"""
    person, mixed, rng = np.asarray(person), np.array(clothes), np.random.default_rng((seed, 6))
    for one in np.unique(person):
        mixed[person == one] = rng.permutation(mixed[person == one])
    return mixed


def first_answers(
    query_features: ArrayLike,
    gallery_features: ArrayLike,
    benchmark: Benchmark,
    protocol: str | Protocol,
    rows: Sequence[int],
    colours: tuple[NDArray[Any], NDArray[Any]],
    outfits: tuple[ArrayLike, ArrayLike] | None = None,
) -> pd.DataFrame:
    """The first answer to each query, and how similar its clothes are, compared with all images of other people.

    Similarity of clothes: cosine of colour histograms, as a percentile among the images of other people by the answer's
    camera. A histogram covers the background too, so images of other cameras are not compared.

    Args:
        rows: rows of the query frame that the protocol counts.
        colours: histograms of query and gallery images.
        outfits: outfits of query and gallery images, where it is known who shares one.

    Returns:
        row, person, right, answer (gallery row), percentile (0 to 100) and, with outfits, same_outfit and its chance:
        the share of other people's images that are in the query's outfit.
    """
    rankings = Rankings(query_features, gallery_features, benchmark.query, benchmark.gallery, protocol)
    query_colours, gallery_colours = (unit_rows(side, "colours") for side in colours)
    whose, camera = (benchmark.gallery[name].to_numpy() for name in ("person", "camera"))
    records: list[dict[str, Any]] = []
    for row in rows:
        answer, person = int(rankings.of(row)[0]), int(benchmark.query["person"].iloc[row])
        like, strangers = gallery_colours @ query_colours[row], whose != person
        beside = strangers & (camera == camera[answer])
        record = {"row": int(row), "person": person, "right": bool(whose[answer] == person), "answer": answer}
        record["percentile"] = 100 * float((like[beside] < like[answer]).mean()) if beside.any() else np.nan
        if outfits is not None:
            wears = np.asarray(outfits[1]) == np.asarray(outfits[0])[row]
            record |= {"same_outfit": bool(wears[answer]), "same_outfit_chance": float(wears[strangers].mean())}
        records.append(record)
    return pd.DataFrame(records)


def _labels(rows: NDArray[Any], person: ArrayLike, clothes: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    person, clothes = np.asarray(person), np.asarray(clothes)
    if not len(rows) == len(person) == len(clothes):
        raise InputError(f"{len(rows)} features, {len(person)} people, {len(clothes)} clothes: give one label per row")
    if len(np.unique(person)) < 2:
        raise InputError(f"images of {len(np.unique(person))} person; give images of two people or more")
    if (clothes < 0).any():
        raise InputError(
            f"{int((clothes < 0).sum())} images have no clothes label (-1); choose a benchmark that has them"
        )
    return person, clothes


def _count(labels: NDArray[Any]) -> NDArray[np.int64]:
    """The number of rows that share each row's label: (N,)."""
    _, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    return count[place]
