"""Simple likelihood, complex posterior (T.3), and the same among distractors (T.4).

    theta ~ U(-3, 3), five dimensions; data are four points ~ N(m, S) with m = (theta1, theta2),
    S = [[s1², rho s1 s2], [rho s1 s2, s2²]], s1 = theta3², s2 = theta4², rho = tanh(theta5).

With distractors, 92 numbers that know nothing of theta stand between the eight: a draw of a mixture
of 20 multivariate t laws with 2 degrees of freedom. Its weights, centres and scales and the order
of the numbers are data of the wheel.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student_t

from benchmarks.simulators.priors import Uniform
from benchmarks.simulators.task import Task
from benchmarks.simulators.wheel import Wheel

POINTS = 4


class Slcp(Task):
    """Four points with a common mean and covariance."""

    name = "slcp"
    data_dim = 2 * POINTS
    trials = POINTS

    def __init__(self) -> None:
        self.prior = Uniform(-3, 3, 5)

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        std, rho = theta[:, 2:4] ** 2, np.tanh(theta[:, 4:])
        one, other = draw.normal(size=(2, len(theta), POINTS))
        other = rho * one + np.sqrt(1 - rho**2) * other
        points = theta[:, None, :2] + std[:, None] * np.stack([one, other], axis=2)
        return points.reshape(len(theta), -1)

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        points = data.reshape(len(data), POINTS, 2)
        std, rho = theta[:, None, 2:4] ** 2, np.tanh(theta[:, 4])
        one, other = np.moveaxis((points - theta[:, None, :2]) / std, 2, 0)
        square = one**2 - 2 * rho[:, None] * one * other + other**2
        # 1 - tanh² by the cosh, which does not lose digits near 1.
        rest = np.cosh(theta[:, 4]) ** -2
        log_root = np.log(std[:, 0]).sum(axis=1) + np.log(rest) / 2
        return -square.sum(axis=1) / (2 * rest) - POINTS * log_root


@dataclass(frozen=True)
class Distractors:
    """What stands between the data that know of theta.

    Attributes:
        weights: Of the K laws, ``[K]``.
        freedom: Their degrees of freedom, ``[K]``.
        centres: ``[K, 92]``.
        scales: Lower triangular roots of their scales, ``[K, 92, 92]``.
        order: Which of the numbers, those that know of theta first, stands at each place ``[100]``.
    """

    weights: np.ndarray
    freedom: np.ndarray
    centres: np.ndarray
    scales: np.ndarray
    order: np.ndarray

    def sample(self, count: int, draw: np.random.Generator) -> np.ndarray:
        """``[count, 92]``."""
        which = draw.choice(len(self.weights), count, p=self.weights / self.weights.sum())
        noise = draw.normal(size=(count, self.centres.shape[1]))
        noise /= np.sqrt(draw.chisquare(self.freedom[which]) / self.freedom[which])[:, None]
        found = self.centres[which]
        for distribution in range(len(self.weights)):
            found[which == distribution] += (
                noise[which == distribution] @ self.scales[distribution].T
            )
        return found

    def log_marginals(self, numbers: np.ndarray) -> np.ndarray:
        """Logs ``[N]`` of the density of numbers ``[N, 92]``, as if they were independent in a law.

        Their real density is of no use: the roots are so near singular that it depends on more
        digits than the observations have.
        """
        logs = []
        for weight, freedom, centre, root in zip(
            self.weights, self.freedom, self.centres, self.scales, strict=True
        ):
            each = student_t.logpdf(numbers, freedom, centre, np.sqrt((root**2).sum(axis=1)))
            logs.append(np.log(weight) + each.sum(axis=1))
        return np.logaddexp.reduce(logs)


class SlcpDistractors(Slcp):
    """The same eight numbers among 92 others."""

    name, files, observed = "slcp_distractors", "slcp", "observation_distractors"
    data_dim, trials = 100, 1

    def __init__(self, distractors: Distractors):
        super().__init__()
        self.distractors = distractors

    @classmethod
    def of_wheel(cls, wheel: Wheel) -> "SlcpDistractors":
        """With the constants in ``gmm.torch`` and ``permutation_idx.torch``."""
        mixture = wheel.mixture_of_t()
        return cls(Distractors(**mixture, order=wheel.tensor("slcp", "permutation_idx.torch")))

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        told = super().simulate(theta, draw)
        numbers = np.concatenate([told, self.distractors.sample(len(theta), draw)], axis=1)
        return numbers[:, self.distractors.order]

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        return super().log_likelihood(theta, self._sorted(data)[:, : Slcp.data_dim])

    def ranked(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        """Of the distractors alone: the other numbers are those of slcp."""
        return self.distractors.log_marginals(self._sorted(data)[:, Slcp.data_dim :])

    def _sorted(self, data: np.ndarray) -> np.ndarray:
        """Data ``[N, 100]`` with those first that know of theta."""
        return data[:, np.argsort(self.distractors.order)]
