"""``python -m csgn_lib.synthetic.rendered.pretraining``: render, train both towers, score (``make rendered-clip``)."""

from __future__ import annotations

import functools
from pathlib import Path

import torch
import typer
from accelerate import Accelerator

from csgn_lib.backbones import TOWERS, load_clip, load_resnet
from csgn_lib.records import write_json
from csgn_lib.synthetic.pretraining import save_half
from csgn_lib.synthetic.rendered.pretraining import (
    CHUNK,
    UNSEEN,
    lessons,
    levels_of,
    moves,
    readable,
    render,
    train_clip,
    train_resnet,
    zero_shot,
)
from csgn_lib.synthetic.rendered.pretraining.pairs import HEIGHT, WIDTH
from csgn_lib.synthetic.rendered.pretraining.recipe import CLIP, RESNET

report = functools.partial(print, flush=True)


def main(
    pictures: int = 12_000, clip_steps: int = 1200, resnet_steps: int = 1200, batch: int = 96, seed: int = 0,
    unseen: int = 900, moved: int = 64, folder: Path = Path("build/rendered"), out: Path = TOWERS, processes: int = 2,
    precision: str = "no",
) -> None:  # fmt: skip
    """Render, train both towers, score them on people never seen, and write all of it to ``out``.

    Every seed trains on the same pictures; it draws the initial weights, the captions and the order. Its files are
    named after it: 1 makes ``embedded-1``. What is there is not made again. ``precision``: no (float32) or bf16, which
    pays where the processor has instructions for it.
    """
    data = render(range(-(-pictures // CHUNK)), folder, processes, report)
    levels = levels_of(data)
    taught, suffix = lessons(data, levels, seed), f"-{seed}" if seed else ""
    accelerator = Accelerator(mixed_precision=precision, cpu=not torch.cuda.is_available())
    log = out / f"csgn-rendered{suffix}.log.jsonl"
    files = {kind: out / f"csgn-rendered{kind}{suffix}.safetensors" for kind in ("-resnet", "")}
    strangers = render(range(UNSEEN, UNSEEN - (-unseen // CHUNK)), folder, processes, report)
    asked, scores = lessons(strangers, levels), out / f"csgn-rendered{suffix}.scores.json"
    if not files["-resnet"].exists():
        save_half(train_resnet(taught, resnet_steps, batch, seed, log, accelerator).model, files["-resnet"])
    found = {"taught_pictures": len(taught.images), "unseen_pictures": len(asked.images)}
    found["resnet"] = readable(load_resnet(RESNET, str(files["-resnet"])).eval(), taught, asked)
    write_json(scores, found)
    if not files[""].exists():
        save_half(train_clip(taught, clip_steps, batch, seed, log, accelerator).model, files[""])
    clip = load_clip(CLIP, str(files[""]), (HEIGHT, WIDTH)).eval()
    found |= {"zero_shot": zero_shot(clip, taught, asked), "moves": moves(clip, strangers, moved)}
    write_json(scores, found)
    for name, row in found["zero_shot"].items():
        report(f"{name:14s} " + "  ".join(f"{kind} {value:.3f}" for kind, value in row.items() if kind != "pictures"))
    report(found["moves"])


if __name__ == "__main__":
    typer.run(main)
