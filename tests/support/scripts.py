"""Scripts with which tests talk in JSON, one object a line."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self


class Script:
    """A script in a process of its own, which ends with a ``with`` block."""

    def __init__(self, path: Path):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, str(path)]
        self._process = subprocess.Popen(command, text=True, env=environment, **pipes)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._stdin.close()
        self._process.wait()
        self._stdout.close()

    def say(self, content: dict[str, Any]) -> None:
        print(json.dumps(content), file=self._stdin, flush=True)

    def hear(self) -> dict[str, Any]:
        if line := self._stdout.readline():
            return json.loads(line)
        raise RuntimeError("the script has ended")
