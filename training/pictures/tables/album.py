"""Choice of the pictures of tables, and pictures of log densities and of roundtrip errors."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.stats import ks_2samp

from training.files.arrays import stem_of
from training.files.rows import LARGEST, SavedTable
from training.pictures import theme
from training.pictures.tables.columns import (
    FEW_ROWS,
    chance,
    color_of,
    counted,
    draw_marginals,
    draw_pairs,
    draw_points,
    draw_shares,
    legend_below_headline,
)
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE
from training.pictures.trajectories.clouds import latent_law, name_and_details
from training.pictures.trajectories.latents import draw_joint, draw_latents, draw_spectrum

SIZE, GAP, LEFT = 3.3, 0.95, 0.6  # inches
LEAST_WIDTH = {True: 8.0, False: 6.0}  # with ranks, and without
LEAST_BINS, MOST_BINS = 10, 40
FAR = 5e-3
"""Share of the lowest densities of each set that the histogram may leave out."""
REACH = 4.0
"""Distance below the lower quartile, in interquartile ranges, beyond which more may be left out."""
FEW = 2
"""Smallest number of densities to draw."""


def draw_densities(tables: Sequence[SavedTable]) -> Figure:
    """Draw histograms of log densities of data, samples, or both.

    If both are given, a second panel shows the ranks of the data's densities among those of the
    samples.
    """
    values = [table.densities for table in tables]
    name, details = name_and_details(tables[0].trajectory)
    counts = counted(tables, [len(each) for each in values])
    compared = len(tables) == 2
    figure, panels = theme.panels(
        1 + compared,
        1 + compared,
        (SIZE, SIZE),
        f"Log density of {name}" + ("" if compared else f": {tables[0].label}"),
        theme.joined(details, counts, latent_law(tables[-1].trajectory)),
        left=LEFT,
        gap=GAP,
        top=theme.TOP + theme.LINE_HEIGHT,
        least_width=LEAST_WIDTH[compared],
    )
    labels = [table.label for table in tables]
    legend_below_headline(figure, LEFT, labels, strips=False, note=_least(tables[0]))
    _histogram(next(panels), labels, values)
    if compared:
        _ranks(next(panels), values[0], values[1])
    return figure


def uniformity(data: np.ndarray, samples: np.ndarray) -> float:
    """Return the p-value of a test that data ``[n]`` have uniform ranks among samples ``[m]``."""
    return float(ks_2samp(data, samples).pvalue)


def _histogram(axes: Axes, labels: Sequence[str], values: Sequence[np.ndarray]) -> None:
    first, third = np.quantile(np.concatenate(values), [0.25, 0.75])
    low = min(float(np.quantile(each, FAR)) for each in values)
    low = max(low, float(first - REACH * (third - first)))
    high = max(float(each.max()) for each in values)
    room = 0.04 * (high - low) or max(0.05 * abs(high), 0.5)
    low, high = low - room, high + room
    bins = int(np.clip(3 * min(map(len, values)) ** (1 / 3), LEAST_BINS, MOST_BINS))
    edges = np.linspace(low, high, bins + 1)
    notes, left_out = [], []
    for number, (label, each) in enumerate(zip(labels, values, strict=True)):
        if len(each) < FEW_ROWS:
            draw_points(axes, each, color_of(label), 0.02 * (number + 1))
        else:
            draw_shares(axes, label, np.histogram(each, edges)[0] / len(each), edges, 1.5)
        axes.axvline(each.mean(), color=color_of(label), lw=1.2, ls=theme.DASHED)
        error = each.std(ddof=1) / math.sqrt(len(each))
        notes.append(f"{label} {each.mean():.4g} ± {error:.2g}")
        lower = int((each < low).sum())
        if lower:
            left_out.append(f"{lower} of {label} lower")
    axes.set(xlim=(low, high), ylim=(0, None))
    if max(map(len, values)) < FEW_ROWS:
        axes.set_yticks([])
    theme.label(axes, "log density in nats", "fraction of rows" * bool(len(axes.get_yticks())))
    title = "mean (dashed) ± standard error:"
    theme.name_panel(axes, title, ", ".join(notes).replace("-", "−"))
    theme.note_inside(axes, "\n".join(left_out), "left")


def _ranks(axes: Axes, data: np.ndarray, samples: np.ndarray) -> None:
    """Draw the share of the data below each density against that of the samples."""
    ends = np.sort(np.concatenate([data, samples]))
    below = [
        np.concatenate([[0], np.searchsorted(np.sort(each), ends, side="right") / len(each)])
        for each in (samples, data)
    ]
    p = uniformity(data, samples)
    band = chance(len(data), len(samples))
    diagonal = np.array([0, 1])
    axes.fill_between(diagonal, diagonal - band, diagonal + band, color=FAINT, alpha=0.6, lw=0)
    axes.plot(diagonal, diagonal, color=MUTED, lw=0.8)
    axes.plot(*below, color=INK, lw=1.4)
    axes.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    theme.label(axes, "fraction of samples with a lower density", "fraction of the data")
    theme.name_panel(
        axes,
        f"ranks of data among samples: KS p {'< 0.0001' if p < 1e-4 else f'= {p:.2g}'}",
        "band: contains uniform ranks in 95 % of cases",
    )


def _least(table: SavedTable) -> str:
    """Describe which row of data is the least likely."""
    if table.row_index is None or table.log_prob is None or table.kind != "melt":
        return ""
    index = int(np.nanargmin(table.log_prob))
    value = f"{table.log_prob[index]:.4g}".replace("-", "−")
    return f"least likely: row {table.row_index[index]:.0f} of the data, {value}"


MOST = 20
ERRORS_LEFT, RIGHT, WIDTH, LINE, BOTTOM = 2.4, 0.3, 5.0, 0.21, 0.55  # inches
LEAST = 1e-16
"""Smallest error that is drawn; a zero error is drawn there."""


def draw_roundtrip(melt: SavedTable, back: SavedTable) -> Figure:
    """Draw the roundtrip errors, data to latents and back, of at most 20 columns.

    Errors are in standard deviations of the columns.
    """
    error, largest = column_errors(melt, back)
    order = np.argsort(-largest, kind="stable")[:MOST]
    height = theme.TOP + theme.LINE_HEIGHT + LINE * len(order) + BOTTOM
    figure = theme.new_figure(ERRORS_LEFT + WIDTH + RIGHT, height)
    name, details = name_and_details(melt.trajectory)
    dim = len(melt.names)
    which = f"the {MOST} of {dim} columns with the largest errors" if dim > MOST else ""
    theme.headline(
        figure,
        f"Rows of {name}, inflated and generated back",
        theme.joined(details, f"{melt.trajectory.count:,} rows", which),
        theme.MARGIN + 0.2,
        height - theme.MARGIN,
    )
    axes = theme.axes_at(figure, (ERRORS_LEFT, BOTTOM, WIDTH, LINE * len(order)))
    places = np.arange(len(order))[::-1]
    root, most = (np.maximum(values[order], LEAST) for values in (error, largest))
    axes.hlines(places, root, most, color=FAINT, lw=2, zorder=1)
    axes.plot(root, places, "o", ms=5, mew=0, color=BLUE, label="root mean square")
    axes.plot(most, places, "D", ms=4.5, mew=0, color=ORANGE, label="largest")
    axes.set_xscale("log")
    axes.set(ylim=(-0.7, len(order) - 0.3), xlim=(root.min() / 3, most.max() * 3))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(
        places, [theme.fitting(melt.names[column], ERRORS_LEFT - 0.3) for column in order]
    )
    axes.grid(axis="x", color=FAINT, lw=0.6, alpha=0.7)
    theme.label(axes, "error in standard deviations of the column")
    theme.legend(axes, 2)
    return figure


def column_errors(melt: SavedTable, back: SavedTable) -> tuple[np.ndarray, np.ndarray]:
    """Return the root-mean-square and the largest roundtrip error of each column, ``[D]``.

    Errors are in standard deviations of the column, or in its own units if it is constant. Rows
    that are not finite are left out.
    """
    error = np.abs(back.points - melt.points)
    error = error[~np.isnan(error).any(axis=1)]
    std = _root_mean_square(melt.rows - melt.rows.mean(axis=0))
    with np.errstate(over="ignore"):
        error = np.minimum(error / np.where(std > 0, std, 1), LARGEST)
    return _root_mean_square(error), error.max(axis=0)


def _root_mean_square(values: np.ndarray) -> np.ndarray:
    """Return the root mean square of columns ``[n, D]``, safe against overflow and underflow."""
    largest = np.abs(values).max(axis=0)
    parts = values / np.where(largest > 0, largest, 1)
    return np.asarray(largest * np.sqrt(np.square(parts).mean(axis=0)))


ALONE = {
    "melt": "data alone: with generated rows of the same run beside them, both are compared",
    "gen": "samples alone: with a melt of the same run beside them, both are compared",
}
"""Note for the user, by kind of the only simulation of a run."""


def pictures_of_tables(
    paths: Iterable[Path], folder: Path | None, animation: str | None
) -> list[theme.Picture]:
    """Return all pictures of simulations of tables, in a folder or next to their files.

    The inflation (melt) and the generation of one run are compared. A roundtrip is drawn with its
    inflation. There are no animations.

    Raises:
        DataError: A file is broken.
    """
    tables = [SavedTable.load(path) for path in paths]
    return [picture for run in runs_of(tables) for picture in _pictures_of(run, folder)]


def _pictures_of(run: Mapping[str, SavedTable], folder: Path | None) -> list[theme.Picture]:
    """Return the pictures of a run's simulations, given by kind.

    Data and samples are drawn if there are any, otherwise the returned rows.
    """
    melt, back = run.get("melt"), run.get("roundtrip")
    shown = [run[kind] for kind in ("melt", "gen") if kind in run] or list(run.values())
    draw: dict[str, Callable[[], Figure]] = {"marginals": partial(draw_marginals, shown)}
    several = len(shown[0].names) > 1
    if several:
        draw["pairs"] = partial(draw_pairs, shown)
    known = [table for table in shown if len(table.densities) >= FEW]
    if known:
        draw["log_prob"] = partial(draw_densities, known)
    if melt and back and melt.points.shape == back.points.shape:
        draw["roundtrip"] = partial(draw_roundtrip, melt, back)
    if melt:
        latents = melt.trajectory
        draw["melt_latents"] = partial(draw_latents, latents)
        if several:
            draw["melt_joint"] = partial(draw_joint, latents)
            draw["spectrum"] = partial(draw_spectrum, latents)
    stem = (folder or shown[0].path.parent) / stem_of(shown[0].path)
    first, *others = theme.figures(stem, draw)
    return [replace(first, note=ALONE.get(shown[0].kind, "") if len(shown) == 1 else ""), *others]


def runs_of(tables: Iterable[SavedTable]) -> list[dict[str, SavedTable]]:
    """Group simulations into runs, each a mapping from kind to simulation.

    Simulations of one run lie in one folder and share their name and columns.
    """
    by_run: dict[tuple[object, ...], dict[str, SavedTable]] = {}
    for table in tables:
        run = (table.path.parent, stem_of(table.path), *table.names)
        while table.kind in by_run.get(run, {}):  # of two with one name, each has its own pictures
            run = (*run, "again")
        by_run.setdefault(run, {})[table.kind] = table
    return list(by_run.values())
