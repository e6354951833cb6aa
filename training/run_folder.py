"""The folder of a training run: names, network files, training states, options."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder
from dnnlib.logs import copy_log_to, logger
from torch_utils import distributed
from torch_utils.results import load_json, save_json
from torch_utils.snapshots import write_state
from torch_utils.stats import keep_lines_until
from training.model import Model

OPTIONS_NAME = "training_options.json"


class RunFolder:
    """One run's folder. Only the main rank writes; all ranks may ask for names.

    Args:
        path: The folder, which exists.
    """

    def __init__(self, path: Path):
        self.path = path
        if distributed.is_main():
            copy_log_to(path / "log.txt")

    @classmethod
    def create(
        cls, outdir: Path, name: str, itself: bool, record: Mapping[str, Any]
    ) -> "RunFolder":
        """Makes ``outdir/00000-name`` with the next free number, or takes ``outdir`` itself.

        Raises:
            UsageError: ``outdir`` itself was asked for, and holds a run already.
        """
        if Path(name).name != name:
            raise UsageError(f"desc makes the folder's name '{name}': leave / out of it")
        chosen: list[Path | None] = [None]
        if distributed.is_main():
            require_folder(outdir)
            if itself and (outdir / OPTIONS_NAME).exists():
                raise UsageError(
                    f"{outdir} holds a run already: --resume it, or give another --outdir"
                )
            path = outdir if itself else _claim(outdir, name)
            save_json(path / OPTIONS_NAME, record)
            chosen = [path]
        if dist.is_initialized():
            dist.broadcast_object_list(chosen, src=0)
        assert chosen[0] is not None
        return cls(chosen[0])

    @classmethod
    def reopen(cls, path: Path, seen: int) -> "RunFolder":
        """Opens a run's folder to go on after ``seen`` samples.

        What its statistics tell of later times is dropped: the run will tell it again.
        """
        folder = cls(path)
        if distributed.is_main():
            keep_lines_until(path / "stats.jsonl", "seen", seen)
        distributed.barrier()
        return folder

    def network_path(self, seen: int) -> Path:
        return self.path / f"network-snapshot-{seen // 1000:06d}.pkl"

    def state_path(self, seen: int) -> Path:
        return self.path / f"training-state-{seen // 1000:06d}.pt"

    def save_network(self, model: Model, seen: int) -> None:
        """Writes the network file of a model after ``seen`` samples."""
        if distributed.is_main():
            Model(model.denoiser, model.recipe, {**model.about, "seen": seen}).save(
                self.network_path(seen)
            )
            logger.info(f"Wrote {self.network_path(seen)}")

    def save_state(self, state: Mapping[str, Any], seen: int) -> None:
        """Writes a training state."""
        if distributed.is_main():
            write_state(self.state_path(seen), {**state, "seen": seen})
            logger.info(f"Wrote {self.state_path(seen)}")


def read_options(location: Path) -> dict[str, Any]:
    """The options of the run that a folder, or a state file in it, belongs to."""
    folder = location if location.is_dir() else location.parent
    if not location.exists():
        raise DataError(f"{location} does not exist: give a run's folder or training-state-*.pt")
    options = load_json(folder / OPTIONS_NAME).get("options")
    if not isinstance(options, dict):
        raise DataError(f"{folder / OPTIONS_NAME} has no options of a run")
    return options


def find_state(location: Path) -> Path:
    """A state file itself, or the one of a run's folder that has seen most.

    Raises:
        DataError: The folder has none.
    """
    if not location.is_dir():
        return location
    folder = location
    states = sorted(
        folder.glob("training-state-*.pt"), key=lambda path: (len(path.name), path.name)
    )
    if not states:
        raise DataError(f"{folder} has no training-state-*.pt to resume from")
    return states[-1]


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
