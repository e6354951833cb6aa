"""Sections of query results: samples against data, predictions against true values, odd cells.

A check of query results shows the coverage of intervals and the calibration of probabilities.
"""

from pathlib import Path

import numpy as np

from training.data.records.records import CATEGORY
from training.data.records.writing import text_of
from training.files.answers import ColumnCheck, PredictedColumn, SavedAnswerCheck, SavedAnswers
from training.measure.reliability import wilson
from training.pictures.content import Choice, NumberTable, Result, judged
from training.pictures.tables.answers import (
    MOST_CELLS,
    PLAIN,
    count_of_odd,
    hits_of,
    is_calibrated,
    oddest,
    outlier_columns,
)
from training.pictures.tables.columns import FEW_ROWS, LARGE_DISTANCE, color_of, limits
from training.pictures.tables.drawn_rows import DrawnRows
from training.pictures.theme import BLUE, MUTED, ORANGE, brief
from training.report import charts
from training.report.content import Chart, Charts, Key, Section

READINGS = {
    "sample": (
        "Samples of a good network have the marginal distributions and the "
        "associations of the data."
    ),
    "score": ("A cell is an outlier if its value is improbable given the other cells of its row."),
    "predict": (
        "Intervals of a calibrated network cover the nominal fraction of true "
        "values; the most likely category is correct as often as its probability "
        "states."
    ),
    "fill": (
        "Each missing cell was imputed by a likely value, given the other cells of "
        "its row; wide intervals and small probabilities mark uncertain values."
    ),
}
TITLES = {
    "sample": "Rows drawn",
    "score": "Odd cells",
    "predict": "Predictions",
    "fill": "Filled cells",
}
PAGE = "docs/tutorials/table.md"
MOST_CHARTS, MOST_LISTED, MOST_LEVELS = 8, 12, 12
MOST_ROWS, MOST_COLUMNS = 20, 12
BINS = 24


def section_of(path: Path, choice: Choice) -> Section:
    """Return the report section about a CSV of ``ask.py``, chosen by its JSON of parameters.

    Raises:
        DataError: The CSV or its parameters are broken.
    """
    saved = SavedAnswers.load(path)
    parts: list[object] = []
    results: list[Result] = []
    if saved.question == "sample":
        drawn = DrawnRows(saved)
        parts = _parts_of_samples(drawn)
        results = _fit(drawn) if len(drawn.labels) == 2 and drawn.columns else []
    elif saved.question == "score":
        parts = [_odd_rows(saved)]
    elif saved.asked:
        shown = saved.asked[:MOST_CHARTS]
        keys = [Key("true value in the interval, or most likely category correct", BLUE, "dot")]
        keys += [Key("not so", ORANGE, "dot"), Key("not known", MUTED, "dot")]
        plots = [_cells(asked, saved.interval, choice) for asked in shown]
        parts = [Charts(plots, keys)]
        results = [_hits(saved, asked) for asked in saved.asked if asked.known.any()]
    title = f"{TITLES[saved.question]} of {saved.name}: {saved.stem}"
    reading = READINGS[saved.question]
    return Section(title, reading, PAGE, str(path.parent), parts, results)


def _parts_of_samples(drawn: DrawnRows) -> list[object]:
    compared = len(drawn.labels) == 2
    places = list(range(len(drawn.columns)))
    if compared:
        places.sort(key=lambda index: -float(drawn.fit[0][index]))
    numbers = [index for index in places if drawn.levels(index) is None]
    parts: list[object] = []
    if numbers:
        keys = [Key(label, color_of(label)) for label in drawn.labels]
        parts.append(Charts([_histogram(drawn, index) for index in numbers[:MOST_CHARTS]], keys))
    rows = [
        [drawn.columns[index].name, name, *(f"{share[at]:.1%}" for share in shares)]
        for index in [index for index in places if index not in numbers][:MOST_CHARTS]
        for names, shares in [drawn.shares(index, MOST_LEVELS)]
        for at, name in enumerate(names)
    ]
    if rows:
        head = ["column", "level", *drawn.labels]
        parts.append(NumberTable("Frequencies of categories", head, rows, drawn.counts))
    if compared and drawn.has_associations:
        parts.append(_associations(drawn))
    return parts


def _histogram(drawn: DrawnRows, index: int) -> Chart:
    sets = drawn.sets(index)
    edges = np.linspace(*limits(*sets), BINS + 1)
    plot = charts.plot("", "share", height=180)
    for number, (label, values) in enumerate(zip(drawn.labels, sets, strict=True)):
        if len(values) < FEW_ROWS:
            level = np.full(len(values), 0.02 * (number + 1), dtype=np.float32)
            plot.scatter(charts.float32(values), level, size=6, color=color_of(label))
            continue
        share = charts.float32(np.histogram(values, edges)[0] / len(values))
        x, y = charts.float32(np.repeat(edges, 2)[1:-1]), np.repeat(share, 2)
        plot.line(x, y, color=color_of(label), line_width=2)
    name = drawn.columns[index].name
    medians = ", ".join(
        f"median of {label} {drawn.text(index, float(np.median(values)))}"
        for label, values in zip(drawn.labels, sets, strict=True)
    )
    return Chart(plot, name, f"Histograms: {medians}.", note=medians)


def _associations(drawn: DrawnRows) -> NumberTable:
    """Return the pairs of columns whose associations differ most between data and samples."""
    places = range(len(drawn.columns))
    data, samples = drawn.associations(places)
    off = np.nan_to_num(np.abs(data - samples), nan=-1.0)
    pairs = [(one, other) for one in places for other in range(one)]
    pairs.sort(key=lambda pair: -float(off[pair]))
    kinds = ("rank correlation", "η", "Cramér's V")
    rows = []
    for one, other in pairs[:MOST_LISTED]:
        columns = [drawn.columns[index] for index in (other, one)]
        kind = kinds[sum(column.type == CATEGORY for column in columns)]
        numbers = [f"{matrix[one, other]:.2f}".replace("-", "−") for matrix in (data, samples)]
        rows.append([*(column.name for column in columns), kind, *numbers])
    note = f"The {len(rows)} of {len(pairs)} pairs with the largest differences."
    head = ["column", "other", "measure", *drawn.labels]
    return NumberTable("Associations between columns", head, rows, note)


def _fit(drawn: DrawnRows) -> list[Result]:
    gaps, bounds = drawn.fit
    worst = int(np.argmax(gaps - bounds))
    gap, bound = float(gaps[worst]), float(bounds[worst])
    fits = judged(gap <= bound, bound, LARGE_DISTANCE)
    few = ": too few rows to test" if fits is None else ""
    words = f"Kolmogorov-Smirnov distance {gap:.3f}, of {drawn.columns[worst].name}{few}"
    target = f"at most {bound:.3f}, by chance with 95 % probability"
    of = f"{drawn.saved.name}, {drawn.saved.stem}: {drawn.counts}"
    return [Result(of, "columns of samples against data", words, target, fits)]


def _odd_rows(saved: SavedAnswers) -> NumberTable:
    rows = oddest(saved.tails, MOST_ROWS)
    columns = outlier_columns(saved.tails[rows], MOST_COLUMNS) if rows else []
    listed = []
    for row in rows:
        cells = [str(row + 1), f"{saved.log_prob[row]:.1f}".replace("-", "−")]
        for place in columns:
            column, tail = saved.rows.columns[place], saved.tails[row, place]
            text = text_of(column, saved.rows.values[row, place], saved.rows.decimal)
            cells.append(f"{text} (p = {brief(tail)})" if tail <= PLAIN else text)
        listed.append(cells)
    head = ["row", "nats", *(saved.rows.columns[place].name for place in columns)]
    note = f"{count_of_odd(saved)}. Marked: cells with a probability of at most {PLAIN:g}."
    return NumberTable("Largest outliers", head, listed, note)


def _hits(saved: SavedAnswers, asked: PredictedColumn) -> Result:
    name = "most likely category correct" if asked.is_level else "coverage of intervals"
    right = is_calibrated(asked, saved.interval)
    few = ": too few cells to test" if right is None else ""
    words = f"{asked.column.name}: {hits_of(asked, saved.interval)}{few}"
    target = "as often as predicted" if asked.is_level else "at the nominal rate or above"
    target += ", within the 95 % range for the number of cells"
    return Result(f"{saved.name}, {saved.stem}", name, words, target, right)


def _cells(asked: PredictedColumn, interval: float, choice: Choice) -> Chart:
    is_level, order = asked.is_level, asked.in_order(min(choice.points, MOST_CELLS))
    x = np.arange(1, len(order) + 1, dtype=np.float32)
    plot = charts.plot("cells, sorted", "probability" if is_level else "", height=220)
    if not is_level:
        ends = charts.float32(asked.low[order]), charts.float32(asked.high[order])
        plot.segment(x, ends[0], x, ends[1], color=BLUE, alpha=0.3, line_width=2)
    for color, chosen in (
        (BLUE, asked.known & asked.right),
        (ORANGE, asked.known & ~asked.right),
        (MUTED, ~asked.known),
    ):
        y = asked.probability if is_level else np.where(asked.known, asked.truth, asked.guess)
        here = chosen[order]
        plot.scatter(x[here], charts.float32(y[order][here]), size=5, color=color, line_color=None)
    words = hits_of(asked, interval)
    return Chart(plot, asked.column.name, f"{words}.", note=words)


READING_OF_CHECK = (
    "Cells of validation rows were hidden and predicted: intervals should have their "
    "nominal coverage, and categories should occur with their predicted frequencies."
)


def section_of_check(path: Path, choice: Choice) -> Section:
    """Return the report section about a calibration check of ``ask.py``, a JSON file.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedAnswerCheck.load(path)
    of_levels = [column for column in saved.columns if column.reliability is not None]
    parts: list[object] = [_intervals(saved)]
    if of_levels:
        keys = [Key("observed frequency, with its 95 % range", BLUE), Key("as said", MUTED)]
        parts.append(Charts([_reliability(column) for column in of_levels[:MOST_CHARTS]], keys))
    least = min(saved.adjusted.values())
    holds = False if least < saved.level else True if saved.conclusive else None
    few = ": too few rows to test" if holds is None else ""
    result = Result(
        f"{path.stem}, {saved.rows:,} validation rows",
        "ranks of hidden cells",
        f"smallest p = {least:.2g}{few}",
        f"p ≥ {saved.level:g}, corrected for multiple comparisons",
        holds,
    )
    return Section(
        "Calibration check of predictions",
        READING_OF_CHECK,
        PAGE,
        str(path.parent),
        parts,
        [result],
    )


def _intervals(saved: SavedAnswerCheck) -> NumberTable:
    rows = []
    for column in saved.columns:
        cells = [column.name, f"{column.cells:,}"]
        for probability in saved.probabilities:
            held = column.coverage.get(probability)
            cells.append("–" if held is None else _range(held, column.cells))
        rows.append(cells)
    head = [
        "column",
        "cells",
        *(f"nominal {100 * probability:g} % intervals" for probability in saved.probabilities),
    ]
    return NumberTable("Prediction intervals and true values", head, rows, saved.verdict)


def _range(share: float, count: int) -> str:
    low, high = wilson(share, count)
    return f"{share:.0%} ({low:.0%} to {high:.0%})"


def _reliability(column: ColumnCheck) -> Chart:
    assert column.reliability is not None
    probability, share, count = column.reliability.T
    low, high = (charts.float32(end) for end in wilson(share, count))
    plot = charts.plot("probability", "observed frequency", x_range=(0, 1), y_range=(0, 1))
    plot.line([0, 1], [0, 1], color=MUTED)
    x = charts.float32(probability)
    plot.segment(x, low, x, high, color=BLUE, alpha=0.6, line_width=2)
    plot.scatter(x, charts.float32(share), size=7, color=BLUE, line_color=None)
    off = float(np.average(np.abs(share - probability), weights=count))
    words = f"off by {100 * off:.1f} points on average over {column.cells:,} cells"
    return Chart(plot, column.name, f"{words}.", note=words)
