"""Stage 2, the Heterogeneous Semantic Fusion loss (HSF): both descriptions supervise the visual feature [A].

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
    none         no text loss; identity and triplet losses alone

convex with beta = 0 is exactly CLIP-ReID's L_i2tce [C]. ``logit`` mixes probabilities, not raw logits: with dot
products a mixture of logits equals ``text``, (1 - beta) f.t^r + beta f.t^g.

Symbols: see ``csgn_lib``. Origin marks: [A] the paper's abstract, [P] its opening pages, [C] convention of CLIP-ReID
(Li, Sun, Li, AAAI 2023), [O] our choice.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from csgn_lib import vocabulary
from csgn_lib.mdg import pairwise_similarity
from csgn_lib.records import InputError


@dataclass(frozen=True)
class HsfBatch:
    """Input of an ``hsf`` form: one batch of stage 2.

    Attributes:
        f: (B, D) joint embedding, not normalised.
        text_rgb, text_gray: (N, D) descriptions of all training identities, fixed.
        targets: (B,) int64 identities 0 .. N-1.
        similarity: dot [C] or cosine [P].
        colour_basis: Q_g (D, K), from ``colour_subspace``; None where the experiment makes none.
    """

    f: Tensor
    text_rgb: Tensor
    text_gray: Tensor
    targets: Tensor
    similarity: str = "dot"
    colour_basis: Tensor | None = None

    @cached_property
    def log_p_rgb(self) -> Tensor:
        """log p^r (B, N), computed once."""
        return self.log_p(self.text_rgb)

    @cached_property
    def log_p_gray(self) -> Tensor:
        """log p^g (B, N), computed once."""
        return self.log_p(self.text_gray)

    def log_p(self, text: Tensor) -> Tensor:
        """log softmax_k s(f_i, t_k): texts (N, D) to (B, N)."""
        return pairwise_similarity(self.f, text, self.similarity).log_softmax(dim=1)


def convex(batch: HsfBatch, *, beta: float, label_smoothing: float) -> dict[str, Tensor]:
    """(1 - beta) H(q, p^r) + beta H(q, p^g) [A, form O]. A term with weight 0 is left out."""
    terms = {}
    if beta < 1:
        terms["text_rgb"] = (1 - beta) * cross_entropy(batch.log_p_rgb, batch.targets, label_smoothing)
    if beta > 0:
        terms["text_gray"] = beta * cross_entropy(batch.log_p_gray, batch.targets, label_smoothing)
    return terms


def unweighted_sum(batch: HsfBatch, *, label_smoothing: float) -> dict[str, Tensor]:
    """H(q, p^r) + H(q, p^g) [O]."""
    predicted = {"text_rgb": batch.log_p_rgb, "text_gray": batch.log_p_gray}
    return {name: cross_entropy(log_p, batch.targets, label_smoothing) for name, log_p in predicted.items()}


def fused_text(batch: HsfBatch, *, beta: float, label_smoothing: float) -> dict[str, Tensor]:
    """H(q, softmax_k s(f, (1 - beta) t^r_k + beta t^g_k)) [O]."""
    log_p = batch.log_p(torch.lerp(batch.text_rgb, batch.text_gray, beta))
    return {"text": cross_entropy(log_p, batch.targets, label_smoothing)}


def mixed_probabilities(batch: HsfBatch, *, beta: float, label_smoothing: float) -> dict[str, Tensor]:
    """H(q, (1 - beta) p^r + beta p^g) [O]."""
    weighted = ((1 - beta, batch.text_rgb), (beta, batch.text_gray))
    parts = [batch.log_p(text) + math.log(weight) for weight, text in weighted if weight > 0]
    return {"text": cross_entropy(torch.stack(parts).logsumexp(dim=0), batch.targets, label_smoothing)}


def consistent(batch: HsfBatch, *, beta: float, label_smoothing: float, consistency_weight: float) -> dict[str, Tensor]:
    """``convex``, plus lc (KL(p^r || p^g) + KL(p^g || p^r)) / 2 [O]."""
    terms = convex(batch, beta=beta, label_smoothing=label_smoothing)
    divergence = symmetric_divergence(batch.log_p_rgb, batch.log_p_gray).mean()
    return terms | {"consistency": consistency_weight * divergence}


def orthogonal(batch: HsfBatch, *, beta: float, label_smoothing: float, orthogonal_weight: float) -> dict[str, Tensor]:
    """``convex``, plus lo |Q_g^T f|^2 / |f|^2 [O]. Raises InputError without a colour basis."""
    if batch.colour_basis is None:
        raise InputError("hsf=orthogonal needs colour_basis; make it once after stage 1 with colour_subspace")
    terms = convex(batch, beta=beta, label_smoothing=label_smoothing)
    return terms | {"colour": orthogonal_weight * orthogonal_penalty(batch.f, batch.colour_basis)}


def no_text(batch: HsfBatch) -> dict[str, Tensor]:
    """No text loss; identity and triplet losses alone."""
    return {}


def cross_entropy(log_p: Tensor, targets: Tensor, label_smoothing: float) -> Tensor:
    """H(q, p) averaged over the batch, of log-probabilities (B, N): -(1 - eps) log p(y) - eps mean_k log p(k) [C]."""
    hit = log_p.gather(1, targets[:, None]).squeeze(1)  # (B,)
    return -((1 - label_smoothing) * hit + label_smoothing * log_p.mean(dim=1)).mean()


def symmetric_divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(KL(p || q) + KL(q || p)) / 2 per image, of log-probabilities (B, N): (B,). Gradients reach both [O]."""
    return ((log_p.exp() - log_q.exp()) * (log_p - log_q)).sum(dim=1) / 2


def colour_subspace(text_rgb: Tensor, text_gray: Tensor, rank: int) -> Tensor:
    """Q_g (D, rank), orthonormal: the directions in which RGB and grayscale descriptions differ [O].

    d_y = t^r_y / |t^r_y| - t^g_y / |t^g_y|; Q_g = the top ``rank`` left singular vectors of [d_1 .. d_N].
    The differences are not centred: a shift common to all identities is a colour direction too. Neither labels nor a
    vocabulary are needed.

    Raises:
        InputError: rank is negative or more than the differences span.
    """
    rgb, gray = (F.normalize(text.detach().cpu().double(), dim=-1) for text in (text_rgb, text_gray))
    return vocabulary.directions(rgb - gray, rank).to(text_rgb)


def orthogonal_penalty(f: Tensor, basis: Tensor) -> Tensor:
    """L_orth = mean_i |Q_g^T f_i|^2 / |f_i|^2 [O], in [0, 1]. f (B, D), basis Q_g (D, K)."""
    return vocabulary.penalty(f, basis)
