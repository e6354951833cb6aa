"""The files of ``calc_roundtrip_mse.py``: errors in a JSON, the worst images in an ``.npz``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torch_utils.results import save_arrays, save_json
from training.measure.roundtrip import RoundtripErrors

FORMAT = "inflationary-flows roundtrip errors 1"
ROWS_FORMAT = "inflationary-flows roundtrip errors of rows 1"
WORST_FORMAT = "inflationary-flows worst roundtrips 1"
ERROR_NAMES = ("mse", "mse_float", "max_abs_error", "exact")
"""Of the columns of ``RoundtripErrors``."""
BIN_EDGES = torch.logspace(-6, 3, 46, dtype=torch.float64)
"""Of the histogram of errors, in gray levels: five to a decade, the same for every run."""


def roundtrip_paths(folder: Path, stem: str, seed: int) -> tuple[Path, Path]:
    """The JSON and the ``.npz``.

    Args:
        folder: Where they go.
        stem: Name of the data and the schedule.
        seed: Seed of the choice of images.
    """
    name = f"{stem}_roundtrip_mse_seed{seed}"
    return folder / f"{name}.json", folder / f"{name}_worst.npz"


def save_worst(
    path: Path,
    errors: RoundtripErrors,
    worst: Mapping[str, Tensor],
    image_shape: tuple[int, int, int],
) -> None:
    """Writes the worst images, and the errors of all.

    Args:
        path: The ``.npz``.
        errors: Of all images.
        worst: ``indices``, ``originals``, ``returned``, ``latents`` and perhaps ``labels`` of the
            worst ``[k, ...]``.
        image_shape: ``(C, H, W)``.
    """
    arrays = {**worst, "image_shape": torch.tensor(image_shape)}
    for name, column in zip(ERROR_NAMES, errors.columns().unbind(dim=1), strict=True):
        arrays |= {name: column[worst["indices"]], f"all_{name}": column}
    plain = {name: tensor.numpy() for name, tensor in arrays.items()}
    save_arrays(path, {**plain, "format": np.array(WORST_FORMAT)})


def save_errors(path: Path, errors: RoundtripErrors, about: Mapping[str, Any]) -> None:
    """Writes the errors, their histogram, and what is known about how they came to be."""
    found = {**errors.summary(), "rms_error_histogram": histogram(errors.mse_float.sqrt())}
    save_json(path, {"format": FORMAT, **found, **about})


def histogram(values: Tensor) -> dict[str, Any]:
    """Counts of values ``[N]`` between ``BIN_EDGES``, and of those outside.

    A value on an edge belongs to the bin above it; zeros are below all.
    """
    places = torch.bucketize(values, BIN_EDGES, right=True)
    below, *counts, above = places.bincount(minlength=len(BIN_EDGES) + 1).tolist()
    edges = BIN_EDGES.tolist()
    return {"unit": "gray levels", "edges": edges, "counts": counts, "below": below, "above": above}
