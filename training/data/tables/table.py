"""A table that a flow is trained on: its rows, and what is known of its columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Columns:
    """What is known of columns beside their values.

    Attributes:
        names: ``[D]``.
        steps: Steps of the discrete ones ``[D]``, 0 for continuous ones.
        offsets: A value of each ``[D]``, from which its steps count.
        low: Lower bounds ``[D]``, ``-inf`` where there is none.
        high: Upper bounds ``[D]``, ``inf`` where there is none.
    """

    names: Sequence[str]
    steps: Tensor
    offsets: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def plain(cls, names: Sequence[str]) -> "Columns":
        """Continuous columns without bounds."""
        zeros = torch.zeros(len(names), dtype=torch.float64)
        return cls(names, zeros, zeros, zeros - torch.inf, zeros + torch.inf)


@dataclass(frozen=True, eq=False)
class Dropped:
    """Columns that have no density, as functions of those that have one.

    Attributes:
        names: ``[K]``.
        offsets: ``[K]``: the values of constant columns.
        slopes: ``[K, D]``: how the others depend on those that stay, 0 for constant ones.
        order: The names of all columns ``[D + K]``, as the source has them.
    """

    names: Sequence[str]
    offsets: Tensor
    slopes: Tensor
    order: Sequence[str]

    @classmethod
    def none(cls, order: Sequence[str]) -> "Dropped":
        zeros = torch.zeros(0, dtype=torch.float64)
        return cls([], zeros, zeros.reshape(0, len(order)), order)


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a table.

    Attributes:
        points: ``[n, D]``.
        conditions: What these are given with, ``[n, C]``; None for nothing.
    """

    points: Tensor
    conditions: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def at(self, places: Tensor) -> "Rows":
        """The rows at these places, which may be booleans."""
        conditions = None if self.conditions is None else self.conditions[places]
        return Rows(self.points[places], conditions)


@dataclass(frozen=True, eq=False)
class Table:
    """Rows of numbers, and what is known of their columns.

    Attributes:
        points: ``[N, D]``, float64, as they were read: discrete columns at their steps.
        columns: Names, steps and bounds of the columns.
        held_out: ``[N]``, bool: rows that are not trained on.
        dropped: Columns of the source that are not among these.
        conditions: ``[N, C]``, float64: what points are to be conditioned on; None for nothing.
        condition_names: ``[C]``.
    """

    points: Tensor
    columns: Columns
    held_out: Tensor
    dropped: Dropped
    conditions: Tensor | None = None
    condition_names: Sequence[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.points)

    @property
    def dim(self) -> int:
        """D."""
        return self.points.shape[1]

    @property
    def rows(self) -> Rows:
        """All of them."""
        return Rows(self.points, self.conditions)

    @property
    def train_rows(self) -> Rows:
        """Those that are trained on."""
        return self.rows.at(~self.held_out)

    @property
    def held_out_rows(self) -> Rows:
        """Those that are not."""
        return self.rows.at(self.held_out)

    @property
    def condition_dim(self) -> int:
        """C."""
        return len(self.condition_names)

    def without_conditions(self) -> "Table":
        """The points alone."""
        return replace(self, conditions=None, condition_names=[])


def restored(points: Tensor, names: Sequence[str], dropped: Dropped) -> Tensor:
    """Points ``[N, D]`` with the dropped columns, ``[N, D + K]``, in the order of the source."""
    rest = dropped.offsets + points @ dropped.slopes.T
    place = {name: index for index, name in enumerate([*names, *dropped.names])}
    return torch.cat([points, rest], dim=1)[:, [place[name] for name in dropped.order]]
