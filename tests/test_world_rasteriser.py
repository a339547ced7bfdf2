"""The rasteriser compared with a loop over pixels and triangles."""

import math

import pytest
import torch

from csgn_lib.synthetic.rasteriser import Triangles, depth_map, rasterise


def _slow(triangles: Triangles, shape: tuple[int, int, int]) -> dict[tuple[int, int, int], tuple[int, float]]:
    """Slow rasteriser; returns {(picture, row, column): (triangle, depth)}."""
    nearest: dict[tuple[int, int, int], tuple[int, float]] = {}
    for number, face in enumerate(triangles.faces.tolist()):
        (ax, ay), (bx, by), (cx, cy) = (triangles.points[v].double().tolist() for v in face)
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if area == 0 or (area > 0 and not triangles.two_sided[number]):
            continue
        for row in range(shape[1]):
            for column in range(shape[2]):
                x, y = column + 0.5, row + 0.5
                first = ((bx - x) * (cy - y) - (by - y) * (cx - x)) / area
                second = ((cx - x) * (ay - y) - (cy - y) * (ax - x)) / area
                weights = (first, second, 1 - first - second)
                if min(weights) < 0:
                    continue
                inverse = [w / float(triangles.depth[v]) for w, v in zip(weights, face, strict=True)]
                depth = 1 / sum(inverse)
                cut = sum(i * depth * float(triangles.cut[v]) for i, v in zip(inverse, face, strict=True))
                pixel = (int(triangles.picture[number]), row, column)
                if cut < 0 and depth < nearest.get(pixel, (0, math.inf))[1]:
                    nearest[pixel] = (number, depth)
    return nearest


def _random(seed: int, count: int = 40, pictures: int = 2, size: float = 24.0) -> Triangles:
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(3 * count, 2, generator=generator) * size - 2
    depth = 1 + 4 * torch.rand(3 * count, generator=generator)
    faces = torch.arange(3 * count).view(-1, 3)
    return Triangles(
        points,
        depth,
        faces,
        torch.arange(count) % pictures,
        torch.rand(3 * count, generator=generator) - 0.7,
        torch.rand(count, generator=generator) < 0.5,
    )


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_fragments_agree_with_loop_over_pixels(seed):
    triangles, shape = _random(seed), (2, 20, 17)
    fragments = rasterise(triangles, shape)
    found = {
        (p // 340, p % 340 // 17, p % 17): (t, d)
        for p, t, d in zip(fragments.pixel.tolist(), fragments.triangle.tolist(), fragments.depth.tolist(), strict=True)
    }
    expected = _slow(triangles, shape)
    assert len(expected) > 100
    assert {k: t for k, (t, _) in found.items()} == {k: t for k, (t, _) in expected.items()}
    assert all(found[k][1] == pytest.approx(d, rel=1e-4) for k, (_, d) in expected.items())


def test_interpolation_is_perspective_correct():
    points, depth = torch.tensor([[0.0, 0.0], [0.0, 8.0], [8.0, 0.0]]), torch.tensor([1.0, 2.0, 4.0])
    never, both = -torch.ones(3), torch.tensor([True])
    triangles = Triangles(points, depth, torch.tensor([[0, 1, 2]]), torch.zeros(1, dtype=torch.long), never, both)
    fragments = rasterise(triangles, (1, 8, 8))
    # depth is linear in world coordinates, so interpolation must reproduce it
    assert torch.allclose(fragments.interpolate(depth, triangles.faces), fragments.depth, rtol=1e-5)
    assert torch.allclose(fragments.weights.sum(1), torch.ones(len(fragments.pixel)), atol=1e-5)


def test_depth_map_agrees_with_fragments():
    triangles, shape = _random(3), (2, 20, 17)
    fragments = rasterise(triangles, shape)
    depths = depth_map(triangles, shape, 99.0).flatten()
    assert torch.equal(depths[fragments.pixel], fragments.depth)
    assert int((depths < 99).sum()) == len(fragments.pixel)


def test_adjacent_triangles_leave_no_cracks():
    side = 30
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), 2).view(-1, 2).float()
    points = grid * 1.3 + torch.rand(side * side, 2, generator=torch.Generator().manual_seed(0)) * 0.6
    corner = (torch.arange(side - 1)[:, None] * side + torch.arange(side - 1)).flatten()
    faces = torch.cat([torch.stack([corner, corner + side, corner + 1], 1),
                       torch.stack([corner + 1, corner + side, corner + side + 1], 1)])  # fmt: skip
    zero = torch.zeros(len(faces), dtype=torch.long)
    triangles = Triangles(points, torch.ones(len(points)), faces, zero, -torch.ones(len(points)), zero == 1)
    covered = torch.zeros(64 * 64)
    covered[rasterise(triangles, (1, 64, 64)).pixel] = 1
    assert covered.view(64, 64)[2:36, 2:36].all()


def test_invisible_triangles_give_no_fragments():
    triangles = _random(4, size=-40.0)
    assert len(rasterise(triangles, (2, 8, 8)).pixel) == 0
