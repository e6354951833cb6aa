"""Priors: points of variables and back, in the user's units, blurred and deblurred."""

import pytest
import torch

from dnnlib.errors import UsageError
from tests.support.draws import normal
from tests.support.posteriors import affine, gaussian_prior

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


def test_many_dimensions_are_not_deblurred() -> None:
    with pytest.raises(UsageError, match="at most 16 dimensions, but there are 17"):
        gaussian_prior(17, deblurred=True)
