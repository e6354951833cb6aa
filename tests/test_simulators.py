"""The simulators of the benchmark of simulation-based inference, without the files it downloads."""

import numpy as np
import pytest
from scipy.stats import lognorm, multivariate_normal, norm

from benchmarks.sbibm import numbers_of
from benchmarks.simulators.c2st import c2st
from benchmarks.simulators.dynamics import LotkaVolterra, Sir
from benchmarks.simulators.gaussians import GaussianLinear, GaussianLinearUniform, GaussianMixture
from benchmarks.simulators.glm import BernoulliGlm, BernoulliGlmRaw, filter_precision
from benchmarks.simulators.moons import TwoMoons
from benchmarks.simulators.priors import LogNormal, Normal
from benchmarks.simulators.slcp import Distractors, Slcp, SlcpDistractors
from benchmarks.simulators.validation import reference_scores, simulator_scores
from dnnlib.errors import UsageError
from tests.support.running import refusal

DESIGN = np.random.default_rng(0).normal(size=(100, 10))
TASKS = [
    *(TwoMoons(), Slcp(), GaussianMixture(), GaussianLinear(), GaussianLinearUniform()),
    *(BernoulliGlm(DESIGN), BernoulliGlmRaw(DESIGN), Sir(), LotkaVolterra()),
]
FAR = 4.5
"""Standard errors: of a hundred right numbers, one is beyond in one of 1,500 runs."""


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_likelihoods_are_those_of_the_simulators(task):
    draw = np.random.default_rng(1)
    theta = np.repeat(task.prior.sample(1, draw), 2000, axis=0)
    data = task.simulate(theta, draw)
    assert data.shape == (2000, task.data_dim)
    assert np.abs(simulator_scores(task, theta, data)).max() < FAR
    # Data of other parameters are noticed.
    assert np.abs(simulator_scores(task, 1.1 * theta + 0.05, data)).max() > 2 * FAR


def test_scores_of_a_reference_see_place_and_width():
    task, seen = GaussianLinear(), np.linspace(-1, 1, 10)
    draw = np.random.default_rng(0)
    theta = seen / 2 + 0.05**0.5 * np.random.default_rng(2).normal(size=(5000, 10))
    assert np.abs(reference_scores(task, theta, seen, draw)).max() < FAR
    shifted = reference_scores(task, theta + 0.03, seen, draw)
    wider = reference_scores(task, seen / 2 + 1.1 * (theta - seen / 2), seen, draw)
    assert np.abs(shifted[:10]).min() > FAR
    assert np.abs(wider[10:]).min() > FAR
    # They allow for the edges of the prior.
    task, draw = GaussianLinearUniform(), np.random.default_rng(0)
    # Where the prior is 0 draws are taken again, in each dimension for itself.
    theta = seen + 0.1**0.5 * draw.normal(size=(5000, 10))
    while (beyond := np.abs(theta) > 1).any():
        theta = np.where(beyond, seen + 0.1**0.5 * draw.normal(size=theta.shape), theta)
    assert np.abs(reference_scores(task, theta, seen, draw)).max() < FAR


def test_two_moons_have_two_equal_crescents():
    task, seen = TwoMoons(), np.array([0.0, 0.0])
    draws = task.posterior(seen, 2000, np.random.default_rng(0))
    assert np.isfinite(task.log_posterior(draws, seen[None])).all()
    assert abs((draws.sum(axis=1) > 0).mean() - 0.5) < 0.05
    assert np.isneginf(task.log_posterior(np.array([[0.0, 0.0], [2.0, 0.0]]), seen[None])).all()


def test_priors_have_the_densities_of_their_draws():
    draw, precision = np.random.default_rng(0), filter_precision()
    normal, rates = Normal(precision), LogNormal([0.5, -1], [0.2, 2])
    theta = normal.sample(20_000, draw)
    exact = multivariate_normal(cov=np.linalg.inv(precision))
    np.testing.assert_allclose(normal.log_density(theta[:9]), exact.logpdf(theta[:9]))
    np.testing.assert_allclose(np.cov(theta.T) @ precision, np.eye(9), atol=0.15)
    some = rates.sample(9, draw)
    logs = lognorm([0.2, 2], scale=np.exp([0.5, -1])).logpdf(some).sum(axis=1)
    np.testing.assert_allclose(rates.log_density(some), logs)
    assert np.isneginf(rates.log_density(-some)).all()


def test_epidemics_and_populations_go_as_theory_says():
    task = LotkaVolterra()
    theta = task.prior.sample(20, np.random.default_rng(0))
    prey, predators = np.split(task.log_populations(theta), 2, axis=1)
    a, b, g, d = theta.T[:, :, None]
    orbit = d * np.exp(prey) - g * prey + b * np.exp(predators) - a * predators
    np.testing.assert_allclose(orbit, np.repeat(orbit[:, :1], 10, axis=1), rtol=1e-6)
    logs = Sir().log_infected(np.array([[0.3, 0.1], [0.8, 0.1]]))
    np.testing.assert_allclose(logs[0, :3] + np.log(1e6), 0.2 * 17 * np.arange(3), rtol=5e-3)
    # When nobody is left to be infected, people recover.
    np.testing.assert_allclose(np.diff(logs[1, -3:]), -0.1 * 17, rtol=1e-2)


def test_distractors_stand_between_the_data_of_slcp():
    draw = np.random.default_rng(0)
    roots = np.tril(draw.normal(size=(2, 92, 92)))
    weights, centres = np.array([0.3, 0.7]), draw.normal(size=(2, 92))
    distribution = Distractors(weights, np.full(2, 2.0), centres, roots, draw.permutation(100))
    task = SlcpDistractors(distribution)
    theta = task.prior.sample(50, draw)
    data = task.simulate(theta, np.random.default_rng(3))
    text = Slcp().simulate(theta, np.random.default_rng(3))
    got = task.log_likelihood(theta, data)
    np.testing.assert_allclose(got, Slcp().log_likelihood(theta, text))


def test_a_classifier_is_right_as_often_as_the_best_one():
    reference, same = np.random.default_rng(0).normal(size=(2, 1000, 2))
    curved = same * [1, 0.5] + np.stack([np.zeros(1000), same[:, 0] ** 2 / 2], axis=1)
    x, y = np.concatenate([reference, curved]).T
    likelier = norm.logpdf(y, x**2 / 2, 0.5) > norm.logpdf(y)
    best = (likelier == (np.arange(2000) >= 1000)).mean()
    others = np.concatenate([same + np.array([[[0, 0]], [[1, 0]], [[6, 0]]]), curved[None]])
    got = c2st(np.stack([reference] * 4), others)
    # The best classifier of two Gaussians at a distance of 1 is right Phi(1/2) of the time.
    assert np.abs(np.array(got) - [0.5, norm.cdf(0.5), norm.cdf(3), best]).max() < 0.04


def test_observations_are_numbers_and_ranges():
    assert numbers_of("1-3,7") == [1, 2, 3, 7]
    for text in ("0", "3-1", "11", "a", "1,"):
        assert "--observations" in refusal(numbers_of, text, kind=UsageError)
