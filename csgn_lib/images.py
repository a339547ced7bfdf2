"""Image tensors: scale to [0, 1], and x^g, the grayscale image of the method."""

from __future__ import annotations

from torch import Tensor

LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def to_float(images: Tensor) -> Tensor:
    """uint8 images to float32 in [0, 1]; float images are returned as they are."""
    return images if images.is_floating_point() else images.float().div_(255)


def to_gray(images: Tensor) -> Tensor:
    """x^g: the luminance 0.299 R + 0.587 G + 0.114 B in three channels [gray: A; weights: O].

    images (..., 3, H, W), RGB, uint8 or float in [0, 1]; the result is float in [0, 1], same shape.
    """
    images = to_float(images)
    red, green, blue = images.unbind(-3)
    gray = LUMINANCE[0] * red + LUMINANCE[1] * green + LUMINANCE[2] * blue
    return gray.unsqueeze(-3).expand_as(images).contiguous()
