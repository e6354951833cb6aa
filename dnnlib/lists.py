"""Lists on the command line: comma-separated parts, quoted as in CSV if they contain commas.

An example is ``age,"price, EUR"``.
"""

import csv
from collections.abc import Iterable
from io import StringIO

from dnnlib.errors import UsageError


def parts_of(text: str) -> list[str]:
    """Parse a comma-separated list into its parts, without surrounding whitespace."""
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    return [part.strip() for line in lines for part in line]


def joined(parts: Iterable[object]) -> str:
    """Join parts to a comma-separated list, the inverse of ``parts_of``."""
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(parts)
    return text.getvalue()


def positive_numbers(text: str) -> list[float] | None:
    """Parse standard deviations: one number, or several separated by commas.

    The result is None if the text is the name of a ``.npy`` file.

    Raises:
        UsageError: The text is not a list of numbers, or a number is not positive.
    """
    if text.endswith(".npy"):
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--noise_std is '{text}': give one number, several separated by commas, or a "
            ".npy of standard deviations or of a covariance"
        ) from None
    if not all(number > 0 for number in numbers):
        raise UsageError(
            f"--noise_std is {text}: the noise must be positive, since an exact observation has no "
            "density"
        )
    return numbers
