"""Spheres, hulls and alpha shapes: what they hold, closed forms, and mesh files."""

import math
from functools import partial

import numpy as np
import pytest
import trimesh
from scipy import integrate, stats
from scipy.spatial import ConvexHull, Delaunay
from scipy.spatial.distance import pdist

from dnnlib.errors import DataError, UsageError
from tests.support.running import refusal
from training.paper import containment
from training.paper.containment import (
    alpha_shape,
    circumradii,
    enclosed_volume,
    inside,
    unit_sphere,
    winding_number,
)

BALL = {2: math.pi, 3: 4 / 3 * math.pi}


def box(low, high):
    corners = np.stack(np.meshgrid(*zip(low, high, strict=True)), axis=-1).reshape(-1, len(low))
    return containment.convex_hull(corners)


def box_content(low, high):
    return float(np.prod(stats.norm.cdf(high) - stats.norm.cdf(low)))


def polygon(vertices):
    index = np.arange(len(vertices))
    faces = np.stack([index, np.roll(index, -1)], axis=1)
    return containment.Boundary(np.asarray(vertices, dtype=float), faces)


def turned(boundary):
    return containment.Boundary(boundary.vertices, boundary.faces[:, ::-1])


@pytest.mark.parametrize("dim", [2, 3])
def test_vertices_lie_on_the_unit_sphere_and_faces_close_it(dim):
    for count in (4, 5, 200):
        vertices, faces = unit_sphere(dim, count)
        assert vertices.shape == (count, dim)
        assert np.linalg.norm(vertices, axis=1) == pytest.approx(1, abs=1e-14)
        assert len(faces) == (count if dim == 2 else 2 * count - 4)
        assert np.array_equal(np.unique(faces), np.arange(count))
        assert (np.linalg.det(vertices[faces]) > 0).all()
        assert winding_number(np.zeros((1, dim)), vertices, faces).tolist() == [1]


def test_even_points_are_evenly_spread():
    angles = np.unwrap(np.arctan2(*unit_sphere(2, 7).vertices.T[::-1]))
    assert np.diff(angles) == pytest.approx(2 * math.pi / 7)
    for count in (50, 200, 2000):
        points = unit_sphere(3, count).vertices
        # No n points are all farther apart than about this; of random ones, some nearly touch.
        assert pdist(points).min() > 0.8 * math.sqrt(8 * math.pi / (math.sqrt(3) * count))
        assert points.mean(axis=0) == pytest.approx(0, abs=2 / count)
        assert points.T @ points / count == pytest.approx(np.eye(3) / 3, abs=4 / count)


def test_volumes_are_those_of_polygons_and_boxes():
    sides = 9
    expected = sides / 2 * math.sin(2 * math.pi / sides)
    assert enclosed_volume(*unit_sphere(2, sides)) == pytest.approx(expected)
    for low, high in (([1e6, -1], [1e6 + 1, 2]), ([1e6, -1, 5], [1e6 + 1, 2, 7])):
        sides_of_box = np.subtract(high, low)
        assert enclosed_volume(*box(low, high)) == pytest.approx(sides_of_box.prod(), rel=1e-12)
        assert enclosed_volume(*turned(box(low, high))) == pytest.approx(-sides_of_box.prod())


@pytest.mark.parametrize("dim", [2, 3])
def test_what_inscribed_spheres_lack_falls_with_the_number_of_points(dim):
    lacking = [1 - enclosed_volume(*unit_sphere(dim, count)) / BALL[dim] for count in (200, 800)]
    # Faces of size h lie h^2 below the sphere, and there are h^(1 - D) of them.
    assert lacking[0] / lacking[1] == pytest.approx(4 ** (2 / (dim - 1)), rel=0.05)
    radii = np.array([0.5, 1, 1.5, 2, 3.5])
    vertices, faces = unit_sphere(dim, 200)
    contents = [containment.gaussian_content_within(radius * vertices, faces) for radius in radii]
    expected = containment.gaussian_content(radii, dim)
    assert np.abs(contents - expected).max() < {2: 6.1e-5, 3: 0.0095}[dim]


def test_the_contents_of_balls_polygons_and_boxes_have_closed_forms_in_any_parts(monkeypatch):
    radii = np.array([[0.0, 0.5, 1.0], [2.0, 3.5, 40.0]])
    for dim in (2, 3, 10):
        expected = stats.chi2.cdf(radii**2, dim)
        assert containment.gaussian_content(radii, dim) == pytest.approx(expected, rel=1e-12)
    sides, radius = 6, 1.3
    apothem = radius * math.cos(math.pi / sides)
    outside, _ = integrate.quad(
        lambda angle: math.exp(-((apothem / math.cos(angle)) ** 2) / 2),
        *(-math.pi / sides, math.pi / sides),
    )
    vertices, faces = unit_sphere(2, sides)
    content = containment.gaussian_content_within(radius * vertices, faces)
    assert content == pytest.approx(1 - sides * outside / (2 * math.pi), rel=1e-9)
    # The origin is within, beyond and on a corner.
    for low, high in (
        ([-1, -1], [1, 1]),
        ([0.3, -2], [1, -1]),
        ([-1, -1, -1], [1, 1, 1]),
        ([0, 0, 0], [1, 1, 1]),
        ([0.2, -0.4, 1], [1, 0.5, 2]),
    ):
        whole = box(low, high)
        content = containment.gaussian_content_within(*whole)
        assert content == pytest.approx(box_content(low, high), abs=1e-9)
        assert containment.gaussian_content_within(*turned(whole)) == pytest.approx(-content)
    corner = polygon([[0, 0], [0, 0], [1, 0], [1, 1], [0, 1]])
    assert containment.gaussian_content_within(*corner) == pytest.approx(
        box_content([0, 0], [1, 1])
    )
    sphere = unit_sphere(3, 100)
    whole = containment.gaussian_content_within(*sphere)
    monkeypatch.setattr("training.paper.containment.FACES_AT_ONCE", 7)
    assert containment.gaussian_content_within(*sphere) == pytest.approx(whole, rel=1e-12)


def test_what_makes_no_sphere_or_hull_is_an_error():
    assert "in 2-D or 3-D, not in 4-D" in refusal(unit_sphere, 4, 200, kind=UsageError)
    assert "at least 4 points, got 3" in refusal(unit_sphere, 3, 3, kind=UsageError)
    flat = np.pad(unit_sphere(2, 9).vertices, ((0, 0), (0, 1)))
    for points, message in (
        (np.outer(np.arange(5), [1.0, 2.0]), "5 points in 2-D enclose no volume"),
        (flat, "at least 4 are needed, not all in one plane"),
        (np.eye(3), "3 points in 3-D enclose no volume"),
        (np.empty((0, 2)), "0 points in 2-D"),
        ([[0, 0], [1, 0], [0, np.inf]], "not finite"),
    ):
        with pytest.raises(DataError, match=message):
            containment.convex_hull(points)


def test_a_mesh_comes_back_from_its_file(tmp_path):
    sphere = unit_sphere(3, 50)
    # A vertex twice and one that no face uses are kept, so that rows still name the same points.
    mesh = containment.Boundary(
        np.concatenate([sphere.vertices, sphere.vertices[:1]]), sphere.faces
    )
    path = tmp_path / "new" / "sphere.ply"
    containment.write_mesh(path, *mesh)
    again = trimesh.load_mesh(path, process=False)
    assert np.array_equal(again.vertices, mesh.vertices.astype(np.float32))
    assert np.array_equal(again.faces, mesh.faces)
    other = trimesh.load_mesh(path)
    assert other.is_watertight
    assert other.volume == pytest.approx(enclosed_volume(*sphere), rel=1e-6)
    assert [entry.name for entry in path.parent.iterdir()] == ["sphere.ply"]


def test_what_is_no_mesh_is_not_written(tmp_path):
    vertices, faces = unit_sphere(3, 10)
    write = partial(containment.write_mesh, tmp_path / "a.ply")
    assert "not in 2-D" in refusal(write, *unit_sphere(2, 10))
    assert "not closed" in refusal(write, vertices, faces[1:])
    with pytest.raises(DataError, match="1 of 10 mesh vertices are not finite: leave"):
        write(np.where(vertices == vertices[3], np.nan, vertices), faces)
    with pytest.raises(UsageError, match=r"as \.ply, not to a\.stl"):
        containment.write_mesh(tmp_path / "a.stl", vertices, faces)
    assert not list(tmp_path.iterdir())


def normal(count, dim, seed=0):
    return np.random.default_rng(seed).normal(size=(count, dim))


@pytest.mark.parametrize("dim", [2, 3])
def test_it_holds_the_points_in_simplices_of_smaller_radius(dim):
    points, tests = normal(800, dim), normal(1000, dim, seed=1)
    delaunay = Delaunay(points)
    simplex = delaunay.find_simplex(tests)
    for alpha in (0.3, 1.0):
        kept = circumradii(points[delaunay.simplices]) < alpha
        expected = (simplex >= 0) & kept[simplex]
        assert 0 < expected.mean() < 1
        assert np.array_equal(winding_number(tests, *alpha_shape(points, alpha)), expected)


@pytest.mark.parametrize("dim", [2, 3])
def test_of_a_large_alpha_it_is_the_hull(dim):
    points, tests = normal(500, dim), 2 * normal(1000, dim, seed=1)
    hull = ConvexHull(points)
    in_hull = (tests @ hull.equations[:, :-1].T + hull.equations[:, -1] < 0).all(axis=1)
    for alpha in (1e12, np.inf):
        shape = alpha_shape(points, alpha)
        assert enclosed_volume(*shape) == pytest.approx(hull.volume, rel=1e-9)
        assert np.array_equal(winding_number(tests, *shape), in_hull)
    for ours, expected in zip(containment.convex_hull(points), (points, shape.faces), strict=True):
        assert np.array_equal(ours, expected)


def test_radii_of_regular_random_and_flat_simplices():
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


def test_there_is_a_shape_if_alpha_exceeds_the_radius_of_the_sphere():
    sphere = unit_sphere(3, 300)
    tests = np.random.default_rng(0).uniform(-1.1, 1.1, (3000, 3))
    wide = alpha_shape(sphere.vertices, 1.001)
    assert enclosed_volume(*wide) == pytest.approx(enclosed_volume(*sphere), rel=1e-9)
    assert np.array_equal(winding_number(tests, *wide), winding_number(tests, *sphere))
    assert not inside(tests, *alpha_shape(sphere.vertices, 0.999)).any()
    shells = np.concatenate([0.5 * sphere.vertices, 1.5 * sphere.vertices])
    assert len(alpha_shape(shells, 1.0).faces) == len(sphere.faces), "no cuts between the two"
    shape = alpha_shape(normal(100, 3), 1e-6)
    assert shape.faces.shape == (0, 3)
    assert not inside(normal(10, 3), *shape).any()


@pytest.mark.parametrize("dim", [2, 3])
def test_a_lattice_and_points_that_occur_twice_are_no_trouble(dim):
    block = np.stack(np.meshgrid(*[np.arange(6.0) * 0.1] * dim), axis=-1).reshape(-1, dim)
    away = np.eye(dim)[0]
    shape = alpha_shape(np.concatenate([block, block + away, block[::3]]), 0.1)
    assert enclosed_volume(*shape) == pytest.approx(2 * 0.5**dim)
    tests = np.random.default_rng(0).uniform(-0.1, 1.6, (3000, dim))
    expected = sum(((tests > low) & (tests < low + 0.5)).all(axis=1) for low in (0 * away, away))
    assert np.array_equal(winding_number(tests, *shape), expected)


@pytest.mark.parametrize("alpha", [0.5, np.inf])
def test_what_has_no_shape_is_an_error(alpha):
    line = np.outer(np.arange(5), [1.0, 2.0])
    with pytest.raises(DataError, match="5 points in 2-D enclose no volume: at least 3 are"):
        alpha_shape(line, alpha)
    for points in (np.eye(3), np.zeros((9, 3)), np.pad(normal(9, 2), ((0, 0), (0, 1)))):
        with pytest.raises(DataError, match="points in 3-D enclose no volume") as error:
            alpha_shape(points, alpha)
        assert "\n" not in str(error.value)
    with pytest.raises(DataError, match="1 of 9 points of an alpha shape are not finite"):
        alpha_shape(np.where(np.arange(18).reshape(9, 2) == 5, np.nan, 0), alpha)
    assert "rows in 2-D or 3-D" in refusal(alpha_shape, normal(9, 4), alpha)
    for wrong in (0.0, -alpha, np.nan):
        with pytest.raises(UsageError, match="alpha is a radius and must be positive, got"):
            alpha_shape(normal(9, 2), wrong)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_filling_alpha_is_the_smallest_that_gives_the_hull(dim):
    points = np.random.default_rng(1).uniform(-1, 1, (600, dim))
    radius = np.linalg.norm(points, axis=1)
    points = points[(radius < 1) & (radius > 0.5)]
    alpha = containment.filling_alpha(points)
    most = (1 - containment.FILLED) * ConvexHull(points).volume
    assert enclosed_volume(*alpha_shape(points, 1.0001 * alpha)) >= most
    assert enclosed_volume(*alpha_shape(points, 0.9999 * alpha)) < most


def test_the_filling_alpha_of_a_circle_is_its_radius_whatever_slivers_there_are():
    sphere = 0.7 * unit_sphere(2, 50).vertices
    assert containment.filling_alpha(sphere) == pytest.approx(0.7)
    # Beside an edge of the hull, a point all but in line with it: the circle is huge.
    edge = (sphere[0] + sphere[1]) / 2 * (1 + 1e-9)
    assert containment.filling_alpha(np.concatenate([sphere, edge[None]])) < 1
