"""Solvers by name: order, cost, refusals, the adaptive method, and those that undo themselves."""

from dataclasses import replace
from math import inf, log2, nan

import pytest
import torch

from dnnlib.errors import DataError, UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import Counted, curved_flow
from training.flow import solvers
from training.flow.likelihood import DivergenceIntegral, Trace
from training.flow.solvers import (
    CASH_KARP,
    EULER,
    HEUN,
    RK4,
    SOLVERS,
    dormand_prince,
    get_solver,
    reversible,
    without_gap,
)

FIXED = {name: solver for name, solver in SOLVERS.items() if not solver.adaptive}
TABLEAUS = [EULER, HEUN, RK4, CASH_KARP, solvers.DORMAND_PRINCE]
BASE_CALLS = {"rev_euler": 1, "rev_rk5": SOLVERS["exp_rk5"].calls_per_step}
ORDERS = {"euler": (EULER, 1), "heun": (HEUN, 2), "rk4": (RK4, 4), "Cash-Karp": (CASH_KARP, 5)}
ONE_STEP = double([0.0, 1.0])
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


@pytest.mark.parametrize("solver", FIXED.values(), ids=FIXED)
@pytest.mark.parametrize("grid", [even, uneven])
def test_errors_fall_with_the_order(grid, solver):
    for begin, end in ((0.0, 1.0), (1.0, 0.0)):
        errors = []
        for steps in (16, 32) if solver.order == 6 else (64, 128):
            times = begin + (end - begin) * grid(steps)
            reached = last(solver.method, riccati, riccati_solution(begin), times)
            errors.append(float((reached - riccati_solution(end)).abs().max()))
        assert log2(errors[0] / errors[1]) == pytest.approx(solver.order, abs=0.2)


@pytest.mark.parametrize("name", FIXED)
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
    # Euler's method are as large themselves; those of rev_euler grow where the equation contracts.
    bound = 0.025 if solver.order == 1 else 0.022 / 4
    for t, state in zip(times[1:], solver.method(riccati, START, times), strict=True):
        torch.testing.assert_close(state, riccati_solution(float(t)), rtol=bound, atol=0)


def test_solvers_are_found_by_their_names():
    assert [solver.order for solver in SOLVERS.values()] == [1, 2, 4, 2, 4, 5, 5, 2, 6]
    for name, solver in SOLVERS.items():
        got = get_solver(name)
        assert got == replace(solver, method=got.method)
        assert got is solver or solver.adaptive
    with pytest.raises(UsageError, match=r"'midpoint'.*euler, heun, rk4"):
        get_solver("midpoint")


def test_tolerances_given_are_those_used_and_must_be_positive_numbers():
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


@pytest.mark.parametrize("tableau", TABLEAUS)
def test_a_step_is_made_of_its_stages_and_rows_may_have_steps_of_their_own(tableau, generator):
    x = torch.rand(5, 3, generator=generator, dtype=torch.float64)
    t = torch.rand(5, generator=generator, dtype=torch.float64)
    h = torch.linspace(-0.2, 0.3, 5, dtype=torch.float64)
    together = solvers.slopes_of(tableau, riccati, x, t, h)
    for row in range(5):
        alone = solvers.slopes_of(tableau, riccati, x[[row]], t[row], h[row])
        for slope, expected in zip(together, alone, strict=True):
            torch.testing.assert_close(slope[[row]], expected, rtol=0, atol=1e-15)
        times = torch.stack([t[row], t[row] + h[row]])
        (end,) = solvers.runge_kutta(tableau)(riccati, x[[row]], times)
        made = x[[row]] + h[row] * sum(b * k for b, k in zip(tableau.weights, alone, strict=True))
        torch.testing.assert_close(end, made, rtol=0, atol=1e-15)


def test_known_velocities_are_not_computed_again_nor_terms_of_no_weight_added():
    x = torch.rand(5, 3, generator=seeded(), dtype=torch.float64)
    t, h = double(0.3), double(0.1)
    counted = Counted(riccati)
    plain = solvers.slopes_of(RK4, counted, x, t, h)
    assert len(counted.times) == 4
    known = solvers.slopes_of(RK4, counted, x, t, h, plain[0])
    assert len(counted.times) == 7
    assert all(torch.equal(one, other) for one, other in zip(plain, known, strict=True))
    bad, good = torch.tensor([torch.inf]), torch.tensor([2.0])
    assert torch.equal(solvers.weighted_sum((0, 3), (bad, good)), torch.tensor([6.0]))


@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (1.0, 0.0)])
def test_errors_fall_with_the_tolerance_also_in_between(begin, end):
    for tolerance in (1e-3, 1e-7, 1e-11):
        method = dormand_prince(tolerance, tolerance)
        reached = last(method, riccati, riccati_solution(begin), double([begin, end]))
        assert float((reached - riccati_solution(end)).abs().max()) < 10 * tolerance
    times = torch.linspace(begin, end, 6, dtype=torch.float64)
    states = list(dormand_prince(1e-8, 1e-8)(riccati, riccati_solution(begin), times))
    for t, state in zip(times[1:], states, strict=True):
        torch.testing.assert_close(state, riccati_solution(float(t)), rtol=1e-7, atol=1e-7)


def test_calls_grow_with_the_fifth_root_of_the_tolerance_and_not_with_the_times():
    counts = []
    for tolerance in (1e-5, 1e-10):
        counted = Counted(lambda x, t: torch.stack([x[:, 1], -x[:, 0]], dim=1))
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


def test_a_sample_has_the_same_bits_alone_and_with_stiffer_ones():
    def stiffening(stiffness):
        return lambda x, t: -stiffness * (x - (stiffness * t[..., None]).sin())

    stiffness = double([0.1, 1.0, 200.0, 5.0])[:, None]
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    method, times = dormand_prince(1e-6, 1e-6), double([0.0, 0.3, 1.0])
    together = list(method(stiffening(stiffness), x, times))
    for row in range(4):
        alone = list(method(stiffening(stiffness[[row]]), x[[row]], times))
        for one, whole in zip(alone, together, strict=True):
            assert torch.equal(one, whole[[row]])


VELOCITIES = {
    # A jump in space that states are driven into from both sides.
    "jump": (1e-10, lambda x, t: -x.sign() * 1e3),
    "not a number": (1e-10, lambda x, t: torch.where(t[..., None] > 0.5, torch.nan, x)),
    "blows up": (1e-10, lambda x, t: x**2),
    "below rounding errors": (1e-30, riccati),
}


@pytest.mark.parametrize("kind", VELOCITIES)
def test_a_tolerance_out_of_reach_is_an_error(kind, monkeypatch):
    monkeypatch.setattr(solvers, "MAX_TRIALS", 500)
    tolerance, velocity = VELOCITIES[kind]
    method, x = dormand_prince(tolerance, tolerance), double([2.0, 0.1])[:, None]
    with pytest.raises(DataError, match=rf"not reach its tol.*rtol {tolerance:g}.* near t = "):
        last(method, velocity, x, double([0.0, 1.0]))


def test_a_state_that_rests_is_kept_and_times_that_coincide_give_one_state():
    resting = dormand_prince(1e-6, 1e-6)(lambda x, t: 0 * x, START, double([0, 1e-9, 1, 100]))
    assert all(torch.equal(state, START) for state in resting)
    twice = list(dormand_prince(1e-8, 1e-8)(riccati, START, double([0, 0.5, 0.5, 1])))
    assert torch.equal(twice[0], twice[1])


@pytest.mark.parametrize("name", BASE_CALLS)
def test_a_generation_with_the_gap_undoes_a_melt_and_the_other_way_round(name):
    flow = curved_flow(3, 2)
    data = normal(8, 3)
    for steps in (2, 10, 30):
        times = flow.schedule.times(steps, 5.0)
        melt = flow.melt(data, times, name, save_every=1)
        back = flow.generate(melt.end, times, name, gap=melt.gap, save_every=1)
        torch.testing.assert_close(back.states, melt.states.flip(0), rtol=0, atol=1e-12)
        assert back.calls == melt.calls == 2 * BASE_CALLS[name] * steps
        torch.testing.assert_close(back.gap, torch.zeros_like(data), rtol=0, atol=1e-12)
    made = flow.generate(data, times, name)
    again = flow.melt(flow.to_data(made.end, times[0]), times, name, gap=made.gap)
    torch.testing.assert_close(again.end, data, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("tableau", "order"), ORDERS.values(), ids=ORDERS)
def test_means_are_of_the_next_even_order_gaps_of_the_odd(tableau, order):
    got = []
    for steps in (16, 32):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        *_, (mean, gap) = reversible(tableau)(riccati, START, None, times)
        got.append((float((mean - riccati_solution(1.0)).abs().max()), float(gap.abs().max())))
    means, gaps = zip(*got, strict=True)
    assert log2(means[0] / means[1]) == pytest.approx(order + order % 2, abs=0.25)
    assert log2(gaps[0] / gaps[1]) == pytest.approx(order + 1 - order % 2, abs=0.25)


@pytest.mark.parametrize("coupling", [0.5, 0.9, 1.0])
def test_any_coupling_is_undone_at_uneven_steps_and_looser_ones_less_well(coupling):
    method = reversible(CASH_KARP, coupling)
    times = double([0.0, 0.2, 0.24, 0.5, 1.0, 1.1, 1.4, 1.5, 1.8, 2.0])
    *_, (end, gap) = method(riccati, START, None, times)
    *_, (back, _) = method(riccati, end, gap, times.flip(0))
    torch.testing.assert_close(back, START, rtol=0, atol=1e-14 / coupling ** len(times))


def test_a_smaller_coupling_damps_the_gap_that_grows_where_a_flow_contracts():
    def contracting(x, t):
        return -x

    times = torch.linspace(0, 50, 501, dtype=torch.float64)
    *_, (mean, gap) = reversible(CASH_KARP, 0.8)(contracting, START, None, times)
    assert mean.abs().max() < 1e-10
    assert gap.abs().max() < 1e-10
    free = without_gap(reversible(CASH_KARP, 1.0))
    assert last(free, contracting, START, times).abs().max() > 1e3
    # As far as a flow contracts data, that does no harm.
    short = last(free, contracting, START, times[:41])
    torch.testing.assert_close(short, START * (-times[40]).exp(), rtol=1e-5, atol=0)


def test_densities_go_along_both_ways():
    flow, data = curved_flow(), normal(8, 2)
    times, exact = flow.schedule.times(20, 4.0), Trace("exact")
    right = flow.log_prob(data, flow.schedule.times(40, 4.0), "exp_rk5", trace=exact)
    there, back = (DivergenceIntegral(SOLVERS["rev_rk5"], exact, slice(0, 8), 2) for _ in range(2))
    melt = flow.melt(data, times, there.solver)
    returned = flow.generate(melt.end, times, back.solver, gap=melt.gap)
    torch.testing.assert_close(flow.to_data(returned.end, times[0]), data, rtol=0, atol=1e-12)
    for trajectory, integral in ((melt, there), (returned, back)):
        got, _ = flow.log_prob_along(trajectory, integral)
        torch.testing.assert_close(got, right, rtol=0, atol=1e-5)
