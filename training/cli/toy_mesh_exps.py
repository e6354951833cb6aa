"""Coverage under the flow of a toy or a table: the functions behind ``toy_mesh_exps.py``."""

import math
import time
from pathlib import Path

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import provenance
from training.cli.shared import solver_of, toy_times
from training.files.coverage import CoverageFiles
from training.models.integration_settings import latent_choice, recorded_eps
from training.names import INFLATION, script
from training.paper.containment import unit_sphere
from training.paper.coverage import CoverageResult, Spheres, contents_within, table, unfilled
from training.paper.mesh_coverage import CoverageExperiment
from training.settings.simulations import BOUNDARY_POINTS, CoverageSettings, SphereOptions
from training.subjects import Subject, ToyFlow, open_subject
from training.trained.network import TrainedNetwork

LIMITS = {
    ("r_num", "boundary_pts"): 10**6,
    ("test_pts",): 10**7,
    ("test_pts", "r_num"): 10**8,
}
"""Limits on products of options: meshes and results must remain readable, and need at most a few
GB.
"""


def run(settings: CoverageSettings) -> None:
    """Measure coverage under the flow of a toy or a table, and write and print it."""
    subject, counted = subject_of(settings), settings.points
    fresh = subject.fresh(settings.data_root, counted.test_pts, counted.seed)
    dim, kept, exact = subject.dim, subject.dims_to_keep, subject.exact
    name = subject.network.name if subject.network else None
    choice = toy_times(settings.times, subject.t_max, name)
    latent = latent_choice(settings.eps, "give learned, auto or a variance")
    latent = latent.settled(subject.flow, choice.end, kept)
    spheres = spheres_of(counted, dim)
    flow = subject.flow
    if settings.score == "exact":
        assert exact is not None
        flow = exact
    # In 3-D, spheres that the exact denoiser transports would take as long as the rest.
    paired = dim == 2 and exact is not None and flow is not exact
    alpha = None  # boundaries are carried along
    if counted.boundary == "alpha":
        alpha = counted.alpha or spheres.default_alpha()
    flow = latent.on(flow)
    solver = solver_of(settings.solver)
    files = CoverageFiles(settings.save_dir, subject.stem, spheres)
    with distributed.process_group(settings.run.device_name) as device:
        began = time.perf_counter()
        require_new(files.all, settings.run.overwrite)
        if exact is not None:
            exact.to(device)
        times = choice.times(flow.to(device).schedule).to(device)
        distribution = latent.distribution(flow, choice.end, kept)
        require_folder(settings.save_dir)
        distributed.barrier()  # no rank writes before all ranks have checked
        points, seed = counted.test_pts, counted.seed
        experiment = CoverageExperiment(
            flow, times, solver, distribution, spheres, alpha, points, seed, fresh
        )
        result = experiment.run(exact if paired else None)
        if not distributed.is_main():
            return
        steps = len(times) - 1
        options = settings.recorded(
            steps=steps,
            h=choice.end / steps,
            boundary_pts=counted.points_on(dim),
            alpha=alpha,
            eps=recorded_eps(settings.eps, latent),
            device_name=str(device),
        )
        seconds = time.perf_counter() - began
        known = subject.known if subject.network is None else subject.network.known
        schedule = {name: known.get(name) for name in INFLATION}
        about = {
            "options": {**options, **schedule, **subject.known},
            "end_time": choice.end,
            "latent_variance": distribution.variance.tolist(),
            "seconds": seconds,
            **provenance(),
        }
        files.save(result, about)
        if settings.run.overwrite:
            files.remove_others()
        report(result, alpha, settings.data_root)
        logger.info(f"Wrote {files.numbers} and the points in {seconds:.1f} s")


def subject_of(settings: CoverageSettings) -> Subject:
    """Return the flow of the network, or of the toy in closed form if no network is given.

    Raises:
        UsageError: Options contradict the network, or are for another kind of data.
        DataError: A file is missing or broken, or files do not belong together.
    """
    if settings.network is None:
        assert settings.data_name is not None
        return ToyFlow.closed_form(
            settings.data_name,
            data_dim=settings.data_dim,
            inflation={"dims_to_keep": settings.dims_to_keep} if settings.dims_to_keep else {},
        )
    expected = settings.named("data_name", "data_dim", "dims_to_keep")
    network = TrainedNetwork.open(settings.network)
    settings.require_kind(network.data_kind, network.name)
    subject = open_subject(network, expected).require_unconditional()
    if settings.data_root and subject.dim not in BOUNDARY_POINTS:
        raise UsageError(
            f"{network.name} has {subject.dim} columns, but spheres are supported in 2-D and "
            f"3-D only: {script('pfODE_int')} --sim_type=melt reports the coverage of "
            "latents of validation rows"
        )
    return subject


def spheres_of(options: SphereOptions, dim: int) -> Spheres:
    """Return the spheres in ``dim`` dimensions.

    Raises:
        UsageError: There are more spheres or points than memory or a reader can take.
    """
    sizes = {
        "r_num": options.r_num,
        "boundary_pts": options.points_on(dim) or 0,
        "test_pts": options.test_pts,
    }
    for names, most in LIMITS.items():
        size = math.prod(sizes[name] for name in names)
        if size > most:
            raise UsageError(f"{' * '.join(names)} is {size:,}: give at most {most:,}")
    unit = unit_sphere(dim, sizes["boundary_pts"])
    return Spheres.between(options.r_min, options.r_max, options.r_num, unit)


def report(result: CoverageResult, alpha: float | None, data: Path | None) -> None:
    """Print the table, and warn if alpha shapes are too small."""
    more = result.paired.columns() if result.paired else None
    logger.info("\n".join(table(result.spheres, result.fractions, more)))
    within = contents_within(result.boundaries["latent"])
    warning = alpha and unfilled(result.spheres, within, alpha)
    if warning:
        logger.warning(f"Warning: {warning}")
    if data is not None:
        rows = len(result.fresh)
        logger.info(
            f"fresh: {rows} rows of {data}; the standard error of a percentage is at most "
            f"{50 / rows**0.5:.2f}"
        )
