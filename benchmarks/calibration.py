"""What a calibration does to a network's latent variances, samples and round trips.

    python benchmarks/calibration.py --network=network-snapshot-....pkl --data=train.zip \
        --held-out=held-out.zip
    python benchmarks/calibration.py --network=network-snapshot-....pkl     (a toy's)

Calibrations are fitted here, to training data. Melts start from data with the noise of the first
time, for which the closed form of the variances is exact, so that all of the deviation is the
network's (and the solver's).

Samples are judged twice. An energy distance sees where they lie; two samples of one law have one
above zero, and that of the training points to the held-out ones is printed for comparison. A mean
log density of held-out points (with that noise) is, but for a constant, minus the divergence of the
data from what is generated; it is told as the gain over no calibration, in nats a point, with its
standard error over the points.

The last row is the exact denoiser of the training data, of the images or of the toy: what is wrong
with its samples is no network's fault, but that of a last time at which the data are not yet
Gaussian, or of dimensions that are compressed. For images it knows no other data than the training
images, so that it is not asked about held-out ones.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.two_sample import energy_distance
from torch_utils.seeds import seeded_generator
from training.data.images.dataset import ImageDataset, basis_batches
from training.data.toys import Toy
from training.flow.denoisers import Calibration, DiscreteDenoiser, MixtureDenoiser, fit_calibration
from training.flow.likelihood import Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS, Solver
from training.names import METHODS
from training.trained.network import TrainedNetwork

FIT_STREAM, TRAIN_STREAM, HELD_OUT_STREAM, LATENT_STREAM = range(4)
TOY_POINTS, TOY_FIT_POINTS = 2000, 20_000
RETURNED = 200
"""Held-out points that are brought back."""
PROBES = 8
"""Of the traces of log densities in many dimensions."""
RK4 = SOLVERS["rk4"]


@dataclass(frozen=True)
class Data:
    """Points ``[n, D]``: to fit to, from the training data, and held out; the toy if it is one."""

    fit: Tensor
    train: Tensor
    held_out: Tensor
    toy: Toy | None

    @classmethod
    def of(
        cls, model: TrainedNetwork, data: Path | None, held_out: Path | None, fit_points: int
    ) -> "Data":
        if data and held_out:
            train = read_images(data)
            return cls(train[:fit_points], train, read_images(held_out), None)
        toy = Toy(model.about["data_name"], model.about["augment_to"])

        def sample(count: int, stream: int) -> Tensor:
            return toy.sample(count, seeded_generator("cpu", 0, stream))

        return cls(
            sample(TOY_FIT_POINTS, FIT_STREAM),
            sample(TOY_POINTS, TRAIN_STREAM),
            sample(TOY_POINTS, HELD_OUT_STREAM),
            toy,
        )

    def exact_flow(self, flow: ProbabilityFlow) -> ProbabilityFlow:
        """The flow of the training law itself, along the same schedule."""
        basis, schedule = flow.basis, flow.schedule
        denoiser = (
            MixtureDenoiser(*self.toy.mixture, basis=basis, schedule=schedule)
            if self.toy
            else DiscreteDenoiser(self.train, basis, schedule)
        )
        return ProbabilityFlow(denoiser, schedule, basis)


def read_images(path: Path) -> Tensor:
    return torch.cat(list(basis_batches(ImageDataset(path)))).double()


def kept_growth(
    flow: ProbabilityFlow, start: Tensor, times: Tensor, kept: int, solver: Solver
) -> tuple[float, float]:
    """Growth of the kept dimensions' second moments in a melt of states ``[N, D]`` at the first
    time, over its closed form: mean, and farthest from 1."""
    end = flow.simulate(start, times, solver).end
    growth = end.square().mean(0) / start.square().mean(0)
    first, last = (flow.latent_law(t).variance for t in times[[0, -1]])
    ratio = (growth / (last / first))[:kept]
    return float(ratio.mean()), float(ratio[(ratio - 1).abs().argmax()])


@dataclass(frozen=True)
class Judge:
    """What a flow is asked: along which times, of how many kept dimensions, from which latents."""

    data: Data
    times: Tensor
    kept: int
    latent: Tensor

    def kept_ratio(self, flow: ProbabilityFlow, points: Tensor) -> str:
        """Growth of the kept dimensions' second moments in a melt over its closed form: mean,
        farthest. Growth, since the moments of finitely many points are off from the start.
        """
        mean, farthest = kept_growth(
            flow, self._with_noise(flow, points), self.times, self.kept, RK4
        )
        return f"{mean:.3f}, {farthest:.3f}"

    def distances(self, flow: ProbabilityFlow) -> list[str]:
        """Energy distances of generated points to training and held-out data."""
        end = flow.generate(self.latent, self.times, RK4).end
        generated = flow.to_data(end, self.times[0])
        both = (self.data.train, self.data.held_out)
        return [f"{energy_distance(generated, points):.4f}" for points in both]

    def log_density(self, flow: ProbabilityFlow, count: int) -> Tensor:
        """That of held-out points with the noise of the first time ``[count]``, in nats."""
        points = self.data.held_out[:count]
        noisy = flow.to_data(self._with_noise(flow, points), self.times[0])
        return flow.log_prob(noisy, self.times, RK4, trace=Trace(probes=PROBES))

    def return_error(self, flow: ProbabilityFlow) -> str:
        """Largest error of held-out points brought back, in gray levels."""
        points = self.data.held_out[:RETURNED]
        end = flow.melt(points, self.times, RK4).end
        back = flow.to_data(flow.generate(end, self.times, RK4).end, self.times[0])
        return f"{float((back - points).abs().max()) * 127.5:.2g}"

    def _with_noise(self, flow: ProbabilityFlow, points: Tensor) -> Tensor:
        """Scaled eigenspace states at the first time."""
        first = self.times[0]
        noise = torch.randn(points.shape, generator=seeded_generator("cpu", 1), dtype=torch.float64)
        std = flow.schedule.noise_variance(first).sqrt()
        return flow.schedule.scale(first) * (flow.basis.to_eigen(points) + std * noise)


def network_rows(
    model: TrainedNetwork, judge: Judge, nodes: Tensor, density_points: int
) -> Iterator[list[str]]:
    flow, data = model.flow, judge.data
    fitted_to = flow.basis.to_eigen(data.fit)
    before: Tensor | None = None
    for method in (None, *METHODS):
        start = time.monotonic()
        calibration = (
            fit_calibration(model.denoiser, fitted_to, nodes, 0, method) if method else None
        )
        seconds = time.monotonic() - start
        model.denoiser.calibration = calibration
        density = judge.log_density(flow, density_points)
        before = density if before is None else before
        gain = density - before
        yield [
            method or "none",
            f"{seconds:.1f}",
            *_corrections(calibration, judge.kept),
            judge.kept_ratio(flow, data.train),
            judge.kept_ratio(flow, data.held_out),
            *judge.distances(flow),
            f"{float(gain.mean()):.2f} ± {float(gain.std()) / len(gain) ** 0.5:.2f}",
            judge.return_error(flow),
        ]


def exact_row(flow: ProbabilityFlow, judge: Judge) -> list[str]:
    data = judge.data
    exact = data.exact_flow(flow)
    held_out = judge.kept_ratio(exact, data.held_out) if data.toy else ""
    return [
        "exact denoiser", "", "", "", judge.kept_ratio(exact, data.train), held_out,
        *judge.distances(exact), "", "",
    ]  # fmt: skip


def _corrections(calibration: Calibration | None, kept: int) -> list[str]:
    if calibration is None:
        return ["1", "0"]
    gains, slopes = calibration.gains[:, :kept], calibration.slopes[:, :kept]
    return [f"{gains.min():.2f} to {gains.max():.2f}", f"{slopes.abs().max():.3f}"]


@click.command(help=__doc__)
@click.option("--network", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), help="Training images.")
@click.option("--held-out", type=click.Path(path_type=Path), help="Other images of their kind.")
@click.option("--steps", default=12, help="RK4 steps.")
@click.option("--nodes", default=17, help="Times of the calibration.")
@click.option("--fit-points", default=1000, help="Images the calibration is fitted to.")
@click.option("--samples", default=1000, help="Generated samples.")
@click.option("--density-points", default=200, help="Held-out points asked for their density.")
@click.option("--exact-only", is_flag=True, help="Show the last row alone.")
def main(
    network: Path,
    data: Path | None,
    held_out: Path | None,
    steps: int,
    nodes: int,
    fit_points: int,
    samples: int,
    density_points: int,
    exact_only: bool,
) -> None:
    model = TrainedNetwork.load(network, calibrated=False)
    t_min, t_max = model.about["tmin"], model.about["tmax"]
    times = torch.linspace(t_min, t_max, steps + 1, dtype=torch.float64)
    sets = Data.of(model, data, held_out, fit_points)
    distribution = model.flow.latent_law(times[-1])
    latent = distribution.sample(samples, seeded_generator("cpu", 0, LATENT_STREAM))
    judge = Judge(sets, times, model.about["dims_to_keep"], latent)
    print(
        f"{nodes} nodes, {steps} RK4 steps; energy distance of training to held-out data "
        f"{energy_distance(sets.train, sets.held_out):.4f}\n\n"
        "| calibration | fit, s | gains of kept dimensions | their largest slope "
        "| growth of kept variance over closed form, training: mean, farthest | held out "
        "| energy distance to training "
        "| to held out | log density of held-out points over none, nats "
        "| largest round-trip error, gray levels |\n"
        f"| --- |{' ---: |' * 9}"
    )
    node_times = torch.linspace(t_min, t_max, nodes, dtype=torch.float64)
    if not exact_only:
        for row in network_rows(model, judge, node_times, density_points):
            show(row)
    show(exact_row(model.flow, judge))


def show(row: list[str]) -> None:
    print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
