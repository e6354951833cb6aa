"""What a calibration does to a network's latent variances, samples and round trips.

    python benchmarks/calibration.py --network=network-snapshot-....pkl --data=train.zip \
        --held-out=held-out.zip
    python benchmarks/calibration.py --network=network-snapshot-....pkl     (a toy's)

Calibrations are fitted here, to training data. Melts start from data with the noise of the first
time, for which the closed form of the variances is exact, so that all of the deviation is the
network's (and the solver's). Two samples of one law have an energy distance above zero; that of the
training points to the held-out ones is printed for comparison.
"""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from torch_utils.seeds import seeded_generator
from training.data.images import ImageDataset, basis_batches
from training.data.toys import Toy
from training.flow.calibration import METHODS, Calibration, fit_calibration
from training.flow.pfode import ProbabilityFlow, sample_latent
from training.flow.solvers import SOLVERS
from training.measure.two_sample import energy_distance
from training.model import Model

FIT_STREAM, TRAIN_STREAM, HELD_OUT_STREAM, LATENT_STREAM = range(4)
TOY_FIT_POINTS = 20_000


def read_images(path: Path) -> Tensor:
    return torch.cat(list(basis_batches(ImageDataset(path)))).double()


def data_sets(model: Model, data: Path | None, held_out: Path | None) -> list[Tensor]:
    """Points ``[n, D]`` to fit to, from the training data, and held out."""
    if data and held_out:
        train = read_images(data)
        return [train, train, read_images(held_out)]
    toy = Toy(model.about["data_name"], model.about["augment_to"])
    counts = {FIT_STREAM: TOY_FIT_POINTS, TRAIN_STREAM: 2000, HELD_OUT_STREAM: 2000}
    return [toy.sample(n, seeded_generator("cpu", 0, stream)) for stream, n in counts.items()]


def kept_ratio(flow: ProbabilityFlow, data: Tensor, times: Tensor, kept: int) -> str:
    """Growth of the kept dimensions' second moments in a melt over its closed form: mean, farthest.

    Growth, since the moments of finitely many points are off from the start.
    """
    noise = torch.randn(data.shape, generator=seeded_generator("cpu", 1), dtype=torch.float64)
    start = flow.basis.to_eigen(data) + flow.schedule.noise_variance(times[0]).sqrt() * noise
    start = flow.schedule.scale(times[0]) * start
    end = flow.simulate(start, times, SOLVERS["rk4"]).end
    growth = end.square().mean(0) / start.square().mean(0)
    closed_form = flow.latent_variance(times[-1]) / flow.latent_variance(times[0])
    ratio = (growth / closed_form)[:kept]
    farthest = ratio[(ratio - 1).abs().argmax()]
    return f"{float(ratio.mean()):.3f}, {float(farthest):.3f}"


def rows(
    model: Model, sets: list[Tensor], steps: int, nodes: int, fit_points: int, samples: int
) -> Iterator[list[str]]:
    fit, train, held = sets
    flow, kept = model.flow, model.about["dims_to_keep"]
    times = torch.linspace(model.about["tmin"], model.about["tmax"], steps + 1, dtype=torch.float64)
    node_times = torch.linspace(
        model.about["tmin"], model.about["tmax"], nodes, dtype=torch.float64
    )
    points = flow.basis.to_eigen(fit[:fit_points])
    latent = sample_latent(
        samples, flow.latent_variance(times[-1]), seeded_generator("cpu", 0, LATENT_STREAM)
    )
    rk4 = SOLVERS["rk4"]
    for method in (None, *reversed(METHODS)):
        start = time.monotonic()
        calibration: Calibration | None = None
        if method:
            calibration = fit_calibration(model.denoiser, points, node_times, 0, method)
        seconds = time.monotonic() - start
        largest = float(calibration.slopes[:, :kept].abs().max()) if calibration else 0.0
        model.denoiser.calibration = calibration
        generated = flow.to_data(flow.generate(latent, times, rk4).end, times[0])
        some = held[:200]
        back = flow.generate(flow.melt(some, times, rk4).end, times, rk4).end
        error = flow.to_data(back, times[0]) - some
        yield [
            method or "none",
            f"{seconds:.1f}",
            f"{largest:.3f}",
            kept_ratio(flow, train, times, kept),
            kept_ratio(flow, held, times, kept),
            *(f"{energy_distance(generated, data):.4f}" for data in (train, held)),
            f"{float(error.abs().max()) * 127.5:.2g}",
        ]


@click.command(help=__doc__)
@click.option("--network", type=click.Path(path_type=Path), required=True)
@click.option("--data", type=click.Path(path_type=Path), help="Training images.")
@click.option("--held-out", type=click.Path(path_type=Path), help="Other images of their kind.")
@click.option("--steps", default=12, help="RK4 steps.")
@click.option("--nodes", default=17, help="Times of the calibration.")
@click.option("--fit-points", default=1000, help="Images the calibration is fitted to.")
@click.option("--samples", default=1000, help="Generated samples.")
def main(
    network: Path,
    data: Path | None,
    held_out: Path | None,
    steps: int,
    nodes: int,
    fit_points: int,
    samples: int,
) -> None:
    model = Model.load(network, calibrated=False)
    sets = data_sets(model, data, held_out)
    if not data:
        fit_points = TOY_FIT_POINTS
    print(
        f"{nodes} nodes, {steps} RK4 steps; energy distance of training to held-out data "
        f"{energy_distance(sets[1], sets[2]):.4f}\n\n"
        "| calibration | fit, s | largest slope of kept dimensions | growth of kept variance "
        "over closed form, training: mean, farthest | held out | energy distance to training "
        "| to held out | largest round-trip error, gray levels |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    for row in rows(model, sets, steps, nodes, fit_points, samples):
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
