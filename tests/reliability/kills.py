"""Commands that are killed before one of their writes.

A write is what changes files: opening one to write, renaming, removing, syncing, making folders.
Between two of them, only files change that are hidden, or grow line by line.
"""

import os
import signal
import sys

from tests.support.commands import COMMANDS
from tests.support.rank_pool import FORKS

NEVER = -1
LONGEST = 300
"""Seconds that a command may take."""
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def run(name, arguments, kill_at=NEVER):
    """Runs a command in a process that is killed before its write of that number, which raises
    ProcessLookupError; else gives the number of its writes, and its result."""
    text, tells = FORKS.Pipe(duplex=False)
    process = FORKS.Process(target=_run, args=(name, arguments, kill_at, tells))
    process.start()
    tells.close()
    process.join(LONGEST)
    if process.exitcode == -signal.SIGKILL:
        raise ProcessLookupError(f"{name} was killed")
    assert process.exitcode == 0, f"{name} failed, or takes too long"
    return text.recv()


def _run(name, arguments, kill_at, tells):
    os.setpgid(0, 0)
    writes, sync = [], os.fsync

    def count(event):
        if len(writes) == kill_at:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        writes.append(event)

    def hear(event, arguments):
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING):
            count(event)

    def counted_sync(fd):
        count("fsync")
        sync(fd)

    os.fsync = counted_sync
    sys.addaudithook(hear)
    result = COMMANDS[name].run(*arguments)
    tells.send((len(writes), result))
    os._exit(0)
