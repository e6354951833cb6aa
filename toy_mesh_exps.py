"""Coverage under the flow of a toy: what stays in spheres that are carried to the data and back.

Test points of the latent Gaussian and points on spheres of given Mahalanobis radii are generated to
data and inflated back; at each stage the test points inside each boundary are counted, and in data
space fresh samples of the toy too.

\b
Columns, by radius, and their names in the files where these differ:
chi2    part of the Gaussian in the sphere ("exact")
start   test points inside at the start, in latent space ("latent")
data    the same after generation; as at the start, however wrong the score is
end     the same after inflation of what was generated
fresh   new samples of the toy, in data space: off chi2 by errors of the score,
        and where data are no Gaussian at T or in compressed dimensions
change  largest difference of data or end from start ("largest_change")
moved   most test points on another side than at the start ("changed_sides")
paired  with --paired: fresh, minus the same samples in the spheres that the exact
        denoiser carries ("paired"); s.e. is its standard error, far below a count's

\b
Files: {toy}_{schedule}_coverage.json    numbers and options
       {toy}_{schedule}_coverage.npz     points, boundaries and numbers
       {toy}_{schedule}_r{radius}_{latent|data|end}.ply    each mesh, in 3-D
"""

import math
import time
from typing import Any, NamedTuple

import click
import numpy as np
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import provenance, save_arrays, save_json
from training.data.toys import TOY_NAMES, Toy
from training.files.coverage import (
    boundary_arrays,
    mesh_paths,
    other_meshes,
    result_arrays,
    seen_from_outside,
)
from training.flow.denoisers import MixtureDenoiser
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import G_TYPES
from training.flow.solvers import DEFAULT, DEFAULT_STEPS, SOLVERS, Solver
from training.measure.boundaries import Boundary, unit_sphere, write_mesh
from training.measure.coverage import (
    Spheres,
    carry,
    contents_within,
    measure_coverage,
    refitted,
    summary,
    table,
    transported,
    unfilled,
)
from training.measure.paired_coverage import pair
from training.model.model import Model
from training.settings.integration import solver_options, toy_step_options
from training.settings.options import (
    calibration_option,
    device_option,
    flow_options,
    overwrite_option,
    require_options,
)
from training.settings.script import command, run_script
from training.settings.types import COUNT, FILE, POSITIVE, SEED, choice
from training.simulation.coverage_points import fresh_data, latent_points, unit_maps
from training.simulation.integration import (
    NetworkFile,
    chosen_solver,
    settle_times,
    steps_and_end,
)
from training.simulation.latents import latent_law, parse_eps
from training.simulation.simulator import Simulator
from training.simulation.toys import known_toy, network_toy, trained_steps_and_end

BOUNDARY_POINTS = {2: 200, 3: 2000}
"""By dimension, so many that the polygon or mesh follows where the flow folds."""
MOST_BOUNDARY_POINTS, MOST_RADII = 10**5, 10**3
LIMITS = {
    "r_num * boundary_pts": 10**6,
    "num_seeds * test_pts": 10**7,
    "num_seeds * test_pts * r_num": 10**8,
    "num_seeds * r_num": 10**4,
}
"""What files and memory bear: meshes and results that are read again, and some GB."""
BLOCK_ROWS = 2048
"""Points of one denoiser call: then a result is the same for any number of points and ranks."""


@command(help=__doc__)
@click.option("--network", help="Network file: a path or an https URL.")
@click.option("--save_dir", type=FILE, required=True, help="Folder of the results.")
@click.option("--data_name", type=choice(TOY_NAMES), help="The toy.")
@click.option(
    "--score",
    type=choice(["net", "exact"]),
    default="net",
    help="The network's denoiser, or the toy's own, which needs no network.",
)
@calibration_option
@flow_options(G_TYPES)
@toy_step_options(DEFAULT_STEPS)
@solver_options(SOLVERS, DEFAULT)
@click.option("--end_vars", type=POSITIVE, default=1.0, help="A0, the std of kept latents.")
@click.option(
    "--eps",
    default="auto",
    help="Variances of the latents: auto (the closed form), one number for all compressed "
    "dimensions, or as in the paper, where those of kept ones are 1 (paper:NUMBER, or paper "
    "without compression).",
)
@click.option("--test_pts", type=COUNT, default=20000, help="Test points, and fresh samples.")
@click.option(
    "--boundary_pts",
    type=click.IntRange(1, MOST_BOUNDARY_POINTS),
    help=f"Points on each sphere  [default: {BOUNDARY_POINTS[2]} in 2-D, {BOUNDARY_POINTS[3]} in "
    "3-D]",
)
@click.option("--r_min", type=POSITIVE, default=0.5, help="Smallest Mahalanobis radius.")
@click.option("--r_max", type=POSITIVE, default=3.5, help="Largest Mahalanobis radius.")
@click.option(
    "--r_num",
    type=click.IntRange(1, MOST_RADII),
    default=7,
    help="Number of radii; 1 is r_min alone.",
)
@click.option(
    "--boundary",
    type=choice(["transport", "alpha"]),
    default="transport",
    help="Inside is inside the sphere's polygon or mesh, carried along; or inside an alpha shape "
    "refitted at each stage to the sphere's points and those of the smaller spheres.",
)
@click.option(
    "--alpha",
    type=POSITIVE,
    help="Radius of alpha shapes, in standard deviations of each stage along the axes of the "
    "eigenbasis  [default: 1, or more if it takes more to fill the spheres at the start]",
)
@click.option(
    "--paired/--no-paired",
    default=None,
    help="With a network, count the fresh samples also inside the spheres that the toy's own "
    "denoiser carries to the data  [default: in 2-D; in 3-D it takes up to half as long again]",
)
@click.option("--num_seeds", type=COUNT, default=1, help="Repetitions with seeds from --seed on.")
@click.option("--seed", type=SEED, default=0, help="Seed of the test points and fresh samples.")
@device_option
@overwrite_option
def main(**options: Any) -> None:
    if options["alpha"] is not None and options["boundary"] != "alpha":
        raise UsageError("--alpha is the radius of --boundary=alpha, but the boundary is transport")
    if parse_eps(options["eps"]) == "empirical":
        raise UsageError("eps is 'empirical', but there is no melt here: give auto or a variance")
    if options["score"] == "net":
        require_options(options, "network")
    subject = find_flow(options)
    if options["paired"] and subject.exact is None:
        raise UsageError("--paired compares a network with --score=exact, which this is")
    spheres = find_spheres(options, subject.toy.dim)
    if options["paired"] is None:
        options["paired"] = subject.exact is not None and spheres.dim == 2
    if options["boundary"] == "alpha" and options["alpha"] is None:
        options["alpha"] = spheres.default_alpha()
    with process_group(options["device_name"]) as device:
        options["device_name"] = str(device)
        subject.flow.to(device)
        if subject.exact:
            subject.exact.to(device)
        run(subject, spheres, options)


class Subject(NamedTuple):
    """What is examined: a toy, its flow with the score of the options, the number of steps or
    ``auto``, the last time; the file of the network and the exact flow if the score is one's."""

    toy: Toy
    flow: ProbabilityFlow
    steps: int | str
    end: float
    file: NetworkFile | None = None
    exact: ProbabilityFlow | None = None


def find_flow(options: dict[str, Any]) -> Subject:
    if options["network"] is None:
        toy, basis, schedule = known_toy(options, options["end_vars"])
        steps, end = steps_and_end(options["steps"], options["h"], schedule.default_t_max())
    else:
        path = local_file(options["network"])
        model = Model.load(path, end_std=options["end_vars"], calibrated=options["calibration"])
        toy = network_toy(path, model, options)
        steps, end = trained_steps_and_end(path, model, options)
        basis, schedule = model.flow.basis, model.flow.schedule
    denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    exact = ProbabilityFlow(denoiser, schedule, basis)
    if options["score"] == "net":
        return Subject(toy, model.flow, steps, end, NetworkFile(path, model), exact)
    return Subject(toy, exact, steps, end)


def require_sizes(options: dict[str, Any]) -> None:
    """UsageError for sizes that no memory or reader of the results could take."""
    for names, most in LIMITS.items():
        size = math.prod(options[name] or 0 for name in names.split(" * "))
        if size > most:
            raise UsageError(f"{names} is {size:,}: it must be at most {most:,}")


def find_spheres(options: dict[str, Any], dim: int) -> Spheres:
    """The spheres of the options; the default of their points is filled in."""
    low, high, count = (options[name] for name in ("r_min", "r_max", "r_num"))
    if count > 1 and low >= high:
        raise UsageError(f"r_min is {low:g} and r_max {high:g}: r_max must be above r_min")
    if options["boundary_pts"] is None:
        options["boundary_pts"] = BOUNDARY_POINTS.get(dim)
    require_sizes(options)
    unit = unit_sphere(dim, options["boundary_pts"] or 0)
    return Spheres(np.linspace(low, high, count), unit)


def run(subject: Subject, spheres: Spheres, options: dict[str, Any]) -> None:
    """Carries the points, counts, writes and tells."""
    toy, flow, steps, end, file, exact = subject
    began = time.perf_counter()
    folder, stem = options["save_dir"], f"{toy.name}_{flow.schedule.name}"
    json_path, array_path = (folder / f"{stem}_coverage.{kind}" for kind in ("json", "npz"))
    meshes = mesh_paths(folder, stem, spheres)
    law = latent_law(flow, end, parse_eps(options["eps"]), options["dims_to_keep"])
    solver, blocks = chosen_solver(options), flow.in_blocks(BLOCK_ROWS)
    times = settle_times(blocks, solver, steps, end, options, file).to(flow.device)
    options |= {"steps": len(times) - 1, "h": end / (len(times) - 1)}
    simulator = Simulator(blocks, times, solver, save_every=options["steps"])
    require_new([json_path, array_path, *meshes.values()], options["overwrite"])
    require_folder(folder)
    distributed.barrier()  # no rank writes before all have looked

    seeds = range(options["seed"], options["seed"] + options["num_seeds"])
    start = latent_points(spheres, law, options["test_pts"], seeds)
    calls = []

    def generate(latents: Tensor) -> Tensor:
        trajectory = simulator.generate(latents, "gen").trajectory
        calls.append(trajectory.calls)
        return flow.to_data(trajectory.end, times[0])

    def melt(data: Tensor) -> Tensor:
        trajectory = simulator.melt(data).trajectory
        calls.append(trajectory.calls)
        return trajectory.end

    carried = carry(start, generate, melt)
    fresh = fresh_data(toy, flow, times[0], options["test_pts"], seeds)
    units = unit_maps(flow, times[0], law)
    scaled = {name: points.mapped(units[name]) for name, points in carried.items()}

    def fit(vertices: Tensor) -> list[Boundary]:
        if options["alpha"] is None:
            return transported(vertices, spheres.unit)
        return refitted(vertices, options["alpha"])

    boundaries = {name: fit(points.boundary) for name, points in scaled.items()}
    found = measure_coverage(scaled, boundaries, units["data"](fresh))
    arrays = result_arrays(spheres, carried, boundaries, fresh, found)
    paired = None
    if exact and options["paired"]:
        vertices = exact_vertices(exact, times, solver, start.boundary)
        exact_boundaries = fit(units["data"](vertices))
        paired = pair(units["data"](fresh), boundaries["data"], exact_boundaries)
        arrays |= paired.arrays() | boundary_arrays(
            "data_exact", vertices, exact_boundaries, spheres
        )
    if not distributed.is_main():
        return

    save_arrays(array_path, arrays)
    for (name, index), path in meshes.items():
        sphere_and_smaller = carried[name].boundary[: index + 1]
        write_mesh(path, *seen_from_outside(sphere_and_smaller, boundaries[name][index]))
    within = contents_within(boundaries["latent"])
    seconds = time.perf_counter() - began
    results = {
        "options": options,
        "end_time": end,
        "latent_variance": law.variance.tolist(),
        **summary(spheres, found, within),
        "paired": paired.summary() if paired else None,
        "denoiser_calls": sum(calls),
        "seconds": seconds,
        **provenance(),
    }
    save_json(json_path, results)
    if meshes and options["overwrite"]:
        for path in other_meshes(folder, stem, meshes.values()):
            path.unlink()  # of radii that the results no longer have
    logger.info("\n".join(table(spheres, found, paired.columns() if paired else None)))
    warning = options["alpha"] and unfilled(spheres, within, options["alpha"])
    if warning:
        logger.warning(f"Warning: {warning}")
    logger.info(f"Wrote {json_path} and the points beside it after {seconds:.1f} s")


def exact_vertices(flow: ProbabilityFlow, times: Tensor, solver: Solver, latents: Tensor) -> Tensor:
    """Where the exact flow takes vertices ``[R, K, D]`` from the last time to data space."""
    simulator = Simulator(flow.in_blocks(BLOCK_ROWS), times, solver, save_every=len(times) - 1)
    ends = simulator.generate(latents.flatten(0, 1), "exact gen").trajectory.end
    return flow.to_data(ends, times[0]).view_as(latents)


if __name__ == "__main__":
    run_script(main)
