"""Updates of an index, thresholds that return nobody, and search by text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_models import call, make_run

from csgn_lib import models, retrieval
from csgn_lib.models import galleries, searching, words
from csgn_lib.models.opening import describe
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.retrieval import neighbours, recording


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    return make_run(tmp_path_factory.mktemp("run"), clip_checkpoint="embedded")


@pytest.fixture(scope="module")
def model(run) -> models.Model:
    return models.open_model(run.dir, "cpu")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory, tiny_benchmark) -> Path:
    """Six images; not to be written to."""
    folder = tmp_path_factory.mktemp("pictures")
    for place, path in enumerate(tiny_benchmark.gallery.path[:6]):
        shutil.copyfile(tiny_benchmark.root / path, folder / f"{place}.png")
    return folder


@pytest.fixture(scope="module")
def index(model, pictures, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("index") / "g.safetensors"
    models.embed_folder(model, pictures, file)
    return file


@pytest.fixture
def album(pictures, tmp_path) -> Path:
    """A folder of one's own with the six images."""
    shutil.copytree(pictures, tmp_path / "album")
    return tmp_path / "album"


def test_update_embeds_new_images_and_reports_changes(model, album, tmp_path, monkeypatch):
    out, embedded = tmp_path / "g.safetensors", []
    before = models.embed_folder(model, album, out)
    monkeypatch.setattr(
        galleries, "describe", lambda m, r, paths, **o: embedded.extend(paths) or describe(m, r, paths, **o)
    )
    gallery, changes = models.update_gallery(model, album, out)
    assert embedded == [] and changes.unchanged == 6 and gallery.paths == before.paths
    (album / "sub").mkdir()
    (album / "0.png").rename(album / "sub" / "moved.png")
    (album / "1.png").unlink()
    Image.new("RGB", (24, 48), "red").save(album / "2.png")
    (album / "3.png").touch()  # another time, the same content
    other = tmp_path / "other"
    other.mkdir()
    Image.new("RGB", (24, 48), "blue").save(other / "new.png")
    gallery, changes = models.update_gallery(model, other, out)
    assert sorted(embedded) == [f"{album}/2.png", f"{other}/new.png"]
    assert changes == models.Changes(
        added=[f"{other}/new.png"], changed=[f"{album}/2.png"],
        moved=[(f"{album}/0.png", f"{album}/sub/moved.png")], deleted=[f"{album}/1.png"], unchanged=3,
    )  # fmt: skip
    assert "1 added, 1 changed, 1 moved, 1 deleted, 3 unchanged" in str(changes) and f"deleted: {album}/1.png" in str(
        changes
    )
    whole = models.embed_folder(model, [album, other], tmp_path / "whole.safetensors")
    assert gallery.paths == whole.paths and gallery.folders == [str(album), str(other)]
    np.testing.assert_allclose(models.read_gallery(out).features, whole.features, atol=1e-5)


def test_failed_update_keeps_index(model, album, tmp_path):
    out = tmp_path / "g.safetensors"
    models.embed_folder(model, album, out)
    held = out.read_bytes()
    other = models.open_model(make_run(tmp_path / "other", seed=1).dir, "cpu")
    with pytest.raises(InputError, match="by another model"):
        models.update_gallery(other, album, out)
    album.rename(tmp_path / "unplugged")
    with pytest.raises(InputError, match="album is not a folder"):
        models.update_gallery(model, tmp_path / "unplugged", out)
    assert out.read_bytes() == held
    with pytest.raises(InputError, match="does not exist; make it: csgn embed"):
        models.update_gallery(model, album, tmp_path / "none.safetensors")


def test_image_in_two_folders_is_indexed_once(model, album, tmp_path):
    (album / "sub").mkdir()
    (album / "0.png").rename(album / "sub" / "0.png")
    gallery = models.embed_folder(model, [album, album / "sub", album], tmp_path / "g.safetensors")
    assert len(gallery.paths) == 6 and gallery.folders == [str(album), str(album / "sub")]


def test_large_gallery_has_approximate_index(model, album, tmp_path, monkeypatch):
    out = tmp_path / "g.safetensors"
    for place in range(6, 20):
        noise = np.random.default_rng(place).integers(0, 256, (32, 16, 3), dtype=np.uint8)
        Image.fromarray(noise).save(album / f"{place}.png")
    exact = models.search(model, album / "2.png", models.embed_folder(model, album, out), 3)
    monkeypatch.setattr(galleries, "APPROXIMATE_FROM", 20)
    models.embed_folder(model, album, out)
    (first,) = tmp_path.glob("*.faiss")
    read = models.read_gallery(out)
    assert read.index == first
    used, search_index = [], neighbours.search_index
    monkeypatch.setattr(neighbours, "search_index", lambda *args: used.append(1) or search_index(*args))
    found = models.search(model, album / "2.png", read, 3)
    assert used and list(found.path) == list(exact.path)
    np.testing.assert_allclose(found.distance, exact.distance, atol=1e-5)
    other = tmp_path / f"{out.stem}-2-{first.stem[-8:]}.faiss"  # of g-2.safetensors beside it
    other.touch()
    models.update_gallery(model, album, out)
    other.unlink()  # kept until here
    assert [path.name for path in tmp_path.glob("*.faiss")] != [first.name] and len(list(tmp_path.glob("*.faiss"))) == 1
    models.read_gallery(out).index.unlink()
    assert models.read_gallery(out).index is None  # exact search needs none
    (tmp_path / "x.faiss").write_bytes(b"no index")
    with pytest.raises(InputError, match="x.faiss is no FAISS index"):
        neighbours.read_index(tmp_path / "x.faiss")
    monkeypatch.setattr(neighbours, "set_candidates", lambda *args: 0.5)
    with pytest.warns(UserWarning, match="finds 50.0% of the nearest images .*, less than 99%, so search stays exact"):
        models.embed_folder(model, album, out)
    assert models.read_gallery(out).index is None and not list(tmp_path.glob("g-*.faiss"))


def test_several_queries_equal_single_ones(model, pictures, index):
    gallery = models.read_gallery(index)
    together = models.search(model, pictures, gallery, 2)
    assert list(together["query"].unique()) == [str(pictures / f"{place}.png") for place in range(6)]
    alone = models.search(model, pictures / "4.png", gallery, 2)
    mine = together[together["query"] == str(pictures / "4.png")]
    assert list(mine.path) == list(alone.path) and mine.path.iloc[0] == str(pictures / "4.png")
    with pytest.raises(InputError, match="none.png does not exist"):
        models.search(model, [pictures / "0.png", pictures / "none.png"], gallery)


@pytest.fixture(scope="module")
def measured(run, model, tiny_benchmark) -> Run:
    """The run with thresholds measured on the tiny benchmark."""
    sides = [describe(model, tiny_benchmark.root, list(f.path)) for f in (tiny_benchmark.query, tiny_benchmark.gallery)]
    recording.write_verification(run.dir, *sides, tiny_benchmark, model.digest)
    write_json(run.path("benchmark.json"), tiny_benchmark.record())
    return run


def test_threshold_can_return_nobody(capsys, measured, model, pictures, index, tmp_path):
    gallery = models.read_gallery(index)
    limit = models.recorded_threshold(model, 0.2)
    record = json.loads(measured.path("verification.json").read_text())["protocols"]["cloth_changing"]
    assert limit.value == retrieval.suggested_threshold(record, 0.2) and "synthetic" in limit.source
    assert list(models.search(model, pictures / "0.png", gallery, threshold=limit.value).path)[0].endswith("0.png")
    assert models.search(model, pictures / "0.png", gallery, threshold=0.0).empty
    stranger = tmp_path / "stranger.png"
    Image.effect_noise((48, 96), 200).convert("RGB").save(stranger)
    distance = models.search(model, stranger, gallery, 1).distance[0]
    command = ["search", measured.dir, stranger, "--gallery", index]
    _, out, _ = call(capsys, *command, "--threshold", f"{distance * 0.99:.6f}")
    assert "nobody: no image is nearer than the threshold" in out and "rank" not in out
    status, out, _ = call(
        capsys, *command[:2], pictures / "0.png", *command[3:], "--threshold", "auto", "--error-rate", "0.2"
    )
    assert status == 0 and out.startswith(f"threshold {limit.value:.4f}: at most 0.2 of searches") and "0.png" in out


def test_threshold_of_another_model_or_data_is_refused(measured, model, tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in ("verification.json", "benchmark.json"):
        shutil.copyfile(measured.path(name), folder / name)
    assert models.parse_threshold(model, str(folder / "verification.json"), 0.2).value > 0
    other = models.open_model(make_run(tmp_path / "other", seed=1).dir, "cpu")
    with pytest.raises(InputError, match="is of another model"):
        models.recorded_threshold(other, 0.2, folder / "verification.json")
    with pytest.raises(InputError, match="does not exist, so no threshold is known.*csgn evaluate"):
        models.recorded_threshold(other)
    write_json(folder / "benchmark.json", {"benchmark": "prcc", "manifest": "ab"})
    with pytest.raises(InputError, match="measured on other data than"):
        models.recorded_threshold(model, 0.2, folder / "verification.json")
    (folder / "benchmark.json").unlink()
    write_json(folder / "verification.json", {"model": model.digest, "protocols": {}, "why": "one person"})
    with pytest.raises(InputError, match=r"holds no threshold \(one person\)"):
        models.recorded_threshold(model, 0.2, folder / "verification.json")
    write_json(folder / "verification.json", [1])
    with pytest.raises(InputError, match="is no record of thresholds"):
        models.recorded_threshold(model, 0.2, folder / "verification.json")


def test_export_contains_thresholds(measured, tmp_path, monkeypatch):
    from csgn_lib.models import exporting

    monkeypatch.setattr(exporting, "missing_packages", lambda: ["onnx"])
    folder = models.export(measured.dir, tmp_path / "hub").folder
    again = models.open_model(folder, "cpu")
    assert models.recorded_threshold(again, 0.2) == models.recorded_threshold(
        models.open_model(measured.dir, "cpu"), 0.2
    )


def test_text_is_compared_with_joint_embedding(model, index):
    gallery, text = models.read_gallery(index), "a tall person with long black hair"
    opened = models.open_words(model)
    assert opened.note == ""
    feature = models.text_feature(opened, text)
    found = models.search_words(model, gallery, feature, 100)
    embedded = retrieval.embed(model.encoder, _frame(gallery.paths), ".", model.size).f.numpy()
    with torch.inference_mode():
        expected = opened.clip.text_features([text])[0].numpy()
    cosine = embedded @ expected / np.linalg.norm(embedded, axis=1) / np.linalg.norm(expected)
    order = np.argsort(-cosine, kind="stable")
    assert list(found.path) == [gallery.paths[row] for row in order]
    np.testing.assert_allclose(found.distance, 1 - cosine[order], atol=1e-5)


def test_image_and_text_average_standardised_distances(model, index, pictures):
    gallery = models.read_gallery(index)
    feature = models.text_feature(models.open_words(model), "a person in a red coat")
    found = models.search_words(model, gallery, feature, 100, image=pictures / "3.png")
    parts = [models.search_words(model, gallery, feature, 100), models.search(model, pictures / "3.png", gallery, 100)]
    total = 0
    for part in parts:
        distance = part.set_index("path").distance
        total = total + (distance - distance.mean()) / distance.std(ddof=0) / 2
    assert list(found.path) == list(total.sort_values().index)
    np.testing.assert_allclose(found.distance, np.sort(total), atol=1e-4)
    one = models.Gallery(gallery.features[:1], gallery.paths[:1], gallery.files[:1], gallery.folders, model.digest, "")
    assert models.search_words(model, one, feature, 3, image=pictures / "3.png").distance[0] == 0


def test_unknown_words_are_reported(model, tmp_path):
    opened = models.open_words(model)
    with pytest.raises(InputError, match="does not know 'zebra'"):
        models.text_feature(opened, "a zebra")
    with pytest.raises(InputError, match="--text is empty"):
        models.text_feature(opened, "  ")
    assert "random weights" in words._note("csgn-tiny", None)
    weights = tmp_path / "mine.safetensors"
    weights.touch()
    assert "is not known" in words._note("ViT-B-16", str(weights)) and words._note("ViT-B-16", "openai") == ""
    bald = models.open_model(make_run(tmp_path / "resnet", vss="resnet", hsf="none").dir, "cpu")
    with pytest.raises(InputError, match="vss=resnet has no joint embedding"):
        models.open_words(bald)


def test_too_long_sentence_is_refused():
    from types import SimpleNamespace

    import open_clip

    tokenizer = open_clip.SimpleTokenizer(context_length=16)
    clip = SimpleNamespace(
        tokenizer=tokenizer, context_length=16, tokenize=tokenizer, token_features=lambda tokens: torch.ones(1, 4)
    )
    opened = models.Words(clip)
    assert models.text_feature(opened, " ".join(["tall"] * 14)).shape == (4,)
    with pytest.raises(InputError, match="more tokens than the 16"):
        models.text_feature(opened, " ".join(["tall"] * 15))


def test_command_line_searches_by_text_and_saves_image(capsys, measured, index, pictures, tmp_path):
    strip, command = tmp_path / "strip.png", ["search", measured.dir, "--gallery", index, "-k", "2"]
    status, out, _ = call(capsys, *command, "--text", "a tall person", "--save", strip)
    assert status == 0 and len(out.splitlines()) == 4 and Image.open(strip).size[0] > 500
    strip.unlink()
    status, out, _ = call(capsys, *command[:2], pictures, *command[2:], "--save", strip)
    assert status == 0 and out.count("rank  distance  path") == 6 and Image.open(strip).size[1] > 1000
    status, _, err = call(capsys, *command, "--text", "a zebra")
    assert status == 2 and "does not know 'zebra'" in err
    for more, text in (
        ([], "give a query image, --text"),
        (["--text", "tall", "--threshold", "auto"], "threshold applies to distances between images"),
        (["--text", "tall", "--save", tmp_path / "strip.doc"], "the file name must end in"),
    ):
        status, _, err = call(capsys, *command, *more)
        assert status == 2 and text in err


def test_command_line_updates_index(capsys, measured, album, tmp_path):
    out_file = tmp_path / "g.safetensors"
    assert call(capsys, "embed", measured.dir, album, "--out", out_file)[0] == 0
    (album / "0.png").unlink()
    status, out, _ = call(capsys, "embed", measured.dir, album, "--out", out_file, "--add")
    assert status == 0 and "1 deleted, 5 unchanged" in out and "5 images, " in out


def _frame(paths):
    import pandas as pd

    return pd.DataFrame({"path": paths, "person": -1, "camera": -1, "clothes": -1})


def test_standardised_constant_is_zero():
    assert (searching._standardised(np.full(3, 2.0, np.float32)) == 0).all()


def test_captions_beside_a_benchmark_are_scored_against_its_gallery(capsys, tiny_benchmark, tmp_path):
    import pandas as pd

    run = make_run(tmp_path / "run", clip_checkpoint="embedded", vss="none")
    run.path("results.json").unlink()
    truth = tiny_benchmark.root / "attributes.csv"
    command = ["evaluate", run.dir, "synthetic", tiny_benchmark.root, "--out", tmp_path / "scores", "--captions"]
    status, out, _ = call(capsys, *command, truth)
    table = pd.read_csv(tmp_path / "scores" / "words.csv").set_index("name")
    assert status == 0 and "text to image" in out and {"captions", "hair_style", "pattern"} <= set(table.index)
    captions = pd.read_csv(truth).set_index("path")["caption"]
    frame = tiny_benchmark.gallery.assign(caption=tiny_benchmark.gallery.path.map(captions))
    model = models.open_model(run.dir, "cpu")
    features = retrieval.embed(model.encoder, frame, tiny_benchmark.root, model.size).f
    alone = retrieval.evaluate_words(models.open_words(model).clip, features, frame, frame).iloc[0]
    assert table.loc["captions", "queries"] == len(frame)
    for name in ("rank1", "mean_ap"):
        assert table.loc["captions", name] == pytest.approx(alone[name], abs=1e-5)
    (tmp_path / "others.json").write_text('{"x/1.png": "a tall person"}')
    status, _, err = call(capsys, *command, tmp_path / "others.json")
    assert status == 2 and "has no sentence for a gallery image of synthetic: its first path is x/1.png" in err
