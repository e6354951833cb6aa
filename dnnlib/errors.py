"""Domain errors, and the one place where they become one line and an exit code.

Libraries raise a subclass of ``InflationError`` whose message a user can act on: what is wrong,
where, and what would be right. ``run_script`` prints that line and exits with the class's code.
"""

from collections.abc import Iterable
from typing import Any

LONGEST_REASON = 200


class InflationError(Exception):
    """Base of the errors that a user, not a developer, can mend."""

    exit_code = 1


class UsageError(InflationError):
    """Options that are unknown, out of range, or contradict each other or a file."""

    exit_code = 2


class DataError(InflationError):
    """A file or data set that is missing, broken, too small, or of the wrong shape."""


class TrainingError(InflationError):
    """Training cannot go on, such as after a run of non-finite steps."""


def agree(name: str, given: Any, known: Any, source: str) -> Any:
    """The known value of an option, which a given one must not contradict.

    Raises:
        UsageError: Both are there and differ; the message states both.
    """
    if given is not None and given != known:
        right = "leave it out" if known is None else f"leave it out, or give {known}"
        raise UsageError(f"--{name} is {given}, but {source} has {known}: {right}")
    return known


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raises UsageError of a name, of something of a kind, that is not among those known."""
    if name not in known:
        raise UsageError(f"unknown {kind} '{name}': choose one of {', '.join(known)}")


def in_one_line(text: str) -> str:
    """The first line of a text that may quote a file: printable, and not too long."""
    line = next(iter(text.splitlines()), "")
    return (line if line.isprintable() else ascii(line)[1:-1])[:LONGEST_REASON]
