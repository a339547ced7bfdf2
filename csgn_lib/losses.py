"""Losses on labels: identity, triplet and clothes-adversarial. Their weights live in ``training``.

    L_id  = H(q, softmax(logits)),  q smoothed by 0.1                                                [C]
    L_tri = mean_i max(0, margin + max_{p: y_p = y_i} |x_i - x_p| - min_{n: y_n != y_i} |x_i - x_n|)  [C]

The clothes-adversarial loss (CAL) is that of Gu et al., "Clothes-Changing Person Re-identification with
RGB Modality Only", CVPR 2022, here from its equations. With phi_c the weight of clothes class c,
cos(f, phi_c) / tau as logits l_c, c_i the image's clothes, S+_i all clothes of its person, K = |S+_i|,
S-_i everyone else's clothes:

    L_C  = -mean_i log softmax(l_i)[c_i]                               learns phi, f detached
    L_CA = -mean_i sum_{c in S+_i} q_i(c) log( e^{l_c} / (e^{l_c} + sum_{j in S-_i} e^{l_j}) )
           q_i(c) = (1 - eps) [c = c_i] + eps / K                      learns f, phi fixed

A positive competes with other people's clothes only, never with another outfit of the same person.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from csgn_lib.records import InputError

CLOTHES_TEMPERATURE = 1 / 16  # tau, Gu et al.
CLOTHES_EPSILON = 0.1  # eps, Gu et al.


def identity_loss(logits: Tensor, targets: Tensor, label_smoothing: float = 0.1) -> Tensor:
    """L_id: cross entropy of classifier logits (B, N) with smoothed identities (B,) in 0 .. N-1 [C]."""
    return F.cross_entropy(_wide(logits), targets, label_smoothing=label_smoothing)


def triplet_loss(features: Tensor, persons: Tensor, margin: float = 0.3) -> Tensor:
    """L_tri over a batch, hardest positive and negative of every anchor, plain Euclidean [C].

    The hinge with a margin, not the soft-margin form; the mean runs over all anchors, satisfied ones included. An
    anchor alone in its identity, or without another identity, is left out. No step waits for the device, as
    libraries that pick triplets by index do.

    Args:
        features: (B, D), not normalised.
        persons: (B,) int64.
    """
    with torch.autocast(features.device.type, enabled=False):
        features = _wide(features)
        distance = torch.cdist(features, features)  # (B, B)
        same = persons[:, None] == persons
        positive = same & ~torch.eye(len(persons), dtype=torch.bool, device=persons.device)
        farthest = distance.masked_fill(~positive, -torch.inf).max(dim=1)
        nearest = distance.masked_fill(same, torch.inf).min(dim=1)
        counted = positive.any(dim=1) & ~same.all(dim=1)
        # read by index: the gradient of max and min themselves would be shared by equal distances
        hinge = (_at(distance, farthest.indices) - _at(distance, nearest.indices) + margin).relu()
        return hinge.where(counted, 0).sum() / counted.sum().clamp(min=1)


def _at(matrix: Tensor, column: Tensor) -> Tensor:
    return matrix.gather(1, column[:, None])[:, 0]


class ClothesClassifier(nn.Module):
    """Cosine classifier of C clothes: features (B, D) to logits cos(f, phi_c) / tau, (B, C)."""

    def __init__(
        self, dim: int, clothes: int, temperature: float = CLOTHES_TEMPERATURE, *, generator: Generator
    ) -> None:
        super().__init__()
        self.temperature = temperature
        # only directions count; short vectors turn within a few steps of Adam, as in CAL's own code
        self.weight = nn.Parameter(torch.randn((clothes, dim), generator=generator) * 0.001)

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """``frozen``: no gradient reaches phi, only the features."""
        weight = self.weight.detach() if frozen else self.weight
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(_wide(features), dim=-1)
            return features @ F.normalize(weight, dim=-1).to(features).T / self.temperature


def clothes_by_person(person: Tensor, clothes: Tensor) -> Tensor:
    """Which clothes are whose: (M,) labels of the training images to a mask (N, C) bool; ``mask[persons]`` is S+.

    Raises:
        InputError: clothes or persons that are unlabelled (-1), or clothes shared by two persons.
    """
    if len(person) == 0 or int(clothes.min()) < 0 or int(person.min()) < 0:
        raise InputError("training images without person or clothes labels (-1): "
                         "this benchmark cannot use CAL; set clothes_adversarial_weight to 0")  # fmt: skip
    mask = torch.zeros(int(person.max()) + 1, int(clothes.max()) + 1, dtype=torch.bool, device=person.device)
    mask[person, clothes] = True
    shared = torch.nonzero(mask.sum(dim=0) > 1).flatten().tolist()
    if shared:
        raise InputError(f"clothes {shared[0]} belong to more than one person; number them per (person, outfit)")
    return mask


def clothes_loss(classifier: ClothesClassifier, features: Tensor, clothes: Tensor) -> Tensor:
    """L_C: teaches the classifier to see clothes; nothing flows into the features. (B, D), (B,) to a scalar."""
    return F.cross_entropy(classifier(features.detach()), clothes)


def clothes_adversarial_loss(
    classifier: ClothesClassifier,
    features: Tensor,
    clothes: Tensor,
    own: Tensor,
    epsilon: float = CLOTHES_EPSILON,
) -> Tensor:
    """L_CA: teaches the features to confuse one person's outfits; nothing flows into the classifier.

    Args:
        features: (B, D). clothes: (B,) int64, c_i.
        own: (B, C) bool, S+: all clothes of each image's person, ``clothes_by_person(...)[persons]``.
        epsilon: share of q that is spread over S+.
    """
    logits = classifier(features, frozen=True)  # (B, C)
    others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1, keepdim=True)  # over S-, (B, 1)
    log_p = logits - torch.logaddexp(logits, others)  # right on S+, read there only
    q = epsilon * own.to(logits) / own.sum(dim=1, keepdim=True)
    q = q.scatter_add(1, clothes[:, None], torch.full_like(q[:, :1], 1 - epsilon))
    return -(q * log_p).sum(dim=1).mean()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
