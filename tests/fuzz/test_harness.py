"""The harness notices what it should."""

from collections.abc import Iterator

import pytest

from tests.fuzz import misbehaving
from tests.fuzz.harness import FOLDER, Harness

pytestmark = pytest.mark.hostile


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("misbehaving")
    with Harness(folder, FOLDER / "misbehaving.py") as harness:
        yield harness


@pytest.mark.parametrize("way", misbehaving.WAYS)
def test_what_no_reader_may_do_is_noticed(harness: Harness, way: str) -> None:
    report = harness.run(way, 2)
    assert report.cases == 2
    if noticed := misbehaving.WAYS[way][1]:
        assert list(report.violations) == ["mutant 0", "mutant 1"]
        assert all(noticed in why for why in report.violations.values())
    else:
        assert (report.refused, report.accepted) == ((2, 0) if way == "refuses" else (0, 2))


def test_a_reader_that_cannot_read_valid_files_is_an_error(harness: Harness) -> None:
    with pytest.raises(RuntimeError, match="no such reader"):
        harness.run("no such reader", 1)
