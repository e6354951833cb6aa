"""All samplers: posteriors that are known, and draws that depend on nothing but their seed."""

import pytest
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double
from tests.support.posteriors import (
    Parabola,
    affine,
    assert_moments,
    by_quadrature,
    drawn,
    gaussian_prior,
    posterior,
    problem,
)
from tests.support.running import slowly
from training.inference.likelihoods import Gaussian
from training.inference.samplers import annealing
from training.inference.sampling import Problem

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
    assert isinstance(likelihood, Gaussian)
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
def test_draws_are_functions_of_seed_and_number_alone(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
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
    draws = drawn(
        problem(prior, Half(level), torch.zeros(1, 0).double()), sampler, draws=50, warmup=5
    )
    assert draws.points[..., 0].min() > level
    assert draws.w.isfinite().all()


@every_sampler
def test_no_likelihood_anywhere_is_told(sampler: str) -> None:
    which = problem(gaussian_prior(), Half(1e9), torch.zeros(1, 0).double())
    with pytest.raises(DataError, match="the likelihood is 0 at all of"):
        drawn(which, sampler, draws=20)


@pytest.mark.parametrize("sampler", slowly(GAUSSIAN, "annealed", "smc"))
def test_observations_far_off_end_and_are_found(
    sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(annealing, "MOST_FINAL", 2)
    likelihood = Gaussian(double(1e-3))
    observed = double([[4000.0, 0.0]])
    which = problem(gaussian_prior(), likelihood, observed)
    draws = drawn(which, sampler, draws=10, warmup=10, particles=32, pool=512)
    assert draws.points.isfinite().all()


def test_a_sampler_that_does_not_exist_is_told() -> None:
    with pytest.raises(UsageError, match="gibbs"):
        drawn(seen_obliquely(), "gibbs")
