"""Stage 1: the prompts, the positions of learned tokens, and L_MDG against plain loops."""

from __future__ import annotations

import math

import open_clip
import pytest
import torch

from csgn_lib import mdg, registry
from csgn_lib.backbones import ClipTower, CompactTokenizer, load_clip
from csgn_lib.mdg import BatchIdentities, PromptBank, TextFeatures, mdg_loss
from csgn_lib.records import InputError

WORDS = "a photo of person . grayscale"
TOKENIZERS = ("full", "compact")

LEARNED = [name for name in registry.names("mdg") if name != "random"]


def small_clip(tokenizer: str = "full", context: int = 24) -> ClipTower:
    """A random frozen CLIP of width 32 that reads all English (full) or WORDS only (compact)."""
    torch.manual_seed(0)
    full = open_clip.SimpleTokenizer(context_length=context)
    reads = full if tokenizer == "full" else CompactTokenizer(WORDS.split(), context)
    vocabulary = 49408 if tokenizer == "full" else len(reads.ids)
    model = open_clip.CLIP(
        16,
        {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
        {"context_length": context, "vocab_size": vocabulary, "width": 32, "heads": 2, "layers": 2},
    )
    return ClipTower(model.eval().requires_grad_(False), reads, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def clip() -> ClipTower:
    return small_clip()


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bank_of(clip: ClipTower, identities: int = 5, **options: object) -> PromptBank:
    return PromptBank(clip, identities, generator=generator(), **options)


def words_as_prompts(clip: ClipTower, bank: PromptBank, sentence: str) -> torch.Tensor:
    """Prompts word by word, through the whole context and the model's own blocks: no template, no cutting."""
    rows = []
    text = clip.text
    for person in range(bank.identities):
        learned = {"U": bank.words_rgb[person], "V": bank.words_gray[person], "M": bank.word_modality}
        ids = [clip.tokenize([word])[0] for word in sentence.split() if word not in learned]
        start, pad = text.token_embedding(ids[0][:1]), text.token_embedding(ids[0].new_zeros(1))
        parts = [start]
        for word in sentence.split():
            if word in learned:
                parts.append(learned[word])
            else:
                row = clip.tokenize([word])[0]
                parts.append(text.token_embedding(row[1 : int(row.argmax())]))
        end_id = ids[0].max().view(1)
        length = sum(len(part) for part in parts)
        parts += [text.token_embedding(end_id)] + [pad] * (clip.context_length - length - 1)
        x = (torch.cat(parts) + text.positional_embedding)[None]
        x = text.ln_final(text.transformer(x, attn_mask=text.attn_mask))
        rows.append(x[0, length] @ text.text_projection)
    return torch.stack(rows)


# ---------------------------------------------------------------- the bank


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize(
    ("options", "gray"),
    [
        ({"modality": "word"}, "A grayscale photo of a V person ."),
        ({"modality": "same"}, "A photo of a V person ."),
        ({"modality": "token"}, "A M photo of a V person ."),
        ({"variant": "second_rgb"}, "A photo of a V person ."),
    ],
)
def test_prompts_have_documented_text(tokenizer: str, options: dict[str, str], gray: str) -> None:
    clip = small_clip(tokenizer)
    bank = bank_of(clip, 3, tokens=3, **options)
    found = bank(torch.arange(3))
    rgb = words_as_prompts(clip, bank, "A photo of a U person .")
    torch.testing.assert_close(found.rgb, rgb, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.gray, words_as_prompts(clip, bank, gray), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("modality", ["word", "same", "token"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_prompts_continued_after_their_common_beginning_are_the_whole_prompts(modality: str, precision: str) -> None:
    """The same features and gradients of every learned token, whether the frozen tower reads the beginning again."""
    found = []
    for whole in (False, True):
        bank = bank_of(small_clip(), 5, modality=modality)
        assert bank.states is not None and not bank.states.requires_grad
        bank.states = None if whole else bank.states
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            text = bank(torch.tensor([4, 0, 0, 2]))
        torch.cat([text.rgb, text.gray]).float().square().sum().backward()
        found.append([text.rgb.float(), text.gray.float(), *(value.grad for value in bank.parameters())])
    for continued, expected in zip(*found, strict=True):
        error = (continued - expected).norm() / expected.norm()
        assert 0 < expected.norm() and error < (1e-5 if precision == "fp32" else 0.03)


def test_a_tower_that_reads_prompts_in_its_own_way_reads_them_whole() -> None:
    class Counted(ClipTower):
        def prompt_features(self, embeddings: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
            seen.append(embeddings.shape)
            return super().prompt_features(embeddings, end)

    seen, clip = [], small_clip()
    bank_of(Counted(clip.model, clip.tokenizer, (0.5,) * 3, (0.5,) * 3), 2)(torch.tensor([0, 1]))
    assert seen == [(4, 14, 32)]


def test_embedded_clip_encodes_both_prompts() -> None:
    bank = bank_of(load_clip("csgn-tiny", None, (96, 48)), 2)
    text = bank.all_text_features()
    assert text.rgb.shape == (2, 128) and not torch.allclose(text.rgb, text.gray)


def test_prompts_with_known_words_equal_sentence(clip: ClipTower) -> None:
    bank = bank_of(clip, 2, tokens=2)
    tall_slim = clip.embed_tokens(clip.tokenize(["tall slim"]))[0, 1:3]
    with torch.no_grad():
        bank.words_rgb[1] = bank.words_gray[1] = tall_slim
        found = bank(torch.tensor([1]))
        expected = clip.text_features(["A photo of a tall slim person.", "A grayscale photo of a tall slim person."])
    torch.testing.assert_close(torch.cat([found.rgb, found.gray]), expected, rtol=1e-4, atol=1e-5)


def test_repeated_persons_and_chunks_have_no_effect(clip: ClipTower) -> None:
    bank = bank_of(clip, 7)
    everyone = bank.all_text_features()
    assert everyone.rgb.shape == everyone.gray.shape == (7, 16)
    assert not everyone.rgb.requires_grad
    persons = torch.tensor([6, 0, 3, 3, 6])
    found = bank(persons)
    again = bank(BatchIdentities.of(persons))
    assert torch.equal(found.rgb, again.rgb) and torch.equal(found.gray, again.gray)
    torch.testing.assert_close(found.rgb, everyone.rgb[persons], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.gray, everyone.gray[persons], rtol=1e-4, atol=1e-5)
    for chunk in (1, 3, 100):
        torch.testing.assert_close(bank.all_text_features(chunk).gray, everyone.gray, rtol=1e-4, atol=1e-5)


def test_state_contains_learned_tokens_only(clip: ClipTower) -> None:
    bank = bank_of(clip, 5)
    assert {name: tuple(value.shape) for name, value in bank.state_dict().items()} == {
        "words_rgb": (5, 4, 32), "words_gray": (5, 4, 32),
    }  # fmt: skip
    assert set(bank_of(clip, modality="token").state_dict()) == {"words_rgb", "words_gray", "word_modality"}
    assert sum(p.numel() for p in bank.parameters()) == 2 * 5 * 4 * 32
    assert list(bank.children()) == []
    other = PromptBank(clip, 5, generator=generator(1))
    other.load_state_dict(bank.state_dict())
    torch.testing.assert_close(other.all_text_features().rgb, bank.all_text_features().rgb)


def test_initial_tokens_are_normal_and_shared_by_variants(clip: ClipTower) -> None:
    bank = bank_of(clip, 400)
    for words in (bank.words_rgb.detach(), bank.words_gray.detach()):
        assert float(words.std()) == pytest.approx(0.02, rel=0.02)
        assert abs(float(words.mean())) < 5e-4
    assert not torch.equal(bank.words_rgb, bank.words_gray)
    torch.manual_seed(123)  # the global seed must not matter
    for options in ({}, {"variant": "second_rgb"}, {"modality": "token"}, {"variant": "separate"}):
        again = bank_of(clip, 400, **options)
        assert torch.equal(again.words_rgb, bank.words_rgb) and torch.equal(again.words_gray, bank.words_gray)


def test_gradients_reach_batch_tokens_only(clip: ClipTower) -> None:
    bank = bank_of(clip, 5, modality="token")
    text = bank(torch.tensor([1, 3, 3]))
    text.rgb.square().sum().backward()
    assert not bank.words_gray.grad.any() and not bank.word_modality.grad.any()
    text = bank(torch.tensor([1, 3, 3]))
    text.gray.square().sum().backward()
    for words in (bank.words_rgb, bank.words_gray):
        assert [bool(g.abs().sum() > 0) for g in words.grad] == [False, True, False, True, False]
    assert bank.word_modality.grad.abs().sum() > 0
    assert all(p.grad is None for p in clip.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"identities": 3, "variant": "random"}, "mdg 'random' learns no prompts"),
        ({"identities": 3, "modality": "words"}, "unknown mdg_modality 'words'"),
        ({"identities": 0}, "0 identities with 4 tokens"),
        ({"identities": 3, "tokens": 0}, "3 identities with 0 tokens"),
        ({"identities": 3, "tokens": 15}, "24 tokens.*lower prompt_tokens"),
        ({"identities": 3, "tokens": 40}, "24 tokens.*lower prompt_tokens"),
    ],
)
def test_invalid_banks_are_refused(clip: ClipTower, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        PromptBank(clip, **arguments, generator=generator())


def test_longest_prompt_is_accepted(clip: ClipTower) -> None:
    bank = bank_of(clip, 2, tokens=14)  # start, a gray scale photo of a, 14, person ., end: 24
    assert bank(torch.tensor([0])).gray.shape == (1, 16)


@pytest.mark.parametrize("persons", [[-1, 0], [0, 5]])
def test_persons_out_of_range_are_refused(clip: ClipTower, persons: list[int]) -> None:
    with pytest.raises(InputError, match="the bank has 0 to 4"):
        bank_of(clip, 5)(torch.tensor(persons))


def test_random_text_has_norm_of_real_text() -> None:
    reference = torch.randn(50, 512) + 3
    text = mdg.random_text_features(300, reference, generator(4))
    norm = reference.norm(dim=1).mean()
    for rows in (text.rgb, text.gray):
        assert rows.shape == (300, 512)
        torch.testing.assert_close(rows.norm(dim=1), norm.expand(300), rtol=1e-5, atol=0)
    cosines = torch.nn.functional.cosine_similarity(text.rgb, text.gray)
    assert cosines.abs().mean() < 0.1  # two independent draws
    assert torch.equal(mdg.random_text_features(300, reference, generator(4)).gray, text.gray)


# ---------------------------------------------------------------- the loss, against plain loops


def softmax_log(scores: list[float], k: int) -> float:
    top = max(scores)
    return scores[k] - top - math.log(sum(math.exp(s - top) for s in scores))


def score(a: torch.Tensor, b: torch.Tensor, similarity: str) -> float:
    dot = sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
    if similarity == "dot":
        return dot
    return 100 * dot / (math.sqrt(float(a @ a)) * math.sqrt(float(b @ b)))


def naive_contrastive(a: torch.Tensor, b: torch.Tensor, persons: list[int], similarity: str) -> float:
    """CLIP-ReID, eq. 5 and 6: mean over anchors of minus the mean log-probability of the positives."""
    total = 0.0
    for i, anchor in enumerate(a):
        scores = [score(anchor, other, similarity) for other in b]
        positives = [j for j in range(len(b)) if persons[j] == persons[i]]
        total -= sum(softmax_log(scores, j) for j in positives) / len(positives)
    return total / len(a)


def naive_mutual(v: tuple, bank: tuple, similarity: str) -> float:
    total = 0.0
    for r, g in zip(*v, strict=True):
        log_p = [[score(x, t, similarity) for t in texts] for x, texts in ((r, bank[0]), (g, bank[1]))]
        log_p = [[softmax_log(row, k) for k in range(len(row))] for row in log_p]
        for p, q in (log_p, log_p[::-1]):
            total += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True)) / 2
    return total / len(v[0])


PERSONS = [4, 1, 4, 0, 1, 4]


def batch(scale: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, TextFeatures, torch.Tensor, TextFeatures]:
    random = generator(9)
    v_rgb, v_gray = (torch.randn(6, 8, generator=random, dtype=torch.float64) * scale for _ in range(2))
    bank = TextFeatures(*(torch.randn(5, 8, generator=random, dtype=torch.float64) for _ in range(2)))
    persons = torch.tensor(PERSONS)
    return v_rgb, v_gray, TextFeatures(bank.rgb[persons], bank.gray[persons]), persons, bank


@pytest.mark.parametrize("similarity", mdg.SIMILARITIES)
def test_every_term_equals_loop(similarity: str) -> None:
    v_rgb, v_gray, text, persons, bank = batch()
    separate = {
        "i2t_rgb": naive_contrastive(v_rgb, text.rgb, PERSONS, similarity),
        "t2i_rgb": naive_contrastive(text.rgb, v_rgb, PERSONS, similarity),
        "i2t_gray": naive_contrastive(v_gray, text.gray, PERSONS, similarity),
        "t2i_gray": naive_contrastive(text.gray, v_gray, PERSONS, similarity),
    }
    cross = {
        "i2t_rgb_to_gray": 0.3 * naive_contrastive(v_rgb, text.gray, PERSONS, similarity),
        "t2i_gray_to_rgb": 0.3 * naive_contrastive(text.gray, v_rgb, PERSONS, similarity),
        "i2t_gray_to_rgb": 0.3 * naive_contrastive(v_gray, text.rgb, PERSONS, similarity),
        "t2i_rgb_to_gray": 0.3 * naive_contrastive(text.rgb, v_gray, PERSONS, similarity),
    }
    own = [0, 1, 4]  # the batch's identities, once each
    over_batch = 0.7 * naive_mutual((v_rgb, v_gray), (bank.rgb[own], bank.gray[own]), similarity)
    mutual = {"mutual": over_batch}
    expected = {"separate": separate, "cross": separate | cross, "mutual": separate | mutual}
    for variant, terms in expected.items():
        found = mdg_loss(v_rgb, v_gray, text, persons, variant=variant, cross_weight=0.3, mutual_weight=0.7,
                         similarity=similarity)  # fmt: skip
        assert {name: float(value) for name, value in found.items()} == pytest.approx(terms, rel=1e-9)


def test_second_rgb_ignores_gray_features() -> None:
    v_rgb, v_gray, text, persons, _ = batch()
    found = mdg_loss(v_rgb, v_gray * torch.nan, text, persons, variant="second_rgb")
    expected = mdg_loss(v_rgb, v_rgb, text, persons, variant="mutual")
    assert {k: float(v) for k, v in found.items()} == {k: float(v) for k, v in expected.items()}


def test_by_hand_two_images_two_identities() -> None:
    v, persons = torch.eye(2), torch.tensor([0, 1])
    terms = mdg_loss(v, v, TextFeatures(2 * v, torch.zeros(2, 2)), persons, variant="separate")
    assert float(terms["i2t_rgb"]) == pytest.approx(math.log(1 + math.exp(-2)))  # scores (2, 0)
    assert float(terms["t2i_gray"]) == pytest.approx(math.log(2))  # no information


def test_own_text_is_a_positive() -> None:
    """Every person once: the only positive of an image is its own text."""
    v = torch.randn(4, 8)
    per_anchor = mdg.supervised_contrastive(v, v * 100, torch.arange(4), torch.arange(4))
    expected = [-softmax_log([score(v[i], v[j] * 100, "dot") for j in range(4)], i) for i in range(4)]
    assert per_anchor.tolist() == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_anchor_without_positive_is_zero() -> None:
    values = mdg.supervised_contrastive(
        torch.randn(2, 8), torch.randn(3, 8), torch.tensor([0, 9]), torch.tensor([0, 1, 0])
    )
    assert values[1] == 0 and values[0] > 0


def test_mutual_term_is_zero_for_equal_predictions() -> None:
    scores = torch.randn(3, 5, dtype=torch.float64)
    p = scores.log_softmax(1)
    torch.testing.assert_close(mdg.mutual_divergence(p, p), torch.zeros(3, dtype=torch.float64))
    a, b = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mdg.mutual_divergence(a.log_softmax(1), b.log_softmax(1)).sum().backward()
    for mine, other in ((a, b), (b, a)):
        fixed, again = other.detach().log_softmax(1), mine.detach().requires_grad_()
        log_p = again.log_softmax(1)
        ((log_p.exp() * (log_p - fixed)).sum() / 2).backward()  # KL(mine || other), the other a constant
        torch.testing.assert_close(mine.grad, again.grad)


@pytest.mark.parametrize("variant", LEARNED)
@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_terms_and_gradients_are_finite_at_extreme_scores(variant: str, scale: float) -> None:
    v_rgb, v_gray, text, persons, bank = batch(scale)
    leaves = [t.float().requires_grad_() for t in (text.rgb, text.gray)]
    terms = mdg_loss(v_rgb.float(), v_gray.float(), TextFeatures(*leaves), persons, variant=variant)
    sum(terms.values()).backward()
    assert all(torch.isfinite(value) for value in terms.values())
    assert all(torch.isfinite(leaf.grad).all() for leaf in leaves)


def test_autocast_does_not_round_scores() -> None:
    v_rgb, v_gray, text, persons, _ = batch(30)
    args = (v_rgb.float(), v_gray.float(), TextFeatures(text.rgb.float(), text.gray.float()), persons)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mdg_loss(*args)
    assert {k: float(v) for k, v in found.items()} == pytest.approx({k: float(v) for k, v in mdg_loss(*args).items()})


def test_unknown_names_are_refused() -> None:
    v_rgb, v_gray, text, persons, _ = batch()
    with pytest.raises(InputError, match="random_text_features"):
        mdg_loss(v_rgb, v_gray, text, persons, variant="random")
    with pytest.raises(InputError, match="one of separate, cross, mutual, second_rgb"):
        mdg_loss(v_rgb, v_gray, text, persons, variant="crossed")
    with pytest.raises(InputError, match="unknown similarity 'euclid'"):
        mdg_loss(v_rgb, v_gray, text, persons, similarity="euclid")


@pytest.mark.parametrize("variant", LEARNED)
def test_training_tokens_reduces_loss(clip: ClipTower, variant: str) -> None:
    """Stage 1 in small: 12 frozen image features of 4 people, the words alone learn."""
    persons = torch.arange(4).repeat(3)
    v_rgb, v_gray = torch.randn(2, 12, 16, generator=generator(2)).unbind()
    bank = bank_of(clip, 4, variant=variant)
    optimiser = torch.optim.Adam(bank.parameters(), lr=0.02)
    losses = []
    for _ in range(12):
        loss = sum(mdg_loss(v_rgb, v_gray, bank(persons), persons, variant=variant).values())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
