"""Checks of posteriors: rank statistics, coverage of regions, and predictive checks.

Figures of a conformal calibration show coverage before and after, and the calibrated levels over
conditions. Figures of a posterior predictive check show simulated data next to observations.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor

from torch_utils.results import open_arrays
from training.files.arrays import parameter, title_of
from training.files.posterior import SavedCheck, SavedPredictive
from training.files.rows import printable
from training.measure.conformal import crossed
from training.measure.posterior.calibration import (
    DENSEST,
    central_values,
    distribution_function,
    simultaneous_band,
)
from training.pictures.content import Choice, Content, NumberTable, Result
from training.pictures.figure import (
    Band,
    Figure,
    Line,
    Mark,
    Panel,
    Points,
    Rule,
    Scale,
    histogram,
)
from training.pictures.theme import (
    BLUE,
    INK,
    ORANGE,
    colored,
    joined,
    sequential_colors,
    words_for,
)

READING = (
    "Posteriors of simulated data with known true values: if posteriors are calibrated, the ranks "
    "of true values among draws are uniform, and regions have their nominal coverage."
)
READING_OF_PREDICTIVE = (
    "Data are simulated from posterior draws: an observation far out in the simulated distribution "
    "indicates a wrong model."
)
MOST_QUANTITIES, ACROSS = 12, 4
MOST_LINES = 20
"""Largest number of dimensions whose coverage is drawn each."""
BAND = "95 % band of one curve of a calibrated posterior"
QUESTIONS = {"sampler": "test of the sampler", "model": "test of the model"}
MOST_OBSERVATIONS, MOST_NUMBERS, DATA_BINS = 4, 6, 30
MOST_ROWS = 40
"""Largest number of rows of the table of a predictive check."""


def content_of_check(path: Path, choice: Choice | None) -> Content:
    """Return the content of a simulation-based calibration check of posteriors.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedCheck.load(path)
    draw = {"ranks": partial(ranks, saved), "coverage": partial(coverage, saved)}
    return _content(saved, path, draw)


def content_of_calibration(path: Path, choice: Choice | None) -> Content:
    """Return the content of a conformal calibration of posteriors.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedCheck.load(path)
    draw = {"before": partial(coverage, saved), "after": partial(after, saved)}
    with open_arrays(path) as arrays:
        if {"conditions", "near", "condition_names"} <= set(arrays.names):
            draw["map"] = partial(level_map, saved, path)
    return _content(saved, path, draw)


def _content(saved: SavedCheck, path: Path, draw: Mapping[str, Callable[[], Figure]]) -> Content:
    return Content(
        f"Check of the posterior of {saved.name}",
        READING,
        "docs/howto/likelihoods.md",
        {f"{path.stem}_{name}": make for name, make in draw.items()},
        results=partial(_results, saved),
    )


def details_of(saved: SavedCheck) -> str:
    """Describe in words how a calibration check was made."""
    asked = words_for(saved.question, QUESTIONS)
    return joined(saved.schedule, asked, f"{len(saved.values.ranks):,} runs")


def _results(saved: SavedCheck) -> list[Result]:
    calibration = saved.calibration
    of, adjusted = f"{saved.name}, {details_of(saved)}", calibration.adjusted
    target = f"p ≥ {calibration.level:g}, corrected for multiple comparisons"

    def result(name: str, words: str, p: float) -> Result:
        holds = False if p < calibration.level else True if calibration.conclusive else None
        return Result.tested(of, name, f"{words}p = {p:.2g}", target, holds, "runs")

    least = min(p for name, p in adjusted.items() if name.startswith(("ranks of", "rank hist")))
    results = [result("ranks of true values", "smallest ", least)]
    curves = {"central intervals": calibration.intervals, **calibration.regions}
    for name, curve in curves.items():
        tests = [p for test, p in adjusted.items() if test == name or test.startswith(f"{name} ")]
        worst = float(curve.deviation[curve.deviation.abs().argmax()])
        words = f"off by at most {worst:+.1f} points, ".replace("-", "−")
        results.append(result(f"expected coverage, {name}", words, min(tests)))
    return results


@dataclass(frozen=True)
class Curve:
    """Deviations of the distribution functions of V variables from the uniform distribution.

    Attributes:
        points: Points in [0, 1], ``[K]``.
        excess: Deviations in percentage points, ``[K, V]``.
        lower: Lower bound ``[K]`` of the 95 % band for a uniform variable.
        upper: Upper bound ``[K]`` of the band.
        holds: Whether each variable stays within the band, bool ``[V]``.
    """

    points: np.ndarray
    excess: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    holds: np.ndarray

    @classmethod
    def from_values(cls, values: Tensor) -> "Curve":
        """Create the curve from R values of each variable, ``[R, V]``."""
        band = simultaneous_band(len(values))
        points = band.points.numpy()
        excess = distribution_function(values, band.points).numpy() - points[:, None]
        lower, upper = (100 * (end.numpy() - points) for end in (band.lower, band.upper))
        return cls(points, 100 * excess, lower, upper, band.holds(values).numpy())

    @property
    def reach(self) -> float:
        """Largest absolute deviation of the drawn lines or the band, in percentage points."""
        shown = self.excess if self.excess.shape[1] <= MOST_LINES else self.excess.mean(axis=1)
        return float(np.abs([shown.max(), shown.min(), *self.upper, *self.lower]).max())

    def panel(self, reach: float, title: str, note: str, x: str, y: str) -> Panel:
        """Return a panel of all lines and the band, with limits from ``-reach`` to ``reach``."""
        places, several = 100 * self.points, self.excess.shape[1] > 1
        marks: list[Mark] = [Band(places, self.lower, self.upper, label=BAND), Rule(0, width=0.8)]
        if 1 < self.excess.shape[1] <= MOST_LINES:
            for line, holds in zip(self.excess.T, self.holds, strict=True):
                marks.append(Line(places, line, BLUE if holds else ORANGE, width=0.7, alpha=0.6))
        inside = several or bool(self.holds[0])
        color, label = (BLUE, "within the band") if inside else (ORANGE, "beyond it")
        marks.append(Line(places, self.excess.mean(axis=1), color, label, 1.8))
        limits = (-1.06 * reach, 1.06 * reach)
        return Panel(marks, title, note, x, y, (0, 100), limits)


def ranks(saved: SavedCheck) -> Figure:
    """Return a panel per quantity with the deviation of its ranks from the uniform distribution.

    At most twelve quantities are drawn, those with the smallest p-values.
    """
    names, values = saved.values.names, saved.values.ranks
    p = saved.calibration.ranks.ks_p.numpy()
    chosen = np.sort(np.argsort(p, kind="stable")[:MOST_QUANTITIES])
    few = f"the {MOST_QUANTITIES} of {len(names)} quantities with the smallest p"
    curves = [Curve.from_values(values[:, [column]]) for column in chosen]
    reach = max(curve.reach for curve in curves)
    adjusted = [saved.calibration.adjusted[f"ranks of {names[column]}"] for column in chosen]
    panels = [
        curve.panel(
            reach,
            printable(names[column]),
            f"p = {p[column]:.2g}, adjusted {own:.2g}",
            "rank, %",
            "excess below, points",
        )
        for column, curve, own in zip(chosen, curves, adjusted, strict=True)
    ]
    return Figure(
        _title(saved),
        joined(details_of(saved), few * (len(names) > MOST_QUANTITIES)),
        panels,
        columns=min(len(chosen), ACROSS),
        size=(2.3, 1.5),
        sentence=saved.calibration.verdict,
        shared=True,
    )


def coverage(saved: SavedCheck, how: str = "") -> Figure:
    """Return a panel per family of regions with its coverage minus the nominal probability.

    Args:
        saved: Check to draw.
        how: Text on how the levels were calibrated; empty for the levels of the flow itself.
    """
    dims = saved.values.scores.shape[1]
    families = {"central intervals": central_values(saved.values.ranks[:, :dims])}
    families |= {name: held[:, None] for name, held in saved.values.regions.items()}
    thin = "each thin, mean thick" if dims <= MOST_LINES else "their mean"
    note = f"central intervals of {dims} dimensions: {thin}" * (dims > 1)
    curves = {name: Curve.from_values(held) for name, held in families.items()}
    reach = max(curve.reach for curve in curves.values())
    axes = ("nominal content, %", "actual − nominal, points")
    explained = "above 0: coverage is too large; below: overconfident"
    return Figure(
        _title(saved, how),
        joined(details_of(saved), note, explained),
        [curve.panel(reach, name, "", *axes) for name, curve in curves.items()],
        columns=len(curves),
        size=(3.1, 2.4),
        sentence="" if how else saved.calibration.verdict,
        shared=True,
    )


def _title(saved: SavedCheck, how: str = "") -> str:
    right = "no miscalibration found" if saved.calibration.conclusive else "too few runs to test"
    outcome = how or (right if saved.calibration.passed else "not calibrated")
    return f"Posterior of {saved.name}: {outcome}"


def after(saved: SavedCheck) -> Figure:
    """Return the coverage of regions whose levels are from the other half of the cases."""
    values = saved.values
    levels = {DENSEST: crossed(values.regions[DENSEST][:, None])[:, 0]}
    # Choose ranks whose central intervals have the probabilities to draw.
    own = (1 + crossed(central_values(values.ranks))) / 2
    shown = replace(saved, values=replace(values, ranks=own, regions=levels))
    return coverage(shown, "calibrated levels, cross-validated on halves")


def level_map(saved: SavedCheck, path: Path) -> Figure:
    """Return held-out cases by their first two conditions, colored by local calibrated level."""
    with open_arrays(path) as arrays:
        points, near = arrays.numbers("conditions"), 100 * arrays.numbers("near")
        names = [printable(str(name)) for name in arrays.read("condition_names")]
    low, high = float(near.min()), float(near.max())
    marks = [Points(points[:, 0], points[:, 1], colored(near, low, high))]
    scale = Scale(f"{low:.3g}", f"{high:.3g}", sequential_colors(64), "nominal level, %")
    return Figure(
        f"{saved.name}: calibrated level of 90 % regions",
        joined(saved.schedule, "nominal level of the flow near each case, %"),
        [Panel(marks, x=names[0], y=names[1])],
        size=(5.0, 3.6),
        scale=scale,
    )


def content_of_predictive(path: Path, choice: Choice | None) -> Content:
    """Return the content of a posterior predictive check.

    Raises:
        DataError: The file is broken.
    """
    saved = SavedPredictive.load(path)
    name, schedule = title_of(path.stem.rpartition("_posterior_")[0])
    return Content(
        f"Simulated data of {name}",
        READING_OF_PREDICTIVE,
        "docs/tutorials/calibration.md",
        {f"{path.stem}_data": partial(predictive, saved, name, schedule)},
        parts=lambda choice: [_table_of_predictive(saved)],
        results=partial(_results_of_predictive, path, name),
    )


def _results_of_predictive(path: Path, name: str) -> list[Result]:
    numbers = path.with_suffix(".json")
    passed, verdict = parameter(numbers, "passed"), parameter(numbers, "verdict")
    if not (isinstance(passed, bool) and isinstance(verdict, str)):
        return []
    return [Result(name, "posterior predictive check", verdict, "nothing fails", passed)]


def _table_of_predictive(saved: SavedPredictive) -> NumberTable:
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
    return NumberTable("Observed and simulated data", head, rows[:MOST_ROWS], more)


def predictive(saved: SavedPredictive, name: str, schedule: str) -> Figure:
    """Return a row for each of the first observations: simulated data and observed values."""
    rows, numbers = min(len(saved.observed), MOST_OBSERVATIONS), min(len(saved.names), MOST_NUMBERS)
    panels = []
    for row, column in np.ndindex(rows, numbers):
        values, observed = saved.simulated[row, :, column], float(saved.observed[row, column])
        edges = np.histogram_bin_edges(values, DATA_BINS)
        bars = histogram(values, edges, BLUE, "simulated data", alpha=0.5, filled=True)
        note = f"observation {row + 1}: quantile {np.mean(values < observed):.1%}"
        marks = [bars, Rule(observed, True, INK, "observed", 1.4)]
        panels.append(Panel(marks, printable(saved.names[column]), note, y_ticks={}))
    return Figure(
        f"Posterior predictive check of {name}",
        joined(schedule, f"{saved.simulated.shape[1]:,} simulations per observation"),
        panels,
        columns=numbers,
        size=(max(9.0 / numbers, 1.8) if numbers > 2 else 3.0, 1.4),
    )
