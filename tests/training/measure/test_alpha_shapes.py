"""Alpha shapes: against the triangulation itself, hulls, known shapes, and closed forms."""

import numpy as np
import pytest
from scipy.spatial import ConvexHull, Delaunay

from dnnlib.errors import DataError, UsageError
from training.measure.alpha_shapes import FILLED, alpha_shape, circumradii, filling_alpha
from training.measure.boundaries import convex_hull, enclosed_volume, unit_sphere
from training.measure.containment import inside, winding_number


def normal(count: int, dim: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, dim))


def shell(count: int, dim: int) -> np.ndarray:
    """Uniform points of the unit ball with a hole."""
    points = np.random.default_rng(1).uniform(-1, 1, (count, dim))
    radius = np.linalg.norm(points, axis=1)
    return points[(radius < 1) & (radius > 0.5)]


@pytest.mark.parametrize("dim", [2, 3])
def test_it_holds_the_points_in_simplices_of_smaller_radius(dim: int) -> None:
    points, tests = normal(800, dim), normal(1000, dim, seed=1)
    delaunay = Delaunay(points)
    simplex = delaunay.find_simplex(tests)
    for alpha in (0.3, 1.0):
        kept = circumradii(points[delaunay.simplices]) < alpha
        expected = (simplex >= 0) & kept[simplex]
        assert 0 < expected.mean() < 1
        assert np.array_equal(winding_number(tests, *alpha_shape(points, alpha)), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_its_volume_grows_with_alpha_to_the_hulls(dim: int) -> None:
    points = normal(500, dim)
    alphas = (0.05, 0.2, 0.5, 1.0, 1e12, np.inf)
    volumes = [enclosed_volume(*alpha_shape(points, alpha)) for alpha in alphas]
    assert np.all(np.diff(volumes) >= -1e-9)
    assert volumes[0] < 0.5 * volumes[-1]
    hull = ConvexHull(points)
    assert volumes[-2:] == pytest.approx([hull.volume] * 2, rel=1e-9)
    tests = 2 * normal(1000, dim, seed=1)
    in_hull = (tests @ hull.equations[:, :-1].T + hull.equations[:, -1] < 0).all(axis=1)
    for alpha in (1e12, np.inf):
        assert np.array_equal(inside(tests, *alpha_shape(points, alpha)), in_hull)
    assert np.array_equal(alpha_shape(points, np.inf).faces, convex_hull(points).faces)


def test_radii_of_regular_random_and_flat_simplices() -> None:
    triangle = np.array([[[0, 0], [1, 0], [0.5, 3**0.5 / 2]]])
    assert circumradii(triangle) == pytest.approx(3**-0.5)
    tetrahedron = np.array([[[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]])
    assert circumradii(tetrahedron) == pytest.approx(3**0.5)
    for dim in (2, 3):
        corners = normal(600 * (dim + 1), dim).reshape(-1, dim + 1, dim)
        on_sphere = corners / np.linalg.norm(corners, axis=2, keepdims=True)
        assert circumradii(3 * on_sphere + 1) == pytest.approx(3, rel=1e-6)
        # The center has equal distances: 2 (x_i - x_0) . c = |x_i|^2 - |x_0|^2.
        edges = corners[:, 1:] - corners[:, :1]
        center = np.linalg.solve(2 * edges, (edges**2).sum(axis=2)[:, :, None])[:, :, 0]
        assert circumradii(corners) == pytest.approx(np.linalg.norm(center, axis=1), rel=1e-6)
    line = np.array([[0.1, 0.1], [0.2, 0.2], [0.7, 0.7]])
    square = np.array([[0.1, 0.1, 0.3], [0.2, 0.1, 0.3], [0.1, 0.2, 0.3], [0.2, 0.2, 0.3]])
    turn, _ = np.linalg.qr(normal(3, 3))
    assert np.isinf(circumradii([line, np.zeros((3, 2))])).all()
    assert np.isinf(circumradii([square, square @ turn])).all()


def test_there_is_a_shape_if_alpha_exceeds_the_radius_of_the_sphere() -> None:
    sphere = unit_sphere(3, 300)
    tests = np.random.default_rng(0).uniform(-1.1, 1.1, (3000, 3))
    wide = alpha_shape(sphere.vertices, 1.001)
    assert enclosed_volume(*wide) == pytest.approx(enclosed_volume(*sphere), rel=1e-9)
    assert np.array_equal(winding_number(tests, *wide), winding_number(tests, *sphere))
    assert not inside(tests, *alpha_shape(sphere.vertices, 0.999)).any()
    shape = alpha_shape(normal(100, 3), 1e-6)
    assert shape.faces.shape == (0, 3)
    assert not inside(normal(10, 3), *shape).any()


@pytest.mark.parametrize("dim", [2, 3])
def test_a_lattice_and_points_that_occur_twice_are_no_trouble(dim: int) -> None:
    block = np.stack(np.meshgrid(*[np.arange(6.0) * 0.1] * dim), axis=-1).reshape(-1, dim)
    away = np.eye(dim)[0]
    shape = alpha_shape(np.concatenate([block, block + away, block[::3]]), 0.1)
    assert enclosed_volume(*shape) == pytest.approx(2 * 0.5**dim)
    tests = np.random.default_rng(0).uniform(-0.1, 1.6, (3000, dim))
    expected = sum(((tests > low) & (tests < low + 0.5)).all(axis=1) for low in (0 * away, away))
    assert np.array_equal(winding_number(tests, *shape), expected)


@pytest.mark.parametrize("alpha", [0.5, np.inf])
def test_what_has_no_shape_is_an_error(alpha: float) -> None:
    line = np.outer(np.arange(5), [1.0, 2.0])
    with pytest.raises(DataError, match="5 points in 2-D enclose nothing: it takes at least 3"):
        alpha_shape(line, alpha)
    for points in (np.eye(3), np.zeros((9, 3)), np.pad(normal(9, 2), ((0, 0), (0, 1)))):
        with pytest.raises(DataError, match="points in 3-D enclose nothing") as error:
            alpha_shape(points, alpha)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="1 of 9 points of an alpha shape are not finite"):
        alpha_shape(np.where(np.arange(18).reshape(9, 2) == 5, np.nan, 0), alpha)
    with pytest.raises(DataError, match="rows in 2-D or 3-D"):
        alpha_shape(normal(9, 4), alpha)
    for wrong in (0.0, -alpha, np.nan):
        with pytest.raises(UsageError, match="alpha is a radius and so positive"):
            alpha_shape(normal(9, 2), wrong)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_filling_alpha_is_the_smallest_that_gives_the_hull(dim: int) -> None:
    points = shell(600, dim)
    alpha = filling_alpha(points)
    most = (1 - FILLED) * ConvexHull(points).volume
    assert enclosed_volume(*alpha_shape(points, 1.0001 * alpha)) >= most
    assert enclosed_volume(*alpha_shape(points, 0.9999 * alpha)) < most


def test_the_filling_alpha_of_a_circle_is_its_radius_whatever_slivers_there_are() -> None:
    sphere = unit_sphere(2, 50).scaled(0.7).vertices
    assert filling_alpha(sphere) == pytest.approx(0.7)
    # Beside an edge of the hull, a point all but in line with it: the circle is huge.
    edge = (sphere[0] + sphere[1]) / 2 * (1 + 1e-9)
    assert filling_alpha(np.concatenate([sphere, edge[None]])) < 1
