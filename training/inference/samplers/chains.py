"""Markov chains: a kernel, run for many observations at once, that first warms up.

In elliptical slice sampling (Murray, Adams and MacKay 2010, figure 2), on an ellipse through the
state and a draw of the prior, an angle is drawn from a bracket that shrinks until the likelihood is
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
from training.inference.target import Evaluated, Target


@dataclass
class Chains:
    """Where C chains of each of M observations are, observation by observation.

    Attributes:
        w: ``[M C, dim]``.
        evaluated: Points and log likelihoods there.
        chains: C.
        gradient: Of the log likelihoods ``[M C, dim]``, for kernels that follow it.
    """

    w: Tensor
    evaluated: Evaluated
    chains: int
    gradient: Tensor | None = None

    @property
    def which(self) -> Tensor:
        """The observation of each chain, ``[M C]``."""
        return torch.arange(len(self.w), device=self.w.device) // self.chains

    def by_observation(self, values: Tensor) -> Tensor:
        """``[M C, ...]`` as ``[M, C, ...]``."""
        return values.view(-1, self.chains, *values.shape[1:])

    def metropolis(self, gain: Tensor, uniform: Tensor, other: "Chains") -> Tensor:
        """Moves those that are accepted to where others are, by gains of the log density ``[M C]``
        and even numbers ``[M C]``; returns the acceptance probability of each observation."""
        gain = gain.nan_to_num(nan=-torch.inf)  # from nowhere to nowhere
        accepted = uniform.log() < gain
        mask = accepted[:, None]
        self.w = torch.where(mask, other.w, self.w)
        self.evaluated = Evaluated(
            torch.where(mask, other.evaluated.points, self.evaluated.points),
            torch.where(accepted, other.evaluated.log_likelihood, self.evaluated.log_likelihood),
        )
        if self.gradient is not None and other.gradient is not None:
            self.gradient = torch.where(mask, other.gradient, self.gradient)
        return self.by_observation(gain.exp().clamp_max(1)).mean(dim=1)


class Kernel(ABC):
    """A step of Markov chains that leaves the posterior as it is."""

    name: str

    def __init__(self, target: Target):
        self.target = target

    def start(self, w: Tensor, chains: int) -> Chains:
        """Chains at variables ``[M C, dim]``."""
        which = torch.arange(len(w), device=w.device) // chains
        return Chains(w, self.target.evaluate(w, which), chains)

    @abstractmethod
    def step(self, state: Chains, noise: Noise, index: int) -> Tensor:
        """Moves the chains; returns the acceptance probability of each observation ``[M]``."""

    def adapt(self, state: Chains, acceptance: Tensor, index: int, warmup: int) -> None:
        """Learns from a step of the warm-up, which is so long; without this nothing is learned."""
        return

    def settle(self) -> None:
        """Ends the warm-up."""
        return

    def stats(self) -> dict[str, Tensor]:
        """What it says of each observation."""
        return {}


def run_chains(
    kernel: Kernel,
    start: Tensor,
    noise: Noise,
    chains: int,
    warmup: int,
    draws: int,
    thin: int = 1,
    on_step: Callable[[], object] | None = None,
) -> Draws:
    """Warms up, and draws.

    Args:
        kernel: The step.
        start: Variables ``[M, C, dim]``.
        noise: Random numbers of the chains.
        chains: C.
        warmup: Steps before the first draw.
        draws: Draws of each chain.
        thin: Steps for each draw.
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
"""Shrinkings of a bracket, after which a chain stays where it is: the bracket is then a 1e-30th."""


class Elliptical(Kernel):
    """A step is one sweep of the bracket; chains that are done wait for the others, at no cost."""

    name = "elliptical"

    def step(self, state: Chains, noise: Noise, index: int) -> Tensor:
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
        state.w, state.evaluated = w, Evaluated(points, log_likelihood)
        return state.by_observation(1 / (1 + shrinkings)).mean(dim=1)
