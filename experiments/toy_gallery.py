"""All toys, carried to a Gaussian and back: their data, melted data, and generated points.

Flows that keep all dimensions (PRP) and flows that compress one (PRR). Generated points are
compared with fresh data by their energy distance, beside that of two fresh data sets of as many
points, and data with what comes back of them after a melt.
"""

import sys
from collections.abc import Mapping
from itertools import combinations, product
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure as Canvas

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.two_sample import energy_distance
from experiments.lab import Lab, experiment, markdown
from experiments.toys import SCHEDULES, toy_networks
from training.data.toys import Toy
from training.names import TOY_NAMES
from training.pictures.drawing import draw
from training.pictures.figure import Figure, cloud, cloud_panel, common_box, page_positions
from training.pictures.theme import colors_of_places
from training.trained.network import TrainedNetwork

POINTS, PAIRS, SHOWN = 2000, 3, 1200
WIDEST = 3.4
"""Of axes of latents, which have unit variance."""
STAGES = ("data", "melted", "generated")
COLUMNS = ("data", "melted, PRP", "generated, PRP", "melted, PRR", "generated, PRR")
WORDS = """Flows that keep all dimensions (PRP) or all but one (PRR). *generated* is the energy
distance between 2,000 generated and 2,000 new points, in thousandths of the data's unit, mean of
three pairs; *fresh* is that of two new data sets, the level of chance. *round trip* is the root
mean square displacement of 2,000 points after inflation and return, in data units. Networks are
trained on 0.25 million samples, a quarter of our default or less (the published code: 7 billion),
which increases *generated*. The base distribution of compressed latents is learned; the paper uses
Gaussian latents (for circles, variance 1e-2 of the compressed dimension and T = 7.01)."""


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def measured(network: Path) -> dict[str, Any]:
    """Distances and errors of one flow, and some points to draw."""
    model = TrainedNetwork.load(network)
    flow, toy = model.flow, Toy(model.about["data_name"])
    fresh = [toy.sample(POINTS, generator(seed)) for seed in range(PAIRS)]
    made = [flow.sample(POINTS, generator(100 + seed)) for seed in range(PAIRS)]
    apart = [energy_distance(one, other) for one, other in zip(made, fresh, strict=True)]
    latents = flow.encode(fresh[0])
    error = flow.decode(latents) - fresh[0]
    melted = latents @ flow.basis.eigenvectors.T  # as it would lie in the data's own axes
    return {
        "schedule": flow.schedule.name,
        "end_time": flow.end_time,
        "energy": mean(apart),
        "energy_of_data": mean(energy_distance(*pair) for pair in combinations(fresh, 2)),
        "roundtrip": float(error.square().mean().sqrt()),
        "farthest": float(error.abs().max()),
        **{
            name: np.round(points[:SHOWN].numpy(), 4).tolist()
            for name, points in zip(STAGES, (fresh[0], melted, made[0]), strict=True)
        },
    }


def picture(found: Mapping[str, Mapping[str, Any]]) -> Canvas:
    """A row for each toy: data, and what both flows melt it to and generate."""
    panels = []
    for toy in TOY_NAMES:
        both = [{k: np.array(found[f"{toy}-{s}"][k]) for k in STAGES} for s in SCHEDULES]
        clouds = [both[0]["data"], *(one[k] for one in both for k in STAGES[1:])]
        boxes = {True: np.array([[-WIDEST, WIDEST]] * clouds[0].shape[1])}
        boxes[False] = common_box(clouds[::2])
        colors = colors_by_place(clouds[0])
        for points, title in zip(clouds, COLUMNS, strict=True):
            shade = colors_by_place(points) if title.startswith("generated") else colors
            box = boxes[title.startswith("melted")]
            name = f"{toy}: {title}" if title == COLUMNS[0] else title
            panels.append(cloud_panel([cloud(points, shade, box, 1.4)], box, title=name))
    return draw(
        Figure(
            "Toys, melted and generated",
            "in data units, melted points scaled, from −3.4 to 3.4; "
            "colors: place in the data, of generated points their own",
            panels,
            len(COLUMNS),
            (1.6, 1.6),
        )
    )


def colors_by_place(points: np.ndarray) -> np.ndarray:
    places = page_positions(points)
    places = places - places.mean(axis=0)
    return colors_of_places(places, float(places.std(axis=0).max()))


def main(lab: Lab) -> None:
    found = {}
    for key, network in toy_networks(lab, product(TOY_NAMES, SCHEDULES)).items():
        found[key] = lab.part(key, lambda network=network: measured(network))  # type: ignore[misc]
    rows = [
        [
            key.rpartition("-")[0],
            one["schedule"],
            f"{one['end_time']:.2f}",
            f"{1000 * one['energy']:.2f}",
            f"{1000 * one['energy_of_data']:.2f}",
            f"{one['roundtrip']:.0e}",
        ]
        for key, one in found.items()
    ]
    head = ["toy", "schedule", "T", "generated", "fresh", "round trip"]
    numbers = {
        key: {k: value for k, value in one.items() if k not in STAGES} for key, one in found.items()
    }
    lab.finish({"toys": numbers}, markdown(head, rows), picture(found), WORDS, shown=False)


if __name__ == "__main__":
    experiment(main, "toy_gallery", __doc__)()
