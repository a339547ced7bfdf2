"""The HSF loss: every form against a plain loop, and beta = 0 against CLIP-ReID's formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from csgn_lib import hsf, registry
from csgn_lib.records import InputError


def hsf_loss(
    f, text_rgb, text_gray, targets, *, variant="convex", similarity="dot", colour_basis=None, **values
) -> dict[str, torch.Tensor]:
    """The terms of a built-in form, by name, with the experiment's default values of its parameters."""
    defaults = {"beta": 0.5, "label_smoothing": 0.1, "consistency_weight": 1.0, "orthogonal_weight": 0.5}
    batch = hsf.HsfBatch(f, text_rgb, text_gray, targets, similarity, colour_basis)
    return registry.form("hsf", variant, defaults | values)(batch)


FORMS = [variant for variant in registry.names("hsf") if variant != "none"]


def problem(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, ...]:
    random = torch.Generator().manual_seed(3)
    f = torch.randn(6, 10, generator=random, dtype=dtype) * scale
    text_rgb, text_gray = (torch.randn(7, 10, generator=random, dtype=dtype) for _ in range(2))
    return f, text_rgb, text_gray, torch.tensor([0, 3, 3, 6, 1, 0])


def basis() -> torch.Tensor:
    return torch.linalg.qr(torch.randn(10, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64))[0]


# ---------------------------------------------------------------- plain loops


def score(a: torch.Tensor, b: torch.Tensor, similarity: str) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    norm = math.sqrt(sum(float(x) ** 2 for x in a)) * math.sqrt(sum(float(x) ** 2 for x in b))
    return dot if similarity == "dot" else 100 * dot / norm


def probabilities(f: torch.Tensor, text: torch.Tensor, similarity: str) -> list[list[float]]:
    rows = []
    for x in f:
        scores = [score(x, t, similarity) for t in text]
        weights = [math.exp(s - max(scores)) for s in scores]
        rows.append([w / sum(weights) for w in weights])
    return rows


def naive_entropy(p: list[list[float]], targets: list[int], smoothing: float) -> float:
    total, n = 0.0, len(p[0])
    for row, y in zip(p, targets, strict=True):
        for k in range(n):
            q = (1 - smoothing) * (k == y) + smoothing / n
            total -= q * math.log(row[k])
    return total / len(p)


def naive_hsf(f, text_rgb, text_gray, targets, variant, beta, smoothing, similarity, colour) -> dict[str, float]:  # noqa: ANN001
    y = targets.tolist()
    p_r, p_g = probabilities(f, text_rgb, similarity), probabilities(f, text_gray, similarity)
    h_r, h_g = naive_entropy(p_r, y, smoothing), naive_entropy(p_g, y, smoothing)
    convex = {"text_rgb": (1 - beta) * h_r, "text_gray": beta * h_g}
    if variant == "convex":
        return convex
    if variant == "sum":
        return {"text_rgb": h_r, "text_gray": h_g}
    if variant == "text":
        fused = probabilities(f, (1 - beta) * text_rgb + beta * text_gray, similarity)
        return {"text": naive_entropy(fused, y, smoothing)}
    pairs = [list(zip(r, g, strict=True)) for r, g in zip(p_r, p_g, strict=True)]
    if variant == "logit":
        return {"text": naive_entropy([[(1 - beta) * a + beta * b for a, b in row] for row in pairs], y, smoothing)}
    if variant == "consistent":
        kl = sum(a * math.log(a / b) + b * math.log(b / a) for row in pairs for a, b in row)
        return convex | {"consistency": 0.4 * kl / 2 / len(f)}
    shares = [sum(float(x @ colour[:, k]) ** 2 for k in range(3)) / float(x @ x) for x in f]
    return convex | {"colour": 0.2 * sum(shares) / len(shares)}


@pytest.mark.parametrize("similarity", ["dot", "cosine"])
@pytest.mark.parametrize("variant", FORMS)
@pytest.mark.parametrize(("beta", "smoothing"), [(0.5, 0.1), (0.2, 0.0)])
def test_every_form_equals_loop(variant: str, similarity: str, beta: float, smoothing: float) -> None:
    inputs = problem(0.3)
    found = hsf_loss(*inputs, variant=variant, beta=beta, label_smoothing=smoothing, similarity=similarity,
                     consistency_weight=0.4, colour_basis=basis(), orthogonal_weight=0.2)  # fmt: skip
    expected = naive_hsf(*inputs, variant, beta, smoothing, similarity, basis())
    assert {name: float(value) for name, value in found.items()} == pytest.approx(expected, rel=1e-9)


def test_beta_zero_is_exactly_clip_reid() -> None:
    """L_i2tce of CLIP-ReID: cross entropy with smoothed labels on f T^T; value and gradient. Gray is not read."""
    f, text_rgb, text_gray, targets = problem()
    f.requires_grad_()
    terms = hsf_loss(f, text_rgb, text_gray * torch.nan, targets, variant="convex", beta=0.0, label_smoothing=0.1)
    assert list(terms) == ["text_rgb"]
    (gradient,) = torch.autograd.grad(terms["text_rgb"], f)

    log_p = F.log_softmax(f @ text_rgb.T, dim=1)
    smoothed = torch.zeros_like(log_p).scatter(1, targets[:, None], 1.0) * (1 - 0.1) + 0.1 / 7
    expected = (-smoothed * log_p).mean(0).sum()
    torch.testing.assert_close(terms["text_rgb"], expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient, torch.autograd.grad(expected, f)[0], rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(expected, F.cross_entropy(f @ text_rgb.T, targets, label_smoothing=0.1))


def test_beta_one_uses_gray_only() -> None:
    f, text_rgb, text_gray, targets = problem()
    for beta, text, other in ((0.0, text_rgb, text_gray), (1.0, text_gray, text_rgb)):
        expected = float(F.cross_entropy(f @ text.T, targets, label_smoothing=0.1))
        pair = (text, other * 5) if beta == 0 else (other * 5, text)
        for variant in ("convex", "text", "logit"):
            terms = hsf_loss(f, *pair, targets, variant=variant, beta=beta)
            assert len(terms) == 1 and float(sum(terms.values())) == pytest.approx(expected)


def test_fusions_agree_for_equal_descriptions() -> None:
    f, text, _, targets = problem()
    expected = float(F.cross_entropy(f @ text.T, targets, label_smoothing=0.1))
    for variant, factor in (("convex", 1), ("text", 1), ("logit", 1), ("consistent", 1), ("sum", 2)):
        total = sum(hsf_loss(f, text, text, targets, variant=variant, beta=0.3).values())
        assert float(total) == pytest.approx(factor * expected), variant


def test_logit_differs_from_text() -> None:
    inputs = problem()
    assert float(hsf_loss(*inputs, variant="logit")["text"]) != pytest.approx(
        float(hsf_loss(*inputs, variant="text")["text"])
    )


def test_by_hand_one_image_two_identities() -> None:
    f, text = torch.tensor([[1.0, 0.0]]), torch.tensor([[math.log(3), 0.0], [0.0, 1.0]])  # p = (3/4, 1/4)
    terms = hsf_loss(f, text, text.flip(0), torch.tensor([0]), label_smoothing=0.0)
    assert float(terms["text_rgb"]) == pytest.approx(-0.5 * math.log(3 / 4))
    assert float(terms["text_gray"]) == pytest.approx(-0.5 * math.log(1 / 4))


def test_none_has_no_term() -> None:
    assert hsf_loss(*problem(), variant="none") == {}


@pytest.mark.parametrize("variant", FORMS)
@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("scale", [0.0, 1e3, 1e6])
def test_extreme_scores_are_finite(variant: str, beta: float, scale: float) -> None:
    f, text_rgb, text_gray, targets = problem(scale, torch.float32)
    f.requires_grad_()
    terms = hsf_loss(f, text_rgb, text_gray, targets, variant=variant, beta=beta, colour_basis=basis())
    total = sum(terms.values())
    total.backward()
    assert torch.isfinite(total) and torch.isfinite(f.grad).all()


@pytest.mark.parametrize("variant", FORMS)
def test_gradient_increases_similarity_to_own_text(variant: str) -> None:
    f, text_rgb, text_gray, targets = problem()
    f.requires_grad_()
    terms = hsf_loss(f, text_rgb, text_gray, targets, variant=variant, colour_basis=basis(), orthogonal_weight=0.01)
    (gradient,) = torch.autograd.grad(sum(terms.values()), f)
    moved = f.detach() - 0.05 * gradient
    before, after = ((x * (text_rgb + text_gray)[targets]).sum() for x in (f.detach(), moved))
    assert after > before


def test_consistency_has_gradients_for_both() -> None:
    p, q = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    hsf.symmetric_divergence(p.log_softmax(1), q.log_softmax(1)).sum().backward()
    assert p.grad.abs().sum() > 0 and q.grad.abs().sum() > 0


def test_colour_subspace_finds_direction_lost_in_gray() -> None:
    """Gray texts are RGB texts without their part along two axes, so those axes are the answer."""
    random = torch.Generator().manual_seed(0)
    gray = F.normalize(torch.randn(40, 10, generator=random, dtype=torch.float64), dim=1)
    gray[:, :2] = 0
    gray = F.normalize(gray, dim=1)
    rgb = gray + 0.05 * torch.cat([torch.randn(40, 2, generator=random, dtype=torch.float64), torch.zeros(40, 8)], 1)
    lengths = torch.rand(40, 1, dtype=torch.float64) * 20 + 1
    found = hsf.colour_subspace(rgb * lengths, gray * 7, 2)
    axes = torch.eye(10, dtype=torch.float64)[:, :2]
    assert float((found.T @ axes).square().sum()) / 2 > 0.99

    differences = F.normalize(rgb, dim=1) - F.normalize(gray, dim=1)
    values, vectors = torch.linalg.eigh(differences.T @ differences)
    torch.testing.assert_close(found @ found.T, vectors[:, -2:] @ vectors[:, -2:].T)


def test_colour_subspace_keeps_a_shift_common_to_all_identities() -> None:
    rgb = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    found = hsf.colour_subspace(rgb, rgb * torch.tensor([1.0, 1.0, 0.0]), 1)
    assert abs(float(found[2])) > 0.85


def test_invalid_values_are_refused() -> None:
    inputs = problem()
    with pytest.raises(InputError, match="unknown hsf 'convexe'"):
        hsf_loss(*inputs, variant="convexe")
    with pytest.raises(InputError, match="colour_subspace"):
        hsf_loss(*inputs, variant="orthogonal")
    with pytest.raises(InputError, match="unknown similarity 'l2'"):
        hsf_loss(*inputs, similarity="l2")
    with pytest.raises(InputError, match="rank 8 asked"):
        hsf.colour_subspace(inputs[1], inputs[2], 8)


def test_autocast_does_not_round_scores() -> None:
    inputs = problem(30, torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = hsf_loss(*inputs, variant="consistent")
    expected = hsf_loss(*inputs, variant="consistent")
    assert {k: float(v) for k, v in found.items()} == pytest.approx({k: float(v) for k, v in expected.items()})
