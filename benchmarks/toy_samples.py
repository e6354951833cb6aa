"""What the trained toy flows of toy_denoiser_error.py are worth as generators and as maps.

    python benchmarks/toy_samples.py [--outdir out/benchmarks/toys]

For each network at its default T, with 25 steps of rk4, which is 100 calls:

* energy: energy distance of 20,000 generated points to as many fresh ones, over that between fresh
  data sets; mean over three independent pairs of each, since one pair alone is noisy;
* exact: the same for the exact denoiser, which shows what the Gaussian latent itself costs;
* variances: each latent variance of 20,000 melted points over its closed form;
* roundtrip: root mean square and largest error after a melt and back, data units.
"""

import statistics
import sys
from itertools import combinations
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.two_sample import mean_distance
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS
from training.model.model import Model

COUNT = 20_000
REPEATS = 3
STEPS = 25


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generated(flow: ProbabilityFlow, times: Tensor, seed: int) -> Tensor:
    latent = flow.gaussian_law(times[-1]).sample(COUNT, generator(seed))
    return flow.to_data(flow.generate(latent, times, SOLVERS["rk4"]).end, times[0])


class Cloud:
    """A sample whose distance to itself, half of the work, is computed once."""

    def __init__(self, points: Tensor):
        self.points = points
        self.spread = mean_distance(points, points)

    def energy(self, other: "Cloud") -> float:
        cross = mean_distance(self.points, other.points)
        return 2 * cross - self.spread - other.spread


def row(network: Path) -> str:
    model = Model.load(network)
    flow, basis, schedule = model.flow, model.denoiser.basis, model.denoiser.schedule
    toy = Toy(model.about["data_name"], model.about["augment_to"])
    exact_denoiser = MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)
    exact = ProbabilityFlow(exact_denoiser, schedule, basis)
    times = schedule.times(STEPS, model.about["tmax"])

    data = [toy.sample(COUNT, generator(seed)) for seed in range(REPEATS)]
    fresh = [Cloud(points) for points in data]
    floor = statistics.mean(first.energy(second) for first, second in combinations(fresh, 2))
    energies = [
        statistics.mean(
            Cloud(generated(which, times, 100 + seed)).energy(cloud)
            for seed, cloud in enumerate(fresh)
        )
        / floor
        for which in (flow, exact)
    ]

    melt = flow.melt(data[0], times, SOLVERS["rk4"])
    variances = melt.end.square().mean(dim=0) / flow.gaussian_law(times[-1]).variance
    back = flow.to_data(flow.generate(melt.end, times, SOLVERS["rk4"]).end, times[0])
    error = back - data[0]
    ratios = ", ".join(f"{value:.3f}" for value in variances.tolist())
    return (
        f"| {toy.name} | {schedule.name} | {energies[0]:.2f} | {energies[1]:.2f} | {ratios} "
        f"| {float(error.square().mean().sqrt()):.0e} | {float(error.abs().max()):.0e} |"
    )


@click.command(help=__doc__)
@click.option("--outdir", type=click.Path(path_type=Path), default="out/benchmarks/toys")
@click.option("--toys", help="Names of the toys, with commas  [default: all that were trained]")
@click.option("--schedules", default="PRP,PRR", show_default=True)
def main(outdir: Path, toys: str | None, schedules: str) -> None:
    print("| toy | schedule | energy | exact | variances | roundtrip rms | at most |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: |")
    for folder in sorted(path for path in outdir.iterdir() if path.is_dir()):
        toy, schedule = folder.name.rsplit("-", 1)
        if (toys is None or toy in toys.split(",")) and schedule in schedules.split(","):
            print(row(max(folder.glob("network-snapshot-*.pkl"))), flush=True)


if __name__ == "__main__":
    main()
