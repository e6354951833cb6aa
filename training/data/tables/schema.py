"""Schema of a table: its typed columns, and what tables with the same columns share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from math import inf

import numpy as np
import torch
from torch import Tensor

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


@dataclass(frozen=True, eq=False)
class Schema:
    """Columns of a table, without rows.

    Attributes:
        columns: The D modeled columns.
    """

    columns: Sequence[Column]

    @classmethod
    def plain(cls, names: Sequence[str]) -> "Schema":
        """Return the schema of continuous columns without bounds."""
        return cls([Column(name) for name in names])

    @property
    def names(self) -> list[str]:
        """Names of the modeled columns."""
        return [column.name for column in self.columns]

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

    def at(self, places: Sequence[int]) -> "Schema":
        """Return the schema of the columns with indices ``places``."""
        return replace(self, columns=[self.columns[place] for place in places])

    def _numbers(self, key: str) -> Tensor:
        numbers = [getattr(column, key) for column in self.columns]
        return torch.tensor(numbers, dtype=torch.float64)


@dataclass(frozen=True, eq=False)
class Records:
    """Rows of a mixed table: numbers, categories and dates, with missing cells.

    Attributes:
        columns: Types and formats of the D modeled columns.
        values: Values ``[N, D]``, float64; NaN for missing cells. Categories are indices of levels,
            from 0; dates are days since 1970-01-01 (with fractions for times).
        held_out: Mask ``[N]``, bool, of rows that are held out of training, for validation.
        constants: Value of each constant column as written in the source, by name.
        beside: Texts ``[N]`` of identifier columns, which are not modeled, by name.
        order: Names of all columns in the order of the source.
        separator: Separator of cells in the source.
        decimal: Decimal sign in the source.
        as_written: Texts of cells that would be written differently, such as unknown levels and
            numbers with other decimals, by column and row.
    """

    columns: Sequence[Column]
    values: np.ndarray
    held_out: np.ndarray
    constants: Mapping[str, str] = field(default_factory=dict)
    beside: Mapping[str, np.ndarray] = field(default_factory=dict)
    order: Sequence[str] = ()
    separator: str = ","
    decimal: str = "."
    as_written: Mapping[str, Mapping[int, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def names(self) -> list[str]:
        """Names of the modeled columns."""
        return [column.name for column in self.columns]

    @property
    def holes(self) -> np.ndarray:
        """Mask ``[N, D]`` of missing cells; cells with unknown categories count as present."""
        missing = np.isnan(self.values)
        for name, texts in self.as_written.items():
            missing[list(texts), self.names.index(name)] = False
        return missing

    def at(self, places: np.ndarray) -> "Records":
        """Return the records with the given indices, or selected by a boolean mask."""
        rows = np.arange(len(self))[places].tolist()
        return replace(
            self,
            as_written={
                name: {to: texts[row] for to, row in enumerate(rows) if row in texts}
                for name, texts in self.as_written.items()
            },
            values=self.values[places],
            held_out=self.held_out[places],
            beside={name: texts[places] for name, texts in self.beside.items()},
        )
