"""Stage 2, the Heterogeneous Semantic Fusion loss (HSF): both descriptions constrain the visual feature [A].

f_i is the steered joint embedding of image i. t^r_k and t^g_k are the RGB and the grayscale description of identity k,
fixed since stage 1. eps is the label smoothing, H the cross entropy averaged over the batch:

    p^m_i(k) = softmax_k s(f_i, t^m_k),  m in {r, g}
    q_i(k)   = (1 - eps) [k = y_i] + eps / N                                          eps = 0.1 [C]
    H(q, p)  = -mean_i sum_k q_i(k) log p_i(k)

    convex       L = (1 - beta) H(q, p^r) + beta H(q, p^g)                            beta = 0.5 [A; form O]
    sum          L = H(q, p^r) + H(q, p^g)                                            [O]
    text         L = H(q, softmax_k s(f, (1 - beta) t^r_k + beta t^g_k))              [O]
    logit        L = H(q, (1 - beta) p^r + beta p^g)                                  [O]
    consistent   L = convex + lc (KL(p^r || p^g) + KL(p^g || p^r)) / 2                [O]
    orthogonal   L = convex + lo |Q_g^T f|^2 / |f|^2                                  [O]
    none         no term: identity and triplet losses alone

convex with beta = 0 is exactly CLIP-ReID's L_i2tce [C]. ``logit`` mixes probabilities, not raw logits: with dot
products a mixture of logits is the same as ``text``, (1 - beta) f.t^r + beta f.t^g.

Symbols: see ``csgn_lib``. Origin marks: [A] the paper's abstract, [P] its opening pages, [C] convention of CLIP-ReID
(Li, Sun, Li, AAAI 2023), [O] our choice.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from csgn_lib import vocabulary
from csgn_lib.mdg import pairwise_similarity
from csgn_lib.records import InputError

VARIANTS = ("convex", "sum", "text", "logit", "consistent", "orthogonal", "none")


def hsf_loss(
    f: Tensor,
    text_rgb: Tensor,
    text_gray: Tensor,
    targets: Tensor,
    *,
    variant: str = "convex",
    beta: float = 0.5,
    label_smoothing: float = 0.1,
    similarity: str = "dot",
    consistency_weight: float = 1.0,
    colour_basis: Tensor | None = None,
    orthogonal_weight: float = 0.5,
) -> dict[str, Tensor]:
    """L_HSF as named terms, already weighted: their sum is the loss (none: an empty dict).

    Args:
        f: (B, D) joint embedding, not normalised.
        text_rgb, text_gray: (N, D) descriptions of all training identities, fixed.
        targets: (B,) int64 identities 0 .. N-1.
        variant: a form above. A description whose weight is 0 is not computed at all.
        beta: weight of the gray description in [0, 1]; ``sum`` does not read it.
        label_smoothing: eps.
        similarity: dot [C] or cosine [P].
        consistency_weight: lc, of ``consistent``.
        colour_basis: Q_g (D, K) for ``orthogonal``, from ``colour_subspace``.
        orthogonal_weight: lo, of ``orthogonal``.

    Raises:
        InputError: an unknown variant or similarity; beta outside [0, 1]; ``orthogonal`` without a basis.
    """
    if variant not in VARIANTS:
        raise InputError(f"unknown hsf {variant!r}; one of {', '.join(VARIANTS)}")
    if not 0 <= beta <= 1:
        raise InputError(f"beta = {beta}: the weight of the gray description must lie in [0, 1]")
    if variant == "orthogonal" and colour_basis is None:
        raise InputError("hsf=orthogonal needs colour_basis; make it once after stage 1 with colour_subspace")
    if variant == "none":
        return {}
    if variant == "text":
        fused = _log_p(f, torch.lerp(text_rgb, text_gray, beta), similarity)
        return {"text": cross_entropy(fused, targets, label_smoothing)}

    if variant == "sum":
        weights = {"rgb": 1.0, "gray": 1.0}
    else:
        weights = {"rgb": 1 - beta, "gray": beta}
    text = {"rgb": text_rgb, "gray": text_gray}
    used = [name for name in text if weights[name] > 0 or variant == "consistent"]
    log_p = {name: _log_p(f, text[name], similarity) for name in used}  # each (B, N)

    if variant == "logit":
        mixed = torch.stack([log_p[name] + math.log(weights[name]) for name in used]).logsumexp(dim=0)
        return {"text": cross_entropy(mixed, targets, label_smoothing)}
    terms = {
        f"text_{name}": weights[name] * cross_entropy(log_p[name], targets, label_smoothing)
        for name in used
        if weights[name] > 0
    }
    if variant == "consistent":
        terms["consistency"] = consistency_weight * symmetric_divergence(log_p["rgb"], log_p["gray"]).mean()
    if variant == "orthogonal":
        terms["colour"] = orthogonal_weight * orthogonal_penalty(f, colour_basis)
    return terms


def cross_entropy(log_p: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """H(q, p) averaged over the batch, of log-probabilities (B, N): -(1 - eps) log p(y) - eps mean_k log p(k) [C]."""
    hit = log_p.gather(1, targets[:, None]).squeeze(1)  # (B,)
    return -((1 - label_smoothing) * hit + label_smoothing * log_p.mean(dim=1)).mean()


def symmetric_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2 per image, of log-probabilities (B, N): (B,). Both sides learn [O]."""
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=1) / 2


def colour_subspace(text_rgb: Tensor, text_gray: Tensor, rank: int) -> Tensor:
    """Q_g (D, rank), orthonormal: the directions in which RGB and grayscale descriptions differ [O].

    d_y = t^r_y / |t^r_y| - t^g_y / |t^g_y|; Q_g = the top ``rank`` left singular vectors of [d_1 .. d_N].
    Nothing is centred: a shift common to all identities is a colour direction too. It needs neither
    labels nor a vocabulary; in two prototypes it did not find the clothes.

    Raises:
        InputError: rank is negative or more than the differences span.
    """
    rgb, gray = (F.normalize(text.detach().cpu().double(), dim=-1) for text in (text_rgb, text_gray))
    return vocabulary.directions(rgb - gray, rank).to(text_rgb)


def orthogonal_penalty(f: Tensor, basis: Tensor) -> Tensor:
    """L_orth = mean_i |Q_g^T f_i|^2 / |f_i|^2, in [0, 1] [O]. f (B, D), basis Q_g (D, K)."""
    return vocabulary.penalty(f, basis)


def _log_p(f: Tensor, text: Tensor, similarity: str) -> Tensor:
    return pairwise_similarity(f, text, similarity).log_softmax(dim=1)
