"""Training of the small CLIP and the small ResNet; the docstring of the package explains the choice of losses."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from csgn_lib.backbones import ClipTower, ResNetTower, load_clip, load_resnet
from csgn_lib.synthetic.pretraining.labels import TARGETS, LabelledPictures, batches
from csgn_lib.synthetic.pretraining.losses import (
    SCALE,
    SEEING,
    AttributeSentences,
    Descent,
    Progress,
    Prototypes,
    attribute_loss,
    attribute_weight,
    contrastive,
    place_patches,
    process_batches,
)
from csgn_lib.synthetic.pretraining.pairs import HEIGHT, WIDTH
from csgn_lib.synthetic.words import attribute_prompts

CLIP, RESNET = "csgn-tiny", "csgn_tiny_resnet"
PICTURES, CLIP_STEPS, RESNET_STEPS, BATCH = 24_000, 2800, 3600, 96
ATTRIBUTES_PER_STEP = 9  # attributes whose sentences are encoded in a step


class Readers(nn.Module):
    """Linear prediction of every attribute and target from image features (B, width). Used in training only."""

    def __init__(self, width: int, dropout: float = 0.2) -> None:
        super().__init__()
        self.sizes = [len(prompts) for prompts in attribute_prompts().values()]
        self.norm, self.dropout = nn.BatchNorm1d(width), nn.Dropout(dropout)
        self.linear = nn.Linear(width, sum(self.sizes) + TARGETS)

    def forward(self, features: Tensor) -> tuple[list[Tensor], Tensor]:
        """Logits (B, values) per attribute, and predicted targets (B, TARGETS) in standard deviations."""
        *logits, numbers = self.linear(self.dropout(self.norm(features.float()))).split([*self.sizes, TARGETS], dim=1)
        return logits, numbers

    def loss(self, features: Tensor, labels: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Mean cross entropy over attributes, and mean squared error over visible targets (those that are not NaN)."""
        logits, numbers = self(features)
        seen = ~targets.isnan()
        return {"classifiers": attribute_loss(logits, labels), "measures": (numbers - targets)[seen].square().mean()}


def train_clip(
    data: LabelledPictures, steps: int, batch: int, seed: int, log: Path, accelerator: Accelerator
) -> ClipTower:
    """Train the small CLIP from scratch.

    Args:
        batch: pictures per step and process.
        log: file to which mean losses are appended as lines of JSON.

    Returns:
        The model in evaluation mode.
    """
    torch.manual_seed(seed)
    clip = load_clip(CLIP, None, (HEIGHT, WIDTH))
    place_patches(clip.visual)
    clip.to(accelerator.device)
    sentences, rng = AttributeSentences(clip), np.random.default_rng(seed + 1)
    readers = Readers(clip.width).to(accelerator.device)
    prototypes = Prototypes(clip.embed_dim).to(accelerator.device)
    descent = Descent(nn.ModuleList([clip, readers, prototypes]), 3e-3, steps, accelerator)
    progress = Progress(log, "clip", accelerator)
    for step, (images, tokens, labels, targets) in enumerate(
        process_batches(partial(batches, data, batch, steps), seed + 2, accelerator)
    ):
        speaks, weight = step >= SEEING * steps, attribute_weight(step / steps)
        chosen = sorted(rng.choice(len(sentences.names), ATTRIBUTES_PER_STEP, replace=False).tolist())
        with accelerator.autocast():
            seen = clip.visual_features(images)
            image = F.normalize(seen.zp.float(), dim=-1)
            text = clip.token_features(tokens) if speaks else None
            features = sentences.features(clip, chosen) if weight else []
        terms = {}
        if speaks:
            scale = clip.logit_scale.exp().clamp(max=100)
            terms["contrastive"] = contrastive(image, F.normalize(text.float(), dim=-1), scale)
        if weight:
            terms |= readers.loss(seen.z12, labels, targets)
            terms["prototypes"] = attribute_loss(prototypes(image), labels)
            terms["sentences"] = prototypes.sentence_loss(features, chosen)
            terms["questions"] = attribute_loss([SCALE * image @ one.t() for one in features], labels[:, chosen])
        weights = {"contrastive": 1.0, "sentences": weight / 2}
        descent.step(sum(weights.get(name, weight) * term for name, term in terms.items()))
        progress.add(step, **terms)
    return clip.eval()


def train_resnet(
    data: LabelledPictures, steps: int, batch: int, seed: int, log: Path, accelerator: Accelerator
) -> ResNetTower:
    """Train the small ResNet to predict the attributes and measures of the same people, without text.

    VSS thus receives a network pretrained by classification, like a ResNet-50 pretrained on ImageNet.

    Args:
        batch: pictures per step and process.
        log: file to which mean losses are appended as lines of JSON.

    Returns:
        The model in evaluation mode.
    """
    torch.manual_seed(seed)
    resnet = load_resnet(RESNET, None)
    both = nn.ModuleList([resnet, Readers(resnet.width)])
    both.to(accelerator.device, memory_format=torch.channels_last)
    descent = Descent(both, 2e-3, steps, accelerator)
    progress = Progress(log, "resnet", accelerator)
    for step, (images, _, labels, targets) in enumerate(
        process_batches(partial(batches, data, batch, steps), seed + 3, accelerator)
    ):
        with accelerator.autocast():
            pooled = resnet(images.contiguous(memory_format=torch.channels_last)).pooled
        terms = both[1].loss(pooled, labels, targets)
        descent.step(terms["classifiers"] + 2 * terms["measures"])
        progress.add(step, **terms)
    return resnet.eval()
