"""The harness notices what it should, and mutants are what they should be."""

import gzip
import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import pytest

from tests.fuzz import image_samples, misbehaving, samples
from tests.fuzz.archives import in_gzip, in_tar, in_zip
from tests.fuzz.cases import Cases
from tests.fuzz.contents import mutate_json, mutate_lines, mutate_npy, mutate_png, mutate_text
from tests.fuzz.harness import FOLDER, Harness
from tests.fuzz.mutations import BYTE_MUTATIONS, Mutate, mutate_bytes
from tests.fuzz.pickles import mutate_pickle
from tests.fuzz.readers import READERS

pytestmark = pytest.mark.hostile


@pytest.fixture(scope="module")
def harness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Harness]:
    folder = tmp_path_factory.mktemp("misbehaving")
    with Harness(folder, zygote=FOLDER / "misbehaving.py") as harness:
        yield harness


NOTICED = {
    "fails": "KeyError: 'a'",
    "leaves": "SystemExit",
    "is insane": "AssertionError",
    "waits": "Timeout",
    "works hard": " s",
    "takes memory": " MiB",
    "asks for all memory": "MemoryError",
    "crashes": "Segmentation fault",
    "warns": "warning: something is odd",
    "prints": "output",
    "writes beside": "event: open",
    "writes elsewhere": "outside/RAN",
    "changes": "changed: ",
    "removes": "event: os.remove",
    "touches": "event: os.utime",
    "runs": "event: subprocess.Popen",
    "runs in a shell": "event: os.system",
    "imports": "event: import",
    "evaluates": "event: exec",
    "executes": "event: exec",
    "connects": "event: socket",
    "unpickles": "event: pickle.find_class",
    "refuses in two lines": "not one printable line",
    "refuses with a control code": "not one printable line",
    "refuses without a name": "does not name the file",
    "refuses at length": "a message of",
    "refuses without a word": "not one printable line",
}


@pytest.mark.parametrize("way", misbehaving.WAYS)
def test_what_no_reader_may_do_is_noticed(harness: Harness, way: str) -> None:
    report = harness.run(way, 2)
    assert report.cases == 2
    if way in NOTICED:
        assert list(report.violations) == ["mutant 0", "mutant 1"]
        assert all(NOTICED[way] in why for why in report.violations.values())
    else:
        assert (report.refused, report.accepted) == ((2, 0) if way == "refuses" else (0, 2))


def test_a_reader_that_cannot_read_valid_files_is_an_error(
    harness: Harness, tmp_path: Path
) -> None:
    with pytest.raises(RuntimeError, match="no such reader"):
        harness.run("no such reader", 1)


def test_files_of_violations_are_kept(tmp_path: Path) -> None:
    with Harness(tmp_path / "work", tmp_path, FOLDER / "misbehaving.py") as harness:
        for way in ("fails", "crashes"):
            harness.run(way, 1)
            kept = tmp_path / f"{way}-mutant 0" / "a.txt"
            assert kept.read_bytes() == misbehaving.MUTANT


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


@pytest.mark.parametrize("mutate", BYTE_MUTATIONS, ids=lambda mutate: mutate.__name__)
@pytest.mark.parametrize("data", [b"", b"a", bytes(range(256)) * 4])
def test_bytes_of_any_length_are_mutated(mutate: Mutate, data: bytes) -> None:
    made = {mutate(data, b"other" * 10, Random(seed)) for seed in range(50)}
    assert len(made) > 1 or len(data) < 2
    assert max(map(len, made)) < len(data) + 20_000


def opened(write: Callable[[Path], Path], folder: Path) -> bytes:
    path = write(folder)
    return path.read_bytes()


def is_whole_zip(data: bytes) -> bool:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.testzip() is None
    except Exception:
        return False


def is_whole_tar(data: bytes) -> bool:
    try:
        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
            return len(archive.getmembers()) > 0
    except Exception:
        return False


def is_array(data: bytes) -> bool:
    try:
        np.load(io.BytesIO(data), allow_pickle=False)
    except Exception:
        return False
    return True


def is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


SOME_ARRAYS = samples.arrays("a.npz", samples.some_arrays)
AWARE: dict[str, tuple[Callable[[Path], Path], Mutate, Callable[[bytes], bool]]] = {
    "zip": (SOME_ARRAYS, in_zip({"*": mutate_npy}), is_whole_zip),
    "tar": (image_samples.cifar(4), in_gzip(in_tar(mutate_pickle)), is_whole_tar),
    "JSON": (samples.parameters, mutate_json, is_json),
}


@pytest.mark.parametrize("kind", AWARE)
def test_mutants_come_past_checksums_and_parsers(tmp_path: Path, kind: str) -> None:
    write, mutate, is_whole = AWARE[kind]
    data = opened(write, tmp_path)
    made = [mutate(data, data, Random(seed)) for seed in range(200)]
    whole = [mutant for mutant in made if mutant != data and is_whole(mutant)]
    assert len(whole) > 80
    by_bytes = [mutate_bytes(data, data, Random(seed)) for seed in range(200)]
    assert len(whole) > 1.5 * sum(is_whole(mutant) for mutant in by_bytes)


def test_mutants_of_arrays_are_arrays_of_other_numbers_or_shapes(tmp_path: Path) -> None:
    array = np.arange(6.0).reshape(2, 3)
    file = io.BytesIO()
    np.save(file, array)
    made = [mutate_npy(file.getvalue(), file.getvalue(), Random(seed)) for seed in range(300)]
    whole = [np.load(io.BytesIO(mutant)) for mutant in made if is_array(mutant)]
    assert len(whole) > 60
    assert any(other.shape != array.shape for other in whole)
    assert any(other.dtype.kind == "f" and not np.isfinite(other).all() for other in whole)


@pytest.mark.parametrize("mutate", [mutate_lines, mutate_png, mutate_text, mutate_pickle])
def test_anything_is_mutated(mutate: Mutate) -> None:
    contents = (b"{}\n", b"\x89PNG\r\n\x1a\n", pickle.dumps([1, "a", {}]), b"a b c", b"\x80")
    for data in contents:
        if mutate is mutate_lines and data != b"{}\n":
            continue
        assert len({mutate(data, data, Random(seed)) for seed in range(40)}) > 5
