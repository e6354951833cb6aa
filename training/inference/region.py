"""Region that contains the posterior of one observation, and prior draws from that region.

These are truncated proposals (Deistler, Goncalves and Macke 2022, "Truncated proposals for scalable
and hassle-free simulation-based inference", section 3). The region contains all but a fraction
``LEFT_OUT`` of the posterior q that a flow has learned for the observation y,

    R = {theta: q(theta | y) >= the LEFT_OUT quantile of q at its own draws},

and parameters in it are distributed like the prior up to a constant, so that a posterior learned
from them needs no correction within R. Here R is also limited to a box: the range of these draws
along their principal axes, extended by ``WIDER`` at either end. The box excludes most of a wide
prior without network evaluations, and a uniform prior need not be drawn beyond it. Each region lies
within the previous one, since older simulations would be sparser outside of it than new ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.flow.likelihood import Trace
from training.inference.amortized import Amortized

LEFT_OUT = 1e-4
DRAWS = 10_000
"""Number of posterior draws that define a region."""
WIDER = 0.1
"""Margin of the box, as a fraction of the range of these draws along an axis."""
BLOCKS, MOST_DRAWS = (2**11, 2**17), 2**25
"""Sizes of the first and the largest block of prior draws (sizes double), and limit on all
draws.
"""
EXACT = Trace("exact")
HERE = torch.zeros(1, dtype=torch.int64)
"""Place of the one observation."""


@dataclass(frozen=True)
class Bounds:
    """Bounds of a truncated region, from the posterior of one round.

    Attributes:
        least: Smallest log posterior density inside the region, in nats.
        center: Center of the box, ``[D]``.
        axes: Axes of the box in columns, ``[D, D]``: a point is inside if ``(theta - center) @
            axes`` is between ``low`` and ``high``.
        low: Lower bounds along the axes ``[D]``.
        high: Upper bounds along the axes ``[D]``.
    """

    least: float
    center: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def from_posterior(cls, posterior: Amortized) -> "Bounds":
        """Compute the bounds from draws of the posterior of one observation."""
        points = posterior.sample(HERE).points.flatten(0, 2).cpu()
        center, spread = points.mean(dim=0), points.std(dim=0)
        scaled = torch.where(spread > 0, spread, 1.0)
        _, turned = torch.linalg.eigh(((points - center) / scaled).T.cov().reshape(len(spread), -1))
        axes = turned / scaled[:, None]
        along = (points - center) @ axes
        low, high = along.amin(dim=0), along.amax(dim=0)
        margin = WIDER * (high - low)
        density = posterior.log_density(points[None].to(posterior.conditions.device), HERE, EXACT)
        least = float(density[0].cpu().quantile(LEFT_OUT))
        return cls(least, center, axes, low - margin, high + margin)

    def hull(self) -> tuple[Tensor, Tensor]:
        """Return the smallest and the largest value of each coordinate in the box, ``[D]`` each."""
        sides = torch.linalg.inv(self.axes)
        ends = torch.stack([self.low[:, None] * sides, self.high[:, None] * sides])
        return self.center + ends.amin(dim=0).sum(dim=0), self.center + ends.amax(dim=0).sum(dim=0)

    def plain(self) -> dict[str, object]:
        """Return the bounds as numbers and lists for a JSON file."""
        names = ("center", "axes", "low", "high")
        return {"least": self.least, **{name: getattr(self, name).tolist() for name in names}}


@dataclass(frozen=True)
class Region:
    """Truncated region of the prior that contains the posterior of one observation.

    Attributes:
        parts: Bounds and posterior of each earlier round; empty for the whole prior.
    """

    parts: Sequence[tuple[Bounds, Amortized]] = ()

    def within(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Shrink a box in parameter space to a box around its intersection with the region.

        Args:
            low: Lower bounds of the box ``[D]``.
            high: Upper bounds of the box ``[D]``.

        Returns:
            The lower and upper bounds of the smaller box, ``[D]`` each.
        """
        for bounds, _ in self.parts:
            least, most = bounds.hull()
            low, high = torch.maximum(low, least), torch.minimum(high, most)
        return low, high

    def __call__(self, points: Tensor) -> Tensor:
        """Return a mask ``[N]`` of the points ``[N, D]`` inside the region, on their device."""
        inside = torch.ones(len(points), dtype=torch.bool)
        rows = points.cpu()
        for bounds, _ in self.parts:
            along = (rows - bounds.center) @ bounds.axes
            inside &= ((along >= bounds.low) & (along <= bounds.high)).all(dim=1)
        # The last bounds are the narrowest.
        for bounds, posterior in reversed(self.parts):
            places = inside.nonzero()[:, 0]
            if len(places):
                left = rows[places].to(posterior.conditions.device)
                density = posterior.log_density(left[None], HERE, EXACT)[0].cpu()
                inside[places] = density >= bounds.least
        return inside.to(points.device)


@dataclass(frozen=True)
class Restricted:
    """Draws of a prior within a region.

    Attributes:
        points: Drawn points ``[N, D]``.
        share: Estimated prior probability of the region.
        error: Standard error of the estimated probability.
    """

    points: Tensor
    share: float
    error: float


def restricted(
    prior: Callable[[int], Tensor],
    region: Region,
    count: int,
    enough: Callable[[float], int] | None = None,
    part: float = 1.0,
) -> Restricted | None:
    """Draw from a prior within a region, by rejection sampling.

    Args:
        prior: Function that returns n new draws ``[n, D]``.
        region: The region.
        count: Number of draws wanted.
        enough: Function from the estimated prior probability of the region to the number of draws
            wanted; None to keep ``count``.
        part: Prior probability of the box that ``prior`` draws from, which must include the region.

    Returns:
        The draws; None if too few of ``MOST_DRAWS`` prior draws are in the region.
    """
    if not region.parts:
        return Restricted(prior(count), 1.0, 0.0)
    parts, tried, inside, block = list[Tensor](), 0, 0, BLOCKS[0]
    while inside < count:
        if tried >= MOST_DRAWS:
            return None
        points = prior(block)
        points = points[region(points)]
        parts.append(points)
        tried, inside, block = tried + block, inside + len(points), min(2 * block, BLOCKS[1])
        if enough is not None and inside >= count:
            count, enough = enough(part * inside / tried), None
    share = inside / tried
    error = (share * (1 - share) / tried) ** 0.5
    return Restricted(torch.cat(parts)[:count], part * share, part * error)
