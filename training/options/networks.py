"""Settings of ``import_network.py``."""

from pathlib import Path

from training.options import shared
from training.options.declared import Declared, option


class ImportSettings(Declared):
    """Options of ``import_network.py``."""

    source: Path = option(required=True, help="Network file of the original code.")
    dest: Path = option(required=True, help="Network file to write.")
    data_name: str | None = option(
        unset="what the file says", help="What the network was trained on: for a toy, its name"
    )
    tmax: float | None = option(
        unset="what the file says, or for images 15.01", help="Last time, at most that of training"
    )
    overwrite: bool = shared.overwrite()
