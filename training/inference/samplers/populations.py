"""Weighted populations: importance sampling with draws of the prior and of fitted mixtures.

Pool of prior draws, made once and weighted for each observation by its likelihood.

This is importance sampling from the prior. In few dimensions it is by far the cheapest method,
since all observations share the network evaluations; in many dimensions it is useless. Weights are
smoothed, and the shape k of their tail shows whether they are reliable (Vehtari, Simpson, Gelman,
Yao and Gabry 2024): above 0.7 they are not.

Refinement of a pool for narrow posteriors: draws near them, weighted together with the pool.

This is population Monte Carlo (Cappe, Douc, Guillin, Marin and Robert 2008): a mixture ``q_t`` is
fitted to the weighted draws so far, and ``n_t`` points are drawn from it and mapped by the flow,
for T rounds. All draws are weighted as if each came from the mixture of all proposals, including
the prior p with its P draws (the balance heuristic; Veach and Guibas 1995),

   v(w) = p(w) L(w) / (P p(w) + n_1 q_1(w) + ... + n_T q_T(w)).

No weight therefore exceeds ``L / P``, however wrong the fits are: the prior is the defensive
component (Owen and Zhou 2000). Fits depend on draws that are weighted together with theirs, which
makes no difference in the limit of many draws (Cornuet, Marin, Mira and Robert 2012). The
proposals ``q_t`` are taken to be 0 where the likelihood is below that of the pool's H likeliest
draws: such draws of ``q_t`` have no weight, those of the pool have ``L / P``, and the densities of
``q_t`` are needed at H draws of the pool instead of P.

Annealed importance sampling of narrow posteriors, with the flow's density in the weights.

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

Test of draws with proposals that are wider than the draws.

A region that a sampler missed has no draws, so no weight can reveal it. The test therefore fits a
mixture to the draws of each chain, in the states of ``Populations``, and widens it. Fresh
draws of the mixture are weighted by the likelihood and the flow's own density, from a finer
integration. If sampler and integration are right, the draws have the means and standard deviations
of the weighted ones. The test detects wrong widths and tails, and missing modes near those that
were found. It cannot detect modes far from all draws; disagreement between chains can.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, log, pi

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from torch_utils import distributed
from torch_utils.seeds import hash_seed, normal_numbers, seeded_generator, uniform_numbers
from torch_utils.streams import Stream
from training.flow.solvers import SOLVERS
from training.inference.draws import (
    Draws,
    OnPart,
    evidence_of,
    largest_exponent,
    require_some,
    share_of,
    systematic,
    tempered,
    weighted_picks,
    z_order,
)
from training.inference.lookahead import LinearObservation, why_not_linear
from training.inference.proposals import COMPONENTS, Proposal
from training.inference.summary import ERRORS, STD_OFF
from training.inference.target import EvaluatedStates, Target
from training.measure.posterior.importance import effective_size, log_mean, smoothed_weights

BLOCK = 2**22
"""Limit on the number of likelihoods held at once."""
TINY = 2.0**-40
"""Smallest distance of uniform numbers from 0 and 1."""


@dataclass(frozen=True)
class Pool:
    """A pool of P prior draws, for each of G groups of observations with equal conditions.

    Attributes:
        w: Standard normal variables ``[P, dim]``, the same for all groups.
        points: Points of data space ``[G, P, D]``.
        order: Indices ``[P]`` that sort the draws so that neighbors are similar.
        group: Index of the group of each observation ``[M]``.
        calls: Network evaluations of the pool, divided evenly among its observations.
    """

    w: Tensor
    points: Tensor
    order: Tensor
    group: Tensor
    calls: float

    @classmethod
    def draw(
        cls,
        target: Target,
        size: int,
        seed: int,
        shared: bool = False,
        on_part: OnPart = None,
        begun: "Pool | None" = None,
    ) -> "Pool":
        """Draw a pool from the prior.

        Args:
            target: Target with the prior and the conditions of its observations.
            size: Number of draws, P.
            seed: Random seed of the draws.
            shared: Whether all ranks draw the pool together, each a part of it.
            on_part: Called with the fraction of the work done since the last call.
            begun: Smaller pool of the same seed, whose draws are reused; None to draw all.
        """
        w = even_normal(size, target.dim, hash_seed(seed, Stream.PRIOR_DRAWS)).to(target.device)
        fresh = w if begun is None else w[len(begun.w) :]
        mine = fresh[distributed.shard(len(fresh))] if shared else fresh
        group = torch.zeros(target.count, dtype=torch.int64, device=w.device)
        parts, alike, before = [], target.alike(), target.calls
        for number, places in enumerate(alike):
            group[places] = number
            which = places[:1].expand(len(mine))
            share = target.points(mine, which, share_of(on_part, 1 / len(alike)))
            parts.append(distributed.gather_rows(share, len(fresh)) if shared else share)
        points = torch.stack(parts)
        calls = (target.calls - before) * len(fresh) / len(mine) / target.count
        if begun is not None:
            points, calls = torch.cat([begun.points, points], dim=1), begun.calls + calls
        return cls(w, points, z_order(w[None])[0], group, calls)

    def first(self, count: int) -> "Pool":
        """Return the pool of the first ``count`` draws, or of all if there are fewer."""
        if count >= len(self.w):
            return self
        w, share = self.w[:count], count / len(self.w)
        points, order = self.points[:, :count], z_order(w[None])[0]
        return replace(self, w=w, points=points, order=order, calls=share * self.calls)

    def worth(self, target: Target) -> Tensor:
        """Return the effective sample size ``[M]`` of each observation's weights.

        The effective sample size is 0 if all weights are 0.
        """
        step = max(1, BLOCK // len(self.w))
        blocks = [
            effective_size(self.log_weights(target, slice(start, start + step)))
            for start in range(0, target.count, step)
        ]
        return torch.cat(blocks).nan_to_num(0.0)

    def of(self, places: Tensor) -> "Pool":
        """Return the pool for the observations with indices ``places [m]`` only."""
        return replace(self, group=self.group[places.to(self.group.device)])

    def log_weights(self, target: Target, rows: slice) -> Tensor:
        """Return the log weights ``[m, P]`` of all draws: log likelihoods of m observations.

        Args:
            target: The posteriors.
            rows: Slice of the m observations.
        """
        group, observed = self.group[rows], target.observed[rows]
        log_weights = observed.new_empty(len(observed), len(self.w))
        for number in torch.unique(group).tolist():
            own = group == number
            log_weights[own] = target.likelihood.log_prob_each(self.points[number], observed[own])
        return log_weights

    def sample(self, target: Target, seeds: Tensor, chains: int, draws: int) -> Draws:
        """Resample the pool by weight to C chains of S draws for each observation.

        Args:
            target: The posteriors.
            seeds: Random seed of each observation ``[M]``.
            chains: Number of chains, C.
            draws: Number of draws per chain, S.

        Raises:
            DataError: The likelihood is 0 at all draws of the pool.
        """
        parts = []
        step = max(1, BLOCK // len(self.w))
        for start in range(0, target.count, step):
            rows = slice(start, min(start + step, target.count))
            parts.append(self._sample(target, rows, seeds[rows], chains, draws))
        return Draws.joined(parts)

    def _sample(self, target: Target, rows: slice, seeds: Tensor, chains: int, draws: int) -> Draws:
        log_weights = self.log_weights(target, rows)
        require_some(log_weights)
        group, order = self.group[rows][:, None], self.order.expand_as(log_weights)

        def at(picks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            return self.w[picks], self.points[group, picks], log_weights.gather(1, picks)

        return _by_weight("pool", log_weights, order, seeds, (chains, draws), at, self.calls)


def _by_weight(
    name: str,
    log_weights: Tensor,
    order: Tensor,
    seeds: Tensor,
    shape: tuple[int, int],
    at: Callable[[Tensor], tuple[Tensor, Tensor, Tensor]],
    calls: float,
    more: float = 0.0,
) -> Draws:
    """Resample N weighted draws of each of M observations to C chains of S draws.

    Args:
        name: Name of the sampler.
        log_weights: Log weights ``[M, N]``.
        order: Indices ``[M, N]`` that sort the draws so that neighbors are similar.
        seeds: Random seed of each observation ``[M]``.
        shape: Numbers of chains and of draws, ``(C, S)``.
        at: Function that returns variables, points and log likelihoods of draws by their indices.
        calls: Network evaluations per observation.
        more: Difference of the log evidence from the log mean of the weights.
    """
    weights = smoothed_weights(log_weights)
    evidence, error = log_mean(log_weights)
    picks = weighted_picks(weights.log_weights, seeds, shape[0] * shape[1], order)
    stats = {
        "effective_size": weights.effective_size.cpu(),
        "pareto_k": weights.k.cpu(),
        "evidence": (evidence + more).cpu() if more else evidence.cpu(),
        "evidence_error": error.cpu(),
    }
    return Draws.by(name, (len(log_weights), *shape), *at(picks), calls, stats)


def even_normal(count: int, dim: int, seed: int) -> Tensor:
    """Return quasi-random standard normal numbers ``[count, dim]``, float64.

    The numbers come from a scrambled Sobol sequence (Owen 1998): each number is standard normal,
    and means over rows have smaller errors than means over independent rows. In too many dimensions
    for a Sobol sequence, the numbers are independent.
    """
    if dim > SobolEngine.MAXDIM:
        return normal_numbers((count, dim), seed)
    engine = SobolEngine(dim, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    uniform = engine.draw(count, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(TINY, 1 - TINY))


DRAWN = (512, 2048)
"""Number of points in each round, n_t."""
AGAIN, FEWEST = (512, 512, 512, 512, 512, 1024), 1000
"""Rounds for observations whose effective sample size would be below FEWEST after DRAWN."""
HEAVIEST = 2**13
"""Number of likeliest draws of the pool, H."""
FITTED = 1024
"""Number of draws that a mixture is fitted to, resampled by weight."""
WORTH_OF_FIT = 16
"""Effective sample size per variable of the tempered weights in a fit."""


def refine(target: Target, pool: Pool, seeds: Tensor, chains: int, draws: int) -> Draws:
    """Sample each posterior by population Monte Carlo that starts from a pool of prior draws.

    The counted network evaluations exclude those of the pool.

    Args:
        target: The posteriors.
        pool: Draws of the prior for these observations.
        seeds: Random seed of each observation ``[M]``.
        chains: Number of chains, C.
        draws: Number of draws per chain, S.

    Returns:
        S draws of C chains for each observation, in random order.

    Raises:
        DataError: The likelihood is 0 at all draws of the pool.
    """
    refined = _in_blocks(target, pool, seeds, (chains, draws), DRAWN)
    poor = (refined.stats["effective_size"] < FEWEST).nonzero()[:, 0]
    if not len(poor):
        return refined
    others = _in_blocks(target.of(poor), pool.of(poor), seeds[poor], (chains, draws), AGAIN)
    return refined.replaced(poor, others)


def _in_blocks(
    target: Target, pool: Pool, seeds: Tensor, shape: tuple[int, int], drawn: Sequence[int]
) -> Draws:
    size = len(pool.w)
    step = max(1, BLOCK // max(size, COMPONENTS * target.dim * min(size, HEAVIEST)))
    blocks = torch.split(torch.arange(target.count), step)
    return Draws.joined(
        [_refined(target.of(at), pool.of(at), seeds[at], shape, drawn) for at in blocks]
    )


def _refined(
    target: Target, pool: Pool, seeds: Tensor, shape: tuple[int, int], drawn: Sequence[int]
) -> Draws:
    log_likelihood = pool.log_weights(target, slice(None))
    require_some(log_likelihood)
    near = _Near(target, pool, log_likelihood)
    for index, count in enumerate(drawn):
        near.add(seeds, index, count)
    log_weights = near.of_all(log_likelihood)
    order = torch.cat(
        [pool.order.expand_as(log_likelihood), len(pool.w) + z_order(near.new)], dim=1
    )
    calls = target.calls / target.count

    def at(picks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        return near.at(picks, log_likelihood)

    # Weights include the number of all draws: their sum is the mean likelihood.
    more = log(log_weights.shape[1])
    return _by_weight("refined", log_weights, order, seeds, shape, at, calls, more)


class _Near:
    """Draws near M posteriors: the H likeliest of a pool of P prior draws, and N from proposals.

    Attributes:
        kept: Number of likeliest draws, H.
        places: Indices of the likeliest draws in the pool, ``[M, H]``.
        w: Variables ``[M, H + N, dim]``.
        log_likelihood: Log likelihoods ``[M, H + N]``.
        points: Points of the draws from proposals, ``[M, N, D]``.
        log_weights: Log weights ``log v [M, H + N]``.
    """

    def __init__(self, target: Target, pool: Pool, log_likelihood: Tensor):
        self._target, self._pool, self._size = target, pool, len(pool.w)
        self.kept = min(HEAVIEST, self._size)
        self.log_likelihood, self.places = log_likelihood.topk(self.kept, dim=1)
        self._level = self.log_likelihood[:, -1:]
        self.w = pool.w[self.places]
        self.points = pool.points.new_empty(target.count, 0, pool.points.shape[2])
        self.log_weights = self.log_likelihood - log(self._size)
        self._proposals: list[tuple[int, Proposal]] = []

    def add(self, seeds: Tensor, index: int, drawn: int) -> None:
        """Run a round: fit a proposal to the weighted draws, draw from it, and update all weights.

        Args:
            seeds: Random seed of each observation ``[M]``.
            index: Index of the round.
            drawn: Number of draws from the proposal, per observation.
        """
        count, dim = len(self.w), self.w.shape[2]
        proposal = self._fitted(seeds, index)
        uniform = _even_uniform(drawn, 1 + dim, seeds, index).to(self.w)
        w = proposal.draw(uniform)
        which = torch.arange(count, device=w.device).repeat_interleave(drawn)
        points, log_likelihood = self._target.evaluate(w.flatten(0, 1), which)
        log_likelihood = log_likelihood.view(count, drawn)
        log_likelihood = log_likelihood.masked_fill(log_likelihood < self._level, -torch.inf)
        self._proposals.append((drawn, proposal))
        self.w = torch.cat([self.w, w], dim=1)
        self.points = torch.cat([self.points, points.view(count, drawn, -1)], dim=1)
        self.log_likelihood = torch.cat([self.log_likelihood, log_likelihood], dim=1)
        self.log_weights = self.log_likelihood - self._log_mixture()

    @property
    def new(self) -> Tensor:
        """Standard normal variables ``[M, N, dim]`` of the draws from proposals."""
        return self.w[:, self.kept :]

    def of_all(self, log_likelihood: Tensor) -> Tensor:
        """Return the log weights of the whole pool and of the draws from proposals, ``[M, P + N]``.

        Args:
            log_likelihood: Log likelihoods of the pool ``[M, P]``.
        """
        near, new = self.log_weights.tensor_split([self.kept], dim=1)
        whole = (log_likelihood - log(self._size)).scatter(1, self.places, near)
        return torch.cat([whole, new], dim=1)

    def at(self, picks: Tensor, log_likelihood: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Select draws by their indices.

        Args:
            picks: Indices ``[M, n]``, below P for draws of the pool, else for draws from proposals.
            log_likelihood: Log likelihoods of the pool ``[M, P]``.

        Returns:
            Variables ``[M, n, dim]``, points ``[M, n, D]`` and log likelihoods ``[M, n]``.
        """
        rows = torch.arange(len(picks), device=picks.device)[:, None]
        is_new = picks >= self._size
        old, new = picks.clamp_max(self._size - 1), (picks - self._size).clamp_min(0)
        pool, place = self._pool, self.kept + new
        group = pool.group[:, None]
        return (
            torch.where(is_new[..., None], self.w[rows, place], pool.w[old]),
            torch.where(is_new[..., None], self.points[rows, new], pool.points[group, old]),
            torch.where(is_new, self.log_likelihood[rows, place], log_likelihood.gather(1, old)),
        )

    def _fitted(self, seeds: Tensor, index: int) -> Proposal:
        count, dim = len(self.w), self.w.shape[2]
        sources = [seeded_generator("cpu", own, Stream.REFINING, index) for own in seeds.tolist()]
        uniform = torch.stack([torch.rand(1 + COMPONENTS, generator=one) for one in sources])
        uniform = uniform.to(self.w)
        log_weights = tempered(self.log_weights, min(WORTH_OF_FIT * dim, self.kept // 2))
        picks = systematic(log_weights, uniform[:, 0], FITTED)
        rows = torch.arange(count, device=picks.device)[:, None]
        return Proposal.fit(self.w[rows, picks], effective_size(log_weights), uniform[:, 1:])

    def _log_mixture(self) -> Tensor:
        """Return ``log(P + sum_t n_t q_t / p)`` for all draws."""
        log_prior = -(self.w.square() + log(2 * pi)).sum(dim=2) / 2
        parts = [torch.full_like(log_prior, log(self._size))]
        parts += [
            log(n) + distribution.log_prob(self.w) - log_prior
            for n, distribution in self._proposals
        ]
        return torch.stack(parts).logsumexp(dim=0)


def _even_uniform(count: int, dim: int, seeds: Tensor, index: int) -> Tensor:
    """Return quasi-random numbers ``[M, count, dim]`` in (0, 1) for each observation."""
    rows = []
    for own in seeds.tolist():
        seed = hash_seed(own, Stream.REFINING, index, 1)
        engine = SobolEngine(dim, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
        rows.append(engine.draw(count, dtype=torch.float64))
    return torch.stack(rows).clamp(TINY, 1 - TINY)


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
    return swarm.states_of(points), effective_size(log_weights), exponent


def _prior_law(swarm: "Populations", pool: Pool) -> Proposal:
    """Fit mixtures to prior draws, different ones for each population."""
    count = min(FITTED, len(pool.w) // swarm.chains)
    first = count * (torch.arange(len(swarm.which), device=pool.w.device) % swarm.chains)
    rows = first[:, None] + torch.arange(count, device=first.device)
    points = pool.points[pool.group[swarm.which][:, None], rows]
    states = swarm.states_of(points)
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

    def towards(self, proposal: Proposal, rise: Tensor) -> Proposal:
        """Adapt proposals to increased likelihood exponents, by conditioning on the observation.

        Args:
            proposal: Mixtures of the G populations.
            rise: Increase of the exponent of each population ``[G]``.
        """
        if self.linear is None or not (rise > 0).any():
            return proposal
        operator, covariance = self.linear.operator, self.linear.covariance
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
        states = proposal.draw(self._even(count, 1 + len(self.width), index))
        flat = (states * self.width).flatten(0, 1)
        placed = self.target.place(flat, self.which.repeat_interleave(count))
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


SOLVER, FINE_STEPS = "exp_rk5", 8
"""Solver and steps of an integration that is finer than those of the samplers."""
PROPOSED = 320
"""Number of fresh draws per chain."""
WIDENING = 1.4
"""Relative widening, times the square root of the dimension, so that the effective sample size
stays large in many dimensions.
"""
TEST_MEAN, TEST_STD, TEST_ERRORS = 0.1, 0.05, 2.0
"""Tolerances on means, in standard deviations, and on log standard deviations, and number of
standard errors of the test that are added to them.
"""
FEWEST_DRAWS = 100
"""Smallest number of draws, over all chains, that mixtures are fitted to; with fewer the test is
inconclusive.
"""
FEWEST_WORTH = 50
"""Smallest effective sample size of the test's weights; below it the test is inconclusive."""


def tested(target: Target, draws: Draws, seeds: Tensor) -> Draws:
    """Test the draws of each observation with wider proposals, and add the statistics of the test.

    ``test_mean`` is the largest difference of means over coordinates, in standard deviations.
    ``test_std`` is the ratio of standard deviations, test to draws, that is farthest from 1.
    ``test_worth`` is the effective sample size of the test's weights. ``test`` is the largest
    difference relative to its tolerance, so that the test fails above 1; the value is infinite if
    the test is inconclusive.

    Args:
        target: The posteriors.
        draws: Draws to test.
        seeds: Random seed of each observation ``[M]``.
    """
    if draws.log_likelihood[0].numel() < FEWEST_DRAWS:
        unknown = torch.full((draws.count,), torch.inf, dtype=torch.float64)
        return replace(draws, stats={**draws.stats, "test": unknown})
    each = torch.split(torch.arange(draws.count), 1)
    parts = [_tested(target.of(at), draws.of(at), seeds[at]) for at in each]
    stats = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    calls = stats.pop("calls")
    return replace(draws, calls=draws.calls + calls, stats={**draws.stats, **stats})


def _tested(target: Target, draws: Draws, seeds: Tensor) -> dict[str, Tensor]:
    chains, size = draws.points.shape[1:3]
    prior = target.prior
    finer = replace(
        prior, times=prior.flow.times(FINE_STEPS), solver=SOLVERS[SOLVER], integrations={}
    )
    target = replace(target, prior=finer, calls=0)
    own = torch.tensor([hash_seed(int(seed), Stream.REFINING) for seed in seeds])
    swarm = Populations(target, own, chains)
    rows = torch.arange(min(FITTED, size), device=target.device) * size // min(FITTED, size)
    states = swarm.states_of(draws.points[:, :, rows].flatten(0, 1).to(target.device))
    worth = torch.full_like(states[:, 0, 0], len(rows))
    if "effective_size" in draws.stats:
        of_chain = draws.stats["effective_size"].to(worth) / chains
        worth = of_chain.repeat_interleave(chains).clamp(1, len(rows))
    fitted = Proposal.fit(states, worth, swarm.uniform(0)[:, 1:])
    swarm.add(fitted.wider(1 + WIDENING / len(swarm.width) ** 0.5), PROPOSED, 0)
    log_weights = swarm.log_weights(torch.ones_like(worth)).view(draws.count, -1)
    smoothed = smoothed_weights(log_weights)
    weights, worth = smoothed.log_weights.exp()[..., None], effective_size(smoothed.log_weights)
    points = swarm.placed.points.view(draws.count, -1, draws.points.shape[3])
    mean = (weights * points).sum(dim=1)
    square = (points - mean[:, None]).square()
    variance = (weights * square).sum(dim=1)
    peaked = (weights * square.square()).sum(dim=1) / variance.square()
    flat = draws.points.flatten(1, 2).to(mean)
    std = flat.std(dim=1)
    varies = std > 0
    scale = torch.where(varies, std, 1.0)
    off = torch.where(varies, (mean - flat.mean(dim=1)) / scale, 0.0)
    ratio = torch.where(varies, variance.sqrt() / scale, 1.0)
    error = worth.clamp_min(1).rsqrt()[:, None]
    spread = error * ((peaked - 1) / 4).clamp_min(0.25).sqrt()
    of_mean = off.abs() / (TEST_MEAN + TEST_ERRORS * error)
    of_std = ratio.log().abs() / (TEST_STD + TEST_ERRORS * spread)
    worst = torch.maximum(of_mean, of_std).amax(dim=1)
    known = (worth >= FEWEST_WORTH) & worst.isfinite()
    at = ratio.log().abs().argmax(dim=1, keepdim=True)
    stats = {
        "test": torch.where(known, worst, torch.inf),
        "test_mean": off.abs().amax(dim=1),
        "test_std": ratio.gather(1, at)[:, 0],
        "test_worth": worth,
        "calls": torch.full_like(worth, target.calls / draws.count),
    }
    return {name: values.double().cpu() for name, values in stats.items()}
