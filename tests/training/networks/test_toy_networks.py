"""Toy networks: shapes, the start of training, and smoothness in time."""

import pytest
import torch
from torch import Tensor, nn

from dnnlib.errors import UsageError
from training.networks import NETWORKS, TOY_NETWORKS
from training.networks.features import NoiseFeatures

NOISE_RANGE = (-0.95, 0.28)

every_network = pytest.mark.parametrize("name", TOY_NETWORKS)


def network(name: str, dim: int = 3) -> nn.Module:
    torch.manual_seed(0)
    return NETWORKS[name](dim=dim, noise_range=NOISE_RANGE).eval()


def trained(name: str, dim: int = 3) -> nn.Module:
    """A network that has left its start: two steps of training on noise."""
    net = network(name, dim)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        (net(*inputs(32, dim)) - 1).square().mean().backward()
        optimizer.step()
    return net


def inputs(count: int, dim: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(count, dim, generator=generator)
    low, high = NOISE_RANGE
    return z, low + (high - low) * torch.rand(count, generator=generator)


def test_the_registry_knows_the_toy_networks() -> None:
    assert set(TOY_NETWORKS) == {"mlp", "ToyConvUNet", "ToySongUNet"}
    assert TOY_NETWORKS.items() <= NETWORKS.items()
    assert all(issubclass(network, nn.Module) for network in NETWORKS.values())


@every_network
@pytest.mark.parametrize("dim", [2, 3, 10])
def test_outputs_are_shaped_like_inputs_and_start_at_zero(name: str, dim: int) -> None:
    z, c_noise = inputs(5, dim)
    output = network(name, dim)(z, c_noise)
    assert output.shape == (5, dim)
    assert (output == 0).all()


@every_network
def test_one_condition_for_all_equals_one_for_each(name: str) -> None:
    net, (z, _) = trained(name), inputs(6)
    one = torch.tensor(-0.3)
    with torch.no_grad():
        torch.testing.assert_close(net(z, one), net(z, one.expand(6)), rtol=1e-5, atol=1e-6)


@every_network
def test_points_of_a_batch_do_not_influence_each_other(name: str) -> None:
    net, (z, c_noise) = trained(name), inputs(6)
    with torch.no_grad():
        alone = torch.cat([net(z[i : i + 1], c_noise[i : i + 1]) for i in range(6)])
        torch.testing.assert_close(net(z, c_noise), alone, rtol=1e-4, atol=1e-5)


@every_network
def test_the_output_depends_on_each_input_and_on_the_noise(name: str) -> None:
    net = trained(name)
    z, c_noise = (tensor.requires_grad_() for tensor in inputs(6))
    for index in range(3):
        gradients = torch.autograd.grad(net(z, c_noise)[:, index].sum(), (z, c_noise))
        assert all((gradient != 0).all() for gradient in gradients)


@every_network
def test_every_parameter_has_a_gradient_after_one_step(name: str) -> None:
    net = network(name)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(2):
        optimizer.zero_grad()
        (net(*inputs(16)) - inputs(16)[0].sin()).square().mean().backward()
        optimizer.step()
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert (parameter.grad != 0).any(), key


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


@every_network
@pytest.mark.parametrize("noise_range", [(0.5, 0.5), (1.0, 0.0), (float("nan"), 1.0)])
def test_an_empty_range_of_noise_is_a_usage_error(
    name: str, noise_range: tuple[float, float]
) -> None:
    with pytest.raises(UsageError, match="noise range"):
        NETWORKS[name](dim=2, noise_range=noise_range)


def test_noise_features_are_cosines_of_the_place_in_the_range() -> None:
    features = NoiseFeatures((-1.0, 1.0), count=3)
    ends = features(torch.tensor([-1.0, 0.0, 1.0]))
    expected = torch.tensor([[1.0, 1.0, 1.0], [0.0, -1.0, 0.0], [-1.0, 1.0, -1.0]])
    torch.testing.assert_close(ends, expected, rtol=0, atol=1e-6)
