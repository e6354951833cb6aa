"""Alpha shapes: the region that a set of points fills, as seen at one length.

The alpha complex of points in 2-D or 3-D holds the simplices (triangles, tetrahedra) of their
Delaunay triangulation whose circumscribed sphere has a radius below alpha (Edelsbrunner and Mücke
1994). Its boundary is made of the faces that belong to one such simplex only. Holes and gaps wider
than alpha stay open; with an infinite alpha it is the convex hull.

Fitted to points on a surface, it needs an alpha between the distance of neighbours and the size of
what is to stay open. Points on one sphere have that sphere around every simplex, and as their
triangulation is not unique, Qhull takes long over many: a minute for 20,000, where half a second
does for points of an ellipsoid or of a sphere that a flow has carried.

Everything is NumPy in float64.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.spatial import Delaunay, QhullError

from dnnlib.errors import UsageError
from training.measure.boundaries import Boundary, convex_hull, flat_points
from training.measure.containment import Floats, as_points

# The faces of a simplex [v0 .. vD] of positive volume, seen from outside; the i-th lacks v_i.
FACES = {
    2: np.array([[1, 2], [2, 0], [0, 1]]),
    3: np.array([[1, 2, 3], [0, 3, 2], [0, 1, 3], [0, 2, 1]]),
}
# A simplex is flat if its volume is this small a part of what its edges could span: then the volume
# and the circumscribed sphere are rounding errors.
FLAT = 1e-12
FILLED = 1e-6
"""The part of a volume that may be missing: slivers can have a circumscribed sphere of any size."""
NAME = "points of an alpha shape"


def alpha_shape(points: ArrayLike, alpha: float) -> Boundary:
    """The boundary of the alpha complex of points ``[N, D]``, D = 2 or 3, for ``inside``.

    All points are kept as its vertices, whether faces use them or not. If alpha is below every
    radius there are no faces, and nothing is inside.

    Equal faces in opposite directions can remain, where several flat simplices lie side by side.
    They cancel.

    Args:
        points: Points ``[N, D]`` in any order.
        alpha: Radius in units of the points; infinite for the convex hull.

    Raises:
        DataError: The points are too few, not finite, or in one line or plane.
        UsageError: alpha is not positive.
    """
    points = as_points(points, NAME)
    if not alpha > 0:
        raise UsageError(f"alpha is a radius and so positive, not {alpha}")
    if np.isinf(alpha):
        # The same region as all simplices together, without finding them.
        return convex_hull(points)
    delaunay = _triangulated(points)
    simplices, neighbours = delaunay.simplices.astype(np.int64), delaunay.neighbors
    corners = points[simplices]
    radii = circumradii(corners)
    kept = radii < alpha
    # A neighbour of -1 is the outside, which is kept nowhere. What is flat between others that are
    # kept holds nothing, and would be a cut through them: four points of two spheres about a center
    # that lie in one plane with it.
    kept |= np.isinf(radii) & np.append(kept, False)[neighbours].all(axis=1)
    on_boundary = kept[:, None] & ~np.append(kept, False)[neighbours]
    faces = simplices[:, FACES[points.shape[1]]]
    inside_out = np.linalg.det(corners[:, 1:] - corners[:, :1]) < 0
    faces[inside_out, :, :2] = faces[inside_out, :, 1::-1]
    return Boundary(points, faces[on_boundary])


def filling_alpha(points: ArrayLike) -> float:
    """Above this alpha, the alpha shape of points ``[N, D]`` fills their convex hull.

    Raises:
        DataError: As in ``alpha_shape``.
    """
    points = as_points(points, NAME)
    corners = points[_triangulated(points).simplices]
    radii, volumes = circumradii(corners), np.abs(np.linalg.det(corners[:, 1:] - corners[:, :1]))
    order = np.argsort(radii)
    filled = np.cumsum(volumes[order])
    return float(radii[order][np.searchsorted(filled, (1 - FILLED) * filled[-1])])


def circumradii(corners: ArrayLike) -> Floats:
    """Radii ``[S]`` of the spheres through the corners ``[S, D+1, D]`` of simplices, D = 2 or 3.

    From edges a, b (and c) at one corner: ``|a| |b| |a - b| / 2 |a x b|`` in 2-D, and
    ``| |a|^2 b x c + |b|^2 c x a + |c|^2 a x b | / 2 |a . b x c|`` in 3-D. Infinite if flat.
    """
    corners = np.asarray(corners, dtype=np.float64)
    edges = corners[:, 1:] - corners[:, :1]
    lengths = np.linalg.norm(edges, axis=2)
    volume = np.abs(np.linalg.det(edges))
    if corners.shape[2] == 2:
        numerator = lengths.prod(axis=1) * np.linalg.norm(edges[:, 0] - edges[:, 1], axis=1)
    else:
        # The i-th product is of the two edges after the i-th.
        products = np.cross(np.roll(edges, -1, axis=1), np.roll(edges, -2, axis=1))
        numerator = np.linalg.norm((lengths[:, :, None] ** 2 * products).sum(axis=1), axis=1)
    solid = volume > FLAT * lengths.prod(axis=1)
    return np.where(solid, numerator / (2 * np.where(solid, volume, 1)), np.inf)


def _triangulated(points: Floats) -> Delaunay:
    try:
        return Delaunay(points)
    except (QhullError, ValueError) as error:
        raise flat_points(points) from error
