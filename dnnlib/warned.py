"""Warnings as data: each has a code, a text, and the numbers behind it.

Code that finds something doubtful calls ``warn``. Within ``collecting``, as in calls of the
library, warnings are kept for the result, and the outermost collection issues each of them once as
a Python warning. Otherwise, as in commands, they are logged.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from dnnlib.errors import in_python
from dnnlib.logs import logger


class InflationWarning(UserWarning):
    """A warning about a result.

    Attributes:
        code: Short name of the kind of warning, such as ``not-converged``.
        text: What is wrong, where, and what to do.
        numbers: Numbers behind the warning, by name.
    """

    def __init__(self, code: str, text: str, numbers: dict[str, Any]):
        super().__init__(text)
        self.code, self.text, self.numbers = code, text, numbers


_COLLECTED: ContextVar[list[InflationWarning] | None] = ContextVar("collected", default=None)


def warn(code: str, text: str, **numbers: Any) -> None:
    """Collect a warning, or log it if warnings are not collected.

    Args:
        code: Short name of the kind of warning.
        text: What is wrong, where, and what to do.
        numbers: Numbers behind the warning, by name.
    """
    collected = _COLLECTED.get()
    if collected is None:
        logger.warning(f"Warning: {text}")
    elif text not in {each.text for each in collected}:
        collected.append(InflationWarning(code, text, numbers))


@contextmanager
def collecting() -> Iterator[list[InflationWarning]]:
    """Collect the warnings of a call of the library; yield the list that gets them.

    Texts name options as arguments of Python. After the call, the warnings go to the collection
    around this one; the outermost collection issues them.
    """
    collected: list[InflationWarning] = []
    outer = _COLLECTED.get()
    token = _COLLECTED.set(collected)
    try:
        yield collected
    finally:
        _COLLECTED.reset(token)
        for each in collected:
            each.text = in_python(each.text)
            each.args = (each.text,)
            if outer is None:
                warnings.warn(each, stacklevel=4)
            elif each.text not in {known.text for known in outer}:
                outer.append(each)
