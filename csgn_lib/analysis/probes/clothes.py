"""Clothes in an embedding: who stands beside whom, and how far a change of clothes pulls a person apart.

Clothes labels are nested in people, so that telling them apart is telling people apart. What is compared is
therefore one person in several outfits, and, where the benchmark says who shares one, people in the same outfit.
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
SAME_OUTFIT, OTHERS = "other person, same outfit", "other person"


def worn(benchmark: Benchmark, frame: pd.DataFrame, attributes: Sequence[str] = ()) -> pd.DataFrame | None:
    """The true attributes of a frame's images, row by row, as text, and ``outfit``: the garments, whoever wears them.

    Outfits are numbered over the whole benchmark: two people in one outfit have the same number, which clothes
    labels, nested in people, do not say.

    Returns:
        A frame of N rows; None for a benchmark that has no attributes.csv, as none but the embedded one has.

    Raises:
        InputError: an embedded world without attributes.csv; a column that it lacks; an image that it lacks.
    """
    file = benchmark.root / "attributes.csv"
    if not file.exists():
        if benchmark.name != "synthetic":
            return None
        raise InputError(f"{file} does not exist; remove {benchmark.root} and the world is drawn again, with it")
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    for name in ("path", "split", "wardrobe", *attributes):
        if name not in table:
            raise InputError(f"{file} has no column {name!r}; it has: {', '.join(table)}")
    table["outfit"] = table.groupby(["split", "wardrobe"]).ngroup()
    absent = set(frame["path"]) - set(table["path"])
    if absent:
        raise InputError(f"{file} has no row for {min(absent)!r}; the file and the images are not of one world")
    return table.set_index("path").loc[frame["path"], ["outfit", *attributes]].reset_index(drop=True)


# ---------------------------------------------------------------- neighbours


@dataclass(frozen=True)
class Neighbourhood:
    """Who the k nearest images of each image are: shares (N rows, a column a kind), and the same for random ones."""

    shares: pd.DataFrame
    chance: pd.DataFrame
    person: NDArray[np.int64]

    def table(self, **options: Any) -> pd.DataFrame:
        """A row per kind: kind, value, low, high (a share, 95 % interval over people), chance, and times chance
        with its interval: times, times_low, times_high. Options as for ``over_people``."""
        rows = []
        for kind in self.shares:
            share = over_people(self.shares[kind], self.person, **options)
            times = over_people(self.shares[kind], self.person, self.chance[kind], **options)
            scaled = {"times": times.value, "times_low": times.low, "times_high": times.high}
            rows.append({"kind": kind} | share.record() | {"chance": float(self.chance[kind].mean())} | scaled)
        return pd.DataFrame(rows)

    def person_over_outfit(self, **options: Any) -> Interval:
        """Times chance of the person in other clothes, less times chance of another person in the same outfit.

        Above 0 the neighbourhood gathers by person, below 0 by clothes. Raises InputError where nobody's outfit
        is known to be shared.
        """
        if SAME_OUTFIT not in self.shares:
            raise InputError("this benchmark's clothes labels are nested in people: nobody is known to share an outfit")
        scaled = [self.shares[kind] / self.chance[kind].mean() for kind in (OTHER_CLOTHES, SAME_OUTFIT)]
        return over_people(scaled[0] - scaled[1], self.person, **options)


def neighbourhood(
    features: ArrayLike, person: ArrayLike, clothes: ArrayLike, k: int = 10, outfit: ArrayLike | None = None
) -> Neighbourhood:
    """Who the k nearest other images of each image are, by cosine, in the full space of the features.

    Chance is exact: the share of all other images that are of the kind.

    Args:
        features: (N, D), any scale. person, clothes: (N,), clothes nested in people.
        k: neighbours looked at. outfit: (N,) as from ``worn``; without it nobody is known to share an outfit.

    Raises:
        InputError: fewer than two people, fewer than k + 1 images, no clothes labels, a zero or non-finite row.

    Example: of two people in one outfit, each nearest to the other.

        >>> found = neighbourhood([[1, 0], [1, 0.1], [0, 1]], [1, 2, 1], [0, 1, 2], k=1, outfit=[5, 5, 6])
        >>> found.shares["other person, same outfit"].tolist()
        [1.0, 1.0, 0.0]
    """
    rows = unit_rows(features, "features")
    person, clothes = _labels(rows, person, clothes)
    if not 0 < k < len(rows):
        raise InputError(f"k = {k} neighbours asked of {len(rows)} images; choose between 1 and {len(rows) - 1}")
    near = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(rows).kneighbors(return_distance=False)  # (N, k)
    of_person, of_clothes = _count(person) - 1, _count(clothes) - 1
    same = person[near] == person[:, None]
    shares = {
        OTHER_CLOTHES: (same & (clothes[near] != clothes[:, None])).mean(axis=1),
        SAME_CLOTHES: (same & (clothes[near] == clothes[:, None])).mean(axis=1),
    }
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
    """t-SNE of unit rows (N, D), after a PCA: (N, 2). It shows who is near whom; distances and sizes mean nothing.

    Starts from the two first components, and with any other ``seed`` than 0 from chance, so that seeds differ.

    Raises:
        InputError: a perplexity that is not between 1 and N.
    """
    rows = unit_rows(features, "features")
    if not 1 <= perplexity < len(rows):
        raise InputError(f"perplexity {perplexity} asked of {len(rows)} images; choose between 1 and {len(rows) - 1}")
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
    """Mean cosine of each image with the images of each kind, N rows, NaN where there are none of the kind.

    Kinds: same person in the same clothes, same person in other clothes, other person, and with ``outfit`` the other
    person in the same outfit; then "other person" is in another one. Only images of other cameras are looked at,
    since a camera makes its own images alike; all others where all have one camera (or none is known).

    Raises:
        InputError: as ``neighbourhood``; no person of two outfits.
    """
    rows = unit_rows(features, "features")
    person, clothes = _labels(rows, person, clothes)
    camera = np.asarray(camera)
    if len(np.unique(clothes)) == len(np.unique(person)):
        raise InputError("nobody wears two outfits: there is no difference that clothes could make within a person")
    far, made = len(np.unique(camera)) > 1, []
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
            made.append(pd.DataFrame({kind: (cosine * m).sum(axis=1) / m.sum(axis=1) for kind, m in counted.items()}))
    return pd.concat(made, ignore_index=True)


def clothes_share(similar: pd.DataFrame, person: ArrayLike, **options: Any) -> Interval:
    """Which part of what makes a person's images in one outfit alike is lost when the outfit changes.

    (same clothes - other clothes) / (same clothes - other person), cosines from ``similarities``. 0: clothes make
    no difference. 1: in other clothes a person is no more alike than a stranger. Options as for ``over_people``.
    """
    known = similar[[SAME_CLOTHES, OTHER_CLOTHES, OTHERS]].notna().all(axis=1).to_numpy()
    kept, person = similar[known], np.asarray(person)[known]
    gap, whole = kept[SAME_CLOTHES] - kept[OTHER_CLOTHES], kept[SAME_CLOTHES] - kept[OTHERS]
    return over_people(gap, person, whole, **options)


def shuffled_within(person: ArrayLike, clothes: ArrayLike, seed: int = 0) -> NDArray[np.int64]:
    """Clothes labels exchanged among each person's own images: the control in which clothes mean nothing. (N,)"""
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
    """The first answer to each query, and how alike in clothes it is among all images of other people.

    Wearing alike: cosine of colour histograms, as a percentile among the gallery's images of other people.

    Args:
        rows: of the query frame, those that are counted. colours: histograms of query and gallery images.
        outfits: of query and gallery images, where it is known who shares one.

    Returns:
        row, person, right, answer (gallery row), percentile (0 to 100) and, with outfits, same_outfit and its chance:
        the share of other people's images that are in the query's outfit.
    """
    rankings = Rankings(query_features, gallery_features, benchmark.query, benchmark.gallery, protocol)
    asked, ranked = (unit_rows(side, "colours") for side in colours)
    whose, made = benchmark.gallery["person"].to_numpy(), []
    for row in rows:
        answer, person = int(rankings.of(row)[0]), int(benchmark.query["person"].iloc[row])
        like, strangers = ranked @ asked[row], whose != person
        found = {"row": int(row), "person": person, "right": bool(whose[answer] == person), "answer": answer}
        found["percentile"] = 100 * float((like[strangers] < like[answer]).mean())
        if outfits is not None:
            wears = np.asarray(outfits[1]) == np.asarray(outfits[0])[row]
            found |= {"same_outfit": bool(wears[answer]), "same_outfit_chance": float(wears[strangers].mean())}
        made.append(found)
    return pd.DataFrame(made)


def _labels(rows: NDArray[Any], person: ArrayLike, clothes: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    person, clothes = np.asarray(person), np.asarray(clothes)
    if not len(rows) == len(person) == len(clothes):
        raise InputError(f"{len(rows)} features, {len(person)} people, {len(clothes)} clothes: give one of each a row")
    if len(np.unique(person)) < 2:
        raise InputError(f"images of {len(np.unique(person))} person; give two people at least, there is nobody else")
    if (clothes < 0).any():
        raise InputError(
            f"{int((clothes < 0).sum())} images have no clothes label (-1); choose a benchmark that has them"
        )
    return person, clothes


def _count(labels: NDArray[Any]) -> NDArray[np.int64]:
    """How many rows have each row's label: (N,)."""
    _, place, count = np.unique(labels, return_inverse=True, return_counts=True)
    return count[place]
