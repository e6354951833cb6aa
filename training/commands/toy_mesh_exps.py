"""Coverage under the flow of a toy or a table: what ``toy_mesh_exps.py`` runs."""

import time
from pathlib import Path

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import provenance
from training.files.coverage import CoverageFiles
from training.measure.coverage import contents_within, table, unfilled
from training.measure.coverage_result import CoverageResult
from training.options.latents import recorded_eps
from training.options.toy_mesh_exps import Settings
from training.runs.coverage import BLOCK_ROWS, CoverageExperiment


def run(settings: Settings) -> None:
    subject, counted = settings.subject(), settings.points
    dim, kept, exact = subject.dim, subject.dims_to_keep, subject.exact
    choice = settings.chosen_times(subject)
    latent = settings.latent().settled(subject.flow, choice.end, kept)
    spheres = counted.spheres(dim)
    flow, file = subject.flow, subject.file
    if settings.score == "exact":
        assert exact is not None
        flow, file = exact, None
    paired = counted.pairs(dim, exact is not None and flow is not exact)
    alpha = counted.chosen_alpha(spheres)
    flow = latent.on(flow)
    solver = settings.solver.chosen()
    files = CoverageFiles(settings.save_dir, subject.stem, spheres)
    with process_group(settings.run.device_name) as device:
        began = time.perf_counter()
        require_new(files.all, settings.run.overwrite)
        if exact is not None:
            exact.to(device)
        times = choice.settle(flow.to(device).in_blocks(BLOCK_ROWS), solver, file).to(device)
        law = latent.law(flow, choice.end, kept)
        require_folder(settings.save_dir)
        distributed.barrier()  # no rank writes before all have looked
        points, seeds = counted.test_pts, counted.seeds
        experiment = CoverageExperiment(
            flow, times, solver, law, spheres, alpha, points, seeds, subject.fresh
        )
        result = experiment.run(exact if paired else None)
        if not distributed.is_main():
            return
        steps = len(times) - 1
        options = settings.recorded(
            steps=steps,
            h=choice.end / steps,
            boundary_pts=counted.points_on(dim),
            paired=paired,
            alpha=alpha,
            eps=recorded_eps(settings.eps, latent),
            device_name=str(device),
        )
        seconds = time.perf_counter() - began
        about = {
            "options": {**options, **subject.known},
            "end_time": choice.end,
            "latent_variance": law.variance.tolist(),
            "seconds": seconds,
            **provenance(),
        }
        files.save(result, about)
        if settings.run.overwrite:
            files.remove_others()
        report(result, alpha, settings.data_root)
        logger.info(f"Wrote {files.numbers} and the points beside it after {seconds:.1f} s")


def report(result: CoverageResult, alpha: float | None, data: Path | None) -> None:
    """Tells the table, and whether alpha shapes are too small."""
    more = result.paired.found.columns() if result.paired else None
    logger.info("\n".join(table(result.spheres, result.found, more)))
    within = contents_within(result.boundaries["latent"])
    warning = alpha and unfilled(result.spheres, within, alpha)
    if warning:
        logger.warning(f"Warning: {warning}")
    if data is not None:
        rows = result.fresh.shape[1]
        logger.info(
            f"fresh: {rows} rows of {data}; the standard error of a percentage is at most "
            f"{50 / rows**0.5:.2f}"
        )
