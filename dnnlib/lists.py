"""Lists on the command line: comma-separated parts, quoted as in CSV if they contain commas.

An example is ``age,"price, EUR"``.
"""

import csv
from collections.abc import Iterable
from io import StringIO

from dnnlib.errors import UsageError


def parts_of(text: str) -> list[str]:
    """Split a comma-separated list into its parts, and remove whitespace around them.

    A part in double quotes may contain commas.
    """
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    return [part.strip() for line in lines for part in line]


def joined(parts: Iterable[object]) -> str:
    """Join parts into a comma-separated list; this is the inverse of ``parts_of``."""
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(parts)
    return text.getvalue()


def positive_numbers(text: str) -> list[float] | None:
    """Parse a list of standard deviations: one number, or several separated by commas.

    The result is None if the text is the path of a ``.npy`` file.

    Raises:
        UsageError: The text is not a list of numbers, or a number is not positive.
    """
    if text.endswith(".npy"):
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--noise_std is '{text}': give one number, several numbers separated by commas, or "
            "the path of a .npy with standard deviations or a covariance matrix"
        ) from None
    if not all(number > 0 for number in numbers):
        raise UsageError(
            f"--noise_std is {text}: give positive numbers, since an observation without noise "
            "has no density"
        )
    return numbers
