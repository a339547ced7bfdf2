"""How fast a step is: ``python -m csgn_lib.training`` (= ``make bench-train``), some minutes.

One step of each stage at full size, ViT-B/16 at 256 x 128, on the device that is there: ours in float32 and in
bfloat16, and CLIP-ReID's own code where CLIP_REID holds the path to it, on the same images, in turns. Weights are
random; they cost the same. Ours starts from uint8 images and augments them, CLIP-ReID's gets them ready.
Leaves ``bench.csv`` and ``bench.md`` in reports/training.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from csgn_lib import mdg
from csgn_lib.batches import Augmentation, ImageSet, random_stream
from csgn_lib.bench import Row, in_turns, missing, quiet, write
from csgn_lib.config import Experiment
from csgn_lib.records import home
from csgn_lib.training import accelerator_for, build_learner, load_towers
from csgn_lib.training.estimate import count_flops, matrix_rate
from csgn_lib.training.peers import STAGE1, STAGE2, clip_reid_steps
from csgn_lib.training.stage1 import stage1_terms
from csgn_lib.training.stage2 import adam, stage2_terms
from csgn_lib.training.steps import Guides, descend
from csgn_lib.vss import parameter_groups

IDENTITIES = 751  # Market-1501's
COMMAND = "python -m csgn_lib.training"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
Step = Callable[[], Any]


def main() -> None:
    """Print the table and write it; end non-zero if a target was missed."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each, in turns")
    parser.add_argument("--persons", type=int, default=4, help="identities in a batch of stage 2, 4 images of each")
    parser.add_argument("--prompts", type=int, default=64, help="images in a batch of stage 1")
    parser.add_argument("--compile", action="store_true", help="a compiled step of stage 2 too: minutes more")
    options = parser.parse_args()
    rows = []
    for row in (*stage2(options.rounds, options.persons, options.compile), *stage1(options.rounds, options.prompts)):
        print(row, flush=True)
        rows.append(row)
    folder = home() / "reports" / "training"
    command = f"{COMMAND} --rounds {options.rounds} --persons {options.persons}" + " --compile" * options.compile
    write(folder, rows, "How fast a training step is", command)
    print(f"written: {folder / 'bench.md'} and bench.csv")
    raise SystemExit(any(row.met is False for row in rows))


def stage2(rounds: int, persons: int, compiled: bool) -> Iterator[Row]:
    """A step of stage 2: ours against CLIP-ReID's, and against the arithmetic that it cannot do without."""
    images = random_images(persons * 4)
    plain, full = {"vss": "none", "hsf": "text", "beta": 0.0}, {"vss": "steer"}
    bf16, device = has_bf16(), accelerator_for("fp32").device
    steps = {"fp32": stage2_step(images, "fp32", **plain)}
    if bf16:
        steps |= {"bf16": stage2_step(images, "bf16", **plain), "with ResNet-50": stage2_step(images, "bf16", **full)}
    best = "bf16" if bf16 else "fp32"
    if compiled:
        steps["compiled"] = stage2_step(images, best, compile=True, **plain)
    theirs = peer_steps(images)
    if theirs:
        steps["CLIP-ReID"] = theirs[STAGE2]
    seconds, _ = measured(steps, rounds)
    name = f"stage 2, batch {len(images)}, ViT-B/16"
    rates = {precision: matrix_rate(device, dtype) for precision, dtype in DTYPES.items() if precision in seconds}
    for precision, rate in rates.items():
        yield Row(f"{name}, {precision}: a step of ours", seconds[precision], "s")
        over = seconds[precision] * rate / vit_flops(images)
        yield Row(f"{name}, {precision}: over its matrix products alone, at this machine's rate", over, "x")
    if bf16:
        yield Row("this machine's rate of matrix products, bf16 over fp32", rates["bf16"] / rates["fp32"], "x")
    if "with ResNet-50" in seconds:
        ratio = seconds["with ResNet-50"] / seconds["bf16"]
        yield Row(f"{name} + ResNet-50 and both descriptions, bf16: over the ViT alone", ratio, "x")
    if compiled:
        ratio = seconds[best] / seconds["compiled"]
        yield Row(f"{name}, {best}: the step's time over that of a compiled one", ratio, "x")
    yield from against(seconds, name, {"fp32": 1.0, "bf16": 2.5})


def stage1(rounds: int, prompts: int) -> Iterator[Row]:
    """A step of stage 1, image features given: ours learns two descriptions, CLIP-ReID one."""
    images = random_images(prompts)
    steps = {precision: stage1_step(images, precision) for precision in (["fp32", "bf16"] if has_bf16() else ["fp32"])}
    theirs = peer_steps(images)
    if theirs:
        steps["CLIP-ReID"] = theirs[STAGE1]
    seconds, _ = measured(steps, rounds)
    name = f"stage 1, batch {prompts}, RGB and gray prompts"
    for precision in steps:
        if precision != "CLIP-ReID":
            yield Row(f"{name}, {precision}: a step of ours", seconds[precision], "s")
    best = "bf16" if "bf16" in seconds else "fp32"
    yield from against(seconds, name, {best: 5.0})
    for line in missing(["CLIP-ReID"]):
        yield Row(line, None)


def against(seconds: dict[str, float], name: str, targets: dict[str, float]) -> Iterator[Row]:
    """Rows of how many times as long CLIP-ReID's step takes."""
    if "CLIP-ReID" in seconds:
        yield Row(f"{name}: a step of CLIP-ReID's own code, float32", seconds["CLIP-ReID"], "s")
        for precision, target in targets.items():
            if precision in seconds:
                ratio = seconds["CLIP-ReID"] / seconds[precision]
                yield Row(f"{name}, {precision}: CLIP-ReID's time over ours", ratio, "x", target, at_least=True)


def measured(steps: dict[str, Step], rounds: int) -> tuple[dict[str, float], dict[str, Any]]:
    """Median seconds of each step after one that is not counted; a step's end is awaited."""
    cuda = torch.cuda.is_available()
    waiting = {name: (lambda step=step: (step(), cuda and torch.cuda.synchronize())) for name, step in steps.items()}
    with quiet():
        for step in waiting.values():
            step()
        return in_turns(waiting, rounds)


def stage2_step(images: ImageSet, precision: str, **parameters: Any) -> Step:
    """One step of ours on a batch: augmentation, forward, all losses, backward, Adam."""
    experiment, device = experiment_of(precision, **parameters), accelerator_for(precision).device
    clip, resnet = load_towers(experiment)
    text = mdg.TextFeatures(*(torch.randn(IDENTITIES, clip.embed_dim, device=device) for _ in range(2)))
    guides = Guides(text=text)
    learner = build_learner(experiment, clip, resnet, IDENTITIES, guides).to(device).train()
    optimizer = adam(parameter_groups(learner.encoder, learner.heads, experiment), device)
    augment, autocast = Augmentation.from_experiment(experiment), accelerator_for(precision).autocast

    def step() -> None:
        batch = images.batch(range(len(images))).to(device)
        with autocast():
            embeddings, outputs = learner(augment(batch.images, random_stream(0, 1)))
        descend(sum(stage2_terms(experiment, embeddings, outputs, batch, guides).values()), optimizer)

    return step


def stage1_step(images: ImageSet, precision: str) -> Step:
    """One step of ours: RGB and gray prompts of a batch's people through the text tower, both losses, Adam."""
    experiment, device = experiment_of(precision, mdg="separate"), accelerator_for(precision).device
    clip = load_towers(experiment)[0].to(device).requires_grad_(False)
    generator = random_stream(0, 1)
    bank = mdg.PromptBank(clip, IDENTITIES, experiment.prompt_tokens, "separate", "word", generator=generator).to(
        device
    )
    optimizer = torch.optim.Adam(bank.parameters(), lr=experiment.stage1_lr, weight_decay=experiment.weight_decay)
    rgb, gray = (torch.randn(len(images), clip.embed_dim, device=device) for _ in range(2))
    person, here = images.person.to(device), accelerator_for(precision)

    def step() -> None:
        terms = stage1_terms(experiment, bank, rgb, gray, person, here)
        descend(sum(terms.values()), optimizer)

    return step


def peer_steps(images: ImageSet) -> dict[str, Step] | None:
    """CLIP-ReID's steps on the same images, ready as its loaders would give them."""
    device = accelerator_for("fp32").device
    batch = images.batch(range(len(images))).to(device)
    with quiet():
        ready = batch.images.float().div(127.5).sub(1)
        return clip_reid_steps(ready, batch.person, IDENTITIES, {STAGE1: 3.5e-4, STAGE2: 5e-6})


def experiment_of(precision: str, **parameters: Any) -> Experiment:
    """Market-1501's preset with random weights."""
    given = {"preset": "market-clipreid", "clip_checkpoint": None, "resnet_checkpoint": None, "precision": precision}
    return Experiment.from_parameters(**given | parameters)


def random_images(count: int) -> ImageSet:
    """Noise, four images of each person; people are spread over Market's."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 3, 256, 128), dtype=np.uint8)
    person = torch.arange(count) // 4 * 7
    return ImageSet(pixels, person, torch.zeros_like(person), person, tuple(map(str, range(count))))


def vit_flops(images: ImageSet) -> float:
    """FLOPs of a step of the ViT: forward and twice that backward."""
    experiment = experiment_of("fp32", vss="none", hsf="none")
    with torch.device("meta"):
        clip, _ = load_towers(experiment)
        return 3 * count_flops(clip.visual, torch.zeros(len(images), 3, 256, 128))


def has_bf16() -> bool:
    """Whether bfloat16 products are faster than float32's here."""
    device = accelerator_for("fp32").device
    return matrix_rate(device, torch.bfloat16) > 1.2 * matrix_rate(device, torch.float32)


if __name__ == "__main__":
    main()
