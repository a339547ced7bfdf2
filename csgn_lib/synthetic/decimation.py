"""Mesh decimation that keeps a subset of the vertices, so that linear functions of the vertices remain valid.

Half-edge collapse with quadric error metrics (Garland and Heckbert, SIGGRAPH 1997), summed over several shapes of one
topology: a vertex is merged into a neighbour and never moved to a new position. Used only to build the body file.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

FLIP = 0.3  # smallest cosine between a triangle's normals before and after a collapse


class Collapse:
    """State of a decimation: faces, and the incident faces and quadrics of each vertex.

    Args:
        shapes: (S, V, 3) positions in metres of S shapes; flips and edge lengths are checked on the first.
        faces: (F, 3) triangles.
        longest: (V,) longest edge in metres that a collapse may create at a vertex.
    """

    def __init__(self, shapes: NDArray[np.float64], faces: NDArray[np.int64], longest: NDArray[np.float64]) -> None:
        self.homogeneous = np.concatenate([shapes, np.ones((*shapes.shape[:2], 1))], axis=2)  # (S, V, 4)
        self.rest = shapes[0]
        self.longest = longest
        self.faces = [tuple(map(int, face)) for face in faces]
        self.incident: list[set[int]] = [set() for _ in range(shapes.shape[1])]
        for number, face in enumerate(self.faces):
            for vertex in face:
                self.incident[vertex].add(number)
        self.quadrics = _quadrics(shapes, faces)
        self.boundary = {v for v, near in enumerate(self.incident) if near and self._open(v)}

    def _open(self, vertex: int) -> bool:
        corners = [c for f in self.incident[vertex] for c in self.faces[f] if c != vertex]
        return any(corners.count(c) != 2 for c in set(corners))

    def neighbours(self, vertex: int) -> set[int]:
        """Vertices that share a triangle with a vertex."""
        return {corner for face in self.incident[vertex] for corner in self.faces[face]} - {vertex}

    def cost(self, source: int, target: int) -> float:
        """Cost of merging ``source`` into ``target``.

        It is the area-weighted squared distance of ``target`` from the planes around ``source``, summed over the
        shapes, plus a small term for the length of the edge.
        """
        point = self.homogeneous[:, target]
        error = np.einsum("si,sij,sj->", point, self.quadrics[source], point)
        length = self.rest[source] - self.rest[target]
        return float(error) + 1e-9 + 1e-6 * float(length @ length)

    def allowed(self, source: int, target: int) -> bool:
        """Whether a collapse keeps the mesh a manifold, flips no triangle and creates no edge that is too long."""
        around = self.neighbours(source)
        if source in self.boundary or len(around & self.neighbours(target)) != 2:
            return False
        reach = np.linalg.norm(self.rest[list(around - {target})] - self.rest[target], axis=1)
        if reach.max() > min(self.longest[source], self.longest[target]):
            return False
        return all(self._keeps_side(face, source, target) for face in self.incident[source] - self.incident[target])

    def _keeps_side(self, face: int, source: int, target: int) -> bool:
        before = self.rest[list(self.faces[face])]
        after = self.rest[[target if c == source else c for c in self.faces[face]]]
        first, second = (np.cross(p[1] - p[0], p[2] - p[0]) for p in (before, after))
        size = np.linalg.norm(first) * np.linalg.norm(second)
        return bool(size > 0 and first @ second > FLIP * size)

    def apply(self, source: int, target: int) -> None:
        """Merge ``source`` into ``target``."""
        for face in list(self.incident[source]):
            corners = self.faces[face]
            for corner in corners:
                self.incident[corner].discard(face)
            if target not in corners:
                self.faces[face] = tuple(target if c == source else c for c in corners)
                for corner in self.faces[face]:
                    self.incident[corner].add(face)
        self.quadrics[target] += self.quadrics[source]

    def candidates(self, vertex: int) -> Iterator[tuple[float, int, int]]:
        """Yield (cost, source, target) for both directions of each edge at a vertex."""
        for other in self.neighbours(vertex):
            yield self.cost(vertex, other), vertex, other
            yield self.cost(other, vertex), other, vertex

    def remaining(self) -> NDArray[np.int64]:
        """Remaining triangles (F', 3)."""
        kept = sorted({face for near in self.incident for face in near})
        return np.array([self.faces[face] for face in kept], dtype=np.int64)


def decimate(
    shapes: NDArray[np.float64], faces: NDArray[np.int64], vertices: int, longest: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Decimate a mesh.

    Args:
        shapes: (S, V, 3) positions in metres of S shapes; flips and edge lengths are checked on the first.
        faces: (F, 3) triangles.
        vertices: number of vertices to keep; more are kept if no further collapse is allowed.
        longest: (V,) longest edge in metres that a collapse may create at a vertex.

    Returns:
        (F', 3) triangles over the kept vertices.
    """
    state = Collapse(shapes, faces, longest)
    heap = [entry for v in np.unique(faces) for entry in state.candidates(int(v))]
    heapq.heapify(heap)
    left = len(np.unique(faces))
    while heap and left > vertices:
        cost, source, target = heapq.heappop(heap)
        if not state.incident[source] or target not in state.neighbours(source):
            continue
        if cost < state.cost(source, target) * (1 - 1e-9) or not state.allowed(source, target):
            continue
        state.apply(source, target)
        left -= 1
        for entry in state.candidates(target):
            heapq.heappush(heap, entry)
    return state.remaining()


def _quadrics(shapes: NDArray[np.float64], faces: NDArray[np.int64]) -> NDArray[np.float64]:
    """Quadrics (V, S, 4, 4): area-weighted outer products of planes, summed over the triangles at each vertex."""
    quadrics = np.zeros((shapes.shape[1], len(shapes), 4, 4))
    for number, points in enumerate(shapes):
        a, b, c = (points[faces[:, k]] for k in range(3))
        normal = np.cross(b - a, c - a)
        size = np.linalg.norm(normal, axis=1, keepdims=True)
        normal = normal / np.maximum(size, 1e-12)
        plane = np.concatenate([normal, -(normal * a).sum(1, keepdims=True)], axis=1)
        outer = plane[:, :, None] * plane[:, None, :] * (size / 2)[..., None]
        for k in range(3):
            np.add.at(quadrics[:, number], faces[:, k], outer)
    return quadrics
