"""Invertible maps of the columns of a table, each with the log of its Jacobian determinant.

All take points ``[..., D]`` in float64 to points of that shape, are one to one from all (or, where
columns are bounded, from between their bounds) to all of ``R^D``, and are smooth enough for
gradients to pass. A map is constructed empty, as the identity where there is one; what it holds are
buffers, which a fit or a file fills.
"""

from abc import ABC, abstractmethod
from math import log, pi
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.flow.eigenbasis import identity


class PointMap(nn.Module, ABC):
    """An invertible map of points ``[..., D]``; a spline of one has a number of knots."""

    def __init__(self, dim: int, knots: int):
        super().__init__()
        self.dim, self.knots = dim, knots

    def hold(self, **buffers: Tensor) -> None:
        """Registers float64 buffers by name, or gives those that are there other values."""
        for name, values in buffers.items():
            if name not in self._buffers:
                # Each its own: buffers of one memory would all be read as the last of them.
                self.register_buffer(name, values.to(torch.float64, copy=True))
            else:
                # In rows, as a file has them: of columns, some BLAS make other last digits.
                setattr(self, name, values.to(getattr(self, name)).contiguous())

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The images ``[..., D]`` of points, and ``log |det dy/dx| [...]``."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """The points ``[..., D]`` of images."""

    @abstractmethod
    def check(self) -> None:
        """Raises ValueError if what it holds does not make an invertible map."""


MOST_GAPS, NOWHERE = 11, 1e300
"""Of a column, and where those are that it does not have: files hold finite numbers."""
ROUNDED = 1e-6
"""Of a step: what differs by less are values of one."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
"""Of a bounded column, relative to its bounds."""


class Bounded(PointMap):
    """Columns with known bounds, mapped to the line.

    Between two bounds ``y = Phi^-1((x - low) / (high - low))``, so that a uniform column becomes
    normal; with one bound, ``y = log(x - low)`` or ``-log(high - x)``; without, ``y = x``.

    Attributes:
        low: Lower bounds ``[D]``; any finite number where there is none.
        high: Upper bounds ``[D]``, likewise.
        has_low: ``[D]``: 1 where there is a lower bound, else 0.
        has_high: ``[D]``, likewise.
    """

    low: Tensor
    high: Tensor
    has_low: Tensor
    has_high: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        zeros = torch.zeros(dim)
        self.hold(low=zeros, high=zeros, has_low=zeros, has_high=zeros)

    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Takes bounds ``[D]``, infinite where there is none."""
        self.hold(has_low=low.isfinite(), has_high=high.isfinite())
        self.hold(low=low.nan_to_num(neginf=0.0), high=high.nan_to_num(posinf=0.0))

    @property
    def ends(self) -> Tensor:
        """Bounds ``[D, 2]``, infinite where there is none."""
        low = torch.where(self.has_low > 0, self.low, -torch.inf)
        return torch.stack([low, torch.where(self.has_high > 0, self.high, torch.inf)], dim=1)

    @property
    def _kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Which columns ``[D]`` have both bounds, a lower one alone, an upper one alone."""
        low, high = self.has_low > 0, self.has_high > 0
        return low & high, low & ~high, high & ~low

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        both, lower, upper = self._kinds
        width = torch.where(both, self.high - self.low, 1.0)
        # Places that are not chosen get harmless values, so that no gradient of theirs is NaN.
        fraction = torch.where(both, (x - self.low) / width, 0.5)
        normal = torch.special.ndtri(fraction)
        above = torch.where(lower, x - self.low, 1.0)
        below = torch.where(upper, self.high - x, 1.0)
        y = torch.where(both, normal, torch.where(lower, above.log(), x))
        y = torch.where(upper, -below.log(), y)
        density = -normal.square() / 2 - log(2 * pi) / 2
        slope = torch.where(both, -density - width.log(), -above.log() - below.log())
        return y, slope.sum(dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        both, lower, upper = self._kinds
        between = self.low + (self.high - self.low) * torch.special.ndtr(y)
        # Rounding would put what is very far out on the bound itself, which has no image.
        margin = ROUNDING * torch.maximum(self.low.abs(), self.high.abs())
        between = torch.minimum(torch.maximum(between, self.low + margin), self.high - margin)
        above = self.low + torch.where(lower, y, 0.0).exp()
        below = self.high - (-torch.where(upper, y, 0.0)).exp()
        x = torch.where(both, between, torch.where(lower, above, y))
        return torch.where(upper, below, x)

    def inside(self, x: Tensor) -> Tensor:
        """Whether points ``[..., D]`` are between the bounds, ``[...]``."""
        above = (x > self.low) | (self.has_low == 0)
        below = (x < self.high) | (self.has_high == 0)
        return (above & below).all(dim=-1)

    def check(self) -> None:
        both, _, _ = self._kinds
        if (both & (self.high <= self.low)).any():
            raise ValueError("a column's lower bound is not below its upper one")


class Logarithm(Bounded):
    """Logarithms of columns that are positive over decades; others stay as they are."""


class Limits(Bounded):
    """Columns with known bounds that are left as they are.

    What a flow has beyond them is not to be: whoever draws from it rejects that.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.zeros_like(x[..., 0])

    def inverse(self, y: Tensor) -> Tensor:
        return y


class Gaps(PointMap):
    """Takes steps out of discrete columns, and moves what lies above them down.

    A value of its own probability has no part in a density: the interval of one step around it is
    empty, and without it the density of the others may be smooth.

    Attributes:
        places: Middles of the intervals ``[D, MOST_GAPS]``, rising, ``NOWHERE`` behind the last.
        steps: Their lengths ``[D]``.
    """

    places: Tensor
    steps: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        self.hold(
            places=torch.full((dim, MOST_GAPS), NOWHERE, dtype=torch.float64), steps=torch.ones(dim)
        )

    @property
    def some(self) -> Tensor:
        """Which columns have any ``[D]``."""
        return (self.places < NOWHERE).any(dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        below = (self.places < x[..., None]).sum(dim=-1)
        return x - self.steps * below, torch.zeros_like(x[..., 0])

    def inverse(self, y: Tensor) -> Tensor:
        before = torch.arange(MOST_GAPS, device=y.device)
        # Where intervals begin, of which those before are taken out already.
        ends = self.places - self.steps[:, None] * (0.5 + before)
        passed = (ends <= y[..., None]) & (self.places < NOWHERE)
        return y + self.steps * passed.sum(dim=-1)

    def check(self) -> None:
        near = self.places.diff(dim=-1) < self.steps[:, None] * (1 - ROUNDED)
        if (self.steps <= 0).any() or (near & (self.places[:, 1:] < NOWHERE)).any():
            raise ValueError("steps that are taken out of a column are not apart")


def sides(s: Tensor) -> tuple[Tensor, Tensor]:
    """Signs and absolute values: gradients of ``sign`` and ``abs`` are 0 at 0, where a column's
    median is, and those of these are right."""
    sign = torch.where(s >= 0, 1.0, -1.0).to(s)
    return sign, sign * s


class YeoJohnson(PointMap):
    """A power of each column, after its location and scale (Yeo and Johnson 2000).

    With ``s = (x - location) / scale`` and an exponent k between 0 and 2,

        y = ((1 + s)^k - 1) / k,   s >= 0;      y = -((1 - s)^(2 - k) - 1) / (2 - k),   s < 0,

    and logarithms at the ends. Outside of [0, 2] the map would be bounded on one side, and there
    would be points without an inverse.

    Attributes:
        location: ``[D]``.
        scale: ``[D]``, positive.
        exponent: ``[D]``, in [0, 2]; 1 changes nothing.
    """

    location: Tensor
    scale: Tensor
    exponent: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        ones = torch.ones(dim)
        self.hold(location=torch.zeros(dim), scale=ones, exponent=ones)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        s = (x - self.location) / self.scale
        sign, size = sides(s)
        exponent = torch.where(s >= 0, self.exponent, 2 - self.exponent)
        length = size.log1p()
        flat = exponent == 0
        power = torch.expm1(exponent * length) / torch.where(flat, 1.0, exponent)
        y = sign * torch.where(flat, length, power)
        return y, ((exponent - 1) * length - self.scale.log()).sum(dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        sign, size = sides(y)
        exponent = torch.where(y >= 0, self.exponent, 2 - self.exponent)
        flat = exponent == 0
        length = (exponent * size).log1p() / torch.where(flat, 1.0, exponent)
        s = sign * torch.expm1(torch.where(flat, size, length))
        return self.location + self.scale * s

    def check(self) -> None:
        if (self.scale <= 0).any() or (self.exponent < 0).any() or (self.exponent > 2).any():
            raise ValueError("a column's scale is not positive, or its exponent not within [0, 2]")


class _Piece(NamedTuple):
    """The piece of a spline that each of some values lies in, all ``[..., D]``.

    Attributes:
        before: Number of the knot before the value, -1 if there is none.
        x: Where the piece starts.
        y: Its value there.
        width: Its length.
        rise: What it rises by.
        low: The slope at its start.
        high: The slope at its end.
    """

    before: Tensor
    x: Tensor
    y: Tensor
    width: Tensor
    rise: Tensor
    low: Tensor
    high: Tensor


class NormalScores(PointMap):
    """A monotone spline through the normal scores of each column's quantiles.

    Between knots it is the monotone rational quadratic of Gregory and Delbourgo (1982), whose
    inverse is a root of a quadratic equation (as in Durkan et al. 2019, *Neural spline flows*,
    section 3.1); beyond the last knots it is linear. One continuous derivative.

    Attributes:
        places: Knots ``[K, D]`` in the columns, increasing.
        scores: Their images ``[K, D]``, increasing.
        slopes: Derivatives ``[K, D]`` there, positive.
    """

    places: Tensor
    scores: Tensor
    slopes: Tensor

    def __init__(self, dim: int, knots: int):
        super().__init__(dim, knots)
        if knots < 2:
            raise ValueError(f"a spline has at least 2 knots, not {knots}")
        # Of plain numbers, since a range on the meta device imports the compiler's algebra.
        even = [2 * index / (knots - 1) - 1 for index in range(knots)]
        line = torch.zeros(knots, dim, dtype=torch.float64)
        line.copy_(torch.tensor(even, dtype=torch.float64)[:, None])
        self.hold(places=line, scores=line, slopes=torch.ones(knots, dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        p = self._piece(x, self.places)
        a = ((x - p.x) / p.width).clamp(0, 1)
        b = a * (1 - a)
        mean = p.rise / p.width
        weight = mean + (p.low + p.high - 2 * mean) * b
        inside = p.y + p.rise * (mean * a.square() + p.low * b) / weight
        ends = p.high * a.square() + 2 * mean * b + p.low * (1 - a).square()
        slope = mean.square() * ends / weight.square()
        y = self._or_lines(p.before, x, inside, self.places, self.scores, self.slopes)
        # Where a piece is left, a is 0 or 1, and the slope is that of its end: the line's.
        return y, slope.log().sum(dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        p = self._piece(y, self.scores)
        up = (y - p.y).clamp(min=0).minimum(p.rise)
        mean = p.rise / p.width
        bend = up * (p.low + p.high - 2 * mean)
        a, b = p.rise * (mean - p.low) + bend, p.rise * p.low - bend
        root = (b.square() + 4 * a * mean * up).clamp(min=0).sqrt()
        inside = p.x + p.width * 2 * mean * up / (b + root)
        return self._or_lines(p.before, y, inside, self.scores, self.places, 1 / self.slopes)

    def _or_lines(
        self, before: Tensor, at: Tensor, inside: Tensor, start: Tensor, end: Tensor, slopes: Tensor
    ) -> Tensor:
        """The values inside, but lines beyond the last knots."""
        low = end[0] + slopes[0] * (at - start[0])
        high = end[-1] + slopes[-1] * (at - start[-1])
        return torch.where(before < 0, low, torch.where(before > self.knots - 2, high, inside))

    def _piece(self, values: Tensor, knots: Tensor) -> _Piece:
        """The pieces in which values ``[..., D]`` lie between knots ``[K, D]``."""
        flat = values.detach().reshape(-1, self.dim).T.contiguous()
        after = torch.searchsorted(knots.T.contiguous(), flat, right=True).T
        rows = (after - 1).clamp(0, self.knots - 2)

        def at(table: Tensor, offset: int = 0) -> Tensor:
            return table.gather(0, rows + offset).reshape(values.shape)

        x, y = at(self.places), at(self.scores)
        return _Piece(
            before=(after - 1).reshape(values.shape),
            x=x,
            y=y,
            width=at(self.places, 1) - x,
            rise=at(self.scores, 1) - y,
            low=at(self.slopes),
            high=at(self.slopes, 1),
        )

    def check(self) -> None:
        if (self.places.diff(dim=0) <= 0).any() or (self.scores.diff(dim=0) <= 0).any():
            raise ValueError("the knots of a spline do not increase")
        if (self.slopes <= 0).any():
            raise ValueError("a slope of a spline is not positive")


class Standardize(PointMap):
    """``y = (x - mean) / std``.

    Attributes:
        mean: ``[D]``.
        std: ``[D]``, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        self.hold(mean=torch.zeros(dim), std=torch.ones(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return (x - self.mean) / self.std, -self.std.log().sum().expand(x.shape[:-1])

    def inverse(self, y: Tensor) -> Tensor:
        return y * self.std + self.mean

    def check(self) -> None:
        if (self.std <= 0).any():
            raise ValueError("a standard deviation is not positive")


class WhitenPCA(Standardize):
    """``y = (x - mean) V diag(1/std)``: principal components, each of variance 1.

    Attributes:
        axes: ``V [D, D]``, the principal axes as orthonormal columns.
        std: ``[D]``, positive, along these.
    """

    axes: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        self.hold(axes=identity(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        along = (x - self.mean) @ self.axes
        return along / self.std, -self.std.log().sum().expand(x.shape[:-1])

    def inverse(self, y: Tensor) -> Tensor:
        return (y * self.std) @ self.axes.T + self.mean

    def check(self) -> None:
        super().check()
        unit = torch.eye(self.dim, dtype=torch.float64, device=self.axes.device)
        if not torch.allclose(self.axes.T @ self.axes, unit, atol=1e-9):
            raise ValueError("the axes are not orthonormal")


class WhitenZCA(WhitenPCA):
    """``y = (x - mean) V diag(1/std) V^T``: whitened, and turned back to the columns.

    Of all linear maps that whiten it moves points least, so that the edges that densities have
    along columns stay along coordinates.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y, log_det = super().forward(x)
        return y @ self.axes.T, log_det

    def inverse(self, y: Tensor) -> Tensor:
        return super().inverse(y @ self.axes)


MAPS: dict[str, type[PointMap]] = {
    "bounded": Bounded,
    "limits": Limits,
    "gaps": Gaps,
    "log": Logarithm,
    "yeo-johnson": YeoJohnson,
    "normal scores": NormalScores,
    "standardize": Standardize,
    "pca": WhitenPCA,
    "zca": WhitenZCA,
}
"""By the names that network files have."""
LINEAR = ("standardize", "pca", "zca")
"""Maps that are linear, and a shift."""
