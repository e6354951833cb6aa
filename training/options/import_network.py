"""Settings of ``import_network.py``."""

from dataclasses import dataclass
from pathlib import Path

from training.options.declared import Declared, option
from training.options.shared import overwrite
from training.options.types import FILE, POSITIVE


@dataclass(frozen=True, kw_only=True)
class ImportSettings(Declared):
    """Options of this script."""

    source: Path = option(type=FILE, required=True, help="Network file of the original code.")
    dest: Path = option(type=FILE, required=True, help="Network file to write.")
    data_name: str | None = option(
        unset="what the file says", help="What the network was trained on: for a toy, its name"
    )
    tmax: float | None = option(
        type=POSITIVE,
        unset="what the file says, or for images 15.01",
        help="Last time, at most that of training",
    )
    overwrite: bool = overwrite()
