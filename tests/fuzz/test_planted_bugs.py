"""A mistake of ours is never told as a broken file, wherever it is on the way of reading one.

For each kind of file, the functions of ours that run while a valid one is read are found. Then, in
one after the other, an exception is planted that a mistake would raise, and must come out as it is.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import CodeType, FrameType

import pytest

from tests.fuzz.cases import Sample
from tests.fuzz.readers import READERS

ROOT = Path(__file__).parent.parent.parent
PACKAGES = tuple(str(ROOT / package) + "/" for package in ("dnnlib", "torch_utils", "training"))
SOME, ALL = 5, 10_000
"""Functions of each reader in the quick suite and in the slow one."""


class Mistake(AttributeError, TypeError):
    """What a wrong name or a wrong argument raises.

    Out of a property of a module, PyTorch makes an AttributeError that names the property.
    """


def watched(read: Callable[[Path], object], path: Path, watch: Callable[[CodeType], None]) -> None:
    """Calls ``watch`` with each function that starts in a reading; what it raises, they raise."""

    def trace(frame: FrameType, event: str, argument: object) -> None:
        watch(frame.f_code)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        read(path)
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("count", [SOME, pytest.param(ALL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
def test_a_mistake_comes_out_as_it_is(name: str, count: int, tmp_path: Path) -> None:
    reader = READERS[name]
    sample = Sample.of(reader.valid[0], tmp_path / "sample")
    (tmp_path / "case").mkdir()
    path = sample.write(tmp_path / "case")
    reader.probe(path)  # what libraries import of themselves when needed, they have now
    run: dict[CodeType, None] = {}
    watched(reader.probe, path, lambda code: run.update({code: None}))
    ours = [code for code in run if code.co_filename.startswith(PACKAGES)]
    ours = [code for code in ours if code.co_name != "<module>"]
    assert ours
    for planted in Random(name).sample(ours, min(count, len(ours))):

        def fail(code: CodeType, planted: CodeType = planted) -> None:
            if code is planted:
                raise Mistake

        sample.write(tmp_path / "case")
        try:
            watched(reader.probe, path, fail)
        except (AttributeError, TypeError):
            continue
        except Exception as error:
            raise AssertionError(f"a mistake in {planted} is hidden") from error
        raise AssertionError(f"a mistake in {planted} is hidden")
