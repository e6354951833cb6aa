"""Contours of a toy's exact posterior in planes."""

import numpy as np
import torch

from training.data.toys import Toy
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.names import TOY_NAMES

GRID = 120
"""Points of a contour's grid along each axis."""
LEAST_SHARE = 1e-7
"""Of the heaviest component: lighter ones cannot be seen."""
BLOCK = 2**22
"""Densities of components at once."""


def exact_posterior(toy: Toy, likelihood: Gaussian, observed: np.ndarray) -> ExactPosterior:
    """That of a toy that is not embedded, given one observation ``[K]``, without the components
    that cannot be seen."""
    whole = ExactPosterior.of(*toy.mixture[:3], likelihood, torch.from_numpy(observed)[None])
    kept = (whole.weights >= LEAST_SHARE * whole.weights.max())[0]
    return ExactPosterior(whole.weights[:, kept], whole.centers[:, kept], whole.covariance)


def plane_density(
    exact: ExactPosterior, x: np.ndarray, y: np.ndarray, plane: tuple[int, int]
) -> np.ndarray:
    """The density of two coordinates at a grid of evenly spaced points ``[len(y), len(x)]``.

    The spread within a cell of the grid is added, since a toy may have no noise along an axis.

    Args:
        exact: The posterior of one observation.
        x: The grid along the first coordinate.
        y: That along the second one.
        plane: Which coordinates.
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
    density: np.ndarray = total.reshape(len(y), len(x)) / (2 * np.pi * np.linalg.det(root))
    return density


def toy_of(name: str | None, dim: int) -> Toy | None:
    """The toy of this name in its own space; None where there is none."""
    toy = Toy(name) if name in TOY_NAMES else None
    return toy if toy is not None and toy.dim == dim else None


def content_levels(density: np.ndarray, contents: tuple[float, ...]) -> list[float]:
    """Densities whose regions above them hold these shares of a grid's whole, increasing."""
    ordered = np.sort(density, axis=None)[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    places = np.searchsorted(held, sorted(contents, reverse=True))
    return [float(ordered[min(place, len(ordered) - 1)]) for place in places]
