"""What tests of posteriors share: priors that are Gaussian, and posteriors that are known."""

import torch
from torch import Tensor

from tests.support.flows import gaussian_flow, random_basis
from training.flow.schedules import InflationSchedule
from training.flow.solvers import get_solver
from training.inference.draws import POOLED, Draws
from training.inference.likelihoods import Gaussian, Likelihood, checked
from training.inference.prior import Prior
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.target import Target
from training.measure.posterior.convergence import convergence

ROWS = 16
STEPS = 2


def gaussian_prior(
    dim: int = 2, deblurred: bool = False, error: float = 0, **units: float
) -> Prior:
    """A prior that is Gaussian: its denoiser is exact, and points are affine in w.

    An error of the denoiser makes it another Gaussian.
    """
    schedule = InflationSchedule.to_dimension(dim, dim, top_variance=2.0, gamma0=0.05)
    flow = gaussian_flow(random_basis(dim), schedule, error)
    solver = get_solver("exp_ab2", 1e-6, 1e-6)
    return Prior(flow, flow.times(STEPS), solver, deblurred, **units)


def affine(prior: Prior) -> tuple[Tensor, Tensor]:
    """``b [D]`` and ``B [D, D]`` of points ``b + B w``, as the prior's own calls have them."""
    rows = torch.cat([torch.zeros(1, prior.dim), torch.eye(prior.dim)]).double()
    points = prior.points(rows).points
    return points[0], (points[1:] - points[0]).T


def posterior(prior: Prior, likelihood: Gaussian, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Means ``[M, D]`` and covariance ``[D, D]`` of a Gaussian prior's posteriors."""
    mean, root = affine(prior)
    seen = likelihood.observe(torch.eye(len(mean)).double()).T
    noise = likelihood.root
    noise = noise @ noise.T if noise.ndim == 2 else torch.diag(noise.square().expand(len(seen)))
    covariance = root @ root.T
    gain = covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T + noise)
    return mean + (observed - seen @ mean) @ gain.T, covariance - gain @ seen @ covariance


class Parabola(Likelihood):
    """``y = x_2 + bend x_1^2`` with noise: a banana. Without ``x_2`` there are two modes.

    Args:
        bend: How much it is bent.
        slope: Of ``x_2``.
        noise: Standard deviation.
    """

    def __init__(self, bend: float = 1.0, slope: float = 1.0, noise: float = 0.3):
        self._bend, self._slope, self._noise = bend, slope, noise

    def _seen(self, points: Tensor) -> Tensor:
        return self._slope * points[:, 1] + self._bend * points[:, 0].square()

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        scaled = (observed[:, 0] - self._seen(points)) / self._noise
        return checked(-scaled.square() / 2, "the parabola")

    def simulate(self, points: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.randn(len(points), generator=generator, dtype=torch.float64)
        return (self._seen(points) + self._noise * noise)[:, None]

    def to(self, device: torch.device) -> "Parabola":
        return self


def by_quadrature(prior: Prior, likelihood: Likelihood, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Means and standard deviations ``[M, 2]`` of posteriors of a Gaussian prior of two
    dimensions."""
    line = torch.linspace(-6, 6, 601).double()
    w = torch.cartesian_prod(line, line)
    mean, root = affine(prior)
    points = mean + w @ root.T
    moments = []
    for one in observed:
        found = likelihood.log_prob(points, one.expand(len(points), -1))
        weight = (found - w.square().sum(dim=1) / 2).softmax(0)
        center = weight @ points
        moments.append((center, (weight @ (points - center).square()).sqrt()))
    means, stds = zip(*moments, strict=True)
    return torch.stack(means), torch.stack(stds)


def problem(
    prior: Prior, likelihood: Likelihood, observed: Tensor, coarse: Prior | None = None
) -> Problem:
    target = Target(prior, likelihood, observed, ROWS)
    return Problem(target, coarse or prior, list(range(len(observed))), not prior.deblurred)


def drawn(which: Problem, sampler: str, seed: int = 0, **others: int) -> Draws:
    """Few draws, but enough to see that they are right."""
    few = {"chains": 4, "draws": 250, "warmup": 60, "pool": 4096} | others
    return sample_posteriors(which, SamplingPlan(sampler, seed=seed, **few))


def assert_moments(draws: Draws, mean: Tensor, std: Tensor, errors: float = 4.5) -> None:
    """Asserts that draws have means and standard deviations ``[M, D]``, to so many standard errors,
    which themselves are small."""
    for index in range(draws.count):
        found = convergence(draws.points[index])
        points = draws.points[index].flatten(0, 1)
        error_of_mean, error_of_std = found.mcse_mean, found.mcse_std
        if draws.sampler[index] in POOLED:
            # Weighted and taken again: the weights say what they are worth.
            error_of_mean = std[index] / draws.stats["effective_size"][index].sqrt()
            error_of_std = error_of_mean
        assert (error_of_mean < 0.2 * std[index]).all()
        assert ((points.mean(dim=0) - mean[index]).abs() < errors * error_of_mean).all()
        assert ((points.std(dim=0) - std[index]).abs() < errors * error_of_std).all()
