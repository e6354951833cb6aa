"""Posteriors in files: draws as netCDF for ArviZ, numbers as JSON, and parts of an unfinished run.

The netCDF has ArviZ's groups: ``posterior`` with the points ``x`` and latents ``z`` ``[chain, draw,
observation, coordinate]``, ``sample_stats`` with ``log_likelihood [chain, draw, observation]``,
``observed_data`` with ``y [observation, number]``, and ``constant_data`` with what samplers say.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import fields
from math import ceil
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.files import atomic_path
from torch_utils.results import load_arrays, save_arrays
from training.inference.draws import Draws
from training.inference.summary import LEVELS, Summary
from training.measure.posterior.calibration import RunValues

FORMAT = "inflationary-flows posterior 1"
CHECK_FORMAT = "inflationary-flows posterior check 1"
MOST_LISTED = 2000
"""Numbers of a kind up to which the JSON lists them for each observation."""


def save_part(path: Path, draws: Draws, summary: Summary, fingerprint: str) -> None:
    """Writes the draws of one group of observations."""
    arrays = {
        "w": draws.w,
        "points": draws.points,
        "log_likelihood": draws.log_likelihood,
        "calls": draws.calls,
        **{f"stat_{name}": values for name, values in draws.stats.items()},
        **{f"summary_{item.name}": getattr(summary, item.name) for item in fields(Summary)},
    }
    numbers = {name: values.cpu().numpy() for name, values in arrays.items()}
    texts = {"sampler": np.array(draws.sampler), "fingerprint": np.array(fingerprint)}
    save_arrays(path, numbers | texts)


def load_part(path: Path, fingerprint: str) -> tuple[Draws, Summary] | None:
    """What ``save_part`` wrote, if it is of the same run; None if there is nothing, or another's.

    Raises:
        DataError: The file is broken.
    """
    if not path.exists():
        return None
    arrays = load_arrays(path, ["fingerprint", "sampler"])
    if str(arrays.pop("fingerprint")) != fingerprint:
        return None
    sampler = [str(name) for name in arrays.pop("sampler")]
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    try:
        own = ("w", "points", "log_likelihood", "calls")
        w, points, found, calls = (tensors[name] for name in own)
        summary = Summary(*(tensors[f"summary_{item.name}"] for item in fields(Summary)))
    except KeyError as error:
        raise DataError(f"{path} lacks {error}: remove it, and run again") from error
    stats = {
        name.removeprefix("stat_"): values
        for name, values in tensors.items()
        if name.startswith("stat_")
    }
    return Draws(w, points, found, sampler, calls, stats), summary


def save_netcdf(
    path: Path,
    parts: Iterator[tuple[Draws, Tensor]],
    shape: tuple[int, int, int, int],
    names: Sequence[str],
    observed: Tensor | None,
    attributes: dict[str, Any],
) -> None:
    """Writes draws group by group, so that memory holds one, whole or not at all.

    Args:
        path: The file.
        parts: Draws of each group of observations in order, and their latents ``[m, C, S, D]``.
        shape: Chains, draws, observations and coordinates.
        names: Of the coordinates.
        observed: ``[M, K]``; None where the likelihood keeps its own.
        attributes: Plain values about the run.
    """
    sizes = dict(zip(("chain", "draw", "observation", "coordinate"), shape, strict=True))
    with atomic_path(path) as temporary, h5netcdf.File(temporary, "w") as file:
        file.attrs["format"] = FORMAT
        file.attrs["about"] = json.dumps(attributes, default=str)
        posterior = _group(file, "posterior", sizes, names)
        stats = _group(file, "sample_stats", {k: sizes[k] for k in list(sizes)[:3]}, None)
        constant = _group(file, "constant_data", {"observation": sizes["observation"]}, None)
        points = posterior.create_variable("x", tuple(sizes), "f8")
        latents = posterior.create_variable("z", tuple(sizes), "f8")
        found = stats.create_variable("log_likelihood", tuple(sizes)[:3], "f8")
        calls = constant.create_variable("network_calls", ("observation",), "f8")
        first = 0
        for draws, z in parts:
            rows = slice(first, first + draws.count)
            points[:, :, rows] = _chains_first(draws.points)
            latents[:, :, rows] = _chains_first(z)
            found[:, :, rows] = _chains_first(draws.log_likelihood)
            calls[rows] = draws.calls.numpy()
            for name, values in draws.stats.items():
                if name not in constant.variables:
                    variable = constant.create_variable(name, ("observation",), "f8")
                    variable[:] = np.full(sizes["observation"], np.nan)
                constant.variables[name][rows] = values.cpu().numpy()
            first += draws.count
        if observed is not None:
            seen = {"observation": observed.shape[0], "number": observed.shape[1]}
            group = _group(file, "observed_data", seen, None)
            group.create_variable("y", tuple(seen), "f8")[:] = observed.cpu().numpy()


def _group(
    file: h5netcdf.File, name: str, sizes: dict[str, int], names: Sequence[str] | None
) -> h5netcdf.Group:
    """A group with its dimensions, each numbered, or named where it is the last of points."""
    group = file.create_group(name)
    group.dimensions = sizes
    for dimension, size in sizes.items():
        if dimension == "coordinate" and names is not None:
            variable = group.create_variable(dimension, (dimension,), h5py.string_dtype())
            variable[:] = np.array(list(names), dtype=object)
        else:
            variable = group.create_variable(dimension, (dimension,), "i8")
            variable[:] = np.arange(size)
    return group


def _chains_first(values: Tensor) -> np.ndarray:
    """``[m, C, S, ...]`` as ``[C, S, m, ...]``."""
    return values.cpu().movedim(0, 2).numpy()


def overview(draws: Draws, summary: Summary, names: Sequence[str]) -> dict[str, Any]:
    """What the JSON says of all posteriors, and of each if they are few.

    Args:
        draws: Their samplers, calls and statistics; draws themselves are not looked at.
        summary: Of all observations.
        names: Of the coordinates.
    """
    r_hat, bulk = summary.r_hat, summary.ess_bulk
    known = r_hat[~r_hat.isnan()]
    samplers = {name: draws.sampler.count(name) for name in sorted(set(draws.sampler))}
    found: dict[str, Any] = {
        "observations": draws.count,
        "coordinates": list(names),
        "samplers": samplers,
        "network_calls": float(draws.calls.sum()),
        "converged": int(summary.converged.sum()),
        "r_hat": None
        if not len(known)
        else {
            "largest": _number(known.max()),
            "quantile_90": _number(known.sort().values[ceil(0.9 * len(known)) - 1]),
        },
        "ess_bulk": {"smallest": _number(bulk.min()), "median": _number(bulk.median())},
        "ess_tail": {"smallest": _number(summary.ess_tail.min())},
    }
    if summary.mean.numel() <= MOST_LISTED:
        found["posteriors"] = [_listed(draws, summary, index) for index in range(draws.count)]
    return found


def _listed(draws: Draws, summary: Summary, index: int) -> dict[str, Any]:
    def plain(values: Tensor) -> Any:
        return [_number(value) for value in values[index]]

    names = ("mean", "std", "r_hat", "ess_bulk", "ess_tail", "mcse_mean", "mcse_std")
    quantiles = {
        f"{level:g}": summary.quantiles[index, :, place].tolist()
        for place, level in enumerate(LEVELS)
    }
    stats = {name: _number(values[index]) for name, values in draws.stats.items()}
    return {
        "sampler": draws.sampler[index],
        "converged": bool(summary.converged[index]),
        **{name: plain(getattr(summary, name)) for name in names},
        "quantiles": quantiles,
        "statistics": stats,
    }


def _number(value: Tensor) -> float | None:
    """None for NaN and infinities, which JSON does not have."""
    return float(value) if value.isfinite() else None


def save_values(path: Path, values: RunValues, fingerprint: str) -> None:
    """Writes what a check keeps of its runs."""
    arrays = {
        "names": np.array(values.names),
        "ranks": values.ranks.cpu().numpy(),
        "crps": values.scores.cpu().numpy(),
        "region_names": np.array(list(values.regions)),
        "regions": torch.stack(list(values.regions.values())).cpu().numpy(),
        "fingerprint": np.array(fingerprint),
    }
    save_arrays(path, arrays)


def load_values(path: Path, fingerprint: str | None = None) -> RunValues | None:
    """What ``save_values`` wrote; None if there is nothing, or if it is of another run.

    Raises:
        DataError: The file is broken.
    """
    if not path.exists():
        return None
    wanted = ["names", "ranks", "crps", "region_names", "regions", "fingerprint"]
    arrays = load_arrays(path, wanted)
    if fingerprint is not None and str(arrays["fingerprint"]) != fingerprint:
        return None
    regions = dict(
        zip(arrays["region_names"].tolist(), torch.from_numpy(arrays["regions"]), strict=True)
    )
    return RunValues(
        tuple(arrays["names"].tolist()),
        torch.from_numpy(arrays["ranks"]),
        regions,
        torch.from_numpy(arrays["crps"]),
    )
