"""Pictures of correlations: lines against the lag, and matrices at telling times."""

from math import nan, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import picture_files as files
from tests.support.figures import marks, places, words
from training.files.correlations import SavedLags, SavedMatrices, condensed, telling_lags
from training.paper.residuals import CorrelationTime
from training.pictures.correlations import by_lag, matrices, name_and_details, quantile_band
from training.pictures.figure import Band, Image, Line, Points, Span, Words
from training.pictures.theme import diverging_colors


@pytest.mark.parametrize("dim", [1, 2, 3, 12])
def test_lines_are_means_and_their_spread_beside_a_band_of_chance(tmp_path, dim):
    """Of few dimensions each is drawn, of many a band of those that vary."""
    constant = (1, 5) if dim == 12 else ()
    summary, _ = files.correlations(dim, files.QUANTITIES, constant)
    saved = SavedLags.load(files.save(tmp_path / "a_summary.npz", summary))
    figure = by_lag(saved, "name", "details")
    (panel,) = figure.panels
    lines = marks(panel, Line)
    expected = [summary[f"{name}_mean"] for name in files.QUANTITIES]
    if dim < 12:
        for name in files.QUANTITIES:
            expected += [*summary[f"{name}_diagonal"].T]
    assert len(lines) == len(expected)
    for values in expected:
        assert any(np.allclose(line.y, values) for line in lines)
    assert all(np.allclose(line.x, files.LAGS) for line in lines)
    bands = marks(panel, Band)
    assert len(bands) == (2 if dim == 12 else 0)
    for band, name in zip(bands, files.QUANTITIES, strict=False):
        varying = np.delete(summary[f"{name}_diagonal"], constant, axis=1)
        ends = np.quantile(varying, [0.1, 0.9], axis=1)
        np.testing.assert_allclose([band.low, band.high], ends, atol=1e-6)
    (chance,) = marks(panel, Span)
    assert chance.high == -chance.low == pytest.approx(2 / sqrt(files.SAMPLES), rel=1e-3)
    assert "N = 10,000" in words(figure)


def test_dimensions_of_rounding_alone_are_not_drawn(tmp_path):
    summary, _ = files.correlations(12, files.QUANTITIES)
    summary["net_residuals_std"][3:, 7] = 1e-7
    saved = SavedLags.load(files.save(tmp_path / "a_summary.npz", summary))
    hidden = np.isnan(saved.curves["net_residuals"].diagonal)
    assert np.flatnonzero(hidden.all(axis=0)).tolist() == [7]
    assert not np.isnan(saved.curves["net_outputs"].diagonal).any()
    diagonal = np.array([[0.5, 1.0], [nan, nan]])
    assert np.allclose(quantile_band(diagonal), [[0.55, 0.0], [0.95, 0.0]])


def test_correlation_times_are_told_and_marked(tmp_path):
    """A line from 1 to 0 at lag 2, whose integral is 1; others stay, or are gone at once."""
    curves = {
        "net_outputs": np.full(len(files.LAGS), 0.75),
        "net_residuals": np.clip(1 - files.LAGS / 2, 0, 1),
        "exact_residuals": np.array([1.0, 0.05, 0.02, *[0.05] * 6]),
    }
    summary = {"times": files.TIMES, "n_samples": 10**6}
    for name, values in curves.items():
        columns = values[:, None].repeat(2, axis=1)
        summary |= {f"{name}_mean": values, f"{name}_diagonal": columns}
        summary[f"{name}_std"] = np.ones_like(columns)
    saved = SavedLags.load(files.save(tmp_path / "a_summary.npz", summary))
    assert saved.lasting.integral == pytest.approx(1, abs=1e-5)
    figure = by_lag(saved, "name", "")
    assert [mark.label for mark in figure.legend][1:] == [
        "network output D, correlation time at least 3",
        "residual D − e, correlation time 1",
        "error D − exact D, correlation time < 0.5",
    ]
    triangles = np.concatenate([places(mark) for mark in marks(figure.panels[0], Points)])
    np.testing.assert_allclose(triangles, [[3, 0], [1, 0], [0.5, 0]], atol=1e-5)


@given(st.floats(0, 100), st.integers(2, 700), st.sampled_from([None, "upper", "lower"]))
def test_telling_lags(lasting, count, bound):
    every = np.linspace(0, 4, count)
    chosen = telling_lags(every, CorrelationTime(lasting, bound, nan, nan))
    indices = list(chosen)
    assert indices == sorted(set(indices))
    assert (indices[0], indices[-1]) == (0, count - 1)
    assert len(indices) <= 4
    assert chosen[0] == "first time"
    assert max(np.abs(every - lasting).argmin(), 1) in indices
    assert np.abs(every[indices] - 2).min() <= np.abs(every - 2).min() + 1e-12


def test_telling_lags_without_a_correlation_time_are_even():
    assert list(telling_lags(np.arange(10.0), None)) == [0, 3, 6, 9]
    assert telling_lags(np.array([7.0]), None) == {0: ""}
    assert list(telling_lags(np.array([2.0, 3.0]), None)) == [0, 1]


@given(st.integers(1, 12), st.integers(1, 8))
def test_condensed_keeps_the_largest_of_a_block(dim, block):
    matrix = np.random.default_rng(0).uniform(-1, 1, size=(dim, dim))
    cells = condensed(matrix, block)
    assert cells.shape == (-(-dim // block),) * 2
    for (row, column), value in np.ndenumerate(cells):
        part = matrix[block * row : block * (row + 1), block * column : block * (column + 1)]
        assert value == part.flat[np.abs(part).argmax()]


def test_a_diagonal_survives_in_a_large_matrix(tmp_path):
    matrix = 0.6 * np.eye(600, dtype=np.float32)
    path = files.save(tmp_path / "x_times0_4.npz", {"time": 1.0, "net_residuals_acs": matrix})
    saved = SavedMatrices.of_images([path])
    (cells,) = saved.matrices["net_residuals"]
    assert (saved.dim, saved.block, saved.notes) == (600, 3, [""])
    assert np.allclose(cells, 0.6 * np.eye(200))


@pytest.mark.parametrize("dim", [2, 5])
def test_heat_maps_are_the_matrices_of_their_times(tmp_path, dim):
    path = files.save_toy_matrices(tmp_path, dim)
    saved = SavedMatrices.of_toy(path)
    assert saved.notes == ["first time", "≈ the correlation time", "halfway", "last time"]
    figure = matrices(saved, "name", "")
    assert len(figure.panels) == 8
    assert figure.scale.label == "correlation"
    indices = [int(np.flatnonzero(time == files.TIMES)[0]) for time in saved.times]
    with np.load(path) as file:
        expected = [file[f"{name}_acs"][index] for name in files.QUANTITIES for index in indices]
    for panel, matrix in zip(figure.panels, expected, strict=True):
        (image,) = marks(panel, Image)
        assert np.array_equal(image.cells, np.rint(255 * diverging_colors(matrix)))
        numbers = [text for mark in marks(panel, Words) for text in mark.texts]
        assert numbers == ([f"{value:.2f}" for value in matrix.flat] if dim == 2 else [])
    assert all(f"t = {time:.2f}" in words(figure) for time in saved.times)
    low, zero, one = diverging_colors(np.array([-1.0, 0.0, 1.0]))
    assert min(zero) > 0.9
    assert max(one) < 0.6
    assert low[2] > low[0]


@pytest.mark.parametrize("summarized", [True, False])
def test_only_the_shown_files_of_images_are_read(tmp_path, summarized):
    files.save_image_matrices(tmp_path)
    if not summarized:
        (tmp_path / f"{files.IMAGE_STEM}_summary.npz").unlink()
    paths = list(tmp_path.glob("*_times0_*.npz"))
    saved = SavedMatrices.of_images(paths)
    indices = [int(np.flatnonzero(time == files.TIMES)[0]) for time in saved.times]
    assert (indices[0], indices[-1]) == (0, len(files.TIMES) - 1)
    assert all(saved.notes) == summarized
    _, expected = files.correlations(7, files.QUANTITIES)
    for name in files.QUANTITIES:
        assert np.array_equal(saved.matrices[name], expected[f"{name}_acs"][indices])
    # Of some of the files the summary does not tell what is first, halfway and last.
    some = [tmp_path / f"{files.IMAGE_STEM}_times0_{index}.npz" for index in (7, 2, 3)]
    few = SavedMatrices.of_images(some)
    assert (few.times.tolist(), few.notes) == (files.TIMES[[2, 3, 7]].tolist(), [""] * 3)
    for index in set(range(len(files.TIMES))) - set(indices):
        (tmp_path / f"{files.IMAGE_STEM}_times0_{index}.npz").write_bytes(b"not opened")
    assert np.array_equal(SavedMatrices.of_images(paths).times, saved.times)


def test_names_and_noise_are_told(tmp_path):
    stem = tmp_path / files.TOY_STEM
    assert name_and_details(stem) == ("circles", "PRP schedule")
    (tmp_path / f"{files.TOY_STEM}_summary.json").write_text('{"noise": "path"}')
    assert name_and_details(stem)[1] == "PRP schedule · along paths of the flow"
