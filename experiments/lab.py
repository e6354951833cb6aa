"""What experiments share: networks that are trained once, and distances of samples."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.two_sample import mean_distance
from training import Model

FOLDER = Path(__file__).parent.parent / "out" / "evidence"


def trained(key: str, train: Callable[[], Model]) -> Model:
    """Return the model of a key, which is trained now unless an earlier run did."""
    path = FOLDER / f"paper-{key}.pkl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        train().save(path)
    return Model.load(path)


def energy(first: Tensor, second: Tensor) -> float:
    """Return the unbiased energy distance of two samples ``[n, D]`` and ``[m, D]``.

    Without the distance of a point from itself it is 0 on average for samples of one distribution,
    and so can be negative.
    """
    inner = sum(mean_distance(x, x) * len(x) / (len(x) - 1) for x in (first, second))
    return 2 * mean_distance(first, second) - inner


def generator(*seeds: int) -> torch.Generator:
    """Return a generator that is seeded by several numbers."""
    return torch.Generator().manual_seed(
        sum(seed * 1000**place for place, seed in enumerate(seeds))
    )
