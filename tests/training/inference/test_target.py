"""Targets of samplers, and posteriors that a conditional flow has learned."""

import copy
from dataclasses import replace

import pytest
import torch
from torch.distributions import MultivariateNormal
from torch.testing import assert_close

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal
from tests.support.flows import curved_flow
from tests.support.posteriors import Parabola, affine, conditional_prior, gaussian_prior, limited
from tests.support.running import refusal
from training.flow.likelihood import Trace
from training.flow.solvers import get_solver
from training.inference.amortized import Amortized
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior
from training.inference.summary import Summary
from training.inference.target import FARTHEST, GRADIENT_CALLS, Target
from training.measure.posterior.calibration import kept_by_thinning

UNITS = {"unit": 0.5, "origin": 10.0}
STEPS = 3
OBSERVED = double([[0.5, 0.1], [-0.5, 1.0]])
WHICH = torch.tensor([0, 1, 1, 0, 1])
Y = double([[0.5], [-1.0], [2.0]])
STD = 0.6
ALL = torch.arange(3)


def test_blurred_points_have_the_law_of_data_with_the_first_noise_and_variables_of_their_own():
    prior = gaussian_prior(3, **UNITS)
    flow = prior.flow
    mean, root = affine(prior)
    axes = flow.basis.eigenvectors
    noisy = axes @ torch.diag(flow.noisy_variance(prior.times[0])) @ axes.T
    assert_close(mean, 10 + flow.basis.mean / 0.5)
    assert_close(root @ root.T, noisy / 0.25)
    prior, w = gaussian_prior(3, **UNITS), normal(5, 3)
    assert_close(prior.whitened(prior.points(w).points), w)


def test_sharpened_points_lose_the_first_noise_to_first_order():
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
    distribution = MultivariateNormal(affine(blurred)[0], affine(blurred)[1] @ affine(blurred)[1].T)
    assert_close(density, exact + error[1] - distribution.log_prob(error[0].points))
    assert_close(prior.log_density(points.points, {}, Trace("exact")), density)


def curved(rows=4):
    flow = curved_flow()
    prior = Prior(flow, flow.times(STEPS), get_solver("exp_ab2"), unit=2.0, origin=3.0)
    return Target(prior, Gaussian(double([0.3, 0.5])), OBSERVED, rows)


def test_gradients_are_differences():
    target, w, step = curved(), normal(5, 2), 1e-5
    got, gradient = target.slope(w, WHICH)
    assert_close(got.points, target.points(w, WHICH))
    for axis in range(2):
        shift = step * torch.eye(2).double()[axis]
        up, down = (target.evaluate(w + s * shift, WHICH).log_likelihood for s in (1, -1))
        assert_close(gradient[:, axis], (up - down) / (2 * step), rtol=1e-6, atol=1e-6)


def test_curvature_is_the_hessian_of_a_linear_gaussian_case():
    prior = gaussian_prior(3)
    _, root = affine(prior)
    operator, covariance = normal(2, 3, seed=1), double([[0.5, 0.1], [0.1, 0.2]])
    target = Target(prior, Gaussian(covariance, operator=operator), OBSERVED, 4)
    seen = operator @ root
    expected = seen.T @ torch.linalg.inv(covariance) @ seen
    assert_close(target.curvature(normal(5, 3), WHICH), expected.expand(5, 3, 3))
    assert Target(prior, Parabola(), OBSERVED, 4).curvature(normal(5, 3), WHICH) is None


def test_rows_do_not_depend_on_those_beside():
    target, w = curved(), normal(11, 2)
    which = torch.arange(11) % 2
    whole, slope = target.evaluate(w, which), target.slope(w, which)
    for places in (torch.tensor([7]), torch.tensor([10, 3, 0, 1, 2, 9])):
        part = target.evaluate(w[places], which[places])
        assert torch.equal(part.points, whole.points[places])
        assert torch.equal(part.log_likelihood, whole.log_likelihood[places])
        _, gradient = target.slope(w[places], which[places])
        assert torch.equal(gradient, slope[1][places])


def test_calls_are_counted():
    target = curved()
    each = target.prior.points(normal(1, 2)).calls
    assert each >= STEPS
    target.evaluate(normal(5, 2), WHICH)
    assert target.calls == 5 * each  # not those that filled up the last block
    target.slope(normal(5, 2), WHICH)
    assert target.calls == 5 * each * (1 + GRADIENT_CALLS)
    parts = []
    target.points(normal(8, 2), torch.zeros(8, dtype=torch.int64), parts.append)
    assert sum(parts) == pytest.approx(1)


def test_variables_that_went_astray_have_no_likelihood():
    target, w = curved(), normal(5, 2)
    w[1], w[3, 0] = torch.nan, 2 * FARTHEST
    for got in (target.evaluate(w, WHICH), target.slope(w, WHICH)[0]):
        gone = got.log_likelihood == -torch.inf
        assert gone.tolist() == [False, True, False, True, False]
        assert got.points.isfinite().all()


def test_a_likelihood_without_gradients_is_told():
    class Detached(Parabola):
        def log_prob(self, points, observed):
            return super().log_prob(points.detach(), observed)

    target = Target(gaussian_prior(), Detached(), OBSERVED, 4)
    assert "hmc needs gradients of the likelihood" in refusal(
        target.slope, normal(5, 2), WHICH, kind=UsageError
    )


@pytest.fixture(scope="module")
def prior():
    return conditional_prior()


@pytest.fixture(scope="module")
def amortized(prior):
    return Amortized(prior, Y, rows=1024, draws=1000, seed=0, trace=Trace())


def test_draws_have_the_posteriors_moments_and_density(prior, amortized):
    drawn = amortized.sample(ALL)
    points = drawn.points.flatten(1, 2)
    assert ((points[..., 0].mean(dim=1) - 0.64 * Y[:, 0]).abs() < 4 * STD / 1000**0.5).all()
    assert ((points.std(dim=1) / double([STD, 1.0]) - 1).abs() < 0.1).all()
    for index, y in enumerate(Y):
        expected = prior.flow.given(labels=y[None]).log_prob(points[index, :50])
        torch.testing.assert_close(drawn.log_density[index].flatten()[:50], expected)
    got = Summary.from_draws(drawn, 1000)
    assert got.converged.all()
    assert (got.ess_bulk == 1000).all()
    assert got.r_hat.isnan().all()


def test_draws_depend_only_on_seed_and_number(amortized):
    together, alone = amortized.sample(ALL), amortized.sample(ALL[1:2])
    assert torch.equal(together.points[1:2], alone.points)
    assert torch.equal(together.of(ALL[1:2]).calls, alone.calls)
    assert not torch.equal(replace(amortized, seed=1).sample(ALL[1:2]).points, alone.points)
    plain = replace(amortized, trace=None).sample(ALL)
    assert plain.log_density is None
    torch.testing.assert_close(plain.points, together.points)


def shifted(points, y):
    """Another posterior, up to a constant, of which the first column is 0.3 to the right."""
    mean = torch.cat([0.64 * y + 0.3, 0 * y], dim=1)
    return 7 - ((points - mean) / double([STD, 1.0])).square().sum(dim=1) / 2


def test_a_correction_takes_draws_again_by_the_posterior_itself(amortized):
    drawn = replace(amortized, log_posterior=shifted).sample(ALL)
    worth = drawn.stats["effective_size"]
    # exp(-0.3^2 / 0.6^2) of 1,000, but for the draws' own scatter
    assert ((worth / 1000 - 0.78).abs() < 0.1).all()
    error = (drawn.points.flatten(1, 2)[..., 0].mean(dim=1) - 0.64 * Y[:, 0] - 0.3).abs()
    assert (error < 4 * STD / worth.sqrt()).all()
    assert drawn.log_density.shape == (3, 1, 1000)
    torch.testing.assert_close(Summary.from_draws(drawn, 1000).ess_bulk[:, 0], worth)
    alone = replace(amortized, log_posterior=shifted).sample(ALL[2:])
    assert torch.equal(alone.points[0], drawn.points[2])


def test_what_is_beyond_bounds_is_rejected_and_counted(prior, amortized, monkeypatch):
    """Of ``N(0, 1)``, 0.159 are below -1."""
    monkeypatch.setattr("training.inference.amortized.FEW", 1024)  # which takes few calls
    whole = replace(amortized, prior=limited(prior, -1.0), draws=2000)
    drawn, free = whole.sample(ALL), replace(amortized, draws=2000).sample(ALL)
    assert drawn.points[..., 1].min() > -1
    leaked = drawn.stats["leaked"]
    assert ((leaked - 0.159).abs() < 0.03).all()
    kept = free.points[..., 1] > -1
    count = int(kept[0].sum())
    assert torch.equal(drawn.points[0].flatten(0, 1)[:count], free.points[0][kept[0]])
    expected = free.log_density[0][kept[0]] - torch.log1p(-leaked[0])
    torch.testing.assert_close(drawn.log_density[0].flatten()[:count], expected)
    assert (drawn.calls > free.calls).all()
    assert torch.equal(whole.sample(ALL[1:2]).points[0], drawn.points[1])
    monkeypatch.setattr("training.inference.amortized.MAX_ROUNDS", 3)
    assert "beyond the column bounds" in refusal(
        replace(amortized, prior=limited(prior, 9.0)).sample, ALL
    )


def test_where_nearly_all_is_beyond_bounds_a_check_takes_fewer_draws(amortized, monkeypatch):
    """Of ``N(0, 1)``, 0.0013 are above 3: of 80,000 draws some hundred."""
    monkeypatch.setattr("training.inference.amortized.FEW", 1024)  # which takes few calls
    prior = limited(amortized.prior, 3.0)
    few = replace(amortized, prior=prior, draws=400, trace=None, fewer=True).sample(ALL)
    distinct = few.stats["distinct"]
    kept = kept_by_thinning(distinct, 400)
    for points, own, number in zip(few.points.flatten(1, 2), kept, distinct, strict=True):
        assert 10 < number < 400
        assert len(points[own].unique(dim=0)) == len(points.unique(dim=0)) == number
    assert "beyond the column bounds" in refusal(
        replace(amortized, prior=prior, draws=400).sample, ALL
    )


def test_stepped_draws_are_at_steps_with_their_density(prior, amortized):
    flow = copy.deepcopy(prior.flow)
    one = double([[1.0, 0.0], [-1.0, 0.0]])
    flow.coordinates.hold_steps(double([1.0, 0.0]), double([0.0, 0.0]), one)
    stepwise = replace(amortized, prior=replace(prior, flow=flow))
    free, whole = stepwise.sample(ALL), replace(stepwise, plausible=True).sample(ALL)
    assert set(whole.points[..., 0].flatten().tolist()) == {-1, 0, 1}
    beyond = free.log_density[free.points[..., 0].abs() > 1.5]
    torch.testing.assert_close(whole.points[..., 0], free.points[..., 0].round().clamp(-1, 1))
    assert torch.equal(whole.points[..., 1], free.points[..., 1])
    assert torch.equal(whole.log_density, free.log_density)
    # A correction asks for the density of what can be, which is not spread beyond the last step.
    asked = []

    def density(points, y):
        asked.append(points)
        return shifted(points, y)

    corrected = replace(stepwise, plausible=True, log_posterior=density).sample(ALL)
    assert all((points[:, 0] == points[:, 0].round()).all() for points in asked)
    assert torch.isin(corrected.log_density, beyond).sum() == 0 < len(beyond)


def test_what_cannot_be_corrected_is_told(prior, amortized):
    def nowhere(points, y):
        return torch.full_like(points[:, 0], -torch.inf)

    with pytest.raises(DataError, match="density is 0 at all 1000 draws"):
        replace(amortized, log_posterior=nowhere).sample(ALL)
