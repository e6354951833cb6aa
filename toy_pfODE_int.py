"""Integrates the probability-flow ODE of a toy: melt, roundtrip from the melt's end, and gen."""

from typing import Any

import click
from torch import Tensor

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import provenance, save_json
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.toys import TOY_NAMES, Toy
from training.flow.denoisers import DiscreteDenoiser, MixtureDenoiser
from training.flow.likelihood import LARGEST_EXACT, TRACES
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import G_TYPES
from training.flow.solvers import DEFAULT, DEFAULT_STEPS, SOLVERS
from training.model.model import Model
from training.settings.integration import solver_options, toy_step_options
from training.settings.likelihood import likelihood_options
from training.settings.options import (
    calibration_option,
    device_option,
    flow_options,
    option_group,
    overwrite_option,
)
from training.settings.script import group, run_script
from training.settings.types import COUNT, FILE, POSITIVE, SEED, choice
from training.simulation.integration import (
    NetworkFile,
    chosen_likelihood,
    chosen_solver,
    settle_times,
    steps_and_end,
)
from training.simulation.latents import latent_law, parse_eps
from training.simulation.simulator import Simulator
from training.simulation.toys import known_toy, network_toy, trained_steps_and_end

simulation_options = option_group(
    click.option("--save_dir", type=FILE, required=True, help="Folder of the results."),
    click.option("--data_name", type=choice(TOY_NAMES), help="The toy."),
    flow_options(G_TYPES),
    click.option(
        "--augment_to",
        type=click.IntRange(min=0, max=2**31 - 1),
        help="Dimensions the toy is embedded in.",
    ),
    click.option("--total_samples", type=COUNT, default=2000, help="Samples of each simulation."),
    toy_step_options(DEFAULT_STEPS),
    solver_options(SOLVERS, DEFAULT),
    click.option("--end_vars", type=POSITIVE, default=1.0, help="A0, the std of kept latents."),
    click.option(
        "--eps",
        default="auto",
        help="Variances of generation's latents: auto (the closed form), empirical (those of the "
        "melt), one number for all compressed dimensions, or as in the paper, where those of kept "
        "ones are 1 (paper:NUMBER, or paper without compression).",
    ),
    click.option("--save_freq", type=COUNT, default=5, help="Steps between saved states."),
    likelihood_options(TRACES, LARGEST_EXACT),
    click.option("--seed", type=SEED, default=0, help="Seed of the data and the latents."),
    device_option,
    overwrite_option,
)


@group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--network", required=True, help="Network file: a path or an https URL.")
@simulation_options
@calibration_option
def net(**options: Any) -> None:
    """Integrate with a trained network."""
    path = local_file(options["network"])
    model = Model.load(path, end_std=options["end_vars"], calibrated=options["calibration"])
    toy = network_toy(path, model, options)
    steps, end = trained_steps_and_end(path, model, options)
    with process_group(options["device_name"]) as device:
        model.denoiser.to(device)
        simulate_all("net", toy, model.flow, steps, end, options, NetworkFile(path, model))


@main.command()
@simulation_options
def discrete(**options: Any) -> None:
    """Integrate with a finite set of points that stands for the data."""
    toy, basis, schedule = known_toy(options, options["end_vars"])
    denoiser = DiscreteDenoiser(data_points(toy, options), basis, schedule)
    simulate_closed_form("discrete", toy, ProbabilityFlow(denoiser, schedule, basis), options)


@main.command()
@simulation_options
def exact(**options: Any) -> None:
    """Integrate with the toy's own denoiser, known in closed form."""
    toy, basis, schedule = known_toy(options, options["end_vars"])
    denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    simulate_closed_form("exact", toy, ProbabilityFlow(denoiser, schedule, basis), options)


def data_points(toy: Toy, options: dict[str, Any]) -> Tensor:
    generator = seeded_generator("cpu", options["seed"], Stream.DATA)
    return toy.sample(options["total_samples"], generator)


def simulate_closed_form(
    mode: str, toy: Toy, flow: ProbabilityFlow, options: dict[str, Any]
) -> None:
    default_end = flow.schedule.default_t_max()
    steps, end = steps_and_end(options["steps"], options["h"], default_end)
    with process_group(options["device_name"]) as device:
        flow.to(device)
        simulate_all(mode, toy, flow, steps, end, options)


def simulate_all(
    mode: str,
    toy: Toy,
    flow: ProbabilityFlow,
    steps: int | str,
    end: float,
    options: dict[str, Any],
    file: NetworkFile | None = None,
) -> None:
    """Runs the three simulations one after the other and writes each as it ends."""
    stem = f"{toy.name}_{flow.schedule.name}_{mode}"
    paths = {
        name: options["save_dir"] / f"{stem}_{name}_results.npz"
        for name in ("melt", "roundtrip", "gen")
    }
    parameters_path = options["save_dir"] / f"{stem}_sim_params.json"
    eps = parse_eps(options["eps"])
    solver, likelihood = chosen_solver(options), chosen_likelihood(options)
    times = settle_times(flow, solver, steps, end, options, file)
    simulator = Simulator(flow, times, solver, options["save_freq"], likelihood)
    require_new([*paths.values(), parameters_path], options["overwrite"])
    require_folder(options["save_dir"])
    distributed.barrier()  # no rank writes before all have looked

    data = data_points(toy, options)
    digest = file.model.digest() if file else None
    melt = simulator.melt(data, path=paths["melt"], network_sha256=digest)
    latents = melt.trajectory.end
    roundtrip = simulator.generate(latents, "roundtrip", paths["roundtrip"], network_sha256=digest)
    law = latent_law(flow, end, eps, options["dims_to_keep"], latents)
    generator = seeded_generator("cpu", options["seed"], Stream.LATENT)
    latent = law.sample(options["total_samples"], generator)
    gen = simulator.generate(latent, "gen", paths["gen"], network_sha256=digest)
    simulations = {"melt": melt, "roundtrip": roundtrip, "gen": gen}
    facts = {name: simulation.facts(flow) for name, simulation in simulations.items()}

    error = roundtrip.trajectory.end - melt.trajectory.states[0]
    error = error / flow.schedule.scale(roundtrip.trajectory.times[-1])
    facts["roundtrip"]["rms_error"] = float(error.square().mean().sqrt())
    facts["roundtrip"]["max_abs_error"] = float(error.abs().max())
    if distributed.is_main():
        for path in paths.values():
            logger.info(f"Wrote {path}")
        made = len(times) - 1
        resolved = {**options, "steps": made, "h": end / made, "device_name": str(flow.device)}
        save_json(
            parameters_path,
            {"options": resolved, "end_time": end, "simulations": facts, **provenance()},
        )
        logger.info(f"Wrote {parameters_path}")
        logger.info(describe(facts))


def describe(facts: dict[str, dict[str, Any]]) -> str:
    pairs = zip(facts["melt"]["end_variance"], facts["melt"]["closed_form_variance"], strict=True)
    ratios = ", ".join(f"{measured / exact:.3f}" for measured, exact in pairs)
    calls = sum(fact["denoiser_calls"] for fact in facts.values())
    seconds = sum(fact["seconds"] for fact in facts.values())
    likelihood = facts["melt"].get("likelihood")
    told = f" Mean log density: {likelihood['log_prob']['mean']:.4f} nats." if likelihood else ""
    return (
        f"Melted variances over their closed form: {ratios}. "
        f"Roundtrip error: {facts['roundtrip']['rms_error']:.1e} rms, "
        f"{facts['roundtrip']['max_abs_error']:.1e} at most. "
        f"{calls} denoiser calls in {seconds:.1f} s." + told
    )


if __name__ == "__main__":
    run_script(main)
