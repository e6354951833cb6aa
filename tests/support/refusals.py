"""How tests look at an error that a user sees."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dnnlib.errors import DataError, InflationError

LONGEST = 800


def refusal(
    read: Callable[..., object],
    *arguments: object,
    kind: type[InflationError] = DataError,
    **options: object,
) -> str:
    """The message with which a call is refused: one printable line that names every path given.

    Args:
        read: The function to call.
        arguments: Its arguments; options are those with names.
        kind: The error that it must raise.
    """
    with pytest.raises(kind) as caught:
        read(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < LONGEST
    for path in arguments:
        assert not isinstance(path, Path) or str(path) in message
    return message
