"""From rows as they are read to a table that a flow can be trained on.

What has no density is dealt with here: missing values, constant columns, columns that are sums of
others, and columns of whole steps. What is no quantity, or stands for none, is told. Nothing is
done in silence.
"""

import re
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
FEWEST_OTHERS = 5
"""Values of a column among which one can be far from all others."""
DENSE = 1.1
"""Numbers that count rows reach over at most so many times as many as there are."""
IDENTIFIER = re.compile(r"(.*[\W_])?(id|ids|index|idx|key|nr|number)|unnamed.*", re.IGNORECASE)
"""Names of columns that number rows."""


@dataclass(frozen=True)
class Choices:
    """What a user decides about a table.

    Attributes:
        conditions: Columns that are conditioned on.
        missing: One of ``MISSING``: refuse missing values, drop their rows, or take the mean.
            Infinite ones are missing too, as a simulation that failed leaves them.
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
        DataError: It cannot be read, or has too few rows, missing values, values beyond bounds, or
            no column that varies.
        UsageError: A column that was named is not there.
    """
    for name in (*choices.conditions, *choices.bounds):
        if name not in source.names:
            raise UsageError(f"{source.name} has no column '{name}' (of those that are read)")
    lines: list[str] = []
    values, holes = _collected(source, choices, lines)
    if len(values) < FEWEST_ROWS:
        whole = " without missing values" if choices.missing == "drop" else ""
        raise DataError(
            f"{source.name} has {len(values)} rows{whole}: at least {FEWEST_ROWS} are needed"
        )
    names = list(source.names)
    marginals = {
        name: _Marginal.of(np.delete(column, holes[name]) if name in holes else column)
        for name, column in zip(names, values.T, strict=True)
    }
    if holes:
        _fill_in(values, names, holes, marginals, choices.dequantize, lines)
    _warn_of_what_is_no_quantity(names, marginals, lines)
    given = [names.index(name) for name in choices.conditions]
    rest = [index for index in range(len(names)) if index not in given]
    conditions = torch.from_numpy(values[:, given]) if given else None
    if given:
        values, names = narrowed(values, rest), [names[index] for index in rest]
    kept, dropped = _independent(values, names, source.name, lines)
    if len(kept) < len(names):
        values, names = narrowed(values, kept), [names[index] for index in kept]
    columns = Columns.plain(names)
    if choices.dequantize:
        found = [marginals[name] for name in names]
        steps, offsets = ([getattr(one, key) for one in found] for key in ("step", "offset"))
        columns = replace(columns, steps=_doubles(steps), offsets=_doubles(offsets))
        _tell_of_steps(names, found, lines)
    columns = _bounded(columns, choices.bounds, values, source.name)
    held_out = _held_out(len(values), choices)
    to_train = len(values) - int(held_out.sum())
    if len(names) >= to_train - 1:
        lines.append(
            f"Warning: {len(names)} columns, but {to_train} rows to train on: what columns have in "
            "common is hardly known, and is shrunk when they are whitened; have more rows, or "
            "choose --columns"
        )
    again = _repeated(values)
    if again:
        lines.append(f"{again} row(s) repeat another")
    table = Table(
        torch.from_numpy(values),
        columns,
        held_out,
        dropped,
        conditions,
        list(choices.conditions),
    )
    return table, [*lines, *_summary(table)]


def _doubles(numbers: Sequence[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def _collected(
    source: ForeignTable, choices: Choices, lines: list[str]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """All rows, and the places of missing values by column. Memory holds rows once, and a block
    besides."""
    read = kept = holes = 0

    def sound() -> Iterator[np.ndarray]:
        nonlocal read, kept, holes
        for block in source.blocks():
            block = block if choices.max_rows is None else block[: choices.max_rows - read]
            _require_sound(block, source, choices, read)
            read += len(block)
            missing = ~np.isfinite(block)
            holes += int(missing.sum())
            if choices.missing == "drop":
                block = block[~missing.any(axis=1)]
            kept += len(block)
            yield block
            if read == choices.max_rows:
                break

    values = joined(sound(), len(source.names))
    if not holes:
        return values, {}
    if choices.missing == "drop":
        lines.append(
            f"Left out {read - kept} of {read} rows ({(read - kept) / read:.2%}), with {holes} "
            "missing or infinite value(s)"
        )
        return values, {}
    places = {}
    for name, column in zip(source.names, values.T, strict=True):
        missing = np.flatnonzero(~np.isfinite(column))
        if len(missing) == len(column):
            raise DataError(f"{source.name}: column '{name}' has no values at all")
        if len(missing):
            places[name] = missing
    return values, places


def _require_sound(block: np.ndarray, source: ForeignTable, choices: Choices, before: int) -> None:
    """Raises DataError for values that cannot be squared, that are missing and must not be, or that
    are beyond the bounds of their column."""
    low, high = np.full((2, len(source.names)), [[-np.inf], [np.inf]])
    for name, ends in choices.bounds.items():
        place = list(source.names).index(name)
        low[place], high[place] = ends
    finite = np.isfinite(block)
    broken = finite & (np.abs(block) > LARGEST)
    holes = ~finite if choices.missing == "refuse" else np.zeros_like(finite)
    for bad, told in (
        (broken, "{value:g} is no value that can be squared: mend it, or leave the column out"),
        (
            holes,
            "the value is missing ({value:g}): --missing=drop leaves such rows out, --missing=mean "
            "fills in the column's mean",
        ),
        (
            finite & ((block < low) | (block > high)),
            "{value:.10g} is not within its --bounds, {low:.10g} to {high:.10g}",
        ),
    ):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            said = told.format(value=block[row, column], low=low[column], high=high[column])
            raise DataError(
                f"{source.name}, column '{source.names[column]}', row {before + row + 1}: {said} "
                f"({int(bad.sum())} such value(s) in rows {before + 1} to {before + len(block)})"
            )


@dataclass(frozen=True)
class _Marginal:
    """What a column's own values are.

    Attributes:
        step: Of a discrete column; 0 of a continuous one.
        offset: A value of a discrete column.
        atom: Its most frequent value.
        share: Of the rows that have it.
        repeats: Whether any value is there twice.
        lone: A value that repeats and is farther from all others than these are from each other,
            with how often it does; None if there is none.
        whole: Whether all are different whole numbers.
        dense: Whether they reach over hardly more than their number, as if they counted rows.
    """

    step: float
    offset: float
    atom: float
    share: float
    repeats: bool
    lone: tuple[float, int] | None
    whole: bool
    dense: bool

    @classmethod
    def of(cls, column: np.ndarray) -> "_Marginal":
        """That of present values ``[n]``."""
        values, counts = np.unique(column, return_counts=True)
        unique = len(values) == len(column)
        # Without a value twice there is a density, or as good as one.
        step, digits = (0.0, 0) if unique else _step(values)
        most = int(counts.argmax())
        return cls(
            step,
            round(float(values[0]), digits) if step else 0.0,
            float(values[most]),
            float(counts[most] / len(column)),
            not unique,
            _lone(values, counts),
            unique and bool((values == np.round(values)).all()),
            bool(values[-1] - values[0] < DENSE * len(column)),
        )


def _lone(values: np.ndarray, counts: np.ndarray) -> tuple[float, int] | None:
    """The smallest or largest of sorted values, if it is far from all others, and its count."""
    if len(values) > FEWEST_OTHERS:
        below, above = values[1] - values[0], values[-1] - values[-2]
        for gap, rest, end in ((below, values[1:], 0), (above, values[:-1], -1)):
            if counts[end] > 1 and gap > rest[-1] - rest[0]:
                return float(values[end]), int(counts[end])
    return None


def _fill_in(
    values: np.ndarray,
    names: list[str],
    holes: Mapping[str, np.ndarray],
    marginals: Mapping[str, _Marginal],
    stepwise: bool,
    lines: list[str],
) -> None:
    """Puts means in the places of missing values, those of discrete columns at a step."""
    spikes = []
    for name, places in holes.items():
        column, one = values[:, names.index(name)], marginals[name]
        mean = np.delete(column, places).mean()
        if stepwise and one.step:
            mean = one.offset + one.step * np.round((mean - one.offset) / one.step)
        column[places] = mean
        spikes.append(f"{name} ({len(places)} rows, {len(places) / len(column):.2%})")
    lines.append(
        "Warning: missing values are filled in by the mean of their column, which makes a spike "
        f"there that samples will have too: {', '.join(spikes)}; --missing=drop makes none"
    )


def _warn_of_what_is_no_quantity(
    names: list[str], marginals: Mapping[str, _Marginal], lines: list[str]
) -> None:
    """Warns of values that may stand for missing ones, and of columns that number the rows."""
    for name in names:
        lone = marginals[name].lone
        if lone is not None:
            lines.append(
                f"Warning: {name} is {lone[0]:.10g} in {lone[1]} rows, far from all its other "
                "values: if that stands for a missing value, leave the cell empty"
            )
    identifiers = [
        name
        for name, one in marginals.items()
        if one.whole and (one.dense or IDENTIFIER.fullmatch(name))
    ]
    if identifiers:
        rest = [name for name in names if name not in identifiers]
        lines.append(
            f"Warning: {', '.join(identifiers)} looks like an identifier, whole numbers that all "
            f"differ: if it only tells rows apart, leave it out by --columns={','.join(rest[:20])}"
            + (",..." if len(rest) > 20 else "")
        )


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
        if len(kept) >= len(values) - 1:
            kept.append(index)  # any column follows from as many others as there are rows
            continue
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
    constant = [names[index] for index in gone if index not in slopes and high[index] == low[index]]
    if constant:
        lines.append(f"Left out constant column(s): {', '.join(constant)}")
    alike = [names[index] for index in gone if index not in slopes and high[index] > low[index]]
    if alike:
        lines.append(
            f"Left out column(s) whose numbers are too large for what they differ by, and look "
            f"like identifiers: {', '.join(alike)}"
        )
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


def _tell_of_steps(names: list[str], marginals: list[_Marginal], lines: list[str]) -> None:
    """Says which columns are discrete, and which are neither that nor continuous."""
    pairs = list(zip(names, marginals, strict=True))
    discrete = [f"{name} ({one.step:g})" for name, one in pairs if one.step]
    atoms = [
        f"{name} ({one.share:.0%} are {one.atom:g})"
        for name, one in pairs
        if not one.step and one.share > OFTEN and one.repeats
    ]
    if discrete:
        shown = ", ".join(islice(discrete, 20)) + (", ..." if len(discrete) > 20 else "")
        lines.append(f"Discrete column(s), spread over their steps in training: {shown}")
    if atoms:
        lines.append(
            f"Column(s) that have no density, as one value has a share of its own: "
            f"{', '.join(atoms)}"
        )


def _step(values: np.ndarray) -> tuple[float, int]:
    """The largest decimal step of which all differences of sorted values are multiples, 0 if there
    is none, and the decimal digits that these have."""
    largest = np.abs(values).max()
    for digits in range(MOST_DIGITS + 1):
        unit = 10.0**-digits
        if largest / unit > 1 / EXACT:
            break
        left = values / unit
        counts = np.round(left)
        left -= counts
        largest_left = max(left.max(), -left.min()) * unit
        del left
        if largest_left <= EXACT * largest:
            common = int(np.gcd.reduce(np.diff(counts).astype(np.int64)))
            return round(common * unit, digits), digits
    return 0.0, 0


def _bounded(
    columns: Columns, bounds: Mapping[str, tuple[float, float]], values: np.ndarray, source: str
) -> Columns:
    low, high = columns.low.clone(), columns.high.clone()
    for name, (least, most) in bounds.items():
        if name in columns.names:
            index = list(columns.names).index(name)
            # A value stands for the step around it, which may reach half a step beyond the bound.
            half = float(columns.steps[index]) / 2
            low[index], high[index] = least - half, most + half
            at = (values[:, index] == least) | (values[:, index] == most)
            if at.any() and not half:
                raise DataError(
                    f"{source}, column '{name}': {int(at.sum())} value(s) are at a bound itself, "
                    f"{values[at.argmax(), index]:.10g}, where a continuous column has none: give "
                    "a bound beyond them"
                )
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
