"""Coverage: what is inside of boundaries, spheres that a flow carries, and how it is counted."""

import numpy as np
import pytest
import torch
import trimesh
from matplotlib.path import Path

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal
from tests.support.running import refusal, slowly
from tests.training.measure.test_boundaries import polygon, turned
from training.paper import containment, coverage
from training.paper.containment import (
    Boundary,
    gaussian_content,
    inside,
    unit_sphere,
    winding_number,
)
from training.paper.coverage import pair

RADII = np.linspace(0.5, 3.5, 7)
SPHERES = coverage.Spheres(np.array([0.5, 1.0, 2.0]), unit_sphere(2, 200))
OURS, THEIRS = (coverage.transported(r * SPHERES.vertices, SPHERES.unit) for r in (1.05, 1.0))


def spheres_of(dim, count, radii=RADII):
    return coverage.Spheres(radii, unit_sphere(dim, count))


def cover(spheres, generate, melt, count=3000, fresh=None):
    """Coverage with carried boundaries, and of fresh data or generated points."""
    start = coverage.Points(normal(count, spheres.dim), spheres.vertices)
    carried = coverage.carry(start, generate, melt)
    boundaries = {
        k: coverage.transported(points.boundary, spheres.unit) for k, points in carried.items()
    }
    fresh = carried["data"].test if fresh is None else fresh
    return coverage.measure_coverage(carried, boundaries, fresh)


def bent(x):
    """A banana: a homeomorphism that is far from linear."""
    return torch.cat([x[:, :-1], x[:, -1:] + x[:, :1] ** 2], dim=1)


def unbent(x):
    return torch.cat([x[:, :-1], x[:, -1:] - x[:, :1] ** 2], dim=1)


def test_radii_must_increase_from_above_zero_and_have_names():
    for radii in ([0.0, 1.0], [2.0, 1.0], [1.0, 1.0], [np.nan, 1.0]):
        assert "increasing" in refusal(spheres_of, 2, 10, np.array(radii), kind=UsageError)
    assert spheres_of(2, 10, np.array([1.0, 1.00001])).names == ["1", "1.00001"]
    with pytest.raises(UsageError, match="two radii are equal to six digits, 1:"):
        spheres_of(2, 10, np.array([0.5, 1.0, 1.0000001, 2.0]))


def test_carrying_goes_to_the_data_and_brings_all_back_to_their_places():
    calls = []

    def counted(x):
        calls.append(len(x))
        return bent(x)

    start = coverage.Points(normal(15, 2), normal(4, 6, 2, seed=1))
    carried = coverage.carry(start, counted, unbent)
    assert calls == [15 + 4 * 6]
    assert tuple(carried) == coverage.STAGES
    torch.testing.assert_close(carried["data"].test, bent(start.test))
    torch.testing.assert_close(carried["data"].boundary[2], bent(start.boundary[2]))
    torch.testing.assert_close(carried["end"].boundary, start.boundary)
    assert (cover(spheres_of(2, 10), bent, unbent).changed[2] == 0).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_a_linear_map_changes_nothing_however_few_the_boundary_points(dim):
    """As is the flow of a Gaussian, and each step of a solver along it."""
    spheres, matrix = spheres_of(dim, 12), normal(dim, dim, seed=7)
    within = spheres.content_within()
    for sign in (1, -1):
        matrix[0] *= sign
        got = cover(spheres, lambda x: x @ matrix.T + 5, lambda x: (x - 5) @ matrix.T.inverse())
        assert (got.changed == 0).all()
        assert (got.largest_change == 0).all()
        error = np.abs(got.test[0] - within) / np.sqrt(within * (1 - within) / 3000)
        assert (error < 4).all()


@pytest.mark.parametrize(("dim", "counts"), [(2, (10, 40, 160)), (3, (25, 100, 400))])
def test_a_bent_boundary_converges_with_its_points(dim, counts):
    """Its error falls as the square of the distance between neighbours: 16 or 4 times a step."""
    moved = [cover(spheres_of(dim, count), bent, unbent).changed[1].max() for count in counts]
    assert moved[0] > 0.02
    assert moved[2] < moved[0] / (40 if dim == 2 else 8)


def test_changes_that_cancel_in_a_count_are_seen_as_changes_of_sides():
    # The test points alone are turned by a right angle about a point of the sphere.
    spheres = spheres_of(2, 400, np.array([1.0]))
    test = double([[0.2, 0.0], [1.8, 0.0], [0.3, 0.0], [1.7, 0.0]])
    swapped = torch.stack([2 - test[..., 0], test[..., 1]], dim=-1)
    sides = dict(zip(coverage.STAGES, (test, swapped, test), strict=True))
    points = {stage: coverage.Points(side, spheres.vertices) for stage, side in sides.items()}
    boundary = coverage.transported(spheres.vertices, spheres.unit)
    boundaries = dict.fromkeys(coverage.STAGES, boundary)
    got = coverage.measure_coverage(points, boundaries, test)
    np.testing.assert_array_equal(got.test[:, 0], 0.5)
    np.testing.assert_array_equal(got.changed[:, 0], [0, 1, 0])
    assert got.largest_change == 0


def test_fresh_data_of_another_law_than_the_generated_one_shows():
    spheres = spheres_of(2, 400)
    got = cover(spheres, bent, unbent, fresh=bent(2 * normal(20000, 2, seed=3)))
    expected = gaussian_content(RADII / 2, 2)
    deviation = np.abs(got.fresh - expected) / np.sqrt(expected * (1 - expected) / 20000)
    assert (deviation < 4).all()
    assert (np.abs(got.test[1] - expected) > 0.01).any()


@pytest.mark.parametrize("dim", slowly([2, 3], 3))
def test_the_default_alpha_fills_the_spheres_and_others_are_warned_of(dim):
    for radii, alpha in ((RADII, 0.2), (np.array([2.5]), None), (np.array([0.5, 3.0]), 0.6)):
        spheres = spheres_of(dim, 200, radii)
        # Off the sphere by little, as after a flow: Qhull is slow otherwise.
        noise = 1e-6 * normal(*spheres.vertices.shape, seed=2)
        shapes = coverage.refitted(spheres.vertices + noise, spheres.default_alpha())
        test = normal(1000, dim)
        carried = coverage.membership(test, coverage.transported(spheres.vertices, spheres.unit))
        assert (coverage.membership(test, shapes) != carried).double().mean() < 2e-3
        if alpha is None:
            continue

        def warning(alpha, spheres=spheres):
            shapes = coverage.refitted(spheres.vertices, alpha)
            return coverage.unfilled(spheres, coverage.contents_within(shapes), alpha)

        line = warning(alpha)
        assert f"alpha = {alpha:g} does not fill" in line
        enough = float(line.partition("--alpha=")[2].split()[0])
        assert warning(enough) is None
        assert warning(0.95 * enough) is not None


def test_what_alpha_shapes_hold_is_what_is_counted_in_them():
    spheres = spheres_of(2, 200)
    shapes = coverage.refitted(spheres.vertices, 0.3)
    within = coverage.contents_within(shapes)
    assert within[0] == 0  # the middle is open
    assert (within[1:] < spheres.content_within()[1:] - 0.1).all()
    counted = coverage.membership(normal(20000, 2), shapes).double().mean(dim=1).numpy()
    assert (np.abs(counted - within) < 4 * np.sqrt(within * (1 - within) / 20000) + 1e-12).all()


def test_summary_and_table_have_the_same_numbers():
    spheres = spheres_of(2, 200, np.array([0.5, 1.25]))
    test = np.array([[0.1, 0.4], [0.11, 0.4], [0.1, 0.37]])
    fresh, changed = np.array([0.2, 0.5]), np.zeros_like(test)
    changed[1, 0] = 0.04
    got = coverage.Coverage(test, fresh, changed)
    facts = coverage.summary(spheres, got, np.array([0.1, 0.5]))
    assert facts["coverage"]["latent"] == test[0].tolist()
    assert facts["coverage"]["fresh"] == fresh.tolist()
    assert facts["largest_change"] == pytest.approx([0.01, 0.03])
    assert (facts["changed_sides"], facts["exact_within_boundary"]) == ([0.04, 0], [0.1, 0.5])
    head, first, second = (line.split() for line in coverage.table(spheres, got))
    assert head[::2] == ["radius", "%", "%", "%", "%", "%", "moved"]
    assert first == ["0.5", "11.75", "10.00", "11.00", "10.00", "20.00", "1.000", "4.000"]
    assert second[2:] == ["40.00", "40.00", "37.00", "50.00", "3.000", "0.000"]


def test_it_is_the_difference_of_the_counts_with_the_error_of_a_paired_sample():
    fresh = normal(2000, 2)
    got = pair(fresh, OURS, THEIRS)
    radius, radii = fresh.norm(dim=1).numpy(), SPHERES.radii[:, None]
    inner, outer = radius < radii, radius < 1.05 * radii
    each = outer.astype(float) - inner  # polygons of 200 sides are circles to 1e-4
    np.testing.assert_allclose(got.exact, inner.mean(axis=1), atol=2e-3)
    np.testing.assert_allclose(got.difference, each.mean(axis=1), atol=2e-3)
    error = each.std(axis=1, ddof=1) / np.sqrt(2000)
    np.testing.assert_allclose(got.error, error, rtol=0.05)
    assert (got.error < 0.6 * np.sqrt(got.exact * (1 - got.exact) / 2000)).all()


def test_the_error_is_the_spread_of_the_difference_also_where_points_cancel_in_it():
    several = [pair(fresh, OURS, THEIRS) for fresh in normal(400, 500, 2)]
    spread = np.std([each.difference for each in several], axis=0, ddof=1)
    errors = np.array([each.error for each in several])
    np.testing.assert_allclose(np.sqrt(np.square(errors).mean(axis=0)), spread, rtol=0.15)
    fresh = double([[0.9, 0.0], [1.1, 0.0], [0.0, 0.0], [9.0, 0.0]])
    shift = double([0.5, 0.0])
    spheres = coverage.Spheres(np.array([1.0]), unit_sphere(2, 400))
    ours = coverage.transported(spheres.vertices + shift, spheres.unit)
    theirs = coverage.transported(spheres.vertices, spheres.unit)
    got = pair(double([[-0.9, 0.0], [1.1, 0.0], [0.0, 0.0], [9.0, 0.0]]), ours, theirs)
    assert (got.difference, got.error) == (0, pytest.approx(np.sqrt((2 / 4) / 3)))
    assert pair(fresh, ours, theirs).difference == 0.25


@pytest.mark.parametrize("count", [1, 50])
def test_equal_boundaries_differ_by_nothing(count):
    got = pair(normal(count, 2), OURS, OURS)
    assert not got.difference.any()
    assert not got.error.any()
    facts = got.summary()
    assert facts["standard_error"] == [0, 0, 0]
    assert facts["fresh_exact"] == got.exact.tolist()
    assert got.columns() == {"paired": ["+0.000"] * 3, "s.e.": ["0.000"] * 3}
    arrays = got.arrays()
    assert {array.shape for array in arrays.values()} == {(3,)}


def merged(*meshes):
    offsets = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    faces = [faces + offset for (_, faces), offset in zip(meshes, offsets, strict=False)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces)


def star(points, radius=1.0):
    angle = np.arange(2 * points) * np.pi / points
    r = np.where(np.arange(2 * points) % 2, 0.4, 1.0) * radius
    return polygon(np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1))


def spiral(turns, width):
    angle = np.linspace(0, 2 * np.pi * turns, 400)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inner, outer = angle[:, None] * direction, (angle[:, None] + width) * direction
    return polygon(np.concatenate([outer, inner[::-1]]) / angle[-1])


def cube(low=(0, 0, 0)):
    """A cube of edge 1. On opposite sides the diagonals agree, so that cubes can be stacked."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    quads = np.array(
        [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    )
    # Each diagonal joins the corners of the smallest and the largest coordinates.
    ends = [np.argsort(corners[quad].sum(axis=1)) for quad in quads]
    quads = np.array([np.roll(quad, -end[0]) for quad, end in zip(quads, ends, strict=True)])
    return corners + low, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def solid(kind, **sizes):
    def make():
        mesh = getattr(trimesh.creation, kind)(**sizes)
        return Boundary(np.asarray(mesh.vertices), np.asarray(mesh.faces))

    return make


ball = solid("icosphere", subdivisions=2)
torus = solid("torus", major_radius=1, minor_radius=0.4, major_sections=40, minor_sections=16)
tube = solid("annulus", r_min=0.5, r_max=1.2, height=1)


def random_points(count, dim, size=1.5, seed=0):
    return np.random.default_rng(seed).uniform(-size, size, (count, dim))


def solid_angle_number(points, vertices, faces):
    """The winding number as the sum of solid angles over 4 pi (Van Oosterom and Strackee 1983)."""
    a, b, c = np.moveaxis(vertices[faces][None] - points[:, None, None], 2, 0)
    la, lb, lc = (np.linalg.norm(corner, axis=2) for corner in (a, b, c))
    volume = np.einsum("nfd,nfd->nf", a, np.cross(b, c))
    rest = la * lb * lc
    for first, second, length in ((a, b, lc), (b, c, la), (c, a, lb)):
        rest += np.einsum("nfd,nfd->nf", first, second) * length
    return 2 * np.arctan2(volume, rest).sum(axis=1) / (4 * np.pi)


def angle_number(points, vertices, faces):
    """The winding number as the sum of the angles at which segments are seen, over 2 pi."""
    a, b = np.moveaxis(vertices[faces][None] - points[:, None, None], 2, 0)
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.arctan2(cross, (a * b).sum(axis=-1)).sum(axis=1) / (2 * np.pi)


def moved(mesh, *, reflected=False):
    """The mesh, stretched by very different factors along other axes, and shifted."""
    dim = mesh[0].shape[1]
    matrix = np.random.default_rng(3).normal(size=(dim, dim)) * [1, 0.1, 3][:dim]
    matrix[0] *= np.sign(np.linalg.det(matrix)) * (-1 if reflected else 1)
    return mesh[0] @ matrix + 0.1, mesh[1]


POLYGONS = {
    "triangle": polygon([[-1, -1], [1, -0.5], [0, 1]]),
    "square": polygon([[-1, -1], [1, -1], [1, 1], [-1, 1]]),
    "L": polygon([[0, 0], [2, 0], [2, 1], [1, 1], [1, 2], [0, 2]]),
    "star": star(5),
    "spiral": spiral(3, 2.5),
    "moved spiral": moved(spiral(3, 2.5)),
}
OTHER_POLYGONS = {
    "a star inside out": turned(star(7)),
    "a star with a hole": merged(star(5), turned(star(5, 0.5))),
    "two stars": merged(star(5), star(7, 0.7)),
    "a reflected spiral": moved(spiral(3, 2.5), reflected=True),
}
MESHES = {
    "cube": cube,
    "ball": ball,
    "torus": torus,
    "tube": tube,
    "torus inside out": lambda: turned(torus()),
    "two tori": lambda: merged(torus(), (torus()[0] + [0.5, 0, 0], torus()[1])),
    "moved torus": lambda: moved(torus()),
    "reflected torus": lambda: moved(torus(), reflected=True),
}


def test_polygons_hold_what_matplotlib_says_and_wind_by_their_angles():
    points = random_points(2000, 2)
    for name, (vertices, faces) in {**POLYGONS, **OTHER_POLYGONS}.items():
        winding = winding_number(points, vertices, faces)
        assert np.array_equal(winding, np.rint(angle_number(points, vertices, faces))), name
        assert winding.any()
        assert np.array_equal(inside(points, vertices, faces), winding != 0)
        if name in POLYGONS:
            assert np.array_equal(winding != 0, Path(vertices).contains_points(points)), name


@pytest.mark.parametrize("name", MESHES)
def test_meshes_wind_by_their_solid_angles(name):
    vertices, faces = MESHES[name]()
    points = random_points(300, 3)
    expected = solid_angle_number(points, vertices, faces)
    assert winding_number(points, vertices, faces) == pytest.approx(expected, abs=1e-9)
    assert len(set(np.rint(expected))) == (3 if name == "two tori" else 2)


@pytest.mark.parametrize("turn", [False, True])
def test_every_point_lies_in_exactly_one_of_the_cells_that_tile_space(turn):
    lows = [(i, j, k) for i in range(2) for j in range(2) for k in range(2)]
    # On corners, edges, diagonals and sides of cubes of edge 1, and between.
    points = np.stack(np.meshgrid(*[np.arange(-4, 13) / 4] * 3), axis=-1).reshape(-1, 3)
    matrix = np.eye(3)
    if turn:
        matrix, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    cells = [(cube(low)[0] @ matrix, cube(low)[1]) for low in lows]
    whole = sum(winding_number(points @ matrix, *cell) for cell in cells)
    assert set(np.unique(np.abs(whole))) == {0, 1}
    from_middle = abs(points - 1).max(axis=1)
    assert (whole != 0)[from_middle < 1].all()
    assert (whole == 0)[from_middle > 1].all()
    if not turn:
        assert np.array_equal(whole == 1, ((points >= 0) & (points < 2)).all(axis=1))


def test_a_ray_that_rounding_puts_beside_an_edge_is_not_lost():
    base = [[-9.0, -9, 0], [9, -9, 0], [9, 9, 0], [-9, 9, 0]]
    faces = np.array(
        [[0, 2, 1], [0, 3, 2], [0, 1, 4], [3, 0, 4], [2, 3, 5], [1, 2, 5], [3, 4, 5], [1, 5, 4]]
    )
    ends = random_points(8000, 2, seed=3).reshape(-1, 2, 2)
    ends = np.take_along_axis(ends, ends[:, :, :1].argsort(axis=1), axis=1)
    low, high = ends[ends[:, 0, 1] > ends[:, 1, 1]].transpose(1, 0, 2)
    # Beneath the edge's upper end, as near as numbers get, where the formula can leave the edge.
    x = np.nextafter(high[:, 0], low[:, 0])
    part = (x - low[:, 0]) / (high[:, 0] - low[:, 0])
    hard = np.flatnonzero(low[:, 1] + part * (high[:, 1] - low[:, 1]) < high[:, 1])
    assert len(hard) > 20
    for i in hard:
        roof = np.array([*base, [*low[i], 1], [*high[i], 1]])
        below = [[x[i], high[i, 1], 0.5], [x[i], np.nextafter(high[i, 1], -2), 0.5]]
        assert winding_number(below, roof, faces).tolist() == [1, 1]


def test_faces_of_no_area_and_parts_do_not_matter(monkeypatch):
    vertices, faces = star(6)
    twice, points = np.repeat(vertices, 2, axis=0), random_points(1000, 2)
    assert np.array_equal(winding_number(points, *polygon(twice)), inside(points, vertices, faces))
    points, nothing = random_points(300, 3), np.empty((0, 3), dtype=int)
    assert not inside(points, cube()[0] * [1, 1, 0], cube()[1]).any()
    assert not inside(points, cube()[0], nothing).any()
    assert winding_number(np.empty((0, 3)), *cube()).shape == (0,)
    assert inside([[0.5, 0.5, 0.5]], *cube()).tolist() == [True]
    whole = winding_number(points, *torus())
    monkeypatch.setattr(containment, "PAIRS_AT_ONCE", 7)
    assert np.array_equal(winding_number(points[::-1], *torus()), whole[::-1])


def test_what_is_no_boundary_is_an_error():
    for points, vertices, faces, message in (
        (np.zeros((2, 2)), *cube(), "test points in 2-D cannot be inside a 3-D boundary"),
        (np.zeros((2, 4)), *cube(), "test points must be rows in 2-D or 3-D"),
        (np.zeros(3), *cube(), "test points must be rows"),
        (np.full((2, 3), np.nan), *cube(), "2 of 2 test points are not finite"),
        (np.zeros((2, 3)), cube()[0] + np.inf, cube()[1], "8 of 8 boundary vertices"),
        (np.zeros((2, 3)), cube()[0], cube()[1][1:], "not closed"),
        (np.zeros((2, 3)), cube()[0], np.vstack([cube()[1][1:], [[3, 1, 0]]]), "not closed"),
        (np.zeros((2, 3)), cube()[0][:7], cube()[1], "the boundary has only 7"),
        (np.zeros((2, 3)), cube()[0], cube()[1] - 1, "index of a missing vertex"),
        (np.zeros((2, 3)), cube()[0], cube()[1][:, :2], "rows of 3 integers"),
        (np.zeros((2, 3)), cube()[0], cube()[1] * 1.0, "rows of 3 integers, got float64"),
        (np.zeros((2, 2)), star(5)[0], star(5)[1][1:], "not closed"),
    ):
        with pytest.raises(DataError, match=message):
            winding_number(points, vertices, faces)
