"""Section of the correlations of a network's residuals over time."""

from pathlib import Path

import numpy as np

from training.files.arrays import evenly
from training.files.correlations import SavedLags
from training.paper.correlations import scatter_of
from training.pictures.content import Choice
from training.pictures.correlations import COLORS, NAMES, name_and_details
from training.pictures.theme import INK, MUTED, joined
from training.report import charts
from training.report.content import Chart, Charts, Key, Section

READING = (
    "Errors of a network that decorrelate quickly along a path average out; errors that "
    "stay correlated accumulate."
)
MOST_LAGS = 500


def section_of(path: Path, choice: Choice) -> Section:
    """Return the report section about a summary of autocorrelations.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedLags.load(path)
    name, details = name_and_details(path.with_name(path.stem.removesuffix("_summary")))
    plot = charts.plot("lag in t from the first time", "correlation with the first time")
    shown = evenly(len(saved.lags), MOST_LAGS)
    chance = scatter_of(saved.count)
    plot.varea(saved.lags[[0, -1]], -chance, chance, fill_color=MUTED, fill_alpha=0.2)
    keys, times = [Key(f"±2/√N, expected by chance, N = {saved.count:,}", MUTED, "band")], []
    charts.level(plot, 0, dashed=False)
    for quantity, curve in saved.curves.items():
        color = MUTED if COLORS[quantity] == INK else COLORS[quantity]
        lasts = f"{NAMES[quantity]}, correlation time {curve.lasting}"
        mean = np.asarray(curve.mean)[shown]
        plot.line(saved.lags[shown], charts.float32(mean), color=color, line_width=1.8)
        keys.append(Key(lasts, color))
        times.append(lasts)
    chart = Chart(plot, f"Mean over {saved.dim} dimensions", "; ".join(times) + ".", keys, details)
    title = joined(name, "correlations of residuals", by=": ")
    return Section(
        title, READING, "docs/measurements/paper.md", str(path.parent), [Charts([chart])]
    )
