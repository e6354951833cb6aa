"""How many lines tests may have."""

from pathlib import Path

MOST_LINES = 32_294
"""It is to fall: who needs more lines finds what others prove already. The aim is 30,000."""


def lines_of_tests():
    folder = Path(__file__).parents[1]
    return sum(len(path.read_text("utf-8").splitlines()) for path in folder.rglob("*.py"))
