"""The harness notices what it should, and mutants are what they should be."""

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest

from tests.fuzz import misbehaving
from tests.fuzz.cases import Cases
from tests.fuzz.harness import FOLDER, Harness
from tests.fuzz.mutations import Mutate, in_tar, in_zip, mutate_bytes, mutate_text
from tests.fuzz.readers import READERS

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


# Mutants.


@pytest.mark.parametrize("name", READERS)
def test_mutants_depend_on_their_seed_alone(tmp_path: Path, name: str) -> None:
    first, again = (Cases(READERS[name], 0, tmp_path) for _ in range(2))
    count = len(READERS[name].hostile)
    made = [first._mutant(index) for index in range(20)]
    assert made == [again._mutant(index) for index in range(20)]
    assert first.samples == again.samples
    assert first.name(count) == "mutant 0"
    other = Cases(READERS[name], 1, tmp_path)
    assert made != [other._mutant(index) for index in range(20)]
    changed = [mutant for mutant in made if mutant not in first.samples]
    assert len(changed) > 10


def open_zip(data: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None


def open_tar(data: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        assert archive.getmembers()


def is_whole(data: bytes, open_it: Callable[[bytes], object]) -> bool:
    try:
        open_it(data)
    except Exception:
        return False
    return True


AWARE: dict[str, tuple[Mutate, Callable[[bytes], object]]] = {
    "arrays": (in_zip, open_zip),
    "cifar": (in_tar, open_tar),
    "parameters": (mutate_text, json.loads),
}


@pytest.mark.parametrize("name", AWARE)
def test_mutants_come_past_checksums_and_parsers(tmp_path: Path, name: str) -> None:
    mutate, open_it = AWARE[name]
    data = READERS[name].valid[-1](tmp_path).read_bytes()
    made = [mutate(data, data, Random(seed)) for seed in range(200)]
    whole = [mutant for mutant in made if mutant != data and is_whole(mutant, open_it)]
    assert len(whole) > 80
    by_bytes = [mutate_bytes(data, data, Random(seed)) for seed in range(200)]
    assert len(whole) > 1.5 * sum(is_whole(mutant, open_it) for mutant in by_bytes)
