"""Settings of ``calc_roundtrip_mse.py``."""

from dataclasses import dataclass
from pathlib import Path

import click

from training.names import IMAGES
from training.options.common import RunOptions, save_dir, seed
from training.options.declared import Declared, option, options_of
from training.options.integration import ImageTimeOptions, SolverOptions
from training.options.networks import ImageNetworkOptions, check_storage, store_grid
from training.options.types import COUNT, DATA_SET

PUBLISHED_SAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Settings(Declared):
    """Options of the script."""

    save_dir: Path = save_dir()
    data_root: Path = option(
        type=DATA_SET,
        required=True,
        help="Data set: a zip or folder of images, the .npz of a table.",
    )
    bs: int = option(type=COUNT, default=1000, help="Images or rows in flight, over all ranks.")
    total_samples: int | None = option(
        type=COUNT,
        unset=f"{PUBLISHED_SAMPLES}; of a table all rows that are held out",
        help="Images or rows to measure.",
    )
    keep_worst: int = option(
        of=IMAGES,
        type=click.IntRange(min=0),
        default=16,
        help="Images to keep of those that come back worst.",
    )
    seed: int = seed("the choice of images", default=42)
    network: ImageNetworkOptions = options_of(ImageNetworkOptions)
    solver: SolverOptions = options_of(SolverOptions)
    times: ImageTimeOptions = options_of(ImageTimeOptions)
    store_grid: bool = store_grid()
    run: RunOptions = options_of(RunOptions)

    def __post_init__(self) -> None:
        check_storage(self.store_grid, self.times.disc, self.network.network)
