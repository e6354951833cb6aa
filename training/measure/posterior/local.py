"""Calibration near given observations: calibration on average does not imply calibration here.

The tests use only ranks of true values whose conditions are near an observation. If posteriors are
right wherever these conditions lie, the ranks are uniform among them too (Zhao, Dalmasso, Izbicki
and Lee 2021, "Diagnostics for conditional density models and Bayesian inference algorithms": local
coverage tests, there by a regression over conditions, here from the nearest ones alone). For each
coordinate, the tests are of the ranks and of the levels of central intervals, which are most
sensitive to shifts and widths. For other quantities, such as the log density, the ranks are tested.
All tests are Kolmogorov-Smirnov tests, adjusted over all observations together by Holm's method.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from training.measure.posterior.calibration import RunValues
from training.measure.posterior.coverage import central_values
from training.measure.posterior.ranks import ks_p_values
from training.measure.posterior.verdicts import detectable, holm

FARTHEST = 1.0
"""Largest distance, in standard deviations, of runs that count as near an observation: with a
farther run, a test is not informative about the observation itself.
"""


@dataclass(frozen=True)
class LocalTest:
    """Calibration test of the runs near one observation.

    Attributes:
        quantity: Name of the quantity with the smallest p-value.
        p: Smallest p-value of all tests near the observation.
        adjusted: Smallest p-value, adjusted for the number of tests of all observations.
        tendency: Direction of the error in the posterior of the quantity, if there is one: ``too
            low``, ``too high``, ``too narrow``, ``too wide``, or, for a log density, ``too narrow
            or misplaced``.
        mean_ranks: Mean rank of each quantity: 1/2 if posteriors are right.
    """

    quantity: str
    p: float
    adjusted: float
    tendency: str
    mean_ranks: list[float]


@dataclass(frozen=True)
class LocalCalibration:
    """Result of calibration tests near observations.

    Attributes:
        tests: One test per observation.
        runs: Number of runs near each observation.
        level: Tests with adjusted p-values below this fail.
        comparisons: Number of tests of all observations, for the adjustment of p-values.
    """

    tests: Sequence[LocalTest]
    runs: int
    level: float
    comparisons: int

    @property
    def detectable(self) -> float:
        """Error of coverage near an observation, in points, that is detected in 90 % of cases."""
        return 100 * detectable(self.level, self.comparisons, self.runs)

    @property
    def failed(self) -> list[int]:
        """Indices of the observations that fail a test."""
        return [k for k, test in enumerate(self.tests) if test.adjusted < self.level]

    def summary(self) -> dict[str, Any]:
        """Return plain numbers and lists for a JSON file."""
        listed = [{"passed": t.adjusted >= self.level, **asdict(t)} for t in self.tests]
        return {
            "passed": not self.failed,
            "neighbors": self.runs,
            "detectable": self.detectable,
            "observations": listed,
        }


def calibrate_near(values: RunValues, neighbors: Tensor, level: float = 0.01) -> LocalCalibration:
    """Test the calibration of the runs near each of M observations.

    Args:
        values: Calibration statistics of all runs.
        neighbors: Indices ``[M, K]`` of the K runs near each observation.
        level: Tests with adjusted p-values below this level fail.
    """
    dims = values.scores.shape[1]
    p_values: dict[str, float] = {}
    for place, near in enumerate(neighbors):
        ranks = values.ranks[near]
        contents = central_values(ranks[:, :dims])
        p = torch.cat([ks_p_values(ranks), ks_p_values(contents)]).tolist()
        p_values |= {f"{place} {test}": value for test, value in enumerate(p)}
    adjusted = holm(p_values)
    tests, each = [], len(p_values) // len(neighbors)
    for place, near in enumerate(neighbors):
        own = [f"{place} {test}" for test in range(each)]
        least = min(own, key=p_values.__getitem__)
        quantity = own.index(least) % len(values.names)
        ranks = values.ranks[near]
        tests.append(
            LocalTest(
                values.names[quantity],
                p_values[least],
                adjusted[least],
                tendency(ranks[:, quantity], quantity < dims),
                ranks.mean(dim=0).tolist(),
            )
        )
    return LocalCalibration(tests, neighbors.shape[1], level, len(p_values))


def tendency(ranks: Tensor, of_coordinate: bool) -> str:
    """Describe the likely error of a posterior, for example ``too narrow``.

    Args:
        ranks: Fractional ranks ``[K]`` of the true values of a quantity.
        of_coordinate: Whether the quantity is a coordinate rather than a log density.
    """
    shift = float(ranks.mean()) - 0.5
    if not of_coordinate:
        return "too narrow or misplaced" if shift < 0 else "too wide"
    # Both have the variance of a uniform variable if the posterior is right.
    width = float(central_values(ranks).mean()) - 0.5
    if abs(shift) >= abs(width):
        return "too low" if shift > 0 else "too high"
    return "too narrow" if width > 0 else "too wide"
