"""Settings of ``posterior.py rounds``."""

from dataclasses import dataclass
from pathlib import Path

import click

from dnnlib.errors import UsageError
from dnnlib.files import require_there
from training.names import UNIFORM
from training.options.declared import Declared, option, options_of
from training.options.inference import DRAWS
from training.options.shared import DeviceOptions, save_dir, seed
from training.options.train import TableOptions
from training.options.training import TrainingOptions
from training.options.types import COUNT, FILE, Ranges

FEWEST = 50
"""Simulations of a round."""


@dataclass(frozen=True, kw_only=True)
class RoundsSettings(Declared):
    """Options of ``rounds``."""

    save_dir: Path = save_dir()
    simulator: str = option(
        required=True,
        help="FILE.py:function, data [N, K] of parameters [N, D] and a NumPy generator to draw by; "
        "rows of numbers that are not finite are simulations that failed.",
    )
    prior: str = option(
        default=UNIFORM,
        help="Of the parameters: uniform between --bounds, or FILE.py:function, parameters [N, D] "
        "of a number N and a NumPy generator.",
    )
    bounds: tuple[tuple[str, float, float], ...] | None = option(
        type=Ranges(),
        unset="none: with a prior of your own, parameters are called theta1, theta2, ...",
        help="Names of the parameters, in the order of the simulator, with what they cannot leave",
    )
    observation: Path = option(
        type=FILE, required=True, help="What was observed: a table of one row, K numbers."
    )
    rounds: int = option(type=COUNT, default=4, help="Rounds at most.")
    simulations: int = option(
        type=click.IntRange(min=FEWEST),
        default=10_000,
        help="Simulations of all rounds together, which have equal shares.",
    )
    chains: int = option(type=COUNT, default=4, help="Chains that draws are written as.")
    draws: int = option(type=COUNT, default=DRAWS, help="Of each chain.")
    seed: int = seed("all random numbers")
    run: DeviceOptions = options_of(DeviceOptions)
    training: TrainingOptions = options_of(TrainingOptions)
    table: TableOptions = options_of(TableOptions)

    def __post_init__(self) -> None:
        require_there(self.observation)
        if self.simulations < FEWEST * self.rounds:
            raise UsageError(
                f"--simulations={self.simulations} are {self.simulations // self.rounds} for each "
                f"of {self.rounds} rounds: give {FEWEST} for each, or fewer --rounds"
            )
        if self.prior != UNIFORM:
            return
        for name, low, high in self.bounds or ():
            if not high - low < float("inf"):
                raise UsageError(
                    f"--prior={UNIFORM} is between two bounds, and '{name}' has one: give "
                    f"{name}:LOW:HIGH, or a prior of your own, FILE.py:function"
                )
        if not self.bounds:
            raise UsageError(
                f"--prior={UNIFORM} goes with --bounds=NAME:LOW:HIGH, a range for each parameter"
            )
