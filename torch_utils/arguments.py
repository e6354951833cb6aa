"""Checks of arguments from a file against the signature of a function.

A constructor called with arbitrary contents of a file would fail with a TypeError or an
AttributeError, like a constructor with a bug. Therefore arguments from files are checked first, and
such an error always indicates a bug.
"""

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

from torch_utils.inert_pickle import shown


def check_arguments(
    function: Callable[..., Any], arguments: Mapping[str, Any], beside: Collection[str] = ()
) -> None:
    """Check that a function can be called with arguments that were read from a file.

    Args:
        function: The function, or a class.
        arguments: The arguments by name.
        beside: Names of arguments that the caller adds, which the file must not contain.

    Raises:
        ValueError: An argument is unknown or missing, or does not have the type of its annotation.
    """
    known = _parameters(function)
    for name, value in arguments.items():
        if name not in known or name in beside:
            raise ValueError(
                f"the file has the unknown argument '{shown(name)}': update the code, or restore "
                "the file from a copy"
            )
        if not fits(value, known[name].annotation):
            raise ValueError(
                f"the argument '{name}' has a value of the wrong type, {shown(repr(value))}: "
                "restore the file from a copy"
            )
    for name, parameter in known.items():
        needed = parameter.default is parameter.empty
        if needed and name not in arguments and name not in beside:
            raise ValueError(f"the file lacks the argument '{name}': restore the file from a copy")


def arguments_of(made: object) -> dict[str, Any]:
    """Return the constructor arguments of an object, read from its attributes of the same names."""
    return {name: getattr(made, name) for name in inspect.signature(type(made)).parameters}


def _parameters(function: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return the named parameters of a function or class.

    A class that forwards keyword arguments to its base, or to the class in its ``sizes_of``, has
    their parameters too.
    """
    if not isinstance(function, type):
        return dict(inspect.signature(function).parameters)
    known: dict[str, inspect.Parameter] = {}
    for each in (function, *getattr(function, "sizes_of", function).__mro__):
        if "__init__" not in vars(each):
            continue
        _, *own = inspect.signature(vars(each)["__init__"]).parameters.values()
        known |= {parameter.name: parameter for parameter in own if parameter.name not in known}
        if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in own):
            break
    variadic = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    return {name: each for name, each in known.items() if each.kind not in variadic}


def fits(value: object, annotation: Any) -> bool:
    """Return whether a plain value has the annotated type; True for unsupported annotations."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin in (Union, UnionType):
        return any(fits(value, each) for each in inner)
    if origin is tuple and ... not in inner:
        if not isinstance(value, list | tuple) or len(value) != len(inner):
            return False
        return all(fits(each, kind) for each, kind in zip(value, inner, strict=True))
    if origin is dict:
        return isinstance(value, dict) and all(fits(each, inner[1]) for each in value.values())
    if origin in (list, tuple, Sequence):
        return isinstance(value, list | tuple) and all(fits(each, inner[0]) for each in value)
    if annotation is float:
        return isinstance(value, float | int) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if annotation in (None, NoneType):
        return value is None
    return not isinstance(annotation, type) or isinstance(value, annotation)
