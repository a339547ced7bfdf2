"""Vocabularies of one's own: read from a YAML file, checked against a tokenizer, counted in the captions of a data set.

The file holds, in any language that the CLIP reads::

    caption: a photo of {person} wearing {clothing}
    clothing:                                # factor: its phrases, which stand for {clothing}
      upper: [a red shirt, a blue shirt, a striped coat]
      shoes: [black boots]
    person:                                  # factor: its phrases, which stand for {person}
      stature: [a tall person, a short person]
      hair: [a person with long hair, a person with short hair]
    wearers: [a person, a tall person]       # over which the feature of a clothing phrase is averaged
    outfits: [a red shirt and blue trousers] # over which the feature of a person phrase is averaged
"""

from __future__ import annotations

import csv
import re
import string
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from csgn_lib import vocabulary
from csgn_lib.backbones import ClipTower, Tokenizer, token_count, unreadable_words
from csgn_lib.records import VOCABULARY, InputError, locate, read_json, read_yaml, write_text
from csgn_lib.vocabulary import Phrase, Vocabulary

KEYS = ("caption", "clothing", "person", "wearers", "outfits")
SLOTS = {"person", "clothing"}
PATHS = ("path", "file_path", "img_path", "image", "file")  # names of a caption's image, in JSON and CSV
SENTENCES = ("captions", "caption", "sentences", "sentence", "text")
SHOWN = 8  # words that an error message lists
SHARED = 0.5  # a word in more than this share of a side's phrases, such as an article, tells none of them apart


@dataclass(frozen=True)
class VocabularyFile:
    """A vocabulary and the file that it was read from."""

    path: Path
    words: Vocabulary

    def refuse_unreadable(self, tokenizer: Tokenizer) -> None:
        """Raise InputError for words that a tokenizer cannot say, and for captions that it would cut off."""
        captions = [text for phrase in self._phrases for text in phrase.captions]
        if words := unreadable_words(tokenizer, (word for text in captions for word in split_words(text))):
            more = f" and {len(words) - SHOWN} more" if words[SHOWN:] else ""
            raise InputError(
                f"{self.path}: the CLIP's tokenizer cannot say {', '.join(map(repr, words[:SHOWN]))}{more}; use other "
                "words, or a clip_model that was trained with them"
            )
        limit = tokenizer.context_length
        if long := next((text for text in captions if token_count(tokenizer, text) > limit), None):
            raise InputError(f"{self.path}: {long!r} has more tokens than the {limit} that this CLIP reads; shorten it")

    @property
    def _phrases(self) -> tuple[Phrase, ...]:
        return self.words.clothing + self.words.person


def vocabulary_for(clip: ClipTower, file: str | Path | None = None) -> Vocabulary:
    """The vocabulary of a file, or for none the part of ENGLISH that the tower's tokenizer accepts.

    Raises:
        InputError: as ``read_vocabulary``; words that the tokenizer cannot say.
    """
    if not file:
        return vocabulary.ENGLISH.understood_by(clip)
    read = read_vocabulary(file)
    read.refuse_unreadable(clip.tokenizer)
    return read.words


def read_vocabulary(file: str | Path) -> VocabularyFile:
    """Read a vocabulary file, as the module's head describes it.

    Raises:
        InputError: no such file, not valid YAML, a key that is missing, unknown, given twice or of another form, a
            caption without {person} or {clothing}, a phrase given twice, fewer than two phrases of a side.
    """
    path = locate(file)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no keys; it needs {', '.join(KEYS)}")
    for name in KEYS:
        if name not in content:
            raise InputError(f"{path} lacks {name}; it needs {', '.join(KEYS)}")
    if unknown := [str(name) for name in content if name not in KEYS]:
        raise InputError(f"{path}: unknown key {unknown[0]!r}; the keys are {', '.join(KEYS)}")
    caption, wearers, outfits = content["caption"], *(_texts(path, name, content[name]) for name in KEYS[3:])
    _check_caption(path, caption)
    clothing = _phrases(path, "clothing", content["clothing"], caption, "person", wearers)
    person = _phrases(path, "person", content["person"], caption, "clothing", outfits)
    return VocabularyFile(path, Vocabulary(clothing, person))


def keep_vocabulary(path: Path, run_dir: Path) -> None:
    """Copy a vocabulary into a run's folder. Raises DiskError."""
    if path.resolve() != Path(run_dir, VOCABULARY).resolve():
        write_text(Path(run_dir, VOCABULARY), path.read_text(encoding="utf-8"))


def read_captions(file: str | Path) -> dict[str, list[str]]:
    """The sentences of each image, by path, as captions of public data sets come.

    JSON: an object of path to sentence or sentences, or a list of objects with a path (``path``, ``file_path``,
    ``img_path``, ``image``, ``file``) and a sentence or sentences (``captions``, ``caption``, ``sentences``,
    ``sentence``, ``text``). CSV: columns of such names, several rows an image allowed.

    Raises:
        InputError: no such file, another form, an image without a sentence.
    """
    path = Path(file)
    if path.suffix.lower() == ".csv":
        rows: Iterable[Any] = _csv_rows(path)
    else:
        rows = read_json(path, "give captions as JSON or CSV")
        if isinstance(rows, dict):
            rows = [{"path": name, "captions": sentences} for name, sentences in rows.items()]
    if not isinstance(rows, list) or not rows:
        raise InputError(f"{path} holds no captions; give a JSON object of path to sentences, a JSON list, or a CSV")
    captions: dict[str, list[str]] = {}
    for number, row in enumerate(rows, start=1):
        image, sentences = (_first(row, names) for names in (PATHS, SENTENCES))
        sentences = [sentences] if isinstance(sentences, str) else sentences
        good = isinstance(sentences, list) and all(isinstance(text, str) and text.strip() for text in sentences)
        if not isinstance(image, str) or not image or not sentences or not good:
            raise InputError(
                f"{path}: entry {number} ({str(row)[:80]}) has no path and sentences; name them {PATHS[0]} and "
                f"{SENTENCES[0]}, one sentence or a list of them"
            )
        captions.setdefault(image, []).extend(sentences)
    return captions


def count_words(words: Vocabulary, captions: Mapping[str, list[str]]) -> pd.DataFrame:
    """How often a data set's captions use each phrase of a vocabulary.

    A sentence uses a phrase if it holds every word of it that tells it from the others of its side: words that more
    than half of them share, such as articles, do not count. Letter case does not matter.

    Returns:
        ``about`` (clothing, person), ``factor``, ``phrase``, ``sentences`` and ``images`` (number that use it); in the
        vocabulary's order.
    """
    spoken = [(image, set(split_words(text))) for image, texts in captions.items() for text in texts]
    rows = []
    for about, phrases in (("clothing", words.clothing), ("person", words.person)):
        shared = _shared(phrases)
        for phrase in phrases:
            own = set(split_words(phrase.text))
            own = own - shared or own
            using = [image for image, used in spoken if own <= used]
            rows.append((about, phrase.factor, phrase.text, len(using), len(set(using))))
    return pd.DataFrame(rows, columns=["about", "factor", "phrase", "sentences", "images"])


def missing_words(words: Vocabulary, captions: Mapping[str, list[str]]) -> Counter[str]:
    """The words of a data set's captions that no phrase of a vocabulary has, with the sentences that use each."""
    known = {word for phrase in words.clothing + words.person for word in split_words(phrase.text)}
    return Counter(word for texts in captions.values() for text in texts for word in set(split_words(text)) - known)


def split_words(text: str) -> list[str]:
    """The words of a text in any script, in lower case."""
    return re.findall(r"[^\W\d_]+", text.lower())


def _shared(phrases: tuple[Phrase, ...]) -> set[str]:
    counts = Counter(word for phrase in phrases for word in set(split_words(phrase.text)))
    return {word for word, count in counts.items() if count > SHARED * len(phrases)}


def _check_caption(path: Path, caption: Any) -> None:
    try:
        slots = {name for _, name, _, _ in string.Formatter().parse(caption) if name is not None}
    except (TypeError, ValueError):
        slots = set()
    if slots != SLOTS:
        raise InputError(f"{path}: caption = {caption!r}; it needs {{person}} and {{clothing}}, once each and no other")


def _phrases(path: Path, about: str, factors: Any, caption: str, other: str, others: list[str]) -> tuple[Phrase, ...]:
    """The phrases of a side, each with one caption for each of ``others``."""
    if not isinstance(factors, dict):
        raise InputError(f"{path}: {about} = {str(factors)[:60]!r}; write factors, each with a list of phrases")
    listed = [(str(factor), text) for factor, texts in factors.items() for text in _texts(path, str(factor), texts)]
    texts = [text for _, text in listed]
    if twice := [text for text, count in Counter(texts).items() if count > 1]:
        raise InputError(f"{path}: {about} has {twice[0]!r} twice; keep one")
    if len(listed) < 2:
        raise InputError(f"{path}: {about} has {len(listed)} phrases; a subspace needs two or more")
    return tuple(
        Phrase(text, factor, tuple(caption.format(**{about: text, other: one}) for one in others))
        for factor, text in listed
    )


def _texts(path: Path, name: str, given: Any) -> list[str]:
    if not isinstance(given, list) or not given or not all(isinstance(text, str) and text.strip() for text in given):
        raise InputError(f"{path}: {name} = {str(given)[:60]!r}; write a list of texts, such as [a red shirt]")
    return given


def _first(row: Any, names: tuple[str, ...]) -> Any:
    return next((row[name] for name in names if name in row), None) if isinstance(row, dict) else None


def _csv_rows(path: Path) -> list[dict[str, str]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a CSV in UTF-8 ({error}); give captions as JSON or CSV") from None
