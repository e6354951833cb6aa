"""Settings of ``toy_mesh_exps.py``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from dnnlib.errors import UsageError
from training import measure, runs
from training.options.common import RunOptions, save_dir, seed
from training.options.declared import Declared, option, options_of
from training.options.integration import SolverOptions, ToyTimeOptions
from training.options.latents import eps, latent_choice
from training.options.networks import (
    calibration,
    check_storage,
    end_vars,
    network,
    store_grid,
)
from training.options.schedules import InflationOptions, toy_name
from training.options.types import COUNT, DATA_SET, POSITIVE, choice

BOUNDARY_POINTS = {2: 200, 3: 2000}
"""By dimension, so many that the polygon or mesh follows where the flow folds."""
MOST_BOUNDARY_POINTS, MOST_RADII = 10**5, 10**3
TOYS_ONLY = ("num_seeds", "paired", "score")
"""Options that a network of a table has no use for."""
LIMITS = {
    ("r_num", "boundary_pts"): 10**6,
    ("num_seeds", "test_pts"): 10**7,
    ("num_seeds", "test_pts", "r_num"): 10**8,
    ("num_seeds", "r_num"): 10**4,
}
"""Products that files and memory bear: meshes and results that are read again, and some GB."""


@dataclass(frozen=True, kw_only=True)
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
        unset="in 2-D; in 3-D it takes up to half as long again",
        help="With a network, count the fresh samples also inside the spheres that the toy's own "
        "denoiser carries to the data",
    )
    num_seeds: int = option(type=COUNT, default=1, help="Repetitions with seeds from --seed on.")
    seed: int = seed("the test points and fresh samples")

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

    def spheres(self, dim: int) -> measure.Spheres:
        """The spheres in so many dimensions.

        Raises:
            UsageError: They, or the points, are more than memory or a reader could take.
        """
        sizes = {
            "r_num": self.r_num,
            "boundary_pts": self.points_on(dim) or 0,
            "num_seeds": self.num_seeds,
            "test_pts": self.test_pts,
        }
        for names, most in LIMITS.items():
            size = math.prod(sizes[name] for name in names)
            if size > most:
                raise UsageError(f"{' * '.join(names)} is {size:,}: it must be at most {most:,}")
        unit = measure.unit_sphere(dim, sizes["boundary_pts"])
        return measure.Spheres.between(self.r_min, self.r_max, self.r_num, unit)

    def chosen_alpha(self, spheres: measure.Spheres) -> float | None:
        """Radius of alpha shapes; None for boundaries that are carried along."""
        if self.boundary != "alpha":
            return None
        return self.alpha or spheres.default_alpha()

    def pairs(self, dim: int, possible: bool) -> bool:
        """Whether to compare with the exact flow, in so many dimensions.

        Args:
            dim: D.
            possible: Whether there is one, and the flow is another.

        Raises:
            UsageError: It was asked for, but is not possible.
        """
        if self.paired and not possible:
            raise UsageError("--paired compares a network with --score=exact, which this is")
        return possible and dim == 2 if self.paired is None else self.paired


@dataclass(frozen=True, kw_only=True)
class Settings(Declared):
    """Options of the script."""

    save_dir: Path = save_dir()
    network: str | None = network(required=False)
    data_name: str | None = toy_name(unset="the network's")
    data_root: Path | None = option(
        type=DATA_SET,
        unset="none",
        help="Data set of a table, in 2-D or 3-D: its held-out rows are the fresh points of a "
        "network of it.",
    )
    score: str = option(
        type=choice(["net", "exact"]),
        default="net",
        help="The network's denoiser, or the toy's own, which needs no network.",
    )
    calibration: bool = calibration()
    end_vars: float = end_vars()
    eps: str | None = eps()
    points: SphereOptions = options_of(SphereOptions)
    flow: InflationOptions = options_of(InflationOptions, unset="the network's; without one {}")
    solver: SolverOptions = options_of(SolverOptions)
    times: ToyTimeOptions = options_of(ToyTimeOptions)
    store_grid: bool = store_grid()
    run: RunOptions = options_of(RunOptions)

    def __post_init__(self) -> None:
        if self.score == "net" and self.network is None:
            raise click.UsageError("Missing option '--network'.")
        if self.network is None and self.data_name is None:
            raise click.UsageError("Missing option '--data_name'.")
        used = self.network if self.score == "net" else None
        check_storage(self.store_grid, self.times.disc, used)

    def latent(self) -> runs.LatentChoice:
        """What generation starts from."""
        return latent_choice(self.eps, "give learned, auto or a variance")

    def chosen_times(self, subject: runs.CoverageSubject) -> runs.TimeChoice:
        """The times, up to which a network has to be trained if there is one."""
        network = subject.file.name if subject.file else None
        return self.times.chosen(subject.t_max, network, self.store_grid)

    def subject(self) -> runs.CoverageSubject:
        """The flow of the network, or of the toy alone where none is given, and its data.

        Raises:
            UsageError: Options contradict the network, or are not for its kind of data.
            DataError: A file is missing or broken, or they do not belong together.
        """
        count = self.points.test_pts
        if self.network is None:
            assert self.data_name is not None
            self._require_no_table("the toy alone")
            toy = runs.ToyChoice(
                self.data_name,
                data_dim=self.flow.data_dim,
                inflation=self.flow.arguments(),
                end_std=self.end_vars,
            )
            return runs.CoverageSubject.of_toy(runs.ToyFlow.exact(toy), count)
        said = {"data_name": self.data_name, **self.flow.said()}
        network = runs.NetworkChoice(self.network, said, self.end_vars, self.calibration)
        file = runs.NetworkFile.open(network)
        if file.is_table:
            return self._table(file, said)
        self._require_no_table(file.name)
        return runs.CoverageSubject.of_toy(runs.ToyFlow.of(file, said), count)

    def _require_no_table(self, what: str) -> None:
        if self.data_root is not None:
            raise UsageError(f"--data_root goes with networks of tables, not with {what}")

    def _table(self, file: runs.NetworkFile, said: Mapping[str, Any]) -> runs.CoverageSubject:
        for name in TOYS_ONLY:
            if name in self.given:
                raise UsageError(f"--{name} is for toys, but {file.name} is one of a table")
        file.agreed(said, file.known)
        if file.model.denoiser.basis.dim not in BOUNDARY_POINTS:
            raise UsageError(
                f"{file.name} is of {file.model.denoiser.basis.dim} columns, but spheres are "
                "followed in 2-D and 3-D only: pfODE_int.py --sim_type=melt counts the latents of "
                "held-out rows within spheres"
            )
        if self.data_root is None:
            raise click.UsageError("Missing option '--data_root'.")
        return runs.CoverageSubject.of_table(
            runs.TableFlow.of(file, {}).require_unconditional(),
            self.data_root,
            self.points.seed,
        )
