"""Figures of coverage: fractions by radius, and the boundaries themselves."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.stats import chi2

from tests.support import picture_files as files
from tests.support.figures import marks, places, words
from training.files.coverage import SavedCoverage
from training.paper.containment import Boundary, gaussian_content_within, unit_sphere
from training.pictures.coverage import boundaries, by_radius, content_of, cut, limits_of
from training.pictures.figure import Band, Line, Points, Segments
from training.pictures.theme import sequential_colors


@pytest.mark.parametrize("dim", [2, 3])
def test_latent_points_are_read_in_units_of_their_deviations(tmp_path, dim):
    path = files.save_coverage(tmp_path, dim)
    saved = SavedCoverage.load(path)
    assert (saved.dim, saved.count, saved.refitted) == (dim, 200, False)
    assert np.allclose(saved.latent_std, files.LATENT_STD[dim])
    for stage in ("latent", "end"):
        for radius, boundary in zip(files.RADII, saved.boundaries[stage], strict=True):
            assert np.allclose(np.linalg.norm(boundary.vertices, axis=1), radius)
        assert 0.8 < saved.points[stage].std(axis=0).min() < 1.2
    with np.load(path) as arrays:
        assert np.allclose(saved.points["data"], arrays["fresh_data"])
        assert np.allclose(saved.boundaries["data"][1].vertices, arrays["boundary_data"][1])


@pytest.mark.parametrize("dim", [2, 3])
def test_refitted_boundaries_have_the_vertices_of_smaller_ones(tmp_path, dim):
    saved = SavedCoverage.load(files.save_coverage(tmp_path, dim, alpha=2.0))
    contents = [gaussian_content_within(*boundary) for boundary in saved.boundaries["latent"]]
    assert np.allclose(contents, chi2.cdf(files.RADII**2, dim), atol=0.06)
    assert len(saved.boundaries["data"][2].vertices) == 3 * files.SIZES[dim]
    # With a small alpha there may be no boundary at all.
    faces = np.zeros((0, dim), dtype=np.int64)
    saved = SavedCoverage.load(files.save_coverage(tmp_path, dim, alpha=2.0, faces_latent_0=faces))
    assert "refitted" in words(boundaries(saved, "toy", ""))
    assert "boundaries refitted" in words(by_radius(saved, "toy", ""))


@pytest.mark.parametrize("dim", [2, 3])
def test_fractions_are_beside_their_band(tmp_path, dim):
    saved = SavedCoverage.load(files.save_coverage(tmp_path, dim))
    figure = by_radius(saved, "toy", "")
    above, below = figure.panels
    curve, drawn = marks(above, Line)[0], marks(below, Line, "drawn boundary")[0]
    exact = chi2.cdf(np.square(curve.x), dim)
    assert np.allclose(curve.y, exact, atol=1e-12)
    assert curve.x[0] == 0
    assert curve.x[-1] > files.RADII[-1]
    (band,) = marks(below, Band)
    expected = 200 * np.sqrt(exact * (1 - exact) / 200)
    np.testing.assert_allclose([band.low, band.high], [-expected, expected], atol=1e-9)
    radii = files.RADII
    for index, values in enumerate([*saved.coverage, saved.fresh]):
        assert np.allclose(places(marks(above, Points)[index]), np.stack([radii, values], axis=1))
        beside = marks(below, Points)[index]
        assert np.allclose(beside.y, 100 * (values - chi2.cdf(radii**2, dim)))
        assert np.abs(beside.x - radii).max() < np.diff(radii).min() / 3
    corners, faces = unit_sphere(dim, files.SIZES[dim])
    lost = [gaussian_content_within(r * corners, faces) - chi2.cdf(r**2, dim) for r in radii]
    assert np.allclose(drawn.y, [0, *(100 * np.array(lost))], atol=1e-9)


def test_cuts_are_those_of_an_independent_library_also_through_vertices():
    rough = unit_sphere(3, 300)
    moved = Boundary(files.bent(torch.from_numpy(rough.vertices)).numpy(), rough.faces)
    mesh = trimesh.Trimesh(*moved, process=False)
    for axis in range(3):
        segments = trimesh.intersections.mesh_plane(mesh, np.eye(3)[axis], np.zeros(3))
        expected = np.linalg.norm(np.diff(segments, axis=1), axis=-1).sum()
        got = np.linalg.norm(np.diff(cut(moved, axis), axis=1), axis=-1).sum()
        assert got == pytest.approx(expected, rel=1e-9)
    hull = trimesh.convex.convex_hull(np.concatenate([np.eye(3), -np.eye(3)]))
    octahedron = Boundary(np.asarray(hull.vertices), np.asarray(hull.faces, dtype=np.int64))
    for axis in range(3):
        lengths = np.linalg.norm(np.diff(cut(octahedron, axis), axis=1), axis=-1)
        assert lengths.sum() == pytest.approx(4 * np.sqrt(2))
    assert cut(Boundary(octahedron.vertices + 5, octahedron.faces), 0).shape == (0, 2, 2)


@pytest.mark.parametrize(("dim", "panels"), [(2, 3), (3, 6)])
def test_boundaries_keep_their_colors_and_panels(tmp_path, dim, panels):
    saved = SavedCoverage.load(files.save_coverage(tmp_path, dim))
    figure = boundaries(saved, "toy", "details")
    shown = figure.panels
    assert len(shown) == panels
    for panel in shown:
        lines = marks(panel, Segments)
        colors = np.concatenate([line.color for line in lines])
        assert np.allclose(colors, sequential_colors(len(files.RADII)))
        for line in lines:
            assert (line.x0 > panel.x_limits[0]).all()
            assert (line.y1 < panel.y_limits[1]).all()
    titles = [panel.title for panel in shown[:3]]
    assert titles == ["latent, at the start", "data", "latent, at the end"]
    if dim == 2:
        assert np.allclose(places(marks(shown[1], Points)[0]), saved.points["data"])
        line = marks(shown[1], Segments)[1]
        assert np.allclose(
            np.stack([line.x0, line.y0], axis=1), saved.boundaries["data"][1].vertices
        )
    contents = chi2.cdf(files.RADII**2, dim)
    parts = zip(files.RADII, contents, strict=True)
    assert [mark.label for mark in figure.legend] == [f"r = {r:g}: {part:.1%}" for r, part in parts]


def test_limits_leave_out_strays_but_no_boundary():
    points = np.random.default_rng(0).uniform(-1, 1, size=(5000, 2))
    points[0] = 50
    corners, faces = unit_sphere(2, 20)
    box = limits_of(points, [Boundary(3.0 * corners, faces)])
    assert np.ptp(box, axis=1) == pytest.approx(2 * 3 * 1.05)
    assert limits_of(np.zeros((3, 2)), []).shape == (2, 2)


@pytest.mark.parametrize("count", [1, 30])
def test_one_radius_and_many(tmp_path, count):
    with np.load(files.save_coverage(tmp_path)) as file:
        arrays = dict(file)
    radii = np.linspace(0.2, 3, count)
    for name in ("boundary_latent", "boundary_data", "boundary_end"):
        arrays[name] = arrays[name][:1] / files.RADII[0] * radii[:, None, None]
    for name in ("coverage", "coverage_fresh"):
        arrays[name] = arrays[name][..., :1].repeat(count, axis=-1)
    saved = SavedCoverage.load(files.save(tmp_path / "a_coverage.npz", arrays, radii=radii))
    assert len(by_radius(saved, "toy", "").panels) == 2
    names = [mark.label for mark in boundaries(saved, "toy", "").legend]
    assert len(names) == min(count, 7)
    assert names[-1].startswith(f"r = {radii[-1]:.3g}")


def test_what_made_the_file_is_told(tmp_path):
    path = files.save_coverage(tmp_path)
    for score, text in (('"net"', "PRP schedule · trained network · 200"), ("7", "schedule · 200")):
        path.with_suffix(".json").write_text(f'{{"options": {{"score": {score}}}}}')
        made = content_of(path, None).figures["circles_PRP_coverage_radius"]()
        assert text in made.subtitle
