"""Image posteriors where the truth is known: is a sampler right, on every kind of observation?

    OMP_NUM_THREADS=1 python benchmarks/inverse_problems.py [--priors=field-8,mixture-16]
        [--tasks=noise,half,random,blur,down-2,down-4,sums] [--noises=0.5,0.1] [--images=8]
        [--samplers=twisted,dps,diffpir] [--particles=1024] [--steps=16,32]
        [--write=FOLDER | --network=NET.pkl]

Priors are Gaussian random fields and mixtures of eight of them (``inverse.priors``), of 8 x 8 or
16 x 16 pixels of unit variance, and levels that jump from pixel to pixel (``inverse.jumps``), each
with its exact denoiser, so that the sampler alone is tested.
Observations are of truths that were drawn from the prior, with noise of so many standard deviations
of a pixel: of all pixels, of the upper half, of a random half, blurred by a kernel of 1.5 pixels,
means over squares of 2 or 4 pixels, and a quarter as many random sums as there are pixels.
``twisted`` is this project's sampler, four populations; the others are as published
(``inverse.rivals``), 400 draws each. A posterior is compared with the exact one, of all pixels,
seen or not, which have the noise of the first time (a hundredth of a pixel's standard deviation):

coverage   what the exact posterior has between the ends of central intervals of draws, with which
           these should hold 50, 80, 90 and 95 %, in the mean
mean       error of means in the exact posterior's standard deviations, root of the mean square
std        standard deviations over the exact ones: mean, and root of the mean square of what is off
apart      how far distribution functions are apart along 32 random directions, in percent
energy     energy distance from draws of the exact posterior along 8 random directions together,
           over what as many independent draws of it have, for which it is 1
CRPS       of truths, over that of draws of the exact posterior
R-hat      median, and 99th percentile over pixels and images
calls      of the denoiser for each image; a gradient counts as three
seconds    of the CPU for each image

``--write`` writes 5,000 draws of one prior as images of 8 bits and ends; a network that
``train.py`` has learned from them takes the exact denoiser's place with ``--network``, so that
sampler and network are tested.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import torch
from PIL import Image
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.inverse.jumps import Jumps
from benchmarks.inverse.known import Drawn, Mixture
from benchmarks.inverse.priors import Fields
from benchmarks.inverse.rivals import diffpir, dps
from benchmarks.two_sample import energy_distance, mean_distance
from training.files.observations import read_mask, read_operator
from training.flow.solvers import get_solver
from training.inference.likelihoods import Gaussian
from training.inference.lookahead import LookAhead
from training.inference.prior import Prior
from training.inference.samplers.twisted import twist
from training.inference.target import Target
from training.measure.posterior.calibration import crps
from training.measure.posterior.convergence import convergence
from training.names import PARTICLE_STEPS
from training.subjects import open_prior
from training.trained.network import TrainedNetwork

Known = Mixture | Drawn
PRIORS: dict[str, Callable[[], Fields | Jumps]] = {
    "field-8": partial(Fields.of, 8, 1),
    "mixture-8": partial(Fields.of, 8, 8),
    "jumps-8": partial(Jumps, 8),
    "field-16": partial(Fields.of, 16, 1),
    "mixture-16": partial(Fields.of, 16, 8),
}
TASKS = {
    "noise": "",
    "half": "upper-half",
    "random": "random:0.5",
    "blur": "blur:1.5",
    "down-2": "downsample:2",
    "down-4": "downsample:4",
    "sums": "random:",
}
LEVELS = (0.5, 0.8, 0.9, 0.95)
CHAINS, DRAWS, FEW, ROWS = 4, 1000, 400, 4096
DIRECTIONS, TOGETHER, EXACT_DRAWS = 32, 8, 4000
STEP, WRITTEN, NETWORK_ROWS = 30.0, 5000, 64
"""Gray levels of a standard deviation in images of 8 bits, how many, and of a network's block."""


def likelihood_of(task: str, noise: float, shape: tuple[int, int, int]) -> Gaussian:
    """What is seen in a task of this name."""
    dim, text, std = shape[1] * shape[2], TASKS[task], torch.tensor(noise).double()
    if task == "noise":
        return Gaussian(std, dim=dim)
    if task in ("half", "random"):
        return Gaussian(std, read_mask(text, [f"pixel{place}" for place in range(dim)], shape))
    text = f"{text}{dim // 4}" if task == "sums" else text
    return Gaussian(std, operator=read_operator(text, dim, shape))


def apart(points: Tensor, known: Known) -> float:
    """Mean largest difference of distribution functions of projections."""
    dim = points.shape[2]
    generator = torch.Generator().manual_seed(8)
    integrations = torch.randn(DIRECTIONS, dim, generator=generator, dtype=torch.float64)
    values = (points @ integrations.T).sort(dim=1).values
    steps = torch.arange(1, values.shape[1] + 1).double()[:, None] / values.shape[1]
    return float((known.below_along(integrations, values) - steps).abs().amax(dim=1).mean())


def energy(points: Tensor, exact: Tensor) -> float:
    """Mean energy distance of projections of draws ``[M, S, D]`` and exact ones ``[M, E, D]``, over
    that of S independent draws."""
    generator = torch.Generator().manual_seed(9)
    integrations = torch.randn(points.shape[2], TOGETHER, generator=generator, dtype=torch.float64)
    ratios = []
    for drawn, known in zip(points @ integrations, exact @ integrations, strict=True):
        std = known.std(dim=0)
        chance = mean_distance(known / std, known / std) * (1 / len(drawn) + 1 / len(known))
        ratios.append(energy_distance(drawn / std, known / std) / chance)
    return sum(ratios) / len(ratios)


def compared(points: Tensor, known: Known, truth: Tensor) -> list[str]:
    """Cells of the table, of draws ``[M, S, D]``."""
    held = []
    for level in LEVELS:
        ends = points.quantile(torch.tensor([(1 - level) / 2, (1 + level) / 2]).double(), dim=1)
        held.append(float((known.below(ends[1]) - known.below(ends[0])).mean()))
    mean = ((points.mean(dim=1) - known.mean) / known.std).square().mean().sqrt()
    ratio = points.std(dim=1) / known.std
    exact = known.draws(EXACT_DRAWS)
    right = crps(exact, truth).mean()
    return [
        " ".join(f"{100 * share:.1f}" for share in held),
        f"{float(mean):.3f}",
        f"{float(ratio.mean()):.3f}, {float((ratio - 1).square().mean().sqrt()):.3f}",
        f"{100 * apart(points, known):.1f}",
        f"{energy(points, exact):.1f}",
        f"{float(crps(points, truth).mean() / right):.3f}",
    ]


def sampled(sampler: str, target: Target, particles: int, steps: int) -> tuple[Tensor, str]:
    """Draws ``[M, S, D]``, and R-hat where there are chains."""
    generator = torch.Generator().manual_seed(5)
    if sampler != "twisted":
        return {"dps": dps, "diffpir": diffpir}[sampler](target, FEW, generator), ""
    numbers = list(range(target.count))
    ahead = LookAhead(steps, 0, 1 / target.count)
    draws = twist(target, 0, numbers, CHAINS, min(DRAWS, particles), particles, None, ahead)
    r_hat = torch.stack([convergence(one).r_hat for one in draws.points])
    target.calls = int(draws.calls.sum())
    shown = f"{float(r_hat.median()):.3f}, {float(r_hat.flatten().quantile(0.99)):.3f}"
    return draws.points.flatten(1, 2), shown


def write(fields: Fields | Jumps, folder: Path) -> None:
    """Draws of the prior as images of 8 bits, which lose what is beyond 4.2 deviations."""
    folder.mkdir(parents=True)
    gray = fields.sample(WRITTEN, seed=1).mul(STEP).add(127.5).round().clamp(0, 255).byte()
    for number, pixels in enumerate(gray.view(-1, *fields.shape[1:]).numpy()):
        Image.fromarray(pixels).save(folder / f"{number:04d}.png")


def of_network(path: str) -> Prior:
    """The prior that a network has learned, of pixels in units of the fields."""
    subject = open_prior(TrainedNetwork.open(path))
    flow = subject.flow
    integrations = {"latents": (flow.times(10), get_solver("exp_ab2"))}
    prior = replace(subject.prior(*flow.integration("look")), integrations=integrations)
    return replace(prior, unit=prior.unit * STEP, origin=(prior.origin - 127.5) / STEP)


@click.command(help=__doc__)
@click.option("--priors", default=",".join(PRIORS), show_default=True)
@click.option("--tasks", default=",".join(TASKS), show_default=True)
@click.option("--noises", default="0.5,0.1", show_default=True)
@click.option("--images", type=int, default=8, show_default=True)
@click.option("--samplers", default="twisted", show_default=True)
@click.option("--particles", type=int, default=1024, show_default=True)
@click.option("--steps", default=str(PARTICLE_STEPS), show_default=True)
@click.option("--write", "folder", type=click.Path(exists=False, path_type=Path))
@click.option("--network")
def main(
    priors: str,
    tasks: str,
    noises: str,
    images: int,
    samplers: str,
    particles: int,
    steps: str,
    folder: Path | None,
    network: str | None,
) -> None:
    torch.set_num_threads(1)
    if folder is not None:
        write(PRIORS[priors](), folder)
        return
    # Others take the steps of their papers.
    numbers = [int(each) for each in steps.split(",")]
    integrations = [("twisted", each) for each in numbers if "twisted" in samplers.split(",")]
    integrations += [(each, 0) for each in samplers.split(",") if each != "twisted"]
    columns = "prior | task | noise | sampler | coverage | mean | std | apart | energy | CRPS"
    print(f"| {columns} | R-hat | calls | seconds |")
    print(f"| --- | --- | ---: | --- | --- | ---: | --- |{3 * ' ---: |'} --- | ---: | ---: |")
    for name in priors.split(","):
        fields = PRIORS[name]()
        flow, truth = fields.flow, fields.sample(images, seed=2)
        prior, rows = Prior(flow, flow.times(24), get_solver("exp_ab2")), ROWS
        if network is not None:
            prior, rows = of_network(network), NETWORK_ROWS
        for task in tasks.split(","):
            for noise in map(float, noises.split(",")):
                likelihood = likelihood_of(task, noise, fields.shape)
                observed = likelihood.simulate(truth, torch.Generator().manual_seed(3))
                known = fields.posterior(likelihood, observed)
                for sampler, many in integrations:
                    target = Target(prior, likelihood, observed, rows)
                    began = time.process_time()
                    points, mixing = sampled(sampler, target, particles, many)
                    seconds = (time.process_time() - began) / images
                    way = f"{sampler}, {many} steps" if many else sampler
                    cells = [name, task, f"{noise:g}", way, *compared(points, known, truth)]
                    cells += [mixing, f"{target.calls / images:,.0f}", f"{seconds:.1f}"]
                    print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
