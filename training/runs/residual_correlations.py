"""Correlations of residuals in files: read row by row, and summed up over the times."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, agree
from torch_utils.array_rows import open_rows
from training.files.residuals import Extraction
from training.measure.correlations import Correlation, correlate


def known_of(
    path: Path, extraction: Extraction, shape: tuple[int, ...], said: Mapping[str, Any]
) -> dict[str, Any]:
    """What a file of residuals knows of T, N, D and the rest, by the names of options.

    Args:
        path: The file, for errors.
        extraction: What it says of itself.
        shape: ``(T, N, D)``.
        said: What was said of it, by the names of options; None for what was left out.

    Raises:
        UsageError: What was said contradicts the file.
        DataError: The file contradicts itself.
    """
    if len(extraction.times) != shape[0]:
        raise DataError(f"{path} has {len(extraction.times)} times, but residuals at {shape[0]}")
    known = {
        "data_name": extraction.data_name,
        "dims_to_keep": extraction.dims_to_keep,
        **dict(zip(("n_time_pts", "n_samples", "data_dim"), shape, strict=True)),
    }
    return {name: agree(name, value, known[name], path.name) for name, value in said.items()}


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
