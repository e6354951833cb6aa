"""Densities of posteriors as PyTorch functions: gradients, maxima, marginals, conditionals."""

import numpy as np
import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.running import quick_endings, refusal
from training import FlowDistribution, Simulations, Table

SEEN = torch.tensor([[0.7, 0.2]], dtype=torch.float64)
CELL = 0.02
GRID = torch.arange(-1 + CELL / 2, 1, CELL, dtype=torch.float64)


def trained(bounded, whole=False):
    draw = np.random.default_rng(1)
    theta = draw.uniform(-1, 1, size=(1500, 2))
    if whole:
        theta[:, 1] = np.rint(5 * theta[:, 1])
    data = theta @ [[1, 0.5], [0, 1]] + 0.4 * draw.normal(size=theta.shape)
    bounds = None if whole else {"theta1": (-1, 1), "theta2": (-1, 1)}
    simulations = Simulations(theta, data, bounds=bounds)
    with quick_endings():
        return simulations.train(duration=0.02, width=32, seed=3, bounded=bounded)


@pytest.fixture(scope="module")
def posterior():
    return trained("reject").posterior()


@pytest.fixture(scope="module")
def mapped():
    return trained("map").posterior()


def slope(function, x, direction, h=2e-2):
    """Return the directional derivative of a function by differences of fourth order."""
    near, far = (
        (function(x + k * h * direction) - function(x - k * h * direction)) for k in (1, 2)
    )
    return (8 * near - far) / (12 * h)


@pytest.mark.parametrize("bounded", ["posterior", "mapped"])
def test_gradients_are_those_of_finite_differences(bounded, request):
    posterior = request.getfixturevalue(bounded)
    drawn = torch.from_numpy(posterior.sample(SEEN, draws=6).points[0]) * 0.9
    leaf, seen = drawn.clone().requires_grad_(), SEEN.clone().requires_grad_()
    density = posterior.density(seen).log_prob(leaf)
    expected = posterior.log_prob(drawn.numpy(), SEEN.numpy())
    np.testing.assert_allclose(density.detach(), expected, atol=1e-5)
    of_points, of_seen = torch.autograd.grad(density.sum(), (leaf, seen))
    assert of_points.abs().max() > 1
    for axis in torch.eye(2, dtype=torch.float64):
        own = posterior.density(SEEN)
        found = slope(own.log_prob, drawn, axis, 5e-3)
        np.testing.assert_allclose(
            of_points @ axis, found, atol=2e-3 * float(of_points.abs().max())
        )
        moved = slope(lambda y: posterior.density(y).log_prob(drawn), SEEN, axis[None])
        np.testing.assert_allclose(of_seen[0] @ axis, moved.sum(), atol=0.02 * 6)


@pytest.mark.slow
def test_a_maximum_is_above_all_draws_and_has_no_slope(posterior):
    density = posterior.density(torch.cat([SEEN, -2 * SEEN]))
    best = density.map()
    drawn = torch.from_numpy(posterior.sample(density.observed, draws=500).points)
    assert (density.log_prob(best) >= density.log_prob(drawn).amax(dim=1)).all()
    leaf = best.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(density.log_prob(leaf).sum(), leaf)
    inside = best[0].abs() < 0.99
    assert (gradient[0] * drawn[0].std(dim=0))[inside].abs().max() < 0.03


def test_marginals_and_conditionals_are_those_of_a_grid(posterior):
    density = posterior.density(SEEN)
    pairs = torch.stack(torch.meshgrid(GRID, GRID, indexing="ij"), dim=-1)
    joint = density.log_prob(pairs).exp()
    assert float(joint.sum()) * CELL**2 == pytest.approx(1, abs=0.01)
    own = density.marginal(["theta2"]).log_prob_with_error(GRID[:, None])
    np.testing.assert_allclose(own.log_prob.exp(), joint.sum(dim=0) * CELL, atol=0.02)
    off = (own.log_prob - (joint.sum(dim=0) * CELL).log()).abs()
    assert (off < 4 * own.error + 0.01).all()
    given = density.conditional({"theta2": float(GRID[60])})
    assert given.names == ["theta1"]
    expected = joint[:, 60] / joint[:, 60].sum() / CELL
    np.testing.assert_allclose(given.log_prob(GRID[:, None]).exp(), expected, atol=0.04)
    drawn, mean = given.sample(2000)[0, :, 0], (expected * GRID).sum() * CELL
    std = ((expected * (GRID - mean) ** 2).sum() * CELL).sqrt()
    assert abs(drawn.mean() - mean) < 0.1 * std
    assert float(drawn.std() / std) == pytest.approx(1, abs=0.1)
    assert density.marginal(["theta1"]).log_prob(torch.tensor([[1.5]])).isneginf()


def test_draws_with_gradients_are_those_of_the_sampler(mapped):
    seen = SEEN.clone().requires_grad_()
    drawn = mapped.density(seen).rsample(5, seed=2)
    np.testing.assert_allclose(
        drawn.detach(), mapped.sample(SEEN, draws=5, seed=2).points, atol=1e-5
    )
    (gradient,) = torch.autograd.grad(drawn[0, 0, 0], seen)
    moved = slope(lambda y: mapped.density(y).rsample(5, seed=2)[0, 0, 0], SEEN, SEEN)
    assert float((gradient * SEEN).sum()) == pytest.approx(float(moved), abs=1e-3)


def test_what_has_no_gradient_or_no_density_is_refused(posterior):
    density = posterior.density(SEEN)
    assert "[..., 2]" in refusal(density.log_prob, SEEN[:, :1], kind=DataError)
    assert "theta3" in refusal(density.marginal, ["theta3"], kind=UsageError)
    assert "not all" in refusal(density.marginal, ["theta1", "theta2"], kind=UsageError)
    assert "beyond its bounds" in refusal(density.conditional, {"theta1": 2.0}, kind=DataError)
    assert "[M, 2]" in refusal(posterior.density, torch.zeros(3, 3), kind=DataError)
    weighted = posterior.model.posterior(correct="f.py:f")
    assert "bounded='map'" in refusal(density.rsample, 3, kind=UsageError)
    assert "latent_density" in refusal(weighted.density, SEEN, kind=UsageError)
    whole = trained("reject", whole=True).posterior().density(SEEN)
    assert whole.log_prob(torch.tensor([[0.5, 1.0]])).isfinite().all()
    leaf = torch.tensor([[0.5, 1.0]], requires_grad=True)
    assert "discrete" in refusal(whole.log_prob, leaf, kind=UsageError)
    assert "discrete" in refusal(whole.rsample, 3, kind=UsageError)


def test_distributions_of_pytorch_have_gradients():
    rows = np.random.default_rng(0).normal(size=(300, 2)) @ [[1, 1], [0, 0.5]]
    with quick_endings():
        model = Table.open(rows).train(duration=0.002, width=16, seed=1)
    distribution = FlowDistribution(model.flow)
    leaf = distribution.sample([4]).requires_grad_()
    (gradient,) = torch.autograd.grad(distribution.log_prob(leaf).sum(), leaf)
    found = slope(distribution.log_prob, leaf.detach(), torch.tensor([1.0, 0.0]).double())
    np.testing.assert_allclose(gradient[:, 0], found, atol=1e-3)
