"""Rendering of dressed people with part masks: B shots at once on one device."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as functional
from torch import Tensor

from csgn_lib.synthetic.body import Body
from csgn_lib.synthetic.cameras import FRAME, Camera, Lights, sensor_noise, soften, tap
from csgn_lib.synthetic.looks import Surface, Wearers, paint
from csgn_lib.synthetic.materials import MATERIALS, PART_OF_MATERIAL, PARTS
from csgn_lib.synthetic.places import Place, backdrop
from csgn_lib.synthetic.posing import Posed, Shot, crops, pose, projected
from csgn_lib.synthetic.rasteriser import Fragments, rasterise
from csgn_lib.synthetic.shading import Shadows, hollows, illuminate, wrinkled

SAMPLES = 2  # per pixel and axis (supersampling)
FINE = 256  # pixels: pictures higher than this use backgrounds at full resolution


@dataclass(frozen=True)
class Picture:
    """A rendered picture with its part mask."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    mask: np.ndarray  # (H, W) uint8, indices into PARTS


def render(body: Body, shots: Sequence[Shot], height: int = 128) -> list[Picture]:
    """Render shots on the device of their figures.

    Args:
        height: of the pictures in pixels; the width is half of it.
    """
    shape = (len(shots), height, height // 2)
    device = shots[0].figure.vertices.device
    posed = pose(body, shots)
    cameras = [shot.camera for shot in shots]
    lights = Lights.of(cameras, [shot.moment.exposure for shot in shots], device)
    coarse_frame = 1 if height > FINE else 2
    places = [backdrop(camera, device, coarse_frame) for camera in cameras]
    corners, scales = crops(shots, height, device)
    fine = (shape[0], shape[1] * SAMPLES, shape[2] * SAMPLES)
    fragments = rasterise(projected(posed, shots, corners, scales * SAMPLES), fine)
    centre = torch.tensor([(*shot.moment.position, 0.9) for shot in shots], device=device)
    shadows = Shadows.cast(posed, lights, centre)
    groups = _Groups.of(_coarse(fragments.pixel, fine), posed.material[fragments.triangle])
    colour, part = _shade(posed, fragments, groups, shots, lights, places, shadows, shape)
    behind = _background(shots, places, lights, shadows, posed, corners, scales, shape)
    image = _compose(colour, groups, behind, shape)
    mask = torch.zeros(math.prod(fine), dtype=torch.uint8, device=device)
    mask[fragments.pixel] = part[groups.group]
    mask = mask.view(fine)[:, SAMPLES // 2 :: SAMPLES, SAMPLES // 2 :: SAMPLES]
    image = _develop(image, shots, height)
    return [Picture(i, m) for i, m in zip(image, mask.cpu().numpy(), strict=True)]


def _coarse(pixel: Tensor, fine: tuple[int, int, int]) -> Tensor:
    """Flat index of the pixel that contains each sample."""
    _, height, width = fine
    row, column = pixel // width, pixel % width
    return (row // SAMPLES) * (width // SAMPLES) + column // SAMPLES


@dataclass(frozen=True)
class _Groups:
    """Groups of samples with the same pixel and material, shaded once at their mean. G groups of P samples."""

    group: Tensor  # (P,) group of each sample
    count: Tensor  # (G,) number of samples
    pixel: Tensor  # (G,) flat index into (B, H, W)
    material: Tensor  # (G,)

    @classmethod
    def of(cls, pixel: Tensor, material: Tensor) -> _Groups:
        """Group samples by pixel (P,) and material (P,)."""
        key, group, count = torch.unique(pixel * len(MATERIALS) + material, return_inverse=True, return_counts=True)
        return cls(group, count.float(), key // len(MATERIALS), key % len(MATERIALS))

    def mean(self, values: Tensor) -> Tensor:
        """Means (G, C) of values (P, C) over the samples of each group."""
        total = torch.zeros(len(self.count), values.shape[1], device=values.device)
        return total.index_add_(0, self.group, values) / self.count[:, None]


def _shade(
    posed: Posed,
    fragments: Fragments,
    groups: _Groups,
    shots: Sequence[Shot],
    lights: Lights,
    places: Sequence[Place],
    shadows: Shadows,
    shape: tuple[int, int, int],
) -> tuple[Tensor, Tensor]:
    """Compute sRGB (G, 3) and part (G,) of every group."""
    values = fragments.interpolate(posed.attributes, posed.faces)
    away = (values[:, :3] * (lights.position[posed.picture[fragments.triangle]] - values[:, 3:6])).sum(1) < 0
    away &= posed.two_sided[fragments.triangle]
    values[:, :3] = torch.where(away[:, None], -values[:, :3], values[:, :3])
    values = groups.mean(torch.cat([values, away[:, None].float(), fragments.depth[:, None]], 1))
    facing, points, template = (values[:, k : k + 3] for k in (0, 3, 6))
    picture = groups.pixel // (shape[1] * shape[2])
    facing = functional.normalize(facing, dim=1)
    surface = Surface(template, values[:, 9], values[:, 10], groups.material, picture, values[:, 11] > 0.5)
    wearers = Wearers.of([shot.figure.person for shot in shots], [shot.figure.outfit for shot in shots],
                         [shot.moment.occluder.colour if shot.moment.occluder else (0.0,) * 3 for shot in shots],
                         facing.device)  # fmt: skip
    look = paint(surface, wearers)
    facing = wrinkled(surface, look, facing, wearers.shift)
    shelter = hollows(groups.pixel, values[:, 12], shape)
    ground = torch.stack([place.ground for place in places])
    light = illuminate(surface, look, points, facing, shelter, lights, ground, shadows)
    part = torch.tensor(PART_OF_MATERIAL, dtype=torch.uint8, device=facing.device)[groups.material]
    part[look.strap] = PARTS.index("bag")
    return lights.expose(light, picture), part


def _background(shots: Sequence[Shot], places: Sequence[Place], lights: Lights, shadows: Shadows, posed: Posed,
                corners: Tensor, scales: Tensor, shape: tuple[int, int, int]) -> Tensor:  # fmt: skip
    """Compute sRGB (B * H * W, 3) of the backgrounds, with the people's shadows on the ground."""
    count, height, width = shape
    rows = torch.arange(height, device=corners.device) + 0.5
    columns = torch.arange(width, device=corners.device) + 0.5
    x = corners[:, :1] + columns / scales[:, None]  # (B, W)
    y = corners[:, 1:] + rows / scales[:, None]  # (B, H)
    seen = torch.stack([place.sample(x[b], y[b], 1 / float(scales[b])) for b, place in enumerate(places)])
    ambient, sunlit, level = seen[:, :3], seen[:, 3:6], seen[:, 6]  # (B, 3, H, W), (B, H, W)
    ground = torch.stack([_on_ground(shot.camera, x[b], y[b]) for b, shot in enumerate(shots)])  # (B, H, W, 3)
    picture = torch.arange(count, device=x.device).repeat_interleave(height * width)
    near = (ground[..., :2] - shadows.centre[:, None, None, :2]).norm(dim=3) < 3.0
    rows_near = ((level > 0) & near).flatten().nonzero()[:, 0]
    lit, open_sky = torch.ones(2, count * height * width, device=x.device)
    points = ground.view(-1, 3)[rows_near]
    lit[rows_near] = shadows.lit(points, picture[rows_near], 0.0)
    beside = (points[:, :2] - shadows.centre[picture[rows_near], :2]).norm(dim=1) < 0.8
    rows_near, points = rows_near[beside], points[beside]
    open_sky[rows_near] = _open_sky(points, picture[rows_near], posed)
    weight = level.flatten()
    lit, open_sky = 1 - weight * (1 - lit), 1 - weight * (1 - open_sky)
    ambient, sunlit = (value.permute(0, 2, 3, 1).reshape(-1, 3) for value in (ambient, sunlit))
    light = ambient * open_sky[:, None] + sunlit * (lit * (0.5 + 0.5 * open_sky))[:, None]
    return lights.expose(light, picture)


def _on_ground(camera: Camera, x: Tensor, y: Tensor) -> Tensor:
    """World points (H, W, 3) of the ground at frame columns x (W,) and rows y (H,); far away above the horizon."""
    axes = camera.axes(x.device)
    right = ((x - FRAME[1] / 2) / camera.focal)[None, :, None] * axes[0]
    up = ((FRAME[0] / 2 - y) / camera.focal)[:, None, None] * axes[1]
    ray = right + up + axes[2]
    reach = camera.height / (-ray[..., 2:]).clamp(min=1e-4)
    return ray * reach + ray.new_tensor([0.0, 0.0, camera.height])


def _open_sky(points: Tensor, picture: Tensor, posed: Posed) -> Tensor:
    """Share (n,) of sky light that reaches ground points (n, 3): contact shadows of the soles."""
    low = (posed.vertices[:, 2] < 0.06).nonzero()[:, 0]
    owner = posed.vertex_picture[low]
    share = torch.ones(len(points), device=points.device)
    for number in torch.unique(picture).tolist():
        mine = (picture == number).nonzero()[:, 0]
        feet = posed.vertices[low[owner == number], :2]
        if len(feet):
            distance = torch.cdist(points[mine, :2], feet[:: max(1, len(feet) // 40)]).amin(1)
            share[mine] = 1 - 0.62 * torch.exp(-((distance / 0.09) ** 2))
    return share


def _compose(colour: Tensor, groups: _Groups, behind: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Composite groups, weighted by their coverage, over the background: (B, 3, H, W)."""
    share = groups.count / SAMPLES**2
    covered = torch.zeros(len(behind), device=behind.device).index_add_(0, groups.pixel, share)
    mixed = (behind * (1 - covered)[:, None]).index_add_(0, groups.pixel, colour * share[:, None])
    return mixed.view(*shape, 3).permute(0, 3, 1, 2).contiguous()


def _develop(image: Tensor, shots: Sequence[Shot], height: int) -> np.ndarray:
    """Apply lens blur and sensor noise to images (B, 3, H, W); returns (B, H, W, 3) uint8."""
    sigma = [shot.camera.blur * shot.moment.blur * height / 256 for shot in shots]
    image = soften(image, torch.tensor([tap(s) for s in sigma], device=image.device))
    noise = torch.stack([sensor_noise(np.random.default_rng(shot.moment.seed), height, height // 2) for shot in shots])
    strength = torch.tensor([shot.camera.noise for shot in shots], device=image.device).view(-1, 1, 1, 1)
    image = image + noise.to(image.device) * strength
    return (image.clamp(0, 1) * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()
