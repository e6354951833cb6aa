"""Intervals and regions that hold what they state, by truths that were held out.

What a posterior states is asked for at another level: that of all truths (``measure.conformal``),
or that of the truths whose conditions are nearest to an observation (``measure.conformal``). Both
hold on average over observations, which is guaranteed; that of the neighbors also follows
posteriors that err alike where these lie.

Draws whose ranks in each coordinate are moved to where truths are have calibrated marginals, and
the dependence between coordinates that they had.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.held_out import HeldOut
from training.measure.conformal import Neighbors, asked, oddness, recalibrated
from training.measure.posterior.coverage import central_values

SHARES = (0.5, 0.8, 0.9, 0.95)
"""That intervals and regions are stated for."""
NEAR, FEWEST_NEAR = 5, 50
"""One in so many truths is near an observation, but so many at least."""
AROUND = 5
"""Neighbors that distances are taken to."""
NEAREST = "distance to its neighbors"
"""The oddity that follows from the conditions themselves."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Contents to ask for, of L stated shares; of M observations where they are local.

    Attributes:
        intervals: ``[L, Q]`` or ``[M, L, Q]``, of central intervals of each quantity.
        regions: ``[L]`` or ``[M, L]``, of highest-density regions.
    """

    intervals: Tensor
    regions: Tensor


@dataclass(frozen=True, eq=False)
class HeldOutTruths:
    """What held-out truths make of posteriors.

    Attributes:
        held_out: The truths.
    """

    held_out: HeldOut

    @property
    def near_count(self) -> int:
        """K, truths that are near an observation; 0 where there are no conditions."""
        truths = self.held_out.truths
        return min(truths - 1, max(FEWEST_NEAR, truths // NEAR)) * bool(
            self.held_out.whitened.shape[1]
        )

    def levels(self, shares: Sequence[float] = SHARES) -> Levels:
        """Levels that hold on average over observations."""
        contents = torch.stack([asked(self._scores, share) for share in shares])
        return Levels(contents[:, :-1], contents[:, -1])

    def levels_near(
        self, whitened: Tensor, shares: Sequence[float] = SHARES
    ) -> tuple[Levels, Tensor]:
        """Levels by the truths nearest to each observation ``[M, C]``, and the distance ``[M]`` of
        the farthest of these. Raises UsageError if there are no conditions."""
        if not self.near_count:
            raise UsageError("these held-out truths have no conditions: none is near")
        contents, distances = self._near.asked(self._scores, whitened, shares)
        return Levels(contents[..., :-1], contents[..., -1]), distances

    @cached_property
    def _scores(self) -> Tensor:
        """Contents ``[n, Q + 1]`` of the smallest intervals and regions with the truths."""
        central = central_values(self.held_out.ranks)
        return torch.cat([central, self.held_out.contents[:, None]], dim=1)

    @cached_property
    def _near(self) -> Neighbors:
        return Neighbors.of(self.held_out.whitened, self.near_count)

    def recalibrated(self, draws: Tensor) -> Tensor:
        """Draws ``[S, D]`` of a posterior whose ranks in each coordinate are moved to where truths
        are; see ``measure.conformal.recalibrated``. Their dependence is that of the draws."""
        ordered, order = draws.double().sort(dim=0)
        levels = (torch.arange(len(draws)).to(ordered) + 0.5) / len(draws)
        ranks = self.held_out.ranks[:, : draws.shape[1]]
        moved = recalibrated(ranks, levels[:, None].expand_as(ordered))
        # Draws of few values, as of counts, have none between these.
        repeated = (ordered[1:] == ordered[:-1]).any(dim=0)
        nearest = (moved * len(draws)).long().clamp_max(len(draws) - 1)
        values = at_levels(ordered, moved).where(~repeated, ordered.gather(0, nearest))
        return torch.empty_like(ordered).scatter(0, order, values)

    def p_values(self, whitened: Tensor, odd: Tensor) -> tuple[Tensor, list[str]]:
        """How probable it is that an observation like the held-out ones is as odd as each of these,
        ``[M, C]`` whitened as held-out ones are, with other oddities ``[M, K]``: p-values ``[M]``,
        at most a in a share a of observations that are exchangeable with those held out, and the
        name of the oddest number of each."""
        known, own = Neighbors.of(self.held_out.whitened, AROUND).relative(whitened)
        p, oddest = oddness((self.held_out.odd, odd.to(known)), (known[:, :, None], own[:, None]))
        names = [*self.held_out.oddities, NEAREST]
        return p, [names[place] for place in oddest.tolist()]


def at_levels(ordered: Tensor, levels: Tensor) -> Tensor:
    """Quantiles ``[L, ...]`` of ordered draws ``[S, ...]``, between the two nearest."""
    place = (levels.to(ordered) * len(ordered) - 0.5).clamp(0, len(ordered) - 1)
    below = place.floor().long().clamp_max(max(len(ordered) - 2, 0))
    above = (below + 1).clamp_max(len(ordered) - 1)
    return torch.lerp(ordered.gather(0, below), ordered.gather(0, above), place - below)


def intervals(values: Tensor, contents: Tensor) -> Tensor:
    """Ends ``[L, Q, 2]`` of central intervals of draws ``[S, Q]``, by their contents ``[L, Q]``;
    infinite where everything is asked for."""
    ordered, everything = values.double().sort(dim=0).values, contents >= 1
    low = at_levels(ordered, (1 - contents) / 2).masked_fill(everything, -torch.inf)
    high = at_levels(ordered, (1 + contents) / 2).masked_fill(everything, torch.inf)
    return torch.stack([low, high], dim=2)


def thresholds(log_density: Tensor, contents: Tensor) -> Tensor:
    """Log densities ``[L]`` above which highest-density regions of these contents lie, by those of
    draws ``[S]``; minus infinity where everything is asked for."""
    ordered = log_density.double().sort().values
    return at_levels(ordered, 1 - contents).masked_fill(contents >= 1, -torch.inf)
