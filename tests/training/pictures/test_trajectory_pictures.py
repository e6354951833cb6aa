"""Pictures of trajectories, and files that are broken or impossible."""

import json
import math
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dnnlib.errors import DataError, UsageError
from tests.support.figures import marks, places, words
from tests.support.picture_files import (
    SAVED,
    TIMES,
    save_check,
    save_coverage,
    save_image_matrices,
    save_images,
    save_roundtrips,
    save_simulation,
    save_summary,
    save_table,
    save_toy_matrices,
)
from tests.support.running import refusal
from training.files.trajectory import SavedTrajectory
from training.paper.containment import unit_sphere
from training.pictures import animations, simulations
from training.pictures.album import drawable_files, pictures_of
from training.pictures.content import Coloring
from training.pictures.figure import (
    Band,
    Line,
    Points,
    Segments,
    Span,
    Steps,
    Words,
    cloud,
    common_box,
    page_positions,
)
from training.pictures.simulations import flow_of, latent_law
from training.pictures.theme import BLUE, ORANGE


def load(folder, kind="melt", dim=2, **changes):
    return SavedTrajectory.load(save_simulation(folder, kind, dim, **changes))


def test_points_are_the_image_space_of_the_file(tmp_path):
    path = save_simulation(tmp_path, "melt")
    saved = SavedTrajectory.load(path)
    with np.load(path) as arrays:
        expected = arrays["scale"][:, None, None] * arrays["tilde_xs"]
        last = arrays["xs_es"][-1].astype(float)
    assert np.allclose(simulations.points_of(saved), expected, atol=1e-5)
    assert np.allclose(saved.last_variance, np.square(last).mean(axis=0))
    assert saved.compressed().tolist() == [False, True]
    assert saved.latent_variance()[0] == pytest.approx(1)


def test_kinds_and_latent_laws_are_told_by_time_name_and_parameters(tmp_path):
    melt, roundtrip, gen = (load(tmp_path, kind) for kind in ("melt", "roundtrip", "gen"))
    assert (melt.kind, roundtrip.kind, gen.kind) == ("melt", "roundtrip", "gen")
    assert latent_law(gen) == ""
    exact = f"closed form {gen.latent_variance()[1]:.2g}"
    for eps, text in (
        ("auto", "latents: closed-form Gaussian"),
        ("1e-2", f"latents: ε = 1e-2, {exact}"),
        ("paper:0.3", f"latents: A0² and ε = 0.3, {exact}"),
        ("empirical", "latents: variances of the melt"),
        (None, ""),
    ):
        content = json.dumps({"options": {"eps": eps}})
        (tmp_path / "circles_PRRto1D_exact_sim_params.json").write_text(content)
        assert (latent_law(gen), latent_law(melt)) == (text, "")
    assert exact not in words(simulations.clouds([gen]))
    images = SavedTrajectory.load(save_images(tmp_path, "gen"))
    content = json.dumps({"gen": {"options": {"eps": "auto", "gen_source": "empirical"}}})
    (tmp_path / "digits_PRRto8D_HD_pfODE_int_sim_params.json").write_text(content)
    assert latent_law(images) == "latents: variances of the melt"
    (tmp_path / "circles_PRRto1D_exact_sim_params.json").write_text("[1]")
    assert "sim_params" in refusal(latent_law, gen)


def test_embedded_toys_show_the_dimensions_that_hold_data(tmp_path):
    for values, shown in (([1, 1, 0, 0, 0], 2), ([2, 1, 1, 0], 3), ([1.0] * 9, 2)):
        saved = load(tmp_path, dim=len(values), eigenvalues=np.array(values, dtype=float))
        assert np.array_equal(simulations.points_of(saved), saved.states[..., :shown])
        text = f"first {shown} of {len(values)} eigen-dimensions"
        assert text in flow_of(saved).words


def test_large_files_are_drawn_by_evenly_spaced_samples(tmp_path):
    states = np.zeros((SAVED, 7001, 2))
    states[..., 0] = np.arange(7001)
    saved = load(tmp_path, xs_es=states, tilde_xs=None)
    assert (saved.states.shape[1], len(saved.last), saved.count) == (3000, 7001, 7001)
    assert saved.states[0, [0, -1], 0].tolist() == [0, 7000]
    assert flow_of(saved, np.array([0, 3]), most=100).points.shape == (2, 100, 2)


@pytest.mark.parametrize("dim", [2, 3])
def test_a_point_has_one_color_in_all_panels_and_rows(tmp_path, dim):
    there = flow_of(load(tmp_path, "melt", dim), np.arange(3))
    back = flow_of(load(tmp_path, "roundtrip", dim), np.arange(SAVED))
    assert np.allclose(there.colorings[0].colors, back.colorings[0].colors)
    figure = simulations.cloud_rows([there, back], "details")
    box = common_box([there.points, back.points])
    assert figure.columns == SAVED
    panels = [panel for panel in figure.panels if panel is not None]
    assert len(panels) == 3 + SAVED
    rows = ((row, zip(row.points, row.times, strict=True)) for row in (there, back))
    drawn = [(row, *each) for row, own in rows for each in own]
    for panel, (row, points, time) in zip(panels, drawn, strict=True):
        expected = cloud(points, row.colorings[0].colors, box)
        (shown,) = marks(panel, Points)
        assert np.array_equal(places(shown), places(expected))
        assert np.array_equal(shown.color, expected.color)
        assert panel.title == f"t = {time:.2f}"
        assert (panel.axes, bool(marks(panel, Segments))) == (dim == 2, dim == 3)
    assert "Inflating circles to a Gaussian" in words(figure)


def test_points_in_space_are_drawn_from_the_back_and_paler_there():
    points = np.random.default_rng(0).normal(size=(50, 3))
    colors = np.full((50, 3), 0.2)
    shown = cloud(points, colors, np.array([[-9.0, 9.0]] * 3))
    seen = page_positions(points)
    depth = np.linalg.norm(points, axis=1) ** 2 - np.linalg.norm(seen, axis=1) ** 2
    order = [int(np.abs(seen - place).sum(axis=1).argmin()) for place in places(shown)]
    toward = np.cross(*page_axes())
    assert np.allclose((points @ toward) ** 2, depth)
    assert (np.diff((points @ toward)[order]) >= 0).all()
    assert (np.diff(shown.color[:, 0]) <= 0).all()
    assert shown.color[-1] == pytest.approx(0.2)
    assert (
        len(cloud(points, colors, np.array([[-1.0, 1.0]] * 3)).x)
        == (np.abs(points) <= 1).all(axis=1).sum()
    )


def page_axes():
    """The directions to the right and upward on the page, in space."""
    return page_positions(np.eye(3)).T


def test_boxes_are_square_and_hold_all_but_strays():
    data = np.random.default_rng(0).uniform(-1, 1, size=(2, 5000, 2))
    data[0, 0] = 100
    far = 5 + np.random.default_rng(1).uniform(-1, 1, size=(1, 5000, 2))
    box = common_box([data, far])
    assert np.allclose(np.ptp(box, axis=1), np.ptp(box[0]))
    assert 6 < np.ptp(box[0]) < 9
    same = common_box([np.ones((2, 5, 3))])
    assert (same[:, 0] < 1).all()
    assert (same[:, 1] > 1).all()


@pytest.mark.parametrize("dim", [2, 3])
def test_strays_are_counted_and_three_dimensions_have_numbers(tmp_path, dim):
    points = np.random.default_rng(0).normal(size=(2, 4000, dim))
    points[1, 7] = 1e3
    row = replace(
        flow_of(load(tmp_path, dim=dim), np.arange(2)),
        points=points,
        names="abc"[:dim],
        colorings=[Coloring("", "", np.zeros((4000, 3)))],
    )
    figure = simulations.cloud_rows([row], "")
    text = words(figure)
    assert 1 <= int(text.split(" of 4000 points are outside")[0].split(" ")[-1]) <= 40
    assert "abc"[dim - 1] in text
    first = figure.panels[0]
    numbers = [text for mark in marks(first, Words) for text in mark.texts]
    assert any(text[-1].isdigit() for text in numbers) == (dim == 3)
    assert first.x_ticks is None


def test_seen_places_are_a_view_of_the_points():
    points = np.random.default_rng(0).normal(size=(10, 3))
    basis = np.linalg.lstsq(points, page_positions(points), rcond=None)[0]
    assert np.allclose(basis.T @ basis, np.eye(2))  # two orthonormal directions
    right, up = page_positions(np.array([[0.0, 0.0, 1.0]]))[0]
    assert abs(right) < 1e-12
    assert up > 0.9
    assert np.array_equal(page_positions(points[:, :2]), points[:, :2])


@pytest.mark.parametrize("saved", [2, 3, 6, 7, 50])
def test_panels_fall_where_points_move(saved):
    path = np.maximum(np.linspace(-2, 1, saved), 0)
    for points in (np.zeros((saved, 4, 2)), np.repeat(path, 8).reshape(saved, 4, 2)):
        chosen = simulations.telling_times(points, 6)
        assert len(chosen) == min(saved, 6)
        assert (chosen[0], chosen[-1]) == (0, saved - 1)
        assert (np.diff(chosen) > 0).all()
    assert (path[chosen] > 0).sum() >= min(saved, 50) // 12


def test_latents_are_densities_beside_the_closed_form_and_far_ones_are_told_of(tmp_path):
    melt = load(tmp_path, dim=9)
    figure = simulations.latents(melt)
    assert len(figure.panels) == 6
    ratios = melt.last_variance / melt.latent_variance()
    for number, panel in enumerate(figure.panels):
        exact = melt.latent_variance()[number]
        (curve,), (bars,) = marks(panel, Line), marks(panel, Steps)
        expected = np.exp(-(curve.x**2) / (2 * exact)) / np.sqrt(2 * np.pi * exact)
        assert np.allclose(curve.y, expected)
        assert (bars.heights * np.diff(bars.edges)).sum() == pytest.approx(1)
        assert curve.color == (ORANGE if number else BLUE)
        assert f"= {ratios[number]:.3f} × the closed form" in panel.note
        assert panel.x == f"latent e{'₁₂₃₄₅₆'[number]}, scaled"
        assert ("compressed to" in panel.title) == bool(number)
    states = np.zeros((SAVED, 30, 2))
    states[-1, :, 1] = 9
    first, second = simulations.latents(load(tmp_path, xs_es=states)).panels
    assert "tallest bar cut" in first.note
    assert "are outside" in second.note


def test_the_joint_and_the_quantiles_are_in_units_of_the_closed_form(tmp_path):
    generator = np.random.default_rng(0)
    melt = load(tmp_path)
    states = generator.normal(size=(SAVED, 4000, 2)) * np.sqrt(melt.latent_variance())
    melt = load(tmp_path, xs_es=states, tilde_xs=None)
    joint, quantiles = simulations.joint(melt).panels
    units = states[-1] / np.sqrt(melt.latent_variance())
    drawn = places(marks(joint, Points)[0])
    assert len(drawn) == 3000
    assert np.isclose(drawn[:, None, 0], units[None, :5, 0]).any(axis=0)[0]
    radii = [np.linalg.norm(places(circle), axis=1) for circle in marks(joint, Line)]
    assert np.allclose(radii, [[1], [2], [3]])
    inside = (np.linalg.norm(units, axis=1) < 1).mean()
    assert joint.title.startswith(f"1, 2, 3 σ hold {inside:.1%}")
    (band,) = marks(quantiles, Band)
    lines = marks(quantiles, Line)[1:]
    assert [(line.label, line.color) for line in lines] == [("kept", BLUE), ("compressed", ORANGE)]
    for line in lines:
        held = (line.y > band.low) & (line.y < band.high)
        assert held.mean() > 0.85  # the samples are normal
        assert np.allclose(line.x, -line.x[::-1])


@pytest.mark.parametrize(("dim", "log"), [(40, False), (300, True)])
def test_spectra_show_all_variances_and_their_ratios(tmp_path, dim, log):
    melt = load(tmp_path, dim=dim)
    states = melt.states[:, :, :1].repeat(dim, axis=2) * np.geomspace(1, 5, dim)
    states[-1, :, 3] = 0
    melt = load(tmp_path, dim=dim, xs_es=states)
    exact, measured = melt.latent_variance(), melt.last_variance
    above, below = simulations.spectrum(melt).panels
    for panel, values in ((above, measured), (below, measured / exact)):
        low, high = panel.y_limits
        drawn = np.full(dim, np.nan)
        for mark in marks(panel, Points):
            drawn[mark.x - 1] = mark.y
        assert np.allclose(drawn, np.clip(values, low, high))
        assert panel.x_log is log
        assert 3 not in np.flatnonzero(drawn > low)
    (band,) = marks(below, Span)
    assert band.high == pytest.approx(1 + 2 * math.sqrt(2 / 30))


def test_the_mean_ratio_has_the_error_of_gaussian_samples():
    samples = np.random.default_rng(0).normal(size=(200, 50, 40))
    means = np.square(samples).mean(axis=(1, 2))
    text = simulations.mean_ratio(np.square(samples[0]).mean(axis=0), 50)
    error = float(text.split("± ")[1].split()[0])
    assert error == pytest.approx(means.std(), rel=0.15)
    text = simulations.mean_ratio(np.array([0.8, 0.9, 1.1]), 200)
    assert text == "kept dimensions: mean ratio 0.933 ± 0.054 (standard error), 2 of 3 below 1"


@pytest.mark.parametrize("dim", [2, 3])
def test_log_densities_color_the_points(tmp_path, dim):
    values = np.linspace(-4, -1, 30)
    figure = simulations.densities(load(tmp_path, "gen", dim, log_prob=values))
    points, histogram = figure.panels
    assert marks(histogram, Steps)[0].heights.sum() == 29  # the lowest is told of
    assert histogram.title.startswith("mean −2.5 ± 0.1")
    assert "1 below −3.98 not drawn" in histogram.note
    assert histogram.x == "log density in nats"
    assert "generated circles" in words(figure)
    assert figure.scale.high == "−1"
    if dim == 2:
        data = simulations.points_of(load(tmp_path, "gen"))[-1]
        assert np.allclose(places(marks(points, Points)[0]), data)


def test_images_have_bits_per_dimension(tmp_path):
    densities = {"log_prob": np.zeros(10), "bits_per_dim": np.linspace(1, 2, 10)}
    saved = SavedTrajectory.load(save_images(tmp_path, "melt", **densities))
    (panel,) = simulations.densities(saved).panels
    assert panel.x == "bits per dimension"
    assert panel.title.startswith("mean 1.5 ±")
    assert not marks(panel, Steps), "10 images are points, not bars"
    assert len(marks(panel, Points)[0].x) == 10


@pytest.mark.parametrize("dim", [2, 3])
def test_frames_move_the_points_and_nothing_else(tmp_path, dim, monkeypatch):
    monkeypatch.setattr(animations, "DPI", 20)
    row = flow_of(load(tmp_path, "gen", dim), np.arange(SAVED))
    flow = replace(row, points=row.points[[0, 2, 2, 4]], times=np.arange(4.0))
    frames = animations.frames_of(flow, "t", "s")
    assert (len(frames), frames[0].dtype) == (4, np.uint8)
    above = [frame[: -len(frame) // 5] for frame in frames]
    assert not np.array_equal(above[0], above[1])
    assert np.array_equal(above[1], above[2])
    assert not np.array_equal(frames[1], frames[2]), "the mark of the time moves"
    assert animations.seconds_of(4) == [0.4, 0.25, 0.25, 1.1]


def test_gif_has_a_frame_a_time_in_steady_colors(tmp_path):
    frames = [np.full((40, 50, 3), 255, np.uint8) for _ in range(3)]
    for number, frame in enumerate(frames):
        frame[10:20, 10 * number : 10 * number + 10] = (200, 40, 90)
    path = tmp_path / "a.gif"
    animations.write_gif(path, frames, [0.4, 0.25, 1.1])
    durations = []
    with Image.open(path) as image:
        assert image.info["loop"] == 0
        for number, frame in enumerate(frames):
            image.seek(number)
            durations.append(image.info["duration"])
            assert np.abs(np.asarray(image.convert("RGB")).astype(int) - frame).max() < 8
    assert durations == [400, 250, 1100]


def test_mp4_needs_ffmpeg_and_even_frames(tmp_path, monkeypatch):
    frames = [np.full((7, 9, 3), value, np.uint8) for value in (1, 2)]
    path = tmp_path / "a.mp4"
    monkeypatch.setattr(animations.shutil, "which", lambda name: None)
    with pytest.raises(UsageError, match="ffmpeg"):
        animations.write_mp4(path, frames, [0.1, 1.0])
    program = tmp_path / "ffmpeg"
    program.write_text('#!/bin/sh\nfor last; do :; done\necho "$*" >"$last.told"\ncat >"$last"\n')
    program.chmod(0o755)
    monkeypatch.setattr(animations.shutil, "which", lambda name: str(program))
    animations.write_mp4(path, frames, [0.1, 1.0])
    assert "-s 8x6 " in Path(f"{path}.told").read_text()
    assert path.read_bytes() == bytes([1]) * (8 * 6 * 3 * 3) + bytes([2]) * (8 * 6 * 3 * 30)
    program.write_text("#!/bin/sh\ncat >/dev/null\necho no such codec >&2\nexit 3\n")
    with pytest.raises(DataError, match="no such codec"):
        animations.write_mp4(path, frames, [0.1, 1.0])


save_melt = partial(save_simulation, kind="melt")
save_image_melt = partial(save_images, kind="melt")
OF_POINTS, OF_IMAGES, OF_TABLES = {"tilde_xs"}, {"eigenvectors"}, {"exact", "test_data"}
OF_CORRELATIONS = {"lags", "n_samples", "net_outputs_constant", "net_residuals_constant"}
NOT_DRAWN = {"format"} | OF_POINTS | OF_IMAGES | OF_TABLES | OF_CORRELATIONS
CORRELATIONS = (save_summary, save_toy_matrices, save_image_matrices)
KINDS = (save_melt, save_image_melt, save_roundtrips, save_coverage, *CORRELATIONS)
ERRORS = ("mse", "mse_float", "max_abs_error", "exact")


@pytest.mark.parametrize("save", KINDS)
def test_no_array_that_is_drawn_may_be_broken(tmp_path, save):
    with np.load(save(tmp_path)) as file:
        arrays = dict(file)
    drawn = [tmp_path] if save is save_image_matrices else [save(tmp_path)]
    for name in arrays.keys() - NOT_DRAWN:
        shape = arrays[name].shape
        for broken in (np.full(shape, np.nan), np.full(shape, "text"), np.ones((1, *shape, 1))):
            save(tmp_path, **{name: broken})
            with pytest.raises(DataError, match=f"'{name}'") as raised:
                pictures_of(drawn, None, None)
            assert str(tmp_path) in str(raised.value)
        save(tmp_path, **{name: None})
        with suppress(DataError):  # the rest may be enough, but nothing else is raised
            pictures_of(drawn, None, None)


@pytest.mark.parametrize(
    ("save", "changes", "message"),
    [
        (save_melt, {"xs_es": np.zeros((1, 30, 2))}, "with S at least 2"),
        (save_melt, {"times": np.zeros(SAVED)}, "'times' are not monotonic"),
        (save_melt, {"noise_variance": np.ones((SAVED, 3))}, r"\[5, 3\], expected \[5, 2\]"),
        (save_melt, {"eigenvalues": np.array([1.0, -1.0])}, "positive"),
        (save_melt, {"log_prob": np.full(30, np.nan)}, "'log_prob' has values that are not finite"),
        (save_melt, {"tilde_xs": np.full((SAVED, 30, 2), np.nan)}, "'tilde_xs' has .* not finite"),
        (save_image_melt, {"image_shape": np.array([1, 4, 5])}, r"\[1, 4, 5\].* = 16"),
        (save_image_melt, {"image_shape": np.array([4, 2, 2])}, "C = 1 or 3"),
        (save_image_melt, {"image_shape": np.array([-1, -4, 4])}, "'image_shape'"),
        (
            save_image_melt,
            {"tilde_xs": np.zeros((SAVED, 10, 15))},
            r"'tilde_xs' has shape .*15\], expected \[5, 10, 16\]",
        ),
        (save_roundtrips, {"originals": np.zeros((3, 2, 4, 4), np.uint8)}, "ted .3, 2, 4, 4."),
        (save_roundtrips, {"originals": np.zeros((3, 1, 4, 4))}, "float64, expected uint8"),
        (save_roundtrips, {"max_abs_error": -np.ones(3)}, "outside 0 to inf"),
        (save_roundtrips, {f"all_{name}": np.ones(2) for name in ERRORS}, "3 images.*of only 2"),
        (save_coverage, {"radii": np.array([1.0, 0.5, 2.0])}, "'radii' must be increasing"),
        (save_coverage, {"radii": np.array([1.5, 2.5, 4.0])}, "not on ellipsoids"),
        (save_coverage, {"boundary_latent": np.zeros((3, 32, 2))}, "not on ellipsoids"),
        (save_coverage, {"coverage": np.full((3, 3), 2.0)}, "outside 0 to 1"),
        (save_coverage, {"boundary_data": np.full((3, 32, 2), 1e300)}, "values outside"),
        (save_coverage, {"fresh_data": np.zeros((200, 4))}, "4-D"),
        (
            save_coverage,
            {"faces": unit_sphere(2, 32).faces[1:]},
            "faces of '.*s' do not match: .*not closed",
        ),
        (save_coverage, {"faces": np.full((32, 2), 32)}, "do not match: .*has only 32"),
        (save_summary, {"times": np.arange(9)[::-1]}, "'times' must be increasing"),
        (save_summary, {"net_residuals_mean": np.full(9, 2.0)}, "outside -1.* to 1"),
        (save_summary, {"n_samples": np.array(1)}, "'n_samples' has values outside 2"),
        (save_toy_matrices, {"times": TIMES[::-1]}, "'times' must be increasing"),
        (save_toy_matrices, {"times": TIMES + 1}, "the summary in its folder have different times"),
        (
            save_toy_matrices,
            {"net_outputs_acs": np.zeros((9, 2, 3))},
            r"shape \[9, 2, 3\], expected \[9, D, D\]",
        ),
        (save_toy_matrices, {"net_residuals_acs": np.full((9, 2, 2), 1.1)}, "outside -1.* to 1"),
        (save_image_matrices, {"time": np.array(0.5)}, "must increase"),
        (save_image_matrices, {"time": np.array(99.0)}, "times differ from those in the summary"),
        (
            save_image_matrices,
            {"net_outputs_acs": np.zeros((6, 6))},
            r"shape \[6, 6\], expected \[7, 7\]",
        ),
        (save_image_matrices, {"net_residuals_acs": None}, "contain different quantities"),
        (save_table, {"points": np.full((60, 4), np.nan)}, "at least two finite rows"),
        (save_table, {"names": np.array(["a", "b"])}, r"'names' has shape \[2\], expected \[4\]"),
        (save_check, {"ranks": np.full((60, 4), 1.5)}, "outside 0 to 1"),
        (save_check, {"crps": np.ones((60, 5))}, "has 5 quantities, but 'names' has 4"),
        (save_check, {"names": np.array(["a", "a", "b", "c"])}, "two equal entries"),
        (save_check, {"runs": 19}, "too few runs"),
    ],
)
def test_impossible_values_are_refused(tmp_path, save, changes, message):
    path = save(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as raised:
        pictures_of([tmp_path if save is save_image_matrices else path], None, None)
    assert str(tmp_path) in str(raised.value)


def test_kinds_are_known_by_their_format(tmp_path):
    for number, save in enumerate(KINDS):
        folder = tmp_path / str(number)
        folder.mkdir()
        renamed = save(folder).rename(folder / "renamed.npz")
        assert drawable_files([folder, renamed]).count(renamed) == 1
    path = save_melt(tmp_path, format=np.array("inflationary-flows fid reference 1"))
    with pytest.raises(DataError, match="contains features of images, which cannot be drawn"):
        pictures_of([path], None, None)
    assert "contains no results" in refusal(drawable_files, [tmp_path])
