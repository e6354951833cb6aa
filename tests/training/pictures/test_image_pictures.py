"""Pictures of images."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.colors import to_rgb
from PIL import Image as Pillow

from tests.support import picture_files as files
from tests.support.figures import marks, rendered, words
from tests.support.image_files import noise
from tests.support.running import refusal
from training.files.roundtrip import SavedRoundtrips
from training.files.trajectory import SavedTrajectory
from training.pictures import images as results
from training.pictures import pixels
from training.pictures.album import pictures_of
from training.pictures.content import tiled
from training.pictures.figure import Image, Rule, Steps
from training.pictures.pixels import data_cells, difference_cells, fitted
from training.pictures.theme import BLUE, ORANGE, brief
from training.report import drawing


def saved_array(path, name):
    with np.load(path) as archive:
        return np.asarray(archive[name])


def load(*arguments, **changes):
    return SavedTrajectory.load(files.save_images(*arguments, **changes))


def drawn(*paths):
    return [picture.path.name for picture in pictures_of(paths, None, None)]


def test_pixels_survive_the_way_through_data():
    for channels in (1, 3):
        shown = noise(2, channels, 8, 16)
        cells = data_cells(shown.astype(np.float32) / 127.5 - 1)
        assert np.array_equal(cells, pixels.pixel_cells(shown))
        assert np.array_equal(cells[..., :channels], shown.transpose(0, 2, 3, 1))
    assert np.array_equal(data_cells(np.full((1, 1, 1, 2), [-7.0, 7.0]))[0, 0, :, 0], [0, 255])


def test_states_are_divided_to_the_contrast_of_the_data():
    data = np.random.default_rng(0).uniform(-1, 1, size=(6, 1, 8, 8))
    growth = np.array([1.0, 1.5, 40.0])
    states = growth[:, None, None, None, None] * data
    assert np.allclose(pixels.state_divisors(states, np.arange(3)), growth)
    assert np.allclose(pixels.state_divisors(states[::-1], -np.arange(3)), growth[::-1])
    # A state that fits is left as it is.
    assert np.allclose(pixels.state_divisors(states[::-1], np.arange(3)), 1)
    assert np.array_equal(pixels.state_divisors(np.zeros((2, 3, 1, 4, 4)), np.arange(2)), [1, 1])


@given(st.floats(1e-9, 300))
def test_magnification_fits_and_is_twenty_where_that_tells(largest):
    series = [step * 10**power for power in range(13) for step in (1, 2, 5)]
    factor = pixels.magnification(largest)
    if 0.5 <= largest <= 6.375:
        assert factor == 20
    elif largest <= 127.5:
        assert factor * largest <= 127.5 < series[series.index(factor) + 1] * largest
    else:
        assert factor == 1
    assert pixels.magnification(0.0) == 20


def test_differences_are_about_the_middle_gray_or_orange_above_and_blue_below():
    difference = np.random.default_rng(0).uniform(-9, 9, size=(2, 3, 5, 4))
    cells = difference_cells(difference, 20).astype(float)
    shown = np.clip(127.5 + 20 * difference.transpose(0, 2, 3, 1), 0, 255)
    assert np.abs(cells - shown).max() <= 0.5
    values = np.linspace(-127.5, 127.5, 51)[:, None, None, None]
    colors = difference_cells(values, 1)[:, 0, 0] / 255.0
    assert np.allclose(colors[0], to_rgb(BLUE), atol=2e-3)
    assert np.allclose(colors[-1], to_rgb(ORANGE), atol=2e-3)
    assert (np.diff(colors[:, 0] - colors[:, 2]) > 0).all()
    assert np.ptp(colors[25]) < 0.02  # nothing is neither
    assert np.array_equal(difference_cells(values / 50, 50), difference_cells(values, 1))


@given(st.integers(2, 40), st.integers(2, 40), st.integers(20, 40))
def test_images_keep_whole_pixels_or_are_averaged(height, width, side):
    cells = noise(2, height, width, 3)
    shown = fitted(cells, side)
    assert max(shown.shape[1:3]) <= side
    if factor := side // max(height, width):
        assert np.array_equal(shown, cells.repeat(factor, axis=1).repeat(factor, axis=2))
    else:
        rows, columns = height // 2, width // 2
        squares = cells[:, : 2 * rows, : 2 * columns].reshape(2, rows, 2, columns, 2, 3)
        assert np.abs(shown[:, :rows, :columns] - squares.mean(axis=(2, 4))).max() <= 1


@pytest.mark.parametrize(("count", "columns", "gap"), [(6, 3, 2), (5, 3, 0), (4, 1, 2)])
def test_tiles_lie_in_rows_on_white(count, columns, gap):
    cells = noise(count, 4, 5, 3) // 2
    image = tiled(cells, columns, gap).copy()
    assert image.shape == (-(-count // columns) * (4 + gap) - gap, columns * (5 + gap) - gap, 3)
    for number, cell in enumerate(cells):
        row, column = divmod(number, columns)
        there = image[row * (4 + gap) :, column * (5 + gap) :][:4, :5]
        assert np.array_equal(there, cell)
        there[:] = 255
    assert (image == 255).all()


@given(st.integers(1, 100), st.sampled_from([4, 8, 28, 32, 64, 256, 1024, 3000]))
def test_grids_are_as_if_square_and_fit_their_page(count, side):
    columns = pixels.grid_columns(count, (side, side))
    assert (columns - 1) ** 2 < count
    assert columns == 1 or columns * side <= 1600


def cells_of(figure):
    """The images of a figure."""
    return [marks(panel, Image)[0].cells for panel in figure.panels if panel is not None]


def test_grids_show_the_first_images_that_fit():
    for size in (8, 130):
        cells = noise(6, size, size, 3)
        figure = pixels.image_grid(cells, 6, "title", "details")
        assert figure.subtitle == f"details · 6 images · {size} × {size} pixels"
        grid = tiled(fitted(cells, max(96, size)), 3, 6)
        assert np.array_equal(cells_of(figure)[0], grid)
        assert figure.size == pytest.approx((grid.shape[1] / 150, grid.shape[0] / 150))
    part = pixels.image_grid(noise(10, 2, 2, 3), 101, "title")
    assert part.subtitle.startswith("first 10 of 101 images")
    # Both back ends show the first row on top.
    cells = np.zeros((1, 96, 96, 3), np.uint8)
    cells[0, :48] = (250, 0, 0)
    figure = pixels.image_grid(cells, 1, "title")
    (glyph,) = drawing.drawn(figure).charts[0].plot.renderers
    rows = glyph.data_source.data["image"][0]
    assert (rows[0, 0], rows[-1, 0]) == (0xFF000000, 0xFF0000FA)  # from below, as ABGR
    made = rendered(figure, 40)
    page = np.asarray(made.canvas.buffer_rgba())[..., :3]
    red, black = (np.argwhere((page == color).all(axis=-1)) for color in ((250, 0, 0), (0, 0, 0)))
    assert red[:, 0].max() < np.median(black[:, 0])


def test_rows_show_the_images_of_all_columns_and_blocks():
    cells = [noise(5, 4, 4, 3) // (k + 1) for k in range(3)]
    columns = [pixels.Column(cells[k], f"c{k}") for k in range(3)]
    notes = [f"n{k}" for k in range(5)]
    figure = pixels.image_rows(columns, "t", "s", "how", notes, blocks=2)
    shown = [image for image in cells_of(figure) if not (image == 255).all()]
    assert len(shown) == 6
    for number, image in enumerate(shown):
        block, column = divmod(number, 3)
        array = tiled(fitted(cells[column][3 * block : 3 * block + 3], 128), 1, 8)
        assert np.array_equal(image, array)
    assert all(note in words(figure) for note in notes)


@pytest.mark.parametrize("error", [0.0, 3e-6, 0.02])
def test_a_roundtrip_shows_both_ways_and_the_difference(tmp_path, error):
    melt = load(tmp_path, "melt")
    back = saved_array(melt.path, "tilde_xs")[::-1].copy()
    signs = np.sign(np.random.default_rng(1).normal(size=back[-1].shape))
    back[-1] += (error * signs).astype(np.float32)
    figure = results.roundtrip(melt, load(tmp_path, "roundtrip", tilde_xs=back))
    original, *between, returned, difference = cells_of(figure)
    assert len(between) == 7
    for there, again in zip(between[:3], between[:3:-1], strict=True):
        assert np.array_equal(there, again)
    start = saved_array(melt.path, "tilde_xs")[0, :8].reshape(8, 1, 4, 4)
    assert np.array_equal(original, tiled(fitted(data_cells(start), 128), 1, 8))
    small = error == 3e-6
    factor, text, reach = (200000, "× 2·10⁵", "6.4·10⁻⁴") if small else (20, "× 20", "6.4")
    wrong = (back[-1, :8].reshape(8, 1, 4, 4).astype(float) - start) * 127.5
    assert np.array_equal(difference, tiled(fitted(difference_cells(wrong, factor), 128), 1, 8))
    assert (figure.panels[-1].note, figure.scale.high) == (text, reach)
    assert np.allclose(figure.scale.colors[0], to_rgb(BLUE), atol=2e-3)
    assert (returned == original).all() == (error < 1e-3)


def test_a_roundtrip_of_two_states_has_no_ways(tmp_path):
    pair = []
    for kind in ("melt", "roundtrip"):
        with np.load(files.save_images(tmp_path, kind, count=3)) as archive:
            arrays = {name: archive[name] for name in archive if archive[name].ndim}
        ends = {name: array[[0, -1]] for name, array in arrays.items() if len(array) == files.SAVED}
        pair.append(load(tmp_path, kind, count=3, **ends))
    figure = results.roundtrip(*pair)
    titles = [panel.title for panel in figure.panels]
    assert titles == ["original", "latent", "return", "difference"]
    assert "3 of 3 images" in figure.subtitle


def test_paths_and_samples_end_in_the_images(tmp_path):
    gen = load(tmp_path, "gen", (3, 4, 4))
    last = data_cells(saved_array(gen.path, "tilde_xs")[-1].reshape(10, 3, 4, 4))
    path = results.path_of(gen)
    assert np.array_equal(cells_of(path)[-1], tiled(fitted(last[:8], 128), 1, 8))
    assert (path.panels[0].title, path.panels[-1].title) == ("t = 4.00", "t = 0.00")
    (samples,) = cells_of(results.samples(gen))
    assert np.array_equal(samples, tiled(fitted(last, 96), 4, 6))
    assert not results.content_of({"gen": gen.path}, None).animations


def test_a_roundtrip_from_elsewhere_is_no_pair_of_the_melt(tmp_path):
    stem = "digits_PRRto8D"
    melt, back = files.save_images(tmp_path, "melt"), files.save_images(tmp_path, "roundtrip")
    assert f"{stem}_roundtrip.png" in drawn(melt, back)
    assert f"{stem}_melt_path.png" not in drawn(melt, back)
    alone = {f"{stem}_melt_path.png", f"{stem}_roundtrip_path.png"}
    assert alone <= {*drawn(melt), *drawn(back)}
    other = saved_array(back, "tilde_xs")[:, ::-1]
    for changes in ({"tilde_xs": other}, {"count": 9}):
        files.save_images(tmp_path, "roundtrip", **changes)
        assert alone <= set(drawn(melt, back))
    (tmp_path / "there").mkdir()
    assert alone <= set(drawn(melt, files.save_images(tmp_path / "there", "roundtrip")))


@pytest.mark.parametrize(("kept", "shape"), [(3, (1, 4, 4)), (20, (3, 5, 5))])
def test_worst_roundtrips_are_compared(tmp_path, kept, shape):
    saved = SavedRoundtrips.load(files.save_roundtrips(tmp_path, kept, shape))
    figure = results.worst(saved)
    blocks, shown = (1, 3) if kept == 3 else (2, 16)
    rows = math.ceil(shown / blocks)
    assert len(figure.panels) == 5 * blocks
    rounded = np.clip(np.rint(saved.returned), 0, 255).astype(np.uint8)
    difference = difference_cells(saved.returned - saved.originals, 20)
    expected = (pixels.pixel_cells(saved.originals), pixels.pixel_cells(rounded), difference)
    for image, cells in zip(cells_of(figure), expected, strict=False):
        assert np.array_equal(image, tiled(fitted(cells[:rows], 128), 1, 8))
    assert figure.title == "Largest round-trip errors of digits: PRP schedule"
    text = words(figure)
    assert all(f"image {k + 7}\n" in text for k in range(shown))
    assert f"image {shown + 7}\n" not in text
    assert f"largest error {brief(saved.max_abs_error[0])}" in text
    *panels, bar = rendered(figure, 50).axes
    notes = [note.get_window_extent() for axes in panels for note in axes.texts]
    assert max(note.x1 for note in notes) < bar.get_window_extent().x0, "the scale is beside them"


@given(st.lists(st.just(0.0) | st.floats(1e-9, 1e3), min_size=1))
def test_bins_hold_all_errors_and_are_even_in_the_logarithm(values):
    errors = np.array(values)
    edges = results.error_bins(errors)
    assert np.histogram(errors, edges)[0].sum() == (errors > 0).sum()
    assert edges[-1] >= 3.99 * edges[0] or not errors.any()
    assert np.allclose(np.diff(np.log(edges)), np.log(edges[1] / edges[0]))


@pytest.mark.parametrize(("largest", "marked"), [(0.1, False), (0.5, True), (20.0, False)])
def test_errors_tell_where_rounding_restores(tmp_path, largest, marked):
    errors = largest * np.linspace(0.8, 1.2, 50)
    changes = {"all_mse_float": np.where(errors < errors[2], 0, errors**2)}
    path = files.save_roundtrips(tmp_path, 0, all_max_abs_error=errors, **changes)
    assert drawn(path) == ["digits_PRP_roundtrip_mse_seed42_errors.png"]
    figure = results.errors(SavedRoundtrips.load(path))
    first, second = figure.panels
    assert marks(first, Steps)[0].heights.sum() == 48
    assert "2 more without error" in first.note
    assert marks(second, Steps)[0].heights.sum() == 50
    assert [rule.value for rule in marks(second, Rule)] == [0.5] * marked
    assert ("below ½" in words(figure)) == marked


def test_folders_of_images_are_known_by_their_names(tmp_path):
    names = [f"{seed // 4 * 4:06d}/{seed:06d}.png" for seed in range(10)]
    pixels = noise(10, 4, 4)
    for name, image in zip(names, pixels, strict=True):
        (tmp_path / "fid" / name).parent.mkdir(parents=True, exist_ok=True)
        Pillow.fromarray(image).save(tmp_path / "fid" / name)
    (tmp_path / "fid" / "gen_params.json").write_text("{}")
    packed = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "fid")
    for path in (tmp_path / "fid", Path(packed)):
        got, count = results.first_images(path, 6)
        assert count == 10
        assert np.array_equal(got[:, 0], pixels[:6])
    # A picture never lies among its images.
    for given_path, picture in (
        ("fid", "fid_images.png"),
        ("packed.zip", "packed_images.png"),
        ("fid/000000", "fid_000000_images.png"),
        ("fid/../fid", "fid_images.png"),
    ):
        for folder in (None, tmp_path / "pictures"):
            (made,) = pictures_of([tmp_path / given_path], folder, None)
            assert made.path == (folder or tmp_path) / picture
    made.write(tmp_path / "it.png")
    with Pillow.open(tmp_path / "it.png") as image:
        assert image.width > 100
    (tmp_path / "fid" / names[5]).write_bytes(b"no png")
    assert names[5] in refusal(results.first_images, tmp_path / "fid", 6)


def test_other_folders_are_none(tmp_path):
    for name, holds in (
        ("runs/000001.png", False),
        (".000001.png", False),
        ("000001.txt", False),
        ("000000/000001.png", True),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
        assert results.holds_images(tmp_path) is holds
