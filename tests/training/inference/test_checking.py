"""Checks of posteriors: they pass where prior, noise and sampler are right, and can fail."""

import pytest
import torch

from tests.support.draws import double
from tests.support.posteriors import ROWS, gaussian_prior
from training.inference.checking import (
    LIKELIHOOD,
    check_runs,
    simulated,
    truths_of_data,
    truths_of_prior,
)
from training.inference.likelihoods import Gaussian
from training.inference.prior import Prior
from training.inference.samplers.pool import Pool
from training.inference.sampling import Problem, SamplingPlan
from training.inference.target import Target
from training.measure.posterior.calibration import CalibrationCheck, RunValues, calibrate

RUNS = 1000
PLAN = SamplingPlan("pool", draws=100, pool=4096, seed=1)
EMPTY = torch.zeros(1, 2).double()


def values(prior: Prior, told: float, numbers: list[int]) -> RunValues:
    """Runs with a noise of 0.5, where the posterior assumes another."""
    target = Target(prior, Gaussian(double(0.5)), EMPTY, ROWS)
    truths = truths_of_prior(target, numbers, PLAN.seed)
    observed = simulated(target.likelihood, truths.points, numbers, PLAN.seed)
    sampled = Target(prior, Gaussian(double(told)), observed, ROWS)
    return check_runs(
        Problem(sampled, prior, numbers), PLAN, truths, ["x1", "x2"], Pool.draw(sampled, 4096, 1)
    )[0]


@pytest.fixture(scope="module", params=[False, True], ids=["blurred", "deblurred"])
def prior(request: pytest.FixtureRequest) -> Prior:
    return gaussian_prior(deblurred=request.param)


def found(prior: Prior, told: float) -> CalibrationCheck:
    return calibrate(values(prior, told, list(range(RUNS))))


def test_the_right_model_passes(prior: Prior) -> None:
    assert min(found(prior, 0.5).adjusted.values()) > 0.01


def test_the_likelihood_finds_a_noise_misstated_by_a_fifth(prior: Prior) -> None:
    adjusted = found(prior, 0.4).adjusted
    assert adjusted[f"ranks of {LIKELIHOOD}"] < 0.01


def test_truths_and_observations_are_functions_of_seed_and_number() -> None:
    target = Target(gaussian_prior(), Gaussian(double(0.5)), EMPTY, ROWS)
    whole = truths_of_prior(target, range(5), 1)
    part = truths_of_prior(target, [3, 1], 1)
    assert torch.equal(part.points, whole.points[[3, 1]])
    seen = simulated(target.likelihood, whole.points, list(range(5)), 1)
    assert torch.equal(simulated(target.likelihood, part.points, [3, 1], 1), seen[[3, 1]])
    torch.testing.assert_close((seen - whole.points).std(), double(0.5), rtol=0.6, atol=0)


def test_truths_of_data_have_variables_of_the_prior() -> None:
    """Standard normal ones, if the data are as the prior has them."""
    prior, count = gaussian_prior(unit=0.5, origin=10.0), 2000
    target = Target(prior, Gaussian(double(0.5)), EMPTY, ROWS)
    mean, covariance = prior.moments()
    noise = torch.randn(count, 2, generator=torch.Generator().manual_seed(0)).double()
    points = mean + noise @ torch.linalg.cholesky(covariance).T
    truths = truths_of_data(target, points, range(count), 1)
    assert torch.equal(truths.points, points)
    assert truths.w is not None
    assert (truths.w.mean(dim=0).abs() < 4.5 / count**0.5).all()
    assert ((truths.w.T.cov() - torch.eye(2)).abs() < 4.5 * (2 / count) ** 0.5).all()
    # The noise is that of the first time: without it variables would be those of the points.
    gap = prior.points(truths.w).points - points
    expected = prior.flow.schedule.noise_variance(prior.times[0]).mean() / 0.25
    torch.testing.assert_close(gap.square().mean(), expected, rtol=0.15, atol=0)
