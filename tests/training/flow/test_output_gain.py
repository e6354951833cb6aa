"""The trained gain of a network's output, and the natural splines that it is made of."""

import torch
from scipy.interpolate import CubicSpline

from tests.support.draws import double, normal, seeded
from tests.support.flows import FunctionNetwork, random_basis
from training.flow.denoisers import NetworkDenoiser
from training.flow.output_gain import OutputGain
from training.flow.schedules import InflationSchedule
from training.flow.splines import NaturalSpline

DOUBLE = torch.float64


def test_they_are_natural_cubic_splines(generator: torch.Generator) -> None:
    for nodes in (2, 3, 4, 17):
        times = torch.rand(nodes, generator=generator, dtype=DOUBLE).cumsum(0)
        values = normal(nodes, 3, generator=generator)
        t = torch.linspace(float(times[0]), float(times[-1]), 101, dtype=DOUBLE)
        expected = CubicSpline(times, values, bc_type="natural")(t)
        got = NaturalSpline(times).weights(t) @ values
        torch.testing.assert_close(got, torch.from_numpy(expected))


def test_they_are_constant_outside_of_their_nodes_and_weights_sum_to_one() -> None:
    spline = NaturalSpline(double([1.0, 2.0, 4.0]))
    t = double([[0.0, 1.0, 1.7], [3.2, 4.0, 9.0]])
    weights = spline.weights(t)
    torch.testing.assert_close(weights, spline.weights(t.clamp(1, 4)))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(t))
    for row, column in ((0, 0), (0, 2), (1, 1)):
        torch.testing.assert_close(spline.weights(t[row, column]), weights[row, column])
    torch.testing.assert_close(spline.weights(t.float()), weights, rtol=1e-6, atol=1e-6)


TIMES = double([0.0, 1.0, 4.0])


def test_it_multiplies_the_output_in_eigenspace_and_begins_as_one() -> None:
    basis = random_basis(3)
    schedule = InflationSchedule.to_dimension(3, 3, top_variance=basis.top_variance)
    gain = OutputGain(TIMES, torch.tensor([[1.0, 2.0, 0.0], [3.0, 2.0, -1.0], [5.0, 2.0, 2.0]]))
    network, gains = FunctionNetwork(lambda z, c: z), gain.gains.double()
    z = normal(3, 3)
    for space in ("IS", "ES"):
        denoiser = NetworkDenoiser(network, basis, schedule, space=space, output_gain=gain)
        got = denoiser.residual(z, TIMES), denoiser.residual(z, TIMES[1])
        torch.testing.assert_close(got, (gains * z, gains[1] * z), rtol=1e-5, atol=1e-5)
        assert denoiser.residual(z.float(), TIMES).dtype == torch.float32
    ones = OutputGain.ones(0.5, 7, 2)
    torch.testing.assert_close(ones(torch.linspace(0, 9, 30, dtype=DOUBLE)), torch.ones(30, 2))
    assert ones.spline.times[[0, -1]].tolist() == [0.5, 7]


def test_training_finds_what_a_network_without_scale_lacks() -> None:
    """A network that is right but for a factor of each dimension, which the gain makes up for."""
    gain = OutputGain(TIMES, torch.ones(3, 2))
    wanted = torch.tensor([[0.5, 2.0], [1.0, 3.0], [0.2, 1.0]])
    generator = seeded()
    optimizer = torch.optim.Adam(gain.parameters(), lr=0.05)
    for _ in range(400):
        t = 4 * torch.rand(64, generator=generator, dtype=DOUBLE)
        out = torch.randn(64, 2, generator=generator)
        target = OutputGain(TIMES, wanted)(t).detach() * out
        optimizer.zero_grad()
        (gain(t) * out - target).square().mean().backward()
        optimizer.step()
    torch.testing.assert_close(gain.gains.detach(), wanted, rtol=0, atol=0.02)
