"""Export of a small world: files, reproducibility, resumption and invalid input."""

import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from csgn_lib import datasets
from csgn_lib.records import DiskError, InputError
from csgn_lib.synthetic import export
from csgn_lib.synthetic.attributes import MEASURES, Levels, caption, measure
from csgn_lib.synthetic.body import load_body
from csgn_lib.synthetic.datasheet import command
from csgn_lib.synthetic.export import KINDS, write_world
from csgn_lib.synthetic.materials import PARTS
from csgn_lib.synthetic.worlds import World, cameras_of, entries_of, person_of, split_of, wardrobe_of

WORLD = World(people=6, size=32, outfits=2, cameras_each=1, extras=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    root = tmp_path_factory.mktemp("world") / "out"
    return root, write_world(WORLD, root, 1)


def test_ltcc_reader_loads_world(made):
    benchmark = datasets.load("ltcc", made[0])
    assert (len(benchmark.train), len(benchmark.query), len(benchmark.gallery)) == (3 * 4, 2 * 2, 2 * 2)
    assert benchmark.validation is not None and len(benchmark.validation.query) == 2
    assert set(benchmark.train.changes_clothes) == {1}
    splits = json.loads((made[0] / "splits.json").read_text())
    assert [len(splits[name]) for name in ("train", "validation", "test")] == [3, 1, 2]
    assert len({number for people in splits.values() for number in people}) == 6


def test_every_picture_has_mask_attributes_and_caption(made):
    root, attributes = made[0], pd.read_csv(made[0] / "attributes.csv", keep_default_na=False)
    assert len(attributes) == 24
    for path in attributes.path:
        with Image.open(root / path) as image, Image.open(root / "masks" / path) as mask:
            assert image.size == mask.size == (16, 32) and image.mode == "RGB"
            assert np.array(mask).max() < len(PARTS)
    assert attributes.stature_measure.between(1.4, 2.0).all()
    assert (
        attributes[[f"{name}_measure" for name in MEASURES[1:]]]
        .apply(lambda column: column.between(0.02, 0.6).all())
        .all()
    )
    assert attributes.caption.str.fullmatch(r"a photo of an? .*\.").all()
    assert not attributes.caption.str.contains("muscle|glasses|gait").any()


def test_counterfactual_files_agree_with_table(made):
    pairs = pd.read_csv(made[0] / "counterfactuals.csv")
    assert sorted(pairs.kind.unique()) == sorted(KINDS) and len(pairs) == 4 * len(KINDS)
    for pair in pairs.itertuples():
        with Image.open(made[0] / pair.path) as first, Image.open(made[0] / pair.counterfactual) as second:
            assert not np.array_equal(np.array(first), np.array(second))
    assert (pairs.body != pairs.path.str.extract(r"(\d+)_")[0].astype(int))[pairs.kind == "rebodied"].all()


def test_manifest_lists_all_files_and_versions(made):
    root, checksum = made
    manifest = json.loads((root / "manifest.json").read_text())
    files = {str(p.relative_to(root)) for p in root.rglob("*") if p.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    for path, sha in manifest["files"].items():
        assert hashlib.sha256((root / path).read_bytes()).hexdigest() == sha
    lines = "".join(f"{sha}  {path}\n" for path, sha in sorted(manifest["files"].items()))
    assert manifest["checksum"] == checksum == hashlib.sha256(lines.encode()).hexdigest()
    assert set(manifest["versions"]) == {"torch", "numpy", "pillow", "csgn-workbench"}


def test_datasheet_names_command_licence_and_citations(made):
    text = (made[0] / "datasheet.md").read_text()
    assert command(WORLD) in text and "{" not in text.replace("{train", "")
    for needed in ("CC0 1.0", "MakeHuman", "SOMAset", "Biases", "What it is not for"):
        assert needed in text


def test_interrupted_export_resumes_to_same_files(made, tmp_path, monkeypatch):
    render, count = export._render_person, []

    def stopped(world, root, number):
        if len(count) == 2:
            raise KeyboardInterrupt
        count.append(number)
        return render(world, root, number)

    monkeypatch.setattr(export, "_render_person", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_world(WORLD, tmp_path / "w", 1)
    assert not (tmp_path / "w/manifest.json").exists()
    (tmp_path / "w/rendered.jsonl").open("a").write('{"person": 2, "fil')  # an incomplete line
    next((tmp_path / "w/train").glob("0000_*")).write_bytes(b"changed")  # person 0 must be rendered again
    rendered = []
    monkeypatch.setattr(export, "_render_person", lambda w, r, n: rendered.append(n) or render(w, r, n))
    assert write_world(WORLD, tmp_path / "w", 1) == made[1]
    assert rendered == [0, 2, 3, 4, 5]
    assert not list((tmp_path / "w").rglob("*.part")) and not (tmp_path / "w/rendered.jsonl").exists()


def test_finished_world_is_not_rendered_again_and_other_versions_are_reported(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(export, "_render_person", None)
    assert write_world(WORLD, made[0], 1) == made[1]
    assert capsys.readouterr().err == "the world is there already, made with these versions\n"
    copy = tmp_path / "copy"
    shutil.copytree(made[0], copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["versions"]["torch"] = "1.0"
    (copy / "manifest.json").write_text(json.dumps(manifest))
    write_world(WORLD, copy, 1)
    said = capsys.readouterr().err
    assert "torch 1.0 then" in said and "may differ" in said


def test_foreign_folders_are_refused_and_not_changed(made, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no rendered world"):
        write_world(WORLD, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]
    with pytest.raises(InputError, match="is a file"):
        write_world(WORLD, tmp_path / "notes.txt")
    with pytest.raises(InputError, match="another world"):
        write_world(World(people=7, size=32, outfits=2, cameras_each=1, extras=True), made[0])


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (World(people=0), "people 0: a world has from 6"),
        (World(setting="hard"), "unknown setting 'hard'; one of"),
        (World(size=65), "even number"),
        (World(images=1), "images 1"),
        (World(seed=-1), "seed -1"),
        (World(cameras_each=5), "from 1 to 4"),
        (World(spread=0.0), "spread 0.0"),
        (World(colour_identity=2.0), "colour_identity"),
    ],
)
def test_invalid_parameters_are_refused_before_rendering(world, message, tmp_path):
    with pytest.raises(InputError, match=message):
        write_world(world, tmp_path / "w")
    assert not (tmp_path / "w").exists()


def test_full_disk_raises_disk_error_and_leaves_no_files(tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(export.os, "replace", full)
        with pytest.raises(DiskError, match="No space left on device.*make room"):
            export.write_file(tmp_path / "w" / "a.png", b"data")
    assert not list(tmp_path.rglob("*.p*"))


def test_command_line_reports_invalid_parameter_in_one_line(tmp_path):
    words = [sys.executable, "-m", "csgn_lib", "world", "--people", "0", "--out", str(tmp_path / "w")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("csgn: people 0: a world has from 6")


def test_splits_share_no_outfits_and_seeds_share_no_people_or_cameras():
    world = World(people=20)
    outfits = [set(wardrobe_of(world, split)) for split in range(3)]
    assert not (outfits[0] & outfits[1] or outfits[0] & outfits[2] or outfits[1] & outfits[2])
    assert [split_of(world, number) for number in range(20)] == [0] * 12 + [1] * 3 + [2] * 5
    assert person_of(world, 3) == person_of(World(people=20), 3) != person_of(World(people=20, seed=1), 3)
    assert cameras_of(world) != cameras_of(World(people=20, seed=1))


def test_sharing_is_mean_number_of_people_per_outfit():
    world = World(people=40, sharing=5.0)
    worn = [e.wardrobe for n in range(24) for e in entries_of(world, n, wardrobe_of(world, 0), cameras_of(world))[::4]]
    assert len(wardrobe_of(world, 0)) == round(24 * 4 / 5)
    assert 3 <= np.bincount(worn).mean() <= 6


def test_measures_scale_with_stature():
    body, person = load_body(), person_of(World(people=6), 0)
    found = measure(body, person)
    assert found["stature"] == pytest.approx(person.stature, abs=1e-4)
    taller = measure(body, person.scaled(person.stature * 1.1))
    assert taller["stature"] == pytest.approx(1.1 * found["stature"], rel=1e-4)
    assert all(taller[name] == pytest.approx(found[name], rel=1e-3) for name in MEASURES[1:])


def test_captions_name_measures_only_in_outer_fifths():
    world = World(people=6)
    person, outfit = person_of(world, 0), wardrobe_of(world, 0)[0]
    people = [{name: float(k) for name in MEASURES} for k in range(11)]
    levels = Levels.of(people)
    texts = {
        caption(np.random.default_rng(k), person, outfit, dict.fromkeys(MEASURES, 10.0), levels) for k in range(40)
    }
    assert any("tall" in text for text in texts) and not any("short legs" in text for text in texts)
    assert len(texts) > 30
    middle = {
        caption(np.random.default_rng(k), person, outfit, dict.fromkeys(MEASURES, 5.0), levels) for k in range(40)
    }
    assert not any(word in text for text in middle for word in ("tall", "heavy", "wide", "narrow", "slim"))
