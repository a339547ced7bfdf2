"""CLIP-ReID's own training steps on this device, if the path to its code is set.

Its model, losses and optimiser settings are used unchanged. Dependencies on a GPU, on the network and on tkinter are
replaced while they are loaded: ``cuda`` means this device, and CLIP's weights are random, which takes the same time.
On a GPU they run in float16 with a scaled loss, as in its loops; on a CPU, where its autocast has no effect, in
float32.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import ModuleType, SimpleNamespace
from unittest import mock

import torch
from torch import Tensor, nn

from benchmarks.measurement import load_peer, peer_root

STAGE1, STAGE2 = "stage 1", "stage 2"


def clip_reid_steps(
    images: Tensor, person: Tensor, identities: int, rates: dict[str, float]
) -> dict[str, Callable[[], None]] | None:
    """One training step of each of its stages on a batch, as functions; None without its code.

    Args:
        images: (B, 3, 256, 128) float32, normalised, on the device, as its loaders return them.
        person: (B,) int64.
        rates: learning rate by stage.
    """
    if not peer_root("CLIP-ReID"):
        return None
    device = images.device
    with _at_home(device):
        models = load_peer("CLIP-ReID", "model", "make_model_clipreid")
        make_loss = load_peer("CLIP-ReID", "loss", "make_loss").make_loss
        contrast = load_peer("CLIP-ReID", "loss", "supcontrast").SupConLoss(device)
        models.load_clip_to_cpu = _random_clip
        settings = _settings()
        model = models.make_model(settings, identities, camera_num=0, view_num=0).to(device).train()
        loss_of, _ = make_loss(settings, identities)
    words = torch.optim.Adam([model.prompt_learner.cls_ctx], lr=rates[STAGE1], weight_decay=1e-4)
    tower = [value for name, value in model.named_parameters() if "text_encoder" not in name and "prompt" not in name]
    everything = torch.optim.Adam(tower, lr=rates[STAGE2], weight_decay=1e-4)
    mixed = partial(torch.autocast, "cuda", torch.float16, enabled=device.type == "cuda")  # as its loops do on a GPU
    with torch.no_grad(), mixed():
        seen = model(images, get_image=True)
        described = torch.randn(identities, seen.shape[1], device=device)

    scaler = torch.amp.GradScaler(device.type, enabled=device.type == "cuda")

    def stage1() -> None:
        words.zero_grad()
        with mixed():
            text = model(label=person, get_text=True)
        loss = contrast(seen, text, person, person) + contrast(text, seen, person, person)
        _descended(loss, words)

    def stage2() -> None:
        everything.zero_grad()
        with _at_home(device):
            with mixed():
                scores, features, joint = model(x=images, label=person)
                loss = loss_of(scores, features, person, None, joint @ described.t())
            _descended(loss, everything)

    def _descended(loss: Tensor, optimizer: torch.optim.Optimizer) -> None:
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        loss.item()  # its meter's

    for value in model.text_encoder.parameters():  # as in its stage 1: only the prompt tokens are trained
        value.requires_grad_(False)
    return {STAGE1: stage1, STAGE2: stage2}


def _random_clip(name: str, rows: int, columns: int, stride: int) -> nn.Module:
    clip = sys.modules["peer_clip_reid_model.clip.model"]
    return clip.CLIP(512, 224, 12, 768, 16, stride, 77, 49408, 512, 8, 12, rows, columns)


@contextmanager
def _at_home(device: torch.device) -> Iterator[None]:
    """``cuda`` means ``device``; ``turtle``, imported by mistake, need not exist."""
    to = nn.Module.to

    def here(module: nn.Module, *given: object, **named: object) -> nn.Module:
        return to(module, *(device if value == "cuda" else value for value in given), **named)

    turtle = ModuleType("turtle")
    turtle.pd = None
    with (
        mock.patch.object(nn.Module, "to", here),
        mock.patch.object(Tensor, "cuda", lambda value, *given, **named: value.to(device)),
        mock.patch.dict(sys.modules, {"turtle": turtle}),
    ):
        yield


def _settings() -> SimpleNamespace:
    """The values of its ``configs/person/vit_clipreid.yml`` and defaults that its model and losses read."""
    return SimpleNamespace(
        MODEL=SimpleNamespace(
            NAME="ViT-B-16", COS_LAYER=False, NECK="bnneck", SIE_COE=1.0, SIE_CAMERA=False, SIE_VIEW=False,
            STRIDE_SIZE=[16, 16], METRIC_LOSS_TYPE="triplet", NO_MARGIN=False, IF_LABELSMOOTH="on",
            ID_LOSS_WEIGHT=0.25, TRIPLET_LOSS_WEIGHT=1.0, I2T_LOSS_WEIGHT=1.0,
        ),
        TEST=SimpleNamespace(NECK_FEAT="before"),
        INPUT=SimpleNamespace(SIZE_TRAIN=[256, 128]),
        DATASETS=SimpleNamespace(NAMES="market1501"),
        DATALOADER=SimpleNamespace(SAMPLER="softmax_triplet"),
        SOLVER=SimpleNamespace(MARGIN=0.3),
    )  # fmt: skip
