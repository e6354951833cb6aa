"""Parts of an unfinished run: the draws of one group of observations, which the run goes on from.

M observations, C chains, S draws, D coordinates, ``dim`` variables.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np
import torch

from dnnlib.errors import DataError
from torch_utils.results import load_arrays, save_arrays
from training.inference.draws import Draws
from training.inference.summary import LEVELS, REASONS, Summary

STAT, SUMMARY = "stat_", "summary_"
"""How names of arrays begin that a sampler's statistics have, and a summary's."""
DENSITY = "log_density"
"""The array of densities, where the posterior's own are known."""
OWN = ("w", "points", "log_likelihood", "calls")


def save_part(path: Path, draws: Draws, summary: Summary, fingerprint: str) -> None:
    """Writes the draws of one group of observations."""
    density = {} if draws.log_density is None else {DENSITY: draws.log_density}
    arrays = {
        **{name: getattr(draws, name) for name in OWN},
        **density,
        **{f"{STAT}{name}": values for name, values in draws.stats.items()},
        **{f"{SUMMARY}{item.name}": getattr(summary, item.name) for item in fields(Summary)},
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
    summaries = [f"{SUMMARY}{item.name}" for item in fields(Summary)]
    arrays = load_arrays(path, ["fingerprint", "sampler", *OWN, *summaries])
    texts = {name: arrays.pop(name) for name in ("fingerprint", "sampler")}
    if any(values.dtype.kind != "U" for values in texts.values()):
        raise _broken(path, "the name of the run or of a sampler is no text")
    if str(texts["fingerprint"]) != fingerprint:
        return None
    _check(path, arrays, texts["sampler"])
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    w, points, log_likelihood, calls = (tensors[name] for name in OWN)
    stats = {
        name.removeprefix(STAT): values for name, values in tensors.items() if name.startswith(STAT)
    }
    sampler = [str(name) for name in texts["sampler"]]
    summary = Summary(*(tensors[name] for name in summaries))
    return Draws(w, points, log_likelihood, sampler, calls, stats, tensors.get(DENSITY)), summary


def _check(path: Path, arrays: Mapping[str, np.ndarray], sampler: np.ndarray) -> None:
    """Raises DataError unless all arrays are of one group of observations."""
    points = arrays["points"]
    if points.ndim != 4 or arrays["w"].ndim != 4:
        raise _broken(path, "draws have another number of axes")
    count, dim = points.shape[0], points.shape[3]
    shapes = {"w": (*points.shape[:3], arrays["w"].shape[3]), "points": points.shape}
    shapes |= {"log_likelihood": points.shape[:3], "calls": (count,)}
    shapes |= {DENSITY: points.shape[:3]}
    shapes |= {f"{SUMMARY}quantiles": (count, dim, len(LEVELS))}
    shapes |= {f"{SUMMARY}failed": (count, len(REASONS))}
    for name, values in arrays.items():
        wanted = shapes.get(name, (count, dim) if name.startswith(SUMMARY) else (count,))
        kind = "b" if name == f"{SUMMARY}failed" else "f"
        if values.shape != wanted or values.dtype.kind != kind or not values.dtype.isnative:
            raise _broken(path, f"'{name}' is not of {list(wanted)} numbers")
    if sampler.shape != (count,):
        raise _broken(path, f"there are not {count} samplers")


def _broken(path: Path, why: str) -> DataError:
    return DataError(f"{path} is broken, {why}: remove it, and run again")
