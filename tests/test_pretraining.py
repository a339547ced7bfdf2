"""The recipe of the embedded towers: what it draws, what it asks, and that it runs; not that it learns."""

from __future__ import annotations

import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from csgn_lib.backbones import load_clip, load_resnet
from csgn_lib.records import InputError
from csgn_lib.synthetic import people, pretraining
from csgn_lib.synthetic.pretraining import IGNORED, Pairs, Questions

NAMES = list(people.attribute_prompts())
OWN = len(people.BODY) + 3  # body measures, hair style, hair colour, skin
PERSON = people.Person(0.9, 0.5, 0.1, 0.5, 0.9, 0.5, 0.5, 0.5, "bun", "red", "pale")
OUTFIT = people.Outfit("coat", "orange", "striped", "red", "skirt", "blue", "boots", "pink", "no bag", "red",
                       "cap", "white")  # fmt: skip


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return pretraining.render_chunk(5, 16)


def sentences_of(labels: np.ndarray) -> list[str]:
    asked = zip(people.attribute_prompts().values(), labels, strict=True)
    return [list(prompts.values())[label] for prompts, label in asked if label != IGNORED]


# ---------------------------------------------------------------- labels and pairs


def test_a_label_row_picks_the_sentences_that_are_true():
    row = np.array(pretraining.label_row(people.attributes(PERSON, OUTFIT)))
    assert {text.removeprefix("a photo of a ") for text in sentences_of(row)} == {
        "very tall person", "person of medium build", "person with narrow shoulders", "person with long legs",
        "person with hair in a bun", "person with red hair", "person with pale skin", "person wearing an orange coat",
        "person wearing a striped coat", "person wearing a blue skirt", "person wearing pink boots",
        "person with no bag", "person with a cap", "person wearing a white cap",
    }  # fmt: skip
    unsaid = {name for name, label in zip(NAMES, row, strict=True) if label == IGNORED}
    assert unsaid == {"hips", "limbs", "head", "stance", "bag*bag_colour"}


def test_a_dress_has_no_lower_garment_and_a_bald_head_no_hair_colour():
    person, outfit = replace(PERSON, hair_style="bald"), replace(OUTFIT, upper="dress", pattern="plain", hat="no hat")
    row = dict(zip(NAMES, pretraining.label_row(people.attributes(person, outfit)), strict=True))
    for name in ("hair_colour", "lower*lower_colour", "upper*pattern", "hat*hat_colour"):
        assert row[name] == IGNORED
    assert row["upper*upper_colour"] != IGNORED and row["hat"] != IGNORED


def test_pairs_are_blocks_of_two_people_in_the_same_two_outfits(pairs):
    assert pairs.images.shape == (16, 96, 48, 3) and pairs.images.dtype == np.uint8
    assert pairs.colour.shape == pairs.gray.shape == (16, 64) and pairs.labels.shape == (16, len(NAMES))
    own, worn = pairs.labels[:, :OWN].reshape(4, 2, 2, -1), pairs.labels[:, OWN:].reshape(4, 2, 2, -1)
    assert (own[:, :, 0] == own[:, :, 1]).all()  # one person, two outfits
    assert (worn[:, 0] == worn[:, 1]).all()  # both people in them
    assert (own[:, 0] != own[:, 1]).any(axis=(1, 2)).all() and (worn[:, :, 0] != worn[:, :, 1]).any(axis=(1, 2)).all()
    assert len({tuple(block.ravel()) for block in own}) == 4
    assert len({image.tobytes() for image in pairs.images}) == 16


def test_a_chunk_is_a_function_of_its_number_and_no_world_draws_the_same(pairs):
    again, other = pretraining.render_chunk(5, 16), pretraining.render_chunk(6, 16)
    for name in ("images", "colour", "gray", "labels"):
        assert np.array_equal(getattr(again, name), getattr(pairs, name))
        assert not np.array_equal(getattr(other, name), getattr(pairs, name))
    rng = np.random.default_rng((pretraining.pairs.PRETRAINING_SEED, 5))
    assert people.draw_person(rng) != people.draw_person(np.random.default_rng((0, 7, 0)))


def test_captions_are_ids_of_the_small_clips_own_tokenizer(pairs, random_clip):
    tokenizer = random_clip.tokenizer
    words = {new: tokenizer.tokenizer.decode([old]).strip() for old, new in tokenizer.ids.items()}
    gray = random_clip.tokenize(["a grayscale photo of a"])[0, 1:6]
    for colour_row, gray_row in zip(pairs.colour, pairs.gray, strict=True):
        assert gray_row[1:6].tolist() == gray.tolist()
        assert [words[i] for i in colour_row[1:5]] == ["a", "photo", "of", "a"]
        assert colour_row.max() == gray_row.max() == max(tokenizer.ids.values())


def test_rendered_chunks_are_kept_and_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining.pairs, "CHUNK", 8)
    monkeypatch.setattr(pretraining.pairs, "ProcessPoolExecutor", ThreadPoolExecutor)
    drawn = pretraining.render(16, tmp_path, processes=2)
    parts = [pretraining.render_chunk(i, 8) for i in range(2)]
    monkeypatch.setattr(pretraining.pairs, "render_chunk", lambda *_: pytest.fail("drawn again"))
    for name in ("images", "colour", "gray", "labels"):
        joined = np.concatenate([getattr(part, name) for part in parts])
        assert np.array_equal(getattr(drawn, name), joined)
        assert np.array_equal(getattr(pretraining.render(16, tmp_path, 2), name), joined)
    next(tmp_path.glob("*/0-16-labels.npy")).unlink()
    assert np.array_equal(pretraining.render(16, tmp_path, 2).labels, drawn.labels)  # joined again from its chunks
    with pytest.raises(InputError, match="pairs = 12: .*chunks of 8"):
        pretraining.render(12, tmp_path, 2)
    with pytest.raises(InputError, match="seed = 100: .*0 to 99"):
        pretraining.render(16, tmp_path, 2, seed=100)


def test_another_seed_draws_other_pairs(tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining.pairs, "CHUNK", 8)
    monkeypatch.setattr(pretraining.pairs, "ProcessPoolExecutor", ThreadPoolExecutor)
    first, second = (pretraining.render(8, tmp_path, 2, seed) for seed in (0, 1))
    assert np.array_equal(second.images, pretraining.render_chunk(pretraining.pairs.CHUNKS, 8).images)
    assert not np.array_equal(first.images, second.images)


# ---------------------------------------------------------------- batches


def test_batches_are_whole_blocks_mirrored_or_not_and_no_block_twice_before_all_were_seen(pairs):
    known = {image.transpose(2, 0, 1).tobytes(): i for i, image in enumerate(pairs.images)}
    mirrored = {image[:, ::-1].transpose(2, 0, 1).tobytes(): i for i, image in enumerate(pairs.images)}
    seen, flips = [], 0
    for images, tokens, labels in pretraining.batches(pairs, 8, 4, seed=0, gray_share=0.0):
        assert images.shape == (8, 3, 96, 48) and 0 <= images.min() and images.max() <= 1
        raw = [image.numpy().tobytes() for image in (images * 255).round().to(torch.uint8)]
        rows = [known.get(image, mirrored.get(image)) for image in raw]
        flips += sum(image in mirrored for image in raw)
        assert (np.array(rows).reshape(2, 4) % 4 == np.arange(4)).all()  # whole blocks, in order
        assert np.array_equal(tokens, pairs.colour[rows]) and np.array_equal(labels, pairs.labels[rows])
        seen += rows
    assert sorted(seen[:16]) == sorted(seen[16:]) == list(range(16))
    assert 4 < flips < 28


def test_gray_items_are_gray_say_so_and_are_not_asked_for_colours(pairs):
    images, tokens, labels = next(pretraining.batches(pairs, 16, 1, seed=0, gray_share=1.0))
    assert torch.equal(images[:, 0], images[:, 1]) and torch.equal(images[:, 0], images[:, 2])
    assert {tuple(row) for row in tokens.tolist()} == {tuple(row) for row in pairs.gray.tolist()}
    asked = dict(zip(NAMES, (labels != IGNORED).any(dim=0).tolist(), strict=True))
    blind = {name for name in NAMES if "colour" in name or name == "skin"}
    assert len(blind) == 7 and {name for name, any_asked in asked.items() if not any_asked} == blind
    mixed = [labels for _, _, labels in pretraining.batches(pairs, 16, 20, seed=1)]
    skin = torch.cat(mixed)[:, NAMES.index("skin")]
    assert (skin == IGNORED).float().mean() == pytest.approx(0.15, abs=0.06)
    first, again = (next(pretraining.batches(pairs, 16, 1, seed=3)) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


# ---------------------------------------------------------------- losses


def log_softmax(row: list[float], k: int) -> float:
    top = max(row)
    return row[k] - top - math.log(sum(math.exp(value - top) for value in row))


def test_the_contrastive_loss_is_infonce_both_ways():
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 8, generator=generator), dim=-1) for _ in range(2))
    scale, total = 7.0, 0.0
    for i in range(5):
        total -= log_softmax([scale * float(image[i] @ text[j]) for j in range(5)], i) / 10
        total -= log_softmax([scale * float(text[i] @ image[j]) for j in range(5)], i) / 10
    assert float(pretraining.contrastive(image, text, torch.tensor(scale))) == pytest.approx(total, rel=1e-5)


def test_the_attribute_loss_is_a_mean_over_attributes_of_a_mean_over_images_that_show_them():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(4, values, generator=generator) for values in (3, 2, 5)]
    labels = torch.tensor([[0, IGNORED, 4], [2, IGNORED, IGNORED], [1, IGNORED, 0], [IGNORED, IGNORED, 3]])
    means = []
    for a in (0, 2):  # nobody shows the second
        shown = [i for i in range(4) if labels[i, a] != IGNORED]
        losses = [-log_softmax(logits[a][i].tolist(), int(labels[i, a])) for i in shown]
        means.append(sum(losses) / len(losses))
    assert float(pretraining.attribute_loss(logits, labels)) == pytest.approx(sum(means) / 2, rel=1e-5)


def test_prototypes_are_cosines_and_a_sentence_is_asked_for_its_own_value():
    prototypes = pretraining.Prototypes(8).requires_grad_(False)
    generator, chosen = torch.Generator().manual_seed(0), [NAMES.index("build"), NAMES.index("hat")]
    sentences = [F.normalize(torch.randn(3, 8, generator=generator), dim=-1) for _ in chosen]
    sizes, scale = prototypes.sizes, float(prototypes.log_scale.detach().exp())
    total = 0.0
    for a, features in zip(chosen, sentences, strict=True):
        first = sum(sizes[:a])
        directions = prototypes.directions.detach()[first : first + sizes[a]]
        for k, unit in enumerate(features):
            row = [scale * float(unit @ d) / float(d.norm()) for d in directions]
            assert [float(x) for x in prototypes(features)[a][k]] == pytest.approx(row, rel=1e-4, abs=1e-4)
            total -= log_softmax(row, k) / 3 / 2
    assert float(prototypes.sentence_loss(sentences, chosen)) == pytest.approx(total, rel=1e-4)


def test_attributes_are_asked_at_full_weight_while_it_learns_to_see_and_not_at_the_end():
    weights = [pretraining.attribute_weight(progress) for progress in (0.0, 0.5, 0.725, 0.95, 1.0)]
    assert weights == pytest.approx([2.0, 2.0, 1.0, 0.0, 0.0])


def test_questions_are_the_chosen_attributes_sentences(random_clip):
    chosen = [NAMES.index("stature"), NAMES.index("hat")]
    with torch.no_grad():
        asked = Questions(random_clip).features(random_clip, chosen)
        for features, name in zip(asked, ("stature", "hat"), strict=True):
            texts = list(people.attribute_prompts()[name].values())
            expected = F.normalize(random_clip.text_features(texts), dim=-1)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- the recipe runs


def test_six_steps_of_the_clip_and_two_of_the_resnet(pairs, accelerator, tmp_path, monkeypatch):
    monkeypatch.setattr(pretraining.recipe, "Progress", partial(pretraining.Progress, every=2))
    log = tmp_path / "logs/log.jsonl"

    def train() -> tuple:
        with torch.random.fork_rng(devices=[]):
            clip = pretraining.train_clip(pairs, 6, 16, 0, log, accelerator)
            return clip, pretraining.train_resnet(pairs, 2, 16, 0, log, accelerator)

    clip, resnet = train()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        start = load_clip("csgn-tiny", None, pretraining.SIZE).model.state_dict()
    for name, value in clip.model.state_dict().items():
        assert torch.isfinite(value).all() and not torch.equal(value, start[name]), name
    assert not clip.training and not resnet.training
    told = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["tower"], line["step"]) for line in told] == [*(("clip", step) for step in (2, 4, 6)), ("resnet", 2)]
    taught = {"classifiers", "prototypes", "sentences", "questions"}
    assert all(taught <= set(line) and line["questions"] > 0.5 for line in told[:3])
    assert ["contrastive" in line for line in told] == [False, True, True, False]
    assert 2 < told[2]["contrastive"] < 4  # log 16 = 2.8 is chance
    assert told[3]["classifiers"] > 0.5 and not taught - {"classifiers"} & set(told[3])
    again, _ = train()
    assert all(torch.equal(a, b) for a, b in zip(clip.parameters(), again.parameters(), strict=True))


def test_progress_writes_the_mean_of_every_so_many_steps(accelerator, tmp_path, capsys):
    progress = pretraining.Progress(tmp_path / "log", "clip", accelerator, every=2)
    for step, value in enumerate((1.0, 3.0, 10.0, 20.0, 7.0)):
        progress.add(step, loss=torch.tensor(value))
    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in told] == [(2, 2.0), (4, 15.0)]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_half_precision_files_come_back_rounded(random_clip, tmp_path):
    pretraining.save_half(random_clip.model, tmp_path / "clip.safetensors")
    resnet = load_resnet("csgn_tiny_resnet", None).model
    pretraining.save_half(resnet, tmp_path / "resnet.safetensors")
    assert {value.dtype for value in load_file(tmp_path / "clip.safetensors").values()} == {torch.float16}
    loaded = load_clip("csgn-tiny", str(tmp_path / "clip.safetensors"), pretraining.SIZE).model
    other = load_resnet("csgn_tiny_resnet", str(tmp_path / "resnet.safetensors")).model
    for original, copy in ((random_clip.model, loaded), (resnet, other)):
        for name, value in original.state_dict().items():
            if value.is_floating_point():
                assert torch.equal(copy.state_dict()[name], value.half().float()), name


# ---------------------------------------------------------------- the scores


def test_zero_shot_counts_right_answers_among_those_who_show_the_attribute(pairs, random_clip):
    report = pretraining.zero_shot(random_clip, pairs)
    assert list(report) == NAMES
    with torch.no_grad():
        images = torch.from_numpy(pairs.images).permute(0, 3, 1, 2).float() / 255
        features = F.normalize(random_clip.visual_features(images).zp, dim=-1)
        for name in ("stature", "shoulders", "upper*upper_colour"):
            texts = list(people.attribute_prompts()[name].values())
            said = F.normalize(random_clip.text_features(texts), dim=-1)
            truth = [int(label) for label in pairs.labels[:, NAMES.index(name)]]
            shown = [i for i in range(16) if truth[i] != IGNORED]
            right = [truth[i] == int((said @ features[i]).argmax()) for i in shown]
            often = max([truth[i] for i in shown].count(value) for value in range(len(texts)))
            assert report[name]["accuracy"] == pytest.approx(sum(right) / len(right), abs=1e-4)
            assert report[name]["majority"] == pytest.approx(often / len(shown), abs=1e-4)


class BrightnessOnly(torch.nn.Module):
    """Stands in for a CLIP: an image is its mean colour, a text its length."""

    def visual_features(self, images: torch.Tensor) -> object:
        return type("Seen", (), {"zp": images.mean(dim=(2, 3))})

    def text_features(self, texts: tuple[str, ...]) -> torch.Tensor:
        return torch.tensor([[float(len(text)), 1.0, 0.0] for text in texts])


def test_what_moves_the_features_is_measured_against_the_same_scene():
    moves = pretraining.colour_sensitivity(BrightnessOnly(), people_count=6)
    assert list(moves) == ["image_recoloured", "image_person", "image_again", "image_gray",
                           "text_colour_word", "text_body_word"]  # fmt: skip
    assert all(moves[name] > 0 for name in moves if name.startswith("image"))
    assert pretraining.colour_sensitivity(BrightnessOnly(), people_count=6) == moves
