"""Closed boundaries around the middle of a Gaussian, and what lies within them.

A boundary is vertices ``[K, D]`` and oriented faces ``[F, D]``: counterclockwise segments in 2-D,
triangles that look outward in 3-D. The sphere of Mahalanobis radius r of a Gaussian with mean 0 and
variances v is ``sqrt(sum_i x_i^2 / v_i) = r``, and holds the probability ``P(D/2, r^2/2)``, the
chi-square distribution function, where P is the regularized incomplete gamma function.

A polygon or mesh with its vertices on a sphere is inscribed, and so holds less: with 200 vertices,
up to 6e-5 of probability in 2-D and 0.009 in 3-D. Three ways lead around this bias. Coverage at two
stages of a flow may be compared with each other, since the same boundary is carried along. It may
be compared with the probability that the boundary truly holds (``gaussian_content_within``). Or the
vertices may be moved outward, until area or volume are those of the ball (``equal_volume``): then
1e-9 and 2e-5 are left, and they fall as the square of the former bias.

With ``G(x) = x P(D/2, |x|^2/2) / (S |x|^D)``, S the area of the unit sphere, the divergence of G is
the standard normal density, so that what a boundary holds is the flow of G through its faces:
smooth on each, and no samples are needed. The same holds for the volume and ``G = x / D``.

Everything is NumPy in float64, except for random numbers, which are torch's as everywhere else.
"""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull, QhullError
from scipy.special import gammainc, roots_legendre

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path
from training.measure.containment import Floats, as_points, require_closed

QUADRATURE_ORDER = 8
FACES_AT_ONCE = 1 << 13


class Boundary(NamedTuple):
    """Vertices ``[K, D]`` in float64 and oriented faces ``[F, D]`` of indices into them.

    A flow carries a boundary by moving its vertices: ``Boundary(moved, boundary.faces)``.
    """

    vertices: Floats
    faces: NDArray[np.int64]

    def scaled(self, factors: ArrayLike) -> "Boundary":
        """With coordinates times a number or ``[D]`` positive numbers, such as ``r sqrt(v)``."""
        return Boundary(self.vertices * np.asarray(factors, dtype=np.float64), self.faces)


def unit_sphere(
    dim: int,
    count: int,
    generator: torch.Generator | None = None,
    equal_volume: bool = False,
) -> Boundary:
    """The unit sphere as a polygon of ``count`` sides or a mesh of ``2 count - 4`` triangles.

    Args:
        dim: 2 or 3.
        count: Number of vertices, more than ``dim``.
        generator: Draws the vertices from the uniform distribution on the sphere. Without it they
            are spread evenly: at equal angles in 2-D, on a Fibonacci spiral in 3-D.
        equal_volume: Whether the vertices are moved outward from the sphere, all by one factor,
            such that the polygon or mesh has the area or volume of the unit ball.

    Raises:
        UsageError: Another dimension, or too few vertices.
    """
    if dim not in (2, 3):
        raise UsageError(f"boundaries are polygons in 2-D or meshes in 3-D, not in {dim}-D")
    if count <= dim:
        raise UsageError(f"a boundary in {dim}-D has at least {dim + 1} points, not {count}")
    if dim == 2:
        vertices = _on_circle(count, generator)
        index = np.arange(count)
        sphere = Boundary(vertices, np.stack([index, np.roll(index, -1)], axis=1))
    else:
        sphere = convex_hull(_on_sphere(count, generator))
    if equal_volume:
        ball = math.pi ** (dim / 2) / math.gamma(dim / 2 + 1)
        sphere = sphere.scaled((ball / enclosed_volume(*sphere)) ** (1 / dim))
    return sphere


def convex_hull(points: ArrayLike) -> Boundary:
    """The convex hull of points ``[N, D]``, D = 2 or 3, which are all kept as its vertices.

    Raises:
        DataError: The points are too few, not finite, or in one line or plane.
    """
    vertices = as_points(points, "points of a hull")
    try:
        hull = ConvexHull(vertices)
    except (QhullError, ValueError) as error:
        raise flat_points(vertices) from error
    faces = hull.simplices.astype(np.int64)
    inward = np.einsum("fd,fd->f", _normals(vertices[faces]), hull.equations[:, :-1]) < 0
    faces[inward, :2] = faces[inward, 1::-1]
    return Boundary(vertices, faces)


def flat_points(points: Floats) -> DataError:
    """What to raise if points span no polygon or mesh."""
    flat = "one line" if points.shape[1] == 2 else "one plane"
    return DataError(
        f"{len(points)} points in {points.shape[1]}-D enclose nothing: it takes at least "
        f"{points.shape[1] + 1}, not all in {flat}"
    )


def gaussian_content(radius: ArrayLike, dim: int) -> Floats:
    """Probability within Mahalanobis radii of a Gaussian in ``dim`` dimensions, shaped as they."""
    half_square = np.square(np.asarray(radius, dtype=np.float64)) / 2
    return np.asarray(gammainc(dim / 2, half_square))


def gaussian_content_within(vertices: ArrayLike, faces: ArrayLike) -> float:
    """Probability of the standard normal distribution inside a boundary ``[K, D]``, ``[F, D]``.

    For a Gaussian with variances v, divide the vertices by ``sqrt(v)``. Regions count as often as
    the boundary winds around them. The error is below 1e-9 for faces of edges up to 1.

    Raises:
        DataError: As in ``winding_number``.
    """
    corners = _corners(vertices, faces)
    dim = corners.shape[2]
    sphere_area = 2 * math.pi ** (dim / 2) / math.gamma(dim / 2)
    weights, barycentric = _quadrature(dim)
    content = 0.0
    for part in np.array_split(corners, max(len(corners) // FACES_AT_ONCE, 1)):
        half_square = np.square(np.einsum("qc,fcd->fqd", barycentric, part)).sum(axis=-1) / 2
        # P(a, x) / x^a is smooth at 0, but would be 0 / 0 there.
        half_square = np.maximum(half_square, 1e-100)
        field = gammainc(dim / 2, half_square) / (2 * half_square) ** (dim / 2) / sphere_area
        content += float(np.linalg.det(part) @ (field @ weights))
    return content / math.factorial(dim - 1)


def enclosed_volume(vertices: ArrayLike, faces: ArrayLike) -> float:
    """Area or volume inside a boundary ``[K, D]``, ``[F, D]``; negative if it looks inward.

    Raises:
        DataError: As in ``winding_number``.
    """
    corners = _corners(vertices, faces)
    # Around a point of its own: far from the origin, the parts would cancel.
    corners = corners - corners[:1, :1]
    return float(np.linalg.det(corners).sum()) / math.factorial(corners.shape[2])


def write_mesh(path: Path, vertices: ArrayLike, faces: ArrayLike) -> None:
    """Writes a closed mesh ``[K, 3]``, ``[F, 3]`` as binary .ply, whole or not at all.

    Any mesh viewer opens it. Its coordinates are in float32, as mesh files are.

    Raises:
        DataError: As in ``winding_number``, or it is a polygon.
        UsageError: The name does not end in .ply.
    """
    vertices, faces = as_points(vertices, "mesh vertices"), np.asarray(faces)
    if vertices.shape[1] != 3:
        raise DataError("a mesh file holds triangles in 3-D, not a polygon in 2-D")
    if path.suffix != ".ply":
        raise UsageError(f"a mesh is written as .ply, not as {path.name}")
    require_closed(faces, vertices)
    import trimesh  # here, since those who draw coverage may have no trimesh

    # Without processing, trimesh leaves vertices and faces as they are and in order.
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        mesh.export(file, file_type="ply")


def _on_circle(count: int, generator: torch.Generator | None) -> Floats:
    """Points ``[count, 2]`` of the unit circle, counterclockwise."""
    if generator is None:
        return _directions(np.arange(count) * (2 * math.pi / count))
    part = torch.rand(count, generator=generator, dtype=torch.float64)
    return _directions(2 * math.pi * np.sort(part.numpy()))


def _on_sphere(count: int, generator: torch.Generator | None) -> Floats:
    """Points ``[count, 3]`` of the unit sphere."""
    if generator is not None:
        normal = torch.randn(count, 3, generator=generator, dtype=torch.float64)
        return as_points((normal / normal.norm(dim=1, keepdim=True)).numpy(), "points")
    # Slices of equal area, each turned against the last by the golden angle.
    index = np.arange(count)
    height = 1 - (2 * index + 1) / count
    around = _directions(index * (math.pi * (3 - math.sqrt(5))))
    return np.column_stack([np.sqrt(1 - height**2)[:, None] * around, height])


def _directions(angles: ArrayLike) -> Floats:
    angle = np.asarray(angles, dtype=np.float64)
    return np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _normals(corners: Floats) -> Floats:
    """Vectors ``[F, D]`` to the outer side of faces with corners ``[F, D, D]``, of any length."""
    edges = corners[:, 1:] - corners[:, :1]
    if corners.shape[1] == 2:
        return edges[:, 0, ::-1] * np.array([1.0, -1.0])
    return np.cross(edges[:, 0], edges[:, 1])


def _corners(vertices: ArrayLike, faces: ArrayLike) -> Floats:
    """The corners ``[F, D, D]`` of the faces of a closed boundary; DataError if it is none."""
    vertices, faces = as_points(vertices, "boundary vertices"), np.asarray(faces)
    require_closed(faces, vertices)
    return vertices[faces]


def _quadrature(dim: int) -> tuple[Floats, Floats]:
    """Weights ``[Q]`` and barycentric nodes ``[Q, dim]`` of means over segments or triangles.

    Gauss and Legendre's rule; on triangles, its product on a square with one side shrunk to a
    corner.
    """
    nodes, weights = roots_legendre(QUADRATURE_ORDER)
    s, w = (nodes + 1) / 2, weights / 2
    if dim == 2:
        return w, np.stack([1 - s, s], axis=1)
    u, v = np.repeat(s, len(s)), np.tile(s, len(s))
    return 2 * u * np.repeat(w, len(w)) * np.tile(w, len(w)), np.stack(
        [1 - u, u * (1 - v), u * v], axis=1
    )
