"""Every reader on its hostile files, on mutants, and with our own mistakes planted in it."""

import sys
from pathlib import Path
from random import Random

import pytest

from tests.fuzz.harness import Sample
from tests.fuzz.readers import READERS, run

SOME, MANY = 60, 2000
EVERY = 32
"""One in so many cases is run by ``make test``."""


@pytest.mark.parametrize(
    ("mutants", "seed", "every"),
    [
        pytest.param(SOME, 0, EVERY, id="a sample"),
        pytest.param(SOME, 0, 1, id="some", marks=pytest.mark.hostile),
        pytest.param(MANY, 1, 1, id="many", marks=[pytest.mark.slow, pytest.mark.hostile]),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_hostile_files_are_refused_or_make_sense(tmp_path, reader, mutants, seed, every):
    counts, violations = run(reader, tmp_path, mutants, seed, every)
    assert violations == {}
    assert counts.total() == len(range(0, len(READERS[reader].hostile) + mutants, every))
    assert every > 1 or counts["refused"] > 0 < counts["accepted"]


ROOT = Path(__file__).parent.parent.parent
PACKAGES = tuple(str(ROOT / package) + "/" for package in ("dnnlib", "torch_utils", "training"))
FEW, ALL = 5, 10_000
"""Functions of each reader in the quick suite and in the slow one."""


class Mistake(AttributeError, TypeError):
    """What a wrong name or a wrong argument raises.

    Out of a property of a module, PyTorch makes an AttributeError that names the property.
    """


def watched(read, path, watch):
    """Calls ``watch`` with each function that starts in a reading; what it raises, they raise."""

    def trace(frame, event, argument):
        watch(frame.f_code)

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        read(path)
    finally:
        sys.settrace(before)


@pytest.mark.parametrize("count", [FEW, pytest.param(ALL, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", READERS)
def test_a_mistake_comes_out_as_it_is(name, count, tmp_path):
    reader = READERS[name]
    sample = Sample.of(reader.valid[0], tmp_path / "sample")
    (tmp_path / "case").mkdir()
    path = sample.write(tmp_path / "case")
    reader.probe(path)  # what libraries import of themselves when needed, they have now
    run = []
    watched(reader.probe, path, run.append)
    ours = [code for code in dict.fromkeys(run) if code.co_filename.startswith(PACKAGES)]
    ours = [code for code in ours if code.co_name != "<module>"]
    assert ours
    for planted in Random(name).sample(ours, min(count, len(ours))):

        def fail(code, planted=planted):
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
