"""The folder of a training run, network files, states, options, and what a run goes on from.

When a rank dies, ``torchrun --max-restarts`` starts all ranks again with the same command line. The
restarted run is to go on in its folder, which it knows by torchrun's id of the launch.

"""

import os
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
from training.model.model import Model
from training.model.network_file import read_basis

OPTIONS_NAME = "training_options.json"
LAUNCH_KEY = "torchrun_launch"


def launch_id() -> str | None:
    """What all starts of one ``torchrun`` have in common; None without it."""
    given = os.environ.get("TORCHELASTIC_RUN_ID")
    # Without a rendezvous, all launches are called so; the launcher is this process's parent.
    return f"none-{os.getppid()}" if given == "none" else given


def is_restart() -> bool:
    return launch_id() is not None and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def folder_before_restart(outdir: Path, itself: bool) -> Path | None:
    """The folder that this launch made before it was restarted; None if it made none."""
    if not is_restart():
        return None
    folders = [outdir] if itself else sorted(outdir.glob("*-*/"), reverse=True)
    return next((path for path in folders if launch_of(path) == launch_id()), None)


def launch_of(folder: Path) -> str | None:
    """Who started the run in a folder; None for a run without torchrun, or no run."""
    try:
        return load_json(folder / OPTIONS_NAME).get(LAUNCH_KEY)
    except DataError:
        return None


FORMAT = "inflationary-flows training run 1"


@dataclass(frozen=True)
class Place:
    """Where a new run is to be.

    Attributes:
        outdir: Folder of runs.
        name: Name of the run's folder, but for its number.
        itself: Whether ``outdir`` itself is to be the folder.
    """

    outdir: Path
    name: str
    itself: bool = False


class RunFolder:
    """One run's folder, which exists. Only the main rank writes; all ranks may ask for names."""

    def __init__(self, path: Path):
        self.path = path
        if distributed.is_main():
            copy_log_to(path / "log.txt")

    @classmethod
    def create(cls, place: Place, record: Mapping[str, Any]) -> "RunFolder":
        """Makes ``outdir/00000-name`` with the next free number, or takes ``outdir`` itself.

        A run that torchrun has restarted takes the folder that it made before. Raises UsageError if
        ``outdir`` itself was asked for, and holds a run already."""
        outdir, name = place.outdir, place.name
        if Path(name).name != name:
            raise UsageError(f"desc makes the folder's name '{name}': leave / out of it")
        chosen: list[Path | None] = [None]
        if distributed.is_main():
            require_folder(outdir)
            path = folder_before_restart(outdir, place.itself)
            if path is not None:
                keep_lines_until(path / "stats.jsonl", "seen", 0)
            elif place.itself and (outdir / OPTIONS_NAME).exists():
                raise UsageError(
                    f"{outdir} holds a run already: --resume it, or give another --outdir"
                )
            else:
                path = outdir if place.itself else _claim(outdir, name)
            save_json(path / OPTIONS_NAME, _said(record))
            chosen = [path]
        if dist.is_initialized():
            dist.broadcast_object_list(chosen, src=0)
        assert chosen[0] is not None
        return cls(chosen[0])

    @classmethod
    def reopen(cls, path: Path, seen: int, keep: int) -> "RunFolder":
        """Opens a run's folder to go on after ``seen`` samples, by a state that stays with the
        newest ``keep``.

        What its statistics tell of later times is dropped: the run will tell it again. Old states
        are removed as after a save, which a run that was killed right there has not done."""
        folder = cls(path)
        if distributed.is_main():
            folder._remove_old_states(folder.state_path(seen), keep)
            keep_lines_until(path / "stats.jsonl", "seen", seen)
        distributed.barrier()
        return folder

    def update_record(self, record: Mapping[str, Any]) -> bool:
        """Writes what ``training_options.json`` is to say of a run that goes on. Returns whether it
        said something else, but for the launch."""
        path = self.path / OPTIONS_NAME
        before, now = load_json(path), _said(record)
        distributed.barrier()  # until all ranks have read
        if distributed.is_main() and before != now:
            save_json(path, now)
        return {**before, LAUNCH_KEY: None} != {**now, LAUNCH_KEY: None}

    def network_path(self, seen: int) -> Path:
        return self.path / f"network-snapshot-{seen // 1000:06d}.pkl"

    def state_path(self, seen: int) -> Path:
        return self.path / f"training-state-{seen // 1000:06d}.pt"

    def save_network(self, model: Model, seen: int) -> None:
        """Writes the network file of a model after ``seen`` samples."""
        if distributed.is_main():
            about = {**model.about, "seen": seen}
            replace(model, about=about).save(self.network_path(seen))
            logger.info(f"Wrote {self.network_path(seen)}")

    def save_state(self, state: Mapping[str, Any], seen: int, keep: int) -> None:
        """Writes a training state after so many samples, then removes older ones but for the
        newest: ``keep`` stay, with this one. Later states, of a run that was resumed from before
        them, are left alone."""
        if not distributed.is_main():
            return
        path = self.state_path(seen)
        write_state(path, {**state, "seen": seen})
        logger.info(f"Wrote {path}")
        self._remove_old_states(path, keep)

    def _remove_old_states(self, newest: Path, keep: int) -> None:
        states = states_in(self.path)
        if newest in states:  # a state to resume from may have got another name
            for old in states[: states.index(newest) + 1][:-keep]:
                old.unlink()


def _said(record: Mapping[str, Any]) -> dict[str, Any]:
    """All that ``training_options.json`` says."""
    return {"format": FORMAT, **record, LAUNCH_KEY: launch_id()}


def states_in(folder: Path) -> list[Path]:
    """The training states of a run, the one that has seen least first."""
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


def place_to_resume(given: Path | None, outdir: Path | None, itself: bool) -> Path | None:
    """What a run goes on from: a folder or state, or None if it starts anew. It is what is given;
    but the run's folder, ``outdir`` or one in it, if torchrun has restarted it since it wrote a
    state."""
    if given is not None:
        folder = given if given.is_dir() else given.parent
        return folder if is_restart() and launch_of(folder) == launch_id() else given
    before = folder_before_restart(outdir, itself) if outdir else None
    return before if before and states_in(before) else None


def read_record(location: Path) -> dict[str, Any]:
    """What the run wrote about itself that a folder, or a state file in it, belongs to. Raises
    DataError if there is no such run, or its record has no ``options``."""
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
        """The state in a file, or the latest one in a run's folder that can be read. Raises
        DataError if there is none."""
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
        """Gives coordinates, as they are fitted to the table that the run is said to be of, what
        those of the run had. Raises DataError if the run has others, or they are of another table.
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
