"""Narrow posteriors: how often they are called converged, and how often that is wrong.

    python benchmarks/narrow_posteriors.py [--columns=2,3,5,8] [--noise=1,0.1,0.01,0.001]
        [--observations=10] [--any] [--exact] [--deblur] [--sampler=auto]
        [--folder=out/narrow_posteriors]

Tables are known mixtures of four Gaussians with one covariance, of columns of scales 1, 10 and 0.1.
All but one column are seen, or one alone, with noise of so many standard deviations of each column.
The prior is a network that ``train.py`` makes in the folder by its defaults, one that ``train.py
--any`` makes, which starts from a mixture, or the exact denoiser (columns are standardized then,
and keep their axes). Posteriors are compared with the flow's own:

* of the exact denoiser, with the mixture's, whose components have the noise of the first time too
  (without it if they are deblurred);
* of a network, with 8,000 draws of the mixture's own posterior, made wider, that are weighted by
  ``flow.log_prob`` and the likelihood: another route, which starts from the known answer. Where a
  posterior differs from it, it is made again of 64,000.

std           standard deviations of all columns over those of the reference: least, mean, largest
mean          largest error of a mean, in standard deviations of the reference
mixture       the same of the columns that are not seen, and the posterior of the mixture itself
converged     of how many it says so
wrong         of how many of these a standard deviation is off by more than 5 %, or a mean by 0.1
samplers      which were taken
seconds       of the CPU for each observation, the pool of prior draws among them
"""

import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from training import EigenBasis, InflationSchedule, Model
from training.flow.denoisers import MixtureDenoiser
from training.flow.integration_choice import choose_integrations
from training.flow.likelihood import Trace
from training.flow.pfode import ProbabilityFlow
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior, integrations_of
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.summary import Summary
from training.inference.target import Target
from training.measure.posterior.importance import effective_size

ROWS, BLOCK = 20_000, 256
SCALES = (1.0, 10.0, 0.1)
STD_OFF, MEAN_OFF = 0.05, 0.1
TRIED = 512
"""Trajectories from data, and from latents, that tell how few calls exact flows need."""
FEW, MANY = 8_000, 64_000
"""Draws of a reference, and of one that is made again."""
FLOOR = 0.1
"""Share of a reference's draws that all components have alike."""


@dataclass(frozen=True)
class Mixture:
    """Weights ``[K]``, means ``[K, D]`` and the covariance ``[D, D]`` of all components."""

    weights: Tensor
    means: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, dim: int, scaled: bool) -> "Mixture":
        """The mixture of so many columns; in their scales, or standardized."""
        generator = torch.Generator().manual_seed(0)
        means = torch.randn(4, dim, generator=generator, dtype=torch.float64)
        root = torch.randn(dim, dim, generator=generator, dtype=torch.float64)
        whole = root @ root.T
        std = whole.diagonal().sqrt()
        correlation = whole / (std[:, None] * std) / 2 + torch.eye(dim, dtype=torch.float64) / 2
        weights = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
        made = cls(weights, means, 0.35**2 * correlation)
        scale = torch.tensor([SCALES[place % 3] for place in range(dim)], dtype=torch.float64)
        return made.times(scale if scaled else 1 / made.std)

    def times(self, scale: Tensor) -> "Mixture":
        return Mixture(self.weights, self.means * scale, self.covariance * scale[:, None] * scale)

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.weights @ self.means
        apart = self.means - mean
        return mean, self.covariance + (self.weights[:, None] * apart).T @ apart

    @property
    def std(self) -> Tensor:
        return self.moments[1].diagonal().sqrt()

    def sample(self, count: int, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        chosen = self.weights.multinomial(count, replacement=True, generator=generator)
        noise = torch.randn(count, len(self.covariance), generator=generator, dtype=torch.float64)
        return self.means[chosen] + noise @ torch.linalg.cholesky(self.covariance).T

    def posterior(
        self, likelihood: Gaussian, observed: Tensor, blur: float = 0.0
    ) -> ExactPosterior:
        """That of the mixture with noise of a variance added."""
        covariance = self.covariance + blur * torch.eye(len(self.covariance)).double()
        return ExactPosterior.from_components(
            self.weights, self.means, covariance, likelihood, observed
        )


def exact_flow(mixture: Mixture) -> ProbabilityFlow:
    """The flow of a standardized mixture."""
    basis = EigenBasis.from_moments(*mixture.moments)
    dim = len(mixture.covariance)
    schedule = InflationSchedule.to_dimension(
        dim, dim, top_variance=basis.top_variance, gamma0=1e-4
    )
    eye = torch.eye(dim, dtype=torch.float64)
    parts = (mixture.weights, mixture.means, mixture.covariance, eye)
    flow = ProbabilityFlow(MixtureDenoiser(*parts, basis, schedule), schedule, basis)
    generator, first = torch.Generator().manual_seed(4), flow.times()[0]
    noisy = flow.to_eigen(mixture.sample(TRIED, 5)) + schedule.sample_noise(TRIED, first, generator)
    latents = flow.latent.sample(TRIED, generator)
    flow.integrations = choose_integrations(lambda _: flow, noisy, latents, steps=32)
    return flow


def trained_flow(mixture: Mixture, folder: Path, *options: str) -> ProbabilityFlow:
    """The flow of a network of a table of the mixture, which ``train.py`` makes with these options
    if it is not there."""
    dim = len(mixture.covariance)
    place = folder / "".join([f"{dim}columns", *options])
    if not list(place.glob("network-snapshot-*.pkl")):
        place.mkdir(parents=True, exist_ok=True)
        source, data = place / "rows.csv", place / "rows.npz"
        names = ",".join(f"c{index + 1}" for index in range(dim))
        np.savetxt(source, mixture.sample(ROWS, 1), delimiter=",", header=names, comments="")
        scripts = Path(__file__).parent.parent
        for name, *arguments in (
            ("dataset_tool.py", f"--source={source}", f"--dest={data}"),
            ("train.py", f"--data={data}", f"--outdir={place}", "--nosubdir", *options),
        ):
            subprocess.run([sys.executable, scripts / name, *arguments], check=True)
    return Model.load(str(sorted(place.glob("network-snapshot-*.pkl"))[-1])).flow


def reference(
    flow: ProbabilityFlow, mixture: Mixture, likelihood: Gaussian, observed: Tensor, count: int
) -> tuple[Tensor, Tensor]:
    """Means and standard deviations ``[D]`` of the flow's posterior of one observation ``[K]``."""
    # Draws in the units of columns, wider than the mixture's posterior and no narrower than blur.
    wide = 1.3 * mixture.covariance + torch.diag((0.02 * mixture.std).square())
    noise = Gaussian(1.1 * likelihood.root, likelihood.coordinates)
    made = Mixture(mixture.weights, mixture.means, wide).posterior(noise, observed[None])
    shares = (1 - FLOOR) * made.weights[0] + FLOOR / len(mixture.weights)
    root = torch.linalg.cholesky(made.covariance)
    generator = torch.Generator().manual_seed(1)
    chosen = shares.multinomial(count, replacement=True, generator=generator)
    normal = torch.randn(count, len(root), generator=generator, dtype=torch.float64)
    points = made.centers[0, chosen] + normal @ root.T
    parts = torch.distributions.MultivariateNormal(made.centers[0], scale_tril=root)
    log_proposal = (
        parts.log_prob(points[:, None]) + shares.log()  # type: ignore[no-untyped-call]
    ).logsumexp(dim=1)
    times = flow.times(48)
    log_density = torch.cat(
        [
            flow.log_prob(block, times, "exp_ab2", trace=Trace("exact"))
            for block in points.split(1024)
        ]
    )
    seen = likelihood.log_prob(points, observed.expand(count, -1))
    log_weights = log_density + seen - log_proposal
    if effective_size(log_weights) < count / 20:
        raise SystemExit("the reference is worth too little: widen it")
    weights = log_weights.softmax(0)
    mean = weights @ points
    return mean, (weights @ (points - mean).square()).sqrt()


def is_off(mean: Tensor, std: Tensor, known_mean: Tensor, known_std: Tensor) -> bool:
    of_std = (std / known_std - 1).abs().max()
    of_mean = ((mean - known_mean) / known_std).abs().max()
    return bool((of_std > STD_OFF) | (of_mean > MEAN_OFF))


def measured(
    flow: ProbabilityFlow,
    mixture: Mixture,
    seen: int,
    noise: float,
    plan: SamplingPlan,
    count: int,
    exact: bool,
    deblurred: bool,
) -> tuple[str, Counter[str]]:
    """A row of the table, and what it counts."""
    dim = len(mixture.covariance)
    likelihood = Gaussian(noise * mixture.std[:seen], torch.arange(seen))
    truth = mixture.sample(count, seed=2)
    observed = likelihood.simulate(truth, torch.Generator().manual_seed(3))
    began = time.process_time()
    fine = Prior(flow, *flow.integration("points"), deblurred, integrations=integrations_of(flow))
    coarse = Prior(flow, *flow.integration("look"), deblurred)
    target = Target(fine, likelihood, observed, BLOCK)
    problem = Problem(target, coarse, list(range(count)), not deblurred)
    draws = sample_posteriors(problem, plan)
    seconds = (time.process_time() - began) / count
    summary = Summary.from_draws(draws, plan.pool)
    if exact or deblurred:
        blur = 0.0 if deblurred else float(flow.schedule.noise_variance(flow.times()[0])[0])
        known = mixture.posterior(likelihood, observed, blur)
        means, stds = known.mean, known.std
    else:
        means, stds = (
            torch.stack(part)
            for part in zip(
                *(reference(flow, mixture, likelihood, one, FEW) for one in observed), strict=True
            )
        )
        for index in range(count):
            if is_off(summary.mean[index], summary.std[index], means[index], stds[index]):
                again = reference(flow, mixture, likelihood, observed[index], MANY)
                means[index], stds[index] = again
    off = [is_off(*row) for row in zip(summary.mean, summary.std, means, stds, strict=True)]
    wrong = sum(bool(settled) and bad for settled, bad in zip(summary.converged, off, strict=True))
    ratio, apart = summary.std / stds, ((summary.mean - means) / stds).abs().max()
    own = mixture.posterior(likelihood, observed)
    hidden = (summary.std / own.std)[:, seen:]
    beside = ((summary.mean - own.mean) / own.std)[:, seen:].abs().max()
    spread = " ".join(f"{value:.3f}" for value in (ratio.min(), ratio.mean(), ratio.max()))
    of_own = " ".join(f"{value:.2f}" for value in (hidden.min(), hidden.mean(), hidden.max()))
    samplers = Counter(draws.sampler)
    shown = ", ".join(f"{name} {number}" for name, number in sorted(samplers.items()))
    converged = int(summary.converged.sum())
    row = (
        f"| {dim} | {seen} | {noise:g} | {spread} | {apart:.3f} | {of_own} | {beside:.2f} | "
        f"{converged} | {wrong} | {shown} | {seconds:.1f} |"
    )
    return row, Counter(posteriors=count, converged=converged, wrong=wrong)


def numbers(text: str) -> list[float]:
    return [float(part) for part in text.split(",")]


@click.command(help=__doc__)
@click.option("--columns", default="2,3,5,8", show_default=True)
@click.option("--seen", default=None, help="Columns seen; all but one, and one.", show_default=True)
@click.option("--noise", default="1,0.1,0.01,0.001", show_default=True)
@click.option("--observations", type=int, default=10, show_default=True)
@click.option("--sampler", default="auto", show_default=True)
@click.option("--any", "options", flag_value="--any", help="Networks that answer any question.")
@click.option("--exact", is_flag=True, help="The exact denoiser, not networks.")
@click.option("--deblur", is_flag=True, help="Posteriors of clean points.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--folder", type=click.Path(path_type=Path), default="out/narrow_posteriors")
def main(
    columns: str,
    seen: str | None,
    noise: str,
    observations: int,
    sampler: str,
    options: str | None,
    exact: bool,
    deblur: bool,
    seed: int,
    folder: Path,
) -> None:
    torch.set_num_threads(1)
    print(
        "| columns | seen | noise | std | mean | hidden: std to mixture | mean | converged | wrong "
        "| samplers | seconds |"
    )
    print("| ---: | ---: | ---: | --- | ---: | --- | ---: | ---: | ---: | --- | ---: |")
    total: Counter[str] = Counter()
    for dim in map(int, numbers(columns)):
        mixture = Mixture.of(dim, scaled=not exact)
        trained = () if options is None else (options,)
        flow = exact_flow(mixture) if exact else trained_flow(mixture, folder, *trained)
        parts = sorted({dim - 1, 1}, reverse=True) if seen is None else map(int, numbers(seen))
        for count in parts:
            for size in numbers(noise):
                plan = SamplingPlan(sampler, seed=seed)
                row, counts = measured(
                    flow, mixture, count, size, plan, observations, exact, deblur
                )
                total += counts
                print(row, flush=True)
    print(
        f"\nOf {total['posteriors']} posteriors {total['converged']} are said to have converged, "
        f"and {total['wrong']} of these are wrong"
    )


if __name__ == "__main__":
    main()
