"""Solvers by name: order of convergence in both directions, what they cost, what is refused."""

from collections.abc import Callable
from math import inf, nan

import pytest
import torch
from equations import START, last, orders, riccati, riccati_solution, scipys_end
from torch import Tensor

from dnnlib.errors import UsageError
from training.data.toys import Toy
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import DEFAULT, SOLVERS, Solver, get_solver

ExactFlow = Callable[..., tuple[Toy, ProbabilityFlow]]

FIXED = {name: solver for name, solver in SOLVERS.items() if not solver.adaptive}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
every_fixed_solver = pytest.mark.parametrize("solver", FIXED.values(), ids=FIXED)
either_way = pytest.mark.parametrize(
    ("begin", "end"), [(0.0, 1.0), (1.0, 0.0)], ids=["forwards", "backwards"]
)


@every_fixed_solver
@either_way
def test_errors_fall_with_the_order_of_the_method(solver: Solver, begin: float, end: float) -> None:
    errors = []
    for steps in (32, 64, 128, 256):
        times = torch.linspace(begin, end, steps + 1, dtype=torch.float64)
        reached = last(solver.method, riccati, riccati_solution(begin), times)
        errors.append(float((reached - riccati_solution(end)).abs().max()))
    assert orders(errors)[-1] == pytest.approx(solver.order, abs=0.1)


@every_fixed_solver
@either_way
def test_on_uneven_times_errors_fall_with_the_order_too(
    solver: Solver, begin: float, end: float
) -> None:
    errors = []
    for steps in (64, 128, 256):
        # Steps differ by a factor of 5 between the ends, and of 2 between neighbors.
        even = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        even[1::2] -= 1 / (6 * steps)
        times = begin + (end - begin) * (even + 2 * even**2) / 3
        reached = last(solver.method, riccati, riccati_solution(begin), times)
        errors.append(float((reached - riccati_solution(end)).abs().max()))
    assert orders(errors)[-1] == pytest.approx(solver.order, abs=0.1)


@pytest.mark.parametrize("kept", [2, 1], ids=["PRP", "PRR"])
def test_errors_of_the_exact_flow_of_circles_fall_with_the_order_of_the_method(
    kept: int, exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    toy, flow = exact_flow("circles", kept)
    data, end = toy.sample(16, generator), flow.schedule.default_t_max()
    ends = flow.schedule.times(1, end)
    right = scipys_end(
        flow.velocity, flow.schedule.scale(ends[0]) * flow.basis.to_eigen(data), ends
    )
    for solver in FIXED.values():
        errors = []
        for steps in (25, 50) if solver.order == 4 else (50, 100):
            reached = flow.melt(data, flow.schedule.times(steps, end), solver).end
            errors.append(float((reached - right).square().mean().sqrt()))
        assert orders(errors)[-1] == pytest.approx(solver.order, abs=0.1), solver.name


@pytest.mark.parametrize("solver", [FIXED[name] for name in FIXED if name != "gauss4"])
def test_a_step_calls_the_velocity_as_often_as_it_says(solver: Solver) -> None:
    called: list[float] = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        called.append(float(t))
        return riccati(x, t)

    times = torch.tensor([0.5, 0.7, 0.8, 1.0], dtype=torch.float64)
    assert solver.calls_per_step is not None
    first_step = solver.calls_per_step + solver.multistep
    expected = [first_step + step * solver.calls_per_step for step in range(3)]
    reached = []
    for (t, following), _ in zip(
        torch.stack([times[:-1], times[1:]], dim=1).tolist(),
        solver.method(counted, START, times),
        strict=True,
    ):
        reached.append(len(called))
        made = called[reached[-2] if len(reached) > 1 else 0 :]
        assert min(made) >= t
        assert max(made) <= following + 1e-12
    assert reached == expected


@every_solver
def test_states_are_at_every_time_but_the_first(solver: Solver) -> None:
    times = torch.linspace(0, 1, 33, dtype=torch.float64)
    states = list(solver.method(riccati, START, times))
    assert len(states) == 32
    bound = 0.05 if solver.order == 1 else 2e-3
    for t, state in zip(times[1:], states, strict=True):
        torch.testing.assert_close(state, riccati_solution(float(t)), rtol=bound, atol=0)


@every_solver
def test_the_registry_gives_each_solver_by_its_name(solver: Solver) -> None:
    found = get_solver(solver.name)
    assert found == solver.with_method(found.method)
    assert found is solver or solver.adaptive


def test_published_orders() -> None:
    assert {name: solver.order for name, solver in SOLVERS.items()} == {
        "euler": 1,
        "heun": 2,
        "rk4": 4,
        "exp_ab2": 2,
        "exp_rk5": 5,
        "dopri5": 5,
        "gauss4": 4,
    }


def test_what_solvers_are() -> None:
    def named(kind: str) -> set[str]:
        return {name for name, solver in SOLVERS.items() if getattr(solver, kind)}

    assert named("standardized") == {"exp_ab2", "exp_rk5", "dopri5", "gauss4"}
    assert named("multistep") == {"exp_ab2"}
    assert named("adaptive") == {"dopri5"}
    assert named("calls_per_step") == {"euler", "heun", "rk4", "exp_ab2", "exp_rk5"}
    assert DEFAULT in SOLVERS


def test_an_unknown_solver_is_a_usage_error_that_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'midpoint'.*euler, heun, rk4"):
        get_solver("midpoint")


@pytest.mark.parametrize("value", [0.0, -1e-3, inf, nan])
@pytest.mark.parametrize("name", ["rtol", "atol"])
def test_a_tolerance_that_is_no_positive_number_is_a_usage_error(name: str, value: float) -> None:
    with pytest.raises(UsageError, match=rf"{name} is {value:g}"):
        get_solver("dopri5", **{name: value})


def test_tolerances_given_are_those_used() -> None:
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    errors = []
    for rtol, atol in ((1e-3, 1e-3), (1e-9, 1e-3), (1e-3, 1e-9), (1e-9, 1e-9)):
        end = last(get_solver("dopri5", rtol, atol).method, riccati, START, times)
        errors.append(float((end - riccati_solution(1.0)).abs().max()))
    # A step is good enough for the larger one.
    assert errors[3] < 1e-8 < min(errors[:3])
