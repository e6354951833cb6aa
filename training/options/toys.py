"""Options of toys, and the settings of ``toy_pfODE_int.py``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.options.common import RunOptions, save_dir, seed
from training.options.declared import Declared, option, options_of
from training.options.integration import SolverOptions, ToyTimeOptions
from training.options.latents import eps
from training.options.likelihood import LikelihoodOptions
from training.options.networks import (
    KNOWN,
    calibration,
    check_storage,
    end_vars,
    network,
    store_grid,
)
from training.options.schedules import InflationOptions, augment_to, toy_name
from training.options.types import COUNT


@dataclass(frozen=True, kw_only=True)
class _Simulating(Declared):
    """What the simulations of toys have in common."""

    save_dir: Path = save_dir()
    total_samples: int = option(type=COUNT, default=2000, help="Samples of each simulation.")
    eps: str | None = eps("Law of generation's latents", melt=True)
    end_vars: float = end_vars()
    save_freq: int = option(type=COUNT, default=5, help="Steps between saved states.")
    seed: int = seed("the data and the latents")
    solver: SolverOptions = options_of(SolverOptions)
    times: ToyTimeOptions = options_of(ToyTimeOptions)
    likelihood: LikelihoodOptions = options_of(LikelihoodOptions)
    run: RunOptions = options_of(RunOptions)


@dataclass(frozen=True, kw_only=True)
class NetSettings(_Simulating):
    """Options of ``net``."""

    network: str = network()
    data_name: str | None = toy_name(unset=KNOWN)
    augment_to: int | None = augment_to(unset=KNOWN)
    calibration: bool = calibration()
    store_grid: bool = store_grid()
    flow: InflationOptions = options_of(InflationOptions, unset=KNOWN)

    def __post_init__(self) -> None:
        check_storage(self.store_grid, self.times.disc, self.network)

    def expected(self) -> dict[str, Any]:
        """What the network is said to be, by name."""
        return {"data_name": self.data_name, "augment_to": self.augment_to, **self.flow.expected()}


@dataclass(frozen=True, kw_only=True)
class ClosedFormSettings(_Simulating):
    """Options of ``discrete`` and ``exact``."""

    data_name: str = toy_name(required=True)
    augment_to: int | None = augment_to()
    flow: InflationOptions = options_of(InflationOptions)
