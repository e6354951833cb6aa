"""What the values of a column are, each column by itself: steps, frequent values, numbers of rows.

A column has a density if its values are not those of a grid, and none of them has a share of its
own. What is no quantity, such as a number that only tells rows apart, or a value that stands for a
missing one, looks like one: it is told.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from training.names import script

EXACT = 1e-9
"""Of a value, relative to the largest of its column: what is less is rounding."""
MOST_DIGITS = 9
"""Decimal digits of a step that is looked for."""
CLOSE = 0.01
"""Of a step: what values may be off from multiples of it. Any are within a half."""
MOST_NAMED = 3
"""Columns of a kind that a line names."""
OFTEN = 0.01
"""Share of rows with one value from which a continuous column is said to have an atom."""
FEWEST_OTHERS = 5
"""Values of a column among which one can be far from all others."""
FEWEST_UNIFORM, NOT_UNIFORM = 200, 0.01
"""Minimum number of different values of a column that may look uniform, and level of the test."""
DENSE = 1.1
"""Numbers that count rows reach over at most so many times as many as there are."""
IDENTIFIER = re.compile(r"(.*[\W_])?(id|ids|index|idx|key|nr|number)|unnamed.*", re.IGNORECASE)
"""Names of columns that number rows."""


@dataclass(frozen=True)
class Marginal:
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
    def of(cls, column: np.ndarray) -> "Marginal":
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


def looks_uniform(column: np.ndarray) -> bool:
    """Return whether values ``[n]`` look like draws of a uniform distribution on their own range.

    A Kolmogorov–Smirnov test at 1 %, by the limit of its distribution; False for fewer than 200
    different values. Draws of a uniform distribution pass in 99 % of cases, of a normal one never.
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
    """The smallest or largest of sorted values, if it is far from all others, and its count."""
    if len(values) > FEWEST_OTHERS:
        below, above = values[1] - values[0], values[-1] - values[-2]
        for gap, rest, end in ((below, values[1:], 0), (above, values[:-1], -1)):
            if counts[end] > 1 and gap > rest[-1] - rest[0]:
                return float(values[end]), int(counts[end])
    return None


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
        # Two values lie on a grid, whatever they are.
        if largest_left <= EXACT * largest and (len(values) == 2 or largest_left <= CLOSE * unit):
            common = int(np.gcd.reduce(np.diff(counts).astype(np.int64)))
            return round(common * unit, digits), digits
    return 0.0, 0


def _kinds(steps: Mapping[str, float]) -> str:
    """How many columns of each kind there are, with the first of their names and steps."""
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


def told_of_steps(marginals: Mapping[str, Marginal]) -> list[str]:
    """Lines about the columns that are discrete, and those neither that nor continuous."""
    lines, pairs = [], marginals.items()
    steps = {name: one.step for name, one in pairs if one.step}
    atoms = [
        f"{name} ({one.share:.0%} are {one.atom:g})"
        for name, one in pairs
        if not one.step and one.share > OFTEN and one.repeats
    ]
    if steps:
        lines.append(
            f"Training spreads {len(steps)} discrete column(s) over their steps: {_kinds(steps)}"
        )
    if atoms:
        lines.append(
            f"Column(s) that have no density, as one value has a share of its own: "
            f"{', '.join(atoms)}; {script('train')} --any gives such values a probability"
        )
    return lines


def told_of_no_quantities(marginals: Mapping[str, Marginal]) -> list[str]:
    """Lines about values that may stand for missing ones, and columns that number the rows."""
    lines = [
        f"Warning: {name} is {one.lone[0]:.10g} in {one.lone[1]} rows, far from all its other "
        "values: if that stands for a missing value, leave the cell empty"
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
            f"Warning: {', '.join(identifiers)} looks like an identifier, whole numbers that all "
            f"differ: if it only tells rows apart, leave it out by --columns={','.join(rest[:20])}"
            + (",..." if len(rest) > 20 else "")
        )
    return lines
