"""The scale of posterior errors, by posterior mean and width."""

import torch

from tests.support.running import refusal
from training.flow.widths import Widths


def simulated(count, seed):
    """Posteriors of one parameter, which are right on average: too wide where the mean is small."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.rand(count, 2, generator=generator, dtype=torch.float64)
    scale = torch.stack([0.4 * 4 ** mean[:, 0], torch.ones(count)], dim=1)
    std = 0.1 + 0.1 * torch.rand(count, 2, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
    return mean, std, mean + scale * std * noise, scale


def test_posteriors_too_wide_at_some_observations_are_found():
    mean, std, truth, _ = simulated(4000, 0)
    widths = Widths(2).fit(mean, std, truth, torch.zeros(4000))
    mean, std, _, scale = simulated(500, 1)
    off = (widths(mean, std) / scale).log()
    assert off.abs().mean() < 0.06
    assert off.abs().max() < 0.25
    assert widths(mean, torch.zeros_like(std)).eq(1).all()


def test_simulations_that_were_trained_on_have_a_factor_of_their_own():
    mean, std, truth, scale = simulated(2000, 0)
    trained = torch.arange(2000) % 5 > 0
    learned = torch.where(trained[:, None], mean + 0.5 * (truth - mean), truth)
    widths = Widths(2).fit(mean, std, learned, trained)
    assert (widths(mean, std) / scale).log().mean().abs() < 0.06


def test_widths_that_are_no_numbers_are_refused():
    widths = Widths(2)
    assert "not positive" in refusal(widths.check, kind=ValueError)
    widths.spread.fill_(1.0)
    widths.check()
    widths.bias.fill_(torch.nan)
    assert "not finite" in refusal(widths.check, kind=ValueError)
