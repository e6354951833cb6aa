"""Are posteriors cheaper in the latents that a network keeps, the others drawn given these?

    OMP_NUM_THREADS=1 python benchmarks/kept_latents.py --network=NET.pkl --data=HELD_OUT.zip
        [--samplers=elliptical,hmc,smc] [--images=8] [--noise=4.8] [--warmup=150] [--draws=250]

The upper half of images that the network was not trained on is seen, with noise in gray levels. Of
a network that keeps k of D dimensions, chains of four, or of ``smc`` populations, sample the k kept
variables w with the others z at 0. What these add to a point is about linear,

    x(w, z) = x(w, 0) + M z + e,        e ~ N(0, E),

with M and E of draws of the prior, so that the likelihood of the kept ones is ``N(y; A x(w, 0), R +
A (M M^T + E) A^T)``. For each draw z is then drawn by its Gaussian given w and y, and the pair is
weighted by its own posterior density over the one that it was drawn with. Of each sampler

R-hat      median, 90th percentile and largest, over hidden pixels and images, before weights
worth      of 1,000 draws by their weights, in the median, and how many weights make most of it less
           than ten draws, in percent of the images
coverage   of central intervals of 50, 80, 90 and 95 %, of hidden pixels, by weighted draws; truths
           have the noise of the first time, as draws have; held out, width and CRPS are those of
           ``image_posteriors``
calls      of the network for each image; a gradient counts as four
seconds    of the CPU for each image
"""

import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.image_posteriors import LATENT_STEPS, ROWS, blurred_like_draws, cells
from torch_utils.seeds import seeded_generator
from training.files.observations import read_mask
from training.flow.solvers import get_solver
from training.inference.likelihoods import Gaussian
from training.inference.prior import Generated, Prior
from training.inference.proposals import normal_given
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.target import Target
from training.inference.weights import systematic
from training.measure.posterior.convergence import convergence
from training.measure.posterior.importance import effective_size
from training.subjects import NetworkFile, open_prior

PRIOR_DRAWS, FEW = 512, 10


@dataclass(frozen=True)
class Kept(Prior):
    """Points of the first ``kept`` variables, the others at 0."""

    kept: int = 0

    @property
    def dim(self) -> int:
        return self.kept

    def states(
        self, w: Tensor, conditions: dict[str, Tensor] | None = None, differentiable: bool = False
    ) -> Generated:
        rest = w.new_zeros(len(w), self.flow.basis.dim - self.kept)
        return super().states(torch.cat([w, rest], dim=1), conditions, differentiable)


@dataclass(frozen=True)
class Behind:
    """What the other variables add to points.

    Attributes:
        slope: ``M [D, D - k]``.
        rest: ``E [D, D]``.
    """

    slope: Tensor
    rest: Tensor

    @classmethod
    def of(cls, whole: Target, kept: Target) -> "Behind":
        generator = seeded_generator("cpu", 3)
        w = torch.randn(PRIOR_DRAWS, whole.dim, generator=generator, dtype=torch.float64)
        which = torch.zeros(PRIOR_DRAWS, dtype=torch.int64)
        added = whole.points(w, which) - kept.points(w[:, : kept.dim], which)
        z = w[:, kept.dim :]
        slope = torch.linalg.lstsq(z, added).solution
        off = added - z @ slope
        return cls(slope.T, off.T @ off / (PRIOR_DRAWS - z.shape[1]))


def deviations(whole: Target, kept: int) -> tuple[float, float]:
    """Standard deviations of pixels, given the kept variables, and in all."""
    generator = seeded_generator("cpu", 6)
    shape = (2, PRIOR_DRAWS, whole.dim)
    w = torch.randn(shape, generator=generator, dtype=torch.float64)
    w[1, :, :kept] = w[0, :, :kept]
    one, other = (whole.points(each, torch.zeros(PRIOR_DRAWS, dtype=torch.int64)) for each in w)
    left = (one - other).square().mean() / 2
    return float(left.sqrt()), float(one.var(dim=0).mean().sqrt())


def weighted(
    whole: Target, kept: Target, behind: Behind, w: Tensor, near: Tensor, which: Tensor
) -> tuple[Tensor, Tensor]:
    """Points ``[N, D]`` with the other variables drawn given what is seen, and their log weights.

    Args:
        whole: The posterior of all variables.
        kept: That of the kept ones.
        behind: What the others add.
        w: Kept variables ``[N, k]``.
        near: Their points.
        which: The observation of each.
    """
    likelihood, wide = whole.likelihood, kept.likelihood
    assert isinstance(likelihood, Gaussian)
    assert isinstance(wide, Gaussian)
    operator = likelihood.observe(behind.slope.T).T
    size = len(operator)
    noise = likelihood.observe(likelihood.observe(behind.rest).T)
    noise = (noise + likelihood.covariance(size)).expand(len(w), -1, -1)
    off = whole.observed[which] - likelihood.observe(near)
    given = normal_given(operator.expand(len(w), -1, -1), off, noise)
    normal = torch.randn(given.mean.shape, generator=seeded_generator("cpu", 4)).double()
    z = given.mean + (given.root @ normal[..., None])[..., 0]
    volume = given.root.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    ratio = (normal.square() - z.square()).sum(dim=1) / 2 + volume
    both = whole.evaluate(torch.cat([w, z], dim=1), which)
    of_kept = wide.log_prob(near, whole.observed[which])
    return both.points, both.log_likelihood + ratio - of_kept


@click.command(help=__doc__)
@click.option("--network", required=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--samplers", default="elliptical,hmc,smc", show_default=True)
@click.option("--images", type=int, default=8, show_default=True)
@click.option("--noise", type=float, default=4.8, show_default=True)
@click.option("--warmup", type=int, default=150, show_default=True)
@click.option("--draws", type=int, default=250, show_default=True)
def main(
    network: str,
    data: Path,
    samplers: str,
    images: int,
    noise: float,
    warmup: int,
    draws: int,
) -> None:
    torch.set_num_threads(1)
    subject = open_prior(NetworkFile.open(network))
    flow, dim = subject.flow, subject.dim
    rates = torch.as_tensor(flow.schedule.growth_rates)
    count = int((rates == rates.max()).sum())
    latents = {"latents": (flow.times(LATENT_STEPS), get_solver("exp_ab2"))}
    prior = replace(subject.prior(*flow.course("look"), False), ways=latents)
    of_kept = Kept(**{**vars(prior), "kept": count})
    names = [f"pixel{place}" for place in range(dim)]
    mask = read_mask("upper-half", names, subject.image_shape)
    likelihood = Gaussian(torch.tensor(noise).double(), mask)
    truth = subject.truths(data, images, 0)
    observed = likelihood.simulate(truth, seeded_generator("cpu", 0))
    asked = torch.ones(dim, dtype=torch.bool)
    asked[mask] = False
    whole = Target(prior, likelihood, observed, ROWS)
    behind = Behind.of(whole, Target(of_kept, likelihood, observed, ROWS))
    added = behind.slope @ behind.slope.T + behind.rest
    seen = likelihood.observe(likelihood.observe(added).T) + likelihood.covariance(len(mask))
    left, of_all = deviations(whole, count)
    print(
        f"{count} of {dim} kept, given which pixels vary by {left:.0f} of {of_all:.0f} gray levels"
    )
    print("| sampler | R-hat | worth | coverage | held out | width | CRPS | calls | seconds |")
    print("| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: |", flush=True)
    alike = blurred_like_draws(truth, prior, likelihood)
    for sampler in samplers.split(","):
        began = time.process_time()
        kept = Target(of_kept, Gaussian(seen, mask), observed, ROWS)
        plan = SamplingPlan(sampler, draws=draws, warmup=warmup, pool=1024)
        got = sample_posteriors(Problem(kept, of_kept, list(range(images))), plan)
        r_hat = torch.stack([convergence(one[..., asked]).r_hat for one in got.points]).flatten()
        r_hat = r_hat[~r_hat.isnan()]
        which = torch.arange(images).repeat_interleave(got.w[0].shape[:2].numel())
        rows = weighted(whole, kept, behind, got.w.flatten(0, 2), got.points.flatten(0, 2), which)
        log_weights = rows[1].view(images, -1)
        worth = effective_size(log_weights)
        start = torch.full((images,), 0.5, dtype=torch.float64)
        picks = systematic(log_weights, start, log_weights.shape[1])
        points = rows[0].view(images, -1, dim).gather(1, picks[..., None].expand(-1, -1, dim))
        row = [
            sampler,
            ", ".join(f"{float(r_hat.quantile(q)):.3f}" for q in (0.5, 0.9, 1.0)),
            f"{float(worth.median()):.1f}, {100 * float((worth < FEW).double().mean()):.0f}",
            *cells(points, truth, alike, asked),
            f"{float(got.calls.mean()) + whole.calls / images:,.0f}",
            f"{(time.process_time() - began) / images:.0f}",
        ]
        print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
