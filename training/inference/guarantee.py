"""Conformal calibration of intervals and regions with a calibration set.

Intervals and regions of a posterior are read off at adjusted levels, so that they have their
nominal coverage: levels from all cases of the calibration set, or from those whose conditions are
nearest to an observation (``measure.conformal``). Both have guaranteed coverage on average over
observations. The local levels also adapt to errors that posteriors have in common in a
neighborhood.

Draws can be recalibrated by moving their ranks in each coordinate to match those of the true
values. They then have calibrated marginals and keep their dependence between coordinates.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.flow.held_out import HeldOut
from training.measure.conformal import Neighbors, asked, outlier_p_values, recalibrated
from training.measure.posterior.calibration import central_values

SHARES = (0.5, 0.8, 0.9, 0.95)
"""Nominal coverages of the reported intervals and regions."""
NEAR, FEWEST_NEAR = 5, 50
"""Nearest cases used by local levels: one case in ``NEAR``, but at least ``FEWEST_NEAR``."""
AROUND = 5
"""Number of neighbors that distances are computed to."""
NEAREST = "distance to the nearest conditions"
"""Name of the out-of-distribution score that is computed from the conditions alone."""
TINY = 1e-9
"""Allowance for rounding in levels."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Conformally adjusted levels of intervals and regions, for L nominal coverages.

    Local levels are computed separately for each of M observations.

    Attributes:
        intervals: Levels ``[L, Q]`` or ``[M, L, Q]`` of central intervals of Q quantities.
        regions: Levels ``[L]`` or ``[M, L]`` of highest-density regions.
    """

    intervals: Tensor
    regions: Tensor


@dataclass(frozen=True, eq=False)
class HeldOutTruths:
    """Conformal calibration of posteriors with the true values of a calibration set.

    Attributes:
        held_out: Ranks and other statistics of the calibration set. If distances beyond the draws
            are known, a level of ``1 + a`` is an interval that ends ``a`` standard deviations
            beyond the outermost draws. If not, intervals that would end there are infinite.
    """

    held_out: HeldOut

    @property
    def near_count(self) -> int:
        """Number of nearest calibration cases used for an observation; 0 without conditions."""
        truths = self.held_out.truths
        return min(truths - 1, max(FEWEST_NEAR, truths // NEAR)) * bool(
            self.held_out.whitened.shape[1]
        )

    def levels(self, shares: Sequence[float] = SHARES) -> Levels:
        """Return adjusted levels that give the nominal coverage on average over observations.

        Args:
            shares: L nominal coverages.
        """
        return self._levels(torch.stack([asked(self._scores, share) for share in shares]))

    def _levels(self, contents: Tensor) -> Levels:
        """Return levels ``[..., Q + 1]`` in parts, 1 where draws do not reach far enough.

        Values beyond all of S draws have random ranks in the outermost of ``S + 1`` bins, so that
        levels within these bins say nothing.
        """
        draws = self.held_out.draws
        least = contents.new_full((contents.shape[-1],), (draws - 1) / (draws + 1))
        least[-1] = draws / (draws + 1)
        contents = contents.masked_fill((contents > least + TINY) & (contents < 1), 1.0)
        return Levels(contents[..., :-1], contents[..., -1])

    def levels_near(
        self, whitened: Tensor, shares: Sequence[float] = SHARES
    ) -> tuple[Levels, Tensor]:
        """Return adjusted levels from the calibration cases nearest to each of M observations.

        Args:
            whitened: Whitened conditions of the observations ``[M, C]``.
            shares: Nominal coverages.

        Returns:
            The levels, and the distance ``[M]`` of the farthest case used for each observation.

        Raises:
            UsageError: There are no conditions.
        """
        if not self.near_count:
            raise UsageError(
                "this calibration has no conditions, hence no nearest cases: use levels() instead "
                "of levels_near()"
            )
        contents, distances = self._near.asked(self._scores, whitened, shares)
        return self._levels(contents), distances

    @cached_property
    def _scores(self) -> Tensor:
        """Levels ``[n, Q + 1]`` of the smallest intervals and regions that cover true values."""
        central, beyond = central_values(self.held_out.ranks), self.held_out.beyond
        if beyond is not None:
            central = torch.where(beyond > 0, 1 + beyond, central)
        return torch.cat([central, self.held_out.contents[:, None]], dim=1)

    @cached_property
    def _near(self) -> Neighbors:
        return Neighbors.from_rows(self.held_out.whitened, self.near_count)

    def recalibrated(self, draws: Tensor) -> Tensor:
        """Recalibrate draws ``[S, D]`` of one posterior, one coordinate at a time.

        Draws are moved so that true values have uniform ranks among them
        (``measure.conformal.recalibrated``). The dependence between coordinates is kept.
        """
        ordered, order = draws.double().sort(dim=0)
        levels = (torch.arange(len(draws)).to(ordered) + 0.5) / len(draws)
        ranks = self.held_out.ranks[:, : draws.shape[1]]
        moved = recalibrated(ranks, levels[:, None].expand_as(ordered))
        # Draws of a discrete column, such as counts, have no values between those that occur.
        repeated = (ordered[1:] == ordered[:-1]).any(dim=0)
        nearest = (moved * len(draws)).long().clamp_max(len(draws) - 1)
        values = at_levels(ordered, moved).where(~repeated, ordered.gather(0, nearest))
        return torch.empty_like(ordered).scatter(0, order, values)

    def p_values(self, whitened: Tensor, odd: Tensor) -> tuple[Tensor, list[str]]:
        """Test whether observations are out of distribution.

        A p-value is the probability that an observation like those of the calibration set has
        scores at least as extreme as the given observation. An observation that is
        exchangeable with the calibration set has a p-value of at most ``alpha`` with probability at
        most ``alpha``.

        Args:
            whitened: Conditions ``[M, C]``, whitened like those of the calibration set.
            odd: Further out-of-distribution scores of the observations ``[M, K]``.

        Returns:
            P-values ``[M]``, and the name of the most extreme score of each observation.
        """
        known, own = Neighbors.from_rows(self.held_out.whitened, AROUND).relative(whitened)
        p, oddest = outlier_p_values(
            (self.held_out.odd, odd.to(known)), (known[:, :, None], own[:, None])
        )
        names = [*self.held_out.oddities, NEAREST]
        return p, [names[place] for place in oddest.tolist()]


def at_levels(ordered: Tensor, levels: Tensor) -> Tensor:
    """Return the quantiles ``[L, ...]`` of sorted draws ``[S, ...]`` at levels, interpolated.

    Args:
        ordered: Draws in increasing order.
        levels: Levels ``[L, ...]`` from 0 to 1.
    """
    place = (levels.to(ordered) * len(ordered) - 0.5).clamp(0, len(ordered) - 1)
    below = place.floor().long().clamp_max(max(len(ordered) - 2, 0))
    above = (below + 1).clamp_max(len(ordered) - 1)
    return torch.lerp(ordered.gather(0, below), ordered.gather(0, above), place - below)


def intervals(values: Tensor, contents: Tensor) -> Tensor:
    """Return the ends ``[L, Q, 2]`` of central intervals of draws, infinite at level 1.

    Args:
        values: Draws ``[S, Q]`` of Q quantities.
        contents: Levels ``[L, Q]`` of the intervals; above 1 see ``HeldOutTruths``.
    """
    ordered, everything = values.double().sort(dim=0).values, (contents == 1) | contents.isinf()
    further = (contents - 1).clamp(min=0) * ordered.std(dim=0, correction=0)
    low = (at_levels(ordered, (1 - contents) / 2) - further).masked_fill(everything, -torch.inf)
    high = (at_levels(ordered, (1 + contents) / 2) + further).masked_fill(everything, torch.inf)
    return torch.stack([low, high], dim=2)


def thresholds(log_density: Tensor, contents: Tensor) -> Tensor:
    """Return the log-density thresholds ``[L]`` of highest-density regions at L levels.

    Thresholds are quantiles of the log densities of draws; minus infinity at level 1.

    Args:
        log_density: Log densities of draws ``[S]``.
        contents: Levels ``[L]`` of the regions.
    """
    ordered = log_density.double().sort().values
    return at_levels(ordered, 1 - contents).masked_fill(contents >= 1, -torch.inf)
