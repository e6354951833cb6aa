"""Priors: points of variables and back, in the user's units, blurred and deblurred."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal

from dnnlib.errors import UsageError
from tests.support.draws import normal
from tests.support.posteriors import affine, gaussian_prior
from training.flow.likelihood import Trace

UNITS = {"unit": 0.5, "origin": 10.0}


def test_blurred_points_have_the_law_of_the_data_with_the_first_noise() -> None:
    prior = gaussian_prior(3, **UNITS)
    flow = prior.flow
    mean, root = affine(prior)
    axes = flow.basis.eigenvectors
    noisy = axes @ torch.diag(flow.noisy_variance(prior.times[0])) @ axes.T
    torch.testing.assert_close(mean, 10 + flow.basis.mean / 0.5)
    torch.testing.assert_close(root @ root.T, noisy / 0.25)


def test_variables_are_found_again() -> None:
    prior, w = gaussian_prior(3, **UNITS), normal(5, 3)
    torch.testing.assert_close(prior.whitened(prior.points(w).points), w)


def test_deblurred_points_have_the_law_of_clean_data() -> None:
    """Of a Gaussian, whose posterior given noisy points is Gaussian, exactly."""
    prior = gaussian_prior(3, deblurred=True, **UNITS)
    assert prior.dim == 6
    mean, root = affine(prior)
    expected, covariance = prior.moments()
    torch.testing.assert_close(mean, expected)
    torch.testing.assert_close(root @ root.T, covariance)
    blurred = gaussian_prior(3, **UNITS)
    assert (affine(blurred)[1].square().sum(dim=1) - covariance.diagonal()).min() > 0.1


def test_sharpened_points_lose_the_first_noise_to_first_order() -> None:
    """Of a Gaussian of variance v what is left of gamma is gamma² / (4 (v + gamma)), exactly."""
    blurred, prior = gaussian_prior(3), replace(gaussian_prior(3), sharpened=True)
    flow, w = prior.flow, normal(4, 3)
    _, root = affine(prior)
    axes = flow.basis.eigenvectors
    left = axes.T @ root @ root.T @ axes - torch.diag(flow.basis.eigenvalues)
    variance = flow.noisy_variance(prior.times[0])
    gamma = flow.schedule.noise_variance(prior.times[0])
    torch.testing.assert_close(left, torch.diag(gamma.square() / (4 * variance)))
    points, density = prior.points_and_density(w, {}, Trace("exact"))
    torch.testing.assert_close(points.points, prior.points(w).points)
    assert points.calls == blurred.points(w).calls + 1
    exact = MultivariateNormal(affine(prior)[0], root @ root.T).log_prob(points.points)
    # The same steps of the same solver, whose error is that of the blurred density.
    error = blurred.points_and_density(w, {}, Trace("exact"))
    law = MultivariateNormal(affine(blurred)[0], affine(blurred)[1] @ affine(blurred)[1].T)
    expected = exact + error[1] - law.log_prob(error[0].points)
    torch.testing.assert_close(density, expected)
    torch.testing.assert_close(prior.log_density(points.points, {}, Trace("exact")), density)


def test_many_dimensions_are_not_deblurred() -> None:
    with pytest.raises(UsageError, match="at most 16 dimensions, but there are 17"):
        gaussian_prior(17, deblurred=True)
