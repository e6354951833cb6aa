"""Inflations, roundtrips and generations: the functions behind several scripts.

The scripts are ``pfODE_int.py``, ``toy_pfODE_int.py``, ``calc_roundtrip_mse.py`` and
``gen_fid_samples.py``.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

import torch

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import load_json, provenance, save_json
from training.cli.shared import image_times, of_data_set, solver_of, toy_times
from training.files.image_folder import ABSENT, WHOLE, ImageFolder
from training.files.rows import save_csv
from training.files.trajectory import PARAMETERS_FORMAT, SavedEnd
from training.flow.bin_averages import has_cells
from training.flow.denoisers import BLOCK_ROWS
from training.flow.likelihood import DensityPlan, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import Solver
from training.models.generation import SeedSampler, generate_images, parse_seeds
from training.models.integration_settings import (
    LatentChoice,
    TimeChoice,
    latent_choice,
    recorded_eps,
)
from training.models.simulations import FinishedSimulation, SimulationRun, measure_returns
from training.names import KINDS, PROBES
from training.settings.declared import Declared
from training.settings.samples import GenerationSettings
from training.settings.shared import ImageNetworkOptions
from training.settings.simulations import (
    PUBLISHED_SAMPLES,
    SAMPLES,
    ClosedFormSettings,
    NetSettings,
    RoundtripSettings,
    SimulationSettings,
)
from training.subjects import ImageFlow, Subject, ToyFlow
from training.subjects.subject import Samples
from training.trained.network import TrainedNetwork

FEWEST_SAMPLES = 1000
"""Minimum number of generated samples if fewer rows are inflated, for pictures and ranks."""


def images_or_tables(settings: SimulationSettings) -> None:
    """Run the simulations (melt, roundtrip, gen) of images or a table, and write the results."""
    subject, network = opened(settings)
    subject.check_class(settings.class_, "gen" in settings.kinds)
    choice = image_times(settings.times, network)
    latent = latent_of(settings.gen_source, settings.eps, "say --gen_source=empirical")
    latent = latent.settled(subject.flow, choice.end, subject.dims_to_keep)
    choice, solver = way_of(settings, choice, subject.flow)
    folder = settings.save_dir
    paths = {kind: folder / f"{subject.stem}_{kind}.npz" for kind in settings.kinds}
    parameters = folder / f"{subject.stem}_HD_pfODE_int_sim_params.json"
    csv = [settings.csv] if settings.csv else []
    with distributed.process_group(settings.run.device_name) as device:
        require_new([*paths.values(), *csv], settings.run.overwrite)
        samples = None
        if settings.data_root is not None:
            count = subject.counted(settings.bs, SAMPLES, settings.data_root)
            samples = subject.samples(settings.data_root, count, settings.seed)
        require_folder(folder)
        recorded = load_json(parameters) if parameters.exists() else {}
        distributed.barrier()  # no rank writes before all ranks have checked
        flow = latent.on(subject.on(device, settings.network.batch_gpu))
        times = choice.times(flow.schedule)
        story = simulation_run(
            settings,
            subject=subject,
            flow=flow,
            samples=samples,
            times=times,
            solver=solver,
            latent=latent,
            count=count_of(settings, subject, samples),
            paths=paths,
            class_number=settings.class_,
        )
        melted = None
        if settings.prev_melt is not None:
            melted = SavedEnd.load(settings.prev_melt, flow, times, subject.digest)
            story.check_labels(melted)
        eps = latent.name if latent.empirical else recorded_eps(settings.eps, latent)
        options = settings.recorded(
            bs=story.count,
            end_time=choice.end,
            solver=solver.name,
            n_iters=len(times) - 1,
            eps=str(eps),
            device_name=str(device),
        )
        options |= subject.known
        for chapter in story.tell(settings.kinds, melted):
            if distributed.is_main():
                # Entries of earlier runs remain in the parameters.
                recorded["format"] = PARAMETERS_FORMAT
                recorded[chapter.kind] = {"options": options, **chapter.facts, **provenance()}
                save_json(parameters, recorded)
                logger.info(f"Wrote {paths[chapter.kind]}")
                report(settings, subject, chapter)


def simulation_run(
    settings: SimulationSettings | NetSettings | ClosedFormSettings, subject: Subject, **run: Any
) -> SimulationRun:
    """Return the simulations of a subject, given options and their final values."""
    return settings.into(
        SimulationRun,
        subject=subject,
        save_every=settings.save_freq,
        by_course=is_free(settings.solver, settings.times),
        density_plan=densities_of(settings, subject.levels_per_unit),
        **run,
    )


def way_of(
    settings: SimulationSettings, choice: TimeChoice, flow: ProbabilityFlow
) -> tuple[TimeChoice, Solver]:
    """Return the time grid and the solver of all simulations.

    Generation alone, without intermediate states, uses the network's integration schedule, since no
    other simulation has to share its times.
    """
    solver = solver_of(settings.solver)
    alone = list(settings.kinds) == ["gen"] and settings.prev_melt is None
    if alone and "save_freq" not in settings.given:
        # Densities of quantization bins are integrated separately.
        along = settings.likelihood.log_prob and not has_cells(flow)
        use = "points_and_densities" if along else "points"
        choice, solver, _ = sampled_along(settings, choice, flow, use)
    return choice, solver


def report(settings: SimulationSettings, subject: Subject, chapter: FinishedSimulation) -> None:
    """Print the results of a simulation, and write its rows as a table if requested.

    The table contains the generated rows, or the inflated rows if none were generated, with log
    densities if they were computed.
    """
    for line in subject.lines(chapter.kind, chapter.facts):
        logger.info(line)
    if settings.csv is None or chapter.kind != ("gen" if "gen" in settings.kinds else "melt"):
        return
    simulation = chapter.simulation
    points, drawn = simulation.points(subject.flow).cpu(), chapter.kind == "gen"
    names, values = subject.as_source(points, drawn)
    columns = [values, *(density[:, None].cpu() for density in simulation.densities.values())]
    save_csv(settings.csv, [*names, *simulation.densities], torch.cat(columns, dim=1))
    logger.info(f"Wrote {settings.csv}")


def count_of(settings: SimulationSettings, subject: Subject, samples: Samples | None) -> int:
    """Return the number of generated points."""
    if settings.bs or samples is None:
        return settings.bs or SAMPLES
    melted, all_rows = len(samples.points), subject.counted(None, SAMPLES, None) is None
    return max(melted, FEWEST_SAMPLES) if all_rows else melted


def net(settings: NetSettings) -> None:
    """Run the simulations (melt, roundtrip, gen) of a toy with a trained network."""
    network = TrainedNetwork.open(settings.network, settings.end_vars, settings.calibration)
    toys("net", ToyFlow.of(network, settings.expected()), settings)


def discrete(settings: ClosedFormSettings) -> None:
    """Run the simulations of a toy with the exact denoiser of a finite sample of its points."""
    points = settings.total_samples, settings.seed
    toys("discrete", closed_form(settings, points), settings)


def exact(settings: ClosedFormSettings) -> None:
    """Run the simulations (melt, roundtrip, gen) of a toy with its exact denoiser."""
    toys("exact", closed_form(settings), settings)


def closed_form(settings: ClosedFormSettings, points: tuple[int, int] | None = None) -> ToyFlow:
    """Return the toy in closed form, or a sample of its points with a random seed."""
    flow = settings.flow
    return ToyFlow.closed_form(
        settings.data_name,
        settings.augment_to or 0,
        flow.data_dim,
        flow.arguments(),
        settings.end_vars,
        points,
    )


def toys(mode: str, subject: ToyFlow, settings: NetSettings | ClosedFormSettings) -> None:
    """Run the three simulations one after the other, and write each when it ends."""
    folder, stem = settings.save_dir, f"{subject.stem}_{mode}"
    paths = {kind: folder / f"{stem}_{kind}_results.npz" for kind in KINDS}
    parameters = folder / f"{stem}_sim_params.json"
    network = subject.network.name if subject.network else None
    choice = toy_times(settings.times, subject.t_max, network)
    latent = latent_choice(settings.eps).settled(subject.flow, choice.end, subject.dims_to_keep)
    flow, solver = latent.on(subject.flow), solver_of(settings.solver)
    with distributed.process_group(settings.run.device_name) as device:
        require_new([*paths.values(), parameters], settings.run.overwrite)
        times = choice.times(flow.to(device).schedule)
        require_folder(folder)
        distributed.barrier()  # no rank writes before all ranks have checked
        story = simulation_run(
            settings,
            subject=subject,
            flow=flow,
            samples=subject.samples(None, settings.total_samples, settings.seed),
            times=times,
            solver=solver,
            latent=latent,
            count=settings.total_samples,
            paths=paths,
        )
        facts = {chapter.kind: chapter.facts for chapter in story.tell(KINDS)}
        if not distributed.is_main():
            return
        steps, end = len(times) - 1, choice.end
        options = settings.recorded(
            steps=steps,
            h=end / steps,
            eps=recorded_eps(settings.eps, latent),
            device_name=str(device),
        )
        options |= subject.known
        about = {"options": options, "end_time": end, "simulations": facts, **provenance()}
        save_json(parameters, {"format": PARAMETERS_FORMAT, **about})
        for path in (*paths.values(), parameters):
            logger.info(f"Wrote {path}")
        logger.info(in_words(facts))


def in_words(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Describe the most important numbers of simulations in words."""
    pairs = zip(facts["melt"]["end_variance"], facts["melt"]["closed_form_variance"], strict=True)
    ratios = ", ".join(f"{measured / exact:.3f}" for measured, exact in pairs)
    calls = sum(fact["denoiser_calls"] for fact in facts.values())
    seconds = sum(fact["seconds"] for fact in facts.values())
    likelihood = facts["melt"].get("likelihood")
    density = f" Mean log density: {likelihood['log_prob']['mean']:.4f} nats." if likelihood else ""
    return (
        f"Variances of inflated data relative to the closed form: {ratios}. Round-trip "
        f"error: {facts['roundtrip']['rms_error']:.1e} rms, at most "
        f"{facts['roundtrip']['max_abs_error']:.1e}. {calls} network evaluations in "
        f"{seconds:.1f} s."
    ) + density


def roundtrips(settings: RoundtripSettings) -> None:
    """Inflate data, generate it back, and write the roundtrip errors."""
    began = perf_counter()
    subject, network = opened(settings)
    choice = image_times(settings.times, network)
    solver = solver_of(settings.solver)
    returns = subject.returns(settings.save_dir, settings.seed)
    require_new(returns.paths, settings.run.overwrite)
    count = subject.counted(settings.total_samples, PUBLISHED_SAMPLES, settings.data_root)
    source = subject.source(settings.data_root, count, settings.seed)
    with distributed.process_group(settings.run.device_name) as device:
        require_folder(settings.save_dir)
        flow = subject.on(device, settings.network.batch_gpu)
        times = choice.times(flow.schedule)
        calls = measure_returns(flow, times, solver, source, returns, settings.bs)
        if not distributed.is_main():
            return
        options = settings.recorded(
            total_samples=len(source),
            end_time=choice.end,
            n_iters=len(times) - 1,
            device_name=str(device),
        )
        about = {
            "denoiser_calls": calls,
            "seconds": perf_counter() - began,
            "options": {**options, **subject.known},
            **provenance(),
        }
        returns.save(about)
        for path in returns.paths:
            logger.info(f"Wrote {path}")
        logger.info(returns.line())


def images_of_seeds(settings: GenerationSettings) -> None:
    """Generate the image of each seed, unless it exists with the same settings."""
    began = perf_counter()
    seeds = parse_seeds(settings.seeds)
    latent = latent_choice(settings.eps, "give auto or a variance")
    network = network_of(settings.network)
    image_flow = ImageFlow.of(network, settings.network.named("dims_to_keep"))
    image_flow.check_class(settings.class_)
    choice = image_times(settings.times, network)
    latent = latent.settled(image_flow.flow, choice.end, image_flow.dims_to_keep)
    choice, solver, how = sampled_along(settings, choice, image_flow.flow)
    overwrite = settings.run.overwrite
    with distributed.process_group(settings.run.device_name) as device:
        rows = settings.network.batch_gpu or BLOCK_ROWS[device.type]
        sampler = SeedSampler(image_flow, solver, choice, device, rows, latent, settings.class_)
        resolved = {"end_time": choice.end, "batch_gpu": rows, **how}
        made_with = {
            "network_sha256": hashlib.sha256(network.path.read_bytes()).hexdigest(),
            "eps": latent.name,
            **settings.image_settings(**resolved),
            "device": device.type,  # for bitwise identical results
        }
        folder = ImageFolder(settings.save_dir, image_flow.shape, settings.subdirs, made_with)
        outdated = folder.outdated(seeds, overwrite)
        distributed.barrier()  # no rank writes before all ranks have checked
        if distributed.is_main():
            folder.begin(outdated)
        distributed.barrier()
        states = folder.survey(seeds, device)
        chosen = torch.ones_like(states) if overwrite else states != WHOLE
        calls = generate_images(sampler, folder, seeds[chosen.bool()], settings.bs)
        made = int((states == ABSENT).sum())
        counts = {
            "made": made,
            "remade": int(chosen.sum()) - made,
            "skipped": len(seeds) - int(chosen.sum()),
        }
        if distributed.is_main():
            cost = {"network_calls": calls, "seconds": perf_counter() - began}
            options = settings.recorded(**resolved, device_name=str(device))
            options |= image_flow.known
            folder.record({"options": options, **counts, **cost, **provenance()})
            logger.info(
                "Wrote {made} new images to {folder}; {remade} were made again, and {skipped} were "
                "there already".format(**counts, folder=settings.save_dir)
            )


def network_of(options: ImageNetworkOptions) -> TrainedNetwork:
    """Open the network file that the options name.

    Raises:
        DataError: The file is missing or broken.
    """
    return TrainedNetwork.open(
        options.network, options.end_vars, options.calibration, options.precision
    )


def opened(settings: SimulationSettings | RoundtripSettings) -> tuple[Subject, TrainedNetwork]:
    """Open a network of images or a table, and its file.

    Raises:
        UsageError: Options contradict the file, or are for other data.
        DataError: The file is missing or broken.
    """
    options = settings.network
    network = network_of(options)
    settings.require_kind(network.data_kind, options.network)
    return of_data_set(network, settings.expected(), settings.data_name), network


def sampled_along(
    settings: SimulationSettings | GenerationSettings,
    choice: TimeChoice,
    flow: ProbabilityFlow,
    use: str = "points",
) -> tuple[TimeChoice, Solver, dict[str, object]]:
    """Return the times and the solver of sampling, and the values of ``solver`` and ``n_iters``.

    These are taken from the network's integration schedule for a use, if the network file has one
    and no option overrides it.
    """
    method, integration = solver_of(settings.solver), flow.integrations.get(use)
    if integration is None or not is_free(settings.times, settings.solver):
        return choice, method, {"solver": method.name, "n_iters": choice.steps}
    resolved = {"solver": integration.name, "n_iters": integration.steps}
    return replace(choice, given=integration.times), integration.solver, resolved


def is_free(*options: Declared) -> bool:
    """Return whether the user gave none of some groups of options.

    The network's integration schedules may then be used.
    """
    return not any(each.typed for each in options)


def densities_of(
    settings: SimulationSettings | NetSettings | ClosedFormSettings,
    levels_per_unit: float | None = None,
) -> DensityPlan | None:
    """Return the settings of the log densities to compute; None for no log densities.

    Args:
        settings: Options as given.
        levels_per_unit: Number of gray levels per data unit of images; None for other data.
    """
    if isinstance(settings, SimulationSettings):
        wanted, probes = settings.likelihood.log_prob, settings.likelihood.probes
    else:
        wanted, probes = settings.log_prob, PROBES
    if not wanted:
        return None
    kind = "auto" if levels_per_unit is None else "hutchinson"
    return DensityPlan(Trace(kind, probes, settings.seed), levels_per_unit)


def latent_of(source: str, eps: str | None, otherwise: str) -> LatentChoice:
    """Return the starting distribution of generation.

    Args:
        source: Value of ``--gen_source``.
        eps: Value of ``--eps``.
        otherwise: Advice on an alternative to ``empirical``, for an error.
    """
    if source == "empirical":
        return LatentChoice(empirical=True)
    return latent_choice(eps, otherwise)
