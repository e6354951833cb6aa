"""The toys of experiments, and the networks that are trained on them once for all."""

from pathlib import Path

from experiments.lab import Lab
from training.data.toys import Toy

SCHEDULES = ("PRP", "PRR")
OPTIONS = {"cpu": ("--duration=0.5", "--no-calibrate"), "gpu": ()}
"""Of ``toy_train.py``, whose own defaults are those of ``gpu``."""


def toy_network(lab: Lab, toy: str, schedule: str) -> Path:
    """A network of a toy that keeps all dimensions (PRP) or all but one (PRR)."""
    kept = Toy(toy).dim - (schedule == "PRR")
    options = (f"--data_name={toy}", f"--dims_to_keep={kept}", *OPTIONS[lab.scale])
    return lab.trained(f"{toy}-{schedule}", "toy_train.py", *options)
