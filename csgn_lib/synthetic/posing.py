"""Posed triangles of shots: walking figures in front of a camera, cropped by the position of their skeleton."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csgn_lib.synthetic.body import Body
from csgn_lib.synthetic.cameras import FRAME, Camera
from csgn_lib.synthetic.dressing import Figure
from csgn_lib.synthetic.gait import Pose, skinning
from csgn_lib.synthetic.occluders import Occluder, occluder_mesh
from csgn_lib.synthetic.rasteriser import Triangles

GROUND_LINE = 0.085  # height of the feet above the lower edge of the crop, as a share of its height


@dataclass(frozen=True)
class Moment:
    """Everything in a picture besides person, outfit and camera."""

    pose: Pose
    heading: float  # radians; 0 faces the camera
    position: tuple[float, float]  # metres to the right of the camera and away from it
    crop: float  # height of the picture in metres at the person's depth
    shift: tuple[float, float]  # of the crop to the right and downwards, as shares of its height
    exposure: float  # factor on the camera's exposure
    blur: float  # factor on the camera's blur
    occluder: Occluder | None
    seed: tuple[int, ...]  # of the sensor noise
    crop_fixed: bool = True  # whether the crop has the same height for all people


@dataclass(frozen=True)
class Shot:
    """A picture to render."""

    figure: Figure
    camera: Camera
    moment: Moment


@dataclass(frozen=True)
class Posed:
    """Triangles of B shots in world coordinates. N vertices, T triangles."""

    vertices: Tensor  # (N, 3) metres
    attributes: Tensor  # (N, 11): normal, world coordinates, template coordinates, arm, cut
    faces: Tensor  # (T, 3)
    picture: Tensor  # (T,) index of the shot
    vertex_picture: Tensor  # (N,) index of the shot
    material: Tensor  # (T,) index into MATERIALS
    cut: Tensor  # (N,) the surface ends where this interpolates to 0 or more
    two_sided: Tensor  # (T,) bool
    grounds: Tensor  # (B,) height by which each figure was raised to stand on the ground, metres


def pose(body: Body, shots: Sequence[Shot]) -> Posed:
    """Pose every figure by skinning, turn it to its heading and place it on the ground; add the occluders."""
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
    """Transforms (B, J, 3, 4) followed by a rotation about the vertical axis."""
    turns = torch.tensor([[[math.cos(h), -math.sin(h), 0], [math.sin(h), math.cos(h), 0], [0, 0, 1]] for h in headings],
                         device=bones.device)  # fmt: skip
    return turns[:, None] @ bones


def crops(shots: Sequence[Shot], height: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Compute the crop of each shot from the position of the skeleton, independent of the outline of body and clothes.

    Args:
        height: of the pictures in pixels.

    Returns:
        Upper left corners (B, 2) in pixels of the full frame, and scales (B,) in picture pixels per frame pixel.
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
    """Project the triangles into the crops.

    Args:
        corners: (B, 2) upper left corners of the crops in the full frame, pixels.
        scales: (B,) pixels of the result per frame pixel.
    """
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
