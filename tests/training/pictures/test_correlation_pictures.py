"""Pictures of correlations: lines against the lag, matrices at telling times, broken files."""

from collections.abc import Callable
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

import visualize
from dnnlib.errors import DataError
from torch_utils.results import save_json
from training.measure.correlation_times import CorrelationTime
from training.measure.correlations import Autocorrelations, correlate
from training.pictures.album import pictures_of
from training.pictures.correlations.lags import draw_lags, quantile_band, spread_words
from training.pictures.correlations.matrices import draw_matrices
from training.pictures.correlations.saved_lags import SavedLags
from training.pictures.correlations.saved_matrices import SavedMatrices, condensed, telling_lags

TIMES = np.linspace(0.5, 4.5, 9)
STEM = "digits_PRRto2D_autocorrelations"
TOY_STEM = "circles_PRP_toy_autocorrelations"


def correlations(
    dim: int, names: tuple[str, ...], constant: tuple[int, ...] = ()
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A summary and matrices by quantity ``[T, D, D]`` of samples that forget their start.

    Args:
        dim: D.
        names: Of the quantities.
        constant: Dimensions that do not vary.
    """
    generator = torch.Generator().manual_seed(0)
    table = Autocorrelations(names, len(TIMES), dim)
    matrices: dict[str, np.ndarray] = {}
    for number, name in enumerate(names):
        first = torch.randn(400, dim, generator=generator, dtype=torch.float64)
        found = []
        for index, time in enumerate(TIMES):
            kept = 1 - (time - TIMES[0]) / (2 + 3 * number)
            noise = torch.randn(400, dim, generator=generator, dtype=torch.float64)
            now = first if index == 0 else kept * first + 0.3 * noise
            now[:, list(constant)] = 1.0
            found.append(correlate([(first, now)], name))
            table.put(name, index, found[-1])
        matrices[name] = np.stack([item.matrix.float().numpy() for item in found])
    summary, _ = table.summary(torch.from_numpy(TIMES), 400)
    return {name: values.numpy() for name, values in summary.items()}, matrices


def save(path: Path, arrays: dict[str, Any], **changes: Any) -> Path:
    """``changes`` replace or drop arrays."""
    arrays = {**arrays, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def save_toy(folder: Path, dim: int = 2, **changes: Any) -> Path:
    """A toy's matrices, and their summary beside them."""
    names = ("net_outputs", "net_residuals", "exact_residuals")
    summary, matrices = correlations(dim, names)
    save(folder / f"{TOY_STEM}_summary.npz", summary)
    save_json(folder / f"{TOY_STEM}_summary.json", {"noise": "path"})
    arrays = {"times": TIMES, **{f"{name}_acs": values for name, values in matrices.items()}}
    return save(folder / f"{TOY_STEM}.npz", arrays, **changes)


def save_images(folder: Path, summarized: bool = True) -> dict[str, np.ndarray]:
    """Matrices of images, a file a time, and their summary."""
    summary, matrices = correlations(7, ("net_outputs", "net_residuals"))
    if summarized:
        save(folder / f"{STEM}_summary.npz", summary)
    for index, time in enumerate(TIMES):
        arrays = {f"{name}_acs": values[index] for name, values in matrices.items()}
        save(folder / f"{STEM}_times0_{index}.npz", {"time": time, **arrays})
    return matrices


def image_files(folder: Path) -> list[Path]:
    return list(folder.glob("*_times0_*.npz"))


def labels(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_few_dimensions_are_lines_and_their_mean(tmp_path: Path, dim: int) -> None:
    summary, _ = correlations(dim, ("net_outputs", "net_residuals"))
    saved = SavedLags.load(save(tmp_path / "a_summary.npz", summary))
    axes = draw_lags(saved, "t", "s").axes[0]
    lines = [line.get_data() for line in axes.lines if len(line.get_xdata()) == len(TIMES)]
    expected = [summary[f"{name}_mean"] for name in saved.curves]
    expected += [column for name in saved.curves for column in summary[f"{name}_diagonal"].T]
    assert len(lines) == len(expected) == 2 * (dim + 1)
    for values in expected:
        assert any(np.allclose(drawn, values) for _, drawn in lines)
    assert all(np.allclose(lags, TIMES - TIMES[0]) for lags, _ in lines)
    assert not axes.collections
    assert (spread_words(dim) == "") == (dim == 1)


def test_many_dimensions_are_a_band_of_those_that_vary(tmp_path: Path) -> None:
    constant = (1, 5)
    summary, _ = correlations(12, ("net_residuals",), constant)
    assert (summary["net_residuals_diagonal"][:, constant] == 0).all()
    saved = SavedLags.load(save(tmp_path / "a_summary.npz", summary))
    axes = draw_lags(saved, "t", "s").axes[0]
    varying = np.delete(summary["net_residuals_diagonal"], constant, axis=1)
    low, high = np.quantile(varying, [0.1, 0.9], axis=1)
    (band,) = (item for item in axes.collections if isinstance(item, PolyCollection))
    edge = band.get_paths()[0].vertices
    for lag, bottom, top in zip(TIMES - TIMES[0], low, high, strict=True):
        there = edge[np.isclose(edge[:, 0], lag), 1]
        assert there.min() == pytest.approx(bottom, abs=1e-6)
        assert there.max() == pytest.approx(top, abs=1e-6)
    bottom, top = axes.get_ylim()
    assert bottom < min(low.min(), 0)
    assert top > 1


def test_dimensions_of_rounding_alone_are_not_drawn(tmp_path: Path) -> None:
    summary, _ = correlations(12, ("net_outputs", "net_residuals"))
    summary["net_residuals_std"][3:, 7] = 1e-7
    saved = SavedLags.load(save(tmp_path / "a_summary.npz", summary))
    hidden = np.isnan(saved.curves["net_residuals"].diagonal)
    assert hidden[:, 7].all()
    assert hidden.sum() == len(TIMES)
    assert not np.isnan(saved.curves["net_outputs"].diagonal).any()


def test_a_band_without_dimensions_is_at_zero() -> None:
    diagonal = np.array([[0.5, 1.0], [np.nan, np.nan]])
    assert np.allclose(quantile_band(diagonal), [[0.55, 0.0], [0.95, 0.0]])


def test_correlation_times_are_told_and_marked(tmp_path: Path) -> None:
    """A line from 1 to 0 at lag 2, whose integral is 1; others stay, or are gone at once."""
    falling = np.clip(1 - (TIMES - TIMES[0]) / 2, 0, 1)
    steady = np.full(len(TIMES), 0.75)
    summary: dict[str, Any] = {"times": TIMES}
    gone = np.array([1.0, 0.05, 0.02, *[0.05] * 6])
    all_three = {"net_outputs": steady, "net_residuals": falling, "exact_residuals": gone}
    for name, values in all_three.items():
        summary[f"{name}_mean"] = values
        summary[f"{name}_diagonal"] = values[:, None].repeat(2, axis=1)
        summary[f"{name}_std"] = np.ones((len(TIMES), 2))
    saved = SavedLags.load(save(tmp_path / "a_summary.npz", summary, n_samples=10**6))
    assert saved.lasting.integral == pytest.approx(1, abs=1e-5)
    older = SavedLags.load(save(tmp_path / "b_summary.npz", summary))
    assert older.lasting.integral == pytest.approx(1)
    figure = draw_lags(saved, "t", "s")
    assert labels(figure) == [
        "network output D, correlation time at least 3",
        "residual D − e, correlation time 1",
        "error D − exact D, correlation time < 0.5",
    ]
    marks = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    assert [mark.get_xdata()[0] for mark in marks] == pytest.approx([3, 1, 0.5], abs=1e-5)
    assert [mark.get_ydata()[0] for mark in marks] == [0, 0, 0]


@pytest.mark.parametrize("lasting", [0.0, 0.02, 0.7, 2.0, 3.9, 4.0, 100.0])
@pytest.mark.parametrize("count", [2, 3, 9, 700])
@pytest.mark.parametrize("bound", [None, "upper", "lower"])
def test_telling_lags(lasting: float, count: int, bound: str | None) -> None:
    lags = np.linspace(0, 4, count)
    chosen = telling_lags(lags, CorrelationTime(lasting, bound, nan, nan))
    indices = list(chosen)
    assert indices == sorted(set(indices))
    assert indices[0] == 0
    assert indices[-1] == count - 1
    assert len(indices) <= 4
    assert chosen[0] == "first time"
    near = max(np.abs(lags - lasting).argmin(), 1)
    assert near in indices
    half = np.abs(lags[indices] - 2).min()
    assert half <= np.abs(lags - 2).min() + 1e-12


def test_telling_lags_without_a_correlation_time_are_even() -> None:
    assert list(telling_lags(np.arange(10.0), None)) == [0, 3, 6, 9]
    assert telling_lags(np.array([7.0]), None) == {0: ""}
    assert list(telling_lags(np.array([2.0, 3.0]), None)) == [0, 1]


@pytest.mark.parametrize(("dim", "block"), [(4, 1), (9, 3), (10, 3), (5, 8)])
def test_condensed_keeps_the_largest_of_a_block(dim: int, block: int) -> None:
    matrix = np.random.default_rng(0).uniform(-1, 1, size=(dim, dim))
    cells = condensed(matrix, block)
    assert cells.shape == (-(-dim // block),) * 2
    for (row, column), value in np.ndenumerate(cells):
        part = matrix[block * row : block * (row + 1), block * column : block * (column + 1)]
        assert value == part.flat[np.abs(part).argmax()]


def test_a_diagonal_survives_in_a_large_matrix(tmp_path: Path) -> None:
    path = tmp_path / "x_times0_4.npz"
    save(path, {"time": 1.0, "net_residuals_acs": 0.6 * np.eye(600, dtype=np.float32)})
    saved = SavedMatrices.of_images([path])
    (matrix,) = saved.matrices["net_residuals"]
    assert (saved.dim, saved.block, matrix.shape) == (600, 3, (200, 200))
    assert np.allclose(matrix, 0.6 * np.eye(200))
    assert saved.notes == [""]


@pytest.mark.parametrize("dim", [2, 5])
def test_heat_maps_are_the_matrices_of_their_times(tmp_path: Path, dim: int) -> None:
    path = save_toy(tmp_path, dim)
    saved = SavedMatrices.of_toy(path)
    # The residuals come down to zero after a lag of 5, the last is 4.
    assert saved.notes == ["first time", "halfway", "≈ the correlation time", "last time"]
    assert saved.times[[0, 1, 3]].tolist() == [0.5, 2.5, 4.5]
    rows = list(saved.matrices.items())
    figure = draw_matrices(rows, dim, saved.times, saved.notes, "t", "s")
    panels, bar = figure.axes[:-1], figure.axes[-1]
    assert len(panels) == 12
    assert bar.get_ylabel() == "correlation"
    indices = [int(np.flatnonzero(time == TIMES)[0]) for time in saved.times]
    with np.load(path) as file:
        expected = [file[f"{name}_acs"][index] for name, _ in rows for index in indices]
    for axes, matrix in zip(panels, expected, strict=True):
        (image,) = axes.images
        assert np.array_equal(np.asarray(image.get_array()), matrix)
        assert image.get_clim() == (-1, 1)
        numbers = [text.get_text() for text in axes.texts if text.get_text()[-1].isdigit()]
        assert len(numbers) == (dim * dim if dim == 2 else 0)
    titles = [axes.get_title(loc="left") for axes in panels[:4]]
    assert titles == [f"t = {time:.2f}" for time in saved.times]
    zero, one = (image.cmap(image.norm(value))[:3] for value in (0.0, 1.0))
    assert min(zero) > 0.9
    assert max(one) < 0.6


def test_numbers_in_cells_have_no_minus_zero() -> None:
    matrix = np.array([[[1.0, -0.004], [-0.006, 0.004]]])
    figure = draw_matrices([("a", matrix)], 2, np.zeros(1), ["n"], "t", "s")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[:4] == ["1.00", "0.00", "−0.01", "0.00"]


@pytest.mark.parametrize("summarized", [True, False])
def test_only_the_shown_files_of_images_are_read(tmp_path: Path, summarized: bool) -> None:
    matrices = save_images(tmp_path, summarized)
    saved = SavedMatrices.of_images(image_files(tmp_path))
    indices = [int(np.flatnonzero(time == TIMES)[0]) for time in saved.times]
    assert indices[0] == 0
    assert indices[-1] == len(TIMES) - 1
    assert all(saved.notes) == summarized
    for name, values in matrices.items():
        assert np.array_equal(saved.matrices[name], values[indices])
    for index in set(range(len(TIMES))) - set(indices):
        (tmp_path / f"{STEM}_times0_{index}.npz").write_bytes(b"not opened")
    again = SavedMatrices.of_images(image_files(tmp_path))
    assert np.array_equal(again.times, saved.times)


def test_some_of_the_files_of_images(tmp_path: Path) -> None:
    """Then the summary tells nothing of what is first, halfway and last of them."""
    save_images(tmp_path)
    paths = [tmp_path / f"{STEM}_times0_{index}.npz" for index in (7, 2, 3)]
    saved = SavedMatrices.of_images(paths)
    assert saved.times.tolist() == TIMES[[2, 3, 7]].tolist()
    assert saved.notes == ["", "", ""]


def test_a_folder_of_images(run_script: Callable[..., Any], tmp_path: Path) -> None:
    save_images(tmp_path)
    np.savez(
        tmp_path / "digits_PRRto2D_net_outputs_residuals_time0.npz",
        net_outputs=np.zeros((3, 7), np.float32),
        net_residuals=np.zeros((3, 7), np.float32),
        times=TIMES,
        time=0.5,
    )
    result = run_script(visualize, tmp_path)
    assert (result.code, result.err) == (0, "")
    pictures = sorted(path.name for path in tmp_path.glob("*.png"))
    assert pictures == [f"{STEM}_lags.png", f"{STEM}_matrices.png"]


def test_a_folder_of_a_toy_tells_of_its_noise(
    run_script: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts: list[str] = []
    original = Figure.savefig

    def keep(figure: Figure, *args: Any, **kwargs: Any) -> None:
        texts.append(" ".join(text.get_text() for text in figure.texts))
        original(figure, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", keep)
    save_toy(tmp_path)
    result = run_script(visualize, tmp_path, f"--dest={tmp_path / 'pictures'}")
    assert (result.code, result.err) == (0, "")
    pictures = sorted(path.name for path in (tmp_path / "pictures").iterdir())
    assert pictures == [f"{TOY_STEM}_lags.png", f"{TOY_STEM}_matrices.png"]
    assert all("along the flow's own paths" in text for text in texts)
    assert all("circles" in text and "PRP schedule" in text for text in texts)


def test_residuals_are_refused_when_named_and_skipped_in_folders(
    run_script: Callable[..., Any], tmp_path: Path
) -> None:
    path = tmp_path / "circles_PRP_toy_net_outputs_residuals.npz"
    np.savez(path, net_outputs=np.zeros((2, 3, 2)), net_residuals=np.zeros((2, 3, 2)), times=[0, 1])
    refused = run_script(visualize, path)
    assert refused.code == 1
    assert "residuals, which are not drawn" in refused.error
    alone = run_script(visualize, tmp_path)
    assert alone.code == 1
    assert "holds neither" in alone.error
    save_toy(tmp_path)
    assert run_script(visualize, tmp_path).code == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": None}, "no array 'times'"),
        ({"times": TIMES[::-1]}, "'times' should increase"),
        ({"times": TIMES + 1}, "not made together with its summary"),
        ({"times": TIMES[:-1]}, "not made together with its summary"),
        ({"net_outputs_acs": np.zeros((9, 2, 3))}, r"'net_outputs_acs' is \[2, 3\] at a time"),
        ({"net_outputs_acs": np.zeros((9, 0, 0))}, r"'net_outputs_acs' is \[0, 0\] at a time"),
        ({"net_residuals_acs": np.zeros((9, 3, 3))}, r"'net_residuals_acs' is \[3, 3\]"),
        ({"net_residuals_acs": np.zeros((9, 2))}, r"should be \[9, D, D\]"),
        ({"net_residuals_acs": np.zeros((8, 2, 2))}, r"should be \[9, D, D\]"),
        ({"net_residuals_acs": np.full((9, 2, 2), np.nan)}, "not finite"),
        ({"net_residuals_acs": np.full((9, 2, 2), 1.1)}, "from -1 to 1"),
        ({"net_residuals_acs": np.full((9, 2, 2), "a")}, "numbers"),
        ({"net_residuals_acs": np.full((9, 2, 2), {})}, "not plain"),
    ],
)
def test_wrong_matrices_of_toys(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = save_toy(tmp_path, **changes)
    with pytest.raises(DataError, match=message) as raised:
        pictures_of([path], None, None)
    assert path.name in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": TIMES[::-1]}, "'times' should increase"),
        ({"times": None}, "no array 'times'"),
        ({"times": TIMES[:1]}, r"'times' is \[1\]"),
        ({"net_residuals_std": None}, "no array 'net_residuals_std'"),
        ({"net_residuals_mean": np.zeros(5)}, r"'net_residuals_mean' is \[5\].*\[9\]"),
        ({"net_residuals_mean": np.full(9, 2.0)}, "'net_residuals_mean' should hold corr"),
        ({"net_residuals_diagonal": np.zeros(9)}, r"'net_residuals_diagonal' is \[9\]"),
        ({"net_residuals_diagonal": np.full((9, 2), -3)}, "'net_residuals_diagonal' should hold"),
        ({"net_residuals_diagonal": np.full((9, 2), np.inf)}, "not finite"),
        ({"n_samples": np.array(1)}, "'n_samples' is 1, not"),
        ({"n_samples": np.array([5, 6])}, "'n_samples' is"),
        ({"n_samples": np.array("many")}, "numbers"),
    ],
)
def test_wrong_summaries(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    summary, _ = correlations(2, ("net_residuals",))
    path = save(tmp_path / "a_summary.npz", summary, **changes)
    with pytest.raises(DataError, match=message) as raised:
        pictures_of([path], None, None)
    assert path.name in str(raised.value)


def test_a_summary_of_nothing_beside_matrices(tmp_path: Path) -> None:
    path = save_toy(tmp_path)
    save(tmp_path / f"{TOY_STEM}_summary.npz", {"times": TIMES})
    with pytest.raises(DataError, match="has no autocorrelations"):
        pictures_of([path], None, None)


@pytest.mark.parametrize(
    ("index", "changes", "message"),
    [
        (8, {"time": np.ones(2)}, "'time' is .* one number"),
        (8, {"time": np.array(0.5)}, "times that do not increase"),
        (8, {"time": np.array(99.0)}, "other times than their summary"),
        (8, {"net_outputs_acs": np.zeros((7, 6))}, r"'net_outputs_acs' is \[7, 6\]"),
        (8, {"net_outputs_acs": np.zeros((6, 6))}, r"is \[6, 6\] at a time"),
        (8, {"net_outputs_acs": np.full((7, 7), 9.0)}, "from -1 to 1"),
        (0, {"net_outputs_acs": None}, "not of the same quantities"),
    ],
)
def test_wrong_matrices_of_images(
    tmp_path: Path, index: int, changes: dict[str, Any], message: str
) -> None:
    save_images(tmp_path)
    path = tmp_path / f"{STEM}_times0_{index}.npz"
    with np.load(path) as file:
        arrays = dict(file)
    save(path, arrays, **changes)
    with pytest.raises(DataError, match=message):
        pictures_of([tmp_path], None, None)


def test_a_file_without_correlations(tmp_path: Path) -> None:
    path = save(tmp_path / "a.npz", {"times": TIMES, "time": 0.0})
    with pytest.raises(DataError, match="has no correlations"):
        SavedMatrices.of_toy(path)
    with pytest.raises(DataError, match="has no correlations"):
        SavedMatrices.of_images([path])
