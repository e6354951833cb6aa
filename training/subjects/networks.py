"""Network files: kind of data, known settings, and the time grid that they may store."""

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

IN_MEMORY = Path("model")
"""Path of a model that is in no file, for messages."""
STORED = "time_grid"
"""Key of the stored time grid in the description of a network file."""


@dataclass(frozen=True)
class NetworkFile:
    """A network file and the model in it.

    Attributes:
        path: Path of the file.
        model: Model in the file.
    """

    path: Path
    model: Model

    @classmethod
    def open(
        cls,
        location: "str | Model",
        end_std: float = 1.0,
        calibrated: bool = True,
        precision: str = "fp32",
    ) -> "NetworkFile":
        """Open a network from a path or an https URL, or take a model in memory.

        Args:
            location: Path, URL or model.
            end_std: Standard deviation ``A0`` of the latents in dimensions that are not compressed.
            calibrated: Whether to use the calibration in the file, if any.
            precision: Floating-point type of the network, such as ``bf16``.

        Raises:
            DataError: The file is missing or broken.
        """
        if isinstance(location, Model):
            return cls(IN_MEMORY, location if calibrated else location.uncalibrated())
        path = local_file(location)
        model = Model.load(path, end_std=end_std, calibrated=calibrated)
        model.denoiser.precision = precision
        return cls(path, model)

    def stored(self) -> Model:
        """Return the model with its calibration, even if this run does not use the calibration."""
        return self.model if self.path == IN_MEMORY else Model.load(self.path)

    @property
    def name(self) -> str:
        """Name of the file, for messages."""
        return f"the network {self.path.name}"

    @property
    def kind(self) -> str:
        """Kind of the training data, a name in ``KINDS_OF_DATA``.

        Raises:
            DataError: The kind is missing or contradicts the model: only networks of tables and
                records have coordinates.
        """
        kind = self.model.about.get("kind")
        if kind not in KINDS_OF_DATA:
            raise DataError(
                f"{self.path}: unknown kind of data '{kind}', expected one of "
                f"{', '.join(KINDS_OF_DATA)}"
            )
        if (kind in (TABLE, RECORDS)) != (self.model.coordinates is not None):
            raise DataError(
                f"{self.path}: the kind of data '{kind}' does not match the model in the file"
            )
        return str(kind)

    def require_data_set(self) -> None:
        """Check that the network is not for a toy, whose points are in no data set.

        Raises:
            DataError: The network is for a toy.
        """
        if self.kind == TOY:
            raise DataError(
                f"{self.path} was trained on the toy '{self.model.about.get('data_name')}', "
                f"not on images or a table: use it with {script('toy_pfODE_int')}"
            )

    @property
    def t_max(self) -> float:
        """Largest time of the flow in the training of the network."""
        return float(self.model.about["tmax"])

    def as_subject(
        self, expected: Mapping[str, Any], typed: str | None, otherwise: str, known: dict[str, Any]
    ) -> dict[str, Any]:
        """Return constructor arguments for a ``Subject`` of this network.

        Args:
            expected: Options that the user gave, by name.
            typed: Name for results that the user gave, or None for the name of the network's data.
            otherwise: Name for results if the network's data has none.
            known: Values that the network file determines, by the names of options.

        Raises:
            UsageError: The name cannot be part of a file name, or an option contradicts a known
                value.
        """
        own = made_plain(self.known.get("data_name"), otherwise)
        known = {**known, "data_name": plain_name(typed) if typed else own}
        self.agreed(expected, {**self.known, **known})
        fields = {"data_name": known["data_name"], "t_max": self.t_max, "known": known}
        return {"flow": self.model.flow, "file": self, **fields}

    @property
    def known(self) -> dict[str, Any]:
        """Schedule and further settings in the file, by the names of options."""
        return {**self.model.recipe.schedule_arguments, **self.model.about}

    def agreed(self, expected: Mapping[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
        """Check the options that the user gave against known values, and return these values.

        Raises:
            UsageError: An option contradicts a known value; the message states both.
        """
        source = self.name
        return {
            name: agree(name, value, known.get(name), source) for name, value in expected.items()
        }

    def stored_grid(self, solver: Solver, times: Tensor) -> EqualErrorGrid | None:
        """Return the stored time grid if it is for this solver and these end times, else None.

        Raises:
            DataError: The stored grid is invalid.
        """
        match self.model.about.get(STORED):
            case None:
                return None
            case {"solver": str(name), "times": [_, _, *_] as values} if all(
                isinstance(value, float | int) for value in values
            ):
                grid = torch.tensor([float(value) for value in values], dtype=torch.float64)
            case _:
                raise DataError(
                    f"{self.path}: its '{STORED}' is damaged: the solver or the times are missing"
                )
        if not (grid.diff() > 0).all():
            raise DataError(f"{self.path}: its '{STORED}' is damaged: the times are not increasing")
        fits = torch.allclose(grid[[0, -1]], times[[0, -1]].to(grid), rtol=1e-9)
        return EqualErrorGrid(grid) if name == solver.name and fits else None

    def store_grid(self, grid: EqualErrorGrid, solver: Solver) -> None:
        """Rewrite the network file, with a time grid for a solver in it."""
        if distributed.is_main():
            # Load it again, since this run may have left the calibration out.
            model = self.stored()
            about = {STORED: {"solver": solver.name, "times": grid.times.tolist()}}
            dataclasses.replace(model, about={**model.about, **about}).save(self.path)
            logger.info(f"Stored the times in {self.path}")
        distributed.barrier()


LONGEST_NAME = 80
"""Largest number of letters in a name for results."""


def plain_name(name: object, option: str = "--data_name") -> str:
    """Return a name unchanged, after a check that it can be part of a file name.

    Raises:
        UsageError: The name has characters that are not allowed, or is too long.
    """
    if not (isinstance(name, str) and name == made_plain(name) != ""):
        raise UsageError(
            f"{option} is {name!r}: use up to {LONGEST_NAME} letters, digits and . _ + -"
        )
    return name


def made_plain(name: object, otherwise: str = "") -> str:
    """Convert a text to a name that can be part of a file name.

    The result is ``otherwise`` if no character is left.

    Example:
        >>> made_plain("my data"), made_plain("..", "table")
        ('my_data', 'table')
    """
    plain = re.sub(r"[^\w.+-]+", "_", str(name or ""))[:LONGEST_NAME]
    return plain if re.search(r"[^\W_]", plain) else otherwise
