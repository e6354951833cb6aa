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
        unset=f"{SAMPLES} images; tables: all validation rows, at most {MOST_ROWS:,}",
        help="Number of images or rows per simulation",
    )
    csv: Path | None = option(
        of=TABLE,
        help="CSV file for the generated rows of a table, or for the inflated rows if none are "
        "generated. With --log_prob it also contains log densities",
    )
    sim_type: str = option(
        type=choice((*KINDS, "all")),
        default="all",
        help="melt: inflate data to latents; roundtrip: generate from these latents; gen: "
        "generate new samples; all: run all three.",
    )
    prev_melt: Path | None = option(
        help="File of inflated data (melt) of an earlier run, for --sim_type=roundtrip, or for "
        "--sim_type=gen --gen_source=empirical."
    )
    start_noise: bool = option(
        of=IMAGES,
        is_flag=True,
        help="Add the noise of the first time to images before inflating them.",
    )
    gen_source: str = option(
        type=choice(("diag", "empirical")),
        default="diag",
        help="Distribution of the latents of new samples. diag: as given by --eps; empirical: "
        "Gaussian with the variances of the inflated data.",
    )
    eps: str | None = shared.eps("Latent distribution for --gen_source=diag")
    class_: int | None = option(
        "--class",
        of=IMAGES,
        type=Whole(min=0),
        unset="random",
        help="Class to generate, for class-conditional networks",
    )
    save_freq: int = option(default=5, help="Number of solver steps between saved states.")
    seed: int = shared.seed()
    data_name: str | None = shared.data_name()
    img_size: int | None = option(
        of=IMAGES,
        unset=shared.KNOWN,
        help="Expected image side in pixels; the network file must agree",
    )
    img_ch: int | None = option(
        of=IMAGES,
        unset=shared.KNOWN,
        help="Expected number of image channels; the network file must agree",
    )
    network: shared.ImageNetworkOptions = options_of(shared.ImageNetworkOptions)
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ImageTimeOptions = options_of(shared.ImageTimeOptions)
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
        if self.data_root is None and "melt" in self.kinds:
            raise UsageError("Missing option '--data_root'.")
        if self.csv is not None and self.sim_type == "roundtrip":
            raise UsageError("--csv is for gen or a melt, not for a lone roundtrip")

    def expected(self) -> dict[str, Any]:
        """Return the properties that the network is expected to have, by name."""
        return {"dims_to_keep": self.network.dims_to_keep, **self.named("img_size", "img_ch")}

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
    total_samples: int = option(default=2000, help="Number of samples per simulation.")
    eps: str | None = shared.eps("Latent distribution of new samples (gen)", melt=True)
    end_vars: float = shared.end_vars()
    save_freq: int = option(default=5, help="Number of solver steps between saved states.")
    seed: int = shared.seed()
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ToyTimeOptions = options_of(shared.ToyTimeOptions)
    log_prob: bool = option(
        default=False,
        help="Also write the log density (nats) of each point at the first time. A network "
        "evaluation then needs a backward pass for each dimension.",
    )
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)


class NetSettings(
    _Simulating,
    example=f"{command_line('toy_pfODE_int')} net --network=circles.pkl --save_dir=out",
    common="network save_dir data_name total_samples steps solver save_freq log_prob seed "
    "device_name overwrite",
):
    """Inflate and generate a toy with a trained network."""

    network: str = shared.network()
    data_name: str | None = shared.toy_name(unset=shared.KNOWN)
    augment_to: int | None = shared.augment_to(unset=shared.KNOWN)
    calibration: bool = shared.calibration()
    flow: shared.InflationOptions = options_of(shared.InflationOptions, unset=shared.KNOWN)

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
    bs: int = option(
        default=1000, help="Number of images or rows processed at a time, summed over all ranks."
    )
    total_samples: int | None = option(
        unset=f"{PUBLISHED_SAMPLES} images, or all if there are fewer; tables: all validation rows",
        help="Number of images or rows.",
    )
    seed: int = shared.seed(default=42)
    data_name: str | None = shared.data_name()
    network: shared.ImageNetworkOptions = options_of(shared.ImageNetworkOptions)
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ImageTimeOptions = options_of(shared.ImageTimeOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def expected(self) -> dict[str, Any]:
        """Return the properties that the network is expected to have, by name."""
        return self.network.named("dims_to_keep")


BOUNDARY_POINTS = {2: 200, 3: 2000}
"""Default number of boundary points by dimension, enough to follow folds of the flow."""
MOST_BOUNDARY_POINTS, MOST_RADII = 10**5, 10**3


class SphereOptions(Declared, section="Spheres and points"):
    """Options for spheres and test points."""

    test_pts: int = option(
        default=20000, help="Number of test points; for toys also the number of fresh samples."
    )
    boundary_pts: int | None = option(
        type=Whole(1, MOST_BOUNDARY_POINTS),
        unset=f"{BOUNDARY_POINTS[2]} in 2-D, {BOUNDARY_POINTS[3]} in 3-D",
        help="Number of points on each sphere",
    )
    r_min: float = option(default=0.5, help="Smallest Mahalanobis radius of the spheres.")
    r_max: float = option(default=3.5, help="Largest Mahalanobis radius of the spheres.")
    r_num: int = option(
        type=Whole(1, MOST_RADII), default=7, help="Number of radii; 1: --r_min only."
    )
    boundary: str = option(
        type=choice(["transport", "alpha"]),
        default="transport",
        help="Boundary of a sphere after each integration. transport: its mesh, transported "
        "with the flow; alpha: an alpha shape of the points, fitted again.",
    )
    alpha: float | None = option(
        unset="1, or more if needed to fill the spheres at the start",
        help="With --boundary=alpha: radius of the alpha shapes, in standard deviations of the "
        "points they are fitted to",
    )
    seed: int = shared.seed()

    def __post_init__(self) -> None:
        if self.alpha is not None and self.boundary != "alpha":
            raise UsageError("--alpha is only for --boundary=alpha, but the boundary is transport")
        if self.r_num > 1 and self.r_min >= self.r_max:
            raise UsageError(
                f"r_min is {self.r_min:g} and r_max {self.r_max:g}: r_max must be above r_min"
            )

    def points_on(self, dim: int) -> int | None:
        """Return the number of points on each sphere; None if the dimension has no default."""
        return self.boundary_pts or BOUNDARY_POINTS.get(dim)


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
        help="Data set of a table with 2 or 3 columns; its validation rows are the fresh samples.",
    )
    score: str = option(
        of=TOY,
        type=choice(["net", "exact"]),
        default="net",
        help="Denoiser of the flow. net: the network; exact: the exact denoiser of the toy.",
    )
    eps: str | None = shared.eps()
    data_dim: int | None = option(
        unset="as in the network file", help="Expected dimension of the data"
    )
    dims_to_keep: int | None = option(
        unset="as in the network file; without a network: all",
        help="Number of dimensions that are not compressed; a network file must agree",
    )
    points: SphereOptions = options_of(SphereOptions)
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ToyTimeOptions = options_of(shared.ToyTimeOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def __post_init__(self) -> None:
        if self.score == "net" and self.network is None:
            raise UsageError("Missing option '--network'.")
        if self.network is None and self.data_name is None:
            raise UsageError("Missing option '--data_name'.")
