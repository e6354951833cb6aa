"""Comparison of models with data (posterior predictive checks), and with each other (evidence).

Bayesian model comparison: posterior probabilities of models from their evidence.

The evidence of a model is the mean of its likelihood over its prior, Z_k. With prior probabilities
``pi_k`` of the models,

    p_k = pi_k Z_k / sum_j pi_j Z_j,        dp_k = p_k sum_j (delta_kj - p_j) dlog Z_j,

so that independent errors of log Z propagate to p (to first order). ``Z_j / Z_k`` is the Bayes
factor (Kass and Raftery 1995).

Posterior predictive checks: does a model that explains data also generate such data?

Data ``y_s`` are simulated from posterior draws. Numbers of the observation (its parts and functions
of it) are ranked among those of the simulated data (Rubin 1984; Gelman, Meng and Stern 1996):

    p = 2 min(u, 1 - u),    u = (#{y_s < y} + U (#{y_s = y} + 1)) / (S + 1),  U uniform.

A small p-value shows that the *model* is wrong, prior or simulator, however right the posterior is.
Since the posterior depends on the observation, ranks of a right model are nearer to 1/2 than
uniform ones: a test fails less often than its level, and detects less.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from training.measure.posterior.calibration import NAMED_FAILURES, SEEN, fractional_ranks, holm


def model_probabilities(evidence: Tensor, error: Tensor, prior: Tensor) -> tuple[Tensor, Tensor]:
    """Return posterior probabilities of models from their evidence, with errors, both ``[M, K]``.

    The probabilities of an observation sum to 1. Standard errors are those of sampling alone.

    Args:
        evidence: Log evidence ``log Z [M, K]``, nats.
        error: Standard errors of the log evidence ``[M, K]``.
        prior: Prior probabilities ``pi [K]``, positive, up to a constant.

    Example:
        >>> import torch
        >>> evidence, error = torch.tensor([[0.0, 1.0]]), torch.zeros(1, 2)
        >>> probability, _ = model_probabilities(evidence, error, torch.ones(2))
        >>> round(float(probability[0, 1]), 3)
        0.731
    """
    value = (evidence + prior.log()).softmax(dim=1)
    identity = torch.eye(evidence.shape[1], dtype=value.dtype, device=value.device)
    slopes = value[:, :, None] * (identity - value[:, None, :])
    return value, (slopes * error[:, None, :]).norm(dim=2)


ENDS = (0.05, 0.5, 0.95)
"""Levels of the quantiles of simulated data in a summary."""


def needed(tests: int, level: float) -> int:
    """Return the smallest number of simulations with which a posterior predictive check can fail.

    With this number, an observation beyond all simulations is certain to fail.

    Args:
        tests: Number of tested values.
        level: Level of all tests together.
    """
    return ceil(2 * tests / level)


@dataclass(frozen=True, eq=False)
class Predictive:
    """Posterior predictive check of M observations, each with Q tested numbers.

    Attributes:
        names: Names of the tested numbers ``[Q]``.
        observed: Observed numbers ``[M, Q]``.
        ranks: Fractional ranks ``[M, Q]`` among simulated data, from 0 to 1.
        quantiles: Quantiles of simulated data ``[M, Q, 3]``, at the levels ``ENDS``.
        draws: Number of simulations per observation, S.
        level: Tests with adjusted p-values below this fail.
    """

    names: Sequence[str]
    observed: Tensor
    ranks: Tensor
    quantiles: Tensor
    draws: int
    level: float

    @classmethod
    def from_simulations(
        cls,
        simulated: Tensor,
        observed: Tensor,
        names: Sequence[str],
        level: float,
        generator: torch.Generator,
    ) -> "Predictive":
        """Compare observations with data simulated from their posteriors.

        Args:
            simulated: Numbers of simulated data ``[M, S, Q]``.
            observed: Numbers of the observations ``[M, Q]``.
            names: Names of the Q numbers.
            level: Tests with adjusted p-values below this level fail.
            generator: Random generator on the CPU.

        Raises:
            DataError: Shapes are wrong, or a value is NaN.
        """
        ranks = fractional_ranks(simulated, observed, generator)
        levels = torch.tensor(ENDS, dtype=simulated.dtype)
        quantiles = torch.quantile(simulated, levels, dim=1).movedim(0, -1)
        return cls(names, observed, ranks, quantiles, simulated.shape[1], level)

    @property
    def p_values(self) -> Tensor:
        """Two-sided p-values ``[M, Q]``."""
        return 2 * torch.minimum(self.ranks, 1 - self.ranks)

    @property
    def adjusted(self) -> dict[str, float]:
        """P-values of all tests by name, adjusted for the number of tests."""
        return holm(
            {
                f"{name} of observation {row + 1}": float(self.p_values[row, place])
                for row in range(len(self.observed))
                for place, name in enumerate(self.names)
            }
        )

    @property
    def failed(self) -> list[str]:
        """Names of the tests that fail, the smallest p-value first."""
        adjusted = self.adjusted
        names = sorted(adjusted, key=adjusted.__getitem__)
        return [name for name in names if adjusted[name] < self.level]

    @property
    def detectable(self) -> float:
        """Shift of the data that the check detects in 90 % of cases, in standard deviations.

        Simulated data are taken as normal.
        """
        tail = self.level / self.p_values.numel() / 2
        return NormalDist().inv_cdf(1 - tail) + NormalDist().inv_cdf(SEEN)

    @property
    def verdict(self) -> str:
        """Summary as text: the tests that fail, or how large an error would have been detected."""
        tests, failed = self.p_values.numel(), self.failed
        many = f"{tests} tested values" if tests > 1 else "one tested value"
        size = (
            f"A deviation of {self.detectable:.1f} standard deviations is detected in "
            f"{100 * SEEN:.0f} % of cases."
        )
        if not failed and self.draws < needed(tests, self.level):
            return (
                f"Too few simulations: {many} at level {self.level:g} need "
                f"{needed(tests, self.level):,} per observation, but there are "
                f"{self.draws:,}"
            )
        if not failed:
            return f"The model reproduces the observations in {many}. {size}"
        listed = ", ".join(
            f"{name} (p = {self.adjusted[name]:.2g})" for name in failed[:NAMED_FAILURES]
        )
        more = f" and {len(failed) - NAMED_FAILURES} more" if len(failed) > NAMED_FAILURES else ""
        return f"The model does not reproduce the observations: {listed}{more}, of {many}."

    def summary(self) -> dict[str, Any]:
        """Return the results as plain numbers and lists for a JSON file."""
        return {
            "verdict": self.verdict,
            "passed": not self.failed,
            "detectable": self.detectable,
            "level": self.level,
            "numbers": list(self.names),
            "simulations": self.draws,
            "adjusted_p_values": self.adjusted,
            "observations": [
                {
                    name: {
                        "observed": float(self.observed[row, place]),
                        "rank": float(self.ranks[row, place]),
                        "p_value": float(self.p_values[row, place]),
                        "quantiles": self.quantiles[row, place].tolist(),
                    }
                    for place, name in enumerate(self.names)
                }
                for row in range(len(self.observed))
            ],
        }
