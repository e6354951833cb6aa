"""Run directory of a training: network files, states, options, and the state to resume from."""

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder
from dnnlib.logs import copy_log_to, logger
from torch_utils import distributed
from torch_utils.results import load_json, save_json
from torch_utils.snapshots import first_line, read_state, tensors_of, write_state
from torch_utils.stats import keep_lines_until
from training.flow.coordinates.coordinates import Coordinates
from training.flow.eigenbasis import EigenBasis
from training.learning.trainer import COORDINATES
from training.trained.network import TrainedNetwork, read_basis

OPTIONS_NAME = "training_options.json"
CHOSEN = "chosen"
"""Entry of the record with choices of the run that are no options; a resumed run keeps them."""
STATES = 2
"""Number of training states of a run that are kept; older states are deleted."""
FORMAT = "inflationary-flows training run 1"


@dataclass(frozen=True)
class Place:
    """Location of the directory of a new run.

    Attributes:
        outdir: Directory of runs.
        name: Name of the run directory, without its number.
        itself: Whether ``outdir`` itself is the run directory.
    """

    outdir: Path
    name: str
    itself: bool = False


class RunInMemory:
    """Run without files; it keeps the latest model.

    Attributes:
        model: Latest model, on the device of the training; None at the start.
    """

    path = None

    def __init__(self) -> None:
        self.model: TrainedNetwork | None = None

    def state_path(self, seen: int) -> Path:
        """Return the name of the state for messages."""
        return Path("the model in memory")

    def save_network(self, model: TrainedNetwork, seen: int, announced: bool = True) -> None:
        """Keep a copy of a model after ``seen`` samples."""
        self.model = copy.deepcopy(replace(model, about={**model.about, "seen": seen}))

    def save_state(self, state: Mapping[str, Any], seen: int) -> None:
        """Keep nothing: a run in memory cannot be resumed."""

    def change_duration(self, duration: float) -> None:
        """Keep nothing: a run in memory cannot be resumed."""


class RunFolder:
    """Directory of a run, with its files.

    Only the main rank writes; all ranks may use the file names.
    """

    def __init__(self, path: Path):
        self.path = path
        if distributed.is_main():
            copy_log_to(path / "log.txt")

    @classmethod
    def create(cls, place: Place, record: Mapping[str, Any]) -> "RunFolder":
        """Create ``outdir/00000-name`` with the next free number, or use ``outdir`` itself.

        Raises:
            UsageError: ``outdir`` itself was requested, and contains a run already.
        """
        outdir, name = place.outdir, place.name
        if Path(name).name != name:
            raise UsageError(
                f"desc gives the directory name '{name}', which contains /: give a desc without /"
            )
        chosen: list[Path | None] = [None]
        if distributed.is_main():
            require_folder(outdir)
            if place.itself and (outdir / OPTIONS_NAME).exists():
                raise UsageError(
                    f"{outdir} already contains a run: continue the run by --resume, or give "
                    "another --outdir"
                )
            path = outdir if place.itself else _claim(outdir, name)
            save_json(path / OPTIONS_NAME, _said(record))
            chosen = [path]
        if dist.is_initialized():
            dist.broadcast_object_list(chosen, src=0)
        assert chosen[0] is not None
        folder = cls(chosen[0])
        if not all(distributed.of_all_ranks((chosen[0] / OPTIONS_NAME).exists())):
            logger.warning(
                f"Warning: not all ranks find {chosen[0]}: only the first node has the results of "
                "the run. To restart or resume it, give an --outdir that all nodes share"
            )
        return folder

    @classmethod
    def reopen(cls, path: Path, seen: int) -> "RunFolder":
        """Open a run directory to continue a run from one of its training states.

        Later statistics are dropped, since the run will write them again. Old states are removed,
        as after a save, in case the run was killed before their removal.

        Args:
            path: Run directory.
            seen: Number of samples of the state.
        """
        folder = cls(path)
        if distributed.is_main():
            folder._remove_old_states(folder.state_path(seen))
            keep_lines_until(path / "stats.jsonl", seen)
        distributed.barrier()
        return folder

    def update_record(self, record: Mapping[str, Any]) -> bool:
        """Write new content to ``training_options.json`` of a run that continues.

        Returns:
            Whether the content changed.
        """
        path = self.path / OPTIONS_NAME
        before, now = load_json(path), _said(record)
        distributed.barrier()  # wait until all ranks have read
        if distributed.is_main() and before != now:
            save_json(path, now)
        return before != now

    def change_duration(self, duration: float) -> None:
        """Record a new length of the training, million samples, which a resumed run will have."""
        if distributed.is_main():
            record = load_json(self.path / OPTIONS_NAME)
            record["options"]["duration"] = duration
            save_json(self.path / OPTIONS_NAME, record)

    def network_path(self, seen: int) -> Path:
        """Return the path of the network file after ``seen`` samples."""
        return self.path / f"network-snapshot-{seen // 1000:06d}.pkl"

    def state_path(self, seen: int) -> Path:
        """Return the path of the training state after ``seen`` samples."""
        return self.path / f"training-state-{seen // 1000:06d}.pt"

    def save_network(self, model: TrainedNetwork, seen: int, announced: bool = True) -> None:
        """Write the network file of a model after ``seen`` samples, and log it if announced."""
        if distributed.is_main():
            about = {**model.about, "seen": seen}
            replace(model, about=about).save(self.network_path(seen))
            if announced:
                logger.info(f"Wrote {self.network_path(seen)}")

    def save_state(self, state: Mapping[str, Any], seen: int) -> None:
        """Write a training state, then remove older states.

        Later states, from a run that was resumed from an earlier state, are not removed.

        Args:
            state: Training state.
            seen: Number of training samples so far.
        """
        if not distributed.is_main():
            return
        path = self.state_path(seen)
        write_state(path, {**state, "seen": seen})
        logger.info(f"Wrote {path}")
        self._remove_old_states(path)

    def _remove_old_states(self, newest: Path) -> None:
        states = states_in(self.path)
        if newest in states:  # a state to resume from may have been renamed
            for old in states[: states.index(newest) + 1][:-STATES]:
                old.unlink()


def _said(record: Mapping[str, Any]) -> dict[str, Any]:
    """Return the full content of ``training_options.json``."""
    return {"format": FORMAT, **record}


def states_in(folder: Path) -> list[Path]:
    """Return the training states of a run, the earliest first."""
    states = folder.glob("training-state-*.pt")
    return sorted(states, key=lambda path: (len(path.name), path.name))


def _claim(outdir: Path, name: str) -> Path:
    numbers = [
        int(match[1]) for path in outdir.iterdir() if (match := re.match(r"(\d+)-", path.name))
    ]
    number = max(numbers, default=-1) + 1
    while True:
        path = outdir / f"{number:05d}-{name}"
        try:
            path.mkdir()
        except FileExistsError:  # another run claimed it in between
            number += 1
        else:
            return path


def read_record(location: Path) -> dict[str, Any]:
    """Read the record (``training_options.json``) of a run.

    Args:
        location: Run directory, or a training state in it.

    Raises:
        DataError: The run does not exist, or its record has no ``options``.
    """
    folder = location if location.is_dir() else location.parent
    if not location.exists():
        raise DataError(f"{location} does not exist: give a run directory or training-state-*.pt")
    record = load_json(folder / OPTIONS_NAME)
    if not isinstance(record.get("options"), dict):
        raise DataError(
            f"{folder / OPTIONS_NAME} does not contain the options of a run: restore the file "
            "from a copy"
        )
    return record


def read_chosen(location: Path) -> dict[str, Any]:
    """Read the choices of a run that are no options, by name.

    Raises:
        DataError: The run does not exist, or its record is broken.
    """
    chosen = read_record(location).get(CHOSEN)
    if not isinstance(chosen, dict) or not all(
        isinstance(value, str | int | float | list | None) for value in chosen.values()
    ):
        raise DataError(f"{location} has no record of the choices of its run: start a new run")
    return chosen


@dataclass(frozen=True)
class Resumed:
    """Training state to resume a run from."""

    path: Path
    state: dict[str, Any]

    @classmethod
    def find(cls, location: Path) -> "Resumed":
        """Read the state in a file, or the latest readable state in a run directory.

        Raises:
            DataError: No state is readable.
        """
        if not location.is_dir():
            return cls(location, read_state(location))
        states = states_in(location)
        if not states:
            raise DataError(
                f"{location} contains no training-state-*.pt to resume from: give the directory "
                "of a run with states"
            )
        for path in reversed(states):
            try:
                return cls(path, read_state(path))
            except DataError as error:
                last_error = error
                if distributed.is_main():
                    logger.warning(f"Warning: {error}; trying an older state")
        raise DataError(f"{location} has no readable state: {last_error}. Start a new run")

    @classmethod
    def for_all_ranks(cls, location: Path | None) -> "Resumed | None":
        """Read the state to resume from as ``find``; None for a new run.

        Raises:
            DataError: No state is readable, or ranks would start from different states, whose
                gradients do not belong together.
        """
        resumed = None if location is None else cls.find(location)
        names = distributed.of_all_ranks("none" if resumed is None else resumed.path.name)
        if len({*names}) > 1:
            raise DataError(
                f"ranks would start from different training states ({', '.join(names)}): give an "
                "--outdir that all nodes share, and all nodes the same --rdzv-id of torchrun"
            )
        return resumed

    @property
    def basis(self) -> EigenBasis:
        """Eigenbasis of the run, which is fitted only once."""
        try:
            state = tensors_of(self.state, "basis")
        except ValueError as error:
            raise DataError(
                f"{self.path} has no basis of its data: {error}. Resume from another state"
            ) from error
        return read_basis(self.path, state)

    def take_coordinates(self, coordinates: Coordinates) -> None:
        """Load the run's coordinates into newly fitted coordinates of the same table.

        Raises:
            DataError: The run's coordinates are invalid, or belong to another table.
        """
        try:
            saved = tensors_of(self.state, COORDINATES)
            fitted = {name: value.clone() for name, value in coordinates.state_dict().items()}
            coordinates.load_state_dict(saved)
            coordinates.check()
        except (ValueError, RuntimeError) as error:  # torch raises RuntimeError for other names
            raise DataError(
                f"{self.path} has no valid coordinates of its table: {first_line(error)}. Resume "
                "from another state"
            ) from error
        own = coordinates.state_dict()
        # Axes of equal variances may differ between machines; means and spreads do not.
        if any(
            not torch.allclose(own[name], value, rtol=1e-5)
            for name, value in fitted.items()
            if not name.endswith("axes")
        ):
            raise DataError(
                f"{self.path} belongs to another table: give the table that the run started with"
            )

    @property
    def data_variance(self) -> Tensor:
        """Data variance ``[D]`` in the preconditioning of the run."""
        variance = self.state.get("data_variance")
        if not isinstance(variance, Tensor) or variance.shape != self.basis.eigenvalues.shape:
            raise DataError(
                f"{self.path} does not contain the variance of its data: resume from another state"
            )
        return variance
