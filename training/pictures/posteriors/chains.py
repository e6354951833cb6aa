"""Pictures of Markov chains: traces and rank plots."""

from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import binom, rankdata

from training.files.posterior_draws import SavedPosteriors
from training.inference.draws import POOLED
from training.measure.posterior.convergence import FEWEST_DRAWS, convergence
from training.pictures import theme
from training.pictures.posteriors.words import axis_name, name_and_details
from training.pictures.theme import FAINT

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
