"""Probes: counterfactual images, sentences, subspaces, descriptions."""

from __future__ import annotations

import colorsys
import re
import shutil
from pathlib import Path

import numpy as np
import open_clip
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from csgn_lib import retrieval, training, vocabulary
from csgn_lib.analysis import probes
from csgn_lib.analysis.probes import colour
from csgn_lib.backbones import ClipTower, CompactTokenizer, tiny_words
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.synthetic import PARTS, Entry, World, attribute_prompts, draw, entries
from csgn_lib.vocabulary import Phrase
from csgn_lib.vss import Embeddings


def small_clip(words: tuple[str, ...] | None = None) -> ClipTower:
    """A random CLIP of width 32: it reads all English, or only ``words``."""
    torch.manual_seed(0)
    model = open_clip.CLIP(
        16,
        {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 16},
        {"context_length": 48, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    ).eval()
    tokenizer = CompactTokenizer(words, 48) if words else open_clip.SimpleTokenizer(context_length=48)
    return ClipTower(model, tokenizer, (0.5,) * 3, (0.5,) * 3)


@pytest.fixture(scope="module")
def clip() -> ClipTower:
    return small_clip(tiny_words())


SIZE = 64


@pytest.fixture(scope="module")
def pictures() -> list[Entry]:
    """Eight pictures of each of three people in two outfits."""
    return entries(World(people=20, outfits=2, size=SIZE), "validation")


# ---------------------------------------------------------------- pictures


def test_recolouring_changes_only_clothes(pictures: list[Entry]) -> None:
    shots = probes.counterfactuals(pictures[::5], SIZE)
    worn = [PARTS.index(part) for part in ("upper", "lower", "shoes", "bag", "hat")]
    for i, drawn in enumerate(draw([entry.scene for entry in pictures[::5]], SIZE)):
        clothes = torch.from_numpy(np.isin(drawn.mask, worn))
        near = F.max_pool2d(clothes[None, None].float(), 5, 1, 2)[0, 0].bool()  # blur reaches two pixels
        changed = (shots[probes.RECOLOURED][i] != shots[probes.PICTURE][i]).any(dim=0)
        assert not (changed & ~near).any()
        assert (changed & clothes).sum() > 0.5 * clothes.sum()


def test_counterfactuals_change_only_what_they_name(pictures: list[Entry]) -> None:
    shots = probes.counterfactuals(pictures, SIZE, seed=5)
    plain = shots[probes.PICTURE]
    assert torch.equal(plain[2], torch.from_numpy(pictures[2].scene.draw(SIZE).image).permute(2, 0, 1))
    luminance = (plain.float() * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(dim=1)
    assert torch.allclose(shots[probes.GRAY][:, 1].float(), luminance, atol=0.51)
    others = {entry.person: entry.scene.person for entry in pictures}
    for i, entry in enumerate(pictures[:3]):
        options = [entry.scene.rebodied(who).draw(SIZE).image for n, who in others.items() if n != entry.person]
        seen = shots[probes.OTHER_PERSON][i].permute(1, 2, 0).numpy()
        assert any(np.array_equal(seen, option) for option in options)
    for change in (probes.RECLOTHED, probes.AGAIN):
        assert ((shots[change] != plain).any(dim=1).float().mean(dim=(1, 2)) > 0.02).all(), change
    again = probes.counterfactuals(pictures, SIZE, seed=5, changes=(probes.RECLOTHED,))
    assert torch.equal(again[probes.RECLOTHED], shots[probes.RECLOTHED])


def test_counterfactuals_refuse_pictures_of_one_person(pictures: list[Entry]) -> None:
    with pytest.raises(InputError, match="two people"):
        probes.counterfactuals([entry for entry in pictures if entry.person == pictures[0].person], SIZE)


def test_images_are_embedded_in_order_at_encoder_size() -> None:
    pictures = torch.randint(0, 256, (5, 3, 8, 4), dtype=torch.uint8)

    def encoder(images: Tensor) -> Embeddings:
        assert tuple(images.shape[1:]) == (3, 16, 8) and images.max() <= 1
        return Embeddings(None, None, images.mean(dim=(2, 3)), None)

    found = probes.embed_pictures(encoder, pictures, (16, 8), batch_size=2).f
    assert torch.allclose(found, pictures.float().mean(dim=(2, 3)) / 255, atol=0.02)


def test_colour_sensitivity_by_hand() -> None:
    """Recolouring turns every feature by 60 degrees, another person by 90: (1 - 1/2) / (1 - 0)."""
    east = torch.tensor([[2.0, 0.0]] * 3)
    turned = torch.tensor([[0.5, 3**0.5 / 2]] * 3)
    features = {
        probes.PICTURE: east, probes.RECOLOURED: turned, probes.GRAY: -east, probes.AGAIN: 3 * east,
        probes.OTHER_PERSON: torch.tensor([[0.0, 5.0]] * 3),
    }  # fmt: skip
    moved = probes.movements(features)
    assert moved.mean().to_dict() == pytest.approx(  # what is not there (the hue) is no column
        {probes.RECOLOURED: 0.5, probes.GRAY: 2.0, probes.OTHER_PERSON: 1.0, probes.AGAIN: 0.0}, abs=1e-7
    )
    assert probes.colour_sensitivity(moved, [0, 1, 2]).value == pytest.approx(0.5)
    moved[probes.RECLOTHED] = 0.25
    assert probes.clothes_sensitivity(moved, [0, 1, 2]).value == pytest.approx(0.25)


def test_changes_of_real_images() -> None:
    """Against colorsys, pixel by pixel: one hue angle a picture, saturation and value kept."""
    pictures = torch.randint(0, 256, (6, 3, 4, 2), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    people, cameras = np.array([1, 2, 3, 1, 2, 3]), np.array([0, 0, 0, 5, 5, 0])
    found = probes.real_changes(pictures, people, cameras, seed=1)
    assert torch.equal(found[probes.PICTURE], pictures)
    for i, picture in enumerate(pictures):
        turns = []
        for y in range(4):
            for x in range(2):
                h, s, v = colorsys.rgb_to_hsv(*(picture[:, y, x] / 255).tolist())
                after = colorsys.rgb_to_hsv(*found[probes.HUE][i, :, y, x].tolist())
                assert after[1:] == pytest.approx((s, v), abs=1e-4)
                turns.append((after[0] - h) % 1)
        assert max(turns) - min(turns) < 1e-3 and 1 / 6 - 1e-3 < turns[0] < 5 / 6 + 1e-3
        assert torch.allclose(found[probes.GRAY][i], (picture / 255 * torch.tensor([0.299, 0.587, 0.114])
                              [:, None, None]).sum(0).expand(3, 4, 2), atol=1e-5)  # fmt: skip
        fit = [j for j in range(6) if people[j] != people[i] and cameras[j] == cameras[i]]
        assert any(torch.equal(found[probes.BY_CAMERA][i], pictures[j]) for j in fit)
    again = probes.real_changes(pictures, people, cameras, seed=1)
    assert all(torch.equal(found[name], again[name]) for name in found)
    with pytest.raises(InputError, match="camera 5 shows person 1 alone"):
        probes.real_changes(pictures, people, np.array([0, 0, 0, 5, 0, 0]))


def test_hue_sensitivity_by_hand() -> None:
    moved = pd.DataFrame({probes.HUE: [0.1, 0.3, 0.2, 0.2], probes.BY_CAMERA: [0.5, 0.7, 0.3, 0.5]})
    assert probes.hue_sensitivity(moved, [0, 0, 1, 1]).value == pytest.approx(0.8 / 2.0)


def test_pictures_are_evenly_spaced_within_each_person(pictures: list[Entry]) -> None:
    mixed = pictures[::2] + pictures[1::2]
    found = probes.evenly(mixed, 3)
    for who in {entry.person for entry in pictures}:
        own = [entry for entry in mixed if entry.person == who]
        middle = (len(own) - 1) / 2
        assert [s.path for s in found if s.person == who] == [own[i].path for i in (0, round(middle), -1)]
    assert len(found) == 3 * len({entry.person for entry in pictures})
    assert sorted(s.path for s in probes.evenly(pictures, 99)) == sorted(s.path for s in pictures)  # all, each once


# ---------------------------------------------------------------- the sensitivity of a run

# the embedded towers: features of random ones lie too near each other for float32 to tell how near
EXPERIMENT = Experiment.from_parameters(hsf="none", stage2_epochs=1, batch_persons=4, batch_images=2)


@pytest.fixture(scope="module")
def scored(tiny_benchmark: Benchmark, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of an epoch in the tiny world, scored; copy what is to be changed."""
    run = training.fit(EXPERIMENT, tiny_benchmark, tmp_path_factory.mktemp("scored") / "run")
    retrieval.score_run(run, tiny_benchmark)
    return run


def copied(run: Run, folder: Path, **config: object) -> Run:
    shutil.copytree(run.dir, folder)
    write_json(folder / "config.json", run.config | config)
    return Run(folder)


def test_recorded_sensitivity_equals_that_of_descriptors(
    scored: Run, tiny_world: World, tiny_root: Path, tmp_path: Path
) -> None:
    run = copied(scored, tmp_path / "run", root=str(tiny_root))
    before = run.results
    found = probes.record_sensitivity(run, per_person=2, seed=4, resamples=20)

    shown = probes.evenly(entries(tiny_world, "test"), 2)
    shots = probes.counterfactuals(shown, tiny_world.size, 4)
    encoder, (clip, _) = training.load_encoder(run).eval(), training.load_towers(EXPERIMENT)
    words = retrieval.Vocabularies(clip).features
    with torch.no_grad():
        seen = {name: encoder(images / 255) for name, images in shots.items()}
    assert set(found) == set(before) == {retrieval.PLAIN, retrieval.CLOTHING_REMOVED, retrieval.PERSON_ONLY}
    for name, said in before.items():
        compared, far = said["compared"], dict.fromkeys((probes.RECOLOURED, probes.RECLOTHED, probes.OTHER_PERSON), 0.0)
        basis = None if name == retrieval.PLAIN else vocabulary.subspace(words[name], compared["rank"])

        def row(change: str, i: int, name=name, basis=basis, parts=compared["parts"]) -> Tensor:
            own = {part: value[i].double() for part, value in seen[change].parts().items()}
            if basis is not None:  # the vocabulary's map on f, by hand
                inside = basis.double() @ (basis.double().T @ own["f"])
                own["f"] = inside if name == retrieval.PERSON_ONLY else own["f"] - inside
            return torch.cat([own[part] / own[part].norm() for part in parts])

        for i in range(len(shown)):
            for change in far:
                a, b = row(probes.PICTURE, i), row(change, i)
                far[change] += float(1 - a @ b / a.norm() / b.norm())
        for what, change in (("colour_sensitivity", probes.RECOLOURED), ("clothes_sensitivity", probes.RECLOTHED)):
            assert found[name][what].value == pytest.approx(far[change] / far[probes.OTHER_PERSON], rel=1e-4)

    after = run.results
    recorded = {name: {what: entry.pop(what) for what in found[name]} for name, entry in after.items()}
    assert recorded == {name: {w: interval.record() for w, interval in own.items()} for name, own in found.items()}
    assert after == before  # the scores stay as they were


def test_rendered_counterfactuals_are_kept_and_a_damaged_file_is_rendered_again(
    tiny_world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(colour, "cache", lambda: tmp_path)
    shown = probes.evenly(entries(tiny_world, "test"), 1)
    first = colour._rendered(tiny_world, shown, 0)
    (file,) = tmp_path.glob("*.safetensors")
    kept = file.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(colour, "counterfactuals", None)  # it is not called
        again = colour._rendered(tiny_world, shown, 0)
    file.unlink()  # ``again`` maps the old one
    file.write_bytes(kept[:-1])
    mended = colour._rendered(tiny_world, shown, 0)
    assert file.read_bytes() == kept and first.keys() == again.keys() == mended.keys()
    assert all(torch.equal(first[name], again[name]) and torch.equal(first[name], mended[name]) for name in first)
    assert not torch.equal(colour._rendered(tiny_world, shown, 1)[probes.RECOLOURED], first[probes.RECOLOURED])


@pytest.mark.parametrize("config", [{"benchmark": "ltcc"}, {"root": "elsewhere"}])
def test_run_on_real_images_has_no_sensitivity(scored: Run, tmp_path: Path, config: dict) -> None:
    run = copied(scored, tmp_path / "run", **config)
    before = run.path("results.json").read_bytes()
    assert probes.record_sensitivity(run) == {} and run.path("results.json").read_bytes() == before


def test_unscored_run_is_refused(scored: Run, tmp_path: Path) -> None:
    run = copied(scored, tmp_path / "run")
    write_json(run.path("results.json"), {"plain": {"descriptor": "[f]"}})
    with pytest.raises(InputError, match="does not describe the descriptors.*score the run again"):
        probes.record_sensitivity(run)
    run.path("results.json").unlink()
    with pytest.raises(InputError, match="results.json does not exist; score the run first"):
        probes.record_sensitivity(run)


# ---------------------------------------------------------------- sentences


def test_changed_sentence_differs_in_named_words_only(clip: ClipTower) -> None:
    changes = probes.one_word_changes(clip, 40)
    allowed = {
        "clothes colour": {*vocabulary.COLOURS, "a", "an"}, "pattern": {*vocabulary.PATTERNS},
        "garment": {word for name in vocabulary.GARMENTS["upper"] for word in re.findall("[a-z]+", name)},
        "hair colour": {*vocabulary.HAIR_COLOURS},
        "skin": {"pale", "light", "tan", "brown", "dark"}, "stature": {"very", "short", "tall"},
        "hair style": {"short", "long", "curly", "ponytail", "bun", "afro", "in", "a", "an"},
        "body shape": {"narrow", "wide", "short", "long", "thin", "thick", "small", "large"},
        "grayscale": {"grayscale"},
    }  # fmt: skip
    for row in changes.itertuples():
        assert row.before != row.after
        clip.tokenize([row.before, row.after])
        if row.change in allowed:
            before, after = (sorted(re.findall("[a-z]+", text)) for text in (row.before, row.after))
            odd = {word for word in {*before, *after} if before.count(word) != after.count(word)}
            assert odd and odd <= allowed[row.change], (row.before, row.after)
    assert changes.groupby("sentence").before.nunique().eq(1).all()
    assert {"all of the outfit", "all of the person"} <= set(changes.change)
    pd.testing.assert_frame_equal(changes, probes.one_word_changes(clip, 40))


def test_clip_with_too_few_known_words_is_refused() -> None:
    known = tuple("a photo of person wearing red blue shirt tall and trousers".split())
    with pytest.raises(InputError, match="two are needed"):
        probes.one_word_changes(small_clip(known), 2)


def test_text_movement_is_the_cosine_distance_row_by_row(clip: ClipTower) -> None:
    changes = probes.one_word_changes(clip, 3)
    found = probes.text_movement(clip, changes)
    for i in (0, 7, len(changes) - 1):
        a, b = clip.text_features([changes.before[i], changes.after[i]]).detach().double()
        assert found[i] == pytest.approx(float(1 - a @ b / (a.norm() * b.norm())), abs=1e-6)


# ---------------------------------------------------------------- subspaces


def test_energy_curve_equals_the_plain_projection_and_ends_at_one() -> None:
    rows = torch.randn(12, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    basis = probes.random_basis(6, 6, torch.Generator().manual_seed(1))
    people = np.repeat([0, 1, 2], 4)
    curve = probes.energy_curve(rows, basis, [0, 2, 6], people).set_index("rank")
    inside = sum(float((row @ basis[:, k]) ** 2) for row in rows for k in range(2))
    assert curve.value[2] == pytest.approx(inside / float(rows.square().sum()))
    assert curve.low[2] < curve.value[2] < curve.high[2]
    assert curve.value[0] == 0 and curve.value[6] == pytest.approx(1) == curve.low[6]
    with pytest.raises(InputError, match="rank 7"):
        probes.energy_curve(rows, basis, [7], people)


def test_random_subspaces_hold_rank_over_dimension() -> None:
    rows = torch.randn(5, 20, generator=torch.Generator().manual_seed(0))
    basis = probes.random_basis(20, 4, torch.Generator().manual_seed(1))
    assert torch.allclose(basis.T @ basis, torch.eye(4, dtype=torch.float64))
    found = probes.random_energy(rows, 4, torch.Generator().manual_seed(2))
    assert found.value == pytest.approx(4 / 20, abs=0.02) and found.low < 4 / 20 < found.high


# ---------------------------------------------------------------- descriptions


def test_names_its_identity_equals_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    images, texts = torch.randn(9, 4, generator=generator), torch.randn(3, 4, generator=generator)
    person = torch.tensor([0, 0, 1, 1, 1, 2, 2, 0, 2])
    expected = [max(range(3), key=lambda y: float(image @ texts[y])) == int(own)
                for image, own in zip(images, person, strict=True)]  # fmt: skip
    assert probes.names_its_identity(images, texts, person).tolist() == expected


class Orthogonal:
    """Stands for a CLIP whose every sentence has a direction of its own."""

    def __init__(self) -> None:
        self.row: dict[str, int] = {}

    def text_features(self, texts: list[str]) -> Tensor:
        rows = [self.row.setdefault(text, len(self.row)) for text in texts]
        return F.one_hot(torch.tensor(rows), 600).float()


def test_attributes_in_features_are_read_and_chance_is_exact() -> None:
    clip, sentences = Orthogonal(), attribute_prompts()
    skins = ["pale", "dark", "tan", "pale"]
    truth = {"skin_tone": [{s} for s in skins], "upper_colour": [{"red", "blue"}, {"red"}, {"green"}, {"none"}]}
    said = ["blue", "red", "red", "red"]
    features = torch.stack([
        clip.text_features([sentences["skin_tone"][skin]])[0]
        + clip.text_features([sentences["upper_colour"][colour]])[0]
        for skin, colour in zip(skins, said, strict=True)
    ])  # fmt: skip
    found = probes.read_attributes(clip, features, truth).set_index("attribute")
    assert found.value["skin_tone"] == 1.0 and found.about["skin_tone"] == "person"
    assert found.chance["skin_tone"] == pytest.approx((2 * 2 + 1 + 1) / 16)
    assert found.asked["upper_colour"] == 3 and found.value["upper_colour"] == pytest.approx(2 / 3)
    # answers blue, red, red against the truths {red, blue}, {red}, {green}
    assert found.chance["upper_colour"] == pytest.approx((1 + 2 + 2) / 9)


def test_true_values_cover_all_outfits_of_an_identity() -> None:
    table = pd.DataFrame({"skin_tone": ["tan", "tan", "pale"], "upper_colour": ["red", "blue", "red"]})
    assert probes.true_values(table, [0, 0, 1]) == {
        "skin_tone": [{"tan"}, {"pale"}], "upper_colour": [{"red", "blue"}, {"red"}],
    }  # fmt: skip


def test_nearest_phrases_are_ordered_by_cosine_one_per_factor() -> None:
    said = [Phrase(text, factor, ()) for text, factor in
            (("tall", "stature"), ("short", "stature"), ("red hair", "hair"), ("pale", "skin"))]  # fmt: skip
    generator = torch.Generator().manual_seed(1)
    features, phrases = torch.randn(5, 6, generator=generator), torch.randn(4, 6, generator=generator)
    units = [(x / x.norm(dim=1, keepdim=True)).numpy() for x in (features, phrases)]
    mine, theirs = (x - x.mean(axis=0) for x in units)
    expected = []
    for row in mine:
        cosine = {
            p: float(row @ v / np.linalg.norm(row) / np.linalg.norm(v)) for p, v in zip(said, theirs, strict=True)
        }
        best = [max((p for p in said if p.factor == factor), key=cosine.get) for factor in ("stature", "hair", "skin")]
        expected.append([p.text for p in sorted(best, key=cosine.get, reverse=True)[:2]])
    assert probes.nearest_phrases(features, phrases, said, top=2) == expected


def test_nearest_words_equal_a_loop() -> None:
    random = torch.Generator().manual_seed(5)
    table, learned = torch.randn(9, 4, generator=random), torch.randn(3, 4, generator=random)
    words = [f"w{i}" for i in range(9)]
    found, spacing = probes.nearest_words(learned, words, table, top=2)
    for row, vector in zip(found.itertuples(), learned, strict=True):
        far = {word: float((vector - other).norm()) for word, other in zip(words, table, strict=True)}
        assert row.nearest == ", ".join(sorted(far, key=far.get)[:2])
        assert row.distance == pytest.approx(min(far.values()), rel=1e-5)
    nearest = [min(float((a - b).norm()) for j, b in enumerate(table) if j != i) for i, a in enumerate(table)]
    assert spacing == pytest.approx(sorted(nearest)[4], rel=1e-5)


def test_whole_words_equal_tokens(clip: ClipTower) -> None:
    words, table = clip.whole_words()
    assert {"tall", "person", "red"} <= set(words) and all(word.isalpha() for word in words)
    place = words.index("tall")
    assert torch.equal(table[place], clip.embed_tokens(clip.tokenize(["tall"]))[0, 1])
    full, _ = small_clip().whole_words()
    assert len(full) > 20_000
