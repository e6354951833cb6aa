"""The reversible coupling: undone by its gap, of which order, and where it is stable."""

from math import log2

import pytest
import torch
from torch import Tensor

from tests.support.draws import double, normal, seeded
from tests.support.equations import START, last, riccati, riccati_solution
from tests.support.flows import curved_flow, network_flow
from training.flow.likelihood import DivergenceIntegral, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS
from training.flow.solvers.reversible import reversible, without_gap
from training.flow.solvers.runge_kutta import CASH_KARP, EULER, HEUN, RK4, Tableau
from training.flow.trajectory import Trajectory

REVERSIBLE = ["rev_euler", "rev_rk5"]
BASE_CALLS = {"rev_euler": 1, "rev_rk5": SOLVERS["exp_rk5"].calls_per_step}
by_name = pytest.mark.parametrize("name", REVERSIBLE)


def there_and_back(flow: ProbabilityFlow, data: Tensor, name: str, steps: int) -> Trajectory:
    times = flow.schedule.times(steps, flow.schedule.default_t_max())
    melt = flow.melt(data, times, name)
    return flow.generate(melt.end, times, name, gap=melt.gap)


@by_name
def test_a_generation_with_the_gap_undoes_a_melt_and_the_other_way_round(name: str) -> None:
    flow = curved_flow(3, 2)
    data = normal(8, 3)
    for steps in (2, 10, 30):
        times = flow.schedule.times(steps, 5.0)
        melt = flow.melt(data, times, name, save_every=1)
        back = flow.generate(melt.end, times, name, gap=melt.gap, save_every=1)
        torch.testing.assert_close(back.states, melt.states.flip(0), rtol=0, atol=1e-12)
        assert back.calls == melt.calls == 2 * (BASE_CALLS[name] or 0) * steps
        torch.testing.assert_close(back.gap, torch.zeros_like(data), rtol=0, atol=1e-12)
    made = flow.generate(data, times, name)
    again = flow.melt(flow.to_data(made.end, times[0]), times, name, gap=made.gap)
    torch.testing.assert_close(again.end, data, rtol=0, atol=1e-12)


@by_name
def test_a_network_in_single_precision_is_undone_in_double(name: str) -> None:
    toy, flow = network_flow()
    data = toy.sample(32, seeded())
    back = there_and_back(flow, data, name, 10)
    assert (flow.to_data(back.end, back.times[-1]) - data).abs().max() < 1e-6


def test_without_the_gap_the_way_back_is_as_exact_as_its_order() -> None:
    flow, data = curved_flow(), normal(8, 2)
    errors = []
    for steps in (10, 20):
        times = flow.schedule.times(steps, flow.schedule.default_t_max())
        back = flow.generate(flow.melt(data, times, "rev_rk5").end, times, "rev_rk5")
        errors.append(float((flow.to_data(back.end, times[0]) - data).square().mean().sqrt()))
    assert errors[1] > 1e-12
    assert log2(errors[0] / errors[1]) > 4.5


ORDERS = {"euler": (EULER, 1), "heun": (HEUN, 2), "rk4": (RK4, 4), "Cash-Karp": (CASH_KARP, 5)}


@pytest.mark.parametrize(("tableau", "order"), ORDERS.values(), ids=ORDERS)
def test_means_are_of_the_next_even_order_gaps_of_the_odd(tableau: Tableau, order: int) -> None:
    found = []
    for steps in (16, 32):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        *_, (mean, gap) = reversible(tableau)(riccati, START, None, times)
        found.append((float((mean - riccati_solution(1.0)).abs().max()), float(gap.abs().max())))
    means, gaps = zip(*found, strict=True)
    assert log2(means[0] / means[1]) == pytest.approx(order + order % 2, abs=0.25)
    assert log2(gaps[0] / gaps[1]) == pytest.approx(order + 1 - order % 2, abs=0.25)


@pytest.mark.parametrize("coupling", [0.5, 0.9, 1.0])
def test_any_coupling_is_undone_at_uneven_steps_and_looser_ones_less_well(coupling: float) -> None:
    method = reversible(CASH_KARP, coupling)
    times = double([0.0, 0.2, 0.24, 0.5, 1.0, 1.1, 1.4, 1.5, 1.8, 2.0])
    *_, (end, gap) = method(riccati, START, None, times)
    *_, (back, _) = method(riccati, end, gap, times.flip(0))
    torch.testing.assert_close(back, START, rtol=0, atol=1e-14 / coupling ** len(times))


def test_a_smaller_coupling_damps_the_gap_that_grows_where_a_flow_contracts() -> None:
    def contracting(x: Tensor, t: Tensor) -> Tensor:
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


def test_densities_go_along_both_ways() -> None:
    flow, data = curved_flow(), normal(8, 2)
    times, exact = flow.schedule.times(20, 4.0), Trace("exact")
    right = flow.log_prob(data, flow.schedule.times(40, 4.0), "exp_rk5", trace=exact)
    there, back = (DivergenceIntegral(SOLVERS["rev_rk5"], exact, slice(0, 8), 2) for _ in range(2))
    melt = flow.melt(data, times, there.solver)
    returned = flow.generate(melt.end, times, back.solver, gap=melt.gap)
    torch.testing.assert_close(flow.to_data(returned.end, times[0]), data, rtol=0, atol=1e-12)
    for trajectory, integral in ((melt, there), (returned, back)):
        found, _ = flow.log_prob_along(trajectory, integral)
        torch.testing.assert_close(found, right, rtol=0, atol=1e-5)
