"""Markov chains: a kernel that is run for many observations at once, after a warm-up.

Elliptical slice sampling (Murray, Adams and MacKay 2010, figure 2) moves on an ellipse through the
state and a draw of the prior. An angle is drawn from a bracket that shrinks until the likelihood is
above a random level. There is nothing to tune.
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
    thin: int,
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
        thin: Number of steps per draw.
        on_step: Called after each step.
    """
    state = kernel.start(start.flatten(0, 1), chains)
    for index in range(warmup):
        kernel.adapt(state, kernel.step(state, noise, index), index, warmup)
        if on_step:
            on_step()
    kernel.settle()
    kept, accepted = [], torch.zeros(len(start), dtype=torch.float64, device=start.device)
    for index in range(warmup, warmup + draws * thin):
        accepted += kernel.step(state, noise, index)
        if (index - warmup + 1) % thin == 0:
            kept.append((state.w, state.evaluated.points, state.evaluated.log_likelihood))
        if on_step:
            on_step()
    w, points, log_likelihood = (torch.stack(column, dim=1) for column in zip(*kept, strict=True))
    shape, calls = (len(start), chains, draws), kernel.target.calls / len(start)
    stats = {"acceptance": accepted.cpu() / (draws * thin), **kernel.stats()}
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
