"""The simulators of the benchmark of simulation-based inference, without the files it downloads."""

import numpy as np
import pytest
import torch
from scipy.stats import binom, multivariate_normal, norm

from benchmarks.sbibm_tasks import (
    Distractors,
    bernoulli_glm,
    gaussian_linear,
    gaussian_linear_uniform,
    gaussian_mixture,
    log_infected,
    log_populations,
    lotka_volterra,
    sir,
    slcp,
    slcp_distractors,
    two_moons,
)
from benchmarks.two_sample import c2st

DESIGN = np.random.default_rng(0).normal(size=(100, 10))
TASKS = {
    "two_moons": two_moons(),
    "slcp": slcp(),
    "gaussian_mixture": gaussian_mixture(),
    "gaussian_linear": gaussian_linear(),
    "gaussian_linear_uniform": gaussian_linear_uniform(),
    "bernoulli_glm": bernoulli_glm(design=DESIGN),
    "bernoulli_glm_raw": bernoulli_glm(raw=True, design=DESIGN),
    "sir": sir(),
    "lotka_volterra": lotka_volterra(),
}
FAR = 4.5
"""Standard errors: of a hundred right numbers, one is beyond in one of 1,500 runs."""


def of_two_moons(theta, data):
    """Moments of the radius and the angle, which have mean 0."""
    first, second = theta.T
    x, y = (data - np.stack([-np.abs(first + second), second - first], axis=1) / np.sqrt(2)).T
    radius, angle = (np.hypot(x - 0.25, y) - 0.1) / 0.01, np.arctan2(y, x - 0.25)
    return np.stack([radius, radius**2 - 1, angle, angle**2 - np.pi**2 / 12], axis=1)


def of_slcp(theta, data):
    (a, b), spreads, corr = theta[:, :2].T, theta[:, 2:4] ** 2, np.tanh(theta[:, 4])
    one, other = (data.reshape(-1, 4, 2) - np.stack([a, b], axis=1)[:, None]).transpose(2, 0, 1)
    one, other = one / spreads[:, :1], other / spreads[:, 1:]
    rest, corr = 1 - corr**2, corr[:, None]
    square = (one**2 - 2 * corr * one * other + other**2).sum(axis=1) / rest
    return -square / 2 - 4 * (np.log(spreads).sum(axis=1) + np.log(rest) / 2)


def of_gaussian(theta, data):
    return norm.logpdf(data, theta, 0.1**0.5).sum(axis=1)


def of_mixture(theta, data):
    wide, narrow = (norm.logpdf(data, theta, std).sum(axis=1) for std in (1.0, 0.1))
    return np.logaddexp(wide, narrow)


def of_glm(theta, data):
    return (data * theta).sum(axis=1) - np.logaddexp(0, theta @ DESIGN.T).sum(axis=1)


def of_epidemic(theta, data):
    return binom.logpmf(data, 1000, np.exp(log_infected(theta))).sum(axis=1)


def of_populations(theta, data):
    return norm.logpdf(np.log(data), log_populations(theta), 0.1).sum(axis=1)


LIKELIHOODS = {
    "slcp": of_slcp,
    "gaussian_mixture": of_mixture,
    "gaussian_linear": of_gaussian,
    "gaussian_linear_uniform": of_gaussian,
    "bernoulli_glm": of_glm,
    "bernoulli_glm_raw": lambda theta, data: of_glm(theta, data @ DESIGN),
    "sir": of_epidemic,
    "lotka_volterra": of_populations,
}


def scores(name, theta, data):
    """Standard normal numbers, if data ``[N, C]`` are simulated with one theta, ``[N, D]``.

    They are means of the derivatives of the log likelihood, in standard errors.
    """
    if name == "two_moons":
        values = of_two_moons(theta, data)
    else:
        columns = []
        for step in np.diag(1e-4 * (np.abs(theta[0]) + 0.1)):
            # Side by side, so that differential equations are solved by the same steps.
            sides = np.stack([theta + step, theta - step], axis=1).reshape(-1, theta.shape[1])
            ahead, behind = LIKELIHOODS[name](sides, np.repeat(data, 2, axis=0)).reshape(-1, 2).T
            columns.append((ahead - behind) / (2 * step.max()))
        values = np.stack(columns, axis=1)
    return values.mean(axis=0) / (values.std(axis=0) / np.sqrt(len(values)))


@pytest.mark.parametrize("name", TASKS)
def test_likelihoods_are_those_of_the_simulators(name):
    task, draw = TASKS[name], np.random.default_rng(2)
    theta = np.repeat(task.sample_prior(1, draw), 2000, axis=0)
    data = task.simulate(theta, draw)
    assert np.abs(scores(name, theta, data)).max() < FAR
    # Data of other parameters are noticed.
    assert np.abs(scores(name, 1.1 * theta + 0.05, data)).max() > 2 * FAR


def test_the_prior_of_the_linear_model_makes_filters_smooth():
    theta = TASKS["bernoulli_glm"].sample_prior(20_000, np.random.default_rng(0))
    root = np.diag(1 + np.sqrt(np.arange(9) / 9))
    root += np.diag(np.full(8, -2.0), -1) + np.diag(np.ones(7), -2)
    np.testing.assert_allclose(np.cov(theta[:, 1:].T) @ root.T @ root, np.eye(9), atol=0.15)
    np.testing.assert_allclose(theta[:, 0].var(), 2, rtol=0.05)
    exact = multivariate_normal(cov=np.linalg.inv(root.T @ root)).logpdf(theta[:9, 1:])
    density = TASKS["bernoulli_glm"].prior.log_prob(torch.from_numpy(theta[:9]).float())
    exact = exact + norm.logpdf(theta[:9, 0], scale=2**0.5)
    np.testing.assert_allclose(density, exact, rtol=1e-4)


def test_epidemics_and_populations_go_as_theory_says():
    draw = np.random.default_rng(0)
    theta = np.exp(np.array([-0.125, -3, -0.125, -3]) + 0.5 * draw.normal(size=(20, 4)))
    prey, predators = np.split(log_populations(theta), 2, axis=1)
    a, b, g, d = theta.T[:, :, None]
    orbit = d * np.exp(prey) - g * prey + b * np.exp(predators) - a * predators
    np.testing.assert_allclose(orbit, np.repeat(orbit[:, :1], 10, axis=1), rtol=1e-6)
    logs = log_infected(np.array([[0.3, 0.1], [0.8, 0.1]]))
    np.testing.assert_allclose(logs[0, :3] + np.log(1e6), 0.2 * 17 * np.arange(3), rtol=5e-3)
    # When nobody is left to be infected, people recover.
    np.testing.assert_allclose(np.diff(logs[1, -3:]), -0.1 * 17, rtol=1e-2)


def test_distractors_stand_between_the_data_of_slcp():
    draw = np.random.default_rng(0)
    roots = np.tril(draw.normal(size=(2, 92, 92)))
    weights, centers, order = np.array([0.3, 0.7]), draw.normal(size=(2, 92)), draw.permutation(100)
    task = slcp_distractors(Distractors(weights, np.full(2, 2.0), centers, roots, order))
    theta = task.sample_prior(50, draw)
    data = task.simulate(theta, np.random.default_rng(3))
    alone = TASKS["slcp"].simulate(theta, np.random.default_rng(3))
    np.testing.assert_array_equal(data[:, np.argsort(order)][:, :8], alone)


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
