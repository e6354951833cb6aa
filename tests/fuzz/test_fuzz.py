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


@pytest.mark.parametrize("reader", READERS)
def test_a_sample_of_hostile_files_and_mutants(harness: Harness, reader: str) -> None:
    report = harness.run(reader, SOME, every=EVERY)
    assert report.violations == {}
    assert report.cases >= SOME // EVERY


@pytest.mark.hostile
@pytest.mark.parametrize("reader", READERS)
def test_hostile_files_and_some_mutants(harness: Harness, reader: str) -> None:
    report = harness.run(reader, SOME)
    assert report.violations == {}
    assert report.cases == SOME + len(READERS[reader].hostile)
    assert min(report.refused, report.accepted) > 0


@pytest.mark.slow
@pytest.mark.hostile
@pytest.mark.parametrize("reader", READERS)
def test_many_mutants(harness: Harness, reader: str) -> None:
    report = harness.run(reader, MANY, seed=1)
    assert report.violations == {}
    assert report.cases >= MANY
