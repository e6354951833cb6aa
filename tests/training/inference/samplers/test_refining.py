"""Refined pools: what they are worth, what they cost, and that they are right if fits are not."""

from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.support.draws import double, normal
from tests.support.posteriors import (
    STEPS,
    Parabola,
    affine,
    assert_moments,
    by_quadrature,
    drawn,
    gaussian_prior,
    posterior,
    problem,
)
from training.inference import sampling
from training.inference.likelihoods import Gaussian
from training.inference.proposals import Proposal
from training.inference.samplers import refining

OBSERVED = double([[0.3, 0.1], [-0.5, 0.2]])
NARROW = Gaussian(double(0.03))


@pytest.mark.parametrize(("deblurred", "noise"), [(False, 0.03), (True, 0.1)])
def test_a_narrow_posterior_is_worth_more_at_a_cost_that_is_told(
    deblurred: bool, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "DEFENDED", 0)  # else it would be tested, at a cost of its own
    narrow = Gaussian(double(noise))
    which = problem(gaussian_prior(deblurred=deblurred), narrow, OBSERVED)
    pool, refined = (drawn(which, sampler, draws=500) for sampler in ("pool", "refined"))
    worth = refined.stats["effective_size"]
    assert worth.min() > 1000
    assert (worth > 5 * pool.stats["effective_size"]).all()
    assert refined.stats["pareto_k"].max() < 0.7
    mean, covariance = posterior(which.coarse, narrow, OBSERVED)
    assert_moments(refined, mean, covariance.diagonal().sqrt().expand_as(mean))
    points = affine(which.coarse)[0] + refined.w @ affine(which.coarse)[1].T
    torch.testing.assert_close(refined.points, points)
    seen = OBSERVED[:, None, None].expand_as(points).flatten(0, 2)
    expected = narrow.log_prob(points.flatten(0, 2), seen)
    torch.testing.assert_close(refined.log_likelihood.flatten(), expected)
    calls_of_a_point = float(pool.calls[0]) * len(OBSERVED) / 4096
    assert calls_of_a_point >= STEPS
    added = sum(refining.DRAWN) * calls_of_a_point
    torch.testing.assert_close(refined.calls, pool.calls + added)


def wrong(draws: Tensor, worth: Tensor, uniform: Tensor) -> Proposal:
    """Narrow, and beside the posterior."""
    count, (size, dim) = uniform.shape[1], draws.shape[::2]
    mean = torch.linspace(-2, 2, count, dtype=torch.float64)[:, None].expand(size, count, dim)
    root = 0.2 * torch.eye(dim, dtype=torch.float64).expand(size, count, dim, dim)
    return Proposal(torch.full_like(uniform, 1 / count), mean, root)


def test_the_pool_defends_against_wrong_fits() -> None:
    which = problem(gaussian_prior(), Parabola(), double([[0.3], [-1.0]]))
    exact = by_quadrature(which.coarse, which.target.likelihood, which.target.observed)
    with mock.patch.object(Proposal, "fit", wrong):
        assert_moments(drawn(which, "refined"), *exact)


@pytest.mark.parametrize("heaviest", [64, 2**13])
def test_weights_sum_to_the_evidence(heaviest: int) -> None:
    """Wherever the few draws end at which densities are taken."""
    which = problem(gaussian_prior(), NARROW, OBSERVED)
    sums: list[Tensor] = []
    kept = refining.smoothed_weights

    def watched(log_weights: Tensor) -> object:
        sums.append(log_weights.logsumexp(dim=1))
        return kept(log_weights)

    with (
        mock.patch.object(refining, "HEAVIEST", heaviest),
        mock.patch.object(refining, "smoothed_weights", watched),
    ):
        drawn(which, "refined", pool=2**13)
    found = torch.cat(sums)[: len(OBSERVED)]
    mean, root = affine(which.coarse)
    covariance = root @ root.T + 0.03**2 * torch.eye(2).double()
    law = torch.distributions.MultivariateNormal(mean, covariance)
    torch.testing.assert_close(found, law.log_prob(OBSERVED), rtol=0, atol=0.05)


# Laws that are fitted.


def test_a_fit_finds_the_components() -> None:
    centers, count = double([[-2.0, 0.0], [2.0, 1.0]]), 2000
    draws = centers.repeat_interleave(count // 2, dim=0) + 0.3 * normal(count, 2)
    uniform = torch.rand(1, 2, generator=torch.Generator().manual_seed(0)).double()
    found = Proposal.fit(draws[None], double([float(count)]), uniform)
    order = found.mean[0, :, 0].argsort()
    torch.testing.assert_close(found.mean[0, order], centers, rtol=0, atol=0.05)
    torch.testing.assert_close(found.shares, double([[0.5, 0.5]]), rtol=0, atol=0.01)
    torch.testing.assert_close(found.root[0, 0].diagonal().mean(), double(0.345), rtol=0.05, atol=0)
    # Draws that are worth nothing leave what the prior on covariances says.
    wide = Proposal.fit(draws[None], double([1e-9]), uniform)
    assert (wide.root.diagonal(dim1=2, dim2=3) > 2 * found.root.diagonal(dim1=2, dim2=3))[
        ..., 0
    ].all()


def test_densities_and_draws_are_those_of_a_mixture() -> None:
    generator = torch.Generator().manual_seed(1)
    uniform = torch.rand(2, 3, generator=generator).double()
    law = Proposal.fit(normal(2, 200, 2), double([200.0, 20.0]), uniform)
    w = law.draw(torch.rand(2, 20000, 3, generator=generator).double())
    for index in range(2):
        parts = torch.distributions.MultivariateNormal(law.mean[index], scale_tril=law.root[index])
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(law.shares[index]), parts
        )
        torch.testing.assert_close(law.log_prob(w)[index], mixture.log_prob(w[index]))
        error = (mixture.variance / len(w[index])).sqrt()
        assert ((w[index].mean(dim=0) - mixture.mean).abs() < 4.5 * error).all()
        torch.testing.assert_close(w[index].var(dim=0), mixture.variance, rtol=0.05, atol=0)
