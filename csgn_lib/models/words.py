"""Text queries: sentences are encoded by the model's CLIP and compared with the joint embedding f of the gallery."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csgn_lib.backbones import EMBEDDED, ClipTower, load_clip, token_count
from csgn_lib.datasets import Benchmark
from csgn_lib.models.galleries import Gallery
from csgn_lib.models.opening import Model, open_model
from csgn_lib.records import InputError, Run, write_text
from csgn_lib.retrieval import evaluate_words, load_embeddings
from csgn_lib.synthetic import attribute_prompts
from csgn_lib.vocabulary_files import read_captions

WORDS = "words.csv"  # in a folder of scores


@dataclass(frozen=True)
class Words:
    """A text encoder; ``note`` is a warning about its training for the user, or empty."""

    clip: ClipTower
    note: str = ""


def open_words(model: Model) -> Words:
    """The frozen text encoder that a model was trained with.

    Raises:
        InputError: a model without a joint embedding; a CLIP checkpoint that cannot be loaded.
    """
    experiment = model.experiment
    if "f" not in model.parts:
        raise InputError(f"vss={experiment.vss} has no joint embedding, so texts cannot be compared with its images")
    try:
        clip = load_clip(experiment.clip_model, experiment.clip_checkpoint, model.size, experiment.vit_stride)
    except InputError as error:
        raise InputError(f"text search needs the CLIP that training started from: {error}") from None
    return Words(clip.eval().requires_grad_(False), _note(experiment.clip_model, experiment.clip_checkpoint))


@torch.inference_mode()
def text_feature(words: Words, text: str) -> NDArray[np.float32]:
    """A sentence's feature (P,), unit length.

    Raises:
        InputError: no word; a word that a small tokenizer does not know, which is named; a sentence that is too long
            and that open_clip would truncate.
    """
    if not text.strip():
        raise InputError("--text is empty; describe a person, such as 'a tall woman with long hair'")
    tokens = words.clip.tokenize([text])[0]
    if token_count(words.clip.tokenizer, text) > words.clip.context_length:
        raise InputError(
            f"{text!r} has more tokens than the {words.clip.context_length} that this CLIP reads; shorten it"
        )
    feature = words.clip.token_features(tokens[None])[0]
    return (feature / feature.norm()).cpu().numpy()


def score_captions(
    model_dir: str | Path, benchmark: Benchmark, scored: str | Path, captions: str | Path
) -> pd.DataFrame:
    """How well sentences find the gallery images that ``retrieval.score_model`` scored; writes words.csv.

    The captions of gallery images are the queries, and every image of the caption's person is right. Where the file is
    a CSV with the attributes of each image, such as the embedded benchmark's attributes.csv, one sentence a value of
    each attribute is a query too.

    Args:
        scored: the folder that ``score_model`` wrote.
        captions: as ``vocabulary_files.read_captions`` reads it; paths relative to the benchmark's root.

    Returns:
        As ``retrieval.evaluate_words``.

    Raises:
        InputError: no caption of a gallery image; a model without joint embedding or text encoder; a word that the
            tokenizer does not know.
    """
    sentences, images = read_captions(captions), benchmark.gallery
    rows = [(text, row.person) for row in images.itertuples() for text in sentences.get(row.path, ())]
    if not rows:
        raise InputError(
            f"{captions} has no sentence for a gallery image of {benchmark.name}: its first path is "
            f"{next(iter(sentences))}, the benchmark's {images['path'].iloc[0]}; "
            f"write paths relative to {benchmark.root}"
        )
    clip = open_words(open_model(model_dir, "cpu")).clip
    if Path(captions).suffix.lower() == ".csv":
        table = pd.read_csv(captions, dtype=str, keep_default_na=False).drop_duplicates("path")
        own = [name for name in table if name == "path" or name not in images]
        images = images.merge(table[own], on="path", how="left")
    features = load_embeddings(Run(Path(scored)), benchmark)["gallery.f"]
    prompts = {name: texts for name, texts in attribute_prompts().items() if name in images}
    table = evaluate_words(clip, features, images, pd.DataFrame(rows, columns=["caption", "person"]), prompts)
    write_text(Path(scored, WORDS), table.round(6).to_csv(index=False))
    return table


def joint_features(model: Model, gallery: Gallery) -> NDArray[np.float32]:
    """The joint embeddings f (N, P) of a gallery, unit length: a part of the descriptor.

    Raises InputError for a model without f.
    """
    if "f" not in model.parts:
        raise InputError(f"vss={model.experiment.vss} has no joint embedding; texts cannot be compared with its images")
    names = list(model.parts)
    start = sum(model.parts[name] for name in names[: names.index("f")])
    return gallery.features[:, start : start + model.parts["f"]]


def _note(clip_model: str, checkpoint: str | None) -> str:
    if checkpoint is None:
        return f"{clip_model} has random weights (clip_checkpoint is none), so results of a text query are random"
    if checkpoint in EMBEDDED or not Path(checkpoint).is_file():  # an open_clip tag, whose training data are known
        return ""
    return (
        f"the training of {clip_model} with the weights {checkpoint} is not known: its tokenizer accepts any "
        "word, but the weights may not have learned it"
    )
