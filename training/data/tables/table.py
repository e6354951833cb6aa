"""Training tables of a flow: rows, and the properties of their columns."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from torch_utils import distributed
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.batches import Batch, parts_of_epochs
from training.data.row_hashes import row_numbers
from training.data.tables.schema import Column, Records, Schema

MOST_LEVELS = 7
"""Maximum number of levels of a column; more values are counts, which can have new values."""


@dataclass(frozen=True, eq=False)
class Levels:
    """Levels (values) of D category columns: a few numbers at equal distances.

    Attributes:
        counts: Number of levels of each column ``[D]``.
        first: Value of the first level of each column ``[D]``, float64.
        steps: Distance between levels of each column ``[D]``, float64.
    """

    counts: Sequence[int]
    first: Tensor
    steps: Tensor

    @classmethod
    def from_values(cls, steps: Tensor, values: Tensor) -> "Levels":
        """Find the levels of columns from their values.

        The count is 0 for columns with many or missing values.

        Args:
            steps: Bin widths of the columns ``[D]``, 0 for continuous columns.
            values: Values ``[N, D]``.
        """
        first = values.amin(dim=0)
        counts = ((values.amax(dim=0) - first) / steps).round() + 1
        few = (steps > 0) & (counts <= MOST_LEVELS)
        return cls(torch.where(few, counts, 0.0).int().tolist(), first, steps)


SAME, FOLLOWS = 1e-8, 1e-6
"""Relative tolerances for constant columns, and for columns that depend on others.

Identifiers whose numbers are large relative to their differences count as constant.
"""


@dataclass(frozen=True, eq=False)
class Dropped:
    """Dropped columns, which are exact linear functions of the remaining columns.

    Attributes:
        names: Names of the dropped columns ``[K]``.
        offsets: Constant terms ``[K]``; for constant columns, their values.
        slopes: Coefficients of the remaining columns ``[K, D]``, 0 for constant columns.
        order: Names of all columns ``[D + K]``, in the order of the source.
    """

    names: Sequence[str]
    offsets: Tensor
    slopes: Tensor
    order: Sequence[str]

    @classmethod
    def none(cls, order: Sequence[str]) -> "Dropped":
        """Return an empty set of dropped columns.

        Args:
            order: Names of the table's columns.
        """
        zeros = torch.zeros(0, dtype=torch.float64)
        return cls([], zeros, zeros.reshape(0, len(order)), order)

    def contradicted(self, points: Tensor, values: Mapping[str, Tensor]) -> Iterator[str]:
        """Yield a sentence for each dropped column whose linear function does not hold in new rows.

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
    """Rows of a table: points, with their conditions if there are any.

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
        """Return the rows with the given indices, or selected by a boolean mask."""
        conditions = None if self.conditions is None else self.conditions[places]
        return Rows(self.points[places], conditions)


@dataclass(frozen=True, eq=False)
class DataTable:
    """A training table: points, conditions, and the properties of their columns.

    Attributes:
        points: Points ``[N, D]``, float64, as read: discrete columns are not dequantized.
        columns: Names, bin widths and bounds of the points' columns.
        held_out: Mask ``[N]``, bool, of rows that are held out of training, for validation.
        dropped: Columns of the source that are not modeled.
        conditions: Conditions of the points ``[N, C]``, float64, or ``[N, n C]`` for sets of trials
            (``repeated_trials.as_sets``). NaN where data of a trial is missing; None without
            conditions.
        condition_names: Names of the conditions ``[C]``.
        kept: Mask ``[N]``, bool, of rows for the calibration set, which neither training nor
            validation uses; None if there are none.
        condition_columns: Properties of the conditions' columns; None if only names are known.
        covariates: Names of conditions that are not data, such as a design or a time; in the table
            of a likelihood also the names in ``beside``.
        datasets: Dataset number of each row ``[N]``, int64, if rows are trials; None if each row
            has its own parameters.
        beside: In the table of a likelihood, names of category columns among the data. These are
            the last conditions, and the numeric data are the points.
    """

    points: Tensor
    columns: Schema
    held_out: Tensor
    dropped: Dropped
    conditions: Tensor | None = None
    condition_names: Sequence[str] = field(default_factory=list)
    kept: Tensor | None = None
    condition_columns: Schema | None = None
    covariates: Sequence[str] = ()
    datasets: Tensor | None = None
    beside: Sequence[str] = ()

    def __str__(self) -> str:
        return "the table"

    def __len__(self) -> int:
        return len(self.points)

    @property
    def dim(self) -> int:
        """Dimension D of the points."""
        return self.points.shape[1]

    @property
    def rows(self) -> Rows:
        """All rows of the table, as points with their conditions."""
        return Rows(self.points, self.conditions)

    @property
    def train_rows(self) -> Rows:
        """Rows that are not held out, as points with their conditions."""
        return self.rows.at(~self.held_out)

    @property
    def held_out_rows(self) -> Rows:
        """Held-out rows, as points with their conditions."""
        return self.rows.at(self.held_out)

    @property
    def condition_dim(self) -> int:
        """Number of conditions C."""
        return len(self.condition_names)

    @property
    def has_missing(self) -> bool:
        """Whether the conditions have missing values (NaN)."""
        return self.conditions is not None and bool(self.conditions.isnan().any())

    @property
    def columns_of_conditions(self) -> Schema:
        """Properties of the conditions' columns, which are continuous if only names are known."""
        return self.condition_columns or Schema.plain(self.condition_names)

    def at(self, places: Tensor) -> "DataTable":
        """Return the table of the rows with indices ``places``, without a calibration set."""
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
        """Levels of the points' columns; None unless all columns are category columns."""
        levels = Levels.from_values(self.columns.steps, self.points)
        return levels if all(levels.counts) else None

    def row_numbers(self) -> np.ndarray:
        """Return a 64-bit hash ``[N]`` of each row and its conditions.

        For sets of trials, the hash includes the first trial instead.
        """
        parts = [self.points]
        if self.conditions is not None:
            parts.append(self.conditions[:, : self.condition_dim])
        return row_numbers(torch.cat(parts, dim=1).numpy())

    def in_order(self, names: Sequence[str]) -> "DataTable":
        """Return the table with its conditions in the order of the given names."""
        order = [self.condition_names.index(name) for name in names]
        conditions = None if self.conditions is None else self.conditions[:, order]
        known = self.columns_of_conditions.at(order)
        return replace(self, conditions=conditions, condition_names=names, condition_columns=known)

    def without_conditions(self) -> "DataTable":
        """Return the table without conditions."""
        return replace(
            self, conditions=None, condition_names=[], condition_columns=None, covariates=()
        )


DataSource = Path | DataTable
"""A data set in a file or in memory."""


def as_records(table: DataTable) -> Records:
    """Convert a numeric table, including its conditions, to records with numeric columns."""
    columns = [*table.columns.columns, *map(Column, table.condition_names)]
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
    """Return points ``[N, D + K]`` with restored dropped columns, in the order of the source.

    Args:
        points: Points ``[N, D]`` of the remaining columns.
        names: Names of the remaining columns.
        dropped: The K dropped columns.
    """
    rest = dropped.offsets + points @ dropped.slopes.T
    place = {name: index for index, name in enumerate([*names, *dropped.names])}
    return torch.cat([points, rest], dim=1)[:, [place[name] for name in dropped.order]]


@dataclass(eq=False)
class TableBatches:
    """Training batches of a table in flow space, in a different order of rows in every epoch.

    Attributes:
        rows: Rows in data space.
        in_flow: Function that maps rows to flow space, and their conditions to network inputs, on
            the device of the training. The function dequantizes discrete columns with a generator.
        dithers: Whether there are discrete columns, which are dequantized with new noise in each
            epoch.
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
        """Yield this rank's part of each batch, endlessly.

        Args:
            first_step: Index of the training step to start from.
        """
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
