"""Melts, roundtrips and generations of images or tables: what ``pfODE_int.py`` runs."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import load_json, provenance, save_json
from training.data.images.dataset import ImageDataset
from training.files.rows import save_csv
from training.files.trajectory import PARAMETERS_FORMAT, SavedEnd
from training.flow.likelihood import LOG_PROB_ERROR
from training.measure.roundtrip import LEVELS_PER_UNIT
from training.options.pfode_int import Settings
from training.runs.image_story import ImageStory
from training.runs.images import ImageFlow
from training.runs.networks import NetworkFile
from training.runs.story import Chapter
from training.runs.subjects import Subject, subject_of
from training.runs.tables import TableFlow, TableStory

FEWEST_SAMPLES = 1000
"""Of a table, beside fewer rows that are melted: pictures and ranks want many."""


def run(settings: Settings) -> None:
    network, folder, choice = settings.network, settings.save_dir, settings.network.chosen()
    file = NetworkFile.open(choice)
    settings.require_kind(file.is_table)
    subject = subject_of(file, choice, network.data_name)
    if isinstance(subject, ImageFlow):
        subject.check_class(settings.class_)
    model, kept = subject.model, subject.dims_to_keep
    times_choice = settings.chosen_times(file.t_max, file.name)
    latent = settings.latent().settled(model.flow, times_choice.end, kept)
    solver = settings.solver.chosen()
    times_choice.even(model.denoiser.schedule)
    paths = {kind: folder / f"{subject.stem}_{kind}.npz" for kind in settings.kinds}
    parameters = folder / f"{subject.stem}_HD_pfODE_int_sim_params.json"
    csv = [settings.csv] if settings.csv else []
    with process_group(settings.run.device_name) as device:
        require_new([*paths.values(), *csv], settings.run.overwrite)
        data = data_of(settings, subject)
        require_folder(folder)
        recorded = load_json(parameters) if parameters.exists() else {}
        distributed.barrier()  # no rank writes before all have looked
        flow = latent.on(subject.on(device, network.batch_gpu))
        times = subject.times(flow, solver, times_choice)
        story = story_of(
            settings,
            subject,
            data,
            flow=flow,
            times=times,
            solver=solver,
            dims_to_keep=kept,
            latent=latent,
            seed=settings.seed,
            paths=paths,
            save_every=settings.save_freq,
            network_sha256=model.digest(),
        )
        melted = None
        if settings.prev_melt is not None:
            melted = SavedEnd.load(settings.prev_melt, flow, times, story.network_sha256)
            if isinstance(story, ImageStory):
                story.check_labels(melted)
        options = settings.recorded(
            **subject.known,
            bs=story.count,
            end_time=times_choice.end,
            n_iters=len(times) - 1,
            eps=settings.recorded_eps(latent),
            device_name=str(device),
        )
        for chapter in story.tell(settings.kinds, melted):
            if distributed.is_main():
                # Simulations of earlier runs stay in the parameters.
                recorded["format"] = PARAMETERS_FORMAT
                recorded[chapter.kind] = {"options": options, **chapter.facts, **provenance()}
                save_json(parameters, recorded)
                logger.info(f"Wrote {paths[chapter.kind]}")
                report(chapter, kept, file.is_table)
                if isinstance(subject, TableFlow) and chapter.kind == settings.csv_kind:
                    write_rows(settings, subject, chapter)


Data = ImageDataset | tuple[Tensor, Tensor] | None


def data_of(settings: Settings, subject: Subject) -> Data:
    """The images to melt, or the rows ``[N, D]`` and their numbers ``[N]``; None if none are."""
    if settings.data_root is None:
        return None
    if isinstance(subject, ImageFlow):
        return subject.dataset(settings.data_root, settings.count, settings.seed)
    return subject.rows(settings.data_root, settings.bs, settings.seed)


def story_of(
    settings: Settings, subject: Subject, data: Data, **common: Any
) -> ImageStory | TableStory:
    """What is to be simulated.

    Args:
        settings: Of the script.
        subject: The network.
        data: What is melted.
        common: What all stories take.
    """
    if isinstance(subject, ImageFlow):
        return ImageStory(
            image_flow=subject,
            data=data if isinstance(data, ImageDataset) else None,
            count=settings.count,
            start_noise=settings.start_noise,
            class_number=settings.class_,
            likelihood=settings.likelihood.chosen(settings.seed, LEVELS_PER_UNIT),
            **common,
        )
    rows = data if isinstance(data, tuple) else None
    count = max(len(rows[0]), FEWEST_SAMPLES) if rows and settings.bs is None else settings.count
    return TableStory(
        table_flow=subject,
        rows=rows,
        count=count,
        likelihood=settings.likelihood.chosen(settings.seed),
        **common,
    )


def write_rows(settings: Settings, subject: TableFlow, chapter: Chapter) -> None:
    """Writes the rows of a simulation as a table, with their log densities if these are known."""
    assert settings.csv is not None
    flow, simulation = subject.model.flow, chapter.simulation
    points, drawn = simulation.points(flow).cpu(), chapter.kind == "gen"
    names, values = subject.as_source(points, settings.round, drawn)
    columns = [values, *(found[:, None].cpu() for found in simulation.densities.values())]
    save_csv(settings.csv, [*names, *simulation.densities], torch.cat(columns, dim=1))
    logger.info(f"Wrote {settings.csv}")


def report(chapter: Chapter, kept: int, table: bool) -> None:
    """Tells the most important numbers."""
    if chapter.kind == "melt":
        ratios = chapter.facts["kept_variance_ratio"]
        logger.info(
            f"Variances of {kept} kept dimensions over their closed form: mean "
            f"{ratios['mean']:.3f}, farthest from 1 {ratios['worst']:.3f}"
        )
    (report_rows if table else report_images)(chapter.kind, chapter.facts)


def error_of_single(facts: Mapping[str, Any]) -> str:
    """What is said of single rows."""
    if LOG_PROB_ERROR not in facts:
        return "traces are exact"
    return f"those of single rows are off by {facts[LOG_PROB_ERROR]['rms']:.2g} ({LOG_PROB_ERROR})"


def report_images(kind: str, facts: Mapping[str, Any]) -> None:
    if kind == "melt" and "likelihood" in facts:
        bits = facts["likelihood"]["bits_per_dim"]["mean"]
        logger.info(f"Bits per dimension of the dequantized images: {bits:.3f}")
    if kind == "roundtrip":
        logger.info(
            f"Roundtrip: {facts['exact_pixels']:.4%} of the pixels exact, largest error "
            f"{facts['max_abs_error']:.2g} gray levels"
        )


def report_rows(kind: str, facts: Mapping[str, Any]) -> None:
    if kind == "melt":
        p_value = facts["latent_coverage"]["ks_p_value"]
        logger.info(f"Radii of the rows' latents against chi-squared: p = {p_value:.3g}")
    if kind == "melt" and "likelihood" in facts:
        found = facts["likelihood"]["log_prob"]
        error = found["standard_error"] or 0.0
        logger.info(
            f"Mean log density of the rows: {found['mean']:.3f} +- {error:.3f} nats; "
            f"{error_of_single(facts['likelihood'])}"
        )
    if kind == "roundtrip":
        logger.info(
            f"Roundtrip: root mean square error {facts['rms_error']:.2g}, largest "
            f"{facts['max_abs_error']:.2g}, in standard deviations"
        )
    if "density_ranks" in facts:
        ranks = facts["density_ranks"]
        logger.info(
            f"Ranks of the rows' log densities among those of samples: p = "
            f"{ranks['ks_p_value']:.3g} that they are even, mean {ranks['mean_rank']:.3f}"
        )
