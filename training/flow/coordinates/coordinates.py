"""From the columns of a table, in their own units, to what a flow sees, and back.

A flow works best where columns are nearly normal and of one scale. So points x pass through a chain
of invertible maps (``maps``) to u, where the flow lives, and

    log p_x(x) = log p_u(u(x)) + log |det du/dx|.

Columns of whole steps (counts, readings with two decimals) have no density. They are *dithered*: a
value stands for the interval of one step around it, and is drawn from it uniformly. What the flow
generates is rounded to steps, within the range that the data had, where that is asked for.

Where points are given with conditions, the maps are those of given conditions (``conditions``).
"""

from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor, nn

from dnnlib.errors import DataError, UsageError
from training.flow.coordinates.conditions import (
    ConditionScale,
    GaussianPrediction,
    LinearPrediction,
    Prediction,
    TrialScale,
)
from training.flow.coordinates.levels import LevelPrediction
from training.flow.coordinates.maps import (
    LINEAR,
    MAPS,
    Bounded,
    Gaps,
    Limits,
    PointMap,
)
from training.flow.coordinates.surprise import Surprise

PREDICTION, GAUSSIAN, LEVELS = "prediction", "gaussian", "levels"
"""The names of a ``LinearPrediction``, a ``GaussianPrediction`` and a ``LevelPrediction`` in
network files."""
PREDICTIONS: dict[str, type[Prediction]] = {
    PREDICTION: LinearPrediction,
    GAUSSIAN: GaussianPrediction,
}
DIGITS, AS_WHOLE = 10, 1e-6
"""Of decimals, at most one less; and how far a whole number of their units may be from one."""


class Coordinates(nn.Module):
    """A chain of invertible maps from data space ``[..., D]`` to flow space ``[..., D]``, float64.

    Args:
        dim: D.
        maps: Names in ``MAPS`` or ``PREDICTIONS``, in the order in which they are applied.
        knots: Number of knots of their splines.
        conditions: The number C of conditions that points are given with.
        surprise: Whether it is known where these lie.
        relevant: Places of the conditions that points depend on, which are what the network sees;
            empty if they are all.
        skewed: Places of conditions that go through a power before they are standardized.
        tails: Places of others, with long tails, whose normal scores are taken.
        levels: How many levels each column has ``[D]``; empty where they are numbers.
        trials: How many trials a point is given with at most, each of C conditions, which stand
            side by side (``TrialScale``); 0 where it is given with C conditions.
        beside: How many levels each of the last conditions has, if these are levels of a trial
            whose law is to be known, given the other conditions; empty for none.

    Attributes:
        scale: Of conditions; None where there are none.
        surprise: How unlike those of the training conditions are; None where it is not known.
        steps: ``[D]``: the step of each discrete column, 0 for continuous ones.
        offsets: ``[D]``: a value of each discrete column, from which its steps count.
        least: ``[D]``: the smallest value that each discrete column had.
        most: ``[D]``: the largest.

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
    ):
        super().__init__()
        self.levels, self.trials = list(levels), trials
        self.dim, self.names, self.knots = dim, list(maps), knots
        self.condition_dim, self.relevant = conditions, list(relevant)
        if any(not 0 <= place < conditions for place in (*self.relevant, *skewed, *tails)):
            raise ValueError(f"a relevant or skewed condition is none of {conditions}")
        known = (*MAPS, *PREDICTIONS, LEVELS)
        for name in self.names:
            if name not in known:
                raise ValueError(f"unknown map '{name}': known are {', '.join(known)}")
        if trials and (trials < 0 or not conditions or relevant):
            raise ValueError(f"{trials} trials of {conditions} conditions, of which some count")
        self.scale: ConditionScale | TrialScale | None = None
        if conditions:
            self.scale = ConditionScale(conditions, skewed, tails)
        if trials:
            self.scale = TrialScale(conditions, trials, skewed, tails)
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
        """Takes the last conditions as levels, so many of each, and returns their law, which is to
        be fitted."""
        if self.trials or self.relevant:
            raise ValueError("levels beside points are conditions among others, all of which count")
        others = self.condition_dim - len(counts)
        self.beside = LevelPrediction(len(counts), others, counts)
        return self.beside

    def log_levels(self, conditions: Tensor) -> Tensor:
        """Log probabilities ``[...]`` of the levels among conditions ``[..., C]``, given the
        others; gradients flow back to these."""
        beside, labels = self.beside, self.given(conditions).labels
        assert beside is not None
        assert labels is not None
        first = self.condition_dim - len(beside.counts)
        return beside.log_prob(conditions[..., first:], labels[..., :first])

    def _made(self, name: str, conditions: int) -> nn.Module:
        """A map, of so many conditions if it predicts from these."""
        if name == LEVELS:
            return LevelPrediction(self.dim, conditions, self.levels)
        if name in PREDICTIONS:
            return PREDICTIONS[name](self.dim, conditions)
        return MAPS[name](self.dim, self.knots)

    def hold_steps(self, steps: Tensor, offsets: Tensor, points: Tensor) -> None:
        """Takes the steps of discrete columns ``[D]``, values of them ``[D]``, and their range in
        dithered points ``[N, D]``."""
        self.steps.copy_(steps)
        self.offsets.copy_(offsets)
        values = torch.where(self.steps > 0, self.rounded(points), 0.0)
        self.least.copy_(values.amin(dim=0))
        self.most.copy_(values.amax(dim=0))

    @property
    def arguments(self) -> dict[str, object]:
        """What constructs it anew, but for its buffers."""
        made: dict[str, object] = {"dim": self.dim, "maps": self.names, "knots": self.knots}
        # Digests of networks that were written before there was more stay what they were.
        made |= {"conditions": self.condition_dim} if self.condition_dim else {}
        made |= {"surprise": True} if self.surprise else {}
        made |= {"levels": self.levels} if self.levels else {}
        for name in ("skewed", "tails"):
            places = getattr(self.each, name, [])
            made |= {name: places} if places else {}
        made |= {"trials": self.trials} if self.trials else {}
        made |= {"beside": self.beside.counts} if self.beside else {}
        return made | ({"relevant": self.relevant} if self.relevant else {})

    @property
    def label_dim(self) -> int:
        """The number L of conditions that the network sees; of sets, of one trial and whether it is
        there."""
        return len(self.relevant) or self.condition_dim + bool(self.trials)

    @property
    def each(self) -> ConditionScale | None:
        """Of conditions, or of those of one trial; None where there are none."""
        return self.scale.each if isinstance(self.scale, TrialScale) else self.scale

    def extra_repr(self) -> str:
        return f"dim={self.dim}, maps={self.names}"

    def given(self, conditions: Tensor | None) -> "Coordinates":
        """These coordinates, which hold the same buffers, of points that are given with conditions.

        Args:
            conditions: ``[..., C]`` in their own units, a row for each point, or one for all; of
                sets all trials of a point, ``[..., n C]``. None leaves things as they are.

        Raises:
            UsageError: There are no conditions to be given.
        """
        if conditions is None:
            return self
        if self.scale is None:
            raise UsageError("this flow has no conditions, but some were given: leave them out")
        view = copy(self)
        view._given = conditions
        return view

    def straight(self, conditions: Tensor) -> Tensor:
        """Conditions ``[..., C]`` of their own units as the surprise takes them: after powers of
        skewed ones and normal scores of those with long tails; or statistics of sets of trials."""
        return conditions if self.scale is None else self.scale.straight(conditions)

    @property
    def labels(self) -> Tensor | None:
        """The network's labels ``[..., L]``: the given conditions, standardized; None for none.
        Raises UsageError if none were given, but there are some, DataError if they are not finite,
        or of another number."""
        return self._of_given(lambda scale, given: scale(given))

    @property
    def predictors(self) -> Tensor | None:
        """What predictions are by: labels, or statistics of sets of trials ``[..., W]``; None
        for none. Raises as ``labels`` does."""
        return self._of_given(lambda scale, given: scale.predictors(given))

    def _of_given(
        self, seen: Callable[[ConditionScale | TrialScale, Tensor], Tensor]
    ) -> Tensor | None:
        """What is seen of the given conditions, those that are relevant."""
        if self.scale is None:
            return None
        if self._given is None:
            raise UsageError(
                f"this flow is conditional: say what its {self.condition_dim} conditions are, in "
                "Python by flow.given(labels=conditions)"
            )
        numbers = seen(self.scale, self._given)
        return numbers[..., self.relevant] if self.relevant else numbers

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Points of flow space ``[..., D]``, and ``log |det du/dx| [...]``, of points ``[..., D]``.
        Raises DataError if one is not finite, or outside of the bounds of its column, UsageError if
        the points are given with conditions, but none were said."""
        u, c = points.double(), self.predictors
        total = torch.zeros_like(u[..., 0])
        for map_ in self.maps:
            u, log_det = map_(u, c) if isinstance(map_, Prediction) else map_(u)
            _require_finite(u)
            total = total + log_det
        return u, total

    def to_flow(self, points: Tensor) -> Tensor:
        """From data space to flow space."""
        return self(points)[0]

    def log_det(self, points: Tensor) -> Tensor:
        """``log |det du/dx| [...]`` at points ``[..., D]`` of data space."""
        return self(points)[1]

    def to_data(self, points: Tensor) -> Tensor:
        """From flow space ``[..., D]`` to data space."""
        return self._back(points, slice(None))

    @property
    def is_linear(self) -> bool:
        """Whether it is one linear map, and a shift."""
        return self._curved == 0

    def to_columns(self, points: Tensor) -> Tensor:
        """From flow space ``[..., D]`` back to columns that are only curved, each by itself: they
        are linear in points of flow space."""
        return self._back(points, slice(self._curved, None))

    def bent(self, columns: Tensor) -> Tensor:
        """Those columns ``[..., D]`` in data space: each a function of itself alone."""
        return self._back(columns, slice(0, self._curved))

    @property
    def rejects(self) -> bool:
        """Whether the flow has points beyond the bounds of columns."""
        return any(isinstance(map_, Limits) for map_ in self.maps)

    def inside(self, points: Tensor) -> Tensor:
        """Whether points ``[..., D]`` of data space are within the bounds of columns, ``[...]``."""
        within = torch.ones_like(points[..., 0], dtype=torch.bool)
        x = points.double()
        for map_ in self.maps:
            if isinstance(map_, Bounded):
                within = within & map_.inside(x)
            elif not isinstance(map_, Gaps):
                break  # bounds come before all other maps
            x, _ = map_(x)
        return within

    def dithered(self, points: Tensor, generator: torch.Generator) -> Tensor:
        """Points ``[N, D]`` of data space with discrete columns spread evenly over their steps, by
        a generator on the CPU."""
        return dither(points, self.steps, generator)

    def rounded(self, points: Tensor) -> Tensor:
        """Points ``[..., D]`` of data space with discrete columns at the nearest of their steps: as
        decimals, where steps are such. 61.800000000000004 is no value of a column of tenths."""
        step = torch.where(self.steps > 0, self.steps, 1.0)
        nearest = self.offsets + step * ((points - self.offsets) / step).round()
        powers = 10.0 ** torch.arange(DIGITS, dtype=step.dtype, device=step.device)[:, None]
        whole = torch.stack([step, self.offsets]) * powers[:, None]
        fits = ((whole - whole.round()).abs() < AS_WHOLE).all(dim=1)
        power = powers.expand_as(fits).gather(0, fits.byte().argmax(dim=0, keepdim=True))[0]
        nearest = torch.where(fits.any(dim=0), (nearest * power).round() / power, nearest)
        return torch.where(self.steps > 0, nearest, points)

    def plausible(self, points: Tensor) -> Tensor:
        """Draws ``[..., D]`` of data space as the data could have them: discrete columns at the
        nearest of their steps within the range that they had."""
        within = torch.minimum(torch.maximum(self.rounded(points), self.least), self.most)
        return torch.where(self.steps > 0, within, points)

    def possible(self, points: Tensor) -> Tensor:
        """Whether discrete columns of points ``[..., D]`` are within half a step of the range that
        they had, ``[...]``."""
        return (self.rounded(points) == self.plausible(points)).all(dim=-1)

    def check(self) -> None:
        """Raises ValueError if what it holds does not make an invertible map."""
        if (self.steps < 0).any():
            raise ValueError("a step is negative")
        if (self.least > self.most).any():
            raise ValueError("a column's smallest value is above its largest")
        for map_ in self.maps:
            if isinstance(map_, Gaps) and ((map_.steps != self.steps) & map_.some).any():
                raise ValueError("steps that are taken out of a column are not as long as its own")
        for part in (*self.maps, self.scale, self.surprise, self.beside):
            if part is None:
                continue
            assert isinstance(part, PointMap | Prediction | ConditionScale | TrialScale | Surprise)
            part.check()

    @property
    def _curved(self) -> int:
        """How many maps come before those that are linear to the end."""
        linear = (*LINEAR, *PREDICTIONS)
        return max((at + 1 for at, name in enumerate(self.names) if name not in linear), default=0)

    def _back(self, points: Tensor, part: slice) -> Tensor:
        """Points ``[..., D]`` back through some of the maps."""
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
    """Points ``[N, D]`` spread evenly over steps ``[D]``: by ``Coordinates``, or to fit some."""
    noise = torch.rand(points.shape, generator=generator, dtype=torch.float64) - 0.5
    return points + steps * noise.to(points.device)


def _require_finite(u: Tensor) -> None:
    bad = ~u.isfinite().reshape(-1, u.shape[-1])
    if bad.any():
        row, column = bad.nonzero()[0].tolist()
        raise DataError(
            f"{int(bad.any(dim=1).sum())} point(s) have no place in the flow, first in row "
            f"{row + 1}, column {column + 1}: they are NaN or infinite, or outside of the column's "
            "bounds"
        )
