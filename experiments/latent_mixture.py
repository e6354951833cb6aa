"""The paper's posterior experiment: weights of a mixture over latents, found from noisy data.

Latents come from three components whose means and widths are known, a flow carries them to data,
and what is seen of these is noisy. ``posterior.py mixture`` finds the weights of the components, in
many runs whose true weights it knows, so that what it says of its own uncertainty can be tested.
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
from training.pictures.figure import Figure, Line, Mark, Panel, Points, Segments
from training.pictures.theme import FAINT, INK, sequential_colors

TOYS = ("circles", "moons")
PUBLISHED = (0.5, 0.25, 0.25)
NOISE, POINTS = 0.1, 200
RUNS = {"cpu": 40, "gpu": 200}
LEVELS = (0.5, 0.8, 0.9, 0.95)
WORDS = """Three components of width 0.5 lie on a circle of radius 1.5 in whitened latents; 200 data
points are observed with noise of 0.1. *recovered* is the posterior mean ± standard deviation for
the paper's weights, 0.5, 0.25 and 0.25, from one data set, whose fractions chance moves by about
0.03. The other columns are for {runs} runs with weights drawn from their prior. *off* is the root
mean square error of posterior means in posterior standard deviations (1 is right). *inside* is the
percentage of true weights in central intervals of 50, 80, 90 and 95 % (chance: about 11 points for
the first, 5 for the last). *exact* is the largest difference of a posterior mean from quadrature.
*smallest p* is the smallest of {tests} adjusted p-values. A Gibbs sampler replaces the paper's
Hamiltonian Monte Carlo. All rows use the same seed and are not independent tests."""


def runs(folder: Path, network: Path, *options: str) -> dict[str, Any]:
    """What ``posterior.py mixture`` found, or found before."""
    done = list(folder.glob("*_mixture.json"))
    if not done:
        place = (f"--save_dir={folder}", f"--network={network}", "--overwrite")
        observed = (f"--noise_std={NOISE}", f"--points={POINTS}")
        run("posterior.py mixture", *place, *observed, *options)
        done = list(folder.glob("*_mixture.json"))
    return load_json(done[0])


def measured(lab: Lab, key: str, network: Path) -> dict[str, Any]:
    """Of one flow: posteriors of the paper's weights, and how calibrated those of many runs are."""
    folder = lab.folder / f"{lab.scale}-{key}"
    weights = f"--weights={','.join(map(str, PUBLISHED))}"
    one = runs(folder / "published", network, "--runs=1", weights)["posteriors"][0]
    many = runs(folder / "drawn", network, f"--runs={RUNS[lab.scale]}")
    posteriors = {
        name: [each[name] for each in many["posteriors"]] for name in ("truth", "mean", "std")
    }
    intervals = many["calibration"]["central_intervals"]
    return {
        "recovered": {name: one[name] for name in ("mean", "std")},
        **posteriors,
        "inside": [intervals["pooled"][place_of(intervals["levels"], at)] for at in LEVELS],
        "off_quadrature": many["largest_difference"]["mean"],
        "p_values": many["calibration"]["adjusted_p_values"],
        "verdict": many["calibration"]["verdict"],
    }


def place_of(levels: list[float], level: float) -> int:
    return int(np.abs(np.array(levels) - level).argmin())


def off(one: Mapping[str, Any]) -> float:
    """Root mean square of (mean - truth) / std over runs and components."""
    truth, mean, std = (np.array(one[name]) for name in ("truth", "mean", "std"))
    return float(np.sqrt(np.square((mean - truth) / std).mean()))


def picture(found: Mapping[str, Mapping[str, Any]]) -> Canvas:
    """A panel for each flow: posterior means against true weights."""
    colors, panels = sequential_colors(len(PUBLISHED)), []
    for toy, schedule in product(TOYS, SCHEDULES):
        one = found[f"{toy}-{schedule}"]
        truth, mean, std = (np.array(one[name]) for name in ("truth", "mean", "std"))
        marks: list[Mark] = [Line([0, 1], [0, 1], INK, width=0.8)]
        for k, color in enumerate(colors):
            x, low, high = truth[:, k], mean[:, k] - 2 * std[:, k], mean[:, k] + 2 * std[:, k]
            marks.append(Segments(x, x, low, high, FAINT, width=1.0))
            marks.append(Points(x, mean[:, k], color[None], f"component {k + 1}", 3))
        axes = ("true weight", "posterior mean", (0, 1), (0, 1))
        panels.append(Panel(marks, f"{toy}, {schedule}", "", *axes, equal=True))
    return draw(
        Figure(
            "Weights of three components",
            "posterior means ± 2 standard deviations against the truth, one mark a run and "
            "component",
            panels,
            len(SCHEDULES),
            (2.5, 2.5),
            shared=True,
        )
    )


def row(key: str, one: Mapping[str, Any]) -> list[str]:
    """Of the table."""
    recovered = one["recovered"]
    pairs = zip(recovered["mean"], recovered["std"], strict=True)
    toy, _, schedule = key.rpartition("-")
    return [
        toy,
        schedule,
        ", ".join(f"{mean:.2f} ± {std:.2f}" for mean, std in pairs),
        f"{off(one):.2f}",
        " ".join(f"{100 * value:.0f}" for value in one["inside"]),
        f"{one['off_quadrature']:.4f}",
        f"{min(one['p_values'].values()):.2g}",
    ]


def main(lab: Lab) -> None:
    found = {}
    for key, network in toy_networks(lab, product(TOYS, SCHEDULES)).items():
        found[key] = lab.part(key, lambda k=key, n=network: measured(lab, k, n))  # type: ignore[misc]
    head = ["toy", "schedule", "recovered", "off", "inside", "exact", "smallest p"]
    table = markdown(head, [row(key, one) for key, one in found.items()])
    tests = len(next(iter(found.values()))["p_values"])
    words = WORDS.format(runs=RUNS[lab.scale], tests=tests)
    content = {"published": PUBLISHED, "toys": found}
    lab.finish(content, table, picture(found), words, shown=False)


if __name__ == "__main__":
    experiment(main, "latent_mixture", __doc__)()
