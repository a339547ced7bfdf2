"""Clothing and person phrases in plain English, and the subspaces that their text features span [O].

Learned prompts describe everything that distinguishes identities in the training images, including clothes. A fixed
vocabulary separates clothes from the person: the text features of "a red striped shirt" and "a blue coat" differ
along clothing directions, those of "tall" and "with long hair" along person directions. Removing clothing directions
from an embedding, or keeping only person directions, needs no labels, no training and no second network.
For J phrases, each with its captions:

    w_j       = mean over captions of T(caption) / |T(caption)|                                          (D,)
    w~_j      = w_j / |w_j| - mean_j (w_j / |w_j|)
    Q         = top K left singular vectors of [w~_1 .. w~_J]:  Q_c of clothing phrases, Q_p of person phrases
    keep(f)   = Q Q^T f          remove(f) = f - Q Q^T f          energy(f) = |Q^T f|^2 / |f|^2

The feature w_j of a clothing phrase is a mean over wearers, that of a person phrase a mean over outfits, so that the
other factor averages out. The mean over all phrases is subtracted before the decomposition: it encodes "a photo of a
person wearing", is common to both factors, and would otherwise be the first direction of each.

Symbols: see ``csgn_lib``. Origin marks: [A] the paper's abstract, [P] its opening pages, [C] convention of CLIP-ReID
(Li, Sun, Li, AAAI 2023), [O] our choice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from csgn_lib.backbones import ClipTower
from csgn_lib.progress import track
from csgn_lib.records import InputError

COLOURS = (
    "red", "orange", "yellow", "green", "teal", "blue", "navy", "purple", "pink", "brown", "beige", "black", "white",
    "gray",
)  # fmt: skip
PATTERNS = ("plain", "striped", "checked", "dotted", "printed")  # "plain" is left out of the caption
GARMENTS = {
    "upper": ("shirt", "t-shirt", "sweater", "jacket", "coat", "vest", "blouse", "hoodie", "tank top"),
    "dress": ("dress",),
    "lower": ("trousers", "jeans", "shorts", "skirt", "long skirt", "leggings"),
    "shoes": ("shoes", "boots", "sandals", "sneakers"),
    "bag": ("backpack", "handbag", "shoulder bag"),
    "hat": ("cap", "hat", "beanie"),
}
PATTERNED = ("upper", "dress")
PLURAL = frozenset(("trousers", "jeans", "shorts", "leggings", "shoes", "boots", "sandals", "sneakers"))
WEARERS = (
    "person", "man", "woman", "tall slim person", "tall heavy person", "short slim person", "short heavy person",
)  # fmt: skip

# "{}" is replaced by the noun. All phrases about one body measure are one factor.
BODY = {
    "stature": ("very short {}", "short {}", "tall {}", "very tall {}", "{} of average height"),
    "build": ("slim {}", "heavy {}", "{} of medium build", "muscular {}"),
    "sex": ("woman", "man"),
    "age": ("younger {}", "older {}"),
    "shoulders": ("{} with narrow shoulders", "{} with wide shoulders"),
    "waist": ("{} with a narrow waist", "{} with a wide waist"),
    "hips": ("{} with narrow hips", "{} with wide hips"),
    "legs": ("{} with short legs", "{} with long legs"),
    "arms": ("{} with short arms", "{} with long arms"),
    "limbs": ("{} with thin limbs", "{} with thick limbs", "{} with thin arms", "{} with thick arms"),
    "head": ("{} with a small head", "{} with a large head"),
    "neck": ("{} with a short neck", "{} with a long neck"),
    "face": ("{} with a round face", "{} with a long face", "{} with a beard", "{} with glasses"),
    "skin": ("{} with pale skin", "{} with light skin", "{} with tan skin", "{} with brown skin", "{} with dark skin"),
    "gait": ("{} with narrow stance", "{} with wide stance", "{} walking upright", "{} walking bent forward"),
}
HAIR_COLOURS = ("black", "brown", "blond", "red", "gray", "white")
# "{}" is replaced by the colour. A style is averaged over colours, a colour over styles.
HAIR_STYLES = {
    "short": "with short {} hair", "long": "with long {} hair", "curly": "with curly {} hair",
    "ponytail": "with {} hair in a ponytail", "bun": "with {} hair in a bun", "mohawk": "with {} hair in a mohawk",
    "afro": "with {} hair in an afro",
}  # fmt: skip
BALD = "with a bald head"
OUTFITS = (
    "a red shirt and blue trousers", "a blue t-shirt and gray shorts", "a black jacket and brown trousers",
    "a green coat and black trousers", "a white sweater and a red skirt", "an orange hoodie and green shorts",
    "a pink shirt and white trousers", "a yellow dress", "a purple dress",
)  # fmt: skip


@dataclass(frozen=True)
class Phrase:
    """One phrase: its words, the factor that it describes, and the captions over which its feature is averaged."""

    text: str
    factor: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class Vocabulary:
    """The clothing phrases and the person phrases. ``vocabulary_files`` reads one from a YAML file."""

    clothing: tuple[Phrase, ...]
    person: tuple[Phrase, ...]

    def understood_by(self, clip: ClipTower) -> Vocabulary:
        """The vocabulary without captions that have a word the tower's tokenizer rejects, and without phrases that then
        have no caption.

        The tokenizer of a full CLIP accepts every word. That of the embedded CLIP rejects words that it was not trained
        on, which would add noise to the subspaces.
        """
        words = {word for phrase in self.clothing + self.person for word in _words(phrase)}
        known = {word for word in words if _accepts(clip, word)}
        return Vocabulary(_restricted(self.clothing, known), _restricted(self.person, known))


def clothing_phrases(
    garments: Mapping[str, Sequence[str]] = GARMENTS,
    colours: Sequence[str] = COLOURS,
    patterns: Sequence[str] = PATTERNS,
    wearers: Sequence[str] = WEARERS,
) -> tuple[Phrase, ...]:
    """Garment x colour x pattern (patterns on tops and dresses only), each with one caption per wearer."""
    phrases = []
    for factor, names in garments.items():
        worn = patterns if factor in PATTERNED else ("plain",)
        for name, colour, pattern in product(names, colours, worn):
            piece = " ".join(word for word in (colour, pattern, name) if word != "plain")
            noun = piece if name in PLURAL else _article(piece)
            captions = tuple(f"a photo of a {wearer} wearing {noun}" for wearer in wearers)
            phrases.append(Phrase(piece, factor, captions))
    return tuple(phrases)


def person_phrases(
    body: Mapping[str, Sequence[str]] = BODY,
    hair_styles: Mapping[str, str] = HAIR_STYLES,
    hair_colours: Sequence[str] = HAIR_COLOURS,
    outfits: Sequence[str] = OUTFITS,
) -> tuple[Phrase, ...]:
    """Stature, build, limbs, head, hair, skin and gait, each with one caption per outfit."""

    def phrase(text: str, factor: str, people: Sequence[str]) -> Phrase:
        captions = tuple(f"a photo of {_article(who)} wearing {outfit}" for who, outfit in product(people, outfits))
        return Phrase(text, factor, captions)

    bodies = [(factor, words.format("person")) for factor, entries in body.items() for words in entries]
    phrases = [phrase(words, factor, [words]) for factor, words in bodies]
    phrases.append(phrase(BALD, "hair style", [f"person {BALD}"]))
    for name, style in hair_styles.items():
        phrases.append(phrase(name, "hair style", [f"person {style.format(colour)}" for colour in hair_colours]))
    for colour in hair_colours:
        people = [f"person {style.format(colour)}" for style in hair_styles.values()]
        phrases.append(phrase(f"{colour} hair", "hair colour", people))
    return tuple(phrases)


@torch.no_grad()
def phrase_features(clip: ClipTower, phrases: Sequence[Phrase], chunk: int = 256) -> Tensor:
    """Mean text feature of each phrase: (J, D), float32.

    Captions are L2-normalised before the mean: CLIP compares directions, so the norm must not weight a caption. A
    caption that several phrases share is encoded once.

    Raises:
        InputError: no phrases; a word that the tower's tokenizer cannot encode.
    """
    if not phrases:
        raise InputError("no phrases to encode: this CLIP knows none of the vocabulary's words; use another vocabulary")
    row = {text: i for i, text in enumerate(dict.fromkeys(text for phrase in phrases for text in phrase.captions))}
    texts = list(row)
    chunks = [texts[i : i + chunk] for i in range(0, len(texts), chunk)]
    parts = [clip.text_features(some).float() for some in track(chunks, len(texts), "encoding captions", len)]
    features = F.normalize(torch.cat(parts), dim=-1)  # (captions, D)
    return torch.stack([features[[row[text] for text in phrase.captions]].mean(dim=0) for phrase in phrases])


def subspace(features: Tensor, rank: int | None, centre: bool = True) -> Tensor:
    """Orthonormal basis of the directions in which phrases vary: (J, D) features to (D, rank), orthonormal columns.

    Rows are L2-normalised, ``centre`` subtracts their mean, and the top ``rank`` left singular vectors of the
    (D, J) matrix are returned [O]; None: all that they span. Computed in float64 on the CPU, so that the result does
    not depend on the device; returned on the features' device, in their type.

    Raises:
        InputError: rank is negative or more than the phrases span; features hold NaN or infinity.
    """
    rows = F.normalize(features.detach().cpu().double(), dim=-1)
    rows = rows - rows.mean(dim=0) if centre else rows
    return directions(rows, rank).to(features)


def directions(rows: Tensor, rank: int | None) -> Tensor:
    """Top ``rank`` (None: all) right singular vectors of (J, D) rows, as columns (D, rank); largest component positive.

    Raises:
        InputError: as ``subspace``.
    """
    if not torch.isfinite(rows).all():
        raise InputError("text features hold NaN or infinity; check the CLIP weights that made them")
    _, values, vectors = torch.linalg.svd(rows, full_matrices=False)
    noise = torch.finfo(torch.float32).eps * max(rows.shape)  # features come from float32 towers
    spanned = int((values > noise * values[:1]).sum())
    rank = spanned if rank is None else rank
    if not 0 <= rank <= spanned:
        raise InputError(
            f"rank {rank} asked of {len(rows)} text features that span {spanned} directions; "
            f"choose clothing_rank and person_rank between 0 and that, or add phrases"
        )
    basis = vectors[:rank].T
    if rank == 0:
        return basis
    largest = basis.abs().argmax(dim=0, keepdim=True)  # a singular vector's sign is arbitrary: fix it
    return basis * basis.gather(0, largest).sign()


def clothing_subspace(
    clip: ClipTower, rank: int, vocabulary: Vocabulary | None = None, centre: bool = True, chunk: int = 256
) -> Tensor:
    """Q_c (D, rank), of clothing phrases. Default ``vocabulary``: the part of ENGLISH that the tower accepts."""
    return subspace(phrase_features(clip, (vocabulary or ENGLISH.understood_by(clip)).clothing, chunk), rank, centre)


def person_subspace(
    clip: ClipTower, rank: int, vocabulary: Vocabulary | None = None, centre: bool = True, chunk: int = 256
) -> Tensor:
    """Q_p (D, rank), of person phrases. Default ``vocabulary``: the part of ENGLISH that the tower accepts."""
    return subspace(phrase_features(clip, (vocabulary or ENGLISH.understood_by(clip)).person, chunk), rank, centre)


def coordinates(features: Tensor, basis: Tensor) -> Tensor:
    """Q^T f: (B, D) features to (B, K) coordinates, outside autocast (bf16 would leave an error of 0.4 %).

    Raises:
        InputError: features and basis have different dimensions.
    """
    if features.shape[-1] != basis.shape[0]:
        raise InputError(
            f"features have {features.shape[-1]} dimensions, the basis {basis.shape[0]}: "
            f"build the subspace from the CLIP whose joint embedding is projected"
        )
    with torch.autocast(features.device.type, enabled=False):
        return _wide(features) @ basis.to(_wide(features))


def keep(features: Tensor, basis: Tensor) -> Tensor:
    """Q Q^T f, the projection onto the subspace: (B, D) to (B, D)."""
    inside = coordinates(features, basis)
    with torch.autocast(features.device.type, enabled=False):
        return inside @ basis.to(inside).T


def remove(features: Tensor, basis: Tensor) -> Tensor:
    """f - Q Q^T f, the projection onto the orthogonal complement: (B, D) to (B, D).

    With the clothing basis, applied at test to the descriptor and, for ``vocabulary_train=head``, before the identity
    and triplet heads of the joint embedding.
    """
    return _wide(features) - keep(features, basis)


def energy(features: Tensor, basis: Tensor) -> Tensor:
    """Share of each row's squared norm that lies in the subspace: |Q^T f|^2 / |f|^2, (B,) in [0, 1]; 0 for f = 0."""
    return coordinates(F.normalize(_wide(features), dim=-1), basis).square().sum(dim=-1)


def penalty(features: Tensor, basis: Tensor) -> Tensor:
    """Mean energy, a scalar to minimise: ``vocabulary_train=penalty`` with the clothing basis [O]."""
    return energy(features, basis).mean()


def text_targets(text: Tensor, basis: Tensor) -> Tensor:
    """HSF's text features projected onto a subspace, for ``vocabulary_train=targets`` with the person basis: (N, D) to
    (N, D) [O].

    t' = a Q_p Q_p^T t with one factor a >= 1 for all identities. A softmax over identities depends
    only on the differences of their texts, which a projection shrinks; a restores the total variance, so that raw dot
    products stay as sharp as before. (Cosines do not depend on a.)
    """
    kept = keep(text, basis)
    before, after = (rows.var(dim=0, correction=0).sum() for rows in (_wide(text), kept))
    tiny = torch.finfo(kept.dtype).tiny
    return kept * torch.where(after > tiny, (before / after.clamp_min(tiny)).sqrt(), torch.ones_like(after))


def _wide(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def _article(words: str) -> str:
    return f"an {words}" if words[0] in "aeiou" else f"a {words}"


def _words(phrase: Phrase) -> set[str]:
    return {word for caption in phrase.captions for word in _split(caption)}


def _split(caption: str) -> list[str]:
    return re.findall(r"[a-z]+", caption.lower())


def _accepts(clip: ClipTower, word: str) -> bool:
    try:
        clip.tokenize([word])
    except InputError:
        return False
    return True


def _restricted(phrases: Sequence[Phrase], known: set[str]) -> tuple[Phrase, ...]:
    kept = []
    for phrase in phrases:
        captions = tuple(text for text in phrase.captions if known.issuperset(_split(text)))
        if captions:
            kept.append(Phrase(phrase.text, phrase.factor, captions))
    return tuple(kept)


ENGLISH = Vocabulary(clothing_phrases(), person_phrases())
