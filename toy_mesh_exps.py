"""Coverage under the flow of a toy, or of a table of 2 or 3 columns: what stays in spheres that are
carried to the data and back.

Test points of the latent Gaussian and points on spheres of given Mahalanobis radii are generated to
data and inflated back; at each stage the test points inside each boundary are counted, and in data
space fresh samples of the toy, or held-out rows of the table, too.

\b
Columns, by radius, and their names in the files where these differ:
chi2    part of the Gaussian in the sphere ("exact")
start   test points inside at the start, in latent space ("latent")
data    the same after generation; as at the start, however wrong the score is
end     the same after inflation of what was generated
fresh   new samples of the toy, or held-out rows, in data space: off chi2 by errors of
        the score, and where data are no Gaussian at T or in compressed dimensions
change  largest difference of data or end from start ("largest_change")
moved   most test points on another side than at the start ("changed_sides")
paired  with --paired: fresh, minus the same samples in the spheres that the exact
        denoiser carries ("paired"); s.e. is its standard error, far below a count's

\b
Files: {data}_{schedule}_coverage.json    numbers and options
       {data}_{schedule}_coverage.npz     points, boundaries and numbers
       {data}_{schedule}_r{radius}_{latent|data|end}.ply    each mesh, in 3-D
"""

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
from training.settings.declared import takes
from training.settings.latents import recorded_eps
from training.settings.script import command, run_script
from training.settings.toy_mesh_exps import Settings
from training.simulation.coverage import BLOCK_ROWS, CoverageExperiment


@command(help=__doc__)
@takes(Settings)
def main(settings: Settings) -> None:
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
        experiment = CoverageExperiment(
            flow,
            times,
            solver,
            law,
            spheres,
            alpha,
            counted.test_pts,
            counted.seeds,
            subject.fresh,
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


if __name__ == "__main__":
    run_script(main)
