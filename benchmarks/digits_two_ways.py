"""Bits per dimension of digits, as a table of 64 columns and as images of 8 x 8 pixels.

A digit is 64 gray levels from 0 to 16. Both flows bound what a held-out digit costs in bits:

    -log2 P(levels) <= E_q [log2 q(u) - log2 p(levels + u)],

q being any law of u within half a level around 0 (Ho et al. 2019, Flow++, section 3.1), here

    uniform    for the table, which is trained on levels spread so, and for images of such levels;
    spikes     for images as dataset_tool.py makes them, whose pixels have 17 values: the noise of
               the first time, of variance gamma0, which the flow is trained to have there, cut off
               at half a level.

The mean is over all 64 dimensions. Columns without variance are left out of the table; their levels
are coded by how often each was seen, one more than it was (rule of succession): 0.015 bits each.

1,500 digits, drawn by --seed, are trained on, of which the table holds out 150 to choose by; 297
are judged by. Networks are trained by train.py's defaults, unless --images has others, for as many
steps as fit in the seconds of the CPU: one thread, without the start and what chose the table's
coordinates.

    OMP_NUM_THREADS=1 python benchmarks/digits_two_ways.py --folder=out/digits_two_ways
"""

import argparse
import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from math import log, pi
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.estimators.flow import children_seconds
from benchmarks.likelihood import image_flow, mean_and_error
from benchmarks.tables import from_array
from training.data.sources.writer import image_writer
from training.data.tables.formats import TableChoices
from training.data.tables.making import make_table
from training.data.tables.schema import Column
from training.files.table import load_table, save_table
from training.flow.likelihood import Trace
from training.trained.network import TrainedNetwork

TRAINED, LEVELS, SPREAD, COPIES = 1500, 17, 15, 20
"""Pixels of a spread level have one of 15 values, so that 17 levels fill 8 bits, but for one."""
UNITS = 127.5
"""Pixel values in one unit of an image flow."""
IMAGE_TMAX, IMAGE_STEPS = 10.8, 4
TABLE_TRIAL, IMAGE_TRIAL = (200, 1200), (10, 40)
"""Steps of the two trainings whose difference in seconds tells those of a step."""
DIM, SIDE = 64, 8


@dataclass(frozen=True)
class Digits:
    """Gray levels ``[N, 64]``, from 0 to 16, in two parts."""

    train: np.ndarray
    test: np.ndarray

    @classmethod
    def split(cls, seed: int) -> "Digits":
        levels = load_digits().data[np.random.default_rng(seed).permutation(1797)]
        return cls(levels[:TRAINED], levels[TRAINED:])


def write_images(path: Path, pixels: np.ndarray) -> None:
    with image_writer(path) as writer:
        for image in pixels.astype(np.uint8).reshape(-1, SIDE, SIDE, 1):
            writer.add(image, None)


def spread_pixels(levels: np.ndarray) -> np.ndarray:
    """Pixels of copies of digits, each level anywhere in its 15 values."""
    several = np.concatenate([levels] * COPIES)
    return SPREAD * several + np.random.default_rng(1).integers(0, SPREAD, several.shape)


def write_table(path: Path, levels: np.ndarray) -> None:
    table, _ = make_table(from_array("digits", levels.copy()), TableChoices(dequantize=False))
    columns = [Column.of_numbers(name, step=1.0) for name in table.names]
    save_table(path, replace(table, columns=columns))


def run(*arguments: str) -> tuple[str, float]:
    """Runs train.py. Returns what it said, and its seconds of the CPU."""
    before = children_seconds()
    command = [sys.executable, "train.py", *arguments]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return told, children_seconds() - before


@dataclass(frozen=True)
class Training:
    """How a flow is trained.

    Attributes:
        options: Of train.py.
        batch: The batch that it takes.
        own: Seconds that it takes without a step.
        per_step: Seconds of a step.
    """

    options: tuple[str, ...]
    batch: int
    own: float
    per_step: float

    @classmethod
    def timed(cls, folder: Path, trial: tuple[int, int], *options: str) -> "Training":
        told = run(*options, f"--outdir={folder}", "--dry-run")[0]
        batch = int(json.loads(told[told.index("\n{") :])["options"]["batch"])
        costs = []
        for steps in trial:
            place = (f"--outdir={folder / f'trial-{steps}'}", "--nosubdir")
            costs.append(run(*options, *place, f"--duration={steps * batch / 1e6}")[1])
        per_step = (costs[1] - costs[0]) / (trial[1] - trial[0])
        return cls(options, batch, costs[0] - trial[0] * per_step, per_step)

    def train(self, folder: Path, seconds: float) -> tuple[TrainedNetwork, int, float]:
        """The network, the steps that it was trained for, and the seconds that it took."""
        steps = round(seconds / self.per_step)
        duration = f"--duration={steps * self.batch / 1e6}"
        _, taken = run(*self.options, f"--outdir={folder}", "--nosubdir", duration)
        lines = (folder / "stats.jsonl").read_text().splitlines()
        seen = json.loads(lines[-1])["seen"]
        path = max(folder.glob("network-snapshot-*.pkl"))
        return TrainedNetwork.load(path), seen // self.batch, taken - self.own


def uniform(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)).double() - 0.5


def table_bits(model: TrainedNetwork, digits: Digits, data: Path) -> Tensor:
    """Bits per dimension ``[n]`` of held-out digits under the flow of a table."""
    places = [int(name[1:]) - 1 for name in load_table(data).names]
    rows = torch.from_numpy(digits.test[:, places])
    rows = rows + uniform(tuple(rows.shape))
    nats = torch.cat([model.flow.log_prob(part) for part in torch.split(rows, 100)])
    return (-nats / log(2) + rest_bits(digits, places)) / DIM


def rest_bits(digits: Digits, places: list[int]) -> Tensor:
    """Bits ``[n]`` of the columns that a table leaves out, by the rule of succession."""
    bits = np.zeros(len(digits.test))
    for place in set(range(DIM)) - set(places):
        seen = np.bincount(digits.train[:, place].astype(int), minlength=LEVELS) + 1
        bits -= np.log2(seen[digits.test[:, place].astype(int)] / seen.sum())
    return torch.from_numpy(bits)


def spread_bits(model: TrainedNetwork, digits: Digits) -> Tensor:
    """Of an image flow that is trained on levels that are spread."""
    levels = torch.from_numpy(digits.test)
    # The middle of the values of a level, from 15 k to 15 k + 14.
    pixels = SPREAD * (levels + uniform(tuple(levels.shape))) + (SPREAD - 1) / 2
    nats = image_nats(model, pixels / UNITS - 1) + DIM * log(SPREAD / UNITS)
    return -nats / DIM / log(2)


def spike_bits(model: TrainedNetwork, digits: Digits) -> Tensor:
    """Of an image flow that is trained on pixels as they are."""
    pixels = torch.from_numpy(np.rint(digits.test * (255 / (LEVELS - 1))))
    std = model.flow.schedule.noise_variance(first_time(model)).double().mean().sqrt()
    # In standard deviations: what is farther away belongs to another level.
    widest = 255 / (LEVELS - 1) / 2 / UNITS / std
    inside = torch.erf(widest / 2**0.5)
    noise = torch.erfinv(2 * uniform(tuple(pixels.shape)) * inside) * 2**0.5
    log_q = -(noise.square() / 2 + (std * inside).log() + log(2 * pi) / 2)
    nats = image_nats(model, pixels / UNITS - 1 + std * noise)
    return (log_q.sum(dim=1) - nats) / DIM / log(2)


def first_time(model: TrainedNetwork) -> Tensor:
    return model.flow.schedule.times(1, model.about["tmax"])[0]


def image_nats(model: TrainedNetwork, points: Tensor) -> Tensor:
    """Log densities ``[n]``; the traces are estimates, and right on average."""
    times = model.flow.schedule.times(IMAGE_STEPS, model.about["tmax"])
    return image_flow(model).log_prob(points, times, trace=Trace("hutchinson"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="Where everything goes.")
    parser.add_argument("--seconds", default="25,180", help="To train for, with commas.")
    parser.add_argument("--only", default="", help="Flows whose names begin so.")
    parser.add_argument("--images", default="", help="Further options of train.py on images.")
    parser.add_argument("--seed", type=int, default=0, help="Of the split.")
    options = parser.parse_args()
    folder, digits = options.folder, Digits.split(options.seed)
    folder.mkdir(parents=True)
    table, spikes, spread = (folder / name for name in ("table.npz", "spikes.zip", "spread.zip"))
    write_table(table, digits.train)
    write_images(spikes, np.rint(digits.train * (255 / (LEVELS - 1))))
    write_images(spread, spread_pixels(digits.train))
    told, taken = run(f"--data={table}", f"--outdir={folder}", "--dry-run")
    space = [re.findall(rf'"{name}": "(.*?)"', told)[-1] for name in ("marginals", "whiten")]
    print(f"Coordinates of the table: {', '.join(space)}, chosen in {taken:.0f} s\n")
    fixed = (f"--marginals={space[0]}", f"--whiten={space[1]}")
    further = options.images.split()
    images = ("--no-calibrate", f"--tmax={IMAGE_TMAX}", "--workers=0", *further)
    ways: dict[str, tuple[tuple[int, int], tuple[str, ...]]] = {
        "table": (TABLE_TRIAL, (f"--data={table}", *fixed)),
        "images, spread levels": (IMAGE_TRIAL, (f"--data={spread}", *images)),
        "images, as they are": (IMAGE_TRIAL, (f"--data={spikes}", *images)),
    }
    trainings = {
        name: Training.timed(folder / f"trial {name}", trial, *given)
        for name, (trial, given) in ways.items()
        if name.startswith(options.only)
    }
    print("| flow | to train, s | taken, s | steps | bits per dimension |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for seconds in map(float, options.seconds.split(",")):
        for name, training in trainings.items():
            place = folder / f"{name.replace(', ', '-').replace(' ', '-')}-{seconds:.0f}"
            model, steps, taken = training.train(place, seconds)
            if name == "table":
                bits = table_bits(model, digits, table)
            elif name == "images, spread levels":
                bits = spread_bits(model, digits)
            else:
                bits = spike_bits(model, digits)
            figure = mean_and_error(bits)
            print(f"| {name} | {seconds:.0f} | {taken:.0f} | {steps:,} | {figure} |", flush=True)


if __name__ == "__main__":
    main()
