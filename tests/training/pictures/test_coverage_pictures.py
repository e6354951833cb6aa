"""Pictures of coverage: the exact curve and its bands, the fractions, and cuts of meshes."""

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from scipy.stats import chi2

from tests.support.draws import seeded
from tests.support.picture_files import LATENT_STD, RADII, SIZES, bent, save, save_coverage
from training.files.coverage import SavedCoverage
from training.measure.boundaries import Boundary, gaussian_content_within, unit_sphere
from training.pictures.album import pictures_of
from training.pictures.coverage import cut, draw_boundaries, draw_radius, limits_of
from training.pictures.look import sequential_colors


def texts(figure: Figure) -> str:
    return " | ".join(text.get_text() for text in figure.texts)


@pytest.mark.parametrize("dim", [2, 3])
def test_latent_points_are_read_in_units_of_their_deviations(tmp_path: Path, dim: int) -> None:
    path = save_coverage(tmp_path, dim)
    saved = SavedCoverage.load(path)
    assert (saved.dim, saved.count, saved.refitted) == (dim, 200, False)
    assert np.allclose(saved.latent_std, LATENT_STD[dim])
    for stage in ("latent", "end"):
        for radius, boundary in zip(RADII, saved.boundaries[stage], strict=True):
            assert np.allclose(np.linalg.norm(boundary.vertices, axis=1), radius)
        assert 0.8 < saved.points[stage].std(axis=0).min() < 1.2
    with np.load(path) as arrays:
        assert np.allclose(saved.points["data"], arrays["fresh_data"][0])
        assert np.allclose(saved.boundaries["data"][1].vertices, arrays["boundary_data"][1])


@pytest.mark.parametrize("dim", [2, 3])
def test_refitted_boundaries_have_the_vertices_of_smaller_ones(tmp_path: Path, dim: int) -> None:
    saved = SavedCoverage.load(save_coverage(tmp_path, dim, alpha=2.0))
    contents = [gaussian_content_within(*boundary) for boundary in saved.boundaries["latent"]]
    assert np.allclose(contents, chi2.cdf(RADII**2, dim), atol=0.06)
    assert len(saved.boundaries["data"][2].vertices) == 3 * SIZES[dim]
    # With a small alpha there may be no boundary at all.
    faces = np.zeros((0, dim), dtype=np.int64)
    saved = SavedCoverage.load(save_coverage(tmp_path, dim, alpha=2.0, faces_latent_0=faces))
    assert "refitted" in texts(draw_boundaries(saved, "toy", ""))
    assert "boundaries refitted" in texts(draw_radius(saved, "toy", ""))


@pytest.mark.parametrize(("dim", "seeds"), [(2, 1), (3, 4)])
def test_fractions_are_beside_their_band(tmp_path: Path, dim: int, seeds: int) -> None:
    saved = SavedCoverage.load(save_coverage(tmp_path, dim, seeds))
    above, below = draw_radius(saved, "toy", "").axes
    radius, curve = above.lines[0].get_data()
    exact = chi2.cdf(radius**2, dim)
    assert np.allclose(curve, exact, atol=1e-12)
    assert radius[0] == 0
    assert radius[-1] > RADII[-1]
    (band,) = (item for item in below.collections if isinstance(item, PolyCollection))
    edge = band.get_paths()[0].vertices
    expected = 200 * np.sqrt(exact * (1 - exact) / 200)
    for sign in (1, -1):
        side = edge[sign * edge[:, 1] > 1e-9]
        assert np.allclose(sign * side[:, 1], np.interp(side[:, 0], radius, expected), atol=1e-6)

    columns = [*np.moveaxis(saved.coverage, 1, 0), saved.fresh]
    for line, bar, values in zip(above.lines[1:], below.containers, columns, strict=True):
        mean = values.mean(axis=0)
        assert np.allclose(line.get_xydata(), np.stack([RADII, mean], axis=1))
        marks, _, bars = bar.lines
        assert np.allclose(marks.get_ydata(), 100 * (mean - chi2.cdf(RADII**2, dim)))
        assert np.abs(marks.get_xdata() - RADII).max() < np.diff(RADII).min() / 3
        assert len(bars) == (seeds > 1)
        for item in bars:
            ends = np.array(item.get_segments())[:, :, 1]
            assert np.allclose(np.ptp(ends, axis=1), 400 * values.std(axis=0, ddof=1))
    notes = " ".join(text.get_text() for text in below.texts)
    assert ("4 seeds" in notes) == (seeds == 4)
    (dashed,) = (line for line in below.lines if line.get_linestyle() == "--")
    unit = unit_sphere(dim, SIZES[dim])
    lost = [gaussian_content_within(*unit.scaled(r)) - chi2.cdf(r**2, dim) for r in RADII]
    assert np.allclose(dashed.get_ydata(), [0, *(100 * np.array(lost))], atol=1e-9)


def test_cuts_are_those_of_an_independent_library_also_through_vertices() -> None:
    rough = unit_sphere(3, 300, seeded(1))
    moved = Boundary(bent(torch.from_numpy(rough.vertices)).numpy(), rough.faces)
    mesh = trimesh.Trimesh(*moved, process=False)
    for axis in range(3):
        segments = trimesh.intersections.mesh_plane(mesh, np.eye(3)[axis], np.zeros(3))
        expected = np.linalg.norm(np.diff(segments, axis=1), axis=-1).sum()
        found = np.linalg.norm(np.diff(cut(moved, axis), axis=1), axis=-1).sum()
        assert found == pytest.approx(expected, rel=1e-9)
    hull = trimesh.convex.convex_hull(np.concatenate([np.eye(3), -np.eye(3)]))
    octahedron = Boundary(np.asarray(hull.vertices), np.asarray(hull.faces, dtype=np.int64))
    for axis in range(3):
        lengths = np.linalg.norm(np.diff(cut(octahedron, axis), axis=1), axis=-1)
        assert lengths.sum() == pytest.approx(4 * np.sqrt(2))
    assert cut(Boundary(octahedron.vertices + 5, octahedron.faces), 0).shape == (0, 2, 2)


@pytest.mark.parametrize(("dim", "panels"), [(2, 3), (3, 6)])
def test_boundaries_keep_their_colors_and_panels(tmp_path: Path, dim: int, panels: int) -> None:
    saved = SavedCoverage.load(save_coverage(tmp_path, dim))
    *shown, key = draw_boundaries(saved, "toy", "details").axes
    assert len(shown) == panels
    for axes in shown:
        lines = [item for item in axes.collections if isinstance(item, LineCollection)]
        colors = np.array([line.get_color()[0][:3] for line in lines])
        assert np.allclose(colors, sequential_colors(len(RADII)))
        corners = np.concatenate([np.concatenate(line.get_segments()) for line in lines])
        box = np.array([axes.get_xlim(), axes.get_ylim()])
        assert ((corners > box[:, 0]) & (corners < box[:, 1])).all()
    titles = [axes.get_title(loc="left") for axes in shown[:3]]
    assert titles == ["latent, at the start", "data", "latent, at the end"]
    if dim == 2:
        assert np.allclose(shown[1].lines[0].get_xydata(), saved.points["data"])
        segments = shown[1].collections[1].get_segments()
        assert np.allclose(np.array(segments)[:, 0], saved.boundaries["data"][1].vertices)
    names = [text.get_text() for text in key.get_legend().get_texts()]
    contents = chi2.cdf(RADII**2, dim)
    assert names == [f"r = {r:g}: {part:.1%}" for r, part in zip(RADII, contents, strict=True)]


def test_limits_leave_out_strays_but_no_boundary() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, size=(5000, 2))
    points[0] = 50
    box = limits_of(points, [unit_sphere(2, 20).scaled(3.0)])
    assert np.ptp(box, axis=1) == pytest.approx(2 * 3 * 1.05)
    assert limits_of(np.zeros((3, 2)), []).shape == (2, 2)


@pytest.mark.parametrize("count", [1, 30])
def test_one_radius_and_many(tmp_path: Path, count: int) -> None:
    with np.load(save_coverage(tmp_path)) as file:
        arrays = dict(file)
    radii = np.linspace(0.2, 3, count)
    for name in ("boundary_latent", "boundary_data", "boundary_end"):
        arrays[name] = arrays[name][:1] / RADII[0] * radii[:, None, None]
    for name in ("coverage", "coverage_fresh"):
        arrays[name] = arrays[name][..., :1].repeat(count, axis=-1)
    saved = SavedCoverage.load(save(tmp_path / "a_coverage.npz", arrays, radii=radii))
    assert len(draw_radius(saved, "toy", "").axes) == 2
    names = draw_boundaries(saved, "toy", "").axes[-1].get_legend().get_texts()
    assert len(names) == min(count, 7)
    assert names[-1].get_text().startswith(f"r = {radii[-1]:.3g}")


def test_what_made_the_file_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    path = save_coverage(tmp_path)
    for score, told in (('"net"', "PRP schedule · trained network · 200"), ("7", "schedule · 200")):
        path.with_suffix(".json").write_text(f'{{"options": {{"score": {score}}}}}')
        picture = pictures_of([path], None, None)[0]
        picture.write(picture.path)
        assert told in texts(drawn[-1])
