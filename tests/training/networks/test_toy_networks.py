"""Networks of toys: shapes, dependence on all inputs, and smoothness in time."""

import pytest
import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError
from tests.support.draws import seeded
from training.networks import NETWORKS
from training.networks.mlp import NoiseFeatures

NOISE_RANGE = (-0.95, 0.28)

every_network = pytest.mark.parametrize("name", ["mlp", "ToyConvUNet", "ToySongUNet"])


def network(name: str, dim: int = 3) -> nn.Module:
    return NETWORKS[name](dim=dim, noise_range=NOISE_RANGE).eval()


def inputs(count: int, dim: int = 3) -> tuple[Tensor, Tensor]:
    generator = seeded(1)
    z = torch.randn(count, dim, generator=generator)
    low, high = NOISE_RANGE
    return z, low + (high - low) * torch.rand(count, generator=generator)


def trained(name: str) -> nn.Module:
    """A network that has left its start: two steps of training on noise."""
    net = network(name)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        (net(*inputs(32)) - 1).square().mean().backward()
        optimizer.step()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert (parameter.grad != 0).any(), key
    return net


@every_network
def test_outputs_are_shaped_like_inputs_and_start_at_zero(name: str) -> None:
    for dim in (2, 3, 10):
        output = network(name, dim)(*inputs(5, dim))
        assert output.shape == (5, dim)
        assert (output == 0).all()
    for noise_range in ((0.5, 0.5), (1.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(UsageError, match="noise range"):
            NETWORKS[name](dim=2, noise_range=noise_range)


@every_network
def test_a_point_depends_on_all_its_inputs_and_on_no_other_point(name: str) -> None:
    net = trained(name)
    z, c_noise = (tensor.requires_grad_() for tensor in inputs(6))
    output = net(z, c_noise)
    for index in range(3):
        found = torch.autograd.grad(output[:, index].sum(), (z, c_noise), retain_graph=True)
        assert all((gradient != 0).all() for gradient in found)
    with torch.no_grad():
        alone = torch.cat([net(z[i : i + 1], c_noise[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(output, alone, rtol=1e-4, atol=1e-5)
        one = torch.tensor(-0.3)
        torch.testing.assert_close(net(z, one), net(z, one.expand(6)), rtol=1e-5, atol=1e-6)


@every_network
def test_the_output_is_twice_differentiable_in_time_in_single_precision(name: str) -> None:
    net, (z, _) = trained(name), inputs(64)
    step = 0.02 * (NOISE_RANGE[1] - NOISE_RANGE[0])

    def second_difference(h: float) -> float:
        with torch.no_grad():
            before, middle, after = (net(z, torch.tensor(-0.3 + dt)) for dt in (-h, 0.0, h))
        return float((before - 2 * middle + after).square().mean().sqrt())

    # Falls with h^2 if the function is smooth, with h at a kink, and not at all in noise.
    assert second_difference(step) / second_difference(step / 2) == pytest.approx(4, rel=0.1)


def test_noise_features_are_cosines_of_the_place_in_the_range() -> None:
    features = NoiseFeatures((-1.0, 1.0), count=3)
    ends = features(torch.tensor([-1.0, 0.0, 1.0]))
    expected = torch.tensor([[1.0, 1.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 1.0, -1.0]])
    torch.testing.assert_close(ends, expected, rtol=0, atol=1e-6)
