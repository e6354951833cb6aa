"""Where the posterior of one observation may be, and draws of the prior from there.

Truncated proposals (Deistler, Goncalves and Macke 2022, "Truncated proposals for scalable and
hassle-free simulation-based inference", section 3): the region holds all but a share of
``LEFT_OUT`` of the posterior q that a flow has learned of the observation y,

    R = {theta: q(theta | y) >= the LEFT_OUT quantile of q at its own draws},

and parameters from there have the law of the prior, but for a constant: what is learned of them
needs no correction within R. Here R is also within a box, the range of these draws along their
principal axes, wider by ``WIDER`` at either end: that tells most of a wide prior apart without a
network, and a uniform prior need not be drawn beyond it. Each region lies within the one before,
since older simulations would be fewer outside of it than new ones.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.flow.likelihood import Trace
from training.inference.amortized import Amortized

LEFT_OUT = 1e-4
DRAWS = 10_000
"""Of the posterior, of which a region is made."""
WIDER = 0.1
"""Of the range of these draws along an axis."""
BLOCKS, MOST_DRAWS = (2**11, 2**17), 2**25
"""Draws of the prior at once, twice as many each time from the first number to the other; and in
all, at most."""
EXACT = Trace("exact")
HERE = torch.zeros(1, dtype=torch.int64)
"""The place of the one observation."""


@dataclass(frozen=True)
class Bounds:
    """What makes a region of a posterior.

    Attributes:
        least: Log density, nats.
        center: Of the box, ``[D]``.
        axes: Its axes in columns, ``[D, D]``: a point is inside if ``(theta - center) @ axes`` is
            between ``low`` and ``high``.
        low: ``[D]``.
        high: ``[D]``.
    """

    least: float
    center: Tensor
    axes: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, posterior: Amortized) -> "Bounds":
        """Those of the posterior of one observation, which makes ``DRAWS`` draws without their
        densities."""
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
        """Least and largest number ``[D]`` of each coordinate in the box."""
        sides = torch.linalg.inv(self.axes)
        ends = torch.stack([self.low[:, None] * sides, self.high[:, None] * sides])
        return self.center + ends.amin(dim=0).sum(dim=0), self.center + ends.amax(dim=0).sum(dim=0)

    def plain(self) -> dict[str, object]:
        """Plain numbers and lists, as a JSON file takes them."""
        names = ("center", "axes", "low", "high")
        return {"least": self.least, **{name: getattr(self, name).tolist() for name in names}}


@dataclass(frozen=True)
class Region:
    """Where the posterior of one observation may be, by bounds of each posterior of all rounds
    before; none for all of the prior."""

    parts: Sequence[tuple[Bounds, Amortized]] = ()

    def within(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        """Of a box between ``low [D]`` and ``high [D]``, a smaller one that has all of the region
        that is in it."""
        for bounds, _ in self.parts:
            least, most = bounds.hull()
            low, high = torch.maximum(low, least), torch.minimum(high, most)
        return low, high

    def __call__(self, points: Tensor) -> Tensor:
        """Whether points ``[N, D]`` are inside, ``[N]``, on their device."""
        inside = torch.ones(len(points), dtype=torch.bool)
        rows = points.cpu()
        for bounds, _ in self.parts:
            along = (rows - bounds.center) @ bounds.axes
            inside &= ((along >= bounds.low) & (along <= bounds.high)).all(dim=1)
        # The last is the narrowest.
        for bounds, posterior in reversed(self.parts):
            places = inside.nonzero()[:, 0]
            if len(places):
                left = rows[places].to(posterior.conditions.device)
                density = posterior.log_density(left[None], HERE, EXACT)[0].cpu()
                inside[places] = density >= bounds.least
        return inside.to(points.device)


@dataclass(frozen=True)
class Restricted:
    """Draws of a prior from a region.

    Attributes:
        points: ``[N, D]``.
        share: Of the prior that is inside.
        error: Its standard error.
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
    """Draws of a prior that lie in a region, by rejection of all others.

    Args:
        prior: So many draws ``[n, D]``, new ones each time.
        region: The region.
        count: How many are wanted.
        enough: How many are wanted of a region that has been found to hold such a share; None for
            as many.
        part: Of the prior, from which its draws are, with all of the region.

    Returns:
        None if there are too few among ``MOST_DRAWS``.
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
