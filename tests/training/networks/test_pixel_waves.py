"""The noisy pixels that an image network sees beside the whitened image, and their waves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import random_basis
from training.flow.denoisers import NetworkDenoiser
from training.flow.schedules import InflationSchedule
from training.names import MOST_WAVES
from training.networks import IMAGE_NETWORKS
from training.networks.pixels import PixelWaves


def test_waves_are_those_of_clean_pixels_on_average_over_their_noise() -> None:
    waves, clean = PixelWaves(3), torch.linspace(-1, 1, 5).reshape(1, 1, 1, 5)
    variance = torch.tensor([0.02])
    noise = variance.sqrt() * torch.randn(40_000, 1, 1, 5, generator=seeded())
    average = waves(clean + noise, torch.zeros(len(noise))).mean(dim=0)
    found = waves(clean, variance)[0]
    assert found.shape == (waves.per_channel, 1, 5)
    torch.testing.assert_close(found[1:], average[1:], rtol=0, atol=0.02)
    assert float(found[1:3].abs().max()) > 0.8  # the slowest, which that noise hardly blurs


def test_waves_tell_gray_levels_apart_that_lie_close_together() -> None:
    levels = torch.linspace(-1, 1, 17).reshape(1, 1, 1, 17)
    between = levels[..., 1:] - 1 / 16
    on, off = (PixelWaves(5)(u, torch.tensor([5e-4]))[0, -1, 0] for u in (levels, between))
    assert float((on.min() - off.max()).abs()) > 1


class Seeing(nn.Module):
    """A network that keeps what it was shown."""

    waves = PixelWaves(1)

    def forward(self, z: Tensor, c_noise: Tensor, **seen: Tensor) -> Tensor:
        self.seen = seen
        return z


@pytest.mark.parametrize("space", ["ES", "IS"])
def test_a_denoiser_shows_the_noisy_points_as_they_are_in_image_space(space: str) -> None:
    basis = random_basis(3)
    schedule = InflationSchedule.to_dimension(1, 3, top_variance=basis.top_variance)
    points, t = normal(4, 3), double([0.0, 1.0, 3.0, 6.0])
    network = Seeing()
    NetworkDenoiser(network, basis, schedule, space=space)(basis.to_eigen(points), t)
    torch.testing.assert_close(network.seen["pixels"], points.float(), rtol=1e-4, atol=1e-4)
    # Of all pixels together, the noise is the same in any axes.
    torch.testing.assert_close(
        network.seen["pixel_noise"], schedule.noise_variance(t).mean(1).float()
    )


@pytest.mark.parametrize("name", list(IMAGE_NETWORKS))
def test_image_networks_learn_from_pixels_and_do_not_go_without(name: str) -> None:
    small: dict[str, Any] = {"model_channels": 8, "channel_mult": [1, 2], "num_blocks": 1}
    small |= {"attention_resolutions": [], "dropout": 0.0}
    small |= {"head_channels": 8} if name == "adm" else {}
    net = IMAGE_NETWORKS[name](image_shape=[3, 8, 8], pixel_waves=2, **small)
    generator = seeded(2)
    with torch.no_grad():  # outputs begin near zero
        for parameter in net.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    z, pixels = torch.randn(2, 2, 192, generator=generator)
    c_noise = torch.tensor(0.1)
    pixels.requires_grad_()
    net(z, c_noise, pixels=pixels, pixel_noise=torch.tensor(0.1)).square().sum().backward()
    assert pixels.grad is not None
    assert (pixels.grad != 0).all()
    with pytest.raises(UsageError, match="noisy pixels"):
        net(z, c_noise)


def test_a_number_of_waves_that_is_none_is_refused() -> None:
    for count in (-1, MOST_WAVES + 1):
        with pytest.raises(UsageError, match="waves"):
            IMAGE_NETWORKS["ddpmpp"](image_shape=[1, 8, 8], pixel_waves=count)
