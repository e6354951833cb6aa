"""Conditions of a flow: their coordinates, and how surprising they are.

Maps of the conditions of a conditional flow, and of its points given conditions.

Conditions y ``[..., C]`` are standardized to c, the input of the network. Skewed conditions, such
as counts that are mostly small, first pass through a power transform. Otherwise the scale of the
largest values would hide the differences between small ones. Conditions with long tails are
replaced by their normal scores, since one extreme simulation would set the scale of all others.

The best linear prediction ``c B`` of the points can be subtracted from them. If points are jointly
Gaussian with their conditions, the residual is independent of the conditions. A flow of the
residual without a network then already has the exact conditional distribution. If mean and
covariance of the points depend on conditions in other ways, a small network can predict both.

Conditions can also be sets of any number n of trials, with K numbers each, side by side in a row.
Predictions then use the means over trials of each number and of its square, and 1/n, in place of c.

Surprise of an observation: how unlikely it is relative to simulations, in nats.

Conditions y ``[..., C]``, after powers for skewed ones and normal scores for those with long tails
(``conditions``), are whitened by the mean and covariance of the training conditions, ``r = W (y -
mean)``. If these were Gaussian, ``|r|^2 / 2`` would be the negative log density, up to a constant.
The *surprise* of an observation is its excess over the median simulation,

    surprise(y) = |r(y)|^2 / 2 - median of |r|^2 / 2 over simulations,

that is, how many nats less likely it is than a typical simulation. Conditions that are not inputs
of the flow do not count and have zero rows and columns in W. The exception is a condition with the
same value in all simulations, since no simulation shows the effect of another value. An observation
is *out of distribution* if its surprise exceeds that of 99.9 % of simulations. Quantiles use
leave-one-out distances: with d_i^2 the squared distance of row i of N from the mean of all rows,

    |r_i|^2 = N / (N - 1) * d_i^2 / (1 - d_i^2 / (N - 1))

is its distance under the mean and covariance of all other rows (by the formula of Sherman and
Morrison). Otherwise, with few rows and many conditions, training rows would appear closer to their
mean than new rows can be.

If conditions depend on each other, some axes have no variance. They get the variance
``LEAST_VARIANCE``, below which neither linear prediction nor network can separate standardized
conditions. An observation 0.001 standard deviations off such an axis has a surprise of 500 nats,
since no simulation lies there; a rounding error has none.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import pairwise
from math import log10
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnnlib.errors import DataError
from training.flow.coordinates.maps import NormalScores, YeoJohnson, sides
from training.flow.eigenbasis import identity
from training.names import script

LEAST_VARIANCE = 1e-9
"""Variance of standardized conditions below which an axis predicts nothing."""


TAIL_KNOTS = 32
"""Number of spline knots for a condition with long tails."""


class LongTails(nn.Module):
    """A map from K conditions with long tails to normal scores.

    A spline maps ``sign(s) log(1 + |s|)`` with ``s = (y - location) / scale`` to normal scores,
    where y are the conditions. Beyond the simulated range, scores grow logarithmically.

    Args:
        count: K, the number of conditions with long tails.

    Attributes:
        location: Location of each condition ``[K]``, float64.
        scale: Scale of each condition ``[K]``, float64, positive.
    """

    location: Tensor
    scale: Tensor

    def __init__(self, count: int):
        super().__init__()
        self.scores = NormalScores(count, TAIL_KNOTS)
        self.register_buffer("location", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(count, dtype=torch.float64))

    def logarithms(self, conditions: Tensor) -> Tensor:
        """Return the inputs ``[..., K]`` of the spline: signed logarithms of the conditions."""
        s = (conditions - self.location) / self.scale
        sign, size = sides(s)
        return sign * size.log1p()

    def forward(self, conditions: Tensor) -> Tensor:
        """Return the normal scores ``[..., K]`` of conditions ``[..., K]``."""
        return self.scores(self.logarithms(conditions))[0]

    def check(self) -> None:
        """Raise ValueError if a scale is not positive, or the spline is invalid."""
        self.scores.check()
        if not (self.scale > 0).all():
            raise ValueError(
                "the stored scale of a condition with long tails is not positive: restore the "
                "file from a copy"
            )


class ConditionScale(nn.Module):
    """Standardization of conditions y, ``c = (p(y) - mean) gain``.

    The map p is a power transform for skewed conditions, normal scores for conditions with long
    tails, and the identity for all other conditions.

    Args:
        count: C, the number of conditions.
        skewed: Indices of skewed conditions.
        tails: Indices of conditions with long tails; skewed conditions are excluded.

    Attributes:
        powers: Power transform of the skewed conditions; None if there are none.
        scores: Normal scores of conditions with long tails; None if there are none.
        mean: Mean of each transformed condition ``[C]``, float64.
        gain: Reciprocal standard deviation of each transformed condition ``[C]``; 0 for constant
            conditions, from which nothing can be learned.
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
        """Fit mean and gain to conditions ``[N, C]``, after power transforms and normal scores."""
        conditions = self.straight(conditions)
        low, high = conditions.min(dim=0).values, conditions.max(dim=0).values
        # The spread of equal values need not be 0, since their mean is rounded.
        std = torch.where(high > low, conditions.std(dim=0, correction=0), 0.0)
        self.mean.copy_(conditions.mean(dim=0))
        self.gain.copy_(torch.where(std > 0, 1 / std, 0.0))

    @property
    def width(self) -> int:
        """Number of predictors per point: C, the number of conditions."""
        return len(self.mean)

    def predictors(self, conditions: Tensor) -> Tensor:
        """Return the predictors of points, which are the standardized conditions ``[..., C]``."""
        return self(conditions)

    def forward(self, conditions: Tensor) -> Tensor:
        """Return standardized conditions ``[..., C]``, float64.

        Raises:
            DataError: Conditions are not finite, or their number is wrong.
        """
        require_width(conditions, len(self.mean))
        if not conditions.isfinite().all():
            raise DataError("a condition is NaN or infinite: give finite conditions")
        return (self.straight(conditions) - self.mean) * self.gain

    def check(self) -> None:
        """Raise ValueError if a gain is negative, or a transform is invalid."""
        if (self.gain < 0).any():
            raise ValueError(
                "the stored gain of a condition is negative: restore the file from a copy"
            )
        for part in (self.powers, self.scores):
            if part is not None:
                part.check()

    def straight(self, conditions: Tensor) -> Tensor:
        """Return conditions ``[..., C]``, float64, after power transforms and normal scores."""
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
    """Raise DataError unless conditions have shape ``[..., count]``."""
    if conditions.ndim == 0 or conditions.shape[-1] != count:
        raise DataError(
            f"conditions have shape {list(conditions.shape)}, but this flow has C = "
            f"{count} conditions: give [N, {count}]"
        )


class TrialScale(nn.Module):
    """Standardization of conditions that are sets of trials (repeated measurements).

    Trials have K conditions each. The n trials of a set are side by side in rows ``[..., n K]``,
    with NaN for missing trials. The order of trials and the number of missing trials carry no
    information.

    Args:
        count: K, the number of conditions per trial.
        most: Maximum number of trials in a set.
        skewed: Indices of skewed conditions of a trial, as in ``ConditionScale``.
        tails: Indices of conditions of a trial with long tails.

    Attributes:
        each: Standardization of the conditions of a single trial.
        statistics: Standardization of the ``2 K + 1`` summary statistics that ``straight`` returns.
    """

    def __init__(self, count: int, most: int, skewed: Sequence[int], tails: Sequence[int]):
        super().__init__()
        self.count, self.most = count, most
        self.each = ConditionScale(count, skewed, tails)
        self.statistics = ConditionScale(self.width)

    @property
    def width(self) -> int:
        """Number of predictors per point: ``2 K + 1`` summary statistics of its trials."""
        return 2 * self.count + 1

    def fit(self, conditions: Tensor) -> None:
        """Fit the standardizations of trials and of summary statistics to sets ``[N, n K]``."""
        rows = conditions.reshape(*conditions.shape[:-1], -1, self.count)
        self.each.fit(rows[are_there(rows)])
        self.statistics.fit(self.straight(conditions))

    def forward(self, conditions: Tensor) -> Tensor:
        """Return the network inputs ``[..., n (K + 1)]`` for sets of trials, float64.

        Each trial contributes its standardized conditions followed by 1; a missing trial
        contributes zeros.

        Raises:
            DataError: A set has no trials, too many trials, or a trial that is not finite.
        """
        c, there = self._trials(conditions)
        return torch.cat([c, there[..., None].to(c)], dim=-1).flatten(-2)

    def straight(self, conditions: Tensor) -> Tensor:
        """Return the summary statistics ``[..., 2 K + 1]`` of sets of trials.

        The statistics are the means ``[..., K]`` and the mean squares ``[..., K]`` of standardized
        conditions over trials, and the reciprocal number of trials ``1/n [..., 1]``.

        Raises:
            DataError: A set has no trials, too many trials, or a trial that is not finite.
        """
        c, there = self._trials(conditions)
        share = 1 / there.sum(dim=-1, keepdim=True).to(c)
        sums = torch.cat([c, c.square()], dim=-1).sum(dim=-2)
        return torch.cat([sums * share, share], dim=-1)

    def predictors(self, conditions: Tensor) -> Tensor:
        """Return the standardized summary statistics ``[..., 2 K + 1]`` of sets of trials."""
        return self.statistics(self.straight(conditions))

    def check(self) -> None:
        """Raise ValueError if the standardization of trials or statistics is invalid."""
        self.each.check()
        self.statistics.check()

    def _trials(self, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Return standardized conditions ``[..., n, K]`` and a mask ``[..., n]`` of trials.

        Conditions of missing trials are 0.
        """
        if conditions.ndim == 0 or not conditions.shape[-1] or conditions.shape[-1] % self.count:
            raise DataError(
                f"conditions have shape {list(conditions.shape)}, but a trial of this "
                f"flow has {self.count} values: give the trials of each point side by "
                f"side, [N, n {self.count}]"
            )
        rows = conditions.to(self.each.mean).reshape(*conditions.shape[:-1], -1, self.count)
        there = are_there(rows)
        numbers = there.sum(dim=-1)
        if not numbers.all():
            raise DataError("an observation has no trials: give at least one")
        if (numbers > self.most).any():
            raise DataError(
                f"an observation has {int(numbers.max())} trials, but no simulation had "
                f"more than {self.most}: simulate that many trials, or learn the "
                f"likelihood of one trial ({script('train')} --likelihood), which allows "
                "any number"
            )
        c = self.each(torch.where(there[..., None], rows, 0.0))
        return torch.where(there[..., None], c, 0.0), there


def are_there(trials: Tensor) -> Tensor:
    """Return a mask ``[...]`` of the trials ``[..., K]`` that are present, that is, not all NaN."""
    return ~trials.isnan().all(dim=-1)


class Prediction(nn.Module, ABC):
    """Interface of invertible maps of points ``[..., D]`` given conditions ``c [..., C]``.

    Args:
        dim: D, the dimension of points.
        conditions: C, the number of conditions.
    """

    def __init__(self, dim: int, conditions: int):
        super().__init__()
        if conditions < 1:
            raise ValueError(
                "a prediction from conditions needs at least one condition: give conditions"
            )
        self.dim = dim

    @abstractmethod
    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residuals ``y [..., D]`` of points x, and ``log |det dy/dx| [...]``."""

    @abstractmethod
    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """Return the points ``[..., D]`` with residuals ``y [..., D]`` under conditions c."""

    def check(self) -> None:
        """Do nothing: the map is invertible for all values of its buffers."""


class LinearPrediction(Prediction):
    """Residuals ``y = x - c B`` of the linear prediction of points x from conditions c.

    The Jacobian determinant is 1.

    Args:
        dim: D, the dimension of points.
        conditions: C, the number of conditions.

    Attributes:
        slopes: Slopes ``B [C, D]``, float64.
    """

    slopes: Tensor

    def __init__(self, dim: int, conditions: int):
        super().__init__(dim, conditions)
        self.register_buffer("slopes", torch.zeros(conditions, dim, dtype=torch.float64))

    def fit(self, c: Tensor, x: Tensor) -> None:
        """Fit the slopes of points ``x [N, D]`` on conditions ``c [N, C]`` by ridge regression."""
        self.slopes.copy_(ridge(c, x))

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return residuals ``[..., D]`` of points given ``c [..., C]``; log determinants are 0."""
        return x - c @ self.slopes, torch.zeros_like(x[..., 0])

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """Return the points ``[..., D]`` with residuals ``y [..., D]`` under conditions c."""
        return y + c @ self.slopes


MEMBERS, WIDTH, DEPTH = 3, 64, 2
"""Number of networks of a Gaussian prediction, units per layer, and layers after the first."""
MOST_LOG_SCALE = 15.0
"""Bound on the log standard deviation, relative to the standard deviations of the points."""


class GaussianPrediction(Prediction):
    """Standardized residuals ``y = U(c) (x - m(c)) / s(c)`` of a Gaussian prediction of points x.

    U is unit lower triangular. If points are Gaussian given their conditions c, with means m and
    covariance ``diag(s) (U' U)^-1 diag(s)``, then y is standard normal whatever c is. Networks
    predict m, log s and U; their outputs are averaged.

    Args:
        dim: D, the dimension of points.
        conditions: C, the number of conditions.
    """

    below: Tensor

    def __init__(self, dim: int, conditions: int):
        super().__init__(dim, conditions)
        sizes = [conditions, *[WIDTH] * (1 + DEPTH), 2 * dim + dim * (dim - 1) // 2]
        self.members = nn.ModuleList(
            nn.ModuleList(nn.Linear(wide, other) for wide, other in pairwise(sizes))
            for _ in range(MEMBERS)
        )
        places = torch.tril_indices(dim, dim, -1)
        self.register_buffer("below", places, persistent=False)
        self.requires_grad_(False)  # parameters require gradients only during the fit

    def output(self, member: int, c: Tensor) -> Tensor:
        """Return the output ``[..., K]`` of one of the networks, in the dtype of its weights.

        Args:
            member: Index of the network.
            c: Conditions ``[..., C]``.
        """
        layers = self.members[member]
        assert isinstance(layers, nn.ModuleList)
        first, *hidden, last = layers
        assert isinstance(first, nn.Linear)
        h = F.silu(first(c.to(first.weight)))
        for layer in hidden:
            h = h + F.silu(layer(h))
        return cast(Tensor, last(h))

    def parts(self, output: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Split a network output into ``m [..., D]``, ``log s [..., D]`` and ``U [..., D, D]``."""
        mean, log_scale, turns = output.tensor_split([self.dim, 2 * self.dim], dim=-1)
        log_scale = MOST_LOG_SCALE * torch.tanh(log_scale / MOST_LOG_SCALE)
        unit = torch.eye(self.dim, dtype=output.dtype, device=output.device)
        turn = unit.expand(*turns.shape[:-1], -1, -1).clone()
        turn[..., self.below[0], self.below[1]] = turns
        return mean, log_scale, turn

    def forward(self, x: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
        """Return the residuals ``y [..., D]`` of points x, and ``log |det dy/dx| [...]``."""
        return self.normalized(x, self._mean(c).to(x))

    def normalized(self, x: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        """Standardize points x by a network's output, which contains their means, scales and U.

        Returns:
            The residuals ``[..., D]``, and the log determinants ``[...]`` of the Jacobian.
        """
        mean, log_scale, turn = self.parts(output)
        y = (turn @ ((x - mean) * (-log_scale).exp())[..., None])[..., 0]
        return y, -log_scale.sum(dim=-1).expand_as(x[..., 0])

    def inverse(self, y: Tensor, c: Tensor) -> Tensor:
        """Return the points ``[..., D]`` with residuals ``y [..., D]`` under conditions c."""
        mean, log_scale, turn = self.parts(self._mean(c).to(y))
        # There is one matrix per row of points, or one matrix for all rows.
        turn = turn.expand(*y.shape, self.dim)
        solved = torch.linalg.solve_triangular(turn, y[..., None], upper=False, unitriangular=True)
        return mean + log_scale.exp() * solved[..., 0]

    def _mean(self, c: Tensor) -> Tensor:
        return torch.stack([self.output(k, c) for k in range(MEMBERS)]).mean(dim=0)


class MeanPrediction(GaussianPrediction):
    """A Gaussian prediction whose scales s and matrix U are the same for all conditions.

    Fewer simulations suffice to learn the mean ``m(c)``, since all of them share one covariance.
    """

    def output(self, member: int, c: Tensor) -> Tensor:
        """Return the output of one of the networks: only its mean depends on c."""
        output = super().output(member, c)
        layers = self.members[member]
        assert isinstance(layers, nn.ModuleList)
        constants = cast(Tensor, layers[-1].bias)[self.dim :]
        constants = constants.expand(*output.shape[:-1], -1)
        return torch.cat([output[..., : self.dim], constants], dim=-1)


def ridge(c: Tensor, x: Tensor) -> Tensor:
    """Return the ridge-regression slopes ``B [C, D]`` of points ``x [N, D]`` on conditions c.

    Conditions ``c [N, C]`` are centered. The ridge penalty ``lambda |B|^2`` of each column
    minimizes the generalized cross-validation score (Golub, Heath and Wahba 1979), so that many
    uninformative conditions do no harm:

        GCV(lambda) = N |x - c B|^2 / (N - df)^2,   df = 1 + sum_k s_k^2 / (s_k^2 + lambda),

    where ``s_k`` are the singular values of c.
    """
    count = len(c)
    squares, axes = torch.linalg.eigh(c.T @ c)
    squares = squares.clamp_min(0)
    x = x - x.mean(dim=0)
    products = axes.T @ (c.T @ x)
    least = log10(LEAST_VARIANCE)
    penalties = count * torch.logspace(least, 1, 41, dtype=c.dtype, device=c.device)
    shrunk = squares / (squares + penalties[:, None])
    # An axis of length zero predicts nothing.
    explained = torch.where(squares[:, None] > 0, products.square() / squares[:, None], 0.0)
    rest = x.square().sum(dim=0) - (2 * shrunk - shrunk.square()) @ explained
    freedom = (count - 1 - shrunk.sum(dim=1)).clamp_min(1e-9)
    best = penalties[(rest / freedom[:, None].square()).argmin(dim=0)]
    return axes @ (products / (squares[:, None] + best))


MOST_CONDITIONS = 1024
"""Maximum number of conditions whose distribution network files store: 8 MB."""
LEVELS = (0.5, 0.9, 0.99, 0.999)
"""Levels of the quantiles; the first is the typical simulation, the last is the limit."""


class Surprise(nn.Module):
    """A Gaussian model of the simulated conditions, which detects unlikely observations.

    Args:
        count: C, the number of conditions.

    Attributes:
        mean: Mean of each condition ``[C]``, float64.
        whitening: Whitening matrix ``W [C, C]``, symmetric in standardized units.
        quantiles: Quantiles of ``|r|^2 / 2`` over simulations at the probabilities ``LEVELS``,
            where r are whitened conditions.
    """

    mean: Tensor
    whitening: Tensor
    quantiles: Tensor

    def __init__(self, count: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("whitening", identity(count))
        self.register_buffer("quantiles", torch.zeros(len(LEVELS), dtype=torch.float64))

    def fit(self, conditions: Tensor, relevant: Sequence[int] = ()) -> "Surprise":
        """Fit the model to simulated conditions ``[N, C]``, and return the model itself.

        Args:
            conditions: Simulated conditions ``[N, C]``.
            relevant: Indices of the conditions that the surprise depends on, in addition to
                constant conditions; empty for all conditions.
        """
        y = conditions.double()
        mean, spread = y.mean(dim=0), y.std(dim=0, correction=0)
        # A constant condition is measured in units of its own size: it should not vary.
        size = torch.where(mean == 0, 1.0, mean.abs())
        varied = y.amax(dim=0) > y.amin(dim=0)
        unit = torch.where(varied, spread, size)
        counts = torch.ones_like(mean)
        if relevant:
            counts[varied] = 0
            counts[list(relevant)] = 1
        scaled = (y - mean) / unit * counts
        variance, axes = torch.linalg.eigh(scaled.T @ scaled / len(y))
        self.mean.copy_(mean)
        root = axes / variance.clamp_min(LEAST_VARIANCE).sqrt() @ axes.T
        self.whitening.copy_(counts[:, None] * root * (counts / unit))
        count = max(len(y) - 1, 1)
        squares = self.whitened(y).square().sum(dim=1)
        left = (1 - squares / count).clamp_min(LEAST_VARIANCE)
        alone = (1 + 1 / count) * squares / left / 2
        self.quantiles.copy_(torch.from_numpy(np.quantile(alone.numpy(), LEVELS)))
        return self

    def whitened(self, conditions: Tensor) -> Tensor:
        """Return the whitened conditions ``r [..., C]``, float64."""
        return (conditions.to(self.mean) - self.mean) @ self.whitening.T

    @property
    def covariance(self) -> Tensor:
        """Covariance ``[C, C]`` of the simulated conditions; 0 for conditions that are ignored."""
        precision = self.whitening.T @ self.whitening
        scale = precision.diagonal().sqrt()
        counts = scale > 0
        some = counts.nonzero()[:, 0]
        units = scale[some, None] * scale[some]
        covariance = torch.zeros_like(precision)
        covariance[counts[:, None] & counts] = (
            torch.linalg.inv(precision[some][:, some] / units) / units
        ).flatten()
        return covariance

    def forward(self, conditions: Tensor) -> Tensor:
        """Return the surprise ``[...]`` of conditions ``[..., C]``, in nats.

        The surprise is the log density of a typical simulation minus that of the conditions.

        Raises:
            DataError: The number of conditions is wrong.
        """
        require_width(conditions, len(self.mean))
        return self.whitened(conditions).square().sum(dim=-1) / 2 - self.quantiles[0]

    @property
    def limit(self) -> float:
        """Out-of-distribution limit: the surprise in nats that 1 in 1,000 simulations exceeds."""
        return float(self.quantiles[-1] - self.quantiles[0])

    def summary(self, nats: Tensor) -> dict[str, float]:
        """Return a summary, for result files, of the surprise ``[M]`` of M observations.

        Returns:
            The ``limit`` in nats, the ``largest`` surprise, and the number ``unlike`` of
            observations above the limit.
        """
        unlike = int((nats > self.limit).sum())
        return {"limit": self.limit, "largest": float(nats.max()), "unlike": unlike}

    def check(self) -> None:
        """Raise ValueError if the quantiles are negative or decrease."""
        if (self.quantiles < 0).any() or (self.quantiles.diff() < 0).any():
            raise ValueError(
                "the stored quantiles of the surprise of conditions decrease or are negative: "
                "restore the file from a copy"
            )
