"""Pictures of posteriors of columns, singly and in pairs, of hierarchical models, and of images."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_rgb
from matplotlib.figure import Figure

from training.files.arrays import evenly
from training.files.population import QUANTILES, SavedPopulation
from training.files.posterior_draws import SavedPosteriors
from training.files.rows import printable
from training.pictures import theme
from training.pictures.images.grids import Column, Scale, draw_rows, gray_levels
from training.pictures.posteriors.toys import TRUTH, mark_observed, mark_truth
from training.pictures.posteriors.words import axis_name, name_and_details, part_of
from training.pictures.tables.columns import (
    LEFT,
    column_page,
    few_numbers,
    label_pair,
    limits,
    rank_correlations,
)
from training.pictures.theme import BLUE, DIVERGING, FAINT, INK, MUTED, ORANGE

MOST_COLUMNS, MOST_OBSERVATIONS, WIDEST = 20, 3, 3.6  # limits for marginals; WIDEST in inches
MOST_PAIRED, MOST_POINTS = 5, 1500
SIDE, PAIRS_LEFT, PAIRS_GAP = 1.95, 0.85, 0.25  # layout of pairs
LEAST_WIDTH = 8.5
BINS = 30
LEAST_BINS = 8
FILL = 0.3


def informative_columns(saved: SavedPosteriors, most: int) -> np.ndarray:
    """Choose at most ``most`` columns about which the first observation is most informative.

    The observation is informative about a column if the posterior is narrower than the prior, or,
    without a prior, than all posteriors together. Unobserved columns take precedence.

    Returns:
        Indices in the order of the columns.
    """
    prior = saved.points.reshape(-1, len(saved.names)) if saved.prior is None else saved.prior
    spread = prior.std(axis=0)
    ratio = saved.points[:, :, 0].std(axis=(0, 1)) / np.where(spread > 0, spread, 1)
    ratio = np.where(spread > 0, ratio, 1) + 2.0 * observed_columns(saved)
    return np.sort(np.argsort(ratio, kind="stable")[:most])


def observed_columns(saved: SavedPosteriors) -> np.ndarray:
    """Return a mask ``[D]`` of the columns that are observed directly."""
    seen = np.zeros(len(saved.names), dtype=bool)
    if saved.likelihood is not None and saved.likelihood.operator is None:
        places = saved.likelihood.coordinates
        seen[slice(None) if places is None else places.numpy()] = True
    return seen


def draw_marginals(saved: SavedPosteriors) -> Figure:
    """Draw a panel for each of at most 20 columns, with posteriors of the first observations."""
    shown = min(saved.points.shape[2], MOST_OBSERVATIONS)
    chosen = informative_columns(saved, MOST_COLUMNS)
    name, details = name_and_details(saved)
    words = (f"Posterior of columns of {name}", theme.joined(details, _which(saved, len(chosen))))
    figure, panels, width = column_page(
        len(chosen), *words, WIDEST, above=0.34, below=0.4, least_width=LEAST_WIDTH
    )
    colors = list(theme.sequential_colors(max(shown, 2))[:shown])
    handles = [theme.line(f"posterior {index + 1}", color) for index, color in enumerate(colors)]
    if observed_columns(saved)[chosen].any():
        handles.append(theme.line("observed", MUTED, ls=(0, (3, 2)), lw=1.1))
    if saved.truth is not None:
        handles.append(theme.line("truth", MUTED, lw=1.1))
    if saved.prior is not None:
        handles.insert(0, theme.line("prior", MUTED, lw=6, alpha=FILL))
    theme.legend_line(figure, LEFT, handles, part_of(saved, shown))
    for axes, column in zip(panels, chosen, strict=True):
        values = [saved.points[:, :, index, column].ravel() for index in range(shown)]
        _histograms(axes, None if saved.prior is None else saved.prior[:, column], values, colors)
        for value, color in zip(_observed_at(saved, column)[:shown], colors, strict=False):
            axes.axvline(value, color=color, lw=1.1, ls=theme.DASHED)
        if saved.truth is not None:
            for value, color in zip(saved.truth[:shown, column], colors, strict=True):
                axes.axvline(value, color=color, lw=1.1)
        theme.name_panel(axes, axis_name(saved.names[column], width))
    return figure


def draw_pairs(saved: SavedPosteriors) -> Figure:
    """Plot draws given the first observation, as pairs of two to five columns."""
    chosen = informative_columns(saved, MOST_PAIRED)
    size, step = len(chosen), SIDE + PAIRS_GAP
    name, details = name_and_details(saved)
    width = max(PAIRS_LEFT + size * step, LEAST_WIDTH)
    bottom = 0.6
    figure = theme.new_figure(width, theme.TOP + theme.LINE_HEIGHT + size * step + bottom)
    height = figure.get_size_inches()[1]
    of = f"observation 1 of {saved.count:,}" if saved.count > 1 else ""
    subtitle = theme.joined(details, of, _which(saved, size), "ρ: rank correlation")
    title = f"Pairs of columns of the posterior of {name}"
    theme.headline(figure, title, subtitle, theme.MARGIN * 3, height - theme.MARGIN)
    handles = [theme.dots("posterior", BLUE)]
    if saved.prior is not None:
        handles.insert(0, theme.dots("prior", MUTED, 0.5))
    if observed_columns(saved)[chosen].any():
        handles.append(theme.line("observed", ls="none", marker="P", ms=7, mec="white"))
    if saved.truth is not None:
        handles.append(theme.line("truth", **TRUTH))
    theme.legend_line(figure, theme.MARGIN * 3, handles)
    draws = saved.points[:, :, 0].reshape(-1, len(saved.names))
    correlations = rank_correlations(draws[:, chosen])
    sets = [each for each in (saved.prior, draws) if each is not None]
    ends = [limits(*(each[:, column] for each in sets)) for column in chosen]
    for row, across in zip(*map(np.ndarray.tolist, np.tril_indices(size)), strict=True):
        place = (PAIRS_LEFT + across * step, bottom + (size - 1 - row) * step, SIDE, SIDE)
        axes = theme.axes_at(figure, place)
        if row == across:
            prior = None if saved.prior is None else saved.prior[:, chosen[row]]
            _histograms(axes, prior, [draws[:, chosen[row]]], [BLUE])
        else:
            plane = (int(chosen[across]), int(chosen[row]))
            _scatter(axes, saved, draws, plane)
            axes.set(xlim=ends[across], ylim=ends[row])
            few_numbers(axes.xaxis, axes.yaxis)
            theme.note_above(axes, f"ρ {correlations[row, across] + 0.0:.2f}".replace("-", "−"))
        label_pair(axes, row, across, [printable(saved.names[k]) for k in chosen], SIDE, 0.6)
    return figure


def _scatter(axes: Axes, saved: SavedPosteriors, draws: np.ndarray, plane: tuple[int, int]) -> None:
    style: dict[str, Any] = {"ls": "none", "marker": "o", "mew": 0, "ms": 2.2}
    for values, color, alpha in ((saved.prior, MUTED, 0.25), (draws, BLUE, 0.45)):
        if values is not None:
            points = values[evenly(len(values), MOST_POINTS)][:, list(plane)]
            axes.plot(*points.T, color=color, alpha=alpha, **style)
    if saved.likelihood is not None and saved.likelihood.operator is None:
        assert saved.observed is not None
        mark_observed(axes, saved.likelihood, saved.observed[0], plane, len(saved.names))
    if saved.truth is not None:
        mark_truth(axes, saved.truth[0, list(plane)])


def _histograms(
    axes: Axes, prior: np.ndarray | None, values: Sequence[np.ndarray], colors: Sequence[Any]
) -> None:
    """Draw the filled prior and outlines of posteriors, each scaled to the panel's height."""
    # Without a prior all posteriors set the limits, so that none lies outside those of the first.
    low, high = limits(np.concatenate(values) if prior is None else prior, *values)
    edges = np.linspace(low, high, BINS + 1)
    if prior is not None:
        share = np.histogram(prior, edges)[0] / len(prior)
        axes.stairs(share / max(share.max(), 1e-9), edges, color=MUTED, alpha=FILL, fill=True, lw=0)
    for each, color in zip(values, colors, strict=True):
        bins = int(np.clip(2 * len(each) ** (1 / 3), LEAST_BINS, BINS))
        fine = np.linspace(*limits(each), bins + 1)
        share = np.histogram(each, fine)[0] / len(each)
        axes.stairs(share / max(share.max(), 1e-9), fine, color=color, lw=1.3)
    axes.set(xlim=(low, high), ylim=(0, 1.06), yticks=[])
    axes.spines["left"].set_visible(False)
    few_numbers(axes.xaxis)
    axes.xaxis.get_offset_text().set(size=theme.SMALL_SIZE - 1, color=MUTED)


def _observed_at(saved: SavedPosteriors, column: int) -> np.ndarray:
    """Return the observed values of a column, one per observation; empty if it is not observed."""
    if not observed_columns(saved)[column] or saved.observed is None or saved.likelihood is None:
        return np.empty(0)
    places = saved.likelihood.coordinates
    place = column if places is None else int((places == column).nonzero()[0, 0])
    return saved.observed[:, place]


def _which(saved: SavedPosteriors, size: int) -> str:
    dim = len(saved.names)
    if size == dim:
        return ""
    unseen = "of unobserved columns, " if not observed_columns(saved).all() else ""
    return f"{size} of {dim} columns: {unseen}those with the largest information gain"


DRAWS = 6
APART = 20  # pixels before a column of another kind
LEAST_REACH = 1.0
"""Least standard deviation, in gray levels, that the darkest color stands for."""
AMONG = LinearSegmentedColormap.from_list("among", DIVERGING)
SPREAD = LinearSegmentedColormap.from_list("spread", ("#f4f5f8", BLUE, INK))


def draw_images(saved: SavedPosteriors) -> Figure:
    """Draw a row of images for each observation, with pixels in gray levels."""
    shape, shown = saved.image_shape, saved.points.shape[2]
    assert shape is not None
    draws = saved.points.reshape(-1, shown, *shape)
    std = draws.std(axis=0).mean(axis=1)
    columns = [
        Column(gray_levels(draws.mean(axis=0)), "mean", space=APART),
        *(
            Column(gray_levels(draws[place]), f"draw {number + 1}", space=APART * (number == 0))
            for number, place in enumerate(evenly(len(draws), DRAWS))
        ),
    ]
    seen = observed_cells(saved)
    caption = "Standard deviation: of the draws of each pixel"
    if seen is not None:
        columns.insert(0, Column(seen, "observed"))
        hidden = saved.likelihood is not None and saved.likelihood.coordinates is not None
        caption = theme.joined("Tinted: unobserved pixels" * hidden, caption, by=". ")
    if saved.truth is not None:
        truth = saved.truth.reshape(shown, *shape)
        columns.insert(0, Column(gray_levels(truth), "truth"))
        columns.append(Column(truth_cells(draws, truth), "true value\namong draws", space=APART))
        caption += ". True value: blue below nearly all draws, orange above"
    reach = max(float(std.max()), LEAST_REACH)
    columns.append(Column(spread_cells(std, reach), "standard\ndeviation", space=APART))
    values = spread_cells(np.linspace(0, reach, 101), reach)
    name, details = name_and_details(saved)
    return draw_rows(
        columns,
        f"Posterior of {name}",
        theme.joined(details, part_of(saved, shown), f"{shape[2]} × {shape[1]} pixels"),
        f"{caption}.",
        scale=Scale(values, f"0 to {theme.brief(reach)} gray levels"),
    )


def spread_cells(std: np.ndarray, reach: float) -> np.ndarray:
    """Return standard deviations ``[...]`` as 8-bit colors ``[..., 3]``, darkest at ``reach``."""
    return np.rint(255 * SPREAD(std / reach)[..., :3]).astype(np.uint8)


def truth_cells(draws: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Color each pixel of true images by its rank among posterior draws, ``[m, H, W, 3]``.

    The color shows the fraction of draws below the true value minus the fraction above, for the
    channel with the largest absolute difference.

    Args:
        draws: Posterior draws ``[S, m, C, H, W]``.
        truth: True images ``[m, C, H, W]``.
    """
    beyond = ((draws < truth).mean(axis=0) - (draws > truth).mean(axis=0)).astype(np.float64)
    farthest = np.abs(beyond).argmax(axis=1)[:, None]
    share = np.take_along_axis(beyond, farthest, axis=1)[:, 0]
    return np.rint(255 * AMONG((1 + share) / 2)[..., :3]).astype(np.uint8)


def observed_cells(saved: SavedPosteriors) -> np.ndarray | None:
    """Return observations as images ``[m, H, W, 3]``; None if they cannot be shown as images."""
    shape, likelihood, observed = saved.image_shape, saved.likelihood, saved.observed
    assert shape is not None
    if observed is None or likelihood is None:
        return None
    if likelihood.operator is not None:
        return _small_cells(observed, likelihood.operator.shape, shape)
    places = likelihood.coordinates
    dim = int(np.prod(shape))
    where = np.arange(dim) if places is None else places.numpy()
    pixels, known = np.zeros((len(observed), dim)), np.zeros(dim, dtype=bool)
    pixels[:, where], known[where] = observed, True
    cells = gray_levels(pixels.reshape(-1, *shape))
    seen: np.ndarray = known.reshape(shape).min(axis=0)
    tint = np.rint(255 * np.array(to_rgb(FAINT)) * (0.8, 0.9, 1.0)).astype(np.uint8)
    return np.where(seen[:, :, None], cells, tint)


def _small_cells(
    observed: np.ndarray, small: tuple[int, int, int] | None, shape: tuple[int, int, int]
) -> np.ndarray | None:
    """Return observations ``[m, K]`` of an operator as images, enlarged and in the upper left.

    Returns:
        Images ``[m, H, W, 3]``, or None if the operator's output is no image or a larger one.
    """
    if small is None or small[0] != shape[0] or small[1] > shape[1] or small[2] > shape[2]:
        return None
    times = min(shape[1] // small[1], shape[2] // small[2])
    pixels = observed.reshape(-1, *small).repeat(times, axis=2).repeat(times, axis=3)
    rest = ((0, 0), (0, 0), *((0, shape[k] - pixels.shape[k + 1]) for k in (1, 2)))
    return gray_levels(np.pad(pixels, rest, constant_values=255))


PANEL = (2.7, 2.6)  # inches
MOST_PARAMETERS, MOST_MEMBERS = 6, 60


def draw_population(saved: SavedPopulation, name: str) -> Figure:
    """Draw intervals of the members of a hierarchical model, in a panel per parameter.

    Each member has the interval of its own posterior and that given all members. Members are sorted
    by the median given all members. The interval of a new member is in the background.
    """
    count, shown = saved.members.shape[2], min(len(saved.names), MOST_PARAMETERS)
    figure, panels = theme.panels(
        shown,
        shown,
        PANEL,
        f"{count} members of a hierarchical model: {name}",
        (
            "90 % intervals of each member alone (gray), in the hierarchical model (blue), "
            "and of a new member (orange)"
        ),
        least_width=theme.WIDE,
    )
    together = np.quantile(saved.members, QUANTILES, axis=(0, 1))
    further = np.quantile(saved.further, QUANTILES, axis=(0, 1))
    for place, axes in enumerate(panels):
        order = np.argsort(together[1, :, place], kind="stable")[evenly(count, MOST_MEMBERS)]
        rows = np.arange(len(order))
        low, middle, high = further[:, place]
        note = f"new member {low:.3g} to {high:.3g}"
        axes.axvspan(low, high, color=ORANGE, alpha=0.18, lw=0)
        axes.axvline(middle, color=ORANGE, lw=1.2)
        for values, color, shift in ((saved.alone, FAINT, 0.16), (together, BLUE, -0.16)):
            low, middle, high = values[:, order, place]
            axes.hlines(rows + shift, low, high, color=color, lw=1.6)
            middles = MUTED if color == FAINT else color
            axes.scatter(middle, rows + shift, s=7, color=middles, lw=0, zorder=3)
        axes.set_yticks([])
        theme.name_panel(axes, axis_name(saved.names[place], PANEL[0]), note)
    return figure
