"""Solvers by name: order of convergence in both directions, what they cost, what is refused."""

from collections.abc import Callable
from math import inf, log2, nan

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double
from tests.support.equations import START, last, riccati, riccati_solution
from tests.support.flows import Counted
from training.flow.solvers import SOLVERS, Solver, get_solver
from training.flow.solvers.multistep import adams_bashforth

FIXED = {name: solver for name, solver in SOLVERS.items() if not solver.adaptive}


def even(steps: int) -> Tensor:
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def uneven(steps: int) -> Tensor:
    """Steps differ by a factor of 5 between the ends, and of 2 between neighbors."""
    times = even(steps)
    times[1::2] -= 1 / (6 * steps)
    return (times + 2 * times**2) / 3


@pytest.mark.parametrize("solver", FIXED.values(), ids=FIXED)
@pytest.mark.parametrize("grid", [even, uneven])
def test_errors_fall_with_the_order(grid: Callable[[int], Tensor], solver: Solver) -> None:
    for begin, end in ((0.0, 1.0), (1.0, 0.0)):
        errors = []
        for steps in (16, 32) if solver.order == 6 else (64, 128):
            times = begin + (end - begin) * grid(steps)
            reached = last(solver.method, riccati, riccati_solution(begin), times)
            errors.append(float((reached - riccati_solution(end)).abs().max()))
        assert log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("name", [name for name in FIXED if name != "gauss4"])
def test_a_step_calls_the_velocity_as_often_as_it_says_and_within_its_times(name: str) -> None:
    solver, counted = SOLVERS[name], Counted(riccati)
    times = double([0.5, 0.7, 0.8, 1.0])
    assert solver.calls_per_step is not None
    for index, _ in enumerate(solver.method(counted, START, times)):
        assert len(counted.times) == solver.calls_per_step + (solver.multistep and index == 0)
        assert min(counted.times) >= times[index]
        assert max(counted.times) <= times[index + 1] + 1e-12
        counted.times.clear()


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_states_are_at_every_time_but_the_first(solver: Solver) -> None:
    times = even(64)
    # States a step apart differ by up to 0.022, and a quarter of that tells them apart. Errors of
    # Euler's method are as large themselves; those of rev_euler grow where the equation contracts.
    bound = 0.025 if solver.order == 1 else 0.022 / 4
    for t, state in zip(times[1:], solver.method(riccati, START, times), strict=True):
        torch.testing.assert_close(state, riccati_solution(float(t)), rtol=bound, atol=0)


def test_solvers_are_found_by_their_names() -> None:
    assert [solver.order for solver in SOLVERS.values()] == [1, 2, 4, 2, 4, 5, 5, 4, 2, 6]
    for name, solver in SOLVERS.items():
        found = get_solver(name)
        assert found == solver.with_method(found.method)
        assert found is solver or solver.adaptive
    with pytest.raises(UsageError, match=r"'midpoint'.*euler, heun, rk4"):
        get_solver("midpoint")


def test_tolerances_given_are_those_used_and_must_be_positive_numbers() -> None:
    times = double([0.0, 1.0])
    errors = []
    for rtol, atol in ((1e-3, 1e-3), (1e-9, 1e-3), (1e-3, 1e-9), (1e-9, 1e-9)):
        end = last(get_solver("dopri5", rtol, atol).method, riccati, START, times)
        errors.append(float((end - riccati_solution(1.0)).abs().max()))
    # A step is good enough for the larger one.
    assert errors[3] < 1e-8 < min(errors[:3])
    for name in ("rtol", "atol"):
        for value in (0.0, -1e-3, inf, nan):
            with pytest.raises(UsageError, match=rf"{name} is {value:g}"):
                get_solver("dopri5", **{name: value})


def test_two_step_adams_bashforth_integrates_a_velocity_linear_in_time_exactly() -> None:
    slope = double([[1.0, -2.0, 0.5]])

    def solution(t: Tensor) -> Tensor:
        return START + slope * (3 * t + t**2)

    uneven = double([0.0, 0.1, 0.5, 0.6, 0.7, 1.5])
    for times in (uneven, uneven.flip(0)):
        states = adams_bashforth(lambda x, t: slope * (3 + 2 * t), solution(times[0]), times)
        for t, state in zip(times[1:], states, strict=True):
            torch.testing.assert_close(state, solution(t), rtol=0, atol=1e-14)
