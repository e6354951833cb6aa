"""Melts, roundtrips and generations of toys: what ``toy_pfODE_int.py`` runs."""

from collections.abc import Mapping
from typing import Any

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import provenance, save_json
from training.commands.shared import by_student, densities_of, is_free, solver_of, toy_times
from training.files.trajectory import PARAMETERS_FORMAT
from training.names import KINDS
from training.options.simulations import ClosedFormSettings, NetSettings
from training.runs.latents import latent_choice, recorded_eps
from training.runs.story import Story
from training.subjects import NetworkFile, ToyFlow


def net(settings: NetSettings) -> None:
    """Integrate with a trained network."""
    file = NetworkFile.open(settings.network, settings.end_vars, settings.calibration)
    simulate("net", ToyFlow.of(file, settings.expected()), settings, settings.store_grid)


def discrete(settings: ClosedFormSettings) -> None:
    """Integrate with a finite set of points that stands for the data."""
    points = settings.total_samples, settings.seed
    simulate("discrete", closed_form(settings, points), settings)


def exact(settings: ClosedFormSettings) -> None:
    """Integrate with the toy's own denoiser, known in closed form."""
    simulate("exact", closed_form(settings), settings)


def closed_form(settings: ClosedFormSettings, points: tuple[int, int] | None = None) -> ToyFlow:
    """The toy, or so many points of it by a seed."""
    flow = settings.flow
    return ToyFlow.closed_form(
        settings.data_name,
        settings.augment_to or 0,
        flow.data_dim,
        flow.arguments(),
        settings.end_vars,
        points,
    )


def simulate(
    mode: str, subject: ToyFlow, settings: NetSettings | ClosedFormSettings, store: bool = False
) -> None:
    """Runs the three simulations one after the other and writes each as it ends."""
    folder, stem = settings.save_dir, f"{subject.stem}_{mode}"
    paths = {kind: folder / f"{stem}_{kind}_results.npz" for kind in KINDS}
    parameters = folder / f"{stem}_sim_params.json"
    network = subject.file.name if subject.file else None
    choice = toy_times(settings.times, subject.t_max, network, store)
    latent = latent_choice(settings.eps).settled(subject.flow, choice.end, subject.dims_to_keep)
    flow, solver = latent.on(subject.flow), solver_of(settings.solver)
    choice = by_student(choice, settings.times, solver, flow)
    with distributed.process_group(settings.run.device_name) as device:
        require_new([*paths.values(), parameters], settings.run.overwrite)
        times = choice.of(subject, flow.to(device), solver)
        require_folder(folder)
        distributed.barrier()  # no rank writes before all have looked
        story = Story(
            subject=subject,
            flow=flow,
            samples=subject.samples(None, settings.total_samples, settings.seed),
            times=times,
            solver=solver,
            latent=latent,
            count=settings.total_samples,
            seed=settings.seed,
            paths=paths,
            save_every=settings.save_freq,
            by_course=is_free(settings.solver, settings.times),
            density_plan=densities_of(settings.likelihood, settings.seed),
            correct=isinstance(settings, NetSettings) and settings.correct is not None,
        )
        facts = {chapter.kind: chapter.facts for chapter in story.tell(KINDS)}
        if not distributed.is_main():
            return
        steps, end = len(times) - 1, choice.end
        options = settings.recorded(
            **subject.known,
            steps=steps,
            h=end / steps,
            eps=recorded_eps(settings.eps, latent),
            device_name=str(device),
        )
        about = {"options": options, "end_time": end, "simulations": facts, **provenance()}
        save_json(parameters, {"format": PARAMETERS_FORMAT, **about})
        for path in (*paths.values(), parameters):
            logger.info(f"Wrote {path}")
        logger.info(describe(facts))


def describe(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """The most important numbers in words."""
    pairs = zip(facts["melt"]["end_variance"], facts["melt"]["closed_form_variance"], strict=True)
    ratios = ", ".join(f"{measured / exact:.3f}" for measured, exact in pairs)
    calls = sum(fact["denoiser_calls"] for fact in facts.values())
    seconds = sum(fact["seconds"] for fact in facts.values())
    likelihood = facts["melt"].get("likelihood")
    density = f" Mean log density: {likelihood['log_prob']['mean']:.4f} nats." if likelihood else ""
    return (
        f"Melted variances over their closed form: {ratios}. "
        f"Roundtrip error: {facts['roundtrip']['rms_error']:.1e} rms, "
        f"{facts['roundtrip']['max_abs_error']:.1e} at most. "
        f"{calls} denoiser calls in {seconds:.1f} s." + density
    )
