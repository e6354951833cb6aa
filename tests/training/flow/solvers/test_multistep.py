"""The two-step Adams-Bashforth method: what it is exact for, and its published formula."""

import torch
from torch import Tensor

from tests.support.draws import double
from tests.support.equations import START, riccati
from training.flow.solvers.multistep import adams_bashforth

UNEVEN = double([0.0, 0.1, 0.5, 0.6, 0.7, 1.5])


def test_a_velocity_linear_in_time_is_integrated_exactly() -> None:
    slope = double([[1.0, -2.0, 0.5]])

    def solution(t: Tensor) -> Tensor:
        return START + slope * (3 * t + t**2)

    for times in (UNEVEN, UNEVEN.flip(0)):
        states = adams_bashforth(lambda x, t: slope * (3 + 2 * t), solution(times[0]), times)
        for t, state in zip(times[1:], states, strict=True):
            torch.testing.assert_close(state, solution(t), rtol=0, atol=1e-14)


def test_the_second_step_is_the_published_formula() -> None:
    h = 0.1
    times = h * torch.arange(3, dtype=torch.float64)
    first, second = adams_bashforth(riccati, START, times)
    slopes = riccati(START, times[0]), riccati(first, times[1])
    expected = first + h * (1.5 * slopes[1] - 0.5 * slopes[0])
    torch.testing.assert_close(second, expected, rtol=0, atol=1e-15)
