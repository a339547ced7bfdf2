"""Shots as triangles: figures in a moment of their walk, stood before a camera, and cropped by their skeleton."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csgn_lib.synthetic.rendered.body import Body
from csgn_lib.synthetic.rendered.cameras import FRAME, Camera
from csgn_lib.synthetic.rendered.dressing import Figure
from csgn_lib.synthetic.rendered.gait import Pose, skinning
from csgn_lib.synthetic.rendered.occluders import Occluder, occluder_mesh
from csgn_lib.synthetic.rendered.rasteriser import Triangles

GROUND_LINE = 0.085  # of the crop's height: where the feet stand above its lower edge


@dataclass(frozen=True)
class Moment:
    """Everything of a picture that is neither person, clothes nor camera."""

    pose: Pose
    heading: float  # radians; 0 faces the camera
    position: tuple[float, float]  # metres: to the right of and away from the camera
    crop: float  # height of the picture in metres at the person's depth
    shift: tuple[float, float]  # of the crop, as shares of its height
    exposure: float
    blur: float  # factor on the camera's
    occluder: Occluder | None
    seed: tuple[int, ...]  # of the sensor's noise
    crop_fixed: bool = True  # whether the crop has the same height for everybody


@dataclass(frozen=True)
class Shot:
    figure: Figure
    camera: Camera
    moment: Moment


@dataclass(frozen=True)
class Posed:
    """The triangles of all shots in the world. N vertices, T faces."""

    vertices: Tensor  # (N, 3)
    attributes: Tensor  # (N, 11): normal, world place, template, arm, cut
    faces: Tensor  # (T, 3)
    picture: Tensor  # (T,)
    vertex_picture: Tensor  # (N,)
    material: Tensor  # (T,)
    cut: Tensor  # (N,)
    two_sided: Tensor  # (T,)
    grounds: Tensor  # (B,) how far each figure was lifted to stand on the ground


def pose(body: Body, shots: Sequence[Shot]) -> Posed:
    """Skin every figure, turn it to its heading and stand it on the ground; add the occluders."""
    figures = [shot.figure for shot in shots]
    joints = torch.stack([figure.joints for figure in figures])
    bones = skinning(body, joints, [f.person.gait for f in figures], [shot.moment.pose for shot in shots])
    bones = _turned(bones, [shot.moment.heading for shot in shots])
    columns: list[list[Tensor]] = [[] for _ in range(8)]
    count, grounds = 0, []
    for number, (shot, figure, transform) in enumerate(zip(shots, figures, bones, strict=True)):
        moved = (figure.weights @ transform.flatten(1)).view(-1, 3, 4)
        place = torch.bmm(moved[:, :, :3], figure.vertices[:, :, None])[..., 0] + moved[:, :, 3]
        facing = torch.bmm(moved[:, :, :3], figure.normals[:, :, None])[..., 0]
        ground = place[:, 2].min()
        stand = torch.tensor([*shot.moment.position, 0.0], device=place.device)
        stand[2] = -ground
        grounds.append(-ground)
        place = place + stand
        meshes = [
            (place, facing, figure.template, figure.arm, figure.cut, figure.faces, figure.material, figure.two_sided)
        ]
        if shot.moment.occluder is not None:
            meshes.append(occluder_mesh(shot.moment.occluder, shot.camera, shot.moment.position, place.device))
        for place, facing, template, arm, cut, faces, material, two_sided in meshes:
            attributes = torch.cat([facing, place, template, arm[:, None], cut[:, None]], 1)
            for column, value in zip(
                columns,
                (
                    place,
                    attributes,
                    faces + count,
                    torch.full_like(material, number),
                    torch.full_like(arm, number, dtype=torch.long),
                    material,
                    cut,
                    two_sided,
                ),
                strict=True,
            ):
                column.append(value)
            count += len(place)
    return Posed(*(torch.cat(column) for column in columns), torch.stack(grounds))


def _turned(bones: Tensor, headings: Sequence[float]) -> Tensor:
    """Transforms (B, J, 3, 4) followed by a turn about the vertical axis."""
    turns = torch.tensor([[[math.cos(h), -math.sin(h), 0], [math.sin(h), math.cos(h), 0], [0, 0, 1]] for h in headings],
                         device=bones.device)  # fmt: skip
    return turns[:, None] @ bones


def crops(shots: Sequence[Shot], height: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Upper left corners (B, 2) in the full frame and scales (B,) in picture pixels a frame pixel.

    They depend on where the skeleton's root stands, never on the body's or the clothes' outline.
    """
    corners, scales = [], []
    for shot in shots:
        x, y = shot.moment.position
        anchors, depth = shot.camera.project(torch.tensor([[x, y, 0.0], [x, y, 0.95]]))
        size = shot.camera.focal * shot.moment.crop / float(depth[1])
        left = float(anchors[1, 0]) - size / 4 + shot.moment.shift[0] * size
        top = float(anchors[0, 1]) - size * (1 - GROUND_LINE) + shot.moment.shift[1] * size
        corners.append((left, top))
        scales.append(height / size)
    return torch.tensor(corners, device=device), torch.tensor(scales, device=device)


def projected(posed: Posed, shots: Sequence[Shot], corners: Tensor, scales: Tensor) -> Triangles:
    """The triangles in pixels of the crops at ``corners`` (B, 2) and ``scales`` (B,)."""
    axes = torch.stack([shot.camera.axes(posed.vertices.device) for shot in shots])
    camera = torch.tensor([[0.0, 0.0, shot.camera.height] for shot in shots], device=axes.device)
    focal = torch.tensor([shot.camera.focal for shot in shots], device=axes.device)
    points, depth = [], []
    counts = torch.bincount(posed.vertex_picture, minlength=len(shots)).tolist()
    for number, vertices in enumerate(posed.vertices.split(counts)):
        seen = (vertices - camera[number]) @ axes[number].T
        middle = seen.new_tensor([FRAME[1] / 2, FRAME[0] / 2]) - corners[number]
        flat = seen[:, :2] * seen.new_tensor([1.0, -1.0]) * (focal[number] / seen[:, 2:])
        points.append((flat + middle) * scales[number])
        depth.append(seen[:, 2])
    return Triangles(torch.cat(points), torch.cat(depth), posed.faces, posed.picture, posed.cut, posed.two_sided)
