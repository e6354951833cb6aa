"""Solvers by name: order, cost, refusals, tableaus, and the adaptive method."""

from collections.abc import Callable
from fractions import Fraction
from math import inf, log2, nan

import pytest
import torch
import torchdiffeq
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.equations import START, last, riccati, riccati_solution
from tests.support.flows import Counted, curved_flow
from training.flow.solvers import SOLVERS, Solver, adaptive, get_solver
from training.flow.solvers.adaptive import dormand_prince
from training.flow.solvers.multistep import adams_bashforth
from training.flow.solvers.runge_kutta import (
    CASH_KARP,
    DORMAND_PRINCE,
    EULER,
    HEUN,
    RK4,
    Tableau,
    runge_kutta,
    slopes_of,
    weighted_sum,
)

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
        got = get_solver(name)
        assert got == solver.with_method(got.method)
        assert got is solver or solver.adaptive
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


TABLEAUS = {"euler": EULER, "heun": HEUN, "rk4": RK4, "Cash-Karp": CASH_KARP, "DP": DORMAND_PRINCE}
ORDERS = {"euler": 1, "heun": 2, "rk4": 4, "Cash-Karp": 5, "DP": 5}
every_tableau = pytest.mark.parametrize("name", TABLEAUS)


def matrix(tableau: Tableau) -> torch.Tensor:
    """``a [stages, stages]``."""
    size = len(tableau.nodes)
    rows = [[*row, *[0.0] * (size - len(row))] for row in tableau.stages]
    return double(rows)


def conditions(a: torch.Tensor, c: torch.Tensor) -> list[tuple[int, torch.Tensor, Fraction]]:
    """Order, weighted vector and right side of each rooted tree to order 5 (Hairer, Norsett and
    Wanner, table II.2.2): weights b must give ``b . vector = right side``."""
    one = torch.ones_like(c)
    return [
        (1, one, Fraction(1)),
        (2, c, Fraction(1, 2)),
        (3, c**2, Fraction(1, 3)),
        (3, a @ c, Fraction(1, 6)),
        (4, c**3, Fraction(1, 4)),
        (4, c * (a @ c), Fraction(1, 8)),
        (4, a @ c**2, Fraction(1, 12)),
        (4, a @ a @ c, Fraction(1, 24)),
        (5, c**4, Fraction(1, 5)),
        (5, c**2 * (a @ c), Fraction(1, 10)),
        (5, c * (a @ c**2), Fraction(1, 15)),
        (5, c * (a @ a @ c), Fraction(1, 30)),
        (5, (a @ c) ** 2, Fraction(1, 20)),
        (5, a @ c**3, Fraction(1, 20)),
        (5, a @ (c * (a @ c)), Fraction(1, 40)),
        (5, a @ a @ c**2, Fraction(1, 60)),
        (5, a @ a @ a @ c, Fraction(1, 120)),
    ]


def order_of(b: torch.Tensor, a: torch.Tensor, c: torch.Tensor) -> int:
    """The largest order, up to 5, of which all conditions hold."""
    errors = [(order, float(b @ left) - float(right)) for order, left, right in conditions(a, c)]
    return min((order for order, error in errors if abs(error) > 1e-14), default=6) - 1


@every_tableau
def test_a_tableau_meets_the_conditions_of_its_order_and_no_more(name: str) -> None:
    tableau = TABLEAUS[name]
    a, c = matrix(tableau), double(tableau.nodes)
    torch.testing.assert_close(a.sum(dim=1), c, rtol=0, atol=1e-14)
    b = double(tableau.weights)
    assert order_of(b, a, c) == ORDERS[name]


def test_the_embedded_method_has_order_four() -> None:
    # Its seventh stage is the velocity at the end of the step.
    a = torch.zeros(7, 7, dtype=torch.float64)
    a[:6, :6] = matrix(DORMAND_PRINCE)
    b = double([*DORMAND_PRINCE.weights, 0])
    a[6] = b
    c = double([*DORMAND_PRINCE.nodes, 1])
    error = double(DORMAND_PRINCE.error)
    assert (order_of(b, a, c), order_of(b - error, a, c)) == (5, 4)


@every_tableau
def test_a_step_is_made_of_its_stages_and_rows_may_have_times_and_steps_of_their_own(
    name: str, generator: torch.Generator
) -> None:
    tableau = TABLEAUS[name]
    x = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    t = torch.rand(5, generator=generator, dtype=torch.float64)
    h = torch.linspace(-0.2, 0.3, 5, dtype=torch.float64)
    together = slopes_of(tableau, riccati, x, t, h)
    for row in range(5):
        alone = slopes_of(tableau, riccati, x[[row]], t[row], h[row])
        for slope, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(slope[[row]], expected, rtol=0, atol=1e-15)
        (end,) = runge_kutta(tableau)(riccati, x[[row]], torch.stack([t[row], t[row] + h[row]]))
        made = x[[row]] + h[row] * sum(b * k for b, k in zip(tableau.weights, alone, strict=True))
        torch.testing.assert_close(end, made, rtol=0, atol=1e-15)


def test_a_velocity_that_is_known_is_not_computed_again() -> None:
    x = torch.rand(5, 3, generator=seeded(), dtype=torch.float64)
    t, h = double(0.3), double(0.1)
    counted = Counted(riccati)
    plain = slopes_of(RK4, counted, x, t, h)
    assert len(counted.times) == 4
    known = slopes_of(RK4, counted, x, t, h, plain[0])
    assert len(counted.times) == 7
    assert all(torch.equal(one, other) for one, other in zip(plain, known, strict=True))


def test_terms_of_no_weight_do_not_enter_a_sum() -> None:
    bad, good = torch.tensor([torch.inf]), torch.tensor([2.0])
    assert torch.equal(weighted_sum((0, 3), (bad, good)), torch.tensor([6.0]))


either_way = pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (1.0, 0.0)])


def rotation(x: Tensor, t: Tensor) -> Tensor:
    return torch.stack([x[:, 1], -x[:, 0]], dim=1)


@either_way
def test_errors_fall_with_the_tolerance_also_in_between(begin: float, end: float) -> None:
    for tolerance in (1e-3, 1e-7, 1e-11):
        method = dormand_prince(tolerance, tolerance)
        reached = last(method, riccati, riccati_solution(begin), double([begin, end]))
        assert float((reached - riccati_solution(end)).abs().max()) < 10 * tolerance
    times = torch.linspace(begin, end, 6, dtype=torch.float64)
    states = list(dormand_prince(1e-8, 1e-8)(riccati, riccati_solution(begin), times))
    for t, state in zip(times[1:], states, strict=True):
        torch.testing.assert_close(state, riccati_solution(float(t)), rtol=1e-7, atol=1e-7)


def test_calls_grow_with_the_fifth_root_of_the_tolerance_and_not_with_the_times() -> None:
    counts = []
    for tolerance in (1e-5, 1e-10):
        counted = Counted(rotation)
        last(dormand_prince(tolerance, tolerance), counted, START[:, :2], double([0, 10]))
        counts.append(len(counted.times))
    assert counts[1] / counts[0] == pytest.approx(10, rel=0.3)
    counts = []
    # One saved state almost on top of another costs a step or two, not a new search for the size.
    for times in (double([0.0, 0.5, 1.0]), double([0.0, 0.5, 0.5 + 1e-9, 1.0])):
        counted = Counted(riccati)
        last(dormand_prince(1e-8, 1e-8), counted, START, times)
        counts.append(len(counted.times))
    assert counts[1] <= counts[0] + 12


def test_a_sample_has_the_same_bits_alone_and_with_stiffer_ones() -> None:
    def stiffening(stiffness: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, t: -stiffness * (x - (stiffness * t[..., None]).sin())

    stiffness = double([0.1, 1.0, 200.0, 5.0])[:, None]
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    method, times = dormand_prince(1e-6, 1e-6), double([0.0, 0.3, 1.0])
    together = list(method(stiffening(stiffness), x, times))
    for row in range(4):
        alone = list(method(stiffening(stiffness[[row]]), x[[row]], times))
        for one, whole in zip(alone, together, strict=True):
            assert torch.equal(one, whole[[row]])


@pytest.mark.parametrize("backwards", [False, True], ids=["melt", "generate"])
def test_it_agrees_with_an_independent_implementation(backwards: bool) -> None:
    flow = curved_flow()
    times = flow.schedule.times(4, flow.schedule.default_t_max())
    times = times.flip(0) if backwards else times
    y = normal(4, 2)
    v, dopri5 = flow.standardized_velocity, {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9}
    got = list(dormand_prince(1e-9, 1e-9)(v, y, times))
    for row in range(2):
        theirs = torchdiffeq.odeint(lambda t, x: v(x, t), y[[row]], times, **dopri5)
        ours = torch.stack([y, *got])[:, [row]]
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


VELOCITIES: dict[str, tuple[float, Callable[[Tensor, Tensor], Tensor]]] = {
    # A jump in space that states are driven into from both sides.
    "jump": (1e-10, lambda x, t: -x.sign() * 1e3),
    "not a number": (1e-10, lambda x, t: torch.where(t[..., None] > 0.5, torch.nan, x)),
    "blows up": (1e-10, lambda x, t: x**2),
    "below rounding errors": (1e-30, riccati),
}


@pytest.mark.parametrize("kind", VELOCITIES)
def test_a_tolerance_out_of_reach_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "MAX_TRIALS", 500)
    tolerance, velocity = VELOCITIES[kind]
    method, x = dormand_prince(tolerance, tolerance), double([2.0, 0.1])[:, None]
    with pytest.raises(DataError, match=rf"not reach its tol.*rtol {tolerance:g}.* near t = "):
        last(method, velocity, x, double([0.0, 1.0]))


def test_a_state_that_rests_is_kept_and_times_that_coincide_give_one_state() -> None:
    resting = dormand_prince(1e-6, 1e-6)(lambda x, t: 0 * x, START, double([0, 1e-9, 1, 100]))
    assert all(torch.equal(state, START) for state in resting)
    twice = list(dormand_prince(1e-8, 1e-8)(riccati, START, double([0, 0.5, 0.5, 1])))
    assert torch.equal(twice[0], twice[1])
