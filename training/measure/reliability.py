"""Whether what is said with a probability comes true with it: a reliability diagram's numbers.

Probabilities of events are parted into bins, in each of which the share of events that came true
should be their mean probability (Murphy and Winkler 1977). A share of n cases is known to within
an interval by Wilson (1927): all p of which it is less than z standard deviations off,

    |share - p| < z sqrt(p (1 - p) / n).
"""

from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike

BINS = 10
Z = NormalDist().inv_cdf(0.975)
TELLING = 0.1
"""Half width of an interval of a share, up to which the share tells whether a probability is right:
at most 10 points."""


def reliability(probabilities: np.ndarray, came_true: np.ndarray) -> list[list[float]]:
    """Of each bin that is not empty its mean probability, the share that came true, and how many,
    of events of any shape."""
    probability, true = probabilities.ravel(), came_true.ravel()
    bins = np.minimum((probability * BINS).astype(int), BINS - 1)
    parts = [bins == each for each in range(BINS)]
    return [
        [float(probability[part].mean().clip(0, 1)), float(true[part].mean()), int(part.sum())]
        for part in parts
        if part.any()
    ]


def wilson(share: ArrayLike, count: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Ends of the intervals with 95 % of shares of so many cases, all of one shape."""
    share, count = np.asarray(share), np.asarray(count)
    middle = share + Z**2 / (2 * count)
    half = Z * np.sqrt(share * (1 - share) / count + (Z / (2 * count)) ** 2)
    scale = 1 + Z**2 / count
    return ((middle - half) / scale).clip(0, 1), ((middle + half) / scale).clip(0, 1)
