"""What a run goes on from: a training state, and the options that the run began with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dnnlib.errors import DataError
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.results import load_json
from torch_utils.snapshots import first_line, read_state, tensors_of
from training.flow.coordinates.coordinates import Coordinates
from training.flow.eigenbasis import EigenBasis
from training.learning.run_folder import (
    OPTIONS_NAME,
    folder_before_restart,
    is_restart,
    launch_id,
    launch_of,
    states_in,
)
from training.learning.trainer import COORDINATES
from training.model.network_file import read_basis


def place_to_resume(given: Path | None, outdir: Path | None, itself: bool) -> Path | None:
    """What a run goes on from: a folder or state, or None if it starts anew.

    Args:
        given: What the user says.
        outdir: Where the run's folder is made.
        itself: Whether ``outdir`` itself is the folder.

    Returns:
        What is given; but the run's folder, if torchrun has restarted it since it wrote a state.
    """
    if given is not None:
        folder = given if given.is_dir() else given.parent
        return folder if is_restart() and launch_of(folder) == launch_id() else given
    before = folder_before_restart(outdir, itself) if outdir else None
    return before if before and states_in(before) else None


def read_record(location: Path) -> dict[str, Any]:
    """What the run wrote about itself that a folder, or a state file in it, belongs to.

    Raises:
        DataError: There is no such run, or its record has no ``options``.
    """
    folder = location if location.is_dir() else location.parent
    if not location.exists():
        raise DataError(f"{location} does not exist: give a run's folder or training-state-*.pt")
    record = load_json(folder / OPTIONS_NAME)
    if not isinstance(record.get("options"), dict):
        raise DataError(f"{folder / OPTIONS_NAME} has no options of a run")
    return record


@dataclass(frozen=True)
class Resumed:
    """A training state to go on from."""

    path: Path
    state: dict[str, Any]

    @classmethod
    def find(cls, location: Path) -> "Resumed":
        """The state in a file, or the latest one in a run's folder that can be read.

        Raises:
            DataError: There is none.
        """
        if not location.is_dir():
            return cls(location, read_state(location))
        states = states_in(location)
        if not states:
            raise DataError(f"{location} has no training-state-*.pt to resume from")
        for path in reversed(states):
            try:
                return cls(path, read_state(path))
            except DataError as error:
                last_error = error
                if distributed.is_main():
                    logger.warning(f"Warning: {error}; looking for an older state")
        raise DataError(f"{location} has no state that can be read: {last_error}")

    @property
    def basis(self) -> EigenBasis:
        """The basis of the run, which is fitted only once."""
        try:
            state = tensors_of(self.state, "basis")
        except ValueError as error:
            raise DataError(f"{self.path} has no basis of its data: {error}") from error
        return read_basis(self.path, state)

    def take_coordinates(self, coordinates: Coordinates) -> None:
        """Gives coordinates what those of the run had.

        Args:
            coordinates: As they are fitted to the table that the run is said to be of.

        Raises:
            DataError: The run has others, or they are of another table.
        """
        try:
            saved = tensors_of(self.state, COORDINATES)
            fitted = {name: value.clone() for name, value in coordinates.state_dict().items()}
            coordinates.load_state_dict(saved)
            coordinates.check()
        except (ValueError, RuntimeError) as error:  # RuntimeError of torch, about other names
            raise DataError(
                f"{self.path} has no such coordinates of its table: {first_line(error)}"
            ) from error
        own = coordinates.state_dict()
        # Axes of equal variances may differ between machines; means and spreads do not.
        if any(
            not torch.allclose(own[name], value, rtol=1e-5)
            for name, value in fitted.items()
            if not name.endswith("axes")
        ):
            raise DataError(
                f"{self.path} is of another table than this one: give the table that the run "
                "began with"
            )

    @property
    def data_variance(self) -> Tensor:
        """What the preconditioning of the run counts on."""
        variance = self.state.get("data_variance")
        if not isinstance(variance, Tensor) or variance.shape != self.basis.eigenvalues.shape:
            raise DataError(f"{self.path} has no variance of its data")
        return variance
