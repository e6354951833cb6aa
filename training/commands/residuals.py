"""Residuals of denoisers and their correlations: what
``calc_net_residuals_autocorrelations.py`` runs."""

from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from training.commands.shared import last_time, of_data_set, solver_of, steps_and_end
from training.files.correlations import (
    save_correlations,
    save_summary,
    summary_files,
    time_correlations_file,
    toy_correlations_file,
)
from training.files.residuals import (
    QUANTITIES,
    Extraction,
    find_first,
    require_same,
    require_space,
    saved_shapes,
    time_file,
    time_writer,
    told_of,
    toy_file,
    toy_writer,
)
from training.measure.correlations import Autocorrelations, correlate
from training.measure.residuals import ResidualProbe, Source
from training.names import ALL_AT_ONCE
from training.options.residuals import (
    IMAGES,
    CalcSettings,
    CalcToysSettings,
    ExtractSettings,
    ExtractToysSettings,
    NoiseOptions,
)
from training.runs.residuals import (
    ExtractionChoice,
    known_of,
    result_bytes,
    row_pairs,
    run_extraction,
    toy_correlations,
)
from training.runs.times import TimeChoice
from training.subjects import NetworkFile, ToyFlow
from training.subjects.samples import Source as PointSource


def extracttoys(settings: ExtractToysSettings) -> None:
    """Write outputs and residuals of a toy's network."""
    file = NetworkFile.open(settings.network, calibrated=settings.calibration)
    subject = ToyFlow.of(file, settings.expected())
    schedule = subject.flow.schedule
    times = schedule.times(settings.n_time_pts - 1, end_of(settings, subject, file.name))
    names = QUANTITIES if settings.exact else QUANTITIES[:2]
    choice = extraction_choice(settings.noise, settings.n_samples, settings.bs)
    extraction = choice.describe(file.model, subject.data_name, times, settings.matters())
    result = toy_file(settings.save_dir, extraction.stem)
    parameters = result.with_suffix(".json")
    require_new([result, parameters], settings.run.overwrite)
    size = result_bytes(names, len(times) * choice.count, subject.dim)
    announcement = require_space(settings.save_dir, size)
    source = subject.source(None, choice.count, settings.noise.seed)
    with process_group(settings.run.device_name) as device:
        subject.flow.to(device)
        exact = subject.exact.to(device).denoiser if settings.exact else None
        probe = ResidualProbe(subject.on(device, ALL_AT_ONCE), times.to(device), exact)
        run_extraction(
            choice.extractor(probe, reader(source)),
            toy_writer(result, names, choice.count, subject.dim, extraction),
            parameters,
            extraction.origin,
            {**settings.recorded(device_name=str(device)), **subject.known},
            announcement,
        )


def end_of(settings: ExtractToysSettings, subject: ToyFlow, network: str) -> float:
    """The last time. Raises UsageError if the network was not trained so far."""
    t_min, t_max = subject.flow.schedule.t_min, subject.t_max
    _, end = steps_and_end(settings.n_time_pts - 1, settings.h, t_max)
    if not t_min < end <= t_max:
        raise UsageError(
            f"the last of {settings.n_time_pts} times is {end:g}, but {network} was trained from "
            f"{t_min:g} to T = {t_max:g}: give other --n_time_pts or --h"
        )
    return end


def extraction_choice(noise: NoiseOptions, count: int, batch: int) -> ExtractionChoice:
    """How so many residuals are extracted."""
    return ExtractionChoice(noise.noise, solver_of(noise.solver), count, batch, noise.seed)


def reader(source: PointSource) -> Source:
    """Reads points by number, with what the network is given."""

    def read(rows: range) -> tuple[Tensor, dict[str, Tensor]]:
        samples = source.read(rows)
        return samples.points, {} if samples.labels is None else {"labels": samples.labels}

    return read


def extract(settings: ExtractSettings) -> None:
    """Write outputs and residuals of a network of images or of a table, one file a time."""
    file = NetworkFile.open(
        settings.network, calibrated=settings.calibration, precision=settings.calls.precision
    )
    subject, folder = of_data_set(file, settings.expected(), settings.data_name), settings.save_dir
    end = last_time(settings.times, file.t_max, file.name)
    grid = TimeChoice(settings.n_time_pts - 1, end, settings.times.first)
    times = grid.even(subject.flow.schedule)(settings.n_time_pts - 1)
    names, dim = QUANTITIES[:2], subject.dim
    wanted = subject.counted(settings.n_samples, IMAGES, settings.data_root)
    source = subject.source(settings.data_root, wanted, settings.noise.seed)
    count, block = len(source), settings.calls.batch_gpu or subject.even_block
    choice = extraction_choice(settings.noise, count, settings.bs)
    matters = {**settings.matters(), "n_samples": count}
    extraction = choice.describe(file.model, subject.data_name, times, matters)
    paths = [time_file(folder, extraction.stem, index) for index in range(len(times))]
    parameters = folder / f"{extraction.stem}_net_outputs_residuals.json"
    require_new([*paths, parameters], settings.run.overwrite)
    announcement = require_space(folder, len(times) * result_bytes(names, count, dim))
    with process_group(settings.run.device_name) as device:
        probe = ResidualProbe(subject.on(device, block), times.to(device))
        known = {name: subject.known[name] for name in ("data_name", "data_dim", "dims_to_keep")}
        run_extraction(
            choice.extractor(probe, reader(source)),
            time_writer(paths, names, count, dim, extraction),
            parameters,
            extraction.origin,
            settings.recorded(device_name=str(device), end_time=end, n_samples=count, **known),
            announcement,
        )


def calctoys(settings: CalcToysSettings) -> None:
    """Correlate the residuals of a toy's network with those of the first time."""
    source = settings.res_root
    extraction = Extraction.read(source)
    shapes = saved_shapes(source, axes=3)
    steps, count, dim = shapes["net_outputs"]
    known = known_of(source, extraction, (steps, count, dim), settings.expected())
    about = told_of(extraction, source.with_suffix(".json"))
    folder, stem = settings.save_dir, extraction.stem
    result = toy_correlations_file(folder, stem)
    summaries = summary_files(folder, stem, toy=True)
    require_new([result, *summaries], settings.run.overwrite)
    announcement = require_space(folder, result_bytes(shapes, steps * dim, dim))
    with process_group(settings.run.device_name) as device:
        began = start_correlating(announcement, folder)
        share = range(steps)[distributed.shard(steps)]
        table = Autocorrelations(shapes, len(share), dim)
        arrays = {}
        for name in shapes:
            matrices = torch.zeros(len(share), dim, dim, device=device)
            for index, correlation in toy_correlations(source, name, share, device):
                table.put(name, index - share.start, correlation)
                matrices[index - share.start] = correlation.matrix
            arrays[name] = distributed.gather_rows(matrices, steps).cpu().numpy()
        whole = table.gathered(steps, device)
        if distributed.is_main():
            save_correlations(result, extraction.times, arrays)
            options = settings.recorded(device_name=str(device), **known)
            made = {"extraction": about, "options": options, "seconds": perf_counter() - began}
            save_summary(summaries, whole, extraction, count, made)


def calc(settings: CalcSettings) -> None:
    """Correlate the residuals of a network of images or a table with those of the first time."""
    root, folder = settings.res_root, settings.save_dir
    first = find_first(root, settings.data_name, settings.dims_to_keep)
    extraction = Extraction.read(first)
    shapes = saved_shapes(first, axes=2)
    steps, (count, dim) = len(extraction.times), shapes["net_outputs"]
    known = known_of(first, extraction, (steps, count, dim), settings.expected())
    require_same(root, extraction, shapes)
    about = told_of(extraction, root / f"{extraction.stem}_net_outputs_residuals.json")
    stem = extraction.stem
    paths = [time_correlations_file(folder, stem, index) for index in range(steps)]
    summaries = summary_files(folder, stem, toy=False)
    require_new([*paths, *summaries], settings.run.overwrite)
    announcement = require_space(folder, steps * result_bytes(shapes, dim, dim))
    with process_group(settings.run.device_name) as device:
        began = start_correlating(announcement, folder)
        share = range(steps)[distributed.shard(steps)]
        table = Autocorrelations(shapes, len(share), dim)
        for index in distributed.progress_bar(share, desc="correlations", unit="time"):
            later, arrays = time_file(root, stem, index), {}
            for name in shapes:
                pairs = row_pairs(first, later, name, settings.bs, device)
                correlation = correlate(pairs, f"{later}: '{name}'")
                table.put(name, index - share.start, correlation)
                arrays[name] = correlation.matrix.float().cpu().numpy()
            save_correlations(paths[index], np.asarray(extraction.times[index]), arrays)
        whole = table.gathered(steps, device)
        if distributed.is_main():
            options = settings.recorded(device_name=str(device), **known)
            made = {"extraction": about, "options": options, "seconds": perf_counter() - began}
            save_summary(summaries, whole, extraction, count, made)


def start_correlating(announcement: str, folder: Path) -> float:
    """Returns when that was."""
    began = perf_counter()
    distributed.barrier()  # no rank writes before all have looked
    require_folder(folder)
    logger.info(announcement)
    return began
