"""What a method gets, and what it gives."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulators.task import Task


@dataclass(frozen=True)
class Simulations:
    """Simulations of a task, and observations whose posteriors are wanted.

    Attributes:
        task: The task.
        theta: Parameters ``[N, D]``.
        data: Of these, ``[N, C]``.
        observed: Observations ``[M, C]``.
        draws: How many are wanted of each posterior, S.
        seed: Of training and draws.
        folder: Where a method may leave files.
        numbers: Of the observations that are wanted, from 1 on, for a method that takes one after
            the other; None for all.
    """

    task: Task
    theta: np.ndarray
    data: np.ndarray
    observed: np.ndarray
    draws: int
    seed: int
    folder: Path
    numbers: list[int] | None = None


@dataclass(frozen=True)
class Estimate:
    """Posteriors of the observations.

    Attributes:
        draws: ``[M, S, D]``, NaN for observations that were not wanted.
        train_seconds: Of the CPU.
        draw_seconds: Of the CPU, for all observations.
        about: More of it, to be kept beside the results.
    """

    draws: np.ndarray
    train_seconds: float
    draw_seconds: float
    about: dict[str, Any] = field(default_factory=dict)
