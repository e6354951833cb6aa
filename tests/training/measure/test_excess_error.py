"""The excess error of a denoiser: what it is for known ones, and the law of its points."""

import pytest
import torch
from torch import Tensor

from tests.support.draws import seeded
from tests.support.flows import FunctionNetwork, exact_flow
from training.flow.denoisers import NetworkDenoiser
from training.flow.pfode import ProbabilityFlow
from training.measure.excess_error import excess_error, noisy_points


@pytest.fixture
def points() -> tuple[ProbabilityFlow, Tensor]:
    """An exact flow, and more clean points of it than one chunk holds."""
    toy, flow = exact_flow("bumps2", 1)
    return flow, flow.basis.to_eigen(toy.sample(9000, seeded()))


def test_a_right_network_has_no_excess_error(points: tuple[ProbabilityFlow, Tensor]) -> None:
    flow, clean = points
    x, t = noisy_points(clean[:100], flow.schedule, 4.0, seeded())
    zero = FunctionNetwork(lambda z, c: torch.zeros_like(z))
    denoiser = NetworkDenoiser(zero, flow.basis, flow.schedule)
    c = denoiser.coefficients(t)
    residual = ((flow.denoiser(x, t) - c.c_skip * x) / c.c_out).float()
    right = NetworkDenoiser(FunctionNetwork(lambda z, c: residual), flow.basis, flow.schedule)
    assert excess_error(right, flow.denoiser, x, t).max() < 1e-10
    untrained = excess_error(denoiser, flow.denoiser, x, t)
    torch.testing.assert_close(untrained, residual.double().square(), rtol=1e-4, atol=1e-8)


def test_errors_come_one_a_sample_in_order(points: tuple[ProbabilityFlow, Tensor]) -> None:
    flow, clean = points
    x, t = noisy_points(clean, flow.schedule, 4.0, seeded())
    ones = FunctionNetwork(lambda z, c: torch.ones_like(z))
    one = NetworkDenoiser(ones, flow.basis, flow.schedule)
    whole = excess_error(one, flow.denoiser, x, t)
    assert whole.shape == (9000, 2)
    last = excess_error(one, flow.denoiser, x[-10:], t[-10:])
    torch.testing.assert_close(whole[-10:], last)


def test_points_are_noisy_by_their_own_times(points: tuple[ProbabilityFlow, Tensor]) -> None:
    flow, clean = points
    x, t = noisy_points(clean, flow.schedule, 4.0, seeded())
    assert (t / 4 * len(t)).floor().tolist() == [*range(len(t))]
    noise = (x - clean) / flow.schedule.noise_variance(t).sqrt()
    assert ((noise.square().mean(0) - 1).abs() < 4 * (2 / len(t)) ** 0.5).all()
