"""The toys of experiments, and the networks that are trained on them once for all."""

from collections.abc import Iterable
from pathlib import Path

from experiments.lab import Lab
from experiments.trainings import Training, side_by_side
from training.data.toys import Toy

SCHEDULES = ("PRP", "PRR")
OPTIONS = {"cpu": ("--duration=0.25", "--no-calibrate"), "gpu": ()}
"""Of ``toy_train.py``, whose own defaults are those of ``gpu``."""


def toy_networks(lab: Lab, flows: Iterable[tuple[str, str]]) -> dict[str, Path]:
    """Networks of flows by names such as ``circles-PRP``.

    Args:
        lab: Where they are.
        flows: Toys and schedules: PRP keeps all dimensions and PRR all but one.
    """
    trainings = [_training(lab, toy, schedule) for toy, schedule in flows]
    networks = side_by_side(lab, trainings)
    return {each.key: network for each, network in zip(trainings, networks, strict=True)}


def _training(lab: Lab, toy: str, schedule: str) -> Training:
    kept = Toy(toy).dim - (schedule == "PRR")
    options = (f"--data_name={toy}", f"--dims_to_keep={kept}", *OPTIONS[lab.scale])
    return Training(f"{toy}-{schedule}", "toy_train.py", options)
