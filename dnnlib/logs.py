"""The project's logger: console lines from rank 0, and a copy in a run's ``log.txt``."""

import logging
import sys
from pathlib import Path
from typing import TextIO

logger = logging.getLogger("inflationary_flows")


class _Console(logging.StreamHandler[TextIO]):
    """Console handler that ignores a closed pipe, for example with ``| head``."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def setup_logging(rank: int = 0) -> None:
    """Log to the console: all lines of rank 0 on stdout, warnings of other ranks on stderr."""
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO)
    console = _Console(sys.stdout if rank == 0 else sys.stderr)
    console.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    console.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(console)


def copy_log_to(path: Path) -> None:
    """Append all later log lines, with their times, to a file in addition to the console."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(file)
