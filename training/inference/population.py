"""Hierarchical model: each dataset has its own parameters, ``theta_i ~ N(mu, diag(tau^2))``.

Draws of the posterior of each dataset under a prior ``pi`` replace its likelihood. Given the
population, draw s has the weight (Hogg, Myers and Bovy 2010)

    N(theta_is; mu, tau^2) / pi(theta_is),

whose mean over draws is the likelihood of the population, up to a constant. It can be computed for
any mu and tau without network evaluations.

Draws of mu and log tau are importance draws: proposals are Student's t around the mode, with the
curvature there, and then around the mean of the weighted proposals. A Pareto-smoothed tail shows
whether weights are reliable (Vehtari et al. 2024); R-hat is then about 1 in any case. Where they
are not, as for a few members with wide posteriors, Markov chains alternate three moves (the two
stages of Lunn et al. 2013): a random walk in mu and tau with the members' parameters marginalized
out, a draw of these parameters given mu and tau, and a draw of mu and tau given the parameters.

The finite number of draws makes an error in the log likelihood of the population. What matters is
the error of its derivatives in mu and log tau, the means over a member's weighted draws of

    z / tau  and  z^2 - 1,    z = (theta - mu) / tau:

it moves the posterior of mu or log tau by the square root of the sum over members of the variances
of these means, times the posterior variance. This error, in posterior standard deviations, does not
grow with the number of members M. The bias of the means, ``-sum_s w_s^2 (f_s - mean)`` for weights
w and a function f, has the same sign for all members, and moves the posterior by a number of
standard deviations that grows with the square root of M. Both are in the stated error.

The hyperprior of mu is normal with the mean and the standard deviation s that a member has under
the prior, and that of tau is half normal with scale s. With flat hyperpriors, parameters whose
posteriors reach a bound would have no proper posterior. The population is normal in the coordinates
used.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.seeds import normal_numbers, seeded_generator
from torch_utils.streams import Stream
from training.inference.draws import weighted_picks, z_order
from training.measure.posterior.convergence import convergence
from training.measure.posterior.importance import k_threshold, smoothed_weights

FEWEST_MEMBERS = 4
"""Smallest number of members of a population."""
LARGEST_NOISE = 0.3
"""Largest standard error of a population's means and log standard deviations that is due to the
finite number of draws per member, in posterior standard deviations.
"""
LARGEST_R_HAT = 1.01
FEWEST_PROPOSED, ROUNDS, FREEDOM = 1000, 3, 5
"""Importance sampling: minimum number of proposals, number of rounds, and degrees of freedom."""
LEAST_WORTH = 0.1
"""Smallest effective sample size of the proposals, as a fraction of their number."""
MOST_PICKED, FEWEST_KEPT = 2**20, 100
"""Maximum number of draws of all members in a result, and minimum number per chain, which takes
precedence.
"""
AT_ONCE = 2**23
"""Maximum number of weights that are computed at once."""
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
    members = _Members((draws - center) / scale, log_prior)
    chosen = _weighted(members, plan, on_step) or _Walk(members, plan).run(on_step)
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


class _Members:
    """Posterior draws of all members, and the likelihood of populations by their weights.

    Args:
        draws: Posterior draws ``[M, N, D]``, in units of the prior.
        log_prior: Log densities of the prior ``[M, N]``.

    Attributes:
        draws: Posterior draws ``[M, N, D]``.
    """

    def __init__(self, draws: Tensor, log_prior: Tensor):
        self.draws, self._log_prior = draws, log_prior.float()
        # Weights are in single precision: their sampling error is far larger than rounding.
        features = torch.cat([draws.square(), draws], dim=2).float()
        self._features = features.flatten(0, 1).T.contiguous()

    @property
    def at_once(self) -> int:
        """Number of populations that are weighted at once."""
        return max(1, AT_ONCE // self._log_prior.numel())

    def weights(self, state: Tensor) -> _Weights:
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

    def log_density(self, state: Tensor, log_likelihood: Tensor | None = None) -> Tensor:
        """Return the log density ``[C]`` of states, up to a constant.

        Args:
            state: Means and log standard deviations ``[C, 2 D]``.
            log_likelihood: Log likelihoods of the states ``[C]``, if they are known.
        """
        if log_likelihood is None:
            parts = [self.weights(part).log_likelihood for part in torch.split(state, self.at_once)]
            log_likelihood = torch.cat(parts)
        # A flat density of tau corresponds to a density exp(log tau) of its log.
        return log_likelihood + _log_prior(state) + state.chunk(2, dim=1)[1].sum(dim=1)

    def slope(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the log density ``[]`` of a state ``[2 D]``, and its gradient ``[2 D]``."""
        weights = self.weights(state[None])
        count = len(self.draws)
        share = weights.relative / weights.relative.sum(dim=2, keepdim=True)
        squares, sums = (self._features @ share.flatten()).double().chunk(2)
        mean, log_spread = state.chunk(2)
        variance = (2 * log_spread).exp()
        of_mean = (sums - count * mean) / variance - mean
        apart = squares - 2 * mean * sums + count * mean.square()
        of_spread = apart / variance - count - variance + 1
        density = self.log_density(state[None], weights.log_likelihood)[0]
        return density, torch.cat([of_mean, of_spread])

    def error(self, states: Tensor) -> float:
        """Return the largest standard error of a population parameter; see the module.

        Args:
            states: States ``[C, S, 2 D]`` of the chains.
        """
        flat = states.flatten(0, 1)
        mean, spread = flat.mean(dim=0).chunk(2)
        spread = spread.exp()
        weights = self.weights(flat.mean(dim=0, keepdim=True))
        relative = weights.relative[0].double()
        relative = (relative / relative.sum(dim=1, keepdim=True))[..., None]
        z = (self.draws - mean) / spread
        scores = torch.cat([z / spread, z.square() - 1], dim=2)
        off = scores - (relative * scores).sum(dim=1, keepdim=True)
        variance = (relative * off).square().sum(dim=(0, 1))
        # The bias of a weighted mean, to first order; those of members have one sign.
        variance += (relative.square() * off).sum(dim=(0, 1)).square()
        # One draw with all of the weight shows no variance: add that of a member without data.
        most = torch.cat([spread**-2, torch.full_like(spread, 2.0)])
        variance += most * weights.worth()[0].double().pow(-2).sum()
        return float((variance.sqrt() * flat.std(dim=0)).max())


def _weighted(
    members: _Members, plan: PopulationPlan, on_step: Callable[[float], object] | None
) -> Population | None:
    """Return importance draws of a population, or None if their weights are unreliable."""
    count, _, dim = members.draws.shape
    kept = min(plan.draws, max(FEWEST_KEPT, MOST_PICKED // (plan.chains * count)))
    size = max(FEWEST_PROPOSED, plan.chains * kept)
    generator = seeded_generator("cpu", plan.seed, Stream.CHAINS)
    center, root = _curvature(members)
    for turn in range(ROUNDS):
        normal = torch.randn(size, 2 * dim, generator=generator, dtype=torch.float64)
        chi = torch.randn(size, FREEDOM, generator=generator, dtype=torch.float64).square()
        stretched = normal * (FREEDOM / chi.sum(dim=1, keepdim=True)).sqrt()
        states = center + stretched @ root.T
        squares = stretched.square().sum(dim=1)
        proposed = -(FREEDOM + 2 * dim) / 2 * (squares / FREEDOM).log1p()
        smoothed = smoothed_weights((members.log_density(states) - proposed)[None])
        weights = smoothed.log_weights[0].exp()
        reliable = float(smoothed.k[0]) <= k_threshold(size)
        if reliable and float(smoothed.effective_size[0]) >= LEAST_WORTH * size:
            break
        if turn == ROUNDS - 1:
            return None
        center = weights @ states
        spread = (weights[:, None] * (states - center)).T @ (states - center)
        root = torch.linalg.cholesky(spread + 1e-9 * torch.eye(2 * dim).double())
    seeds, order = torch.tensor([plan.seed]), z_order(states[None])
    picks = weighted_picks(smoothed.log_weights, seeds, plan.chains * kept, order)[0]
    chosen, place = states[picks].view(plan.chains, kept, -1), picks.new_empty(0, count)
    worth = torch.zeros(count, dtype=torch.float64)
    for part in torch.split(chosen.flatten(0, 1), members.at_once):
        own = members.weights(part)
        uniform = torch.rand(len(part), count, 1, generator=generator, dtype=torch.float64)
        place = torch.cat([place, own.picked(uniform)])
        worth += own.worth().double().sum(dim=0)
        if on_step:
            on_step(plan.steps * len(part) / (plan.chains * kept))
    mean, spread = chosen[..., :dim], chosen[..., dim:].exp()
    picked = place.view(plan.chains, kept, count)
    error = members.error(chosen)
    return Population(mean, spread, picked, worth / (plan.chains * kept), error)


def _curvature(members: _Members) -> tuple[Tensor, Tensor]:
    """Return the mode ``[2 D]`` of the population's density, and a root of the covariance there."""
    from scipy.optimize import minimize  # slow to import

    centers = members.draws.mean(dim=1)
    start = torch.cat([centers.mean(dim=0), centers.std(dim=0).clamp_min(1e-6).log()])

    def downhill(state: np.ndarray) -> tuple[float, np.ndarray]:
        density, slope = members.slope(torch.from_numpy(state))
        return -float(density), -slope.numpy()

    found = torch.from_numpy(minimize(downhill, start.numpy(), jac=True, method="L-BFGS-B").x)
    size, step = len(found), 0.05
    ends = [found + side * step * axis for axis in torch.eye(size).double() for side in (1, -1)]
    slopes = torch.stack([members.slope(end)[1] for end in ends]).view(size, 2, size)
    hessian = (slopes[:, 1] - slopes[:, 0]) / (2 * step)
    values, axes = torch.linalg.eigh((hessian + hessian.T) / 2)
    # Where the density is not concave, as for a spread near 0, the prior's width is assumed.
    return found, axes * values.clamp_min(1.0).rsqrt()


class _Walk:
    """Markov chains of the population means and log standard deviations, in units of the prior.

    Args:
        members: Posterior draws of the members.
        plan: Settings of the sampler.
    """

    def __init__(self, members: _Members, plan: PopulationPlan):
        self._members, self._plan = members, plan
        self._generator = seeded_generator("cpu", plan.seed, Stream.CHAINS)

    def run(self, on_step: Callable[[float], object] | None) -> Population:
        """Run the chains, and return their draws after the warm-up.

        Args:
            on_step: Called with 1 after each step.
        """
        plan, draws = self._plan, self._members.draws
        (count, _, dim), start = draws.shape, draws.mean(dim=1)
        rows = torch.arange(count)
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
            state = self._given_members(state, draws[rows, picks])
            if on_step:
                on_step(1)
        states = torch.stack([each for each, _ in kept], dim=1)
        members = torch.stack([picks for _, picks in kept], dim=1)
        mean, spread = states[..., :dim], states[..., dim:].exp()
        return Population(mean, spread, members, worth / plan.draws, self._members.error(states))

    def _walked(self, state: Tensor, root: Tensor) -> tuple[Tensor, _Weights]:
        """Take one step of the random walk with members marginalized out.

        Returns:
            The states after it ``[C, 2 D]``, and the weights under them.
        """
        size, dim = len(state), state.shape[1] // 2
        moved = state + STEP / (2 * dim) ** 0.5 * self._noise(*state.shape) @ root.T
        states = torch.cat([state, moved])
        both = self._members.weights(states)
        density = self._members.log_density(states, both.log_likelihood)
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
