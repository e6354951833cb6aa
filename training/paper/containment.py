"""Test of whether points lie inside a closed boundary, convex or not, in two or three dimensions.

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
"""

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray

from dnnlib.errors import DataError

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
