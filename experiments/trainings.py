"""Trainings of experiments: each is done once, whichever experiment needs its network first.

Networks are in ``out/experiments/networks``. A training that was killed goes on from its last
state. Small networks are trained side by side, one on each core that is idle: two threads of one
such training are hardly faster than one.
"""

import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from dnnlib.errors import DataError
from experiments.lab import Lab, cpu_seconds, run
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

    Trainings that were not done before are so at the same time, as many as cores are idle, or one
    after the other where there is a GPU.

    Raises:
        DataError, subprocess.CalledProcessError: As ``trained``.
    """
    missing = [each for each in trainings if not _finished(each.folder(lab)).exists()]
    # Each process has one training at a time, so that it knows the seconds of it.
    at_once = 1 if torch.cuda.is_available() else min(len(missing), round(idle_cores(1)))
    if at_once > 1:
        print(f"{lab.name}: {len(missing)} trainings, {at_once} at a time", flush=True)
        folders = [each.folder(lab) for each in missing]
        with ProcessPoolExecutor(at_once, get_context("spawn"), _with_one_thread) as pool:
            for each, _ in zip(missing, pool.map(_done, folders, missing), strict=True):
                trained(lab, each)
    return [trained(lab, each) for each in trainings]


def _with_one_thread() -> None:
    """In this process and those that it starts."""
    os.environ["OMP_NUM_THREADS"] = "1"


def _done(folder: Path, training: Training) -> dict[str, Any]:
    """Trains, or goes on, or finds what is finished: name of the network, options, seconds."""
    finished = _finished(folder)
    if not finished.exists():
        began = cpu_seconds()
        if states_in(folder):
            run(training.script, f"--resume={folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)  # killed before it wrote a state
            run(training.script, f"--outdir={folder}", "--nosubdir", *training.options)
        network = max(folder.glob("network-snapshot-*.pkl")).name
        taken = cpu_seconds() - began
        made = {"network": network, "options": list(training.options), "cpu_seconds": taken}
        save_json(finished, made)
    return load_json(finished)


def _finished(folder: Path) -> Path:
    """What is written of a training once it is done."""
    return folder / "finished.json"
