"""Losses on labels: identity, triplet and clothes-adversarial. Their weights are parameters of the experiment.

    L_id  = H(q, softmax(logits)),  q smoothed by eps = 0.1                                                    [C]
    L_tri = mean_i max(0, margin + max_{j: y_j = y_i} |x_i - x_j| - min_{j: y_j != y_i} |x_i - x_j|)           [C]

The clothes-adversarial loss (CAL) follows the equations of Gu et al., "Clothes-Changing Person Re-identification with
RGB Modality Only", CVPR 2022. phi_o is the weight vector of outfit o = 1 .. O, l_o = cos(f, phi_o) / tau its logit,
o_i the outfit of image i, S+_i all outfits of its identity, S-_i the outfits of all other identities:

    L_C  = -mean_i log softmax(l_i)[o_i]                               trains phi, f detached
    L_CA = -mean_i sum_{o in S+_i} q_i(o) log( e^{l_o} / (e^{l_o} + sum_{j in S-_i} e^{l_j}) )
           q_i(o) = (1 - eps) [o = o_i] + eps / |S+_i|                 trains f, phi fixed

In each softmax, only outfits of other identities are negatives, never another outfit of the same identity.

Symbols: see ``csgn_lib``. Origin marks: [A] the paper's abstract, [P] its opening pages, [C] convention of CLIP-ReID
(Li, Sun, Li, AAAI 2023), [O] our choice.
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

    Hinge with a margin, not the soft-margin form; the mean is over all anchors, also those with a loss of 0. An anchor
    without a positive or without a negative is left out. It does not synchronise the device, unlike
    implementations that select triplets by index.

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
        # by index, because max and min would split the gradient among equal distances
        hinge = (_at(distance, farthest.indices) - _at(distance, nearest.indices) + margin).relu()
        return hinge.where(counted, 0).sum() / counted.sum().clamp(min=1)


def _at(matrix: Tensor, column: Tensor) -> Tensor:
    return matrix.gather(1, column[:, None])[:, 0]


class ClothesClassifier(nn.Module):
    """Cosine classifier of O outfits: features (B, width) to logits cos(f, phi_o) / tau, (B, O)."""

    def __init__(
        self, dim: int, clothes: int, temperature: float = CLOTHES_TEMPERATURE, *, generator: Generator
    ) -> None:
        super().__init__()
        self.temperature = temperature
        # only directions matter; short vectors rotate within a few Adam steps, as in CAL's code
        self.weight = nn.Parameter(torch.randn((clothes, dim), generator=generator) * 0.001)

    def forward(self, features: Tensor, frozen: bool = False) -> Tensor:
        """Logits (B, O). ``frozen``: gradients reach the features and not phi."""
        weight = self.weight.detach() if frozen else self.weight
        with torch.autocast(features.device.type, enabled=False):
            features = F.normalize(_wide(features), dim=-1)
            return features @ F.normalize(weight, dim=-1).to(features).T / self.temperature


def clothes_by_person(person: Tensor, clothes: Tensor) -> Tensor:
    """Which outfits belong to which identity: labels (n,) of n training images to a mask (N, O) bool.

    ``mask[persons]`` is S+ of the images of a batch.

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
    """L_C, a scalar: trains the classifier on detached features (B, width) and outfits (B,)."""
    return F.cross_entropy(classifier(features.detach()), clothes)


def clothes_adversarial_loss(
    classifier: ClothesClassifier,
    features: Tensor,
    clothes: Tensor,
    own: Tensor,
    epsilon: float = CLOTHES_EPSILON,
) -> Tensor:
    """L_CA, a scalar: trains the features to confuse the outfits of one person; the classifier is fixed.

    Args:
        features: (B, width). clothes: (B,) int64, o_i.
        own: (B, O) bool, S+: all outfits of each image's person, ``clothes_by_person(...)[persons]``.
        epsilon: share of q that is distributed over S+.
    """
    logits = classifier(features, frozen=True)  # (B, O)
    others = logits.masked_fill(own, -torch.inf).logsumexp(dim=1, keepdim=True)  # over S-, (B, 1)
    log_p = logits - torch.logaddexp(logits, others)  # valid on S+, where it is read
    q = epsilon * own.to(logits) / own.sum(dim=1, keepdim=True)
    q = q.scatter_add(1, clothes[:, None], torch.full_like(q[:, :1], 1 - epsilon))
    return -(q * log_p).sum(dim=1).mean()


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
