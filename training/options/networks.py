"""Settings of ``import_network.py`` and ``distill.py``."""

from pathlib import Path

from training.options import shared
from training.options.declared import Declared, option
from training.options.types import DATA_SET


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


class DistillSettings(Declared):
    """Options of ``distill.py``."""

    network: str = shared.network()
    dest: Path = option(required=True, help="Network file to write.")
    data: Path | None = option(
        type=DATA_SET,
        unset="none",
        help="Of a conditional network: a table, whose conditions its paths have",
    )
    calls: int = option(default=4, help="Calls of the student one way.")
    paths: int = option(default=40_000, help="Paths of the teacher to learn from.")
    steps: int = option(default=20_000, help="Steps of the training.")
    width: int | None = option(
        unset="128, or the teacher's if that is more", help="Units of a hidden layer of the student"
    )
    batch: int = option(default=1024, help="Pairs of states of a step.")
    lr: float = option(default=3e-3, help="Peak learning rate; it falls to zero.")
    seed: int = shared.seed("latents, conditions and pairs")
    overwrite: bool = shared.overwrite()
