"""The study of wrong vocabularies: phrases of each one, subspaces, unfinished runs and the written differences."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from benchmarks import vocabulary_study
from benchmarks.vocabulary_study import CLOTHING_REMOVED, DEFAULT, OTHER_CLIP, PERSON_ONLY, PLAIN, RANDOM, VOCABULARIES
from csgn_lib.backbones import load_clip
from csgn_lib.records import InputError
from csgn_lib.vocabulary import subspace


@pytest.fixture(scope="module")
def clip():
    return load_clip("csgn-tiny", "embedded", (96, 48))


def test_phrases_of_each_vocabulary(clip) -> None:
    known, few, part, swapped, random = (words(clip) for words in VOCABULARIES.values())
    assert [phrase.text for phrase in few.clothing] == [
        f"{colour} {garment}" for garment in ("shirt", "trousers") for colour in ("red", "blue", "black")
    ]
    assert {phrase.text for phrase in few.person} >= {"tall person", "short person", "woman", "man"}
    assert {phrase.factor for phrase in part.clothing} == {"shoes", "bag", "hat"} and set(part.person) < set(
        known.person
    )
    assert not any("hair" in caption for phrase in part.person for caption in phrase.captions)
    assert (swapped.clothing, swapped.person) == (known.person, known.clothing)
    assert len(random.clothing) == len(known.clothing) and random.clothing != known.clothing
    assert [len(text.split()) for text in random.person[0].captions] == [
        len(text.split()) for text in known.person[0].captions
    ]


def test_subspaces_of_another_clip_and_random_ones_differ_from_the_default(clip) -> None:
    spaces = vocabulary_study.subspaces(clip, load_clip("csgn-tiny", "embedded-1", (96, 48)))
    assert set(spaces) == {*VOCABULARIES, OTHER_CLIP, RANDOM}
    bases = {name: subspace(features[PERSON_ONLY], 6) for name, features in spaces.items()}
    shared = {name: float((bases[DEFAULT].T @ basis).square().sum() / 6) for name, basis in bases.items()}
    assert shared[DEFAULT] == pytest.approx(1, abs=1e-4)
    chance = 6 / clip.embed_dim
    assert abs(shared[RANDOM] - chance) < 0.1 and shared[OTHER_CLIP] < 0.4 < shared["a few phrases"]


def test_runs_that_are_not_finished_are_named(tmp_path, monkeypatch) -> None:
    grid = tmp_path / "grid.yaml"
    grid.write_text("rows: {CSGN: {}}\nseeds: [991]\nworlds: [0]\n")
    monkeypatch.setattr(vocabulary_study, "GRIDS", [grid, grid])
    with pytest.raises(InputError, match="not a finished run; `make ablation-clips` trains it"):
        next(vocabulary_study.models())


def test_differences_are_paired_by_run_and_averaged_by_draw() -> None:
    rows = []
    for draw, seed, plain, worded in ((0, 0, 0.1, 0.2), (0, 1, 0.2, 0.4), (1, 0, 0.3, 0.35)):
        about = {
            "part": "phrases",
            "model": "CSGN",
            "clip": "embedded",
            "setting": "middle",
            "draw": draw,
            "seed": seed,
        }
        about |= {"vocabulary": DEFAULT, "protocol": "general"}
        rows += [
            about | {"descriptor": PLAIN, "mean_ap": plain},
            about | {"descriptor": PERSON_ONLY, "mean_ap": worded},
        ]
    (line,) = vocabulary_study.differences(pd.DataFrame(rows)).to_dict("records")
    assert line["mean"] == pytest.approx((15 + 5) / 2) and (line["runs"], line["clusters"]) == (3, 2)
    assert line["plain"] == pytest.approx(20) and line["descriptor"] == PERSON_ONLY


def test_every_descriptor_is_scored_with_each_vocabulary(clip, tiny_benchmark) -> None:
    encoder = vocabulary_study.frozen(vocabulary_study._initial("embedded"))
    noise = torch.randn(20, clip.embed_dim, generator=torch.Generator().manual_seed(0))
    spaces = {"noise": vocabulary_study.Subspaces({CLOTHING_REMOVED: noise, PERSON_ONLY: noise})}
    rows = pd.DataFrame(vocabulary_study.scored(encoder, tiny_benchmark, spaces))
    assert len(rows) == 3 * len(vocabulary_study.PROTOCOLS)
    assert set(rows["descriptor"]) == {PLAIN, CLOTHING_REMOVED, PERSON_ONLY}
    assert (rows.loc[rows["descriptor"] != PLAIN, "rank"] > 0).all() and rows["mean_ap"].between(0, 1).all()
