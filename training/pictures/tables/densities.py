"""Log densities of rows of data against those of samples.

If data and samples have one law, so have their log densities, and the rank of a row's among those
of the samples is uniform: the probability integral transform. Its distribution function, drawn
against that of samples, is then the diagonal, but for chance: the largest distance from it is that
of Kolmogorov and Smirnov for two samples, which knows that samples are finite in number, too.
"""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import ks_2samp

from training.files.rows import SavedTable
from training.pictures.style import look
from training.pictures.style.colors import FAINT, INK, MUTED
from training.pictures.style.words import joined
from training.pictures.tables.columns import (
    FILL,
    color_of,
    counted,
    is_outlined,
    legend_below_headline,
)
from training.pictures.tables.fit import chance
from training.pictures.trajectories.words import latent_law, name_and_details

SIZE, GAP, LEFT = 3.3, 0.95, 0.6  # inches
LEAST_WIDTH = {True: 8.0, False: 6.0}  # with ranks, and without
LEAST_BINS, MOST_BINS = 10, 40
FAR = 5e-3
"""Share of the lowest densities of each set that the histogram may leave out."""
REACH = 4.0
"""Distances of the quartiles below the lower one from which it may leave out more."""
FEW = 2
"""Densities of which something can be told."""


def draw_densities(tables: Sequence[SavedTable]) -> Figure:
    """Histograms, and the ranks of the data's densities among the samples'.

    Args:
        tables: Rows of data and samples, or one of them, whose densities are known.
    """
    values = [table.densities for table in tables]
    name, details = name_and_details(tables[0].trajectory)
    counts = counted(tables, [len(each) for each in values])
    compared = len(tables) == 2
    figure, places = look.panel_page(
        1,
        1 + compared,
        (SIZE, SIZE),
        f"Log density of {name}" + ("" if compared else f": {tables[0].label}"),
        joined(details, counts, latent_law(tables[-1].trajectory)),
        left=LEFT,
        gap=GAP,
        top=look.TOP + look.LINE_HEIGHT,
        least_width=LEAST_WIDTH[compared],
    )
    labels = [table.label for table in tables]
    legend_below_headline(figure, LEFT, labels, strips=False, note=_least(tables[0]))
    _histogram(look.axes_at(figure, places[0, 0]), labels, values)
    if compared:
        _ranks(look.axes_at(figure, places[0, 1]), values[0], values[1])
    return figure


def uniformity(data: np.ndarray, samples: np.ndarray) -> float:
    """p-value of the ranks of ``[n]`` numbers of data among ``[m]`` of samples."""
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
    for label, each in zip(labels, values, strict=True):
        share, color = np.histogram(each, edges)[0] / len(each), color_of(label)
        if is_outlined(label):
            axes.stairs(share, edges, color=color, lw=1.5)
        else:
            axes.stairs(share, edges, color=color, alpha=FILL, fill=True, lw=0)
        axes.axvline(each.mean(), color=color, lw=1.2, ls=look.DASHED)
        error = each.std(ddof=1) / math.sqrt(len(each))
        notes.append(f"{label} {each.mean():.4g} ± {error:.2g}")
        lower = int((each < low).sum())
        if lower:
            left_out.append(f"{lower} of {label} lower")
    axes.set(xlim=(low, high), ylim=(0, None))
    look.label(axes, "log density in nats", "share of rows")
    title = "mean (dashed) ± standard error:"
    look.name_panel(axes, title, ", ".join(notes).replace("-", "−"))
    look.note_inside(axes, "\n".join(left_out), "left")


def _ranks(axes: Axes, data: np.ndarray, samples: np.ndarray) -> None:
    """The part of the data below each density, against that of the samples."""
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
    look.label(axes, "part of the samples with a lower density", "part of the data")
    look.name_panel(
        axes,
        f"ranks of data among samples: KS p {'< 0.0001' if p < 1e-4 else f'= {p:.2g}'}",
        "band: left by uniform ranks in 5 % of cases",
    )


def _least(table: SavedTable) -> str:
    """Which row of data is the least likely."""
    if table.row_index is None or table.log_prob is None or table.kind != "melt":
        return ""
    index = int(np.nanargmin(table.log_prob))
    value = f"{table.log_prob[index]:.4g}".replace("-", "−")
    return f"least likely: row {table.row_index[index]:.0f} of the data, {value}"
