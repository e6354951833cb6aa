"""Invertible maps of the columns of a table, each with the log of its Jacobian determinant.

A map takes points ``[..., D]`` in float64 to points of the same shape. It is one-to-one from all of
``R^D`` (or, for bounded columns, from between their bounds) onto ``R^D``, and smooth enough for
gradients. A new map is the identity where possible. Its parameters are buffers, set by a fit or
from a file.
"""

from abc import ABC, abstractmethod
from math import log, pi
from typing import NamedTuple, Self

import torch
from torch import Tensor, nn

from training.flow.eigenbasis import identity


class PointMap(nn.Module, ABC):
    """An invertible map of points ``[..., D]``.

    Args:
        dim: D, the number of columns.
        knots: Number of knots of each spline; used by maps with splines only.
    """

    def __init__(self, dim: int, knots: int):
        super().__init__()
        self.dim, self.knots = dim, knots

    def hold(self, **buffers: Tensor) -> None:
        """Register float64 buffers by name, or overwrite existing buffers of the same names."""
        for name, values in buffers.items():
            if name not in self._buffers:
                # Copies, since buffers that share memory would all be loaded as the last of them.
                self.register_buffer(name, values.to(torch.float64, copy=True))
            else:
                # Stored row-major, as in a file: for column-major ones some BLAS return other last
                # digits.
                setattr(self, name, values.to(getattr(self, name)).contiguous())

    @abstractmethod
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``y [..., D]`` of points x, and ``log |det dy/dx| [...]``."""

    @abstractmethod
    def inverse(self, y: Tensor) -> Tensor:
        """Return the points ``[..., D]`` whose images are ``y [..., D]``."""

    @abstractmethod
    def check(self) -> None:
        """Raise ValueError if the buffers do not make an invertible map."""


MOST_GAPS, NOWHERE = 11, 1e300
"""Maximum number of gaps per column, and a finite stand-in for absent gaps in files."""
ROUNDED = 1e-6
"""Fraction of a step: values that differ by less are equal."""
ROUNDING = 4 * torch.finfo(torch.float64).eps
"""Margin from the bounds of a column, relative to their size."""


class Bounded(PointMap):
    """Columns with known bounds, mapped to the real line.

    Between two bounds ``y = Phi^-1((x - low) / (high - low))``, so that a uniform column becomes
    normal. With one bound ``y = log(x - low)`` or ``-log(high - x)``, and without bounds ``y = x``.

    Attributes:
        low: Lower bounds ``[D]``; any finite number where there is none.
        high: Upper bounds ``[D]``; any finite number where there is none.
        has_low: 1 for each column with a lower bound, else 0, ``[D]``.
        has_high: 1 for each column with an upper bound, else 0, ``[D]``.
    """

    low: Tensor
    high: Tensor
    has_low: Tensor
    has_high: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        zeros = torch.zeros(dim)
        self.hold(low=zeros, high=zeros, has_low=zeros, has_high=zeros)

    @classmethod
    def between(cls, ends: Tensor) -> Self:
        """Return the map of columns with lower and upper bounds ``[D, 2]``, infinite for none."""
        made = cls(len(ends)).to(ends.device)
        made.set_bounds(*ends.T)
        return made

    def set_bounds(self, low: Tensor, high: Tensor) -> None:
        """Set the lower and upper bounds of the columns ``[D]``; infinite values mean no bound."""
        self.hold(has_low=low.isfinite(), has_high=high.isfinite())
        self.hold(low=low.nan_to_num(neginf=0.0), high=high.nan_to_num(posinf=0.0))

    @property
    def ends(self) -> Tensor:
        """Lower and upper bounds of the columns ``[D, 2]``, infinite where there is no bound."""
        low = torch.where(self.has_low > 0, self.low, -torch.inf)
        return torch.stack([low, torch.where(self.has_high > 0, self.high, torch.inf)], dim=1)

    @property
    def _kinds(self) -> tuple[Tensor, Tensor, Tensor]:
        """Masks ``[D]`` of columns with both bounds, only a lower one, and only an upper one."""
        low, high = self.has_low > 0, self.has_high > 0
        return low & high, low & ~high, high & ~low

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``y [..., D]`` of points x, and ``log |det dy/dx| [...]``."""
        both, lower, upper = self._kinds
        width = torch.where(both, self.high - self.low, 1.0)
        # Branches that are not selected get harmless values, so that their gradients are not NaN.
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
        """Return the points ``[..., D]``, strictly between the bounds, of images ``y [..., D]``."""
        both, lower, upper = self._kinds
        between = self.low + (self.high - self.low) * torch.special.ndtr(y)
        # Rounding would put extreme values on the bound itself, which has no image.
        margin = ROUNDING * torch.maximum(self.low.abs(), self.high.abs())
        between = torch.minimum(torch.maximum(between, self.low + margin), self.high - margin)
        above = self.low + torch.where(lower, y, 0.0).exp()
        below = self.high - (-torch.where(upper, y, 0.0)).exp()
        x = torch.where(both, between, torch.where(lower, above, y))
        return torch.where(upper, below, x)

    def inside(self, x: Tensor) -> Tensor:
        """Return a mask ``[...]`` of the points ``[..., D]`` within the bounds of all columns."""
        above = (x > self.low) | (self.has_low == 0)
        below = (x < self.high) | (self.has_high == 0)
        return (above & below).all(dim=-1)

    def check(self) -> None:
        """Raise ValueError unless each lower bound is below the upper bound of the column."""
        both, _, _ = self._kinds
        if (both & (self.high <= self.low)).any():
            raise ValueError(
                "the lower bound of a column is not below its upper bound: give a lower bound "
                "below the upper bound"
            )


class Logarithm(Bounded):
    """Logarithms of positive columns that span decades; other columns are unchanged."""


class Limits(Bounded):
    """Identity map of columns with known bounds.

    The flow can generate points beyond the bounds; samplers reject these points.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the points ``[..., D]`` unchanged, and log determinants ``[...]`` of 0."""
        return x, torch.zeros_like(x[..., 0])

    def inverse(self, y: Tensor) -> Tensor:
        """Return the images ``[..., D]`` unchanged."""
        return y


class Gaps(PointMap):
    """Map that removes single bins from discrete columns, and moves larger values down.

    A value with a probability mass of its own is not part of a density. The bin around this value
    is removed, so that the density of the other values can be smooth.

    Attributes:
        places: Centers of the removed bins ``[D, MOST_GAPS]``, increasing, padded by ``NOWHERE``.
        steps: Width of the bins of each column ``[D]``.
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
        """Mask ``[D]`` of columns with removed bins."""
        return (self.places < NOWHERE).any(dim=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Move points ``[..., D]`` down by the widths of removed bins; log determinants are 0."""
        below = (self.places < x[..., None]).sum(dim=-1)
        return x - self.steps * below, torch.zeros_like(x[..., 0])

    def inverse(self, y: Tensor) -> Tensor:
        """Move images ``[..., D]`` up by the widths of the bins that ``forward`` removed."""
        before = torch.arange(MOST_GAPS, device=y.device)
        # Starts of the gaps, after the earlier gaps are removed.
        ends = self.places - self.steps[:, None] * (0.5 + before)
        passed = (ends <= y[..., None]) & (self.places < NOWHERE)
        return y + self.steps * passed.sum(dim=-1)

    def check(self) -> None:
        """Raise ValueError if a bin width is not positive, or removed bins of a column overlap."""
        near = self.places.diff(dim=-1) < self.steps[:, None] * (1 - ROUNDED)
        if (self.steps <= 0).any() or (near & (self.places[:, 1:] < NOWHERE)).any():
            raise ValueError(
                "the stored gaps (removed bins) of a column overlap or have no positive width: "
                "restore the file from a copy"
            )


def sides(s: Tensor) -> tuple[Tensor, Tensor]:
    """Return the signs and the absolute values of numbers ``s``, with one-sided gradients at 0.

    PyTorch's ``sign`` and ``abs`` have gradients of 0 at 0, which is the median of a column.
    """
    sign = torch.where(s >= 0, 1.0, -1.0).to(s)
    return sign, sign * s


class YeoJohnson(PointMap):
    """Power transform of each column, after its location and scale (Yeo and Johnson 2000).

    With ``s = (x - location) / scale`` and an exponent k between 0 and 2,

        y = ((1 + s)^k - 1) / k,   s >= 0;      y = -((1 - s)^(2 - k) - 1) / (2 - k),   s < 0,

    and logarithms at the ends. Outside of [0, 2] the range would be bounded on one side, and some
    points would have no inverse.

    Attributes:
        location: Location of each column ``[D]``.
        scale: Scale of each column ``[D]``, positive.
        exponent: Exponent k of each column ``[D]``, in [0, 2]; 1 is the identity.
    """

    location: Tensor
    scale: Tensor
    exponent: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        ones = torch.ones(dim)
        self.hold(location=torch.zeros(dim), scale=ones, exponent=ones)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``y [..., D]`` of points x, and ``log |det dy/dx| [...]``."""
        s = (x - self.location) / self.scale
        sign, size = sides(s)
        exponent = torch.where(s >= 0, self.exponent, 2 - self.exponent)
        length = size.log1p()
        flat = exponent == 0
        power = torch.expm1(exponent * length) / torch.where(flat, 1.0, exponent)
        y = sign * torch.where(flat, length, power)
        return y, ((exponent - 1) * length - self.scale.log()).sum(dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the points ``[..., D]`` whose images are ``y [..., D]``, in closed form."""
        sign, size = sides(y)
        exponent = torch.where(y >= 0, self.exponent, 2 - self.exponent)
        flat = exponent == 0
        length = (exponent * size).log1p() / torch.where(flat, 1.0, exponent)
        s = sign * torch.expm1(torch.where(flat, size, length))
        return self.location + self.scale * s

    def check(self) -> None:
        """Raise ValueError unless all scales are positive and all exponents in [0, 2]."""
        if (self.scale <= 0).any() or (self.exponent < 0).any() or (self.exponent > 2).any():
            raise ValueError(
                "the stored scale of a column is not positive, or its exponent is not within [0, "
                "2]: restore the file from a copy"
            )


class _Piece(NamedTuple):
    """Pieces of a spline that contain given values, all fields ``[..., D]``.

    Attributes:
        before: Index of the knot before the value, -1 if there is none.
        x: Start of the piece.
        y: Value of the spline at the start.
        width: Length of the piece.
        rise: Increase of the spline over the piece.
        low: Slope at the start.
        high: Slope at the end.
    """

    before: Tensor
    x: Tensor
    y: Tensor
    width: Tensor
    rise: Tensor
    low: Tensor
    high: Tensor


class NormalScores(PointMap):
    """A monotone spline from each column to standard normal scores, through its quantiles.

    Between knots the spline is the monotone rational quadratic of Gregory and Delbourgo (1982),
    whose inverse is a root of a quadratic equation (as in Durkan et al. 2019, *Neural spline
    flows*, section 3.1). Beyond the outermost knots the spline is linear. The first derivative is
    continuous.

    Attributes:
        places: Values of the K knots of each column ``[K, D]``, increasing.
        scores: Normal scores of the knots ``[K, D]``, increasing.
        slopes: Derivatives of the spline at the knots ``[K, D]``, positive.

    Raises:
        ValueError: There are fewer than 2 knots.
    """

    places: Tensor
    scores: Tensor
    slopes: Tensor

    def __init__(self, dim: int, knots: int):
        super().__init__(dim, knots)
        if knots < 2:
            raise ValueError(f"a spline has {knots} knots: give at least 2")
        # Computed in Python, since a range on the meta device imports the compiler's algebra.
        even = [2 * index / (knots - 1) - 1 for index in range(knots)]
        line = torch.zeros(knots, dim, dtype=torch.float64)
        line.copy_(torch.tensor(even, dtype=torch.float64)[:, None])
        self.hold(places=line, scores=line, slopes=torch.ones(knots, dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the images ``y [..., D]`` of points x, and ``log |det dy/dx| [...]``."""
        p = self._piece(x, self.places)
        a = ((x - p.x) / p.width).clamp(0, 1)
        b = a * (1 - a)
        mean = p.rise / p.width
        weight = mean + (p.low + p.high - 2 * mean) * b
        inside = p.y + p.rise * (mean * a.square() + p.low * b) / weight
        ends = p.high * a.square() + 2 * mean * b + p.low * (1 - a).square()
        slope = mean.square() * ends / weight.square()
        y = self._or_lines(p.before, x, inside, self.places, self.scores, self.slopes)
        # Outside of a piece a is clamped to 0 or 1, and the slope is that of the line.
        return y, slope.log().sum(dim=-1)

    def inverse(self, y: Tensor) -> Tensor:
        """Return the points ``[..., D]`` whose images are ``y [..., D]``, in closed form."""
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
        """Return values inside of the knots, and straight lines beyond them."""
        low = end[0] + slopes[0] * (at - start[0])
        high = end[-1] + slopes[-1] * (at - start[-1])
        return torch.where(before < 0, low, torch.where(before > self.knots - 2, high, inside))

    def _piece(self, values: Tensor, knots: Tensor) -> _Piece:
        """Return the pieces that contain values ``[..., D]`` between knots ``[K, D]``."""
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
        """Raise ValueError unless knots and scores increase and all slopes are positive."""
        if (self.places.diff(dim=0) <= 0).any() or (self.scores.diff(dim=0) <= 0).any():
            raise ValueError(
                "the stored knots or scores of a spline are not increasing: restore the file from "
                "a copy"
            )
        if (self.slopes <= 0).any():
            raise ValueError(
                "a stored slope of a spline is not positive: restore the file from a copy"
            )


class Standardize(PointMap):
    """Standardization of columns, ``y = (x - mean) / std``.

    Attributes:
        mean: Means of the columns ``[D]``.
        std: Standard deviations of the columns ``[D]``, positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        self.hold(mean=torch.zeros(dim), std=torch.ones(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the standardized points ``y [..., D]``, and ``log |det dy/dx| [...]``."""
        return (x - self.mean) / self.std, -self.std.log().sum().expand(x.shape[:-1])

    def inverse(self, y: Tensor) -> Tensor:
        """Return points ``[..., D]`` in data units from standardized points ``[..., D]``."""
        return y * self.std + self.mean

    def check(self) -> None:
        """Raise ValueError unless all standard deviations are positive."""
        if (self.std <= 0).any():
            raise ValueError(
                "the stored standard deviation of a column or axis is not positive: restore the "
                "file from a copy"
            )


class WhitenPCA(Standardize):
    """PCA whitening ``y = (x - mean) V diag(1/std)``: principal components, each of variance 1.

    Attributes:
        axes: Principal axes ``V [D, D]``, as orthonormal columns.
        std: Standard deviations along the axes ``[D]``, positive.
    """

    axes: Tensor

    def __init__(self, dim: int, knots: int = 0):
        super().__init__(dim, knots)
        self.hold(axes=identity(dim))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the whitened components ``y [..., D]`` and ``log |det dy/dx| [...]`` of points."""
        along = (x - self.mean) @ self.axes
        return along / self.std, -self.std.log().sum().expand(x.shape[:-1])

    def inverse(self, y: Tensor) -> Tensor:
        """Return the points ``[..., D]`` with given whitened components ``[..., D]``."""
        return (y * self.std) @ self.axes.T + self.mean

    def check(self) -> None:
        """Raise ValueError if a standard deviation is not positive, or axes are not orthonormal."""
        super().check()
        unit = torch.eye(self.dim, dtype=torch.float64, device=self.axes.device)
        if not torch.allclose(self.axes.T @ self.axes, unit, atol=1e-9):
            raise ValueError(
                "the stored principal axes are not orthonormal: restore the file from a copy"
            )


class WhitenZCA(WhitenPCA):
    """ZCA whitening ``y = (x - mean) V diag(1/std) V^T``: PCA whitening, rotated back.

    ZCA whitening moves points least among all linear whitening maps. Edges of a density that are
    parallel to columns therefore stay parallel to coordinates.
    """

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the whitened points ``y [..., D]``, and ``log |det dy/dx| [...]``."""
        y, log_det = super().forward(x)
        return y @ self.axes.T, log_det

    def inverse(self, y: Tensor) -> Tensor:
        """Return points ``[..., D]`` in data units from whitened points ``[..., D]``."""
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
"""Maps by their names in network files."""
LINEAR = ("standardize", "pca", "zca")
"""Names of maps that are linear up to a shift."""
