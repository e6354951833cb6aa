"""Marginal properties of columns: steps, frequent values, identifiers.

A column has a density if its values are not on a grid, and none of them has a probability mass.
Values that are not quantities, such as identifiers and codes for missing values, can look like
quantities: they are reported.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

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
