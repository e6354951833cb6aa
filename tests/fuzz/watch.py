"""What a process does while a file is read, told by Python's audit events (PEP 578)."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FORBIDDEN = {
    *("compile", "exec", "import", "code", "marshal", "pickle", "cpython", "ctypes"),
    *("subprocess", "socket", "os", "shutil", "tempfile", "pty", "urllib", "http", "ftplib"),
}
"""First parts of the names of events that reading data gives no reason for."""
LOOKING = {"os.listdir", "os.scandir", "os.walk"}
WRITING_MODES, WRITING_FLAGS = set("wax+"), 0o3
# A header of NumPy is parsed to a tree of literals, which is not run: ast.parse calls it so.
PARSED = "<unknown>"


class Watch:
    """Listens to the events of this process, from its making to its end.

    Args:
        inside: Folder in which files may be written; None for nowhere.
        parses: Whether text may be parsed by ``ast.literal_eval``.
        runs: Script that another process may run, and be killed; None for none.
    """

    def __init__(self, inside: Path | None = None, parses: bool = False, runs: Path | None = None):
        self._inside = None if inside is None else str(inside)
        self._parses, self._runs = parses, runs
        self._listening = False
        self._heard: list[str] = []
        sys.addaudithook(self._hear)

    @contextmanager
    def listening(self) -> Iterator[list[str]]:
        """Yields a list that is filled with the forbidden events in the block."""
        self._heard = []
        self._listening = True
        try:
            yield self._heard
        finally:
            self._listening = False

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._listening and self._is_forbidden(event, arguments):
            self._heard.append(f"{event} {ascii(arguments)[:200]}")

    def _is_forbidden(self, event: str, arguments: tuple[Any, ...]) -> bool:
        if event == "open":
            path, mode, flags = arguments
            if self._runs is not None and path == os.devnull:  # as the input of a process
                return False
            writes = bool(set(mode or "") & WRITING_MODES) or bool((flags or 0) & WRITING_FLAGS)
            return writes and not self._is_inside(path)
        if event == "compile" and self._parses:
            return arguments[1] != PARSED
        if self._runs is not None and event in ("subprocess.Popen", "os.kill"):
            return event == "subprocess.Popen" and arguments[1][2] != str(self._runs)
        if event == "import":
            return arguments[0] not in sys.modules
        if event in LOOKING or event.split(".")[0] not in FORBIDDEN:
            return False
        return not (event.startswith("os.") and all(map(self._is_inside, arguments)))

    def _is_inside(self, path: Any) -> bool:
        if self._inside is None:
            return False
        # Beside paths, events tell of modes and of folders' descriptors, -1 for none.
        return isinstance(path, int) or str(path).startswith(self._inside)
