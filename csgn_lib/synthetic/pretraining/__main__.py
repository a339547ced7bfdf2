"""Command line of the recipe, ``python -m csgn_lib.synthetic.pretraining`` (``make tiny-clip``)."""

from __future__ import annotations

import functools
from pathlib import Path

import typer

from csgn_lib.backbones import TOWERS, load_clip, load_resnet
from csgn_lib.records import write_json
from csgn_lib.synthetic.pretraining import (
    CHUNK,
    UNSEEN,
    labelled,
    levels_of,
    moves,
    readable,
    render,
    save_half,
    train_clip,
    train_resnet,
    zero_shot,
)
from csgn_lib.synthetic.pretraining.pairs import HEIGHT, WIDTH
from csgn_lib.synthetic.pretraining.recipe import BATCH, CLIP, CLIP_STEPS, PICTURES, RESNET, RESNET_STEPS
from csgn_lib.training import accelerator_for

report = functools.partial(print, flush=True)


def main(
    pictures: int = PICTURES, clip_steps: int = CLIP_STEPS, resnet_steps: int = RESNET_STEPS, batch: int = BATCH,
    seed: int = 0, unseen: int = 900, moved: int = 64, folder: Path = Path("build/pretraining"), out: Path = TOWERS,
    processes: int = 2,
) -> None:  # fmt: skip
    """Render pictures, train both models, score them on unseen people, and write weights, log and scores to ``out``.

    All seeds use the same pictures; the seed determines initial weights, captions and their order. It is part of the
    file names: seed 1 makes the checkpoint ``embedded-1``. Existing pictures are not rendered again.
    """
    accelerator = accelerator_for("bf16")
    data = render(range(-(-pictures // CHUNK)), folder, processes)
    levels = levels_of(data)
    known, suffix = labelled(data, levels, seed), f"-{seed}" if seed else ""
    log = out / f"csgn-tiny{suffix}.log.jsonl"
    files = {kind: out / f"csgn-tiny{kind}{suffix}.safetensors" for kind in ("-resnet", "")}
    strangers = render(range(UNSEEN, UNSEEN - (-unseen // CHUNK)), folder, processes)
    others, scores = labelled(strangers, levels), out / f"csgn-tiny{suffix}.scores.json"
    log.unlink(missing_ok=True)
    save_half(train_resnet(known, resnet_steps, batch, seed, log, accelerator).model, files["-resnet"])
    found = {"taught_pictures": len(known.images), "unseen_pictures": len(others.images)}
    found["resnet"] = readable(load_resnet(RESNET, str(files["-resnet"])).eval(), known, others)
    write_json(scores, found)
    save_half(train_clip(known, clip_steps, batch, seed, log, accelerator).model, files[""])
    clip = load_clip(CLIP, str(files[""]), (HEIGHT, WIDTH)).eval()
    found |= {"zero_shot": zero_shot(clip, known, others), "moves": moves(clip, strangers, moved)}
    write_json(scores, found)
    for name, row in found["zero_shot"].items():
        report(f"{name:14s} " + "  ".join(f"{kind} {value:.3f}" for kind, value in row.items() if kind != "pictures"))
    report(found["moves"])


if __name__ == "__main__":
    typer.run(main)
