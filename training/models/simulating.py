"""Simulations of a user's simulator for parameters from a prior, on one process or many.

A simulator is a function from parameters ``[n, D]`` and a NumPy generator to data ``[n, K]``. Call
i gets the rows ``i block, ..., (i + 1) block - 1`` and a generator that is seeded by the seed and i
alone, so that data depend neither on the number of processes nor on their order. With the block 1,
each simulation has its own generator. Processes are those of joblib: within
``joblib.parallel_config(backend="dask")`` they are the workers of a Dask cluster.
"""

from pathlib import Path
from time import monotonic

import numpy as np
import torch
from joblib import Parallel, delayed

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder
from dnnlib.logs import logger
from dnnlib.numbers import natural
from dnnlib.warned import warn
from torch_utils.calls import call_simulator
from training.files.simulator_runs import SimulatorRuns
from training.inference.likelihoods import UserFunction
from training.models.checkpoint import fingerprint, progress

SAVE_EVERY = 30.0
"""Seconds between two writes of a file of unfinished simulations."""


def run_simulator(
    program: UserFunction,
    points: torch.Tensor,
    seed: int,
    workers: int,
    block: int,
    width: int | None = None,
    path: Path | None = None,
    overwrite: bool = False,
) -> tuple[np.ndarray, dict[int, str]]:
    """Simulate data of parameters.

    Args:
        program: Simulator.
        points: Parameters ``[N, D]``, float64.
        seed: Random seed.
        workers: Number of processes; -1 for one per core.
        block: Number of rows per call.
        width: Number K of simulated values per row; None for any.
        path: File that gets the simulations and continues them; None for no file.
        overwrite: Whether a file of other simulations is replaced.

    Returns:
        Simulated data ``[N, K]``, NaN where the simulator raised an exception, and the exceptions
        by row.

    Raises:
        UsageError: The file has other simulations.
        DataError: Data have an unexpected shape, or all simulations failed.
    """
    count, block = len(points), natural("block", block) or 1
    options = {"function": program.name, "token": program.token, "seed": seed, "block": block}
    identity = fingerprint(options, None, [], [program.path] if program.token is None else [])
    none = np.zeros(count, dtype=bool)
    runs = SimulatorRuns(identity, points.numpy(), None, none, {})
    if path is not None and path.exists():
        runs = _continued(path, runs, overwrite)

    def save() -> None:
        assert path is not None
        require_folder(path.parent)  # not before there is something to save
        runs.save(path)

    left = [first for first in range(0, count, block) if not runs.done[first]]
    calls = (
        delayed(call_simulator)(program.function, points[first : first + block], seed, first, block)
        for first in left
    )
    # None is 1 process, or the number of a joblib.parallel_config.
    pool = Parallel(n_jobs=None if workers == 1 else workers, return_as="generator_unordered")
    begun, saved = f"Running {count:,} simulations", monotonic()
    with progress(begun, "simulations", len(left) * block, "simulation") as move:
        try:
            for first, values, message in pool(calls):
                rows = slice(first, min(first + block, count))
                if values is not None:
                    values = _checked(program, values, rows.stop - first, width)
                    width = values.shape[1]
                    if runs.data is None:
                        runs.data = np.full((count, width), np.nan)
                    runs.data[rows] = values
                else:
                    runs.failures |= dict.fromkeys(range(first, rows.stop), message)
                runs.done[rows] = True
                move(block)
                if path is not None and monotonic() - saved > SAVE_EVERY:
                    save()
                    saved = monotonic()
        finally:
            if path is not None and runs.done.any():
                save()
    if len(runs.failures) == count > 0 or runs.data is None:
        raise DataError(f"{program}: all {count:,} simulations failed: {runs.failures[0]}")
    if runs.failures:
        first, message = min(runs.failures.items())
        warn(
            "failed-simulations",
            f"{len(runs.failures):,} of {count:,} simulations raised an exception, for "
            f"example number {first}: {message}",
        )
    return runs.data, dict(sorted(runs.failures.items()))


def _continued(path: Path, runs: SimulatorRuns, overwrite: bool) -> SimulatorRuns:
    """Return the simulations in a file, or new ones if it has others that may be replaced.

    Raises:
        UsageError: The file has other simulations.
        DataError: The file is broken.
    """
    there = SimulatorRuns.load(path)
    if there.identity != runs.identity or not np.array_equal(there.parameters, runs.parameters):
        if overwrite:
            return runs
        raise UsageError(
            f"{path} has simulations of another simulator (token), prior, count, seed or block: "
            "give another path, or remove the file"
        )
    logger.info(f"{int(there.done.sum()):,} simulations exist already in {path}")
    return there


def _checked(
    program: UserFunction, values: np.ndarray, count: int, width: int | None
) -> np.ndarray:
    """Return simulated data ``[count, K]``.

    Raises:
        DataError: The data have another shape.
    """
    shape = list(values.shape)
    if values.ndim < 2 and values.size and (count == 1 or shape == [count]):
        values = values.reshape(count, -1)
    if values.ndim != 2 or len(values) != count or values.shape[1] != (width or values.shape[1]):
        raise DataError(
            f"{program} returned {shape} for {count} row(s) of parameters: the function must "
            f"return data [{count}, {width or 'K'}]"
        )
    return values
