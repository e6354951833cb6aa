"""Objects that stand behind options of several scripts.

They are networks, base distributions, solvers and times.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from dnnlib.errors import UsageError
from dnnlib.files import require_folder, require_new
from torch_utils import distributed
from training.flow.solvers import Solver, get_solver
from training.models.integration_settings import TimeChoice
from training.names import DEFAULT_STEPS
from training.settings.shared import (
    MAX_STEPS,
    ImageTimeOptions,
    SolverOptions,
    ToyTimeOptions,
)
from training.subjects import Subject, open_subject, require_data_set
from training.trained.network import TrainedNetwork


def solver_of(options: SolverOptions) -> Solver:
    """Return the ODE solver that the options select."""
    return get_solver(options.solver)


def toy_times(options: ToyTimeOptions, t_max: float, network: str | None = None) -> TimeChoice:
    """Return the time grid of a toy's simulation, up to ``steps * h`` or ``t_max``.

    Args:
        options: Options as given.
        t_max: Default for the end time T.
        network: Name in messages of the network that was trained up to ``t_max``; None if nothing
            was trained, so that T may be later.

    Raises:
        UsageError: There are too many times, or the network was not trained up to the last.
    """
    steps, end = steps_and_end(options.steps, options.h, t_max)
    if network is not None and end > t_max:
        raise UsageError(
            f"steps times h is {end:g}, but {network} was trained up to T = {t_max:g}: give "
            "fewer steps or a smaller h"
        )
    return TimeChoice(steps, end)


def steps_and_end(steps: int | None, h: float | None, t_max: float) -> tuple[int, float]:
    """Return the number of steps and the end time T: ``steps * h``, or ``t_max``.

    If only a step size is given, it must divide ``t_max``, so that T is exactly ``t_max``.
    """
    if steps is not None and steps > MAX_STEPS:
        raise UsageError(f"--steps is {steps}: give at most {MAX_STEPS}")
    if h is None:
        return steps or DEFAULT_STEPS, t_max
    if steps is None:
        if t_max / h > MAX_STEPS:
            raise UsageError(f"h is {h:g}, which makes more than {MAX_STEPS} steps up to {t_max:g}")
        steps = max(1, math.floor(t_max / h * (1 + 1e-9)))
        if not math.isclose(steps * h, t_max, rel_tol=1e-9):
            raise UsageError(
                f"--h={h:g} does not divide T = {t_max:g}: add --steps={steps} to end at "
                f"T = {steps * h:g}, or leave --h out"
            )
    end = steps * h
    # 7.01 and 701 * 0.01 are the same time.
    return steps, t_max if math.isclose(end, t_max, rel_tol=1e-9) else end


def last_time(options: ImageTimeOptions, t_max: float, network: str) -> float:
    """Return the end time T that the options select, for a network trained up to ``t_max``.

    Raises:
        UsageError: The network was not trained up to T.
    """
    if options.end_time is not None and options.end_time > t_max * (1 + 1e-9):
        raise UsageError(
            f"--end_time is {options.end_time:g}, but {network} was trained up to T = "
            f"{t_max:g}: give a smaller time"
        )
    return min(options.end_time or t_max, t_max)


def image_times(options: ImageTimeOptions, network: TrainedNetwork) -> TimeChoice:
    """Return the times of a simulation of images or a table; see ``toy_times``.

    Raises:
        UsageError: The network was not trained up to the last time, or the first is not before it.
    """
    end = last_time(options, network.t_max, network.name)
    choice = TimeChoice(options.n_iters or DEFAULT_STEPS, end, options.first)
    choice.times(network.denoiser.schedule)
    return choice


def of_data_set(
    network: TrainedNetwork, expected: dict[str, object], data_name: str | None = None
) -> Subject:
    """Return the subject of a network file: images, or rows without conditions.

    Raises:
        UsageError: Options contradict the network, or its rows have conditions.
        DataError: The file is of a toy, or broken.
    """
    require_data_set(network)
    return open_subject(network, expected, data_name).require_unconditional()


def reserve(files: Sequence[Path], overwrite: bool) -> None:
    """Check on all ranks that files of results may be written, and create their folders.

    Raises:
        UsageError: A file exists, and must not be replaced.
        DataError: A folder cannot be created.
    """
    require_new(list(files), overwrite)
    for folder in {file.parent for file in files}:
        require_folder(folder)
    distributed.barrier()  # no rank writes before all ranks have checked


def remove_parts(folder: Path) -> None:
    """Remove the folder of finished groups, after the results are written."""
    distributed.barrier()
    if distributed.is_main():
        shutil.rmtree(folder, ignore_errors=True)
