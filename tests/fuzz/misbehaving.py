"""Readers that do what none may, each in its own way, to see whether it is noticed."""

import faulthandler
import os
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).parents[2]))

from dnnlib.errors import DataError
from tests.fuzz import trial, zygote
from tests.fuzz.cases import Reader

VALID, MUTANT = b"valid", b"mutant"


def write(folder: Path) -> Path:
    (folder / "a.txt").write_bytes(VALID)
    return folder / "a.txt"


def mutate(data: bytes, other: bytes, random: Random) -> bytes:
    return MUTANT


def refuses_with(message: str) -> Callable[[Path], None]:
    def refuse(path: Path) -> None:
        raise DataError(message.format(path=path))

    return refuse


def fails(path: Path) -> None:
    raise KeyError("a")


def leaves(path: Path) -> None:
    sys.exit(0)


def is_insane(path: Path) -> None:
    assert path.name == "b.txt"


def waits(path: Path) -> None:
    time.sleep(1000)


def works_hard(path: Path) -> None:
    started = time.process_time()
    while time.process_time() < started + 0.6:
        pass


def takes_memory(path: Path) -> None:
    bytearray(200 << 20)


def asks_for_all_memory(path: Path) -> None:
    bytearray(1 << 50)


def crashes(path: Path) -> None:
    faulthandler._sigsegv()


def warns(path: Path) -> None:
    warnings.warn("something is odd", RuntimeWarning, stacklevel=2)


def prints(path: Path) -> None:
    os.write(2, b"odd")


def writes_beside(path: Path) -> None:
    path.with_name("b.txt").write_text("x")


def writes_elsewhere(path: Path) -> None:
    Path("RAN").write_text("x")


def changes(path: Path) -> None:
    path.write_text("x")


def removes(path: Path) -> None:
    path.unlink()


def touches(path: Path) -> None:
    os.utime(path, (0, 0))


def runs(path: Path) -> None:
    subprocess.run(["true"], check=True)


def runs_in_a_shell(path: Path) -> None:
    os.system("true")


def imports(path: Path) -> None:
    sys.modules.pop("colorsys", None)
    import colorsys  # noqa: F401


def evaluates(path: Path) -> None:
    eval("1 + 1")


def executes(path: Path) -> None:
    exec(compile("a = 1", "<unknown>", "exec"))


def connects(path: Path) -> None:
    socket.socket().close()


def unpickles(path: Path) -> None:
    import pickle

    pickle.loads(b"cbuiltins\nlen\n.")


def accepts(path: Path) -> None:
    path.read_bytes()


WAYS: dict[str, Callable[[Path], object]] = {
    function.__name__.replace("_", " "): function
    for function in (
        *(fails, leaves, is_insane, waits, works_hard, takes_memory, asks_for_all_memory, crashes),
        *(warns, prints, writes_beside, writes_elsewhere, changes, removes, touches, runs),
        *(runs_in_a_shell, imports, evaluates, executes, connects, unpickles, accepts),
    )
}
WAYS |= {
    "refuses": refuses_with("{path} is broken"),
    "refuses in two lines": refuses_with("{path} is\nbroken"),
    "refuses with a control code": refuses_with("{path} is \x1b[2Jbroken"),
    "refuses without a name": refuses_with("it is broken"),
    "refuses at length": refuses_with("{path} is " + "very " * 300 + "broken"),
    "refuses without a word": refuses_with(""),
}


def reader(name: str, misbehave: Callable[[Path], object]) -> Reader:
    def probe(path: Path) -> None:
        if path.read_bytes() == MUTANT:
            misbehave(path)

    return Reader(name, (write, write), probe, {".txt": mutate}, parses=name == "executes")


if __name__ == "__main__":
    trial.MOST_SECONDS, trial.HANGS_AFTER, trial.MOST_MIB = 0.5, 1, 100
    zygote.main({name: reader(name, way) for name, way in WAYS.items()})
