"""Choice of descriptors on validation people, scoring of runs, and baselines without learning."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from test_models import call

from csgn_lib import retrieval, training, vocabulary
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.retrieval import score_files
from csgn_lib.vss import Embeddings, VisualEncoder

SIZE = (96, 48)


@pytest.fixture(scope="module")
def frozen(random_clip):
    return VisualEncoder(random_clip, None, "none", torch.Generator()).eval()


def test_embed_equals_encoder_on_each_image(frozen, tiny_benchmark):
    query = tiny_benchmark.query
    together = retrieval.embed(frozen, query, tiny_benchmark.root, SIZE, batch_size=3)
    alone = retrieval.embed(frozen, query.iloc[[4]], tiny_benchmark.root, SIZE)
    torch.testing.assert_close(together.f[[4]], alone.f, atol=1e-5, rtol=1e-4)
    assert together.f.shape[0] == len(query) and together.c is None


def test_embedding_reports_progress_by_tenths(frozen, tiny_benchmark, monkeypatch, capfd):
    monkeypatch.setattr("csgn_lib.progress.LONG", 0)
    monkeypatch.setattr("csgn_lib.progress._is_watched", lambda: False)
    frame = tiny_benchmark.query[:20]
    retrieval.embed(frozen, frame, tiny_benchmark.root, SIZE, batch_size=1, what="embedding query")
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 10 and lines[4].startswith("embedding query: 50 %, 10 of 20, ")


def test_flip_averaging_is_mirror_invariant(frozen, tiny_benchmark):
    frame = tiny_benchmark.query[:2]
    plain = retrieval.embed(frozen, frame, tiny_benchmark.root, SIZE)
    both = retrieval.embed(frozen, frame, tiny_benchmark.root, SIZE, flip=True)
    mirrored = retrieval.embed(lambda images: frozen(images.flip(-1)), frame, tiny_benchmark.root, SIZE)
    torch.testing.assert_close(both.f, (plain.f + mirrored.f) / 2)


def test_text_subspace_descriptors_project_f_only(random_clip):
    words = retrieval.Vocabularies(random_clip)
    embeddings = Embeddings(None, torch.randn(3, 128), torch.randn(3, 128), torch.randn(3, 5))
    out = retrieval.features_of(retrieval.Descriptor(("f", "c"), retrieval.CLOTHING_REMOVED, 4), words)(embeddings)
    basis = vocabulary.subspace(words.features[retrieval.CLOTHING_REMOVED], 4)
    assert (out[:, :128] @ basis).abs().max() < 1e-5
    torch.testing.assert_close(out[:, 128:], torch.nn.functional.normalize(embeddings.c))
    with pytest.raises(InputError, match="needs text subspaces; pass words"):
        retrieval.features_of(retrieval.Descriptor(("f",), retrieval.PERSON_ONLY, 4))


def test_choose_takes_best_on_validation_people(frozen, random_clip, tiny_benchmark):
    words = retrieval.Vocabularies(random_clip)
    validation = retrieval.embed_benchmark(frozen, tiny_benchmark.validation, SIZE)
    chosen, reached = retrieval.choose(validation, words, retrieval.CLOTHING_REMOVED, [("f",)], 16)

    def score(rank):
        features = retrieval.features_of(retrieval.Descriptor(("f",), retrieval.CLOTHING_REMOVED, rank), words)
        return validation.scores(features, ["cloth_changing"])["cloth_changing"].mean_ap

    assert reached == max(score(rank) for rank in words.ranks(retrieval.CLOTHING_REMOVED)) == score(chosen.rank)
    untuned, nothing = retrieval.choose(None, words, retrieval.CLOTHING_REMOVED, [("f",)], 16)
    assert (untuned.rank, nothing) == (16, None)


@pytest.fixture(scope="module")
def scored(tiny_benchmark, tmp_path_factory):
    """A run of one epoch and its scores; not to be written to."""
    experiment = Experiment.from_parameters(
        clip_checkpoint=None, resnet_checkpoint=None, hsf="none", stage2_epochs=1, batch_persons=4, batch_images=2
    )
    run = training.fit(experiment, tiny_benchmark, tmp_path_factory.mktemp("scored") / "run")
    return run, retrieval.score_run(run, tiny_benchmark)


def test_score_run_writes_all_records(tiny_benchmark, scored):
    run, scores = scored
    recorded = json.loads(run.path("results.json").read_text())
    assert set(recorded) == {retrieval.PLAIN, retrieval.CLOTHING_REMOVED, retrieval.PERSON_ONLY}
    hard = recorded["plain"]["protocols"]["cloth_changing"]
    assert hard["mean_ap"] == scores["plain"]["cloth_changing"].mean_ap and hard["counted"] > 0
    assert recorded["plain"]["descriptor"] == "[z12; f; c]" and recorded["plain"]["validation_mean_ap"] is None
    assert recorded["plain"]["compared"] == {"parts": ["z12", "f", "c"], "vocabulary": "plain", "rank": 0}
    compared = retrieval.chosen_descriptors(run)
    assert {name: str(descriptor) for name, descriptor in compared.items()} == {
        name: found["descriptor"] for name, found in recorded.items()
    }
    assert compared[retrieval.PERSON_ONLY].parts == ("f", "c")  # tuples, as they were chosen
    saved = load_file(run.path("embeddings.safetensors"))
    again = retrieval.evaluate(saved["query"], saved["gallery"], tiny_benchmark.query, tiny_benchmark.gallery)
    assert again.mean_ap == pytest.approx(hard["mean_ap"])
    per_query = pd.read_csv(run.path("per_query.csv"))
    asked = per_query.query("protocol == 'cloth_changing' and valid").groupby("descriptor").ap.mean()
    assert asked.to_dict() == pytest.approx(
        {name: found["protocols"]["cloth_changing"]["mean_ap"] for name, found in recorded.items()}
    )


def test_thresholds_are_recorded_with_model_and_data(tiny_benchmark, scored):
    recorded = json.loads(scored[0].path("verification.json").read_text())
    assert recorded["model"] == retrieval.model_digest(scored[0]) and recorded["manifest"] == tiny_benchmark.manifest()
    saved = load_file(scored[0].path("embeddings.safetensors"))
    frames = tiny_benchmark.query, tiny_benchmark.gallery
    expected = retrieval.verify(saved["query"], saved["gallery"], *frames, ["cloth_changing"])["cloth_changing"]
    assert recorded["protocols"]["cloth_changing"] == expected.record()
    with safe_open(scored[0].path("embeddings.safetensors"), framework="numpy") as file:
        assert json.loads(file.metadata()["query_paths"]) == list(tiny_benchmark.query.path)


def test_run_folder_is_not_overwritten_by_another_benchmark(tiny_benchmark, scored):
    run, before = scored[0], scored[0].path("results.json").read_bytes()
    other = tiny_benchmark.without(tiny_benchmark.query.path[:1], "another data set")
    with pytest.raises(InputError, match="was trained on synthetic, and these are other data.*csgn evaluate"):
        retrieval.score_run(run, other)
    assert run.path("results.json").read_bytes() == before


def test_score_model_writes_separate_folder(tiny_benchmark, scored, tmp_path):
    run, scores = scored
    other = tiny_benchmark.without(tiny_benchmark.query.path[:1], "another data set")
    held = {path: path.stat().st_mtime_ns for path in run.dir.rglob("*")}
    found = retrieval.score_model(run.dir, other, tmp_path / "out")
    assert {path: path.stat().st_mtime_ns for path in run.dir.rglob("*")} == held
    assert set(found) == set(scores)  # the ranks that were chosen for the run, none chosen anew
    assert retrieval.chosen_descriptors(Run(tmp_path / "out")) == retrieval.chosen_descriptors(run)
    saved = load_file(tmp_path / "out" / "embeddings.safetensors")
    again = retrieval.evaluate(saved["query"], saved["gallery"], other.query, other.gallery)
    assert found["plain"]["cloth_changing"].mean_ap == pytest.approx(again.mean_ap)
    assert json.loads((tmp_path / "out" / "benchmark.json").read_text()) == other.record()
    retrieval.score_model(run.dir, other, tmp_path / "out")  # the same again
    for out, words in ((run.dir, "the model's own folder"), (tmp_path / "out", "holds something else")):
        with pytest.raises(InputError, match=words):
            retrieval.score_model(run.dir, tiny_benchmark, out)


def test_missing_text_encoder_leaves_plain_descriptor(tiny_benchmark, scored, tmp_path):
    folder = tmp_path / "exported"
    shutil.copytree(scored[0].dir, folder)
    write_json(folder / "config.json", scored[0].config | {"clip_checkpoint": "ViT.pt"})
    found = retrieval.score_model(folder, tiny_benchmark, tmp_path / "out")
    assert list(found) == ["plain"]
    assert found["plain"]["general"].mean_ap == pytest.approx(scored[1]["plain"]["general"].mean_ap)
    left_out = json.loads((tmp_path / "out" / "evaluated.json").read_text())["left_out"]
    assert set(left_out) == {retrieval.CLOTHING_REMOVED, retrieval.PERSON_ONLY} and "ViT.pt" in left_out["person only"]


def test_csgn_evaluate_prints_every_protocol(capsys, tiny_benchmark, scored, tmp_path):
    command = ["evaluate", scored[0].dir, "synthetic", tiny_benchmark.root, "--out", tmp_path / "e"]
    status, out, err = call(capsys, *command)
    assert status == 0 and err == "" and out.endswith(f"{tmp_path / 'e'}\n")
    for name in tiny_benchmark.protocols:
        assert out.count(f"  {name}: {tiny_benchmark.protocol(name).description}") == 3  # descriptors
    assert "TAR at FAR 0.1: " in out and "FNIR at FPIR 0.1: " in out


def test_validation_without_clothes_labels_uses_its_default_protocol(frozen, random_clip, tiny_benchmark):
    validation = retrieval.embed_benchmark(frozen, tiny_benchmark.validation, (96, 48))
    blind = [part.assign(clothes=-1) for part in (tiny_benchmark.validation.query, tiny_benchmark.validation.gallery)]
    for part in blind:
        part.attrs["benchmark"] = "market1501"
    unlabelled = replace(tiny_benchmark.validation, name="market1501", query=blind[0], gallery=blind[1])
    words = retrieval.Vocabularies(random_clip)
    kind, parts = retrieval.PERSON_ONLY, [("f",)]
    _, reached = retrieval.choose(replace(validation, benchmark=unlabelled), words, kind, parts, 8)
    assert 0 < reached <= 1


def test_single_person_has_no_interval(tiny_benchmark):
    one = tiny_benchmark.query["person"] == tiny_benchmark.query["person"].iloc[0]
    asked = tiny_benchmark.query[one].reset_index(drop=True)
    asked.attrs = tiny_benchmark.query.attrs
    sides = [np.random.default_rng(0).standard_normal((len(f), 4)) for f in (asked, tiny_benchmark.gallery)]
    recorded = score_files.record(retrieval.evaluate(*sides, asked, tiny_benchmark.gallery))
    assert recorded["mean_ap_interval"] == [None, None] and 0 <= recorded["mean_ap"] <= 1


def test_colour_histogram_equals_loop(tiny_benchmark):
    from PIL import Image

    frame = tiny_benchmark.query[:3]
    found = retrieval.colour_histogram(frame, tiny_benchmark.root, SIZE)
    pixels = np.asarray(Image.open(tiny_benchmark.root / frame.path.iloc[1]).convert("RGB"))
    counts = np.zeros((6, 4, 4, 4))
    for y in range(96):
        for x in range(48):
            counts[(y * 6 // 96, *(int(v) // 64 for v in pixels[y, x]))] += 1
    np.testing.assert_allclose(found[1] ** 2, counts.ravel() / (96 * 48), atol=1e-6)
    np.testing.assert_allclose((found**2).sum(1), 1, atol=1e-5)


def test_random_features_are_reproducible_and_score_at_chance():
    a, b = (retrieval.chance(50, np.random.default_rng(1)) for _ in range(2))
    assert (a == b).all()
    frame = pd.DataFrame({"person": np.arange(50) % 10, "camera": np.arange(50), "clothes": np.arange(50)})
    assert retrieval.evaluate(a, a[::-1].copy(), frame, frame, "general").mean_ap < 0.35
