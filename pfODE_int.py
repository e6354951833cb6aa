"""Integrates the probability-flow ODE of images: melt, roundtrip from a melt's end, and gen."""

from typing import Any

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import load_json, provenance, save_json
from training.files.trajectory import PARAMETERS_FORMAT, SavedEnd
from training.measure.roundtrip import LEVELS_PER_UNIT
from training.settings.declared import takes
from training.settings.pfode_int import Settings
from training.settings.script import command, run_script
from training.simulation.image_story import ImageStory
from training.simulation.images import ImageFlow
from training.simulation.story import Chapter


@command(help=__doc__)
@takes(Settings)
def main(settings: Settings) -> None:
    network, folder = settings.network, settings.save_dir
    image_flow = ImageFlow.open(network.chosen(), network.data_name)
    image_flow.check_class(settings.class_)
    model, kept = image_flow.model, image_flow.dims_to_keep
    latent = settings.latent().settled(kept, model.denoiser.basis.dim)
    choice = settings.chosen_times(image_flow.file.t_max, image_flow.file.name)
    solver = settings.solver.chosen()
    choice.even(model.denoiser.schedule)
    paths = {kind: folder / f"{image_flow.stem}_{kind}.npz" for kind in settings.kinds}
    parameters = folder / f"{image_flow.stem}_HD_pfODE_int_sim_params.json"
    with process_group(settings.run.device_name) as device:
        require_new(list(paths.values()), settings.run.overwrite)
        require_folder(folder)
        recorded = load_json(parameters) if parameters.exists() else {}
        distributed.barrier()  # no rank writes before all have looked
        data = None
        if settings.data_root is not None:
            data = image_flow.dataset(settings.data_root, settings.bs, settings.seed)
        flow = image_flow.on(device, network.batch_gpu)
        times = image_flow.times(flow, solver, choice)
        story = ImageStory(
            flow=flow,
            times=times,
            solver=solver,
            dims_to_keep=kept,
            latent=latent,
            count=settings.bs,
            seed=settings.seed,
            paths=paths,
            save_every=settings.save_freq,
            likelihood=settings.likelihood.chosen(settings.seed, LEVELS_PER_UNIT),
            network_sha256=model.digest(),
            image_flow=image_flow,
            data=data,
            start_noise=settings.start_noise,
            class_number=settings.class_,
        )
        melted = None
        if settings.prev_melt is not None:
            melted = SavedEnd.load(settings.prev_melt, flow, times, story.network_sha256)
            story.check_labels(melted)
        options = settings.recorded(
            **image_flow.known,
            end_time=choice.end,
            n_iters=len(times) - 1,
            eps=settings.recorded_eps(latent),
            device_name=str(device),
        )
        for chapter in story.tell(settings.kinds, melted):
            if not distributed.is_main():
                continue
            # Simulations of earlier runs stay in the parameters.
            recorded["format"] = PARAMETERS_FORMAT
            recorded[chapter.kind] = {"options": options, **chapter.facts, **provenance()}
            save_json(parameters, recorded)
            logger.info(f"Wrote {paths[chapter.kind]}")
            report(chapter, kept)


def report(chapter: Chapter, kept: int) -> None:
    """Tells the most important numbers."""
    facts: dict[str, Any] = dict(chapter.facts)
    if chapter.kind == "melt":
        ratios = facts["kept_variance_ratio"]
        logger.info(
            f"Variances of {kept} kept dimensions over their closed form: mean "
            f"{ratios['mean']:.3f}, farthest from 1 {ratios['worst']:.3f}"
        )
        if "likelihood" in facts:
            bits = facts["likelihood"]["bits_per_dim"]["mean"]
            logger.info(f"Bits per dimension of the dequantized images: {bits:.3f}")
    if chapter.kind == "roundtrip":
        logger.info(
            f"Roundtrip: {facts['exact_pixels']:.4%} of the pixels exact, largest error "
            f"{facts['max_abs_error']:.2g} gray levels"
        )


if __name__ == "__main__":
    run_script(main)
