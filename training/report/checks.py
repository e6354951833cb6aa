"""Sections of checks of posteriors: rank statistics, coverage of regions, and predictive checks."""

from pathlib import Path

import numpy as np

from training.files.arrays import parameter, title_of
from training.files.posterior import SavedCheck, SavedPredictive
from training.measure.posterior.coverage import central_values
from training.pictures.content import Choice, NumberTable, Result
from training.pictures.posteriors.checks import Curve, color_of, details_of
from training.pictures.theme import BLUE, MUTED, ORANGE
from training.report import charts
from training.report.content import Chart, Charts, Key, Section

READING = (
    "Posteriors of simulated data with known true values: if posteriors are calibrated, "
    "the ranks of true values among draws are uniform, and regions have their nominal "
    "coverage."
)
MOST = 8
"""Largest number of quantities whose ranks are drawn."""
BAND = "95 % band of one curve of a calibrated posterior"

KEYS = (Key("within the band", BLUE), Key("beyond it", ORANGE), Key(BAND, MUTED, "band"))


def section_of(path: Path, choice: Choice) -> Section:
    """Return the report section about a simulation-based calibration check of posteriors.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedCheck.load(path)
    calibration, values = saved.calibration, saved.values
    p = calibration.ranks.ks_p.numpy()
    chosen = np.sort(np.argsort(p, kind="stable")[:MOST])
    ranks = [
        _chart(
            Curve.from_values(values.ranks[:, [column]]),
            f"Ranks of {values.names[column]}",
            f"p = {p[column]:.2g}",
            ("rank, %", "excess below, points"),
        )
        for column in chosen
    ]
    families = {"central intervals": central_values(values.ranks[:, : values.scores.shape[1]])}
    families |= {name: held[:, None] for name, held in values.regions.items()}
    held = [
        _chart(
            Curve.from_values(each),
            name.capitalize() if name.islower() else name,
            "above 0: coverage is too large; below: overconfident",
            ("nominal content, %", "actual − nominal, points"),
        )
        for name, each in families.items()
    ]
    return Section(
        f"Check of the posterior of {saved.name}",
        READING,
        "docs/howto/likelihoods.md",
        str(path.parent),
        [Charts(held, KEYS), Charts(ranks, KEYS)],
        _results(saved),
    )


def _results(saved: SavedCheck) -> list[Result]:
    calibration = saved.calibration
    of = f"{saved.name}, {details_of(saved)}"
    adjusted = calibration.adjusted

    def result(name: str, words: str, p: float) -> Result:
        holds = False if p < calibration.level else True if calibration.conclusive else None
        few = ": too few runs to test" if holds is None else ""
        return Result(of, name, f"{words}p = {p:.2g}{few}", target, holds)

    ranks = min(p for name, p in adjusted.items() if name.startswith(("ranks of", "rank hist")))
    target = f"p ≥ {calibration.level:g}, corrected for multiple comparisons"
    results = [result("ranks of true values", "smallest ", ranks)]
    curves = {"central intervals": calibration.intervals, **calibration.regions}
    for name, curve in curves.items():
        tests = [p for test, p in adjusted.items() if test == name or test.startswith(f"{name} ")]
        least = min(tests)
        worst = float(curve.deviation[curve.deviation.abs().argmax()])
        words = f"off by at most {worst:+.1f} points, ".replace("-", "−")
        results.append(result(f"expected coverage, {name}", words, least))
    return results


def _chart(curve: Curve, title: str, note: str, axes: tuple[str, str]) -> Chart:
    plot = charts.plot(*axes, x_range=(0, 100))
    x = 100 * curve.points
    plot.varea(x, curve.lower, curve.upper, fill_color=MUTED, fill_alpha=0.2)
    charts.level(plot, 0, dashed=False)
    several = curve.excess.shape[1] > 1
    if several:
        for line, holds in zip(curve.shown.T, curve.holds, strict=False):
            plot.line(x, charts.float32(line), color=color_of(bool(holds)), line_width=1, alpha=0.6)
    color = color_of(several or bool(curve.holds[0]))
    plot.line(x, charts.float32(curve.mean), color=color, line_width=2)
    staying = "stays within" if curve.holds.all() else "leaves"
    alt = f"{title}: the curve {staying} the band; at most {np.abs(curve.mean).max():.1f} points."
    return Chart(plot, title, alt, note=note)


READING_OF_PREDICTIVE = (
    "Data are simulated from posterior draws: an observation far out in the simulated "
    "distribution indicates a wrong model."
)
MOST_ROWS = 40
"""Largest number of rows of the table."""


def section_of_predictive(path: Path, choice: Choice) -> Section:
    """Return the report section about a posterior predictive check.

    Raises:
        DataError: The file is broken.
    """
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
    head = ["observation", "of", "observed", "90 % of simulations", "simulated below"]
    more = f"first of {len(rows)}" if len(rows) > MOST_ROWS else ""
    numbers = path.with_suffix(".json")
    passed, verdict = parameter(numbers, "passed"), parameter(numbers, "verdict")
    results = []
    if isinstance(passed, bool) and isinstance(verdict, str):
        results.append(Result(name, "posterior predictive check", verdict, "nothing fails", passed))
    return Section(
        f"Simulated data of {name}",
        READING_OF_PREDICTIVE,
        "docs/tutorials/calibration.md",
        str(path.parent),
        [NumberTable("Observed and simulated data", head, rows[:MOST_ROWS], more)],
        results,
    )
