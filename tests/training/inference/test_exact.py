"""Exact posteriors of Gaussian mixtures, against quadrature."""

import numpy as np
import pytest
import torch

from tests.support.draws import double
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian

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
