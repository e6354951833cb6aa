"""The perceptron of points: its features of inputs and of conditions."""

from math import prod

import pytest
import torch

from tests.support.draws import double, seeded
from tests.support.flows import exact_flow
from training.flow.denoisers import NetworkDenoiser, noise_condition
from training.learning.loss import DenoisingLoss, DenoisingRegression
from training.names import ANY_NUMBER
from training.networks.mlp import FEATURES, ConditionEmbedding, ToyMLP

THICKNESS = 1  # of the swirl in eigenspace: variances are 1.09, 1 and 0.91


def thickness_error(input_features: int) -> float:
    """Mean squared error against the exact F of the swirl's thickness after 300 steps of Adam."""
    toy, flow = exact_flow("swirl")
    schedule, basis, t_max = flow.schedule, flow.basis, flow.schedule.default_t_max()
    ends = double([0.0, t_max])
    low, high = noise_condition(schedule, ends, "log").tolist()
    network = ToyMLP(3, (low, high), depth=4, input_features=input_features)
    denoiser = NetworkDenoiser(network, basis, schedule)
    loss = DenoisingLoss(schedule, 0, t_max)
    regression = DenoisingRegression(denoiser)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    generator = seeded()
    for _ in range(300):
        clean = basis.to_eigen(toy.sample(256, generator))
        optimizer.zero_grad()
        loss.per_sample(regression, clean, loss.draw(256, generator)).mean().backward()
        optimizer.step()
        decay.step()
    t, noise = loss.draw(1000, generator)
    clean = basis.to_eigen(toy.sample(1000, generator))
    x = clean + schedule.noise_variance(t).sqrt() * noise
    with torch.no_grad():
        error = (denoiser(x, t) - flow.denoiser(x, t)) / denoiser.coefficients(t).c_out
    return float(error[:, THICKNESS].square().mean())


# The thickness is uniform, nearly Gaussian: F = 0 has an error of 0.0215. Training leaves 0.0085
# of it with the features, and 0.0216 without.
@pytest.mark.slow
def test_thickness_is_learnt_with_input_features() -> None:
    assert thickness_error(4) < 0.012
    assert thickness_error(0) > 0.018


@pytest.mark.parametrize("shape", [(100,), (2, 37), (1, 3, 3), (3, 9, 5)])
def test_features_of_a_point_depend_on_all_its_conditions_and_on_no_others(
    shape: tuple[int, ...],
) -> None:
    torch.manual_seed(0)
    embedding = ConditionEmbedding(shape)
    conditions = torch.randn(4, prod(shape), generator=seeded(1), requires_grad=True)
    features = embedding(conditions)
    assert features.shape == (4, FEATURES)
    [slopes] = torch.autograd.grad(features[1].square().sum(), conditions)
    assert (slopes[1] != 0).all()
    assert (slopes[[0, 2, 3]] == 0).all()
    # As many numbers for a large image as for a small one.
    assert sum(parameter.numel() for parameter in embedding.parameters()) < 40_000


def test_features_of_a_set_know_neither_order_nor_padding_but_how_many_there_are() -> None:
    torch.manual_seed(0)
    embedding = ConditionEmbedding((ANY_NUMBER, 2))
    trials = torch.cat([torch.randn(3, 5, 2, generator=seeded(1)), torch.ones(3, 5, 1)], dim=2)
    trials[1, 2:] = 0  # which has two
    features = embedding(trials.flatten(1))
    for other in (trials[:, [3, 0, 4, 2, 1]], torch.cat([torch.zeros(3, 4, 3), trials], dim=1)):
        torch.testing.assert_close(embedding(other.flatten(1)), features, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(embedding(trials[1:2, :2].flatten(1)), features[1:2])
    twice = embedding(torch.cat([trials, trials], dim=1).flatten(1))
    assert ((twice - features).abs().amax(dim=1) > 0.01).all()
