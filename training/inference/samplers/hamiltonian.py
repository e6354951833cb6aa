"""Hamiltonian Monte Carlo through the flow, and other Markov chains.

Markov chains: a kernel that is run for many observations at once, after a warm-up.

Elliptical slice sampling (Murray, Adams and MacKay 2010, figure 2) moves on an ellipse through the
state and a draw of the prior. An angle is drawn from a bracket that shrinks until the likelihood is
above a random level. There is nothing to tune.

Hamiltonian Monte Carlo through the flow (Neal 2011, section 5.3), with a dense metric.

With the potential ``U(w) = |w|^2 / 2 - log L(w)``, a mass matrix ``M = R R^T`` for each
observation, and the whitened momentum ``q = R^-1 p ~ N(0, I)``, the leapfrog step

    q <- q - (e/2) R^-1 dU/dw,    w <- w + e R^-T q,    q <- q - (e/2) R^-1 dU/dw,

is repeated a random number of times. In the warm-up, e is adapted by dual averaging and the mass
matrix is learned: for Gaussian likelihoods it is ``I + J^T A^T Sigma^-1 A J``, the Hessian of U
without second derivatives, averaged over the chains; for others the inverse covariance of draws.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from math import pi

import torch
from torch import Tensor

from training.inference.draws import Draws
from training.inference.noise import Noise
from training.inference.target import EvaluatedPoints, Target


@dataclass
class Chains:
    """Current states of C chains for each of M observations, in the order of observations.

    Attributes:
        w: Standard normal variables ``[M C, dim]``.
        evaluated: Points and log likelihoods of the variables.
        chains: Number of chains, C.
        gradient: Gradients of the log likelihoods ``[M C, dim]``, for kernels that use them.
    """

    w: Tensor
    evaluated: EvaluatedPoints
    chains: int
    gradient: Tensor | None = None

    @property
    def which(self) -> Tensor:
        """Index of the observation of each chain ``[M C]``."""
        return torch.arange(len(self.w), device=self.w.device) // self.chains

    def by_observation(self, values: Tensor) -> Tensor:
        """Reshape values ``[M C, ...]`` to ``[M, C, ...]``."""
        return values.view(-1, self.chains, *values.shape[1:])

    def metropolis(self, gain: Tensor, uniform: Tensor, other: "Chains") -> Tensor:
        """Accept or reject moves to other states by the Metropolis rule.

        Args:
            gain: Gains of the log density ``[M C]``.
            uniform: Uniform random numbers ``[M C]``.
            other: The proposed states.

        Returns:
            The acceptance probability of each observation ``[M]``, averaged over its chains.
        """
        gain = gain.nan_to_num(nan=-torch.inf)  # both densities are 0
        accepted = uniform.log() < gain
        mask = accepted[:, None]
        self.w = torch.where(mask, other.w, self.w)
        self.evaluated = EvaluatedPoints(
            torch.where(mask, other.evaluated.points, self.evaluated.points),
            torch.where(accepted, other.evaluated.log_likelihood, self.evaluated.log_likelihood),
        )
        if self.gradient is not None and other.gradient is not None:
            self.gradient = torch.where(mask, other.gradient, self.gradient)
        return self.by_observation(gain.exp().clamp_max(1)).mean(dim=1)


class Kernel(ABC):
    """Interface of Markov kernels, whose steps leave the posterior invariant.

    Args:
        target: The posteriors of M observations.
    """

    name: str

    def __init__(self, target: Target):
        self.target = target

    def start(self, w: Tensor, chains: int) -> Chains:
        """Return chains that start at variables ``[M C, dim]``.

        Args:
            w: Standard normal variables, in the order of observations.
            chains: Number of chains per observation, C.
        """
        which = torch.arange(len(w), device=w.device) // chains
        return Chains(w, self.target.evaluate(w, which), chains)

    @abstractmethod
    def step(self, state: Chains, noise: Noise, index: int) -> Tensor:
        """Move the chains, and return the acceptance probability of each observation ``[M]``."""

    def adapt(self, state: Chains, acceptance: Tensor, index: int, warmup: int) -> None:
        """Adapt the kernel after a step of the warm-up; by default do nothing.

        Args:
            state: State of the chains.
            acceptance: Acceptance probability of each observation ``[M]``.
            index: Index of the step.
            warmup: Number of steps of the warm-up.
        """
        return

    def settle(self) -> None:
        """End the warm-up and its adaptation; by default do nothing."""
        return

    def stats(self) -> dict[str, Tensor]:
        """Return statistics of the kernel by name, each ``[M]``."""
        return {}


def run_chains(
    kernel: Kernel,
    start: Tensor,
    noise: Noise,
    chains: int,
    warmup: int,
    draws: int,
    on_step: Callable[[], object] | None,
) -> Draws:
    """Run Markov chains: the warm-up, then the steps whose states are draws.

    Args:
        kernel: Markov kernel of the chains.
        start: Standard normal variables ``[M, C, dim]`` that chains start from.
        noise: Random numbers of the chains.
        chains: Number of chains, C.
        warmup: Number of steps before the first draw.
        draws: Number of draws per chain.
        on_step: Called after each step.
    """
    state = kernel.start(start.flatten(0, 1), chains)
    for index in range(warmup):
        kernel.adapt(state, kernel.step(state, noise, index), index, warmup)
        if on_step:
            on_step()
    kernel.settle()
    kept, accepted = [], torch.zeros(len(start), dtype=torch.float64, device=start.device)
    for index in range(warmup, warmup + draws):
        accepted += kernel.step(state, noise, index)
        kept.append((state.w, state.evaluated.points, state.evaluated.log_likelihood))
        if on_step:
            on_step()
    w, points, log_likelihood = (torch.stack(column, dim=1) for column in zip(*kept, strict=True))
    shape, calls = (len(start), chains, draws), kernel.target.calls / len(start)
    stats = {"acceptance": accepted.cpu() / draws, **kernel.stats()}
    return Draws.by(kernel.name, shape, w, points, log_likelihood, calls, stats)


MOST = 100
"""Limit on the times a bracket shrinks, after which a chain keeps its state: the bracket is then
about 1e-30 of the circle.
"""


class Elliptical(Kernel):
    """Kernel of elliptical slice sampling.

    A step runs until every chain has accepted a state. Chains that have accepted one wait for the
    other chains, without network evaluations.
    """

    name = "elliptical"

    def step(self, state: Chains, noise: Noise, index: int) -> Tensor:
        """Move each chain on its ellipse, and return the acceptance rates ``[M]``.

        The acceptance rate of a chain is the reciprocal of the number of angles tried.
        """
        nu = noise.normal(index, self.target.dim).flatten(0, 1)
        uniform = noise.uniform(index, MOST + 2).flatten(0, 1)
        which, start = state.which, state.w
        level = state.evaluated.log_likelihood + uniform[:, 0].log()
        angle = 2 * pi * uniform[:, 1]
        low, high = angle - 2 * pi, angle.clone()
        points, log_likelihood = (part.clone() for part in state.evaluated)
        w, active = start.clone(), torch.arange(len(start), device=start.device)
        shrinkings = torch.zeros_like(level)
        for trial in range(MOST):
            turn = angle[active, None]
            proposed = start[active] * turn.cos() + nu[active] * turn.sin()
            evaluated = self.target.evaluate(proposed, which[active])
            fits = evaluated.log_likelihood > level[active]
            done, active = active[fits], active[~fits]
            w[done], points[done] = proposed[fits], evaluated.points[fits]
            log_likelihood[done] = evaluated.log_likelihood[fits]
            if not len(active):
                break
            shrinkings[active] += 1
            below = angle[active] < 0
            low[active] = torch.where(below, angle[active], low[active])
            high[active] = torch.where(below, high[active], angle[active])
            width = high[active] - low[active]
            angle[active] = low[active] + width * uniform[active, trial + 2]
        state.w, state.evaluated = w, EvaluatedPoints(points, log_likelihood)
        return state.by_observation(1 / (1 + shrinkings)).mean(dim=1)


class DualAveraging:
    """Dual averaging of step sizes towards a target acceptance rate, for M observations.

    The method and its constants are those of Hoffman and Gelman 2014, section 3.2.

    Args:
        step: Initial step size of each observation's chains ``[M]``.
        wanted: Target acceptance rate.
    """

    GAMMA, T0, KAPPA = 0.05, 10.0, 0.75

    def __init__(self, step: Tensor, wanted: float):
        self._wanted = wanted
        self.restart(step)

    def restart(self, step: Tensor) -> None:
        """Restart from step sizes ``[M]``, for example after a change of the metric."""
        self._mu = (10 * step).log()
        self._log_step, self._average = step.log(), torch.zeros_like(step)
        self._error, self._count = torch.zeros_like(step), 0

    @property
    def step(self) -> Tensor:
        """Step sizes ``[M]`` to use during adaptation."""
        return self._log_step.exp()

    @property
    def settled(self) -> Tensor:
        """Step sizes ``[M]`` to use after adaptation."""
        return self._average.exp() if self._count else self.step

    def update(self, acceptance: Tensor) -> None:
        """Update step sizes with the mean acceptance probabilities ``[M]`` of a step's chains."""
        self._count += 1
        share = 1 / (self._count + self.T0)
        self._error = (1 - share) * self._error + share * (self._wanted - acceptance)
        self._log_step = self._mu - self._count**0.5 / self.GAMMA * self._error
        weight = self._count**-self.KAPPA
        self._average = weight * self._log_step + (1 - weight) * self._average


class Covariance:
    """Running covariance of each observation's variables, over chains and steps.

    Args:
        count: M, the number of observations.
        dim: Number of variables per point.
        device: Device of the variables.
    """

    def __init__(self, count: int, dim: int, device: torch.device):
        self._seen = 0
        self._sum = torch.zeros(count, dim, dtype=torch.float64, device=device)
        self._squares = torch.zeros(count, dim, dim, dtype=torch.float64, device=device)

    def add(self, w: Tensor) -> None:
        """Add the variables ``[M, C, dim]`` of all chains after a step."""
        self._seen += w.shape[1]
        self._sum += w.sum(dim=1)
        self._squares += w.mT @ w

    def shrunk(self) -> Tensor:
        """Return the covariances ``[M, dim, dim]``, shrunk towards the identity matrix.

        The identity is the covariance of the prior, and has the weight of ``dim`` draws.
        """
        dim = self._sum.shape[1]
        mean = self._sum / max(self._seen, 1)
        covariance = self._squares / max(self._seen, 1) - mean[:, :, None] * mean[:, None, :]
        identity = torch.eye(dim, dtype=covariance.dtype, device=covariance.device)
        share = self._seen / (self._seen + dim)
        return share * covariance + (1 - share) * identity


WANTED = 0.8
"""Target acceptance rate (Betancourt, Byrne and Girolami 2014)."""
FIRST = 0.2
MOST_LEAPS = 12
"""Largest number of leapfrog steps. The number is drawn uniformly from 1 to this, to avoid
resonance.
"""
METRIC_AT = (0.1, 0.3, 0.6)
"""Fractions of the warm-up after which the metric is estimated."""
MOST_SEEN = 512
"""Largest number of observed values with which the curvature is computed: each needs a gradient."""


class Hamiltonian(Kernel):
    """Kernel of Hamiltonian Monte Carlo, for differentiable likelihoods.

    Args:
        target: The posteriors.
        most_leaps: Largest number of leapfrog steps per step of a chain.
    """

    name = "hmc"

    def __init__(self, target: Target, most_leaps: int = MOST_LEAPS):
        super().__init__(target)
        self._most_leaps = most_leaps
        identity = torch.eye(target.dim, dtype=torch.float64, device=target.device)
        self._root = identity.expand(target.count, -1, -1)
        first = torch.full((target.count,), FIRST, dtype=torch.float64, device=target.device)
        self._steps, self._size = DualAveraging(first, WANTED), first
        self._covariance = Covariance(target.count, target.dim, target.device)

    def start(self, w: Tensor, chains: int) -> Chains:
        """Start chains at variables ``[M C, dim]``, with gradients.

        The metric is computed from the curvature, where the likelihood has one.
        """
        which = torch.arange(len(w), device=w.device) // chains
        evaluated, gradient = self.target.slope(w, which)
        state = Chains(w, evaluated, chains, gradient)
        if self._is_curved:
            self._learn_metric(state)
        return state

    def step(self, state: Chains, noise: Noise, index: int) -> Tensor:
        """Move chains by leapfrog steps, and return the acceptance probabilities ``[M]``."""
        q = noise.normal(index, self.target.dim)
        leaps = noise.shared_integer(index, self._most_leaps)
        size = self._size[:, None, None]
        before = self._energy(state, q)
        moved = state
        for _ in range(leaps):
            q = q + size / 2 * self._kick(moved)
            glide = torch.linalg.solve_triangular(self._root.mT, q.mT, upper=True).mT
            flat = (state.by_observation(moved.w) + size * glide).flatten(0, 1)
            evaluated, gradient = self.target.slope(flat, state.which)
            moved = Chains(flat, evaluated, state.chains, gradient)
            q = q + size / 2 * self._kick(moved)
        gain = before - self._energy(moved, q)
        return state.metropolis(gain, noise.uniform(index, 1).flatten(), moved)

    def adapt(self, state: Chains, acceptance: Tensor, index: int, warmup: int) -> None:
        """Adapt the step sizes after a step of the warm-up, and after some steps the metric.

        Args:
            state: State of the chains.
            acceptance: Acceptance probability of each observation ``[M]``.
            index: Index of the step.
            warmup: Number of steps of the warm-up.
        """
        self._steps.update(acceptance)
        self._covariance.add(state.by_observation(state.w))
        if index + 1 in [round(part * warmup) for part in METRIC_AT]:
            self._learn_metric(state)
            first = torch.full_like(self._size, 1 / self.target.dim**0.25)
            self._steps.restart(first)
        self._size = self._steps.step

    def settle(self) -> None:
        """Set the step sizes to their averages over the warm-up."""
        self._size = self._steps.settled

    def stats(self) -> dict[str, Tensor]:
        """Return the step size of each observation, as the statistic ``step_size [M]``."""
        return {"step_size": self._size.cpu()}

    @property
    def _is_curved(self) -> bool:
        """Whether the metric is computed from the curvature."""
        root = self.target.likelihood.curvature_root(self.target.prior.flow.basis.dim)
        return root is not None and len(root) <= MOST_SEEN

    def _learn_metric(self, state: Chains) -> None:
        identity = torch.eye(self.target.dim, dtype=torch.float64, device=self.target.device)
        curvature = None
        if self._is_curved:
            curvature = self.target.curvature(state.w, state.which)
        if curvature is not None:
            mass = identity + state.by_observation(curvature).mean(dim=1)
            self._root = torch.linalg.cholesky(mass)
        else:
            # M = C^-1 with C = L L^T is R R^T with R = L^-T.
            factor = torch.linalg.cholesky(self._covariance.shrunk())
            inverse = torch.linalg.solve_triangular(factor, identity, upper=False)
            # The Cholesky factor of M itself is lower triangular, as the solves require.
            self._root = torch.linalg.cholesky(inverse.mT @ inverse)
            self._covariance = Covariance(self.target.count, self.target.dim, self.target.device)

    def _kick(self, state: Chains) -> Tensor:
        """Return ``-R^-1 dU/dw [M, C, dim]``."""
        assert state.gradient is not None
        force = state.by_observation(state.gradient - state.w)
        return torch.linalg.solve_triangular(self._root, force.mT, upper=False).mT

    def _energy(self, state: Chains, q: Tensor) -> Tensor:
        """Return ``U + |q|^2 / 2 [M C]``."""
        potential = state.w.square().sum(dim=1) / 2 - state.evaluated.log_likelihood
        return potential + q.square().sum(dim=2).flatten() / 2
