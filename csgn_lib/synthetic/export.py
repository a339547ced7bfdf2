"""Export of a world: pictures in LTCC's layout, attributes with captions, cameras, splits and a manifest of checksums.

With ``extras`` also masks, counterfactual pairs and a datasheet. The unit of work is a person: when all files of a
person are written, a line with their checksums is appended to ``rendered.jsonl``, and an interrupted export resumes
with the people who are not listed there. ``manifest.json`` is written last.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image

from csgn_lib import records
from csgn_lib.progress import track
from csgn_lib.records import InputError, read_json, write_json, write_text, writing
from csgn_lib.synthetic.attributes import Levels, measure, person_attributes
from csgn_lib.synthetic.body import load_body
from csgn_lib.synthetic.datasheet import datasheet
from csgn_lib.synthetic.materials import PARTS
from csgn_lib.synthetic.scenes import KINDS, Scene, draw
from csgn_lib.synthetic.words import photo_caption, values
from csgn_lib.synthetic.worlds import (
    SPLITS,
    Entry,
    World,
    cameras_of,
    entries,
    entries_of,
    person_of,
    split_of,
    wardrobe_of,
)

PACKAGES = ("torch", "numpy", "pillow", "csgn-workbench")
PALETTE = (0, 0, 0, 255, 200, 160, 120, 60, 20, 60, 120, 230, 230, 180, 40, 200, 40, 160, 40, 200, 120, 230, 60, 60,
           150, 150, 150)  # fmt: skip
_PROGRESS, _LOCK = "rendered.jsonl", ".lock"


@dataclass(frozen=True)
class Rendered:
    """Record of a person whose files are complete."""

    files: dict[str, str]  # path -> sha256
    measures: dict[str, float]  # of the body


def write_world(world: World, out: str | Path, workers: int | None = None) -> str:
    """Render a world into a folder, or resume an interrupted rendering.

    A finished world is not rendered again; a line on standard error reports whether it was made with the current
    versions of the libraries. If several processes render the same folder, one works and the others wait.

    Args:
        out: folder of the world; it is created if needed.
        workers: number of processes, one per core by default; the files do not depend on it.

    Returns:
        The checksum in the manifest.

    Raises:
        InputError: a parameter of the world is out of range, or the folder holds something else; it is not changed.
        DiskError: a file cannot be written; the same call resumes when there is enough space.
    """
    world, root = world.checked(), Path(out)
    if not finished(world, root):
        _claim(world, root)
        with records.locked(root / _LOCK):
            if not finished(world, root):  # another process may have finished it
                _render(world, root, workers)
            (root / _LOCK).unlink(missing_ok=True)
    else:
        print(_versions_note(read_json(root / "manifest.json")), file=sys.stderr, flush=True)
    return str(read_json(root / "manifest.json")["checksum"])


def _render(world: World, root: Path, workers: int | None) -> None:
    done = _resumed(root)
    waiting = [number for number in range(world.people) if number not in done]
    workers = max(1, min(workers or os.cpu_count() or 1, len(waiting)))
    work = joblib.Parallel(workers, return_as="generator")
    results = work(joblib.delayed(_render_person)(world, root, number) for number in waiting)
    with writing(root / _PROGRESS), (root / _PROGRESS).open("a", encoding="utf-8") as log:
        for number, made in zip(waiting, track(results, len(waiting), "rendering people"), strict=True):
            done[number] = made
            log.write(json.dumps({"person": number} | asdict(made)) + "\n")
            log.flush()
            os.fsync(log.fileno())
    _finish(world, root, done)


def finished(world: World, root: Path) -> bool:
    """Whether the folder holds all of this world.

    Raises:
        InputError: the folder holds another world.
    """
    if not (root / "world.json").exists():
        return False
    if read_json(root / "world.json") != world.description():
        raise InputError(f"{root} holds another world; name another folder, or remove it")
    return (root / "manifest.json").exists()


def _claim(world: World, root: Path) -> None:
    """Reserve a folder for a world by writing ``world.json``.

    Raises:
        InputError: the folder holds something else; it is not changed.
    """
    if root.exists() and not root.is_dir():
        raise InputError(f"{root} is a file and holds no rendered world; name a folder")
    if not (root / "world.json").exists():
        if root.exists() and any(not path.name.startswith(".") for path in root.iterdir()):  # files being written
            raise InputError(f"{root} exists and holds no rendered world; name another folder, or empty it")
        write_json(root / "world.json", world.description())


def versions() -> dict[str, str]:
    """Versions of the packages that determine the bytes of the files."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def _versions_note(manifest: Mapping[str, object]) -> str:
    was, now = dict(manifest["versions"]), versions()  # type: ignore[call-overload]
    changed = [f"{name} {was.get(name)} then, {now[name]} now" for name in now if was.get(name) != now[name]]
    if not changed:
        return "the world is there already, made with these versions"
    return f"the world is there already, made with other versions ({'; '.join(changed)}); new files may differ"


def _resumed(root: Path) -> dict[int, Rendered]:
    """People whose files are complete and unchanged, by number."""
    done: dict[int, Rendered] = {}
    path = root / _PROGRESS
    if not path.exists():
        return done
    text = path.read_text(encoding="utf-8")
    for line in text[: text.rfind("\n") + 1].splitlines():  # an incomplete last line is ignored
        record = json.loads(line)
        if all((root / file).is_file() and _digest(root / file) == sha for file, sha in record["files"].items()):
            done[record["person"]] = Rendered(record["files"], record["measures"])
    write_text(path, "".join(json.dumps({"person": n} | asdict(made)) + "\n" for n, made in done.items()))
    return done


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _render_person(world: World, root: Path, number: int) -> Rendered:
    """Render and write the pictures of a person and, with extras, masks and counterfactuals."""
    ours = entries_of(world, number, wardrobe_of(world, split_of(world, number)), cameras_of(world))
    scenes = [entry.scene for entry in ours]
    names = [(entry.path, f"masks/{entry.path}") for entry in ours]
    for entry in ours if world.extras else ():
        for kind, scene, _ in counterfactuals(world, entry):
            scenes.append(scene)
            names.append(_counterfactual_paths(entry, kind))
    files: dict[str, str] = {}
    with _one_thread():
        pictures, measures = draw(scenes, world.size), measure(load_body(), person_of(world, number))
    for (image, mask), picture in zip(names, pictures, strict=True):
        files[image] = write_file(root / image, png(picture.image))
        if world.extras:
            files[mask] = write_file(root / mask, mask_png(picture.mask))
    return Rendered(files, measures)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread, so that the order of sums does not depend on the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def counterfactuals(world: World, entry: Entry) -> list[tuple[str, Scene, int]]:
    """Counterfactuals of a test query: kind, scene and number of the person shown. Empty for other pictures."""
    if not entry.path.startswith("query/"):
        return []
    first = world.counts()[0] + world.counts()[1]
    other = first + (entry.person - first + 1) % world.counts()[2]
    changed = entry.scene.counterfactuals(person_of(world, other))
    return [(kind, scene, other if kind == "rebodied" else entry.person) for kind, scene in changed.items()]


def _counterfactual_paths(entry: Entry, kind: str) -> tuple[str, str]:
    name = entry.path.partition("/")[2]
    return f"counterfactuals/{kind}/{name}", f"masks/counterfactuals/{kind}/{name}"


def png(image: NDArray[np.uint8]) -> bytes:
    """Encode an image (H, W, 3) as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=3)
    return buffer.getvalue()


def mask_png(mask: NDArray[np.uint8]) -> bytes:
    """Encode a mask as a palette PNG whose values are indices into PARTS."""
    picture = Image.frombytes("P", (mask.shape[1], mask.shape[0]), mask.tobytes())
    picture.putpalette(PALETTE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def write_file(path: Path, data: bytes) -> str:
    """Write a file atomically and return its sha256.

    Files are not flushed to disk one by one: the checksums in ``rendered.jsonl`` detect incomplete ones.
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


def _finish(world: World, root: Path, done: Mapping[int, Rendered]) -> None:
    """Write the tables and the datasheet, then the manifest."""
    texts = _tables(world, [done[number].measures for number in sorted(done)]) | _lists(world)
    files = {path: sha for number in sorted(done) for path, sha in done[number].files.items()}
    if world.extras:
        pairs = {kind: sum(path.startswith(f"counterfactuals/{kind}/") for path in files) for kind in KINDS}
        texts["datasheet.md"] = datasheet(world, pairs)
    for name, text in texts.items():
        files[name] = write_file(root / name, text.encode())
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


def _tables(world: World, measures: list[dict[str, float]]) -> dict[str, str]:
    """Contents of attributes.csv, cameras.json and, with extras, counterfactuals.csv."""
    levels, made = Levels.of(measures[: world.counts()[0]]), entries(world)
    texts = {
        "attributes.csv": attribute_table(made, measures, levels).to_csv(index=False, float_format="%.4f"),
        "cameras.json": json.dumps([asdict(camera) for camera in cameras_of(world)], indent=1) + "\n",
    }
    if world.extras:
        pairs = [
            (entry.path, kind, _counterfactual_paths(entry, kind)[0], whose)
            for entry in made
            for kind, _, whose in counterfactuals(world, entry)
        ]
        table = pd.DataFrame(pairs, columns=["path", "kind", "counterfactual", "body"])
        texts["counterfactuals.csv"] = table.to_csv(index=False)
    return texts


def attribute_table(made: list[Entry], measures: list[dict[str, float]], levels: Levels) -> pd.DataFrame:
    """Build the attribute table, one row per picture.

    Columns: path, labels, the value of each attribute of ``attribute_prompts`` or "none", body measures, heading,
    position, crop, phase of the walk, occluder, and a caption.

    Args:
        made: pictures of the world.
        measures: of each person, by number.
        levels: outer fifths of the measures among the training people.
    """
    rows = []
    for entry in made:
        scene, moment, person = entry.scene, entry.scene.moment, entry.scene.person
        body, own = measures[entry.person], person_attributes(person)
        ids = {"path": entry.path, "split": entry.split, "person": entry.person, "outfit": entry.outfit,
               "wardrobe": entry.wardrobe, "camera": entry.camera}  # fmt: skip
        numbers = body | {name: own[name] for name in ("skin", "beard", "hair_lightness")}
        where = {
            "heading": moment.heading, "right": moment.position[0], "away": moment.position[1], "crop": moment.crop,
            "phase": moment.pose.phase, "occluder": moment.occluder.kind if moment.occluder else "none",
        }  # fmt: skip
        caption = photo_caption(np.random.default_rng((*moment.seed, 5)), person, scene.outfit, body, levels)
        rows.append(
            ids | values(person, scene.outfit, body, levels)
            | {f"{name}_measure": value for name, value in numbers.items()} | where | {"caption": caption}
        )  # fmt: skip
    return pd.DataFrame(rows)


def _lists(world: World) -> dict[str, str]:
    """LTCC's lists of people who change clothes, and the people of each split."""
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
