"""A world as files: pictures in LTCC's layout, masks, counterfactual pairs, attributes, captions, cameras, splits, a
datasheet and a manifest.

A person is the unit of work: once all of a person's files lie in place, a line of ``rendered.jsonl`` says so with their
checksums, and an interrupted export goes on behind the last such line. ``manifest.json`` is written last.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from csgn_lib.records import InputError, read_json, write_json, write_text, writing
from csgn_lib.synthetic.rendered.attributes import Levels, caption, measure, outfit_attributes, person_attributes
from csgn_lib.synthetic.rendered.body import load_body
from csgn_lib.synthetic.rendered.datasheet import datasheet
from csgn_lib.synthetic.rendered.materials import PARTS
from csgn_lib.synthetic.rendered.scenes import Scene, draw
from csgn_lib.synthetic.rendered.worlds import (
    SPLITS,
    Entry,
    World,
    cameras_of,
    entries_of,
    person_of,
    split_of,
    wardrobe_of,
)

KINDS = ("recoloured", "reclothed", "rebodied", "reposed", "gray")
PACKAGES = ("torch", "numpy", "pillow", "csgn-workbench")
PALETTE = (0, 0, 0, 255, 200, 160, 120, 60, 20, 60, 120, 230, 230, 180, 40, 200, 40, 160, 40, 200, 120, 230, 60, 60,
           150, 150, 150)  # fmt: skip
_PROGRESS = "rendered.jsonl"
Report = Callable[[str], None]


def write_world(world: World, out: str | Path, workers: int | None = None, report: Report = lambda line: None) -> str:
    """Render a world into a folder, or go on with one that was interrupted; the checksum of its manifest.

    Args:
        workers: processes; the files do not depend on how many. By default one for each core.
        report: called with lines that say how far it has come.

    Raises:
        InputError: a world that cannot be drawn, or a folder that holds something else; nothing in it is touched.
        DiskError: a file cannot be written; after making room the same command goes on.
    """
    world, root = world.checked(), Path(out)
    if finished := _claim(world, root):
        report(_versions_note(finished))
        return str(finished["checksum"])
    done = _resumed(root)
    waiting = [number for number in range(world.people) if number not in done]
    progress = _Progress(world, len(waiting), report)
    with writing(root / _PROGRESS), (root / _PROGRESS).open("a", encoding="utf-8") as log, closing(
        _rendered(world, root, waiting, workers)
    ) as results:  # fmt: skip
        for number, files in results:
            done[number] = files
            log.write(json.dumps({"person": number, "files": files}) + "\n")
            log.flush()
            os.fsync(log.fileno())
            progress.advance()
    return _finish(world, root, done)


def _claim(world: World, root: Path) -> dict[str, object] | None:
    """Make the folder this world's. The manifest where the world is there already, whole."""
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file; name a folder")
    if not (root / "world.json").exists():
        if root.exists() and any(root.iterdir()):
            raise InputError(f"{root} exists and holds no rendered world; name another folder, or empty it")
        write_json(root / "world.json", world.description())
    elif read_json(root / "world.json") != world.description():
        raise InputError(f"{root} holds another world than the one asked for; name another folder, or remove it")
    return read_json(root / "manifest.json") if (root / "manifest.json").exists() else None


def versions() -> dict[str, str]:
    """Of the packages that decide the bytes."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _versions_note(manifest: Mapping[str, object]) -> str:
    was, now = dict(manifest["versions"]), versions()  # type: ignore[call-overload]
    changed = [f"{name} {was.get(name)} then, {now[name]} now" for name in now if was.get(name) != now[name]]
    if not changed:
        return "the world is there already, made with these versions"
    return f"the world is there already, made with other versions ({'; '.join(changed)}); its bytes may differ anew"


def _resumed(root: Path) -> dict[int, dict[str, str]]:
    """People whose files were finished and are unchanged: number -> {path: sha256}."""
    done: dict[int, dict[str, str]] = {}
    path = root / _PROGRESS
    if not path.exists():
        return done
    text = path.read_text(encoding="utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines():  # a line without its end was cut off
        record = json.loads(line)
        if all((root / file).is_file() and _digest(root / file) == sha for file, sha in record["files"].items()):
            done[record["person"]] = record["files"]
    write_text(path, "".join(json.dumps({"person": n, "files": f}) + "\n" for n, f in done.items()))
    return done


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _rendered(
    world: World, root: Path, numbers: list[int], workers: int | None
) -> Iterator[tuple[int, dict[str, str]]]:
    """Render people; yields each with the checksums of its files, as they are finished in order."""
    workers = min(workers or os.cpu_count() or 1, max(1, len(numbers)))
    if workers == 1:
        for number in numbers:
            yield number, _render_person(world, root, number)
        return
    with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
        futures = [pool.submit(_render_person, world, root, number) for number in numbers]
        try:
            for number, future in zip(numbers, futures, strict=True):
                yield number, future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _render_person(world: World, root: Path, number: int) -> dict[str, str]:
    """Write a person's pictures, masks and counterfactuals; {path: sha256}."""
    entries = entries_of(world, number, wardrobe_of(world, split_of(world, number)), cameras_of(world))
    scenes = [entry.scene for entry in entries]
    names = [(entry.path, f"masks/{entry.path}") for entry in entries]
    for entry in entries:
        for kind, scene, _ in counterfactuals(world, entry):
            scenes.append(scene)
            names.append(_counterfactual_paths(entry, kind))
    files: dict[str, str] = {}
    with _one_thread():
        pictures = draw(scenes, world.size)
    for (image, mask), picture in zip(names, pictures, strict=True):
        files[image] = _write(root / image, _png(picture.image))
        files[mask] = _write(root / mask, _mask_png(picture.mask))
    return files


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums come out in the same order however many cores there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def counterfactuals(world: World, entry: Entry) -> list[tuple[str, Scene, int]]:
    """What a test query is shown beside: kind, scene, and whose body it is. None for other pictures."""
    if not entry.path.startswith("query/"):
        return []
    first = world.counts()[0] + world.counts()[1]
    other = first + (entry.person - first + 1) % world.counts()[2]
    scene = entry.scene
    return [("recoloured", scene.recoloured(), entry.person), ("reclothed", scene.reclothed(), entry.person),
            ("rebodied", scene.rebodied(person_of(world, other)), other), ("reposed", scene.reposed(), entry.person),
            ("gray", scene.grayed(), entry.person)]  # fmt: skip


def _counterfactual_paths(entry: Entry, kind: str) -> tuple[str, str]:
    name = entry.path.partition("/")[2]
    return f"counterfactuals/{kind}/{name}", f"masks/counterfactuals/{kind}/{name}"


def _png(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def _mask_png(mask: NDArray[np.uint8]) -> bytes:
    """A palette image whose numbers are indices into PARTS."""
    picture = Image.frombytes("P", (mask.shape[1], mask.shape[0]), mask.tobytes())
    picture.putpalette(PALETTE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _write(path: Path, data: bytes) -> str:
    """Move whole bytes into place; their sha256. Not flushed to the disk one by one: rendered.jsonl tells what is
    whole.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return hashlib.sha256(data).hexdigest()


class _Progress:
    """Lines that say how many people are rendered and how long the rest will take."""

    def __init__(self, world: World, people: int, report: Report) -> None:
        self.world, self.people, self.report = world, people, report
        self.done, self.started, self.said = 0, time.monotonic(), 0.0
        report(f"{people} of {world.people} people to render")

    def advance(self) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.said < 2 and self.done < self.people:
            return
        self.said = now
        left = (now - self.started) / self.done * (self.people - self.done)
        self.report(f"{self.done}/{self.people} people, about {left / 60:.1f} min left")


def _finish(world: World, root: Path, done: Mapping[int, Mapping[str, str]]) -> str:
    """Write the tables and the datasheet, then the manifest; its checksum."""
    texts = _tables(world) | _lists(world)
    texts["datasheet.md"] = datasheet(
        world, {kind: sum(f"/{kind}/" in p for f in done.values() for p in f) for kind in KINDS}
    )
    files = {path: sha for number in sorted(done) for path, sha in done[number].items()}
    for name, text in texts.items():
        files[name] = _write(root / name, text.encode())
    files["world.json"] = _digest(root / "world.json")
    files = dict(sorted(files.items()))
    checksum = hashlib.sha256("".join(f"{sha}  {path}\n" for path, sha in files.items()).encode()).hexdigest()
    manifest = {
        "checksum": checksum,
        "versions": versions(),
        "world": world.description(),
        "parts": list(PARTS),
        "files": files,
    }
    write_json(root / "manifest.json", manifest)
    (root / _PROGRESS).unlink(missing_ok=True)
    return checksum


def _tables(world: World) -> dict[str, str]:
    """attributes.csv, captions.csv, cameras.json and counterfactuals.csv."""
    body, cameras = load_body(), cameras_of(world)
    people = [person_of(world, number) for number in range(world.people)]
    measures = [measure(body, person) for person in people]
    levels = Levels.of(measures[: world.counts()[0]])
    wardrobes = [wardrobe_of(world, split) for split in range(len(SPLITS))]
    rows, captions, pairs = [], [], []
    for number, person in enumerate(people):
        for entry in entries_of(world, number, wardrobes[split_of(world, number)], cameras):
            moment = entry.scene.moment
            ids = {"path": entry.path, "split": entry.split, "person": number, "outfit": entry.outfit,
                   "wardrobe": entry.wardrobe, "camera": entry.scene.camera.number + 1}  # fmt: skip
            where = {
                "heading": moment.heading,
                "right": moment.position[0],
                "away": moment.position[1],
                "crop": moment.crop,
                "phase": moment.pose.phase,
                "occluder": moment.occluder.kind if moment.occluder else "none",
            }
            rows.append(
                ids | measures[number] | person_attributes(person) | outfit_attributes(entry.scene.outfit) | where
            )
            rng = np.random.default_rng((*moment.seed, 5))
            captions.append((entry.path, caption(rng, person, entry.scene.outfit, measures[number], levels)))
            pairs += [
                (entry.path, kind, _counterfactual_paths(entry, kind)[0], whose)
                for kind, _, whose in counterfactuals(world, entry)
            ]
    return {
        "attributes.csv": pd.DataFrame(rows).to_csv(index=False, float_format="%.4f"),
        "captions.csv": pd.DataFrame(captions, columns=["path", "caption"]).to_csv(index=False),
        "counterfactuals.csv": pd.DataFrame(pairs, columns=["path", "kind", "counterfactual", "body"]).to_csv(
            index=False
        ),
        "cameras.json": json.dumps([asdict(camera) for camera in cameras], indent=1) + "\n",
    }


def _lists(world: World) -> dict[str, str]:
    """LTCC's lists of who changes clothes, and the people of each split."""
    people: dict[str, list[int]] = {split: [] for split in SPLITS}
    for number in range(world.people):
        people[SPLITS[split_of(world, number)]].append(number)
    changing = {split: numbers if world.outfits > 1 else [] for split, numbers in people.items()}
    texts = {"splits.json": json.dumps(people) + "\n"}
    for split in SPLITS:
        rest = [number for number in people[split] if number not in set(changing[split])]
        texts[f"info/cloth-change_id_{split}.txt"] = "".join(f"{number}\n" for number in changing[split])
        texts[f"info/cloth-unchange_id_{split}.txt"] = "".join(f"{number}\n" for number in rest)
    return texts
