"""Priors and targets: points of variables and back, log likelihoods, gradients and curvature."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from dnnlib.errors import UsageError
from tests.support.draws import double, normal
from tests.support.flows import curved_flow
from tests.support.posteriors import Parabola, affine, gaussian_prior
from tests.support.refusals import refusal
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior
from training.inference.target import FARTHEST, GRADIENT_CALLS, Target

UNITS = {"unit": 0.5, "origin": 10.0}


def test_blurred_points_have_the_law_of_the_data_with_the_first_noise() -> None:
    prior = gaussian_prior(3, **UNITS)
    flow = prior.flow
    mean, root = affine(prior)
    axes = flow.basis.eigenvectors
    noisy = axes @ torch.diag(flow.noisy_variance(prior.times[0])) @ axes.T
    assert_close(mean, 10 + flow.basis.mean / 0.5)
    assert_close(root @ root.T, noisy / 0.25)


def test_variables_are_found_again() -> None:
    prior, w = gaussian_prior(3, **UNITS), normal(5, 3)
    assert_close(prior.whitened(prior.points(w).points), w)


def test_deblurred_points_have_the_law_of_clean_data() -> None:
    """Of a Gaussian, whose posterior given noisy points is Gaussian, exactly."""
    prior = gaussian_prior(3, deblurred=True, **UNITS)
    assert prior.dim == 6
    mean, root = affine(prior)
    expected, covariance = prior.moments()
    assert_close(mean, expected)
    assert_close(root @ root.T, covariance)
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
    assert_close(left, torch.diag(gamma.square() / (4 * variance)))
    points, density = prior.points_and_density(w, {}, Trace("exact"))
    assert_close(points.points, prior.points(w).points)
    assert points.calls == blurred.points(w).calls + 1
    exact = MultivariateNormal(affine(prior)[0], root @ root.T).log_prob(points.points)
    # The same steps of the same solver, whose error is that of the blurred density.
    error = blurred.points_and_density(w, {}, Trace("exact"))
    law = MultivariateNormal(affine(blurred)[0], affine(blurred)[1] @ affine(blurred)[1].T)
    expected = exact + error[1] - law.log_prob(error[0].points)
    assert_close(density, expected)
    assert_close(prior.log_density(points.points, {}, Trace("exact")), density)


def test_many_dimensions_are_not_deblurred() -> None:
    with pytest.raises(UsageError, match="at most 16 dimensions, but there are 17"):
        gaussian_prior(17, deblurred=True)


STEPS = 3
OBSERVED = double([[0.5, 0.1], [-0.5, 1.0]])
WHICH = torch.tensor([0, 1, 1, 0, 1])


def curved(rows: int = 4) -> Target:
    flow = curved_flow()
    prior = Prior(flow, flow.times(STEPS), get_solver("exp_ab2", 1e-6, 1e-6), unit=2.0, origin=3.0)
    return Target(prior, Gaussian(double([0.3, 0.5])), OBSERVED, rows)


def test_gradients_are_differences() -> None:
    target, w, step = curved(), normal(5, 2), 1e-5
    found, gradient = target.slope(w, WHICH)
    assert_close(found.points, target.points(w, WHICH))
    for axis in range(2):
        shift = step * torch.eye(2).double()[axis]
        up, down = (target.evaluate(w + s * shift, WHICH).log_likelihood for s in (1, -1))
        assert_close(gradient[:, axis], (up - down) / (2 * step), rtol=1e-6, atol=1e-6)


def test_curvature_is_the_hessian_of_a_linear_gaussian_case() -> None:
    prior = gaussian_prior(3)
    _, root = affine(prior)
    operator, covariance = normal(2, 3, seed=1), double([[0.5, 0.1], [0.1, 0.2]])
    target = Target(prior, Gaussian(covariance, operator=operator), OBSERVED, 4)
    seen = operator @ root
    expected = seen.T @ torch.linalg.inv(covariance) @ seen
    found = target.curvature(normal(5, 3), WHICH)
    assert_close(found, expected.expand(5, 3, 3))
    assert Target(prior, Parabola(), OBSERVED, 4).curvature(normal(5, 3), WHICH) is None


def test_rows_do_not_depend_on_those_beside() -> None:
    target, w = curved(), normal(11, 2)
    which = torch.arange(11) % 2
    whole, slope = target.evaluate(w, which), target.slope(w, which)
    for places in (torch.tensor([7]), torch.tensor([10, 3, 0, 1, 2, 9])):
        part = target.evaluate(w[places], which[places])
        assert torch.equal(part.points, whole.points[places])
        assert torch.equal(part.log_likelihood, whole.log_likelihood[places])
        gradient = target.slope(w[places], which[places]).gradient
        assert torch.equal(gradient, slope.gradient[places])


def test_calls_are_counted() -> None:
    target = curved()
    each = target.prior.points(normal(1, 2)).calls
    assert each >= STEPS
    target.evaluate(normal(5, 2), WHICH)
    assert target.calls == 5 * each  # not those that filled up the last block
    target.slope(normal(5, 2), WHICH)
    assert target.calls == 5 * each * (1 + GRADIENT_CALLS)
    parts: list[float] = []
    target.points(normal(8, 2), torch.zeros(8, dtype=torch.int64), parts.append)
    assert sum(parts) == pytest.approx(1)


def test_variables_that_went_astray_have_no_likelihood() -> None:
    target, w = curved(), normal(5, 2)
    w[1], w[3, 0] = torch.nan, 2 * FARTHEST
    for found in (target.evaluate(w, WHICH), target.slope(w, WHICH).evaluated):
        gone = found.log_likelihood == -torch.inf
        assert gone.tolist() == [False, True, False, True, False]
        assert found.points.isfinite().all()


def test_a_likelihood_without_gradients_is_told() -> None:
    class Detached(Parabola):
        def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
            return super().log_prob(points.detach(), observed)

    target = Target(gaussian_prior(), Detached(), OBSERVED, 4)
    assert "has no gradients" in refusal(target.slope, normal(5, 2), WHICH, kind=UsageError)
