"""Lists as a command line has them: parts with commas between, quoted as in CSV where one has a
comma itself, such as ``age,"price, EUR"``."""

import csv
from collections.abc import Iterable
from io import StringIO

from dnnlib.errors import UsageError


def parts_of(text: str) -> list[str]:
    """The parts of a list, without the blanks around them."""
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    return [part.strip() for line in lines for part in line]


def joined(parts: Iterable[object]) -> str:
    """Return the list of these parts, such that ``parts_of`` returns them again."""
    text = StringIO()
    csv.writer(text, lineterminator="").writerow(parts)
    return text.getvalue()


def positive_numbers(text: str) -> list[float] | None:
    """Standard deviations: a number, or several with commas; None if the text names a ``.npy``.

    Raises:
        UsageError: It is none of these, or one is not positive.
    """
    if text.endswith(".npy"):
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(
            f"--noise_std is '{text}': give a number, several with commas, or a .npy of standard "
            "deviations or of a covariance"
        ) from None
    if not all(number > 0 for number in numbers):
        raise UsageError(
            f"--noise_std is {text}: the noise must be positive, since an exact observation has no "
            "density"
        )
    return numbers
