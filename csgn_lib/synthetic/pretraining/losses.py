"""Components of both trainings: attribute sentences, losses, optimizers, log and weight files."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor, nn

from csgn_lib.backbones import ClipTower
from csgn_lib.records import atomic_path
from csgn_lib.synthetic.pretraining.labels import IGNORED
from csgn_lib.synthetic.pretraining.muon import Muon
from csgn_lib.synthetic.words import attribute_prompts

EVERY = 50  # steps per line of the log
SCALE = 20.0  # inverse temperature of classification by sentences
SEEING, SPEECH_ENDS = 0.5, 0.95  # shares of CLIP's steps: contrastive loss starts, other losses end


class AttributeSentences:
    """Token ids of the attribute sentences, one tensor (values, L) per attribute."""

    def __init__(self, clip: ClipTower) -> None:
        prompts = attribute_prompts()
        self.names = list(prompts)
        texts = [list(sentences.values()) for sentences in prompts.values()]
        self.tokens = [clip.tokenize(part) for part in texts]  # on the model's device

    def features(self, clip: ClipTower, chosen: list[int]) -> list[Tensor]:
        """Compute unit text features of attributes.

        Args:
            chosen: indices of attributes.

        Returns:
            One tensor (values, P) per chosen attribute.
        """
        tokens = torch.cat([self.tokens[i] for i in chosen])
        text = F.normalize(clip.token_features(tokens).float(), dim=-1)
        return list(text.split([len(self.tokens[i]) for i in chosen]))


def contrastive(image: Tensor, text: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE loss of CLIP (Radford et al., ICML 2021).

    Args:
        image: (B, P) unit image features.
        text: (B, P) unit text features; row i belongs to image i.
        scale: inverse temperature.
    """
    logits = scale * image @ text.t()
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.t(), target)) / 2


def attribute_loss(logits: list[Tensor], labels: Tensor) -> Tensor:
    """Mean cross entropy over the attributes that have a label in the batch.

    Args:
        logits: one tensor (B, values) per attribute.
        labels: (B, attributes) values, or IGNORED.
    """
    losses = [
        F.cross_entropy(part, target, ignore_index=IGNORED)
        for part, target in zip(logits, labels.t(), strict=True)
        if (target != IGNORED).any()
    ]
    return torch.stack(losses).mean()


class Prototypes(nn.Module):
    """Learned directions in the joint space, one per attribute value, that classify images and sentences.

    Args:
        dimension: P, of the joint space.
    """

    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.sizes = [len(sentences) for sentences in attribute_prompts().values()]
        self.directions = nn.Parameter(torch.randn(sum(self.sizes), dimension) * dimension**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())

    def forward(self, unit: Tensor) -> list[Tensor]:
        """Scaled cosine similarities of unit features (B, P), one tensor (B, values) per attribute."""
        return list((self.log_scale.exp() * unit @ F.normalize(self.directions, dim=-1).t()).split(self.sizes, dim=1))

    def sentence_loss(self, sentences: list[Tensor], chosen: list[int]) -> Tensor:
        """Mean cross entropy of sentences, each with its own value as the label.

        Args:
            sentences: unit features (values, P) per chosen attribute.
            chosen: indices of attributes.
        """
        losses = [
            F.cross_entropy(self(features)[i], torch.arange(len(features), device=features.device))
            for i, features in zip(chosen, sentences, strict=True)
        ]
        return torch.stack(losses).mean()


def attribute_weight(progress: float) -> float:
    """Weight of the attribute losses at ``progress`` in [0, 1]: 2 until SEEING, then linear to 0 at SPEECH_ENDS."""
    return 2.0 * min(1.0, max(0.0, (SPEECH_ENDS - progress) / (SPEECH_ENDS - SEEING)))


@torch.no_grad()
def place_patches(visual: nn.Module) -> None:
    """Initialize a ViT's position embeddings with sines and cosines of row and column, in place."""
    rows, columns = visual.grid_size
    width = visual.positional_embedding.shape[1]
    frequency = 100.0 ** -(torch.arange(width // 4) / (width // 4))
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (y, x)]
    visual.positional_embedding[1:] = 0.3 * torch.cat([f(angle) for angle in angles for f in (torch.sin, torch.cos)], 1)


def process_batches(
    draw: Callable[[int], Iterable[Sequence[Tensor]]], seed: int, accelerator: Accelerator
) -> Iterator[list[Tensor]]:
    """Yield batches of this process on its device; every process has a seed of its own.

    Args:
        draw: function from a seed to batches.
        seed: of the first process.
    """
    for batch in draw(seed + 7919 * accelerator.process_index):
        yield [tensor.to(accelerator.device, non_blocking=True) for tensor in batch]


class Descent:
    """Muon for matrices of transformers, AdamW for the rest, with a one-cycle schedule and clipped gradients.

    Args:
        rate: peak learning rate of AdamW.
        steps: length of the cycle.
    """

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
        """Take one optimization step on ``loss``, with gradients averaged over all processes."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        if self.accelerator.num_processes > 1:  # DDP averages only models called through forward
            flat = self.accelerator.reduce(torch.cat([p.grad.flatten() for p in parameters]), "mean")
            for p, grad in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
                p.grad = grad.view_as(p)
        nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            optimizer.step()
            schedule.step()


class Progress:
    """Log of mean losses: one line of JSON per EVERY steps, in a file and on the terminal."""

    def __init__(self, path: Path, tower: str, accelerator: Accelerator) -> None:
        self.path, self.tower, self.shown = path, tower, accelerator.is_main_process
        self.started, self.sums = time.time(), {}

    def add(self, step: int, **losses: Tensor) -> None:
        """Add the losses of a step, counted from 0; write a line after every EVERY steps."""
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())
        if (step + 1) % EVERY or not self.shown:
            return
        record = {"tower": self.tower, "step": step + 1, "seconds": round(time.time() - self.started)}
        record |= {name: round(total / EVERY, 4) for name, total in self.sums.items()}
        self.sums = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        print(record, flush=True)


def save_half(model: nn.Module, path: Path) -> None:
    """Save weights as float16 safetensors. All reported scores are those of the rounded weights."""
    state = {name: value.half().contiguous() for name, value in model.state_dict().items() if value.is_floating_point()}
    with atomic_path(path) as temporary:
        save_file(state, temporary)
