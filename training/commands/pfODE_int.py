"""Melts, roundtrips and generations of images or tables: what ``pfODE_int.py`` runs."""

import torch

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import load_json, provenance, save_json
from training.commands import shared
from training.files.rows import save_csv
from training.files.trajectory import PARAMETERS_FORMAT, SavedEnd
from training.flow.cells import has_cells
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.options.simulations import SAMPLES, SimulationSettings
from training.runs.latents import recorded_eps
from training.runs.story import Chapter, Story
from training.runs.times import TimeChoice
from training.subjects import Subject
from training.subjects.samples import Samples

FEWEST_SAMPLES = 1000
"""Generated beside fewer rows that are melted: pictures and ranks want many."""


def run(settings: SimulationSettings) -> None:
    subject, file = shared.opened(settings.network, settings)
    subject.check_class(settings.class_, "gen" in settings.kinds)
    choice = shared.image_times(settings.times, file.t_max, file.name, settings.store_grid)
    latent = shared.latent_of(settings.gen_source, settings.eps, "say --gen_source=empirical")
    latent = latent.settled(subject.flow, choice.end, subject.dims_to_keep)
    choice.even(subject.flow.schedule)
    choice, solver = way_of(settings, choice, subject.flow)
    folder = settings.save_dir
    paths = {kind: folder / f"{subject.stem}_{kind}.npz" for kind in settings.kinds}
    parameters = folder / f"{subject.stem}_HD_pfODE_int_sim_params.json"
    csv = [settings.csv] if settings.csv else []
    with distributed.process_group(settings.run.device_name) as device:
        require_new([*paths.values(), *csv], settings.run.overwrite)
        samples = melted_samples(settings, subject)
        require_folder(folder)
        recorded = load_json(parameters) if parameters.exists() else {}
        distributed.barrier()  # no rank writes before all have looked
        flow = latent.on(subject.on(device, settings.network.batch_gpu))
        times = choice.of(subject, flow, solver)
        story = Story(
            subject=subject,
            flow=flow,
            samples=samples,
            times=times,
            solver=solver,
            latent=latent,
            count=count_of(settings, subject, samples),
            seed=settings.seed,
            paths=paths,
            save_every=settings.save_freq,
            by_course=shared.is_free(settings.solver, settings.times),
            start_noise=settings.start_noise,
            class_number=settings.class_,
            density_plan=shared.densities_of(
                settings.likelihood, settings.seed, subject.levels_per_unit
            ),
            correct=settings.correct is not None,
        )
        melted = None
        if settings.prev_melt is not None:
            melted = SavedEnd.load(settings.prev_melt, flow, times, subject.digest)
            story.check_labels(melted)
        eps = latent.name if latent.empirical else recorded_eps(settings.eps, latent)
        options = settings.recorded(
            **subject.known,
            bs=story.count,
            end_time=choice.end,
            solver=solver.name,
            n_iters=len(times) - 1,
            eps=str(eps),
            device_name=str(device),
        )
        for chapter in story.tell(settings.kinds, melted):
            if distributed.is_main():
                # Simulations of earlier runs stay in the parameters.
                recorded["format"] = PARAMETERS_FORMAT
                recorded[chapter.kind] = {"options": options, **chapter.facts, **provenance()}
                save_json(parameters, recorded)
                logger.info(f"Wrote {paths[chapter.kind]}")
                report(settings, subject, chapter)


def way_of(
    settings: SimulationSettings, choice: TimeChoice, flow: ProbabilityFlow
) -> tuple[TimeChoice, Solver]:
    """Times and solver of all simulations. Points alone, of which nobody asked for the states
    between, go by the network's course, since no other simulation has to share its times."""
    solver = shared.solver_of(settings.solver)
    alone = list(settings.kinds) == ["gen"] and settings.prev_melt is None
    if alone and "save_freq" not in settings.given:
        # Densities of cells are integrated apart.
        along = settings.likelihood.log_prob and not has_cells(flow)
        use = "points_and_densities" if along else "points"
        choice, solver, _ = shared.sampled_along(settings.times, settings.solver, choice, flow, use)
    return shared.by_student(choice, settings.times, solver, flow), solver


def melted_samples(settings: SimulationSettings, subject: Subject) -> Samples | None:
    """What is melted; None if nothing is."""
    if settings.data_root is None:
        return None
    count = subject.counted(settings.bs, SAMPLES, settings.data_root)
    return subject.samples(settings.data_root, count, settings.seed)


def report(settings: SimulationSettings, subject: Subject, chapter: Chapter) -> None:
    """Says what came of a simulation, and writes its rows as a table, with their log densities if
    these are known, if it was asked for: those of gen, or else of the melt."""
    for line in subject.lines(chapter.kind, chapter.facts):
        logger.info(line)
    if settings.csv is None or chapter.kind != ("gen" if "gen" in settings.kinds else "melt"):
        return
    simulation = chapter.simulation
    points, drawn = simulation.points(subject.flow).cpu(), chapter.kind == "gen"
    names, values = subject.as_source(points, settings.round, drawn)
    columns = [values, *(density[:, None].cpu() for density in simulation.densities.values())]
    save_csv(settings.csv, [*names, *simulation.densities], torch.cat(columns, dim=1))
    logger.info(f"Wrote {settings.csv}")


def count_of(settings: SimulationSettings, subject: Subject, samples: Samples | None) -> int:
    """How many points are generated."""
    if settings.bs or samples is None:
        return settings.bs or SAMPLES
    melted, all_rows = len(samples.points), subject.counted(None, SAMPLES, None) is None
    return max(melted, FEWEST_SAMPLES) if all_rows else melted
