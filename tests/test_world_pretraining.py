"""The recipe of the rendered world's towers: what it draws, says and asks, and that it runs; not that it learns."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from csgn_lib import backbones
from csgn_lib.backbones import CompactTokenizer, load_resnet, tiny_words
from csgn_lib.records import InputError
from csgn_lib.synthetic.pretraining.muon import Muon
from csgn_lib.synthetic.rendered import words
from csgn_lib.synthetic.rendered.attributes import MEASURES, Levels
from csgn_lib.synthetic.rendered.garments import COLOURS, draw_outfit
from csgn_lib.synthetic.rendered.people import draw_person
from csgn_lib.synthetic.rendered.pretraining import Lessons, Pictures, batches, lessons, pairs, recipe, scores
from csgn_lib.synthetic.rendered.pretraining.labels import COLOURED, IGNORED, TARGETS
from csgn_lib.synthetic.rendered.scenes import Picture
from csgn_lib.synthetic.rendered.worlds import World, person_of

LEVELS = Levels(dict.fromkeys(MEASURES, 0.2), dict.fromkeys(MEASURES, 0.8))
PROMPTS = words.attribute_prompts()


@pytest.fixture(scope="module")
def taught() -> Lessons:
    """Two blocks of people and clothes, on noise instead of pictures: nothing is rendered."""
    scenes, rng = pairs.scenes_of(7)[:24], np.random.default_rng(0)
    measured = {id(scene.person): rng.random(len(MEASURES), dtype=np.float32) for scene in scenes}
    images = rng.integers(0, 256, (24, 96, 48, 3), dtype=np.uint8)
    return lessons(Pictures(images, scenes, np.stack([measured[id(scene.person)] for scene in scenes])), LEVELS)


def test_captions_use_the_small_clips_words_and_gray_ones_name_no_colour_of_clothes():
    rng, tokenizer = np.random.default_rng(0), CompactTokenizer(words.world_words(), 64)
    for _ in range(80):
        person, outfit = draw_person(rng, 1.0, 0.07, 1.0), draw_outfit(rng)
        told = (rng, person, outfit, {name: rng.random() for name in MEASURES}, LEVELS)
        colour, gray = words.photo_caption(*told), words.photo_caption(*told, gray=True)
        assert colour.startswith("a photo of a") and gray.startswith("a grayscale photo of a")
        tokenizer([colour, gray])  # refuses a word that it does not know, and a text that is too long
        worn = re.sub(r" with .*", "", gray.partition(" wearing ")[2])
        assert not re.search(rf"(?<![\w-])({'|'.join(COLOURS)})\b", worn)


def test_every_value_has_a_sentence_and_a_dress_no_lower_garment():
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


def test_a_chunk_is_blocks_of_two_people_in_the_same_two_outfits_and_no_world_draws_them():
    scenes = pairs.scenes_of(3)
    assert len(scenes) == pairs.CHUNK and scenes == pairs.scenes_of(3) != pairs.scenes_of(4)
    blocks = np.arange(pairs.CHUNK).reshape(-1, pairs.PEOPLE, pairs.OUTFITS, pairs.IMAGES)
    for block in blocks:
        for one in range(pairs.PEOPLE):
            assert len({id(scenes[i].person) for i in block[one].ravel()}) == 1
            assert len({id(scenes[i].outfit) for i in block[:, one].ravel()}) == 1
    assert len({scene.moment.seed for scene in scenes}) == pairs.CHUNK
    assert scenes[0].person not in [person_of(World(), number) for number in range(20)]


def test_rendering_goes_on_where_it_was_interrupted(tmp_path, monkeypatch):
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
    lines: list[str] = []
    found = pairs.render(range(2), tmp_path, report=lines.append)
    assert found.images[:: pairs.CHUNK, 0, 0, 0].tolist() == [1, 3] and len(found.scenes) == 2 * pairs.CHUNK
    assert len(lines) == 1 and "1/1 chunks" in lines[0] and "min left" in lines[0]
    with pytest.raises(InputError, match="no pictures to render"):
        pairs.render((), tmp_path)


def test_a_batch_has_one_picture_of_each_person_and_outfit_and_gray_ones_teach_no_colour(taught):
    names = list(PROMPTS)
    unseen = [names.index(name) for name in words.UNSEEN_IN_GRAY]
    for gray in (0.0, 1.0):
        images, tokens, labels, targets = next(batches(taught, 8, 1, seed=0, gray_share=gray))
        assert images.shape == (8, 3, 96, 48) and 0 <= images.min() and images.max() <= 1
        written = taught.gray if gray else taught.colour
        rows = [int(np.flatnonzero((written == row).all(1))[0]) for row in tokens.numpy()]
        assert [row // pairs.IMAGES % 4 for row in rows] == [0, 1, 2, 3] * 2
        assert bool((labels[:, unseen] == IGNORED).all()) == bool(gray)
        assert targets.shape == (8, TARGETS) and bool(targets[:, COLOURED:].isnan().all()) == bool(gray)
        assert not targets[:, :COLOURED].isnan().any()
        assert torch.equal(images[:, 0], images[:, 1]) == bool(gray)


def test_both_towers_take_steps_and_the_log_names_every_loss(taught, tmp_path, accelerator):
    log = tmp_path / "log.jsonl"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        patch.setattr(recipe, "EVERY", 2)
        clip = recipe.train_clip(taught, 4, 8, 0, log, accelerator)
        resnet = recipe.train_resnet(taught, 2, 8, 0, log, accelerator)
    assert not clip.training and not resnet.training
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {"classifiers", "measures", "prototypes", "sentences", "questions"} <= set(lines[0])
    assert "contrastive" in lines[1] and lines[-1]["tower"] == "resnet"
    report = scores.zero_shot(clip, taught, taught)
    read = scores.readable(resnet, taught, taught)
    assert set(read["names"]) <= set(PROMPTS) and set(read["numbers"]) == set(scores.OWN_NUMBERS)
    assert set(report) <= set(PROMPTS) and all(0 <= row["zero_shot"] <= 1 for row in report.values())


def test_the_supervised_reader_is_ridge_regression():
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(3, (90,), generator=generator)
    rows = torch.randn(90, 5, generator=generator) + 6 * torch.nn.functional.one_hot(labels, 5)
    assert (scores._read(rows[:60], labels[:60], 3, rows[60:]) == labels[60:]).float().mean() > 0.95


def test_missing_tower_is_refused_with_its_recipe(monkeypatch, tmp_path):
    assert set(tiny_words("csgn-rendered")) == set(words.world_words())
    monkeypatch.setattr(backbones.checkpoints, "TOWERS", tmp_path)
    with pytest.raises(InputError, match="csgn-rendered-resnet-1.safetensors is not there; make rendered-clip"):
        load_resnet("csgn_rendered_resnet", "embedded-1")


def test_muon_is_torchs_in_float32():
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
