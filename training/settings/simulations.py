"""Settings of the scripts that simulate flows.

The scripts are ``pfODE_int.py``, ``toy_pfODE_int.py``, ``calc_roundtrip_mse.py`` and
``toy_mesh_exps.py``.
"""

from pathlib import Path
from typing import Any

from dnnlib.errors import UsageError
from training.names import IMAGES, KINDS, MOST_ROWS, TABLE, TOY, command_line
from training.settings import shared
from training.settings.declared import Declared, option, options_of
from training.settings.types import DATA_SET, Whole, choice

SAMPLES = 256


class SimulationSettings(
    Declared,
    example=f"{command_line('pfODE_int')} --network=houses.pkl --data_root=houses.npz "
    "--save_dir=out --log_prob",
    common="network save_dir data_root bs csv sim_type save_freq solver n_iters log_prob "
    "seed device_name overwrite",
):
    """Options of the script."""

    save_dir: Path = shared.save_dir()
    data_root: Path | None = option(
        type=DATA_SET,
        help="Data set to inflate: a zip or folder of images, or the .npz of a table.",
    )
    bs: int | None = option(
        unset=f"{SAMPLES} images; rows: all validation rows, or {MOST_ROWS:,}",
        help="Images or rows per simulation",
    )
    csv: Path | None = option(
        of=TABLE,
        help="CSV for the generated rows of a table, or for the rows of a lone melt, with "
        "log densities if computed",
    )
    round: bool = option(of=TABLE, default=True, help="Round discrete columns in --csv.")
    sim_type: str = option(
        type=choice((*KINDS, "all")),
        default="all",
        help="melt (inflate data), roundtrip (generate from the end of the melt), gen "
        "(generate new samples), or all.",
    )
    prev_melt: Path | None = option(help="Saved melt to start from, for a lone roundtrip or gen.")
    start_noise: bool = option(
        of=IMAGES,
        is_flag=True,
        help="Add the noise of the first time to images before inflating them.",
    )
    gen_source: str = option(
        type=choice(("diag", "empirical")),
        default="diag",
        help="Latents of gen: from the latent distribution (--eps), or Gaussian with the "
        "variances of the melt.",
    )
    eps: str | None = shared.eps("Latent distribution of diag")
    class_: int | None = option(
        "--class",
        of=IMAGES,
        type=Whole(min=0),
        unset="random",
        help="Class to generate, for class-conditional networks",
    )
    save_freq: int = option(default=5, help="Steps between saved states.")
    seed: int = shared.seed()
    network: shared.ImageNetworkOptions = options_of(shared.ImageNetworkOptions)
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ImageTimeOptions = options_of(shared.ImageTimeOptions)
    store_grid: bool = shared.store_grid()
    likelihood: shared.DensityOptions = options_of(shared.DensityOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def __post_init__(self) -> None:
        if self.needs_melt and self.prev_melt is None:
            raise UsageError(
                f"--sim_type={self.sim_type} starts from a saved melt: give its file with "
                "--prev_melt"
            )
        if self.prev_melt is not None and not self.needs_melt:
            raise UsageError(
                "--prev_melt is for --sim_type=roundtrip, or gen with --gen_source=empirical"
            )
        if "data_root" in self.given and "melt" not in self.kinds:
            raise UsageError("--data_root is only for a melt: leave --data_root out")
        if "bs" in self.given and self.sim_type == "roundtrip":
            raise UsageError("--bs is for melt and gen: a roundtrip uses all samples of its melt")
        if self.gen_source == "empirical" and "eps" in self.given:
            raise UsageError("--eps is only for --gen_source=diag")
        if "eps" in self.given and "gen" not in self.kinds and not self.likelihood.log_prob:
            raise UsageError("--eps is only for gen, or with --log_prob: leave --eps out")
        if self.class_ is not None and "gen" not in self.kinds:
            raise UsageError("--class is only for gen: leave --class out")
        if self.start_noise and "melt" not in self.kinds:
            raise UsageError("--start_noise is only for a melt: leave --start_noise out")
        if "round" in self.given and self.csv is None:
            raise UsageError("--no-round applies to the rows in --csv: give --csv")
        if self.data_root is None and "melt" in self.kinds:
            raise UsageError("Missing option '--data_root'.")
        if self.csv is not None and self.sim_type == "roundtrip":
            raise UsageError("--csv is for gen or a melt, not for a lone roundtrip")
        shared.check_storage(self.store_grid, self.times.disc, self.network.network)

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kinds of simulation to run, in order."""
        return KINDS if self.sim_type == "all" else (self.sim_type,)

    @property
    def needs_melt(self) -> bool:
        """Whether the simulation starts from a saved inflation (melt)."""
        lone_gen = self.sim_type == "gen" and self.gen_source == "empirical"
        return self.sim_type == "roundtrip" or lone_gen


class _Simulating(Declared):
    """Options of all simulations of toys."""

    save_dir: Path = shared.save_dir()
    total_samples: int = option(default=2000, help="Samples per simulation.")
    eps: str | None = shared.eps("Latent distribution of gen", melt=True)
    end_vars: float = shared.end_vars()
    save_freq: int = option(default=5, help="Steps between saved states.")
    seed: int = shared.seed()
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ToyTimeOptions = options_of(shared.ToyTimeOptions)
    likelihood: shared.DensityOptions = options_of(shared.DensityOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)


class NetSettings(
    _Simulating,
    example=f"{command_line('toy_pfODE_int')} net --network=circles.pkl --save_dir=out",
    common="network save_dir data_name total_samples steps solver save_freq log_prob seed "
    "device_name overwrite",
):
    """Integrate with a trained network."""

    network: str = shared.network()
    data_name: str | None = shared.toy_name(unset=shared.KNOWN)
    augment_to: int | None = shared.augment_to(unset=shared.KNOWN)
    calibration: bool = shared.calibration()
    store_grid: bool = shared.store_grid()
    flow: shared.InflationOptions = options_of(shared.InflationOptions, unset=shared.KNOWN)

    def __post_init__(self) -> None:
        shared.check_storage(self.store_grid, self.times.disc, self.network)

    def expected(self) -> dict[str, Any]:
        """Return the properties that the network is expected to have, by name."""
        return {"data_name": self.data_name, "augment_to": self.augment_to, **self.flow.expected()}


class ClosedFormSettings(
    _Simulating,
    example=f"{command_line('toy_pfODE_int')} exact --data_name=circles --save_dir=out",
    common="data_name save_dir dims_to_keep total_samples steps solver save_freq log_prob "
    "seed device_name overwrite",
):
    """Options of the commands ``discrete`` and ``exact`` of ``toy_pfODE_int.py``."""

    data_name: str = shared.toy_name(required=True)
    augment_to: int | None = shared.augment_to()
    flow: shared.InflationOptions = options_of(shared.InflationOptions)


PUBLISHED_SAMPLES = 10_000


class RoundtripSettings(
    Declared,
    example=f"{command_line('calc_roundtrip_mse')} --network=digits.pkl "
    "--data_root=digits.zip --save_dir=out",
    common="network save_dir data_root total_samples bs solver n_iters seed device_name overwrite",
):
    """Options of the script."""

    save_dir: Path = shared.save_dir()
    data_root: Path = option(
        type=DATA_SET,
        required=True,
        help="Data set: a zip or folder of images, or the .npz of a table.",
    )
    bs: int = option(default=1000, help="Images or rows processed at a time, over all ranks.")
    total_samples: int | None = option(
        unset=f"{PUBLISHED_SAMPLES}, or all if fewer; tables: all validation rows",
        help="Number of images or rows.",
    )
    keep_worst: int = option(
        of=IMAGES,
        type=Whole(min=0),
        default=16,
        help="Number of images with the largest errors to save.",
    )
    seed: int = shared.seed(default=42)
    network: shared.ImageNetworkOptions = options_of(shared.ImageNetworkOptions)
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ImageTimeOptions = options_of(shared.ImageTimeOptions)
    store_grid: bool = shared.store_grid()
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def __post_init__(self) -> None:
        shared.check_storage(self.store_grid, self.times.disc, self.network.network)


BOUNDARY_POINTS = {2: 200, 3: 2000}
"""Default number of boundary points by dimension, enough to follow folds of the flow."""
MOST_BOUNDARY_POINTS, MOST_RADII = 10**5, 10**3


class SphereOptions(Declared, section="Spheres and points"):
    """Options for spheres and test points."""

    test_pts: int = option(
        default=20000, help="Number of test points, and of fresh samples of a toy."
    )
    boundary_pts: int | None = option(
        type=Whole(1, MOST_BOUNDARY_POINTS),
        unset=f"{BOUNDARY_POINTS[2]} in 2-D, {BOUNDARY_POINTS[3]} in 3-D",
        help="Points on each sphere",
    )
    r_min: float = option(default=0.5, help="Smallest Mahalanobis radius.")
    r_max: float = option(default=3.5, help="Largest Mahalanobis radius.")
    r_num: int = option(
        type=Whole(1, MOST_RADII), default=7, help="Number of radii; 1 uses r_min alone."
    )
    boundary: str = option(
        type=choice(["transport", "alpha"]),
        default="transport",
        help="Transport the mesh of the sphere with the flow (transport), or refit an alpha "
        "shape at each stage (alpha).",
    )
    alpha: float | None = option(
        unset="1, or more if needed to fill the spheres at the start",
        help="Radius of alpha shapes, in standard deviations of each stage",
    )
    paired: bool | None = option(
        of=TOY,
        unset="on in 2-D",
        help="With a network: also count samples in the spheres carried by the exact denoiser",
    )
    num_seeds: int = option(
        of=TOY, default=1, help="Number of repetitions, with consecutive seeds."
    )
    seed: int = shared.seed()

    def __post_init__(self) -> None:
        if self.alpha is not None and self.boundary != "alpha":
            raise UsageError("--alpha is only for --boundary=alpha, but the boundary is transport")
        if self.r_num > 1 and self.r_min >= self.r_max:
            raise UsageError(
                f"r_min is {self.r_min:g} and r_max {self.r_max:g}: r_max must be above r_min"
            )

    @property
    def seeds(self) -> range:
        """Random seeds of the repetitions."""
        return range(self.seed, self.seed + self.num_seeds)

    def points_on(self, dim: int) -> int | None:
        """Return the number of points on each sphere; None if the dimension has no default."""
        return self.boundary_pts or BOUNDARY_POINTS.get(dim)

    def pairs(self, dim: int, possible: bool) -> bool:
        """Return whether to compare the network's flow with the exact flow.

        Args:
            dim: Dimension of the data.
            possible: Whether the data has an exact flow, and the flow at hand is another one.

        Raises:
            UsageError: The comparison is requested but not possible.
        """
        if self.paired and not possible:
            raise UsageError(
                "--paired compares a network with the exact flow: leave --score=exact out"
            )
        return possible and dim == 2 if self.paired is None else self.paired


class CoverageSettings(
    Declared,
    example=f"{command_line('toy_mesh_exps')} --network=circles.pkl --save_dir=out",
    common="network save_dir data_name data_root score test_pts r_min r_max r_num steps "
    "seed device_name overwrite",
):
    """Options of the script."""

    save_dir: Path = shared.save_dir()
    network: str | None = shared.network(required=False)
    data_name: str | None = shared.toy_name(unset="as in the network file")
    data_root: Path | None = option(
        of=TABLE,
        type=DATA_SET,
        help="Data set of a 2-D or 3-D table; its validation rows are the fresh samples.",
    )
    score: str = option(
        of=TOY,
        type=choice(["net", "exact"]),
        default="net",
        help="Denoiser: of the network, or the exact one of the toy.",
    )
    calibration: bool = shared.calibration()
    end_vars: float = shared.end_vars()
    eps: str | None = shared.eps()
    points: SphereOptions = options_of(SphereOptions)
    flow: shared.InflationOptions = options_of(
        shared.InflationOptions, unset="as in the network file, or {} without one"
    )
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ToyTimeOptions = options_of(shared.ToyTimeOptions)
    store_grid: bool = shared.store_grid()
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def __post_init__(self) -> None:
        if self.score == "net" and self.network is None:
            raise UsageError("Missing option '--network'.")
        if self.network is None and self.data_name is None:
            raise UsageError("Missing option '--data_name'.")
        used = self.network if self.score == "net" else None
        shared.check_storage(self.store_grid, self.times.disc, used)
