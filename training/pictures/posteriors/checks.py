"""Pictures of chains and of checks of calibration, with the variation expected by chance.

Pictures of a conformal calibration show coverage before and after, and the calibrated levels over
conditions. Pictures of a posterior predictive check show simulated data next to observations.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from scipy.stats import binom, rankdata
from torch import Tensor

from torch_utils.results import open_arrays
from training.files.arrays import title_of
from training.files.posterior import SavedCheck, SavedPredictive
from training.files.posterior_draws import SavedPosteriors
from training.inference.draws import POOLED
from training.measure.conformal import crossed
from training.measure.posterior.calibration import (
    DENSEST,
    central_values,
    distribution_function,
    simultaneous_band,
)
from training.measure.posterior.convergence import FEWEST_DRAWS, convergence
from training.pictures import theme
from training.pictures.posteriors.words import axis_name, name_and_details
from training.pictures.theme import BLUE, FAINT, INK, MUTED, ORANGE

MOST = 4
BINS = 20
WIDTH, HEIGHT, LEFT, GAP = 4.6, 1.25, 0.75, 0.75  # inches
MOST_CHAINS = 8
"""Number of chains with distinguishable colors."""


def has_chains(saved: SavedPosteriors) -> bool:
    """Return whether draws of the first observation form chains that are long enough to plot."""
    chains, draws = saved.points.shape[:2]
    return (
        saved.log_likelihood is not None
        and saved.sampler[0] not in POOLED
        and chains > 1
        and draws >= FEWEST_DRAWS
    )


def draw_chains(saved: SavedPosteriors) -> Figure:
    """Draw Markov chains: a row for each of the worst-mixed coordinates and the log likelihood."""
    assert saved.log_likelihood is not None
    points = saved.points[:, :, 0]
    diagnostics = convergence(torch.from_numpy(points))
    r_hat = diagnostics.r_hat.nan_to_num(0).numpy()
    order = np.sort(np.argsort(-r_hat, kind="stable")[:MOST])
    rows = [(saved.names[place], points[:, :, place]) for place in order]
    notes = [
        (float(diagnostics.r_hat[place]), float(diagnostics.ess_bulk[place])) for place in order
    ]
    rows.append(("log likelihood", saved.log_likelihood[:, :, 0]))
    of_likelihood = convergence(torch.from_numpy(saved.log_likelihood[:, :, :1]))
    notes.append((float(of_likelihood.r_hat), float(of_likelihood.ess_bulk)))
    name, details = name_and_details(saved)
    dim = points.shape[2]
    chosen = f"the {MOST} of {dim} coordinates with the largest R-hat" if dim > MOST else ""
    figure, places = theme.panel_page(
        len(rows),
        2,
        (WIDTH, HEIGHT),
        f"Chains of the posterior of {name}",
        theme.joined(details, f"observation 1 of {saved.count:,}", chosen),
        left=LEFT,
        gap=GAP,
        top=theme.TOP + theme.LINE_HEIGHT,
        above=0.26,
        below=0.42,
    )
    chains = min(points.shape[0], MOST_CHAINS)
    colors = list(theme.sequential_colors(chains))
    handles = [theme.line(f"chain {k + 1}", color) for k, color in enumerate(colors)]
    few = f"first {chains} of {points.shape[0]} chains" if chains < points.shape[0] else ""
    note = "gray: ranks of independent draws (95 %)"
    theme.legend_line(figure, LEFT, handles, theme.joined(few, note), right=theme.MARGIN * 2)
    for row, ((label, values), (mixed, worth)) in enumerate(zip(rows, notes, strict=True)):
        trace, ranks = (theme.axes_at(figure, place) for place in places[row])
        for chain, color in zip(values, colors, strict=False):
            trace.plot(chain, color=color, lw=0.5, alpha=0.8)
        trace.set_xlim(0, max(values.shape[1] - 1, 1))
        theme.label(trace, y=axis_name(label, HEIGHT))
        trace.yaxis.set_label_coords(-0.55 / WIDTH, 0.5)
        theme.note_above(trace, f"R-hat {mixed:.3f}", f"ESS {worth:,.0f}")
        _ranks(ranks, values, colors)
        if row == len(rows) - 1:
            theme.label(trace, x="draw")
            theme.label(ranks, x="rank among the draws of all chains")
    return figure


def rank_counts(values: np.ndarray, bins: int) -> np.ndarray:
    """Rank the draws of all chains together, and count those of each chain by rank.

    The bins of ranks have equal sizes.

    Args:
        values: Draws of C chains ``[C, S]``.
        bins: Number of bins.

    Returns:
        Counts ``[C, bins]``.
    """
    ranks = rankdata(values, method="ordinal").reshape(values.shape)
    edges = np.linspace(0, values.size, bins + 1)
    return np.stack([np.histogram(chain - 0.5, edges)[0] for chain in ranks])


def _ranks(axes: Any, values: np.ndarray, colors: list[np.ndarray]) -> None:
    draws = values.shape[1]
    bins = min(BINS, max(draws // 5, 2))
    edges = np.linspace(0, values.size, bins + 1)
    low, high = binom(draws, 1 / bins).ppf([0.025, 0.975])
    axes.axhspan(low, high, color=FAINT, alpha=0.6, lw=0)
    counts = rank_counts(values, bins)
    for chain, color in zip(counts, colors, strict=False):
        axes.stairs(chain, edges, color=color, lw=1.1, baseline=None)
    axes.set(xlim=(0, values.size), ylim=(0, 1.1 * max(counts.max(), high)))
    theme.label(axes, y="draws")


MOST_QUANTITIES, ACROSS = 12, 4
RANK_SIZE, COVERAGE_SIZE = (2.25, 1.45), (3.1, 2.4)  # inches
PANEL_GAP = 0.45
ROOM = 1.15
"""Factor on the axis limit that leaves room for text above and below the curves of coverage."""
MOST_LINES = 20
"""Number of dimensions up to which the coverage of each is drawn."""
BAND = "gray: 95 % band of one curve of a calibrated posterior"
QUESTIONS = {"sampler": "test of the sampler", "model": "test of the model"}


def details_of(saved: SavedCheck) -> str:
    """Describe in words how a calibration check was made."""
    asked = theme.words_for(saved.question, QUESTIONS)
    return theme.joined(saved.schedule, asked, f"{len(saved.values.ranks):,} runs")


def draw_ranks(saved: SavedCheck) -> Figure:
    """Draw a panel per quantity with the deviation of its ranks from the uniform distribution.

    At most twelve quantities are drawn, those with the smallest p-values.
    """
    names, ranks = saved.values.names, saved.values.ranks
    p = saved.calibration.ranks.ks_p.numpy()
    chosen = np.sort(np.argsort(p, kind="stable")[:MOST_QUANTITIES])
    across = min(len(chosen), ACROSS)
    few = f"the {MOST_QUANTITIES} of {len(names)} quantities with the smallest p"
    few *= len(names) > MOST_QUANTITIES
    figure, panels = _page(saved, len(chosen), across, RANK_SIZE, few)
    curves = [Curve.from_values(ranks[:, [column]]) for column in chosen]
    reach = max(curve.reach for curve in curves)
    for axes, column, curve in zip(panels, chosen, curves, strict=True):
        curve.draw(axes, reach)
        adjusted = saved.calibration.adjusted[f"ranks of {names[column]}"]
        name = axis_name(names[column], RANK_SIZE[0])
        theme.name_panel(axes, name, f"p = {p[column]:.2g}, adjusted {adjusted:.2g}")
    theme.label_outer(panels, across, "rank, %", "excess below, points")
    return figure


def draw_coverage(saved: SavedCheck, how: str = "") -> Figure:
    """Draw a panel per family of regions with its coverage minus the nominal probability.

    Args:
        saved: Check to draw.
        how: Text on how the levels were calibrated; empty for the levels of the flow itself.
    """
    dims = saved.values.scores.shape[1]
    families = {"central intervals": central_values(saved.values.ranks[:, :dims])}
    families |= {name: held[:, None] for name, held in saved.values.regions.items()}
    of = f"central intervals of {dims} dimensions: " * (dims > 1)
    thin = "each thin, mean thick" if dims <= MOST_LINES else "their mean"
    note = of + thin * bool(of)
    figure, panels = _page(saved, len(families), len(families), COVERAGE_SIZE, note, how)
    curves = {name: Curve.from_values(held) for name, held in families.items()}
    reach = ROOM * max(curve.reach for curve in curves.values())
    for axes, (name, curve) in zip(panels, curves.items(), strict=True):
        curve.draw(axes, reach)
        theme.name_panel(axes, name)
        theme.write(axes, "hold more", (0, 1), (4, -3), va="top")
        theme.write(axes, "smaller coverage: overconfident", (0, 0), (4, 3), va="bottom")
    theme.label_outer(panels, len(panels), "nominal content, %", "actual − nominal, points")
    return figure


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
        return max(
            float(np.abs(self.shown).max()), float(self.upper.max()), -float(self.lower.min())
        )

    @property
    def shown(self) -> np.ndarray:
        """Lines to draw: one per variable ``[K, V]``, or their mean ``[K, 1]`` if V is large."""
        return self.excess if self.excess.shape[1] <= MOST_LINES else self.mean[:, None]

    @property
    def mean(self) -> np.ndarray:
        """Mean deviation over variables, ``[K]``."""
        return np.asarray(self.excess.mean(axis=1))

    def draw(self, axes: Axes, reach: float) -> None:
        """Draw all lines and the band, on an axis that covers ``-reach`` to ``reach``."""
        x = 100 * self.points
        axes.fill_between(x, self.lower, self.upper, color=FAINT, alpha=0.6, lw=0)
        axes.axhline(0, color=MUTED, lw=0.8)
        several = self.excess.shape[1] > 1
        if several:
            for line_, holds in zip(self.shown.T, self.holds, strict=False):
                axes.plot(x, line_, color=color_of(holds), lw=0.7, alpha=0.6)
        axes.plot(x, self.mean, color=color_of(several or bool(self.holds[0])), lw=1.8)
        axes.set(xlim=(0, 100), ylim=(-1.06 * reach, 1.06 * reach), xticks=[0, 25, 50, 75, 100])


def color_of(holds: bool) -> str:
    """Return the color of a curve, which shows whether the curve stays within its band."""
    return BLUE if holds else ORANGE


def _page(
    saved: SavedCheck, count: int, across: int, size: tuple[float, float], note: str, how: str = ""
) -> tuple[Figure, list[Axes]]:
    verdict = "" if how else saved.calibration.verdict
    right = "no miscalibration found" if saved.calibration.conclusive else "too few runs to test"
    outcome = how or (right if saved.calibration.passed else "not calibrated")
    figure, panels = theme.panels(
        count,
        across,
        size,
        f"Posterior of {saved.name}: {outcome}",
        theme.joined(details_of(saved), note),
        left=LEFT,
        gap=PANEL_GAP,
        top=theme.above_panels(verdict),
        above=0.46,
        below=0.46,
        least_width=theme.WIDE,
    )
    handles = [theme.line("within the band", BLUE), theme.line("beyond it", ORANGE)]
    theme.write_verdict(figure, LEFT, verdict, handles, BAND, 2 * theme.MARGIN)
    return figure, list(panels)


MAP_SIZE, PANEL = (4.2, 3.4), (2.1, 1.4)  # inches
MOST_ROWS, MOST_NUMBERS, DATA_BINS = 4, 6, 30


def draw_after(saved: SavedCheck) -> Figure:
    """Draw the coverage of regions whose levels were calibrated on the other half of the cases."""
    values = saved.values
    after = {DENSEST: crossed(values.regions[DENSEST][:, None])[:, 0]}
    # Choose ranks whose central intervals have the probabilities to draw.
    ranks = (1 + crossed(central_values(values.ranks))) / 2
    shown = replace(saved, values=replace(values, ranks=ranks, regions=after))
    return draw_coverage(shown, "calibrated levels, cross-validated on halves")


def has_map(path: Path) -> bool:
    """Return whether a calibration file has locally calibrated levels and their conditions."""
    with open_arrays(path) as saved:
        return {"conditions", "near", "condition_names"} <= set(saved.names)


def draw_map(saved: SavedCheck, path: Path) -> Figure:
    """Draw held-out cases by their first two conditions, colored by local calibrated level."""
    with open_arrays(path) as arrays:
        points, near = arrays.numbers("conditions"), arrays.numbers("near")
        names = [str(name) for name in arrays.read("condition_names")]
    figure, places = theme.panel_page(
        1,
        1,
        MAP_SIZE,
        f"{saved.name}: calibrated level of 90 % regions",
        theme.joined(saved.schedule, "nominal level of the flow near each case, %"),
        right=1.1,
    )
    axes = theme.axes_at(figure, places[0, 0])
    colors = ListedColormap(theme.sequential_colors(256))
    dots = axes.scatter(points[:, 0], points[:, 1], c=100 * near, s=7, lw=0, cmap=colors)
    theme.label(axes, axis_name(names[0]), axis_name(names[1]))
    left, bottom, width, height = places[0, 0]
    theme.color_bar(figure, dots, (left + width + 0.15, bottom, 0.12, height))
    return figure


def draw_predictive(saved: SavedPredictive) -> Figure:
    """Draw a row for each of the first observations: simulated data and observed values."""
    rows, numbers = min(len(saved.observed), MOST_ROWS), min(len(saved.names), MOST_NUMBERS)
    name, schedule = title_of(saved.path.stem.rpartition("_posterior_")[0])
    figure, panels = theme.panels(
        rows * numbers,
        numbers,
        PANEL,
        f"Posterior predictive check of {name}",
        theme.joined(schedule, f"{saved.simulated.shape[1]:,} simulations per observation"),
        least_width=theme.WIDE,
    )
    for axes, (row, column) in zip(panels, np.ndindex(rows, numbers), strict=True):
        values = saved.simulated[row, :, column]
        axes.hist(values, DATA_BINS, color=BLUE, alpha=0.5, lw=0)
        axes.axvline(saved.observed[row, column], color=INK, lw=1.4)
        axes.set_yticks([])
        share = float(np.mean(values < saved.observed[row, column]))
        label = axis_name(saved.names[column], PANEL[0])
        theme.name_panel(axes, label, f"observation {row + 1}: quantile {share:.1%}")
    return figure
