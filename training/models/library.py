"""Calls of the library: their errors name arguments of Python, and their warnings are data."""

from collections.abc import Callable
from functools import wraps
from types import FunctionType
from typing import Any, TypeVar

from dnnlib.errors import InflationError, in_python
from dnnlib.warned import collecting

F = TypeVar("F", bound=Callable[..., Any])
C = TypeVar("C", bound=type)


def library_call(function: F) -> F:
    """Return a public function whose errors and warnings name options as arguments of Python.

    Warnings are issued once, after the call.
    """

    @wraps(function)
    def call(*arguments: Any, **options: Any) -> Any:
        with collecting():
            try:
                return function(*arguments, **options)
            except InflationError as error:
                error.args = (in_python(str(error)), *error.args[1:])
                raise

    return call  # type: ignore[return-value]


def library_class(cls: C) -> C:
    """Make all public methods of a class, its constructor included, calls of the library."""
    for name, value in list(vars(cls).items()):
        if name.startswith("_") and name not in ("__init__", "__call__"):
            continue
        if isinstance(value, FunctionType):
            setattr(cls, name, library_call(value))
        elif isinstance(value, classmethod | staticmethod):
            setattr(cls, name, type(value)(library_call(value.__func__)))
    return cls
