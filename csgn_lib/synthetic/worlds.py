"""A world: which people wear which outfits before which cameras, as a list of scenes, and as files.

Outfits come from a wardrobe that is smaller than the crowd, so several people wear each: clothes
mislead. Training, validation and test people share neither a person nor a wardrobe. The files are in
LTCC's layout and are read back by LTCC's own reader; ``attributes.csv`` beside them holds the truth.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.random import Generator
from numpy.typing import NDArray
from PIL import Image

from csgn_lib import datasets
from csgn_lib.config import Experiment
from csgn_lib.records import InputError, home, read_json, write_json
from csgn_lib.synthetic.people import BODY_MEASURES, Outfit, Person, attributes, caption, draw_outfit, draw_person
from csgn_lib.synthetic.people import recoloured as other_colours
from csgn_lib.synthetic.scenes import Camera, draw_camera, picture

FORMAT = 1  # of the pictures: raise it when a change to the drawing changes any pixel
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class World:
    """A draw of the embedded benchmark. Another ``seed`` is another crowd, wardrobe and set of cameras.

    ``people`` and ``wardrobe`` count per split (train, validation, test). Each person wears
    ``outfits`` of the wardrobe; each outfit is seen by ``cameras_each`` of the ``cameras``, ``images``
    times each (per split). ``colour_identity``: share of people whose hair colour and skin are their own.
    """

    seed: int = 0
    people: tuple[int, int, int] = (240, 50, 50)
    wardrobe: tuple[int, int, int] = (60, 25, 25)
    images: tuple[int, int, int] = (2, 2, 2)
    outfits: int = 4
    cameras: int = 4
    cameras_each: int = 2
    colour_identity: float = 1.0
    format: int = FORMAT


@dataclass(frozen=True)
class Scene:
    """Everything that one picture is made of. ``seed`` decides pose, background, light and noise."""

    path: str
    split: str
    person_id: int
    outfit_number: int
    wardrobe: int
    camera_number: int
    person: Person
    outfit: Outfit
    camera: Camera
    seed: tuple[int, ...]

    def draw(self, with_mask: bool = False) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
        """The picture (96, 48, 3) RGB uint8 and, if asked, its part mask (96, 48), indices into PARTS."""
        return picture(self.person, self.outfit, self.camera, np.random.default_rng(self.seed), with_mask=with_mask)

    def recoloured(self, seed: int = 0) -> Scene:
        """The counterfactual: the same moment, with every colour of the clothes another one and nothing else."""
        return replace(self, outfit=other_colours(self.outfit, np.random.default_rng((*self.seed, 77, seed))))


def scenes_of(world: World) -> list[Scene]:
    """Every picture of the world, in the order of its path's frame number."""
    made: list[Scene] = []
    first = 0
    cameras = [draw_camera(np.random.default_rng((world.seed, 9, i))) for i in range(world.cameras)]
    for s in range(len(SPLITS)):
        rng = np.random.default_rng((world.seed, 8, s))
        wardrobe = [draw_outfit(rng) for _ in range(world.wardrobe[s])]
        for i in range(world.people[s]):
            made += _scenes_of_person(world, s, first + i, wardrobe, cameras, len(made))
        first += world.people[s]
    return made


def _scenes_of_person(
    world: World, s: int, number: int, wardrobe: Sequence[Outfit], cameras: Sequence[Camera], frame: int
) -> list[Scene]:
    rng = np.random.default_rng((world.seed, 7, number))
    person = draw_person(rng, world.colour_identity)
    made: list[Scene] = []
    for n, worn in enumerate(rng.choice(len(wardrobe), world.outfits, replace=False), start=1):
        for camera in sorted(int(c) for c in rng.choice(world.cameras, world.cameras_each, replace=False)):
            for image in range(world.images[s]):
                name = f"{number:03d}_{n}_c{camera + 1}_{frame + len(made):06d}.png"
                folder = _folder(SPLITS[s], image)
                seed = (world.seed, 6, frame + len(made))
                made.append(Scene(f"{folder}/{name}", SPLITS[s], number, n, int(worn), camera + 1,
                                  person, wardrobe[worn], cameras[camera], seed))  # fmt: skip
    return made


def _folder(split: str, image: int) -> str:
    """LTCC's folders: the gallery is called test. One picture of each person, outfit and camera is a query."""
    if split == "train":
        return "train"
    folder = "query" if image == 0 else "test"
    return f"validation/{folder}" if split == "validation" else folder


def ensure(world: World | int = 0, root: str | Path | None = None, processes: int | None = None) -> Path:
    """The folder of a rendered world; it is rendered first if it is not there yet.

    Args:
        world: a World, or the seed of a default one.
        root: where; by default ``data/synthetic-<seed>`` in the project.
        processes: that draw at the same time; by default one for each core.

    Raises:
        InputError: ``root`` holds something else (nothing in it is touched), or a seed that the people of the
            embedded towers' training may have.
    """
    world = World(seed=world) if isinstance(world, int) else world
    if not 0 <= world.seed < 10**6:
        raise InputError(
            f"world {world.seed}: worlds are numbered from 0 to 999999; others may hold people of training"
        )
    root = Path(root) if root is not None else _home_of(world)
    if root.exists():
        return _checked(world, root)
    root.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=root.parent, prefix=f".{root.name}-"))
    try:
        _render(world, temporary, processes)
        temporary.chmod(0o755)
        os.rename(temporary, root)
    except OSError:
        if root.exists():  # another process was faster; what it made is the same to the byte
            return _checked(world, root)
        raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return root


def world_of(experiment: Experiment) -> World | None:
    """The rendered world that an experiment's images show, so that they can be drawn again; None for other images.

    A folder's world is read from its ``world.json``; one of another version of the drawing is None too.
    """
    if experiment.benchmark != "synthetic":
        return None
    if experiment.root is None:
        return World(seed=experiment.world)
    file = Path(experiment.root) / "world.json"
    if not file.exists():
        return None
    kept = read_json(file)
    world = World(**{f.name: tuple(v) if isinstance(v := kept.get(f.name), list) else v for f in fields(World)})
    return world if _description(world) == kept and world.format == FORMAT else None


def _home_of(world: World) -> Path:
    return home() / "data" / f"synthetic-{world.seed}"


def _checked(world: World, root: Path) -> Path:
    if not (root / "world.json").exists():
        raise InputError(f"{root} exists but holds no rendered world; name another root, or remove it")
    if read_json(root / "world.json") != _description(world):
        raise InputError(f"{root} holds another world than {world}; remove it to render it again, or name another root")
    return root


def _description(world: World) -> dict[str, object]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(world).items()}


def _render(world: World, root: Path, processes: int | None) -> None:
    for folder in ("train", "query", "test", "validation/query", "validation/test", "info"):
        (root / folder).mkdir(parents=True)
    scenes = scenes_of(world)
    parts = [scenes[i : i + 250] for i in range(0, len(scenes), 250)]
    with ProcessPoolExecutor(processes or os.cpu_count()) as pool:
        list(pool.map(_render_part, parts, [root] * len(parts)))
    table(scenes).to_csv(root / "attributes.csv", index=False, float_format="%.4f")
    for split in ("train", "test"):  # LTCC lists who changes clothes; here everyone does
        ids = sorted({scene.person_id for scene in scenes if scene.split == split})
        (root / f"info/cloth-change_id_{split}.txt").write_text("".join(f"{i}\n" for i in ids))
        (root / f"info/cloth-unchange_id_{split}.txt").write_text("")
    write_json(root / "world.json", _description(world))


def _render_part(scenes: Sequence[Scene], root: Path) -> None:
    for scene in scenes:
        Image.fromarray(scene.draw()[0]).save(root / scene.path, compress_level=1)


def table(scenes: Sequence[Scene]) -> pd.DataFrame:
    """One row per picture: path, ids, true attributes (levels and names), body measures, and a caption."""
    rows = []
    for scene in scenes:
        ids = {"path": scene.path, "split": scene.split, "person": scene.person_id, "outfit": scene.outfit_number,
               "wardrobe": scene.wardrobe, "camera": scene.camera_number}  # fmt: skip
        measures = {f"{name}_measure": getattr(scene.person, name) for name in BODY_MEASURES}
        words = caption(scene.person, scene.outfit, _caption_rng(scene))
        rows.append(ids | attributes(scene.person, scene.outfit) | measures | {"caption": words})
    return pd.DataFrame(rows)


def _caption_rng(scene: Scene) -> Generator:
    return np.random.default_rng((*scene.seed, 5))


def benchmark_for(experiment: Experiment) -> datasets.Benchmark:
    """The benchmark that an experiment names; the embedded one is rendered first if it is not there.

    With ``validation_people`` that many training people are held out for tuning, the same for every seed of
    the experiment; the embedded world brings validation people of its own.
    """
    root = experiment.root
    if experiment.benchmark == "synthetic" and root is None:
        root = str(ensure(experiment.world))
    benchmark = _loaded(experiment, root)
    if experiment.validation_people:
        benchmark = benchmark.hold_out(experiment.validation_people, seed=0)
    return benchmark


def _loaded(experiment: Experiment, root: str | None) -> datasets.Benchmark:
    """``datasets.load``; if another benchmark's folder was given without its name, the error says which it is."""
    try:
        return datasets.load(experiment.benchmark, root, experiment)
    except InputError as error:
        if experiment.benchmark != "synthetic" or experiment.root is None:
            raise
        fitting = []
        for name in datasets.NAMES:
            with suppress(InputError):
                fitting += [name] if datasets.load(name, root) else []
        cure = f"set benchmark={fitting[0]}" if fitting else "set benchmark to what the folder holds"
        raise InputError(f"root={root} is not the embedded benchmark (benchmark=synthetic); {cure}: {error}") from None


def planned_for(experiment: Experiment) -> datasets.Benchmark:
    """The benchmark that an experiment names, and nothing drawn: of an embedded world not there yet, train alone."""
    world = World(seed=experiment.world)
    if experiment.benchmark != "synthetic" or experiment.root is not None or _home_of(world).exists():
        return benchmark_for(experiment)
    train = planned_train(world)
    return datasets.Benchmark("synthetic", _home_of(world), train, train.iloc[:0].copy(), train.iloc[:0].copy())


def planned_train(world: World) -> pd.DataFrame:
    """The training pictures of a world, drawn or not: columns path, person, camera, clothes, numbered as when read."""
    scenes = [scene for scene in scenes_of(world) if scene.split == "train"]
    rows = [(scene.path, scene.person_id, scene.camera_number - 1, scene.outfit_number) for scene in scenes]
    frame = pd.DataFrame(rows, columns=["path", "person", "camera", "outfit"])
    clothes = frame.groupby(["person", "outfit"]).ngroup()
    return frame.assign(person=pd.factorize(frame.person)[0], clothes=clothes).drop(columns="outfit")
