"""Two ranks, started once for all tests of what several ranks do, with what ``torchrun`` tells."""

import os
import pickle
import socket
import traceback
from importlib import import_module
from itertools import cycle
from multiprocessing import get_context
from multiprocessing.connection import wait

from inflationary_flows.__main__ import scripts
from tests.support.running import run_script

FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *("tests.support.commands", "tests.fuzz.readers"),
        *(f"training.cli.{stem}" for stem in scripts()),
    ]
)


RANKS = 2
LONGEST = 60
"""Seconds that the ranks have for a job."""
LAST_WORDS = 5
"""Seconds that a rank has once the other has failed."""


class RankPool:
    """Runs functions on two ranks, which start with the first of them."""

    def __init__(self):
        self._processes = []
        self._ranks = []
        # Not ports that the system gives: between two calls it may give one to another's ranks.
        worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
        self._ports = cycle(range(20_000 + 500 * worker, 20_500 + 500 * worker))

    def call(self, function, *arguments):
        """Calls a function of a module on both ranks, and gives what each returned, or raises
        RuntimeError. It joins and leaves the process group itself; arguments are pickled."""
        try:
            return self._call(function, *arguments)
        except TimeoutError:  # seldom, on a busy machine, ranks do not find each other
            return self._call(function, *arguments)

    def _call(self, function, *arguments):
        if not self._ranks:
            self._start()
        port = next(port for port in self._ports if _is_free(port))
        # The connection's own pickles would have tensors in memory that processes share.
        job = pickle.dumps((port, function, arguments))
        for rank in self._ranks:
            rank.send_bytes(job)
        answers = {}
        failures = []
        # One that fails takes the other down, whose complaint may come first.
        while waiting := set(self._ranks) - set(answers):
            ready = wait(waiting, LAST_WORDS if failures else LONGEST)
            if not ready:
                break
            for rank in ready:
                try:
                    raised, answers[rank] = pickle.loads(rank.recv_bytes())
                except EOFError:
                    raised, answers[rank] = True, "it ended"
                failures += [answers[rank]] if raised else []
        if failures or waiting:
            self.close()  # the other may wait for the one that failed: both start anew
        if failures:
            raise RuntimeError("\n".join(failures))
        if waiting:
            raise TimeoutError(f"ranks took more than {LONGEST} s")
        return [answers[rank] for rank in self._ranks]

    def run(self, script, *arguments):
        """Runs a script. Gives the result of rank 0; the other must succeed and print nothing."""
        first, other = self.call(_run_script, script.__name__, *map(str, arguments))
        assert first.code or (other.code, other.out, other.err) == (0, "", "")
        return first

    def close(self):
        for rank, process in zip(self._ranks, self._processes, strict=True):
            rank.close()
            # A forked process, such as a data loader's, may hold this end of the pipe open, and the
            # rank would wait for its end in vain.
            process.kill()
            process.join()
        self._ranks, self._processes = [], []

    def _start(self):
        for number in range(RANKS):
            here, there = FORKS.Pipe()
            process = FORKS.Process(target=_serve, args=(number, there))
            process.start()
            there.close()
            self._processes.append(process)
            self._ranks.append(here)


def _is_free(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) != 0


def _run_script(name, *arguments):
    return run_script(import_module(name), *arguments, ranks={})


def _serve(rank, pool):
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": RANKS, "LOCAL_WORLD_SIZE": RANKS}
    os.environ |= {name: str(number) for name, number in numbers.items()}
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    while True:
        try:
            job = pool.recv_bytes()
        except EOFError:
            # The threads of process groups can outlive them, and abort an interpreter's end.
            os._exit(0)
        try:
            port, function, arguments = pickle.loads(job)
            os.environ["MASTER_PORT"] = str(port)
            answer = False, function(*arguments)
        except BaseException:
            answer = True, traceback.format_exc()
        pool.send_bytes(pickle.dumps(answer))
