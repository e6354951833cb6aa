"""Residuals of toys and of images: what their files say, and their correlations along the times."""

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.files import require_folder
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.array_rows import open_rows
from torch_utils.results import provenance, save_json
from training.files.residuals import FORMAT, Extraction, digest
from training.measure.correlations import Correlation, correlate
from training.measure.residuals import Extractor, Put
from training.model.model import Model


def extraction_of(
    model: Model, data_name: str, noise: str, times: Tensor, matters: Mapping[str, Any]
) -> Extraction:
    """What files of residuals say of themselves. ``matters`` are options that the numbers depend
    on, by name: files differ where these do. Raises UsageError if the times ``[T]`` do not
    increase."""
    if times[0] >= times[-1]:
        raise UsageError(
            f"T is {float(times[-1]):g}, but the first time is {float(times[0]):g}: give a later T"
        )
    schedule, kept = model.denoiser.schedule.name, int(model.about["dims_to_keep"])
    origin = digest({**matters, **model.about})
    return Extraction(data_name, schedule, noise, kept, times.numpy(), origin)


def result_bytes(names: Iterable[str], rows: int, columns: int) -> int:
    """Size of float32 arrays ``[rows, columns]`` of these names."""
    return 4 * len(list(names)) * rows * columns


def run_extraction(
    job: Extractor,
    writer: AbstractContextManager[Put],
    parameters: Path,
    origin: str,
    options: Mapping[str, Any],
    announcement: str,
) -> None:
    """Writes residuals and their parameters, the recorded options, with the digest that the files
    have, ``origin``. The announcement is logged before the work begins."""
    began = time.perf_counter()
    distributed.barrier()  # no rank writes before all have looked
    require_folder(parameters.parent)
    logger.info(announcement)
    with writer if distributed.is_main() else nullcontext() as put:
        calls = job.run(put)
    if distributed.is_main():
        seconds = time.perf_counter() - began
        facts = {"origin": origin, "denoiser_calls": calls, "seconds": seconds}
        save_json(parameters, {"format": FORMAT, "options": options, **facts, **provenance()})
        logger.info(
            f"Wrote residuals of {job.count} samples at {len(job.probe.times)} times to "
            f"{parameters.parent} in {seconds:.1f} s"
        )


def known_of(
    path: Path, extraction: Extraction, shape: tuple[int, ...], expected: Mapping[str, Any]
) -> dict[str, Any]:
    """What a file of residuals of shape ``(T, N, D)`` knows of T, N, D and the rest, by the names
    of options. Raises UsageError if an option that was expected, not None, contradicts the file,
    DataError if the file contradicts itself."""
    if len(extraction.times) != shape[0]:
        raise DataError(f"{path} has {len(extraction.times)} times, but residuals at {shape[0]}")
    known = {
        "data_name": extraction.data_name,
        "dims_to_keep": extraction.dims_to_keep,
        **dict(zip(("n_time_pts", "n_samples", "data_dim"), shape, strict=True)),
    }
    return {name: agree(name, value, known[name], path.name) for name, value in expected.items()}


def toy_correlations(
    path: Path, name: str, share: range, device: torch.device
) -> Iterator[tuple[int, Correlation]]:
    """The correlations at a share of the times, with their indices."""
    with open_rows(path, name) as rows:
        for index, slab in enumerate(rows.batches(1)):
            now = torch.tensor(slab[0], device=device)
            if index == 0:
                first = now
            if index in share:
                yield index, correlate([(first, now)], f"{path}: '{name}' at time {index}")


def row_pairs(
    first: Path, later: Path, name: str, size: int, device: torch.device
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same rows of two files, batch by batch."""
    with open_rows(first, name) as start, open_rows(later, name) as end:
        for pair in zip(start.batches(size), end.batches(size), strict=True):
            yield torch.tensor(pair[0], device=device), torch.tensor(pair[1], device=device)
