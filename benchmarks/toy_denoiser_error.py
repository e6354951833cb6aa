"""Trains toys with the defaults of toy_train.py and measures the excess error of each network.

    python benchmarks/toy_denoiser_error.py [--toys circles,swirl] [--schedules PRP,PRR]

The excess error is ``E_t E_x mean_i ((D_i - D*_i) / c_out,i)^2`` with t uniform on [0, T] and D*
the exact denoiser. Seconds are those of the training loop. The networks stay in --outdir.
"""

import json
import subprocess
import sys
from pathlib import Path

import click
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.excess_error import excess_error, noisy_points
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.names import TOY_NAMES
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent
SCHEDULES = ("PRP", "PRR")
POINTS = 100_000


def run_folder(outdir: Path, toy: str, schedule: str) -> Path:
    return outdir / f"{toy}-{schedule}"


def trained_network(folder: Path) -> Path:
    return max(folder.glob("network-snapshot-*.pkl"))


def train(toy: str, schedule: str, folder: Path, extra: list[str]) -> None:
    keep = Toy(toy).dim - (schedule == "PRR")
    script = [sys.executable, str(ROOT / "toy_train.py"), f"--data_name={toy}"]
    place = [f"--dims_to_keep={keep}", f"--outdir={folder}", "--nosubdir"]
    subprocess.run([*script, *place, *extra], check=True, stdout=subprocess.DEVNULL)


def measure(network: Path) -> torch.Tensor:
    """Excess error per eigen-dimension ``[D]`` of a network, on fresh points."""
    model = TrainedNetwork.load(network)
    denoiser, basis = model.denoiser, model.denoiser.basis
    toy = Toy(model.about["data_name"], model.about["augment_to"])
    exact = MixtureDenoiser(*toy.mixture, basis=basis, schedule=denoiser.schedule)
    generator = torch.Generator().manual_seed(2**32)
    clean = basis.to_eigen(toy.sample(POINTS, generator))
    x, t = noisy_points(clean, denoiser.schedule, model.about["tmax"], generator)
    return excess_error(denoiser, exact, x, t).mean(dim=0)


@click.command(help=__doc__)
@click.option("--toys", default=",".join(TOY_NAMES), show_default=True)
@click.option("--schedules", default=",".join(SCHEDULES), show_default=True)
@click.option("--outdir", default="out/benchmarks/toys", show_default=True)
@click.option("--train-option", "extra", multiple=True, help="Passed on to toy_train.py.")
def main(toys: str, schedules: str, outdir: str, extra: tuple[str, ...]) -> None:
    print("| toy | schedule | T | samples (M) | seconds | excess error | per dimension |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |")
    for toy in toys.split(","):
        for schedule in schedules.split(","):
            folder = run_folder(Path(outdir), toy, schedule)
            if not folder.exists():
                train(toy, schedule, folder, list(extra))
            network = trained_network(folder)
            model = TrainedNetwork.load(network)
            last = json.loads((folder / "stats.jsonl").read_text().splitlines()[-1])
            error = measure(network)
            dimensions = ", ".join(f"{value:.1e}" for value in error.tolist())
            print(
                f"| {toy} | {model.denoiser.schedule.name} | {model.about['tmax']:.2f} "
                f"| {last['seen'] / 1e6:.2f} | {last['Timing/seconds']:.0f} "
                f"| {float(error.mean()):.1e} | {dimensions} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
