"""Runs scripts in this process, as a user would, and looks at what an error says."""

import io
import logging
import os
import resource
import sys
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TypeVar
from unittest import mock

import pytest
import torch

from dnnlib.errors import DataError
from dnnlib.logs import logger
from training.cli.click_options import takes
from training.cli.script import command
from training.cli.script import run_script as run_to_the_end
from training.flow.integrations import USES, Integration, trivial_integrations
from training.settings.declared import Declared
from training.subjects.table_spaces import Space

S = TypeVar("S", bound=Declared)
LONGEST = 800
ALONE = {"RANK": "0", "WORLD_SIZE": "1"}
TORCH_SETTINGS = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    *(
        (partial(getattr, torch.backends.cudnn, name), partial(setattr, torch.backends.cudnn, name))
        for name in ("allow_tf32", "benchmark")
    ),
)
"""What changes numbers or speed of all that comes after: how it is read, and how it is set."""


@contextmanager
def torch_settings_put_back():
    """Puts the global settings of torch back after a block, and yields what it has changed."""
    before = [read() for read, _ in TORCH_SETTINGS]
    changed = []
    try:
        yield changed
    finally:
        for value, (read, write) in zip(before, TORCH_SETTINGS, strict=True):
            if read() != value:
                changed.append(f"{read}: {value} to {read()}")
                write(value)


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str

    @property
    def error(self):
        """The one line on stderr."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, f"not one line on stderr, but {self.err!r}"
        return lines[0]


def good(result):
    """The same, of which it is asserted that all went well."""
    assert (result.code, result.err) == (0, ""), result
    return result


def refused(result, code, *parts):
    """Asserts that a script wrote nothing and ended with one line, in which these parts are."""
    assert result.code == code, result
    assert "Wrote" not in result.out
    assert ".py: error: " in result.error
    for part in parts:
        assert str(part) in result.error


def refusal(read, *arguments, kind=DataError, **options):
    """The message with which a call is refused: one printable line that names every path given."""
    with pytest.raises(kind) as caught:
        read(*arguments, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < LONGEST
    for path in arguments:
        assert not isinstance(path, Path) or str(path) in message
    return message


def contents(folder):
    """The bytes of every file below a folder; folders end in a slash."""
    got = {}
    for path in sorted(folder.rglob("*")):
        name, is_folder = str(path.relative_to(folder)), path.is_dir()
        got[name + "/" * is_folder] = b"" if is_folder else path.read_bytes()
    return got


@contextmanager
def full_disk(size):
    """In the block, no file can grow beyond so many bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def slowly(values, *slow):
    """Values of a parameter, of which some take long: ``make test-all`` alone has these."""
    return [pytest.param(value, marks=[pytest.mark.slow] * (value in slow)) for value in values]


def rough_courses(model, plan, until=None):
    """A few steps for every use, in place of those that a search would find; one where nothing
    moves."""
    dim = model.denoiser.basis.dim
    if model.denoiser.is_trivial:
        model.integrations = trivial_integrations(model.about["tmin"], model.about["tmax"], dim)
        return
    for name, use in USES.items():
        integration = Integration("exp_rk5", 5, dim, use.melts, nats=0.0)
        integration.place(model.flow.times)
        model.integrations[name] = integration


@contextmanager
def quick_endings():
    """Trainings fit little when they end: calibrations, laws of latents and courses are others'
    business, and would take most of the time. Posteriors have few prior draws and steps."""
    with (
        mock.patch.multiple("training.learning.finishing", MELT_STEPS=3, CHECK_STEPS=20, FEWEST=60),
        mock.patch.multiple("training.learning.finishing", STEPS_PER_ROW=1, FEWEST_STEPS=40),
        mock.patch("training.subjects.toys.CALIBRATION_POINTS", 200),
        mock.patch.multiple("training.learning.mixture_start", EM_STEPS=12, STEPS_OF_ONE=30),
        mock.patch("training.learning.finishing.NODES", 5),
        mock.patch("training.learning.held_out.TABLE_DRAWS", 500),
        mock.patch("training.learning.gaussian_start.STEPS", 200),
        mock.patch("training.subjects.table_spaces.PILOT_STEPS", 20),
        mock.patch("training.learning.run.find_integrations", rough_courses),
        mock.patch("training.subjects.table_training.MOST_STEPS", 0),
        mock.patch.multiple("training.subjects.table_training", SIMULATIONS=250, DRAWS=4),
        mock.patch("training.subjects.subject.Subject.pool", 4096),
        mock.patch("training.subjects.images.ImageFlow.pool", 128),
        mock.patch("training.models.inference.LEARNED_POOL", 512),
        mock.patch("training.models.densities.ASCENT", 6),
        mock.patch.dict("training.inference.sampling.WARMUP", elliptical=3, hmc=3),
    ):
        yield


def _stay():
    """In place of ``os._exit``, with which a rank ends: this process goes on, but not its forks."""
    here, leave = os.getpid(), os._exit

    def stay(code):
        if os.getpid() != here:
            leave(code)
        raise SystemExit(code)

    return stay


def run_script(script, *arguments, ranks=ALONE, whole=False):
    """Runs a script; an unexpected exception passes through, and settings of torch are put back. If
    the ``whole`` of it is wanted, trainings end as a user's do, and not in a quick way."""
    command = script.main if isinstance(script, ModuleType) else script
    name = f"{getattr(script, '__name__', 'script')}.py"
    out, err = io.StringIO(), io.StringIO()
    try:
        with (
            mock.patch.object(sys, "argv", [name, *map(str, arguments)]),
            mock.patch.dict(os.environ, ranks),
            mock.patch.object(os, "_exit", _stay()),
            redirect_stdout(out),
            redirect_stderr(err),
            torch_settings_put_back(),
            nullcontext() if whole else quick_endings(),
            pytest.raises(SystemExit) as ended,
        ):
            run_to_the_end(command)
    finally:
        log_put_back()
    return Result(int(ended.value.code or 0), out.getvalue(), err.getvalue())


def log_put_back():
    for handler in logger.handlers[:]:
        logger.removeHandler(handler)
        handler.close()
    logger.propagate = True
    logger.setLevel(logging.NOTSET)


def parsed(settings, *arguments):
    """What a command that takes these settings is given."""
    seen = []

    @command()
    @takes(settings)
    def main(given):
        seen.append(given)

    good(run_script(main, *arguments))
    return seen[0]


def trained(folder, script, *options):
    """The folder of a training, which keeps all states."""
    with mock.patch("training.learning.run_folder.STATES", 9):
        good(run_script(script, f"--outdir={folder}", "--nosubdir", *options))
    return folder


def in_coordinates(**chosen):
    """In the block, tables are trained in these coordinates, so far as they are given."""
    return mock.patch(
        "training.models.training.Space", lambda *given: replace(Space(*given), **chosen)
    )


def unless_given(standard, given):
    """The options of a script that are not given, by their names, and then those that are."""
    names = {str(argument).partition("=")[0] for argument in given}
    return [
        *(f"{name}={value}" for name, value in standard.items() if name not in names),
        *map(str, given),
    ]


def starter(script, word, *standard):
    """``start(folder, option, ...)``: runs a command with these options, unless others are given,
    of which ``none`` stands for no such option."""
    known = dict(option.split("=", 1) for option in standard)

    def start(folder, *given):
        kept = [option for option in unless_given(known, given) if not option.endswith("=none")]
        return run_script(script, word, f"--save_dir={folder}", *kept)

    return start
