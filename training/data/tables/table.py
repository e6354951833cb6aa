"""Training tables of a flow: rows, and the properties of their columns."""

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
from training.data.row_hashes import row_numbers


@dataclass(frozen=True, eq=False)
class Columns:
    """Properties of columns besides their values.

    Attributes:
        names: Names ``[D]``.
        steps: Steps of discrete columns ``[D]``, 0 for continuous ones.
        offsets: A value of each column ``[D]``, from which its steps are counted.
        low: Lower bounds ``[D]``, ``-inf`` where there is none.
        high: Upper bounds ``[D]``, ``inf`` where there is none.
        gaps: Values within their range that discrete columns never have ``[D, G]``, increasing, and
            padded beyond all values; None for none.
    """

    names: Sequence[str]
    steps: Tensor
    offsets: Tensor
    low: Tensor
    high: Tensor
    gaps: Tensor | None = None

    @classmethod
    def plain(cls, names: Sequence[str]) -> "Columns":
        """Return continuous columns without bounds."""
        zeros = torch.zeros(len(names), dtype=torch.float64)
        return cls(names, zeros, zeros, zeros - torch.inf, zeros + torch.inf)

    def at(self, places: Sequence[int]) -> "Columns":
        """Return some of the columns."""
        names = [self.names[place] for place in places]
        numbers = (self.steps, self.offsets, self.low, self.high)
        part = Columns(names, *(values[list(places)] for values in numbers))
        return part if self.gaps is None else replace(part, gaps=self.gaps[list(places)])

    @classmethod
    def joined(cls, *parts: "Columns") -> "Columns":
        """Return the columns of several tables without gaps, side by side."""
        numbers = ("steps", "offsets", "low", "high")
        joined = (torch.cat([getattr(part, key) for part in parts]) for key in numbers)
        return cls([name for part in parts for name in part.names], *joined)


MOST_LEVELS = 7
"""Maximum number of levels of a column; more values are counts, which can have new values."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Columns with few values, at steps from a first one.

    Attributes:
        counts: Numbers of levels ``[D]``.
        first: First levels ``[D]``, float64.
        steps: Steps between levels ``[D]``, float64.
    """

    counts: Sequence[int]
    first: Tensor
    steps: Tensor

    @classmethod
    def from_values(cls, columns: Columns, values: Tensor) -> "Levels":
        """Return the levels in values ``[N, D]``; a count is 0 for more or missing values."""
        first, steps = values.amin(dim=0), columns.steps
        counts = ((values.amax(dim=0) - first) / steps).round() + 1
        few = (steps > 0) & (counts <= MOST_LEVELS)
        return cls(torch.where(few, counts, 0.0).int().tolist(), first, steps)


SAME, FOLLOWS = 1e-8, 1e-6
"""Relative tolerances for constant columns, and for columns that depend on others.

Identifiers whose numbers are large relative to their differences count as constant.
"""


@dataclass(frozen=True, eq=False)
class Dropped:
    """Columns without a density, as functions of columns with a density.

    Attributes:
        names: Names ``[K]``.
        offsets: Constant terms ``[K]``; for constant columns, their values.
        slopes: Dependence on the remaining columns ``[K, D]``, 0 for constant columns.
        order: Names of all columns ``[D + K]``, in the order of the source.
    """

    names: Sequence[str]
    offsets: Tensor
    slopes: Tensor
    order: Sequence[str]

    @classmethod
    def none(cls, order: Sequence[str]) -> "Dropped":
        """Return no dropped columns, for a table with columns of these names."""
        zeros = torch.zeros(0, dtype=torch.float64)
        return cls([], zeros, zeros.reshape(0, len(order)), order)

    def contradicted(self, points: Tensor, values: Mapping[str, Tensor]) -> Iterator[str]:
        """Yield a sentence for each dropped column whose values in new rows do not match.

        Args:
            points: Rows ``[N, D]`` of the remaining columns, NaN where unknown.
            values: Values ``[N]`` of dropped columns, by name.
        """
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
                    f"column '{name}' is a function of other columns in training, but "
                    f"{unused} row(s) lack some of these: their values of '{name}' are "
                    "not checked"
                )
            if len(rows):
                first = int(rows[0])
                yield (
                    f"column '{name}' "
                    f"{'is a function of others' if follows else 'is constant'} in the "
                    f"training data, but not in {len(rows)} row(s): row {first + 1} has "
                    f"{float(own[first]):.10g} instead of {float(expected[first]):.10g}"
                )


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of a table.

    Attributes:
        points: Points ``[n, D]``.
        conditions: Conditions of the points ``[n, C]``, or ``[n, m C]`` for sets of m trials; None
            for none.
    """

    points: Tensor
    conditions: Tensor | None = None

    def __len__(self) -> int:
        return len(self.points)

    def at(self, places: Tensor) -> "Rows":
        """Return the rows at these indices, or of a boolean mask."""
        conditions = None if self.conditions is None else self.conditions[places]
        return Rows(self.points[places], conditions)


@dataclass(frozen=True, eq=False)
class DataTable:
    """Rows of numbers, and the properties of their columns.

    Attributes:
        points: ``[N, D]``, float64, as read: discrete columns are at their steps.
        columns: Names, steps and bounds of the columns.
        held_out: Mask ``[N]``, bool, of rows that are not used for training.
        dropped: Columns of the source that are not among these.
        conditions: Conditions of the points ``[N, C]``, float64, or ``[N, n C]`` for sets of trials
            (``trials.as_sets``). NaN where data of a trial is missing; None without conditions.
        condition_names: Names ``[C]``.
        kept: Mask ``[N]``, bool, of rows that neither training nor its choices use; None for none.
        condition_columns: Properties of conditions; None if only their names are known.
        covariates: Names of conditions that are not data, such as a design or a time; in the table
            of a likelihood also ``beside``.
        datasets: Dataset of each row ``[N]``, int64, if rows are trials; None if each row has its
            own parameters.
        beside: In the table of a likelihood, names of data columns that are levels. Numbers are
            points given the levels, which are the last conditions.
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
        """Dimension D of the points."""
        return self.points.shape[1]

    @property
    def rows(self) -> Rows:
        """All rows."""
        return Rows(self.points, self.conditions)

    @property
    def train_rows(self) -> Rows:
        """Training rows."""
        return self.rows.at(~self.held_out)

    @property
    def held_out_rows(self) -> Rows:
        """Held-out rows."""
        return self.rows.at(self.held_out)

    @property
    def condition_dim(self) -> int:
        """Number of conditions C."""
        return len(self.condition_names)

    @property
    def has_missing(self) -> bool:
        """Whether data of trials is missing."""
        return self.conditions is not None and bool(self.conditions.isnan().any())

    @property
    def columns_of_conditions(self) -> Columns:
        """Properties of the conditions."""
        return self.condition_columns or Columns.plain(self.condition_names)

    def at(self, places: Tensor) -> "DataTable":
        """Return some rows, none of them marked as kept."""
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
        """Levels of the points; None if a column has more values, or missing ones."""
        levels = Levels.from_values(self.columns, self.points)
        return levels if all(levels.counts) else None

    def row_numbers(self) -> np.ndarray:
        """Return 64-bit hashes ``[N]`` of points and conditions; for sets, of the first trial."""
        parts = [self.points]
        if self.conditions is not None:
            parts.append(self.conditions[:, : self.condition_dim])
        return row_numbers(torch.cat(parts, dim=1).numpy())

    def in_order(self, names: Sequence[str]) -> "DataTable":
        """Return the table with its conditions in the order of these names."""
        order = [self.condition_names.index(name) for name in names]
        conditions = None if self.conditions is None else self.conditions[:, order]
        known = self.columns_of_conditions.at(order)
        return replace(self, conditions=conditions, condition_names=names, condition_columns=known)

    def without_conditions(self) -> "DataTable":
        """Return the table without conditions."""
        return replace(
            self, conditions=None, condition_names=[], condition_columns=None, covariates=()
        )


def as_records(table: DataTable) -> Records:
    """Return the rows, including conditions, as records with numeric columns."""
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
    """Return points ``[N, D + K]`` with the dropped columns, in the order of the source."""
    rest = dropped.offsets + points @ dropped.slopes.T
    place = {name: index for index, name in enumerate([*names, *dropped.names])}
    return torch.cat([points, rest], dim=1)[:, [place[name] for name in dropped.order]]


@dataclass(eq=False)
class TableBatches:
    """Rows in flow space, each once per epoch, in a different order in every epoch.

    Attributes:
        rows: Rows in data space.
        in_flow: Function that maps rows to flow space, with the network's labels of their
            conditions, on the device of the training. It dequantizes discrete columns with its
            generator.
        dithers: Whether there are discrete columns: then each epoch has its own noise.
        batch: Batch size over all ranks.
        seed: Random seed of order and noise.
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
        """Yield this rank's share of each batch from a step on, endlessly."""
        for step in count(first_step):
            ends = step * self.batch, (step + 1) * self.batch
            parts = parts_of_epochs(*ends, len(self.rows))
            whole = Batch.joined([self._of_epoch(epoch).at(rows) for epoch, rows in parts])
            yield whole.at(distributed.shard(self.batch))

    def _of_epoch(self, epoch: int) -> Batch:
        """Return all rows in the order of an epoch, in flow space."""
        if epoch != self._epoch:
            if self.dithers or self._epoch < 0:
                # The noise of an epoch does not depend on where the stream was started.
                drawn = epoch if self.dithers else 0
                generator = seeded_generator("cpu", self.seed, Stream.DEQUANTIZATION, drawn)
                self._placed = self.in_flow(self.rows, generator)
            generator = seeded_generator("cpu", self.seed, Stream.DATA, epoch)
            order = torch.randperm(len(self.rows), generator=generator)
            self._epoch = epoch
            self._shuffled = self._placed.at(order.to(self._placed.points.device))
        return self._shuffled
