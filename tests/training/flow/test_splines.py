"""Natural cubic splines, against SciPy's."""

import torch
from scipy.interpolate import CubicSpline

from tests.support.draws import double, normal
from training.flow.splines import NaturalSpline

DOUBLE = torch.float64


def test_they_are_natural_cubic_splines(generator: torch.Generator) -> None:
    for nodes in (2, 3, 4, 17):
        times = torch.rand(nodes, generator=generator, dtype=DOUBLE).cumsum(0)
        values = normal(nodes, 3, generator=generator)
        t = torch.linspace(float(times[0]), float(times[-1]), 101, dtype=DOUBLE)
        expected = CubicSpline(times, values, bc_type="natural")(t)
        found = NaturalSpline(times).weights(t) @ values
        torch.testing.assert_close(found, torch.from_numpy(expected))


def test_they_are_constant_outside_of_their_nodes_and_weights_sum_to_one() -> None:
    spline = NaturalSpline(double([1.0, 2.0, 4.0]))
    t = double([[0.0, 1.0, 1.7], [3.2, 4.0, 9.0]])
    weights = spline.weights(t)
    torch.testing.assert_close(weights, spline.weights(t.clamp(1, 4)))
    torch.testing.assert_close(weights.sum(-1), torch.ones_like(t))
    for row, column in ((0, 0), (0, 2), (1, 1)):
        torch.testing.assert_close(spline.weights(t[row, column]), weights[row, column])
    torch.testing.assert_close(spline.weights(t.float()), weights, rtol=1e-6, atol=1e-6)
