"""Score simple baselines and trained methods on the validation people of the embedded benchmark.

``python -m benchmarks.world_rows --draws 5`` renders the training and validation people of each draw of the world at
96 x 48 pixels, then trains and scores the rows of the table:

- chance and colour histogram;
- frozen: the embedded ResNet and CLIP without training, and LDA on their features, fitted on the training people;
- identity + triplet on either model, CSGN and CLIP-ReID, with the recipe of the demo;
- clothes blanked: identity + triplet on pictures whose clothes and bag are gray, according to the true masks;
- true attributes: the attributes of a person that captions name (levels of measures, hair, skin, beard, sex, age).

Pictures and finished rows are kept in build/world-rows, and an interrupted call resumes. Test people are not used.
Writes reports/world/rows.json and rows.md after each draw.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from csgn_lib import datasets, retrieval, training
from csgn_lib.config import Experiment
from csgn_lib.datasets import Benchmark
from csgn_lib.progress import track
from csgn_lib.records import read_json, write_json, write_text
from csgn_lib.retrieval import Scores
from csgn_lib.synthetic import export
from csgn_lib.synthetic.attributes import Levels, measure
from csgn_lib.synthetic.body import load_body
from csgn_lib.synthetic.garments import draw_outfit
from csgn_lib.synthetic.materials import PARTS
from csgn_lib.synthetic.scenes import draw
from csgn_lib.synthetic.words import OWN, attribute_prompts, values
from csgn_lib.synthetic.worlds import World, cameras_of, entries_of, person_of, split_of, wardrobe_of
from csgn_lib.vss import VisualEncoder

SIZE = (96, 48)
PROTOCOLS = ("cloth_changing", "general")
BLANKED = [PARTS.index(name) for name in ("upper", "lower", "shoes", "bag", "hat")]
GRAY = 115
FROZEN = {"frozen ResNet": ("resnet", "c"), "frozen CLIP": ("identity-triplet", "z12")}  # method, embedding
METHODS = {
    "identity + triplet, ResNet": ("resnet", "plain"),
    "identity + triplet, ResNet, clothes blanked": ("resnet", "blanked"),
    "identity + triplet, ViT": ("identity-triplet", "plain"),
    "identity + triplet, ViT, clothes blanked": ("identity-triplet", "blanked"),
    "CSGN": ("csgn", "plain"),
    "CLIP-ReID": ("clip-reid", "plain"),
}  # method, pictures
RECORD = Path(__file__).resolve().parents[1] / "reports/world/rows.json"


def render(world: World, root: Path) -> None:
    """Render training and validation people in LTCC's layout, with the validation people as test people.

    The folder ``plain`` holds the pictures, ``blanked`` the same pictures with gray clothes and bags. Existing people
    are not rendered again.
    """
    cameras, counts = cameras_of(world), world.counts()
    done = {number: root / "done" / f"{number:04d}" for number in range(counts[0] + counts[1])}
    waiting = [number for number, file in done.items() if not file.exists()]
    for number in track(waiting, what="rendering people"):
        split = split_of(world, number)
        entries = entries_of(world, number, wardrobe_of(world, split), cameras)
        for entry, picture in zip(entries, draw([e.scene for e in entries], world.size), strict=True):
            path = entry.path.removeprefix("validation/")
            blanked = np.where(np.isin(picture.mask, BLANKED)[..., None], GRAY, picture.image).astype(np.uint8)
            export.write_file(root / "plain" / path, export.png(picture.image))
            export.write_file(root / "blanked" / path, export.png(blanked))
        write_text(done[number], "")
    for kind in ("plain", "blanked"):
        for name, people in (("train", range(counts[0])), ("test", range(counts[0], counts[0] + counts[1]))):
            write_text(root / kind / "info" / f"cloth-change_id_{name}.txt", "".join(f"{n}\n" for n in people))
            write_text(root / kind / "info" / f"cloth-unchange_id_{name}.txt", "")


def attribute_features(world: World, frame: pd.DataFrame, levels: Levels) -> NDArray[np.float32]:
    """Indicators (N, values) of the attribute values of each row's person."""
    body = load_body()
    outfit, known = draw_outfit(np.random.default_rng(0)), {}
    for number in {int(Path(path).name.split("_")[0]) for path in frame.path}:
        person = person_of(world, number)
        known[number] = values(person, outfit, measure(body, person), levels)
    rows = pd.DataFrame([known[int(Path(path).name.split("_")[0])] for path in frame.path])[list(OWN)]
    return np.stack([(rows[name] == value) for name in OWN for value in attribute_prompts()[name]], 1).astype(
        np.float32
    )


def discriminant(train: torch.Tensor, person: NDArray[np.int64], kept: int = 48) -> Callable[[torch.Tensor], Any]:
    """Fit LDA with a shrunk within-person covariance (0.05 of its mean variance is added to the diagonal).

    Args:
        train: (N, D) features.
        person: (N,) labels.
        kept: number of dimensions.

    Returns:
        Function from features (M, D) to (M, kept).
    """
    train = train.double()
    means = torch.stack([train[torch.from_numpy(person == one)].mean(0) for one in np.unique(person)])
    inside = train - means[torch.from_numpy(np.unique(person, return_inverse=True)[1])]
    within = inside.T @ inside / len(train)
    between = torch.cov(means.T) - within * len(means) / len(train)
    within = within + 0.05 * within.trace() / len(within) * torch.eye(len(within)).double()
    whiten = torch.linalg.inv(torch.linalg.cholesky(within))
    size, axes = torch.linalg.eigh(whiten @ between @ whiten.T)
    size = size.flip(0)[:kept].clamp(min=1e-4)
    project = whiten.T @ axes.flip(1)[:, :kept] * (size / (size + 1)).sqrt()
    return lambda features: (features.double() - means.mean(0)) @ project


def experiment_of(method: str, root: Path, seed: int) -> Experiment:
    """Experiment of a method with the recipe of the demo."""
    return Experiment.from_parameters(preset=f"demo+{method}", root=str(root), seed=seed)


def trained(experiment: Experiment, benchmark: Benchmark, run_dir: Path, scored: Benchmark) -> dict[str, Scores]:
    """Train on a benchmark, and score the descriptors on the query and gallery of ``scored`` under every protocol."""
    encoder = training.load_encoder(training.fit(experiment, benchmark, run_dir)).eval()
    found = retrieval.embed_benchmark(encoder, scored, SIZE)
    return retrieval.evaluate_all(found.query.descriptor(), found.gallery.descriptor(), scored.query, scored.gallery,
                                  PROTOCOLS)  # fmt: skip


def missing_rows(world: World, root: Path, done: Collection[str]) -> Iterator[tuple[str, dict[str, Scores]]]:
    """Compute and yield the rows that are not in ``done``; slow ones come last."""
    plain, blanked = (datasets.load("synthetic", root / kind) for kind in ("plain", "blanked"))
    sides, rng = (plain.query, plain.gallery), np.random.default_rng(world.seed)

    def scored(query: object, gallery: object) -> dict[str, Scores]:
        return retrieval.evaluate_all(query, gallery, *sides, PROTOCOLS)

    if "true attributes" not in done:
        yield "chance", scored(*(retrieval.chance(len(side), rng) for side in sides))
        yield "colour histogram", scored(*(retrieval.colour_histogram(side, plain.root, SIZE) for side in sides))
        levels = levels_of(world)
        yield "true attributes", scored(*(attribute_features(world, side, levels) for side in sides))
    for name, (method, part) in FROZEN.items():
        if f"{name} + LDA" in done:
            continue
        encoder = frozen(experiment_of(method, plain.root, 0))
        seen = [retrieval.embed(encoder, frame, plain.root, SIZE).parts()[part] for frame in (*sides, plain.train)]
        project = discriminant(seen[2], plain.train.person.to_numpy())
        yield name, scored(*seen[:2])
        yield f"{name} + LDA", scored(*(project(rows).float() for rows in seen[:2]))
    for name, (method, kind) in METHODS.items():
        if name not in done:
            data = blanked if kind == "blanked" else plain
            experiment = experiment_of(method, data.root, world.seed)
            yield name, trained(experiment, data, root / "runs" / f"{method}-{kind}", data)


def frozen(experiment: Experiment) -> VisualEncoder:
    """Load the models of an experiment before training."""
    return VisualEncoder(*training.load_towers(experiment), experiment.vss, torch.Generator()).eval()


def levels_of(world: World) -> Levels:
    """Limits of the outer fifths of the measures among the training people."""
    body = load_body()
    return Levels.of([measure(body, person_of(world, number)) for number in range(world.counts()[0])])


def main() -> None:
    """Render, train and score every draw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--people", type=int, default=400, help="of training, validation and test together")
    parser.add_argument("--setting", default="middle")
    parser.add_argument("--skip", nargs="*", default=[], help="rows to skip: frozen CLIP + LDA, CSGN, ...")
    parser.add_argument("--folder", type=Path, default=Path("build/world-rows"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(given.draws):
        world = World(people=given.people, setting=given.setting, seed=seed, size=SIZE[0]).checked()
        root = given.folder / f"{given.setting}-{given.people}-{seed}"
        render(world, root)
        file = root / "rows.json"
        rows = read_json(file)["rows"] if file.exists() else {}
        for name, scores in missing_rows(world, root, [*rows, *given.skip]):
            rows[name] = {protocol: [score.mean_ap, score.rank1] for protocol, score in scores.items()}
            write_json(file, {"queries": world.counts()[1] * world.outfits * world.cameras_each, "rows": rows})
            print(f"world {seed}: {name}: {rows[name]}", flush=True)
        record(given.folder, given.setting, given.people, range(seed + 1))


def record(folder: Path, setting: str, people: int, seeds: range) -> None:
    """Write the scores of all draws as JSON, and their means as a Markdown table."""
    draws = [read_json(folder / f"{setting}-{people}-{seed}" / "rows.json") for seed in seeds]
    counts = World(people=people, setting=setting).counts()
    write_json(RECORD, {"setting": setting, "people": {"train": counts[0], "validation": counts[1]}, "draws": draws})
    lines = [f"Setting `{setting}`, {counts[0]} training and {counts[1]} validation people, {len(draws)} draw(s) of "
             "the world; mAP / rank-1 in %, mean over draws (lowest to highest mAP).", "",
             "| row | cloth-changing | general |", "|---|---|---|"]  # fmt: skip
    for name in draws[0]["rows"]:
        cells, known = [], [one["rows"][name] for one in draws if name in one["rows"]]
        for protocol in PROTOCOLS:
            scores = 100 * np.array([row[protocol] for row in known])
            span = f" ({scores[:, 0].min():.1f} to {scores[:, 0].max():.1f})" if len(known) > 1 else ""
            cells.append(f"{scores[:, 0].mean():.1f} / {scores[:, 1].mean():.1f}{span}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    write_text(RECORD.with_suffix(".md"), "\n".join(lines) + "\n")
    print("\n".join(lines), flush=True)


if __name__ == "__main__":
    main()
