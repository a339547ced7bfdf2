"""Ray casting of backgrounds: boxes and ellipsoids with procedural textures, sunlight and shadows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from csgn_lib.synthetic.cameras import FRAME, INDOOR, Camera

_MISS = 1e9


@dataclass(frozen=True)
class Ground:
    """The level ground of a place."""

    kind: str  # material, such as asphalt or tiles
    colour: tuple[float, ...]  # albedo
    marks: str  # lane, zebra, bays, path or empty
    salt: float  # position of the marks and variant of the tiles


@dataclass(frozen=True)
class Thing:
    """An axis-aligned box, or the ellipsoid inscribed in it."""

    shape: str  # box or ball
    low: tuple[float, ...]  # lower corner, metres
    high: tuple[float, ...]  # upper corner, metres
    texture: str
    colour: tuple[float, ...]  # albedo
    salt: float  # variant of the texture, in [0, 1)


class Noise:
    """Value noise on a plane, from a table of random numbers."""

    def __init__(self, seed: int, device: torch.device) -> None:
        self.table = torch.from_numpy(np.random.default_rng(seed).random(65536, dtype=np.float32)).to(device)

    def value(self, x: Tensor, y: Tensor) -> Tensor:
        """Smooth noise in [0, 1] at coordinates x and y, with one lattice point per unit."""
        column, row = x.floor(), y.floor()
        u, v = x - column, y - row
        u, v = u * u * (3 - 2 * u), v * v * (3 - 2 * v)
        low = self.cell(column, row) * (1 - u) + self.cell(column + 1, row) * u
        high = self.cell(column, row + 1) * (1 - u) + self.cell(column + 1, row + 1) * u
        return low * (1 - v) + high * v

    def cell(self, column: Tensor, row: Tensor) -> Tensor:
        """Random number in [0, 1) of each lattice cell."""
        return self.table[((row.long() & 255) << 8) | (column.long() & 255)]

    def cloud(self, x: Tensor, y: Tensor, octaves: int = 3) -> Tensor:
        """Fractal noise in [0, 1]: a weighted sum of octaves of smooth noise."""
        total = sum(self.value(x * 2**k + 17 * k, y * 2**k) * 0.5 ** (k + 1) for k in range(octaves))
        return total / (1 - 0.5**octaves)


def cast(
    camera: Camera, ground: Ground, things: Sequence[Thing], device: torch.device, seed: int, coarse: int = 1
) -> Tensor:
    """Render the background of a camera by ray casting.

    Args:
        seed: of the noise in textures.
        coarse: frame pixels per pixel of the result, along each axis.

    Returns:
        (1, 7, H, W) of size FRAME // coarse: linear light from the sky (3) and from the sun (3), and 1 where level
        ground is visible.
    """
    origin = torch.tensor([0.0, 0.0, camera.height], device=device)
    rays = _rays(camera, device, coarse)
    reach, owner, axis = _nearest(origin, rays, things)
    points = origin + rays * reach[:, None]
    noise = Noise(seed, device)
    colour, facing = torch.zeros_like(points), torch.zeros_like(points)
    level = (owner == -1).nonzero()[:, 0]
    colour[level] = _ground_colour(ground, points[level], reach[level] * coarse / camera.focal, noise, camera)
    facing[level, 2] = 1.0
    glow = torch.zeros_like(reach)
    for number, thing in enumerate(things):
        rows = (owner == number).nonzero()[:, 0]
        if len(rows):
            colour[rows], facing[rows], glow[rows] = _surface(thing, points[rows], rays[rows], axis[rows], noise)
    hit = owner > -2
    ambient, sunlit = _light(camera, points, colour, facing, hit, level, things)
    ambient = torch.where(glow[:, None] > 0, colour * glow[:, None], ambient)
    sunlit = torch.where(glow[:, None] > 0, 0.0, sunlit)
    ambient = torch.where(hit[:, None], ambient, _sky(camera, rays, noise))
    fog = ((reach - 12) / 70).clamp(0, 0.3)[:, None] * hit[:, None] * (0.0 if camera.place in INDOOR else 1.0)
    haze = torch.tensor(camera.sky_colour, device=device) * 0.8
    frame = torch.cat([ambient * (1 - fog) + fog * haze, sunlit * (1 - fog), (owner == -1).float()[:, None]], 1)
    return frame.T.reshape(1, 7, FRAME[0] // coarse, FRAME[1] // coarse).contiguous()


def _rays(camera: Camera, device: torch.device, coarse: int) -> Tensor:
    """Rays (H * W, 3) with length 1 along the optical axis."""
    axes = camera.axes(device)
    x = ((torch.arange(FRAME[1] // coarse, device=device) + 0.5) * coarse - FRAME[1] / 2) / camera.focal
    y = (FRAME[0] / 2 - (torch.arange(FRAME[0] // coarse, device=device) + 0.5) * coarse) / camera.focal
    return (x[None, :, None] * axes[0] + y[:, None, None] * axes[1] + axes[2]).reshape(-1, 3)


def _nearest(origin: Tensor, rays: Tensor, things: Sequence[Thing]) -> tuple[Tensor, Tensor, Tensor]:
    """Distance along each ray, object hit (-1: the ground, -2: nothing), and axis of the face hit (3: a ball)."""
    reach = torch.where(rays[:, 2] < -1e-4, -origin[2] / rays[:, 2].clamp(max=-1e-4), _MISS)
    owner = torch.where(reach < 200, -1, -2)
    reach = torch.where(owner == -2, _MISS, reach)
    axis = torch.zeros_like(owner)
    for number, thing in enumerate(things):
        distance, side = (_box_hit if thing.shape == "box" else _ball_hit)(origin, rays, thing)
        closer = distance < reach
        reach, owner = torch.where(closer, distance, reach), torch.where(closer, number, owner)
        axis = torch.where(closer, side, axis)
    return reach, owner, axis


def _box_hit(origin: Tensor, rays: Tensor, thing: Thing) -> tuple[Tensor, Tensor]:
    inverse = 1 / torch.where(rays.abs() < 1e-6, 1e-6, rays)
    first = (rays.new_tensor(thing.low) - origin) * inverse
    second = (rays.new_tensor(thing.high) - origin) * inverse
    enter, side = torch.minimum(first, second).max(-1)
    leave = torch.maximum(first, second).amin(-1)
    return torch.where((enter < leave) & (enter > 0.05), enter, _MISS), side


def _ball_hit(origin: Tensor, rays: Tensor, thing: Thing) -> tuple[Tensor, Tensor]:
    low, high = rays.new_tensor(thing.low), rays.new_tensor(thing.high)
    start, ray = (origin - (low + high) / 2) / ((high - low) / 2), rays / ((high - low) / 2)
    a, b, c = (ray * ray).sum(-1), (start * ray).sum(-1), (start * start).sum(-1) - 1
    inside = b * b - a * c
    distance = (-b - inside.clamp(min=0).sqrt()) / a
    hit = (inside > 0) & (distance > 0.05)
    return torch.where(hit, distance, _MISS), torch.full_like(distance, 3, dtype=torch.long)


def _ground_colour(ground: Ground, points: Tensor, footprint: Tensor, noise: Noise, camera: Camera) -> Tensor:
    x, y = points[:, 0], points[:, 1]
    fine = (0.012 / footprint).clamp(0, 1)
    shade = 0.75 + 0.35 * noise.cloud(x * 1.3 + 50, y * 1.3, 4) + 0.3 * fine * (noise.cloud(x * 14, y * 14) - 0.5)
    width = {"tiles": 0.4, "slabs": 0.9, "lino": 0.6, "cobbles": 0.16, "planks": 0.18}.get(ground.kind)
    if width:
        u, v = x / width, y / (width if ground.kind != "planks" else 1.4)
        edge = torch.minimum((u - u.round()).abs(), (v - v.round()).abs()) * width
        line = torch.exp(-((edge / (footprint * 0.8).clamp(min=0.008)) ** 2)) * fine.clamp(min=0.1)
        shade = shade * (0.86 + 0.28 * noise.cell(u.floor() * 7, v.floor() * 5)) * (1 - 0.45 * line)
        if ground.kind == "tiles" and ground.salt > 1:
            shade = shade * torch.where((u.floor() + v.floor()) % 2 > 0, 1.0, 0.72)
    colour = points.new_tensor(ground.colour) * shade[:, None]
    if ground.kind == "grass":
        colour = colour * (0.6 + 0.9 * noise.cloud(x * 30, y * 30))[:, None]
    return _marked(ground, colour, x, y - camera.distance, shade)


def _marked(ground: Ground, colour: Tensor, x: Tensor, y: Tensor, shade: Tensor) -> Tensor:
    white = (0.55 * shade)[:, None].expand(-1, 3)
    if ground.marks == "lane":
        colour = torch.where(((x - ground.salt).abs() < 0.08)[:, None], white, colour)
        curb = (y > 4.0) & (y < 4.25)
        return torch.where(curb[:, None], 0.7 * white, torch.where((y > 4.25)[:, None], 0.45 * white, colour))
    if ground.marks == "zebra":
        stripe = ((x / 0.9 + 0.5).floor() % 2 > 0) & (y.abs() < 1.9)
        return torch.where(stripe[:, None], white, colour)
    if ground.marks == "bays":
        return torch.where((((x / 2.6) % 1 - 0.5).abs() < 0.025)[:, None] & (y > 2.2)[:, None], white, colour)
    if ground.marks == "path":
        beside = (x + 0.4 * torch.sin(y * 0.5)).abs() > 2.6 + 0.3 * ground.salt
        return torch.where(beside[:, None], colour.new_tensor([0.10, 0.18, 0.05]) * (0.4 + shade)[:, None], colour)
    return colour


def _surface(thing: Thing, points: Tensor, rays: Tensor, axis: Tensor, noise: Noise) -> tuple[Tensor, Tensor, Tensor]:
    """Colours (n, 3), normals (n, 3) and emission (n,) at visible points of an object."""
    if thing.shape == "ball":
        low, high = points.new_tensor(thing.low), points.new_tensor(thing.high)
        facing = torch.nn.functional.normalize((points - (low + high) / 2) / (high - low) ** 2, dim=1)
        along, up = torch.atan2(facing[:, 0], facing[:, 1]) * 1.5 + points[:, 0], points[:, 2]
    else:
        facing = torch.zeros_like(points)
        facing.scatter_(1, axis[:, None], -torch.gather(rays, 1, axis[:, None]).sign())
        along = torch.where(axis == 0, points[:, 1], points[:, 0])
        up = torch.where(axis == 2, points[:, 1], points[:, 2])
    shade = (
        0.8
        + 0.3 * noise.cloud(along * 1.1 + thing.salt * 97, up * 1.1)
        + 0.12 * (noise.value(along * 25, up * 25) - 0.5)
    )
    colour = points.new_tensor(thing.colour) * shade[:, None]
    glow = torch.zeros_like(along)
    if thing.texture == "hedge":
        leaves = noise.cloud(along * 11 + thing.salt * 50, up * 11)
        facing = torch.nn.functional.normalize(facing + 0.9 * (leaves[:, None] - 0.5), dim=1)
        colour = points.new_tensor(thing.colour) * (0.25 + 1.7 * leaves)[:, None]
    elif thing.texture == "ceiling":
        panel = (((along / 1.2) % 1 - 0.5).abs() < 0.3) & (((up / 2.4) % 1 - 0.5).abs() < 0.35)
        glow = torch.where(panel, 2.2, 0.0)
    elif thing.texture in _TEXTURES:
        colour = _TEXTURES[thing.texture](colour, along, up, thing, noise)
    return colour, facing, glow


def _facade(colour: Tensor, along: Tensor, up: Tensor, thing: Thing, noise: Noise) -> Tensor:
    """A plaster or brick wall with windows."""
    if thing.salt < 0.35:
        row = (up / 0.075).floor()
        shifted = along / 0.24 + 0.5 * (row % 2)
        mortar = ((shifted % 1 - 0.5).abs() > 0.47) | (((up / 0.075) % 1 - 0.5).abs() > 0.44)
        brick = noise.cell(shifted.floor() * 3, row * 2)
        warm = colour.new_tensor([0.33, 0.13 + 0.2 * thing.salt, 0.08 + 0.2 * thing.salt])
        colour = torch.where(mortar[:, None], 0.3, warm * (0.6 + 0.7 * brick)[:, None])
    width = 2.2 + 1.5 * thing.salt
    u, v = (along % width) / width, ((up - 0.9) % 3.2) / 3.2
    window = (u > 0.25) & (u < 0.8) & (v > 0.05) & (v < 0.6) & (up > 0.9)
    pane = (u > 0.275) & (u < 0.775) & (v > 0.075) & (v < 0.575) & ((u - 0.525).abs() > 0.012)
    glass = colour.new_tensor([0.10, 0.13, 0.16]) + 0.25 * noise.cloud(along * 0.5, up * 0.3)[:, None]
    frame = 0.5 * colour.new_tensor(thing.colour) + 0.25
    return torch.where(window[:, None], torch.where(pane[:, None], glass, frame), colour)


def _shops(colour: Tensor, along: Tensor, up: Tensor, thing: Thing, noise: Noise) -> Tensor:
    """Shop windows with goods, a sign above them, and a facade above the sign."""
    colour = torch.where((up > 3.3)[:, None], _facade(colour, along, up, thing, noise), colour)
    place = along % 4.6
    window = (up < 2.6) & (place > 0.5)
    frame = ((place - 2.5).abs() < 0.05) | (up > 2.45) | (up < 0.35)
    goods = torch.stack([noise.cell((along / 0.7).floor() * 3 + k * 31, (up / 0.6).floor()) for k in range(3)], 1)
    goods = 0.65 * goods.mean(1, keepdim=True) + 0.35 * goods
    inside = (0.10 + 0.6 * noise.cloud(along * 0.9, up * 0.9) ** 2)[:, None] * (0.4 + goods)
    sign = (up > 2.6) & (up < 3.2) & (place > 0.5)
    tone = torch.stack([noise.cell((along / 4.6).floor() * 5 + k * 13, torch.zeros_like(up)) for k in range(3)], 1)
    colour = torch.where(sign[:, None], 0.1 + 0.6 * tone, colour)
    return torch.where(window[:, None], torch.where(frame[:, None], 0.12, inside), colour)


def _panels(colour: Tensor, along: Tensor, up: Tensor, thing: Thing, noise: Noise) -> Tensor:
    """An indoor wall with skirting, joints and doors."""
    joint = ((along / 1.5) % 1 < 0.012) | (up < 0.12)
    colour = torch.where(joint[:, None], 0.55 * colour, colour)
    place = along % (5.2 + 2 * thing.salt)
    door = (place < 1.0) & (up < 2.15)
    wood = colour.new_tensor([0.28, 0.19, 0.12]) if thing.salt < 0.5 else colour.new_tensor([0.2, 0.3, 0.36])
    edge = (place > 0.93) | (place < 0.07) | (up > 2.08)
    dado = (up < 1.1) & (thing.salt > 0.6)
    colour = torch.where(dado[:, None], colour * colour.new_tensor([0.6, 0.75, 0.8]), colour)
    return torch.where(door[:, None], torch.where(edge[:, None], 0.5 * wood, wood), colour)


def _slats(colour: Tensor, along: Tensor, up: Tensor, thing: Thing, noise: Noise) -> Tensor:
    return colour * torch.where((up * 8 % 1) < 0.25, 0.4, 1.0)[:, None]


def _stripe(colour: Tensor, along: Tensor, up: Tensor, thing: Thing, noise: Noise) -> Tensor:
    band = (up > 1.0) & (up < 1.5)
    tone = colour.new_tensor([0.5, 0.35, 0.05] if thing.salt < 0.5 else [0.1, 0.25, 0.5])
    return torch.where(band[:, None], tone, colour)


def _poster(colour: Tensor, along: Tensor, up: Tensor, thing: Thing, noise: Noise) -> Tensor:
    shapes = torch.stack([noise.cloud(along * 1.5 + 31 * k, up * 1.5, 2) for k in range(3)], 1)
    print_ = ((shapes - 0.5) * 0.9 + 0.45 * colour + 0.2).clamp(0.02, 0.9)
    return torch.where((up > 0.3)[:, None], print_, 0.3)


def _car(colour: Tensor, along: Tensor, up: Tensor, thing: Thing, noise: Noise) -> Tensor:
    lights = (up > 0.55) & (up < 0.72) & (((along - thing.low[0]) < 0.25) | ((thing.high[0] - along) < 0.25))
    colour = torch.where((up < 0.38)[:, None], 0.03, colour)
    return torch.where(lights[:, None], colour.new_tensor([0.5, 0.12, 0.08]), colour)


def _windows(colour: Tensor, along: Tensor, up: Tensor, thing: Thing, noise: Noise) -> Tensor:
    post = ((along - thing.low[0]) / (thing.high[0] - thing.low[0]) * 2 % 1 < 0.06) | (up > thing.high[2] - 0.07)
    return torch.where(post[:, None], colour, colour.new_tensor([0.06, 0.075, 0.09]))


_TEXTURES = {
    "facade": _facade,
    "shops": _shops,
    "panels": _panels,
    "slats": _slats,
    "stripe": _stripe,
    "poster": _poster,
    "car": _car,
    "windows": _windows,
}


def _light(camera: Camera, points: Tensor, colour: Tensor, facing: Tensor, hit: Tensor, level: Tensor,
           things: Sequence[Thing]) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Light from the sky and from the sun reflected at each point, (n, 3) each."""
    sun = points.new_tensor(camera.sun)
    shelter = 0.65 + 0.35 * (points[:, 2] / 0.8).clamp(0, 1)
    shelter[level] = 1.0
    direct = (facing @ sun).clamp(0, 1)
    lit = (hit & (direct > 0)).nonzero()[:, 0]
    start = points[lit] + facing[lit] * 0.02
    shine = torch.ones(len(lit), device=points.device)
    for thing in things:
        if thing.texture == "ceiling":
            continue
        distance, _ = (_box_hit if thing.shape == "box" else _ball_hit)(start, sun.expand_as(start), thing)
        shine[distance < _MISS] = 0.0
        if thing.shape == "box" and thing.low[2] == 0:
            gap = torch.stack(
                [
                    (thing.low[k] - points[level, k]).clamp(min=0) + (points[level, k] - thing.high[k]).clamp(min=0)
                    for k in (0, 1)
                ]
            )
            shelter[level] *= 1 - 0.45 * torch.exp(-gap.norm(dim=0) / 0.5)
    direct[lit] *= shine
    ambient = colour * points.new_tensor(camera.sky_colour) * (0.62 + 0.38 * facing[:, 2:]) * shelter[:, None]
    return ambient, colour * points.new_tensor(camera.sun_colour) * direct[:, None]


def _sky(camera: Camera, rays: Tensor, noise: Noise) -> Tensor:
    up = (rays[:, 2] * 3).clamp(0, 1)[:, None]
    clouds = noise.cloud(rays[:, 0] * 4, rays[:, 2] * 12)[:, None]
    blue = rays.new_tensor([0.55, 0.68, 0.9]) * (1.6 - 0.7 * up)
    return (blue + (0.5 + 0.3 * clouds) * (clouds - 0.35).clamp(min=0)) * (0.5 if camera.place in INDOOR else 1.0)
