"""Calls of a user's simulator, in worker processes that import nothing else of this project."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dnnlib.errors import in_one_line


def call_simulator(
    function: Callable[..., Any], rows: Tensor, seed: int, first: int, block: int
) -> tuple[int, np.ndarray | None, str]:
    """Call a simulator with a generator that depends only on the seed and the place of the rows.

    Args:
        function: Function from parameters ``[n, D]`` and a NumPy generator to data ``[n, K]``.
        rows: Parameters ``[n, D]``.
        seed: Random seed of all calls.
        first: Number of the first row.
        block: Number of rows per call.

    Returns:
        The number of the first row; data, or None after an exception; and the exception in words.
    """
    key = np.random.SeedSequence([seed, 1], spawn_key=(first // block,))
    try:
        values = function(rows, np.random.default_rng(key))
        return first, np.asarray(values, dtype=np.float64), ""
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        where = (frames[1:2] or frames)[0]  # the first is this one
        place = f"{Path(where.filename).name}, line {where.lineno}"
        return first, None, f"{type(error).__name__}: {in_one_line(str(error))} ({place})"
