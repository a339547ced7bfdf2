"""Embeddings and pictures to numbers: what moves a feature, what a subspace holds, what a text says.

Every number comes with an interval over people: pictures of one person are alike, so people, not
pictures, are drawn again. Every number also has its control beside it: another person for another
colour, a random subspace for a worded one, shuffled labels for a reading.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Generator, Tensor

from csgn_lib import mdg, vocabulary
from csgn_lib.backbones import ClipTower
from csgn_lib.batches import to_float, to_gray
from csgn_lib.records import InputError
from csgn_lib.synthetic import Scene
from csgn_lib.synthetic.people import BODY_MEASURES, attribute_prompts
from csgn_lib.vocabulary import Phrase
from csgn_lib.vss import Embeddings, concatenate

PICTURE, RECOLOURED, GRAY, OTHER_PERSON, AGAIN = "picture", "recoloured", "gray", "other person", "drawn again"
CHANGES = (RECOLOURED, GRAY, OTHER_PERSON, AGAIN)
OTHER_OUTFIT, OTHER_DESCRIPTION = "all of the outfit", "all of the person"
CLOTHES_PARTS = ("clothes colour", "pattern", "garment")
PERSON_PARTS = ("stature", "body shape", "hair style", "hair colour", "skin")
_PERSON_ATTRIBUTES = (*BODY_MEASURES, "hair_style", "hair_colour", "skin")
_SHAPES = ("shoulders", "hips", "legs", "limbs", "head")


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


# ---------------------------------------------------------------- pictures


def counterfactuals(scenes: Sequence[Scene], seed: int = 0) -> dict[str, Tensor]:
    """Each scene as it is, and four times with one thing changed: name -> (N, 3, 96, 48), RGB, uint8.

    recoloured: other colours of the clothes, every other pixel as it was. gray: luminance in three
    channels, float in [0, 1]. other person: another of the scenes' people in the same clothes, pose, light
    and noise. drawn again: the same person, clothes and camera at another moment.

    Raises:
        InputError: scenes of one person only: there is nobody to exchange with.
    """
    who = {scene.person_id: scene.person for scene in scenes}
    if len(who) < 2:
        raise InputError(f"counterfactuals need scenes of two people at least, given are {len(who)}")
    rng = np.random.default_rng((seed, 3))
    others = [who[int(rng.choice([i for i in who if i != scene.person_id]))] for scene in scenes]
    drawn = {
        PICTURE: _drawn(scenes),
        RECOLOURED: _drawn([scene.recoloured(seed) for scene in scenes]),
        OTHER_PERSON: _drawn([replace(scene, person=other) for scene, other in zip(scenes, others, strict=True)]),
        AGAIN: _drawn([replace(scene, seed=(*scene.seed, 78, seed)) for scene in scenes]),
    }
    return drawn | {GRAY: to_gray(drawn[PICTURE])}


def _drawn(scenes: Sequence[Scene]) -> Tensor:
    return torch.from_numpy(np.stack([scene.draw()[0] for scene in scenes])).permute(0, 3, 1, 2).contiguous()


@torch.inference_mode()
def embed_pictures(
    encoder: Callable[[Tensor], Embeddings], pictures: Tensor, size: tuple[int, int], batch_size: int = 128
) -> Embeddings:
    """Embeddings of pictures (N, 3, H, W), uint8 or float in [0, 1]; resized if they are not of ``size`` (H, W)."""
    made = []
    for images in pictures.split(batch_size):
        images = to_float(images)
        if tuple(images.shape[-2:]) != tuple(size):
            images = F.interpolate(images, size=tuple(size), mode="bicubic", antialias=True).clamp(0, 1)
        made.append(encoder(images))
    return concatenate(made)


def cosine_distance(a: Tensor, b: Tensor) -> NDArray[np.float64]:
    """1 - cosine of each row of a with the same row of b: (N, P) and (N, P) to (N,), in [0, 2]."""
    return (1 - F.cosine_similarity(a.double(), b.double(), dim=-1)).numpy()


def movements(features: Mapping[str, Tensor]) -> pd.DataFrame:
    """How far each change of ``counterfactuals`` moves each picture's feature: a cosine distance, N rows."""
    return pd.DataFrame({name: cosine_distance(features[PICTURE], features[name]) for name in CHANGES})


def colour_sensitivity(moved: pd.DataFrame, people: ArrayLike, **options: Any) -> Interval:
    """Movement by recolouring the clothes / movement by exchanging the person; both at the same moment.

    0: blind to the clothes' colours. 1: a recoloured coat counts as much as another person. ``moved``
    as from ``movements``; options as for ``over_people``.
    """
    return over_people(moved[RECOLOURED], people, moved[OTHER_PERSON], **options)


# ---------------------------------------------------------------- sentences


def one_word_changes(clip: ClipTower, count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Sentences about a dressed person, and each again with one thing said otherwise.

    The values come from ``vocabulary``, those of them that the tower reads. Columns: ``sentence``
    (0 .. count - 1), ``change``, ``about`` (clothes, person or photo), ``before``, ``after``.

    Raises:
        InputError: the tower knows fewer than two values of something.
    """
    rng, known, rows = np.random.default_rng((seed, 4)), _known_words(clip), []
    for number in range(count):
        choices = _choices(str(rng.choice(_SHAPES)), known)
        was, other = {}, {}
        for part, values in choices.items():
            was[part], other[part] = (values[i] for i in rng.choice(len(values), 2, replace=False))
        changed = {part: {part: other[part]} for part in choices}
        changed[OTHER_OUTFIT] = {part: other[part] for part in CLOTHES_PARTS}
        changed[OTHER_DESCRIPTION] = {part: other[part] for part in PERSON_PARTS}
        before = _sentence(was)
        rows += [(number, part, _about(part), before, _sentence(was | new)) for part, new in changed.items()]
        rows.append((number, "grayscale", "photo", before, before.replace("a photo", "a grayscale photo")))
    return pd.DataFrame(rows, columns=["sentence", "change", "about", "before", "after"])


def _known_words(clip: ClipTower) -> set[str]:
    known = vocabulary.ENGLISH.understood_by(clip)
    captions = {caption for phrase in known.clothing + known.person for caption in phrase.captions}
    return {word for caption in captions for word in re.findall("[a-z]+", caption)}


def _choices(shape: str, known: set[str]) -> dict[str, list[str]]:
    """What can be said of each part, in the tower's words; ``shape`` is the body measure spoken of."""
    said = {
        "clothes colour": vocabulary.COLOURS, "pattern": vocabulary.PATTERNS, "garment": vocabulary.GARMENTS["upper"],
        "stature": vocabulary.BODY["stature"], "body shape": vocabulary.BODY[shape],
        "hair style": tuple(vocabulary.HAIR_STYLES.values()), "hair colour": vocabulary.HAIR_COLOURS,
        "skin": vocabulary.BODY["skin"],
    }  # fmt: skip
    kept = {part: [v for v in values if known.issuperset(re.findall("[a-z]+", v))] for part, values in said.items()}
    for part, values in kept.items():
        if len(values) < 2:
            raise InputError(f"this CLIP reads {len(values)} of the vocabulary's words for {part}; two are needed")
    return kept


def _sentence(said: Mapping[str, str]) -> str:
    piece = " ".join(said[part] for part in CLOTHES_PARTS if said[part] != "plain")
    hair = said["hair style"].removeprefix("with ").format(said["hair colour"])
    shape, skin = (said[part].removeprefix("{} with ") for part in ("body shape", "skin"))
    who = said["stature"].format("person")
    return f"a photo of {_article(who)} with {shape}, {hair} and {skin} wearing {_article(piece)}"


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _about(part: str) -> str:
    return "clothes" if part in (*CLOTHES_PARTS, OTHER_OUTFIT) else "person"


@torch.inference_mode()
def text_movement(clip: ClipTower, changes: pd.DataFrame) -> NDArray[np.float64]:
    """Cosine distance from ``before`` to ``after`` of each row of ``one_word_changes``: (rows,)."""
    texts = pd.unique(pd.concat([changes["before"], changes["after"]]))
    row = {text: i for i, text in enumerate(texts)}
    features = torch.cat([clip.text_features(list(part)) for part in np.array_split(texts, -(-len(texts) // 256))])
    before, after = (features[changes[side].map(row).tolist()] for side in ("before", "after"))
    return cosine_distance(before, after)


# ---------------------------------------------------------------- subspaces


def centred(features: Tensor) -> Tensor:
    """Unit rows with their mean taken out, float64: (N, P) to (N, P)."""
    rows = F.normalize(features.double(), dim=-1)
    return rows - rows.mean(dim=0)


def energy_curve(
    features: Tensor, basis: Tensor, ranks: Sequence[int], people: ArrayLike, **options: Any
) -> pd.DataFrame:
    """Share of the features' squared norm that lies in the first k columns of a basis, for k in ``ranks``.

    |B_k^T X|^2 / |X|^2, with an interval over people. Give ``centred`` features for the share of
    their variance, differences of two features for the share of a movement.

    Args:
        features: (N, P). basis: (P, K), orthonormal, most important column first.
        ranks: from 0 to K. people: (N,). options: as for ``over_people``.

    Returns:
        Columns rank, value, low, high.
    """
    if max(ranks) > basis.shape[1]:
        raise InputError(f"rank {max(ranks)} asked of a basis of {basis.shape[1]} directions; lower it")
    inside = vocabulary.coordinates(features.double(), basis.double()).square().cumsum(dim=1)  # (N, K)
    inside, whole = F.pad(inside, (1, 0)).numpy(), features.double().square().sum(dim=1).numpy()
    return pd.DataFrame([{"rank": k} | over_people(inside[:, k], people, whole, **options).record() for k in ranks])


def random_basis(dimensions: int, rank: int, generator: Generator) -> Tensor:
    """An orthonormal basis (dimensions, rank) of a subspace drawn uniformly: what a worded one is held against."""
    return torch.linalg.qr(torch.randn(dimensions, rank, generator=generator, dtype=torch.float64)).Q


def random_energy(features: Tensor, rank: int, generator: Generator, draws: int = 200) -> Interval:
    """Share of the features' squared norm in random subspaces: its mean (rank / P) and the middle 95 % of draws."""
    rows = features.double()
    bases = (random_basis(rows.shape[1], rank, generator) for _ in range(draws))
    shares = [float((rows @ basis).square().sum() / rows.square().sum()) for basis in bases]
    low, high = np.quantile(shares, [0.025, 0.975])
    return Interval(float(np.mean(shares)), float(low), float(high))


# ---------------------------------------------------------------- descriptions


def names_its_identity(images: Tensor, texts: Tensor, person: Tensor, similarity: str = "dot") -> NDArray[np.bool_]:
    """Whether each image (N, P) is nearest to its own identity's text among all (Y, P): (N,)."""
    return (mdg.pairwise_similarity(images, texts, similarity).argmax(dim=1) == person).numpy()


def class_means(features: Tensor, person: Tensor) -> Tensor:
    """Mean unit feature of each identity 0 .. Y-1: (N, P), (N,) to (Y, P)."""
    total = torch.zeros(int(person.max()) + 1, features.shape[1]).index_add(0, person, F.normalize(features, dim=-1))
    return total / torch.bincount(person)[:, None]


def attribute_sentences() -> dict[str, dict[str, list[str]]]:
    """Each attribute of attributes.csv: value -> the sentences that say it, whatever else they say."""
    found: dict[str, dict[str, list[str]]] = {}
    for names, prompts in attribute_prompts().items():
        parts = names.split("*")
        for i, name in enumerate(parts):
            if len(parts) == 1:
                found[name] = {}  # an attribute that is asked for itself needs no mean over others
            for values, sentence in prompts.items():
                found.setdefault(name, {}).setdefault(values.split("*")[i], []).append(sentence)
    return found


def true_values(attributes: pd.DataFrame, person: ArrayLike) -> dict[str, list[set[str]]]:
    """Attribute -> for each identity 0 .. Y-1 the values that are true of any of its images (rows, as text)."""
    names = [name for name in attribute_sentences() if name in attributes]
    grouped = attributes.groupby(np.asarray(person))
    return {name: [set(values) for _, values in grouped[name]] for name in names}


@torch.inference_mode()
def read_attributes(
    clip: ClipTower, features: Tensor, truth: Mapping[str, Sequence[set[str]]], **options: Any
) -> pd.DataFrame:
    """What features (Y, P) of identities say, asked in words: is the nearest value of an attribute a true one?

    Both sides are centred first, since a learned prompt sits off the plain ones by the same step for
    every identity. ``chance`` is the same answers against the truth of a random identity, exactly.
    Identities without a value (the hair colour of a bald head) are not asked.

    Returns:
        A row per attribute: attribute, about, value, low, high (share right), chance, asked.
    """
    rows, centre = [], centred(features)
    for name, sentences in ((name, found) for name, found in attribute_sentences().items() if name in truth):
        true = torch.tensor([[value in values for value in sentences] for values in truth[name]])
        said = [F.normalize(clip.text_features(texts).double(), dim=-1).mean(dim=0) for texts in sentences.values()]
        answer = (F.normalize(centre, dim=-1) @ F.normalize(centred(torch.stack(said)), dim=-1).T).argmax(dim=1)
        asked = true.any(dim=1)
        answer, true = answer[asked], true[asked].double()
        right = true.gather(1, answer[:, None])[:, 0].numpy()
        share = over_people(right, np.arange(len(right)), **options)
        about = "person" if name in _PERSON_ATTRIBUTES else "clothes"
        chance = float(true[:, answer].mean())
        rows.append({"attribute": name, "about": about} | share.record() | {"chance": chance, "asked": len(right)})
    return pd.DataFrame(rows)


def nearest_phrases(features: Tensor, phrases: Tensor, said: Sequence[Phrase], top: int = 3) -> list[list[str]]:
    """The phrases nearest to each feature (Y, P) among (M, P), both centred, the nearest first: Y lists of texts.

    The best of each factor only, so that "tall" and "very tall" do not take two places; ``top`` factors.
    """
    cosines = F.normalize(centred(features), dim=-1) @ F.normalize(centred(phrases), dim=-1).T
    found = []
    for row in cosines:
        best: dict[str, str] = {}
        for i in row.argsort(descending=True).tolist():
            best.setdefault(said[i].factor, said[i].text)  # insertion keeps the order of the cosines
        found.append(list(best.values())[:top])
    return found
