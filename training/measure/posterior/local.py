"""Calibration near given observations: right on average need not be right here.

Ranks of truths whose conditions are near an observation are tested alone. If posteriors are right
wherever these conditions lie, the ranks are uniform among them too (Zhao, Dalmasso, Izbicki and Lee
2021, "Diagnostics for conditional density models and Bayesian inference algorithms": local coverage
tests, there by a regression over conditions, here of the nearest ones alone). Of each coordinate
the ranks and the contents of central intervals are tested, which see shifts and widths best, and of
other quantities, such as the log density, the ranks; all by Kolmogorov and Smirnov, and all
observations together by Holm.
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
"""Standard deviations up to which runs are near an observation: if one is farther, a test says
nothing of the observation itself."""


@dataclass(frozen=True)
class LocalTest:
    """What the runs near one observation say.

    Attributes:
        quantity: Of the smallest p-value.
        p: This.
        adjusted: The same, the number of tests of all observations accounted for.
        tendency: How the posterior of the quantity is off, if it is: ``too low``, ``too high``,
            ``too narrow``, ``too wide``, or, of a log density, ``too narrow or misplaced``.
        mean_ranks: Of each quantity: 1/2 if posteriors are right.
    """

    quantity: str
    p: float
    adjusted: float
    tendency: str
    mean_ranks: list[float]


@dataclass(frozen=True)
class LocalCalibration:
    """Whether posteriors are calibrated near observations.

    Attributes:
        tests: One of each observation.
        runs: Near each.
        level: Adjusted p-values below it fail.
        comparisons: Tests of all observations, which p-values account for.
    """

    tests: Sequence[LocalTest]
    runs: int
    level: float
    comparisons: int

    @property
    def detectable(self) -> float:
        """The error of coverage near an observation, in percentage points, that is seen in 90 % of
        such checks."""
        return 100 * detectable(self.level, self.comparisons, self.runs)

    @property
    def failed(self) -> list[int]:
        """The places of observations near which a test fails."""
        return [k for k, test in enumerate(self.tests) if test.adjusted < self.level]

    def summary(self) -> dict[str, Any]:
        """Plain numbers and lists, as a JSON file takes them."""
        listed = [{"passed": t.adjusted >= self.level, **asdict(t)} for t in self.tests]
        return {
            "passed": not self.failed,
            "neighbors": self.runs,
            "detectable": self.detectable,
            "observations": listed,
        }


def calibrate_near(values: RunValues, neighbors: Tensor, level: float = 0.01) -> LocalCalibration:
    """Tests the runs near each of M observations, whose numbers ``[M, K]`` are among all. Adjusted
    p-values below the level fail."""
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
    """In words, how a posterior, of a coordinate or of a log density, is off in which truths have
    these fractional ranks ``[K]``."""
    shift = float(ranks.mean()) - 0.5
    if not of_coordinate:
        return "too narrow or misplaced" if shift < 0 else "too wide"
    # Both have the variance of a uniform variable if the posterior is right.
    width = float(central_values(ranks).mean()) - 0.5
    if abs(shift) >= abs(width):
        return "too low" if shift > 0 else "too high"
    return "too narrow" if width > 0 else "too wide"
