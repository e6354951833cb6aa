"""Coordinates: maps between the columns of a table, in their own units, and the flow's space.

A flow works best if columns are nearly normal and have one scale. So points x pass through a chain
of invertible maps (``maps``) to u, the space of the flow, and

    log p_x(x) = log p_u(u(x)) + log |det du/dx|.

Discrete columns (counts, readings with two decimals) have no density. They are *dequantized*: a
value represents a quantization bin, the interval of one step around it, and is replaced by a
uniform draw from this bin. On request, generated values are rounded to steps within the range of
the data.

Points of a conditional flow use the maps given their conditions (``conditions``).
"""

from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from torch_utils.arguments import check_arguments
from training.flow.coordinates.categories import LevelPrediction
from training.flow.coordinates.conditions import (
    ConditionScale,
    GaussianPrediction,
    LinearPrediction,
    MeanPrediction,
    Prediction,
    Surprise,
    TrialScale,
)
from training.flow.coordinates.maps import (
    LINEAR,
    MAPS,
    Bounded,
    Gaps,
    Limits,
    PointMap,
)
from training.flow.coordinates.raw import RawScale

PREDICTION, GAUSSIAN, MEAN, LEVELS = "prediction", "gaussian", "mean", "levels"
"""Names of ``LinearPrediction``, ``GaussianPrediction``, ``MeanPrediction``, ``LevelPrediction``.

Network files contain these names.
"""
PREDICTIONS: dict[str, type[Prediction]] = {
    PREDICTION: LinearPrediction,
    GAUSSIAN: GaussianPrediction,
    MEAN: MeanPrediction,
}
DIGITS, AS_WHOLE = 10, 1e-6
"""Number of powers of ten tried for the decimals of a step, and tolerance for a whole number."""


class Coordinates(nn.Module):
    """A chain of invertible maps from data space ``[..., D]`` to flow space ``[..., D]``, float64.

    Args:
        dim: D, the number of columns.
        maps: Names in ``MAPS`` or ``PREDICTIONS``, in the order in which they are applied.
        knots: Number of spline knots in these maps.
        conditions: C, the number of conditions.
        surprise: Whether to model the distribution of the conditions, to detect unlikely
            conditions.
        relevant: Indices of the conditions that points depend on, which are the network's inputs;
            empty for all conditions.
        skewed: Indices of conditions that pass through a power transform before standardization.
        tails: Indices of conditions with long tails, which are replaced by normal scores.
        levels: Number of levels of each category column ``[D]``; empty for numeric columns.
        trials: Maximum number of trials per point, each with C conditions side by side in a row
            (``TrialScale``); 0 if a point has C conditions and no trials.
        beside: Number of levels of each of the last conditions, if the last conditions are category
            columns of a trial whose distribution given the other conditions is modeled; empty if
            there are none.
        raw: Arguments of ``RawScale`` if conditions are raw data; None otherwise.

    Attributes:
        scale: Standardization of conditions; None if there are none.
        surprise: Distribution of the training conditions; None if it is not modeled.
        steps: Bin width of each discrete column ``[D]``, 0 for continuous columns.
        offsets: Center of one bin of each discrete column ``[D]``; bins are counted from this
            value.
        least: Smallest value of each discrete column in the data ``[D]``.
        most: Largest value of each discrete column in the data ``[D]``.

    Raises:
        ValueError: A map is unknown, or an index or option of the conditions is invalid.

    Example:
        >>> import torch
        >>> coordinates = Coordinates(2, ["yeo-johnson", "zca"])
        >>> points = torch.randn(5, 2, dtype=torch.float64)
        >>> there = coordinates.to_flow(points)
        >>> bool((coordinates.to_data(there) - points).abs().max() < 1e-12)
        True
    """

    steps: Tensor
    offsets: Tensor
    least: Tensor
    most: Tensor

    def __init__(
        self,
        dim: int,
        maps: Sequence[str],
        knots: int = 0,
        conditions: int = 0,
        surprise: bool = False,
        relevant: Sequence[int] = (),
        skewed: Sequence[int] = (),
        tails: Sequence[int] = (),
        levels: Sequence[int] = (),
        trials: int = 0,
        beside: Sequence[int] = (),
        raw: dict[str, Any] | None = None,
    ):
        super().__init__()
        self.raw = raw
        self.levels, self.trials = list(levels), trials
        self.dim, self.names, self.knots = dim, list(maps), knots
        self.condition_dim, self.relevant = conditions, list(relevant)
        if any(not 0 <= place < conditions for place in (*self.relevant, *skewed, *tails)):
            raise ValueError(
                "the index of a relevant condition, or of a condition that is skewed or has long "
                f"tails, is out of range: give indices from 0 to {conditions - 1}"
            )
        known = (*MAPS, *PREDICTIONS, LEVELS)
        for name in self.names:
            if name not in known:
                raise ValueError(f"unknown map '{name}': choose one of {', '.join(known)}")
        if trials and (trials < 0 or not conditions or relevant):
            raise ValueError(
                f"coordinates for {trials} trials per point have {conditions} conditions and "
                f"{len(relevant)} selected conditions: give at least one condition, and select "
                "none"
            )
        self.scale: ConditionScale | TrialScale | RawScale | None = None
        if conditions:
            self.scale = ConditionScale(conditions, skewed, tails)
        if trials:
            self.scale = TrialScale(conditions, trials, skewed, tails)
        if raw is not None:
            check_arguments(RawScale, raw)
            self.scale = RawScale(**raw)
        wide = 0 if self.scale is None else self.scale.width
        self.surprise = Surprise(wide) if surprise and wide else None
        self._given: Tensor | None = None
        seen = len(self.relevant) or wide
        self.maps = nn.ModuleList(self._made(name, seen) for name in self.names)
        for name in ("steps", "offsets", "least", "most"):
            self.register_buffer(name, torch.zeros(dim, dtype=torch.float64))
        self.beside: LevelPrediction | None = None
        if beside:
            self.know_levels(beside)

    def know_levels(self, counts: Sequence[int]) -> LevelPrediction:
        """Treat the last conditions as category columns, and return their unfitted distribution.

        Args:
            counts: Number of levels of each of the last conditions.
        """
        if self.trials or self.relevant:
            raise ValueError(
                "a flow with category columns among its conditions cannot have trials or selected "
                "conditions: leave trials and relevant out"
            )
        others = self.condition_dim - len(counts)
        self.beside = LevelPrediction(len(counts), others, counts)
        return self.beside

    def log_levels(self, conditions: Tensor) -> Tensor:
        """Return the log probabilities ``[...]`` of the category columns among the conditions.

        The probabilities are conditional on the other conditions, to which gradients flow.

        Args:
            conditions: All conditions ``[..., C]``; category columns come last.
        """
        beside, labels = self.beside, self.given(conditions).labels
        assert beside is not None
        assert labels is not None
        first = self.condition_dim - len(beside.counts)
        return beside.log_prob(conditions[..., first:], labels[..., :first])

    def _made(self, name: str, conditions: int) -> nn.Module:
        """Return the map of a name; predictions take the given number of conditions."""
        if name == LEVELS:
            return LevelPrediction(self.dim, conditions, self.levels)
        if name in PREDICTIONS:
            return PREDICTIONS[name](self.dim, conditions)
        return MAPS[name](self.dim, self.knots)

    def hold_steps(self, steps: Tensor, offsets: Tensor, points: Tensor) -> None:
        """Set the bin widths of discrete columns, and the range of their values.

        Args:
            steps: Bin width of each column ``[D]``, 0 for continuous columns.
            offsets: Center of one bin of each column ``[D]``; bins are counted from this value.
            points: Dequantized points ``[N, D]``, which define the range.
        """
        self.steps.copy_(steps)
        self.offsets.copy_(offsets)
        values = torch.where(self.steps > 0, self.rounded(points), 0.0)
        self.least.copy_(values.amin(dim=0))
        self.most.copy_(values.amax(dim=0))

    @property
    def arguments(self) -> dict[str, object]:
        """Arguments of the constructor that reproduce these coordinates without their buffers."""
        made: dict[str, object] = {"dim": self.dim, "maps": self.names, "knots": self.knots}
        # Optional arguments are left out, so that digests of older network files do not change.
        made |= {"conditions": self.condition_dim} if self.condition_dim else {}
        made |= {"surprise": True} if self.surprise else {}
        made |= {"levels": self.levels} if self.levels else {}
        for name in ("skewed", "tails"):
            places = getattr(self.each, name, [])
            made |= {name: places} if places else {}
        made |= {"trials": self.trials} if self.trials else {}
        made |= {"beside": self.beside.counts} if self.beside else {}
        made |= {"raw": self.raw} if self.raw else {}
        return made | ({"relevant": self.relevant} if self.relevant else {})

    @property
    def label_dim(self) -> int:
        """Number L of the network's condition inputs.

        For sets of trials, L counts the conditions of one trial and the flag of its presence. For
        raw data, L counts values, mask and summary statistics.
        """
        if isinstance(self.scale, RawScale):
            return self.scale.inputs
        return len(self.relevant) or self.condition_dim + bool(self.trials)

    @property
    def each(self) -> ConditionScale | None:
        """Standardization of conditions, or of one trial's conditions; None if there are none."""
        if isinstance(self.scale, RawScale):
            return None
        return self.scale.each if isinstance(self.scale, TrialScale) else self.scale

    def extra_repr(self) -> str:
        """Return the dimension and the names of the maps, as text for ``repr``."""
        return f"dim={self.dim}, maps={self.names}"

    def given(self, conditions: Tensor | None) -> "Coordinates":
        """Return a view of these coordinates for points with given conditions; buffers are shared.

        Args:
            conditions: Conditions ``[..., C]`` in their own units: a row for each point, or one row
                for all points. With trials, a row contains all trials of a point, ``[..., n C]``.
                None returns these coordinates unchanged.

        Raises:
            UsageError: These coordinates have no conditions.
        """
        if conditions is None:
            return self
        if self.scale is None:
            raise UsageError("this flow is not conditional: leave the conditions out")
        view = copy(self)
        view._given = conditions
        return view

    def straight(self, conditions: Tensor) -> Tensor:
        """Transform conditions ``[..., C]`` from their own units to the scale used for surprise.

        Skewed conditions pass through power transforms, and conditions with long tails become
        normal scores. Sets of trials become their summary statistics.
        """
        return conditions if self.scale is None else self.scale.straight(conditions)

    @property
    def labels(self) -> Tensor | None:
        """Inputs ``[..., L]`` of the network: the given conditions, standardized.

        None if the flow is unconditional.

        Raises:
            UsageError: The flow has conditions, but none were given.
            DataError: Conditions are not finite, or their number is wrong.
        """
        return self._of_given(lambda scale, given: scale(given))

    @property
    def predictors(self) -> Tensor | None:
        """Predictors ``[..., W]`` of the points for maps that depend on the conditions.

        These are the standardized conditions, or the summary statistics of sets of trials. None if
        the flow is unconditional.

        Raises:
            UsageError: The flow has conditions, but none were given.
            DataError: Conditions are not finite, or their number is wrong.
        """
        return self._of_given(lambda scale, given: scale.predictors(given))

    def _of_given(
        self, seen: Callable[[ConditionScale | TrialScale | RawScale, Tensor], Tensor]
    ) -> Tensor | None:
        """Return the relevant numbers that a function computes from the given conditions."""
        if self.scale is None:
            return None
        if self._given is None:
            raise UsageError(
                f"this flow is conditional: give its {self.condition_dim} conditions, in "
                "Python with flow.given(labels=conditions)"
            )
        numbers = seen(self.scale, self._given)
        return numbers[..., self.relevant] if self.relevant else numbers

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Map points x to flow space, and return ``u [..., D]`` and ``log |det du/dx| [...]``.

        Raises:
            DataError: A point is not finite, or outside of the bounds of its column.
            UsageError: The flow has conditions, but none were given.
        """
        u, c = points.double(), self.predictors
        total = torch.zeros_like(u[..., 0])
        for map_ in self.maps:
            u, log_det = map_(u, c) if isinstance(map_, Prediction) else map_(u)
            _require_finite(u)
            total = total + log_det
        return u, total

    def to_flow(self, points: Tensor) -> Tensor:
        """Map points ``[..., D]`` of data space to flow space."""
        return self(points)[0]

    def log_det(self, points: Tensor) -> Tensor:
        """Return ``log |det du/dx| [...]`` of the map to flow space at points ``x [..., D]``."""
        return self(points)[1]

    def to_data(self, points: Tensor) -> Tensor:
        """Map points ``[..., D]`` of flow space to data space."""
        return self._back(points, slice(None))

    @property
    def is_linear(self) -> bool:
        """Whether the chain is affine: all maps are linear up to a shift."""
        return self._curved == 0

    def to_columns(self, points: Tensor) -> Tensor:
        """Map points ``[..., D]`` of flow space back through the affine maps only.

        The remaining maps to data space act on single columns, and are applied by ``bent``.
        """
        return self._back(points, slice(self._curved, None))

    def bent(self, columns: Tensor) -> Tensor:
        """Map the result ``[..., D]`` of ``to_columns`` to data space, each column by itself."""
        return self._back(columns, slice(0, self._curved))

    @property
    def rejects(self) -> bool:
        """Whether the flow can generate points beyond the bounds of columns, to be rejected."""
        return any(isinstance(map_, Limits) for map_ in self.maps)

    @property
    def ends(self) -> Tensor:
        """Lower and upper bounds of the columns ``[D, 2]``, infinite where there is no bound."""
        for map_ in self.maps:
            if isinstance(map_, Bounded):
                return map_.ends
        infinite = torch.full_like(self.steps, torch.inf)
        return torch.stack([-infinite, infinite], dim=1)

    def inside(self, points: Tensor) -> Tensor:
        """Return a mask ``[...]`` of the points ``[..., D]`` within the bounds of all columns."""
        within = torch.ones_like(points[..., 0], dtype=torch.bool)
        x = points.double()
        for map_ in self.maps:
            if isinstance(map_, Bounded):
                within = within & map_.inside(x)
            elif not isinstance(map_, Gaps):
                break  # Bounds come before all other maps.
            x, _ = map_(x)
        return within

    def dequantized(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Add uniform noise within the bins of discrete columns to points ``[N, D]`` of data space.

        Args:
            points: Points ``[N, D]`` of data space.
            generator: Random generator on the CPU.
        """
        return dither(points, self.steps, generator)

    def rounded(self, points: Tensor) -> Tensor:
        """Round the discrete columns of points ``[..., D]`` of data space to bin centers.

        Bin widths that are decimals give exact decimals: 61.800000000000004 is not a value of a
        column of tenths.
        """
        step = torch.where(self.steps > 0, self.steps, 1.0)
        nearest = self.offsets + step * ((points - self.offsets) / step).round()
        powers = 10.0 ** torch.arange(DIGITS, dtype=step.dtype, device=step.device)[:, None]
        whole = torch.stack([step, self.offsets]) * powers[:, None]
        fits = ((whole - whole.round()).abs() < AS_WHOLE).all(dim=1)
        power = powers.expand_as(fits).gather(0, fits.byte().argmax(dim=0, keepdim=True))[0]
        nearest = torch.where(fits.any(dim=0), (nearest * power).round() / power, nearest)
        return torch.where(self.steps > 0, nearest, points)

    def plausible(self, points: Tensor) -> Tensor:
        """Round discrete columns of draws ``[..., D]`` to bin centers within the data's range."""
        within = torch.minimum(torch.maximum(self.rounded(points), self.least), self.most)
        return torch.where(self.steps > 0, within, points)

    def possible(self, points: Tensor) -> Tensor:
        """Return a mask ``[...]`` of points ``[..., D]`` with discrete columns in the data's range.

        Values up to half a bin beyond the range are accepted.
        """
        return (self.rounded(points) == self.plausible(points)).all(dim=-1)

    def check(self) -> None:
        """Raise ValueError if the buffers do not make an invertible map."""
        if (self.steps < 0).any():
            raise ValueError(
                "the stored bin width of a discrete column is negative: restore the file from a "
                "copy"
            )
        if (self.least > self.most).any():
            raise ValueError(
                "the stored smallest value of a discrete column exceeds its largest value: "
                "restore the file from a copy"
            )
        for map_ in self.maps:
            if isinstance(map_, Gaps) and ((map_.steps != self.steps) & map_.some).any():
                raise ValueError(
                    "the stored gaps (removed bins) of a discrete column differ in width from its "
                    "other bins: restore the file from a copy"
                )
        for part in (*self.maps, self.scale, self.surprise, self.beside):
            if part is None:
                continue
            known = PointMap | Prediction | ConditionScale | TrialScale | RawScale | Surprise
            assert isinstance(part, known)
            part.check()

    @property
    def _curved(self) -> int:
        """Number of maps before the trailing maps that are all linear."""
        linear = (*LINEAR, *PREDICTIONS)
        return max((at + 1 for at, name in enumerate(self.names) if name not in linear), default=0)

    def _back(self, points: Tensor, part: slice) -> Tensor:
        """Map points ``[..., D]`` back through part of the maps."""
        x, c = points.double(), self.predictors
        for map_ in reversed(list(self.maps)[part]):
            if isinstance(map_, Prediction):
                assert c is not None
                x = map_.inverse(x, c)
            else:
                assert isinstance(map_, PointMap)
                x = map_.inverse(x)
        return x


def dither(points: Tensor, steps: Tensor, generator: torch.Generator) -> Tensor:
    """Add uniform noise within bins of widths ``steps [D]`` to points ``[N, D]``."""
    noise = torch.rand(points.shape, generator=generator, dtype=torch.float64) - 0.5
    return points + steps * noise.to(points.device)


def _require_finite(u: Tensor) -> None:
    bad = ~u.isfinite().reshape(-1, u.shape[-1])
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise DataError(
            f"{int(bad.any(dim=1).sum())} point(s) cannot be mapped, first in row {row + 1}, "
            f"column {column + 1}: the values are NaN or infinite, or outside the bounds of the "
            "column. Correct or remove these points"
        )
