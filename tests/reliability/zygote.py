"""Runs scripts in processes of their own, all forked from this one, so that imports cost once.

Reads jobs from stdin, one JSON object a line: ``script``, ``arguments``, ``output`` (a file for
what it prints) and ``kill_at`` (the write before which it is killed; -1 for none). Writes to
stdout, in one line each: ``{"pid": number}``, whose process group is the script's, and at its end
``{"status": number, "writes": number}``, as ``os.waitpid`` gives it; writes are of a run to its
end, else null.

A write is what changes files: opening one to write, renaming, removing, syncing, making folders.
"""

import gc
import json
import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SCRIPTS = (
    *("toy_train", "train", "toy_pfODE_int", "gen_fid_samples", "dataset_tool"),
    "posterior",
)
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def main() -> None:
    for line in sys.stdin:
        job = json.loads(line)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            run(job, writing)
        os.close(writing)
        print(json.dumps({"pid": child}), flush=True)
        with os.fdopen(reading) as told:
            writes = told.read()
        _, status = os.waitpid(child, 0)
        print(json.dumps({"status": status, "writes": int(writes) if writes else None}), flush=True)


def run(job: dict[str, Any], result: int) -> None:
    """Runs a script as its user would; ends this process."""
    os.setpgid(0, 0)
    output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    silent = os.open(os.devnull, os.O_RDONLY)
    for descriptor, target in ((silent, 0), (output, 1), (output, 2)):
        os.dup2(descriptor, target)
    sys.argv = [f"{job['script']}.py", *job["arguments"]]
    writes = count_writes(job["kill_at"])
    from training.options.script import run_script

    code: Any = 0
    try:
        run_script(import_module(job["script"]).main)
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(result, str(len(writes)).encode())
    os._exit(code if isinstance(code, int) else 1)


def count_writes(kill_at: int) -> list[str]:
    """A list that grows with each write of this process, which ends before the one given."""
    writes: list[str] = []

    def count(event: str) -> None:
        if len(writes) == kill_at:
            os.killpg(os.getpgrp(), signal.SIGKILL)
        writes.append(event)

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if event in CHANGES or (event == "open" and (arguments[2] or 0) & WRITING):
            count(event)

    sync = os.fsync

    def counted_sync(fd: Any) -> None:
        count("fsync")
        sync(fd)

    os.fsync = counted_sync
    sys.addaudithook(hear)
    return writes


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    for name in SCRIPTS:
        import_module(name)
        import_module(f"training.commands.{name}")
    gc.freeze()
    main()
