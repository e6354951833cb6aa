"""Preconditionings: the closed form of c_out, and targets that are worth regressing on."""

import pytest
import torch
from torch import Tensor, nn

from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, random_basis
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.isotropic import EDMSchedule
from training.flow.preconditioning import PRECONDITIONINGS, per_dimension
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.learning.loss import DenoisingRegression

COUNT = 40_000


def expanded_output_variance(xi: Tensor, gamma: Tensor) -> Tensor:
    """``E(e - c_skip x)^2`` term by term."""
    c_skip = xi / (xi + gamma)
    return c_skip**2 * xi + c_skip**2 * gamma + xi - 2 * c_skip * xi


def test_c_out_is_the_deviation_of_what_c_skip_leaves_and_positive_in_single_precision() -> None:
    xi = torch.logspace(-4, 2, 7, dtype=torch.float64)
    gamma = xi * torch.logspace(-4, 8, 49, dtype=torch.float64)[:, None]
    c_out = per_dimension(xi, gamma).c_out
    # The expanded form loses four digits where gamma is 1e-4 of xi.
    torch.testing.assert_close(c_out**2, expanded_output_variance(xi, gamma), rtol=1e-11, atol=0)
    xi = torch.logspace(-6, 2, 33)
    gamma = torch.logspace(-12, 12, 97)[:, None]
    c_out = per_dimension(xi, gamma).c_out
    assert (expanded_output_variance(xi, gamma) <= 0).any()
    assert c_out.isfinite().all()
    assert (c_out > 0).all()
    exact = per_dimension(xi.double(), gamma.double()).c_out
    torch.testing.assert_close(c_out.double(), exact, rtol=1e-6, atol=0)


def gaussian_regression(
    basis: EigenBasis, schedule: NoiseSchedule, network: nn.Module, t: float
) -> tuple[Tensor, Tensor]:
    """Network outputs and targets on Gaussian data at one time."""
    generator = seeded(3)
    drawn = normal(2, COUNT, basis.dim, generator=generator)
    clean, noise = basis.eigenvalues.sqrt() * drawn[0], drawn[1]
    times = torch.full((COUNT,), t, dtype=torch.float64)
    regression = DenoisingRegression(NetworkDenoiser(network, basis, schedule))
    output, target = regression(clean, times, noise)
    return output.double(), target.double()


@pytest.mark.parametrize("kind", ["PRR", "EDM"])
def test_inputs_and_targets_have_unit_variance_and_are_uncorrelated(kind: str) -> None:
    schedule = {"PRR": InflationSchedule.to_dimension(1, 3), "EDM": EDMSchedule(3)}[kind]
    identity = FunctionNetwork(lambda z, c: z)
    error = COUNT**-0.5
    for t in (0.01, 3.0, 15.0):
        z, target = gaussian_regression(random_basis(3), schedule, identity, t)
        assert ((z.square().mean(0) - 1).abs() < 4 * 2**0.5 * error).all()
        assert ((target.square().mean(0) - 1).abs() < 4 * 2**0.5 * error).all()
        assert ((z * target).mean(0).abs() < 4 * error).all()


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_the_target_is_what_a_network_must_give_to_denoise_perfectly(name: str) -> None:
    basis, schedule = random_basis(3), InflationSchedule.to_dimension(2, 3)
    identity = FunctionNetwork(lambda z, c: z)
    denoiser = NetworkDenoiser(identity, basis, schedule, preconditioning=name)
    (clean, noise), t = normal(2, 50, 3), torch.linspace(0, 7, 50, dtype=torch.float64)
    z, target = DenoisingRegression(denoiser)(clean, t, noise)
    c = PRECONDITIONINGS[name](basis.eigenvalues, schedule.noise_variance(t))
    noisy = clean + schedule.noise_variance(t).sqrt() * noise
    # The network is given, and gives, single precision.
    torch.testing.assert_close(z.double(), c.c_in * noisy, rtol=1e-6, atol=1e-6)
    exact = c.clean_weight * clean + c.noise_weight * noise
    torch.testing.assert_close(target.double(), exact, rtol=1e-6, atol=1e-6)
    # The left side loses digits where there is hardly any noise.
    torch.testing.assert_close(exact, (clean - c.c_skip * noisy) / c.c_out, rtol=1e-9, atol=1e-10)


def test_edm_is_that_of_the_mean_variance_and_vp_and_ve_predict_the_noise() -> None:
    xi = double([3.0, 1.0])
    gamma = torch.logspace(-2, 2, 5, dtype=torch.float64)[:, None].expand(5, 2)
    mean = torch.full((2,), 2.0, dtype=torch.float64)
    found, expected = PRECONDITIONINGS["edm"](xi, gamma), per_dimension(mean, gamma)
    torch.testing.assert_close(tuple(found), tuple(expected))
    for name, sign in (("vp", 1), ("ve", -1)):
        c = PRECONDITIONINGS[name](xi, gamma)
        assert (c.clean_weight == 0).all()
        assert (c.noise_weight == sign).all()
        assert (c.c_skip == 1).all()
