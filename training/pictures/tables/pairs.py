"""Pairs of columns: rows of data below the diagonal, samples above it, both on it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.files.arrays import evenly
from training.files.rows import SavedTable
from training.pictures.style import look
from training.pictures.style.colors import MUTED
from training.pictures.style.words import joined
from training.pictures.tables.columns import (
    color_of,
    counted,
    draw_column,
    few_numbers,
    fitting,
    legend_below_headline,
)
from training.pictures.tables.fit import limits, rank_correlations
from training.pictures.trajectories.words import latent_law, name_and_details

MOST = 5
LARGEST, LEFT, RIGHT, GAP, BOTTOM = 2.9, 0.85, 0.2, 0.3, 0.55  # inches
LEAST_WIDTH = 7.5
MOST_POINTS = 2000
"""Of each set."""


def draw_pairs(tables: Sequence[SavedTable]) -> Figure:
    """A matrix of panels of two to five columns.

    Args:
        tables: Rows of data and samples, or one of them.
    """
    rows = [table.rows for table in tables]
    correlations = [rank_correlations(each) for each in rows]
    chosen = telling_columns(correlations, MOST)
    size = len(chosen)
    ends = {int(column): limits(*(each[:, column] for each in rows)) for column in chosen}
    side = min((look.WIDE - LEFT - RIGHT - GAP * (size - 1)) / size, LARGEST)
    step = side + GAP
    height = look.TOP + 2 * look.LINE_HEIGHT + size * step + BOTTOM - GAP
    figure = look.new_figure(max(LEFT + size * step - GAP + RIGHT, LEAST_WIDTH), height)
    look.headline(figure, *_headline(tables, size), RIGHT, height - look.MARGIN)
    legend_below_headline(figure, RIGHT, [table.label for table in tables], strips=False)
    for row, across in np.ndindex(size, size):
        place = (LEFT + across * step, BOTTOM + (size - 1 - row) * step, side, side)
        axes = look.axes_at(figure, place)
        here, beside = int(chosen[across]), int(chosen[row])
        if row == across:
            values = [each[:, here] for each in rows]
            draw_column(axes, [table.label for table in tables], values, strips=False)
        else:
            # One set alone fills both halves.
            which = int(across > row) if len(tables) == 2 else 0
            _scatter(axes, rows[which][:, [here, beside]], color_of(tables[which].label))
            axes.set(xlim=ends[here], ylim=ends[beside])
            correlation = round(correlations[which][here, beside], 2) + 0.0
            look.note_above(axes, f"ρ {correlation:.2f}".replace("-", "−"))
        _outer_labels(axes, row, across, side, [tables[0].names[column] for column in chosen])
    return figure


def telling_columns(correlations: Sequence[np.ndarray], most: int) -> np.ndarray:
    """Columns between which two sets differ most, in their order: at most so many indices.

    Args:
        correlations: Of all columns ``[D, D]``, of two sets or one, of which the strongest tell.
        most: Number of columns.
    """
    change = np.abs(correlations[0] - (correlations[1] if len(correlations) == 2 else 0))
    np.fill_diagonal(change, 0)
    chosen = list(np.unravel_index(change.argmax(), change.shape))
    if chosen[0] == chosen[1]:  # all are equal
        chosen = [0, 1]
    while len(chosen) < min(most, len(change)):
        gain = change[:, chosen].sum(axis=1)
        gain[chosen] = -1
        chosen.append(gain.argmax())
    return np.sort(chosen)


def _scatter(axes: Axes, points: np.ndarray, color: str) -> None:
    """Points ``[n, 2]``, or evenly spaced ones of many: the fewer, the larger."""
    shown = points[evenly(len(points), MOST_POINTS)]
    size = float(np.interp(np.log10(len(shown)), [1.5, 3.3], [4.0, 2.0]))
    axes.plot(*shown.T, "o", ms=size, mew=0, color=color, alpha=0.5)
    few_numbers(axes.xaxis)
    few_numbers(axes.yaxis)


def _headline(tables: Sequence[SavedTable], size: int) -> tuple[str, str]:
    name, details = name_and_details(tables[0].trajectory)
    dim = len(tables[0].names)
    law = latent_law(tables[-1].trajectory)
    if len(tables) == 2:
        title, which = (
            f"Pairs of columns of {name}: data and samples",
            "whose correlations differ most",
        )
    else:
        title, which = (
            f"Pairs of columns of {name}: {tables[0].label}",
            "with the strongest correlations",
        )
    chosen = f"{size} of {dim} columns, {which}" if size < dim else ""
    return title, joined(
        details,
        counted(tables, [len(table.rows) for table in tables]),
        law,
        chosen,
        "ρ: rank correlation",
    )


def _outer_labels(axes: Axes, row: int, across: int, side: float, names: Sequence[str]) -> None:
    """Numbers and names at the left and at the bottom of the matrix only."""
    last = len(names) - 1
    axes.tick_params(labelbottom=row == last, labelleft=across == 0 and row != across)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set(size=look.SMALL_SIZE - 1, color=MUTED)
    axes.xaxis.get_offset_text().set_visible(row == last)
    axes.yaxis.get_offset_text().set_visible(across == 0 and row != across)
    if row == last:
        look.label(axes, x=fitting(names[across], side))
    if across == 0:
        look.label(axes, y=fitting(names[row], side))
        axes.yaxis.set_label_coords(-0.62 / side, 0.5)
