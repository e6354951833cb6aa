"""Tables to train on: rows with a schema, and batches of them."""

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
from training.data.tables.schema import Column, Schema

MOST_LEVELS = 7
"""Maximum number of levels of a column; more values are counts, which can have new values."""
BLOCK = 1 << 16
"""Number of rows of a block."""


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

    def cells(self, count: int) -> np.ndarray:
        """Return points side by side with their first ``count`` conditions, as an array."""
        parts = [self.points]
        if self.conditions is not None:
            parts.append(self.conditions[:, :count])
        return torch.cat(parts, dim=1).numpy()

    def at(self, places: Tensor | slice) -> "Rows":
        """Return the rows with the given indices, or selected by a boolean mask or a slice."""
        conditions = None if self.conditions is None else self.conditions[places]
        return Rows(self.points[places], conditions)

    def blocks(self) -> Iterator["Rows"]:
        """Yield the rows in blocks, for work whose memory should not grow with the table."""
        return (self.at(slice(start, start + BLOCK)) for start in range(0, len(self), BLOCK))


@dataclass(frozen=True, eq=False, kw_only=True)
class DataTable(Schema):
    """A table: rows with the columns of a schema, some of them held out.

    Attributes:
        values: Values ``[N, D]``, float64, as read: discrete columns are not dequantized. NaN for
            missing cells. Categories are indices of levels, from 0; dates are days since 1970-01-01
            (with fractions for times).
        held_out: Mask ``[N]``, bool, of rows that are held out of training, for validation.
        kept: Mask ``[N]``, bool, of rows for the calibration set, which neither training nor
            validation uses; None if there are none.
        conditions: Conditions of the rows ``[N, C]``, float64, or ``[N, n C]`` for sets of trials
            (``repeated_trials.as_sets``). NaN where data of a trial, or elements of raw data, are
            missing; None without conditions.
        datasets: Dataset number of each row ``[N]``, int64, if rows are trials; None if each row
            has its own parameters.
        as_written: Texts of cells that would be written differently, such as unknown levels and
            numbers with other decimals, by column and row.
    """

    values: np.ndarray
    held_out: np.ndarray
    kept: np.ndarray | None = None
    conditions: np.ndarray | None = None
    datasets: np.ndarray | None = None
    as_written: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        return "the table"

    def __len__(self) -> int:
        return len(self.values)

    @property
    def points(self) -> Tensor:
        """Values ``[N, D]`` as a tensor."""
        return torch.from_numpy(self.values)

    @property
    def rows(self) -> Rows:
        """All rows of the table, as points with their conditions."""
        given = None if self.conditions is None else torch.from_numpy(self.conditions)
        return Rows(self.points, given)

    @property
    def train_rows(self) -> Rows:
        """Rows that are not held out, as points with their conditions."""
        return self._rows_of(~self.held_out)

    @property
    def held_out_rows(self) -> Rows:
        """Held-out rows, as points with their conditions."""
        return self._rows_of(self.held_out)

    def _rows_of(self, mask: np.ndarray) -> Rows:
        """Return the rows of a mask ``[N]``: a view if they are consecutive, else a copy."""
        places = np.flatnonzero(mask)
        first, last = (int(places[0]), int(places[-1])) if len(places) else (0, -1)
        consecutive = last - first + 1 == len(places)
        return self.rows.at(slice(first, last + 1) if consecutive else torch.from_numpy(mask))

    def with_held_out_last(self, in_place: bool) -> "DataTable":
        """Return the table with the rows for training first, which are then no copy.

        Both kinds of rows keep their order.

        Args:
            in_place: Whether the arrays of this table are overwritten, so that memory holds the
                table once.
        """
        if self.kept is not None or not in_place:
            return self.at(np.argsort(self.held_out, kind="stable"))
        last = self.held_out.copy()
        for array in (self.values, self.conditions, self.datasets, self.held_out):
            if array is not None:
                _move_to_the_end(array, last)
        return self

    @property
    def holes(self) -> np.ndarray:
        """Mask ``[N, D]`` of missing cells; cells with unknown categories count as present."""
        missing = np.isnan(self.values)
        for name, texts in self.as_written.items():
            missing[list(texts), self.names.index(name)] = False
        return missing

    def at(self, places: np.ndarray) -> "DataTable":
        """Return the table of some rows, without a calibration set.

        Args:
            places: Indices of rows, or a mask ``[N]``, bool.
        """
        which = np.arange(len(self))[places]
        return replace(
            self,
            values=self.values[places],
            held_out=self.held_out[places],
            kept=None,
            conditions=None if self.conditions is None else self.conditions[places],
            datasets=None if self.datasets is None else self.datasets[places],
            beside={name: texts[places] for name, texts in self.beside.items()},
            as_written={
                name: {to: texts[row] for to, row in enumerate(which.tolist()) if row in texts}
                for name, texts in self.as_written.items()
            },
        )

    @property
    def levels(self) -> Levels | None:
        """Levels of the points' columns; None unless all columns are category columns."""
        levels = Levels.from_values(self.steps, self.points)
        return levels if all(levels.counts) else None

    def in_order(self, names: Sequence[str]) -> "DataTable":
        """Return the table with its conditions in the order of the given names."""
        places = {name: place for place, name in enumerate(self.condition_names)}
        order = [places[name] for name in names]
        conditions = None if self.conditions is None else np.take(self.conditions, order, axis=1)
        columns = [self.condition_columns[place] for place in order]
        return replace(self, conditions=conditions, condition_columns=columns)

    def without_conditions(self) -> "DataTable":
        """Return the table without conditions."""
        return replace(self, conditions=None, condition_columns=(), covariates=(), raw=None)

    def as_typed(self) -> "DataTable":
        """Return the table for conditional queries: its conditions become columns like others."""
        if self.typed:
            return self
        columns = [*self.columns, *map(Column, self.condition_names)]
        constants = self.dropped.constants
        known = {*constants, *(column.name for column in columns)}
        order = dict.fromkeys(name for name in self.order if name in known)
        return DataTable(
            columns,
            [*(order | dict.fromkeys(self.condition_names))],
            constants=constants,
            typed=True,
            values=self.rows.cells(self.condition_dim),
            held_out=self.held_out,
        )


def _move_to_the_end(array: np.ndarray, which: np.ndarray) -> None:
    """Move the entries of a mask ``[N]`` behind the others, in the memory of an array ``[N, ...]``.

    Both kinds of entries keep their order.
    """
    moved, end = array[which], 0
    for start in range(0, len(array), BLOCK):
        block = slice(start, start + BLOCK)
        stay = array[block][~which[block]]
        array[end : end + len(stay)] = stay
        end += len(stay)
    array[end:] = moved


DataSource = Path | DataTable
"""A data set in a file or in memory."""


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
        self._order = torch.arange(0)

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Yield this rank's part of each batch, endlessly.

        Args:
            first_step: Index of the training step to start from.
        """
        for step in count(first_step):
            ends = step * self.batch, (step + 1) * self.batch
            parts = parts_of_epochs(*ends, len(self.rows))
            whole = Batch.joined([self._of_epoch(epoch, rows) for epoch, rows in parts])
            yield whole.at(distributed.shard(self.batch))

    def _of_epoch(self, epoch: int, rows: slice) -> Batch:
        """Return some rows in the order of an epoch, in flow space."""
        if epoch != self._epoch:
            if self.dithers or self._epoch < 0:
                # The noise of an epoch does not depend on where the stream was started.
                drawn = epoch if self.dithers else 0
                generator = seeded_generator("cpu", self.seed, Stream.DEQUANTIZATION, drawn)
                self._placed = self.in_flow(self.rows, generator)
            generator = seeded_generator("cpu", self.seed, Stream.DATA, epoch)
            order = torch.randperm(len(self.rows), generator=generator)
            self._epoch, self._order = epoch, order.to(self._placed.points.device)
        return self._placed.at(self._order[rows])
