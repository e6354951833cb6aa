"""A table that a flow is trained on: its rows, and what is known of its columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from itertools import count

import numpy as np
import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch, parts_of_epochs
from training.data.records.records import NUMBER, WHOLE, RecordColumn, Records
from training.data.sketches import row_numbers


@dataclass(frozen=True, eq=False)
class Columns:
    """What is known of columns beside their values.

    Attributes:
        names: ``[D]``.
        steps: Steps of the discrete ones ``[D]``, 0 for continuous ones.
        offsets: A value of each ``[D]``, from which its steps count.
        low: Lower bounds ``[D]``, ``-inf`` where there is none.
        high: Upper bounds ``[D]``, ``inf`` where there is none.
        gaps: Values that discrete ones never have within their range ``[D, G]``, rising, those
            behind the last beyond all; None for none.
    """

    names: Sequence[str]
    steps: Tensor
    offsets: Tensor
    low: Tensor
    high: Tensor
    gaps: Tensor | None = None

    @classmethod
    def plain(cls, names: Sequence[str]) -> "Columns":
        """Continuous columns without bounds."""
        zeros = torch.zeros(len(names), dtype=torch.float64)
        return cls(names, zeros, zeros, zeros - torch.inf, zeros + torch.inf)

    def at(self, places: Sequence[int]) -> "Columns":
        """Some of them."""
        names = [self.names[place] for place in places]
        numbers = (self.steps, self.offsets, self.low, self.high)
        part = Columns(names, *(values[list(places)] for values in numbers))
        return part if self.gaps is None else replace(part, gaps=self.gaps[list(places)])

    @classmethod
    def joined(cls, *parts: "Columns") -> "Columns":
        """Those of several tables, side by side, none of which has gaps."""
        numbers = ("steps", "offsets", "low", "high")
        joined = (torch.cat([getattr(part, key) for part in parts]) for key in numbers)
        return cls([name for part in parts for name in part.names], *joined)


MOST_LEVELS = 7
"""Of a column: what has more values is a count, of which further ones may come."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Columns of few values, from a first one in steps.

    Attributes:
        counts: Of the values ``[D]``.
        first: ``[D]``, float64.
        steps: ``[D]``, float64.
    """

    counts: Sequence[int]
    first: Tensor
    steps: Tensor

    @classmethod
    def of(cls, columns: Columns, values: Tensor) -> "Levels":
        """Those of values ``[N, D]``; a count of 0 for columns that have more, or missing ones."""
        first, steps = values.amin(dim=0), columns.steps
        counts = ((values.amax(dim=0) - first) / steps).round() + 1
        few = (steps > 0) & (counts <= MOST_LEVELS)
        return cls(torch.where(few, counts, 0.0).int().tolist(), first, steps)


SAME, FOLLOWS = 1e-8, 1e-6
"""What a constant column, or one that follows from others, may be off, relative to what it is made
of. Identifiers whose numbers are too large for what they differ by count as constant."""


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

    def contradicted(self, points: Tensor, values: Mapping[str, Tensor]) -> Iterator[str]:
        """What is wrong with each of these columns, in a sentence, in rows ``[N, D]`` of those that
        stay, NaN where they are not known, which have values ``[N]`` of it, by its name, that do
        not follow from them."""
        for name, offset, every in zip(self.names, self.offsets, self.slopes, strict=True):
            if name not in values:
                continue
            of, own, follows = points[:, every != 0], values[name], bool(every.any())
            slopes = every[every != 0]
            expected, room = offset + of @ slopes, offset.abs() + of.abs() @ slopes.abs()
            rows = ((own - expected).abs() > (FOLLOWS if follows else SAME) * room).nonzero()[:, 0]
            unused = int((expected.isnan() & ~own.isnan()).sum())
            if unused:
                yield (
                    f"column '{name}' follows in the training from others, of which {unused} "
                    f"row(s) lack some: what they have of '{name}' is not looked at"
                )
            if len(rows):
                first = int(rows[0])
                yield (
                    f"column '{name}' {'follows from others' if follows else 'is constant'} in the "
                    f"training, but not in {len(rows)} row(s): row {first + 1} has "
                    f"{float(own[first]):.10g} in place of {float(expected[first]):.10g}"
                )


@dataclass(frozen=True, eq=False)
class Rows:
    """Some rows of a table.

    Attributes:
        points: ``[n, D]``.
        conditions: What these are given with, ``[n, C]``, or of sets of m trials ``[n, m C]``; None
            for nothing.
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
class DataTable:
    """Rows of numbers, and what is known of their columns.

    Attributes:
        points: ``[N, D]``, float64, as they were read: discrete columns at their steps.
        columns: Names, steps and bounds of the columns.
        held_out: ``[N]``, bool: rows that are not trained on.
        dropped: Columns of the source that are not among these.
        conditions: ``[N, C]``, float64: what points are to be conditioned on; None for nothing. Of
            sets of trials (``trials.as_sets``) ``[N, n C]``. NaN where data of a trial are missing.
        condition_names: ``[C]``.
        kept: ``[N]``, bool: rows that no training sees, nor any of its choices; None for none.
        condition_columns: What is known of conditions; None for their names alone.
        covariates: Names of those conditions that are no data: a design, or a time; of the table
            of a likelihood also ``beside``.
        datasets: ``[N]``, int64: the dataset of each row, where rows are trials; None where each
            row has parameters of its own.
        beside: Of the table of a likelihood, names of data that are levels beside numbers: these
            are points, given the levels, which are the last conditions.
    """

    points: Tensor
    columns: Columns
    held_out: Tensor
    dropped: Dropped
    conditions: Tensor | None = None
    condition_names: Sequence[str] = field(default_factory=list)
    kept: Tensor | None = None
    condition_columns: Columns | None = None
    covariates: Sequence[str] = ()
    datasets: Tensor | None = None
    beside: Sequence[str] = ()

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

    @property
    def has_holes(self) -> bool:
        """Whether data of trials are missing."""
        return self.conditions is not None and bool(self.conditions.isnan().any())

    @property
    def columns_of_conditions(self) -> Columns:
        """What is known of conditions."""
        return self.condition_columns or Columns.plain(self.condition_names)

    def at(self, places: Tensor) -> "DataTable":
        """Some rows, of which none is kept any more."""
        rows = self.rows.at(places)
        return replace(
            self,
            points=rows.points,
            held_out=self.held_out[places],
            conditions=rows.conditions,
            kept=None,
            datasets=None if self.datasets is None else self.datasets[places],
        )

    @property
    def levels(self) -> Levels | None:
        """Those of points; None where a column has more values, or some that are missing."""
        levels = Levels.of(self.columns, self.points)
        return levels if all(levels.counts) else None

    def row_numbers(self) -> np.ndarray:
        """Numbers of 64 bits ``[N]`` that hardly ever clash, by points and conditions; of sets, by
        the first trial."""
        parts = [self.points]
        if self.conditions is not None:
            parts.append(self.conditions[:, : self.condition_dim])
        return row_numbers(torch.cat(parts, dim=1).numpy())

    def in_order(self, names: Sequence[str]) -> "DataTable":
        """The same with its conditions in the order of these names, which are theirs."""
        order = [self.condition_names.index(name) for name in names]
        conditions = None if self.conditions is None else self.conditions[:, order]
        known = self.columns_of_conditions.at(order)
        return replace(self, conditions=conditions, condition_names=names, condition_columns=known)

    def without_conditions(self) -> "DataTable":
        """The points alone."""
        return replace(
            self, conditions=None, condition_names=[], condition_columns=None, covariates=()
        )


def as_records(table: DataTable) -> Records:
    """The rows of a table, conditions among them, as records whose columns are all numbers."""
    columns, own = [], table.columns
    for name, *grid in zip(own.names, own.steps.tolist(), own.offsets.tolist(), strict=True):
        discrete = grid[0] > 0
        whole = discrete and all(part == round(part) for part in grid)  # 22.5, 27.5 are not
        digits = max(0, *(-int(Decimal(repr(part)).as_tuple().exponent) for part in grid))
        columns.append(
            RecordColumn(name, WHOLE if whole else NUMBER, decimals=digits if discrete else None)
        )
    columns += [RecordColumn(name, NUMBER) for name in table.condition_names]
    parts = [table.points] if table.conditions is None else [table.points, table.conditions]
    same = table.dropped.slopes.abs().sum(dim=1) == 0
    constants = {
        name: f"{value:.15g}"
        for name, value, one in zip(
            table.dropped.names, table.dropped.offsets.tolist(), same.tolist(), strict=True
        )
        if one
    }
    known = {*constants, *(column.name for column in columns)}
    order = [name for name in table.dropped.order if name in known]
    order += [name for name in table.condition_names if name not in order]
    values = torch.cat(parts, dim=1).numpy()
    return Records(columns, values, table.held_out.numpy(), constants, {}, order)


def restored(points: Tensor, names: Sequence[str], dropped: Dropped) -> Tensor:
    """Points ``[N, D]`` with the dropped columns, ``[N, D + K]``, in the order of the source."""
    rest = dropped.offsets + points @ dropped.slopes.T
    place = {name: index for index, name in enumerate([*names, *dropped.names])}
    return torch.cat([points, rest], dim=1)[:, [place[name] for name in dropped.order]]


@dataclass(eq=False)
class TableBatches:
    """Rows in flow space, every row once an epoch, in an order of the epoch's own.

    Attributes:
        rows: Of data space.
        in_flow: Puts them into flow space, with the network's labels of their conditions, on the
            device of the training; draws of its generator spread discrete columns over their steps.
        dithers: Whether it draws any: then each epoch has draws of its own.
        batch: Batch size over all ranks.
        seed: Seed of the orders and of the draws.
    """

    rows: Rows
    in_flow: Callable[[Rows, torch.Generator], Batch]
    dithers: bool
    batch: int
    seed: int

    def __post_init__(self) -> None:
        self._epoch, self._placed = -1, Batch(self.rows.points)
        self._shuffled = self._placed

    def batches(self, first_step: int) -> Iterator[Batch]:
        for step in count(first_step):
            ends = step * self.batch, (step + 1) * self.batch
            parts = parts_of_epochs(*ends, len(self.rows))
            whole = Batch.joined([self._of_epoch(epoch).at(rows) for epoch, rows in parts])
            yield whole.at(distributed.shard(self.batch))

    def _of_epoch(self, epoch: int) -> Batch:
        """All rows in the order of an epoch, in flow space."""
        if epoch != self._epoch:
            if self.dithers or self._epoch < 0:
                # Draws of an epoch do not depend on where the stream was started.
                drawn = epoch if self.dithers else 0
                generator = seeded_generator("cpu", self.seed, Stream.DEQUANTIZATION, drawn)
                self._placed = self.in_flow(self.rows, generator)
            generator = seeded_generator("cpu", self.seed, Stream.DATA, epoch)
            order = torch.randperm(len(self.rows), generator=generator)
            self._epoch = epoch
            self._shuffled = self._placed.at(order.to(self._placed.points.device))
        return self._shuffled
