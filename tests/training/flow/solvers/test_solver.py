"""Solvers by name: order, cost, refusals."""

from math import log2

import pytest
import torch

from dnnlib.errors import UsageError
from tests.support.draws import double
from tests.support.flows import Counted
from training.flow import solvers
from training.flow.solvers import CASH_KARP, EULER, HEUN, RK4, SOLVERS, get_solver

TABLEAUS = [EULER, HEUN, RK4, CASH_KARP, solvers.DORMAND_PRINCE]
START = double([[0.5, 1.0, 2.0]])


def riccati(x, t):
    """``dx/dt = -2 t x^2``, nonlinear and time-dependent."""
    return -2 * t[..., None] * x**2


def riccati_solution(t):
    """The solution that is ``START`` at t = 0."""
    return 1 / (1 / START + t**2)


def last(method, v, x, times):
    *_, end = method(v, x, times)
    return end


def even(steps):
    return torch.linspace(0, 1, steps + 1, dtype=torch.float64)


def uneven(steps):
    """Steps differ by a factor of 5 between the ends, and of 2 between neighbors."""
    times = even(steps)
    times[1::2] -= 1 / (6 * steps)
    return (times + 2 * times**2) / 3


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("grid", [even, uneven])
def test_errors_fall_with_the_order(grid, solver):
    for begin, end in ((0.0, 1.0), (1.0, 0.0)):
        errors = []
        for steps in (64, 128):
            times = begin + (end - begin) * grid(steps)
            reached = last(solver.method, riccati, riccati_solution(begin), times)
            errors.append(float((reached - riccati_solution(end)).abs().max()))
        assert log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_calls_the_velocity_as_often_as_it_says_and_within_its_times(name):
    solver, counted = SOLVERS[name], Counted(riccati)
    times = double([0.5, 0.7, 0.8, 1.0])
    for index, _ in enumerate(solver.method(counted, START, times)):
        assert len(counted.times) == solver.calls_per_step + (solver.multistep and index == 0)
        assert min(counted.times) >= times[index]
        assert max(counted.times) <= times[index + 1] + 1e-12
        counted.times.clear()


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_states_are_at_every_time_but_the_first(solver):
    times = even(64)
    # States a step apart differ by up to 0.022, and a quarter of that tells them apart. Errors of
    # Euler's method are as large themselves.
    bound = 0.025 if solver.order == 1 else 0.022 / 4
    for t, state in zip(times[1:], solver.method(riccati, START, times), strict=True):
        torch.testing.assert_close(state, riccati_solution(float(t)), rtol=bound, atol=0)


def test_solvers_are_found_by_their_names():
    assert [solver.order for solver in SOLVERS.values()] == [1, 2, 2, 4, 5]
    for name, solver in SOLVERS.items():
        assert get_solver(name) is solver
    with pytest.raises(UsageError, match=r"'midpoint'.*euler, heun, exp_ab2"):
        get_solver("midpoint")


@pytest.mark.parametrize("tableau", TABLEAUS)
def test_a_step_is_made_of_its_stages(tableau, generator):
    x = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    for t, h in double([[0.3, 0.2], [0.9, -0.3]]):
        slopes = solvers.slopes_of(tableau, riccati, x, t, h)
        (end,) = solvers.runge_kutta(tableau)(riccati, x, torch.stack([t, t + h]))
        made = x + h * sum(b * k for b, k in zip(tableau.weights, slopes, strict=True))
        torch.testing.assert_close(end, made, rtol=0, atol=1e-15)


def test_terms_of_no_weight_are_not_added():
    bad, good = torch.tensor([torch.inf]), torch.tensor([2.0])
    assert torch.equal(solvers.weighted_sum((0, 3), (bad, good)), torch.tensor([6.0]))
