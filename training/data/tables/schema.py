"""Schema of a table: its typed columns, and what tables with the same columns share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from math import inf

import numpy as np
import torch
from torch import Tensor

from training.data.tables.raw_shape import RawShape
from training.names import COLUMN_TYPES

NUMBER, WHOLE, CATEGORY, DATE = COLUMN_TYPES


@dataclass(frozen=True)
class Column:
    """Type and format of a column, and the bins and bounds of its numbers.

    Two columns are equal if types and formats are: only tables of numbers know bins and bounds.

    Attributes:
        name: Name of the column in the source.
        type: Type of the column, a name in ``COLUMN_TYPES``.
        levels: Levels of a category column, as written in the source.
        ordered: Whether levels have an order, such as small, medium, large.
        decimals: Number of decimals of written values; None to write all digits.
        date_format: Date format for ``strftime``; empty for other types.
        grid: Regular grid of all dates, such as months (``date_grids``); empty if dates are
            irregular.
        prefix: Text before numbers in the source, such as $.
        suffix: Text after numbers in the source, such as %.
        grouped: Whether the source groups thousands, as in 1,234.
        rare: Levels of the source that are merged into the last level.
        missing: Text of missing cells in the source.
        of: Name of the source column of a derived column, which is not written: a date column, or
            the column with the indicated missing cells. Empty for columns of the source.
        step: Bin width of a discrete column, 0 for a continuous column.
        offset: Center of one bin; bins are counted from this value.
        low: Lower bound, ``-inf`` for none.
        high: Upper bound, ``inf`` for none.
        gaps: Values within the range of a discrete column that never occur, increasing.
    """

    name: str
    type: str = NUMBER
    levels: tuple[str, ...] = ()
    ordered: bool = False
    decimals: int | None = None
    date_format: str = ""
    grid: str = ""
    prefix: str = ""
    suffix: str = ""
    grouped: bool = False
    rare: tuple[str, ...] = ()
    missing: str = ""
    of: str = ""
    step: float = field(default=0.0, compare=False)
    offset: float = field(default=0.0, compare=False)
    low: float = field(default=-inf, compare=False)
    high: float = field(default=inf, compare=False)
    gaps: tuple[float, ...] = field(default=(), compare=False)

    @classmethod
    def of_numbers(
        cls,
        name: str,
        step: float = 0.0,
        offset: float = 0.0,
        low: float = -inf,
        high: float = inf,
    ) -> "Column":
        """Return a column of numbers; discrete ones are written with the decimals of their bins."""
        kind, decimals, grid = NUMBER, None, (step, offset)
        if step > 0:
            if all(part == round(part) for part in grid):  # 22.5, 27.5 are not
                kind = WHOLE
            digits = (-int(Decimal(repr(part)).as_tuple().exponent) for part in grid)
            decimals = max(0, *digits)
        return cls(name, kind, decimals=decimals, step=step, offset=offset, low=low, high=high)


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
    """

    names: Sequence[str] = ()
    offsets: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.float64))
    slopes: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.float64))

    @property
    def constants(self) -> dict[str, str]:
        """Values of the constant columns as text, by name."""
        constant = self.slopes.abs().sum(dim=1) == 0
        rows = zip(self.names, self.offsets.tolist(), constant.tolist(), strict=True)
        return {name: f"{value:.15g}" for name, value, is_constant in rows if is_constant}

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
class Schema:
    """Columns of a table, their roles, and the notation of its source.

    Attributes:
        columns: The D modeled columns.
        order: Names of all columns, without conditions, in the order of the source.
        condition_columns: The C columns that are conditions of the others.
        covariates: Names of conditions that are not data, such as a design or a time; in the table
            of a likelihood also the category columns among the data, which are the last conditions.
        dropped: Columns that are not modeled, since they follow from the modeled ones.
        constants: Value of each other column that is not modeled, since it is constant, as written
            in the source, by name.
        beside: Texts ``[N]`` of identifier columns, which are not modeled, by name.
        separator: Separator of cells in the source.
        decimal: Decimal sign in the source.
        prior: Distribution from which simulated parameters were drawn, as the text that
            ``training.subjects.parameter_priors`` writes; empty if it is unknown.
        typed: Whether types of columns were read from their cells, which may be missing. Networks
            of typed tables are for conditional queries.
        raw: Shape of the conditions if these are raw data, such as series; None for numbers.
    """

    columns: Sequence[Column]
    order: Sequence[str] = ()
    condition_columns: Sequence[Column] = ()
    covariates: Sequence[str] = ()
    dropped: Dropped = field(default_factory=Dropped)
    constants: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)
    separator: str = ","
    decimal: str = "."
    prior: str = ""
    typed: bool = False
    raw: RawShape | None = None

    @classmethod
    def plain(cls, names: Sequence[str]) -> "Schema":
        """Return the schema of continuous columns without bounds."""
        return cls([Column(name) for name in names], names)

    @property
    def names(self) -> list[str]:
        """Names of the modeled columns."""
        return [column.name for column in self.columns]

    @property
    def conditions_schema(self) -> "Schema":
        """Schema of the conditions."""
        return Schema(self.condition_columns)

    @property
    def condition_names(self) -> list[str]:
        """Names of the conditions."""
        return [column.name for column in self.condition_columns]

    @property
    def condition_dim(self) -> int:
        """Number of conditions C."""
        return len(self.condition_columns)

    @property
    def dim(self) -> int:
        """Number of modeled columns D."""
        return len(self.columns)

    @property
    def steps(self) -> Tensor:
        """Bin widths of discrete columns ``[D]``, 0 for continuous columns."""
        return self._numbers("step")

    @property
    def offsets(self) -> Tensor:
        """Center of one bin of each column ``[D]``."""
        return self._numbers("offset")

    @property
    def low(self) -> Tensor:
        """Lower bounds ``[D]``, ``-inf`` where there is no bound."""
        return self._numbers("low")

    @property
    def high(self) -> Tensor:
        """Upper bounds ``[D]``, ``inf`` where there is no bound."""
        return self._numbers("high")

    def _numbers(self, key: str) -> Tensor:
        numbers = [getattr(column, key) for column in self.columns]
        return torch.tensor(numbers, dtype=torch.float64)

    def restored(self, points: Tensor) -> Tensor:
        """Return points ``[N, D + K]`` with restored dropped columns, in the order of the source.

        Args:
            points: Points ``[N, D]`` of the modeled columns.
        """
        if self.dropped.names:
            rest = self.dropped.offsets + points @ self.dropped.slopes.T
            points = torch.cat([points, rest], dim=1)
        places = {name: at for at, name in enumerate([*self.names, *self.dropped.names])}
        return points[:, [places[name] for name in self.order]]
