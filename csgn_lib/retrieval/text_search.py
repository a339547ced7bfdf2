"""Text-to-image retrieval: sentences as queries, images as the gallery, compared in CLIP's joint space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray

from csgn_lib.backbones import ClipTower
from csgn_lib.datasets import Protocol
from csgn_lib.records import InputError
from csgn_lib.retrieval.evaluation import evaluate
from csgn_lib.retrieval.scores import Scores

TEXT_TO_IMAGE = Protocol(
    "text_to_image", "sentences as queries; every image that a sentence describes correctly is a match", ()
)
CAPTIONS = "captions"
CHUNK = 256  # sentences per batch


@torch.inference_mode()
def sentence_features(clip: ClipTower, sentences: list[str]) -> NDArray[np.float32]:
    """Sentences to features (N, P), not normalised. Raises InputError for a word that the tokenizer does not know."""
    parts = [clip.text_features(sentences[start : start + CHUNK]).cpu() for start in range(0, len(sentences), CHUNK)]
    return torch.cat(parts).numpy()


def text_to_image(
    text_features: ArrayLike | Any, image_features: ArrayLike | Any, text_labels: ArrayLike, image_labels: ArrayLike
) -> Scores:
    """Score sentences against images by cosine: an image with the sentence's label is a match.

    Args:
        text_features: (T, P) sentences in the joint space.
        image_features: (N, P) joint embeddings f.
        text_labels, image_labels: (T,) and (N,), such as the person that each shows.

    Raises:
        InputError: as ``evaluate``; no sentence with a right image.
    """
    codes, _ = pd.factorize(np.concatenate([np.asarray(text_labels, dtype=object), np.asarray(image_labels, object)]))
    frames = [pd.DataFrame({"person": part}) for part in np.split(codes, [len(np.asarray(text_labels))])]
    return evaluate(text_features, image_features, *frames, TEXT_TO_IMAGE)


def evaluate_words(
    clip: ClipTower,
    image_features: ArrayLike | Any,
    images: pd.DataFrame,
    captions: pd.DataFrame,
    prompts: Mapping[str, Mapping[str, str]] | None = None,
) -> pd.DataFrame:
    """Text-to-image retrieval accuracy: captions of people, and sentences about single attributes.

    Args:
        clip: the CLIP whose text encoder the image embeddings were trained with.
        image_features: (N, P) joint embeddings f of ``images``.
        images: N rows with ``person`` and, for ``prompts``, the images' true attributes as columns.
        captions: one row per sentence: ``caption`` and its ``person``. All images of that person are matches.
        prompts: attribute -> value -> sentence; an attribute is a column of ``images``. All images with that value are
            matches; values without images are ignored.

    Returns:
        A row for the captions and for each attribute: ``name``, ``queries``, ``rank1`` and ``mean_ap`` in [0, 1],
        ``low`` and ``high`` (95 % of mean_ap over people; NaN for attributes), and ``chance``, the mean share of images
        that are matches.

    Raises:
        InputError: a missing column, a word that the tokenizer does not know, no sentence with a right image.
    """
    _need(captions, ["caption", "person"], "captions")
    rows = [_row(CAPTIONS, clip, list(captions["caption"]), image_features, captions["person"], images["person"])]
    for name, sentences in (prompts or {}).items():
        _need(images, [name], "images")
        values = images[name].astype(str)
        there = [value for value in sentences if (values == value).any()]
        if there:
            rows.append(_row(name, clip, [sentences[value] for value in there], image_features, there, values))
    return pd.DataFrame(rows)


def _row(
    name: str, clip: ClipTower, sentences: list[str], features: Any, labels: ArrayLike, image_labels: pd.Series
) -> dict[str, Any]:
    scores = text_to_image(sentence_features(clip, sentences), features, labels, image_labels)
    valid = scores.per_query[scores.per_query["valid"]]
    low, high = scores.interval("mean_ap") if name == CAPTIONS and valid["person"].nunique() > 1 else (np.nan, np.nan)
    row = {"name": name, "queries": scores.counted, "rank1": scores.rank1, "mean_ap": scores.mean_ap}
    return row | {"low": low, "high": high, "chance": float(valid["matches"].mean() / len(image_labels))}


def _need(frame: pd.DataFrame, columns: list[str], what: str) -> None:
    if absent := [name for name in columns if name not in frame]:
        raise InputError(f"the frame of {what} lacks the column {absent[0]!r}; there are: {', '.join(map(str, frame))}")
