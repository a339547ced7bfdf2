"""``python -m csgn_lib.synthetic.pretraining``: render, train both towers, score, write (``make tiny-clip``)."""

from __future__ import annotations

from pathlib import Path

import typer

from csgn_lib.backbones import TOWERS
from csgn_lib.synthetic.pretraining import render, save_half, score, train_clip, train_resnet
from csgn_lib.training import accelerator_for


def main(
    pairs: int = 200_000, clip_steps: int = 1200, resnet_steps: int = 800, batch: int = 96, seed: int = 0,
    folder: Path = Path("build/pairs"), out: Path = TOWERS, processes: int = 2,
) -> None:  # fmt: skip
    """Render, train both towers, score them on people never seen, and write them to ``out``.

    ``batch`` is per process: start it with ``accelerate launch`` to use several, or a GPU. Another ``seed`` draws
    other pairs, and its files are named after it: 1 makes ``embedded-1``.
    """
    accelerator = accelerator_for("bf16")
    with accelerator.main_process_first():
        data = render(pairs, folder, processes, seed)
    suffix = f"-{seed}" if seed else ""
    log = out / f"csgn-tiny{suffix}.log.jsonl"
    if accelerator.is_main_process:
        log.unlink(missing_ok=True)
    clip = train_clip(data, clip_steps, batch, seed, log, accelerator)
    if accelerator.is_main_process:
        save_half(clip.model, out / f"csgn-tiny{suffix}.safetensors")
    resnet = train_resnet(data, resnet_steps, batch, seed, log, accelerator)
    if accelerator.is_main_process:
        save_half(resnet.model, out / f"csgn-tiny-resnet{suffix}.safetensors")
        score(out, suffix)


if __name__ == "__main__":
    typer.run(main)
