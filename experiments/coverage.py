"""Whether what a flow calls 90 % of its latents holds 90 % of the data: coverage, on toys.

Spheres of Mahalanobis radius r hold a known part of the latent Gaussian. ``toy_mesh_exps.py``
carries them to the data and back, and counts: test points of the latent law inside at each stage,
and fresh data inside the spheres that were carried to the data. Test points show whether the flow
keeps what is inside a boundary inside, fresh data whether the law of latents is that of the data.
"""

import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.lab import Lab, experiment, markdown, run
from experiments.toys import SCHEDULES, toy_networks
from torch_utils.results import load_json
from training.pictures.drawing import draw
from training.pictures.figure import Band, Figure, Mark, Panel, Points, Rule
from training.pictures.theme import BLUE, INK, ORANGE

TOYS = ("circles", "moons", "s_curve")
TEST_POINTS = 20_000
STEPS = {"cpu": 12, "gpu": 20}
"""Of ``exp_rk5``, six network calls each."""
HIGHEST = 3.0
WORDS = """As in the paper, 20,000 test points of the base distribution and 7 spheres of Mahalanobis
radius 0.5 to 3.5 are mapped to the data and back, by 12 steps of `exp_rk5` each way. In percentage
points: *change* is the largest change of the fraction of test points inside a sphere; *moved* is
the largest fraction of test points that change sides; *fresh* is the largest deviation from χ² of
the fraction of new toy samples inside a mapped sphere, at radius *r*; *± chance* is two standard
deviations of such a count. The paper claims that little drifts in either direction. This holds for
any network, since a smooth flow keeps the inside of a boundary inside; only *fresh* tests the
learned score and the base distribution. The S-curve deviates with the exact denoiser too, because
it is not quite Gaussian at T."""


def measured(folder: Path, network: Path, steps: int) -> dict[str, Any]:
    """What ``toy_mesh_exps.py`` found, or found before."""
    done = list(folder.glob("*_coverage.json"))
    if not done:
        options = (f"--network={network}", f"--test_pts={TEST_POINTS}", f"--steps={steps}")
        run("toy_mesh_exps.py", f"--save_dir={folder}", *options, "--no-paired", "--overwrite")
        done = list(folder.glob("*_coverage.json"))
    found = load_json(done[0])
    names = ("radii", "exact", "largest_change", "changed_sides")
    shares = {name: one["mean"] for name, one in found["coverage"].items()}
    return {**{name: found[name] for name in names}, "inside": shares}


def picture(found: Mapping[str, Mapping[str, Any]]) -> Canvas:
    """A panel for each flow: shares inside, less what a Gaussian has inside."""
    panels = []
    for toy, schedule in product(TOYS, SCHEDULES):
        one = found[f"{toy}-{schedule}"]
        radii, exact, band = np.array(one["radii"]), np.array(one["exact"]), 100 * chance(one)
        marks: list[Mark] = [Band(radii, -band, band, label="± chance"), Rule(0, color=INK)]
        for name, label, shift, color, marker in (
            ("data", "test points, at the data", -0.05, BLUE, "o"),
            ("end", "test points, back", 0.0, BLUE, "x"),
            ("fresh", "fresh data", 0.05, ORANGE, "o"),
        ):
            off = 100 * (np.array(one["inside"][name]) - exact)
            marks.append(Points(radii + shift, off, color, label, 4, marker))
        limits = ((0.35, 3.65), (-HIGHEST, HIGHEST))
        panels.append(Panel(marks, f"{toy}, {schedule}", "", "radius", "points", *limits))
    return draw(
        Figure(
            "What carried spheres hold",
            "difference from χ², percentage points, against the Mahalanobis radius",
            panels,
            len(SCHEDULES),
            (3.1, 1.25),
            shared=True,
        )
    )


def chance(one: Mapping[str, Any]) -> np.ndarray:
    """Two standard deviations of the shares ``[R]`` of test points inside."""
    exact = np.array(one["exact"])
    return np.asarray(2 * np.sqrt(exact * (1 - exact) / TEST_POINTS))


def row(key: str, one: Mapping[str, Any]) -> list[str]:
    """Of the table."""
    off = 100 * (np.array(one["inside"]["fresh"]) - np.array(one["exact"]))
    worst = int(np.abs(off).argmax())
    toy, _, schedule = key.rpartition("-")
    return [
        toy,
        schedule,
        f"{100 * max(np.abs(one['largest_change'])):.2f}",
        f"{100 * max(one['changed_sides']):.2f}",
        f"{off[worst]:+.2f}",
        f"{one['radii'][worst]:.1f}",
        f"{100 * chance(one)[worst]:.2f}",
    ]


def main(lab: Lab) -> None:
    found, steps = {}, STEPS[lab.scale]
    for key, network in toy_networks(lab, product(TOYS, SCHEDULES)).items():
        folder = lab.folder / f"{lab.scale}-{key}"
        found[key] = lab.part(key, lambda f=folder, n=network: measured(f, n, steps))  # type: ignore[misc]
    head = ["toy", "schedule", "change", "moved", "fresh", "r", "± chance"]
    table = markdown(head, [row(key, one) for key, one in found.items()])
    lab.finish({"toys": found}, table, picture(found), WORDS)


if __name__ == "__main__":
    experiment(main, "coverage", __doc__)()
