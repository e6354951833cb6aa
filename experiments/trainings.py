"""Trainings of experiments: each is done once, whichever experiment needs its network first.

Networks are in ``out/experiments/networks``. A training that was killed goes on from its last
state. Small networks are trained side by side, one on each core that is idle: of one training at a
time, much is done by one core whatever the threads, such as its start and the law of latents.
"""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import DataError
from experiments.lab import Lab, run
from torch_utils.results import load_json, save_json
from torch_utils.threads import idle_cores
from training.learning.run_folder import states_in


@dataclass(frozen=True)
class Training:
    """A training by a script of ours.

    Attributes:
        key: A name that no other training of its scale has.
        script: ``toy_train.py`` or ``train.py``.
        options: Without those that say where to.
    """

    key: str
    script: str
    options: tuple[str, ...]

    def folder(self, lab: Lab) -> Path:
        """Of the network."""
        return lab.out / "networks" / f"{lab.scale}-{self.key}"


def trained(lab: Lab, training: Training) -> Path:
    """The network of a training, which is done now if it was not before.

    Raises:
        DataError: There is a network of this name that was trained with other options.
        subprocess.CalledProcessError: The script failed.
    """
    folder = training.folder(lab)
    made = lab.part(f"network-{training.key}", lambda: _done(folder, training))
    if made["options"] != list(training.options):
        raise DataError(
            f"{folder} was trained with {' '.join(made['options'])}, not with "
            f"{' '.join(training.options)}: remove it and {lab.parts}, or give another --out"
        )
    return folder / made["network"]


def side_by_side(lab: Lab, trainings: Sequence[Training]) -> list[Path]:
    """The networks of trainings of which none needs more than one core.

    Missing ones are trained at the same time, as many as there are idle cores and threads of
    PyTorch; with a GPU, one after the other.

    Raises:
        DataError, subprocess.CalledProcessError: As ``trained``.
    """
    missing = [each for each in trainings if not _finished(each.folder(lab)).exists()]
    cores = min(torch.get_num_threads(), round(idle_cores(1)))
    at_once = 1 if torch.cuda.is_available() else min(len(missing), cores)
    if at_once > 1:
        print(f"{lab.name}: {len(missing)} trainings, {at_once} at a time", flush=True)
        folders = [each.folder(lab) for each in missing]
        pool = ThreadPoolExecutor(at_once)
        try:
            list(pool.map(partial(_done, threads=1), folders, missing))
        finally:
            pool.shutdown(cancel_futures=True)
    return [trained(lab, each) for each in trainings]


def _done(folder: Path, training: Training, threads: int | None = None) -> dict[str, Any]:
    """Trains, or goes on, or finds what is finished: name of the network, options, seconds.

    Args:
        folder: Of the network.
        training: How to train it.
        threads: Of the training; None for as many as cores are idle.
    """
    finished = _finished(folder)
    if not finished.exists():
        if states_in(folder):
            taken = run(training.script, f"--resume={folder}", threads=threads)
        else:
            shutil.rmtree(folder, ignore_errors=True)  # killed before it wrote a state
            place = (f"--outdir={folder}", "--nosubdir")
            taken = run(training.script, *place, *training.options, threads=threads)
        network = max(folder.glob("network-snapshot-*.pkl")).name
        made = {"network": network, "options": list(training.options), "cpu_seconds": taken}
        save_json(finished, made)
    return load_json(finished)


def _finished(folder: Path) -> Path:
    """What is written of a training once it is done."""
    return folder / "finished.json"
