"""Posterior predictive checks: where observations lie among data simulated of their posteriors."""

from pathlib import Path

import numpy as np

from training.files.arrays import parameter, title_of
from training.files.posterior import SavedPredictive
from training.report.content import Choice, NumberTable, Result, Section

READING = (
    "Data are simulated of draws of the posterior: an observation that lies far out among them is "
    "one that the model does not make."
)
MOST = 40
"""Rows of the table."""


def section_of(path: Path, choice: Choice) -> Section:
    """The section of a file of simulated data. Raises DataError if it is broken."""
    saved = SavedPredictive.load(path)
    name, _ = title_of(path.stem.rpartition("_posterior_")[0])
    below = (saved.simulated < saved.observed[:, None]).mean(axis=1)
    low, high = np.quantile(saved.simulated, [0.05, 0.95], axis=1)
    rows = [
        [
            str(row + 1),
            number,
            f"{saved.observed[row, at]:.4g}",
            f"{low[row, at]:.4g} to {high[row, at]:.4g}",
            f"{100 * below[row, at]:.1f} %",
        ]
        for row in range(len(saved.observed))
        for at, number in enumerate(saved.names)
    ]
    head = ["observation", "of", "observed", "90 % of simulated", "simulated below"]
    more = f"first of {len(rows)}" if len(rows) > MOST else ""
    numbers = path.with_suffix(".json")
    passed, verdict = parameter(numbers, "passed"), parameter(numbers, "verdict")
    results = []
    if isinstance(passed, bool) and isinstance(verdict, str):
        results.append(Result(name, "posterior predictive check", verdict, "nothing fails", passed))
    return Section(
        f"Data of the posterior of {name}",
        READING,
        "docs/how-sure.md",
        str(path.parent),
        [NumberTable("Observed and simulated", head, rows[:MOST], more)],
        results,
    )
