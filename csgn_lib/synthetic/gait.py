"""Walking poses as joint rotations: swinging hips and knees, counter-swinging arms, loosely curled fingers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from csgn_lib.synthetic.body import Body, chain, rotation
from csgn_lib.synthetic.people import Gait

CURL = (16.0, 24.0, 16.0)  # degrees at each phalanx of a loosely curled finger
HANG = ("hang.L", "hang.R")  # extra bones that follow a hand but stay upright, for bags with a handle


@dataclass(frozen=True)
class Pose:
    """A pose of a walking person. Angles in degrees."""

    phase: float  # of the gait cycle in [0, 1): 0 is the left heel strike
    head_turn: float = 0.0  # to the person's left
    curl: float = 1.0  # factor on the curl of the fingers
    carrying: str = ""  # "L" or "R": this arm carries a bag and hardly swings
    short_steps: float = 1.0  # factor on the stride, below 1 in long skirts


def skinning(body: Body, joints: Tensor, gaits: Sequence[Gait], poses: Sequence[Pose]) -> Tensor:
    """Compute the skinning transforms of B people.

    Args:
        joints: (B, J, 3) rest positions in metres.

    Returns:
        (B, J + 2, 3, 4) transforms of the rig, then of the bones HANG.
    """
    steps = torch.zeros(3, len(poses), len(body.bones), 3)  # three successive rotations about one axis each
    number = {bone: i for i, bone in enumerate(body.bones)}
    for row, (gait, pose) in enumerate(zip(gaits, poses, strict=True)):
        for (bone, about), degrees in _angles(gait, pose).items():
            axis = "xyz".index(about)
            steps[(1, 0, 2)[axis], row, number[bone], axis] = math.radians(degrees)
    turns = rotation(steps.to(joints.device))
    rotations = turns[2] @ turns[1] @ turns[0]
    fingers, vectors = _finger_vectors(body, joints, torch.tensor([pose.curl for pose in poses], device=joints.device))
    rotations[:, fingers] = rotation(vectors)
    bones = chain(body.parents, joints, rotations)
    return torch.cat([bones, *(_hanging(body, joints, bones, side) for side in "LR")], 1)


def _hanging(body: Body, joints: Tensor, bones: Tensor, side: str) -> Tensor:
    """Transform (B, 1, 3, 4) that translates points from the rest hand to the posed hand."""
    hand = grip(body, joints, side)
    wrist = bones[:, body.bone(f"wrist.{side}")]
    moved = (wrist[:, :, :3] @ hand[..., None])[..., 0] + wrist[:, :, 3]
    upright = torch.eye(3, device=hand.device).expand(len(hand), 3, 3)
    return torch.cat([upright, (moved - hand)[..., None]], 2)[:, None]


def grip(body: Body, joints: Tensor, side: str) -> Tensor:
    """Position (..., 3) of a handle in the hand at rest.

    Args:
        joints: (..., J, 3) rest positions.
        side: L or R.
    """
    return (joints[..., body.bone(f"finger2-2.{side}"), :] + joints[..., body.bone(f"finger4-2.{side}"), :]) / 2


def _finger_vectors(body: Body, joints: Tensor, curl: Tensor) -> tuple[Tensor, Tensor]:
    """Finger bones (24,) and their rotation vectors (B, 24, 3) about the axis across the hand."""
    rows, vectors = [], []
    for side, sign in (("L", 1), ("R", -1)):
        across = joints[:, body.bone(f"finger5-1.{side}")] - joints[:, body.bone(f"finger2-1.{side}")]
        across = across / across.norm(dim=1, keepdim=True) * (sign * curl[:, None])
        for finger in range(2, 6):
            for phalanx in range(3):
                rows.append(body.bone(f"finger{finger}-{phalanx + 1}.{side}"))
                vectors.append(across * math.radians(CURL[phalanx]))
    return torch.tensor(rows, device=joints.device), torch.stack(vectors, 1)


def _bump(phase: float, centre: float, width: float) -> float:
    distance = (phase - centre + 0.5) % 1 - 0.5
    return math.exp(-((distance / width) ** 2))


def _angles(gait: Gait, pose: Pose) -> dict[tuple[str, str], float]:
    """Angles in degrees about the world axes at rest (forward is -y), as {(bone, axis): angle}."""
    stride = gait.stride * pose.short_steps
    cycle = math.cos(2 * math.pi * pose.phase)
    roll = 2.0 * stride * math.sin(2 * math.pi * pose.phase) * gait.sway
    angles = {("root", "z"): -4 * stride * cycle, ("spine03", "z"): 8 * stride * cycle, ("root", "y"): roll,
              ("spine04", "y"): -1.2 * roll, ("spine03", "x"): -gait.lean, ("spine01", "x"): -gait.hunch,
              ("neck01", "x"): gait.hunch * 0.5 + gait.head_pitch, ("head", "z"): pose.head_turn}  # fmt: skip
    for side, sign, offset in (("L", 1, 0.0), ("R", -1, 0.5)):
        phase = (pose.phase + offset) % 1
        angles |= _leg(side, sign, phase, stride, gait) | _arm(side, sign, phase, gait, pose.carrying == side)
    return angles


def _leg(side: str, sign: int, phase: float, stride: float, gait: Gait) -> dict[tuple[str, str], float]:
    hip = stride * 20 * math.cos(2 * math.pi * phase) + 3 * stride
    knee = 4 + stride * (12 * _bump(phase, 0.14, 0.07) + 54 * _bump(phase, 0.72, 0.1))
    ankle = stride * (7 * _bump(phase, 0.45, 0.13) - 17 * _bump(phase, 0.62, 0.07))
    return {(f"upperleg01.{side}", "x"): -hip, (f"lowerleg01.{side}", "x"): knee,
            (f"foot.{side}", "x"): -ankle + (hip - knee) * 0.15,
            (f"toes.{side}", "x"): -stride * 22 * _bump(phase, 0.58, 0.07),
            (f"upperleg01.{side}", "y"): sign * gait.stance,
            (f"upperleg01.{side}", "z"): sign * gait.toe_out}  # fmt: skip


def _arm(side: str, sign: int, phase: float, gait: Gait, still: bool) -> dict[tuple[str, str], float]:
    forward = math.cos(2 * math.pi * (phase + 0.5)) * (0.15 if still else 1.0)
    elbow = 8.0 if still else gait.elbow
    return {(f"upperarm01.{side}", "y"): sign * gait.arm_down,
            (f"upperarm01.{side}", "x"): -(gait.swing * 22 * forward + 2),
            (f"lowerarm01.{side}", "x"): -(elbow * (0.6 + 0.4 * forward) - 44)}  # fmt: skip
