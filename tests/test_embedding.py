"""Descriptors chosen on validation people, runs scored whole, and the rows that need no learning."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from csgn_lib import retrieval, training, vocabulary
from csgn_lib.config import Experiment
from csgn_lib.records import InputError
from csgn_lib.vss import Embeddings, VisualEncoder

SIZE = (96, 48)


@pytest.fixture(scope="module")
def frozen(random_clip):
    return VisualEncoder(random_clip, None, "none", torch.Generator()).eval()


def test_embed_is_the_encoder_on_every_image_in_the_frames_order(frozen, tiny_benchmark):
    query = tiny_benchmark.query
    together = retrieval.embed(frozen, query, tiny_benchmark.root, SIZE, batch_size=3)
    alone = retrieval.embed(frozen, query.iloc[[4]], tiny_benchmark.root, SIZE)
    torch.testing.assert_close(together.f[[4]], alone.f, atol=1e-5, rtol=1e-4)
    assert together.f.shape[0] == len(query) and together.c is None


def test_flip_averaging_does_not_see_left_from_right(frozen, tiny_benchmark):
    frame = tiny_benchmark.query[:2]
    plain = retrieval.embed(frozen, frame, tiny_benchmark.root, SIZE)
    both = retrieval.embed(frozen, frame, tiny_benchmark.root, SIZE, flip=True)
    mirrored = retrieval.embed(lambda images: frozen(images.flip(-1)), frame, tiny_benchmark.root, SIZE)
    torch.testing.assert_close(both.f, (plain.f + mirrored.f) / 2)


def test_vocabulary_descriptors_are_projections_of_f_and_leave_the_other_parts(random_clip):
    words = retrieval.Vocabularies(random_clip)
    embeddings = Embeddings(None, torch.randn(3, 128), torch.randn(3, 128), torch.randn(3, 5))
    out = retrieval.features_of(retrieval.Descriptor(("f", "c"), retrieval.CLOTHING_OUT, 4), words)(embeddings)
    basis = vocabulary.subspace(words.features[retrieval.CLOTHING_OUT], 4)
    assert (out[:, :128] @ basis).abs().max() < 1e-5
    torch.testing.assert_close(out[:, 128:], torch.nn.functional.normalize(embeddings.c))
    with pytest.raises(InputError, match="vocabulary"):
        retrieval.features_of(retrieval.Descriptor(("f",), retrieval.PERSON_ONLY, 4))


def test_choice_is_the_best_on_validation_people_and_a_default_without_them(frozen, random_clip, tiny_benchmark):
    words = retrieval.Vocabularies(random_clip)
    validation = retrieval.embed_benchmark(frozen, tiny_benchmark.validation, SIZE)
    chosen, reached = retrieval.choose(validation, words, retrieval.CLOTHING_OUT, [("f",)], 16)

    def score(rank):
        features = retrieval.features_of(retrieval.Descriptor(("f",), retrieval.CLOTHING_OUT, rank), words)
        return validation.scores(features, ["cloth_changing"])["cloth_changing"].mean_ap

    assert reached == max(score(rank) for rank in words.ranks(retrieval.CLOTHING_OUT)) == score(chosen.rank)
    untuned, nothing = retrieval.choose(None, words, retrieval.CLOTHING_OUT, [("f",)], 16)
    assert (untuned.rank, nothing) == (16, None)


def test_a_run_is_scored_and_recorded_whole(tiny_benchmark, tmp_path):
    experiment = Experiment.from_parameters(
        clip_checkpoint=None, resnet_checkpoint=None, hsf="none", stage2_epochs=1, batch_persons=4, batch_images=2
    )
    run = training.fit(experiment, tiny_benchmark, tmp_path / "run")
    scores = retrieval.score_run(run, tiny_benchmark)
    recorded = json.loads(run.path("results.json").read_text())
    assert set(recorded) == {retrieval.PLAIN, retrieval.CLOTHING_OUT, retrieval.PERSON_ONLY}
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


def test_validation_people_without_clothes_labels_choose_under_their_own_headline(frozen, random_clip, tiny_benchmark):
    validation = retrieval.embed_benchmark(frozen, tiny_benchmark.validation, (96, 48))
    blind = [part.assign(clothes=-1) for part in (tiny_benchmark.validation.query, tiny_benchmark.validation.gallery)]
    for part in blind:
        part.attrs["benchmark"] = "market1501"
    unlabelled = replace(tiny_benchmark.validation, name="market1501", query=blind[0], gallery=blind[1])
    words = retrieval.Vocabularies(random_clip)
    kind, parts = retrieval.PERSON_ONLY, [("f",)]
    _, reached = retrieval.choose(replace(validation, benchmark=unlabelled), words, kind, parts, 8)
    assert 0 < reached <= 1


def test_one_person_alone_is_recorded_without_an_interval(tiny_benchmark):
    one = tiny_benchmark.query["person"] == tiny_benchmark.query["person"].iloc[0]
    asked = tiny_benchmark.query[one].reset_index(drop=True)
    asked.attrs = tiny_benchmark.query.attrs
    sides = [np.random.default_rng(0).standard_normal((len(f), 4)) for f in (asked, tiny_benchmark.gallery)]
    recorded = retrieval.embedding.record(retrieval.evaluate(*sides, asked, tiny_benchmark.gallery))
    assert recorded["mean_ap_interval"] == [None, None] and 0 <= recorded["mean_ap"] <= 1


def test_colour_histogram_is_the_naive_count(tiny_benchmark):
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


def test_chance_is_reproducible_and_scores_as_chance():
    a, b = (retrieval.chance(50, np.random.default_rng(1)) for _ in range(2))
    assert (a == b).all()
    frame = pd.DataFrame({"person": np.arange(50) % 10, "camera": np.arange(50), "clothes": np.arange(50)})
    assert retrieval.evaluate(a, a[::-1].copy(), frame, frame, "general").mean_ap < 0.35
