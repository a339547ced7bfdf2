"""Scores of the trained models on unseen people: zero-shot accuracy, linear readers, and effects of counterfactuals."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from csgn_lib.backbones import ClipTower, ResNetTower
from csgn_lib.synthetic.attributes import MEASURES
from csgn_lib.synthetic.pretraining.labels import IGNORED, OWN, LabelledPictures
from csgn_lib.synthetic.pretraining.losses import AttributeSentences
from csgn_lib.synthetic.pretraining.pairs import HEIGHT, Pictures
from csgn_lib.synthetic.scenes import KINDS, draw
from csgn_lib.synthetic.words import attribute_prompts

OWN_NUMBERS = (*MEASURES, *OWN)  # targets of the person; the remaining targets are colours of clothes
SUPERVISED_RIDGE = 10.0  # penalty of the linear readers, for features of unit variance


@torch.inference_mode()
def features(clip: ClipTower, images: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    """Compute class tokens z12 (N, W) and unit joint features (N, P) of uint8 images (N, H, W, 3)."""
    parts = []
    for rows in np.array_split(np.arange(len(images)), max(1, len(images) // 256)):
        seen = clip.visual_features(torch.from_numpy(images[rows]).permute(0, 3, 1, 2).float() / 255)
        parts.append((seen.z12, F.normalize(seen.zp, dim=-1)))
    return torch.cat([z12 for z12, _ in parts]), torch.cat([zp for _, zp in parts])


@torch.inference_mode()
def zero_shot(clip: ClipTower, train: LabelledPictures, unseen: LabelledPictures) -> dict[str, dict[str, float]]:
    """Accuracy per attribute on unseen people.

    Args:
        train: training pictures, on which the linear readers are fitted.
        unseen: pictures of other people.

    Returns:
        For each attribute ``zero_shot`` (most similar sentence), ``supervised`` (ridge regression of one-hot values on
        the class token), ``majority`` (always the most frequent value) and the number of ``pictures``.
    """
    (known, _), (tokens, joint) = features(clip, train.images), features(clip, unseen.images)
    sentences, report = AttributeSentences(clip), {}
    for i, name in enumerate(sentences.names):
        labelled, learned = unseen.labels[:, i] != IGNORED, train.labels[:, i] != IGNORED
        truth, values = unseen.labels[labelled, i].astype(int), len(sentences.tokens[i])
        if not len(truth):
            continue
        answer = (joint[labelled] @ sentences.features(clip, [i])[0].t()).argmax(dim=1).numpy()
        read = _read(
            known[learned], torch.from_numpy(train.labels[learned, i].astype(np.int64)), values, tokens[labelled]
        )
        scores = {"zero_shot": (answer == truth).mean(), "supervised": (read.numpy() == truth).mean(),
                  "majority": np.bincount(truth).max() / len(truth)}  # fmt: skip
        report[name] = {kind: round(float(share), 4) for kind, share in scores.items()} | {"pictures": len(truth)}
    return report


def _read(known: Tensor, labels: Tensor, values: int, unseen: Tensor) -> Tensor:
    """Predict values (M,) for features (M, W) by ridge regression on features (N, W) with labels (N,)."""
    targets = F.one_hot(labels, values).double()
    return (_ridge(known, targets - targets.mean(0), unseen) + targets.mean(0)).argmax(1)


def _ridge(known: Tensor, targets: Tensor, unseen: Tensor) -> Tensor:
    """Predict targets (M, T) for features (M, W) by ridge regression of zero-mean targets (N, T) on features (N, W)."""
    mean, deviation = known.mean(0), known.std(0).clamp_min(1e-6)
    rows = ((known - mean) / deviation).double()
    penalty = SUPERVISED_RIDGE * torch.eye(rows.shape[1]).double()
    return ((unseen - mean) / deviation).double() @ torch.linalg.solve(rows.T @ rows + penalty, rows.T @ targets)


@torch.inference_mode()
def readable(
    resnet: ResNetTower, train: LabelledPictures, unseen: LabelledPictures
) -> dict[str, dict[str, dict[str, float]]]:
    """Scores on unseen people of linear readers of the ResNet's pooled feature, fitted on the training people.

    Args:
        train: training pictures.
        unseen: pictures of other people.

    Returns:
        ``names``: accuracy and share of the most frequent value per attribute; ``numbers``: correlation r with the
        true value of each of OWN_NUMBERS.
    """
    known, strangers = (pooled(resnet, data.images) for data in (train, unseen))
    names = {}
    for i, name in enumerate(attribute_prompts()):
        learned, there = train.labels[:, i] != IGNORED, unseen.labels[:, i] != IGNORED
        truth = unseen.labels[there, i].astype(int)
        if len(truth):
            labels = torch.from_numpy(train.labels[learned, i].astype(np.int64))
            read = _read(known[learned], labels, int(train.labels[:, i].max()) + 1, strangers[there]).numpy()
            names[name] = {"accuracy": float((read == truth).mean()),
                           "majority": float(np.bincount(truth).max() / len(truth))}  # fmt: skip
    mean = torch.from_numpy(train.targets.mean(0)).double()
    numbers = _ridge(known, torch.from_numpy(train.targets).double() - mean, strangers).numpy()
    r = [float(np.corrcoef(numbers[:, i], unseen.targets[:, i])[0, 1]) for i in range(len(OWN_NUMBERS))]
    return {"names": {n: {k: round(v, 4) for k, v in row.items()} for n, row in names.items()},
            "numbers": {n: {"r": round(v, 4)} for n, v in zip(OWN_NUMBERS, r, strict=True)}}  # fmt: skip


@torch.inference_mode()
def pooled(resnet: ResNetTower, images: NDArray[np.uint8]) -> Tensor:
    """Compute pooled features (N, C) of uint8 images (N, H, W, 3)."""
    parts = np.array_split(np.arange(len(images)), max(1, len(images) // 256))
    return torch.cat([resnet(torch.from_numpy(images[r]).permute(0, 3, 1, 2).float() / 255).pooled for r in parts])


def moves(clip: ClipTower, pictures: Pictures, count: int) -> dict[str, float]:
    """Mean cosine distance of joint features between scenes and their counterfactuals, and between similar sentences.

    Args:
        count: number of scenes, evenly spaced in ``pictures``.

    Returns:
        Distances for other colours of clothes, other clothes, another body, another step, gray pictures, one other
        colour word and one other body word; and the ratio of other clothes to another body.
    """
    places = np.linspace(0, len(pictures.scenes) - 1, count).round().astype(int)
    scenes = [pictures.scenes[place] for place in places]
    changes = [scene.counterfactuals(scenes[(i + 1) % count].person) for i, scene in enumerate(scenes)]
    changed = {"as it is": scenes} | {kind: [change[kind] for change in changes] for kind in KINDS}
    seen = {name: features(clip, np.stack([p.image for p in draw(of, HEIGHT)]))[1] for name, of in changed.items()}
    plain = seen.pop("as it is")
    moved = {f"image_{name}": 1 - float((plain * f).sum(1).mean()) for name, f in seen.items()}
    moved["clothes_over_body"] = moved["image_reclothed"] / moved["image_rebodied"]
    with torch.inference_mode():
        captions = ("a photo of a tall person wearing a red coat.", "a photo of a tall person wearing a blue coat.",
                "a photo of a short person wearing a red coat.")  # fmt: skip
        text = F.normalize(clip.text_features(captions), dim=-1)
    moved |= {"text_colour_word": 1 - float(text[0] @ text[1]), "text_body_word": 1 - float(text[0] @ text[2])}
    return {name: round(value, 4) for name, value in moved.items()}
