"""Results of queries by ``ask.py``: samples, predictions, outliers, and checks of calibration."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from training.data.tables.schema import CATEGORY, DATE, Column
from training.data.tables.values import text_of
from training.files.answers import ColumnCheck, PredictedColumn, SavedAnswerCheck, SavedAnswers
from training.files.rows import LABELS, printable
from training.measure.association import associations
from training.measure.reliability import TELLING, wilson
from training.names import script
from training.pictures.columns import (
    ACROSS,
    MOST,
    bars_of_levels,
    chance,
    column_panel,
    distances,
    fit_result,
    limits,
    signed,
)
from training.pictures.content import Choice, Content, NumberTable, Part, Result
from training.pictures.correlations import heat_map
from training.pictures.figure import (
    FEW,
    Band,
    Boxes,
    Figure,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Scale,
    Segments,
    Words,
)
from training.pictures.theme import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    brief,
    diverging_colors,
    joined,
    sequential_colors,
    srgb,
)

READINGS = {
    "sample": "Samples of a good network have the marginal distributions and the associations of "
    "the data.",
    "score": "A cell is an outlier if its value is improbable given the other cells of its row.",
    "predict": "Intervals of a calibrated network cover the nominal fraction of true values; the "
    "most likely category is correct as often as its probability states.",
    "fill": "Each missing cell was imputed by a likely value, given the other cells of its row; "
    "wide intervals and small probabilities mark uncertain values.",
}
TITLES = {
    "sample": "Rows drawn",
    "score": "Odd cells",
    "predict": "Predictions",
    "fill": "Filled cells",
}
READING_OF_CHECK = (
    "Cells of validation rows were hidden and predicted: intervals should have their nominal "
    "coverage, and categories should occur with their predicted frequencies."
)
PAGE = "docs/tutorials/table.md"
ALONE = f"samples alone: {script('ask')} sample with --data adds a comparison"
FEW_VALUES = 7
"""Largest number of distinct values of a number column that is drawn like categories."""
MOST_LEVELS, MOST_LISTED_LEVELS = 7, 12
LEAST_CELLS = 2
"""Smallest number of cells of a column that is drawn."""
MOST_CHARTS, MOST_LISTED = 8, 12
MOST_ASSOCIATED, MOST_WRITTEN = 20, 10
"""Largest numbers of columns of a matrix, and of a matrix with its values written in."""
KINDS = ("two numbers: rank correlation", "number and category: η", "categories: Cramér's V")
SHORT_KINDS = ("rank correlation", "η", "Cramér's V")
MOST_ROWS, MOST_COLUMNS = 12, 10
PLAIN, PLAINLY_ODD = 0.1, 1e-4
"""Probabilities at which the coloring of cells begins, and at which it is full."""
MOST_CELLS = 150
MOST_CHECKED, MOST_LEVELED = 30, 12


def content_of(path: Path, choice: Choice | None) -> Content:
    """Return the content of a CSV of ``ask.py``, chosen by the JSON of its parameters.

    Raises:
        DataError: The CSV or its parameters are broken.
    """
    saved = SavedAnswers.load(path)
    draw: dict[str, Callable[[], Figure]] = {}
    more: dict[str, Any] = {}
    if saved.question == "sample":
        drawn = DrawnRows(saved)
        draw = {"marginals": partial(marginals, drawn)} if drawn.columns else {}
        if drawn.has_associations:
            draw["associations"] = partial(association_figure, drawn)
        more["parts"] = partial(_tables_of_samples, drawn)
        if saved.real is None:
            more["notes"] = {f"{saved.stem}_{name}": ALONE for name in draw}
        elif drawn.columns:
            more["results"] = partial(_fit, drawn)
    elif saved.question == "score" and oddest(saved.tails, 1):
        draw["odd"] = partial(odd_cells, saved)
    elif saved.asked:
        draw["cells"] = partial(predictions, saved)
        known = [asked for asked in saved.asked if asked.known.any()]
        more["results"] = lambda: [_hits(saved, asked) for asked in known]
    return Content(
        f"{TITLES[saved.question]} of {saved.name}: {saved.stem}",
        READINGS[saved.question],
        PAGE,
        {f"{saved.stem}_{name}": make for name, make in draw.items()},
        **more,
    )


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
            if min((~np.isnan(each[:, place])).sum() for each in self.values) >= LEAST_CELLS
        ]
        self.columns: list[Column] = [saved.rows.columns[place] for place in self.places]

    def sets(self, index: int) -> dict[str, np.ndarray]:
        """Return the values of a column that are not missing, for samples and for data."""
        columns = [values[:, self.places[index]] for values in self.values]
        known = [column[~np.isnan(column)] for column in columns]
        return dict(zip(self.labels, known, strict=True))

    def levels(self, index: int) -> list[float] | None:
        """Return the values of a column with few distinct values, or None for other columns.

        Values without an order are sorted by frequency, most frequent first.
        """
        column, sets = self.columns[index], list(self.sets(index).values())
        values = np.unique(np.concatenate(sets))
        few_rows = max(map(len, sets)) < FEW  # few values for any distribution
        if column.type != CATEGORY and (len(values) > FEW_VALUES or few_rows):
            return None
        if column.type == CATEGORY and not column.ordered:
            counts = [(sets[0] == value).sum() for value in values]
            values = values[np.argsort(counts, kind="stable")[::-1]]
        return [float(value) for value in values]

    def shares(self, index: int, most: int) -> tuple[list[str], dict[str, np.ndarray]]:
        """Return the values of a column as text, and their frequencies in samples and in data.

        The column has few different values. Values beyond the first ``most - 1`` are pooled.
        """
        levels = self.levels(index) or []
        shown = levels if len(levels) <= most else levels[: most - 1]
        names = [self.text(index, value) for value in shown]
        shares = {
            label: np.array([(each == value).mean() for value in shown])
            for label, each in self.sets(index).items()
        }
        if len(shown) < len(levels):
            names.append(f"{len(levels) - len(shown)} others")
            shares = {label: np.append(each, 1 - each.sum()) for label, each in shares.items()}
        return names, shares

    @cached_property
    def fit(self) -> tuple[np.ndarray, np.ndarray]:
        """Kolmogorov-Smirnov distances ``[D]`` between samples and data, and their bounds ``[D]``.

        For equal distributions, no column exceeds its bound with a probability of at least 95 %.
        Categories are ordered as in ``levels``.
        """
        gaps, bounds = np.zeros((2, len(self.columns)))
        for index in range(len(self.columns)):
            sets, levels = list(self.sets(index).values()), self.levels(index)
            if levels is not None:
                sets = [np.array([levels.index(value) for value in each]) for each in sets]
            gaps[index] = distances(sets[0][:, None], sets[1][:, None])[0]
            bounds[index] = chance(len(sets[0]), len(sets[1]), len(self.columns))
        return gaps, bounds

    @property
    def compared(self) -> bool:
        """Whether there are data beside the samples."""
        return len(self.labels) == 2

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

    def text(self, index: int, value: float) -> str:
        """Return a value of a column as the table writes it."""
        return text_of(self.columns[index], value, self.saved.rows.decimal)


def marginals(drawn: DrawnRows) -> Figure:
    """Return a panel per column; of more than 20 columns, the 20 that differ most."""
    dim = len(drawn.columns)
    order = np.argsort(-drawn.fit[0], kind="stable") if drawn.compared else np.arange(dim)
    shown = np.sort(order[:MOST]).tolist()
    worst = f"{MOST} of {dim} columns" + ", the worst-fitting ones" * drawn.compared
    across = min(len(shown), ACROSS)
    return Figure(
        f"Columns of {drawn.saved.name}: {' and '.join(drawn.labels)}",
        joined(drawn.counts, worst * (dim > MOST)),
        [_marginal(drawn, index) for index in shown],
        across,
        (max(9.6 / across, 1.9) if across > 2 else 3.2, 1.25),
        sentence="by chance: for all columns, with 95 % probability" * drawn.compared,
    )


def _marginal(drawn: DrawnRows, index: int) -> Panel:
    column, sets, note = drawn.columns[index], drawn.sets(index), ""
    if drawn.compared:
        gap, bound = (values[index] for values in drawn.fit)
        note = f"KS {gap:.3f}, by chance ≤ {bound:.3f}"
    if drawn.levels(index) is None:
        ticks = date_ticks(column, *limits(*sets.values())) if column.type == DATE else None
        return column_panel(sets, printable(column.name), note, ticks=ticks)
    names, shares = drawn.shares(index, MOST_LEVELS)
    places = -np.arange(len(names), dtype=float)
    counts = {label: len(cells) for label, cells in sets.items()}
    largest = float(np.max(list(shares.values())))
    x, texts = np.full(len(names), 0.02 * largest), list(map(_short, names))
    words = Words(x, places, texts, align="left")
    return Panel(
        [*bars_of_levels(shares, counts, places), words],
        printable(column.name),
        note,
        x_limits=(0, 1.06 * largest),
        y_limits=(places[-1] - 0.6, 0.6),
        x_ticks={at: f"{at:.0%}" for at in _ticks(0, largest)},
        y_ticks={},
    )


def _short(text: str, letters: int = 26) -> str:
    """Return a printable text, cut off if it is long."""
    text = printable(text)
    return text if len(text) <= letters else f"{text[: letters - 1].rstrip()}…"


def _ticks(low: float, high: float, most: int = 3) -> list[float]:
    """Return a few round numbers between two."""
    places = MaxNLocator(most, steps=[1, 2, 5, 10]).tick_values(low, high)
    return [float(at) for at in places if low <= at <= high]


def date_ticks(column: Column, low: float, high: float) -> dict[float, str]:
    """Return ticks of an axis of days, with dates without times."""
    return {day: text_of(column, day).partition(" ")[0] for day in _ticks(low, high)}


def association_figure(drawn: DrawnRows) -> Figure:
    """Return association matrices of data and samples, and one against the other.

    At most 20 columns are drawn, those whose associations differ most.
    """
    dim = len(drawn.columns)
    chosen, matrices = list(range(dim)), drawn.associations(range(dim))
    if dim > MOST_ASSOCIATED:
        change = np.abs(matrices[0] - matrices[1]) if drawn.compared else np.abs(matrices[0])
        worst = np.argsort(-np.nan_to_num(change).sum(axis=1), kind="stable")[:MOST_ASSOCIATED]
        chosen = np.sort(worst).tolist()
        matrices = [matrix[np.ix_(chosen, chosen)] for matrix in matrices]
    numbers = {float(at): str(at) for at in range(1, len(chosen) + 1)}
    names = {
        float(at): f"{at}  {_short(drawn.columns[k].name, 20)}" for at, k in enumerate(chosen, 1)
    }
    ends = (0.5, len(chosen) + 0.5)
    size = 2.6 if len(chosen) <= MOST_WRITTEN else 3.2
    panels = [
        Panel(
            heat_map(matrix, len(chosen), len(chosen) <= MOST_WRITTEN, 7.0),
            label,
            x_limits=ends,
            y_limits=ends[::-1],
            x_ticks=numbers,
            y_ticks=names if label == drawn.labels[0] else numbers,
            equal=True,
        )
        for label, matrix in zip(drawn.labels, matrices, strict=True)
    ]
    if drawn.compared:
        panels.append(_agreement(drawn, chosen, matrices))
    return Figure(
        f"Associations of the columns of {drawn.saved.name}: {' and '.join(drawn.labels)}",
        joined(drawn.counts, f"{MOST_ASSOCIATED} of {dim} columns" * (dim > MOST_ASSOCIATED)),
        panels,
        len(panels),
        (size, size),
        scale=Scale("−1", "1", diverging_colors(np.linspace(-1, 1, 101)), "association"),
    )


def _agreement(drawn: DrawnRows, chosen: Sequence[int], matrices: Sequence[np.ndarray]) -> Panel:
    """Return associations of samples against those of data, one mark per pair of columns."""
    rows, columns = np.tril_indices(len(chosen), -1)
    x, y = (matrix[rows, columns] for matrix in matrices)
    is_level = np.array([drawn.columns[index].type == CATEGORY for index in chosen], dtype=int)
    kind = is_level[rows] + is_level[columns]
    low = float(np.nanmin([-0.05, *x, *y])) - 0.05
    ends = np.array([low, 1.0])
    error = 2 * math.sqrt(sum(1 / len(values) for values in drawn.values))
    marks: list[Mark] = [Band(ends, ends - error, ends + error), Line(ends, ends, MUTED, width=0.8)]
    for each, (marker, color) in enumerate(zip("os^", sequential_colors(3), strict=True)):
        here = kind == each
        if here.any():
            marks.append(Points(x[here], y[here], color[None], KINDS[each], 4.5, marker))
    title, note = "each pair of columns", f"gray: ±{error:.2f}, two standard errors"
    limits_ = (low, 1.0)
    return Panel(marks, title, note, "of data", "of samples", limits_, limits_, equal=True)


def _tables_of_samples(drawn: DrawnRows, choice: Choice) -> list[Part]:
    """Return the frequencies of categories, and the associations that differ most."""
    places = list(range(len(drawn.columns)))
    if drawn.compared:
        places.sort(key=lambda index: -float(drawn.fit[0][index]))
    with_levels = [index for index in places if drawn.levels(index) is not None]
    rows = [
        [drawn.columns[index].name, name, *(f"{share[at]:.1%}" for share in shares.values())]
        for index in with_levels[:MOST_CHARTS]
        for names, shares in [drawn.shares(index, MOST_LISTED_LEVELS)]
        for at, name in enumerate(names)
    ]
    head, parts = ["column", "level", *drawn.labels], list[Part]()
    if rows:
        parts.append(NumberTable("Frequencies of categories", head, rows, drawn.counts))
    if drawn.compared and drawn.has_associations:
        parts.append(_table_of_associations(drawn))
    return parts


def _table_of_associations(drawn: DrawnRows) -> NumberTable:
    """Return the pairs of columns whose associations differ most between data and samples."""
    places = range(len(drawn.columns))
    data, samples = drawn.associations(places)
    off = np.nan_to_num(np.abs(data - samples), nan=-1.0)
    pairs = [(one, other) for one in places for other in range(one)]
    pairs.sort(key=lambda pair: -float(off[pair]))
    rows = []
    for one, other in pairs[:MOST_LISTED]:
        columns = [drawn.columns[index] for index in (other, one)]
        kind = SHORT_KINDS[sum(column.type == CATEGORY for column in columns)]
        numbers = [f"{matrix[one, other]:.2f}".replace("-", "−") for matrix in (data, samples)]
        rows.append([*(column.name for column in columns), kind, *numbers])
    note = f"The {len(rows)} of {len(pairs)} pairs with the largest differences."
    head = ["column", "other", "measure", *drawn.labels]
    return NumberTable("Associations between columns", head, rows, note)


def _fit(drawn: DrawnRows) -> list[Result]:
    gaps, bounds = drawn.fit
    worst = int(np.argmax(gaps - bounds))
    of = f"{drawn.saved.name}, {drawn.saved.stem}: {drawn.counts}"
    return [fit_result(of, float(gaps[worst]), float(bounds[worst]), drawn.columns[worst].name)]


def oddest(tails: np.ndarray, most: int) -> list[int]:
    """Return the indices of at most ``most`` rows with the least probable cells, lowest first.

    Rows without any known cell are left out.

    Args:
        tails: Tail probabilities of cells ``[n, P]``; NaN where cells are missing.
        most: Largest number of rows.
    """
    least = np.fmin.reduce(tails, axis=1)
    order = np.argsort(least, kind="stable")  # NaN comes last
    return [int(row) for row in order[:most] if not math.isnan(least[row])]


def outlier_columns(tails: np.ndarray, most: int) -> list[int]:
    """Return the indices of at most ``most`` columns with the least probable cells, increasing.

    Args:
        tails: Tail probabilities of cells ``[n, P]``; NaN where cells are missing.
        most: Largest number of columns.
    """
    return sorted(np.argsort(np.fmin.reduce(tails, axis=0), kind="stable")[:most].tolist())


def count_of_odd(saved: SavedAnswers) -> str:
    """Describe in words how many cells are flagged as outliers, and how many are by chance."""
    known = saved.tails[~np.isnan(saved.tails)]
    return (
        f"{(known <= saved.odd).sum():,} of {len(known):,} cells have a probability of at "
        f"most {saved.odd:g}; {saved.odd * len(known):,.0f} or fewer are expected by chance"
    )


def odd_cells(saved: SavedAnswers) -> Figure:
    """Return the rows with the least probable cells, and how probable each cell is in its row."""
    rows = oddest(saved.tails, MOST_ROWS)
    columns = outlier_columns(saved.tails[rows], MOST_COLUMNS)
    tails, dim = saved.tails[np.ix_(rows, columns)], saved.tails.shape[1]
    known = ~np.isnan(tails)
    depth = np.log(PLAIN / np.clip(np.where(known, tails, 1.0), PLAINLY_ODD, PLAIN))
    share = (depth / math.log(PLAIN / PLAINLY_ODD))[..., None]
    strength = np.where(share > 0, 0.12 + 0.88 * share, 0.0)
    colors = (1 - strength) * np.array(srgb("#f7f8fb")) + strength * np.array(srgb(ORANGE))
    down, along = np.indices(tails.shape).reshape(2, -1)
    width = min(9.0 / len(columns), 1.2)
    texts = [
        text_of(saved.rows.columns[column], saved.rows.values[row, column], saved.rows.decimal)
        for row in rows
        for column in columns
    ]
    letters = int(width * 13)
    values = [_short(text or "–", letters) for text in texts]
    bold = (known & (tails <= saved.odd)).ravel().tolist()
    own = known.ravel()
    chances = [f"p = {brief(tail)}" for tail in tails.ravel()[own]]
    marks: list[Mark] = [
        Boxes(along + 0.02, along + 0.98, down + 0.04, down + 0.96, colors.reshape(-1, 3)),
        Words(along + 0.5, down + np.where(own, 0.34, 0.5), values, INK, 8.5, bold=bold),
        Words(along[own] + 0.5, down[own] + 0.74, chances, INK, 6.5),
    ]
    names = [_short(saved.rows.columns[column].name, letters) for column in columns]
    nats = [f"row {row + 1},  {signed(saved.log_prob[row], '.1f')} nats" for row in rows]
    panel = Panel(
        marks,
        x_limits=(0, len(columns)),
        y_limits=(len(rows), 0),
        x_ticks={at + 0.5: name for at, name in enumerate(names)},
        y_ticks={at + 0.5: name for at, name in enumerate(nats)},
    )
    title = f"Outlier cells of {saved.name}"
    title += f": the {len(rows)} most extreme of {len(saved.rows):,} rows"
    some = f"{len(columns)} of {dim} columns" * (dim > len(columns))
    words = joined(count_of_odd(saved), some)
    return Figure(title, words, [panel], size=(width * len(columns), 0.4 * len(rows)))


def predictions(saved: SavedAnswers) -> Figure:
    """Return predictions: a panel per column with intervals or probabilities, and true values."""
    shown, count = saved.asked[:MOST_CHARTS], len(saved.asked)
    what = "Predictions" if saved.question == "predict" else "Filled cells"
    more = f"{MOST_CHARTS} of {count} columns" * (count > MOST_CHARTS)
    bars = f"bars: {saved.interval:.0%} intervals, with the median"
    return Figure(
        f"{what} of {saved.name}",
        joined(bars, more),
        [_predicted(asked, saved.interval) for asked in shown],
        min(2, len(shown)),
        (4.5, 1.9),
    )


def _predicted(asked: PredictedColumn, interval: float) -> Panel:
    is_level, order = asked.is_level, asked.in_order(MOST_CELLS)
    x = np.arange(1, len(order) + 1)
    size = float(np.interp(len(order), [20, MOST_CELLS], [4.9, 3.0]))
    width = float(np.interp(len(order), [20, MOST_CELLS], [4, 1.6]))
    marks: list[Mark] = []
    if not is_level:
        ends = asked.low[order], asked.high[order]
        marks.append(Segments(x, x, *ends, BLUE, width=width, alpha=0.25))
        marks.append(Points(x, asked.guess[order], INK, size=width + 1, marker="_"))
    y = asked.probability if is_level else asked.truth
    for label, color, chosen in (
        ("true value in the interval, or most likely category correct", BLUE, asked.right),
        ("not so", ORANGE, asked.known & ~asked.right),
        ("not known", MUTED, ~asked.known & is_level),
    ):
        here = (chosen & (asked.known | (color == MUTED)))[order]
        if here.any():
            marks.append(Points(x[here], y[order][here], color, label, size))
    ticks = None
    if asked.column.type == DATE:
        known = np.concatenate([asked.low[order], asked.high[order], y[order]])
        ticks = date_ticks(asked.column, float(np.nanmin(known)), float(np.nanmax(known)))
    some = "" if len(order) == len(asked.guess) else f"{len(order)} of {len(asked.guess):,} "
    return Panel(
        marks,
        printable(asked.column.name),
        hits_of(asked, interval),
        f"{some}cells, sorted",
        "probability" if is_level else "",
        (0.3, len(order) + 0.7),
        (0, 1.04) if is_level else None,
        y_ticks=ticks,
    )


def hits_of(asked: PredictedColumn, interval: float) -> str:
    """Describe in words the fraction of right predictions, its 95 % range and the nominal rate."""
    known = asked.known
    count = int(known.sum())
    if not count:
        return f"{len(known):,} cells"
    share, says, low, high = _shares_right(asked, interval)
    share_of = f"{share:.1%} ({low:.1%} to {high:.1%}) of {count:,}"
    if asked.is_level:
        return f"most likely category correct in {share_of}, predicted {says:.1%}"
    return f"intervals cover {share_of} true values, nominal {100 * says:.3g}%"


def is_calibrated(asked: PredictedColumn, interval: float) -> bool | None:
    """Return whether predictions of a column are right about as often as the nominal rate.

    An interval is right if it covers the true value, a category if it is the true one. Intervals
    may be right more often than the nominal rate, since they include their ends.

    Returns:
        Whether the nominal rate is in the 95 % range of the fraction of right predictions; None if
        there are too few true values to judge (``TELLING``).
    """
    _, says, low, high = _shares_right(asked, interval)
    right = says <= high and (low <= says or not asked.is_level)
    return None if right and (high - low) / 2 > TELLING else right


def _shares_right(asked: PredictedColumn, interval: float) -> tuple[float, float, float, float]:
    """Return the share of right predictions, the nominal rate, and the share's 95 % range."""
    known = asked.known
    share = float(asked.right[known].mean())
    low, high = wilson(share, known.sum())
    says = float(asked.probability[known].mean()) if asked.is_level else interval
    return share, says, float(low), float(high)


def _hits(saved: SavedAnswers, asked: PredictedColumn) -> Result:
    name = "most likely category correct" if asked.is_level else "coverage of intervals"
    right = is_calibrated(asked, saved.interval)
    words = f"{asked.column.name}: {hits_of(asked, saved.interval)}"
    target = "as often as predicted" if asked.is_level else "at the nominal rate or above"
    target += ", within the 95 % range for the number of cells"
    of = f"{saved.name}, {saved.stem}"
    return Result.tested(of, name, words, target, right, "cells")


def content_of_check(path: Path, choice: Choice | None) -> Content:
    """Return the content of a calibration check of ``ask.py``, a JSON file.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedAnswerCheck.load(path)
    draw = {f"{path.stem}_intervals": partial(intervals, saved)}
    if any(column.reliability is not None for column in saved.columns):
        draw[f"{path.stem}_levels"] = partial(reliability, saved)
    return Content(
        "Calibration check of predictions",
        READING_OF_CHECK,
        PAGE,
        draw,
        parts=lambda choice: [_table_of_intervals(saved)],
        results=lambda: [_check_result(saved, path.stem)],
    )


def _check_result(saved: SavedAnswerCheck, name: str) -> Result:
    least = min(saved.adjusted.values())
    holds = False if least < saved.level else True if saved.conclusive else None
    of, value = f"{name}, {saved.rows:,} validation rows", f"smallest p = {least:.2g}"
    target = f"p ≥ {saved.level:g}, corrected for multiple comparisons"
    return Result.tested(of, "ranks of hidden cells", value, target, holds, "rows")


def _table_of_intervals(saved: SavedAnswerCheck) -> NumberTable:
    rows = []
    for column in saved.columns:
        cells = [column.name, f"{column.cells:,}"]
        for probability in saved.probabilities:
            held = column.coverage.get(probability)
            low, high = wilson(held or 0.0, column.cells)
            cells.append("–" if held is None else f"{held:.0%} ({low:.0%} to {high:.0%})")
        rows.append(cells)
    levels = (f"nominal {100 * probability:g} % intervals" for probability in saved.probabilities)
    head = ["column", "cells", *levels]
    return NumberTable("Prediction intervals and true values", head, rows, saved.verdict)


def intervals(saved: SavedAnswerCheck) -> Figure:
    """Return a panel per probability with the coverage of each column's intervals.

    Orange marks columns whose 95 % range excludes the nominal probability.
    """

    def farthest(column: ColumnCheck) -> float:
        return max((abs(held - p) for p, held in column.coverage.items()), default=0.0)

    chosen = sorted(saved.columns, key=farthest, reverse=True)[:MOST_CHECKED]
    columns = [column for column in saved.columns if column in chosen]
    names = {-float(at): printable(column.name) for at, column in enumerate(columns)}
    panels, dim = list[Panel](), len(saved.columns)
    for probability in saved.probabilities[:4]:
        known = [(at, c) for at, c in zip(names, columns, strict=True) if probability in c.coverage]
        held = {at: (column.coverage[probability], column.cells) for at, column in known}
        marks = [Rule(100 * probability, True, dashed=True), *_ranges(held, probability)]
        ticks = dict(names if not panels else dict.fromkeys(names, ""))
        title = f"{100 * probability:g} % intervals"
        y_limits = (min(names) - 0.7, 0.7)
        panels.append(Panel(marks, title, "", "coverage, %", y_limits=y_limits, y_ticks=ticks))
    some = f"the {MOST_CHECKED} of {dim} columns that are farthest off" * (dim > MOST_CHECKED)
    width = 9.0 / max(len(panels), 2)
    return _figure(saved, "Prediction intervals and true values", panels, width, len(columns), some)


INSIDE, OUTSIDE = "the prediction is within the 95 % bar", "it is outside"


def _ranges(held: Mapping[float, tuple[float, int]], nominal: float) -> list[Mark]:
    """Return coverages in percent with their 95 % ranges, by vertical place."""
    marks: list[Mark] = []
    for place, (share, count) in held.items():
        low, high = (100 * float(end) for end in wilson(share, count))
        right = low <= 100 * nominal <= high
        color, label = (BLUE, INSIDE) if right else (ORANGE, OUTSIDE)
        marks.append(Segments([low], [high], [place], [place], color, label, alpha=0.6))
        marks.append(Points([100 * share], [place], color, size=4.5))
    return marks


def reliability(saved: SavedAnswerCheck) -> Figure:
    """Return reliability diagrams of at most 12 categorical columns, one panel each.

    Observed frequencies are drawn against predicted probabilities. Larger dots stand for more
    cells.
    """
    shown = [column for column in saved.columns if column.reliability is not None][:MOST_LEVELED]
    panels = [_reliability(column) for column in shown]
    return _figure(saved, "Predicted and observed frequencies of categories", panels, 2.2, 8)


def _reliability(column: ColumnCheck) -> Panel:
    assert column.reliability is not None
    probability, share, count = column.reliability.T
    low, high = wilson(share, count)
    right = (low <= probability) & (probability <= high)
    sizes = np.sqrt(8 + 40 * count / count.max())
    marks: list[Mark] = [Line([0, 1], [0, 1], MUTED, width=0.8)]
    for here, color, label in ((right, BLUE, INSIDE), (~right, ORANGE, OUTSIDE)):
        if here.any():
            x = probability[here]
            marks.append(Segments(x, x, low[here], high[here], color, label, alpha=0.6))
            marks.append(Points(x, share[here], color, size=sizes[here]))
    off = float(np.average(np.abs(share - probability), weights=count))
    return Panel(
        marks,
        printable(column.name),
        f"off by {100 * off:.1f} points on average over {column.cells:,} cells",
        "probability",
        "observed frequency",
        (-0.03, 1.03),
        (-0.03, 1.03),
    )


def _figure(
    saved: SavedAnswerCheck,
    what: str,
    panels: Sequence[Panel],
    width: float,
    lines: int,
    some: str = "",
) -> Figure:
    """Return a figure of a check with its verdict, and panels of a number of lines."""
    right = "no miscalibration found" if saved.conclusive else "too few rows to test"
    outcome = right if saved.passed else "not calibrated in some columns"
    note = "one bar of twenty excludes it by chance"
    return Figure(
        what,
        joined(f"{saved.rows:,} validation rows", outcome, some, note),
        panels,
        min(len(panels), 4),
        (width, 0.24 * lines + 0.1),
        sentence=saved.verdict,
        shared=True,
    )
