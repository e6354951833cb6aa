"""Pictures of coverage: the exact curve and its bands, cuts of meshes, files that make no sense."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from scipy.stats import chi2

import visualize
from dnnlib.errors import DataError
from torch_utils.results import save_json
from training.measure.boundaries import Boundary, gaussian_content_within, unit_sphere
from training.measure.coverage import Points, Spheres, measure_coverage, refitted, transported
from training.pictures.album import drawable_files, pictures_of
from training.pictures.coverage.album import pictures_of_coverage
from training.pictures.coverage.boundaries import Panel, cut, draw_boundaries, limits_of
from training.pictures.coverage.radius import Counts, draw_coverage
from training.pictures.coverage.saved import SavedCoverage
from training.pictures.style.colors import sequential_colors

RADII = np.array([0.5, 1.5, 3.0])
STD = {2: [1.0, 0.02], 3: [1.0, 0.9, 0.02]}
SIZES = {2: 32, 3: 60}


def bent(points: torch.Tensor) -> torch.Tensor:
    """A shear that bends the first axis: smooth, and easy to invert."""
    return torch.cat([points[..., :1], points[..., 1:] + 0.5 * points[..., :1] ** 2], dim=-1)


def arrays_of(
    dim: int = 2, seeds: int = 1, alpha: float | None = None, count: int = 200
) -> dict[str, Any]:
    """What ``toy_mesh_exps.py`` writes, for a flow that scales the latent and bends it.

    With an alpha, its boundaries are refitted.
    """
    spheres = Spheres(RADII, unit_sphere(dim, SIZES[dim]))
    generator = torch.Generator().manual_seed(0)
    test, fresh = torch.randn(2, seeds, count, dim, generator=generator, dtype=torch.float64)
    units = Points(test, spheres.vertices)
    data = units.mapped(bent)
    points = {"latent": units, "data": data, "end": units}
    fit = transported if alpha is None else refitted
    boundaries = {
        name: fit(item.boundary, spheres.unit if alpha is None else alpha)
        for name, item in points.items()
    }
    found = measure_coverage(points, boundaries, bent(fresh))
    arrays: dict[str, Any] = {
        "radii": RADII,
        "exact": spheres.content(),
        "faces": spheres.unit.faces,
        "coverage": found.test,
        "coverage_fresh": found.fresh,
        "fresh_data": bent(fresh).numpy(),
    }
    for name, item in points.items():
        unit = 1 if name == "data" else np.array(STD[dim])
        arrays[f"test_{name}"] = item.test.numpy() * unit
        arrays[f"boundary_{name}"] = item.boundary.numpy() * unit
        if alpha is not None:
            for index, boundary in enumerate(boundaries[name]):
                arrays[f"faces_{name}_{index}"] = boundary.faces
    return arrays


def save(path: Path, arrays: dict[str, Any], **changes: Any) -> Path:
    """``changes`` replace or drop arrays."""
    arrays = {**arrays, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def figure_of(arrays: dict[str, Any], folder: Path, kind: str) -> Figure:
    """The figure that is drawn of a file with these arrays."""
    drawn: list[Figure] = []
    path = save(folder / "toy_PRP_coverage.npz", arrays)
    (picture,) = (item for item in pictures_of_coverage(path, None) if kind in item.path.name)
    original = Figure.savefig
    with pytest.MonkeyPatch.context() as patch:

        def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
            drawn.append(figure)
            original(figure, *args, **kwargs)

        patch.setattr(Figure, "savefig", keep)
        picture.write(folder / "written.png")
    (figure,) = drawn
    return figure


@pytest.mark.parametrize("dim", [2, 3])
def test_latent_points_are_read_in_units_of_their_standard_deviations(
    tmp_path: Path, dim: int
) -> None:
    saved = SavedCoverage.load(save(tmp_path / "a.npz", arrays_of(dim)))
    assert (saved.dim, saved.count, saved.refitted) == (dim, 200, False)
    assert np.allclose(saved.latent_std, STD[dim])
    for stage in ("latent", "end"):
        for radius, boundary in zip(RADII, saved.boundaries[stage], strict=True):
            assert np.allclose(np.linalg.norm(boundary.vertices, axis=1), radius)
        assert 0.8 < saved.points[stage].std(axis=0).min() < 1.2
    arrays = arrays_of(dim)
    assert np.allclose(saved.points["data"], arrays["fresh_data"][0])
    assert np.allclose(saved.boundaries["data"][1].vertices, arrays["boundary_data"][1])


@pytest.mark.parametrize("dim", [2, 3])
def test_refitted_boundaries_have_the_vertices_of_smaller_ones(tmp_path: Path, dim: int) -> None:
    arrays = arrays_of(dim, alpha=2.0)
    saved = SavedCoverage.load(save(tmp_path / "a.npz", arrays))
    assert saved.refitted
    contents = [gaussian_content_within(*boundary) for boundary in saved.boundaries["latent"]]
    assert np.allclose(contents, chi2.cdf(RADII**2, dim), atol=0.06)
    assert len(saved.boundaries["data"][2].vertices) == 3 * SIZES[dim]
    # With a small alpha there may be no boundary at all.
    arrays["faces_latent_0"] = np.zeros((0, dim), dtype=np.int64)
    figure_of(arrays, tmp_path, "boundaries")
    figure_of(arrays, tmp_path, "radius")


@pytest.mark.parametrize(("dim", "seeds"), [(2, 1), (3, 1), (2, 4)])
def test_the_curve_is_chi_square_and_its_band_binomial(
    tmp_path: Path, dim: int, seeds: int
) -> None:
    arrays = arrays_of(dim, seeds)
    above, below = sorted(figure_of(arrays, tmp_path, "radius").axes, key=lambda a: -a.bbox.y0)
    radius, curve = above.lines[0].get_data()
    exact = chi2.cdf(radius**2, dim)
    assert np.allclose(curve, exact, atol=1e-12)
    assert len(radius) > 100
    assert radius[0] == 0
    assert radius[-1] > RADII[-1]
    (band,) = (item for item in below.collections if isinstance(item, PolyCollection))
    edge = band.get_paths()[0].vertices
    expected = 200 * np.sqrt(exact * (1 - exact) / 200)
    for sign in (1, -1):
        side = edge[sign * edge[:, 1] > 1e-9]
        assert np.allclose(sign * side[:, 1], np.interp(side[:, 0], radius, expected), atol=1e-6)


@pytest.mark.parametrize("seeds", [1, 4])
def test_marks_are_means_and_bars_two_standard_deviations_of_seeds(
    tmp_path: Path, seeds: int
) -> None:
    arrays = arrays_of(2, seeds)
    above, below = sorted(
        figure_of(arrays, tmp_path, "radius").axes, key=lambda axes: -axes.bbox.y0
    )
    columns = [*np.moveaxis(arrays["coverage"], 1, 0), arrays["coverage_fresh"]]
    assert len(above.lines) == 1 + len(columns)
    bars = below.containers
    for line, bar, values in zip(above.lines[1:], bars, columns, strict=True):
        mean = values.mean(axis=0)
        assert np.allclose(line.get_xydata(), np.stack([RADII, mean], axis=1))
        marks, _, drawn = bar.lines
        assert np.allclose(marks.get_ydata(), 100 * (mean - chi2.cdf(RADII**2, 2)))
        assert np.abs(marks.get_xdata() - RADII).max() < np.diff(RADII).min() / 3
        if seeds == 1:
            assert not drawn
            continue
        ends = np.array(drawn[0].get_segments())[:, :, 1]
        assert np.allclose(np.ptp(ends, axis=1), 400 * values.std(axis=0, ddof=1))
    starts = np.array([bar.lines[0].get_xdata() for bar in bars])
    assert (np.diff(starts, axis=0) > 0).all()
    notes = " ".join(text.get_text() for text in below.texts)
    assert ("4 seeds" in notes) == (seeds == 4)


def test_the_dashed_line_is_what_the_polygon_holds(tmp_path: Path) -> None:
    arrays = arrays_of(2)
    below = min(figure_of(arrays, tmp_path, "radius").axes, key=lambda axes: axes.bbox.y0)
    (dashed,) = (line for line in below.lines if line.get_linestyle() == "--")
    unit = unit_sphere(2, SIZES[2])
    lost = [gaussian_content_within(*unit.scaled(r)) - chi2.cdf(r**2, 2) for r in RADII]
    assert np.allclose(dashed.get_ydata(), [0, *(100 * np.array(lost))], atol=1e-9)
    assert min(lost) < -1e-3


def test_one_radius_and_many() -> None:
    for radii in (np.array([2.0]), np.linspace(0.1, 4, 40)):
        counts = [Counts("a", np.full((1, len(radii)), 0.5))]
        figure = draw_coverage(radii, counts, np.full(len(radii), 0.5), 2, 10, "t", "s")
        figure.savefig(io.BytesIO())


def test_a_cut_sphere_is_a_circle_and_closed() -> None:
    ball = unit_sphere(3, 2000).scaled([2.0, 1.0, 3.0])
    segments = cut(ball, 1)
    x, z = segments.reshape(-1, 2).T
    assert np.abs((x / 2) ** 2 + (z / 3) ** 2 - 1).max() < 0.02
    # Ends meet in pairs; around a vertex in the plane there are segments of no length.
    _, counts = np.unique(segments.reshape(-1, 2).round(9), axis=0, return_counts=True)
    assert (counts % 2 == 0).all()


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_cuts_are_those_of_an_independent_library(axis: int) -> None:
    rough = unit_sphere(3, 300, torch.Generator().manual_seed(1))
    moved = Boundary(bent(torch.from_numpy(rough.vertices)).numpy(), rough.faces)
    mesh = trimesh.Trimesh(*moved, process=False)
    segments = trimesh.intersections.mesh_plane(mesh, np.eye(3)[axis], np.zeros(3))
    expected = np.linalg.norm(np.diff(segments, axis=1), axis=-1).sum()
    found = np.linalg.norm(np.diff(cut(moved, axis), axis=1), axis=-1).sum()
    assert found == pytest.approx(expected, rel=1e-9)


def test_a_plane_through_vertices_cuts_all_the_same() -> None:
    corners = np.concatenate([np.eye(3), -np.eye(3)])
    hull = trimesh.convex.convex_hull(corners)
    octahedron = Boundary(np.asarray(hull.vertices), np.asarray(hull.faces, dtype=np.int64))
    for axis in range(3):
        segments = cut(octahedron, axis)
        assert np.isfinite(segments).all()
        lengths = np.linalg.norm(np.diff(segments, axis=1), axis=-1)
        assert lengths.sum() == pytest.approx(4 * np.sqrt(2))
    above = Boundary(octahedron.vertices + 5, octahedron.faces)
    assert cut(above, 0).shape == (0, 2, 2)


@pytest.mark.parametrize(("dim", "panels"), [(2, 3), (3, 6)])
def test_a_boundary_has_one_color_in_all_panels(tmp_path: Path, dim: int, panels: int) -> None:
    figure = figure_of(arrays_of(dim), tmp_path, "boundaries")
    assert len(figure.axes) == panels
    colors = [
        [item.get_color()[0] for item in axes.collections if isinstance(item, LineCollection)]
        for axes in figure.axes
    ]
    assert all(np.allclose(shown, colors[0]) for shown in colors)
    assert np.allclose(np.array(colors[0])[:, :3], sequential_colors(len(RADII)))
    assert [axes.get_title(loc="left") for axes in figure.axes[:3]] == [
        "latent, at the start",
        "data",
        "latent, at the end",
    ]
    assert {axes.get_aspect() for axes in figure.axes} == {1.0}
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == [
        f"r = {radius:g}: {part:.1%}"
        for radius, part in zip(RADII, chi2.cdf(RADII**2, dim), strict=True)
    ]
    assert "0.02" in " ".join(text.get_text() for text in figure.axes[0].texts)


def test_panels_hold_their_boundaries_and_points(tmp_path: Path) -> None:
    arrays = arrays_of(2)
    figure = figure_of(arrays, tmp_path, "boundaries")
    latent, data, _ = figure.axes
    assert np.allclose(data.lines[0].get_xydata(), arrays["fresh_data"][0])
    assert np.allclose(latent.lines[0].get_xydata(), arrays["test_latent"][0] / STD[2])
    for index, item in enumerate(data.collections):
        vertices = arrays["boundary_data"][index]
        assert np.allclose(np.array(item.get_segments())[:, 0], vertices)
        (left, right), (low, high) = data.get_xlim(), data.get_ylim()
        assert left < vertices[:, 0].min()
        assert vertices[:, 0].max() < right
        assert low < vertices[:, 1].min()
        assert vertices[:, 1].max() < high


def test_limits_leave_out_strays_but_no_boundary() -> None:
    points = np.random.default_rng(0).uniform(-1, 1, size=(5000, 2))
    points[0] = 50
    box = limits_of(points, [unit_sphere(2, 20).scaled(3.0)])
    assert np.ptp(box, axis=1) == pytest.approx(2 * 3 * 1.05)
    assert limits_of(np.zeros((3, 2)), []).shape == (2, 2)


def test_many_boundaries_share_a_legend_of_some() -> None:
    outlines = [unit_sphere(2, 8).scaled(r).vertices[unit_sphere(2, 8).faces] for r in range(1, 31)]
    panel = Panel(np.zeros((1, 2)), outlines, np.array([[-31, 31.0]] * 2), "xy", "t", "n")
    figure = draw_boundaries([[panel]], [f"r = {r}" for r in range(1, 31)], "t", "s")
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert len(names) < 10
    assert (names[0], names[-1]) == ("r = 1", "r = 30")


def test_sequential_colors_get_lighter_and_differ() -> None:
    colors = sequential_colors(7)
    luma = colors @ [0.299, 0.587, 0.114]
    assert (np.diff(luma) > 0).all()
    assert luma.max() < 0.85
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 0.1
    assert sequential_colors(1).shape == (1, 3)


def test_a_folder_of_coverage(run_script: Callable[..., Any], tmp_path: Path) -> None:
    save(tmp_path / "s_curve_PRRto2D_coverage.npz", arrays_of(3))
    save_json(tmp_path / "s_curve_PRRto2D_coverage.json", {"options": {"score": "exact"}})
    (tmp_path / "s_curve_PRRto2D_r1_data.ply").write_bytes(b"ply")
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    result = run_script(visualize, tmp_path)
    assert (result.code, result.err) == (0, "")
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == [
        "s_curve_PRRto2D_coverage_boundaries.png",
        "s_curve_PRRto2D_coverage_radius.png",
    ]
    assert len(result.out.splitlines()) == 2


def test_what_made_the_file_is_told(tmp_path: Path) -> None:
    for score, words in (("net", "trained network"), ("exact", "exact denoiser"), (7, "")):
        save_json(tmp_path / "toy_PRP_coverage.json", {"options": {"score": score}})
        texts = [text.get_text() for text in figure_of(arrays_of(), tmp_path, "radius").texts]
        told = f"PRP schedule · {words} · " if words else "PRP schedule · "
        assert texts[1] == f"{told}200 points"
    (tmp_path / "toy_PRP_coverage.json").write_text("[1]")
    with pytest.raises(DataError, match=r"toy_PRP_coverage\.json"):
        pictures_of([tmp_path / "toy_PRP_coverage.npz"], None, None)


def scaled(name: str, factor: float) -> dict[str, Any]:
    return {name: arrays_of()[name] * factor}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fresh_data": None}, "no array 'fresh_data'"),
        ({"boundary_end": None}, "no array 'boundary_end'"),
        ({"radii": np.array([1.0, 0.5, 2.0])}, "'radii' should be positive and increase"),
        ({"radii": np.zeros(0)}, r"'radii' is \[0\], but should be \[R\]"),
        ({"radii": np.ones(4).cumsum()}, r"'coverage' is \[1, 3, 3\].*\[1, 3, 4\]"),
        ({"radii": RADII + 1}, "not ellipsoids"),
        ({"boundary_latent": np.ones((3, 32, 2))}, "not ellipsoids"),
        ({"boundary_latent": np.zeros((3, 32, 2))}, "not ellipsoids"),
        (scaled("coverage", 2.0), "'coverage' should hold fractions"),
        (scaled("coverage_fresh", -1.0), "'coverage_fresh' should hold fractions"),
        (scaled("test_latent", np.nan), "'test_latent' has values that are not finite"),
        (scaled("boundary_data", 1e300), "'boundary_data' has values beyond"),
        ({"fresh_data": np.zeros((1, 200, 4))}, "4-D"),
        ({"fresh_data": np.zeros((200, 2))}, r"'fresh_data' is \[200, 2\]"),
        ({"test_end": np.zeros((1, 200, 3))}, r"'test_end' is \[1, 200, 3\]"),
        ({"coverage": np.full((1, 3, 3), "a")}, "numbers"),
        ({"faces": np.zeros((32, 3), int)}, "'faces' do not fit: .*2 integers"),
        ({"faces": np.ones((32, 2))}, "'faces' do not fit: .*float64"),
        ({"faces": arrays_of()["faces"] + 1}, "'faces' do not fit: .*not among the 32"),
        ({"faces": arrays_of()["faces"][1:]}, "'faces' do not fit: .*not closed"),
        ({"faces_data_1": np.array([[0, 1]])}, "'faces_data_1' do not fit: .*not closed"),
    ],
)
def test_wrong_arrays(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = save(tmp_path / "a_coverage.npz", arrays_of(), **changes)
    with pytest.raises(DataError, match=message) as raised:
        pictures_of([path], None, None)
    assert str(path) in str(raised.value)


def test_an_object_array_is_refused_in_one_line(
    run_script: Callable[..., Any], tmp_path: Path
) -> None:
    radii = np.array([{}, []], dtype=object)
    path = save(tmp_path / "a_coverage.npz", arrays_of(), radii=radii)
    result = run_script(visualize, path, f"--dest={tmp_path / 'pictures'}")
    assert result.code == 1
    assert "'radii'" in result.error
    assert not (tmp_path / "pictures").exists()


def test_dollar_signs_in_names_are_no_mathematics(tmp_path: Path) -> None:
    path = save(tmp_path / "$\\frac$_coverage.npz", arrays_of())
    for number, picture in enumerate(pictures_of([path], None, None)):
        picture.write(tmp_path / f"{number}.png")


def test_coverage_is_recognized_by_its_arrays(tmp_path: Path) -> None:
    path = save(tmp_path / "renamed.npz", arrays_of())
    assert drawable_files([tmp_path]) == [path]
    names = [picture.path.name for picture in pictures_of([tmp_path], None, None)]
    assert names == ["renamed_radius.png", "renamed_boundaries.png"]
