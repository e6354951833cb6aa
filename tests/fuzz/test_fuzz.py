"""Every reader on its hostile files and on mutants: errors of one line, or sane results."""

from pathlib import Path

import pytest

from tests.fuzz.harness import run
from tests.fuzz.readers import READERS as ALL

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
@pytest.mark.parametrize("reader", ALL)
def test_hostile_files_and_mutants_are_refused_or_make_sense(
    tmp_path: Path, reader: str, mutants: int, seed: int, every: int
) -> None:
    report = run(reader, tmp_path, mutants, seed, every)
    assert report.violations == {}
    assert report.cases == len(range(0, len(ALL[reader].hostile) + mutants, every))
    assert every > 1 or min(report.refused, report.accepted) > 0
