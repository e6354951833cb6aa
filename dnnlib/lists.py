"""Lists as a command line has them: parts with commas between, quoted as in CSV where one has a
comma itself, such as ``age,"price, EUR"``."""

import csv


def parts_of(text: str) -> list[str]:
    """The parts of a list, without the blanks around them."""
    lines = csv.reader(text.splitlines(), skipinitialspace=True)
    return [part.strip() for line in lines for part in line]
