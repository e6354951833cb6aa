"""Settings of ``toy_mesh_exps.py``."""

from pathlib import Path

import click

from dnnlib.errors import UsageError
from training.names import TABLE, TOY
from training.options import shared
from training.options.declared import Declared, option, options_of
from training.options.types import COUNT, DATA_SET, POSITIVE, choice

BOUNDARY_POINTS = {2: 200, 3: 2000}
"""By dimension, so many that the polygon or mesh follows where the flow folds."""
MOST_BOUNDARY_POINTS, MOST_RADII = 10**5, 10**3


class SphereOptions(Declared):
    """The spheres, and what is counted in them."""

    section = "Spheres and points"
    test_pts: int = option(type=COUNT, default=20000, help="Test points, and samples of a toy.")
    boundary_pts: int | None = option(
        type=click.IntRange(1, MOST_BOUNDARY_POINTS),
        unset=f"{BOUNDARY_POINTS[2]} in 2-D, {BOUNDARY_POINTS[3]} in 3-D",
        help="Points on each sphere",
    )
    r_min: float = option(type=POSITIVE, default=0.5, help="Smallest Mahalanobis radius.")
    r_max: float = option(type=POSITIVE, default=3.5, help="Largest Mahalanobis radius.")
    r_num: int = option(
        type=click.IntRange(1, MOST_RADII),
        default=7,
        help="Number of radii; 1 is r_min alone.",
    )
    boundary: str = option(
        type=choice(["transport", "alpha"]),
        default="transport",
        help="Inside is inside the sphere's polygon or mesh, carried along; or inside an alpha "
        "shape refitted at each stage to the sphere's points and those of the smaller spheres.",
    )
    alpha: float | None = option(
        type=POSITIVE,
        unset="1, or more if it takes more to fill the spheres at the start",
        help="Radius of alpha shapes, in standard deviations of each stage along the axes of the "
        "eigenbasis",
    )
    paired: bool | None = option(
        "--paired/--no-paired",
        of=TOY,
        unset="in 2-D; in 3-D it takes up to half as long again",
        help="With a network, count the fresh samples also inside the spheres that the toy's own "
        "denoiser carries to the data",
    )
    num_seeds: int = option(
        of=TOY, type=COUNT, default=1, help="Repetitions with seeds from --seed on."
    )
    seed: int = shared.seed("the test points and fresh samples")

    def __post_init__(self) -> None:
        if self.alpha is not None and self.boundary != "alpha":
            raise UsageError(
                "--alpha is the radius of --boundary=alpha, but the boundary is transport"
            )
        if self.r_num > 1 and self.r_min >= self.r_max:
            raise UsageError(
                f"r_min is {self.r_min:g} and r_max {self.r_max:g}: r_max must be above r_min"
            )

    @property
    def seeds(self) -> range:
        return range(self.seed, self.seed + self.num_seeds)

    def points_on(self, dim: int) -> int | None:
        """Points on each sphere; None where there is no default."""
        return self.boundary_pts or BOUNDARY_POINTS.get(dim)

    def pairs(self, dim: int, possible: bool) -> bool:
        """Whether to compare with the exact flow, in so many dimensions. Raises UsageError if it
        was asked for, but is not possible, since there is none, or the flow is it."""
        if self.paired and not possible:
            raise UsageError("--paired compares a network with --score=exact, which this is")
        return possible and dim == 2 if self.paired is None else self.paired


class CoverageSettings(Declared):
    """Options of the script."""

    save_dir: Path = shared.save_dir()
    network: str | None = shared.network(required=False)
    data_name: str | None = shared.toy_name(unset="the network's")
    data_root: Path | None = option(
        of=TABLE,
        type=DATA_SET,
        unset="none",
        help="Data set of a table, in 2-D or 3-D: its held-out rows are the fresh points of a "
        "network of it.",
    )
    score: str = option(
        of=TOY,
        type=choice(["net", "exact"]),
        default="net",
        help="The network's denoiser, or the toy's own, which needs no network.",
    )
    calibration: bool = shared.calibration()
    end_vars: float = shared.end_vars()
    eps: str | None = shared.eps()
    points: SphereOptions = options_of(SphereOptions)
    flow: shared.InflationOptions = options_of(
        shared.InflationOptions, unset="the network's; without one {}"
    )
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.ToyTimeOptions = options_of(shared.ToyTimeOptions)
    store_grid: bool = shared.store_grid()
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def __post_init__(self) -> None:
        if self.score == "net" and self.network is None:
            raise click.UsageError("Missing option '--network'.")
        if self.network is None and self.data_name is None:
            raise click.UsageError("Missing option '--data_name'.")
        used = self.network if self.score == "net" else None
        shared.check_storage(self.store_grid, self.times.disc, used)
