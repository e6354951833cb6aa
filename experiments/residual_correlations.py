"""How long the residuals of a denoiser stay correlated along t.

A residual is what the denoiser says less the clean point. Its correlation with that of the first
time is taken under fresh noise at each time, as the paper has it, and along the flow's own paths,
which is what the errors of an integration add up over. For toys, whose exact denoiser is known, the
error of the network alone is taken as well.
"""

import sys
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure as Canvas

sys.path.insert(0, str(Path(__file__).parent.parent))

from experiments.images import CIFAR, DIGITS, GAP, ImagePlan
from experiments.lab import Lab, experiment, markdown, run
from experiments.toys import toy_networks
from training.files.correlations import SavedLags
from training.paper.residuals import scatter_of
from training.pictures.correlations import COLORS, NAMES
from training.pictures.drawing import draw
from training.pictures.figure import Figure, Line, Mark, Panel, Rule, Span

TOYS = (("circles", "PRP"), ("circles", "PRR"), ("s_curve", "PRP"))
IMAGES: dict[str, tuple[ImagePlan, int, tuple[str, ...]]] = {
    "cpu": (DIGITS, 10, ("--n_samples=400", "--n_time_pts=24", "--solver=heun")),
    "gpu": (CIFAR, 62, ("--n_samples=50000", "--n_time_pts=256", "--solver=heun")),
}
"""The images, how many dimensions are kept of them, and how much is extracted."""
TOY_SIZES = {
    "cpu": ("--n_samples=4000", "--n_time_pts=71"),
    "gpu": ("--n_samples=10000", "--n_time_pts=701"),
}
NOISES = {"independent": "fresh noise", "path": "along the path"}
SHARES = (0.1, 0.5, 1.0)
"""Lags that the table shows, as shares of T."""
WORDS = """Correlation of residuals with those of the first time, mean over dimensions, at lags of
0.1 T, 0.5 T and T. *time* is the correlation time: the integral over the lag, in units of t, until
the correlation is within chance (*± chance*). The paper claims that residuals are nearly
uncorrelated between distant times, so that network errors average out along a path. With fresh
noise at each time, as in the paper, they are, but so are those of the exact denoiser. Along the
path, residuals stay correlated for a large part of T, and so, for less time, does the network's own
error *D − exact D*: errors at neighboring times add up. The network of {images} is that of the
sections below that keeps {kept} dimensions; fewer images and times make its chance level large."""


def found_in(folder: Path) -> SavedLags | None:
    done = list(folder.glob("*_summary.npz"))
    return SavedLags.load(done[0]) if done else None


def of_toy(lab: Lab, folder: Path, network: Path, noise: str) -> SavedLags:
    """Correlations of a toy's residuals, or those that were found before."""
    if not found_in(folder):
        script = "calc_net_residuals_autocorrelations.py"
        place = (f"--save_dir={folder / 'residuals'}", f"--network={network}", "--overwrite")
        run(f"{script} extracttoys", *place, f"--noise={noise}", *TOY_SIZES[lab.scale])
        extracted = next((folder / "residuals").glob("*.npz"))
        run(f"{script} calctoys", f"--save_dir={folder}", f"--res_root={extracted}", "--overwrite")
    saved = found_in(folder)
    assert saved
    return saved


def of_images(lab: Lab, folder: Path, network: Path, noise: str) -> SavedLags:
    """The same of images."""
    if not found_in(folder):
        plan, _, sizes = IMAGES[lab.scale]
        script, source = "calc_net_residuals_autocorrelations.py", folder / "residuals"
        place = (f"--save_dir={source}", f"--network={network}", "--overwrite")
        data = f"--data_root={plan.data(lab)[0]}"
        run(f"{script} extract", *place, data, f"--noise={noise}", *sizes)
        run(f"{script} calc", f"--save_dir={folder}", f"--res_root={source}", "--overwrite")
    saved = found_in(folder)
    assert saved
    return saved


def numbers(saved: SavedLags) -> dict[str, Any]:
    """What is kept of correlations, as plain lists."""
    return {
        "lags": saved.lags.tolist(),
        "scatter": scatter_of(saved.count),
        "quantities": {
            name: {"mean": curve.mean.tolist(), "time": str(curve.lasting)}
            for name, curve in saved.curves.items()
            if name != "net_outputs"
        },
    }


def picture(found: Mapping[str, Mapping[str, Any]]) -> Canvas:
    """A panel for each flow and kind of noise."""
    panels = []
    for (key, both), noise in product(found.items(), NOISES):
        one = both[noise]
        lags, scatter = np.array(one["lags"]), one["scatter"]
        marks: list[Mark] = [Span(-scatter, scatter, label="± chance"), Rule(0, width=0.8)]
        for name, quantity in one["quantities"].items():
            marks.append(Line(lags, quantity["mean"], COLORS[name], NAMES[name]))
        title, limits = f"{key}, {NOISES[noise]}", (0, float(lags[-1]))
        panels.append(Panel(marks, title, "", "lag in t", "correlation", limits, (-0.35, 1.05)))
    return draw(
        Figure(
            "How long residuals stay correlated",
            "correlation with the first time, mean over dimensions, against the lag in t",
            panels,
            len(NOISES),
            (3.0, 1.25),
            shared=True,
        )
    )


def rows(key: str, both: Mapping[str, Any]) -> list[list[str]]:
    """Of the table."""
    lines = []
    for noise, words in NOISES.items():
        one = both[noise]
        lags = np.array(one["lags"])
        for name, quantity in one["quantities"].items():
            at = [np.interp(share * lags[-1], lags, quantity["mean"]) for share in SHARES]
            told = [f"{value:.2f}".replace("-", "−") for value in at]
            what = f"{key}, {words}: {NAMES[name]}"
            lines.append([what, *told, quantity["time"], f"{one['scatter']:.2f}"])
    return lines


def main(lab: Lab) -> None:
    plan, kept, _ = IMAGES[lab.scale]
    networks = {key.replace("-", " "): path for key, path in toy_networks(lab, TOYS).items()}
    images = f"{plan.name} PRR to {kept}"
    networks[images] = plan.network(lab, kept, GAP, 0)
    found: dict[str, dict[str, Any]] = {}
    for key, network in networks.items():
        extract = of_images if key == images else of_toy
        for noise in NOISES:
            name = f"{key}-{noise}".replace(" ", "-")
            folder = lab.folder / f"{lab.scale}-{name}"
            part = lab.part(
                name,
                lambda e=extract, f=folder, n=network, o=noise: numbers(e(lab, f, n, o)),  # type: ignore[misc]
            )
            found.setdefault(key, {})[noise] = part
    head = ["residuals", *(f"{share:g} T" for share in SHARES), "time", "± chance"]
    table = markdown(head, [row for key, both in found.items() for row in rows(key, both)])
    words = WORDS.format(images=plan.name, kept=kept)
    lab.finish({"flows": found}, table, picture(found), words)


if __name__ == "__main__":
    experiment(main, "residual_correlations", __doc__)()
