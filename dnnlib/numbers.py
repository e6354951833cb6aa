"""Validation of numbers, and their format in sentences and tables."""

from math import floor, isfinite, log10, nan
from numbers import Real
from operator import index
from typing import Any

from dnnlib.errors import UsageError

FEWEST, MOST = 4, 12
WRITTEN_OUT = 1e8
"""Limit below which numbers are written without powers of ten."""


def natural(name: str, value: Any) -> int:
    """Return a value as an integer, after a check that it is a whole number and not negative.

    Args:
        name: Name of the value in the error message.
        value: Value to check, for example a count or a random seed.

    Raises:
        UsageError: The value is not a whole number, or is negative.
    """
    try:
        number = index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(f"{name} is {value!r}: give a whole number that is not negative")
    return number


def fraction(name: str, value: Any, most: float = 1.0) -> float:
    """Return a value as a float, after a check that it is above 0, below 1 and at most ``most``.

    Args:
        name: Name of the value in the error message.
        value: Value to check.
        most: Largest allowed value.

    Raises:
        UsageError: The value is not a number, or is out of range.
    """
    number = float(value) if isinstance(value, Real) else nan
    if not (0 < number < 1 and number <= most):
        raise UsageError(f"{name} is {value!r}: give a number between 0 and {most:g}")
    return number


def rounded(value: float, digits: int) -> str:
    """Return a number rounded to ``digits`` significant digits, as text.

    Example:
        >>> rounded(241.7, 2), rounded(0.02417, 2), rounded(3.2e11, 2)
        ('240', '0.024', '3.2e+11')
    """
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < WRITTEN_OUT else text


def beside(value: float, spread: float) -> str:
    """Return a value rounded to a hundredth of its spread, with at least four digits, as text.

    Args:
        value: Number to format.
        spread: Standard deviation of the number, or another measure of its uncertainty; 0 if the
            number is exact.

    Example:
        >>> beside(18000.5234, 0.012), beside(5411234.0, 260000.0), beside(0.0, 1.0)
        ('18000.523', '5411000', '0')
    """
    digits = MOST
    if value and spread and isfinite(value) and isfinite(spread):
        digits = floor(log10(abs(value))) - floor(log10(abs(spread))) + 2
    return rounded(value, min(max(digits, FEWEST), MOST))
