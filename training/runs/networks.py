"""A network file that a script was given, and what is said of it on the command line."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, agree
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils import distributed
from training.flow.grids import EqualErrorGrid
from training.flow.solvers import Solver
from training.model.model import Model

STORED = "time_grid"
"""Name of a grid in what a network file says about itself."""


@dataclass(frozen=True)
class NetworkChoice:
    """Which network, how it is to be used, and what it is said to be.

    Attributes:
        network: A path or an https URL.
        said: What was said of it, by the names of options; None for what was left out.
        end_std: ``A0``, the standard deviation of kept latents.
        calibrated: Whether to use the calibration of a file that has one.
        precision: Of the network.
    """

    network: str
    said: Mapping[str, Any] = field(default_factory=dict)
    end_std: float = 1.0
    calibrated: bool = True
    precision: str = "fp32"


@dataclass(frozen=True)
class NetworkFile:
    """A network and its file, where a grid of times may be kept.

    Attributes:
        path: The file.
        model: What is in it.
    """

    path: Path
    model: Model

    @classmethod
    def open(cls, choice: NetworkChoice) -> "NetworkFile":
        """Raises DataError if the file is missing or broken."""
        path = local_file(choice.network)
        model = Model.load(path, end_std=choice.end_std, calibrated=choice.calibrated)
        model.denoiser.precision = choice.precision
        return cls(path, model)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the network {self.path.name}"

    @property
    def is_table(self) -> bool:
        """Whether it is a network of a table: these alone have coordinates."""
        return self.model.coordinates is not None

    @property
    def is_toy(self) -> bool:
        """Whether it is a network of a toy: these alone say in how many dimensions it lies. The
        name of a data set tells nothing, as images may be called after a toy."""
        return "augment_to" in self.model.about

    @property
    def t_max(self) -> float:
        """The last time of the training."""
        return float(self.model.about["tmax"])

    @property
    def known(self) -> dict[str, Any]:
        """The schedule and what else the file says, by the names of options."""
        return {**self.model.recipe.schedule_arguments, **self.model.about}

    def agreed(self, said: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        """What is known, by the names of what was said.

        Raises:
            UsageError: What was said contradicts it; the message states both values.
        """
        source = self.name
        return {name: agree(name, value, known.get(name), source) for name, value in said.items()}

    def stored_grid(self, solver: Solver, times: Tensor) -> EqualErrorGrid | None:
        """The grid in the file, if it is one of this solver over these times.

        Raises:
            DataError: What is in its place makes no sense.
        """
        stored = self.model.about.get(STORED)
        if stored is None:
            return None
        match stored:
            case {"solver": str(name), "times": [_, _, *_] as values}:
                plain = all(isinstance(value, float | int) for value in values)
            case _:
                plain = False
        if not plain:
            raise DataError(f"{self.path} holds a broken '{STORED}': no solver and times")
        found = torch.tensor([float(value) for value in values], dtype=torch.float64)
        if not (found.diff() > 0).all():
            raise DataError(f"{self.path} holds a broken '{STORED}': its times do not increase")
        fits = torch.allclose(found[[0, -1]], times[[0, -1]].to(found), rtol=1e-9)
        return EqualErrorGrid(found) if name == solver.name and fits else None

    def store_grid(self, grid: EqualErrorGrid, solver: Solver) -> None:
        """Writes the network file anew, with a grid in it."""
        if distributed.is_main():
            # Anew, since this run may have left the calibration out.
            model = Model.load(self.path)
            about = {STORED: {"solver": solver.name, "times": grid.times.tolist()}}
            dataclasses.replace(model, about={**model.about, **about}).save(self.path)
            logger.info(f"Stored the grid of times in {self.path}")
        distributed.barrier()


@dataclass(frozen=True)
class TrainedFlow:
    """A network that is to be integrated, and how its results are named.

    Attributes:
        file: The network and its file.
        data_name: Name of the data.
    """

    file: NetworkFile
    data_name: str

    @property
    def model(self) -> Model:
        return self.file.model

    @property
    def dims_to_keep(self) -> int:
        return int(self.model.about["dims_to_keep"])

    @property
    def stem(self) -> str:
        """How results are named."""
        return f"{self.data_name}_{self.model.denoiser.schedule.name}"
