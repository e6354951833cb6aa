"""Melts, roundtrips and generations of toys: what ``toy_pfODE_int.py`` runs."""

from collections.abc import Mapping
from typing import Any

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import provenance, save_json
from training.files.trajectory import PARAMETERS_FORMAT
from training.names import KINDS
from training.options.latents import latent_choice, recorded_eps
from training.options.toys import ClosedFormSettings, NetSettings
from training.runs.times import TimeChoice
from training.runs.toys import ToyFlow, ToyStory


def net(settings: NetSettings) -> None:
    """Integrate with a trained network."""
    subject = ToyFlow.trained(settings.chosen_network())
    assert subject.file is not None
    times = settings.times.chosen(subject.t_max, subject.file.name, settings.store_grid)
    simulate("net", subject, times, settings)


def discrete(settings: ClosedFormSettings) -> None:
    """Integrate with a finite set of points that stands for the data."""
    count, seed = settings.total_samples, settings.seed
    subject = ToyFlow.discrete(settings.chosen_toy(), count, seed)
    simulate("discrete", subject, settings.times.chosen(subject.t_max), settings)


def exact(settings: ClosedFormSettings) -> None:
    """Integrate with the toy's own denoiser, known in closed form."""
    subject = ToyFlow.exact(settings.chosen_toy())
    simulate("exact", subject, settings.times.chosen(subject.t_max), settings)


def simulate(
    mode: str, subject: ToyFlow, choice: TimeChoice, settings: NetSettings | ClosedFormSettings
) -> None:
    """Runs the three simulations one after the other and writes each as it ends."""
    folder, stem = settings.save_dir, f"{subject.stem}_{mode}"
    paths = {kind: folder / f"{stem}_{kind}_results.npz" for kind in KINDS}
    parameters = folder / f"{stem}_sim_params.json"
    kept, flow, file = subject.dims_to_keep, subject.flow, subject.file
    latent = latent_choice(settings.eps).settled(flow, choice.end, kept)
    flow = latent.on(flow)
    solver = settings.solver.chosen()
    with process_group(settings.run.device_name) as device:
        require_new([*paths.values(), parameters], settings.run.overwrite)
        times = choice.settle(flow.to(device), solver, file)
        require_folder(folder)
        distributed.barrier()  # no rank writes before all have looked
        story = ToyStory(
            flow=flow,
            times=times,
            solver=solver,
            dims_to_keep=kept,
            latent=latent,
            count=settings.total_samples,
            seed=settings.seed,
            paths=paths,
            save_every=settings.save_freq,
            likelihood=settings.likelihood.chosen(settings.seed),
            network_sha256=file.model.digest() if file else None,
            toy=subject.toy,
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
        for path in paths.values():
            logger.info(f"Wrote {path}")
        save_json(
            parameters,
            {
                "format": PARAMETERS_FORMAT,
                "options": options,
                "end_time": end,
                "simulations": facts,
                **provenance(),
            },
        )
        logger.info(f"Wrote {parameters}")
        logger.info(describe(facts))


def describe(facts: Mapping[str, Mapping[str, Any]]) -> str:
    """The most important numbers in words."""
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
