"""Every reader on its hostile files, on mutants, and with our own mistakes planted in it."""

import pytest

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
def test_hostile_files_and_mutants_are_refused_or_make_sense(
    tmp_path, reader, mutants, seed, every
):
    counts, violations = run(reader, tmp_path, mutants, seed, every)
    assert violations == {}
    assert counts.total() == len(range(0, len(READERS[reader].hostile) + mutants, every))
    assert every > 1 or counts["refused"] > 0 < counts["accepted"]
