"""A table that a flow is trained on: its rows, and what is known of its columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field

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
    def train_rows(self) -> Tensor:
        """The points that are trained on."""
        return self.points[~self.held_out]

    @property
    def held_out_rows(self) -> Tensor:
        """The points that are not."""
        return self.points[self.held_out]


def restored(points: Tensor, names: Sequence[str], dropped: Dropped) -> Tensor:
    """Points ``[N, D]`` with the dropped columns, ``[N, D + K]``, in the order of the source."""
    rest = dropped.offsets + points @ dropped.slopes.T
    place = {name: index for index, name in enumerate([*names, *dropped.names])}
    return torch.cat([points, rest], dim=1)[:, [place[name] for name in dropped.order]]
