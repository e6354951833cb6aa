"""A single verdict from many tests, adjusted for their number, and the errors that they can detect.

A Kolmogorov-Smirnov test fails at level a where an empirical distribution function of R values is
more than c from the uniform one, ``P(D > c) = a``; of K tests, the first that fails by Holm's
method has ``a = level / K``. If the true one is off by d anywhere, the empirical one there has a
standard deviation of at most ``1 / (2 sqrt(R))``, and so the test fails with a probability of at
least ``Phi(2 sqrt(R) (d - c))`` (Massey 1950, "A note on the power of a non-parametric test").
"""

from collections.abc import Mapping
from math import log
from statistics import NormalDist

import torch

from dnnlib.errors import DataError

NAMED_FAILURES = 3
SEEN = 0.9
"""Probability of detection used to report detectable errors."""
LARGE = 0.1
"""Error of coverage that a check must be able to detect: that of a Gaussian posterior which is a
fifth too narrow.
"""


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Adjust p-values for the number of tests by Holm's method (1979), keeping their order.

    The i-th smallest of K p-values is multiplied by ``K - i + 1``, and then raised to the largest
    adjusted value before it. If all K hypotheses are true, the smallest adjusted value is at most p
    with a probability of at most p, whatever the dependence of the tests.

    Raises:
        DataError: A p-value is not between 0 and 1.
    """
    wrong = [name for name, p in p_values.items() if not 0 <= p <= 1]
    if wrong:
        raise DataError(
            f"the p-value of {wrong[0]} is {p_values[wrong[0]]:g}, which is not in [0, 1]: correct "
            "it"
        )
    names = sorted(p_values, key=p_values.__getitem__)
    factors = torch.arange(len(names), 0, -1, dtype=torch.float64)
    ordered = torch.tensor([p_values[name] for name in names], dtype=torch.float64)
    adjusted = (ordered * factors).cummax(dim=0).values.clamp(max=1).tolist() if names else []
    by_name = dict(zip(names, adjusted, strict=True))
    return {name: by_name[name] for name in p_values}


def detectable(level: float, tests: int, runs: int) -> float:
    """Return the smallest error of coverage that is detected with probability ``SEEN``.

    Args:
        level: Level of all tests together.
        tests: Number of tests.
        runs: Smallest number of runs behind a test, R.

    Returns:
        The error, a fraction of 1.
    """
    from scipy.stats import kstwo  # takes most of a second to import

    farthest = float(kstwo.isf(level / tests, runs))
    return min(1.0, farthest + NormalDist().inv_cdf(SEEN) / (2 * runs**0.5))


def undetected_narrowness(error: float) -> float:
    """Return the relative narrowness of a Gaussian posterior that has a given error of coverage.

    A result of 0.2 means that the posterior is narrower by a fifth. The coverage of its central
    intervals has at most the given error.

    If the standard deviation of a posterior is s times the true one, its intervals of nominal
    coverage ``2 Phi(z) - 1`` have the coverage ``2 Phi(s z) - 1``. The difference is largest at
    ``z^2 = 2 log(1 / s) / (1 - s^2)``.

    Args:
        error: The error of coverage, a fraction of 1, such as ``detectable`` returns.

    Example:
        >>> round(undetected_narrowness(0.107), 2)
        0.2
    """
    normal = NormalDist()

    def off(scale: float) -> float:
        z = (2 * log(1 / scale) / (1 - scale**2)) ** 0.5
        return 2 * (normal.cdf(z) - normal.cdf(scale * z))

    low, high = 1e-6, 1 - 1e-6
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) > error else (low, middle)
    return 1 - high


def verdict(adjusted: Mapping[str, float], level: float, runs: int, of: str = "runs") -> str:
    """Summarize tests as text: the tests that fail, or how large an error they would detect.

    The failure with the smallest p-value comes first.

    Args:
        adjusted: Adjusted p-values by name of the test, such as "ranks of x1".
        level: Tests with adjusted p-values below this fail.
        runs: Number of runs behind the tests.
        of: Noun for the runs in the text, such as "runs".

    Raises:
        DataError: There are no p-values.
    """
    if not adjusted:
        raise DataError("there are no p-values: test at least one quantity")
    many = f"{len(adjusted)} tests" if len(adjusted) > 1 else "one test"
    names = sorted(adjusted, key=adjusted.__getitem__)
    failures = [name for name in names if adjusted[name] < level]
    if not failures:
        least = adjusted[names[0]]
        # Where all are 1, none is the smallest.
        smallest = f" (smallest: {names[0]}, p = {least:.2g})" if least < 1 else ""
        return (
            f"No miscalibration found in {many} of {runs} {of} at level {level:g}, "
            f"corrected for multiple comparisons{smallest}. "
            f"{_seen(detectable(level, len(adjusted), runs))}"
        )
    shown = [f"{name} (p = {adjusted[name]:.2g})" for name in failures[:NAMED_FAILURES]]
    more = len(failures) - len(shown)
    listed = ", ".join(shown) + (f" and {more} more" if more else "")
    return (
        f"Not calibrated: {listed} failed, of {many} of {runs} {of} at level {level:g}, "
        "corrected for multiple comparisons; an error of "
        f"{100 * detectable(level, len(adjusted), runs):.0f} points of coverage or more "
        "is detected in 90 % of cases."
    )


def _seen(error: float) -> str:
    """State in words how large an error would have been detected."""
    large = f"an error of {100 * error:.0f} points of coverage or more"
    often = f"is detected in {SEEN:.0%} of cases".replace("%", " %")
    if error <= LARGE:
        return f"{large[0].upper()}{large[1:]} {often}."
    return f"Too few runs to test: only {large} {often}."
