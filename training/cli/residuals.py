"""Residuals of denoisers and their correlations.

These are the functions behind ``calc_net_residuals_autocorrelations.py``.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import UsageError, agree
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import open_arrays, provenance, save_json
from torch_utils.streams import Stream
from training.cli.shared import of_data_set, steps_and_end
from training.files import correlations, residuals
from training.flow.solvers import get_solver
from training.names import ALL_AT_ONCE, DEFAULT_SOLVER
from training.paper.residuals import (
    Autocorrelations,
    Correlation,
    Extractor,
    Put,
    ResidualProbe,
    correlate,
)
from training.settings.residuals import (
    IMAGES,
    CalcSettings,
    CalcToysSettings,
    ExtractSettings,
    ExtractToysSettings,
    NoiseOptions,
)
from training.subjects import ToyFlow
from training.subjects.subject import Source
from training.trained.network import TrainedNetwork

ROWS = 4 * ALL_AT_ONCE
"""Number of points of a toy per batch, over all ranks: a few network evaluations."""


def extracttoys(settings: ExtractToysSettings) -> None:
    """Write outputs and residuals of a toy network at all times."""
    network = TrainedNetwork.open(settings.network)
    subject = ToyFlow.of(network, settings.named("data_name", "data_dim", "dims_to_keep"))
    schedule = subject.flow.schedule
    _, end = steps_and_end(settings.n_time_pts - 1, settings.h, subject.t_max)
    if not schedule.t_min < end <= subject.t_max:
        raise UsageError(
            f"the last of {settings.n_time_pts} times is {end:g}, but {network.name} was "
            f"trained from {schedule.t_min:g} to T = {subject.t_max:g}: give other "
            "--n_time_pts or --h"
        )
    times = schedule.times(settings.n_time_pts - 1, end)
    names = residuals.QUANTITIES
    matters, count, noise = settings.matters(), settings.n_samples, settings.noise
    extraction = extraction_of(network, subject.data_name, noise.noise, times, matters)
    result = residuals.AT_ALL_TIMES.path(settings.save_dir, stem=extraction.stem)
    parameters = result.with_suffix(".json")
    require_new([result, parameters], settings.run.overwrite)
    size = result_bytes(names, len(times) * count, subject.dim)
    announcement = residuals.require_space(settings.save_dir, size)
    source = subject.source(None, count, noise.seed)
    with distributed.process_group(settings.run.device_name) as device:
        subject.flow.to(device)
        exact = subject.exact.to(device).denoiser
        probe = ResidualProbe(subject.on(device, ALL_AT_ONCE), times.to(device), exact)
        run_extraction(
            extractor(noise, probe, source, ROWS),
            residuals.residual_writer([result], names, count, subject.dim, extraction),
            parameters,
            extraction.origin,
            {**settings.recorded(device_name=str(device)), **subject.known},
            announcement,
        )


def extractor(noise: NoiseOptions, probe: ResidualProbe, source: Source, batch: int) -> Extractor:
    """Return the extractor of residuals at points, given the inputs of the network, in batches."""

    def read(rows: range) -> tuple[Tensor, dict[str, Tensor]]:
        samples = source.read(rows)
        return samples.points, {} if samples.labels is None else {"labels": samples.labels}

    solver = get_solver(DEFAULT_SOLVER) if noise.noise == "path" else None
    return Extractor(probe, read, len(source), batch, noise.seed, Stream.RESIDUAL_NOISE, solver)


def extract(settings: ExtractSettings) -> None:
    """Write outputs and residuals of an image or table network, one file per time."""
    network, folder = TrainedNetwork.open(settings.network), settings.save_dir
    subject = of_data_set(network, settings.named("dims_to_keep"), settings.data_name)
    times = subject.flow.schedule.times(settings.n_time_pts - 1, network.t_max)
    names, dim = residuals.QUANTITIES[:2], subject.dim
    wanted = subject.counted(settings.n_samples, IMAGES, settings.data_root)
    source = subject.source(settings.data_root, wanted, settings.noise.seed)
    count, block = len(source), settings.batch_gpu or subject.even_block
    matters, noise = {**settings.matters(), "n_samples": count}, settings.noise
    extraction = extraction_of(network, subject.data_name, noise.noise, times, matters)
    paths = [
        residuals.AT_ONE_TIME.path(folder, stem=extraction.stem, time=index)
        for index in range(len(times))
    ]
    parameters = folder / f"{extraction.stem}_net_outputs_residuals.json"
    require_new([*paths, parameters], settings.run.overwrite)
    announcement = residuals.require_space(folder, len(times) * result_bytes(names, count, dim))
    with distributed.process_group(settings.run.device_name) as device:
        probe = ResidualProbe(subject.on(device, block), times.to(device))
        run_extraction(
            extractor(noise, probe, source, settings.bs),
            residuals.residual_writer(paths, names, count, dim, extraction),
            parameters,
            extraction.origin,
            {**settings.recorded(device_name=str(device), n_samples=count), **subject.known},
            announcement,
        )


def calctoys(settings: CalcToysSettings) -> None:
    """Write correlations of residuals between the first time and all times, for a toy."""
    source = settings.res_root
    extraction = residuals.Extraction.read(source)
    shapes = residuals.saved_shapes(source, residuals.AT_ALL_TIMES)
    steps, count, dim = shapes["net_outputs"]
    known = known_of(source, extraction, (steps, count, dim), settings.expected())
    about = residuals.describe_extraction(extraction, source.with_suffix(".json"))
    folder, stem = settings.save_dir, extraction.stem
    result = correlations.AT_ALL_TIMES.path(folder, stem=stem)
    summary = correlations.SUMMARY.path(folder, stem=f"{stem}_toy")
    require_new([result, summary, summary.with_suffix(".json")], settings.run.overwrite)
    announcement = residuals.require_space(folder, result_bytes(shapes, steps * dim, dim))
    with distributed.process_group(settings.run.device_name) as device:
        began = begun(announcement, folder)
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
            correlations.save_correlations(result, extraction.times, arrays)
            options = settings.recorded(device_name=str(device), **known)
            made = {"extraction": about, "options": options, "seconds": perf_counter() - began}
            correlations.save_summary(summary, whole, extraction, count, made)


def calc(settings: CalcSettings) -> None:
    """Write correlations of residuals between the first time and all times, one file per time."""
    root, folder = settings.res_root, settings.save_dir
    first = residuals.find_first(root, settings.data_name, settings.dims_to_keep)
    extraction = residuals.Extraction.read(first)
    shapes = residuals.saved_shapes(first, residuals.AT_ONE_TIME)
    steps, (count, dim) = len(extraction.times), shapes["net_outputs"]
    known = known_of(first, extraction, (steps, count, dim), settings.expected())
    residuals.require_same(root, extraction, shapes)
    about = residuals.describe_extraction(
        extraction, root / f"{extraction.stem}_net_outputs_residuals.json"
    )
    stem = extraction.stem
    paths = [correlations.AT_ONE_TIME.path(folder, stem=stem, time=index) for index in range(steps)]
    summary = correlations.SUMMARY.path(folder, stem=stem)
    require_new([*paths, summary, summary.with_suffix(".json")], settings.run.overwrite)
    announcement = residuals.require_space(folder, steps * result_bytes(shapes, dim, dim))
    with distributed.process_group(settings.run.device_name) as device:
        began = begun(announcement, folder)
        share = range(steps)[distributed.shard(steps)]
        table = Autocorrelations(shapes, len(share), dim)
        for index in distributed.progress_bar(share, desc="correlations", unit="time"):
            later, arrays = residuals.AT_ONE_TIME.path(root, stem=stem, time=index), {}
            for name in shapes:
                pairs = row_pairs(first, later, name, settings.bs, device)
                correlation = correlate(pairs, f"{later}: '{name}'")
                table.put(name, index - share.start, correlation)
                arrays[name] = correlation.matrix.float().cpu().numpy()
            correlations.save_correlations(
                paths[index], np.asarray(extraction.times[index]), arrays
            )
        whole = table.gathered(steps, device)
        if distributed.is_main():
            options = settings.recorded(device_name=str(device), **known)
            made = {"extraction": about, "options": options, "seconds": perf_counter() - began}
            correlations.save_summary(summary, whole, extraction, count, made)


def begun(announcement: str, folder: Path) -> float:
    """Create the folder, log the announcement, and return the start time."""
    began = perf_counter()
    distributed.barrier()  # no rank writes before all ranks have checked
    require_folder(folder)
    logger.info(announcement)
    return began


def extraction_of(
    model: TrainedNetwork, data_name: str, noise: str, times: Tensor, matters: Mapping[str, Any]
) -> residuals.Extraction:
    """Return the description that files of residuals contain.

    Args:
        model: The model.
        data_name: Name of the data.
        noise: Kind of noise: independent or path.
        times: Times ``[T]``.
        matters: Options that the residuals depend on, by name, for the digest in the files.

    Raises:
        UsageError: The times do not increase.
    """
    if times[0] >= times[-1]:
        raise UsageError(
            f"T is {float(times[-1]):g}, but the first time is {float(times[0]):g}: give a larger T"
        )
    schedule, kept = model.denoiser.schedule.name, int(model.about["dims_to_keep"])
    origin = residuals.digest({**matters, **model.about})
    return residuals.Extraction(data_name, schedule, noise, kept, times.numpy(), origin)


def result_bytes(names: Iterable[str], rows: int, columns: int) -> int:
    """Return the size of float32 arrays ``[rows, columns]`` with these names."""
    return 4 * len(list(names)) * rows * columns


def run_extraction(
    job: Extractor,
    writer: AbstractContextManager[Put],
    parameters: Path,
    origin: str,
    options: Mapping[str, Any],
    announcement: str,
) -> None:
    """Write residuals and their parameters.

    Args:
        job: Extractor of the residuals.
        writer: Writer of the files.
        parameters: Path of the JSON of the parameters.
        origin: Digest that the files contain.
        options: Recorded options.
        announcement: Message that is logged before the work begins.
    """
    began = begun(announcement, parameters.parent)
    with writer if distributed.is_main() else nullcontext() as put:
        calls = job.run(put)
    if distributed.is_main():
        seconds = perf_counter() - began
        facts = {"origin": origin, "denoiser_calls": calls, "seconds": seconds}
        save_json(
            parameters,
            {"format": residuals.AT_ALL_TIMES.format, "options": options, **facts, **provenance()},
        )
        logger.info(
            f"Wrote residuals of {job.count} samples at {len(job.probe.times)} times to "
            f"{parameters.parent} in {seconds:.1f} s"
        )


def known_of(
    path: Path,
    extraction: residuals.Extraction,
    shape: tuple[int, ...],
    expected: Mapping[str, Any],
) -> dict[str, Any]:
    """Return T, N, D and further properties of a file of residuals, by the names of options.

    The residuals have the shape ``(T, N, D)``.

    Raises:
        UsageError: An expected option, unless None, contradicts the file.
    """
    known = {
        "data_name": extraction.data_name,
        "dims_to_keep": extraction.dims_to_keep,
        **dict(zip(("n_time_pts", "n_samples", "data_dim"), shape, strict=True)),
    }
    return {name: agree(name, value, known[name], path.name) for name, value in expected.items()}


def toy_correlations(
    path: Path, name: str, share: range, device: torch.device
) -> Iterator[tuple[int, Correlation]]:
    """Yield the correlations with the first time at some times, with the indices of the times."""
    with open_arrays(path) as saved:
        for index, slab in enumerate(saved.rows(name, 1)):
            now = torch.tensor(slab[0], device=device)
            if index == 0:
                first = now
            if index in share:
                yield index, correlate([(first, now)], f"{path}: '{name}' at time {index}")


def row_pairs(
    first: Path, later: Path, name: str, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield the same rows of two files, batch by batch."""
    with open_arrays(first) as start, open_arrays(later) as end:
        for pair in zip(start.rows(name, size), end.rows(name, size), strict=True):
            yield torch.tensor(pair[0], device=device), torch.tensor(pair[1], device=device)
