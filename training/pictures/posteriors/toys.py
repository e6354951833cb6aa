"""Pictures of posteriors of toys: prior draws, posterior draws, observations, exact posterior."""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from training.data.toys import Toy
from training.files.arrays import evenly
from training.files.posterior_draws import SavedPosteriors
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.names import TOY_NAMES
from training.pictures import theme
from training.pictures.posteriors.words import axis_name, name_and_details, part_of, value_words
from training.pictures.theme import BLUE, INK, MUTED, ORANGE
from training.pictures.trajectories.clouds import cloud_axes, common_box, inside

GRID = 120
"""Number of grid points of a contour along each axis."""
LEAST_SHARE = 1e-7
"""Smallest weight of a visible component, relative to the heaviest component."""
BLOCK = 2**22
"""Number of component densities computed at once."""


def exact_posterior(toy: Toy, likelihood: Gaussian, observed: np.ndarray) -> ExactPosterior:
    """Return the exact posterior of toy data, without components of negligible weight.

    Args:
        toy: Toy that is not embedded.
        likelihood: Likelihood of the observation.
        observed: One observation ``[K]``.
    """
    whole = ExactPosterior.from_components(
        *toy.mixture[:3], likelihood, torch.from_numpy(observed)[None]
    )
    kept = (whole.weights >= LEAST_SHARE * whole.weights.max())[0]
    return ExactPosterior(whole.weights[:, kept], whole.centers[:, kept], whole.covariance)


def plane_density(
    exact: ExactPosterior, x: np.ndarray, y: np.ndarray, plane: tuple[int, int]
) -> np.ndarray:
    """Return the density of two coordinates of an exact posterior on an evenly spaced grid.

    The variance within a grid cell is added, since a toy may have no noise along an axis.

    Args:
        exact: Exact posterior of one observation.
        x: Grid points along the first coordinate.
        y: Grid points along the second coordinate.
        plane: Indices of the two coordinates.

    Returns:
        Densities ``[len(y), len(x)]``.
    """
    pair = list(plane)
    cell = np.diag([(x[1] - x[0]) ** 2, (y[1] - y[0]) ** 2]) / 4
    root = np.linalg.cholesky(exact.covariance.numpy()[np.ix_(pair, pair)] + cell)
    grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
    middles, weights = exact.centers[0].numpy()[:, pair], exact.weights[0].numpy()
    points, centers = (np.linalg.solve(root, each.T) for each in (grid, middles))
    total = np.empty(len(grid))
    rows = max(BLOCK // centers.shape[1], 1)
    for first in range(0, len(grid), rows):
        block = points[:, first : first + rows, None] - centers[:, None]
        total[first : first + rows] = np.exp(-np.square(block).sum(axis=0) / 2) @ weights
    return total.reshape(len(y), len(x)) / (2 * np.pi * np.linalg.det(root))


def toy_of(name: str | None, dim: int) -> Toy | None:
    """Return the toy of this name if it has ``dim`` dimensions, else None."""
    toy = Toy(name) if name in TOY_NAMES else None
    return toy if toy is not None and toy.dim == dim else None


def content_levels(density: np.ndarray, contents: tuple[float, ...]) -> list[float]:
    """Return increasing density levels whose upper level sets have the given probabilities.

    Args:
        density: Densities on a grid.
        contents: Probabilities of the regions.
    """
    ordered = np.sort(density, axis=None)[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    places = np.searchsorted(held, sorted(contents, reverse=True))
    return [float(ordered[min(place, len(ordered) - 1)]) for place in places]


CONTENTS = (0.5, 0.9)
"""Probabilities of the regions that contours of the exact posterior bound."""
MOST_POINTS = 1500
ACROSS, SIDE, LEFT = 3, 3.1, 0.6  # layout of the panels of 2-D toys, inches
ROW_SIDE, ROW_GAP, SHIFT = 2.25, 0.5, 0.25  # the same for 3-D toys; the cloud has more room
ZOOM, FAR = 2.6, 0.6
"""Zoom rule: axes show ZOOM ranges of the draws if that is at most FAR of the prior's range."""
PRIOR_ALPHA = {2: 0.3, 3: 0.12}
TRUTH: dict[str, Any] = {"ls": "none", "marker": "*", "ms": 10, "color": ORANGE, "mec": "white"}


def draw_toy(saved: SavedPosteriors, toy: Toy) -> Figure:
    """Draw posterior draws of toy data.

    In 2-D, each observation has a panel. In 3-D, it has a row: the cloud and three planes.
    """
    shown = saved.points.shape[2]
    name, details = name_and_details(saved)
    flat = toy.dim == 2
    across = 4 if not flat else 2 if shown in (2, 4) else min(shown, ACROSS)
    figure, places = theme.panel_page(
        -(-shown // across) if flat else shown,
        across,
        (SIDE, SIDE) if flat else (ROW_SIDE, ROW_SIDE),
        f"Posterior of {name}",
        theme.joined(details, part_of(saved, shown)),
        left=LEFT,
        right=0.2 if flat else 0.2 + SHIFT,
        gap=0.65 if flat else ROW_GAP,
        top=theme.TOP + theme.LINE_HEIGHT,
        above=0.5,
        least_width=8.0,
    )
    theme.legend_line(figure, LEFT, _handles(saved, toy.dim), right=theme.MARGIN)
    for index in range(shown):
        draws = saved.points[:, :, index].reshape(-1, toy.dim)
        draws = draws[evenly(len(draws), MOST_POINTS)]
        observed = None if saved.observed is None else saved.observed[index]
        if flat:
            place = places[index // across, index % across]
            box = zoomed_box(saved.prior, draws)
            named = _plane(figure, place, box, saved, toy, index, (0, 1), draws)
        else:
            box = common_box([draws] if saved.prior is None else [saved.prior, draws])
            named = cloud_axes(figure, places[index, 0], box, list(map(axis_name, saved.names)))
            _cloud(named, saved.prior, draws, box)
            if saved.truth is not None:
                mark_truth(named, saved.truth[index])
            for place, plane in zip(places[index, 1:], combinations(range(3), 2), strict=True):
                moved = place + np.array([SHIFT, 0, 0, 0])
                _plane(figure, moved, box[list(plane)], saved, toy, index, plane, draws)
        words = "" if observed is None else value_words(observed)
        theme.name_panel(named, f"Observation {index + 1}", words)
    return figure


def _plane(
    figure: Figure,
    place: np.ndarray,
    box: np.ndarray,
    saved: SavedPosteriors,
    toy: Toy,
    index: int,
    plane: tuple[int, int],
    draws: np.ndarray,
) -> Any:
    """Draw a panel of two coordinates of one observation."""
    pair = list(plane)
    axes = cloud_axes(figure, place, box, [axis_name(saved.names[number]) for number in pair])
    _points(axes, None if saved.prior is None else saved.prior[:, pair], draws[:, pair])
    if saved.observed is not None and saved.likelihood is not None:
        observed = saved.observed[index]
        mark_observed(axes, saved.likelihood, observed, plane, toy.dim)
        x, y = (np.linspace(low, high, GRID) for low, high in box)
        density = plane_density(exact_posterior(toy, saved.likelihood, observed), x, y, plane)
        levels = content_levels(density, CONTENTS)
        if levels[0] < levels[-1]:
            axes.contour(x, y, density, levels, colors=ORANGE, linewidths=1.1, zorder=4)
    if saved.truth is not None:
        mark_truth(axes, saved.truth[index, pair])
    return axes


def zoomed_box(prior: np.ndarray | None, draws: np.ndarray) -> np.ndarray:
    """Return the limits ``[2, 2]`` of a square around the draws.

    The square also contains the prior's draws unless these reach much farther.
    """
    own = common_box([draws])
    wide = own if prior is None else common_box([prior, draws])
    half = ZOOM * float(np.ptp(own[0])) / 2
    if 2 * half > FAR * float(np.ptp(wide[0])):
        return wide
    middle = own.mean(axis=1)
    return np.stack([middle - half, middle + half], axis=1)


def mark_observed(
    axes: Any, likelihood: Gaussian, observed: np.ndarray, plane: tuple[int, int], dim: int
) -> None:
    """Mark the point or line that one observation ``[K]`` fixes in a plane, if any."""
    here, own = _seen_in(likelihood, plane, dim)
    values = observed[own]
    if len(here) == 2 and np.linalg.matrix_rank(here) == 2:
        axes.plot(*np.linalg.solve(here, values), "P", color=INK, ms=7, mec="white", zorder=5)
    elif len(here) == 1:
        normal = here[0]
        foot = normal * values[0] / (normal @ normal)
        along = foot + np.array([-normal[1], normal[0]])
        axes.axline(foot, along, color=INK, lw=1.2, ls=theme.DASHED)


def mark_truth(axes: Any, point: np.ndarray) -> None:
    """Mark the true value behind an observation, ``[2]``, or ``[3]`` in space."""
    axes.plot(*point, **TRUTH, zorder=6)


def _seen_in(
    likelihood: Gaussian, plane: tuple[int, int], dim: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the observed combinations of the two coordinates of a plane alone.

    Returns:
        Their coefficients ``[k, 2]``, and which entries of the observation they are, bool ``[K]``.
    """
    rows = likelihood.observe(torch.eye(dim, dtype=torch.float64)).T.numpy()
    others = np.abs(np.delete(rows, list(plane), axis=1)).sum(axis=1)
    here = rows[:, list(plane)]
    own = (others == 0) & (np.abs(here).sum(axis=1) > 0)
    return here[own], own


def _points(axes: Any, prior: np.ndarray | None, draws: np.ndarray) -> None:
    style: dict[str, Any] = {"ls": "none", "marker": "o", "mew": 0}
    if prior is not None:
        axes.plot(*prior.T, ms=2, color=MUTED, alpha=PRIOR_ALPHA[2], **style)
    axes.plot(*draws.T, ms=2, color=BLUE, alpha=0.5, **style)


def _cloud(axes: Any, prior: np.ndarray | None, draws: np.ndarray, box: np.ndarray) -> None:
    style: dict[str, Any] = {"linewidths": 0, "s": 3}
    if prior is not None:
        seen = prior[inside(prior, box)]
        axes.scatter(*seen.T, c=MUTED, alpha=PRIOR_ALPHA[3], depthshade=False, **style)
    axes.scatter(*draws[inside(draws, box)].T, c=BLUE, **style)


def _handles(saved: SavedPosteriors, dim: int) -> Sequence[Any]:
    handles = [theme.dots("posterior draws", BLUE)]
    if saved.prior is not None:
        handles.insert(0, theme.dots("prior draws", MUTED, 0.5))
    if saved.truth is not None:
        handles.append(theme.line("truth", **TRUTH))
    if saved.likelihood is not None:
        planes = combinations(range(dim), 2)
        seen = [len(_seen_in(saved.likelihood, plane, dim)[0]) for plane in planes]
        if 2 in seen:
            handles.append(theme.line("observed", ls="none", marker="P", ms=7, mec="white"))
        elif 1 in seen:
            handles.append(theme.line("observed", lw=1.2, ls=(0, (3, 2))))
        contents = " and ".join(f"{100 * content:g}" for content in CONTENTS)
        handles.append(theme.line(f"exact posterior of the toy: regions of {contents} %", ORANGE))
    return handles
