"""Every reader on its hostile files and on mutants: errors of one line, or sane results."""

import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from dnnlib.errors import DataError
from tests.fuzz.cases import Reader
from tests.fuzz.harness import run
from tests.fuzz.readers import READERS as ALL

SOME, MANY = 60, 2000
EVERY = 16
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


# What no reader may do is noticed.


def refuse(message: str) -> Callable[[Path], None]:
    def read(path: Path) -> None:
        raise DataError(message.format(path=path))

    return read


WAYS: dict[str, tuple[Callable[[Path], object], str]] = {
    "fails": (lambda path: {}[path], "KeyError"),
    "leaves": (lambda path: sys.exit(0), "SystemExit"),
    "takes memory": (lambda path: bytearray(1100 << 20), " MiB"),
    "crashes": (lambda path: os.abort(), "Abort"),
    "warns": (lambda path: warnings.warn("odd", stacklevel=2), "warning: odd"),
    "prints": (lambda path: os.write(2, b"odd"), "output"),
    "writes elsewhere": (lambda path: Path("RAN").write_text("x"), "outside/RAN"),
    "removes": (lambda path: path.unlink(), "event: os.remove"),
    "runs": (lambda path: subprocess.run(["true"], check=True), "event: subprocess.Popen"),
    "runs in a shell": (lambda path: os.system("true"), "event: os.system"),
    "evaluates": (lambda path: eval("1 + 1"), "event: exec"),
    "unpickles": (lambda path: pickle.loads(b"cbuiltins\nlen\n."), "event: pickle.find_class"),
    "refuses in two lines": (refuse("{path} is\nbroken"), "not one printable line"),
    "refuses without a name": (refuse("it is broken"), "does not name the file"),
    "refuses": (refuse("{path} is broken"), ""),
}
"""What a reader does with a mutant, and what is said of it; nothing where it may."""


def valid(folder: Path) -> Path:
    (folder / "a.txt").write_bytes(b"valid")
    return folder / "a.txt"


def mutant(data: bytes, other: bytes, random: Random) -> bytes:
    return b"mutant"


def misbehaving(name: str, misbehave: Callable[[Path], object]) -> Reader:
    def probe(path: Path) -> None:
        if path.read_bytes() == b"mutant":
            misbehave(path)

    return Reader(name, (valid, valid), probe, {".txt": mutant})


READERS = {name: misbehaving(name, way) for name, (way, _) in WAYS.items()}


@pytest.mark.hostile
@pytest.mark.parametrize("way", WAYS)
def test_what_no_reader_may_do_is_noticed(tmp_path: Path, way: str) -> None:
    report = run(way, tmp_path, 2, module=__name__)
    if noticed := WAYS[way][1]:
        assert list(report.violations) == ["mutant 0", "mutant 1"]
        assert all(noticed in why for why in report.violations.values())
    else:
        assert (report.refused, report.violations) == (2, {})
