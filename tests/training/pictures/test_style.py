"""The look of the pictures: colors that all can tell apart, layouts, and words."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.font_manager import FontProperties

from training.files.arrays import stem_of, title_of
from training.pictures import look
from training.pictures.look import brief, colors_of_places, joined, sequential_colors

LUMA = [0.299, 0.587, 0.114]


def test_colors_tell_places_apart_and_hold_for_red_green_blindness() -> None:
    """Lightness tells up from down, blue against yellow tells left from right."""
    across, up = (axis.ravel() for axis in np.meshgrid(*[np.linspace(-1.5, 1.5, 7)] * 2))
    places = np.stack([across, up], axis=1)
    colors = colors_of_places(places, 1.0)
    assert ((colors >= 0) & (colors <= 1)).all()
    luma = (colors @ LUMA).reshape(7, 7)
    assert (np.diff(luma, axis=0) > 0).all()
    assert luma.max() < 0.85  # they are seen on white
    yellowness = (colors[:, 0] + colors[:, 1] - 2 * colors[:, 2]).reshape(7, 7)
    assert (yellowness[:, -1] - yellowness[:, 0] > 0.4).all()
    assert np.abs(colors_of_places(places + 1e-3, 1.0) - colors).max() < 0.05
    assert np.allclose(colors_of_places(7 * places, 7.0), colors)


def test_sequential_colors_get_lighter_and_differ() -> None:
    colors = sequential_colors(7)
    luma = colors @ LUMA
    assert (np.diff(luma) > 0).all()
    assert luma.max() < 0.85
    assert np.abs(np.diff(colors, axis=0)).sum(axis=1).min() > 0.1
    assert sequential_colors(1).shape == (1, 3)


def test_panels_fill_the_page_without_overlap() -> None:
    figure, places = look.panel_page(2, 3, (2.0, 1.0), "title", "subtitle", left=0.7, gap=0.4)
    width, height = figure.get_size_inches()
    left, bottom, wide, high = np.moveaxis(places, -1, 0)
    assert np.allclose(np.diff(left, axis=1), 2.4)
    assert (bottom[0] > bottom[1] + high[1] + 0.5).all()
    assert left.min() == pytest.approx(0.7)
    assert bottom.min() > 0
    assert (left + wide).max() < width
    assert (bottom + high).max() < height - look.TOP
    axes = look.axes_at(figure, places[1, 2])
    assert np.allclose(axes.get_position().bounds * np.array([width, height] * 2), places[1, 2])
    assert [text.get_text() for text in figure.texts] == ["title", "subtitle"]


def test_words_and_titles() -> None:
    shown = [brief(value) for value in (0, 0.00123, 0.5, 3.14, 12.7, 104.2, 9.96e-5, 1.7e-12)]
    assert shown == ["0", "0.0012", "0.5", "3.1", "13", "104", "1·10⁻⁴", "1.7·10⁻¹²"]
    assert joined("a", "", "b") == "a · b"
    font = FontProperties(size=10)
    assert look.shortened("short", 5, font) == "short"
    assert look.shortened("WWWWWWWWWW WWW", 1.4, font) == "WWWWWWWWW…"
    for name, *expected in (
        ("s_curve_PRRto2D_exact_melt_results", "s curve", "PRRto2D schedule, exact denoiser"),
        ("circles_PRP_net_gen_results", "circles", "PRP schedule, trained network"),
        ("cifar10_PRRto100D_roundtrip", "cifar10", "PRRto100D schedule"),
        ("my_own_file", "my own file", ""),
    ):
        assert [*title_of(stem_of(Path(f"x/{name}.npz")))] == expected
