"""Winding numbers: known shapes, other libraries, solid angles, and points where rays are hard."""

from collections.abc import Callable

import numpy as np
import pytest
import trimesh
from matplotlib.path import Path

from dnnlib.errors import DataError
from training.measure import containment
from training.measure.containment import inside, winding_number

Mesh = tuple[np.ndarray, np.ndarray]


def polygon(vertices: np.ndarray | list[list[float]]) -> Mesh:
    index = np.arange(len(vertices))
    return np.asarray(vertices, dtype=float), np.stack([index, np.roll(index, -1)], axis=1)


def merged(*meshes: Mesh) -> Mesh:
    """Several boundaries as one."""
    offsets = np.cumsum([0, *(len(vertices) for vertices, _ in meshes)])
    faces = [faces + offset for (_, faces), offset in zip(meshes, offsets, strict=False)]
    return np.concatenate([vertices for vertices, _ in meshes]), np.concatenate(faces)


def turned(mesh: Mesh) -> Mesh:
    """The mesh inside out."""
    return mesh[0], mesh[1][:, ::-1]


def star(points: int, radius: float = 1.0) -> Mesh:
    angle = np.arange(2 * points) * np.pi / points
    r = np.where(np.arange(2 * points) % 2, 0.4, 1.0) * radius
    return polygon(np.stack([r * np.cos(angle), r * np.sin(angle)], axis=1))


def spiral(turns: float, width: float) -> Mesh:
    angle = np.linspace(0, 2 * np.pi * turns, 400)
    direction = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    inner, outer = angle[:, None] * direction, (angle[:, None] + width) * direction
    return polygon(np.concatenate([outer, inner[::-1]]) / angle[-1])


def cube(low: tuple[float, ...] = (0, 0, 0)) -> Mesh:
    """A cube of edge 1. On opposite sides the diagonals agree, so that cubes can be stacked."""
    corners = np.array([[i, j, k] for i in (0, 1) for j in (0, 1) for k in (0, 1)], dtype=float)
    quads = np.array(
        [[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]]
    )
    # Each diagonal joins the corners of the smallest and the largest coordinates.
    ends = [np.argsort(corners[quad].sum(axis=1)) for quad in quads]
    quads = np.array([np.roll(quad, -end[0]) for quad, end in zip(quads, ends, strict=True)])
    return corners + low, np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def solid(kind: str, **sizes: float) -> Callable[[], Mesh]:
    """A mesh that trimesh makes."""

    def make() -> Mesh:
        mesh = getattr(trimesh.creation, kind)(**sizes)
        return np.asarray(mesh.vertices), np.asarray(mesh.faces)

    return make


ball = solid("icosphere", subdivisions=2)
torus = solid("torus", major_radius=1, minor_radius=0.4, major_sections=40, minor_sections=16)
tube = solid("annulus", r_min=0.5, r_max=1.2, height=1)


def random_points(count: int, dim: int, size: float = 1.5, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-size, size, (count, dim))


def solid_angle_number(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The winding number as the sum of the triangles' solid angles over 4 pi.

    Van Oosterom and Strackee 1983.
    """
    a, b, c = np.moveaxis(vertices[faces][None] - points[:, None, None], 2, 0)
    la, lb, lc = (np.linalg.norm(corner, axis=2) for corner in (a, b, c))
    volume = np.einsum("nfd,nfd->nf", a, np.cross(b, c))
    rest = la * lb * lc
    for first, second, length in ((a, b, lc), (b, c, la), (c, a, lb)):
        rest += np.einsum("nfd,nfd->nf", first, second) * length
    return 2 * np.arctan2(volume, rest).sum(axis=1) / (4 * np.pi)


def angle_number(points: np.ndarray, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """The winding number as the sum of the angles at which segments are seen, over 2 pi."""
    a, b = np.moveaxis(vertices[faces][None] - points[:, None, None], 2, 0)
    cross = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return np.arctan2(cross, (a * b).sum(axis=-1)).sum(axis=1) / (2 * np.pi)


def moved(mesh: Mesh, *, reflected: bool = False) -> Mesh:
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
MESHES: dict[str, Callable[[], Mesh]] = {
    "cube": cube,
    "ball": ball,
    "torus": torus,
    "tube": tube,
    "torus inside out": lambda: turned(torus()),
    "two tori": lambda: merged(torus(), (torus()[0] + [0.5, 0, 0], torus()[1])),
    "moved torus": lambda: moved(torus()),
    "reflected torus": lambda: moved(torus(), reflected=True),
}


def test_polygons_hold_what_matplotlib_says_and_wind_by_their_angles() -> None:
    points = random_points(2000, 2)
    for name, (vertices, faces) in {**POLYGONS, **OTHER_POLYGONS}.items():
        winding = winding_number(points, vertices, faces)
        assert np.array_equal(winding, np.rint(angle_number(points, vertices, faces))), name
        assert winding.any()
        assert np.array_equal(inside(points, vertices, faces), winding != 0)
        if name in POLYGONS:
            assert np.array_equal(winding != 0, Path(vertices).contains_points(points)), name


@pytest.mark.parametrize("name", MESHES)
def test_meshes_wind_by_their_solid_angles(name: str) -> None:
    vertices, faces = MESHES[name]()
    points = random_points(300, 3)
    expected = solid_angle_number(points, vertices, faces)
    assert winding_number(points, vertices, faces) == pytest.approx(expected, abs=1e-9)
    assert len(set(np.rint(expected))) == (3 if name == "two tori" else 2)


def lattice(dim: int) -> np.ndarray:
    """Points on corners, edges, diagonals and sides of cubes of edge 1, and between."""
    axis = np.arange(-4, 13) / 4
    return np.stack(np.meshgrid(*[axis] * dim, indexing="ij"), axis=-1).reshape(-1, dim)


@pytest.mark.parametrize("turn", [False, True])
def test_every_point_lies_in_exactly_one_of_the_cells_that_tile_space(turn: bool) -> None:
    lows = [(i, j, k) for i in range(2) for j in range(2) for k in range(2)]
    points = lattice(3)
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
        half_open = ((points >= 0) & (points < 2)).all(axis=1)
        assert np.array_equal(whole == 1, half_open)


def test_a_ray_that_rounding_puts_beside_an_edge_is_not_lost() -> None:
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


def test_faces_of_no_area_and_parts_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_what_is_no_boundary_is_an_error() -> None:
    for points, vertices, faces, message in (
        (np.zeros((2, 2)), *cube(), "test points in 2-D cannot be inside a 3-D boundary"),
        (np.zeros((2, 4)), *cube(), "test points are rows in 2-D or 3-D"),
        (np.zeros(3), *cube(), "test points are rows"),
        (np.full((2, 3), np.nan), *cube(), "2 of 2 test points are not finite"),
        (np.zeros((2, 3)), cube()[0] + np.inf, cube()[1], "8 of 8 boundary vertices"),
        (np.zeros((2, 3)), cube()[0], cube()[1][1:], "not closed"),
        (np.zeros((2, 3)), cube()[0], np.vstack([cube()[1][1:], [[3, 1, 0]]]), "not closed"),
        (np.zeros((2, 3)), cube()[0][:7], cube()[1], "names a vertex that is not among the 7"),
        (np.zeros((2, 3)), cube()[0], cube()[1] - 1, "names a vertex"),
        (np.zeros((2, 3)), cube()[0], cube()[1][:, :2], "rows of 3 integers"),
        (np.zeros((2, 3)), cube()[0], cube()[1] * 1.0, "rows of 3 integers, not float64"),
        (np.zeros((2, 2)), star(5)[0], star(5)[1][1:], "not closed"),
    ):
        with pytest.raises(DataError, match=message):
            winding_number(points, vertices, faces)
