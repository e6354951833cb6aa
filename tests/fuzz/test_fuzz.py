"""Every reader on its hostile files and on mutants: errors of one line, or sane results."""

from collections.abc import Iterator

import pytest

from tests.fuzz.harness import Harness
from tests.fuzz.readers import READERS

SOME, MANY = 60, 2000
EVERY = 16
"""One in so many cases is run by ``make test``."""


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    with Harness(tmp_path_factory.mktemp("fuzz")) as harness:
        yield harness


@pytest.mark.parametrize(
    ("mutants", "seed", "every"),
    [
        pytest.param(SOME, 0, EVERY, id="a sample"),
        pytest.param(SOME, 0, 1, id="some", marks=pytest.mark.hostile),
        pytest.param(MANY, 1, 1, id="many", marks=[pytest.mark.slow, pytest.mark.hostile]),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_hostile_files_and_mutants_are_refused_or_make_sense(
    harness: Harness, reader: str, mutants: int, seed: int, every: int
) -> None:
    report = harness.run(reader, mutants, seed, every)
    assert report.violations == {}
    assert report.cases == len(range(0, len(READERS[reader].hostile) + mutants, every))
    assert every > 1 or min(report.refused, report.accepted) > 0
