"""Pool of prior draws, made once and weighted for each observation by its likelihood.

This is importance sampling from the prior. In few dimensions it is by far the cheapest method,
since all observations share the network evaluations; in many dimensions it is useless. Weights are
smoothed, and the shape k of their tail shows whether they are reliable (Vehtari, Simpson, Gelman,
Yao and Gabry 2024): above 0.7 they are not.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.quasirandom import SobolEngine

from torch_utils import distributed
from torch_utils.seeds import hash_seed, normal_numbers
from torch_utils.streams import Stream
from training.inference.draws import Draws, OnPart, require_some, share_of, weighted_picks, z_order
from training.inference.target import Target
from training.measure.posterior.importance import effective_size, log_mean, smoothed_weights

BLOCK, CALL = 2**22, 2**17
"""Limits on the number of likelihoods held at once, and on the number of coordinates of points per
likelihood evaluation.
"""
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

        Each evaluation covers the same number of observations, so that no result depends on the
        number of observations: the last evaluation is padded with its first observation.

        Args:
            target: The posteriors.
            rows: Slice of the m observations.
        """
        size, dim = self.points.shape[1:]
        step = 1 if target.likelihood.dear else max(1, CALL // (size * dim))
        places = torch.arange(*rows.indices(target.count), device=self.group.device)
        order = F.pad(torch.arange(len(places), device=places.device), (0, -len(places) % step))
        log_likelihood = []
        for block in torch.split(places[order], step):
            # A single group need not be copied.
            points = self.points[self.group[block]] if len(self.points) > 1 else self.points
            points = points.expand(step, -1, -1).reshape(-1, dim)
            observed = target.observed[block][:, None].expand(-1, size, -1).flatten(0, 1)
            log_likelihood.append(target.likelihood.log_prob(points, observed).view(step, size))
        return torch.cat(log_likelihood)[: len(places)]

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
        weights = smoothed_weights(log_weights)
        order = self.order.expand_as(log_weights)
        picks = weighted_picks(weights.log_weights, seeds, chains * draws, order)
        evidence, error = log_mean(log_weights)
        group = self.group[rows][:, None]
        return Draws.by(
            "pool",
            (len(log_weights), chains, draws),
            self.w[picks],
            self.points[group, picks],
            log_weights.gather(1, picks),
            self.calls,
            {
                "effective_size": weights.effective_size.cpu(),
                "pareto_k": weights.k.cpu(),
                "evidence": evidence.cpu(),
                "evidence_error": error.cpu(),
            },
        )


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
