"""Vary the conditions of training one at a time, and measure what the text loss adds under each of them.

``python -m benchmarks.text_study --draws 3`` trains CLIP-ReID and identity + triplet on each draw of the embedded
benchmark under each of `CONDITIONS`, and scores both on the validation people. The difference is what the text loss
adds. Both rows have the same network (the ViT alone), batches and number of steps. Nothing is chosen by these scores.

Finished rows are kept in build/text-study, and an interrupted call resumes. Writes reports/text-study/rows.csv, one
line per row, draw and protocol, and differences.csv and .png.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import joblib
import pandas as pd
import torch

from benchmarks.world_rows import PROTOCOLS, trained
from csgn_lib import datasets, synthetic
from csgn_lib.config import Experiment
from csgn_lib.progress import track
from csgn_lib.records import cores, home, read_json, write_json, write_text
from csgn_lib.statistics import spread
from csgn_lib.synthetic import World

ROWS = {"identity + triplet": "identity-triplet", "CLIP-ReID": "clip-reid"}
BASELINE, TEXT = ROWS
FOLDER, RECORD = Path("build/text-study"), home() / "reports" / "text-study"
_EPOCHS = ("stage1_epochs", "stage1_warmup", "stage2_epochs", "stage2_warmup")


@dataclass(frozen=True)
class Condition:
    """One change of the preset ``demo``.

    Attributes:
        parameters: of both rows.
        text: parameters of CLIP-ReID alone; identity + triplet is that of the unchanged preset then.
        setting: of the world.
        people: number of training people; None: all.
        images, outfits: training images of each person, and the outfits they show; None: all.
    """

    parameters: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    setting: str = "middle"
    people: int | None = None
    images: int | None = None
    outfits: int | None = None


PRESET = "the preset"
CONDITIONS = {
    PRESET: Condition(),
    "text loss x 0.25": Condition(text={"hsf_weight": 0.25}),
    "text loss x 2": Condition(text={"hsf_weight": 2.0}),
    "cosine similarity": Condition(text={"similarity": "cosine"}),
    "learning rate / 3": Condition({"lr_vit": 1e-4}),
    "4 images, 4 outfits": Condition(images=4, outfits=4),
    "4 images, 1 outfit": Condition(images=4, outfits=1),
    "60 people": Condition(people=60),
    "street pictures": Condition(setting="street"),
    "calm pictures": Condition(setting="calm"),
}


def fewer(train: pd.DataFrame, condition: Condition) -> pd.DataFrame:
    """Return the rows of a training frame that a condition keeps, with people and clothes numbered from 0.

    Images of a person are taken from the outfits in turn, so that all outfits have equally many.
    """
    kept = train[train.person < (condition.people or len(train))]
    outfit = kept.groupby("person").clothes.transform(lambda clothes: pd.factorize(clothes)[0])
    kept = kept[outfit < (condition.outfits or len(train))]
    turn = kept.groupby("clothes").cumcount()
    order = kept.assign(turn=turn).sort_values(["person", "turn", "clothes"], kind="stable")
    chosen = order.groupby("person").head(condition.images or len(train)).index
    kept = kept.loc[sorted(chosen)].reset_index(drop=True)
    return kept.assign(person=pd.factorize(kept.person)[0], clothes=pd.factorize(kept.clothes)[0])


def experiment_of(row: str, condition: Condition, draw: int, share: float) -> Experiment:
    """Build the experiment of a row: epochs are divided by ``share`` of the images, for an equal number of steps."""
    named = condition.parameters | (condition.text if row == TEXT else {})
    plain = Experiment.from_parameters(preset=f"demo+{ROWS[row]}", world=draw, seed=draw, **named)
    times = round(1 / share)
    longer = {name: times * getattr(plain, name) for name in _EPOCHS}
    longer["stage2_milestones"] = tuple(times * epoch for epoch in plain.stage2_milestones)
    return Experiment.from_parameters(preset=f"demo+{ROWS[row]}", world=draw, seed=draw, **named | longer)


def root_of(condition: Condition, draw: int) -> Path:
    """Return the folder of a draw's pictures, which are rendered first if necessary."""
    if condition.setting == World().setting:
        return synthetic.ensure(draw)
    world = World(seed=draw, setting=condition.setting)
    return synthetic.ensure(world, FOLDER / f"{condition.setting}-{draw}")


def folder_of(name: str, row: str, draw: int) -> Path:
    """Return the run's folder of a row under a condition."""
    return FOLDER / f"{draw}-{name}-{ROWS[row]}".replace(" ", "-").replace("/", "by")


def scores_of(name: str, row: str, draw: int) -> dict[str, dict[str, float]]:
    """Train and score a row: {protocol: {mean_ap, rank1}}; a finished row is read from its folder."""
    folder = folder_of(name, row, draw)
    file = folder / "validation.json"
    if not file.exists():
        torch.set_num_threads(1)
        condition = CONDITIONS[name]
        data = datasets.load("synthetic", root_of(condition, draw))
        train = fewer(data.train, condition)
        experiment = experiment_of(row, condition, draw, len(train) / len(data.train))
        scored = trained(experiment, replace(data, train=train), folder, data.validation)
        write_json(file, {p: {"mean_ap": score.mean_ap, "rank1": score.rank1} for p, score in scored.items()})
    return read_json(file)


def units(draws: int, names: Sequence[str] = tuple(CONDITIONS)) -> Iterator[tuple[str, str, int]]:
    """Condition, row and draw of every training, one condition after the other; rows that are equal are trained once.

    Args:
        names: of CONDITIONS; the preset is always the first.
    """
    for name in dict.fromkeys([PRESET, *names]):
        for draw in range(draws):
            for row in ROWS:
                if row == TEXT or not CONDITIONS[name].text:
                    yield name, row, draw


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """What the text loss adds, in points of mAP: condition, protocol, mean, low, high (95 %, t over draws), draws."""
    values = rows.set_index(["condition", "row", "protocol", "draw"])["mean_ap"].sort_index()
    made = []
    for name in rows["condition"].unique():
        for protocol in PROTOCOLS:
            text = values[name, TEXT, protocol]
            gains = 100 * (text - values[PRESET if CONDITIONS[name].text else name, BASELINE, protocol])
            over = spread(gains, gains.index)
            made.append({"condition": name, "protocol": protocol, "draws": len(gains)} | over.to_dict())
    return pd.DataFrame(made)


def main() -> None:
    """Render, train and score all rows, and write the records."""
    from csgn_lib import figures

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--conditions", nargs="*", default=list(CONDITIONS), choices=list(CONDITIONS))
    given = parser.parse_args()
    todo = list(units(given.draws, given.conditions))
    for setting, draw in dict.fromkeys((CONDITIONS[name].setting, draw) for name, _, draw in todo):
        root_of(Condition(setting=setting), draw)  # once, with all cores, rather than in every training
    results = joblib.Parallel(cores(), return_as="generator")(joblib.delayed(scores_of)(*unit) for unit in todo)
    rows = pd.DataFrame(
        {"condition": name, "row": row, "draw": draw, "protocol": protocol} | scores
        for (name, row, draw), found in zip(todo, track(results, len(todo), "trainings"), strict=True)
        for protocol, scores in found.items()
    )
    write_text(RECORD / "rows.csv", rows.to_csv(index=False, float_format="%.6f"))
    table = differences(rows)
    write_text(RECORD / "differences.csv", table.to_csv(index=False, float_format="%.4f"))
    shown = table.rename(columns={"condition": "row"})
    figures.forest(shown, "identity + triplet", "mAP of CLIP-ReID in points").savefig(RECORD / "differences.png")
    print(table.to_string(index=False, float_format="{:.1f}".format))


if __name__ == "__main__":
    main()
