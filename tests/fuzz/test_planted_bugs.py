"""A mistake of ours is never told as a broken file, wherever it is on the way of reading one.

For each kind of file, the functions of ours that run while a valid one is read are found. Then, in
one after the other, an exception is planted that a mistake would raise, and must come out as it is.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import CodeType, FrameType

import pytest

from tests.fuzz.cases import Reader, Sample
from tests.fuzz.readers import READERS

ROOT = Path(__file__).parent.parent.parent
PACKAGES = tuple(str(ROOT / package) + "/" for package in ("dnnlib", "torch_utils", "training"))
SOME, ALL = 10, 10_000
"""Functions of each reader in the quick suite and in the slow one."""


class Mistake(AttributeError, TypeError):
    """What a wrong name or a wrong argument raises.

    Out of a property of a module, PyTorch makes an AttributeError that names the property.
    """


@contextmanager
def on_call(watch: Callable[[CodeType], None]) -> Iterator[None]:
    """Calls ``watch`` with the code of each function that starts; what it raises, they raise."""

    def trace(frame: FrameType, event: str, argument: object) -> None:
        watch(frame.f_code)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


def functions_of(reader: Reader, path: Path) -> list[CodeType]:
    """Our functions that run while a file is read, in the order of their first calls."""
    found: dict[CodeType, None] = {}

    def watch(code: CodeType) -> None:
        if code.co_filename.startswith(PACKAGES) and code.co_name != "<module>":
            found[code] = None

    with on_call(watch):
        reader.probe(path)
    return list(found)


@pytest.mark.parametrize("count", [SOME, pytest.param(ALL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
def test_a_mistake_comes_out_as_it_is(name: str, count: int, tmp_path: Path) -> None:
    reader = READERS[name]
    sample = Sample.of(reader.valid[0], tmp_path / "sample")
    (tmp_path / "case").mkdir()
    path = sample.write(tmp_path / "case")
    reader.probe(path)  # what libraries import of themselves when needed, they have now
    functions = functions_of(reader, path)
    assert functions
    for function in Random(name).sample(functions, min(count, len(functions))):

        def watch(code: CodeType, function: CodeType = function) -> None:
            if code is function:
                raise Mistake

        hidden: Exception | None = None
        sample.write(tmp_path / "case")
        try:
            with on_call(watch):
                reader.probe(path)
        except (AttributeError, TypeError):
            continue
        except Exception as error:
            hidden = error
        raise AssertionError(f"a mistake in {function} is hidden") from hidden
