"""Runs scripts in this process, as a user would run them."""

import inspect
import io
import logging
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import click
import pytest

from dnnlib.logs import logger
from training.settings.script import run_script as run_to_the_end

ALONE = {"RANK": "0", "WORLD_SIZE": "1"}


@dataclass(frozen=True)
class Result:
    """What a script left: its exit code and what it printed."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, f"not one line on stderr, but {self.err!r}"
        return lines[0]


def _leave(code: int) -> None:
    """In place of ``os._exit``, with which a rank ends: this process goes on."""
    raise SystemExit(code)


def run_script(
    script: ModuleType | click.Command, *arguments: object, ranks: dict[str, str] = ALONE
) -> Result:
    """Runs a script; an unexpected exception passes through.

    Args:
        script: Its module, or one of its commands.
        arguments: What a user would type after its name.
        ranks: What ``torchrun`` says in the environment; a lone process without.
    """
    command = script.main if isinstance(script, ModuleType) else script
    name = Path(inspect.unwrap(command.callback).__code__.co_filename).name
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", [name, *map(str, arguments)]),
            mock.patch.dict(os.environ, ranks),
            mock.patch.object(os, "_exit", _leave),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            run_to_the_end(command)
    finally:
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())
