"""The embedded world: who wears what, what is drawn, what is said of it, and how it lies on disk."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage, stats

from csgn_lib import synthetic
from csgn_lib.backbones import CompactTokenizer, tiny_words
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, write_json
from csgn_lib.synthetic import PARTS, Scene, World, ensure, people, scenes_of, worlds

SMALL = World(people=(3, 3, 3), wardrobe=(3, 3, 3), images=(1, 2, 2), outfits=2, cameras=2)
WORN = [PARTS.index(part) for part in ("upper", "lower", "shoes", "bag", "hat")]
GARMENTS = {
    word
    for name in (*people.UPPERS, *people.LOWERS, *people.BAGS, *people.HATS, *people.SHOES, *people.PATTERNS)
    for word in name.split()
} - {"no"}


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def drawn(count: int, seed: int = 0) -> list[tuple[people.Person, people.Outfit]]:
    rng = np.random.default_rng(seed)
    return [(people.draw_person(rng), people.draw_outfit(rng)) for _ in range(count)]


def outfit_of(scene: Scene) -> tuple[str, ...]:
    return astuple(scene.outfit)


# ---------------------------------------------------------------- files: the same bytes, or none


def test_a_seed_gives_the_same_bytes_whatever_the_number_of_processes(tiny_world, tiny_root, tmp_path):
    assert digests(ensure(tiny_world, tmp_path / "again", processes=2)) == digests(tiny_root)


def test_another_seed_gives_another_crowd_wardrobe_and_pictures(tiny_world, tiny_root):
    first, second = scenes_of(tiny_world), scenes_of(replace(tiny_world, seed=1))
    assert not {astuple(scene.person) for scene in first} & {astuple(scene.person) for scene in second}
    assert not set(map(outfit_of, first)) & set(map(outfit_of, second))
    assert not {astuple(scene.camera) for scene in first} & {astuple(scene.camera) for scene in second}
    assert not np.array_equal(first[0].draw()[0], second[0].draw()[0])


def test_a_scene_is_drawn_as_it_lies_on_disk(tiny_world, tiny_root):
    from PIL import Image

    for scene in scenes_of(tiny_world)[::60]:
        assert np.array_equal(scene.draw()[0], np.asarray(Image.open(tiny_root / scene.path)))


def test_ltcc_s_reader_reads_the_world(tiny_benchmark):
    # people x 3 outfits x 2 cameras x images; one image of each is the query
    b, v = tiny_benchmark, tiny_benchmark.validation
    assert [len(f) for f in (b.train, b.query, b.gallery)] == [8 * 3 * 2 * 4, 6 * 3 * 2, 6 * 3 * 2]
    assert [len(f) for f in (v.train, v.query, v.gallery)] == [0, 4 * 3 * 2, 4 * 3 * 2]
    assert b.train["person"].nunique() == 8 and b.train["clothes"].nunique() == 24
    assert sorted(b.query["person"].unique()) == list(range(12, 18))
    assert "cloth_changing" in b.protocols and "general" in b.protocols
    assert not b.check(workers=1).errors


def test_default_world_has_the_announced_size():
    per_split = pd.Series([scene.split for scene in scenes_of(World())]).value_counts()
    assert per_split.to_dict() == {"train": 240 * 4 * 2 * 2, "test": 50 * 4 * 2 * 2, "validation": 50 * 4 * 2 * 2}


def test_attributes_csv_tells_the_truth_about_every_file(tiny_benchmark, tiny_world, tiny_root):
    told = pd.read_csv(tiny_root / "attributes.csv", keep_default_na=False)
    ids = ["path", "split", "person", "outfit", "wardrobe", "camera"]
    person, outfit = drawn(1)[0]
    measures = [f"{name}_measure" for name in people.BODY_MEASURES]
    assert list(told) == [*ids, *people.attributes(person, outfit), *measures, "caption"]
    assert not (told == "").any().any()

    told = told.set_index("path")
    frames = [frame for _, frame in tiny_benchmark.frames()]
    assert sorted(told.index) == sorted(pd.concat(frames)["path"])
    for frame in frames:
        row = told.loc[frame["path"]]
        assert (row["person"].to_numpy() == frame["person_label"].astype(int)).all()
        assert (row["camera"].to_numpy() == frame["camera_label"].astype(int)).all()
        worn = frame["clothes_label"].str.split("_").str[1].astype(int)
        assert (row["outfit"].to_numpy() == worn).all()
    for scene in scenes_of(tiny_world)[::37]:
        row = told.loc[scene.path]
        assert row["upper_colour"] == scene.outfit.upper_colour and row["hair_style"] == scene.person.hair_style
        assert row["stature_measure"] == pytest.approx(scene.person.stature, abs=5e-5)
        assert int(row["legs"]) == people.level(scene.person, "legs")


# ---------------------------------------------------------------- ensure


def test_ensure_reuses_what_is_there(tmp_path, monkeypatch):
    root = ensure(SMALL, tmp_path / "w", processes=1)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(worlds, "_render", lambda *_: pytest.fail("rendered again"))
    assert ensure(SMALL, root) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_the_world_of_an_experiment_is_that_of_its_folder(tiny_world, tiny_root, tmp_path):
    assert synthetic.world_of(Experiment.from_parameters(root=str(tiny_root))) == tiny_world
    assert synthetic.world_of(Experiment.from_parameters(world=3)) == World(seed=3)
    assert synthetic.world_of(Experiment.from_parameters(root=str(tmp_path))) is None
    assert synthetic.world_of(Experiment.from_parameters(benchmark="ltcc", root=str(tiny_root))) is None
    for other in ({"world": "another kind"}, {**worlds._description(tiny_world), "format": 0}):
        write_json(tmp_path / "world.json", other)
        assert synthetic.world_of(Experiment.from_parameters(root=str(tmp_path))) is None


def test_ensure_refuses_another_world_a_foreign_folder_and_a_damaged_one(tmp_path):
    root = ensure(SMALL, tmp_path / "w", processes=1)
    before = digests(root)
    for other in (replace(SMALL, seed=5), replace(SMALL, format=SMALL.format + 1), 3):
        with pytest.raises(InputError, match="another world"):
            ensure(other, root)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("all of it")
    with pytest.raises(InputError, match="mine.*no rendered world"):
        ensure(SMALL, tmp_path / "mine")
    with pytest.raises(InputError, match="no rendered world"):
        ensure(SMALL, tmp_path / "mine/thesis.txt")
    assert digests(root) == before and list(digests(tmp_path / "mine")) == ["thesis.txt"]
    (root / "world.json").write_text("{")
    with pytest.raises(InputError, match="world.json"):
        ensure(SMALL, root)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, OSError])
def test_an_interrupted_rendering_leaves_nothing(tmp_path, monkeypatch, error):
    def fail(*_: object) -> None:
        raise error("no space left on device")

    monkeypatch.setattr(worlds, "table", fail)  # after the pictures are drawn
    with pytest.raises(error):
        ensure(SMALL, tmp_path / "w", processes=1)
    assert list(tmp_path.iterdir()) == []


def test_who_comes_second_takes_what_the_first_made(tmp_path, monkeypatch):
    render = worlds._render

    def overtaken(world: World, temporary: Path, processes: int | None) -> None:
        monkeypatch.setattr(worlds, "_render", render)
        ensure(world, tmp_path / "w", processes)
        render(world, temporary, processes)

    monkeypatch.setattr(worlds, "_render", overtaken)
    assert ensure(SMALL, tmp_path / "w", processes=1) == tmp_path / "w"
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


def test_two_processes_may_ask_for_the_same_world(tmp_path):
    code = f"from csgn_lib.synthetic import *; ensure({SMALL!r}, {str(tmp_path / 'w')!r}, processes=1)"
    home = Path(synthetic.__file__).parents[2]
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=home) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    assert ensure(SMALL, tmp_path / "w") and len(list(tmp_path.rglob("*.png"))) == 3 * 2 * 2 * (1 + 2 + 2)


def test_the_default_place_is_the_projects_data_and_the_experiment_finds_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    monkeypatch.setattr(worlds.World.__init__, "__defaults__", (0, *astuple(SMALL)[1:]))
    assert ensure(4, processes=1) == tmp_path / "data" / "synthetic-4"
    benchmark = synthetic.benchmark_for(Experiment.from_parameters(world=4))
    assert benchmark.root == tmp_path / "data" / "synthetic-4" and benchmark.train["person"].nunique() == 3
    with pytest.raises(InputError, match="validation people already"):
        synthetic.benchmark_for(Experiment.from_parameters(world=4, validation_people=2))


# ---------------------------------------------------------------- who wears what


def test_splits_share_neither_people_nor_outfits_and_inside_a_split_outfits_are_shared():
    scenes = scenes_of(World())
    by_split = {split: [scene for scene in scenes if scene.split == split] for split in worlds.SPLITS}
    for one, other in itertools.combinations(by_split.values(), 2):
        assert not {scene.person_id for scene in one} & {scene.person_id for scene in other}
        assert not {astuple(scene.person) for scene in one} & {astuple(scene.person) for scene in other}
        assert not set(map(outfit_of, one)) & set(map(outfit_of, other))
    for split, part in by_split.items():
        frame = pd.DataFrame({"person": [s.person_id for s in part], "worn": [outfit_of(s) for s in part]})
        assert frame.groupby("worn")["person"].nunique().median() >= 5, split
        assert (frame.groupby("person")["worn"].nunique() == World().outfits).all()


def test_the_person_says_nothing_of_the_outfit():
    world = World(people=(600, 1, 1), wardrobe=(40, 3, 3), images=(1, 1, 1), outfits=3, cameras_each=1)
    train = [scene for scene in scenes_of(world) if scene.split == "train"]
    rows = worlds.table(train)
    for measure in people.BODY_MEASURES:
        groups = [group.to_numpy() for _, group in rows.groupby("upper")[f"{measure}_measure"]]
        assert stats.f_oneway(*groups).pvalue > 1e-3, measure
    for own, worn in (("hair_style", "upper_colour"), ("hair_colour", "hat"), ("skin", "lower"), ("stature", "upper")):
        assert stats.chi2_contingency(pd.crosstab(rows[own], rows[worn])).pvalue > 1e-3, (own, worn)


def test_colour_identity_zero_makes_everyone_brown_haired_and_light():
    shape_only = {(s.person.hair_colour, s.person.skin) for s in scenes_of(replace(SMALL, colour_identity=0.0))}
    assert shape_only == {("brown", "light")}
    assert len({(s.person.hair_colour, s.person.skin) for s in scenes_of(World())}) > 20


# ---------------------------------------------------------------- the counterfactual


def test_recoloured_changes_all_colours_of_the_clothes_and_no_pixel_elsewhere():
    """Elsewhere: further than 2 pixels from any worn part. A pixel is a mean of four of the drawing, and the
    lens blurs by less than one, so colours leak by 1 + 1. The mask samples one of the four: a sliver
    thinner than a pixel can be missing from it, which is what the tolerance of 1 in 10,000 is for."""
    square, outside, leaked = np.ones((3, 3)), 0, 0
    for scene in scenes_of(World(people=(30, 3, 3), wardrobe=(20, 3, 3), images=(1, 1, 1), outfits=3))[:90]:
        other = scene.recoloured()
        colours = ("upper_colour", "lower_colour", "shoes_colour", "bag_colour", "hat_colour", "second")
        assert all(getattr(scene.outfit, part) != getattr(other.outfit, part) for part in colours)
        assert replace(other.outfit, **{part: getattr(scene.outfit, part) for part in colours}) == scene.outfit
        assert replace(other, outfit=scene.outfit) == scene

        (before, parts), (after, parts_after) = scene.draw(with_mask=True), other.draw(with_mask=True)
        assert np.array_equal(parts, parts_after)
        changed = (before != after).any(axis=2)
        far = ~ndimage.binary_dilation(np.isin(parts, WORN), square, iterations=2)
        outside, leaked = outside + far.sum(), leaked + (changed & far).sum()
        for part in WORN:
            inner = ndimage.binary_erosion(parts == part, square, iterations=2)
            assert changed[inner].all(), (scene.path, PARTS[part])
    assert outside > 90 * 1000 and leaked <= outside / 10_000


def test_the_mask_changes_nothing_in_the_picture_and_another_seed_recolours_otherwise():
    scene = scenes_of(SMALL)[0]
    picture, parts = scene.draw(with_mask=True)
    assert picture.shape == (96, 48, 3) and picture.dtype == np.uint8 and parts.shape == (96, 48)
    assert np.array_equal(picture, scene.draw()[0])
    assert {"background", "skin"} <= {PARTS[i] for i in np.unique(parts)}
    assert scene.recoloured(1) == scene.recoloured(1) != scene.recoloured(2)


def test_every_part_is_drawn_by_someone():
    seen = {PARTS[i] for scene in scenes_of(World())[::20] for i in np.unique(scene.draw(with_mask=True)[1])}
    assert seen == set(PARTS)


# ---------------------------------------------------------------- words


@pytest.fixture(scope="module")
def tokenizer() -> CompactTokenizer:
    return CompactTokenizer(people.world_words(), 64)


def test_the_small_clip_reads_every_word_of_the_world_and_no_other(tokenizer):
    assert set(people.world_words()) == set(tiny_words())
    texts = [text for prompts in people.attribute_prompts().values() for text in prompts.values()]
    rng = np.random.default_rng(0)
    for person, outfit in drawn(300):
        texts += [people.caption(person, outfit, rng), people.caption(person, outfit, rng, gray=True)]
    tokenizer(texts)  # raises for an unknown word or too long a text
    said = {word.strip(",.") for text in texts for word in text.split()}
    assert {word for word in people.world_words() if len(word) > 1} - said == {"plain"}


def test_captions_say_body_and_clothes_a_random_part_of_the_truth():
    rng, (person, outfit) = np.random.default_rng(0), drawn(1)[0]
    texts = [people.caption(person, outfit, rng) for _ in range(200)]
    assert len(set(texts)) > 150
    for phrase in [*people.person_phrases(person), *people.outfit_phrases(outfit)]:
        assert 0.5 < np.mean([phrase in text for text in texts]) < 0.9, phrase


def test_captions_say_nothing_that_is_not_true():
    rng = np.random.default_rng(2)
    for person, outfit in drawn(200):
        for gray in (False, True):
            text = people.caption(person, outfit, rng, gray).replace(people.noun(person), "person")
            true = [*people.person_phrases(person), *people.outfit_phrases(outfit, colour=not gray)]
            for phrase in sorted(true, key=len, reverse=True):
                text = text.replace(phrase, "")
            left = set(text.replace(",", " ").replace(".", " ").split())
            assert left <= set("a grayscale photo of person with wearing and".split()), (text, true)


def test_person_phrases_name_no_garment_and_no_gray_caption_a_colour_of_the_clothes():
    rng = np.random.default_rng(1)
    for person, outfit in drawn(300):
        own = people.person_phrases(person)
        assert not GARMENTS & {word for phrase in [*own, people.noun(person)] for word in phrase.split()}
        text = people.caption(person, outfit, rng, gray=True)
        assert text.startswith("a grayscale photo of a ")
        for phrase in own:
            text = text.replace(phrase, "")
        assert not set(people.COLOURS) & set(text.replace(",", " ").replace(".", " ").split()), text
        assert "grayscale" not in people.caption(person, outfit, rng)


def test_each_attribute_has_a_sentence_for_each_value_that_can_be_said():
    prompts = people.attribute_prompts()
    unsaid = {name: {str(i) for i, word in enumerate(words) if word is None} for name, words in people.BODY.items()}
    for person, outfit in drawn(500):
        row = people.attributes(person, outfit)
        for name, sentences in prompts.items():
            values = [row[part] for part in name.split("*")]
            silent = "none" in values or values[0] in unsaid.get(name, ()) or values[-1] == "plain"
            assert ("*".join(values) in sentences) != silent, (name, values)
    assert {part for name in prompts for part in name.split("*")} == set(people.attributes(*drawn(1)[0])) - {"second"}
    for name, sentences in prompts.items():
        assert len(set(sentences.values())) == len(sentences), name


@settings(max_examples=200, deadline=None)
@given(st.floats(0, 1), st.sampled_from(people.BODY_MEASURES))
def test_levels_cut_a_measure_into_equal_parts(value, measure):
    person = replace(drawn(1)[0][0], **{measure: value})
    count, level = len(people.BODY[measure]), people.level(person, measure)
    assert 0 <= level < count and level / count <= value <= (level + 1) / count + 1e-12


def test_sentences_by_hand():
    person = people.Person(0.1, 0.5, 0.1, 0.5, 0.9, 0.5, 0.5, 0.5, "bun", "red", "pale")
    outfit = people.Outfit("coat", "orange", "striped", "red", "skirt", "blue", "boots", "pink", "no bag", "red",
                           "cap", "white")  # fmt: skip
    assert people.noun(person) == "very short person of medium build"
    assert people.person_phrases(person) == ["narrow shoulders", "long legs", "red hair in a bun", "pale skin"]
    assert people.outfit_phrases(outfit) == ["an orange striped coat", "a blue skirt", "pink boots", "a white cap"]
    assert people.outfit_phrases(outfit, colour=False) == ["a striped coat", "a skirt", "boots", "a cap"]
    dress = replace(outfit, upper="dress", pattern="plain", hat="no hat")
    assert people.outfit_phrases(dress) == ["an orange dress", "pink boots"]
    row = people.attributes(replace(person, hair_style="bald"), dress)
    assert {row[name] for name in ("hair_colour", "second", "bag_colour", "hat_colour", "lower", "lower_colour")} == {
        "none"
    }
