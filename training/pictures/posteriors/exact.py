"""The exact posterior of a toy, and the contours of its densities in planes.

A toy is a Gaussian mixture (``training.data.toys``). With observations ``y = A x + n``, n normal,

    x | y ~ sum_k r_k N(m_k + G (y - A m_k), S - G A S),     G = S A^T (A S A^T + Sigma)^-1,

where ``r_k`` is proportional to ``w_k N(y; A m_k, A S A^T + Sigma)``.
"""

from dataclasses import dataclass

import numpy as np
import torch

from training.data.toys import TOY_NAMES, Toy
from training.inference.likelihoods import Gaussian

GRID = 120
"""Points of a contour's grid along each axis."""
LEAST_SHARE = 1e-7
"""Of the heaviest component: lighter ones cannot be seen."""
BLOCK = 2**22
"""Densities of components at once."""


@dataclass(frozen=True)
class ExactPosterior:
    """A Gaussian mixture with one covariance.

    Attributes:
        weights: ``[K]``.
        centers: ``[K, D]``.
        covariance: ``[D, D]``.
    """

    weights: np.ndarray
    centers: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, toy: Toy, likelihood: Gaussian, observed: np.ndarray) -> "ExactPosterior":
        """The posterior of a toy that is not embedded, given one observation ``[K]``."""
        weights, means, covariance, _ = toy.mixture
        dim = len(covariance)
        seen = likelihood.observe(torch.eye(dim, dtype=torch.float64)).T
        root = likelihood.root
        noise = root @ root.T if root.ndim == 2 else torch.diag(root.square().expand(len(seen)))
        predicted = seen @ covariance @ seen.T + noise
        gain = torch.linalg.solve(predicted, seen @ covariance).T
        apart = torch.from_numpy(observed) - means @ seen.T
        distance = (apart * torch.linalg.solve(predicted, apart.T).T).sum(dim=1)
        share = (weights.log() - distance / 2).softmax(dim=0)
        centers = means + apart @ gain.T
        kept = share >= LEAST_SHARE * share.max()
        within = covariance - gain @ seen @ covariance
        return cls(share[kept].numpy(), centers[kept].numpy(), within.numpy())

    def density(self, x: np.ndarray, y: np.ndarray, plane: tuple[int, int]) -> np.ndarray:
        """Of two coordinates at a grid of evenly spaced points ``[len(y), len(x)]``.

        The spread within a cell of the grid is added, since a toy may have no noise along an axis.
        """
        pair = list(plane)
        cell = np.diag([(x[1] - x[0]) ** 2, (y[1] - y[0]) ** 2]) / 4
        root = np.linalg.cholesky(self.covariance[np.ix_(pair, pair)] + cell)
        grid = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        points, centers = (np.linalg.solve(root, each.T) for each in (grid, self.centers[:, pair]))
        total = np.empty(len(grid))
        rows = max(BLOCK // centers.shape[1], 1)
        for first in range(0, len(grid), rows):
            block = points[:, first : first + rows, None] - centers[:, None]
            total[first : first + rows] = np.exp(-np.square(block).sum(axis=0) / 2) @ self.weights
        found: np.ndarray = total.reshape(len(y), len(x)) / (2 * np.pi * np.linalg.det(root))
        return found


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
