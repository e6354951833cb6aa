"""Files of correlations: the matrices of calctoys and calc, and the summary beside them.

A toy's file has ``net_outputs_acs`` and ``net_residuals_acs`` ``[T, D, D]`` at all times; an
image's file of one time has them ``[D, D]``. All are float32, in the order of the residuals.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dnnlib.logs import logger
from torch_utils.results import provenance, save_arrays, save_json
from training.files.residuals import Extraction
from training.measure.correlation_times import scatter_of
from training.measure.correlations import Autocorrelations

FORMAT = "inflationary-flows correlations 1"
SUMMARY_FORMAT = "inflationary-flows residual summary 1"


def toy_correlations_file(folder: Path, stem: str) -> Path:
    return folder / f"{stem}_toy_autocorrelations.npz"


def time_correlations_file(folder: Path, stem: str, index: int) -> Path:
    return folder / f"{stem}_autocorrelations_times0_{index}.npz"


def summary_files(folder: Path, stem: str, toy: bool) -> tuple[Path, Path]:
    """The ``.npz`` and the JSON.

    Args:
        folder: Where they are.
        stem: Name of the data and the schedule.
        toy: Whether they are of a toy.
    """
    path = folder / f"{stem}{'_toy' if toy else ''}_autocorrelations_summary.npz"
    return path, path.with_suffix(".json")


def save_correlations(path: Path, times: np.ndarray, matrices: Mapping[str, np.ndarray]) -> None:
    """Writes matrices by quantity.

    Args:
        path: The file.
        times: ``[T]`` with matrices ``[T, D, D]``, or ``[]`` with ``[D, D]``.
        matrices: By quantity.
    """
    arrays = {f"{name}_acs": matrix for name, matrix in matrices.items()}
    when = {"times" if times.ndim else "time": times}
    save_arrays(path, {**when, **arrays, "format": np.array(FORMAT)})


def save_summary(
    paths: tuple[Path, Path],
    table: Autocorrelations,
    extraction: Extraction,
    samples: int,
    made: Mapping[str, Any],
) -> None:
    """Writes the summary of all times, and tells the most important of it.

    Args:
        paths: ``summary_files``.
        table: Autocorrelations at all times.
        extraction: What the residuals are of.
        samples: Their number.
        made: What else the JSON is to say.
    """
    arrays, facts = table.summary(torch.from_numpy(extraction.times), samples)
    plain = {name: values.numpy() for name, values in arrays.items()}
    save_arrays(paths[0], {**plain, "format": np.array(SUMMARY_FORMAT)})
    told = {"noise": extraction.noise, "scatter": scatter_of(samples), "quantities": facts}
    save_json(paths[1], {"format": SUMMARY_FORMAT, **told, **made, **provenance()})
    logger.info(f"Wrote {paths[0].parent}, summary in {paths[0].name}")
    for name, found in facts.items():
        lasting, after = found["correlation_time"]["told"], found["mean_at_next_time"]
        logger.info(
            f"{name}, noise {extraction.noise}: correlation time {lasting} "
            f"(mean correlation with time 0 is {after:.3g} at the next time, "
            f"{found['mean_at_last_time']:.3g} at the last; {told['scatter']:.2g} may be chance)"
        )
