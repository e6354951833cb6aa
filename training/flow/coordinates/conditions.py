"""What coordinates make of conditions: of what the points of a conditional flow are given with.

Conditions y ``[..., C]`` are standardized to c, which is what a network sees: skewed ones, such as
counts that are mostly small, after a power, or all that tells small ones apart would be lost in the
scale of the largest; and those with long tails by their normal scores, or one simulation that is
far out would set the scale of all others. The best linear prediction ``c B`` of the points can be
taken off them: what is left of points that are jointly Gaussian with their conditions is
independent of these, and a flow of it without a network is already their exact conditional law. Of
points whose mean and covariance depend on conditions in any way, a small network can say these.

Conditions may be sets of any number n of trials, K numbers each, side by side in a row: then means
over the trials of each number and of its square, and 1/n, take the place of c in a prediction.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import log10
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import DataError
from training.flow.coordinates.maps import NormalScores, YeoJohnson, sides
from training.names import script

LEAST_VARIANCE = 1e-9
"""Of standardized conditions along an axis: what varies less predicts nothing."""


TAIL_KNOTS = 32
"""Of the spline of a condition with long tails."""


class LongTails(nn.Module):
    """Normal scores of K conditions: a spline of ``sign(s) log(1 + |s|)``, ``s = (y - location) /
    scale``, with these ``[K]`` in float64. Beyond what was simulated they rise by the logarithm."""

    location: Tensor
    scale: Tensor

    def __init__(self, count: int):
        super().__init__()
        self.scores = NormalScores(count, TAIL_KNOTS)
        self.register_buffer("location", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(count, dtype=torch.float64))

    def logarithms(self, conditions: Tensor) -> Tensor:
        """What the spline is of, ``[..., K]``."""
        s = (conditions - self.location) / self.scale
        sign, size = sides(s)
        return sign * size.log1p()

    def forward(self, conditions: Tensor) -> Tensor:
        """Scores ``[..., K]`` of conditions."""
        return self.scores(self.logarithms(conditions))[0]

    def check(self) -> None:
        """Raises ValueError if a scale is not positive, or the spline is none."""
        self.scores.check()
        if not (self.scale > 0).all():
            raise ValueError("the scale of a condition with long tails is not positive")


class ConditionScale(nn.Module):
    """``c = (p(y) - mean) gain``, where p takes skewed conditions to a power, and those with long
    tails to normal scores.

    Args:
        count: C.
        skewed: Places of skewed conditions.
        tails: Places of others, with long tails.

    Attributes:
        powers: Of skewed conditions; None where none are.
        scores: Of those with long tails; None where none have.
        mean: ``[C]``, float64.
        gain: ``[C]``: one over the standard deviation; 0 for conditions that do not vary, of which
            nothing is known but their value.
    """

    mean: Tensor
    gain: Tensor

    def __init__(self, count: int, skewed: Sequence[int] = (), tails: Sequence[int] = ()):
        super().__init__()
        self.skewed, self.tails = list(skewed), list(tails)
        self.powers = YeoJohnson(len(skewed)) if skewed else None
        self.scores = LongTails(len(tails)) if tails else None
        self.register_buffer("mean", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("gain", torch.ones(count, dtype=torch.float64))

    def fit(self, conditions: Tensor) -> None:
        """Takes mean and spread of conditions ``[N, C]``, after powers and scores."""
        conditions = self.straight(conditions)
        low, high = conditions.min(dim=0).values, conditions.max(dim=0).values
        # The spread of equal values need not be 0: their mean is rounded.
        std = torch.where(high > low, conditions.std(dim=0, correction=0), 0.0)
        self.mean.copy_(conditions.mean(dim=0))
        self.gain.copy_(torch.where(std > 0, 1 / std, 0.0))

    @property
    def width(self) -> int:
        """How many numbers predict points."""
        return len(self.mean)

    def predictors(self, conditions: Tensor) -> Tensor:
        """What predicts points, ``[..., width]``: the same as ``forward``."""
        return self(conditions)

    def forward(self, conditions: Tensor) -> Tensor:
        """Standardized conditions ``[..., C]``, float64. Raises DataError if they are not finite,
        or of another number."""
        require_width(conditions, len(self.mean))
        if not conditions.isfinite().all():
            raise DataError("a condition is NaN or infinite")
        return (self.straight(conditions) - self.mean) * self.gain

    def check(self) -> None:
        """Raises ValueError if a gain is negative, or a power is none."""
        if (self.gain < 0).any():
            raise ValueError("a gain of a condition is negative")
        for part in (self.powers, self.scores):
            if part is not None:
                part.check()

    def straight(self, conditions: Tensor) -> Tensor:
        """Conditions ``[..., C]``, float64, with powers of skewed ones and scores of long tails."""
        conditions = conditions.to(self.mean)
        if self.powers is None and self.scores is None:
            return conditions
        straight = conditions.clone()
        if self.powers is not None:
            straight[..., self.skewed], _ = self.powers(conditions[..., self.skewed])
        if self.scores is not None:
            straight[..., self.tails] = self.scores(conditions[..., self.tails])
        return straight


def require_width(conditions: Tensor, count: int) -> None:
    """Raises DataError unless conditions are ``[..., count]``."""
    if conditions.ndim == 0 or conditions.shape[-1] != count:
        raise DataError(
            f"conditions have shape {list(conditions.shape)}, but this flow has C = {count}: "
            f"give [N, {count}]"
        )


class TrialScale(nn.Module):
    """Of sets of trials, K conditions each, side by side in rows ``[..., n K]``, NaN for
    those that are not there. Neither their order nor how many are not there says anything.

    Args:
        count: K.
        most: Trials of a set, at most.
        skewed: As ``ConditionScale`` has it, of a trial.
        tails: Likewise.

    Attributes:
        each: Of a trial.
        statistics: Of what is known of a set, the ``width`` numbers of ``straight``.
    """

    def __init__(
        self, count: int, most: int, skewed: Sequence[int] = (), tails: Sequence[int] = ()
    ):
        super().__init__()
        self.count, self.most = count, most
        self.each = ConditionScale(count, skewed, tails)
        self.statistics = ConditionScale(self.width)

    @property
    def width(self) -> int:
        """How many numbers predict points."""
        return 2 * self.count + 1

    def fit(self, conditions: Tensor) -> None:
        """Takes mean and spread of the trials of sets ``[N, n K]``, and of their statistics."""
        rows = conditions.reshape(*conditions.shape[:-1], -1, self.count)
        self.each.fit(rows[are_there(rows)])
        self.statistics.fit(self.straight(conditions))

    def forward(self, conditions: Tensor) -> Tensor:
        """What a network sees of sets, ``[..., n (K + 1)]``, float64: standardized conditions of
        each trial, and 1; or zeros. Raises DataError if a set has no trials, too many, or one that
        is not finite."""
        c, there = self._trials(conditions)
        return torch.cat([c, there[..., None].to(c)], dim=-1).flatten(-2)

    def straight(self, conditions: Tensor) -> Tensor:
        """Of the standardized conditions of sets, means ``[..., K]`` and means of squares
        ``[..., K]`` over trials, and ``1/n [..., 1]``; raises likewise."""
        c, there = self._trials(conditions)
        share = 1 / there.sum(dim=-1, keepdim=True).to(c)
        sums = torch.cat([c, c.square()], dim=-1).sum(dim=-2)
        return torch.cat([sums * share, share], dim=-1)

    def predictors(self, conditions: Tensor) -> Tensor:
        """The same, standardized."""
        return self.statistics(self.straight(conditions))

    def check(self) -> None:
        """Raises ValueError if it holds what scales nothing."""
        self.each.check()
        self.statistics.check()

    def _trials(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Standardized conditions ``[..., n, K]``, 0 of trials that are not there, and which are,
        ``[..., n]``."""
        if conditions.ndim == 0 or not conditions.shape[-1] or conditions.shape[-1] % self.count:
            raise DataError(
                f"conditions have shape {list(conditions.shape)}, but this flow has trials of "
                f"{self.count}: give all trials of a point side by side, [N, n {self.count}]"
            )
        rows = conditions.to(self.each.mean).reshape(*conditions.shape[:-1], -1, self.count)
        there = are_there(rows)
        numbers = there.sum(dim=-1)
        if not numbers.all():
            raise DataError("an observation has no trials: give at least one")
        if (numbers > self.most).any():
            raise DataError(
                f"an observation has {int(numbers.max())} trials, but no simulation had more than "
                f"{self.most}: simulate as many, or learn the likelihood of one ({script('train')} "
                "--likelihood), which takes any number"
            )
        c = self.each(torch.where(there[..., None], rows, 0.0))
        return torch.where(there[..., None], c, 0.0), there


def are_there(trials: Tensor) -> Tensor:
    """Which trials ``[..., K]`` are there, ``[...]``: those with some number."""
    return ~trials.isnan().all(dim=-1)


class Prediction(nn.Module, ABC):
    """An invertible map of points ``[..., D]`` that is linear in these, given ``c [..., C]``."""

    @abstractmethod
    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of points ``[..., D]``, and ``log |det dy/dx| [...]``."""

    @abstractmethod
    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """The points ``[..., D]``."""

    def check(self) -> None:
        """Nothing that it can hold makes it no map."""


class LinearPrediction(Prediction):
    """``y = x - c B`` with ``B [C, D]`` in float64, whose Jacobian determinant is 1."""

    slopes: Tensor

    def __init__(self, dim: int, conditions: int):
        super().__init__()
        if conditions < 1:
            raise ValueError("a prediction needs conditions")
        self.register_buffer("slopes", torch.zeros(conditions, dim, dtype=torch.float64))

    def fit(self, c: Tensor, x: Tensor) -> None:
        """Takes the best slopes from ``c [N, C]`` to ``x [N, D]``; where numbers are missing, NaN,
        of each column those of the rows that have it."""
        if not x.isnan().any():
            self.slopes.copy_(ridge(c, x))
            return
        for place, column in enumerate(x.T):
            there = ~column.isnan()
            own = c[there] - c[there].mean(dim=0)
            self.slopes[:, place] = ridge(own, column[there, None])[:, 0]

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of points ``[..., D]`` given ``[..., C]``, and log determinants of 0."""
        return x - c @ self.slopes, torch.zeros_like(x[..., 0])

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        return y + c @ self.slopes


MEMBERS, WIDTH, DEPTH = 3, 64, 2
"""Networks of a Gaussian prediction, units of a layer, and layers after the first."""
MOST_LOG_SCALE = 15.0
"""Of a standard deviation, in those of the points."""


class GaussianPrediction(Prediction):
    """``y = U(c) (x - m(c)) / s(c)``, U lower triangular with ones on its diagonal.

    Of points that are Gaussian given their conditions, with these means and the covariance
    ``diag(s) (U' U)^-1 diag(s)``, y is standard normal whatever c is. Networks say m, log s and U,
    whose means over the networks are taken.

    Args:
        dim: D.
        conditions: C.
    """

    below: Tensor

    def __init__(self, dim: int, conditions: int):
        super().__init__()
        if conditions < 1:
            raise ValueError("a prediction needs conditions")
        self.dim = dim
        sizes = [conditions, *[WIDTH] * (1 + DEPTH), 2 * dim + dim * (dim - 1) // 2]
        self.members = nn.ModuleList(
            nn.ModuleList(nn.Linear(wide, other) for wide, other in pairwise(sizes))
            for _ in range(MEMBERS)
        )
        places = torch.tril_indices(dim, dim, -1)
        self.register_buffer("below", places, persistent=False)
        self.requires_grad_(False)  # but where it is fitted

    def output(self, member: int, c: Tensor) -> Tensor:
        """What a network gives ``[..., K]`` of conditions ``[..., C]``, in the dtype of its
        weights."""
        layers = self.members[member]
        assert isinstance(layers, nn.ModuleList)
        first, *hidden, last = layers
        assert isinstance(first, nn.Linear)
        h = F.silu(first(c.to(first.weight)))
        for layer in hidden:
            h = h + F.silu(layer(h))
        return cast(Tensor, last(h))

    def parts(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """``m``, ``log s [..., D]`` and ``U [..., D, D]``."""
        mean, log_scale, turns = output.tensor_split([self.dim, 2 * self.dim], dim=-1)
        log_scale = MOST_LOG_SCALE * torch.tanh(log_scale / MOST_LOG_SCALE)
        unit = torch.eye(self.dim, dtype=output.dtype, device=output.device)
        turn = unit.expand(*turns.shape[:-1], -1, -1).clone()
        turn[..., self.below[0], self.below[1]] = turns
        return mean, log_scale, turn

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        return self.normalized(x, self._mean(c).to(x))

    def normalized(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """The same, by what a network gives."""
        mean, log_scale, turn = self.parts(output)
        y = (turn @ ((x - mean) * (-log_scale).exp())[..., None])[..., 0]
        return y, -log_scale.sum(dim=-1).expand_as(x[..., 0])

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        mean, log_scale, turn = self.parts(self._mean(c).to(y))
        # Rows of points and matrices of their conditions, or one matrix for all.
        turn = turn.expand(*y.shape, self.dim)
        solved = torch.linalg.solve_triangular(turn, y[..., None], upper=False, unitriangular=True)
        return mean + log_scale.exp() * solved[..., 0]

    def _mean(self, c: Tensor) -> Tensor:
        return torch.stack([self.output(k, c) for k in range(MEMBERS)]).mean(dim=0)


def ridge(c: Tensor, x: Tensor) -> Tensor:
    """Slopes ``B [C, D]`` of the prediction of ``x [N, D]`` from centered ``c [N, C]``.

    Each column has the penalty ``lambda |B|^2`` of least generalized cross-validation (Golub, Heath
    and Wahba 1979), so that many conditions that say nothing do no harm:

        GCV(lambda) = N |x - c B|^2 / (N - df)^2,   df = 1 + sum_k s_k^2 / (s_k^2 + lambda),

    with the singular values ``s_k`` of c.
    """
    count = len(c)
    squares, axes = torch.linalg.eigh(c.T @ c)
    squares = squares.clamp_min(0)
    x = x - x.mean(dim=0)
    products = axes.T @ (c.T @ x)
    least = log10(LEAST_VARIANCE)
    penalties = count * torch.logspace(least, 1, 41, dtype=c.dtype, device=c.device)
    shrunk = squares / (squares + penalties[:, None])
    # Along an axis of no length there is nothing to predict from.
    explained = torch.where(squares[:, None] > 0, products.square() / squares[:, None], 0.0)
    rest = x.square().sum(dim=0) - (2 * shrunk - shrunk.square()) @ explained
    freedom = (count - 1 - shrunk.sum(dim=1)).clamp_min(1e-9)
    best = penalties[(rest / freedom[:, None].square()).argmin(dim=0)]
    return axes @ (products / (squares[:, None] + best))
