"""The losses and the steps that make the two towers; see the package's own words for why."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from csgn_lib.backbones import ClipTower, ResNetTower, load_clip, load_resnet
from csgn_lib.records import atomic_path
from csgn_lib.synthetic import people
from csgn_lib.synthetic.pretraining.muon import Muon
from csgn_lib.synthetic.pretraining.pairs import IGNORED, SIZE, Pairs, batches

Prompts = Mapping[str, Mapping[str, str]]
SCALE = 20.0  # inverse temperature of the attribute questions
SEEING, SPEECH_ENDS = 0.5, 0.95  # shares of the small CLIP's steps: the contrastive loss joins; the others are gone


class Questions:
    """All attribute sentences as one token table, and which rows belong to which attribute.

    Args:
        prompts: attribute to value to sentence; None: those of the drawn people.
    """

    def __init__(self, clip: ClipTower, prompts: Prompts | None = None) -> None:
        prompts = prompts or people.attribute_prompts()
        self.names = list(prompts)
        texts = [list(sentences.values()) for sentences in prompts.values()]
        self.tokens = [clip.tokenize(part) for part in texts]  # on the tower's device

    def features(self, clip: ClipTower, chosen: list[int]) -> list[Tensor]:
        """Unit text features of the chosen attributes, one (values, P) tensor each."""
        tokens = torch.cat([self.tokens[i] for i in chosen])
        text = F.normalize(clip.token_features(tokens).float(), dim=-1)
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


class Prototypes(nn.Module):
    """A direction of the joint space for every value of every attribute, which image and sentence are to find.

    Args:
        dimension: of the joint space.
        prompts: as `Questions` takes them.
    """

    def __init__(self, dimension: int, prompts: Prompts | None = None) -> None:
        super().__init__()
        self.sizes = [len(sentences) for sentences in (prompts or people.attribute_prompts()).values()]
        self.directions = nn.Parameter(torch.randn(sum(self.sizes), dimension) * dimension**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, unit: Tensor) -> list[Tensor]:
        """Logits of unit features (B, P), one tensor (B, values) per attribute."""
        return list((self.log_scale.exp() * unit @ F.normalize(self.directions, dim=-1).t()).split(self.sizes, dim=1))

    def sentence_loss(self, sentences: list[Tensor], chosen: list[int]) -> Tensor:
        """Mean cross entropy of the chosen attributes' sentences, each on its own value."""
        told = [
            F.cross_entropy(self(features)[i], torch.arange(len(features), device=features.device))
            for i, features in zip(chosen, sentences, strict=True)
        ]
        return torch.stack(told).mean()


def attribute_weight(progress: float) -> float:
    """Weight of the attribute losses at ``progress`` in [0, 1]: 2 while it learns to see, then falling to 0."""
    return 2.0 * min(1.0, max(0.0, (SPEECH_ENDS - progress) / (SPEECH_ENDS - SEEING)))


def train_clip(pairs: Pairs, steps: int, batch: int, seed: int, log: Path, accelerator: Accelerator) -> ClipTower:
    """Train the small CLIP from scratch; one line of JSON per 200 steps in ``log``."""
    torch.manual_seed(seed)
    clip = load_clip("csgn-tiny", None, SIZE)
    _place_patches(clip.visual)
    clip.to(accelerator.device)
    questions, rng = Questions(clip), np.random.default_rng(seed + 1)
    classifiers = Classifiers(clip.width).to(accelerator.device)
    prototypes = Prototypes(clip.embed_dim).to(accelerator.device)
    descent = Descent(nn.ModuleList([clip, classifiers, prototypes]), 3e-3, steps, accelerator)
    progress = Progress(log, "clip", accelerator)
    for step, (images, tokens, labels) in enumerate(
        process_batches(partial(batches, pairs, batch, steps), seed + 2, accelerator)
    ):
        speaks, weight = step >= SEEING * steps, attribute_weight(step / steps)
        chosen = sorted(rng.choice(len(questions.names), 9, replace=False).tolist())
        with accelerator.autocast():
            seen = clip.visual_features(images)
            image = F.normalize(seen.zp.float(), dim=-1)
            text = clip.token_features(tokens) if speaks else None
            asked = questions.features(clip, chosen) if weight else []
        terms = {}
        if speaks:
            scale = clip.logit_scale.exp().clamp(max=100)
            terms["contrastive"] = contrastive(image, F.normalize(text.float(), dim=-1), scale)
        if weight:
            terms["classifiers"] = attribute_loss(classifiers(seen.z12), labels)
            terms["prototypes"] = attribute_loss(prototypes(image), labels)
            terms["sentences"] = prototypes.sentence_loss(asked, chosen)
            terms["questions"] = attribute_loss([SCALE * image @ features.t() for features in asked], labels[:, chosen])
        weights = {"contrastive": 1.0, "sentences": weight / 2}
        descent.step(sum(weights.get(name, weight) * term for name, term in terms.items()))
        progress.add(step, **terms)
    return clip.eval()


@torch.no_grad()
def _place_patches(visual: nn.Module) -> None:
    """Position embeddings start as sines and cosines of row and column, so that a patch knows where it is."""
    rows, columns = visual.grid_size
    width = visual.positional_embedding.shape[1]
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (y, x)]
    visual.positional_embedding[1:] = 0.3 * torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1)


def train_resnet(pairs: Pairs, steps: int, batch: int, seed: int, log: Path, accelerator: Accelerator) -> ResNetTower:
    """Train the small ResNet to name the attributes of the same people.

    What VSS gets is a network that has learned to see by classification, as a real ResNet-50 comes from
    ImageNet; its classifiers are thrown away, and it never meets text.
    """
    torch.manual_seed(seed)
    resnet = load_resnet("csgn_tiny_resnet", None)
    both = nn.ModuleList([resnet, Classifiers(resnet.width)])
    both.to(accelerator.device, memory_format=torch.channels_last)
    descent = Descent(both, 2e-3, steps, accelerator)
    progress = Progress(log, "resnet", accelerator)
    for step, (images, _, labels) in enumerate(
        process_batches(partial(batches, pairs, batch, steps), seed + 3, accelerator)
    ):
        with accelerator.autocast():
            pooled = resnet(images.contiguous(memory_format=torch.channels_last)).pooled
        loss = attribute_loss(both[1](pooled), labels)
        descent.step(loss)
        progress.add(step, classifiers=loss)
    return resnet.eval()


def process_batches(
    draw: Callable[[int], Iterable[Sequence[Tensor]]], seed: int, accelerator: Accelerator
) -> Iterator[list[Tensor]]:
    """This process's batches, on its device; every process draws its own.

    Args:
        draw: a seed to batches.
    """
    for batch in draw(seed + 7919 * accelerator.process_index):
        yield [tensor.to(accelerator.device, non_blocking=True) for tensor in batch]


class Descent:
    """One cycle of the rate, clipped gradients: Muon on the transformers' matrices, AdamW on all else."""

    def __init__(self, model: nn.Module, rate: float, steps: int, accelerator: Accelerator) -> None:
        self.model, self.accelerator = model, accelerator
        matrices, others = [], []
        for name, parameter in model.named_parameters():
            (matrices if parameter.ndim == 2 and "resblocks" in name else others).append(parameter)
        self.optimizers = [torch.optim.AdamW(others, rate, betas=(0.9, 0.98), weight_decay=0.05)]
        if matrices:
            self.optimizers.append(Muon(matrices, 0.02, momentum=0.95, weight_decay=0.05))
        self.schedules = [
            torch.optim.lr_scheduler.OneCycleLR(
                optimizer, optimizer.param_groups[0]["lr"], total_steps=steps, pct_start=0.1, cycle_momentum=False
            )
            for optimizer in self.optimizers
        ]

    def step(self, loss: Tensor) -> None:
        """One step down ``loss``, by the mean gradient of all processes."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.accelerator.num_processes > 1:  # the towers are not called through forward: averaged here
            flat = self.accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), "mean")
            for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                p.grad = grad.view_as(p)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
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


def save_half(model: nn.Module, path: Path) -> None:
    """Weights as float16 safetensors: half the bytes; every score reported is of these rounded weights."""
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)
