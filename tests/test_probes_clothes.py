"""Clothes in an embedding: neighbours, linear classifiers, similarity within a person, rank-1 errors, invalid input."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score

from csgn_lib import retrieval
from csgn_lib.analysis import probes
from csgn_lib.backbones import load_clip
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.records import InputError, Run, write_json
from csgn_lib.vss import Embeddings

PEOPLE, WARDROBE, WORN = 12, 16, 4


@pytest.fixture(scope="module")
def crowd() -> pd.DataFrame:
    """12 people, 4 outfits of 16 each, 2 cameras, 2 images; what is true of them, and no features yet."""
    rng = np.random.default_rng(0)
    rows = [
        {"person": p, "outfit": int(o), "clothes": WORN * p + i, "camera": camera}
        for p in range(PEOPLE)
        for i, o in enumerate(rng.choice(WARDROBE, WORN, replace=False))
        for camera in (0, 0, 1, 1)
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(
        colour=np.where(frame.outfit % 2, "red", "blue"), hair=np.where(frame.person % 2, "long", "bald")
    )


def made_of(crowd: pd.DataFrame, *columns: str, noise: float = 0.2, seed: int = 1) -> np.ndarray:
    """Features (N, 32) that are a random direction for each value of each column, and noise."""
    rng = np.random.default_rng(seed)
    rows = noise * rng.normal(size=(len(crowd), 32))
    for column in columns:
        place, known = pd.factorize(crowd[column])
        rows = rows + rng.normal(size=(len(known), 32))[place]
    return rows


def unit(features: np.ndarray) -> np.ndarray:
    return features / np.linalg.norm(features, axis=1, keepdims=True)


# ---------------------------------------------------------------- neighbours


def test_neighbour_shares_and_chance_equal_counts(crowd: pd.DataFrame) -> None:
    features = made_of(crowd, "person", "outfit")
    found = probes.neighbourhood(features, crowd.person, crowd.clothes, 5, crowd.outfit)
    cosine = unit(features) @ unit(features).T
    for i in range(0, len(crowd), 7):
        others = [j for j in range(len(crowd)) if j != i]
        near = sorted(others, key=lambda j: -cosine[i, j])[:5]
        for whom, frame in ((near, found.shares), (others, found.chance)):
            same = [crowd.person[j] == crowd.person[i] for j in whom]
            clothes = [crowd.clothes[j] == crowd.clothes[i] for j in whom]
            outfit = [crowd.outfit[j] == crowd.outfit[i] for j in whom]
            assert frame.loc[i, probes.OTHER_CLOTHES] == pytest.approx(
                np.mean([s and not c for s, c in zip(same, clothes, strict=True)])
            )
            assert frame.loc[i, probes.SAME_CLOTHES] == pytest.approx(np.mean(clothes))
            assert frame.loc[i, probes.SAME_OUTFIT] == pytest.approx(
                np.mean([o and not s for o, s in zip(outfit, same, strict=True)])
            )


@pytest.mark.parametrize(("columns", "sign"), [(("person",), 1), (("outfit",), -1), ((), 0)])
def test_neighbours_are_grouped_by_the_content_of_the_features(crowd, columns, sign) -> None:
    found = probes.neighbourhood(made_of(crowd, *columns), crowd.person, crowd.clothes, 5, crowd.outfit)
    verdict = found.person_over_outfit(resamples=200)
    assert (verdict.low > 0) - (verdict.high < 0) == sign
    table = found.table(resamples=200).set_index("kind")
    if not columns:
        assert (table.times_low < 1).all() and (table.times_high > 1).all()
    assert list(table.index) == [probes.OTHER_CLOTHES, probes.SAME_CLOTHES, probes.SAME_OUTFIT]


def test_without_clothes_labels_only_the_person_is_counted(crowd: pd.DataFrame) -> None:
    features = made_of(crowd, "person")
    both = probes.neighbourhood(features, crowd.person, crowd.clothes, 5).shares
    shares = probes.neighbourhood(features, crowd.person, k=5).shares
    assert list(shares) == [probes.SAME_PERSON]
    assert np.allclose(shares[probes.SAME_PERSON], both[probes.OTHER_CLOTHES] + both[probes.SAME_CLOTHES])


def test_kind_that_no_image_can_have_has_no_multiple_of_chance(crowd):
    one = crowd.groupby("person").clothes.transform("first")  # everyone in one outfit
    table = probes.neighbourhood(made_of(crowd, "person"), crowd.person, one, 5).table(resamples=20)
    table = table.set_index("kind")[["value", "chance", "times", "times_low", "times_high"]]
    assert table.loc[probes.OTHER_CLOTHES, ["value", "chance"]].tolist() == [0, 0]
    assert table.loc[probes.OTHER_CLOTHES].isna().sum() == 3 and table.loc[probes.SAME_CLOTHES].notna().all()


def test_without_shared_outfits_no_kind_covers_them(crowd: pd.DataFrame) -> None:
    found = probes.neighbourhood(made_of(crowd, "person"), crowd.person, crowd.clothes, 5)
    assert probes.SAME_OUTFIT not in found.table().kind.tolist()
    with pytest.raises(InputError, match="nested in people"):
        found.person_over_outfit()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"person": 0}, "images of 1 person"),
        ({"clothes": -1}, "no clothes label"),
        ({"k": 192}, "k = 192 neighbours of 192 images"),
    ],
)
def test_neighbourhood_refuses_invalid_input(crowd, change, message) -> None:
    frame, k = crowd.assign(**{n: v for n, v in change.items() if n != "k"}), change.get("k", 5)
    with pytest.raises(InputError, match=message):
        probes.neighbourhood(made_of(crowd, "person"), frame.person, frame.clothes, k)


def test_flat_map_keeps_people_together_and_is_deterministic(crowd: pd.DataFrame) -> None:
    features = made_of(crowd, "person", noise=0.05)
    placed = probes.flat_map(features, 10, iterations=300)
    assert placed.shape == (len(crowd), 2)
    assert np.array_equal(placed, probes.flat_map(features * 4, 10, iterations=300))
    far = np.linalg.norm(placed[:, None] - placed, axis=-1)
    same = crowd.person.to_numpy()[:, None] == crowd.person.to_numpy()
    assert far[same].mean() < 0.5 * far[~same].mean()
    with pytest.raises(InputError, match="perplexity 200 for 192"):
        probes.flat_map(features, 200)


# ---------------------------------------------------------------- a linear reader


def test_folds_share_no_person_and_no_outfit_and_test_every_row_once(crowd: pd.DataFrame) -> None:
    person, outfit = crowd.person.to_numpy(), crowd.outfit.to_numpy()
    tested = person < 8
    seen = []
    for learned, held in probes.crossed_folds(person, outfit, tested, 3):
        assert not set(person[learned]) & set(person[held]) and not set(outfit[learned]) & set(outfit[held])
        seen += held.tolist()
    assert sorted(seen) == np.flatnonzero(tested).tolist()
    with pytest.raises(InputError, match="8 people are tested"):
        list(probes.crossed_folds(person, outfit, tested, 9))


def read(crowd: pd.DataFrame, features: np.ndarray, column: str, about: str, **options):
    given = {"about": about, "least": 2, "resamples": 100, **options}
    return probes.read_linearly(
        features, crowd[column], crowd.person, crowd.outfit, np.ones(len(crowd), dtype=bool), **given
    )


def test_a_linear_classifier_reads_a_colour_only_if_it_is_present(crowd: pd.DataFrame) -> None:
    there = read(crowd, made_of(crowd, "colour", "person"), "colour", "clothes")
    assert there["value"] > 0.95 and there["shuffled"] < 0.85 and there["majority"] <= 0.5
    absent = read(crowd, made_of(crowd, "person"), "colour", "clothes")
    assert 0.3 < absent["value"] < 0.7


def test_recognising_outfits_does_not_count_as_reading_colours(crowd: pd.DataFrame) -> None:
    """Outfits are perfectly told apart, yet their colours are arbitrary: memory of outfits must not help."""
    found = [read(crowd, made_of(crowd, "outfit", noise=0.01, seed=s), "colour", "clothes")["value"] for s in range(6)]
    assert np.mean(found) < 0.75


def test_balanced_accuracy_equals_sklearn(crowd: pd.DataFrame) -> None:
    features = made_of(crowd, "hair", noise=3)
    found = read(crowd, features, "hair", "person", shuffles=0)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    true, said = [], []
    everyone = np.ones(len(crowd), dtype=bool)
    for learned, held in probes.crossed_folds(crowd.person, crowd.outfit, everyone):
        reader = make_pipeline(
            StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=100, tol=1e-3)
        )
        reader.fit(unit(features)[learned], crowd.hair[learned])
        true += crowd.hair[held].tolist()
        said += reader.predict(unit(features)[held]).tolist()
    assert found["value"] == pytest.approx(balanced_accuracy_score(true, said), abs=0.01)
    assert found["low"] < found["value"] < found["high"] and found["shuffled"] is None
    assert found["images"] == len(crowd) and found["values"] == 2


def test_read_linearly_refuses_unusable_labels(crowd: pd.DataFrame) -> None:
    features = made_of(crowd, "person")
    with pytest.raises(InputError, match="two labels"):
        read(crowd.assign(colour=crowd.hair), features, "colour", "clothes")
    with pytest.raises(InputError, match="lower least"):
        read(crowd, features, "colour", "clothes", least=9)
    with pytest.raises(InputError, match="0 values"):
        read(crowd.assign(colour="none"), features, "colour", "clothes")


# ---------------------------------------------------------------- similarity within a person


def test_similarities_equal_a_loop_over_pairs(crowd: pd.DataFrame) -> None:
    features = made_of(crowd, "person", "outfit")
    found = probes.similarities(features, crowd.person, crowd.clothes, crowd.camera, crowd.outfit, block=50)
    cosine = unit(features) @ unit(features).T
    for i in range(0, len(crowd), 11):
        kinds: dict[str, list[float]] = {}
        for j in range(len(crowd)):
            if crowd.camera[i] == crowd.camera[j]:
                continue
            if crowd.person[i] == crowd.person[j]:
                kind = probes.SAME_CLOTHES if crowd.clothes[i] == crowd.clothes[j] else probes.OTHER_CLOTHES
            else:
                kind = probes.SAME_OUTFIT if crowd.outfit[i] == crowd.outfit[j] else probes.OTHERS
            kinds.setdefault(kind, []).append(cosine[i, j])
        for kind, values in kinds.items():
            assert found.loc[i, kind] == pytest.approx(np.mean(values), abs=1e-5)


def test_with_one_camera_all_other_images_are_compared(crowd: pd.DataFrame) -> None:
    features = made_of(crowd, "person")
    found = probes.similarities(features, crowd.person, crowd.clothes, np.full(len(crowd), -1))
    others = (crowd.clothes == crowd.clothes[0]).to_numpy() & (crowd.index > 0)  # not with itself
    assert found.loc[0, probes.SAME_CLOTHES] == pytest.approx(
        (unit(features)[others] @ unit(features)[0]).mean(), abs=1e-5
    )


def test_clothes_share_is_0_for_person_features_and_1_for_outfit_features(crowd: pd.DataFrame) -> None:
    def share(columns: tuple[str, ...], clothes: np.ndarray):
        features = made_of(crowd, *columns, noise=0.05)
        similar = probes.similarities(features, crowd.person, clothes, crowd.camera, crowd.outfit)
        return probes.clothes_share(similar, crowd.person, resamples=200)

    clothes = crowd.clothes.to_numpy()
    assert abs(share(("person",), clothes).value) < 0.02
    assert share(("outfit",), clothes).value == pytest.approx(1, abs=0.15)
    assert 0.2 < share(("person", "outfit"), clothes).value < 0.8
    mixed = probes.shuffled_within(crowd.person, clothes)
    assert abs(share(("person", "outfit"), mixed).value) < 0.2
    assert (pd.Series(mixed).groupby(crowd.person).nunique() == WORN).all() and not np.array_equal(mixed, clothes)


def test_similarities_refuse_people_with_one_outfit(crowd: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="no person has two outfits"):
        probes.similarities(made_of(crowd, "person"), crowd.person, crowd.person, crowd.camera)


# ---------------------------------------------------------------- on the embedded world


def test_first_answers_equal_a_loop(tiny_benchmark: Benchmark) -> None:
    data, rng = tiny_benchmark, np.random.default_rng(0)
    sides = [rng.normal(size=(len(f), 8)) for f in (data.query, data.gallery)]
    colours = [rng.random((len(f), 6)) for f in (data.query, data.gallery)]
    outfits = [probes.worn(data, f).outfit.to_numpy() for f in (data.query, data.gallery)]
    counted = retrieval.evaluate(*sides, data.query, data.gallery).per_query.query("valid").row.tolist()
    found = probes.first_answers(*sides, data, "cloth_changing", counted, colours, outfits)
    assert found.row.tolist() == counted
    person = data.gallery.person.to_numpy()
    for one in found.itertuples():
        query = data.query.iloc[one.row]
        junk = (person == query.person) & (
            (data.gallery.camera == query.camera) | (data.gallery.clothes == query.clothes)
        ).to_numpy()
        cosine = np.where(junk, -2, unit(sides[1]) @ unit(sides[0])[one.row])
        assert one.answer == cosine.argmax() and one.right == (person[one.answer] == query.person)
        strangers = person != query.person
        like = unit(colours[1]) @ unit(colours[0])[one.row]
        beside = strangers & (data.gallery.camera == data.gallery.camera.iloc[one.answer]).to_numpy()
        assert one.percentile == pytest.approx(100 * np.mean(like[beside] < like[one.answer]), abs=1e-3)
        assert one.same_outfit == (outfits[1][one.answer] == outfits[0][one.row])
        assert one.same_outfit_chance == pytest.approx(np.mean(outfits[1][strangers] == outfits[0][one.row]))


def test_outfits_are_numbered_across_people_and_separately_per_split(tiny_benchmark: Benchmark) -> None:
    truth = pd.read_csv(tiny_benchmark.root / "attributes.csv").set_index("path")
    frames = [tiny_benchmark.query, tiny_benchmark.gallery, tiny_benchmark.validation.gallery]
    worn = pd.concat([probes.worn(tiny_benchmark, f, ["upper_colour"]) for f in frames], ignore_index=True)
    paths = pd.concat([f.path for f in frames], ignore_index=True)
    key = truth.loc[paths, "split"].to_numpy() + truth.loc[paths, "wardrobe"].astype(str).to_numpy()
    assert (pd.Series(key).groupby(worn.outfit).nunique() == 1).all()
    assert worn.outfit.nunique() == len(set(key))
    assert worn.upper_colour.tolist() == truth.loc[paths, "upper_colour"].tolist()


def test_a_missing_attributes_file_is_refused_for_the_embedded_benchmark_only(tiny_benchmark, tmp_path: Path) -> None:
    moved = replace(tiny_benchmark, root=tmp_path)
    with pytest.raises(InputError, match="does not exist; remove"):
        probes.worn(moved, moved.query)
    assert probes.worn(replace(moved, name="ltcc"), moved.query) is None
    with pytest.raises(InputError, match="no column 'sleeve'; it has: path"):
        probes.worn(tiny_benchmark, tiny_benchmark.query, ["sleeve"])
    shutil.copy(tiny_benchmark.root / "attributes.csv", tmp_path)
    with pytest.raises(InputError, match="no row for 'x.png'"):
        probes.worn(moved, moved.query.assign(path="x.png"))


def test_invalid_rows_are_refused_before_any_work(tmp_path: Path) -> None:
    def folder(name: str, **values) -> str:
        run = Run(tmp_path / name)
        run.dir.mkdir()
        write_json(run.path("config.json"), Experiment.from_parameters(preset="demo", **values).model_dump(mode="json"))
        run.path("model.safetensors").touch()
        return str(run.dir)

    assert [row.name for row in probes.rows_of({})] == ["frozen CLIP"]
    with pytest.raises(InputError, match="absent: .*config.json does not exist"):
        probes.rows_of({"absent": str(tmp_path / "absent")})
    with pytest.raises(InputError, match="no joint embedding"):
        probes.rows_of({"a ResNet": folder("resnet", vss="resnet", hsf="none")})
    with pytest.raises(InputError, match="B has world=1, A world=0"):
        probes.rows_of({"A": folder("a"), "B": folder("b", world=1)})
    moved = {"A": str(tmp_path / "a"), "B": str(tmp_path / "b")}  # both on another benchmark than their own
    for row in probes.rows_of(moved, benchmark="csv", root="photographs"):
        data = row.experiment.benchmark, row.experiment.root, row.experiment.world
        assert row.run is not None and data == ("csv", "photographs", 0)
    assert probes.rows_of({"A": moved["A"]})[0].experiment.root is None


def test_an_embedded_row_has_every_compared_feature(tiny_benchmark: Benchmark) -> None:
    (row,) = probes.rows_of({})
    assert load_clip(row.experiment.clip_model, row.experiment.clip_checkpoint, (96, 48)).embed_dim == 128
    found = probes.embed_row(row, tiny_benchmark)
    embeddings: Embeddings = found.test.query
    parts, reported = found.parts(embeddings), found.reported(embeddings)
    assert list(reported) == [probes.CLOTHING_PART, retrieval.PLAIN, retrieval.CLOTHING_REMOVED, retrieval.PERSON_ONLY]
    assert set(parts) == {
        probes.CLOTHING_PART, probes.JOINT, f"{probes.JOINT}, clothing removed", f"{probes.JOINT}, person only",
        "ViT output z12",
        probes.WHOLE,
    }  # fmt: skip
    assert torch.allclose(
        parts[probes.CLOTHING_PART] + parts[f"{probes.JOINT}, clothing removed"], embeddings.f, atol=1e-5
    )
    kept = torch.linalg.matrix_rank(parts[f"{probes.JOINT}, person only"].double(), rtol=1e-5)
    assert kept <= found.descriptors["person only"].rank
