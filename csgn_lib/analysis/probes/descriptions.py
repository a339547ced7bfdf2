"""The content of learned descriptions: identity, attributes, nearest phrases and words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from csgn_lib import mdg
from csgn_lib.analysis.probes.subspaces import centred
from csgn_lib.backbones import ClipTower
from csgn_lib.statistics.intervals import over_people
from csgn_lib.synthetic import attribute_prompts
from csgn_lib.synthetic.words import OWN
from csgn_lib.vocabulary import Phrase


def names_its_identity(images: Tensor, texts: Tensor, person: Tensor, similarity: str = "dot") -> NDArray[np.bool_]:
    """Whether each image (N, P) is nearest to its own identity's text among all (Y, P): (N,)."""
    return (mdg.pairwise_similarity(images, texts, similarity).argmax(dim=1) == person).numpy()


def true_values(attributes: pd.DataFrame, person: ArrayLike) -> dict[str, list[set[str]]]:
    """Attribute -> for each identity 0 .. Y-1 the values of its images (rows of text)."""
    names = [name for name in attribute_prompts() if name in attributes]
    grouped = attributes.groupby(np.asarray(person))
    return {name: [set(values) for _, values in grouped[name]] for name in names}


@torch.inference_mode()
def read_attributes(
    clip: ClipTower, features: Tensor, truth: Mapping[str, Sequence[set[str]]], **options: Any
) -> pd.DataFrame:
    """Zero-shot classification of attributes: the value whose sentence is nearest to a feature (Y, P).

    Both sides are centred, because a learned prompt differs from a plain one by the same offset for every identity.
    ``chance`` is the exact accuracy of the same answers for a random identity. Identities without a value (the hair
    colour of a bald head) are not tested.

    Returns:
        One row per attribute: attribute, about, value, low, high (share right), chance, asked (number tested).
    """
    rows, centre = [], centred(features)
    for name, sentences in ((name, prompts) for name, prompts in attribute_prompts().items() if name in truth):
        true = torch.tensor([[value in values for value in sentences] for values in truth[name]])
        texts = F.normalize(clip.text_features(list(sentences.values())).double(), dim=-1)
        answer = (F.normalize(centre, dim=-1) @ F.normalize(centred(texts), dim=-1).T).argmax(dim=1)
        tested = true.any(dim=1)
        answer, true = answer[tested], true[tested].double()
        right = true.gather(1, answer[:, None])[:, 0].numpy()
        share = over_people(right, np.arange(len(right)), **options)
        about = "person" if name in OWN else "clothes"
        chance = float(true[:, answer].mean())
        rows.append({"attribute": name, "about": about} | share.record() | {"chance": chance, "asked": len(right)})
    return pd.DataFrame(rows)


def nearest_phrases(
    features: Tensor, phrase_features: Tensor, phrases: Sequence[Phrase], top: int = 3
) -> list[list[str]]:
    """The texts of the phrases nearest to each feature (Y, P), nearest first: Y lists.

    ``phrase_features`` (M, P) are those of ``phrases``; both sides are centred.
    Only the best phrase of each factor, so that "tall" and "very tall" do not both appear; ``top`` factors.
    """
    cosines = F.normalize(centred(features), dim=-1) @ F.normalize(centred(phrase_features), dim=-1).T
    nearest = []
    for row in cosines:
        best: dict[str, str] = {}
        for i in row.argsort(descending=True).tolist():
            best.setdefault(phrases[i].factor, phrases[i].text)  # insertion keeps the order of the cosines
        nearest.append(list(best.values())[:top])
    return nearest


def nearest_words(
    learned: Tensor, words: Sequence[str], table: Tensor, top: int = 3, sample: int = 2000
) -> tuple[pd.DataFrame, float]:
    """The words whose embeddings are nearest to learned vectors, by Euclidean distance (as in CoOp, Zhou et al. 2022).

    The nearest word may be far away: compare its distance with that of a word to its nearest other word.

    Args:
        learned: (M, Wt).
        words: V words.
        table: (V, Wt), their embeddings.
        top: number of words to name.
        sample: number of words, evenly spaced, whose distance to their nearest other word is measured.

    Returns:
        One row per learned vector: ``nearest`` (``top`` words, the nearest first), ``distance`` (to the nearest); and
        the median distance of a word to its nearest other word.
    """
    learned, table = learned.double().cpu(), table.double().cpu()
    distance, index = torch.cdist(learned, table).topk(min(top, len(words)), dim=1, largest=False)
    some = torch.linspace(0, len(words) - 1, min(sample, len(words))).round().long()
    spacing = torch.cdist(table[some], table).topk(2, dim=1, largest=False).values[:, 1].median()  # the first is itself
    named = [", ".join(words[i] for i in row) for row in index.tolist()]
    return pd.DataFrame({"nearest": named, "distance": distance[:, 0].numpy()}), float(spacing)
