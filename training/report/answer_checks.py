"""Checks of answers: what intervals hold, and how often what is said with a probability is so."""

from pathlib import Path

import numpy as np

from training.files.answers import ColumnCheck, SavedAnswerCheck
from training.measure.reliability import wilson
from training.pictures.look import BLUE, MUTED
from training.report import charts
from training.report.answers import MOST_CHARTS, PAGE
from training.report.content import Chart, Charts, Choice, Key, NumberTable, Result, Section

READING = (
    "Cells of held-out rows were hidden and asked: intervals should hold as many truths as they "
    "say, and levels should come true as often as their probabilities say."
)


def section_of(path: Path, choice: Choice) -> Section:
    """The section of a JSON file. Raises DataError if it is broken."""
    saved = SavedAnswerCheck.load(path)
    of_levels = [column for column in saved.columns if column.reliability is not None]
    parts: list[object] = [_intervals(saved)]
    if of_levels:
        keys = [Key("share that came true, with its 95 % range", BLUE), Key("as said", MUTED)]
        parts.append(Charts([_reliability(column) for column in of_levels[:MOST_CHARTS]], keys))
    least = min(saved.adjusted.values())
    holds = False if least < saved.level else True if saved.conclusive else None
    few = ": too few rows to tell" if holds is None else ""
    result = Result(
        f"{path.stem}, {saved.rows:,} held-out rows",
        "ranks of hidden cells",
        f"smallest p = {least:.2g}{few}",
        f"p ≥ {saved.level:g}, the number of tests accounted for",
        holds,
    )
    return Section("Check of answers", READING, PAGE, str(path.parent), parts, [result])


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
        *(f"{100 * probability:g} % intervals hold" for probability in saved.probabilities),
    ]
    return NumberTable("Intervals against truths", head, rows, saved.verdict)


def _range(share: float, count: int) -> str:
    low, high = wilson(share, count)
    return f"{share:.0%} ({low:.0%} to {high:.0%})"


def _reliability(column: ColumnCheck) -> Chart:
    assert column.reliability is not None
    probability, share, count = column.reliability.T
    low, high = (charts.float32(end) for end in wilson(share, count))
    plot = charts.plot("probability", "share that came true", x_range=(0, 1), y_range=(0, 1))
    plot.line([0, 1], [0, 1], color=MUTED)
    x = charts.float32(probability)
    plot.segment(x, low, x, high, color=BLUE, alpha=0.6, line_width=2)
    plot.scatter(x, charts.float32(share), size=7, color=BLUE, line_color=None)
    off = float(np.average(np.abs(share - probability), weights=count))
    words = f"off by {100 * off:.1f} points in the mean over {column.cells:,} cells"
    return Chart(plot, column.name, f"{words}.", note=words)
