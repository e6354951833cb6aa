"""Hierarchical model: each dataset has its own parameters, ``theta_i ~ N(mu, diag(tau^2))``.

Draws of the posterior of each dataset under a prior ``pi`` replace its likelihood. Given the
population, draw s has the weight (Hogg, Myers and Bovy 2010)

    N(theta_is; mu, tau^2) / pi(theta_is),

whose mean over draws is the likelihood of the population, up to a constant. It can be computed for
any mu and tau without network evaluations. The chains alternate three moves (the two stages of Lunn
et al. 2013): a random walk in mu and tau with the members' parameters marginalized out, a draw of
these parameters given mu and tau, and a draw of mu and tau given the parameters.

The finite number of draws makes an error in the log likelihood of the population. What matters is
the error of its derivatives in mu and log tau, the means over a member's weighted draws of

    z / tau  and  z^2 - 1,    z = (theta - mu) / tau:

it moves the posterior of mu or log tau by the square root of the sum over members of the variances
of these means, times the posterior variance. So the error in posterior standard deviations does not
grow with the number of members.

The hyperprior of mu is normal with the mean and the standard deviation s that a member has under
the prior, and that of tau is half normal with scale s. With flat hyperpriors, parameters whose
posteriors reach a bound would have no proper posterior. The population is normal in the coordinates
used.
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
"""Smallest number of members of a population."""
LARGEST_NOISE = 0.3
"""Largest standard error of a population's means and log standard deviations that is due to the
finite number of draws per member, in posterior standard deviations.
"""
LARGEST_R_HAT = 1.01
STEP = 2.38
"""Step size of the random walk times the square root of the dimension (Roberts, Gelman and Gilks
1997).
"""


@dataclass(frozen=True)
class PopulationPlan:
    """Settings of the sampler of a hierarchical model.

    Attributes:
        chains: Number of chains, C.
        draws: Number of draws per chain, S.
        warmup: Number of steps before the first draw, during which the proposals are adapted.
        thin: Number of steps per draw.
        seed: Random seed.
    """

    chains: int = 4
    draws: int = 1000
    warmup: int = 500
    thin: int = 8
    seed: int = 0

    @property
    def steps(self) -> int:
        """Number of steps of each chain, including the warm-up."""
        return self.warmup + self.draws * self.thin


@dataclass(frozen=True)
class Population:
    """Posterior draws of a hierarchical model: population parameters and members.

    Attributes:
        mean: Population means ``mu [C, S, D]``.
        spread: Population standard deviations ``tau [C, S, D]``.
        members: Index ``[C, S, M]`` of the chosen draw of each of the M members.
        worth: Effective sample size ``[M]`` of each member's draws given the population, averaged
            over the draws of the population.
        noise: Largest standard error of a population parameter due to the finite number of draws
            per member, in its posterior standard deviations.
    """

    mean: Tensor
    spread: Tensor
    members: Tensor
    worth: Tensor
    noise: float

    @property
    def parameters(self) -> Tensor:
        """Draws ``[C, S, 2 D]`` of the population means, followed by log standard deviations."""
        return torch.cat([self.mean, self.spread.log()], dim=2)

    @property
    def r_hat(self) -> Tensor:
        """R-hat of each population parameter ``[2 D]``."""
        return convergence(self.parameters).r_hat

    @property
    def converged(self) -> bool:
        """Whether the chains agree, and the effective sample sizes of members are large enough."""
        return bool((self.r_hat <= LARGEST_R_HAT).all()) and self.noise <= LARGEST_NOISE

    @property
    def distribution(self) -> tuple[Tensor, Tensor]:
        """Mean ``[D]`` and standard deviation ``[D]`` of the parameters of a new member."""
        mean, spread = self.mean.flatten(0, 1), self.spread.flatten(0, 1)
        return mean.mean(dim=0), (mean.var(dim=0) + spread.square().mean(dim=0)).sqrt()

    def further(self, seed: int) -> Tensor:
        """Draw parameters ``[C, S, D]`` of a new member, one for each draw of the population.

        Args:
            seed: Random seed.
        """
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
    """Sample a hierarchical model, given posterior draws of each of its members.

    Args:
        draws: Posterior draws ``[M, N, D]`` of the M members, float64, on the CPU.
        log_prior: Log density ``[M, N]`` at the draws of the prior of these posteriors, in the same
            coordinates, up to a constant.
        center: Mean of a member under the prior ``[D]``.
        scale: Standard deviation of a member under the prior ``[D]``.
        plan: Settings of the sampler.
        on_step: Called with 1 after each step.

    Raises:
        DataError: There are too few members, or a value is not finite.
    """
    count = len(draws)
    if count < FEWEST_MEMBERS:
        raise DataError(
            f"there are {count} posteriors, but a hierarchical model needs at least "
            f"{FEWEST_MEMBERS}: give more observations"
        )
    if not ((scale > 0).all() and draws.isfinite().all() and log_prior.isfinite().all()):
        raise DataError(
            "a coordinate is constant under the prior, or a posterior draw has the prior density 0 "
            "or is not finite: check the prior and the draws"
        )
    walk = _Walk((draws - center) / scale, log_prior, plan)
    chosen = walk.run(on_step)
    return Population(
        center + scale * chosen.mean,
        scale * chosen.spread,
        chosen.members,
        chosen.worth,
        chosen.noise,
    )


@dataclass(frozen=True)
class _Weights:
    """Importance weights of N posterior draws of each of M members, given C populations.

    Attributes:
        relative: Weights ``[C, M, N]``, scaled so that the largest of each member is 1.
        log_likelihood: Log likelihoods of the populations, ``[C]``, up to a constant.
    """

    relative: Tensor
    log_likelihood: Tensor

    def picked(self, uniform: Tensor) -> Tensor:
        """Choose one draw of each member by weight; return the indices of the draws ``[C, M]``.

        Args:
            uniform: Uniform random numbers ``[C, M, 1]`` in [0, 1].
        """
        sums = self.relative.cumsum(dim=2)
        places = torch.searchsorted(sums, uniform.to(sums) * sums[..., -1:])[..., 0]
        return places.clamp(max=sums.shape[2] - 1)

    def worth(self) -> Tensor:
        """Return the effective sample size of each member's draws, ``[C, M]``."""
        sums, squares = (self.relative**power for power in (1, 2))
        return sums.sum(dim=2).square() / squares.sum(dim=2)


class _Walk:
    """Markov chains of the population means and log standard deviations, in units of the prior.

    Args:
        draws: Posterior draws ``[M, N, D]``.
        log_prior: Log densities of the prior ``[M, N]``.
        plan: Settings of the sampler.
    """

    def __init__(self, draws: Tensor, log_prior: Tensor, plan: PopulationPlan):
        self._draws, self._log_prior, self._plan = draws, log_prior.float(), plan
        # Weights are in single precision: their sampling error is far larger than rounding.
        features = torch.cat([draws.square(), draws], dim=2).float()
        self._features = features.flatten(0, 1).T.contiguous()
        self._generator = seeded_generator("cpu", plan.seed, Stream.CHAINS)

    def run(self, on_step: Callable[[float], object] | None) -> Population:
        """Run the chains, and return their draws after the warm-up.

        Args:
            on_step: Called with 1 after each step.
        """
        plan, (count, _, dim) = self._plan, self._draws.shape
        rows, start = torch.arange(count), self._draws.mean(dim=1)
        # Each chain starts from a different place.
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
        return Population(mean, spread, members, worth / plan.draws, self._error(states))

    def _error(self, states: Tensor) -> float:
        """Return the largest standard error of a population parameter; see the module.

        Args:
            states: States ``[C, S, 2 D]`` of the chains.
        """
        flat = states.flatten(0, 1)
        mean, spread = flat.mean(dim=0).chunk(2)
        spread = spread.exp()
        weights = self._weights(flat.mean(dim=0, keepdim=True))
        relative = weights.relative[0].double()
        relative = (relative / relative.sum(dim=1, keepdim=True))[..., None]
        z = (self._draws - mean) / spread
        scores = torch.cat([z / spread, z.square() - 1], dim=2)
        off = scores - (relative * scores).sum(dim=1, keepdim=True)
        variance = (relative * off).square().sum(dim=(0, 1))
        # One draw with all of the weight shows no variance: add that of a member without data.
        most = torch.cat([spread**-2, torch.full_like(spread, 2.0)])
        variance += most * weights.worth()[0].double().pow(-2).sum()
        return float((variance.sqrt() * flat.std(dim=0)).max())

    def _weights(self, state: Tensor) -> _Weights:
        """Return the weights of all draws under populations ``[C, 2 D]``."""
        mean, log_spread = state.chunk(2, dim=1)
        precision = (-2 * log_spread).exp()
        factors = torch.cat([-precision / 2, mean * precision], dim=1)
        shape = (len(state), *self._log_prior.shape)
        logits = (factors.float() @ self._features).view(shape) - self._log_prior
        highest = logits.amax(dim=2, keepdim=True)
        relative = (logits - highest).exp_()
        # Add the term that all draws have in common.
        common = (-mean.square() * precision / 2 - log_spread).sum(dim=1)
        sums = relative.sum(dim=2).double().log() + highest[..., 0].double()
        return _Weights(relative, sums.sum(dim=1) + shape[1] * common)

    def _walked(self, state: Tensor, root: Tensor) -> tuple[Tensor, _Weights]:
        """Take one step of the random walk with members marginalized out.

        Returns:
            The states after it ``[C, 2 D]``, and the weights under them.
        """
        size, dim = len(state), state.shape[1] // 2
        moved = state + STEP / (2 * dim) ** 0.5 * self._noise(*state.shape) @ root.T
        both = self._weights(torch.cat([state, moved]))
        states = torch.cat([state, moved])
        # A flat density of tau corresponds to a density exp(log tau) of its log.
        density = both.log_likelihood + _log_prior(states) + states[:, dim:].sum(dim=1)
        accepted = self._uniform(size).log() < density[size:] - density[:size]
        taken = torch.arange(size) + size * accepted
        return states[taken], _Weights(both.relative[taken], both.log_likelihood[taken])

    def _given_members(self, state: Tensor, members: Tensor) -> Tensor:
        """Draw populations ``[C, 2 D]`` given the parameters of members ``[C, M, D]``.

        Proposals under flat hyperpriors are accepted by the ratio of the hyperpriors.
        """
        moved = self._from_members(members)
        gain = _log_prior(moved) - _log_prior(state)
        return torch.where((self._uniform(len(state)).log() < gain)[:, None], moved, state)

    def _from_members(self, members: Tensor) -> Tensor:
        """Draw populations given the members under flat priors of mu and tau.

        Then ``tau^2`` is inverse gamma with shape ``(M - 2) / 2`` and half the sum of squares, and
        mu given tau is normal.
        """
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
    """Return the log hyperprior of states ``[C, 2 D]``, up to a constant.

    States are means and log standard deviations, in units of the prior.
    """
    mean, log_spread = state.chunk(2, dim=1)
    return -(mean.square() + (2 * log_spread).exp()).sum(dim=1) / 2


def _root_of(states: Tensor) -> Tensor:
    """Return a square root ``[2 D, 2 D]`` of the covariance of states ``[N, 2 D]``."""
    covariance = states.T.cov()
    ridge = 1e-6 * covariance.diagonal().mean()
    return torch.linalg.cholesky(covariance + ridge * torch.eye(len(covariance)).double())
