"""What tests of scripts share: a script run in this process, as a user would run it."""

import gc
import io
import logging
import os
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from unittest import mock

import click
import pytest
import torch

ROOT = Path(__file__).parent.parent
# The scripts are no part of the installed packages.
sys.path.insert(0, str(ROOT))

import toy_train  # noqa: E402
from dnnlib.logs import logger  # noqa: E402
from training.settings import options  # noqa: E402

# The tensors of tests are tiny: on a busy machine, threads would only wait for each other.
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def nothing_left_open() -> Iterator[None]:
    """A file that a test leaves open is told of here, not whenever the collector finds it."""
    yield
    gc.collect()


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


def _run(script: ModuleType | click.Command, *arguments: object) -> Result:
    command = script.main if isinstance(script, ModuleType) else script
    name = Path(command.callback.__code__.co_filename).name
    out, err = io.StringIO(), io.StringIO()
    alone = {"RANK": "0", "WORLD_SIZE": "1"}
    try:
        with (
            mock.patch.object(sys, "argv", [name, *map(str, arguments)]),
            mock.patch.dict(os.environ, alone),
            redirect_stdout(out),
            redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            options.run_script(command)
    finally:
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)
    return Result(ended.value.code, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session")
def run_script() -> Callable[..., Result]:
    """``run_script(module, *arguments) -> Result``; an unexpected exception passes through."""
    return _run


@pytest.fixture(scope="session")
def toy_network(
    run_script: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """``toy_network(option, ...)``: the file of one that has hardly been trained, made once."""
    made: dict[tuple[str, ...], Path] = {}

    def train(*given: str) -> Path:
        if given not in made:
            outdir = tmp_path_factory.mktemp("toy_network")
            place = (f"--outdir={outdir}", "--nosubdir")
            few = ("--duration=0.0004", "--batch=100", "--lr=0.1")
            assert run_script(toy_train, *place, *few, *given).code == 0
            (made[given],) = outdir.glob("network-*.pkl")
        return made[given]

    return train


@pytest.fixture(scope="session")
def contents() -> Callable[[Path], dict[str, bytes]]:
    """``contents(folder)``: the bytes of every file below it; folders end in a slash."""

    def read(folder: Path) -> dict[str, bytes]:
        paths = sorted(folder.rglob("*"))
        return {
            str(path.relative_to(folder)) + "/" * path.is_dir(): (
                b"" if path.is_dir() else path.read_bytes()
            )
            for path in paths
        }

    return read


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """``with full_disk(n):`` no file can grow beyond n bytes."""

    @contextmanager
    def limit(size: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limit
