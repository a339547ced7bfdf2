"""Measure the rendering speed of the embedded benchmark on one core, in pictures per second.

``python benchmarks/world.py [--rounds 6]`` renders one new person per round: 4 outfits, 4 pictures of each, 128 x 64
pixels, with masks, encoded as PNG. Backgrounds are rendered before the measurement. With WORLD_PROTOTYPE=FOLDER the
rounds alternate with those of another renderer, so that other load on the machine slows both equally; the folder holds
the modules body, people, dress, render and scene with the interface of the first prototype. Times are CPU seconds of
this process. Writes reports/world/speed.json.
"""

from __future__ import annotations

import argparse
import io
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image

from csgn_lib.records import write_json
from csgn_lib.synthetic import export
from csgn_lib.synthetic.scenes import draw
from csgn_lib.synthetic.worlds import World, cameras_of, entries_of, wardrobe_of

PICTURES = 16


def ours(device: str = "cpu") -> Callable[[int], None]:
    """Return a function that renders the pictures of the person with a given number."""
    world = World(people=60, size=128)
    cameras, wardrobe = cameras_of(world), wardrobe_of(world, 0)
    draw([entries_of(world, 29, wardrobe, [camera] * 2)[0].scene for camera in cameras], device=device)  # backgrounds

    def one(number: int) -> None:
        scenes = [entry.scene for entry in entries_of(world, number, wardrobe, cameras)]
        assert len(scenes) == PICTURES
        for picture in draw(scenes, world.size, device):
            export.png(picture.image)
            export.mask_png(picture.mask)

    return one


def prototype(folder: str) -> Callable[[int], None]:
    """Return the corresponding function of the prototype in a folder."""
    sys.path.insert(0, folder)
    os.chdir(folder)
    import body  # type: ignore[import-not-found]
    import dress  # type: ignore[import-not-found]
    import people  # type: ignore[import-not-found]
    import render  # type: ignore[import-not-found]
    import scene  # type: ignore[import-not-found]

    model, cameras = body.Body(), scene.cameras(((1, "plaza"), (4, "hall")))

    def one(number: int) -> None:
        rng = np.random.default_rng(number)
        person = people.draw_person(rng)
        rest = model.rest(person["phen"], person["loc"])
        for _ in range(4):
            dressed = dress.dressed(model, person, people.draw_outfit(rng), *rest)
            for k in range(4):
                for array in render.picture(model, dressed, cameras[k % 2], rng, H=128):
                    Image.fromarray(array).save(io.BytesIO(), "PNG")

    return one


def seconds(work: Callable[[int], None], number: int) -> float:
    """CPU seconds of a call ``work(number)``."""
    started = time.process_time()
    work(number)
    return time.process_time() - started


def main() -> None:
    """Time all renderers, and write and print the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    record = Path(__file__).resolve().parents[1] / "reports/world/speed.json"
    renderers = {"rendered world": ours()}
    if folder := os.environ.get("WORLD_PROTOTYPE"):
        renderers["prototype"] = prototype(folder)
    times: dict[str, list[float]] = {name: [] for name in renderers}
    for number in range(rounds + 1):
        for name, work in renderers.items():
            taken = seconds(work, number)
            if number:  # the first round only fills caches
                times[name].append(taken)
                print(f"{name}: {PICTURES / taken:.1f} pictures a second")
    result: dict[str, object] = {
        "pictures_per_round": PICTURES,
        "size": "128 x 64",
        "threads": 1,
        "cpu": platform.processor() or platform.machine(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
        "pictures_per_cpu_second": {
            name: round(PICTURES / statistics.median(found), 1) for name, found in times.items()
        },
    }
    if len(times) == 2:
        pairs = zip(*times.values(), strict=True)
        result["ratio"] = round(statistics.median(theirs / mine for mine, theirs in pairs), 2)
    write_json(record, result)
    print(record.read_text())


if __name__ == "__main__":
    main()
