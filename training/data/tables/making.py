"""From rows as they are read to a table that a flow can be trained on.

What has no density is dealt with here: missing values, constant columns, columns that are sums of
others, and columns of whole steps. Nothing is done in silence.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice

import numpy as np
import torch

from dnnlib.errors import DataError, UsageError
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.tables.foreign import BLOCK_ROWS, ForeignTable
from training.data.tables.in_place import joined, narrowed
from training.data.tables.table import Columns, Dropped, Table

LARGEST = 1e100
"""Of a value: its square has to be a number, and the sum of many squares."""
FEWEST_ROWS = 10
MOST_DIGITS = 9
"""Decimal digits of a step that is looked for."""
EXACT = 1e-9
"""Of a value, relative to the largest of its column: what is less is rounding."""
DEPENDENT = 1e-11
"""Variance that others leave of a standardized column, from which it may be their sum."""
FOLLOWS = 1e-6
"""Largest difference from that sum, in standard deviations."""
OFTEN = 0.01
"""Share of rows with one value from which a continuous column is said to have an atom."""


@dataclass(frozen=True)
class Choices:
    """What a user decides about a table.

    Attributes:
        conditions: Columns that are conditioned on.
        missing: One of ``MISSING``: refuse missing values, drop their rows, or take the mean.
        dequantize: Whether to look for discrete columns.
        bounds: Lowest and highest value by column, infinite where there is none.
        max_rows: Rows to take at most, the first ones; None for all.
        held_out: Fraction of the rows that is not to be trained on.
        seed: Seed of the choice of these.
    """

    conditions: Sequence[str] = ()
    missing: str = "refuse"
    dequantize: bool = True
    bounds: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    max_rows: int | None = None
    held_out: float = 0.1
    seed: int = 0


def make_table(source: ForeignTable, choices: Choices) -> tuple[Table, list[str]]:
    """Reads and cleans a table; also tells what was found and done, in lines for people.

    Raises:
        DataError: It cannot be read, or has too few rows, missing or infinite values, or no column
            that varies.
        UsageError: A column that was named is not there.
    """
    for name in (*choices.conditions, *choices.bounds):
        if name not in source.names:
            raise UsageError(f"{source.name} has no column '{name}' (of those that are read)")
    lines: list[str] = []
    values = _collected(source, choices, lines)
    if len(values) < FEWEST_ROWS:
        raise DataError(f"{source.name} has {len(values)} rows: at least {FEWEST_ROWS} are needed")
    names = list(source.names)
    given = [names.index(name) for name in choices.conditions]
    rest = [index for index in range(len(names)) if index not in given]
    conditions = torch.from_numpy(values[:, given]) if given else None
    if given:
        values, names = narrowed(values, rest), [names[index] for index in rest]
    kept, dropped = _independent(values, names, source.name, lines)
    if len(kept) < len(names):
        values, names = narrowed(values, kept), [names[index] for index in kept]
    steps, offsets = _grids(values, names, choices.dequantize, lines)
    columns = _bounded(replace(Columns.plain(names), steps=steps, offsets=offsets), choices.bounds)
    again = _repeated(values)
    if again:
        lines.append(f"{again} row(s) repeat another")
    table = Table(
        torch.from_numpy(values),
        columns,
        _held_out(len(values), choices),
        dropped,
        conditions,
        list(choices.conditions),
    )
    return table, [*lines, *_summary(table)]


def _collected(source: ForeignTable, choices: Choices, lines: list[str]) -> np.ndarray:
    """All rows, with a number in every place. Memory holds them once, and a block besides."""
    read = kept = holes = 0

    def sound() -> Iterator[np.ndarray]:
        nonlocal read, kept, holes
        for block in source.blocks():
            block = block if choices.max_rows is None else block[: choices.max_rows - read]
            _require_finite(block, source, choices.missing, read)
            read += len(block)
            missing = np.isnan(block)
            holes += int(missing.sum())
            if choices.missing == "drop":
                block = block[~missing.any(axis=1)]
            kept += len(block)
            yield block
            if read == choices.max_rows:
                break

    values = joined(sound(), len(source.names))
    if holes and choices.missing == "drop":
        lines.append(f"Left out {read - kept} row(s) with {holes} missing value(s)")
    elif holes:
        _fill_in(values, source)
        lines.append(f"Filled in {holes} missing value(s) by the mean of their column")
    return values


def _require_finite(block: np.ndarray, source: ForeignTable, missing: str, before: int) -> None:
    """Raises DataError for values that cannot be squared, or that are missing and must not be."""
    broken = np.isinf(block) | (np.abs(block) > LARGEST)
    holes = np.isnan(block) if missing == "refuse" else np.zeros_like(broken)
    for bad, told in (
        (broken, "{value:g} is no value that can be squared: mend it, or leave the column out"),
        (
            holes,
            "the value is missing: --missing=drop leaves such rows out, --missing=mean fills in "
            "the column's mean",
        ),
    ):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise DataError(
                f"{source.name}, column '{source.names[column]}', row {before + row + 1}: "
                f"{told.format(value=block[row, column])} ({int(bad.sum())} such value(s) near)"
            )


def _fill_in(values: np.ndarray, source: ForeignTable) -> None:
    for index, column in enumerate(values.T):
        missing = np.isnan(column)
        if missing.all():
            raise DataError(f"{source.name}: column '{source.names[index]}' has no values at all")
        if missing.any():
            column[missing] = column[~missing].mean()


def _blocks(values: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(values), BLOCK_ROWS):
        yield values[start : start + BLOCK_ROWS]


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Means ``[D]``, standard deviations ``[D]`` and correlations ``[D, D]``, in two passes."""
    count = len(values)
    mean = sum(block.sum(axis=0) for block in _blocks(values)) / count
    square = sum(((block - mean) ** 2).sum(axis=0) for block in _blocks(values)) / count
    std = np.sqrt(square)
    scale = np.where(std > 0, std, 1.0)
    correlation = np.zeros((values.shape[1], values.shape[1]))
    for block in _blocks(values):
        standard = (block - mean) / scale
        correlation += standard.T @ standard
    return mean, std, correlation / count


def _independent(
    values: np.ndarray, names: list[str], source: str, lines: list[str]
) -> tuple[list[int], Dropped]:
    """Which columns stay, and how the others follow from them.

    From left to right: a column stays if those before it do not explain it, so that a total which
    stands after its parts is the one that goes.
    """
    mean, std, correlation = _moments(values)
    low, high = values.min(axis=0), values.max(axis=0)
    varies = (std > 0) & (high - low > EXACT * np.maximum(np.abs(low), np.abs(high)))
    if not varies.any():
        raise DataError(f"{source} has no column that varies: there is nothing to learn")
    kept: list[int] = []
    slopes: dict[int, np.ndarray] = {}
    for index in map(int, np.flatnonzero(varies)):
        given = correlation[np.ix_(kept, kept)]
        # Outliers can make columns that differ look alike: then this has no single solution.
        weights = np.linalg.lstsq(given, correlation[kept, index], rcond=None)[0]
        left = correlation[index, index] - correlation[kept, index] @ weights
        weights = weights * std[index] / std[kept]
        if left < DEPENDENT and _follows(values, index, kept, weights, mean, std):
            slopes[index] = weights
        else:
            kept.append(index)
    gone = [index for index in range(len(names)) if index not in kept]
    table = np.zeros((len(gone), len(kept)))
    for row, index in enumerate(gone):
        weights = slopes.get(index, np.zeros(0))
        table[row, : len(weights)] = weights
    offsets = mean[gone] - table @ mean[kept]
    constant = [names[index] for index in gone if index not in slopes]
    if constant:
        lines.append(f"Left out constant column(s): {', '.join(constant)}")
    if slopes:
        told = ", ".join(names[index] for index in slopes)
        lines.append(f"Left out column(s) that follow exactly from those before them: {told}")
    dropped = Dropped(
        [names[index] for index in gone], torch.from_numpy(offsets), torch.from_numpy(table), names
    )
    return kept, dropped


def _follows(
    values: np.ndarray,
    index: int,
    kept: list[int],
    weights: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
) -> bool:
    """Whether a column is a sum of others in every row, but for rounding."""
    return all(
        np.abs(block[:, index] - mean[index] - (block[:, kept] - mean[kept]) @ weights).max()
        < FOLLOWS * std[index]
        for block in _blocks(values)
    )


def _grids(
    values: np.ndarray, names: list[str], wanted: bool, lines: list[str]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The step of each discrete column, 0 for the others, and a value of each."""
    steps, offsets = np.zeros(len(names)), np.zeros(len(names))
    atoms = []
    for index, column in enumerate(values.T if wanted else ()):
        ordered = np.sort(column)
        first = np.concatenate([[True], ordered[1:] != ordered[:-1]])
        found = ordered[first]
        del ordered  # which is as long as the table
        if len(found) == len(column):
            continue  # no value twice: there is a density, or as good as one
        step = _step(found)
        if step:
            steps[index], offsets[index] = step, found[0]
            continue
        counts = np.diff(np.flatnonzero(first), append=len(column))
        share = counts.max() / len(column)
        if share > OFTEN:
            atoms.append(f"{names[index]} ({share:.0%} are {found[counts.argmax()]:g})")
    discrete = [f"{names[index]} ({steps[index]:g})" for index in np.flatnonzero(steps)]
    if discrete:
        shown = ", ".join(islice(discrete, 20)) + (", ..." if len(discrete) > 20 else "")
        lines.append(f"Discrete column(s), spread over their steps in training: {shown}")
    if atoms:
        lines.append(
            f"Column(s) that have no density, as one value has a share of its own: "
            f"{', '.join(atoms)}"
        )
    return torch.from_numpy(steps), torch.from_numpy(offsets)


def _step(values: np.ndarray) -> float | None:
    """The largest decimal step of which all differences of sorted values are multiples."""
    largest = np.abs(values).max()
    for digits in range(MOST_DIGITS + 1):
        unit = 10.0**-digits
        if largest / unit > 1 / EXACT:
            return None
        left = values / unit
        counts = np.round(left)
        left -= counts
        largest_left = max(left.max(), -left.min()) * unit
        del left
        if largest_left <= EXACT * largest:
            common = int(np.gcd.reduce(np.diff(counts).astype(np.int64)))
            return common * unit
    return None


def _bounded(columns: Columns, bounds: Mapping[str, tuple[float, float]]) -> Columns:
    low, high = columns.low.clone(), columns.high.clone()
    for name, (least, most) in bounds.items():
        if name in columns.names:
            index = list(columns.names).index(name)
            # A value stands for the step around it, which may reach half a step beyond the bound.
            half = float(columns.steps[index]) / 2
            low[index], high[index] = least - half, most + half
    return replace(columns, low=low, high=high)


def _repeated(values: np.ndarray) -> int:
    """How many rows repeat one before them, by numbers of 64 bits that hardly ever clash."""
    totals = np.zeros(len(values), dtype=np.uint64)
    for total, block in zip(_blocks(totals), _blocks(values), strict=True):
        for column in block.T:
            total ^= (column + 0.0).view(np.uint64)  # -0 as 0
            total *= np.uint64(0x9E3779B97F4A7C15)
            total ^= total >> np.uint64(32)
    totals.sort()
    return int((totals[1:] == totals[:-1]).sum())


def _held_out(count: int, choices: Choices) -> torch.Tensor:
    generator = seeded_generator("cpu", choices.seed, Stream.SPLIT)
    held_out = torch.zeros(count, dtype=torch.bool)
    chosen = torch.randperm(count, generator=generator)[: round(choices.held_out * count)]
    held_out[chosen] = True
    return held_out


def _summary(table: Table) -> list[str]:
    """Rows, columns with their ranges, and how many directions the rows vary in."""
    points, names = table.points, table.columns.names
    _, _, correlation = _moments(points.numpy())
    variances = np.linalg.eigvalsh(correlation)[::-1]
    ratio = float(variances.sum() ** 2 / np.square(variances).sum())
    head = ", ".join(f"{value:.3g}" for value in variances[:8])
    lines = [
        f"{len(points)} rows, {int(table.held_out.sum())} of them held out; {table.dim} columns"
        + (f", conditioned on {len(table.condition_names)} more" if table.condition_names else "")
    ]
    width = max(map(len, names))
    low, high = points.min(dim=0).values, points.max(dim=0).values
    rows = zip(names, low, high, table.columns.steps, strict=True)
    for name, least, most, step in islice(rows, 30):
        kind = f"steps of {float(step):g}" if step else "continuous"
        lines.append(f"  {name:<{width}}  {float(least):.5g} to {float(most):.5g}, {kind}")
    if table.dim > 30:
        lines.append(f"  ... and {table.dim - 30} more")
    more = ", ..." if table.dim > 8 else ""
    lines.append(
        f"Variances of standardized columns {head}{more}; participation ratio {ratio:.3g} of "
        f"{table.dim}"
    )
    return lines
