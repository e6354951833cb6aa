"""Domain errors, and their conversion to one line and an exit code.

Library code raises a subclass of ``InflationError`` whose message a user can act on: the problem,
its place, and the remedy. ``run_script`` prints that line and exits with the class's code.
"""

import re
from collections.abc import Iterable
from typing import Any

LONGEST_REASON = 200
_OPTION = re.compile(r"(?<![\w-])--(no-)?([a-z][\w-]*)")


class InflationError(Exception):
    """Base class of errors that a user, rather than a developer, can correct."""

    exit_code = 1


class UsageError(InflationError):
    """Error for options that are unknown, out of range, or contradict each other or a file."""

    exit_code = 2


class DataError(InflationError):
    """Error for a file or data set that is missing, broken, too small, or of the wrong shape."""


class TrainingError(InflationError):
    """Error for a training that cannot continue, for example after many non-finite steps."""


def agree(name: str, given: Any, known: Any, source: str) -> Any:
    """Return the known value of an option, after a check that the user gave no other value.

    Args:
        name: Name of the option.
        given: Value that the user gave; None for no value.
        known: Value that the source contains.
        source: Name of the source in the error message.

    Raises:
        UsageError: The given value differs from the known value; the message states both.
    """
    if given is not None and given != known:
        right = "leave it out" if known is None else f"leave it out, or give {known}"
        raise UsageError(f"--{name} is {given}, but {source} has {known}: {right}")
    return known


def require_known(kind: str, name: str, known: Iterable[str]) -> None:
    """Raise UsageError if a name is not among the known names of its kind."""
    if name not in known:
        raise UsageError(f"unknown {kind} '{name}': choose one of {', '.join(known)}")


def in_one_line(text: str) -> str:
    """Return the first line of a text, with nonprintable characters escaped, for a message.

    The line is cut after ``LONGEST_REASON`` characters.
    """
    line = next(iter(text.splitlines()), "")
    return (line if line.isprintable() else ascii(line)[1:-1])[:LONGEST_REASON]


def in_python(text: str) -> str:
    """Return a message for a call of the library, where an option ``--name`` is ``name``.

    Example:
        >>> in_python("give more --draws, or --sampler=hmc, or --no-held_out")
        'give more draws, or sampler=hmc, or held_out=False'
    """

    def argument(match: re.Match[str]) -> str:
        name = match[2].replace("-", "_")
        return f"{name}=False" if match[1] else name

    return _OPTION.sub(argument, text)
