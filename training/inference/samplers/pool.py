"""A pool of prior draws, made once and weighted for each observation by its likelihood.

Importance sampling from the prior: by far the cheapest in few dimensions, since all observations
share the network calls, and useless in many. Weights are smoothed, and the shape k of their tail
says whether they can be trusted (Vehtari, Simpson, Gelman, Yao and Gabry 2024): above 0.7 they
cannot.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.quasirandom import SobolEngine

from torch_utils import distributed
from torch_utils.seeds import hash_seed, normal_numbers
from torch_utils.streams import Stream
from training.inference.draws import Draws
from training.inference.progress import OnPart, share_of
from training.inference.target import Target
from training.inference.weights import require_some, weighted_picks, z_order
from training.measure.posterior.importance import effective_size, log_mean, smoothed_weights

BLOCK, CALL = 2**22, 2**17
"""Likelihoods that are held at once, and coordinates of points that go into one call of them."""
TINY = 2.0**-40
"""How near to 0 and 1 uniform numbers come."""


@dataclass(frozen=True)
class Pool:
    """Draws of the prior, for each of G groups of observations that share their labels.

    Attributes:
        w: Standard normal variables ``[P, dim]``, the same for all groups.
        points: Points of data space ``[G, P, D]``.
        order: Of the draws ``[P]``, in which neighbors are alike.
        group: The group of each observation, ``[M]``.
        calls: Network calls that the pool took, shared out over its observations.
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
        """So many draws.

        Args:
            target: Has the prior, and labels if the network takes any.
            size: P.
            seed: Of the draws.
            shared: Whether all ranks draw this pool at once, so that each makes a share of it.
            on_part: Called with the part of the work that was done since the last call.
            begun: The first of these draws, of the same seed, if they are there already.
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
        """Its first draws, or all that there are."""
        if count >= len(self.w):
            return self
        w, share = self.w[:count], count / len(self.w)
        points, order = self.points[:, :count], z_order(w[None])[0]
        return replace(self, w=w, points=points, order=order, calls=share * self.calls)

    def worth(self, target: Target) -> Tensor:
        """How many draws the weights of observations are worth, ``[M]``; 0 where all are 0."""
        step = max(1, BLOCK // len(self.w))
        blocks = [
            effective_size(self.log_weights(target, slice(start, start + step)))
            for start in range(0, target.count, step)
        ]
        return torch.cat(blocks).nan_to_num(0.0)

    def of(self, places: Tensor) -> "Pool":
        """The same draws for the observations at these places ``[m]``."""
        return replace(self, group=self.group[places.to(self.group.device)])

    def log_weights(self, target: Target, rows: slice) -> Tensor:
        """Log likelihoods ``[m, P]`` of some observations at all of the pool.

        Several observations go into a call, always as many: what fills up the last one are its
        first observation again, so that none depends on how many there are.
        """
        size, dim = self.points.shape[1:]
        step = 1 if target.likelihood.dear else max(1, CALL // (size * dim))
        places = torch.arange(*rows.indices(target.count), device=self.group.device)
        order = F.pad(torch.arange(len(places), device=places.device), (0, -len(places) % step))
        log_likelihood = []
        for block in torch.split(places[order], step):
            # One group alone is not copied.
            points = self.points[self.group[block]] if len(self.points) > 1 else self.points
            points = points.expand(step, -1, -1).reshape(-1, dim)
            observed = target.observed[block][:, None].expand(-1, size, -1).flatten(0, 1)
            log_likelihood.append(target.likelihood.log_prob(points, observed).view(step, size))
        return torch.cat(log_likelihood)[: len(places)]

    def sample(self, target: Target, seeds: Tensor, chains: int, draws: int) -> Draws:
        """C chains of S draws by weight, shuffled into them, of observations as those that the pool
        was made for. They follow from a number for each ``[M]``. Raises DataError if the likelihood
        is 0 at all of the pool."""
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
    """Standard normal numbers ``[count, dim]`` that fill the space evenly, float64.

    A scrambled Sobol sequence (Owen 1998): each is standard normal, and means over them have
    smaller errors than over independent ones, as they are in too many dimensions for a sequence.
    """
    if dim > SobolEngine.MAXDIM:
        return normal_numbers((count, dim), seed)
    engine = SobolEngine(dim, scramble=True, seed=seed)  # type: ignore[no-untyped-call]
    uniform = engine.draw(count, dtype=torch.float64)
    return torch.special.ndtri(uniform.clamp(TINY, 1 - TINY))
