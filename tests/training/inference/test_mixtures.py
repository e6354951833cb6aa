"""Mixtures: evidence, weights by Gibbs' method, and exact posteriors, against quadrature."""

from math import log

import numpy as np
import pytest
import torch
from scipy.stats import dirichlet as dirichlet_law
from scipy.stats import kstest
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double
from tests.support.refusals import refusal
from torch_utils.seeds import seeded_generator
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.inference.mixture_moments import can_integrate, importance, moments, quadrature
from training.inference.mixtures import (
    Components,
    Evidence,
    dirichlet,
    log_likelihood,
    sample_weights,
)
from training.inference.samplers.pool import even_normal

WEIGHTS = double([0.5, 0.3, 0.2])
MEANS = double([[-1.0, 0.3], [0.8, 1.0], [0.2, -1.2]])
COVARIANCE = double([[0.3, 0.1], [0.1, 0.2]])
OBSERVED = {
    "point": (Gaussian(double(0.4)), [[0.2, 0.1], [-0.9, 0.5]]),
    "widths": (Gaussian(double([0.3, 0.6])), [[0.2, 0.1], [2.0, -1.5]]),
    "coordinate": (Gaussian(double(0.4), torch.tensor([1])), [[0.1], [1.4]]),
    "linear": (Gaussian(double(0.5), operator=double([[1.0, 2.0]])), [[0.3], [-2.0]]),
    "covariance": (Gaussian(double([[0.2, 0.1], [0.1, 0.3]])), [[0.2, 0.1], [1.0, 1.0]]),
}


@pytest.mark.parametrize("kind", OBSERVED)
def test_moments_are_those_of_quadrature(kind: str) -> None:
    likelihood, rows = OBSERVED[kind]
    line = torch.linspace(-6, 6, 401, dtype=torch.float64)
    grid = torch.cartesian_prod(line, line)
    law = torch.distributions.MultivariateNormal(MEANS[:, None], COVARIANCE)
    prior = (WEIGHTS.log()[:, None] + law.log_prob(grid)).logsumexp(dim=0)
    found = ExactPosterior.of(WEIGHTS, MEANS, COVARIANCE, likelihood, double(rows))
    for index, seen in enumerate(double(rows)):
        log_density = prior + likelihood.log_prob(grid, seen.expand(len(grid), -1))
        density = log_density.softmax(dim=0)
        mean = density @ grid
        std = (density @ (grid - mean).square()).sqrt()
        torch.testing.assert_close(found.mean[index], mean, rtol=0, atol=1e-9)
        torch.testing.assert_close(found.std[index], std, rtol=1e-9, atol=0)
        # Not the moments alone.
        point = grid[(grid - double([0.4, -0.2])).square().sum(dim=1).argmin()].requires_grad_()
        below = found.below(point.expand(len(rows), -1))[index]
        slopes = torch.autograd.grad(below.sum(), point)[0]
        marginal = torch.stack([density[grid[:, i] == point[i]].sum() for i in range(2)])
        torch.testing.assert_close(slopes, marginal / (line[1] - line[0]), rtol=1e-9, atol=0)
        ends = found.below(double([[-30.0, 30.0]]).expand(len(rows), -1))[index]
        torch.testing.assert_close(ends, double([0, 1]), rtol=0, atol=1e-12)
        parts = torch.distributions.MultivariateNormal(found.centers[index], found.covariance)
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(found.weights[index]), parts
        )
        near = density > 1e-6 * density.max()
        ratio = mixture.log_prob(grid[near]) - density[near].log()
        assert float(ratio.max() - ratio.min()) < 1e-8


def test_a_component_without_width_stays_where_it_is() -> None:
    flat = torch.diag(double([0.3, 0.0]))
    found = ExactPosterior.of(WEIGHTS, MEANS, flat, Gaussian(double(0.4)), double([[0.2, 0.1]]))
    np.testing.assert_array_equal(found.centers[0, :, 1], MEANS[:, 1])
    assert float(found.covariance[1, 1]) == 0


CHAINS, DRAWS, WARMUP, SEED = 4, 1000, 200, 3


def log_evidence(*shape: int, spread: float = 2.0) -> Tensor:
    """Of components that overlap."""
    return spread * torch.randn(shape, generator=seeded_generator("cpu", 5), dtype=torch.float64)


def weights_of(evidence: Tensor, concentration: float = 1.0) -> Tensor:
    """Draws ``[R, C, S, K]``."""
    return sample_weights(evidence, concentration, CHAINS, DRAWS, WARMUP, SEED)


def test_the_evidence_of_a_flow_that_does_nothing_is_that_of_normal_laws() -> None:
    components = Components.spread(3, 2)
    pool = even_normal(2**14, 2, 0)
    points = torch.stack(
        [components.carried(pool, torch.full((len(pool),), k)) for k in range(components.count)]
    )
    observed = torch.tensor([[1.4, 0.2], [-0.3, 0.4], [0.0, -2.0]], dtype=torch.float64)
    noise = 0.3
    found = Evidence.of(points, Gaussian(torch.tensor(noise)), observed)
    variance = components.std.square() + noise**2
    square = (observed[:, None] - components.mean).square().sum(dim=2)
    exact = -square / (2 * variance) - (2 * torch.pi * variance).log()
    # Points that a component hardly reaches are known less well, and matter less.
    near = exact > exact.amax(dim=1, keepdim=True) - 5
    assert (found.log - exact)[near].abs().max() < 0.02
    together = found.halves.logsumexp(dim=0) - log(2)
    torch.testing.assert_close(together, found.log, rtol=0, atol=1e-12)


def test_a_point_that_no_component_reaches_is_refused() -> None:
    points = torch.zeros(2, 4, 1, dtype=torch.float64)
    observed = torch.tensor([[0.0], [1e200]], dtype=torch.float64)
    assert "observation 2" in refusal(
        Evidence.of, points, Gaussian(torch.tensor(0.1)), observed, kind=DataError
    )


@pytest.mark.parametrize("components", [2, 3])
@pytest.mark.parametrize("concentration", [0.4, 1.0, 3.0])
def test_weights_are_those_of_quadrature(components: int, concentration: float) -> None:
    evidence = log_evidence(3, 150, components)
    found = weights_of(evidence, concentration)
    for of_run, draws in zip(evidence, found.flatten(1, 2), strict=True):
        exact = quadrature(of_run, concentration)
        assert (draws.mean(dim=0) - exact.mean).abs().max() < 0.01
        torch.testing.assert_close(draws.std(dim=0), exact.std, rtol=0.08, atol=0)


@pytest.mark.parametrize("concentration", [0.4, 2.0])
def test_quadrature_is_that_on_a_fine_grid(concentration: float) -> None:
    evidence = log_evidence(30, 2)
    # pi = u^(1 / alpha) near 0, and as near 1, makes the prior's poles flat.
    step = torch.linspace(0, 1, 20001, dtype=torch.float64)[:-1] + 0.5 / 20000
    u = step.pow(1 / concentration) * 0.5
    pi = torch.cat([u, 1 - u])
    other = (1 - u).pow(concentration - 1).repeat(2)
    share = other * log_likelihood(torch.stack([pi, 1 - pi], dim=1), evidence).exp()
    share = share / share.sum()
    mean = (share * pi).sum()
    std = (share * (pi - mean).square()).sum().sqrt()
    exact = quadrature(evidence, concentration)
    torch.testing.assert_close(exact.mean, torch.stack([mean, 1 - mean]), rtol=1e-6, atol=0)
    torch.testing.assert_close(exact.std, torch.stack([std, std]), rtol=1e-6, atol=0)


def test_components_that_do_not_overlap_leave_a_dirichlet_law() -> None:
    counts = torch.tensor([5, 0, 12, 3])
    labels = torch.arange(4).repeat_interleave(counts)
    evidence = -1e4 * (1 - torch.nn.functional.one_hot(labels, 4).double())
    alpha = 0.7
    law = dirichlet_law(counts.numpy() + alpha)
    exact = moments(evidence, alpha, torch.empty(0, 4), SEED)
    assert exact.method == "quadrature"
    np.testing.assert_allclose(exact.mean, law.mean(), rtol=1e-9)
    np.testing.assert_allclose(exact.std, np.sqrt(law.var()), rtol=1e-9)
    draws = weights_of(evidence[None], alpha)[0].flatten(0, 1).numpy()
    for k in range(4):
        a = float(counts[k]) + alpha
        assert kstest(draws[:, k], "beta", (a, float(counts.sum()) + 4 * alpha - a)).pvalue > 1e-3


def test_many_components_are_checked_by_importance_weights() -> None:
    evidence = log_evidence(100, 6)
    assert not can_integrate(100, 6)
    draws = weights_of(evidence[None])[0].flatten(0, 1)
    found = moments(evidence, 1.0, draws, SEED)
    assert found.method == "importance"
    assert (draws.mean(dim=0) - found.mean).abs().max() < 0.01
    torch.testing.assert_close(draws.std(dim=0), found.std, rtol=0.08, atol=0)


def test_importance_weights_agree_with_quadrature_within_their_error() -> None:
    evidence = log_evidence(40, 3)
    exact = quadrature(evidence, 1.0)
    draws = weights_of(evidence[None])[0].flatten(0, 1)
    found = importance(evidence, 1.0, draws, SEED)
    assert 0 < found.error < 2e-3
    assert (found.mean - exact.mean).abs().max() < 4 * found.error
    torch.testing.assert_close(found.std, exact.std, rtol=0.02, atol=0)


def test_a_data_set_has_its_draws_whatever_is_sampled_beside_it() -> None:
    evidence = log_evidence(3, 20, 3)
    together = sample_weights(evidence, 1.0, 2, 30, 10, SEED)
    alone = sample_weights(evidence[2:], 1.0, 2, 30, 10, SEED, [2])
    assert torch.equal(alone[0], together[2])


def test_chains_start_apart_and_come_to_the_same() -> None:
    evidence = log_evidence(1, 100, 2)
    first = sample_weights(evidence, 1.0, 50, 1, 0, SEED)[0, :, 0, 0]
    assert len(first.unique()) == 50
    exact = quadrature(evidence[0], 1.0)
    means = weights_of(evidence)[0].mean(dim=1)
    assert (means - exact.mean).abs().max() < 0.02


def test_uniform_numbers_become_dirichlet_weights() -> None:
    shapes = torch.tensor([0.3, 1.0, 4.0], dtype=torch.float64).expand(2000, 3)
    generator = seeded_generator("cpu", 2)
    found = dirichlet(shapes, torch.rand(2000, 3, generator=generator, dtype=torch.float64))
    for k in range(3):
        a = float(shapes[0, k])
        assert kstest(found[:, k].numpy(), "beta", (a, 5.3 - a)).pvalue > 1e-3
    # Where all gamma variables are too small for numbers, weights are still weights.
    tiny = dirichlet(torch.full((2,), 1e-4, dtype=torch.float64), torch.tensor([0.5, 0.5]).double())
    assert tiny.tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("count", "dim"), [(2, 1), (3, 2), (7, 5)])
def test_default_components_are_evenly_apart(count: int, dim: int) -> None:
    components = Components.spread(count, dim)
    distance = torch.cdist(components.mean, components.mean)
    nearest = (distance + 10 * torch.eye(count)).amin(dim=1)
    torch.testing.assert_close(nearest, nearest[:1].expand(count))
    assert (3 * components.std <= nearest + 1e-12).all()
    assert components.mean[:, 2:].abs().sum() == 0


def test_components_without_width_or_of_one_alone_are_refused() -> None:
    mean, std = torch.zeros(2, 2).double(), torch.tensor([1.0, 0.0])
    assert "positive" in refusal(Components, mean, std, kind=UsageError)
    assert "two or more" in refusal(Components, mean[:1], std[:1], kind=UsageError)
    assert "2 components have 3 widths" in refusal(Components, mean, torch.ones(3), kind=UsageError)
