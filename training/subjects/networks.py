"""A network file: what it is of, what it knows, and the grid of times that may be kept in it."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError, agree
from dnnlib.logs import logger
from dnnlib.urls import local_file
from torch_utils import distributed
from training.flow.grids import EqualErrorGrid
from training.flow.solvers import Solver
from training.model.model import Model
from training.names import KINDS_OF_DATA, RECORDS, TABLE, TOY, script

STORED = "time_grid"
"""Name of a grid in what a network file says about itself."""


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
    def open(
        cls, location: str, end_std: float = 1.0, calibrated: bool = True, precision: str = "fp32"
    ) -> "NetworkFile":
        """Opens a network of a path or an https URL, with kept latents of standard deviation
        ``A0``, and its calibration, if it has one that is to be used. Raises DataError if the file
        is missing or broken."""
        path = local_file(location)
        model = Model.load(path, end_std=end_std, calibrated=calibrated)
        model.denoiser.precision = precision
        return cls(path, model)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"the network {self.path.name}"

    @property
    def kind(self) -> str:
        """What it is of, a name in ``KINDS_OF_DATA``. Raises DataError if the file says nothing, or
        what cannot be: networks of tables and records alone have coordinates."""
        kind = self.model.about.get("kind")
        if kind not in KINDS_OF_DATA:
            raise DataError(
                f"{self.path} says that its data are '{kind}': it should be one of "
                f"{', '.join(KINDS_OF_DATA)}"
            )
        if (kind in (TABLE, RECORDS)) != (self.model.coordinates is not None):
            raise DataError(f"{self.path} says that its data are '{kind}', which they are not")
        return str(kind)

    def require_data_set(self) -> None:
        """Raises DataError if it is of a toy, whose points are in no data set."""
        if self.kind == TOY:
            raise DataError(
                f"{self.path} was trained on the toy '{self.model.about.get('data_name')}', not on "
                f"images or a table: give it to {script('toy_pfODE_int')}"
            )

    @property
    def t_max(self) -> float:
        """The last time of the training."""
        return float(self.model.about["tmax"])

    def as_subject(
        self, expected: Mapping[str, Any], typed: str | None, otherwise: str, known: dict[str, Any]
    ) -> dict[str, Any]:
        """Fields of a ``Subject`` of it, of which so much is known. Results are called by what was
        typed, or the network's data, or something else. Raises UsageError if that cannot be part of
        a file's name, or what was said contradicts what is known."""
        own = made_plain(self.known.get("data_name"), otherwise)
        known = {**known, "data_name": plain_name(typed) if typed else own}
        self.agreed(expected, {**self.known, **known})
        fields = {"data_name": known["data_name"], "t_max": self.t_max, "known": known}
        return {"flow": self.model.flow, "file": self, **fields}

    @property
    def known(self) -> dict[str, Any]:
        """The schedule and what else the file says, by the names of options."""
        return {**self.model.recipe.schedule_arguments, **self.model.about}

    def agreed(self, expected: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        """What is known, by the names of what was said. Raises UsageError if what was said
        contradicts it; the message states both values."""
        source = self.name
        return {
            name: agree(name, value, known.get(name), source) for name, value in expected.items()
        }

    def stored_grid(self, solver: Solver, times: Tensor) -> EqualErrorGrid | None:
        """The grid in the file, if it is one of this solver over these times. Raises DataError if
        what is in its place makes no sense."""
        match self.model.about.get(STORED):
            case None:
                return None
            case {"solver": str(name), "times": [_, _, *_] as values} if all(
                isinstance(value, float | int) for value in values
            ):
                grid = torch.tensor([float(value) for value in values], dtype=torch.float64)
            case _:
                raise DataError(f"{self.path} holds a broken '{STORED}': no solver and times")
        if not (grid.diff() > 0).all():
            raise DataError(f"{self.path} holds a broken '{STORED}': its times do not increase")
        fits = torch.allclose(grid[[0, -1]], times[[0, -1]].to(grid), rtol=1e-9)
        return EqualErrorGrid(grid) if name == solver.name and fits else None

    def store_grid(self, grid: EqualErrorGrid, solver: Solver) -> None:
        """Writes the network file anew, with a grid in it."""
        if distributed.is_main():
            # Anew, since this run may have left the calibration out.
            model = Model.load(self.path)
            about = {STORED: {"solver": solver.name, "times": grid.times.tolist()}}
            dataclasses.replace(model, about={**model.about, **about}).save(self.path)
            logger.info(f"Stored the grid of times in {self.path}")
        distributed.barrier()


LONGEST_NAME = 80
"""Of what results are called by."""


def plain_name(name: object, option: str = "--data_name") -> str:
    """A name that may be part of a file's. Raises UsageError for any other."""
    if not (isinstance(name, str) and name == made_plain(name) != ""):
        raise UsageError(
            f"{option} is {name!r}: use up to {LONGEST_NAME} letters, digits and . _ + - only"
        )
    return name


def made_plain(name: object, otherwise: str = "") -> str:
    """What may be part of a file's name of any text; something else where nothing is left.

    Example:
        >>> made_plain("my data"), made_plain("..", "table")
        ('my_data', 'table')
    """
    plain = re.sub(r"[^\w.+-]+", "_", str(name or ""))[:LONGEST_NAME]
    return plain if re.search(r"[^\W_]", plain) else otherwise
