"""Random flip, crop, erasing, colour jitter and grayscale, sampled per image and applied to batches on their device."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csgn_lib.batches.prefetching import Movable
from csgn_lib.config import Experiment
from csgn_lib.images import to_float, to_gray

ERASED_AREA = (0.02, 1 / 3)  # of the image [C]
ERASED_ASPECT = (0.3, 1 / 0.3)  # height / width [C]
ERASING_TRIES = 10  # rectangles sampled until one fits [C]
NOISE_STARTS = 2**20  # different noise patterns
JITTER = (0.4, 0.4, 0.4)  # brightness, contrast, saturation: factors in 1 +- this, as in SimCLR (Chen et al., 2020)
HUE_TURN = math.tau / 10  # radians, in either direction, as in SimCLR
TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def random_stream(seed: int, *where: int) -> torch.Generator:
    """A generator on the CPU that is a pure function of its arguments, such as (seed, epoch, step)."""
    state = np.random.SeedSequence([seed, *where]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state >> np.uint64(1)))


@dataclass(frozen=True)
class AugmentationDraw(Movable):
    """The sampled augmentation of each of B images.

    flip, gray (B,): bool. top, left (B,): where the crop begins in the padded image, pixels.
    box (B, 4): top, left, height, width of the erased rectangle, pixels; height 0 erases nothing.
    noise (B,): the noise pattern that fills it, in [0, NOISE_STARTS). Integers are int64. jitter (B, 4): factors of
    brightness, contrast and saturation, and the turn of the hue in radians; (1, 1, 1, 0) changes nothing.
    """

    flip: Tensor
    top: Tensor
    left: Tensor
    box: Tensor
    noise: Tensor
    gray: Tensor
    jitter: Tensor

    def rows(self, rows: slice | Tensor) -> AugmentationDraw:
        """The augmentation of some of the images, such as one process's part of a batch."""
        return AugmentationDraw(*(getattr(self, field.name)[rows] for field in fields(self)))


@dataclass(frozen=True)
class Augmentation:
    """Random flip, crop with padding, erasing, colour jitter, grayscale: per image, for a whole batch, on its device.

    flip: probability of a horizontal flip [C]. padding: black pixels added on each side before a random
    crop of the image's own size [C]. erasing: probability of random erasing (Zhong et al., AAAI 2020),
    with CLIP-ReID's rectangles of 2 to 33 % of the image [C], filled with uniform noise per pixel, as
    Zhong et al. found best (CLIP-ReID's normal noise leaves [0, 1]). gray: probability of a gray image.
    jitter: probability that an image's colours are changed: brightness, contrast, saturation, hue [O].
    """

    flip: float = 0.5
    padding: int = 10
    erasing: float = 0.5
    gray: float = 0.0
    jitter: float = 0.0

    @classmethod
    def from_experiment(cls, experiment: Experiment) -> Augmentation:
        """From the experiment's flip, padding, erasing, gray_probability and colour_jitter."""
        shares = experiment.erasing, experiment.gray_probability, experiment.colour_jitter
        return cls(experiment.flip, experiment.padding, *shares)

    def __call__(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Sample and apply: images (B, 3, H, W) uint8 to float32 in [0, 1], same shape."""
        return self.apply(images, self.draw(len(images), tuple(images.shape[-2:]), generator))

    def draw(self, count: int, size: tuple[int, int], generator: torch.Generator) -> AugmentationDraw:
        """Sample for ``count`` images of ``size`` (H, W), on the generator's device.

        A CPU generator gives the same images on every device, because the rest is integer arithmetic.
        """
        device = generator.device
        u = torch.rand((7 + 2 * ERASING_TRIES, count), generator=generator, device=device, dtype=torch.float64)
        offsets = 2 * self.padding + 1
        box = _rectangles(u[7:], u[2], u[3], size) * (u[4] < self.erasing)
        noise = torch.randint(NOISE_STARTS, (count,), generator=generator, device=device)
        top, left = _below(u[5], offsets), _below(u[6], offsets)
        jitter = self._jitter(count, generator)
        return AugmentationDraw(u[0] < self.flip, top, left, box.T.contiguous(), noise, u[1] < self.gray, jitter)

    def _jitter(self, count: int, generator: torch.Generator) -> Tensor:
        device, nothing = generator.device, torch.tensor([1.0, 1.0, 1.0, 0.0], device=generator.device)
        if self.jitter == 0:
            return nothing.expand(count, 4)  # and no random number is drawn, so other augmentations do not change
        u = torch.rand((5, count), generator=generator, device=device, dtype=torch.float64)
        reach = torch.tensor([*JITTER, HUE_TURN], device=device, dtype=torch.float64)
        jitter = (nothing + (2 * u[:4].T - 1) * reach).float()
        return torch.where((u[4] < self.jitter)[:, None], jitter, nothing)

    def apply(self, images: Tensor, draw: AugmentationDraw) -> Tensor:
        """Images (B, 3, H, W) uint8 to float32 in [0, 1]: the sampled flip, crop, erasing, jitter and grayscale."""
        draw = draw.to(images.device)
        images = _crop(images, draw, self.padding)
        if self.erasing > 0:
            images = _erase(images, draw)
        images = to_float(images)
        if self.jitter > 0:
            images = jittered(images, draw.jitter)
        if self.gray > 0:
            images = torch.where(draw.gray.view(-1, 1, 1, 1), to_gray(images), images)
        return images


def jittered(images: Tensor, jitter: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] with changed colours; (B, 4) factors and hue angles as in ``AugmentationDraw``.

    Brightness scales, contrast scales around the image's mean luminance, saturation scales around each pixel's
    luminance; the hue is rotated in YIQ space, which keeps luminance. Clipped to [0, 1] once, at the end.
    """
    bright, contrast, saturation, turn = (value.view(-1, 1, 1, 1) for value in jitter.to(images).unbind(1))
    images = images * bright
    mean = to_gray(images)[:, :1].mean((1, 2, 3), keepdim=True)
    images = mean + contrast * (images - mean)
    to_yiq = torch.tensor(TO_YIQ, device=images.device, dtype=images.dtype)
    y, i, q = torch.einsum("kc,bchw->kbhw", to_yiq, images).unsqueeze(2)
    cos, sin = saturation * turn.cos(), saturation * turn.sin()
    turned = torch.cat([y, cos * i - sin * q, sin * i + cos * q], dim=1)
    return torch.einsum("ck,bkhw->bchw", torch.linalg.inv(to_yiq), turned).clamp(0, 1)


def _below(u: Tensor, count: Tensor | int) -> Tensor:
    """u in [0, 1) to int64 in [0, count)."""
    count = torch.as_tensor(count, device=u.device)
    return torch.minimum((u * count).long(), count - 1)


def _rectangles(u: Tensor, u_top: Tensor, u_left: Tensor, size: tuple[int, int]) -> Tensor:
    """(4, B): the first of the sampled rectangles that fits; zeros if none does."""
    height, width = size
    tries = len(u) // 2
    area = height * width * (ERASED_AREA[0] + (ERASED_AREA[1] - ERASED_AREA[0]) * u[:tries])
    low, high = (math.log(aspect) for aspect in ERASED_ASPECT)
    aspect = (low + (high - low) * u[tries:]).exp()
    h, w = (area * aspect).sqrt().round().long(), (area / aspect).sqrt().round().long()
    fits = (h < height) & (w < width)
    first = fits.int().argmax(dim=0, keepdim=True)
    h, w, fits = (value.gather(0, first)[0] for value in (h, w, fits))
    return torch.stack([_below(u_top, height - h + 1), _below(u_left, width - w + 1), h, w]) * fits


def _crop(images: Tensor, draw: AugmentationDraw, padding: int) -> Tensor:
    """Flip, pad with black and crop as one gather over rows and columns."""
    count, channels, height, width = images.shape
    padded = F.pad(images, [padding] * 4)
    y = draw.top[:, None] + torch.arange(height, device=images.device)
    x = draw.left[:, None] + torch.arange(width, device=images.device)
    x = torch.where(draw.flip[:, None], width + 2 * padding - 1 - x, x)  # flipped first, then cropped
    index = y[:, :, None] * padded.shape[-1] + x[:, None, :]
    index = index.view(count, 1, -1).expand(-1, channels, -1)
    return padded.flatten(2).gather(2, index).view_as(images)


def _erase(images: Tensor, draw: AugmentationDraw) -> Tensor:
    height, width = images.shape[-2:]
    top, left, h, w = (value[:, None] for value in draw.box.unbind(1))
    y, x = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    inside = ((y >= top) & (y < top + h))[:, :, None] & ((x >= left) & (x < left + w))[:, None, :]
    return torch.where(inside[:, None], _noise(draw.noise, height, width), images)


def _noise(start: Tensor, height: int, width: int) -> Tensor:
    """uint8 (B, 3, H, W), uniform: for each image the section of one fixed sequence that begins at ``start``.

    A generator would give other noise on another device, or in a process that has part of the batch, and takes twenty
    times as long.
    """
    size = 3 * height * width
    return _tape(size, start.device).unfold(0, size, 1)[start].view(-1, 3, height, width)


@lru_cache(maxsize=8)
def _tape(size: int, device: torch.device) -> Tensor:
    noise = np.random.default_rng(0).integers(0, 256, NOISE_STARTS + size, dtype=np.uint8)
    return torch.from_numpy(noise).to(device)
