"""Annealed populations: narrow posteriors that are known, of blurred and of clean points."""

import pytest
import torch
from torch import Tensor

from tests.support.draws import double, normal, seeded
from tests.support.flows import Bumps, exact_flow
from tests.support.posteriors import assert_moments, drawn, gaussian_prior, posterior, problem
from training.flow.solvers import get_solver
from training.inference import proposals
from training.inference.draws import Draws
from training.inference.exact import ExactPosterior
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior
from training.inference.proposals import Proposal
from training.inference.samplers import annealing
from training.inference.sampling import Problem, SamplingPlan, sample_posteriors
from training.inference.summary import Summary
from training.inference.target import Target
from training.inference.weights import weighted_picks, z_order


def sampled(observed: Tensor, noise: float, deblurred: bool) -> tuple[Draws, ExactPosterior]:
    """Draws given the first two of three coordinates of bumps, and the exact posterior."""
    toy, flow = exact_flow("bumps3", gamma0=1e-4)
    likelihood = Gaussian(double(noise), torch.tensor([0, 1]))
    prior = Prior(flow, flow.times(24), get_solver("exp_ab2", 1e-6, 1e-6), deblurred)
    target = Target(prior, likelihood, observed, 256)
    draws = sample_posteriors(Problem(target, prior, [0]), SamplingPlan(pool=2**12))
    weights, means, covariance, _ = toy.mixture
    noisy = covariance + (0 if deblurred else 1e-4) * torch.eye(3).double()
    return draws, ExactPosterior.of(weights, means, noisy, likelihood, observed)


@pytest.mark.parametrize(
    ("noise", "deblurred"), [(1e-3, False), pytest.param(5e-3, True, marks=pytest.mark.slow)]
)
def test_narrow_posteriors_are_as_wide_as_they_should_be(noise: float, deblurred: bool) -> None:
    """The noise is a tenth of the first time's, or half: among latents that is a thin curved
    thread."""
    observed = Bumps(3).sample(1, seeded(4))[:, :2]
    draws, exact = sampled(observed, noise, deblurred)
    summary = Summary.of(draws, 2**12)
    assert draws.sampler == ["annealed"]
    assert summary.converged.all()
    assert ((summary.std / exact.std).log().abs() < 0.05).all()
    assert ((summary.mean - exact.mean).abs() < 0.1 * exact.std).all()


def test_where_steps_are_too_few_the_test_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two bumps, ten of their widths from each, the flow is not integrated well."""
    monkeypatch.setattr(annealing, "MOST_FINAL", 2)  # else it looks on for what it cannot find
    observed = Bumps(3).mixture.means[:2, :2].mean(dim=0, keepdim=True)
    draws, exact = sampled(observed, 5e-3, False)
    summary = Summary.of(draws, 2**12)
    assert ((summary.std / exact.std).log().abs() > 0.2).any()
    assert not summary.converged.any()


def test_clean_points_are_drawn_with_the_variables_behind_them() -> None:
    narrow, observed = Gaussian(double(0.1)), double([[0.3, 0.1]])
    which = problem(gaussian_prior(deblurred=True), narrow, observed)
    draws = drawn(which, "annealed")
    mean, covariance = posterior(which.coarse, narrow, observed)
    assert_moments(draws, mean, covariance.diagonal().sqrt().expand_as(mean))
    points = which.target.prior.points(draws.w.flatten(0, 2)).points
    torch.testing.assert_close(points, draws.points.flatten(0, 2))


def test_a_conditioned_mixture_is_mixture_times_likelihood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "LEAST_SHARE", 0.0)
    uniform = torch.rand(1, 3, generator=seeded()).double()
    law = Proposal.fit(normal(1, 200, 3), double([200.0]), uniform)
    operator, observed = normal(2, 3, seed=1), double([[0.5, -0.3]])
    noise = double([[[0.2, 0.05], [0.05, 0.1]]])
    rows = normal(1, 50, 3, seed=2)
    seen = torch.distributions.MultivariateNormal(rows @ operator.T, noise)
    apart = law.log_prob(rows) + seen.log_prob(observed)
    apart = apart - law.conditioned(operator, observed, noise).log_prob(rows)
    torch.testing.assert_close(apart, apart[:, :1].expand_as(apart))


def test_picks_along_a_curve_keep_moments_that_random_ones_lose() -> None:
    rows = normal(1, 4000, 2)
    equal, ranked = torch.zeros(1, 4000).double(), z_order(rows)
    assert ranked.sort().values.tolist() == [list(range(4000))]
    error = {}
    for name, order in (("curve", ranked), ("none", torch.arange(4000)[None])):
        picks = [weighted_picks(equal, torch.tensor([seed]), 200, order)[0] for seed in range(50)]
        means = torch.stack([rows[0, each].mean(dim=0) for each in picks])
        error[name] = float((means - rows[0].mean(dim=0)).square().mean().sqrt())
    assert error["curve"] < error["none"] / 3
