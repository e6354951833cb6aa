"""Command-line options that scripts share, and the one way a script is run.

Names may be written with ``_`` or ``-`` alike. Choices that a library defines are passed in, so
that this module depends on none.
"""

import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import click

from dnnlib.errors import InflationError, UsageError, agree
from dnnlib.logs import setup_logging

F = TypeVar("F", bound=Callable[..., Any])
Decorator = Callable[[F], F]

CONTEXT = {
    "token_normalize_func": lambda token: token.replace("-", "_"),
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}


command = partial(click.command, context_settings=CONTEXT)
group = partial(click.group, context_settings=CONTEXT)


class FiniteFloat(click.FloatRange):
    """A float range that takes neither infinities nor NaN, which compare as if in range."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return float(number)


POSITIVE = FiniteFloat(min=0, min_open=True)
NOT_NEGATIVE = FiniteFloat(min=0)
AMOUNT = FiniteFloat(min=0, min_open=True, max=1e9)
"""Millions of samples."""
COUNT = click.IntRange(min=1)
SEED = click.IntRange(min=0, max=2**63 - 1)
FILE = click.Path(path_type=Path)


def option_group(*options: Callable[[Any], Any]) -> Decorator[Any]:
    """Several options as one decorator, shown in the order given."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def choice(names: Iterable[str]) -> click.Choice[str]:
    return click.Choice(list(names))


def flow_options(g_types: Sequence[str]) -> Decorator[Any]:
    """The data's dimensions and the schedule. Unset ones are None: defaults are the caller's."""
    return option_group(
        click.option(
            "--data_dim", type=COUNT, help="Dimensions of the data  [default: the data's]"
        ),
        click.option(
            "--dims_to_keep",
            type=COUNT,
            help="Dimensions that keep inflating; as many as the data has is PR-preserving, "
            "fewer is PR-reducing  [default: all]",
        ),
        click.option("--rho", type=POSITIVE, help="Inflation rate, 1/time  [default: 1]"),
        click.option(
            "--gamma0", type=POSITIVE, help="Noise variance at time 0, data units  [default: 5e-4]"
        ),
        click.option(
            "--g_type",
            type=choice(g_types),
            help="How the compressed dimensions fare  [default: orig]",
        ),
        click.option(
            "--inflation_gap",
            type=POSITIVE,
            help="Gap of constant_inflation_gap, in units of rho  [default: 1.02]",
        ),
    )


device_option = click.option(
    "--device_name", help="cpu, cuda or cuda:N  [default: cuda where there is one]"
)
calibration_option = click.option(
    "--calibration/--no-calibration",
    default=True,
    help="Use the calibration in the network file, if it has one.",
)
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace existing results.")


def given_options() -> set[str]:
    """Names of the current command's options that were typed, not left at their defaults.

    There are none outside of a command.
    """
    ctx = click.get_current_context(silent=True)
    if ctx is None:
        return set()
    typed = click.core.ParameterSource.COMMANDLINE
    return {name for name in ctx.params if ctx.get_parameter_source(name) is typed}


def require_options(options: Mapping[str, Any], *names: str) -> None:
    """Raises click's error for the first of the options that is missing."""
    for name in names:
        if options[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")


def inflation_arguments(options: Mapping[str, Any], data_dim: int) -> dict[str, Any]:
    """The options of an inflationary schedule that were given.

    Raises:
        UsageError: One was given for an isotropic model, which has none, or a gap for the ``orig``
            type, whose gap follows from the dimensions.
    """
    names = ("dims_to_keep", "g_type", "inflation_gap", "g_rescaling", "rho", "gamma0")
    given = {name: options[name] for name in names if options.get(name) is not None}
    if options.get("precond", "ifs") != "ifs":
        for name, value in given.items():
            known = data_dim if name == "dims_to_keep" else None
            agree(name, value, known, f"precond={options['precond']}")
        return {}
    if "inflation_gap" in given and given.get("g_type") != "constant_inflation_gap":
        raise UsageError("--inflation_gap goes with --g_type=constant_inflation_gap only")
    return given


class _Terminated(BaseException):
    """SIGTERM came."""


@contextmanager
def _raised_on_sigterm() -> Iterator[None]:
    """Makes SIGTERM an exception, so that unfinished files are removed; a second one acts at once.

    Not among ranks: while one waits for another that has died, no exception would be raised in it.
    """
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    handled = signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    if not alone or handled or threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise _Terminated

    signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def run_script(script: click.Command) -> None:
    """Runs a script's command and ends the process: 0, or one line on stderr and an exit code.

    Usage errors exit with 2 and other expected errors with 1; an unexpected exception keeps its
    traceback, since it is a bug. After SIGTERM, as after Ctrl-C, nothing half done stays.
    """
    rank = int(os.environ.get("RANK", "0"))
    setup_logging(rank)
    try:
        with _raised_on_sigterm():
            result = script.main(standalone_mode=False)
        code, message = result if isinstance(result, int) else 0, None
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        code, message = 2, None
    except click.ClickException as error:
        code, message = error.exit_code, error.format_message()
    except click.Abort as error:
        if isinstance(error.__cause__, EOFError):  # click takes it for the user's
            raise error.__cause__ from None
        code, message = 130, "interrupted"
    except _Terminated:
        code, message = 128 + signal.SIGTERM, "stopped by SIGTERM"
    except InflationError as error:
        code, message = error.exit_code, str(error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        code, message = 1, f"{where}{error.strerror or error}"
    except (MemoryError, RuntimeError) as error:
        # torch reports a lack of memory on the CPU as a plain RuntimeError.
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        code, message = 1, "out of memory: use fewer samples or smaller batches"
    if message is not None:
        if rank:
            # torchrun ends the other ranks once one has failed, so that an error which all share
            # is told once.
            time.sleep(5)
        line = " ".join(message.split())
        print(f"{Path(sys.argv[0]).name}: error: {line}", file=sys.stderr, flush=True)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # The threads of a process group can outlive it, and now and then abort a process whose
        # interpreter is being torn down. All files are closed by now.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
