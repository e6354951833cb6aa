"""The one logger: console lines from rank 0, and a copy in a run's ``log.txt``."""

import logging
import sys
from pathlib import Path
from typing import TextIO

logger = logging.getLogger("inflationary_flows")


class _Console(logging.StreamHandler[TextIO]):
    """Goes on without a reader, as behind ``| head``: results are in files."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], BrokenPipeError):
            super().handleError(record)


def setup_logging(rank: int = 0) -> None:
    """Console lines on stdout from rank 0; warnings only, on stderr, from the others."""
    logger.handlers.clear()
    logger.propagate = False
    logger.setLevel(logging.INFO)
    console = _Console(sys.stdout if rank == 0 else sys.stderr)
    console.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    console.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(console)


def copy_log_to(path: Path) -> None:
    """Appends every later line to a file too, with its time."""
    file = logging.FileHandler(path, encoding="utf-8")
    file.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%Y-%m-%d %H:%M:%S"))
    logger.addHandler(file)
