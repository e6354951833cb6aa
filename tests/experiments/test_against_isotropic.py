"""What flows of different noise are compared by."""

from math import inf

import pytest
import torch
from torch import Tensor

from experiments.against_isotropic import (
    GAMMA0,
    LEVELS,
    bits,
    calls_needed,
    gaussian_bits,
    levels_of,
    losses,
    noisy_images,
)
from training.flow.eigenbasis import EigenBasis
from training.flow.isotropic import EDMSchedule
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule, NoiseSchedule

BASIS = EigenBasis(torch.zeros(3), torch.tensor([4.0, 1.0, 0.25]), torch.eye(3))
SCHEDULES = {
    "PRP": InflationSchedule.to_dimension(3, 3, top_variance=4.0),
    "PRR": InflationSchedule.to_dimension(1, 3, top_variance=4.0),
    "edm": EDMSchedule(3),
}


def linear_flow(schedule: NoiseSchedule, factor: float = 1.0) -> ProbabilityFlow:
    """That of a Gaussian, or one that denoises by another factor."""

    def denoiser(x: Tensor, t: Tensor) -> Tensor:
        gamma = schedule.noise_variance(t)
        return factor * BASIS.eigenvalues / (BASIS.eigenvalues + gamma) * x

    return ProbabilityFlow(denoiser, schedule, BASIS, 2 * schedule.default_t_max())


def clean(count: int) -> Tensor:
    draws = torch.randn(count, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return draws * BASIS.eigenvalues.sqrt()


@pytest.mark.parametrize("name", ["PRP", "edm"])
def test_levels_are_what_the_best_linear_denoiser_leaves(name: str) -> None:
    schedule = SCHEDULES[name]
    times = levels_of(schedule, BASIS.eigenvalues, 2 * schedule.default_t_max())
    gamma, variance = schedule.noise_variance(times), BASIS.eigenvalues
    left = (variance * gamma / (variance + gamma)).sum(dim=1) / variance.sum()
    torch.testing.assert_close(left.tolist(), list(LEVELS), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["PRP", "edm"])
def test_the_best_linear_denoiser_has_a_loss_of_one_and_others_more(name: str) -> None:
    schedule = SCHEDULES[name]
    times = levels_of(schedule, BASIS.eigenvalues, 2 * schedule.default_t_max())
    assert losses(linear_flow(schedule), times, clean(100)) == pytest.approx([1] * len(LEVELS))
    assert min(losses(linear_flow(schedule, 0.5), times, clean(2000))) > 1


@pytest.mark.parametrize("name", SCHEDULES)
def test_bits_of_a_gaussian_are_its_own_whatever_the_noise(name: str) -> None:
    noisy = noisy_images(BASIS, clean(50))
    assert noisy.var() > GAMMA0
    own = gaussian_bits(BASIS, noisy)
    # At the end time the Gaussian of the closed form is the law of latents.
    assert bits(linear_flow(SCHEDULES[name]), noisy) == pytest.approx(own, abs=2e-3)


def test_calls_are_those_from_which_the_error_stays_small() -> None:
    assert calls_needed("exp_rk5", [9, 0.9, 2.0, 0.5, 0.1]) == 48
    assert calls_needed("exp_rk5", [0.5, 0.4, 0.3, 0.2, 0.1]) == 6
    assert calls_needed("heun", [9, 8, 7, 6, 5, 4]) == inf
