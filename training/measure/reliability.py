"""Reliability of predicted probabilities: the data of a reliability diagram.

Probabilities of events are grouped into bins. In each bin, the observed frequency should equal the
mean probability (Murphy and Winkler 1977). A frequency among n cases has the confidence interval of
Wilson (1927): all p that differ from it by less than z standard deviations,

    |share - p| < z sqrt(p (1 - p) / n).
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

BINS = 10
Z = NormalDist().inv_cdf(0.975)
TELLING = 0.1
"""Largest half width of the confidence interval of an informative frequency: 10 percentage points.
"""


def reliability(probabilities: np.ndarray, came_true: np.ndarray) -> list[list[float]]:
    """Return the data of a reliability diagram: one list of three numbers per bin.

    Events are binned by their predicted probability; empty bins are left out. The numbers are the
    mean probability, the observed frequency and the number of events.

    Args:
        probabilities: Predicted probabilities of events, of any shape.
        came_true: Whether each event occurred.
    """
    probability, true = probabilities.ravel(), came_true.ravel()
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    parts = [bins == each for each in range(BINS)]
    return [
        [float(probability[part].mean().clip(0, 1)), float(true[part].mean()), int(part.sum())]
        for part in parts
        if part.any()
    ]


def wilson(share: ArrayLike, count: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Return the lower and upper ends of Wilson's 95 % confidence intervals of frequencies.

    Args:
        share: Observed frequencies.
        count: Number of cases of each frequency, in the same shape.
    """
    share, count = np.asarray(share), np.asarray(count)
    middle = share + Z**2 / (2 * count)
    half = Z * np.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    scale = 1 + Z**2 / count
    return ((middle - half) / scale).clip(0, 1), ((middle + half) / scale).clip(0, 1)
