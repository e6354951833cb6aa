"""Log densities of the flows against what is known of them.

    python benchmarks/likelihood.py exact
    python benchmarks/likelihood.py toy --network=network-snapshot-....pkl [--network=...]
    python benchmarks/likelihood.py images --data=held-out.zip --network=... [--network=...]

exact: of exact toy flows, at 1000 points of the law at t = 0, against its own log density. With the
exact law of the latents what is left is the error of integration. With the Gaussian one, the mean
gap is minus the divergence KL(p_T || Gaussian), since the flow keeps it; beside it that divergence,
from samples of p_T alone. Integrals are sums over a grid whose spacing is 1.2 standard deviations
of the toy's noise, for which a sum of such Gaussians is wrong by 2e-6.

toy: mean log densities of fresh data under trained networks of toys, minus the truth, which is the
toy's own log density at t = 0; with the Gaussian latents and with the exact ones.

images: bits per dimension of images with 8-bit values spread evenly over their bins. ``linear`` is
the flow of the best linear denoiser, a Gaussian with the moments of the training data, blurred.
Estimated traces are compared with exact ones on a few of the images.
"""

import sys
import time
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from training.data.images.dataset import ImageDataset, normalize_pixels
from training.data.toys import Toy
from training.flow.denoisers import BLOCK_ROWS, MixtureDenoiser, RecomputedDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.latent import GaussianLatents
from training.flow.likelihood import Trace, bits_per_dim
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import NoiseSchedule
from training.flow.solvers import SOLVERS
from training.measure.roundtrip import LEVELS_PER_UNIT
from training.names import DEFAULT_SOLVER, DEFAULT_STEPS
from training.subjects.images import dequantized
from training.trained.architecture import make_schedule
from training.trained.network import TrainedNetwork

POINTS, LATENTS, FRESH, FEW = 1000, 100_000, 10_000, 48
KEPT = {"circles": (2, 1), "moons": (2, 1), "s_curve": (3, 2)}
GRID_STEP, GRID_MARGINS = 1.2, {2: 12.0, 3: 5.5}
"""Standard deviations of a toy's noise. Rare points of Gaussian latents lie outside the data."""

paths = click.Path(exists=True, path_type=Path)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact_flow(toy: Toy, kept: int) -> ProbabilityFlow:
    basis = EigenBasis.from_moments(*toy.moments())
    schedule = make_schedule("ifs", {"dims_to_keep": kept}, basis)
    return ProbabilityFlow(exact_denoiser(toy, basis, schedule), schedule, basis)


def exact_denoiser(toy: Toy, basis: EigenBasis, schedule: NoiseSchedule) -> MixtureDenoiser:
    return MixtureDenoiser(*toy.mixture, basis=basis, schedule=schedule)


def noisy_sample(toy: Toy, flow: ProbabilityFlow, count: int, t: Tensor) -> Tensor:
    """Points ``[n, D]`` of the law at time t, in eigenspace and unscaled."""
    draw = generator(1)
    clean = flow.basis.to_eigen(toy.sample(count, draw))
    noise = torch.randn(clean.shape, generator=draw, dtype=torch.float64)
    return clean + flow.schedule.noise_variance(t).sqrt() * noise


def grid(toy: Toy, gamma: Tensor) -> tuple[Tensor, float]:
    """Points ``[n, D]`` that cover a toy with isotropic noise added, and the volume of a cell."""
    std = (toy.mixture.covariance.diagonal() + gamma[0]).sqrt()
    margin, step = GRID_MARGINS[toy.dim] * std, GRID_STEP * std
    low, high = (toy.mixture.means.amin(dim=0) - margin), (toy.mixture.means.amax(dim=0) + margin)
    sides = zip(low.tolist(), high.tolist(), step.tolist(), strict=True)
    axes = [torch.arange(*side, dtype=torch.float64) for side in sides]
    return torch.cartesian_prod(*axes), float(step.prod())


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--toys", default=",".join(KEPT), show_default=True, help="Names, with commas.")
def exact(toys: str) -> None:
    print(f"{DEFAULT_SOLVER}, {DEFAULT_STEPS} steps, {POINTS} points; nats\n")
    print(
        "| toy | schedule | error, mean | at most | gap, mean | mean absolute | -KL "
        "| integral | with Gaussian latents | grid | seconds |"
    )
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in toys.split(","):
        for kept in KEPT[name]:
            print(exact_row(Toy(name), kept), flush=True)


def exact_row(toy: Toy, kept: int) -> str:
    began = time.perf_counter()
    flow, solver = exact_flow(toy, kept), SOLVERS[DEFAULT_SOLVER]
    distribution = exact_denoiser(toy, flow.basis, flow.schedule).log_density
    times = flow.schedule.times(DEFAULT_STEPS, flow.schedule.default_t_max())
    start = noisy_sample(toy, flow, POINTS, times[0])
    points, truth = flow.basis.from_eigen(start), distribution(start, times[0])
    error = (flow.log_prob(points, times, solver, distribution) - truth).abs()
    gap = flow.log_prob(points, times, solver) - truth
    latents = noisy_sample(toy, flow, LATENTS, times[-1])
    gaussian = GaussianLatents(flow.noisy_variance(times[-1]))
    shortfall = gaussian.log_prob(latents) - distribution(latents, times[-1])
    cells, volume = grid(toy, flow.schedule.noise_variance(times[0]))
    integrals = [
        float(flow.log_prob(cells, times, solver, latent).exp().sum()) * volume
        for latent in (distribution, None)
    ]
    return (
        f"| {toy.name} | {flow.schedule.name} | {error.mean():.1e} | {error.max():.1e} "
        f"| {mean_and_error(gap)} | {gap.abs().mean():.4f} | {mean_and_error(shortfall)} "
        f"| {integrals[0]:.5f} | {integrals[1]:.5f} | {len(cells)} "
        f"| {time.perf_counter() - began:.0f} |"
    )


def mean_and_error(values: Tensor) -> str:
    return f"{values.mean():.5f} ± {values.std() / len(values) ** 0.5:.5f}"


@main.command()
@click.option("--network", "networks", type=paths, multiple=True, required=True)
def toy(networks: tuple[Path, ...]) -> None:
    print(f"{DEFAULT_SOLVER}, {DEFAULT_STEPS} steps, {FRESH} fresh points; nats\n")
    print("| toy | schedule | truth | network | minus truth | with exact latents, minus truth |")
    print("| --- | --- | ---: | ---: | ---: | ---: |")
    for path in networks:
        print(toy_row(TrainedNetwork.load(path)), flush=True)


def toy_row(model: TrainedNetwork) -> str:
    flow = model.flow
    toy = Toy(model.about["data_name"], model.about["augment_to"])
    distribution = exact_denoiser(toy, flow.basis, flow.schedule).log_density
    times = flow.schedule.times(DEFAULT_STEPS, model.about["tmax"])
    points = toy.sample(FRESH, generator(2))
    truth = distribution(flow.basis.to_eigen(points), times[0])
    found = [
        flow.log_prob(points, times, SOLVERS[DEFAULT_SOLVER], latent)
        for latent in (None, distribution)
    ]
    return (
        f"| {toy.name} | {flow.schedule.name} | {truth.mean():.4f} | {found[0].mean():.4f} "
        f"| {mean_and_error(found[0] - truth)} | {mean_and_error(found[1] - truth)} |"
    )


@main.command()
@click.option("--network", "networks", type=paths, multiple=True, required=True)
@click.option("--data", type=paths, required=True, help="Images to judge by.")
@click.option("--steps", type=click.IntRange(min=1), default=DEFAULT_STEPS, show_default=True)
@click.option("--probes/--no-probes", "compares", default=True, help="Compare with exact traces.")
def images(networks: tuple[Path, ...], data: Path, steps: int, compares: bool) -> None:
    dataset = ImageDataset(data)
    pixels, _ = dataset.read(range(len(dataset)))
    points = dequantized(normalize_pixels(pixels).flatten(1), seed=0)
    print(f"{DEFAULT_SOLVER}, {steps} steps, {len(points)} images; bits per dimension\n")
    print("| schedule | linear | network | seconds |\n| --- | ---: | ---: | ---: |")
    models = [TrainedNetwork.load(path) for path in networks]
    for model in models:
        print(image_row(model, points, steps), flush=True)
    if compares:
        print(f"\n{FEW} images; mean difference from exact traces, and standard deviation of one\n")
        print("| schedule | 2 probes | 4 probes | 16 probes |\n| --- | ---: | ---: | ---: |")
        for model in models:
            print(probe_row(model, points[:FEW], steps), flush=True)


def image_flow(model: TrainedNetwork) -> ProbabilityFlow:
    flow = model.flow.with_denoiser(RecomputedDenoiser(model.denoiser))
    return flow.in_blocks(BLOCK_ROWS["cpu"])


def image_bits(model: TrainedNetwork, points: Tensor, steps: int, trace: Trace) -> Tensor:
    flow = image_flow(model)
    times = flow.schedule.times(steps, model.about["tmax"])
    found = flow.log_prob(points, times, SOLVERS[DEFAULT_SOLVER], trace=trace)
    return bits_per_dim(found, points.shape[1], LEVELS_PER_UNIT)


def image_row(model: TrainedNetwork, points: Tensor, steps: int) -> str:
    began = time.perf_counter()
    flow, first = model.flow, model.flow.schedule.times(1, model.about["tmax"])[0]
    linear = GaussianLatents(flow.noisy_variance(first)).log_prob(flow.basis.to_eigen(points))
    bits = image_bits(model, points, steps, Trace("hutchinson"))
    return (
        f"| {flow.schedule.name} | "
        f"{mean_and_error(bits_per_dim(linear, points.shape[1], LEVELS_PER_UNIT))} "
        f"| {mean_and_error(bits)} | {time.perf_counter() - began:.0f} |"
    )


def probe_row(model: TrainedNetwork, points: Tensor, steps: int) -> str:
    truth = image_bits(model, points, steps, Trace("exact"))
    cells = []
    for probes in (2, 4, 16):
        error = image_bits(model, points, steps, Trace("hutchinson", probes)) - truth
        cells.append(f"{mean_and_error(error)}, {error.std():.3f}")
    return f"| {model.flow.schedule.name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
