"""Readers that do what none may, each in its own way, to see whether it is noticed."""

import faulthandler
import os
import pickle
import socket
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

from dnnlib.errors import DataError
from tests.fuzz import trial, zygote
from tests.fuzz.cases import Probe, Reader

VALID, MUTANT = b"valid", b"mutant"


def write(folder: Path) -> Path:
    (folder / "a.txt").write_bytes(VALID)
    return folder / "a.txt"


def mutate(data: bytes, other: bytes, random: Random) -> bytes:
    return MUTANT


def refuse(path: Path, message: str) -> None:
    raise DataError(message.format(path=path))


def fail(path: Path) -> None:
    raise KeyError("a")


def is_insane(path: Path) -> None:
    assert path.name == "b.txt"


def work_hard(path: Path) -> None:
    started = time.process_time()
    while time.process_time() < started + 0.6:
        pass


def import_one(path: Path) -> None:
    sys.modules.pop("colorsys", None)
    import colorsys  # noqa: F401


TOLD = "not one printable line"
WAYS: dict[str, tuple[Probe, str]] = {
    "fails": (fail, "KeyError: 'a'"),
    "leaves": (lambda path: sys.exit(0), "SystemExit"),
    "is insane": (is_insane, "AssertionError"),
    "waits": (lambda path: time.sleep(1000), "Timeout"),
    "works hard": (work_hard, " s"),
    "takes memory": (lambda path: bytearray(200 << 20), " MiB"),
    "asks for all memory": (lambda path: bytearray(1 << 50), "MemoryError"),
    "crashes": (lambda path: faulthandler._sigsegv(), "Segmentation fault"),
    "warns": (lambda path: warnings.warn("odd", stacklevel=2), "warning: odd"),
    "prints": (lambda path: os.write(2, b"odd"), "output"),
    "writes beside": (lambda path: path.with_name("b.txt").write_text("x"), "event: open"),
    "writes elsewhere": (lambda path: Path("RAN").write_text("x"), "outside/RAN"),
    "changes": (lambda path: path.write_text("x"), "changed: "),
    "removes": (lambda path: path.unlink(), "event: os.remove"),
    "touches": (lambda path: os.utime(path, (0, 0)), "event: os.utime"),
    "runs": (lambda path: subprocess.run(["true"], check=True), "event: subprocess.Popen"),
    "runs in a shell": (lambda path: os.system("true"), "event: os.system"),
    "imports": (import_one, "event: import"),
    "evaluates": (lambda path: eval("1 + 1"), "event: exec"),
    "executes": (lambda path: exec(compile("a = 1", "<unknown>", "exec")), "event: exec"),
    "connects": (lambda path: socket.socket().close(), "event: socket"),
    "unpickles": (lambda path: pickle.loads(b"cbuiltins\nlen\n."), "event: pickle.find_class"),
    "refuses in two lines": (partial(refuse, message="{path} is\nbroken"), TOLD),
    "refuses with a control code": (partial(refuse, message="{path} is \x1b[2Jbroken"), TOLD),
    "refuses without a name": (partial(refuse, message="it is broken"), "does not name the file"),
    "refuses at length": (partial(refuse, message="{path} is " + 999 * "x"), "a message of"),
    "refuses without a word": (partial(refuse, message=""), TOLD),
    "accepts": (lambda path: path.read_bytes(), ""),
    "refuses": (partial(refuse, message="{path} is broken"), ""),
}
"""What a reader does with a mutant, and what is said of it; nothing where it may."""


def reader(name: str, misbehave: Probe) -> Reader:
    def probe(path: Path) -> None:
        if path.read_bytes() == MUTANT:
            misbehave(path)

    return Reader(name, (write, write), probe, {".txt": mutate}, parses=name == "executes")


if __name__ == "__main__":
    trial.MOST_SECONDS, trial.HANGS_AFTER, trial.MOST_MIB = 0.5, 1, 100
    zygote.main({name: reader(name, way) for name, (way, _) in WAYS.items()})
