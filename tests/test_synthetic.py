"""The embedded benchmark on disk: reproducible files, reading, outfits and wardrobes, and worlds of experiments."""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
import sys
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from scipy import stats

from csgn_lib import synthetic
from csgn_lib.backbones import tiny_words
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, write_json
from csgn_lib.synthetic import World, attribute_prompts, draw, ensure, entries, export, words, worlds
from csgn_lib.synthetic.attributes import MEASURES

SMALL = World(people=6, size=32, outfits=2, cameras_each=1)


def digests(root: Path) -> dict[str, str]:
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


# ---------------------------------------------------------------- files


def test_files_do_not_depend_on_number_of_processes(tmp_path):
    first, second = (ensure(SMALL, tmp_path / str(n), processes=n) for n in (1, 2))
    assert digests(first) == digests(second)


def test_seeds_share_no_people_outfits_or_cameras():
    first, second = entries(SMALL), entries(replace(SMALL, seed=1))
    for part in ("person", "outfit", "camera"):
        ours, theirs = ({str(astuple(getattr(e.scene, part))) for e in made} for made in (first, second))
        assert not ours & theirs, part


def test_rendering_a_scene_again_gives_picture_on_disk(tiny_world, tiny_root):
    for entry in entries(tiny_world)[::60]:
        [picture] = draw([entry.scene], tiny_world.size)
        assert np.array_equal(picture.image, np.asarray(Image.open(tiny_root / entry.path)))


def test_ltcc_reader_loads_world(tiny_benchmark):
    # people x 3 outfits x 2 cameras x 2 images; one image of each is the query
    b, v = tiny_benchmark, tiny_benchmark.validation
    assert [len(f) for f in (b.train, b.query, b.gallery)] == [14 * 3 * 2 * 2, 6 * 3 * 2, 6 * 3 * 2]
    assert [len(f) for f in (v.train, v.query, v.gallery)] == [0, 4 * 3 * 2, 4 * 3 * 2]
    assert b.train["person"].nunique() == 14 and b.train["clothes"].nunique() == 42
    assert sorted(b.query["person"].unique()) == list(range(18, 24))
    assert "cloth_changing" in b.protocols and "general" in b.protocols
    assert not b.check(workers=1).errors


def test_default_world_has_documented_size():
    per_split = pd.Series([entry.split for entry in entries(World())]).value_counts()
    assert per_split.to_dict() == {"train": 240 * 4 * 2 * 2, "test": 100 * 4 * 2 * 2, "validation": 60 * 4 * 2 * 2}


def test_attributes_csv_agrees_with_files_and_scenes(tiny_benchmark, tiny_world, tiny_root):
    told = pd.read_csv(tiny_root / "attributes.csv", keep_default_na=False, dtype=str)
    assert list(told)[:6] == ["path", "split", "person", "outfit", "wardrobe", "camera"] and list(told)[-1] == "caption"
    assert not (told == "").any().any()
    told = told.set_index("path")
    frames = [frame for _, frame in tiny_benchmark.frames()]
    assert sorted(told.index) == sorted(pd.concat(frames)["path"])
    for frame in frames:
        row = told.loc[frame["path"]]
        assert (row["person"].astype(int).to_numpy() == frame["person_label"].astype(int)).all()
        assert (row["camera"].astype(int).to_numpy() == frame["camera_label"].astype(int)).all()
        assert (row["outfit"].to_numpy() == frame["clothes_label"].str.split("_").str[1]).all()
    for entry in entries(tiny_world)[::37]:
        row = told.loc[entry.path]
        assert row["upper_colour"] == entry.scene.outfit.upper_colour
        assert row["hair_style"] == entry.scene.person.hair_style
    for name, sentences in attribute_prompts().items():  # every value has a sentence or is none
        assert set(told[name]) <= {*sentences, "none"}, name
    train = told[told.split == "train"].drop_duplicates("person")
    for name in MEASURES:  # words name the outer fifths of the training people
        low, high = np.quantile(train[f"{name}_measure"].astype(float), (0.2, 0.8))
        named, value = told[name] != "none", told[f"{name}_measure"].astype(float)
        clear = ((value - low).abs() > 2e-4) & ((value - high).abs() > 2e-4)  # the file has four digits
        assert (named == ~value.between(low, high))[clear].all() and clear.any()


# ---------------------------------------------------------------- ensure


def test_ensure_does_not_render_finished_world_again(tmp_path, monkeypatch):
    root = ensure(SMALL, tmp_path / "w", processes=1)
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    monkeypatch.setattr(export, "_render", lambda *_: pytest.fail("rendered again"))
    assert ensure(SMALL, root) == root
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before


def test_world_of_reads_world_of_experiment_folder(tiny_world, tiny_root, tmp_path):
    assert synthetic.world_of(Experiment.from_parameters(root=str(tiny_root))) == tiny_world
    assert synthetic.world_of(Experiment.from_parameters(world=3)) == World(seed=3)
    assert synthetic.world_of(Experiment.from_parameters(root=str(tmp_path))) is None
    assert synthetic.world_of(Experiment.from_parameters(benchmark="ltcc", root=str(tiny_root))) is None
    for other in ({"world": "another kind"}, {**tiny_world.description(), "format": 0}):
        write_json(tmp_path / "world.json", other)
        assert synthetic.world_of(Experiment.from_parameters(root=str(tmp_path))) is None


def test_ensure_refuses_other_world_foreign_folder_and_damaged_world(tmp_path):
    root = ensure(SMALL, tmp_path / "w", processes=1)
    before = digests(root)
    for other in (replace(SMALL, seed=5), replace(SMALL, people=7), 3):
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


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_interrupted_rendering_resumes(tmp_path, monkeypatch, error):
    render = export._render_person

    def fail(world: World, root: Path, number: int) -> export.Rendered:
        if number == 4:
            raise error("stopped")
        return render(world, root, number)

    monkeypatch.setattr(export, "_render_person", fail)
    with pytest.raises(error):
        ensure(SMALL, tmp_path / "w", processes=1)
    made = []
    monkeypatch.setattr(export, "_render_person", lambda w, r, n: made.append(n) or render(w, r, n))
    ensure(SMALL, tmp_path / "w", processes=1)
    assert made == [4, 5]
    assert digests(tmp_path / "w") == digests(ensure(SMALL, tmp_path / "again", processes=1))


def test_two_processes_can_render_same_world(tmp_path):
    code = f"from csgn_lib.synthetic import *; ensure({SMALL!r}, {str(tmp_path / 'w')!r}, processes=1)"
    home = Path(synthetic.__file__).parents[2]
    both = [subprocess.Popen([sys.executable, "-c", code], cwd=home) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert [path.name for path in tmp_path.iterdir()] == ["w"] and not (tmp_path / "w/.lock").exists()
    manifest = json.loads((tmp_path / "w/manifest.json").read_text())
    assert len([path for path in manifest["files"] if path.endswith(".png")]) == 6 * 2 * 2


def test_default_folder_is_project_data_and_experiment_loads_it(tmp_path, monkeypatch):
    monkeypatch.setenv("CSGN_HOME", str(tmp_path))
    monkeypatch.setattr(worlds.World.__init__, "__defaults__", astuple(SMALL))
    assert ensure(4, processes=1) == tmp_path / "data" / "synthetic-4"
    benchmark = synthetic.benchmark_for(Experiment.from_parameters(world=4))
    assert benchmark.root == tmp_path / "data" / "synthetic-4" and benchmark.train["person"].nunique() == 3
    with pytest.raises(InputError, match="validation people already"):
        synthetic.benchmark_for(Experiment.from_parameters(world=4, validation_people=2))


# ---------------------------------------------------------------- people and outfits


def test_splits_share_no_people_or_outfits_but_people_of_split_share_outfits():
    made = entries(World())
    by_split = {split: [entry for entry in made if entry.split == split] for split in worlds.SPLITS}
    for one, other in itertools.combinations(by_split.values(), 2):
        assert not {entry.person for entry in one} & {entry.person for entry in other}
        assert not {str(entry.scene.person) for entry in one} & {str(entry.scene.person) for entry in other}
        assert not {entry.scene.outfit for entry in one} & {entry.scene.outfit for entry in other}
    for split, part in by_split.items():
        frame = pd.DataFrame({"person": [e.person for e in part], "worn": [e.wardrobe for e in part]})
        assert frame.groupby("worn")["person"].nunique().median() >= 3, split
        assert (frame.groupby("person")["worn"].nunique() == World().outfits).all()


def test_person_and_outfit_are_independent():
    made = entries(World(people=1000, images=2, outfits=1, cameras_each=1), "train")[::2]
    rows = pd.DataFrame([{
        "upper": e.scene.outfit.upper, "upper_colour": e.scene.outfit.upper_colour, "hat": e.scene.outfit.hat,
        "hair_style": e.scene.person.hair_style, "woman": e.scene.person.female, "skin": e.scene.person.skin > 0.5,
        "stature": e.scene.person.stature,
    } for e in made])  # fmt: skip
    groups = [group.to_numpy() for _, group in rows.groupby("upper")["stature"]]
    assert stats.f_oneway(*groups).pvalue > 1e-3
    for own, worn in (("hair_style", "upper_colour"), ("woman", "upper"), ("skin", "hat")):
        assert stats.chi2_contingency(pd.crosstab(rows[own], rows[worn])).pvalue > 1e-3, (own, worn)


def test_colour_identity_zero_gives_all_people_same_hair_and_skin_colour():
    def colours(share: float) -> set[tuple]:
        return {(e.scene.person.hair, e.scene.person.skin) for e in entries(World(people=60, colour_identity=share))}

    assert len(colours(0.0)) == 1 and len(colours(1.0)) > 50


# ---------------------------------------------------------------- words


def test_small_clip_vocabulary_is_words_of_world():
    assert set(words.world_words()) == set(tiny_words())


def test_captions_agree_with_attributes_csv(tiny_root):
    told = pd.read_csv(tiny_root / "attributes.csv", keep_default_na=False)
    for row in told.itertuples():
        assert row.caption.startswith("a photo of a") and row.caption.endswith(".")
        for colour in ("burgundy", "teal", "mustard"):
            assert colour not in row.caption or colour in {
                row.upper_colour, row.lower_colour, row.shoes_colour, row.bag_colour, row.hat_colour}  # fmt: skip
        assert "a beard" not in row.caption or row.beard_measure > 0.5
        assert "bald" not in row.caption or row.hair_style == "bald"
    assert 0.3 < told.caption.str.contains(" skin").mean() < 0.95
