"""What a network's boundaries hold of fresh data, against those of the exact flow.

A count of N points of which the part p is inside has the standard error ``sqrt(p (1 - p) / N)``,
0.35 points of percent for 20,000. Boundaries that the network and the exact denoiser carry to the
data from the same spheres differ by far less than that. Both hold the *same* fresh points, so what
counts is only the points between them: with the part a in the first boundary alone and the part b
in the second alone, the difference is ``a - b``, and its standard error
``sqrt((a + b - (a - b)^2) / (N - 1))``. It is that of another draw of points, for these boundaries.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from training.measure.boundaries import Boundary
from training.measure.containment import Floats
from training.measure.coverage import membership, statistics


@dataclass(frozen=True)
class Paired:
    """Of S repetitions and R boundaries.

    Attributes:
        exact: ``[S, R]``: the part of fresh data inside the boundaries of the exact flow.
        difference: ``[S, R]``: how much more is inside those of the network.
        error: ``[S, R]``: standard error of the difference.
    """

    exact: Floats
    difference: Floats
    error: Floats

    @property
    def whole_error(self) -> Floats:
        """``[R]``: of the mean over repetitions, which draw points of their own."""
        return np.asarray(np.sqrt(np.square(self.error).sum(axis=0)) / len(self.error))

    def summary(self) -> dict[str, Any]:
        """The numbers as plain lists, one value a radius, fractions of 1."""
        return {
            "fresh_exact": statistics(self.exact),
            "difference": statistics(self.difference),
            "standard_error": self.whole_error.tolist(),
        }

    def columns(self) -> dict[str, list[str]]:
        """Cells of the table by its heads, in percentage points."""
        mean = 100 * self.difference.mean(axis=0)
        return {
            "paired": [f"{value:+.3f}" for value in mean],
            "s.e.": [f"{value:.3f}" for value in 100 * self.whole_error],
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What the ``.npz`` holds."""
        return {
            "coverage_fresh_exact": self.exact,
            "paired_difference": self.difference,
            "paired_standard_error": self.error,
        }


def pair(fresh: Tensor, boundaries: list[Boundary], exact: list[Boundary]) -> Paired:
    """Counts fresh data ``[S, N, D]`` inside R boundaries of a network and of the exact flow.

    Args:
        fresh: Fresh samples in data space.
        boundaries: Boundaries of the network's flow, in the same coordinates.
        exact: Boundaries of the exact flow, from the same spheres.
    """
    ours, theirs = membership(fresh, boundaries), membership(fresh, exact)
    more, fewer = _part(ours & ~theirs), _part(theirs & ~ours)
    difference = more - fewer
    variance = more + fewer - np.square(difference)
    degrees = max(fresh.shape[1] - 1, 1)
    return Paired(_part(theirs), difference, np.sqrt(np.maximum(variance, 0) / degrees))


def _part(sides: Tensor) -> Floats:
    """Means over the points of ``[R, S, N]`` as ``[S, R]``."""
    means: Floats = sides.double().mean(dim=-1).T.cpu().numpy()
    return means
