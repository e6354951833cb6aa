"""Commands of the scripts, and the conversion of errors to one line and an exit code.

Option names may be written with ``_`` or ``-``, and flags with a value, ``--cond=True``.
"""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import Any

import click

from dnnlib.errors import InflationError
from dnnlib.logs import setup_logging
from dnnlib.memory import keep_freed_memory
from training.cli.click_options import SectionedCommand, spelled_alike, takes
from training.names import EXTRAS
from training.settings.declared import Declared

CONTEXT: dict[str, Any] = {
    "token_normalize_func": spelled_alike,
    "help_option_names": ["-h", "--help"],
    "show_default": True,
    "max_content_width": 100,
}


command = partial(click.command, cls=SectionedCommand, context_settings=CONTEXT)
group = partial(click.Group, context_settings=CONTEXT)


def runs(place: str, settings: type[Declared], help: str | None = None) -> click.Command:
    """Return a command that runs a function of ``training.cli``.

    Args:
        place: Name of the function, ``module.function``. The module is imported when the command
            runs, so that ``--help`` does not import PyTorch.
        settings: Settings class of the function.
        help: Help text; None for the docstring of the settings class.
    """

    @command(
        help=help or settings.__doc__,
        common=settings.common,
        example=settings.example,
    )
    @takes(settings)
    def run(given: Declared) -> int | None:
        given.require_complete()
        module, _, function = place.partition(".")
        return getattr(import_module(f".{module}", __package__), function)(given)

    return run


class _Terminated(BaseException):
    """SIGTERM was received."""


@contextmanager
def _raised_on_sigterm() -> Iterator[None]:
    """Raise an exception on the first SIGTERM, so that unfinished files are removed.

    This applies to single processes only: a rank that waits for a dead one could not raise it.
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
    """Run the command of a script and end the process with its exit code.

    Usage errors exit with 2 and other expected errors with 1, with one line on stderr. An
    unexpected exception is a bug and keeps its traceback. SIGTERM and Ctrl-C leave no unfinished
    files.
    """
    rank = int(os.environ.get("RANK", "0"))
    setup_logging(rank)
    keep_freed_memory()
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
    except ModuleNotFoundError as error:
        if error.name not in EXTRAS:
            raise
        wanted = f"pip install 'inflationary-flows[{EXTRAS[error.name]}]'"
        code, message = 1, f"this command needs {error.name}, which is not installed: {wanted}"
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
            # torchrun ends the other ranks once one has failed, so that an error of all ranks
            # is printed once.
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
