"""Solvers: order of convergence, both directions of time, what a step costs."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.data.toys import Toy
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS, Solver, Velocity, get_solver

START = torch.tensor([[0.5, 1.0, 2.0]], dtype=torch.float64)

every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)


def riccati(x: Tensor, t: Tensor) -> Tensor:
    """``dx/dt = -2 t x^2``, nonlinear and time-dependent."""
    return -2 * t * x**2


def riccati_solution(t: float) -> Tensor:
    """The solution that is ``START`` at t = 0."""
    return 1 / (1 / START + t**2)


def integrate(solver: Solver, v: Velocity, x: Tensor, times: Tensor) -> Tensor:
    for t, following in pairwise(times):
        x = solver.step(v, x, t, following - t)
    return x


def orders(errors: list[float]) -> list[float]:
    """Measured orders from errors at step sizes each half of the one before."""
    ratios = torch.tensor(errors[:-1]) / torch.tensor(errors[1:])
    return ratios.log2().tolist()


@every_solver
@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (1.0, 0.0)], ids=["forwards", "backwards"])
def test_errors_fall_with_the_order_of_the_method(solver: Solver, begin: float, end: float) -> None:
    errors = []
    for steps in (32, 64, 128, 256):
        times = torch.linspace(begin, end, steps + 1, dtype=torch.float64)
        reached = integrate(solver, riccati, riccati_solution(begin), times)
        errors.append(float((reached - riccati_solution(end)).abs().max()))
    assert orders(errors)[-1] == pytest.approx(solver.order, abs=0.1)


@every_solver
@pytest.mark.parametrize("kept", [2, 1], ids=["PRP", "PRR"])
def test_errors_of_the_exact_flow_of_circles_fall_with_the_order_of_the_method(
    solver: Solver,
    kept: int,
    exact_flow: Callable[..., tuple[Toy, ProbabilityFlow]],
    generator: torch.Generator,
) -> None:
    toy, flow = exact_flow("circles", kept)
    data, end = toy.sample(16, generator), flow.schedule.default_t_max()
    # At most 3e-10 from the truth, which the finest rk4 below misses by at least ten times more.
    reference = flow.melt(data, flow.schedule.times(200, end), SOLVERS["rk4"]).end
    errors = []
    for steps in (25, 50) if solver.order == 4 else (50, 100):
        reached = flow.melt(data, flow.schedule.times(steps, end), solver).end
        errors.append(float((reached - reference).square().mean().sqrt()))
    assert orders(errors)[-1] == pytest.approx(solver.order, abs=0.1)


@every_solver
def test_a_step_calls_the_velocity_as_often_as_it_says(solver: Solver) -> None:
    times: list[float] = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        times.append(float(t))
        return riccati(x, t)

    solver.step(counted, START, torch.tensor(0.5), torch.tensor(0.2))
    assert len(times) == solver.calls_per_step
    assert min(times) >= 0.5
    assert max(times) <= 0.7 + 1e-6


@every_solver
def test_the_registry_gives_each_solver_by_its_name(solver: Solver) -> None:
    assert get_solver(solver.name) is solver


def test_published_orders() -> None:
    assert {name: solver.order for name, solver in SOLVERS.items()} == {
        "euler": 1,
        "heun": 2,
        "rk4": 4,
    }


def test_an_unknown_solver_is_a_usage_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'midpoint'.*euler, heun, rk4"):
        get_solver("midpoint")
