"""Posteriors that a conditional flow has learned: p(theta | y) itself, for whatever y.

No likelihood is needed and no chain is run. Draws for all observations are points of the flow given
these, in one integration, each with its log density q(theta | y). Where the log of the posterior is
known up to a constant, weights ``p(y | theta) p(theta) / q(theta | y)`` correct what the flow has
learned wrongly: draws are taken again by them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from dnnlib.errors import DataError
from torch_utils.seeds import hash_seed, seeded_generator
from torch_utils.streams import Stream
from training.flow.likelihood import Trace
from training.inference.draws import Draws
from training.inference.prior import Prior
from training.inference.weights import shuffled_picks
from training.measure.posterior.importance import smoothed_weights

LogPosterior = Callable[[Tensor, Tensor], Tensor]
"""Logs ``[N]`` of densities up to a constant, of points ``[N, D]`` given conditions ``[N, C]``."""
SAMPLER = "flow"


@dataclass(frozen=True)
class Amortized:
    """Posteriors of M observations that a conditional flow has learned.

    Attributes:
        prior: The flow.
        conditions: What was observed, ``[M, C]``.
        rows: Points of one block: with blocks of one size, a posterior does not depend on what is
            sampled beside it.
        chains: C.
        draws: Of each chain, S.
        seed: Of all draws.
        trace: How log densities are taken; None for none.
        log_posterior: What corrects the draws; None for nothing.
    """

    prior: Prior
    conditions: Tensor
    rows: int
    chains: int
    draws: int
    seed: int
    trace: Trace | None = None
    log_posterior: LogPosterior | None = None

    def sample(self, places: Tensor, on_part: Callable[[float], object] | None = None) -> Draws:
        """Draws ``[m, C, S]`` of the observations at these places ``[m]``.

        Args:
            places: Their numbers, by which they are seeded.
            on_part: Called with the part of the work that was done since the last call.

        Raises:
            DataError: A point or its density is not finite.
        """
        size, device = self.chains * self.draws, self.conditions.device
        w = torch.cat([self._noise(place, size) for place in places.tolist()]).to(device)
        which = places.to(device).repeat_interleave(size)
        count = len(w)
        order = F.pad(torch.arange(count, device=device), (0, -count % self.rows))
        points, density, calls = [], [], 0
        for block in torch.split(order, self.rows):
            given = {"labels": self.conditions[which[block]]}
            if self.trace is None:
                generated = self.prior.points(w[block], given)
            else:
                generated, found = self.prior.points_and_density(w[block], given, self.trace)
                density.append(found)
            points.append(generated.points)
            calls = generated.calls
            if on_part:
                on_part(min(1.0, self.rows / count))
        shape = (len(places), self.chains, self.draws)
        log_density = torch.cat(density)[:count].view(shape) if density else None
        drawn = Draws(
            w.view(*shape, -1),
            torch.cat(points)[:count].view(*shape, -1),
            w.new_full(shape, torch.nan),
            [SAMPLER] * len(places),
            torch.full((len(places),), float(calls * size), dtype=torch.float64),
            log_density=log_density,
        )
        return self._corrected(drawn, places) if self.log_posterior else drawn

    def _noise(self, place: int, size: int) -> Tensor:
        generator = seeded_generator("cpu", hash_seed(self.seed, place), Stream.POSTERIOR_DRAWS)
        return torch.randn(size, self.prior.dim, generator=generator, dtype=torch.float64)

    def _corrected(self, drawn: Draws, places: Tensor) -> Draws:
        """Draws taken again by their weights, and what these are worth."""
        assert self.log_posterior is not None
        assert drawn.log_density is not None
        numbers, density = places.tolist(), drawn.log_density.flatten(1)
        points = drawn.points.flatten(1, 2)
        wanted = [
            self.log_posterior(rows, self.conditions[place].expand(len(rows), -1))
            for rows, place in zip(points, numbers, strict=True)
        ]
        log_weights = torch.stack(wanted) - density
        if (log_weights.amax(dim=1) == -torch.inf).any():
            raise DataError(
                f"the posterior's density is 0 at all of {density.shape[1]} draws of the flow: "
                "there is nothing to correct"
            )
        smoothed = smoothed_weights(log_weights)
        picks = torch.stack(
            [
                shuffled_picks(row, hash_seed(self.seed, place), density.shape[1])
                for row, place in zip(smoothed.log_weights.cpu(), numbers, strict=True)
            ]
        ).to(density.device)
        shape, rows = drawn.log_density.shape, torch.arange(len(numbers))[:, None]
        return replace(
            drawn,
            w=drawn.w.flatten(1, 2)[rows, picks].view(*shape, -1),
            points=points[rows, picks].view(*shape, -1),
            log_density=density[rows, picks].view(shape),
            stats={"effective_size": smoothed.effective_size.cpu(), "pareto_k": smoothed.k.cpu()},
        )
