"""Tokenizers: the small CLIP's, and the words and lengths that a CLIP can read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

import open_clip
import torch
from torch import Tensor

from csgn_lib.backbones import checkpoints
from csgn_lib.records import InputError

Tokenizer = Callable[[Sequence[str]], Tensor]


class CompactTokenizer:
    """open_clip's byte-pair tokenizer, its ids renumbered to those that the small CLIP uses.

    The full embedding table has 49,408 rows; at width 128 it would take 25 MB, twice the limit for both embedded
    networks, and most rows would never be trained. The order of ids is kept, so padding stays 0 and end-of-text stays
    the highest id, whose position open_clip uses for the text feature.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        self.tokenizer = open_clip.SimpleTokenizer(context_length=context_length)
        self.context_length = context_length
        kept = {0, self.tokenizer.sot_token_id, self.tokenizer.eot_token_id}
        for word in words:
            kept.update(self.tokenizer.encode(word))
        self.ids = {old: new for new, old in enumerate(sorted(kept))}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(N, context_length) int64. Raises InputError naming a word that the small CLIP was not trained on."""
        return torch.tensor([[self.ids[int(i)] for i in self._known(text)] for text in texts])

    def _known(self, text: str) -> list[int]:
        tokens = self.tokenizer.encode(text)
        unknown = [self.tokenizer.decode([i]).strip() for i in tokens if i not in self.ids]
        if unknown:
            raise InputError(
                f"the small CLIP does not know {', '.join(map(repr, unknown))} (in {text!r}); use its words"
            )
        if len(tokens) + 2 > self.context_length:
            raise InputError(f"{text!r} has {len(tokens) + 2} tokens, more than {self.context_length}; shorten it")
        tokens = [self.tokenizer.sot_token_id, *tokens, self.tokenizer.eot_token_id]
        return tokens + [0] * (self.context_length - len(tokens))


@lru_cache(maxsize=1)
def tiny_words() -> tuple[str, ...]:
    """Every word that the small CLIP was trained on."""
    return tuple((checkpoints.TOWERS / "csgn-tiny.words").read_text(encoding="utf-8").split())


def unreadable_words(tokenizer: Tokenizer, words: Iterable[str]) -> list[str]:
    """The words that a CLIP's text tower cannot have learned, sorted.

    Those that its tokenizer refuses, and those with a character that byte pairs have no token for, only tokens for its
    single bytes: it was too rare in the texts that the pairs were made from.
    """
    pairs = getattr(tokenizer, "tokenizer", tokenizer)  # the small CLIP's wraps open_clip's
    ids = getattr(tokenizer, "ids", None)

    def readable(token: int) -> bool:
        return "\ufffd" not in pairs.decode([token]) and (ids is None or token in ids)

    return sorted(word for word in set(words) if not all(map(readable, pairs.encode(word))))


def token_count(tokenizer: Tokenizer, text: str) -> int:
    """Tokens of a text with start and end, before anything is cut off."""
    return len(getattr(tokenizer, "tokenizer", tokenizer).encode(text)) + 2
