"""Annealed importance sampling of narrow posteriors, with the flow's density in the weights.

In standard normal variables a narrow posterior is a thin and curved sheet. In eigenspace at the
first time, where points are observed, it is flat: Gaussian observations are linear there, or nearly
so (``lookahead.LinearObservation``). Draws are therefore proposed among those states z, in standard
deviations of the prior, and each is integrated to its latent, which also gives the prior's density
``p(z)``.

A population starts from its own share of a pool of prior draws, weighted by ``L(z)^b`` with the
largest exponent b that keeps a minimum effective sample size. In each round a mixture is fitted to
its weighted draws, and extrapolated to the exponent ``b' = min(64 b, 1)``: where L is Gaussian,
``L^(b' - b)`` is a Gaussian with its noise variances divided by b' - b, and the mixture conditioned
on it is a mixture in closed form. Draws of that mixture, a part of them from components three times
as wide, are weighted together with those of all T rounds so far, as if each came from the mixture
of all proposals (the balance heuristic; Veach and Guibas 1995),

    v(z) = p(z) L(z)^b / (n_1 q_1(z) + ... + n_T q_T(z)),

and b rises to the largest exponent that keeps the effective sample size (annealed population Monte
Carlo; Cappe, Douc, Guillin, Marin and Robert 2008). The density of a proposal is too large at the
draws it was fitted to, so that weights which include these draws would make posteriors too narrow,
by 2 % in eight dimensions. Only fresh draws of the last proposal, fitted at b = 1, are therefore
kept, with weights ``p L / q``; for all others, densities are integrated with half as many steps.
The populations are independent, and each becomes a chain, so that R-hat compares them.

For a deblurred prior, the further variables are drawn given z and the observation (``place``).
"""

from math import ceil, log

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from torch_utils.seeds import hash_seed, uniform_numbers
from torch_utils.streams import Stream
from training.inference.draws import (
    Draws,
    OnPart,
    evidence_of,
    largest_exponent,
    require_some,
    systematic,
    tempered,
    weighted_picks,
    z_order,
)
from training.inference.lookahead import LinearObservation, why_not_linear
from training.inference.proposals import COMPONENTS, Proposal
from training.inference.samplers.pool import TINY, Pool
from training.inference.summary import ERRORS, STD_OFF
from training.inference.target import EvaluatedStates, Target
from training.measure.posterior.importance import effective_size, log_mean, smoothed_weights

NAME = "annealed"
STAGE, SETTLING, FINAL = (256, 48), (384, 64), 640
"""Number of draws per round of a population: while annealing and while settling, each with a number
per dimension that applies if it is larger; and per round of the last proposal.
"""
SETTLED, MOST_ROUNDS, MOST_FINAL = 2, 30, 9
"""Number of rounds after arrival at the exponent 1, and limits on all rounds and on rounds of the
last proposal.
"""
USUAL, CONTENT, SHORT = 1000, 750, 0.5
"""Criteria to stop the rounds of the last proposal: effective sample size of a population for the
usual number of draws (proportionally more for more draws), and Pareto k of all weights. Standard
deviations must also be accurate (``summary``).
"""
SPARE = 1.25
"""Factor on the effective sample size that the summary's rule for standard deviations requires,
since the summary uses the kurtosis of resampled draws, which differs.
"""
FITTED = 1024
"""Number of draws that a mixture is fitted to, resampled by weight."""
WORTH, START = 48, 32
"""Effective sample size per dimension that weights keep at an exponent; at the start, at least one
in ``START`` prior draws.
"""
JUMP = 64.0
"""Largest factor on an exponent per round: the noise then falls to an eighth."""
WIDE, WIDE_SHARE = 3.0, 0.15
"""Factor on the standard deviations of the wider components, and their share."""
PRIOR_SHARE = 0.1
"""Share of the mixture that is fitted to the prior and conditioned on the observation."""
EXPONENTS = 25
"""Number of exponents tried, from the current one to 1."""


def anneal(
    target: Target, pool: Pool, seeds: Tensor, chains: int, draws: int, on_part: OnPart = None
) -> Draws:
    """Sample each posterior by annealed population Monte Carlo, with one population per chain.

    The counted network evaluations exclude those of the pool.

    Args:
        target: The posteriors.
        pool: Draws of the prior for these observations.
        seeds: Random seed of each observation ``[M]``.
        chains: Number of populations, C.
        draws: Number of draws per population, S.
        on_part: Called with the fraction of the work done since the last call.

    Returns:
        S draws of C populations for each observation.
    """
    parts = []
    # One by one: the number of rounds of an observation must not depend on the other observations.
    for at in torch.split(torch.arange(target.count), 1):
        parts.append(_annealed(target.of(at), pool.of(at), seeds[at], chains, draws))
        if on_part:
            on_part(1 / target.count)
    return Draws.joined(parts)


def _annealed(target: Target, pool: Pool, seeds: Tensor, chains: int, draws: int) -> Draws:
    # While annealing, densities need not be exact: only draws of the last proposal count.
    coarse = target.approximate(target.prior.coarse())
    swarm = Populations(coarse, seeds, chains)
    states, worth, exponent = _start(swarm, pool)
    prior = _prior_law(swarm, pool)
    settled, rounds = 0, range(1, MOST_ROUNDS)
    for index in rounds:
        goal = exponent if swarm.linear is None else (JUMP * exponent).clamp_max(1)
        distribution = swarm.towards(
            Proposal.fit(states, worth, swarm.uniform(index)[:, 1:]), goal - exponent
        )
        arrived = bool((exponent >= 1).all())
        fewest, of_dimension = SETTLING if arrived else STAGE
        count = max(fewest, of_dimension * len(swarm.width))
        swarm.add(swarm.defended(distribution, prior, goal), count, index)
        settled += arrived
        exponent = swarm.reached(exponent)
        states, worth = swarm.taken(tempered(swarm.log_weights(exponent), swarm.worth), index)
        if settled == SETTLED:
            break
    last = Proposal.fit(states, worth, swarm.uniform(MOST_ROUNDS)[:, 1:])
    last = swarm.defended(last, prior, exponent)
    final, many = Populations(target, seeds, chains), max(1.0, draws / USUAL)
    for index in range(ceil(many * MOST_FINAL)):
        final.add(last, FINAL, MOST_ROUNDS + 1 + index)
        if final.has_enough_draws(many * CONTENT):
            break
    target.calls += coarse.calls
    return final.draws(draws)


def _start(swarm: "Populations", pool: Pool) -> tuple[Tensor, Tensor, Tensor]:
    """Resample the states ``[G, n, D]`` of prior draws by tempered likelihoods.

    Returns:
        The states, their effective sample sizes ``[G]``, and the exponents ``[G]`` of the weights.
    """
    target, chains = swarm.target, swarm.chains
    log_likelihood = pool.log_weights(target, slice(None))
    require_some(log_likelihood)
    size = log_likelihood.shape[1] // chains
    shares = log_likelihood[:, : size * chains].view(-1, chains, size)
    some = bool((shares.amax(dim=2) > -torch.inf).all())
    if not some:  # then each population starts from the whole pool
        shares, size = log_likelihood[:, None].expand(-1, chains, -1), 0
    shares = shares.reshape(len(swarm.which), -1)
    # With fewer draws, a population could miss a rare mode and never find it later.
    worth = max(swarm.worth, shares.shape[1] // START)
    exponent = largest_exponent(shares, torch.ones_like(shares[:, 0]), worth)
    log_weights = exponent[:, None] * shares
    picks = systematic(log_weights, swarm.uniform(0)[:, 0], FITTED)
    first = size * (torch.arange(len(picks), device=picks.device) % chains)
    group = pool.group[swarm.which]
    points = pool.points[group[:, None], picks + first[:, None]]
    return swarm.blurred(swarm.states_of(points)), effective_size(log_weights), exponent


def _prior_law(swarm: "Populations", pool: Pool) -> Proposal:
    """Fit mixtures to prior draws, different ones for each population."""
    count = min(FITTED, len(pool.w) // swarm.chains)
    first = count * (torch.arange(len(swarm.which), device=pool.w.device) % swarm.chains)
    rows = first[:, None] + torch.arange(count, device=first.device)
    points = pool.points[pool.group[swarm.which][:, None], rows]
    states = swarm.blurred(swarm.states_of(points))
    worth = torch.full_like(states[:, 0, 0], count)
    return Proposal.fit(states, worth, swarm.uniform(MOST_ROUNDS - 1)[:, 1:])


class Populations:
    """Weighted draws of G populations, C for each of M observations, with their proposals.

    Args:
        target: The posteriors of M observations.
        seeds: Random seed of each observation ``[M]``.
        chains: Number of populations per observation, C.

    Attributes:
        which: Index of the observation of each population ``[G]``.
        width: Standard deviations of states ``[D]`` under the prior.
        linear: Observations as linear functions of states; None if observations are not linear.
        worth: Minimum effective sample size, which limits the likelihood exponents.
        states: Drawn states ``[G, N, D]``, in standard deviations.
        placed: Variables, points and densities of the drawn states, ``[G, N, ...]``.
    """

    states: Tensor
    placed: EvaluatedStates

    def __init__(self, target: Target, seeds: Tensor, chains: int):
        self.target, self.chains = target, chains
        self._keys = [(seed, chain) for seed in seeds.tolist() for chain in range(chains)]
        flow, first = target.prior.flow, target.prior.times[0]
        self.width = flow.noisy_std(first).double()
        self.worth = WORTH * flow.basis.dim
        self.which = torch.arange(target.count, device=target.device).repeat_interleave(chains)
        self.linear = None if why_not_linear(target) else LinearObservation.from_target(target)
        self._laws: list[tuple[int, Proposal]] = []
        self._log_mixture = torch.empty(0)

    def states_of(self, points: Tensor) -> Tensor:
        """Convert points to states ``[G, n, D]``, in units of their prior standard deviations.

        Args:
            points: Points ``[G, n, D]``, n per population.
        """
        rows = points.flatten(0, 1)
        which = self.which.repeat_interleave(points.shape[1])
        return self.target.to_states(rows, which).view_as(points) / self.width

    def blurred(self, states: Tensor) -> Tensor:
        """Add the noise of the first (least noisy) time to states, if the prior is deblurred.

        Otherwise states include this noise already and are returned unchanged.

        Args:
            states: States ``[G, n, D]``, n per population.
        """
        prior = self.target.prior
        if not prior.deblurred:
            return states
        noise = prior.flow.schedule.noise_variance(prior.times[0]).sqrt() / self.width
        uniform = self._even(states.shape[1], len(self.width), MOST_ROUNDS)
        return states + noise * torch.special.ndtri(uniform)

    def towards(self, proposal: Proposal, rise: Tensor) -> Proposal:
        """Adapt proposals to increased likelihood exponents, by conditioning on the observation.

        Args:
            proposal: Mixtures of the G populations.
            rise: Increase of the exponent of each population ``[G]``.
        """
        if self.linear is None or not (rise > 0).any():
            return proposal
        operator, covariance = self.linear.operator, self.linear.covariance
        if self.target.prior.deblurred:
            blur = self.target.prior.flow.schedule.noise_variance(self.target.prior.times[0])
            covariance = covariance + (operator * blur) @ operator.T
        noise = covariance[self.which] / rise.clamp_min(1e-9)[:, None, None]
        return proposal.conditioned(operator * self.width, self.linear.observed[self.which], noise)

    def defended(self, distribution: Proposal, prior: Proposal, exponent: Tensor) -> Proposal:
        """Add wider components, and a mixture fitted to the prior, to proposals.

        Both keep rare modes that are far from a population, which would otherwise lose them.

        Args:
            distribution: Proposals of the G populations.
            prior: Mixtures fitted to prior draws.
            exponent: Likelihood exponents ``[G]`` at which the prior's mixtures are conditioned.
        """
        distribution = distribution.evened().wider(WIDE, WIDE_SHARE)
        if self.linear is None:
            return distribution
        return distribution.beside(self.towards(prior, exponent).evened(), PRIOR_SHARE)

    def add(self, proposal: Proposal, count: int, index: int) -> None:
        """Draw states from the proposal of each population, and update the weights of all draws.

        Args:
            proposal: Proposals of the G populations.
            count: Number of states per population.
            index: Index of the round.
        """
        further = self.target.dim - len(self.width)
        uniform = self._even(count, 1 + len(self.width) + further, index)
        own, rest = uniform.tensor_split([1 + len(self.width)], dim=2)
        states = proposal.draw(own)
        flat = (states * self.width).flatten(0, 1)
        normal = torch.special.ndtri(rest).flatten(0, 1)
        which = self.which.repeat_interleave(count)
        placed = self.target.place(flat, normal, which, self.linear)
        volume = self.width.log().sum()
        placed = placed._replace(log_prior=placed.log_prior + volume)
        placed = EvaluatedStates(
            *(part.view(len(states), count, *part.shape[1:]) for part in placed)
        )
        log_law = proposal.log_prob(states)
        if len(self._laws) == 1 and self._laws[0][1] is proposal:
            before = self._laws[0][0]
            old = self._log_mixture + log(1 + count / before)
            new, self._laws = log_law + log(before + count), [(before + count, proposal)]
        else:
            distributions = [(n, distribution.log_prob(states)) for n, distribution in self._laws]
            distributions.append((count, log_law))
            new = torch.stack([log(n) + each for n, each in distributions]).logsumexp(dim=0)
            self._laws.append((count, proposal))
            if len(self._laws) == 1:
                self.states, self.placed, self._log_mixture = states, placed, new
                return
            old = torch.logaddexp(self._log_mixture, log(count) + proposal.log_prob(self.states))
        self._log_mixture = torch.cat([old, new], dim=1)
        self.states = torch.cat([self.states, states], dim=1)
        pairs = zip(self.placed, placed, strict=True)
        self.placed = EvaluatedStates(*(torch.cat(pair, dim=1) for pair in pairs))

    def log_weights(self, exponent: Tensor) -> Tensor:
        """Return the log weights ``[G, N]`` of all draws at likelihood exponents ``[G]``."""
        tempered_density = self.placed.log_prior + exponent[:, None] * self.placed.log_likelihood
        return tempered_density - self._log_mixture

    def reached(self, exponent: Tensor) -> Tensor:
        """Return the largest likelihood exponents ``[G]`` with a sufficient effective sample size.

        Args:
            exponent: Current exponents ``[G]``, lower bounds of the result.
        """
        # Bisection does not apply: draws near the posterior have a small effective sample size at
        # smaller exponents too.
        best = exponent
        for part in torch.linspace(1, 0, EXPONENTS, dtype=torch.float64).tolist():
            tried = exponent**part
            fits = effective_size(self.log_weights(tried)) >= self.worth
            best = torch.where(fits, tried, best)
        return best

    def has_enough_draws(self, least: float) -> bool:
        """Return whether all populations have enough draws.

        Weights must have a minimum effective sample size and short tails, and standard deviations
        must be accurate enough.

        Args:
            least: Minimum effective sample size of a population.
        """
        log_weights = self.log_weights(torch.ones_like(self.states[:, 0, 0]))
        worth = effective_size(log_weights)
        if not bool((worth >= least).all() and (self._tails(log_weights) <= SHORT).all()):
            return False
        points = self.placed.points.reshape(self.target.count, -1, len(self.width))
        weights = log_weights.view(self.target.count, -1, 1).softmax(dim=1)
        square = (points - (weights * points).sum(dim=1, keepdim=True)).square()
        variance = (weights * square).sum(dim=1)
        peaked = (weights * square.square()).sum(dim=1) / variance.square()
        enough = SPARE * (peaked - 1) / 4 * (ERRORS / STD_OFF) ** 2
        return bool((worth.view(-1, self.chains).sum(dim=1, keepdim=True) >= enough).all())

    def _tails(self, log_weights: Tensor) -> Tensor:
        """Return Pareto k ``[M]`` of the weights of all populations together.

        One population has few weights in its tail.
        """
        return smoothed_weights(log_weights.view(self.target.count, -1)).k

    def taken(self, log_weights: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Resample the states of each population by weight.

        Args:
            log_weights: Log weights ``[G, N]``.
            index: Index of the round, for the random numbers.

        Returns:
            The states ``[G, n, D]``, and the effective sample sizes ``[G]`` of the weights.
        """
        picks = systematic(log_weights, self.uniform(index)[:, 0], FITTED)
        rows = torch.arange(len(picks), device=picks.device)[:, None]
        return self.states[rows, picks], effective_size(log_weights)

    def draws(self, count: int) -> Draws:
        """Resample ``count`` draws of each population by weight."""
        shape = (self.target.count, self.chains)
        log_weights = self.log_weights(torch.ones_like(self.states[:, 0, 0]))
        smoothed, (_, error) = smoothed_weights(log_weights), log_mean(log_weights)
        keys = torch.tensor([hash_seed(seed, chain) for seed, chain in self._keys])
        picks = weighted_picks(smoothed.log_weights, keys, count, z_order(self.states))
        rows = torch.arange(len(picks), device=picks.device)[:, None]
        w, points, log_likelihood, _ = (part[rows, picks] for part in self.placed)
        return Draws.by(
            NAME,
            (*shape, count),
            w,
            points,
            log_likelihood,
            self.target.calls / shape[0],
            {
                "effective_size": smoothed.effective_size.view(shape).sum(dim=1).cpu(),
                "pareto_k": self._tails(log_weights).cpu(),
                # Weights include the number of draws: their sum is the mean.
                **evidence_of(log_weights.logsumexp(dim=1).view(shape), error.view(shape)),
            },
        )

    def uniform(self, index: int) -> Tensor:
        """Return uniform random numbers ``[G, 1 + K]`` in [0, 1) for a round and K components."""
        return self._rows(1 + COMPONENTS, index, 0)

    def _even(self, count: int, dim: int, index: int) -> Tensor:
        """Return numbers ``[G, count, dim]`` in (0, 1), evenly spread within a population.

        They come from one Sobol sequence, randomly shifted (Cranley and Patterson 1976).
        """
        engine = SobolEngine(dim, scramble=True, seed=index)  # type: ignore[no-untyped-call]
        base = engine.draw(count, dtype=torch.float64).to(self.width.device)
        shifted = (base + self._rows(dim, index, 1)[:, None]) % 1
        return shifted.clamp(TINY, 1 - TINY)

    def _rows(self, count: int, index: int, kind: int) -> Tensor:
        rows = [
            uniform_numbers((count,), seed, Stream.REFINING, index, kind, chain)
            for seed, chain in self._keys
        ]
        return torch.stack(rows).to(self.width.device)
