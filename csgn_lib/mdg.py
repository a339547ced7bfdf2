"""Stage 1, the Multi-Description Generator (MDG): two learned text descriptions of every training identity.

Both encoders of CLIP are frozen; only a few word embeddings per identity are learned [P]. One set of tokens is matched
with the RGB images, the other with their grayscale versions [A + P]. For identities y = 1 .. N and m in {r, g}:

    t^r_y   = T("A photo of a [U^r_y] person.")             U^m_y: M x E, initialised N(0, 0.02), M = 4      [C]
    t^g_y   = T("A grayscale photo of a [U^g_y] person.")                                                    [O]
    L_i2t^m = -mean_i 1/|P(i)| sum_{j in P(i)} log softmax_j s(v^m_i, t^m_{y_j}),  P(i) = {j: y_j = y_i}     [C]
    L_t2i^m = the same with texts as anchors and images as references                                        [C]
    L_mut   = (KL(p^r || sg p^g) + KL(p^g || sg p^r)) / 2,  p^m = softmax_y s(v^m, t^m_y)                    [A; form O]
    L_MDG   = sum_m (L_i2t^m + L_t2i^m) + lx * (four cross terms) + lm * L_mut                               [A; form O]

Symbols: see ``csgn_lib``. Origin marks: [A] the paper's abstract, [P] its opening pages, [C] convention of CLIP-ReID
(Li, Sun, Li, AAAI 2023), [O] our choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from csgn_lib import registry
from csgn_lib.backbones import ClipTower, PromptPrefix
from csgn_lib.records import InputError
from csgn_lib.registry import Form

MODALITIES = ("word", "same", "token")
SIMILARITIES = ("dot", "cosine")
INIT_STD = 0.02  # [C]
COSINE_SCALE = 100.0  # [P], CLIP's own inverse temperature after training


@dataclass(frozen=True)
class TextFeatures:
    """Two descriptions of each of N identities in CLIP's joint space: rgb (N, D), gray (N, D), not normalised.

    words_rgb, words_gray (N, M, E): the learned tokens; None where there are none.
    """

    rgb: Tensor
    gray: Tensor
    words_rgb: Tensor | None = None
    words_gray: Tensor | None = None

    def parts(self) -> dict[str, Tensor]:
        """The tensors that are not None, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}


class BatchIdentities(NamedTuple):
    """The identities of a batch of B images, Y of them different; int64.

    person (B,): identity of each image. unique (Y,): the different identities, sorted. row (B,): index of each image's
    identity in ``unique``. first (Y,): index of the first image of each.
    """

    person: Tensor
    unique: Tensor
    row: Tensor
    first: Tensor

    @classmethod
    def of(cls, person: Tensor) -> BatchIdentities:
        """From identities (B,). Call it on the CPU, because ``torch.unique`` synchronises a GPU."""
        unique, row = torch.unique(person, return_inverse=True)
        order = torch.arange(len(person), device=person.device)
        first = torch.full_like(unique, len(person)).scatter_reduce(0, row, order, "amin")
        return cls(person, unique, row, first)


def pairwise_similarity(a: Tensor, b: Tensor, kind: str = "dot") -> Tensor:
    """s(a, b) for all pairs: (n, D) and (m, D) to (n, m), float32 or wider even under autocast.

    dot: a . b, CLIP-ReID's raw product [C]. cosine: 100 cos(a, b) [P].
    """
    if kind not in SIMILARITIES:
        raise InputError(f"unknown similarity {kind!r}; one of {', '.join(SIMILARITIES)}")
    with torch.autocast(a.device.type, enabled=False):  # dot products reach hundreds, where bf16 rounds to 0.5
        a, b = (x if x.dtype == torch.float64 else x.float() for x in (a, b))
        if kind == "cosine":
            return COSINE_SCALE * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
        return a @ b.T


@dataclass(frozen=True)
class _Template:
    """A prompt without its learned tokens, up to end-of-text.

    embeddings (L, E); starts: the first position of each run of learned tokens; end: L - 1.
    """

    embeddings: Tensor
    starts: tuple[int, ...]
    end: int


class PromptBank(nn.Module):
    """Two sets of learned tokens per identity, U^r and U^g, and the prompts that contain them.

    The CLIP is not a submodule: ``state_dict`` and ``parameters()`` hold the learned tokens only, so that an optimizer
    does not update the encoders. The caller freezes the CLIP (``requires_grad_(False)``).

    Args:
        clip: the frozen text encoder.
        identities: N, training identities numbered 0 .. N-1.
        tokens: M, learned tokens per identity and set [C: 4].
        variant: an ``mdg`` form of the registry, or its name. With ``gray=False`` (second_rgb) both sets use the RGB
            template: a control with two RGB prompts.
        modality: how the second prompt differs from the first [O]. word: by the word "grayscale"; same: not at all;
            token: by one learned token in place of that word, shared by all identities.
        generator: CPU generator of the initial tokens; the RGB set is drawn first, so it is the same for every form.

    Raises:
        InputError: an unknown form or modality, no identity or token, a prompt that does not fit the context.
    """

    def __init__(
        self,
        clip: ClipTower,
        identities: int,
        tokens: int = 4,
        variant: str | Form = "mutual",
        modality: str = "word",
        *,
        generator: Generator,
    ) -> None:
        super().__init__()
        form = _learned(variant)
        _check(modality, identities, tokens)
        self._clip = (clip,)  # in a tuple, so that nn.Module does not register it
        self.identities, self.tokens = identities, tokens
        rgb = _template(clip, ("A photo of a", tokens, "person."))
        gray = _template(clip, _second(modality, tokens)) if form.trait("gray") else rgb
        self._starts = rgb.starts, gray.starts
        both = pad_sequence([rgb.embeddings, gray.embeddings], batch_first=True)  # (2, L, E)
        self.register_buffer("templates", both, persistent=False)
        self._spans = _after_prefix((rgb, gray))
        self.register_buffer("ends", torch.tensor([rgb.end, gray.end], device=both.device), persistent=False)
        prefix = clip.prompt_prefix(both, [start for start, _ in self._spans], self._spans[0][1] - self._spans[0][0])
        for name, value in zip(PromptPrefix._fields, prefix or (None,) * 3, strict=True):
            self.register_buffer(name, value, persistent=False)
        shape = (identities, tokens, rgb.embeddings.shape[-1])
        self.words_rgb = nn.Parameter(_draw(shape, generator).to(rgb.embeddings))
        self.words_gray = nn.Parameter(_draw(shape, generator).to(rgb.embeddings))
        learns_modality = form.trait("gray") and modality == "token"
        self.word_modality = (
            nn.Parameter(_draw((1, shape[-1]), generator).to(self.words_rgb)) if learns_modality else None
        )

    def forward(self, persons: Tensor | BatchIdentities) -> TextFeatures:
        """Identities (B,) int64 to TextFeatures of B rows. Identities may repeat; each is encoded once.

        Raises:
            InputError: a person below 0 or not below N.
        """
        if not isinstance(persons, BatchIdentities):
            if len(persons) and not (0 <= int(persons.min()) and int(persons.max()) < self.identities):
                raise InputError(f"persons run from {int(persons.min())} to {int(persons.max())}, the bank has 0 to "
                                 f"{self.identities - 1}; number the training identities 0 .. N-1")  # fmt: skip
            persons = BatchIdentities.of(persons)
        unique, row = persons.unique, persons.row
        words = [self.words_rgb[unique]], [self.words_gray[unique]]
        if self.word_modality is not None:
            words[1].insert(0, self.word_modality.expand(len(unique), 1, -1))
        prompts = self.templates[:, None].repeat(1, len(unique), 1, 1)  # (2, Y, L, E)
        for i, starts in enumerate(self._starts):
            for start, learned in zip(starts, words[i], strict=True):
                prompts[i, :, start : start + learned.shape[1]] = learned
        rgb, gray = self._read(prompts)
        return TextFeatures(rgb[row], gray[row])

    def _read(self, prompts: Tensor) -> Tensor:
        """Prompts (2, Y, L, E) to features (2, Y, D), both sets in one pass: fewer kernels are faster on a GPU."""
        clip = self._clip[0]
        if self.states is None:
            ends = self.ends[:, None].expand(prompts.shape[:2])
            return clip.prompt_features(prompts.flatten(0, 1), ends.flatten()).unflatten(0, prompts.shape[:2])
        after = torch.stack([prompt[:, start:end] for prompt, (start, end) in zip(prompts, self._spans, strict=True)])
        return clip.continued_features(after, PromptPrefix(self.states, self.mask, self.positions))

    @torch.no_grad()
    def all_text_features(self, chunk: int = 256) -> TextFeatures:
        """Both descriptions of all N identities and their tokens, without gradients, ``chunk`` identities at a time."""
        device = self.words_rgb.device
        parts = [self(persons) for persons in torch.arange(self.identities, device=device).split(chunk)]
        described = [torch.cat([getattr(part, name) for part in parts]) for name in ("rgb", "gray")]
        return TextFeatures(*described, self.words_rgb.detach().clone(), self.words_gray.detach().clone())


def random_text_features(identities: int, reference: Tensor, generator: Generator) -> TextFeatures:
    """The control mdg=random: fixed random vectors in place of text; stage 1 is skipped [O].

    Two independent isotropic draws (N, D), each row with the mean norm of ``reference`` (n, D), the real text features.
    They lack the component that all real text features share, so random identities are further apart.
    """
    norm = reference.float().norm(dim=-1).mean()
    shape = (identities, reference.shape[-1])
    draws = [F.normalize(torch.randn(shape, generator=generator), dim=-1).to(reference) * norm for _ in range(2)]
    return TextFeatures(*draws)


def supervised_contrastive(
    anchors: Tensor, references: Tensor, anchor_labels: Tensor, reference_labels: Tensor, similarity: str = "dot"
) -> Tensor:
    """Supervised-contrastive loss of each anchor: (n,) [C].

    l_i = -1/|P(i)| sum_{j in P(i)} log softmax_j s(a_i, b_j), where P(i) are the references with i's label, an anchor's
    own text included. The loss of an anchor without a positive is 0.

    Args:
        anchors, references: (n, D), (m, D).
        anchor_labels, reference_labels: (n,), (m,) int64.
        similarity: dot or cosine.
    """
    positive = anchor_labels[:, None] == reference_labels[None, :]  # (n, m)
    log_p = pairwise_similarity(anchors, references, similarity).log_softmax(dim=1)
    return -(log_p * positive).sum(dim=1) / positive.sum(dim=1).clamp_min(1)


def mutual_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(KL(p || sg q) + KL(q || sg p)) / 2 per image: log-probabilities (B, N) to (B,) [O].

    Stop-gradient: in each term, the second prediction is treated as a constant.
    """
    forward = (log_p.exp() * (log_p - log_q.detach())).sum(dim=1)
    backward = (log_q.exp() * (log_q - log_p.detach())).sum(dim=1)
    return (forward + backward) / 2


@dataclass(frozen=True)
class MdgBatch:
    """Input of an ``mdg`` form: one batch of stage 1.

    Attributes:
        v_rgb, v_gray: (B, D) image features of the RGB images and of their grayscale versions, from the frozen CLIP.
        text: B rows, the descriptions of each image's identity.
        identities: the identities of the B images.
        similarity: dot [C] or cosine [P].
    """

    v_rgb: Tensor
    v_gray: Tensor
    text: TextFeatures
    identities: BatchIdentities
    similarity: str = "dot"

    def contrast(self, images: Tensor, texts: Tensor) -> tuple[Tensor, Tensor]:
        """L_i2t and L_t2i of image features and texts (B, D): two scalars."""
        who = self.identities.person
        i2t = supervised_contrastive(images, texts, who, who, self.similarity).mean()
        return i2t, supervised_contrastive(texts, images, who, who, self.similarity).mean()


def separate(batch: MdgBatch) -> dict[str, Tensor]:
    """L_i2t and L_t2i of each modality: CLIP-ReID's stage 1, twice [C]."""
    terms = dict(zip(("i2t_rgb", "t2i_rgb"), batch.contrast(batch.v_rgb, batch.text.rgb), strict=True))
    return terms | dict(zip(("i2t_gray", "t2i_gray"), batch.contrast(batch.v_gray, batch.text.gray), strict=True))


def cross(batch: MdgBatch, *, mdg_cross_weight: float) -> dict[str, Tensor]:
    """``separate``, plus lx times the same losses between images of one modality and texts of the other [O]."""
    terms = separate(batch)
    to_gray = zip(("i2t_rgb_to_gray", "t2i_gray_to_rgb"), batch.contrast(batch.v_rgb, batch.text.gray), strict=True)
    to_rgb = zip(("i2t_gray_to_rgb", "t2i_rgb_to_gray"), batch.contrast(batch.v_gray, batch.text.rgb), strict=True)
    return terms | {name: mdg_cross_weight * value for name, value in (*to_gray, *to_rgb)}


def mutual(batch: MdgBatch, *, mdg_mutual_weight: float) -> dict[str, Tensor]:
    """``separate``, plus lm L_mut [A, form O]; p^m is computed over the identities of the batch, each once."""
    terms, first = separate(batch), batch.identities.first  # repeated rows would weight an identity by its images
    log_r = pairwise_similarity(batch.v_rgb, batch.text.rgb[first], batch.similarity).log_softmax(dim=1)
    log_g = pairwise_similarity(batch.v_gray, batch.text.gray[first], batch.similarity).log_softmax(dim=1)
    return terms | {"mutual": mdg_mutual_weight * mutual_divergence(log_r, log_g).mean()}


def mdg_loss(
    v_rgb: Tensor,
    v_gray: Tensor,
    text: TextFeatures,
    persons: Tensor | BatchIdentities,
    *,
    variant: str | Form = "mutual",
    cross_weight: float = 0.5,
    mutual_weight: float = 1.0,
    similarity: str = "dot",
) -> dict[str, Tensor]:
    """L_MDG as named scalars, already weighted: their sum is the loss of stage 1.

    Args:
        v_rgb, v_gray, text, similarity: see ``MdgBatch``. A form with ``gray=False`` (second_rgb) reads ``v_rgb``
            in place of ``v_gray``.
        persons: (B,) int64.
        variant: the name of a built-in form, or a form of the registry whose parameters are bound.
        cross_weight, mutual_weight: lx and lm, for a form that is given by name.

    Raises:
        InputError: an unknown form or similarity; mdg=random, which has no stage 1.
    """
    form = _learned(variant, mdg_cross_weight=cross_weight, mdg_mutual_weight=mutual_weight)
    identities = persons if isinstance(persons, BatchIdentities) else BatchIdentities.of(persons)
    return form(MdgBatch(v_rgb, v_gray if form.trait("gray") else v_rgb, text, identities, similarity))


def _learned(variant: str | Form, **values: float) -> Form:
    """The form; InputError if it does not learn prompts."""
    weights = {"mdg_cross_weight": 0.5, "mdg_mutual_weight": 1.0}
    form = variant if isinstance(variant, Form) else None
    if form is None and variant != "random":
        form = registry.form("mdg", variant, weights | values)
    if form is None or not form.trait("learned"):
        raise InputError(f"mdg {form.name if form else variant!r} learns no prompts: it has no stage 1; "
                         "use random_text_features")  # fmt: skip
    return form


def _check(modality: str, identities: int, tokens: int) -> None:
    if modality not in MODALITIES:
        raise InputError(f"unknown mdg_modality {modality!r}; one of {', '.join(MODALITIES)}")
    if identities < 1 or tokens < 1:
        raise InputError(f"{identities} identities with {tokens} tokens each: both must be at least 1")


def _second(modality: str, tokens: int) -> tuple[str | int, ...]:
    if modality == "token":
        return ("A", 1, "photo of a", tokens, "person.")
    return ("A grayscale photo of a" if modality == "word" else "A photo of a", tokens, "person.")


@torch.no_grad()
def _template(clip: ClipTower, parts: Sequence[str | int]) -> _Template:
    """Tokenise a prompt whose integers stand for that many learned tokens, and find their positions.

    The word "a", a single token in every English tokenizer, is the placeholder of a learned token. Positions are found
    by tokenising the text before them. End-of-text has the highest id, as in CLIP.
    """
    held = [part if isinstance(part, str) else " ".join(["a"] * part) for part in parts]
    text = " ".join(held)

    def end_of(words: str) -> int:
        return int(clip.tokenize([words]).argmax())  # start-of-text is at 0: number of tokens plus 1

    ends = [1] + [end_of(" ".join(held[: i + 1])) for i in range(len(held))]
    sizes = [part if isinstance(part, int) else end_of(part) - 1 for part in parts]
    if [stop - start for start, stop in pairwise(ends)] != sizes:  # open_clip truncates long texts silently
        raise InputError(f"{text!r} does not fit the text encoder's {clip.context_length} tokens; lower prompt_tokens")
    starts = tuple(start for part, start in zip(parts, ends[:-1], strict=True) if isinstance(part, int))
    embeddings = clip.embed_tokens(clip.tokenize([text]))[0]
    return _Template(embeddings[: ends[-1] + 1], starts, ends[-1])  # positions after end-of-text are not used


def _after_prefix(templates: Sequence[_Template]) -> list[tuple[int, int]]:
    """Where each prompt's last S tokens start and end; S: all from the first learned one on, in every prompt."""
    size = max(template.end + 1 - min(template.starts) for template in templates)
    return [(template.end + 1 - size, template.end + 1) for template in templates]


def _draw(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator) * INIT_STD
