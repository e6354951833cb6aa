"""Pictures of sampled rows against real ones: single columns, and associations between columns."""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from training.data.records.records import CATEGORY, DATE, RecordColumn
from training.data.records.writing import text_of
from training.files.answers import SavedAnswers
from training.files.rows import LABELS
from training.measure.association import associations
from training.pictures import theme
from training.pictures.tables.columns import (
    FEW_ROWS,
    FILL,
    LEFT,
    MOST,
    chance,
    color_of,
    column_page,
    distances,
    draw_column,
    is_outlined,
    legend_below_headline,
)
from training.pictures.theme import FAINT, INK, MUTED

FEW_VALUES = 7
"""Largest number of distinct values of a number column that is drawn like categories."""
MOST_LEVELS = 7
FEW = 2
"""Smallest number of cells to draw."""


class DrawnRows:
    """Columns of samples, and of data if there are any, in the order of the table."""

    def __init__(self, saved: SavedAnswers):
        sets = {LABELS["melt"]: saved.real, LABELS["gen"]: saved.rows}
        self.saved = saved
        self.labels = [label for label, rows in sets.items() if rows is not None]
        self.values = [rows.values for rows in sets.values() if rows is not None]
        self.places = [
            place
            for place in range(len(saved.rows.columns))
            if min((~np.isnan(each[:, place])).sum() for each in self.values) >= FEW
        ]
        self.columns: list[RecordColumn] = [saved.rows.columns[place] for place in self.places]

    def sets(self, index: int) -> list[np.ndarray]:
        """Return the values of a column that are not missing, for samples and for data."""
        columns = [values[:, self.places[index]] for values in self.values]
        return [column[~np.isnan(column)] for column in columns]

    def levels(self, index: int) -> list[float] | None:
        """Return the values of a column with few distinct values, or None for other columns.

        Values without an order are sorted by frequency, most frequent first.
        """
        column, sets = self.columns[index], self.sets(index)
        values = np.unique(np.concatenate(sets))
        few_rows = max(map(len, sets)) < FEW_ROWS  # few values for any distribution
        if column.type != CATEGORY and (len(values) > FEW_VALUES or few_rows):
            return None
        if column.type == CATEGORY and not column.ordered:
            counts = [(sets[0] == value).sum() for value in values]
            values = values[np.argsort(counts, kind="stable")[::-1]]
        return [float(value) for value in values]

    def shares(self, index: int, most: int) -> tuple[list[str], list[np.ndarray]]:
        """Return the values of a column as text, and their frequencies in samples and in data.

        The column has few different values. Values beyond the first ``most - 1`` are pooled.
        """
        levels = self.levels(index) or []
        shown = levels if len(levels) <= most else levels[: most - 1]
        names = [self.text(index, value) for value in shown]
        shares = [
            np.array([(each == value).mean() for value in shown]) for each in self.sets(index)
        ]
        if len(shown) < len(levels):
            names.append(f"{len(levels) - len(shown)} others")
            shares = [np.append(share, 1 - share.sum()) for share in shares]
        return names, shares

    @cached_property
    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Kolmogorov-Smirnov distances ``[D]`` between samples and data, and their bounds ``[D]``.

        For equal distributions, no column exceeds its bound with a probability of at least 95 %.
        Categories are ordered as in ``levels``.
        """
        gaps, bounds = np.zeros((2, len(self.columns)))
        for index in range(len(self.columns)):
            sets, levels = self.sets(index), self.levels(index)
            if levels is not None:
                sets = [np.array([levels.index(value) for value in each]) for each in sets]
            gaps[index] = distances(sets[0][:, None], sets[1][:, None])[0]
            bounds[index] = chance(len(sets[0]), len(sets[1]), len(self.columns))
        return gaps, bounds

    def associations(self, places: Sequence[int]) -> list[np.ndarray]:
        """Return the associations ``[D, D]`` between some columns, for samples and for data.

        Args:
            places: Indices of the D columns.
        """
        is_level = np.array([self.columns[index].type == CATEGORY for index in places])
        chosen = [self.places[index] for index in places]
        return [associations(values[:, chosen], is_level) for values in self.values]

    @cached_property
    def has_associations(self) -> bool:
        """Whether samples and data both have a known association of some pair of columns."""
        matrices = self.associations(range(len(self.columns)))
        return all(np.isfinite(m[np.tril_indices(len(m), -1)]).any() for m in matrices)

    @property
    def counts(self) -> str:
        """Numbers of rows of samples and of data, as text."""
        of_data = "validation rows" if self.saved.held_out else "training rows"
        words = {LABELS["melt"]: of_data, LABELS["gen"]: "samples"}
        pairs = zip(self.labels, self.values, strict=True)
        return ", ".join(f"{len(values):,} {words[label]}" for label, values in pairs)

    @property
    def against(self) -> str:
        """Names of the compared sets of rows, as text."""
        return " and ".join(self.labels)

    def text(self, index: int, value: float) -> str:
        """Return a value of a column as the table writes it."""
        return text_of(self.columns[index], value, self.saved.rows.decimal)


def draw_marginals(drawn: DrawnRows) -> Figure:
    """Draw a panel per column; of more than 20 columns, draw the 20 that differ most."""
    dim, compared = len(drawn.columns), len(drawn.labels) == 2
    order = np.argsort(-drawn.fit[0], kind="stable") if compared else np.arange(dim)
    shown = np.sort(order[:MOST])
    worst = f"{MOST} of {dim} columns" + ", the worst-fitting ones" * compared if dim > MOST else ""
    title = f"Columns of {drawn.saved.name}: {drawn.against}"
    figure, panels, width = column_page(len(shown), title, theme.joined(drawn.counts, worst))
    for axes, index in zip(panels, shown.tolist(), strict=True):
        if drawn.levels(index) is None:
            draw_column(axes, drawn.labels, drawn.sets(index))
            if drawn.columns[index].type == DATE:
                write_dates(axes.xaxis, drawn.columns[index])
        else:
            _draw_levels(axes, drawn, index, width)
        note = ""
        if compared:
            gap, bound = (values[index] for values in drawn.fit)
            note = f"KS {gap:.3f}, by chance ≤ {bound:.3f}"
        theme.name_panel(axes, theme.fitting(drawn.columns[index].name, width), note)
    note = "by chance: for all columns, with 95 % probability" if compared else ""
    legend_below_headline(figure, LEFT, drawn.labels, note=note)
    return figure


def write_dates(axis: Axis, column: RecordColumn) -> None:
    """Format the numbers of an axis as dates without times."""
    axis.set_major_formatter(FuncFormatter(lambda day, _: text_of(column, day).partition(" ")[0]))


def _draw_levels(axes: Axes, drawn: DrawnRows, index: int, width: float) -> None:
    """Draw bars for data and outlines for samples, with the names of values inside."""
    names, shares = drawn.shares(index, MOST_LEVELS)
    places = -np.arange(len(names), dtype=float)
    for label, share, cells in zip(drawn.labels, shares, drawn.sets(index), strict=True):
        if len(cells) < FEW_ROWS:
            axes.plot(share, places, "o", ms=6, mew=0, alpha=0.8, color=color_of(label))
            continue
        outlined: dict[str, Any] = {"fill": False, "ec": color_of(label), "lw": 1.3}
        filled: dict[str, Any] = {"color": color_of(label), "alpha": FILL, "lw": 0}
        axes.barh(places, share, 0.76, **(outlined if is_outlined(label) else filled))
    largest = float(np.max(shares))
    for place, name in zip(places.tolist(), names, strict=True):
        text = theme.fitting(name, width - 0.2)
        theme.write(axes, text, (0, place), (3, 0), "data", va="center", color=INK)
    axes.set(xlim=(0, 1.06 * largest), ylim=(places[-1] - 0.6, 0.6), yticks=[])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:.0%}"))
    axes.locator_params(axis="x", nbins=4)


MOST_ASSOCIATED, MOST_WRITTEN = 20, 10
"""Number of columns of a matrix at most, and number up to which its values are written in."""
SIDE, NAMES, BETWEEN, BELOW = 2.6, 1.4, 0.3, 1.4  # inches
KINDS = ("two numbers: rank correlation", "number and category: η", "categories: Cramér's V")


def draw_associations(drawn: DrawnRows) -> Figure:
    """Draw association matrices of data and samples, and one against the other.

    At most 20 columns are drawn, those whose associations differ most.
    """
    dim, several = len(drawn.columns), len(drawn.labels) == 2
    chosen = list(range(dim))
    matrices = drawn.associations(chosen)
    if dim > MOST_ASSOCIATED:
        change = np.abs(matrices[0] - matrices[1]) if several else np.abs(matrices[0])
        worst = np.argsort(-np.nan_to_num(change).sum(axis=1), kind="stable")[:MOST_ASSOCIATED]
        chosen = np.sort(worst).tolist()
        matrices = [matrix[np.ix_(chosen, chosen)] for matrix in matrices]
    width = 2 * theme.MARGIN + NAMES + len(matrices) * (SIDE + BETWEEN)
    width += 0.65 + SIDE if several else 3.0
    height = theme.TOP + theme.LINE_HEIGHT * 1.3 + 0.3 + SIDE + BELOW
    figure = theme.new_figure(width, height)
    some = f"{MOST_ASSOCIATED} of {dim} columns" * (dim > MOST_ASSOCIATED)
    title = f"Associations of the columns of {drawn.saved.name}: {drawn.against}"
    theme.headline(figure, title, theme.joined(drawn.counts, some), 0.2, height - theme.MARGIN)
    marks = [
        Line2D([], [], ls="none", marker=marker, ms=4.5, mew=0, color=color, label=kind)
        for marker, color, kind in zip("os^", theme.sequential_colors(3), KINDS, strict=True)
    ]
    theme.legend_line(figure, 0.2, marks)
    names = [theme.fitting(drawn.columns[index].name, NAMES - 0.1) for index in chosen]
    for number, (label, matrix) in enumerate(zip(drawn.labels, matrices, strict=True)):
        left = theme.MARGIN + NAMES + number * (SIDE + BETWEEN)
        axes = theme.axes_at(figure, (left, BELOW, SIDE, SIDE))
        _draw_matrix(axes, matrix, names if number == 0 else [""] * len(names), names)
        theme.name_panel(axes, label)
    if several:
        axes = theme.axes_at(figure, (width - SIDE - 0.2, BELOW, SIDE, SIDE))
        _draw_agreement(axes, drawn, chosen, matrices)
    return figure


def _draw_matrix(axes: Axes, matrix: np.ndarray, left: Sequence[str], below: Sequence[str]) -> None:
    axes.imshow(
        matrix,
        cmap=LinearSegmentedColormap.from_list("correlation", theme.DIVERGING),
        vmin=-1,
        vmax=1,
        aspect="auto",
    )
    places = np.arange(len(matrix))
    turn, at = (90, "center") if len(below) > MOST_WRITTEN else (40, "baseline")
    axes.set_xticks(places, below, rotation=turn, ha="right", va=at, rotation_mode="anchor")
    axes.set_yticks(places, left)
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, labelcolor=INK)
    if len(matrix) > MOST_WRITTEN:
        return
    for (row, column), value in np.ndenumerate(matrix):
        if not math.isnan(value):
            color = "white" if abs(value) > 0.4 else INK
            text = f"{value:.2f}".replace("-", "−").replace("0.", ".")
            axes.text(
                column, row, text, size=theme.SMALL_SIZE - 1, color=color, ha="center", va="center"
            )


def _draw_agreement(
    axes: Axes, drawn: DrawnRows, chosen: Sequence[int], matrices: Sequence[np.ndarray]
) -> None:
    """Draw associations of samples against those of data, one mark per pair of columns."""
    rows, columns = np.tril_indices(len(chosen), -1)
    x, y = (matrix[rows, columns] for matrix in matrices)
    kinds = [drawn.columns[index].type == CATEGORY for index in chosen]
    kind = np.array(kinds, dtype=int)[rows] + np.array(kinds, dtype=int)[columns]
    low = float(np.nanmin([-0.05, *x, *y])) - 0.05
    ends = np.array([low, 1.0])
    error = 2 * math.sqrt(sum(1 / len(values) for values in drawn.values))
    axes.fill_between(ends, ends - error, ends + error, color=FAINT, alpha=0.6, lw=0)
    axes.plot(ends, ends, color=MUTED, lw=0.8)
    for each, (marker, color) in enumerate(zip("os^", theme.sequential_colors(3), strict=True)):
        axes.plot(x[kind == each], y[kind == each], marker, ms=4.5, mew=0, color=color)
    axes.set(xlim=ends, ylim=ends)
    theme.label(axes, "of data", "of samples")
    theme.name_panel(axes, "each pair of columns", f"gray: ±{error:.2f}, two standard errors")
