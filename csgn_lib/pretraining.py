"""The recipe of the embedded towers: a small CLIP and a small ResNet, from rendered pairs alone.

No real CLIP may be shipped, so the embedded world brings one of its own, trained on pictures and
captions of people who are not in the benchmark. ``make tiny-clip`` runs this file; what it wrote is
committed under ``csgn_lib/towers``.

Three losses teach the small CLIP. The contrastive one alone learns colours and hardly any shape. The
second asks each image about its attributes through the text encoder, "a photo of a person with long
legs" against "with short legs". With these two alone, half a million pairs taught stature, skin and
hair colour and no other word of the body: while neither side tells two shapes apart, neither gives the
other a reason to. So the third asks the same through linear classifiers on the ViT, which are thrown
away: they make the image side tell shapes apart within 40,000 pairs, and the text side follows. The
second and third fall to zero, so the last steps are plain CLIP.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import typer
from accelerate import Accelerator
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from csgn_lib.backbones import TOWERS, ClipTower, CompactTokenizer, ResNetTower, load_clip, load_resnet
from csgn_lib.records import atomic_path, write_json
from csgn_lib.synthetic import people, scenes

SIZE = (scenes.HEIGHT, scenes.WIDTH)
CHUNK = 4000
LUMINANCE = (0.299, 0.587, 0.114)
PRETRAINING_SEED = 20_251_123  # worlds are seeded below 10**6: no person of a benchmark is ever drawn here
IGNORED = -1
SCALE = 20.0  # inverse temperature of the attribute questions


@dataclass(frozen=True)
class Pairs:
    """images (N, 96, 48, 3) uint8; colour, gray (N, L) token ids of two captions; labels (N, A) int16,
    one column per attribute of ``people.attribute_prompts``, IGNORED where no sentence fits."""

    images: NDArray[np.uint8]
    colour: NDArray[np.uint8]
    gray: NDArray[np.uint8]
    labels: NDArray[np.int16]


def label_row(row: dict[str, str]) -> list[int]:
    """Which sentence of each attribute is true of an image, or IGNORED."""
    keys = ("*".join(row[part] for part in name.split("*")) for name in people.attribute_prompts())
    return [
        list(prompts).index(key) if key in prompts else IGNORED
        for key, prompts in zip(keys, people.attribute_prompts().values(), strict=True)
    ]


def render_chunk(seed: int, count: int) -> Pairs:
    """``count`` pairs in blocks of two people in the same two outfits: good negatives, since half of a
    block's images differ only in the person and half only in the clothes."""
    tokenizer = CompactTokenizer(people.world_words(), 64)
    rng = np.random.default_rng((PRETRAINING_SEED, seed))
    images, colour, gray, labels = [], [], [], []
    for _ in range(count // 4):
        pair, outfits = [people.draw_person(rng) for _ in range(2)], [people.draw_outfit(rng) for _ in range(2)]
        for person in pair:
            for outfit in outfits:
                images.append(scenes.picture(person, outfit, scenes.draw_camera(rng), rng)[0])
                colour.append(people.caption(person, outfit, rng))
                gray.append(people.caption(person, outfit, rng, gray=True))
                labels.append(label_row(people.attributes(person, outfit)))
    tokens = [tokenizer(texts).numpy().astype(np.uint8) for texts in (colour, gray)]
    return Pairs(np.stack(images), *tokens, np.array(labels, dtype=np.int16))


def render(count: int, folder: Path, processes: int) -> Pairs:
    """Render ``count`` pairs in chunks, kept in ``folder``; what is already there is not drawn again."""
    files = [folder / f"{count}-{name}.npy" for name in ("images", "colour", "gray", "labels")]
    if not all(file.exists() for file in files):
        jobs = [i for i in range(count // CHUNK) if not (folder / f"{i:05d}.npz").exists()]
        with ProcessPoolExecutor(processes) as pool:
            for i, _ in zip(jobs, pool.map(_render_to, jobs, [folder] * len(jobs)), strict=True):
                print(f"rendered chunk {i + 1} of {count // CHUNK}", flush=True)
        for file in files:
            _join_chunks(folder, count, file)
    return Pairs(*(np.load(file, mmap_mode="r") for file in files))  # one copy in memory for all processes


def _render_to(chunk: int, folder: Path) -> None:
    pairs = render_chunk(chunk, CHUNK)
    with atomic_path(folder / f"{chunk:05d}.npz") as temporary:
        np.savez(temporary, images=pairs.images, colour=pairs.colour, gray=pairs.gray, labels=pairs.labels)


def _join_chunks(folder: Path, count: int, file: Path) -> None:
    name = file.stem.split("-")[1]
    parts = [np.load(folder / f"{i:05d}.npz")[name] for i in range(count // CHUNK)]
    with atomic_path(file) as temporary:
        np.save(temporary, np.concatenate(parts))


def batches(pairs: Pairs, size: int, steps: int, seed: int, gray_share: float = 0.15) -> Iterator[tuple[Tensor, ...]]:
    """images (B, 3, H, W) in [0, 1], tokens (B, L), labels (B, A). Whole blocks of four, in random order;
    half are mirrored, ``gray_share`` are gray with a caption that says so and names no clothes' colour."""
    rng = np.random.default_rng(seed)
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        if len(order) < size // 4:
            order = np.concatenate([order, rng.permutation(len(pairs.images) // 4)])
        blocks, order = order[: size // 4], order[size // 4 :]
        rows = (blocks[:, None] * 4 + np.arange(4)).ravel()
        images = torch.from_numpy(pairs.images[rows]).permute(0, 3, 1, 2).float() / 255
        mirrored = torch.from_numpy(rng.random(size) < 0.5)[:, None, None, None]
        images = torch.where(mirrored, images.flip(3), images)
        gray = rng.random(size) < gray_share
        is_gray = torch.from_numpy(gray)[:, None, None, None]
        images = torch.where(is_gray, luminance(images), images)
        tokens = np.where(gray[:, None], pairs.gray[rows], pairs.colour[rows])
        labels = np.where(gray[:, None] & coloured(), IGNORED, pairs.labels[rows])
        yield images, torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(labels.astype(np.int64))


def luminance(images: Tensor) -> Tensor:
    """(B, 3, H, W) to gray in three channels."""
    weights = torch.tensor(LUMINANCE).view(1, 3, 1, 1)
    return (images * weights).sum(dim=1, keepdim=True).expand_as(images)


def coloured() -> NDArray[np.bool_]:
    """(A,) which attributes cannot be seen in a gray image."""
    return np.array(["colour" in name or name == "skin" for name in people.attribute_prompts()])


class Questions:
    """All attribute sentences as one token table, and which rows belong to which attribute."""

    def __init__(self, clip: ClipTower) -> None:
        self.names = list(people.attribute_prompts())
        texts = [list(prompts.values()) for prompts in people.attribute_prompts().values()]
        self.tokens = [clip.tokenize(part) for part in texts]  # on the tower's device

    def features(self, clip: ClipTower, chosen: list[int]) -> list[Tensor]:
        """Unit text features of the chosen attributes, one (values, P) tensor each."""
        tokens = torch.cat([self.tokens[i] for i in chosen])
        text = F.normalize(clip.prompt_features(clip.embed_tokens(tokens), tokens.argmax(dim=-1)).float(), dim=-1)
        return list(text.split([len(self.tokens[i]) for i in chosen]))


def contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """CLIP's symmetric InfoNCE (Radford et al., ICML 2021) on unit features (B, P)."""
    logits = scale * image @ text.t()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def attribute_loss(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Mean over attributes of the cross entropy of logits (B, values) on labels (B, attributes)."""
    losses = [
        F.cross_entropy(part, target, ignore_index=IGNORED)
        for part, target in zip(logits, labels.t(), strict=True)
        if (target != IGNORED).any()
    ]
    return torch.stack(losses).mean()


class Classifiers(nn.Module):
    """Linear classifiers of every attribute on an image feature (B, width); they teach, and are thrown away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.sizes = [len(prompts) for prompts in people.attribute_prompts().values()]
        self.norm, self.linear = nn.BatchNorm1d(width), nn.Linear(width, sum(self.sizes))

    def forward(self, features: Tensor) -> list[Tensor]:
        """Logits (B, values), one tensor per attribute."""
        return list(self.linear(self.norm(features.float())).split(self.sizes, dim=1))


def train_clip(pairs: Pairs, steps: int, batch: int, seed: int, log: Path, accelerator: Accelerator) -> ClipTower:
    """Train the small CLIP from scratch; one line of JSON per 200 steps in ``log``."""
    torch.manual_seed(seed)
    clip = load_clip("csgn-tiny", None, SIZE).to(accelerator.device)
    questions, rng = Questions(clip), np.random.default_rng(seed + 1)
    both = nn.ModuleList([clip, Classifiers(clip.width).to(accelerator.device)])
    optimizer, schedule = _optimizer(both.parameters(), 1e-3, steps)
    progress = Progress(log, "clip", accelerator)
    for step, (images, tokens, labels) in enumerate(_mine(pairs, batch, steps, seed + 2, accelerator)):
        weight = 2.0 * max(0.0, 1 - step / (0.85 * steps))
        chosen = sorted(rng.choice(len(questions.names), 9, replace=False).tolist())
        with accelerator.autocast():
            seen = clip.visual_features(images)
            image = F.normalize(seen.zp.float(), dim=-1)
            text = clip.prompt_features(clip.embed_tokens(tokens), tokens.argmax(dim=-1))
            asked = questions.features(clip, chosen) if weight else []
        pair_loss = contrastive(image, F.normalize(text.float(), dim=-1), clip.logit_scale.exp().clamp(max=100))
        terms = {"contrastive": pair_loss}
        if weight:
            terms["questions"] = attribute_loss([SCALE * image @ features.t() for features in asked], labels[:, chosen])
            terms["classifiers"] = attribute_loss(both[1](seen.z12), labels)
        weights = {"contrastive": 1.0, "questions": weight, "classifiers": weight}
        loss = sum(weights[name] * term for name, term in terms.items())
        _step(optimizer, schedule, loss, both, accelerator)
        progress.add(step, **terms)
    return clip.eval()


def train_resnet(pairs: Pairs, steps: int, batch: int, seed: int, log: Path, accelerator: Accelerator) -> ResNetTower:
    """Train the small ResNet to name the attributes of the same people.

    What VSS gets is a network that has learned to see by classification, as a real ResNet-50 comes from
    ImageNet; its classifiers are thrown away, and it never meets text.
    """
    torch.manual_seed(seed)
    resnet = load_resnet("csgn_tiny_resnet", None)
    both = nn.ModuleList([resnet, Classifiers(resnet.width)])
    both.to(accelerator.device, memory_format=torch.channels_last)
    optimizer, schedule = _optimizer(both.parameters(), 2e-3, steps)
    progress = Progress(log, "resnet", accelerator)
    for step, (images, _, labels) in enumerate(_mine(pairs, batch, steps, seed + 3, accelerator)):
        with accelerator.autocast():
            pooled = resnet(images.contiguous(memory_format=torch.channels_last)).pooled
        loss = attribute_loss(both[1](pooled), labels)
        _step(optimizer, schedule, loss, both, accelerator)
        progress.add(step, classifiers=loss)
    return resnet.eval()


def _mine(pairs: Pairs, size: int, steps: int, seed: int, accelerator: Accelerator) -> Iterator[list[Tensor]]:
    """This process's batches, on its device; every process draws its own."""
    for batch in batches(pairs, size, steps, seed + 7919 * accelerator.process_index):
        yield [tensor.to(accelerator.device, non_blocking=True) for tensor in batch]


def _optimizer(parameters: Iterator[nn.Parameter], lr: float, steps: int) -> tuple:
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.98), weight_decay=0.05)
    return optimizer, torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps, pct_start=0.05)


def _step(
    optimizer: torch.optim.Optimizer, schedule: object, loss: Tensor, model: nn.Module, accelerator: Accelerator
) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for p in model.parameters() if p.grad is not None]
    if accelerator.num_processes > 1:  # the towers are not called through forward, so gradients are averaged here
        flat = accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), "mean")
        for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            p.grad = grad.view_as(p)
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


class Progress:
    """Mean losses of every 200 steps, as one line of JSON in the log and on the terminal."""

    def __init__(self, path: Path, tower: str, accelerator: Accelerator, every: int = 200) -> None:
        self.path, self.tower, self.every, self.shown = path, tower, every, accelerator.is_main_process
        self.started, self.sums = time.time(), {}

    def add(self, step: int, **losses: Tensor) -> None:
        """Count one step's losses; write a line when ``every`` of them are in."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        if (step + 1) % self.every or not self.shown:
            return
        record = {"tower": self.tower, "step": step + 1, "seconds": round(time.time() - self.started)}
        record |= {name: round(total / self.every, 4) for name, total in self.sums.items()}
        self.sums = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(record, flush=True)


@torch.inference_mode()
def zero_shot(clip: ClipTower, pairs: Pairs) -> dict[str, dict[str, float]]:
    """Accuracy per attribute on people never seen, beside what always guessing the commonest value gives."""
    features = image_features(clip, pairs.images)
    report = {}
    questions = Questions(clip)
    for i, name in enumerate(questions.names):
        known = pairs.labels[:, i] != IGNORED
        answer = (features[known] @ questions.features(clip, [i])[0].t()).argmax(dim=1).numpy()
        truth = pairs.labels[known, i]
        majority = np.bincount(truth).max() / len(truth)
        report[name] = {"accuracy": round(float((answer == truth).mean()), 4), "majority": round(float(majority), 4)}
    return report


@torch.inference_mode()
def image_features(clip: ClipTower, images: NDArray[np.uint8], gray: bool = False) -> Tensor:
    """Unit joint features (N, P) of uint8 images (N, H, W, 3)."""
    parts = []
    for rows in np.array_split(np.arange(len(images)), max(1, len(images) // 256)):
        batch = torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 255
        parts.append(F.normalize(clip.visual_features(luminance(batch) if gray else batch).zp, dim=-1))
    return torch.cat(parts)


@torch.inference_mode()
def colour_sensitivity(clip: ClipTower, people_count: int = 300) -> dict[str, float]:
    """Mean cosine distance that one change makes: clothes' colours only, gray only, the person only,
    noise only (the same scene drawn again), and one colour word in a sentence against one body word."""
    rng = np.random.default_rng((PRETRAINING_SEED, 999_983))
    shots: dict[str, list[NDArray[np.uint8]]] = {"plain": [], "recoloured": [], "person": [], "again": []}
    for _ in range(people_count):
        person, other, outfit = people.draw_person(rng), people.draw_person(rng), people.draw_outfit(rng)
        camera, seed = scenes.draw_camera(rng), int(rng.integers(1 << 31))
        changed = people.recoloured(outfit, rng)
        for name, who, wears, s in (("plain", person, outfit, seed), ("recoloured", person, changed, seed),
                                    ("person", other, outfit, seed), ("again", person, outfit, seed + 1)):  # fmt: skip
            shots[name].append(scenes.picture(who, wears, camera, np.random.default_rng(s))[0])
    features = {name: image_features(clip, np.stack(images)) for name, images in shots.items()}
    features["gray"] = image_features(clip, np.stack(shots["plain"]), gray=True)
    moved = {
        f"image_{n}": 1 - float((features["plain"] * f).sum(1).mean()) for n, f in features.items() if n != "plain"
    }
    sentences = ("a photo of a tall person wearing a red coat.", "a photo of a tall person wearing a blue coat.",
                 "a photo of a very short person wearing a red coat.")  # fmt: skip
    text = F.normalize(clip.text_features(sentences), dim=-1)
    moved |= {"text_colour_word": 1 - float(text[0] @ text[1]), "text_body_word": 1 - float(text[0] @ text[2])}
    return {name: round(value, 4) for name, value in moved.items()}


def save_half(model: nn.Module, path: Path) -> None:
    """Weights as float16 safetensors: half the bytes; every score reported is of these rounded weights."""
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)


def main(
    pairs: int = 200_000, clip_steps: int = 2000, resnet_steps: int = 900, batch: int = 96, seed: int = 0,
    folder: Path = Path("build/pairs"), out: Path = TOWERS, processes: int = 2,
) -> None:  # fmt: skip
    """Render, train both towers, score them on people never seen, and write them to ``out``.

    ``batch`` is per process: start it with ``accelerate launch`` to use several, or a GPU.
    """
    accelerator = Accelerator(mixed_precision="bf16")
    with accelerator.main_process_first():
        data = render(pairs, folder, processes)
    log = out / "csgn-tiny.log.jsonl"
    if accelerator.is_main_process:
        log.unlink(missing_ok=True)
    clip = train_clip(data, clip_steps, batch, seed, log, accelerator)
    if accelerator.is_main_process:
        save_half(clip.model, out / "csgn-tiny.safetensors")
    resnet = train_resnet(data, resnet_steps, batch, seed, log, accelerator)
    if accelerator.is_main_process:
        save_half(resnet.model, out / "csgn-tiny-resnet.safetensors")
        score(out)


def score(out: Path = TOWERS) -> None:
    """Score the files as written: zero-shot accuracy and what moves the features; to csgn-tiny.scores.json."""
    clip = load_clip("csgn-tiny", str(out / "csgn-tiny.safetensors"), SIZE)
    unseen = render_chunk(10**8, 2400)
    report = {"images": len(unseen.images), "zero_shot": zero_shot(clip, unseen), "moves": colour_sensitivity(clip)}
    write_json(out / "csgn-tiny.scores.json", report)
    for name, value in report["zero_shot"].items():
        print(f"{name:22s} {value['accuracy']:.3f}  (majority {value['majority']:.3f})")
    print(report["moves"])


if __name__ == "__main__":
    typer.run(main)
