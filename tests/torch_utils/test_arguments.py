"""Arguments of a file, against what a function says that it takes."""

from collections.abc import Sequence
from typing import Any

import pytest

from torch_utils.arguments import check_arguments


class Base:
    def __init__(self, size: int, scale: float = 1.0, shape: Sequence[int] = (1, 2)):
        pass


class Passes(Base):
    def __init__(self, name: str, ends: tuple[float, float] | None = None, **others: Any):
        pass


class Holds:
    sizes_of = Base

    def __init__(self, flag: bool, **others: Any):
        pass


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (Base, {"size": 3, "scale": 2, "shape": [4]}),
        (Passes, {"name": "a", "ends": [0, 1.5], "size": 3}),
        (Passes, {"name": "a", "ends": None, "size": 3, "scale": 0.5}),
        (Holds, {"flag": True, "size": 3}),
    ],
)
def test_fitting_arguments_pass(kind: type, arguments: dict[str, Any]) -> None:
    check_arguments(kind, arguments)
    missing = {key: value for key, value in arguments.items() if key != "size"}
    check_arguments(kind, missing, beside=["size"])
    with pytest.raises(ValueError, match="lacks the argument 'size'"):
        check_arguments(kind, missing)


WRONG: list[tuple[type, list[dict[str, Any]]]] = [
    (Base, [{"size": 3.0}, {"size": True}, {"size": None}, {"scale": "1"}, {"shape": 3}]),
    (Base, [{"shape": [1, "2"]}, {"odd": 1}]),
    (Passes, [{"ends": [0.0]}, {"ends": [0.0, "1"]}, {"others": 1}]),
    (Holds, [{"flag": 1}, {"scale": []}]),
]


@pytest.mark.parametrize(("kind", "wrong"), [(kind, one) for kind, all_ in WRONG for one in all_])
def test_others_are_named(kind: type, wrong: dict[str, Any]) -> None:
    right = {"size": 1} | ({"name": "a"} if kind is Passes else {})
    right |= {"flag": False} if kind is Holds else {}
    (name,) = wrong
    with pytest.raises(ValueError, match=f"argument '{name}'"):
        check_arguments(kind, right | wrong)
