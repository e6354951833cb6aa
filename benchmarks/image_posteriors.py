"""Posteriors of images under an image network: do populations agree, do intervals hold what they
say, and what does it take?

    OMP_NUM_THREADS=1 python benchmarks/image_posteriors.py --network=NET.pkl --data=HELD_OUT.zip
        [--seen=upper-half] [--noise=4.8] [--images=48] [--particles=128] [--steps=16,32]
        [--truths=data] [--samplers=twisted,dps,diffpir]

Images that the network was not trained on, or draws of the flow itself (``--truths=flow``), are
seen in part (a ``--mask`` of posterior.py, ``all`` pixels, or by an ``--operator``), with noise in
gray levels. Four populations of twisted particles, or 400 draws of what others do
(``inverse.rivals``).
Each row of the table says

R-hat      median, 90th percentile and largest, over pixels and images
coverage   of central intervals of 50, 80, 90 and 95 %, of pixels that are hidden (of all, if all
           are seen, or none by itself); truths have the noise of the first time, as draws have
held out   the same of intervals whose levels were learned: of one half of the images, those that
           hold 50, 80, 90 and 95 % of the pixels of the other half
width      of the 90 % interval, in gray levels; CRPS likewise
calls      of the network for each image, what images share among them; a gradient counts as three
seconds    of the CPU for each image
MiB        most memory of the process so far
"""

import resource
import sys
import time
from dataclasses import replace
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.inverse.rivals import diffpir, dps
from torch_utils.seeds import seeded_generator
from training.files.observations import read_mask, read_operator
from training.flow.solvers import get_solver
from training.inference.checking import true_points_of_data
from training.inference.likelihoods import Gaussian
from training.inference.lookahead import LookAhead
from training.inference.prior import Prior
from training.inference.samplers.twisted import twist
from training.inference.target import Target
from training.measure.posterior.calibration import central_values, crps, fractional_ranks
from training.measure.posterior.convergence import convergence
from training.names import HALVES
from training.subjects import open_prior
from training.trained.network import TrainedNetwork

LEVELS = (0.5, 0.8, 0.9, 0.95)
CHAINS, FEW, ROWS, LATENT_STEPS = 4, 400, 64, 10


def likelihood_of(seen: str, noise: float, shape: tuple[int, int, int]) -> Gaussian:
    dim, std = shape[0] * shape[1] * shape[2], torch.tensor(noise).double()
    if seen == "all":
        return Gaussian(std, dim=dim)
    if seen in HALVES or seen.startswith("random:0"):
        return Gaussian(std, read_mask(seen, [f"pixel{place}" for place in range(dim)], shape))
    return Gaussian(std, operator=read_operator(seen, dim, shape))


def cells(points: Tensor, truth: Tensor, alike: Tensor, asked: Tensor) -> list[str]:
    """Coverage of truths ``alike``, as asked for and as learned, width and score of draws ``[M, S,
    D]``, of the pixels ``[D]`` asked for."""
    points, truth, alike = points[..., asked].double(), truth[:, asked], alike[:, asked]
    levels = central_values(fractional_ranks(points, alike, seeded_generator("cpu", 2)))
    ends = points.quantile(torch.tensor([0.05, 0.95]).double(), dim=1)
    halves, shares = (levels[0::2], levels[1::2]), torch.tensor(LEVELS).double()
    asked_for = [half.flatten().quantile(shares) for half in halves[::-1]]
    held = [half[..., None] <= own for half, own in zip(halves, asked_for, strict=True)]
    return [
        " ".join(f"{100 * float((levels <= level).double().mean()):.1f}" for level in LEVELS),
        " ".join(f"{100 * x:.1f}" for x in torch.cat(held).double().mean(dim=(0, 1)).tolist()),
        f"{float((ends[1] - ends[0]).mean()):.1f}",
        f"{float(crps(points, truth).mean()):.2f}",
    ]


def blurred_like_draws(truth: Tensor, prior: Prior, likelihood: Gaussian) -> Tensor:
    """Truths ``[M, D]`` with the noise of the first time, which draws have, and black pixels are
    far below."""
    target = Target(prior, likelihood, likelihood.observe(truth[:1]), ROWS)
    return true_points_of_data(target, truth, range(len(truth)), 1, blurred=True).points


@click.command(help=__doc__)
@click.option("--network", required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--seen", default="upper-half", show_default=True)
@click.option("--noise", type=float, default=4.8, show_default=True)
@click.option("--images", type=int, default=48, show_default=True)
@click.option("--particles", default="128", show_default=True)
@click.option("--steps", default="32", show_default=True)
@click.option("--truths", type=click.Choice(["data", "flow"]), default="data", show_default=True)
@click.option("--samplers", default="twisted", show_default=True)
def main(
    network: str,
    data: Path,
    seen: str,
    noise: float,
    images: int,
    particles: str,
    steps: str,
    truths: str,
    samplers: str,
) -> None:
    torch.set_num_threads(1)
    subject = open_prior(TrainedNetwork.open(network))
    flow, shape = subject.flow, subject.image_shape
    assert shape is not None
    latents = {"latents": (flow.times(LATENT_STEPS), get_solver("exp_ab2"))}
    prior = replace(subject.prior(*flow.integration("look")), integrations=latents)
    likelihood = likelihood_of(seen, noise, shape)
    truth = subject.truths(data, images, 0)
    if truths == "flow":
        made = Target(prior, likelihood, truth[:1, :1], ROWS)
        w = torch.randn(images, subject.dim, generator=seeded_generator("cpu", 1)).double()
        truth = made.points(w, torch.zeros(images, dtype=torch.int64))
    observed = likelihood.simulate(truth, seeded_generator("cpu", 0))
    asked = torch.ones(subject.dim, dtype=torch.bool)
    if likelihood.coordinates is not None:
        asked[likelihood.coordinates] = False
    columns = (
        "sampler | particles | steps | R-hat | coverage | held out | width | CRPS | calls "
        "| seconds | MiB"
    )
    print(f"| {columns} |")
    print(f"| --- | ---: | ---: | --- | --- | --- |{5 * ' ---: |'}", flush=True)
    blurred = blurred_like_draws(truth, prior, likelihood) if truths == "data" else truth
    runs = [
        (name, int(count), int(number))
        for name in samplers.split(",")
        for count in (particles.split(",") if name == "twisted" else [0])
        for number in (steps.split(",") if name == "twisted" else [0])
    ]
    for name, count, number in runs:
        target, began, mixing = Target(prior, likelihood, observed, ROWS), time.process_time(), ""
        if name == "twisted":
            ahead = LookAhead(number, 0, 1 / images)
            draws = twist(target, 0, list(range(images)), CHAINS, count, count, None, ahead)
            points, calls = draws.points, float(draws.calls.mean())
            r_hat = torch.stack([convergence(one).r_hat for one in points]).flatten()
            r_hat = r_hat[~r_hat.isnan()]
            mixing = ", ".join(f"{float(r_hat.quantile(q)):.3f}" for q in (0.5, 0.9, 1.0))
            points = points.flatten(1, 2)
        else:
            points = {"dps": dps, "diffpir": diffpir}[name](target, FEW, seeded_generator("cpu", 5))
            calls = target.calls / images
        seconds = (time.process_time() - began) / images
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        alike = blurred if name == "twisted" else truth
        row = [name, str(count), str(number), mixing, *cells(points, truth, alike, asked)]
        row += [f"{calls:,.0f}", f"{seconds:.1f}", f"{memory:.0f}"]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
