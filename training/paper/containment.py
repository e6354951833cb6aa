"""Closed boundaries: tests of whether points lie inside, and their probability and volume.

Test of whether points lie inside a closed boundary, convex or not, in two or three dimensions.

A boundary is a set of vertices and of oriented faces between them: segments of polygons in 2-D,
triangles of meshes in 3-D. Its winding number about a point p is the signed number of faces that a
ray from p crosses, the same for every ray: 1 inside and 0 outside a simple boundary whose faces
face outward, -1 inside one that is turned inside out (Hormann and Agathos 2001 for polygons).

The ray runs along the last axis. In 2-D, a segment is crossed if it meets the vertical line through
p above p. In 3-D, the plane ``x = p_x`` cuts the mesh into closed polygons: each triangle that it
meets becomes a segment between points on two of its edges, and the 2-D rule applies.

Rays through vertices and along edges need no special case. A face counts only for
``low <= p_x < high``, so that exactly one of two faces that meet above p counts. The point where an
edge is cut depends on the edge and p alone, so that both triangles at it agree to the last digit.
No crossing is therefore missed or counted twice, cells that share faces divide space without gap or
overlap, and only points within rounding of the boundary can be misclassified.

Everything is NumPy in float64. Only faces whose bounding box could lie above a point are tested: n
points and m faces of similar size take about ``(n + m) log n`` steps, and bounded memory beyond
them.

Closed boundaries around the center of a Gaussian, and the probability and volume inside them.

A boundary consists of vertices ``[K, D]`` and oriented faces ``[F, D]``: counterclockwise segments
in 2-D, triangles that face outward in 3-D. The sphere of Mahalanobis radius r of a Gaussian with
mean 0 and variances v is ``sqrt(sum_i x_i^2 / v_i) = r``, and contains the probability ``P(D/2,
r^2/2)``, the chi-square distribution function, where P is the regularized incomplete gamma
function.

A polygon or mesh with its vertices on a sphere is inscribed, and therefore contains less: with 200
vertices, up to 6e-5 of probability in 2-D and 0.009 in 3-D. There are two ways to avoid this bias.
Coverage at two stages of a flow can be compared, since the same boundary is transported. Or it can
be compared with the probability that the boundary really contains (``gaussian_content_within``).

With ``G(x) = x P(D/2, |x|^2/2) / (S |x|^D)``, S the area of the unit sphere, the divergence of G is
the standard normal density. The probability inside a boundary is therefore the flux of G through
its faces, which is smooth on each face and needs no samples. The same holds for the volume and
``G = x / D``.

*Alpha shapes* describe the region that a set of points fills, at a given length scale. The alpha
complex of points in 2-D or 3-D contains the simplices (triangles, tetrahedra) of their Delaunay
triangulation whose circumscribed sphere has a radius below alpha (Edelsbrunner and Mücke 1994). Its
boundary consists of the faces that belong to only one such simplex. Cavities and gaps wider than
alpha stay open; with an infinite alpha it is the convex hull.

For points on a surface, alpha must lie between the distance of neighbours and the size of the gaps
that should stay open. Points on one sphere have that sphere around every simplex, and as their
triangulation is not unique, Qhull takes long over many: a minute for 20,000, compared with half a
second for points of an ellipsoid or of a sphere that a flow has transported.

Everything is NumPy in float64.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import ConvexHull, Delaunay, QhullError
from scipy.special import gammainc, roots_legendre

from dnnlib.errors import DataError, UsageError
from dnnlib.files import atomic_path

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Truths = NDArray[np.bool_]

PAIRS_AT_ONCE = 1 << 17


def inside(points: ArrayLike, vertices: ArrayLike, faces: ArrayLike) -> Truths:
    """Return a mask ``[N]`` of the points inside a boundary, where the winding number is not 0.

    A boundary may therefore face inward or outward, and points in a region where a transported
    boundary overlaps itself are inside.

    Args:
        points: Points ``[N, D]``, D = 2 or 3.
        vertices: Vertices of the boundary ``[K, D]``.
        faces: Faces of the boundary ``[F, D]``, which must be closed.

    Raises:
        DataError: Points or vertices are invalid, or the boundary is not closed.
    """
    return winding_number(points, vertices, faces) != 0


def winding_number(points: ArrayLike, vertices: ArrayLike, faces: ArrayLike) -> Integers:
    """Return the winding number ``[N]`` of a boundary around each point.

    Args:
        points: Points ``[N, D]``, D = 2 or 3. A point on the boundary counts as slightly below it
            along the last axis; if the boundary is parallel to this axis, along the first axis.
        vertices: Vertices ``[K, D]``.
        faces: Faces ``[F, D]``, integers: the vertices of each segment or triangle in order. All
            faces together must be closed; there may be none.

    Raises:
        DataError: Shapes do not fit, a value is not finite, a face refers to a missing vertex, or
            the boundary is not closed.
    """
    points, vertices = as_points(points, "test points"), as_points(vertices, "boundary vertices")
    faces = np.asarray(faces)
    dim = vertices.shape[1]
    if points.shape[1] != dim:
        raise DataError(
            f"test points in {points.shape[1]}-D cannot be inside a {dim}-D boundary: give "
            "points and boundary of equal dimension"
        )
    require_closed(faces, vertices)

    winding = np.zeros(len(points), dtype=np.int64)
    ordered, sign = _ordered_along_first_axis(vertices[faces])
    low, high = ordered.min(axis=1), ordered.max(axis=1)
    # Find faces above or below each point, whatever the height: the last axis does not matter.
    for face, point in _points_in_boxes(points[:, :-1], low[:, :-1], high[:, :-1]):
        if dim == 2:
            start, end = ordered[face, 0], ordered[face, 1]
        else:
            start, end = _cut(ordered[face], points[point, 0])
        crossings = _crossings(points[point, dim - 2 :], start, end)
        np.add.at(winding, point, sign[face] * crossings)
    return winding


def as_points(values: ArrayLike, name: str) -> Floats:
    """Convert values to points ``[N, D]``, D = 2 or 3, float64.

    Args:
        values: Values to convert.
        name: Name of the points in error messages.

    Raises:
        DataError: The values have another shape, or are not finite.
    """
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 2 or points.shape[1] not in (2, 3):
        raise DataError(f"{name} must be rows in 2-D or 3-D, got an array of shape {points.shape}")
    if not np.isfinite(points).all():
        bad = int((~np.isfinite(points)).any(axis=1).sum())
        raise DataError(f"{bad} of {len(points)} {name} are not finite: leave them out")
    return points


def require_closed(faces: NDArray[np.generic], vertices: Floats) -> None:
    """Check that oriented faces ``[F, D]`` form a closed boundary with vertices ``[K, D]``.

    Raises:
        DataError: The faces are invalid, or do not form a closed boundary.
    """
    count, dim = vertices.shape
    if faces.shape[1:] != (dim,) or not np.issubdtype(faces.dtype, np.integer):
        raise DataError(
            f"the faces of a {dim}-D boundary must be rows of {dim} integers, got "
            f"{faces.dtype} of shape {faces.shape}"
        )
    faces = faces.astype(np.int64)
    if faces.size and not 0 <= faces.min() <= faces.max() < count:
        raise DataError(f"a face has the index of a missing vertex: the boundary has only {count}")
    # The boundary of a face consists of its edges; over all faces, each must occur equally often in
    # both directions.
    ends = faces if dim == 2 else np.stack([faces, np.roll(faces, -1, axis=1)], axis=-1)
    tail, head = np.moveaxis(ends.reshape(-1, 2), 1, 0)
    along, against = (tail, head) if dim == 2 else (tail * count + head, head * count + tail)
    if not np.array_equal(np.sort(along), np.sort(against)):
        raise DataError(
            "the boundary is not closed, or its faces are oriented inconsistently: give each edge "
            "(in 2-D, each vertex) to two faces in opposite directions"
        )


def _ordered_along_first_axis(corners: Floats) -> tuple[Floats, Integers]:
    """Sort the corners ``[F, D, D]`` of each face by their first coordinate.

    Returns:
        The sorted corners, and the sign of the permutation ``[F]``.
    """
    order = np.argsort(corners[:, :, 0], axis=1, kind="stable")
    first, last = order[:, 0], order[:, -1]
    sign = np.sign(last - first)
    if corners.shape[1] == 3:
        middle = order[:, 1]
        sign *= np.sign((middle - first) * (last - middle))
    return np.take_along_axis(corners, order[:, :, None], axis=1), sign


def _points_in_boxes(
    points: Floats, low: Floats, high: Floats
) -> Iterator[tuple[Integers, Integers]]:
    """Yield index pairs of half-open boxes ``low <= point < high`` and points.

    The corners of the boxes are ``[F, d]``, the points ``[N, d]``, d = 1 or 2.

    All points in a box are included, and some that are outside it along the last axis.
    """
    # Divide space into strips across the last axis, with as many points per strip as there are
    # strips. Within a strip, points are sorted along the first axis, so that those of a box are
    # consecutive.
    size = max(math.isqrt(len(points)), 1)
    across, box_start, box_stop = _ranks(points[:, -1], low[:, -1], high[:, -1])
    first_strip = box_start // size
    end_strip = np.where(box_start < box_stop, (box_stop - 1) // size + 1, first_strip)

    along, box_start, box_stop = _ranks(points[:, 0], low[:, 0], high[:, 0])
    key = across // size * len(points) + along
    order = np.argsort(key)
    key = key[order]
    for box, strip in _runs(first_strip, end_strip):
        start = np.searchsorted(key, strip * len(points) + box_start[box])
        stop = np.searchsorted(key, strip * len(points) + box_stop[box])
        for row, position in _runs(start, stop):
            yield box[row], order[position]


def _ranks(values: Floats, low: Floats, high: Floats) -> tuple[Integers, Integers, Integers]:
    """Return the rank of each value, and the ranges of ranks with ``low <= value < high``."""
    order = np.argsort(values)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    ascending = values[order]
    return rank, np.searchsorted(ascending, low), np.searchsorted(ascending, high)


def _runs(start: Integers, stop: Integers) -> Iterator[tuple[Integers, Integers]]:
    """Yield every row with every integer of its range ``start <= i < stop``.

    The pairs come in parts of bounded size.
    """
    row = np.flatnonzero(start < stop)
    length = stop[row] - start[row]
    end = np.cumsum(length)
    total = int(end[-1]) if len(end) else 0
    for first in range(0, total, PAIRS_AT_ONCE):
        flat = np.arange(first, min(first + PAIRS_AT_ONCE, total))
        run = np.searchsorted(end, flat, side="right")
        yield row[run], stop[row[run]] - end[run] + flat


def _cut(triangles: Floats, x: Floats) -> tuple[Floats, Floats]:
    """Return start and end ``[M, 2]`` of the segments along which planes cut triangles.

    The planes have a constant first coordinate x ``[M]``; the triangles are ``[M, 3, 3]``.

    Corners are sorted by their first coordinate, and x lies between the first and the last corner.
    """
    low, middle, high = np.moveaxis(triangles, 1, 0)
    upper = (x >= middle[:, 0])[:, None]
    short = _between(np.where(upper, middle, low), np.where(upper, high, middle), x)
    return _between(low, high, x), short


def _crossings(points: Floats, start: Floats, end: Floats) -> Integers:
    """Return how segments pass above points ``[M, 2]``: 1 leftward, -1 rightward, 0 elsewhere."""
    leftward = end[:, 0] < start[:, 0]
    low = np.where(leftward[:, None], end, start)
    high = np.where(leftward[:, None], start, end)
    x, y = points.T
    crossed = np.flatnonzero((low[:, 0] <= x) & (x < high[:, 0]))
    above = _between(low[crossed], high[crossed], x[crossed])[:, 0] > y[crossed]
    crossings = np.zeros(len(points), dtype=np.int64)
    crossings[crossed[above]] = np.where(leftward[crossed[above]], 1, -1)
    return crossings


def _between(low: Floats, high: Floats, x: Floats) -> Floats:
    """Interpolate the other coordinates ``[M, D-1]`` where edges have the first coordinate x.

    The ends of the edges are ``[M, D]``.
    """
    part = ((x - low[:, 0]) / (high[:, 0] - low[:, 0]))[:, None]
    low, high = low[:, 1:], high[:, 1:]
    # Rounding must not leave the edge, since the search was limited to boxes around faces.
    return np.clip(low + part * (high - low), np.minimum(low, high), np.maximum(low, high))


QUADRATURE_ORDER = 8
FACES_AT_ONCE = 1 << 13


class Boundary(NamedTuple):
    """A closed boundary: a polygon in 2-D or a triangle mesh in 3-D.

    A flow transports a boundary by moving its vertices: ``Boundary(moved, boundary.faces)``.

    Attributes:
        vertices: Vertices ``[K, D]``, float64.
        faces: Oriented faces ``[F, D]``, as indices of vertices.
    """

    vertices: Floats
    faces: NDArray[np.int64]


def unit_sphere(dim: int, count: int) -> Boundary:
    """Return the unit sphere, as a polygon of ``count`` sides or a mesh of ``2 count - 4`` faces.

    Vertices are spread evenly: at equal angles in 2-D, on a Fibonacci spiral in 3-D.

    Args:
        dim: Dimension, 2 or 3.
        count: Number of vertices.

    Raises:
        UsageError: The dimension is neither 2 nor 3, or ``count`` is at most ``dim``.
    """
    if dim not in (2, 3):
        raise UsageError(f"boundaries are in 2-D or 3-D, not in {dim}-D: give 2 or 3 dimensions")
    if count <= dim:
        raise UsageError(f"a boundary in {dim}-D needs at least {dim + 1} points, got {count}")
    index = np.arange(count)
    if dim == 2:
        vertices = _directions(index * (2 * math.pi / count))
        return Boundary(vertices, np.stack([index, np.roll(index, -1)], axis=1))
    # Slices of equal area, each rotated from the previous one by the golden angle.
    height = 1 - (2 * index + 1) / count
    around = _directions(index * (math.pi * (3 - math.sqrt(5))))
    return convex_hull(np.column_stack([np.sqrt(1 - height**2)[:, None] * around, height]))


def convex_hull(points: ArrayLike) -> Boundary:
    """Return the convex hull of points ``[N, D]``, D = 2 or 3, with all points as vertices.

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
    """Return the error to raise for points ``[N, D]`` that span no polygon or 3-D mesh."""
    flat = "one line" if points.shape[1] == 2 else "one plane"
    return DataError(
        f"{len(points)} points in {points.shape[1]}-D enclose no volume: at least "
        f"{points.shape[1] + 1} are needed, not all in {flat}"
    )


def gaussian_content(radius: ArrayLike, dim: int) -> Floats:
    """Return the probability of a Gaussian within each of some Mahalanobis radii.

    Args:
        radius: Mahalanobis radii ``[...]``.
        dim: Dimension of the Gaussian.
    """
    half_square = np.square(np.asarray(radius, dtype=np.float64)) / 2
    return np.asarray(gammainc(dim / 2, half_square))


def gaussian_content_within(vertices: ArrayLike, faces: ArrayLike) -> float:
    """Return the probability of the standard normal distribution inside a boundary.

    For a Gaussian with variances v, divide the vertices by ``sqrt(v)``. A region that the boundary
    winds around k times counts k times. The error is below 1e-9 for faces with edges up to 1.

    Args:
        vertices: Vertices of the boundary ``[K, D]``.
        faces: Faces of the boundary ``[F, D]``.

    Raises:
        DataError: The boundary is not closed, or has invalid vertices or faces.
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
    """Return the area or volume inside a boundary, negative if the faces face inward.

    Args:
        vertices: Vertices of the boundary ``[K, D]``.
        faces: Faces of the boundary ``[F, D]``.

    Raises:
        DataError: The boundary is not closed, or has invalid vertices or faces.
    """
    corners = _corners(vertices, faces)
    # Measured from one of its own points: far from the origin, the terms would cancel.
    corners = corners - corners[:1, :1]
    return float(np.linalg.det(corners).sum()) / math.factorial(corners.shape[2])


def write_mesh(path: Path, vertices: ArrayLike, faces: ArrayLike) -> None:
    """Write a closed triangle mesh to a binary .ply file, atomically.

    Any mesh viewer opens the file. Coordinates are in float32, as is usual in mesh files.

    Args:
        path: The file.
        vertices: Vertices of the mesh ``[K, 3]``.
        faces: Faces of the mesh ``[F, 3]``.

    Raises:
        DataError: The mesh is not closed, has invalid vertices or faces, or is a polygon.
        UsageError: The file name does not end in .ply.
    """
    vertices, faces = as_points(vertices, "mesh vertices"), np.asarray(faces)
    if vertices.shape[1] != 3:
        raise DataError("a mesh file contains triangles in 3-D: give vertices in 3-D, not in 2-D")
    if path.suffix != ".ply":
        raise UsageError(f"a mesh is written as .ply, not to {path.name}: change the file name")
    require_closed(faces, vertices)
    import trimesh  # here, since coverage without mesh files works without trimesh

    # Without processing, trimesh leaves vertices and faces as they are and in order.
    mesh = trimesh.Trimesh(vertices, faces, process=False)
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        mesh.export(file, file_type="ply")


def _directions(angles: NDArray[np.floating]) -> Floats:
    return np.stack([np.cos(angles), np.sin(angles)], axis=-1)


def _normals(corners: Floats) -> Floats:
    """Return outward normal vectors ``[F, D]``, of any length, of faces.

    The faces have the corners ``[F, D, D]``.
    """
    edges = corners[:, 1:] - corners[:, :1]
    if corners.shape[1] == 2:
        return edges[:, 0, ::-1] * np.array([1.0, -1.0])
    return np.cross(edges[:, 0], edges[:, 1])


def _corners(vertices: ArrayLike, faces: ArrayLike) -> Floats:
    """Return the corners ``[F, D, D]`` of the faces of a closed boundary.

    Raises:
        DataError: The boundary is not closed.
    """
    vertices, faces = as_points(vertices, "boundary vertices"), np.asarray(faces)
    require_closed(faces, vertices)
    return vertices[faces]


def _quadrature(dim: int) -> tuple[Floats, Floats]:
    """Return weights and nodes of means over segments or triangles.

    Weights are ``[Q]``, and nodes are in barycentric coordinates ``[Q, dim]``.

    Segments use the Gauss-Legendre rule; triangles use its product on a square with one side shrunk
    to a corner.
    """
    nodes, weights = roots_legendre(QUADRATURE_ORDER)
    s, w = (nodes + 1) / 2, weights / 2
    if dim == 2:
        return w, np.stack([1 - s, s], axis=1)
    u, v = np.repeat(s, len(s)), np.tile(s, len(s))
    return 2 * u * np.repeat(w, len(w)) * np.tile(w, len(w)), np.stack(
        [1 - u, u * (1 - v), u * v], axis=1
    )


# Faces of a simplex [v0 .. vD] of positive volume, seen from outside; the i-th lacks v_i.
FACES = {
    2: np.array([[1, 2], [2, 0], [0, 1]]),
    3: np.array([[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]]),
}
# A simplex is flat if the ratio of its volume to what its edges could span is below this. Its
# volume and circumscribed sphere are then rounding errors.
FLAT = 1e-12
FILLED = 1e-6
"""Fraction of a volume that may be missing: slivers can have a circumscribed sphere of any size."""
NAME = "points of an alpha shape"


def alpha_shape(points: ArrayLike, alpha: float) -> Boundary:
    """Return the alpha shape of points: the boundary of their alpha complex.

    All points are vertices of the result, whether or not faces use them. If alpha is below the
    circumradius of every simplex, there are no faces, and nothing is inside. Equal faces in
    opposite directions can remain where flat simplices lie side by side; these faces cancel.

    Args:
        points: Points ``[N, D]`` in any order, D = 2 or 3.
        alpha: Radius alpha in units of the points; infinite for the convex hull.

    Raises:
        DataError: The points are too few, not finite, or in one line or plane.
        UsageError: alpha is not positive.
    """
    points = as_points(points, NAME)
    if not alpha > 0:
        raise UsageError(f"alpha is a radius and must be positive, got {alpha}")
    if np.isinf(alpha):
        # The convex hull is the same region as all simplices together, and needs no triangulation.
        return convex_hull(points)
    delaunay = _triangulated(points)
    simplices, neighbours = delaunay.simplices.astype(np.int64), delaunay.neighbors
    corners = points[simplices]
    radii = circumradii(corners)
    kept = radii < alpha
    # A neighbour of -1 is the outside, which is never kept. A flat simplex between kept ones has no
    # volume, but would be a cut through them: for example, four points of two concentric spheres in
    # one plane with the center.
    kept |= np.isinf(radii) & np.append(kept, False)[neighbours].all(axis=1)
    on_boundary = kept[:, None] & ~np.append(kept, False)[neighbours]
    faces = simplices[:, FACES[points.shape[1]]]
    inside_out = np.linalg.det(corners[:, 1:] - corners[:, :1]) < 0
    faces[inside_out, :, :2] = faces[inside_out, :, 1::-1]
    return Boundary(points, faces[on_boundary])


def filling_alpha(points: ArrayLike) -> float:
    """Return the alpha above which the alpha shape of points ``[N, D]`` fills their convex hull.

    Raises:
        DataError: The points are too few, not finite, or in one line or plane.
    """
    points = as_points(points, NAME)
    corners = points[_triangulated(points).simplices]
    radii, volumes = circumradii(corners), np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
    order = np.argsort(radii)
    filled = np.cumsum(volumes[order])
    return float(radii[order][np.searchsorted(filled, (1 - FILLED) * filled[-1])])


def circumradii(corners: ArrayLike) -> Floats:
    """Return the circumradii ``[S]`` of simplices: the radii of the spheres through their corners.

    With edges a, b (and c) at one corner, the radius is ``|a| |b| |a - b| / 2 |a x b|`` in 2-D, and
    ``| |a|^2 b x c + |b|^2 c x a + |c|^2 a x b | / 2 |a . b x c|`` in 3-D. Flat simplices have an
    infinite radius.

    Args:
        corners: Corners of the simplices ``[S, D+1, D]``, D = 2 or 3.
    """
    corners = np.asarray(corners, dtype=np.float64)
    edges = corners[:, 1:] - corners[:, :1]
    lengths = np.linalg.norm(edges, axis=2)
    volume = np.abs(np.linalg.det(edges))
    if corners.shape[2] == 2:
        numerator = lengths.prod(axis=1) * np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1)
    else:
        # The i-th product is that of the two edges after the i-th.
        products = np.cross(np.roll(edges, -1, axis=1), np.roll(edges, -2, axis=1))
        numerator = np.linalg.norm((lengths[:, :, None] ** 2 * products).sum(axis=1), axis=1)
    solid = volume > FLAT * lengths.prod(axis=1)
    return np.where(solid, numerator / (2 * np.where(solid, volume, 1)), np.inf)


def _triangulated(points: Floats) -> Delaunay:
    try:
        return Delaunay(points)
    except (QhullError, ValueError) as error:
        raise flat_points(points) from error
