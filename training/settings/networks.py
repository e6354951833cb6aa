"""Settings of ``import_network.py``."""

from pathlib import Path

from training.names import command_line
from training.settings import shared
from training.settings.declared import Declared, option


class ImportSettings(
    Declared,
    example=f"{command_line('import_network')} --source=network-snapshot-200000.pkl "
    "--dest=cifar10.pkl",
):
    """Options of ``import_network.py``."""

    source: Path = option(required=True, help="Network file of the original code (.pkl).")
    dest: Path = option(required=True, help="Network file to write.")
    data_name: str | None = option(
        unset="name in the file", help="Name of the training data; for toys, the toy"
    )
    tmax: float | None = option(
        unset="time in the file, or for images 15.01",
        help="Largest time of the flow, at most that of the training",
    )
    overwrite: bool = shared.overwrite()
