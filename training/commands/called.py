"""Commands that are called from Python: what goes in and out of their folders."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import nan
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from dnnlib.errors import InflationError, UsageError
from dnnlib.logs import logger
from torch_utils.results import load_json
from training.data.tables.table import DataTable
from training.files.table import save_table
from training.model.model import Model


@contextmanager
def left_alone() -> Iterator[None]:
    """Around a command: random numbers of PyTorch go on as before it, and so does the log."""
    handlers = list(logger.handlers)
    with torch.random.fork_rng():
        try:
            yield
        finally:
            for handler in logger.handlers[:]:
                if handler not in handlers:
                    logger.removeHandler(handler)
                    handler.close()


@contextmanager
def own_folder() -> Iterator[Path]:
    """A folder for the files of a command that is called from Python, and ``left_alone``; errors
    name no observations in it."""
    with TemporaryDirectory() as name, left_alone():
        try:
            yield Path(name)
        except InflationError as error:
            named = re.sub(rf"{re.escape(name)}\S(\w+)\.csv", r"the \1", str(error))
            raise type(error)(named) from error


def data_set_of(data: Any, folder: Path) -> Path:
    """The file of a data set, which may be in memory."""
    if isinstance(data, str | Path):
        return Path(data)
    rows = getattr(data, "rows", None)
    if not isinstance(rows, DataTable):
        raise UsageError(f"data is {type(data).__name__}: give a Table, or a path")
    save_table(folder / "truths.npz", rows)
    return folder / "truths.npz"


def facts_of(folder: Path, kind: str) -> dict[str, Any]:
    """What the JSON of a kind says in a folder."""
    (path,) = folder.glob(f"*{kind}.json")
    return load_json(path)


def listed_of(values: Any) -> str:
    """Numbers or names as an option has them, with commas."""
    several = not isinstance(values, str) and hasattr(values, "__len__")
    return ",".join(map(str, values)) if several else str(values)


def ranges_of(bounds: Mapping[str, tuple[float, float]] | None) -> dict[str, tuple[float, float]]:
    """Lowest and highest value by name. Raises UsageError if these are no numbers, or no range."""
    ranges = dict[str, tuple[float, float]]()
    for name, ends in (bounds or {}).items():
        try:
            low, high = map(float, ends)
        except (TypeError, ValueError):
            low = high = nan
        if not low < high:
            raise UsageError(f"bounds of '{name}' are {ends!r}: give (lowest, highest)")
        ranges[name] = low, high
    return ranges


def filed(options: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Options whose models are network files in a folder."""
    given = dict(options)
    for name, value in options.items():
        if isinstance(value, Model):
            given[name] = str(folder / f"{name}.pkl")
            value.save(given[name])
    return given
