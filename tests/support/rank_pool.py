"""Two ranks that ``torchrun`` starts once, for all tests of what several ranks do.

This module has both sides. ``RankPool`` is the tests' side: it listens at a local address. Started
by ``torchrun``, the module is a rank: it connects there, and runs one function after another.
"""

import os
import pickle
import secrets
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NoReturn, cast

if TYPE_CHECKING:
    from tests.support.running import Result

RANKS = 2
LONGEST = 120
"""Seconds that the ranks have to start, and for a job."""
LAST_WORDS = 5
"""Seconds that a rank has once the other has failed."""
SECRET = "RANK_POOL_SECRET"


class RanksFailedError(Exception):
    """A rank raised an exception, ended, or took too long."""


class RankPool:
    """Runs functions on two ranks, which start with the first of them.

    Args:
        folder: Place for what the ranks print outside of scripts.
    """

    def __init__(self, folder: Path):
        self._printed = folder / "printed.txt"
        self._process: subprocess.Popen[bytes] | None = None
        self._ranks: list[Connection] = []

    def call(self, function: Callable[..., Any], *arguments: object) -> list[Any]:
        """Calls a function on both ranks at once, and gives what each returned.

        Args:
            function: A function of a module, which the ranks import. It joins and leaves the
                process group itself, with ``torch_utils.distributed.process_group``.
            arguments: Its arguments; like the results, they are pickled.

        Raises:
            RanksFailedError: A rank raised an exception or ended.
        """
        if self._process is None:
            self._start()
        job = pickle.dumps((_free_port(), function, arguments))
        for rank in self._ranks:
            rank.send(sys.path)
            rank.send_bytes(job)
        return self._answers()

    def run(self, script: ModuleType, *arguments: object) -> "Result":
        """Runs a script. Gives the result of rank 0; the other must succeed and print nothing."""
        first, other = self.call(_run_script, script.__name__, *map(str, arguments))
        assert first.code or (other.code, other.out, other.err) == (0, "", "")
        return cast("Result", first)

    def close(self) -> None:
        """Ends the ranks; they start again if there is more to do."""
        for rank in self._ranks:
            rank.close()
        self._ranks = []
        if self._process is not None:
            try:
                self._process.wait(LAST_WORDS)
            except subprocess.TimeoutExpired:
                self._process.terminate()
                self._process.wait()
        self._process = None

    def _start(self) -> None:
        secret = secrets.token_hex()
        torchrun = ("-m", "torch.distributed.run", f"--nproc_per_node={RANKS}")
        with socket.create_server(("127.0.0.1", 0)) as server, self._printed.open("wb") as printed:
            server.settimeout(LONGEST)
            place = (f"--rdzv_endpoint=127.0.0.1:{_free_port()}", __file__)
            self._process = subprocess.Popen(
                [sys.executable, *torchrun, *place, str(server.getsockname()[1])],
                env=os.environ | {SECRET: secret},
                stdout=printed,
                stderr=subprocess.STDOUT,
            )
            found: dict[int, Connection] = {}
            while len(found) < RANKS:
                try:
                    rank = Connection(server.accept()[0].detach())
                except TimeoutError:
                    self._fail("the ranks did not start")
                assert rank.recv_bytes() == secret.encode()
                found[rank.recv()] = rank
            self._ranks = [found[number] for number in range(RANKS)]

    def _answers(self) -> list[Any]:
        answers: dict[int, Any] = {}
        failures: list[str] = []
        while len(answers) < RANKS:
            waiting = [rank for number, rank in enumerate(self._ranks) if number not in answers]
            # One that fails takes the other down, whose complaint may come first.
            ready = wait(waiting, LAST_WORDS if failures else LONGEST)
            if not ready:
                self._fail("\n".join(failures) or "the ranks took too long")
            for rank in ready:
                number = self._ranks.index(cast(Connection, rank))
                try:
                    raised, answer = pickle.loads(self._ranks[number].recv_bytes())
                except EOFError:
                    raised, answer = True, "it ended"
                if raised:
                    failures.append(f"rank {number}: {answer}")
                answers[number] = answer
        if failures:
            self._fail("\n".join(failures))
        return [answers[number] for number in range(RANKS)]

    def _fail(self, why: str) -> NoReturn:
        # The other rank may wait for the one that failed: both start anew.
        self.close()
        raise RanksFailedError(f"{why}\n{self._printed.read_text(errors='replace')}")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _run_script(name: str, *arguments: str) -> "Result":
    from tests.support.running import run_script

    return run_script(import_module(name), *arguments, ranks={})


def _serve(port: int) -> None:
    """What a rank does, until the tests' side ends the connection."""
    pool = Connection(socket.create_connection(("127.0.0.1", port)).detach())
    pool.send_bytes(os.environ.pop(SECRET).encode())
    pool.send(int(os.environ["RANK"]))
    # Each job has a store of its own, as it has after a start of torchrun.
    os.environ["TORCHELASTIC_USE_AGENT_STORE"] = "False"
    while True:
        try:
            sys.path[:] = pool.recv()
            payload = pool.recv_bytes()
        except EOFError:
            return
        try:
            group_port, function, arguments = pickle.loads(payload)
            os.environ["MASTER_PORT"] = str(group_port)
            answer = False, function(*arguments)
        except BaseException:
            answer = True, traceback.format_exc()
        # The connection's own pickles would have tensors in memory that processes share.
        pool.send_bytes(pickle.dumps(answer))


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
    # The threads of process groups can outlive them, and abort an interpreter that is torn down.
    os._exit(0)
