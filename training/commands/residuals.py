"""Residuals of denoisers and their correlations: what
``calc_net_residuals_autocorrelations.py`` runs."""

from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from training.data.images.batches import normalize_pixels
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
from training.options.residuals import (
    IMAGES,
    TOY_BLOCK,
    CalcSettings,
    CalcToysSettings,
    ExtractSettings,
    ExtractToysSettings,
)
from training.runs.extraction import result_bytes, run_extraction
from training.runs.networks import NetworkFile
from training.runs.residual_correlations import (
    known_of,
    row_pairs,
    toy_correlations,
)
from training.runs.subjects import Subject, subject_of
from training.runs.tables import TableFlow
from training.runs.toys import ToyFlow, toy_points


def extracttoys(settings: ExtractToysSettings) -> None:
    """Write outputs and residuals of a toy's network."""
    subject = ToyFlow.trained(settings.chosen_network())
    assert subject.file is not None
    file, toy, schedule = subject.file, subject.toy, subject.flow.schedule
    end = settings.end(schedule.t_min, subject.t_max, file.name)
    times = schedule.times(settings.n_time_pts - 1, end)
    names = QUANTITIES if settings.exact else QUANTITIES[:2]
    count = settings.n_samples
    choice = settings.noise.chosen(count, settings.bs)
    extraction = choice.describe(file.model, toy.name, times, settings.matters())
    result = toy_file(settings.save_dir, extraction.stem)
    parameters = result.with_suffix(".json")
    require_new([result, parameters], settings.run.overwrite)
    size = result_bytes(names, len(times) * count, toy.dim)
    announcement = require_space(settings.save_dir, size)
    points = toy_points(toy, count, settings.noise.seed)
    with process_group(settings.run.device_name) as device:
        subject.flow.to(device)
        exact = subject.exact_counterpart().to(device).denoiser if settings.exact else None
        probe = ResidualProbe(subject.flow.in_blocks(TOY_BLOCK), times.to(device), exact)
        run_extraction(
            choice.extractor(probe, lambda rows: (points[rows.start : rows.stop], {})),
            toy_writer(result, names, count, toy.dim, extraction),
            parameters,
            extraction.origin,
            {**settings.recorded(device_name=str(device)), **subject.known},
            announcement,
        )


def extract(settings: ExtractSettings) -> None:
    """Write outputs and residuals of a network of images or of a table, one file a time."""
    network = settings.chosen_network()
    file = NetworkFile.open(network)
    subject, block = subject_of(file, network, settings.data_name), settings.calls.batch_gpu
    model, folder = subject.model, settings.save_dir
    time_choice = settings.chosen_times(file.t_max, file.name)
    times = time_choice.even(model.denoiser.schedule)(settings.n_time_pts - 1)
    names, dim = QUANTITIES[:2], model.denoiser.basis.dim
    count, read = samples_of(settings, subject)
    if isinstance(subject, TableFlow):
        block = block or TOY_BLOCK
    choice = settings.noise.chosen(count, settings.bs)
    matters = {**settings.matters(), "n_samples": count}
    extraction = choice.describe(model, subject.data_name, times, matters)
    paths = [time_file(folder, extraction.stem, index) for index in range(len(times))]
    parameters = folder / f"{extraction.stem}_net_outputs_residuals.json"
    require_new([*paths, parameters], settings.run.overwrite)
    announcement = require_space(folder, len(times) * result_bytes(names, count, dim))
    with process_group(settings.run.device_name) as device:
        probe = ResidualProbe(subject.on(device, block), times.to(device))
        known = {name: subject.known[name] for name in ("data_name", "data_dim", "dims_to_keep")}
        run_extraction(
            choice.extractor(probe, read),
            time_writer(paths, names, count, dim, extraction),
            parameters,
            extraction.origin,
            settings.recorded(
                device_name=str(device), end_time=time_choice.end, n_samples=count, **known
            ),
            announcement,
        )


def samples_of(settings: ExtractSettings, subject: Subject) -> tuple[int, Source]:
    """How many images or rows there are, and what reads them by number."""
    seed = settings.noise.seed
    if isinstance(subject, TableFlow):
        rows, _ = subject.rows(settings.data_root, settings.n_samples, seed)
        points = subject.dithered(rows, seed)
        return len(points), lambda rows: (points[rows.start : rows.stop], {})
    count = settings.n_samples or IMAGES
    dataset = subject.dataset(settings.data_root, count, seed)

    def read(rows: range) -> tuple[Tensor, dict[str, Tensor]]:
        if not rows:
            return torch.empty(0, dataset.dim), {}
        pixels, labels = dataset.read(rows)
        conditions = {"labels": labels} if subject.label_dim else {}
        return normalize_pixels(pixels).flatten(1), conditions

    return count, read


def calctoys(settings: CalcToysSettings) -> None:
    """Correlate the residuals of a toy's network with those of the first time."""
    source = settings.res_root
    extraction = Extraction.read(source)
    shapes = saved_shapes(source, axes=3)
    steps, count, dim = shapes["net_outputs"]
    known = known_of(source, extraction, (steps, count, dim), settings.said())
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
            for index, found in toy_correlations(source, name, share, device):
                table.put(name, index - share.start, found)
                matrices[index - share.start] = found.matrix
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
    known = known_of(first, extraction, (steps, count, dim), settings.said())
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
        hidden = None if distributed.is_main() else True
        for index in tqdm(share, desc="correlations", unit="time", disable=hidden):
            later, arrays = time_file(root, stem, index), {}
            for name in shapes:
                pairs = row_pairs(first, later, name, settings.bs, device)
                found = correlate(pairs, f"{later}: '{name}'")
                table.put(name, index - share.start, found)
                arrays[name] = found.matrix.float().cpu().numpy()
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
