"""Settings of ``calc_roundtrip_mse.py``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click

from dnnlib.errors import UsageError
from training import runs
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

    def require_table(self) -> None:
        """Raises UsageError if an option was given that only images have."""
        for name in ("keep_worst", "img_size", "img_ch"):
            if name in self.given:
                raise UsageError(
                    f"--{name} is for images, but {self.network.network} is a network of a table"
                )

    def chosen_times(self, t_max: float, network: str) -> runs.TimeChoice:
        """The times, of a network that was trained up to ``t_max``."""
        return self.times.chosen(t_max, network, self.store_grid)
