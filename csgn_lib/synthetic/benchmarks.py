"""The embedded benchmark on disk, and loading of the benchmark of an experiment."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import fields
from pathlib import Path

import pandas as pd

from csgn_lib import datasets
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, home, read_json
from csgn_lib.synthetic.export import finished, write_world
from csgn_lib.synthetic.worlds import World, entries


def ensure(world: World | int = 0, root: str | Path | None = None, processes: int | None = None) -> Path:
    """Return the folder of a world; it is rendered first if it does not exist or is incomplete.

    Args:
        world: a World, or the seed of a default one.
        root: folder; by default ``data/synthetic-<seed>`` in the project.
        processes: number of processes for rendering; by default one per core.

    Raises:
        InputError: ``root`` holds something else, which is not changed; or a parameter of the world is out of range.
            Seeds from 10**6 on are reserved for the pretraining of the embedded models.
    """
    world = (World(seed=world) if isinstance(world, int) else world).checked()
    root = Path(root) if root is not None else _home_of(world)
    if not finished(world, root):
        write_world(world, root, processes)
    return root


def world_of(experiment: Experiment) -> World | None:
    """Return the world of an experiment's images, with which they can be rendered again.

    It is read from the folder's ``world.json``. None if the images are not from the embedded benchmark, or if a version
    with another format rendered them.
    """
    if experiment.benchmark != "synthetic":
        return None
    if experiment.root is None:
        return World(seed=experiment.world)
    file = Path(experiment.root) / "world.json"
    if not file.exists():
        return None
    kept = read_json(file)
    world = World(**{f.name: kept[f.name] for f in fields(World) if f.name in kept})
    return world if world.description() == kept else None


def _home_of(world: World) -> Path:
    return home() / "data" / f"synthetic-{world.seed}"


def benchmark_for(experiment: Experiment) -> datasets.Benchmark:
    """Load the benchmark of an experiment; the embedded one is rendered first if necessary.

    ``validation_people`` is the number of training people held out for tuning, the same people for every seed of the
    experiment. The embedded benchmark already has validation people.
    """
    root = experiment.root
    if experiment.benchmark == "synthetic" and root is None:
        root = str(ensure(experiment.world))
    benchmark = _loaded(experiment, root)
    if experiment.validation_people:
        benchmark = benchmark.hold_out(experiment.validation_people, seed=0)
    return benchmark


def _loaded(experiment: Experiment, root: str | None) -> datasets.Benchmark:
    """Load a benchmark. If ``root`` holds another benchmark than the embedded one, the error message names it."""
    try:
        return datasets.load(experiment.benchmark, root, experiment)
    except InputError as error:
        if experiment.benchmark != "synthetic" or experiment.root is None:
            raise
        fitting = []
        for name in datasets.NAMES:
            with suppress(InputError):
                fitting += [name] if datasets.load(name, root) else []
        cure = f"set benchmark={fitting[0]}" if fitting else "set benchmark to the name of the data in this folder"
        raise InputError(f"root={root} is not the embedded benchmark (benchmark=synthetic); {cure}: {error}") from None


def planned_for(experiment: Experiment) -> datasets.Benchmark:
    """Like ``benchmark_for`` without rendering: an embedded benchmark not yet rendered has only training pictures."""
    world = World(seed=experiment.world)
    if experiment.benchmark != "synthetic" or experiment.root is not None or finished(world, _home_of(world)):
        return benchmark_for(experiment)
    train = planned_train(world)
    return datasets.Benchmark("synthetic", _home_of(world), train, train.iloc[:0].copy(), train.iloc[:0].copy())


def planned_train(world: World) -> pd.DataFrame:
    """Table of a world's training pictures: path, person, camera and clothes, numbered as in the loaded benchmark."""
    rows = [(entry.path, entry.person, entry.camera - 1, entry.outfit) for entry in entries(world, "train")]
    frame = pd.DataFrame(rows, columns=["path", "person", "camera", "outfit"])
    clothes = frame.groupby(["person", "outfit"]).ngroup()
    return frame.assign(person=pd.factorize(frame.person)[0], clothes=clothes).drop(columns="outfit")
