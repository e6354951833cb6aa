"""What tests of posteriors share: priors that are Gaussian, and posteriors that are known."""

from copy import copy
from dataclasses import replace

import torch

from tests.support.draws import double, normal
from tests.support.flows import gaussian_flow, random_basis
from tests.support.tables import table_of
from training.data.tables.schema import Column
from training.flow.coordinates.coordinates import Coordinates
from training.flow.schedules import InflationSchedule
from training.flow.solvers import get_solver
from training.inference.draws import POOLED
from training.inference.likelihoods import Likelihood, checked
from training.inference.prior import Prior
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.target import Target
from training.learning.building import ModelConfig
from training.measure.posterior.convergence import convergence
from training.recipes import Recipe
from training.subjects.table_spaces import Preparation, Space

ROWS = 256
STEPS = 2


def gaussian_prior(dim=2, error=0, **units):
    """A Gaussian prior: its denoiser is exact, or off by an error, and points are affine in w."""
    schedule = InflationSchedule.to_dimension(dim, dim, top_variance=2.0, gamma0=0.05)
    flow = gaussian_flow(random_basis(dim), schedule, error)
    solver = get_solver("exp_ab2")
    return Prior(flow, flow.times(STEPS), solver, **units)


def affine(prior):
    rows = torch.cat([torch.zeros(1, prior.dim), torch.eye(prior.dim)]).double()
    points = prior.points(rows).points
    return points[0], (points[1:] - points[0]).T


def posterior(prior, likelihood, observed):
    """Means ``[M, D]`` and covariance ``[D, D]`` of a Gaussian prior's posteriors."""
    mean, root = affine(prior)
    seen = likelihood.observe(torch.eye(len(mean)).double()).T
    noise = likelihood.root
    noise = noise @ noise.T if noise.ndim == 2 else torch.diag(noise.square().expand(len(seen)))
    covariance = root @ root.T
    gain = covariance @ seen.T @ torch.linalg.inv(seen @ covariance @ seen.T + noise)
    return mean + (observed - seen @ mean) @ gain.T, covariance - gain @ seen @ covariance


def conditional_prior(start="on"):
    """A flow without a network of two columns, given the first with noise: ``N(0.64 y, 0.36)`` and
    ``N(0, 1)``. Without its linear start it ignores conditions."""
    points = normal(20_000, 2, seed=1)
    y = points[:, :1] + 0.75 * normal(20_000, 1, seed=2)
    nothing = torch.zeros(20_000, dtype=torch.bool)
    table = table_of([Column("a"), Column("b")], points, nothing, y, "y")
    choices = ModelConfig("ifs", {"gamma0": 1e-4}, "mlp", {"width": 8, "label_dim": 1}, "IS", "log")
    prepared = Preparation(table, choices, Recipe(duration=1e-4, batch=100), torch.device("cpu"))
    model, _ = prepared.build(prepared.coordinates(Space("none", "zca", start)))
    model.denoiser.eval().requires_grad_(False)
    return Prior(model.flow, model.flow.times(4), get_solver("exp_ab2"))


def limited(prior, low):
    """The same points, but the second column is not to be below a bound."""
    coordinates = prior.flow.coordinates
    made = Coordinates(2, ["limits", *coordinates.names], coordinates.knots, 1, True)
    state = coordinates.state_dict().items()
    moved = {
        f"maps.{int(name[5]) + 1}{name[6:]}" if name.startswith("maps") else name: values
        for name, values in state
    }
    limits = made.maps[0]
    limits.set_bounds(double([-torch.inf, low]), double([torch.inf, torch.inf]))
    made.load_state_dict(moved | {f"maps.0.{k}": v for k, v in limits.state_dict().items()})
    flow = copy(prior.flow)
    flow.coordinates = made
    return replace(prior, flow=flow)


class Parabola(Likelihood):
    """``y = slope x_2 + bend x_1^2`` with noise: a banana. Without ``x_2`` there are two modes."""

    def __init__(self, bend=1.0, slope=1.0, noise=0.3):
        self._bend, self._slope, self._noise = bend, slope, noise

    def _seen(self, points):
        return self._slope * points[:, 1] + self._bend * points[:, 0].square()

    def log_prob(self, points, observed):
        scaled = (observed[:, 0] - self._seen(points)) / self._noise
        return checked(-scaled.square() / 2, "the parabola")

    def simulate(self, points, generator):
        noise = torch.randn(len(points), generator=generator, dtype=torch.float64)
        return (self._seen(points) + self._noise * noise)[:, None]

    def to(self, device):
        return self


def by_quadrature(prior, likelihood, observed):
    """Means and standard deviations ``[M, 2]`` of posteriors of a Gaussian prior of two
    dimensions."""
    line = torch.linspace(-6, 6, 601).double()
    w = torch.cartesian_prod(line, line)
    mean, root = affine(prior)
    return moments_on_grid(mean + w @ root.T, -w.square().sum(dim=1) / 2, likelihood, observed)


def moments_on_grid(points, log_prior, likelihood, observed):
    """Means and standard deviations ``[M, D]`` of posteriors, by sums over points ``[N, D]``."""
    moments = []
    for one in observed:
        weight = (log_prior + likelihood.log_prob(points, one.expand(len(points), -1))).softmax(0)
        mean = weight @ points
        moments.append((mean, (weight @ (points - mean).square()).sqrt()))
    means, stds = zip(*moments, strict=True)
    return torch.stack(means), torch.stack(stds)


def problem(prior, likelihood, observed, coarse=None):
    target = Target(prior, likelihood, observed, ROWS)
    return Problem(target, coarse or prior, list(range(len(observed))))


def drawn(which, sampler, seed=0, on_part=None, **others):
    few = {"chains": 4, "draws": 250, "warmup": 60, "pool": 4096} | others
    return sample_posteriors(which, SamplingPlan(sampler, seed=seed, **few), on_part=on_part)


def assert_moments(draws, mean, std, errors=4.5):
    """Asserts that draws have means and standard deviations ``[M, D]``, to so many standard errors,
    which themselves are small."""
    for index in range(draws.count):
        got = convergence(draws.points[index])
        points = draws.points[index].flatten(0, 1)
        error_of_mean, error_of_std = got.mcse_mean, got.mcse_std
        if draws.sampler[index] in POOLED:
            # Weighted and taken again: the weights say what they are worth.
            error_of_mean = std[index] / draws.stats["effective_size"][index].sqrt()
            error_of_std = error_of_mean
        assert (error_of_mean < 0.2 * std[index]).all()
        assert ((points.mean(dim=0) - mean[index]).abs() < errors * error_of_mean).all()
        assert ((points.std(dim=0) - std[index]).abs() < errors * error_of_std).all()
