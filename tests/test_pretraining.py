"""Training recipe of the embedded models: data, captions, losses and files, and a few training steps."""

from __future__ import annotations

import json
import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from csgn_lib import backbones
from csgn_lib.backbones import CompactTokenizer, load_clip, load_resnet, tiny_words
from csgn_lib.records import InputError
from csgn_lib.synthetic import words
from csgn_lib.synthetic.attributes import MEASURES, Levels
from csgn_lib.synthetic.garments import COLOURS, draw_outfit
from csgn_lib.synthetic.people import draw_person
from csgn_lib.synthetic.pretraining import LabelledPictures, Pictures, batches, labelled, losses, pairs, recipe, scores
from csgn_lib.synthetic.pretraining.labels import COLOURED, IGNORED, TARGETS
from csgn_lib.synthetic.pretraining.muon import Muon
from csgn_lib.synthetic.scenes import Picture
from csgn_lib.synthetic.worlds import World, person_of

LEVELS = Levels(dict.fromkeys(MEASURES, 0.2), dict.fromkeys(MEASURES, 0.8))
PROMPTS = words.attribute_prompts()


@pytest.fixture(scope="module")
def train() -> LabelledPictures:
    """Two blocks of people and outfits with noise as pictures; nothing is rendered."""
    scenes, rng = pairs.scenes_of(7)[:24], np.random.default_rng(0)
    measured = {id(scene.person): rng.random(len(MEASURES), dtype=np.float32) for scene in scenes}
    images = rng.integers(0, 256, (24, 96, 48, 3), dtype=np.uint8)
    return labelled(Pictures(images, scenes, np.stack([measured[id(scene.person)] for scene in scenes])), LEVELS)


def test_captions_use_small_clip_vocabulary_and_gray_captions_name_no_clothing_colour():
    rng, tokenizer = np.random.default_rng(0), CompactTokenizer(words.world_words(), 64)
    for _ in range(80):
        person, outfit = draw_person(rng, 1.0, 0.07, 1.0), draw_outfit(rng)
        described = (rng, person, outfit, {name: rng.random() for name in MEASURES}, LEVELS)
        colour, gray = words.photo_caption(*described), words.photo_caption(*described, gray=True)
        assert colour.startswith("a photo of a") and gray.startswith("a grayscale photo of a")
        tokenizer([colour, gray])  # raises for unknown words and for texts that are too long
        worn = re.sub(r" with .*", "", gray.partition(" wearing ")[2])
        assert not re.search(rf"(?<![\w-])({'|'.join(COLOURS)})\b", worn)


def test_values_have_sentences_and_dresses_have_no_lower_garment():
    rng, dresses = np.random.default_rng(1), 0
    for _ in range(150):
        person, outfit = draw_person(rng, 1.0, 0.07, 1.0), draw_outfit(rng)
        measures = {name: rng.random() for name in MEASURES}
        true = words.values(person, outfit, measures, LEVELS)
        assert {name for name in PROMPTS if true[name] not in PROMPTS[name]} <= {
            *MEASURES, "lower", "hair_colour", "bag_colour", "hat_colour"}  # fmt: skip
        assert (true["stature"] == "none") == (0.2 <= measures["stature"] <= 0.8)
        dresses += outfit.upper == "dress" and true["lower"] == "none"
    assert dresses > 2


def test_chunk_has_blocks_of_two_people_in_two_outfits_absent_from_worlds():
    scenes = pairs.scenes_of(3)
    assert len(scenes) == pairs.CHUNK and scenes == pairs.scenes_of(3) != pairs.scenes_of(4)
    blocks = np.arange(pairs.CHUNK).reshape(-1, pairs.PEOPLE, pairs.OUTFITS, pairs.IMAGES)
    for block in blocks:
        for one in range(pairs.PEOPLE):
            assert len({id(scenes[i].person) for i in block[one].ravel()}) == 1
            assert len({id(scenes[i].outfit) for i in block[:, one].ravel()}) == 1
    assert len({scene.moment.seed for scene in scenes}) == pairs.CHUNK
    assert scenes[0].person not in [person_of(World(), number) for number in range(20)]


def test_interrupted_rendering_resumes(tmp_path, monkeypatch):
    drawn = []

    def draw(scenes, size):
        drawn.append(len(scenes))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return [Picture(np.full((size, size // 2, 3), len(drawn), np.uint8), np.zeros((1, 1), np.uint8))] * len(scenes)

    monkeypatch.setattr(pairs, "draw", draw)
    monkeypatch.setattr(pairs, "measures_of", lambda people: np.zeros((len(people), len(MEASURES)), np.float32))
    with pytest.raises(KeyboardInterrupt):
        pairs.render(range(2), tmp_path)
    assert [file.name for file in tmp_path.rglob("*.*")] == ["00000.npz"]
    found = pairs.render(range(2), tmp_path)
    assert found.images[:: pairs.CHUNK, 0, 0, 0].tolist() == [1, 3] and len(found.scenes) == 2 * pairs.CHUNK
    with pytest.raises(InputError, match="no pictures to render"):
        pairs.render((), tmp_path)


def test_batch_has_one_picture_per_person_and_outfit_and_gray_pictures_have_no_colour_targets(train):
    names = list(PROMPTS)
    unseen = [names.index(name) for name in words.UNSEEN_IN_GRAY]
    for gray in (0.0, 1.0):
        images, tokens, labels, targets = next(batches(train, 8, 1, seed=0, gray_share=gray))
        assert images.shape == (8, 3, 96, 48) and 0 <= images.min() and images.max() <= 1
        written = train.gray if gray else train.colour
        rows = [int(np.flatnonzero((written == row).all(1))[0]) for row in tokens.numpy()]
        assert [row // pairs.IMAGES % 4 for row in rows] == [0, 1, 2, 3] * 2
        assert bool((labels[:, unseen] == IGNORED).all()) == bool(gray)
        assert targets.shape == (8, TARGETS) and bool(targets[:, COLOURED:].isnan().all()) == bool(gray)
        assert not targets[:, :COLOURED].isnan().any()
        assert torch.equal(images[:, 0], images[:, 1]) == bool(gray)


def test_both_models_train_reproducibly_and_log_all_losses(train, tmp_path, accelerator):
    log = tmp_path / "log.jsonl"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(losses, "EVERY", 2)
        clip = recipe.train_clip(train, 4, 8, 0, log, accelerator)
        resnet = recipe.train_resnet(train, 2, 8, 0, log, accelerator)
    assert not clip.training and not resnet.training
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"classifiers", "measures", "prototypes", "sentences", "questions"} <= set(lines[0])
    assert "contrastive" in lines[1] and lines[-1]["tower"] == "resnet"
    with torch.random.fork_rng():
        again = recipe.train_clip(train, 4, 8, 0, log, accelerator)
        torch.manual_seed(0)
        start = load_clip("csgn-tiny", None, (pairs.HEIGHT, pairs.WIDTH)).state_dict()
    for name, value in clip.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
        assert torch.isfinite(value).all() and not torch.equal(value, start[name]), name
    report = scores.zero_shot(clip, train, train)
    read = scores.readable(resnet, train, train)
    assert set(read["names"]) <= set(PROMPTS) and set(read["numbers"]) == set(scores.OWN_NUMBERS)
    assert set(report) <= set(PROMPTS) and all(0 <= row["zero_shot"] <= 1 for row in report.values())


def test_ridge_regression_classifies_separable_features():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (90,), generator=generator)
    rows = torch.randn(90, 5, generator=generator) + 6 * torch.nn.functional.one_hot(labels, 5)
    assert (scores._read(rows[:60], labels[:60], 3, rows[60:]) == labels[60:]).float().mean() > 0.95


def test_missing_checkpoint_error_names_make_target(monkeypatch, tmp_path):
    assert set(tiny_words()) == set(words.world_words())
    monkeypatch.setattr(backbones.checkpoints, "TOWERS", tmp_path)
    with pytest.raises(InputError, match="csgn-tiny-resnet-1.safetensors is not there; make tiny-clip"):
        load_resnet("csgn_tiny_resnet", "embedded-1")


def test_muon_agrees_with_torch():
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(shape, generator=generator) for shape in ((8, 24), (24, 8))]
    ours, theirs = ([start.clone().requires_grad_() for start in starts] for _ in range(2))
    optimizers = [Muon(ours, 0.02, 0.95, 0.05), torch.optim.Muon(theirs, 0.02, momentum=0.95, weight_decay=0.05)]
    for _ in range(3):
        slopes = [torch.randn(start.shape, generator=generator) for start in starts]
        for matrices, optimizer in zip((ours, theirs), optimizers, strict=True):
            for matrix, slope in zip(matrices, slopes, strict=True):
                matrix.grad = slope.clone()
            optimizer.step()
    for start, mine, other in zip(starts, ours, theirs, strict=True):
        assert (mine - start).norm() > 0.1
        assert (mine - other).norm() < 0.02 * (mine - start).norm()


# ---------------------------------------------------------------- losses


def log_softmax(row: list[float], k: int) -> float:
    top = max(row)
    return row[k] - top - math.log(sum(math.exp(value - top) for value in row))


def test_contrastive_loss_is_symmetric_infonce():
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(5, 8, generator=generator), dim=-1) for _ in range(2))
    scale, total = 7.0, 0.0
    for i in range(5):
        total -= log_softmax([scale * float(image[i] @ text[j]) for j in range(5)], i) / 10
        total -= log_softmax([scale * float(text[i] @ image[j]) for j in range(5)], i) / 10
    assert float(losses.contrastive(image, text, torch.tensor(scale))) == pytest.approx(total, rel=1e-5)


def test_attribute_loss_is_mean_over_attributes_of_mean_over_labelled_images():
    generator = torch.Generator().manual_seed(0)
    logits = [torch.randn(4, values, generator=generator) for values in (3, 2, 5)]
    labels = torch.tensor([[0, IGNORED, 4], [2, IGNORED, IGNORED], [1, IGNORED, 0], [IGNORED, IGNORED, 3]])
    means = []
    for a in (0, 2):  # the second attribute has no label
        shown = [i for i in range(4) if labels[i, a] != IGNORED]
        ours = [-log_softmax(logits[a][i].tolist(), int(labels[i, a])) for i in shown]
        means.append(sum(ours) / len(ours))
    assert float(losses.attribute_loss(logits, labels)) == pytest.approx(sum(means) / 2, rel=1e-5)


def test_prototype_logits_are_scaled_cosines_and_sentences_are_classified_as_own_value():
    prototypes = losses.Prototypes(8).requires_grad_(False)
    generator, chosen = torch.Generator().manual_seed(0), [list(PROMPTS).index("lower"), list(PROMPTS).index("hat")]
    sizes = prototypes.sizes
    sentences = [F.normalize(torch.randn(sizes[a], 8, generator=generator), dim=-1) for a in chosen]
    scale = float(prototypes.log_scale.detach().exp())
    total = 0.0
    for a, features in zip(chosen, sentences, strict=True):
        first = sum(sizes[:a])
        directions = prototypes.directions.detach()[first : first + sizes[a]]
        for k, unit in enumerate(features):
            row = [scale * float(unit @ d) / float(d.norm()) for d in directions]
            assert [float(x) for x in prototypes(features)[a][k]] == pytest.approx(row, rel=1e-4, abs=1e-4)
            total -= log_softmax(row, k) / sizes[a] / 2
    assert float(prototypes.sentence_loss(sentences, chosen)) == pytest.approx(total, rel=1e-4)


def test_attribute_weight_is_constant_then_decreases_to_zero():
    weights = [losses.attribute_weight(progress) for progress in (0.0, 0.5, 0.725, 0.95, 1.0)]
    assert weights == pytest.approx([2.0, 2.0, 1.0, 0.0, 0.0])


def test_questions_encode_sentences_of_chosen_attributes(random_clip):
    chosen = [list(PROMPTS).index("stature"), list(PROMPTS).index("hat")]
    with torch.no_grad():
        asked = losses.AttributeSentences(random_clip).features(random_clip, chosen)
        for features, name in zip(asked, ("stature", "hat"), strict=True):
            texts = list(PROMPTS[name].values())
            expected = F.normalize(random_clip.text_features(texts), dim=-1)
            torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- log and files


def test_progress_logs_mean_losses_of_every_n_steps(accelerator, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(losses, "EVERY", 2)
    progress = losses.Progress(tmp_path / "log", "clip", accelerator)
    for step, value in enumerate((1.0, 3.0, 10.0, 20.0, 7.0)):
        progress.add(step, loss=torch.tensor(value))
    described = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in described] == [(2, 2.0), (4, 15.0)]
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_saved_weights_are_rounded_to_half_precision(random_clip, tmp_path):
    losses.save_half(random_clip.model, tmp_path / "clip.safetensors")
    resnet = load_resnet("csgn_tiny_resnet", None).model
    losses.save_half(resnet, tmp_path / "resnet.safetensors")
    assert {value.dtype for value in load_file(tmp_path / "clip.safetensors").values()} == {torch.float16}
    loaded = load_clip("csgn-tiny", str(tmp_path / "clip.safetensors"), (pairs.HEIGHT, pairs.WIDTH)).model
    other = load_resnet("csgn_tiny_resnet", str(tmp_path / "resnet.safetensors")).model
    for original, copy in ((random_clip.model, loaded), (resnet, other)):
        for name, value in original.state_dict().items():
            if value.is_floating_point():
                assert torch.equal(copy.state_dict()[name], value.half().float()), name
