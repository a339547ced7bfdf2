"""The rows of the embedded benchmark: blanked clothes, true attributes, LDA and the written table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from benchmarks import world_rows
from csgn_lib import datasets
from csgn_lib.records import read_json, write_json
from csgn_lib.synthetic.attributes import MEASURES, Levels
from csgn_lib.synthetic.materials import PARTS
from csgn_lib.synthetic.scenes import Picture
from csgn_lib.synthetic.worlds import World

SMALL = World(people=6, size=32, outfits=2, cameras_each=1)


def test_people_are_rendered_once_plain_and_with_blanked_clothes(tmp_path, monkeypatch):
    mask = np.arange(32 * 16, dtype=np.uint8).reshape(32, 16) % len(PARTS)
    image = np.full((32, 16, 3), 7, np.uint8)
    monkeypatch.setattr(world_rows, "draw", lambda scenes, size: [Picture(image, mask)] * len(scenes))
    for _ in range(2):
        world_rows.render(SMALL, tmp_path)
        monkeypatch.setattr(world_rows, "draw", lambda *_: pytest.fail("rendered again"))
    plain, blanked = (datasets.load("synthetic", tmp_path / kind) for kind in ("plain", "blanked"))
    train, validation, _ = SMALL.counts()
    assert plain.train.person.nunique() == train and plain.query.person.nunique() == validation
    assert plain.query.path.tolist() == blanked.query.path.tolist()
    pixels = np.asarray(Image.open(blanked.root / blanked.query.path[0]))
    worn = np.isin(mask, [PARTS.index(part) for part in ("upper", "lower", "shoes", "bag", "hat")])
    assert (pixels[worn] == world_rows.GRAY).all() and (pixels[~worn] == 7).all()


def test_true_attributes_are_indicators_independent_of_outfit():
    paths = [f"query/000{person}_{outfit}_c1_00000{outfit}.png" for person in (0, 1, 2) for outfit in (1, 2)]
    levels = Levels(dict.fromkeys(MEASURES, 0.2), dict.fromkeys(MEASURES, 0.8))
    rows = world_rows.attribute_features(SMALL, pd.DataFrame({"path": paths}), levels)
    assert set(np.unique(rows)) == {0, 1} and (rows[::2] == rows[1::2]).all()
    assert len({tuple(row) for row in rows}) == 3
    assert (rows.sum(1) >= 5).all() and (rows.sum(1) <= len(world_rows.OWN)).all()


def test_discriminant_suppresses_variation_within_person():
    generator = torch.Generator().manual_seed(0)
    people = np.repeat(np.arange(12), 8)
    own = torch.randn(12, 4, generator=generator)[torch.from_numpy(people)]
    noise = torch.randn(96, 4, generator=generator) * torch.tensor([5.0, 0.05, 0.05, 0.05])
    features = own + noise

    def right(rows: torch.Tensor) -> float:
        near = torch.cdist(rows, rows).fill_diagonal_(float("inf")).argmin(1)
        return float((people[near] == people).mean())

    project = world_rows.discriminant(features, people, kept=3)
    assert right(features) < 0.7 < 0.95 < right(project(features))


def test_table_has_means_over_draws_with_row(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(world_rows, "RECORD", tmp_path / "rows.json")
    for seed, scores in enumerate(((0.1, 0.2), (0.3, 0.4))):
        rows = {"frozen": {protocol: list(scores) for protocol in world_rows.PROTOCOLS}}
        rows |= {} if seed else {"CSGN": {protocol: [0.5, 0.6] for protocol in world_rows.PROTOCOLS}}
        write_json(tmp_path / f"middle-20-{seed}" / "rows.json", {"queries": 8, "rows": rows})
    world_rows.record(tmp_path, "middle", 20, range(2))
    table = (tmp_path / "rows.md").read_text()
    assert "| frozen | 20.0 / 30.0 (10.0 to 30.0) |" in table and "| CSGN | 50.0 / 60.0 |" in table
    assert "12 training and 3 validation people, 2 draw(s)" in table
    assert len(read_json(tmp_path / "rows.json")["draws"]) == 2
