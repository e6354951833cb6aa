"""Pictures of images: whole pixels, honest scales, closed forms, and files that are refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from dnnlib.errors import DataError
from training.pictures.album import pictures_of
from training.pictures.images.grids import (
    HEADLINE,
    MARGIN,
    TOP,
    Column,
    draw_grid,
    draw_rows,
    grid_columns,
)
from training.pictures.images.pixels import (
    data_cells,
    difference_cells,
    fitted,
    magnification,
    pixel_cells,
    state_divisors,
    tiled,
)
from training.pictures.images.roundtrips import draw_errors, error_bins
from training.pictures.images.saved import SavedRoundtrips, first_images, holds_images
from training.pictures.images.simulations import (
    animate_grid,
    draw_path,
    draw_roundtrip,
    draw_samples,
    draw_spectrum_of,
    draw_worst,
)
from training.pictures.style.colors import BLUE, ORANGE
from training.pictures.style.look import brief
from training.pictures.style.picture import Picture
from training.pictures.trajectories.animation import GridAnimation, moving_columns
from training.pictures.trajectories.saved import SavedTrajectory
from training.pictures.trajectories.spectra import draw_spectrum, share_within

SAVED = 5


def some_pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def texts(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.texts]


def rendered(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def save_images(
    folder: Path,
    kind: str,
    shape: tuple[int, int, int] = (1, 4, 4),
    count: int = 10,
    **changes: Any,
) -> Path:
    """A results file of images that grow by a linear flow; ``changes`` replace or drop arrays."""
    generator = np.random.default_rng(0)
    dim = math.prod(shape)
    order = slice(None) if kind == "melt" else slice(None, None, -1)
    times = np.linspace(0, 4, SAVED)
    rotation = np.linalg.qr(generator.normal(size=(dim, dim)))[0]
    eigenvalues = np.linspace(1, 0.1, dim)
    rates = np.where(np.arange(dim) < dim // 2, 2.0, -0.5)
    noise = 0.01 * np.exp(rates * times[:, None])
    scale = 1 / np.sqrt(1 + noise[:, 0])
    start = np.clip(0.4 * generator.normal(size=(count, dim)), -1, 1)
    grown = (start @ rotation)[None] * np.sqrt((eigenvalues + noise) / eigenvalues)[:, None]
    arrays = {
        "times": times[order],
        "tilde_xs": (grown @ rotation.T)[order].astype(np.float32),
        "xs_es": (scale[:, None, None] * grown)[order].astype(np.float32),
        "mean": np.zeros(dim),
        "eigenvectors": rotation,
        "eigenvalues": eigenvalues,
        "scale": scale[order],
        "noise_variance": noise[order],
        "image_shape": np.array(shape),
    }
    arrays |= changes
    path = folder / f"digits_PRRto{dim // 2}D_{kind}.npz"
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def saved_array(path: Path, name: str) -> np.ndarray:
    with np.load(path) as archive:
        return archive[name]


def load(*arguments: Any, **changes: Any) -> SavedTrajectory:
    return SavedTrajectory.load(save_images(*arguments, **changes))


@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_survive_the_way_through_data(channels: int) -> None:
    pixels = some_pixels(2, channels, 8, 16)
    cells = data_cells(pixels.astype(np.float32) / 127.5 - 1)
    assert cells.shape == (2, 8, 16, 3)
    assert np.array_equal(cells, pixel_cells(pixels))
    assert np.array_equal(cells[..., :channels], pixels.transpose(0, 2, 3, 1))
    assert np.array_equal(data_cells(np.full((1, 1, 1, 2), [-7.0, 7.0]))[0, 0, :, 0], [0, 255])


def test_states_are_divided_to_the_contrast_of_the_data() -> None:
    data = np.random.default_rng(0).uniform(-1, 1, size=(6, 1, 8, 8))
    growth = np.array([1.0, 1.5, 40.0])
    states = growth[:, None, None, None, None] * data
    assert np.allclose(state_divisors(states, np.array([0.0, 1.0, 2.0])), growth)
    assert np.allclose(state_divisors(states[::-1], np.array([2.0, 1.0, 0.0])), growth[::-1])
    shrinking = state_divisors(states[::-1], np.array([0.0, 1.0, 2.0]))
    assert np.allclose(shrinking, 1)  # a state that fits is left as it is
    gray = state_divisors(np.zeros((2, 3, 1, 4, 4)), np.array([0.0, 1.0]))
    assert np.array_equal(gray, [1, 1])


def test_magnification_fits_and_is_twenty_where_that_tells() -> None:
    series = [step * 10**power for power in range(13) for step in (1, 2, 5)]
    for largest in np.geomspace(1e-9, 300, 400):
        factor = magnification(float(largest))
        assert factor in series
        if 0.5 <= largest <= 6.375:
            assert factor == 20
        elif largest <= 127.5:
            larger = series[series.index(factor) + 1]
            assert factor * largest <= 127.5 < larger * largest
        else:
            assert factor == 1
    assert magnification(0.0) == 20


def test_differences_of_colors_are_about_the_middle_gray() -> None:
    difference = np.random.default_rng(0).uniform(-9, 9, size=(2, 3, 5, 4))
    cells = difference_cells(difference, 20).astype(float)
    shown = np.clip(127.5 + 20 * difference.transpose(0, 2, 3, 1), 0, 255)
    assert np.abs(cells - shown).max() <= 0.5
    assert (np.abs(cells - shown) > 0.01).any()


def test_differences_of_grays_are_orange_above_and_blue_below() -> None:
    values = np.linspace(-127.5, 127.5, 51)[:, None, None, None]
    colors = difference_cells(values, 1)[:, 0, 0] / 255.0
    assert np.allclose(colors[0], to_rgb(BLUE), atol=2e-3)
    assert np.allclose(colors[-1], to_rgb(ORANGE), atol=2e-3)
    assert np.array_equal(difference_cells(5 * values, 1)[0], difference_cells(values, 1)[0])
    warmth = colors[:, 0] - colors[:, 2]
    assert (np.diff(warmth) > 0).all()
    assert np.ptp(colors[25]) < 0.02  # nothing is neither
    assert np.array_equal(difference_cells(values / 50, 50), difference_cells(values, 1))


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (96, 96), (1, 1)])
def test_enlarged_images_have_whole_pixels(size: tuple[int, int]) -> None:
    cells = some_pixels(3, *size, 3)
    large = fitted(cells, 96)
    factor = 96 // max(size)
    assert large.shape == (3, size[0] * factor, size[1] * factor, 3)
    for row in range(factor):
        for column in range(0, factor, 5):
            assert np.array_equal(large[:, row::factor, column::factor], cells)


def test_images_that_are_too_large_are_averaged() -> None:
    cells = some_pixels(2, 200, 200, 3)
    small = fitted(cells, 100)
    means = cells.reshape(2, 100, 2, 100, 2, 3).mean(axis=(2, 4))
    assert np.abs(small - means).max() <= 1
    for side in (33, 100, 101, 199):
        assert max(fitted(cells[:1], side).shape[1:3]) <= side


@pytest.mark.parametrize(("count", "columns"), [(6, 3), (5, 3), (1, 1), (4, 1)])
@pytest.mark.parametrize("gap", [0, 2])
def test_tiles_lie_in_rows_on_white(count: int, columns: int, gap: int) -> None:
    cells = some_pixels(count, 4, 5, 3) // 2
    image = tiled(cells, columns, gap).copy()
    rows = math.ceil(count / columns)
    assert image.shape == (rows * (4 + gap) - gap, columns * (5 + gap) - gap, 3)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        there = image[row * (4 + gap) :, column * (5 + gap) :][:4, :5]
        assert np.array_equal(there, cell)
        there[:] = 255
    assert (image == 255).all()


@pytest.mark.parametrize("shape", [(8, 8), (32, 32), (256, 256), (1024, 1024), (3000, 3000)])
def test_grids_are_square_and_fit_a_page(shape: tuple[int, int]) -> None:
    for count in (1, 2, 10, 64, 100):
        columns = grid_columns(count, shape)
        assert columns >= 1
        assert (columns - 1) ** 2 < count
        assert columns == 1 or columns * shape[1] <= 1600
    assert grid_columns(100, (32, 32)) == 10


@pytest.mark.parametrize("size", [8, 130])
def test_a_saved_grid_has_the_pixels_of_its_images(tmp_path: Path, size: int) -> None:
    cells = some_pixels(6, size, size, 3) // 2
    path = tmp_path / "grid.png"
    Picture.of_figure(path, lambda: draw_grid(cells, "title", "subtitle")).write(path)
    with Image.open(path) as image:
        page = np.asarray(image.convert("RGB"))
    factor = max(96 // size, 1)
    grid = page[TOP + HEADLINE :, MARGIN:]
    pitch = size * factor + 6
    for number, cell in enumerate(cells):
        row, column = divmod(number, 3)
        there = grid[row * pitch :, column * pitch :][: size * factor, : size * factor]
        assert np.array_equal(there, fitted(cell[None], size * factor)[0])


def test_rows_show_the_images_of_all_columns_and_blocks() -> None:
    columns = [Column(some_pixels(5, 4, 4, 3) // (k + 1), f"c{k}", space=9 * k) for k in range(3)]
    figure = draw_rows(columns, "t", "s", "how", notes=[f"n{k}" for k in range(5)], blocks=2)
    assert len(figure.images) == 6
    for number, image in enumerate(figure.images):
        block, column = divmod(number, 3)
        cells = fitted(columns[column].cells[3 * block : 3 * block + 3], 128)
        assert np.array_equal(image.get_array(), tiled(cells, 1, 8))
    assert [text for text in texts(figure) if text[:1] == "n"] == ["n0", "n1", "n2", "n3", "n4"]
    page = rendered(figure)
    for image in figure.images:
        array = image.get_array()
        bottom = page.shape[0] - int(image.oy)
        there = page[bottom - len(array) : bottom, int(image.ox) :][:, : array.shape[1]]
        assert np.array_equal(there, array)


@pytest.mark.parametrize("size", [(4, 4), (28, 28), (32, 32), (64, 64), (256, 256), (1000, 1000)])
def test_moving_grids_are_of_bounded_size(size: tuple[int, int]) -> None:
    for count in (1, 3, 10, 64, 1000):
        columns = moving_columns(count, *size)
        assert 1 <= columns**2 <= count
        assert columns == 1 or columns**2 * size[0] * size[1] <= 1 << 16
        assert moving_columns(columns**2, *size) == columns
    assert moving_columns(64, 8, 8) == 8


def test_frames_of_a_grid_hold_its_images() -> None:
    cells = some_pixels(3, 10, 8, 8, 3)
    moving = GridAnimation(cells, np.array([2.0, 1.0, 0.0]), "t", "s")
    frames = moving.frames()
    assert {frame.shape for frame in frames} == {frames[0].shape}
    shown = moving._shown
    for frame, images in zip(frames, cells, strict=True):
        grid = tiled(fitted(images[:9], 134), 3, 2)
        bottom = len(frame) - int(shown.oy)
        there = frame[bottom - len(grid) : bottom, int(shown.ox) :][:, : grid.shape[1]]
        assert np.array_equal(there, grid)


def test_spectrum_shows_all_variances_and_their_ratios() -> None:
    generator = np.random.default_rng(0)
    exact = np.geomspace(1, 1e-3, 40)
    measured = exact * generator.uniform(0.5, 1.5, size=40)
    measured[[3, 30]] = [0.0, 50 * exact[30]]
    compressed = np.arange(40) >= 10
    figure = draw_spectrum(measured, exact, compressed, 50, "t", "s")
    ratio_axes, axes = figure.axes
    lines = {line.get_label(): line for line in axes.lines}
    assert np.allclose(lines["closed form"].get_ydata(), exact)
    for panel, values in ((axes, measured), (ratio_axes, measured / exact)):
        low, high = panel.get_ylim()
        dots = [line for line in panel.lines if line.get_marker() == "o"]
        for line, chosen, color in zip(
            dots, (~compressed, compressed), (BLUE, ORANGE), strict=True
        ):
            inside = chosen & (values >= low) & (values <= high)
            assert np.array_equal(line.get_xdata(), np.flatnonzero(inside) + 1)
            assert np.allclose(line.get_ydata(), values[inside])
            assert to_rgb(line.get_color()) == to_rgb(color)
        beyond = {
            mark: np.concatenate([k.get_xdata() for k in panel.lines if k.get_marker() == mark])
            for mark in "v^"
        }
        assert np.array_equal(beyond["v"], np.flatnonzero(values < low) + 1)
        assert np.array_equal(beyond["^"], np.flatnonzero(values > high) + 1)
        assert 4 in beyond["v"]
    assert 31 in [k.get_xdata() for k in ratio_axes.lines if k.get_marker() == "^"][1]
    (band,) = ratio_axes.patches
    assert band.get_y() == pytest.approx(1 - 2 * math.sqrt(2 / 50))
    assert band.get_y() + band.get_height() == pytest.approx(1 + 2 * math.sqrt(2 / 50))


@pytest.mark.parametrize(("dim", "scale"), [(64, "linear"), (3072, "log")])
def test_spectra_of_many_dimensions_have_a_logarithmic_axis(dim: int, scale: str) -> None:
    figure = draw_spectrum(np.ones(dim), np.ones(dim), np.zeros(dim, bool), 4, "t", "s")
    assert {axes.get_xscale() for axes in figure.axes} == {scale}
    for axes in figure.axes:
        low, high = axes.get_xlim()
        assert low < 1
        assert high > dim
    rendered(figure)


def test_the_band_holds_the_variances_of_gaussian_samples() -> None:
    samples = np.random.default_rng(0).normal(size=(400, 3000))
    ratios = np.square(samples).mean(axis=0)
    assert share_within(ratios, 400) == pytest.approx(0.954, abs=0.015)
    assert share_within(1.5 * ratios, 400) < 0.1


def test_the_spectrum_of_a_melt_is_that_of_all_its_samples(tmp_path: Path) -> None:
    melt = load(tmp_path, "melt", count=150)
    states = saved_array(melt.path, "xs_es")[-1].astype(float)
    assert np.allclose(melt.last_variance, np.square(states).mean(axis=0))
    figure = draw_spectrum_of(melt)
    ratios = (melt.last_variance / melt.closed_form_variance())[:8]
    assert f"{share_within(ratios, 150):.0%} of the 8 kept dimensions" in texts(figure)[1]


def test_bins_hold_all_errors_and_few_are_wide() -> None:
    generator = np.random.default_rng(0)
    for errors in (
        np.exp(generator.normal(size=1000)),
        np.geomspace(1e-9, 1e3, 7),
        np.full(5, 0.2),
        np.array([0.0, 3.0]),
    ):
        edges = error_bins(errors)
        assert np.histogram(errors, edges)[0].sum() == (errors > 0).sum()
        assert edges[-1] >= 3.99 * edges[0]
        assert np.allclose(np.diff(np.log(edges)), np.log(edges[1] / edges[0]))
    assert (np.diff(error_bins(np.zeros(3))) > 0).all()


@pytest.mark.parametrize(("largest", "marked"), [(0.1, False), (0.5, True), (20.0, False)])
def test_errors_tell_where_rounding_restores(largest: float, marked: bool) -> None:
    errors = largest * np.linspace(0.8, 1.2, 30)
    figure = draw_errors(errors / 3, errors, "t", "s")
    for axes in figure.axes:
        assert sum(bar.get_height() for bar in axes.patches) == 30
    words = [text.get_text() for text in figure.axes[1].texts]
    assert any("exact\nafter rounding" in text for text in words) is marked
    assert [line.get_xdata()[0] for line in figure.axes[1].lines] == [0.5] * marked
    rendered(figure)


def test_images_without_errors_are_counted() -> None:
    figure = draw_errors(np.array([0.0, 0.0, 1.0]), np.zeros(3), "t", "s")
    words = [" ".join(text.get_text() for text in axes.texts) for axes in figure.axes]
    assert "2 more without\nany error" in words[0]
    assert "3 more without\nany error" in words[1]
    rendered(figure)


def test_brief_numbers() -> None:
    shown = [brief(value) for value in (0, 0.00123, 0.5, 3.14, 12.7, 104.2, 9.96e-5, 1.7e-12)]
    assert shown == ["0", "0.0012", "0.5", "3.1", "13", "104", "1·10⁻⁴", "1.7·10⁻¹²"]


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 2, 3)])
def test_images_are_the_unscaled_states_of_the_first_samples(
    tmp_path: Path, shape: tuple[int, int, int]
) -> None:
    melt = load(tmp_path, "melt", shape, count=120)
    states = saved_array(melt.path, "tilde_xs")
    assert melt.has_images
    assert np.array_equal(melt.images, states[:, :100].reshape(SAVED, 100, *shape))
    assert not load(tmp_path, "melt", shape, image_shape=None).has_images


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_shape": np.array([1, 4, 5])}, r"'image_shape' is \[1, 4, 5\].* 16 numbers"),
        ({"image_shape": np.array([4, 2, 2])}, "C 1 or 3"),
        ({"image_shape": np.array([-1, -4, 4])}, "'image_shape'"),
        ({"image_shape": np.array([16])}, r"'image_shape' is \[16\]"),
        ({"image_shape": np.array([1.0, 4.0, 4.0])}, "'image_shape'"),
        ({"image_shape": np.array("1x4x4")}, "numbers should be"),
        ({"tilde_xs": None}, "no array 'tilde_xs'"),
        ({"tilde_xs": np.zeros((SAVED, 10, 15))}, r"'tilde_xs' is \[5, 10, 15\].*alike"),
        ({"tilde_xs": np.full((SAVED, 10, 16), np.inf)}, "not finite"),
    ],
)
def test_wrong_image_arrays(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, "melt", **changes)


@pytest.mark.parametrize("error", [0.0, 3e-6, 0.02])
def test_a_roundtrip_shows_both_ways_and_the_magnified_difference(
    tmp_path: Path, error: float
) -> None:
    melt = load(tmp_path, "melt")
    back = saved_array(melt.path, "tilde_xs")[::-1].copy()
    signs = np.sign(np.random.default_rng(1).normal(size=back[-1].shape))
    back[-1] += (error * signs).astype(np.float32)
    figure = draw_roundtrip(melt, load(tmp_path, "roundtrip", tilde_xs=back))
    original, *between, returned, difference, scale = (image.get_array() for image in figure.images)
    assert len(between) == 7
    for there, again in zip(between[:3], between[:3:-1], strict=True):
        assert np.array_equal(there, again)
    start = saved_array(melt.path, "tilde_xs")[0, :8].reshape(8, 1, 4, 4)
    assert np.array_equal(original, tiled(fitted(data_cells(start), 128), 1, 8))
    factor = {0.0: 20, 3e-6: 200000, 0.02: 20}[error]
    wrong = (back[-1, :8].reshape(8, 1, 4, 4).astype(float) - start) * 127.5
    assert np.array_equal(difference, tiled(fitted(difference_cells(wrong, factor), 128), 1, 8))
    assert {0.0: "× 20", 3e-6: "× 2·10⁵", 0.02: "× 20"}[error] in texts(figure)
    assert np.allclose(scale[0, 0] / 255.0, to_rgb(BLUE), atol=2e-3)
    reach = {0.0: "6.4", 3e-6: "6.4·10⁻⁴", 0.02: "6.4"}[error]
    assert f"up to ±{reach} gray levels" in texts(figure)
    assert (returned == original).all() == (error < 1e-3)


def test_a_roundtrip_of_two_states_has_no_ways(tmp_path: Path) -> None:
    def ends(kind: str) -> SavedTrajectory:
        with np.load(save_images(tmp_path, kind, count=3)) as archive:
            arrays = {
                name: archive[name][[0, -1]]
                for name in ("times", "tilde_xs", "xs_es", "scale", "noise_variance")
            }
        return load(tmp_path, kind, count=3, **arrays)

    figure = draw_roundtrip(ends("melt"), ends("roundtrip"))
    assert len(figure.images) == 5  # original, latent, return, difference, and their scale
    assert "3 of 3 images" in texts(figure)[1]


def test_paths_and_samples_end_in_the_images(tmp_path: Path) -> None:
    gen = load(tmp_path, "gen", (3, 4, 4))
    last = data_cells(saved_array(gen.path, "tilde_xs")[-1].reshape(10, 3, 4, 4))
    path = draw_path(gen)
    assert np.array_equal(path.images[-1].get_array(), tiled(fitted(last[:8], 128), 1, 8))
    times = [text for text in texts(path) if text.startswith("t = ")]
    assert times[0] == "t = 4.00"
    assert times[-1] == "t = 0.00"
    (samples,) = draw_samples(gen).images
    assert np.array_equal(samples.get_array(), tiled(fitted(last, 96), 4, 6))
    moving = animate_grid(gen, "t", "s")
    assert len(moving.frames()) == SAVED
    assert np.array_equal(moving.image, tiled(fitted(last[:9], 134), 3, 2))


def test_grids_tell_how_many_images_they_show(tmp_path: Path) -> None:
    few = draw_samples(load(tmp_path, "gen", (1, 2, 3), count=12))
    many = draw_samples(load(tmp_path, "gen", (1, 2, 2), count=101))
    assert texts(few)[1] == "PRRto3D schedule · 12 images · 3 × 2 pixels"
    assert "first 100 of 101 images" in texts(many)[1]


def drawn(*paths: Path) -> list[str]:
    return [picture.path.name for picture in pictures_of(paths, None, None)]


def test_a_roundtrip_from_elsewhere_is_no_pair_of_the_melt(tmp_path: Path) -> None:
    melt, back = save_images(tmp_path, "melt"), save_images(tmp_path, "roundtrip")
    latents, spectrum = "digits_PRRto8D_melt_latents.png", "digits_PRRto8D_spectrum.png"
    assert drawn(melt, back) == [latents, "digits_PRRto8D_roundtrip.png", spectrum]
    assert drawn(melt) == [latents, "digits_PRRto8D_melt_path.png", spectrum]
    assert drawn(back) == ["digits_PRRto8D_roundtrip_path.png"]
    paths = ["digits_PRRto8D_melt_path.png", spectrum, "digits_PRRto8D_roundtrip_path.png"]
    other = saved_array(back, "tilde_xs")[:, ::-1]
    save_images(tmp_path, "roundtrip", tilde_xs=other)
    assert drawn(melt, back) == [latents, *paths]
    save_images(tmp_path, "roundtrip", count=9)
    assert drawn(melt, back) == [latents, *paths]


def save_roundtrips(path: Path, kept: int = 3, shape: tuple[int, ...] = (1, 4, 4), **changes: Any):
    """A file of worst roundtrips of 50 images."""
    generator = np.random.default_rng(0)
    originals = generator.integers(0, 256, (kept, *shape), dtype=np.uint8)
    error = generator.normal(size=originals.shape)
    columns = generator.uniform(0, 1, size=(4, 50))
    arrays = {
        "originals": originals,
        "returned": (originals + error).astype(np.float32),
        "indices": np.arange(kept) + 7,
    }
    for name, column in zip(("mse", "mse_float", "max_abs_error", "exact"), columns, strict=True):
        arrays |= {name: column[:kept], f"all_{name}": column}
    arrays |= changes
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


@pytest.mark.parametrize(("kept", "shape"), [(3, (1, 4, 4)), (16, (3, 5, 5)), (20, (1, 4, 4))])
def test_worst_roundtrips_are_side_by_side(
    tmp_path: Path, kept: int, shape: tuple[int, ...]
) -> None:
    path = save_roundtrips(tmp_path / "digits_PRP_roundtrip_mse_seed42_worst.npz", kept, shape)
    saved = SavedRoundtrips.load(path)
    figure = draw_worst(saved)
    blocks, shown = (1, 3) if kept == 3 else (2, 16)
    rows = math.ceil(shown / blocks)
    assert len(figure.images) == 3 * blocks + 1
    rounded = np.clip(np.rint(saved.returned), 0, 255).astype(np.uint8)
    difference = difference_cells(saved.returned - saved.originals, 20)
    expected = (pixel_cells(saved.originals), pixel_cells(rounded), difference)
    for image, cells in zip(figure.images, expected, strict=False):
        assert np.array_equal(image.get_array(), tiled(fitted(cells[:rows], 128), 1, 8))
    assert texts(figure)[0] == "Worst roundtrips of digits: PRP schedule"
    notes = [text for text in texts(figure) if text.startswith("image ")]
    assert [note.splitlines()[0] for note in notes] == [f"image {k + 7}" for k in range(shown)]
    assert f"largest error {brief(saved.max_abs_error[0])}" in notes[0]


def test_roundtrips_of_which_none_was_kept_have_their_errors_drawn(tmp_path: Path) -> None:
    path = save_roundtrips(tmp_path / "digits_PRP_roundtrip_mse_seed1_worst.npz", kept=0)
    assert drawn(path) == ["digits_PRP_roundtrip_mse_seed1_errors.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"originals": np.zeros((3, 4, 4), np.uint8)}, r"'originals' is \[3, 4, 4\]"),
        ({"originals": np.zeros((3, 2, 4, 4), np.uint8)}, "1 or 3"),
        ({"originals": np.zeros((3, 1, 4, 4))}, "holds float64, but should hold uint8"),
        ({"returned": np.zeros((2, 1, 4, 4))}, r"'returned' is \[2, 1, 4, 4\].*alike"),
        ({"returned": np.full((3, 1, 4, 4), np.nan)}, "not finite"),
        ({"mse": np.zeros(4)}, r"'mse' is \[4\], but should be \[3\]"),
        ({"all_exact": np.zeros((5, 1))}, r"'all_exact' is \[5, 1\], but should be \[50\]"),
        ({"all_mse": None}, "no array 'all_mse'"),
        ({"max_abs_error": -np.ones(3)}, "negative"),
        ({f"all_{name}": np.ones(2) for name in ("mse", "mse_float", "max_abs_error", "exact")},
         "errors of 2 images .* 3 images"),
    ],
)  # fmt: skip
def test_wrong_roundtrips(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        SavedRoundtrips.load(save_roundtrips(tmp_path / "a_worst.npz", **changes))


def image_folder(path: Path, names: list[str], size: tuple[int, int] = (4, 4)) -> np.ndarray:
    """Gray PNGs of these names; their pixels ``[N, 1, H, W]`` in the order of the names."""
    pixels = some_pixels(len(names), 1, *size)
    for name, image in zip(names, pixels, strict=True):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(path / name)
    return pixels


def test_first_images_are_those_of_the_first_names(tmp_path: Path) -> None:
    names = [f"{seed // 4 * 4:06d}/{seed:06d}.png" for seed in range(10)]
    pixels = image_folder(tmp_path, names)
    (tmp_path / "gen_params.json").write_text("{}")
    found, count = first_images(tmp_path, 6)
    assert count == 10
    assert np.array_equal(found, pixels[:6])


@pytest.mark.parametrize(
    ("name", "holds"),
    [
        ("000001.png", True),
        ("000000/000001.png", True),
        ("runs/000001.png", False),
        (".000001.png", False),
        ("000001.txt", False),
    ],
)
def test_folders_of_images_are_known_by_their_names(tmp_path: Path, name: str, holds: bool) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert holds_images(tmp_path) is holds


@pytest.mark.parametrize(
    ("given", "picture"),
    [
        ("fid", "fid_images.png"),
        ("fid/000000", "fid_000000_images.png"),
        ("fid/../fid", "fid_images.png"),
    ],
)
def test_a_grid_never_lies_among_its_images(tmp_path: Path, given: str, picture: str) -> None:
    image_folder(tmp_path / "fid", ["000000/000000.png", "000000/000001.png"])
    (made,) = pictures_of([tmp_path / given], None, None)
    assert made.path == tmp_path / picture
    (elsewhere,) = pictures_of([tmp_path / given], tmp_path / "pictures", None)
    assert elsewhere.path == tmp_path / "pictures" / picture


def test_runs_in_other_folders_are_other_runs(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    names = drawn(save_images(here, "melt"), save_images(there, "roundtrip"))
    assert "digits_PRRto8D_melt_path.png" in names
    assert "digits_PRRto8D_roundtrip_path.png" in names
