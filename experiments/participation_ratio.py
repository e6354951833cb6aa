"""How many dimensions the variance of data is spread over, and what a flow makes of it.

The state at time t is the data with noise of variance gamma_i(t) along eigen-axis i. So its
participation ratio ``(sum v)^2 / sum v^2``, with ``v_i = xi_i + gamma_i(t)``, is known in closed
form, for any network: here for flows that keep all dimensions (PRP), whose noise has the
participation ratio D at all times, and for flows that keep some (PRR), whose states come down to
these.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure as Canvas

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.lab import Lab, experiment, markdown
from training.data.images.dataset import ImageDataset, basis_batches
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import InflationSchedule
from training.pictures.drawing import draw
from training.pictures.figure import Figure, Line, Mark, Panel, Rule
from training.pictures.theme import BLUE, ORANGE

TOYS = {"circles": 1, "moons": 1, "s_curve": 2, "swirl": 2}
IMAGES = {"digits": 10, "patches": 77}
"""Dimensions that PRR keeps, by data set."""
PAPER = {"MNIST": 30.69, "Fashion-MNIST": 7.90, "SVHN": 2.90, "CIFAR-10": 9.24}
"""What the paper has of its data sets."""
AT_GPU = {"cifar10-32x32": 62}
TIMES = 101
WORDS = """Participation ratios of the data and of states at the last time T, in closed form. A flow
that keeps all dimensions (PRP) ends near the participation ratio of its noise, D; one that keeps d
(PRR) ends near d. *within 5 %* is the fraction of the time after which the PRR ratio stays within
5 % of its last value. The paper's data sets have 30.69 (MNIST), 7.90 (Fashion-MNIST), 2.90 (SVHN)
and 9.24 (CIFAR-10)."""


def basis_of(lab: Lab, name: str) -> EigenBasis:
    """The eigenbasis of a data set."""
    if name in TOYS:
        return EigenBasis.from_moments(*Toy(name).moments())
    source = Path("datasets") / f"{name}.zip"
    if name in IMAGES:
        source = lab.made(lab.out / "data" / f"{name}.zip", "dataset_tool.py", f"--source={name}")
    return EigenBasis.fit(basis_batches(ImageDataset(source)))


def ratio(variance: torch.Tensor) -> torch.Tensor:
    """Participation ratios ``[T]`` of variances ``[T, D]``."""
    return variance.sum(dim=1).square() / variance.square().sum(dim=1)


def measured(basis: EigenBasis, kept: int) -> dict[str, Any]:
    """Participation ratios of the data and of states over time."""
    curves = {}
    for name, dims in (("PRP", basis.dim), ("PRR", kept)):
        schedule = InflationSchedule.to_dimension(dims, basis.dim, top_variance=basis.top_variance)
        times = torch.linspace(0, schedule.default_t_max(), TIMES, dtype=torch.float64)
        variance = basis.eigenvalues + schedule.noise_variance(times)
        curves[name] = {"times": times.tolist(), "ratios": ratio(variance).tolist()}
    return {
        "dim": basis.dim,
        "kept": kept,
        "data": basis.participation_ratio,
        "eigenvalues": basis.eigenvalues.tolist(),
        **curves,
    }


def settled(ratios: list[float]) -> float:
    """The part of the time after which ratios stay within 5 % of the last."""
    far = np.abs(np.array(ratios) / ratios[-1] - 1) > 0.05
    return float((np.flatnonzero(far)[-1] + 1) / (len(ratios) - 1)) if far.any() else 0.0


def picture(found: Mapping[str, Mapping[str, Any]]) -> Canvas:
    """A panel for each data set: its participation ratio over time."""
    panels = []
    for name, one in found.items():
        dim, kept = one["dim"], one["kept"]
        marks: list[Mark] = [Rule(kept / dim, label="d / D", dashed=True)]
        for schedule, color, words in (("PRP", BLUE, "all"), ("PRR", ORANGE, "d")):
            ratios = np.array(one[schedule]["ratios"]) / dim
            time = np.linspace(0, 1, len(ratios))
            marks.append(Line(time, ratios, color, f"{words} kept ({schedule})"))
        note = f"D = {dim:,}, d = {kept}"
        panels.append(Panel(marks, name, note, "t / T", x_limits=(0, 1), y_limits=(0, 1.05)))
    return draw(
        Figure(
            "Dimensions that the variance of a state is spread over",
            "participation ratio over time, in shares of the dimensions of the data",
            panels,
            3,
            (2.7, 1.6),
            shared=True,
        )
    )


def main(lab: Lab) -> None:
    chosen = TOYS | (IMAGES if lab.scale == "cpu" else IMAGES | AT_GPU)
    found = {
        name: lab.part(name, lambda name=name, kept=kept: measured(basis_of(lab, name), kept))  # type: ignore[misc]
        for name, kept in chosen.items()
    }
    rows = [
        [
            name,
            f"{one['dim']:,}",
            f"{one['data']:.2f}",
            f"{one['PRP']['ratios'][-1]:.2f}",
            str(one["kept"]),
            f"{one['PRR']['ratios'][-1]:.2f}",
            f"{settled(one['PRR']['ratios']):.2f}",
        ]
        for name, one in found.items()
    ]
    head = ["data", "D", "of the data", "PRP, at T", "d", "PRR to d, at T", "within 5 %"]
    lab.finish({"data": found, "paper": PAPER}, markdown(head, rows), picture(found), WORDS)


if __name__ == "__main__":
    experiment(main, "participation_ratio", __doc__)()
