"""Settings of ``pfODE_int.py``, ``toy_pfODE_int.py`` and ``calc_roundtrip_mse.py``."""

from pathlib import Path
from typing import Any

import click

from dnnlib.errors import UsageError
from training.names import IMAGES, KINDS, MOST_ROWS, TABLE
from training.options import shared
from training.options.declared import Declared, option, options_of
from training.options.types import COUNT, DATA_SET, FILE, choice

SAMPLES = 256


class SimulationSettings(Declared):
    """Options of the script."""

    save_dir: Path = shared.save_dir()
    data_root: Path | None = option(
        type=DATA_SET, help="Data set to melt: a zip or folder of images, the .npz of a table."
    )
    bs: int | None = option(
        type=COUNT,
        unset=f"{SAMPLES}, or all if there are fewer; rows to melt: all that are held out, or "
        f"{MOST_ROWS:,}",
        help="Images, or rows, of each simulation.",
    )
    csv: Path | None = option(
        of=TABLE,
        type=FILE,
        unset="none",
        help="File of the generated rows of a table, or of the rows of a lone melt, with their log "
        "densities if these are computed",
    )
    round: bool = option(
        "--round/--no-round",
        of=TABLE,
        default=True,
        help="Put discrete columns in --csv at the nearest of their steps.",
    )
    sim_type: str = option(
        type=choice((*KINDS, "all")),
        default="all",
        help="What to simulate; gen alone by as few calls as the network file found enough, unless "
        "times, a solver or --save_freq are given.",
    )
    prev_melt: Path | None = option(
        type=FILE, help="A melt to start from, for a lone roundtrip or gen."
    )
    start_noise: bool = option(
        of=IMAGES,
        is_flag=True,
        help="Melt images with the noise of the first time added, for which the latent law is "
        "exact.",
    )
    gen_source: str = option(
        type=choice(("diag", "empirical")),
        default="diag",
        help="Latents of gen: of the law by --eps, or Gaussian with the variances of the melt.",
    )
    eps: str | None = shared.eps("Law of the latents of diag")
    class_: int | None = option(
        "--class",
        of=IMAGES,
        type=click.IntRange(min=0),
        unset="random",
        help="Class to generate, for networks with classes",
    )
    save_freq: int = option(type=COUNT, default=5, help="Steps between saved states.")
    seed: int = shared.seed("the choice of images and of the latents")
    network: shared.ImageNetworkOptions = options_of(shared.ImageNetworkOptions)
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ImageTimeOptions = options_of(shared.ImageTimeOptions)
    store_grid: bool = shared.store_grid()
    correct: str | None = shared.correct()
    likelihood: shared.DensityOptions = options_of(shared.DensityOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def __post_init__(self) -> None:
        if self.needs_melt and self.prev_melt is None:
            raise UsageError(
                f"--sim_type={self.sim_type} here starts from a melt: give its file with "
                "--prev_melt"
            )
        if self.prev_melt is not None and not self.needs_melt:
            raise UsageError(
                "--prev_melt goes with --sim_type=roundtrip, or gen with --gen_source=empirical"
            )
        if "data_root" in self.given and "melt" not in self.kinds:
            raise UsageError("--data_root goes with a melt: leave it out")
        if "bs" in self.given and self.sim_type == "roundtrip":
            raise UsageError("--bs goes with melt and gen: a roundtrip has its melt's images")
        if self.gen_source == "empirical" and "eps" in self.given:
            raise UsageError("--eps goes with --gen_source=diag only")
        if "eps" in self.given and "gen" not in self.kinds and not self.likelihood.log_prob:
            raise UsageError("--eps goes with gen, or --log_prob: leave it out")
        if self.class_ is not None and "gen" not in self.kinds:
            raise UsageError("--class goes with gen: leave it out")
        if self.start_noise and "melt" not in self.kinds:
            raise UsageError("--start_noise goes with a melt: leave it out")
        if "round" in self.given and self.csv is None:
            raise UsageError("--no-round is of the rows in --csv: give its name")
        if self.data_root is None and "melt" in self.kinds:
            raise click.UsageError("Missing option '--data_root'.")
        if self.csv is not None and self.sim_type == "roundtrip":
            raise UsageError("--csv goes with gen or a melt, not with a lone roundtrip")
        shared.check_storage(self.store_grid, self.times.disc, self.network.network)
        shared.check_correction(self.correct, self.solver.solver)

    @property
    def kinds(self) -> tuple[str, ...]:
        return KINDS if self.sim_type == "all" else (self.sim_type,)

    @property
    def needs_melt(self) -> bool:
        """Whether an earlier melt is gone on from."""
        lone_gen = self.sim_type == "gen" and self.gen_source == "empirical"
        return self.sim_type == "roundtrip" or lone_gen


class _Simulating(Declared):
    """What the simulations of toys have in common."""

    save_dir: Path = shared.save_dir()
    total_samples: int = option(type=COUNT, default=2000, help="Samples of each simulation.")
    eps: str | None = shared.eps("Law of generation's latents", melt=True)
    end_vars: float = shared.end_vars()
    save_freq: int = option(type=COUNT, default=5, help="Steps between saved states.")
    seed: int = shared.seed("the data and the latents")
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ToyTimeOptions = options_of(shared.ToyTimeOptions)
    likelihood: shared.DensityOptions = options_of(shared.DensityOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)


class NetSettings(_Simulating):
    """Integrate with a trained network."""

    network: str = shared.network()
    data_name: str | None = shared.toy_name(unset=shared.KNOWN)
    augment_to: int | None = shared.augment_to(unset=shared.KNOWN)
    calibration: bool = shared.calibration()
    store_grid: bool = shared.store_grid()
    correct: str | None = shared.correct()
    flow: shared.InflationOptions = options_of(shared.InflationOptions, unset=shared.KNOWN)

    def __post_init__(self) -> None:
        shared.check_storage(self.store_grid, self.times.disc, self.network)
        shared.check_correction(self.correct, self.solver.solver)

    def expected(self) -> dict[str, Any]:
        """What the network is said to be, by name."""
        return {"data_name": self.data_name, "augment_to": self.augment_to, **self.flow.expected()}


class ClosedFormSettings(_Simulating):
    """Options of ``discrete`` and ``exact``."""

    data_name: str = shared.toy_name(required=True)
    augment_to: int | None = shared.augment_to()
    flow: shared.InflationOptions = options_of(shared.InflationOptions)


PUBLISHED_SAMPLES = 10_000


class RoundtripSettings(Declared):
    """Options of the script."""

    save_dir: Path = shared.save_dir()
    data_root: Path = option(
        type=DATA_SET,
        required=True,
        help="Data set: a zip or folder of images, the .npz of a table.",
    )
    bs: int = option(type=COUNT, default=1000, help="Images or rows in flight, over all ranks.")
    total_samples: int | None = option(
        type=COUNT,
        unset=f"{PUBLISHED_SAMPLES}, or all if there are fewer; of a table all rows that are held "
        "out",
        help="Images or rows to measure.",
    )
    keep_worst: int = option(
        of=IMAGES,
        type=click.IntRange(min=0),
        default=16,
        help="Images to keep of those that come back worst.",
    )
    seed: int = shared.seed("the choice of images", default=42)
    network: shared.ImageNetworkOptions = options_of(shared.ImageNetworkOptions)
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ImageTimeOptions = options_of(shared.ImageTimeOptions)
    store_grid: bool = shared.store_grid()
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def __post_init__(self) -> None:
        shared.check_storage(self.store_grid, self.times.disc, self.network.network)
