"""The study of the text loss: training images under each condition, equal steps, resumption and the written table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from benchmarks import text_study
from benchmarks.text_study import BASELINE, CONDITIONS, PRESET, TEXT, Condition

TRAIN = pd.DataFrame(
    [(p, 4 * p + o, f"{p}_{o}_{i}") for p in range(5) for o in range(4) for i in range(4)],
    columns=["person", "clothes", "path"],
)


@pytest.mark.parametrize(
    ("condition", "images", "people", "outfits"),
    [
        (Condition(), 80, 5, 20),
        (Condition(people=2), 32, 2, 8),
        (Condition(images=4, outfits=4), 20, 5, 20),
        (Condition(images=4, outfits=1), 20, 5, 5),
        (Condition(images=6, outfits=2, people=3), 18, 3, 6),
    ],
)
def test_training_images_of_a_condition(condition: Condition, images: int, people: int, outfits: int) -> None:
    kept = text_study.fewer(TRAIN, condition)
    assert len(kept) == images and kept.path.is_unique
    assert sorted(kept.person.unique()) == list(range(people)) and sorted(kept.clothes.unique()) == list(range(outfits))
    assert kept.groupby("person").size().nunique() == kept.groupby("clothes").size().nunique() == 1
    before = TRAIN.set_index("path").loc[kept.path]
    assert (before.person.to_numpy() == kept.person).all()  # the first people are kept, with the same labels
    assert before.groupby("clothes").ngroups == outfits


def test_fewer_images_are_seen_in_more_epochs() -> None:
    plain, longer = (text_study.experiment_of(TEXT, Condition(people=60), 3, share) for share in (1, 0.25))
    assert longer.stage2_epochs == 4 * plain.stage2_epochs and longer.stage1_epochs == 4 * plain.stage1_epochs
    assert longer.stage2_milestones == tuple(4 * epoch for epoch in plain.stage2_milestones)
    assert (plain.seed, plain.world, plain.vss, plain.hsf) == (3, 3, "none", "convex")


def test_changes_of_the_text_loss_are_trained_once_without_text() -> None:
    units = list(text_study.units(2))
    assert len(set(units)) == len(units)
    for name, condition in CONDITIONS.items():
        own = [row for one, row, draw in units if one == name and draw == 1]
        assert own == ([TEXT] if condition.text else [BASELINE, TEXT])
        changed = text_study.experiment_of(BASELINE, condition, 0, 1)
        if condition.text:
            assert changed == text_study.experiment_of(BASELINE, Condition(), 0, 1)


def test_differences_are_paired_by_draw() -> None:
    rng, rows = np.random.default_rng(0), []
    for name, row, draw in text_study.units(3):
        for protocol in text_study.PROTOCOLS:
            rows.append({"condition": name, "row": row, "draw": draw, "protocol": protocol, "mean_ap": rng.random()})
    table = text_study.differences(pd.DataFrame(rows)).set_index(["condition", "protocol"])

    def score(name: str, row: str, draw: int) -> float:
        keys = ("condition", "row", "draw", "protocol")
        (value,) = [r["mean_ap"] for r in rows if tuple(r[key] for key in keys) == (name, row, draw, "general")]
        return value

    for name, base in (("text loss x 2", PRESET), ("60 people", "60 people")):
        gains = [100 * (score(name, TEXT, draw) - score(base, BASELINE, draw)) for draw in range(3)]
        line = table.loc[(name, "general")]
        assert line["mean"] == pytest.approx(np.mean(gains)) and line["clusters"] == 3
        assert line["high"] - line["mean"] == pytest.approx(4.302653 * np.std(gains, ddof=1) / np.sqrt(3))


def test_finished_row_is_read_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(text_study, "FOLDER", tmp_path)
    monkeypatch.setattr(text_study, "root_of", lambda *_: pytest.fail("trained again"))
    name = "learning rate / 3"
    folder = tmp_path / "2-learning-rate-by-3-clip-reid"
    text_study.write_json(folder / "validation.json", {"general": {"mean_ap": 0.25, "rank1": 0.5}})
    assert text_study.scores_of(name, TEXT, 2)["general"] == {"mean_ap": 0.25, "rank1": 0.5}
