"""Sentences that differ in one respect, and the distance of their text features."""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csgn_lib import vocabulary
from csgn_lib.analysis.probes.pictures import cosine_distance
from csgn_lib.backbones import ClipTower
from csgn_lib.records import InputError

OTHER_OUTFIT, OTHER_DESCRIPTION = "all of the outfit", "all of the person"
CLOTHES_PARTS = ("clothes colour", "pattern", "garment")
PERSON_PARTS = ("stature", "body shape", "hair style", "hair colour", "skin")
_SHAPES = ("shoulders", "waist", "hips", "legs", "arms", "neck", "head")


def one_word_changes(clip: ClipTower, count: int = 200, seed: int = 0) -> pd.DataFrame:
    """Sentences about a dressed person, and each again with one thing changed.

    The values come from ``vocabulary``, restricted to words that the tower's tokenizer knows. Columns: ``sentence``
    (0 .. count - 1), ``change``, ``about`` (clothes, person or photo), ``before``, ``after``.

    Raises:
        InputError: the CLIP's tokenizer knows fewer than two values of one part.
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
    """The values of each part in words that the tokenizer knows; ``shape`` is the body measure."""
    words = {
        "clothes colour": vocabulary.COLOURS, "pattern": vocabulary.PATTERNS, "garment": vocabulary.GARMENTS["upper"],
        "stature": vocabulary.BODY["stature"], "body shape": vocabulary.BODY[shape],
        "hair style": tuple(vocabulary.HAIR_STYLES.values()), "hair colour": vocabulary.HAIR_COLOURS,
        "skin": vocabulary.BODY["skin"],
    }  # fmt: skip
    kept = {part: [v for v in values if known.issuperset(re.findall("[a-z]+", v))] for part, values in words.items()}
    for part, values in kept.items():
        if len(values) < 2:
            raise InputError(f"this CLIP knows {len(values)} of the vocabulary's words for {part}; two are needed")
    return kept


def _sentence(parts: Mapping[str, str]) -> str:
    piece = " ".join(parts[part] for part in CLOTHES_PARTS if parts[part] != "plain")
    hair = parts["hair style"].removeprefix("with ").format(parts["hair colour"])
    shape, skin = (parts[part].removeprefix("{} with ") for part in ("body shape", "skin"))
    who = parts["stature"].format("person")
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
