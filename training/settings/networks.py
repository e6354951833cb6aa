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
        unset="the name in --source", help="Name of the training data; for toys, name of the toy"
    )
    tmax: float | None = option(
        unset="the time in --source; if there is none, 15.01 for images",
        help="Largest time of the flow, at most the largest time of the training",
    )
    overwrite: bool = shared.overwrite()
