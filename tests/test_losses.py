"""Identity, triplet and clothes-adversarial losses, each against a plain loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csgn_lib import losses
from csgn_lib.losses import ClothesClassifier, clothes_adversarial_loss, clothes_by_person, clothes_loss
from csgn_lib.records import InputError


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------- identity


def test_identity_loss_equals_the_smoothed_formula() -> None:
    logits, targets = torch.randn(5, 4, dtype=torch.float64), [0, 3, 3, 1, 2]
    total = 0.0
    for row, y in zip(logits.tolist(), targets, strict=True):
        z = math.log(sum(math.exp(v) for v in row))
        for k, v in enumerate(row):
            total -= ((0.9 if k == y else 0.0) + 0.1 / 4) * (v - z)
    assert float(losses.identity_loss(logits, torch.tensor(targets))) == pytest.approx(total / 5, rel=1e-10)


def test_identity_loss_takes_half_precision_and_large_logits() -> None:
    logits = torch.tensor([[1e3, -1e3], [-6e4, 6e4]]).half().requires_grad_()
    value = losses.identity_loss(logits, torch.tensor([0, 0]))
    value.backward()
    assert value.dtype == torch.float32 and torch.isfinite(value) and torch.isfinite(logits.grad).all()


# ---------------------------------------------------------------- triplet


def naive_triplet(features: torch.Tensor, persons: list[int], margin: float) -> float:
    """Hermans et al. 2017, batch hard with a hinge: what re-ID baselines and CLIP-ReID compute."""
    values = []
    for i, anchor in enumerate(features.tolist()):
        distance = [math.dist(anchor, other) for other in features.tolist()]
        positive = [d for j, d in enumerate(distance) if persons[j] == persons[i] and j != i]
        negative = [d for j, d in enumerate(distance) if persons[j] != persons[i]]
        if positive and negative:
            values.append(max(0.0, margin + max(positive) - min(negative)))
    return sum(values) / len(values) if values else 0.0


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 5), st.integers(2, 8), st.sampled_from([0.05, 0.5, 3.0]))
def test_triplet_equals_batch_hard_loop(seed: int, people: int, images: int, scale: float) -> None:
    persons = torch.arange(people).repeat_interleave(images)[torch.randperm(people * images, generator=generator(seed))]
    features = torch.randn(len(persons), 6, generator=generator(seed + 1), dtype=torch.float64) * scale
    found = losses.triplet_loss(features, persons)
    assert float(found) == pytest.approx(naive_triplet(features, persons.tolist(), 0.3), rel=1e-6, abs=1e-8)


def test_triplet_equals_margin_ranking_loss() -> None:
    """The usual re-ID code: distance matrix, hardest pair per row, MarginRankingLoss(0.3)."""
    persons = torch.arange(8).repeat_interleave(4)
    features = (torch.randn(32, 16, generator=generator(), dtype=torch.float64) * 0.2).requires_grad_()
    squared = features.square().sum(1)
    matrix = (squared[:, None] + squared[None] - 2 * features @ features.T).clamp(min=1e-12).sqrt()
    same = persons[:, None] == persons[None]
    hardest_positive = torch.where(same, matrix, -torch.inf).amax(1)
    hardest_negative = torch.where(same, torch.inf, matrix).amin(1)
    expected = torch.nn.MarginRankingLoss(0.3)(hardest_negative, hardest_positive, torch.ones(32))
    found = losses.triplet_loss(features, persons)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(*(torch.autograd.grad(value, features)[0] for value in (found, expected)))


def test_triplet_by_hand() -> None:
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.1], [0.0, 9.0]])  # persons 0 0 1 1
    # anchors: .3+1-1.1=.2; .3+1-sqrt(2.21)=-.187 -> 0; .3+7.9-1.1=7.1; .3+7.9-9=-.8 -> 0
    value = losses.triplet_loss(features, torch.tensor([0, 0, 1, 1]))
    assert value.item() == pytest.approx((0.2 + 0 + 7.1 + 0) / 4)  # satisfied anchors count in the mean


def test_triplet_depends_on_length_not_on_numbering() -> None:
    features = torch.randn(12, 6, generator=generator(1))
    persons = torch.arange(4).repeat(3)
    plain = losses.triplet_loss(features, persons)
    torch.testing.assert_close(losses.triplet_loss(features, persons * 1000 + 7), plain)
    assert not torch.isclose(losses.triplet_loss(features * 2, persons), plain)


def test_triplet_ignores_anchors_without_pairs() -> None:
    features = torch.randn(5, 6, requires_grad=True)
    for persons in ([0, 0, 0, 0, 0], [0, 1, 2, 3, 4]):
        value = losses.triplet_loss(features, torch.tensor(persons))
        value.backward()
        assert value == 0 and torch.isfinite(features.grad).all()
    persons = [0, 0, 1, 1, 2]
    found = losses.triplet_loss(features, torch.tensor(persons))
    assert found.item() == pytest.approx(naive_triplet(features.detach(), persons, 0.3), rel=1e-5)


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_triplet_is_finite_for_equal_and_huge_features(scale: float) -> None:
    features = (torch.randn(32, 8) * scale).requires_grad_()
    value = losses.triplet_loss(features, torch.arange(8).repeat_interleave(4))
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(features.grad).all()


def test_autocast_does_not_round_triplet() -> None:
    features, persons = torch.randn(32, 8) * 30, torch.arange(8).repeat_interleave(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = losses.triplet_loss(features, persons)
    torch.testing.assert_close(found, losses.triplet_loss(features, persons))
    assert losses.triplet_loss(features.bfloat16(), persons).dtype == torch.float32


# ---------------------------------------------------------------- clothes-adversarial

OWN = clothes_by_person(torch.tensor([0, 0, 1, 2, 2, 2, 0]), torch.tensor([0, 3, 1, 2, 4, 5, 0]))


def naive_adversarial(logits: list[list[float]], clothes: list[int], own: list[set[int]], epsilon: float) -> float:
    """Gu et al. 2022, the multi-positive loss, term by term."""
    total = 0.0
    for row, c_i, positive in zip(logits, clothes, own, strict=True):
        others = sum(math.exp(v) for j, v in enumerate(row) if j not in positive)
        for c in positive:
            q = (1 - epsilon) * (c == c_i) + epsilon / len(positive)
            total -= q * math.log(math.exp(row[c]) / (math.exp(row[c]) + others))
    return total / len(logits)


def classifier() -> ClothesClassifier:
    return ClothesClassifier(7, 6, generator=generator()).double()


def test_clothes_by_person_mask() -> None:
    assert [set(row.nonzero().flatten().tolist()) for row in OWN] == [{0, 3}, {1}, {2, 4, 5}]


def test_classifier_is_scaled_cosine() -> None:
    head, features = classifier(), torch.randn(3, 7, dtype=torch.float64)
    for i in range(3):
        for c in range(6):
            weight = head.weight[c].detach()
            cosine = float(features[i] @ weight / (features[i].norm() * weight.norm()))
            assert head(features)[i, c].item() == pytest.approx(16 * cosine)
    again = ClothesClassifier(7, 6, generator=generator()).double()
    assert torch.equal(head.weight, again.weight)


def test_clothes_losses_equal_loops() -> None:
    head, features = classifier(), torch.randn(5, 7, dtype=torch.float64, generator=generator(2))
    persons, clothes = torch.tensor([0, 2, 1, 2, 0]), torch.tensor([3, 5, 1, 2, 0])
    logits = head(features).tolist()
    owned = [set(OWN[p].nonzero().flatten().tolist()) for p in persons]
    for epsilon in (0.1, 0.6, 0.0):
        found = clothes_adversarial_loss(head, features, clothes, OWN[persons], epsilon)
        assert float(found) == pytest.approx(naive_adversarial(logits, clothes.tolist(), owned, epsilon), rel=1e-9)
    plain = (
        -sum(row[c] - math.log(sum(map(math.exp, row))) for row, c in zip(logits, clothes.tolist(), strict=True)) / 5
    )
    assert clothes_loss(head, features, clothes).item() == pytest.approx(plain, rel=1e-9)


def test_gradients_of_clothes_losses_are_separate() -> None:
    head, features = classifier(), torch.randn(2, 7, dtype=torch.float64, requires_grad=True)
    clothes, own = torch.tensor([0, 1]), OWN[torch.tensor([0, 1])]
    clothes_loss(head, features, clothes).backward()
    assert features.grad is None and head.weight.grad.abs().sum() > 0
    head.weight.grad = None
    clothes_adversarial_loss(head, features, clothes, own).backward()
    assert head.weight.grad is None and features.grad.abs().sum() > 0


def test_outfits_of_one_person_do_not_compete() -> None:
    """Raising another own outfit's logit does not raise the loss; raising someone else's does."""

    class Given(ClothesClassifier):
        def forward(self, features: torch.Tensor, frozen: bool = False) -> torch.Tensor:
            return features

    head = Given(6, 6, generator=generator())
    logits, clothes, own = torch.zeros(1, 6, dtype=torch.float64), torch.tensor([0]), OWN[:1]
    base = clothes_adversarial_loss(head, logits, clothes, own, epsilon=0.1)
    other_own, other_person = logits.clone(), logits.clone()
    other_own[0, 3], other_person[0, 1] = 2.0, 2.0
    assert clothes_adversarial_loss(head, other_own, clothes, own, 0.1) < base
    assert clothes_adversarial_loss(head, other_person, clothes, own, 0.1) > base


def test_single_person_has_zero_adversarial_loss() -> None:
    head, features = classifier(), torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    value = clothes_adversarial_loss(head, features, torch.tensor([0, 1, 2]), torch.ones(3, 6, dtype=torch.bool))
    value.backward()
    assert value.item() == pytest.approx(0) and torch.isfinite(features.grad).all()


@pytest.mark.parametrize("scale", [0.0, 1e6])
def test_clothes_losses_are_finite(scale: float) -> None:
    head = ClothesClassifier(7, 6, generator=generator())
    features = (torch.randn(3, 7) * scale).requires_grad_()
    own, clothes = OWN[torch.tensor([0, 1, 2])], torch.tensor([0, 1, 2])
    value = clothes_adversarial_loss(head, features, clothes, own) + clothes_loss(head, features, clothes)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(features.grad).all()


def test_unlabelled_or_shared_clothes_are_refused() -> None:
    with pytest.raises(InputError, match="clothes_adversarial_weight to 0"):
        clothes_by_person(torch.tensor([0, 1]), torch.tensor([-1, -1]))
    with pytest.raises(InputError, match="clothes 1 belong to more than one person"):
        clothes_by_person(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 1]))
