"""Rows of typed columns, some of whose cells may be missing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from training.names import COLUMN_TYPES

NUMBER, WHOLE, CATEGORY, DATE = COLUMN_TYPES


@dataclass(frozen=True)
class RecordColumn:
    """A column.

    Attributes:
        name: As the source has it.
        type: One of ``COLUMN_TYPES``.
        levels: Of a category, as the source writes them: the first is level 0.
        ordered: Whether levels follow each other, as small, medium, large do.
        decimals: Digits behind the point, to which values are written again; None for all.
        date_format: How ``strftime`` writes dates; empty for others.
        grid: Grid that all dates are on (``date_grids``); empty for none.
        prefix: What the source writes before numbers, such as $.
        suffix: What it writes behind them, such as %.
        grouped: Whether it parts their thousands, as 1,234 does.
        rare: Levels of the source that are put together as the last one.
        missing: What it writes where a cell is missing.
        of: The date that it is made of, and not written again; empty for columns of the source.
    """

    name: str
    type: str
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


@dataclass(frozen=True, eq=False)
class Records:
    """Rows.

    Attributes:
        columns: ``[D]``, those that are modelled.
        values: ``[N, D]``, float64; NaN where a cell is missing. Of a category the place of its
            level, of a date the days since 1970-01-01 (with fractions for times).
        held_out: ``[N]``, bool: rows that are not trained on.
        constants: Of columns with one value, that value as the source writes it, by name.
        beside: Columns that tell rows apart and are not modelled, ``[N]`` texts each, by name.
        order: Names of all columns as the source has them.
        separator: What the source has between cells.
        decimal: What it has before decimals.
        as_written: Texts of cells that would be written otherwise, such as unknown levels and
            numbers with other decimals, by column and row.
    """

    columns: Sequence[RecordColumn]
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
        """Of the columns that are modelled."""
        return [column.name for column in self.columns]

    @property
    def holes(self) -> np.ndarray:
        """Which cells have no value ``[N, D]``, without those of unknown levels."""
        missing = np.isnan(self.values)
        for name, texts in self.as_written.items():
            missing[list(texts), self.names.index(name)] = False
        return missing

    def at(self, places: np.ndarray) -> "Records":
        """The rows at these places, which may be booleans."""
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
