"""How many lines tests may have, and which files of them are run by one worker."""

from pathlib import Path

MOST_LINES = 29_982
"""It may fall, and stays below 30,000: who needs more lines finds what others prove already."""
FORKING = ("test_fuzz.py", "test_kills.py")
"""Files whose tests start processes from one that has imported all, beside those of two ranks."""


def lines_of_tests():
    folder = Path(__file__).parents[1]
    return sum(len(path.read_text("utf-8").splitlines()) for path in folder.rglob("*.py"))
