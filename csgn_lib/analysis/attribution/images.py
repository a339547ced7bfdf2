"""Checks of images and maps, and interpolation of a grid's cells to pixels."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from csgn_lib.backbones import vit_grid
from csgn_lib.batches import to_float
from csgn_lib.records import InputError
from csgn_lib.vss import Embeddings, VisualEncoder

Read = Callable[[Embeddings], Tensor]  # Embeddings to the compared features (B, D)


def whole(embeddings: Embeddings) -> Tensor:
    """The test descriptor (B, D): those parts of [z12; f; c] that the encoder has [C]."""
    return embeddings.descriptor()


def checked(encoder: VisualEncoder, images: Tensor, others: Tensor | None = None) -> Tensor:
    """Images (B, 3, H, W), uint8 or in [0, 1], as float in [0, 1], after the encoder is in eval mode.

    Raises:
        InputError: an encoder in training mode, images of another shape or size than the encoder's, none at all, or
            not as many others as images.
    """
    if encoder.training:
        raise InputError("the encoder is in training mode, in which maps depend on the batch; call encoder.eval()")
    for name, batch in (("images", images), ("others", others)):
        if batch is None:
            continue
        if batch.ndim != 4 or batch.shape[1] != 3 or not len(batch):
            raise InputError(f"{name} are {tuple(batch.shape)}; give (B, 3, H, W), one image at least")
        size = tuple(batch.shape[-2:])
        if encoder.vit is not None and size != (wanted := vit_grid(encoder.vit)[0]):
            raise InputError(
                f"{name} are {size[0]} x {size[1]}, the encoder takes {wanted[0]} x {wanted[1]}; resize them"
            )
    if others is not None and images.shape != others.shape:
        raise InputError(
            f"images are {tuple(images.shape)}, others {tuple(others.shape)}; give one other for each image"
        )
    return to_float(images)


def checked_maps(maps: Tensor, images: Tensor) -> None:
    """Raises InputError for maps that are not (B, H, W) of these images (B, 3, H, W)."""
    if maps.ndim != 3 or (len(maps), *maps.shape[1:]) != (len(images), *images.shape[-2:]):
        wanted = (len(images), *images.shape[-2:])
        raise InputError(f"the maps are {tuple(maps.shape)}; give one a pixel of each image, {wanted}")


def to_pixels(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Cells of a grid (B, h, w) to maps (B, H, W): clamped at 0, bilinear, unit sum."""
    pixels = F.interpolate(cells[:, None].clamp(min=0), size=size, mode="bilinear", align_corners=False)[:, 0]
    return unit_sum(pixels)


def unit_sum(maps: Tensor) -> Tensor:
    """Scale non-negative maps (..., H, W) to a sum of one each; a zero map stays zero."""
    total = maps.sum(dim=(-2, -1), keepdim=True)
    return maps / torch.where(total > 0, total, torch.ones_like(total))
