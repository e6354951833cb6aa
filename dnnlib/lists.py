"""Lists on the command line: comma-separated parts, quoted as in CSV if they contain commas.

An example is ``age,"price, EUR"``.
"""

import csv
from collections.abc import Iterable
from io import StringIO

from dnnlib.errors import UsageError


def parts_of(text: str) -> list[str]:
    """Return the parts of a list, without surrounding whitespace."""
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    return [part.strip() for line in lines for part in line]


def joined(parts: Iterable[object]) -> str:
    """Return the list of these parts, so that ``parts_of`` returns them again."""
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(parts)
    return text.getvalue()


def positive_numbers(text: str) -> list[float] | None:
    """Return the standard deviations in a text: a number, or several separated by commas.

    Returns None if the text is the name of a ``.npy`` file.

    Raises:
        UsageError: The text is none of these, or a number is not positive.
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
