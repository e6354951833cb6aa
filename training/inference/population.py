"""Datasets of one population: each has parameters of its own, ``theta_i ~ N(mu, diag(tau^2))``.

Draws of the posterior of each dataset, under a prior ``pi``, stand for its likelihood. Given the
population, draw s has the weight (Hogg, Myers and Bovy 2010)

    N(theta_is; mu, tau^2) / pi(theta_is),

whose mean over draws is the likelihood of the population, up to a constant. That is known for any
mu and tau without a call of a network, so chains walk in both with the parameters summed out, draw
these given both, and both given these, in turns (the two stages of Lunn et al. 2013).

Before any member is known, mu is normal with the mean and the standard deviation s that a member
has under the prior, and tau is half normal with this s. With flat priors there would be no
posterior at all of parameters that may be as near to a bound as can be. Coordinates are those in
which the population is normal.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.seeds import normal_numbers, seeded_generator
from torch_utils.streams import Stream
from training.measure.posterior.convergence import convergence

FEWEST_MEMBERS = 4
"""Of a population."""
LARGEST_NOISE = 0.3
"""Largest error of the log likelihood of a population from few draws of its members, in nats: its
mean and standard deviation may then be off by about as many of their posterior standard
deviations."""
LARGEST_R_HAT = 1.01
STEP = 2.38
"""Of a random walk, times the root of the number of dimensions: Roberts, Gelman and Gilks 1997."""


@dataclass(frozen=True)
class PopulationPlan:
    """How to sample.

    Attributes:
        chains: C.
        draws: S, of each chain.
        warmup: Steps of a chain before its first draw, from which its moves are learned.
        thin: Steps for each draw.
        seed: Of all draws.
    """

    chains: int = 4
    draws: int = 1000
    warmup: int = 500
    thin: int = 8
    seed: int = 0

    @property
    def steps(self) -> int:
        """Of each chain, those of the warm-up among them."""
        return self.warmup + self.draws * self.thin


@dataclass(frozen=True)
class Population:
    """Draws of a population and its members.

    Attributes:
        mean: Population means ``mu [C, S, D]``.
        spread: Population standard deviations ``tau [C, S, D]``.
        members: Which of its draws each member has, ``[C, S, M]``.
        worth: Effective sample size of the draws of each member given the population, the mean over
            populations ``[M]``.
    """

    mean: Tensor
    spread: Tensor
    members: Tensor
    worth: Tensor

    @property
    def parameters(self) -> Tensor:
        """Population means and logs of population standard deviations, ``[C, S, 2 D]``."""
        return torch.cat([self.mean, self.spread.log()], dim=2)

    @property
    def r_hat(self) -> Tensor:
        """Of each of these, ``[2 D]``."""
        return convergence(self.parameters).r_hat

    @property
    def converged(self) -> bool:
        """Whether chains agree, and effective sample sizes of the members are large enough."""
        return bool((self.r_hat <= LARGEST_R_HAT).all()) and self.noise <= LARGEST_NOISE

    @property
    def noise(self) -> float:
        """Nats by which the log likelihood of a population errs: the mean of weights that are worth
        n draws has a relative error of ``n^(-1/2)``, and those of all members add up."""
        return float((1 / self.worth).sum().sqrt())

    @property
    def law(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[D]`` of a new member."""
        mean, spread = self.mean.flatten(0, 1), self.spread.flatten(0, 1)
        return mean.mean(dim=0), (mean.var(dim=0) + spread.square().mean(dim=0)).sqrt()

    def further(self, seed: int) -> Tensor:
        """Return parameters of a new member, one for each draw of the population, ``[C, S, D]``."""
        return self.mean + self.spread * normal_numbers(
            self.mean.shape, seed, Stream.POSTERIOR_DRAWS
        )


def sample_population(
    draws: Tensor,
    log_prior: Tensor,
    center: Tensor,
    scale: Tensor,
    plan: PopulationPlan,
    on_step: Callable[[float], object] | None = None,
) -> Population:
    """Draws of a population, given draws of the posterior of each of its members.

    Args:
        draws: ``[M, N, D]``, float64, on the CPU.
        log_prior: Log density of the prior that they were drawn under, ``[M, N]``, in the same
            coordinates, up to a constant.
        center: Mean of a member under the prior ``[D]``.
        scale: Its standard deviation ``[D]``.
        plan: How to sample.
        on_step: Called with 1 after each step.

    Raises:
        DataError: There are too few members, or a number is not finite.
    """
    count = len(draws)
    if count < FEWEST_MEMBERS:
        raise DataError(
            f"there are {count} posteriors: a population needs at least {FEWEST_MEMBERS}"
        )
    if not ((scale > 0).all() and draws.isfinite().all() and log_prior.isfinite().all()):
        raise DataError(
            "a coordinate does not vary under the prior, or a draw has no density there"
        )
    walk = _Walk((draws - center) / scale, log_prior, plan)
    chosen = walk.run(on_step)
    return Population(
        center + scale * chosen.mean, scale * chosen.spread, chosen.members, chosen.worth
    )


@dataclass(frozen=True)
class _Weights:
    """Of all draws under populations.

    Attributes:
        relative: ``[C, M, N]``, of which the largest of each member is 1.
        log_likelihood: Of the populations, ``[C]``, up to a constant.
    """

    relative: Tensor
    log_likelihood: Tensor

    def picked(self, uniform: Tensor) -> Tensor:
        """One draw for each member ``[C, M]``, by even numbers ``[C, M, 1]`` between 0 and 1."""
        sums = self.relative.cumsum(dim=2)
        places = torch.searchsorted(sums, uniform.to(sums) * sums[..., -1:])[..., 0]
        return places.clamp(max=sums.shape[2] - 1)

    def worth(self) -> Tensor:
        """How many independent draws those of each member are worth, ``[C, M]``."""
        sums, squares = (self.relative**power for power in (1, 2))
        return sums.sum(dim=2).square() / squares.sum(dim=2)


class _Walk:
    """Chains in mean and log spread, both in units of the prior.

    Args:
        draws: ``[M, N, D]``.
        log_prior: ``[M, N]``.
        plan: How to sample.
    """

    def __init__(self, draws: Tensor, log_prior: Tensor, plan: PopulationPlan):
        self._draws, self._log_prior, self._plan = draws, log_prior.float(), plan
        # Weights of draws, whose chance error is far larger, are in single precision.
        features = torch.cat([draws.square(), draws], dim=2).float()
        self._features = features.flatten(0, 1).T.contiguous()
        self._generator = seeded_generator("cpu", plan.seed, Stream.CHAINS)

    def run(self, on_step: Callable[[float], object] | None) -> Population:
        """The chains after their warm-up."""
        plan, (count, _, dim) = self._plan, self._draws.shape
        rows, start = torch.arange(count), self._draws.mean(dim=1)
        # Each chain starts from another place.
        state = self._from_members(start + self._noise(plan.chains, count, dim) / 4)
        past, root = [state], torch.eye(2 * dim, dtype=torch.float64) / 10
        kept: list[tuple[Tensor, Tensor]] = []
        worth = torch.zeros(count, dtype=torch.float64)
        for step in range(plan.steps):
            state, weights = self._walked(state, root)
            picks = weights.picked(self._uniform(plan.chains, count, 1))
            if step < plan.warmup:
                past.append(state)
                if step % 50 == 49:
                    root = _root_of(torch.cat(past[len(past) // 2 :]))
            elif (step - plan.warmup) % plan.thin == plan.thin - 1:
                kept.append((state, picks))
                worth += weights.worth().mean(dim=0)
            state = self._given_members(state, self._draws[rows, picks])
            if on_step:
                on_step(1)
        states = torch.stack([each for each, _ in kept], dim=1)
        members = torch.stack([picks for _, picks in kept], dim=1)
        mean, spread = states[..., :dim], states[..., dim:].exp()
        return Population(mean, spread, members, worth / plan.draws)

    def _weights(self, state: Tensor) -> _Weights:
        """Of populations ``[C, 2 D]``."""
        mean, log_spread = state.chunk(2, dim=1)
        precision = (-2 * log_spread).exp()
        factors = torch.cat([-precision / 2, mean * precision], dim=1)
        shape = (len(state), *self._log_prior.shape)
        logits = (factors.float() @ self._features).view(shape) - self._log_prior
        highest = logits.amax(dim=2, keepdim=True)
        relative = (logits - highest).exp_()
        # What all draws have in common.
        common = (-mean.square() * precision / 2 - log_spread).sum(dim=1)
        sums = relative.sum(dim=2).double().log() + highest[..., 0].double()
        return _Weights(relative, sums.sum(dim=1) + shape[1] * common)

    def _walked(self, state: Tensor, root: Tensor) -> tuple[Tensor, _Weights]:
        """One step of a random walk with members summed out, and the weights after it."""
        size, dim = len(state), state.shape[1] // 2
        moved = state + STEP / (2 * dim) ** 0.5 * self._noise(*state.shape) @ root.T
        both = self._weights(torch.cat([state, moved]))
        states = torch.cat([state, moved])
        # A flat density of tau is exp(log tau) of its log.
        density = both.log_likelihood + _log_prior(states) + states[:, dim:].sum(dim=1)
        accepted = self._uniform(size).log() < density[size:] - density[:size]
        taken = torch.arange(size) + size * accepted
        return states[taken], _Weights(both.relative[taken], both.log_likelihood[taken])

    def _given_members(self, state: Tensor, members: Tensor) -> Tensor:
        """Populations ``[C, 2 D]`` given the parameters of members ``[C, M, D]``: those of flat
        priors, taken with the chance that the priors give them."""
        moved = self._from_members(members)
        gain = _log_prior(moved) - _log_prior(state)
        return torch.where((self._uniform(len(state)).log() < gain)[:, None], moved, state)

    def _from_members(self, members: Tensor) -> Tensor:
        """The same with flat priors of mu and tau: ``tau^2`` is inverse gamma of ``(M - 2) / 2``
        and half of the squares, and mu is normal given that."""
        count = members.shape[1]
        mean = members.mean(dim=1)
        squares = (members - mean[:, None]).square().sum(dim=1)
        chi = self._noise(*mean.shape, count - 2).square().sum(dim=2)
        variance = squares.clamp(min=1e-12) / chi
        moved = mean + (variance / count).sqrt() * self._noise(*mean.shape)
        return torch.cat([moved, variance.log() / 2], dim=1)

    def _noise(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self._generator, dtype=torch.float64)


def _log_prior(state: Tensor) -> Tensor:
    """Of means and spreads ``[C, 2 D]``, in units of the prior, up to a constant."""
    mean, log_spread = state.chunk(2, dim=1)
    return -(mean.square() + (2 * log_spread).exp()).sum(dim=1) / 2


def _root_of(states: Tensor) -> Tensor:
    """A root ``[2 D, 2 D]`` of the covariance of states ``[N, 2 D]``."""
    covariance = states.T.cov()
    ridge = 1e-6 * covariance.diagonal().mean()
    return torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)).double())
