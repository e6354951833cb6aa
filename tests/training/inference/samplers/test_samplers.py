"""All samplers: posteriors that are known, refined pools, draws that depend on seeds alone."""

from unittest import mock

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
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
from tests.support.refusals import refusal
from tests.support.running import slowly
from training.inference import sampling
from training.inference.likelihoods import Gaussian
from training.inference.proposals import Proposal
from training.inference.samplers import annealing, refining
from training.inference.sampling import Problem

SEEN = double([[0.3, 0.1], [-0.5, 0.2]])
NARROW = Gaussian(double(0.03))


@pytest.mark.parametrize(("deblurred", "noise"), [(False, 0.03), (True, 0.1)])
def test_a_narrow_posterior_is_worth_more_at_a_cost_that_is_told(
    deblurred: bool, noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "DEFENDED", 0)  # else it would be tested, at a cost of its own
    narrow = Gaussian(double(noise))
    which = problem(gaussian_prior(deblurred=deblurred), narrow, SEEN)
    pool, refined = (drawn(which, sampler, draws=500) for sampler in ("pool", "refined"))
    worth = refined.stats["effective_size"]
    assert worth.min() > 1000
    assert (worth > 5 * pool.stats["effective_size"]).all()
    assert refined.stats["pareto_k"].max() < 0.7
    mean, covariance = posterior(which.coarse, narrow, SEEN)
    assert_moments(refined, mean, covariance.diagonal().sqrt().expand_as(mean))
    points = affine(which.coarse)[0] + refined.w @ affine(which.coarse)[1].T
    torch.testing.assert_close(refined.points, points)
    seen = SEEN[:, None, None].expand_as(points).flatten(0, 2)
    expected = narrow.log_prob(points.flatten(0, 2), seen)
    torch.testing.assert_close(refined.log_likelihood.flatten(), expected)
    calls_of_a_point = float(pool.calls[0]) * len(SEEN) / 4096
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
    which = problem(gaussian_prior(), NARROW, SEEN)
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
    found = torch.cat(sums)[: len(SEEN)]
    mean, root = affine(which.coarse)
    covariance = root @ root.T + 0.03**2 * torch.eye(2).double()
    law = torch.distributions.MultivariateNormal(mean, covariance)
    torch.testing.assert_close(found, law.log_prob(SEEN), rtol=0, atol=0.05)


# Laws that are fitted.


def test_a_fit_finds_the_components() -> None:
    centers, count = double([[-2.0, 0.0], [2.0, 1.0]]), 2000
    draws = centers.repeat_interleave(count // 2, dim=0) + 0.3 * normal(count, 2)
    uniform = torch.rand(1, 2, generator=seeded()).double()
    found = Proposal.fit(draws[None], double([float(count)]), uniform)
    order = found.mean[0, :, 0].argsort()
    torch.testing.assert_close(found.mean[0, order], centers, rtol=0, atol=0.05)
    torch.testing.assert_close(found.shares, double([[0.5, 0.5]]), rtol=0, atol=0.01)
    torch.testing.assert_close(found.root[0, 0].diagonal().mean(), double(0.345), rtol=0.05, atol=0)
    # Draws that are worth nothing leave what the prior on covariances says.
    wide = Proposal.fit(draws[None], double([1e-9]), uniform)
    one, other = (plan.root.diagonal(dim1=2, dim2=3)[..., 0] for plan in (wide, found))
    assert (one > 2 * other).all()


def test_densities_and_draws_are_those_of_a_mixture() -> None:
    generator = seeded(1)
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


SAMPLERS = ["pool", "refined", "annealed", "elliptical", "pcn", "hmc", "smc"]
GAUSSIAN = [*SAMPLERS, "twisted"]
# Many chains cost what few do.
LONG = {
    "pcn": {"chains": 64, "draws": 150, "warmup": 100},
    "elliptical": {"chains": 32, "draws": 40, "warmup": 20},
    "hmc": {"chains": 32, "draws": 12, "warmup": 12},
}
of_gaussians = pytest.mark.parametrize("sampler", GAUSSIAN)
every_sampler = pytest.mark.parametrize("sampler", SAMPLERS)
OBSERVED = double([[0.3], [-1.0]])


def seen_obliquely() -> Problem:
    """A Gaussian posterior in which the two coordinates are correlated."""
    likelihood = Gaussian(double(0.4), operator=double([[1.0, 0.7]]))
    return problem(gaussian_prior(), likelihood, OBSERVED)


# Chains find those of coarse flows, and bananas.
@pytest.mark.parametrize("sampler", ["pool", "refined", "annealed", "smc", "twisted"])
def test_a_gaussian_posterior(sampler: str) -> None:
    which = seen_obliquely()
    likelihood = which.target.likelihood
    mean, covariance = posterior(which.coarse, likelihood, OBSERVED)
    std = covariance.diagonal().sqrt().expand_as(mean)
    assert_moments(drawn(which, sampler, **LONG.get(sampler, {})), mean, std)


@pytest.mark.parametrize("sampler", slowly(SAMPLERS, "elliptical", "hmc", "pcn"))
def test_a_banana(sampler: str) -> None:
    which = problem(gaussian_prior(), Parabola(), OBSERVED)
    exact = by_quadrature(which.coarse, which.target.likelihood, OBSERVED)
    assert_moments(drawn(which, sampler, **LONG.get(sampler, {})), *exact)


@pytest.mark.parametrize("sampler", ["pool", "refined", "annealed", "smc"])
def test_two_modes(sampler: str) -> None:
    which = problem(gaussian_prior(), Parabola(slope=0), double([[1.5], [2.0]]))
    exact = by_quadrature(which.coarse, which.target.likelihood, which.target.observed)
    draws = drawn(which, sampler, pool=16384)
    assert_moments(draws, *exact)
    first = draws.points[:, :, :, 0]
    assert first.abs().min() > 0.3, "these are two modes"
    assert ((first > 0).double().mean(dim=(1, 2)) > 0.01).all()
    assert ((first < 0).double().mean(dim=(1, 2)) > 0.01).all()


@pytest.mark.parametrize("sampler", slowly(["elliptical", "hmc", "smc"], "elliptical"))
def test_chains_of_a_coarse_flow_are_corrected(sampler: str) -> None:
    likelihood = Gaussian(double(0.5))
    observed = double([[0.3, 0.1], [-1.0, 0.4]])
    fine, coarse = gaussian_prior(), gaussian_prior(error=0.03)
    assert (affine(fine)[1] - affine(coarse)[1]).abs().max() > 0.03
    draws = drawn(problem(fine, likelihood, observed, coarse), sampler, **LONG.get(sampler, {}))
    mean, covariance = posterior(fine, likelihood, observed)
    assert_moments(draws, mean, covariance.diagonal().sqrt().expand_as(mean))
    # At points of the fine flow.
    expected = fine.points(draws.w.flatten(0, 2)).points.view_as(draws.points)
    torch.testing.assert_close(draws.points, expected)


@of_gaussians
def test_draws_are_of_seed_and_number_alone(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annealing, "MOST_ROUNDS", 3)
    monkeypatch.setattr(annealing, "MOST_FINAL", 2)
    observed = double([[0.3], [-1.0], [2.0]])
    likelihood = seen_obliquely().target.likelihood if sampler == "twisted" else Parabola()
    which = problem(gaussian_prior(), likelihood, observed)
    few = {"draws": 4, "warmup": 4, "particles": 16, "pool": 256}
    draws = drawn(which, sampler, **few)
    torch.testing.assert_close(drawn(which, sampler, **few).w, draws.w, rtol=0, atol=0)
    places = [2, 0]
    of_some = drawn(which.of(torch.tensor(places)), sampler, **few)
    for name in ("w", "points", "log_likelihood"):
        assert torch.equal(getattr(of_some, name), getattr(draws, name)[places]), name
    for name, values in of_some.stats.items():
        assert torch.equal(values, draws.stats[name][places]), name
    assert not torch.equal(drawn(which, sampler, seed=1, **few).w, draws.w)


class Half(Parabola):
    """No likelihood where ``x_1`` is below a level."""

    def __init__(self, level: float):
        super().__init__()
        self._level = level

    def log_prob(self, points: Tensor, observed: Tensor) -> Tensor:
        # Its gradient is 0 where the likelihood is.
        inside = points[:, 0] > self._level
        return torch.where(inside, 0 * points[:, 0], -torch.inf)


@pytest.mark.parametrize("sampler", slowly(SAMPLERS, "hmc"))
def test_points_without_likelihood_are_never_drawn(sampler: str) -> None:
    prior = gaussian_prior()
    mean, root = affine(prior)
    level = float(mean[0] + 1.2 * root[0].norm())  # 11.5 % of the prior
    half = problem(prior, Half(level), torch.zeros(1, 0).double())
    draws = drawn(half, sampler, draws=50, warmup=5)
    assert draws.points[..., 0].min() > level
    assert draws.w.isfinite().all()


@every_sampler
def test_no_likelihood_anywhere_is_told(sampler: str) -> None:
    which = problem(gaussian_prior(), Half(1e9), torch.zeros(1, 0).double())
    assert "the likelihood is 0 at all of" in refusal(drawn, which, sampler, draws=20)


@pytest.mark.parametrize("sampler", slowly(GAUSSIAN, "annealed", "smc"))
def test_observations_far_off_are_found(sampler: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annealing, "MOST_FINAL", 2)
    likelihood = Gaussian(double(1e-3))
    observed = double([[4000.0, 0.0]])
    which = problem(gaussian_prior(), likelihood, observed)
    draws = drawn(which, sampler, draws=10, warmup=10, particles=32, pool=512)
    assert draws.points.isfinite().all()


def test_a_sampler_that_does_not_exist_is_told() -> None:
    assert "gibbs" in refusal(drawn, seen_obliquely(), "gibbs", kind=UsageError)
