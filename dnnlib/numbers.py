"""Numbers as sentences and tables have them."""

from math import floor, isfinite, log10, nan
from numbers import Real
from operator import index
from typing import Any

from dnnlib.errors import UsageError

FEWEST, MOST = 4, 12
WRITTEN_OUT = 1e8
"""Numbers below are written without powers of ten."""


def natural(name: str, value: Any) -> int:
    """A count or a seed that was given from Python.

    Raises:
        UsageError: It is no whole number, or negative; the message has its name.
    """
    try:
        number = index(value)
    except TypeError:
        number = -1
    if number < 0:
        raise UsageError(f"{name} is {value!r}: give a whole number that is not negative")
    return number


def fraction(name: str, value: Any, most: float = 1.0) -> float:
    """A part of a whole that was given from Python: neither nothing nor all.

    Raises:
        UsageError: It is no such number, or above the most; the message has its name.
    """
    number = float(value) if isinstance(value, Real) else nan
    if not (0 < number < 1 and number <= most):
        raise UsageError(f"{name} is {value!r}: give a number between 0 and {most:g}")
    return number


def rounded(value: float, digits: int) -> str:
    """A number to so many digits.

    Example:
        >>> rounded(241.7, 2), rounded(0.02417, 2), rounded(3.2e11, 2)
        ('240', '0.024', '3.2e+11')
    """
    text = f"{value:.{digits}g}"
    return f"{float(text):.0f}" if "e+" in text and abs(value) < WRITTEN_OUT else text


def beside(value: float, spread: float) -> str:
    """A value to a hundredth of its spread, and to four digits at least.

    Args:
        value: The number.
        spread: A standard deviation of it, or a length of its size; 0 where it is exact.

    Example:
        >>> beside(18000.5234, 0.012), beside(5411234.0, 260000.0), beside(0.0, 1.0)
        ('18000.523', '5411000', '0')
    """
    digits = MOST
    if value and spread and isfinite(value) and isfinite(spread):
        digits = floor(log10(abs(value))) - floor(log10(abs(spread))) + 2
    return rounded(value, min(max(digits, FEWEST), MOST))
