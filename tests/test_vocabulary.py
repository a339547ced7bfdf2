"""Vocabulary: phrases, their subspaces, and projections."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csgn_lib import retrieval, vocabulary
from csgn_lib.backbones import ClipTower, CompactTokenizer, load_clip
from csgn_lib.records import InputError
from csgn_lib.vocabulary import ENGLISH, Phrase, Vocabulary

KNOWN = "a an photo of person wearing and tall short slim heavy with long legs red blue shirt trousers striped"


def small_clip(words: str | None = None) -> ClipTower:
    """A random CLIP of width 32: it reads all English, or only ``words``."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        16,
        {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    ).eval()
    tokenizer = CompactTokenizer(words.split(), 32) if words else open_clip.SimpleTokenizer(context_length=32)
    return ClipTower(model, tokenizer, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def clip() -> ClipTower:
    return small_clip()


def basis_of(rank: int, dim: int = 12, seed: int = 0) -> torch.Tensor:
    rows = torch.randn(40, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return vocabulary.subspace(rows, rank)


# ---------------------------------------------------------------- words


def test_clothing_phrases_are_garment_colour_pattern() -> None:
    phrases = vocabulary.clothing_phrases({"upper": ("shirt",), "lower": ("trousers",)}, ("red", "orange"),
                                          ("plain", "striped"), ("person", "man"))  # fmt: skip
    assert [(p.factor, p.text) for p in phrases] == [
        ("upper", "red shirt"), ("upper", "red striped shirt"), ("upper", "orange shirt"),
        ("upper", "orange striped shirt"), ("lower", "red trousers"), ("lower", "orange trousers"),
    ]  # fmt: skip
    assert phrases[2].captions == (
        "a photo of a person wearing an orange shirt",
        "a photo of a man wearing an orange shirt",
    )
    assert phrases[4].captions[0] == "a photo of a person wearing red trousers"


def test_person_phrases_are_means_over_outfits() -> None:
    phrases = vocabulary.person_phrases({"stature": ("tall {}",), "legs": ("{} with long legs",)},
                                        {"long": "with long {} hair", "bun": "with {} hair in a bun"},
                                        ("red", "gray"), ("a dress", "a coat"))  # fmt: skip
    by_text = {p.text: p for p in phrases}
    assert by_text["tall person"].captions == ("a photo of a tall person wearing a dress",
                                               "a photo of a tall person wearing a coat")  # fmt: skip
    assert by_text["person with long legs"].factor == "legs"
    assert set(by_text["long"].captions) == {
        f"a photo of a person with long {colour} hair wearing {outfit}"
        for colour in ("red", "gray") for outfit in ("a dress", "a coat")
    }  # fmt: skip
    assert len(by_text["red hair"].captions) == 4 and all("red hair" in c for c in by_text["red hair"].captions)
    assert not any("red" in c for c in by_text[vocabulary.BALD].captions)


def test_default_vocabulary_is_balanced() -> None:
    texts = [p.text for p in ENGLISH.clothing + ENGLISH.person]
    assert len(set(texts)) == len(texts)
    wearers = {len(p.captions) for p in ENGLISH.clothing}
    assert wearers == {len(vocabulary.WEARERS)}  # every clothing phrase is averaged over the same people
    assert {p.factor for p in ENGLISH.person} >= {"stature", "build", "shoulders", "hips", "legs", "limbs", "head",
                                                 "face", "skin", "gait", "hair style", "hair colour"}  # fmt: skip
    worn = [set(vocabulary.OUTFITS) & {c.split(" wearing ")[1] for c in p.captions} for p in ENGLISH.person]
    assert all(len(outfits) == len(vocabulary.OUTFITS) for outfits in worn)


def test_only_accepted_captions_are_used() -> None:
    tower = small_clip(KNOWN)
    known = ENGLISH.understood_by(tower)
    assert {p.text for p in known.clothing} == {"red shirt", "red striped shirt", "blue shirt", "blue striped shirt",
                                                "red trousers", "blue trousers"}  # fmt: skip
    assert {c.split(" wearing")[0] for c in known.clothing[0].captions} == {
        "a photo of a person", "a photo of a tall slim person", "a photo of a tall heavy person",
        "a photo of a short slim person", "a photo of a short heavy person",
    }  # fmt: skip
    assert "tall person" in {p.text for p in known.person}
    assert "muscular person" not in {p.text for p in known.person}
    assert {c.split("wearing ")[1] for p in known.person for c in p.captions} == {"a red shirt and blue trousers"}
    assert vocabulary.clothing_subspace(tower, 3).shape == (16, 3)
    with pytest.raises(InputError, match="blouse"):  # a vocabulary given by hand is taken at its word
        vocabulary.clothing_subspace(tower, 1, Vocabulary(vocabulary.clothing_phrases({"upper": ("blouse",)}), ()))


def test_full_tokenizer_accepts_all_captions(clip: ClipTower) -> None:
    assert ENGLISH.understood_by(clip) == ENGLISH


def test_embedded_vocabulary_covers_every_factor() -> None:
    known = ENGLISH.understood_by(load_clip("csgn-tiny", None, (96, 48)))
    assert {p.factor for p in known.clothing} == set(vocabulary.GARMENTS)
    assert {p.factor for p in known.person} == {
        "stature", "build", "sex", "age", "shoulders", "waist", "hips", "legs", "arms", "head", "neck", "face", "skin",
        "hair style", "hair colour",
    }  # fmt: skip
    assert min(len(p.captions) for p in known.clothing) >= 5  # still means, not single captions
    assert min(len(p.captions) for p in known.person) >= 5


# ---------------------------------------------------------------- features


def test_phrase_features_equal_loop(clip: ClipTower) -> None:
    phrases = vocabulary.clothing_phrases({"upper": ("shirt", "coat")}, ("red", "blue"), ("plain",), ("person", "man"))
    phrases += (Phrase("shared", "x", (phrases[0].captions[0], phrases[3].captions[1], "a hat")),)
    with torch.no_grad():
        expected = []
        for phrase in phrases:
            total = torch.zeros(16)
            for caption in phrase.captions:
                feature = clip.text_features([caption])[0]
                total += feature / feature.pow(2).sum().sqrt()
            expected.append(total / len(phrase.captions))
    found = vocabulary.phrase_features(clip, phrases)
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(vocabulary.phrase_features(clip, phrases, chunk=2), found, rtol=1e-4, atol=1e-5)
    assert not found.requires_grad


def test_empty_vocabulary_names_remedy(clip: ClipTower) -> None:
    with pytest.raises(InputError, match="none of the vocabulary's words"):
        vocabulary.phrase_features(clip, [])


# ---------------------------------------------------------------- subspaces


@pytest.mark.parametrize("centre", [True, False])
def test_subspace_equals_eigenvectors_of_scatter_matrix(centre: bool) -> None:
    features = torch.randn(30, 9, dtype=torch.float64) * torch.linspace(4, 0.5, 9) + 2
    rows = features.numpy() / np.linalg.norm(features.numpy(), axis=1, keepdims=True)
    rows = rows - rows.mean(axis=0) if centre else rows
    values, vectors = np.linalg.eigh(rows.T @ rows)
    top = vectors[:, np.argsort(-values)[:4]]
    basis = vocabulary.subspace(features, 4, centre=centre)
    np.testing.assert_allclose((basis @ basis.T).numpy(), top @ top.T, atol=1e-10)
    for k in range(4):  # in order, and each with its largest component positive
        np.testing.assert_allclose(abs(float(basis[:, k] @ torch.tensor(top[:, k]))), 1, atol=1e-8)
        assert basis[basis[:, k].abs().argmax(), k] > 0


def test_subspace_by_hand() -> None:
    features = torch.tensor([[3.0, 4.0, 0.0], [30.0, -40.0, 0.0]])  # unit: (.6, .8, 0) and (.6, -.8, 0)
    torch.testing.assert_close(vocabulary.subspace(features, 1), torch.tensor([[0.0], [1.0], [0.0]]))
    uncentred = vocabulary.subspace(features, 2, centre=False)
    torch.testing.assert_close(uncentred.abs(), torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 0.0]]))


def test_subspace_ignores_feature_norms() -> None:
    features = torch.randn(20, 8, dtype=torch.float64)
    lengths = torch.rand(20, 1, dtype=torch.float64) * 1000 + 0.001
    torch.testing.assert_close(vocabulary.subspace(features * lengths, 3), vocabulary.subspace(features, 3))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 8), st.integers(9, 40), st.integers(0, 10_000))
def test_bases_are_orthonormal_and_projections_idempotent(rank: int, rows: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    basis = vocabulary.subspace(torch.randn(rows, 8, generator=random), min(rank, rows - 1))
    torch.testing.assert_close(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5, rtol=0)
    f = torch.randn(5, 8, generator=random) * 50
    kept, left = vocabulary.keep(f, basis), vocabulary.remove(f, basis)
    torch.testing.assert_close(kept + left, f)
    torch.testing.assert_close(vocabulary.keep(kept, basis), kept, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(vocabulary.remove(left, basis), left, atol=1e-3, rtol=1e-4)
    torch.testing.assert_close((kept * left).sum(1) / f.square().sum(1), torch.zeros(5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("rank", [-1, 3, 400])
def test_too_large_rank_is_refused(rank: int) -> None:
    features = torch.randn(3, 8)  # centred: two directions
    with pytest.raises(InputError, match=f"rank {rank} asked of 3 .* span 2 directions.*person_rank"):
        vocabulary.subspace(features, rank)


def test_repeated_phrases_add_no_rank() -> None:
    with pytest.raises(InputError, match="span 1 directions"):
        vocabulary.subspace(torch.randn(2, 8).repeat(10, 1), 2)
    with pytest.raises(InputError, match="NaN"):
        vocabulary.subspace(torch.full((3, 4), torch.nan), 1)


def test_clothing_and_person_subspaces_come_from_their_phrases(clip: ClipTower) -> None:
    few = Vocabulary(ENGLISH.clothing[::40], ENGLISH.person[::6])
    for build, phrases in ((vocabulary.clothing_subspace, few.clothing), (vocabulary.person_subspace, few.person)):
        features = vocabulary.phrase_features(clip, phrases)
        for centre in (True, False):
            torch.testing.assert_close(build(clip, 3, few, centre), vocabulary.subspace(features, 3, centre))


# ---------------------------------------------------------------- projections


def test_projections_equal_loop() -> None:
    basis, f = basis_of(3), torch.randn(4, 12, dtype=torch.float64)
    for i in range(4):
        part = sum(float(f[i] @ basis[:, k]) * basis[:, k] for k in range(3))
        torch.testing.assert_close(vocabulary.keep(f, basis)[i], part)
        torch.testing.assert_close(vocabulary.remove(f, basis)[i], f[i] - part)
        torch.testing.assert_close(vocabulary.energy(f, basis)[i], (part @ part) / (f[i] @ f[i]))
    torch.testing.assert_close(vocabulary.penalty(f, basis), vocabulary.energy(f, basis).mean())


def test_energy_is_one_inside_zero_outside_and_finite_at_the_extremes() -> None:
    basis = basis_of(4).float()
    inside = basis @ torch.randn(4, 6)
    torch.testing.assert_close(vocabulary.energy(inside.T, basis), torch.ones(6))
    outside = vocabulary.remove(torch.randn(6, 12), basis)
    torch.testing.assert_close(vocabulary.energy(outside, basis), torch.zeros(6), atol=1e-6, rtol=0)
    extremes = torch.stack([torch.zeros(12), torch.full((12,), 1e15), torch.full((12,), 1e-15)]).requires_grad_()
    vocabulary.penalty(extremes, basis).backward()
    assert torch.isfinite(vocabulary.energy(extremes, basis)).all() and torch.isfinite(extremes.grad).all()
    assert vocabulary.energy(extremes, basis)[0] == 0


def test_rank_zero_has_no_effect() -> None:
    f = torch.randn(3, 12)
    torch.testing.assert_close(vocabulary.remove(f, basis_of(0).float()), f)
    assert vocabulary.penalty(f, basis_of(0).float()) == 0


def test_no_gradient_flows_along_removed_directions() -> None:
    basis, f = basis_of(3), torch.randn(4, 12, dtype=torch.float64, requires_grad=True)
    vocabulary.remove(f, basis).pow(3).sum().backward()
    torch.testing.assert_close(f.grad @ basis, torch.zeros(4, 3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert f.grad.abs().max() > 0


def test_penalty_gradient_reduces_energy_in_subspace() -> None:
    basis, f = basis_of(3).float(), torch.randn(8, 12, requires_grad=True)
    start = vocabulary.penalty(f, basis).item()
    for _ in range(60):
        (gradient,) = torch.autograd.grad(vocabulary.energy(f, basis).sum(), f)
        f = (f - 0.5 * gradient * f.detach().square().sum(1, keepdim=True)).detach().requires_grad_()
    assert vocabulary.penalty(f, basis) < 0.01 * start


def test_autocast_does_not_round_projection() -> None:
    basis, f = basis_of(4).float(), torch.randn(6, 12) * 30
    with torch.autocast("cpu", dtype=torch.bfloat16):
        left = vocabulary.remove(f, basis)
    assert left.dtype == torch.float32
    torch.testing.assert_close(left, vocabulary.remove(f, basis))


def test_basis_of_another_clip_is_refused() -> None:
    with pytest.raises(InputError, match="features have 7 dimensions, the basis 12"):
        vocabulary.remove(torch.randn(2, 7), basis_of(2))


def test_text_targets_are_in_basis_and_keep_variance() -> None:
    basis, text = basis_of(3), torch.randn(20, 12, dtype=torch.float64) * 2 + 5
    targets = vocabulary.text_targets(text, basis)
    torch.testing.assert_close(vocabulary.energy(targets, basis), torch.ones(20, dtype=torch.float64))
    spread = lambda rows: sum(float((row - rows.mean(0)).square().sum()) for row in rows)  # noqa: E731
    assert spread(targets) == pytest.approx(spread(text))
    ratio = targets / vocabulary.keep(text, basis)
    torch.testing.assert_close(ratio, ratio[:1, :1].expand_as(ratio))  # one factor for all


def test_text_targets_of_equal_texts_are_finite() -> None:
    targets = vocabulary.text_targets(torch.ones(5, 12), basis_of(3).float())
    assert torch.isfinite(targets).all()


def test_bases_of_smaller_ranks_are_column_prefixes(random_clip):
    words = retrieval.Vocabularies(random_clip)
    for kind in words.features:
        whole = words.basis(kind)
        for rank in (0, 1, 7, whole.shape[1]):
            assert torch.equal(words.basis(kind, rank), vocabulary.subspace(words.features[kind], rank))
        with pytest.raises(InputError, match="span"):
            words.basis(kind, whole.shape[1] + 1)
