"""Refinement of a pool for narrow posteriors: draws near them, weighted together with the pool.

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
"""

from collections.abc import Sequence
from math import log, pi

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from torch_utils.seeds import hash_seed, seeded_generator
from torch_utils.streams import Stream
from training.inference.draws import (
    Draws,
    require_some,
    systematic,
    tempered,
    weighted_picks,
    z_order,
)
from training.inference.proposals import COMPONENTS, Proposal
from training.inference.samplers.pool import TINY, Pool
from training.inference.target import Target
from training.measure.posterior.importance import effective_size, log_mean, smoothed_weights

DRAWN = (512, 2048)
"""Number of points in each round, n_t."""
AGAIN, FEWEST = (512, 512, 512, 512, 512, 1024), 1000
"""Rounds for observations whose effective sample size would be below FEWEST after DRAWN."""
HEAVIEST = 2**13
"""Number of likeliest draws of the pool, H."""
FITTED = 1024
"""Number of draws that a mixture is fitted to, resampled by weight."""
WORTH = 16
"""Effective sample size per variable of the tempered weights in a fit."""
BLOCK = 2**22
"""Largest number of values held at once, in each of a few tensors."""


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
    raw = near.of_all(log_likelihood)
    mean, error = log_mean(raw)
    weights = smoothed_weights(raw)
    order = torch.cat(
        [pool.order.expand_as(log_likelihood), len(pool.w) + z_order(near.new)], dim=1
    )
    picks = weighted_picks(weights.log_weights, seeds, shape[0] * shape[1], order)
    return Draws.by(
        "refined",
        (target.count, *shape),
        *near.at(picks, log_likelihood),
        target.calls / target.count,
        {
            "effective_size": weights.effective_size.cpu(),
            "pareto_k": weights.k.cpu(),
            # Weights include the number of all draws: their sum is the mean likelihood.
            "evidence": (mean + log(raw.shape[1])).cpu(),
            "evidence_error": error.cpu(),
        },
    )


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
        log_weights = tempered(self.log_weights, min(WORTH * dim, self.kept // 2))
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
