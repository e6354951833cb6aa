"""The learned law of compressed latents, on toys that lose a dimension: what it leaves of the error
that the Gaussian makes, in nats and in samples.

    python benchmarks/latent_law.py [--toys=circles,moons] [--duration=6] [--folder=out/latent_law]

With the exact denoiser, and with trained networks (of so many million samples; 0 for none), which
``toy_train.py`` makes in the folder if they are not there. Training learns the law at its end; for
the exact flow it is learned here, in the same way. A network that preserves all dimensions
stands beside, trained on as many samples.

left      mean log density of fresh points under the toy itself, less that under the flow, nats,
          with its standard error
energy    mean energy distance of 20,000 samples from three sets of as many fresh points, over that
          of these sets from each other; 1 is as good as data
coverage  of spheres around the middle of the whitened latents: where the share of fresh points
          inside is farthest from that of a normal law, in points of 100; at radii of 0.5, 1, ...
          3.5, of 50,000 points. Chance alone makes 0.35 of it.
seconds   of the CPU, to melt and to fit
"""

import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.two_sample import mean_distance
from torch_utils.seeds import seeded_generator
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.learning.finishing import MOST, LatentPlan, candidates_for, encoded_latents, fit
from training.names import TOY_NAMES
from training.subjects.toys import inflated_points
from training.trained.network import TrainedNetwork

ROOT = Path(__file__).parent.parent
SAMPLES, DENSITIES, SETS = 20_000, 4000, 3
COVERED = 50_000
PLAIN = ("--others=0", "--no-antithetic")
"""Targets are not averaged, and noise has no pairs, in the published table."""
RADII = torch.arange(0.5, 3.6, 0.5, dtype=torch.float64)


def exact_flow(toy: Toy, dims_to_keep: int | None = None) -> ProbabilityFlow:
    """The toy's own denoiser; without a number all dimensions but one are kept."""
    basis, kept = EigenBasis.from_moments(*toy.moments()), dims_to_keep or toy.dim - 1
    schedule = InflationSchedule.to_dimension(kept, toy.dim, top_variance=basis.top_variance)
    return ProbabilityFlow(MixtureDenoiser(*toy.mixture, basis, schedule), schedule, basis)


def fresh(toy: Toy, flow: ProbabilityFlow, count: int, seed: int) -> Tensor:
    """Points with the noise of the first time, as samples have it."""
    generator = seeded_generator("cpu", seed)
    noise = flow.schedule.sample_noise(count, flow.times()[0], generator)
    return toy.sample(count, generator) + flow.basis.rotate_back(noise)


def learned(toy: Toy, flow: ProbabilityFlow) -> tuple[ProbabilityFlow, float]:
    """The flow with a law, and seconds that it took."""
    start = time.process_time()
    plan = LatentPlan(lambda count: inflated_points(toy, 0, count), None, MOST, 0, 2048)
    latents = encoded_latents(flow, plan, MOST, lambda part: None)
    (candidate,) = candidates_for(1)
    found = fit(latents, toy.dim - 1, candidate, 0)
    return flow.with_distribution(found.mixture), time.process_time() - start


def trained(toy: Toy, dims_to_keep: int, duration: float, folder: Path) -> ProbabilityFlow:
    place = folder / f"{toy.name}_to_{dims_to_keep}_{duration:g}"
    if not list(place.glob("network-snapshot-*.pkl")):
        options = [f"--data_name={toy.name}", f"--dims_to_keep={dims_to_keep}"]
        options += [f"--duration={duration:g}", f"--outdir={place}", "--nosubdir", *PLAIN]
        command = [sys.executable, str(ROOT / "toy_train.py"), *options]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return TrainedNetwork.load(sorted(place.glob("network-snapshot-*.pkl"))[-1]).flow


class Fresh:
    """Sets of fresh points, to compare samples with."""

    def __init__(self, toy: Toy, flow: ProbabilityFlow):
        self.sets = [fresh(toy, flow, SAMPLES, 100 + index) for index in range(SETS)]
        self.within = [mean_distance(points, points) for points in self.sets]
        own = [
            2 * mean_distance(self.sets[a], self.sets[b]) - self.within[a] - self.within[b]
            for a, b in combinations(range(SETS), 2)
        ]
        self.own = sum(own) / len(own)

    def energy(self, samples: Tensor) -> float:
        """Mean energy distance of samples from the sets, over that of the sets from each other."""
        within = mean_distance(samples, samples)
        crosses = [
            2 * mean_distance(samples, points) - within - own
            for points, own in zip(self.sets, self.within, strict=True)
        ]
        return sum(crosses) / SETS / self.own


def left(toy: Toy, flow: ProbabilityFlow, exact: ProbabilityFlow) -> tuple[float, float]:
    """Nats that the flow's density lacks of the toy's own, and their standard error."""
    points = fresh(toy, flow, DENSITIES, 1)
    denoiser = exact.denoiser
    assert isinstance(denoiser, MixtureDenoiser)
    own = denoiser.log_density(exact.to_eigen(points), exact.times()[0])
    lacks = own - flow.log_prob(points)
    return float(lacks.mean()), float(lacks.std() / len(lacks) ** 0.5)


def farthest_coverage(toy: Toy, flow: ProbabilityFlow) -> float:
    """Points of 100 by which spheres of latents hold another share of fresh points."""
    points = fresh(toy, flow, COVERED, 2)
    whitened = flow.latent.whiten(flow.encode(points, flow.times(24), "exp_ab2"))
    inside = (whitened.norm(dim=1)[:, None] <= RADII).double().mean(dim=0)
    half_dim = torch.tensor(toy.dim / 2, dtype=torch.float64)
    expected = torch.special.gammainc(half_dim, RADII.square() / 2)
    return float(100 * (inside - expected).abs().max())


@click.command(help=__doc__)
@click.option("--toys", default=",".join(TOY_NAMES[:8]), show_default=True)
@click.option("--duration", type=float, default=6.0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="out/benchmarks/latent_law")
def main(toys: str, duration: float, folder: Path) -> None:
    torch.set_num_threads(1)
    print("| toy | denoiser | law | left, nats | energy | coverage | seconds |")
    print("| --- | --- | --- | ---: | ---: | ---: | ---: |")
    for name in toys.split(","):
        toy = Toy(name)
        exact = exact_flow(toy)
        with_distribution, seconds = learned(toy, exact)
        flows = [("exact", exact, ""), ("exact", with_distribution, f"{seconds:.0f}")]
        if duration:
            network = trained(toy, toy.dim - 1, duration, folder)
            flows += [("trained", network.with_distribution(None), ""), ("trained", network, "")]
            flows.append(("trained", trained(toy, toy.dim, duration, folder), ""))
        points = Fresh(toy, exact)
        for denoiser, flow, cost in flows:
            samples = flow.sample(SAMPLES, seeded_generator("cpu", 0))
            mean, error = left(toy, flow, exact)
            distribution = "learned" if flow.learned else "Gaussian"
            distribution = distribution if flow.schedule.name != "PRP" else "(PRP)"
            print(
                f"| {name} | {denoiser} | {distribution} | {mean:.4f} ± {error:.4f} | "
                f"{points.energy(samples):.2f} | {farthest_coverage(toy, flow):.2f} | {cost} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
