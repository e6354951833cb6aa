"""Markov chains: a kernel, run for many observations at once, that first warms up."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

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

    def take(self, accepted: Tensor, other: "Chains") -> None:
        """Moves the accepted ones ``[M C]`` to where others are."""
        mask = accepted[:, None]
        self.w = torch.where(mask, other.w, self.w)
        self.evaluated = Evaluated(
            torch.where(mask, other.evaluated.points, self.evaluated.points),
            torch.where(accepted, other.evaluated.log_likelihood, self.evaluated.log_likelihood),
        )
        if self.gradient is not None and other.gradient is not None:
            self.gradient = torch.where(mask, other.gradient, self.gradient)


class Kernel(ABC):
    """A step of Markov chains that leaves the posterior as it is.

    Args:
        target: The posterior.
    """

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
    count = len(start)
    return Draws(
        w.view(count, chains, draws, -1),
        points.view(count, chains, draws, -1),
        log_likelihood.view(count, chains, draws),
        [kernel.name] * count,
        torch.full((count,), kernel.target.calls / count, dtype=torch.float64),
        {"acceptance": accepted.cpu() / (draws * thin), **kernel.stats()},
    )
