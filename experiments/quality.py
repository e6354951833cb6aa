"""What a flow of images is worth: how near its samples are to the data, and its round trip.

Samples are compared with the images that were trained on, as an FID is, by three distances: the
energy distance of their pixels; the Frechet distance of the features of a small classifier
(``features``); and, where there are Inception weights, the FID. The round trip is that of images
that were held out, by ``calc_roundtrip_mse.py``. All are means over trainings.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import numpy as np
import torch
from matplotlib.figure import Figure as Canvas
from torch import Tensor

from experiments.features import Classifier, energy, frechet, pixels_and_classes, shape_of
from experiments.images import ImagePlan
from experiments.lab import Lab, markdown, run
from torch_utils.results import load_json
from training.data.images.dataset import ImageDataset, normalize_pixels
from training.pictures.drawing import draw
from training.pictures.figure import Figure, Line, Mark, Panel, Points, Rule, Segments
from training.pictures.theme import BLUE

NOTES = {
    "energy": "energy distance of pixels",
    "frechet": "Fréchet distance, shares of the variance",
    "mse_float": "round trip, squared gray levels",
}
MOST_COMPARED = 2000
"""Images whose energy distances are taken: these grow with the square of their number."""
MEASURES = {
    "energy": "energy distance",
    "frechet": "Fréchet distance",
    "fid": "FID",
    "mse_float": "round trip",
}
INCEPTION = click.option(
    "--inception",
    type=click.Path(exists=True, dir_okay=False, resolve_path=True, path_type=Path),
    help="Weights of the Inception network for the FID; see fid.py.",
)
PUBLISHED_DURATION = 200
"""Million images."""
LEAST_APART = 0.12
"""Of the length of an axis, between numbers that are written at it."""


@dataclass(frozen=True)
class Judge:
    """What samples of a data set are compared by.

    Attributes:
        plan: The data set.
        train: Its images.
        held_out: Others.
        pixels: Those of ``train``, ``[n, C, H, W]`` uint8.
        others: Those of ``held_out``.
        features: Those of ``pixels``, ``[n, 32]``.
        classifier: Has the features.
        inception: Weights of the Inception network; None for the usual ones, or for no FID.
    """

    plan: ImagePlan
    train: Path
    held_out: Path
    pixels: Tensor
    others: Tensor
    features: Tensor
    classifier: Classifier
    inception: Path | None

    @classmethod
    def of(cls, lab: Lab, plan: ImagePlan, inception: Path | None) -> "Judge":
        """Trains the classifier, or opens it where it is."""
        train, held_out = plan.data(lab)
        pixels, classes = pixels_and_classes(train, plan.name == "patches")
        others, other_classes = pixels_and_classes(held_out, plan.name == "patches")
        path = lab.folder / f"{lab.scale}-{plan.name}-features.npz"

        def learned() -> dict[str, Any]:
            found = Classifier.trained(pixels, classes, plan.classifier_steps)
            found.save(path)
            return {
                "accuracy": found.accuracy(pixels, classes),
                "accuracy_held_out": found.accuracy(others, other_classes),
                "classes": int(classes.max()) + 1,
            }

        lab.part(f"{plan.name}-classifier", learned)
        classifier = Classifier.load(path, shape_of(pixels))
        features = classifier.of_pixels(pixels)
        return cls(plan, train, held_out, pixels, others, features, classifier, inception)

    def distances(self, pixels: Tensor) -> dict[str, float]:
        """Of images ``[n, C, H, W]`` uint8 from those that were trained on."""
        some, data = (points(each[:MOST_COMPARED]) for each in (pixels, self.pixels))
        return {
            "energy": energy(some, data),
            "frechet": frechet(self.classifier.of_pixels(pixels), self.features),
        }

    def measured(self, lab: Lab, key: str, network: Path) -> dict[str, float]:
        """Of a network: distances of its samples, and its round trip."""
        return self.sampled(lab, key, network) | self.roundtrip(lab, key, network)

    def sampled(self, lab: Lab, key: str, network: Path) -> dict[str, float]:
        """Distances of a network's samples."""
        samples = lab.out / "samples" / f"{lab.scale}-{key}"
        place = (f"--save_dir={samples}", f"--network={network}", "--subdirs")
        seeds = f"--seeds=0-{self.plan.generated - 1}"
        run("gen_fid_samples.py", *place, seeds, *self.plan.generation)
        data = ImageDataset(samples)
        found = self.distances(data.read(range(len(data)))[0])
        if self.plan.with_fid or self.inception:
            found["fid"] = self.fid(lab, samples)
        return found

    def fid(self, lab: Lab, samples: Path) -> float:
        """By ``fid.py``."""
        detector = [f"--detector={self.inception}"] if self.inception else []
        reference = lab.folder / f"{lab.scale}-{self.plan.name}-fid.npz"
        lab.made(reference, "fid.py ref", f"--data={self.train}", *detector)
        result = samples.with_name(f"{samples.name}-fid.json")
        images = (f"--images={samples}", f"--ref={reference}", *detector)
        return float(load_json(lab.made(result, "fid.py calc", *images))["fid"])

    def roundtrip(self, lab: Lab, key: str, network: Path) -> dict[str, float]:
        """Mean squared error in gray levels, after rounding and before; and after rounding where
        steps have an exact inverse."""
        found = self.returned(lab, key, network, self.plan.roundtrip)
        values = {"mse": found["mse"], "mse_float": found["mse_float"]}
        if self.plan.reversible:
            exact = self.returned(lab, f"{key}-reversible", network, self.plan.reversible)
            values["mse_reversible"] = exact["mse"]
        return values

    def returned(
        self, lab: Lab, key: str, network: Path, options: tuple[str, ...]
    ) -> dict[str, Any]:
        """What ``calc_roundtrip_mse.py`` finds."""
        folder = lab.out / "roundtrips" / f"{lab.scale}-{key}"
        if not list(folder.glob("*.json")):
            place = (f"--save_dir={folder}", f"--network={network}", "--overwrite")
            images = (f"--data_root={self.held_out}", f"--total_samples={self.plan.returned}")
            run("calc_roundtrip_mse.py", *place, *images, *options)
        return load_json(next(folder.glob("*.json")))

    def of_data(self) -> dict[str, float]:
        """Distances of as many images that were held out: what could be hoped for."""
        order = torch.randperm(len(self.others), generator=torch.Generator().manual_seed(0))
        return self.distances(self.others[order[: self.plan.generated]])


def points(pixels: Tensor) -> Tensor:
    return normalize_pixels(pixels).flatten(1)


def measure(
    lab: Lab,
    inception: Path | None,
    flows: Callable[[ImagePlan], Mapping[float, tuple[int, float]]],
    plans: Sequence[ImagePlan],
) -> dict[str, Any]:
    """What all trainings of all flows are worth.

    Args:
        lab: Where to keep it.
        inception: Weights of the Inception network, or None.
        flows: Of a data set, dimensions kept and gap by what they are drawn against.
        plans: The data sets.

    Returns:
        By data set: ``of_data``, and ``flows`` by what they are drawn against, each a list of
        measures by training.
    """
    found: dict[str, Any] = {}
    for plan in plans:
        judge = Judge.of(lab, plan, inception)
        runs: dict[str, list[dict[str, Any]]] = {}
        for at, (kept, gap) in flows(plan).items():
            for seed in range(plan.seeds):
                network, key = plan.network(lab, kept, gap, seed), plan.key(kept, gap, seed)
                one = lab.part(
                    key,
                    lambda j=judge, k=key, n=network: j.measured(lab, k, n),  # type: ignore[misc]
                )
                runs.setdefault(f"{at:g}", []).append(one)
        found[plan.name] = {
            "dim": plan.dim,
            "of_data": lab.part(f"{plan.name}-data", judge.of_data),
            "classifier": lab.part(f"{plan.name}-classifier", dict),
            "flows": runs,
        }
    return found


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and two standard deviations; 0 of a single value."""
    return mean(values), 2 * stdev(values) if len(values) > 1 else 0.0


def told(values: Sequence[float]) -> str:
    """Mean ± two standard deviations, with as many digits as the mean has use for."""
    middle, wide = spread(values)
    if 0 < abs(middle) < 1e-3:
        return f"{middle:.1e} ± {wide:.0e}"
    digits = 3 if abs(middle) < 10 else 1
    return f"{middle:.{digits}f} ± {wide:.{digits}f}"


def measures_of(found: Mapping[str, Any]) -> list[str]:
    """The names of what was measured of all."""
    first = next(iter(found.values()))["flows"]
    return [name for name in MEASURES if name in next(iter(first.values()))[0]]


def table(found: Mapping[str, Any], head: str) -> str:
    """A row for each flow, and one for images that were held out."""
    names, rows = measures_of(found), []
    for data, one in found.items():
        for at, runs in one["flows"].items():
            rows.append([data, at, *(told([run[name] for run in runs]) for name in names)])
        of_data = one["of_data"]
        cells = [f"{of_data[name]:.3f}" if name in of_data else "" for name in names]
        rows.append([f"{data}, held out", "", *cells])
    return markdown(["data", head, *(MEASURES[name] for name in names)], rows)


def picture(found: Mapping[str, Any], title: str, label: str, logarithmic: bool) -> Canvas:
    """A row for each data set, a panel for each measure."""
    names, panels = measures_of(found), []
    for data, one in found.items():
        at = [float(key) for key in one["flows"]]
        for name in names:
            values = [[run[name] for run in runs] for runs in one["flows"].values()]
            middle, wide = map(np.array, zip(*map(spread, values), strict=True))
            marks: list[Mark] = [Line(at, middle, BLUE, width=1.2)]
            limits, log = None, name == "mse_float"  # over many orders of magnitude
            if log:
                x = np.repeat(at, [len(each) for each in values])
                marks.append(Points(x, np.concatenate(values), BLUE, size=3))
            else:
                marks.append(Segments(at, at, middle - wide, middle + wide, BLUE, width=1.2))
                marks.append(Points(at, middle, BLUE, size=3.5))
                if name in one["of_data"]:
                    marks.append(Rule(one["of_data"][name], width=0.9, dashed=True))
                if (middle >= wide).all():
                    top = max([*(middle + wide), one["of_data"].get(name, 0.0)])
                    limits = (0.0, 1.08 * float(top))
            panels.append(
                Panel(
                    marks,
                    data if name == names[0] else "",
                    NOTES.get(name, MEASURES[name]),
                    label,
                    y_limits=limits,
                    x_log=logarithmic,
                    y_log=log,
                    x_ticks={x: f"{x:g}" for x in apart(at, logarithmic)},
                )
            )
    words = "mean ± 2 standard deviations over trainings; dashed: images that were held out"
    return draw(Figure(title, words, panels, len(names), (2.3, 1.7)))


def apart(at: Sequence[float], logarithmic: bool) -> list[float]:
    """Those of increasing numbers whose names on an axis would not touch."""
    places = np.log(at) if logarithmic else np.array(at)
    shown = [0]
    for index in range(1, len(at)):
        if places[index] - places[shown[-1]] > LEAST_APART * (places[-1] - places[0]):
            shown.append(index)
    return [at[index] for index in shown]


def classifier_words(found: Mapping[str, Any]) -> str:
    """Describe the accuracy of the classifiers."""
    parts = [
        f"{name}: {one['classifier']['classes']} classes, "
        f"{one['classifier']['accuracy_held_out']:.0%} accuracy on held-out images"
        for name, one in found.items()
    ]
    return "; ".join(parts)


def exact_words(found: Mapping[str, Any]) -> str:
    """How many networks bring every pixel back, by each of the round trips."""
    every = [run for one in found.values() for runs in one["flows"].values() for run in runs]
    words = f"after rounding, {_exact([run['mse'] for run in every])}"
    if "mse_reversible" in every[0]:
        reversible = _exact([run["mse_reversible"] for run in every])
        words += f", and by the reversible solver `rev_rk5`, {reversible}"
    return words


def _exact(errors: Sequence[float]) -> str:
    inexact = sum(mse > 0 for mse in errors)
    if not inexact:
        return f"every pixel is exact for all {len(errors)} networks"
    return f"pixels of {inexact} in {len(errors)} networks differ, by at most {max(errors):.1g}"


def describe_extraction(plans: Sequence[ImagePlan]) -> dict[str, str]:
    """What words say of the trainings of some data sets."""
    options = [dict(each.split("=", 1) for each in plan.options if "=" in each) for plan in plans]
    durations = [each.get("--duration", PUBLISHED_DURATION) for each in options]
    return {
        "seeds": str(plans[0].seeds),
        "durations": " and ".join(f"{float(each) * 1e6:,.0f}" for each in durations),
        "roundtrip": " and ".join(f"`{' '.join(plan.roundtrip)}`" for plan in plans),
        "generated": " and ".join(f"{plan.generated:,}" for plan in plans),
    }
