"""What samplers learn while they warm up: step sizes, and the shape of the posterior."""

import torch
from torch import Tensor


class DualAveraging:
    """Step sizes that bring the acceptance of each observation's chains to a target.

    Hoffman and Gelman 2014, section 3.2, with their constants.

    Args:
        step: The first step sizes ``[M]``.
        wanted: The acceptance to reach.
    """

    GAMMA, T0, KAPPA = 0.05, 10.0, 0.75

    def __init__(self, step: Tensor, wanted: float):
        self._wanted = wanted
        self.restart(step)

    def restart(self, step: Tensor) -> None:
        """Begins anew from these step sizes, as after a change of the metric."""
        self._mu = (10 * step).log()
        self._log_step, self._average = step.log(), torch.zeros_like(step)
        self._error, self._count = torch.zeros_like(step), 0

    @property
    def step(self) -> Tensor:
        """To be used while it adapts, ``[M]``."""
        return self._log_step.exp()

    @property
    def settled(self) -> Tensor:
        """To be used from then on, ``[M]``."""
        return self._average.exp() if self._count else self.step

    def update(self, acceptance: Tensor) -> None:
        """Takes the acceptance probabilities ``[M]`` of a step, mean over chains."""
        self._count += 1
        share = 1 / (self._count + self.T0)
        self._error = (1 - share) * self._error + share * (self._wanted - acceptance)
        self._log_step = self._mu - self._count**0.5 / self.GAMMA * self._error
        weight = self._count**-self.KAPPA
        self._average = weight * self._log_step + (1 - weight) * self._average


class Covariance:
    """The covariance of the variables of each observation, over chains and steps.

    Args:
        count: M.
        dim: The number of variables.
        device: Where they are.
    """

    def __init__(self, count: int, dim: int, device: torch.device):
        self._seen = 0
        self._sum = torch.zeros(count, dim, dtype=torch.float64, device=device)
        self._squares = torch.zeros(count, dim, dim, dtype=torch.float64, device=device)

    def add(self, w: Tensor) -> None:
        """Takes the chains ``[M, C, dim]`` of a step."""
        self._seen += w.shape[1]
        self._sum += w.sum(dim=1)
        self._squares += w.mT @ w

    def shrunk(self) -> Tensor:
        """``[M, dim, dim]``, drawn towards the identity, the prior's own, as if as many draws as
        there are dimensions had said so."""
        dim = self._sum.shape[1]
        mean = self._sum / max(self._seen, 1)
        covariance = self._squares / max(self._seen, 1) - mean[:, :, None] * mean[:, None, :]
        identity = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
        share = self._seen / (self._seen + dim)
        return share * covariance + (1 - share) * identity
