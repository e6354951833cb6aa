"""Preparation of a table for the training of a flow.

This module handles everything that has no density: missing values, constant columns, columns that
are sums of others, and discrete columns. It warns about columns that look like identifiers, and
about values that may represent missing ones. All changes are reported.

Marginal properties of columns: steps, frequent values, identifiers.

A column has a density if its values are not on a grid, and none of them has a probability mass.
Values that are not quantities, such as identifiers and codes for missing values, can look like
quantities: they are reported.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import inf

import numpy as np
import torch

from dnnlib.errors import DataError, UsageError
from dnnlib.numbers import beside
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.row_hashes import row_numbers
from training.data.tables.formats import (
    ForeignTable,
    NotNumbers,
    TableChoices,
    joined,
    narrowed,
    row_blocks,
)
from training.data.tables.repeated_trials import (
    numbered_datasets,
    trials_in_words,
)
from training.data.tables.schema import CATEGORY, FOLLOWS, Column, Dropped
from training.data.tables.table import DataTable, Levels
from training.names import script

EXACT = 1e-9
"""Rounding error of a value, relative to the largest of its column."""
MOST_DIGITS = 9
"""Maximum number of decimal digits of a step."""
CLOSE = 0.01
"""Tolerance for multiples of a step, as a fraction of the step; arbitrary values are within 0.5."""
MOST_NAMED = 3
"""Maximum number of columns of a kind that a line names."""
OFTEN = 0.01
"""Minimum share of rows with one value for an atom in a continuous column."""
FEWEST_OTHERS = 5
"""A column with an isolated value must have more different values than this."""
FEWEST_UNIFORM, NOT_UNIFORM = 200, 0.01
"""Minimum number of different values of a column that may look uniform, and level of the test."""
DENSE = 1.1
"""Maximum range of identifiers, relative to their number."""
IDENTIFIER = re.compile(r"(.*[\W_])?(id|ids|index|idx|key|nr|number)|unnamed.*", re.IGNORECASE)
"""Pattern of names of identifier columns."""


@dataclass(frozen=True)
class Marginal:
    """Marginal properties of the values of a column.

    Attributes:
        step: Bin width of a discrete column; 0 for a continuous column.
        offset: Center of one bin of a discrete column; bins are counted from this value.
        atom: Most frequent value.
        share: Fraction of the rows with the most frequent value.
        repeats: Whether any value occurs twice.
        lone: Smallest or largest value and its count, if this value is repeated and farther from
            the other values than their range; else None.
        whole: Whether all values are different whole numbers.
        dense: Whether the range of the values is hardly larger than the number of values, as for
            row numbers.
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
    def from_values(cls, column: np.ndarray) -> "Marginal":
        """Compute the properties of a column from its values ``[n]``, none of them missing."""
        values, counts = np.unique(column, return_counts=True)
        unique = len(values) == len(column)
        # Without repeated values the column has a density, in effect.
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


def looks_uniform(column: np.ndarray) -> bool:
    """Return whether values ``[n]`` look like draws from a uniform distribution on their own range.

    The test is that of Kolmogorov and Smirnov at 1 %, with the limit distribution; the result is
    False for fewer than 200 different values. Uniform draws pass in 99 % of cases, normal draws
    never.
    """
    values = np.unique(column[~np.isnan(column)])
    count = len(values)
    if count < FEWEST_UNIFORM:
        return False
    from scipy.special import kolmogorov

    expected = (values - values[0]) / (values[-1] - values[0])
    order = np.arange(count + 1) / count
    distance = max((order[1:] - expected).max(), (expected - order[:-1]).max())
    return bool(kolmogorov(np.sqrt(count) * distance) > NOT_UNIFORM)


def _lone(values: np.ndarray, counts: np.ndarray) -> tuple[float, int] | None:
    """Return the smallest or largest of sorted values and its count, if it is isolated."""
    if len(values) > FEWEST_OTHERS:
        below, above = values[1] - values[0], values[-1] - values[-2]
        for gap, rest, end in ((below, values[1:], 0), (above, values[:-1], -1)):
            if counts[end] > 1 and gap > rest[-1] - rest[0]:
                return float(values[end]), int(counts[end])
    return None


def _step(values: np.ndarray) -> tuple[float, int]:
    """Return the largest decimal step that divides all differences, and its digits.

    The step is 0 if there is none.
    """
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
        # Any two values are on a grid.
        if largest_left <= EXACT * largest and (len(values) == 2 or largest_left <= CLOSE * unit):
            common = int(np.gcd.reduce(np.diff(counts).astype(np.int64)))
            return round(common * unit, digits), digits
    return 0.0, 0


def _kinds(steps: Mapping[str, float]) -> str:
    """Return the number of columns of each kind, with the first of their names and steps."""
    kinds = {
        "of whole numbers": [name for name, step in steps.items() if step >= 1],
        "rounded to decimals": [name for name, step in steps.items() if step < 1],
    }
    shown = []
    for kind, names in kinds.items():
        if names:
            listed = ", ".join(f"{name} ({steps[name]:g})" for name in names[:MOST_NAMED])
            more = ", ..." if len(names) > MOST_NAMED else ""
            shown.append(f"{len(names)} {kind}: {listed}{more}")
    return "; ".join(shown)


def describe_steps(marginals: Mapping[str, Marginal]) -> list[str]:
    """Return lines of text about discrete columns, and about columns that are partly discrete.

    Args:
        marginals: Marginal properties by name of the column.
    """
    lines, pairs = [], marginals.items()
    steps = {name: one.step for name, one in pairs if one.step}
    atoms = [
        f"{name} ({one.share:.0%} are {one.atom:g})"
        for name, one in pairs
        if not one.step and one.share > OFTEN and one.repeats
    ]
    if steps:
        lines.append(f"Dequantized {len(steps)} discrete column(s) for training: {_kinds(steps)}")
    if atoms:
        lines.append(
            "Column(s) without a density, because single values have positive "
            f"probability: {', '.join(atoms)}. {script('train')} --any models such values"
        )
    return lines


def describe_atoms(marginals: Mapping[str, Marginal]) -> list[str]:
    """Return warnings about repeated extreme values, and about columns that may be identifiers.

    Args:
        marginals: Marginal properties by name of the column.
    """
    lines = [
        (
            f"Warning: {name} is {one.lone[0]:.10g} in {one.lone[1]} rows, far from all its "
            "other values: if this stands for a missing value, leave the cell empty"
        )
        for name, one in marginals.items()
        if one.lone is not None
    ]
    identifiers = [
        name
        for name, one in marginals.items()
        if one.whole and (one.dense or IDENTIFIER.fullmatch(name))
    ]
    if identifiers:
        rest = [name for name in marginals if name not in identifiers]
        lines.append(
            (
                f"Warning: {', '.join(identifiers)} looks like an identifier (distinct whole "
                f"numbers): if it only distinguishes rows, leave it out with "
                f"--columns={','.join(rest[:20])}"
            )
            + (",..." if len(rest) > 20 else "")
        )
    return lines


LARGEST = 1e100
"""Maximum size of a value: squares, and sums of many squares, must be finite."""
FEWEST_ROWS = 10
DEPENDENT = 1e-11
"""Limit of the residual variance of a standardized column that counts as a sum of others.

Its largest residual must also be below ``FOLLOWS`` standard deviations.
"""
MEAN = ", --missing=mean imputes the column mean"
"""Advice about missing values, for messages."""


def make_table(source: ForeignTable, choices: TableChoices) -> tuple[DataTable, list[str]]:
    """Read a table and prepare it for training; return the table, and a report in lines of text.

    Args:
        source: The external table.
        choices: User options.

    Raises:
        DataError: The table cannot be read, has too few rows, missing values, values beyond bounds,
            or no column that varies.
        UsageError: A named column does not exist.
    """
    condition_names, names = _roles(source, choices)
    if choices.dataset is not None and choices.missing == "mean":
        raise UsageError("--missing=mean would impute data of trials: give --missing=drop")
    lines = list(source.notes)
    roles = [names, condition_names, [] if choices.dataset is None else [choices.dataset]]
    parts, holes, rows = _collected(source, choices, roles, lines)
    values, conditions, identifiers = parts
    columns_of = _columns_by_name(source, roles, parts)
    datasets, first = None, np.arange(len(values))
    if choices.dataset is not None:
        datasets, first = numbered_datasets(identifiers[:, 0], values, names, source, rows)
        lines.append(trials_in_words(datasets))
    marginals = {
        # Parameters repeat within a dataset, which does not make them discrete.
        name: Marginal.from_values(
            _present(column, holes.get(name), first if name in names else None)
        )
        for name, column in columns_of.items()
        if name != choices.dataset
    }
    if holes and choices.missing == "mean":
        _fill_in(columns_of, holes, marginals, lines)
    lines += describe_atoms(marginals)
    condition_columns = _known(condition_names, marginals, choices)
    order = names
    kept, dropped = independent(values, names, source.name, lines)
    if len(kept) < len(names):
        values, names = narrowed(values, kept), [names[index] for index in kept]
    columns = _known(names, marginals, choices)
    _require_inside(columns, choices.bounds, values, source.name)
    lines += describe_steps({name: marginals[name] for name in names})
    held_out, beside = _parted(len(first), choices)
    if datasets is not None:
        held_out, beside = held_out[datasets], beside[datasets]
    lines += _told_of_few_rows(len(names), len(values) - int((held_out | beside).sum()))
    hashes = np.concatenate([row_numbers(values[places]) for places in row_blocks(first)])
    if again := len(hashes) - len(np.unique(hashes)):
        lines.append(f"{again} duplicate row(s)")
    table = DataTable(
        columns,
        order,
        condition_columns,
        choices.covariates,
        dropped,
        values=values,
        held_out=held_out,
        kept=beside if beside.any() else None,
        conditions=conditions if condition_names else None,
        datasets=datasets,
    )
    return table, [*lines, *_summary(table)]


def _told_of_few_rows(columns: int, rows: int) -> list[str]:
    """Return a warning if there are almost as many columns as training rows."""
    if columns < rows - 1:
        return []
    return [
        (
            f"Warning: {columns} columns but only {rows} training rows: the covariance is "
            "poorly determined and is shrunk for whitening; use more rows, or select "
            "--columns"
        )
    ]


def _roles(source: ForeignTable, choices: TableChoices) -> tuple[list[str], list[str]]:
    """Return the names of the conditions, and those of the points' columns.

    Raises:
        UsageError: A column does not exist or has two roles, or none is left.
    """
    conditions = [*choices.conditions, *choices.covariates]
    roles = [*conditions, *([] if choices.dataset is None else [choices.dataset])]
    for name in (*roles, *choices.bounds):
        if name not in source.names:
            raise UsageError(
                f"{source.name} has no column '{name}' among the selected columns: select it, or "
                "correct the name"
            )
        if roles.count(name) > 1:
            raise UsageError(
                f"column '{name}' has two roles, for example condition and dataset: name it in "
                "one option"
            )
    rest = [name for name in source.names if name not in roles]
    if not rest:
        raise UsageError(
            f"{source.name}: all columns are conditions, so add other columns to --columns"
        )
    return conditions, rest


def _present(column: np.ndarray, holes: np.ndarray | None, places: np.ndarray | None) -> np.ndarray:
    """Return the values of a column that are not missing, of all rows or some."""
    if holes is None:
        return column if places is None else column[places]
    present = np.ones(len(column), dtype=bool)
    present[holes] = False
    return column[present] if places is None else column[places[present[places]]]


def _known(
    names: Sequence[str], marginals: Mapping[str, Marginal], choices: TableChoices
) -> list[Column]:
    """Return columns with their bins and bounds."""
    columns = []
    for name in names:
        one, (low, high) = marginals[name], choices.bounds.get(name, (-inf, inf))
        step, offset = one.step, one.offset
        # A value represents a bin, which can reach half a step beyond the bound.
        columns.append(Column.of_numbers(name, step, offset, low - step / 2, high + step / 2))
    return columns


def _parted(rows: int, choices: TableChoices) -> tuple[np.ndarray, np.ndarray]:
    """Return masks ``[N]`` of held-out rows and of kept rows.

    Raises:
        UsageError: Too few rows are left.
    """
    held_out = choose_held_out(rows, choices.held_out, choices.seed)
    kept = choose_held_out(rows, choices.held_out + choices.kept, choices.seed) & ~held_out
    left = rows - int((held_out | kept).sum())
    if left < FEWEST_ROWS:
        raise UsageError(
            f"--held-out and --kept leave {left} of {rows} rows for training, fewer than "
            f"{FEWEST_ROWS}: give smaller fractions, or more rows"
        )
    return held_out, kept


def _columns_by_name(
    source: ForeignTable, roles: Sequence[Sequence[str]], parts: Sequence[np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the columns ``[N]`` of all parts by name, in the order of the source.

    They are views of the parts.
    """
    places = {name: (part, at) for part, own in enumerate(roles) for at, name in enumerate(own)}
    return {name: parts[part][:, at] for name in source.names for part, at in [places[name]]}


def _collected(
    source: ForeignTable,
    choices: TableChoices,
    roles: Sequence[Sequence[str]],
    lines: list[str],
) -> tuple[list[np.ndarray], dict[str, np.ndarray], np.ndarray | None]:
    """Read all rows; return them, the rows of missing values by column, and original row numbers.

    The rows of each role are an array. Row numbers are None unless rows may have been dropped.
    Memory holds the rows once, and one chunk.

    Args:
        source: The external table.
        choices: User options.
        roles: Names of the columns of each array.
        lines: Receives lines of text about dropped rows.

    Raises:
        DataError: There are too few rows.
    """
    read = holes = 0
    numbers: list[np.ndarray] = []

    def sound() -> Iterator[np.ndarray]:
        nonlocal read, holes
        for block in source.blocks():
            _require_sound(block, source, choices, read)
            missing = ~np.isfinite(block)
            holes += int(missing.sum())
            first, read = read, read + len(block)
            if choices.missing == "drop":
                whole = np.flatnonzero(~missing.any(axis=1))
                numbers.append(first + whole)
                block = block[whole]
            yield block

    places = [[source.names.index(name) for name in own] for own in roles]
    parts = joined(sound(), len(source.names), places)
    kept = len(parts[0])
    if kept < FEWEST_ROWS:
        whole = " without missing values" if choices.missing == "drop" else ""
        raise DataError(f"{source.name} has {kept} rows{whole}: need at least {FEWEST_ROWS}")
    if not holes:
        return parts, {}, None
    if choices.missing == "drop":
        lines.append(
            f"Dropped {read - kept} of {read} rows ({(read - kept) / read:.2%}), with "
            f"{holes} missing or infinite value(s)"
        )
        return parts, {}, np.concatenate(numbers)
    missing_rows = {}
    for name, column in _columns_by_name(source, roles, parts).items():
        missing = np.flatnonzero(~np.isfinite(column))
        if len(missing) == len(column):
            raise DataError(f"{source.name}: column '{name}' has no values: leave the column out")
        if len(missing):
            missing_rows[name] = missing
    return parts, missing_rows, None


def _require_sound(
    block: np.ndarray, source: ForeignTable, choices: TableChoices, before: int
) -> None:
    """Raise DataError for values that are too large, missing, or beyond their column's bounds."""
    low, high = np.full((2, len(source.names)), [[-np.inf], [np.inf]])
    for name, ends in choices.bounds.items():
        place = list(source.names).index(name)
        low[place], high[place] = ends
    finite = np.isfinite(block)
    broken = finite & (np.abs(block) > LARGEST)
    holes = ~finite if choices.missing in ("keep", "refuse") else np.zeros_like(finite)
    for bad, form in (
        (broken, "{value:g} is too large: correct it, or leave the column out"),
        (
            holes,
            "the value is missing ({value:g}): --missing=drop drops such rows"
            + MEAN * (choices.dataset is None),
        ),
        (
            finite & ((block < low) | (block > high)),
            "{value:.10g} is outside its --bounds, {low:.10g} to {high:.10g}",
        ),
    ):
        if bad.any():
            row, column = np.argwhere(bad)[0]
            message = form.format(value=block[row, column], low=low[column], high=high[column])
            first, here, last = (
                source.place_of(before + int(each)) for each in (0, row, len(block) - 1)
            )
            elsewhere = bad is holes and choices.missing == "keep"
            error = NotNumbers if elsewhere else DataError
            raise error(
                f"{source.name}, {here}, column '{source.names[column]}': {message} "
                f"({int(bad.sum())} such value(s) from {first} to {last})"
            )


def _fill_in(
    columns: Mapping[str, np.ndarray],
    holes: Mapping[str, np.ndarray],
    marginals: Mapping[str, Marginal],
    lines: list[str],
) -> None:
    """Impute missing values by means, rounded to steps in discrete columns."""
    spikes = []
    for name, places in holes.items():
        column, one = columns[name], marginals[name]
        mean = np.delete(column, places).mean()
        if one.step:
            mean = one.offset + one.step * np.round((mean - one.offset) / one.step)
        column[places] = mean
        spikes.append(f"{name} ({len(places)} rows, {len(places) / len(column):.2%})")
    lines.append(
        "Warning: missing values are imputed by the column mean, which makes a spike "
        f"that samples reproduce: {', '.join(spikes)}; --missing=drop avoids it"
    )


def _moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return means ``[D]``, standard deviations ``[D]`` and correlations ``[D, D]``."""
    count = len(values)
    mean = sum(block.sum(axis=0) for block in row_blocks(values)) / count
    square = sum(((block - mean) ** 2).sum(axis=0) for block in row_blocks(values)) / count
    std = np.sqrt(square)
    scale = np.where(std > 0, std, 1.0)
    correlation = np.zeros((values.shape[1], values.shape[1]))
    for block in row_blocks(values):
        standard = (block - mean) / scale
        correlation += standard.T @ standard
    return mean, std, correlation / count


def independent(
    values: np.ndarray, names: list[str], source: str, lines: list[str]
) -> tuple[list[int], Dropped]:
    """Find the columns with a joint density, and the linear functions for the other columns.

    Columns are checked from left to right. A column is dropped if it is a linear function of
    earlier columns that are kept. For example, a total after its parts is dropped.

    Args:
        values: Rows ``[N, D]``.
        names: Names of the columns.
        source: Name of the table, for messages.
        lines: Receives lines of text about dropped columns.

    Returns:
        The indices of the kept columns, and the dropped columns.

    Raises:
        DataError: No column varies.
    """
    mean, std, correlation = _moments(values)
    low, high = values.min(axis=0), values.max(axis=0)
    varies = (std > 0) & (high - low > EXACT * np.maximum(np.abs(low), np.abs(high)))
    if not varies.any():
        raise DataError(
            f"{source}: all columns are constant, so that there is nothing to learn: give columns "
            "that vary"
        )
    kept, slopes = _kept_and_slopes(values, np.flatnonzero(varies), mean, std, correlation)
    gone = [index for index in range(len(names)) if index not in kept]
    table = np.zeros((len(gone), len(kept)))
    for row, index in enumerate(gone):
        weights = slopes.get(index, np.zeros(0))
        table[row, : len(weights)] = weights
    offsets = mean[gone] - table @ mean[kept]
    without = [index for index in gone if index not in slopes]
    lines += _lines_about_dropped(
        constant=[names[index] for index in without if high[index] == low[index]],
        identifiers=[names[index] for index in without if high[index] > low[index]],
        functions=[names[index] for index in slopes],
    )
    left_out = [names[index] for index in gone]
    return kept, Dropped(left_out, torch.from_numpy(offsets), torch.from_numpy(table))


def _kept_and_slopes(
    values: np.ndarray,
    varying: np.ndarray,
    mean: np.ndarray,
    std: np.ndarray,
    correlation: np.ndarray,
) -> tuple[list[int], dict[int, np.ndarray]]:
    """Divide varying columns into those to keep, and linear functions of earlier kept columns.

    Args:
        values: Rows ``[N, D]``.
        varying: Indices of the columns that vary.
        mean: Means ``[D]``.
        std: Standard deviations ``[D]``.
        correlation: Correlations ``[D, D]``.

    Returns:
        The indices of the kept columns, and the slopes of each other column by the kept columns
        before it.
    """
    kept: list[int] = []
    slopes: dict[int, np.ndarray] = {}
    for index in map(int, varying):
        if len(kept) >= len(values) - 1:
            kept.append(index)  # any column depends on as many others as there are rows
            continue
        given = correlation[np.ix_(kept, kept)]
        # With outliers, different columns can look alike: the system is then singular.
        weights = np.linalg.lstsq(given, correlation[kept, index], rcond=None)[0]
        left = correlation[index, index] - correlation[kept, index] @ weights
        weights = weights * std[index] / std[kept]
        # It is a sum of others in every row, up to rounding.
        if left < DEPENDENT and all(
            np.abs(block[:, index] - mean[index] - (block[:, kept] - mean[kept]) @ weights).max()
            < FOLLOWS * std[index]
            for block in row_blocks(values)
        ):
            slopes[index] = weights
        else:
            kept.append(index)
    return kept, slopes


def _lines_about_dropped(
    constant: list[str], identifiers: list[str], functions: list[str]
) -> list[str]:
    """Return a line for each kind of dropped columns that there are, given their names."""
    kinds = {
        "constant column(s)": constant,
        "column(s) that look like identifiers, with values too large compared with their "
        "differences": identifiers,
        "column(s) that are exact functions of earlier columns": functions,
    }
    return [f"Dropped {kind}: {', '.join(names)}" for kind, names in kinds.items() if names]


def _require_inside(
    columns: Sequence[Column],
    bounds: Mapping[str, tuple[float, float]],
    values: np.ndarray,
    source: str,
) -> None:
    """Raise DataError if a value ``[N, D]`` of a continuous column is at its bound."""
    for index, column in enumerate(columns):
        name = column.name
        if name in bounds and not column.step:
            least, most = bounds[name]
            at = (values[:, index] == least) | (values[:, index] == most)
            if at.any():
                raise DataError(
                    f"{source}, column '{name}': {int(at.sum())} value(s) are exactly at a bound, "
                    f"{values[at.argmax(), index]:.10g}, which has probability 0 for a continuous "
                    "column: give a bound beyond these values"
                )


def choose_held_out(count: int, fraction: float, seed: int) -> np.ndarray:
    """Return a random mask ``[count]`` of rows that are held out of training.

    Args:
        count: Number of rows.
        fraction: Fraction of the rows to hold out.
        seed: Random seed.
    """
    generator = seeded_generator("cpu", seed, Stream.SPLIT)
    held_out = torch.zeros(count, dtype=torch.bool)
    held_out[torch.randperm(count, generator=generator)[: round(fraction * count)]] = True
    return held_out.numpy()


def _summary(table: DataTable) -> list[str]:
    """Return lines with rows, ranges of columns, and the dimension of their variation."""
    values, names = table.values, table.names
    _, _, correlation = _moments(values)
    variances = np.linalg.eigvalsh(correlation)[::-1]
    ratio = float(variances.sum() ** 2 / np.square(variances).sum())
    head = ", ".join(f"{value:.3g}" for value in variances[:8])
    kept = "" if table.kept is None else (f" and {int(table.kept.sum())} in the calibration set")
    lines = [
        (
            f"{len(values)} rows, {int(table.held_out.sum())} of them held out for "
            f"validation{kept}; {table.dim} columns"
        )
        + (f", and {len(table.condition_names)} conditions" if table.condition_names else "")
    ]
    width = max(map(len, names))
    rows = zip(names, values.min(axis=0), values.max(axis=0), table.steps, strict=True)
    for name, *numbers in islice(rows, 30):
        least, most, step = map(float, numbers)
        kind = f"bins of width {step:g}" if step else "continuous"
        ends = f"{beside(least, most - least)} to {beside(most, most - least)}"
        lines.append(f"  {name:<{width}}  {ends}, {kind}")
    if table.dim > 30:
        lines.append(f"  ... and {table.dim - 30} more")
    more = ", ..." if table.dim > 8 else ""
    lines.append(
        f"Variances of standardized columns: {head}{more}; participation ratio {ratio:.3g} "
        f"of {table.dim}"
    )
    return lines


def exchanged(table: DataTable, source: str) -> tuple[DataTable, list[str]]:
    """Exchange parameters and data of a table, to learn a likelihood instead of a posterior.

    In the result, the points are the data of a trial, and the conditions are parameters and
    covariates. The function also returns lines of text about columns that were left out.

    Args:
        table: Table whose points are parameters and whose conditions are data and covariates.
        source: Name of the table, for messages.

    Raises:
        UsageError: The table has no data columns.
        DataError: No data column varies.
    """
    names = list(table.condition_names)
    data = [place for place, name in enumerate(names) if name not in table.covariates]
    covariates = [place for place, name in enumerate(names) if name in table.covariates]
    given = table.rows.conditions
    if given is None or not data:
        raise UsageError(
            f"--likelihood needs data columns, but {source} has none: make the data set with "
            f"{script('dataset_tool')} --conditions=NAMES or --repeats"
        )
    lines: list[str] = []
    known = table.condition_columns
    counts = Levels.from_values(table.conditions_schema.steps[data], given[:, data]).counts
    levels = [place for place, count in zip(data, counts, strict=True) if count > 1]
    if len(levels) == len(data):
        levels = []
    numbers = [place for place in data if place not in levels]
    values, own = given[:, numbers].numpy(), [names[place] for place in numbers]
    kept, dropped = independent(values, own, source, lines)
    few = [names[place] for place in levels]
    if few:
        lines.append(
            f"Column(s) with few values: {', '.join(few)}. The model learns their "
            f"probabilities, and a flow of {', '.join(own)} given them"
        )
    last = [*covariates, *levels]
    likelihood = replace(
        table,
        columns=[known[numbers[place]] for place in kept],
        order=own,
        condition_columns=[
            *table.columns,
            *(known[place] for place in covariates),
            *(replace(known[place], type=CATEGORY) for place in levels),
        ],
        covariates=[names[place] for place in last],
        dropped=dropped,
        values=values[:, kept],
        conditions=torch.cat([table.points, given[:, last]], dim=1).numpy(),
    )
    return likelihood, lines
