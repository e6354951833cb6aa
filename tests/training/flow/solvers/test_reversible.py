"""Methods that are their own inverse: the reversible coupling, and that of Gauss and Legendre."""

from collections.abc import Callable
from itertools import pairwise
from math import log2

import pytest
import torch
from torch import Tensor

from dnnlib.errors import DataError
from tests.support.draws import double, normal, seeded
from tests.support.equations import START, last, riccati, riccati_solution
from tests.support.flows import curved_flow, exact_flow, network_flow
from tests.support.running import refusal
from training.flow.likelihood import DivergenceIntegral, Trace
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS
from training.flow.solvers.implicit import NODES, STAGES, gauss_legendre
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
    got = []
    for steps in (16, 32):
        times = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
        *_, (mean, gap) = reversible(tableau)(riccati, START, None, times)
        got.append((float((mean - riccati_solution(1.0)).abs().max()), float(gap.abs().max())))
    means, gaps = zip(*got, strict=True)
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
        got, _ = flow.log_prob_along(trajectory, integral)
        torch.testing.assert_close(got, right, rtol=0, atol=1e-5)


GAUSS4 = SOLVERS["gauss4"]
ONE_STEP = double([0.0, 1.0])


def roundtrip_error(flow: ProbabilityFlow, data: Tensor, steps: int) -> float:
    """Largest change of data by a melt and the way back, in units of the data."""
    times = flow.schedule.times(steps, flow.schedule.default_t_max())
    back = flow.generate(flow.melt(data, times, GAUSS4).end, times, GAUSS4)
    return float((flow.to_data(back.end, times[0]) - data).abs().max())


@pytest.mark.parametrize("kept", [2, 1], ids=["PRP", "PRR"])
def test_melting_and_generating_undo_each_other_at_any_number_of_steps(kept: int) -> None:
    generator = seeded()
    flow = curved_flow(2, kept)
    data = normal(32, 2, generator=generator)
    for steps in (6, 40):
        assert roundtrip_error(flow, data, steps) <= 1e-12
    times = flow.schedule.times(6, flow.schedule.default_t_max())
    latents = flow.latent_law(times[-1]).sample(32, generator)
    points = flow.to_data(flow.generate(latents, times, GAUSS4).end, times[0])
    back = flow.melt(points, times, GAUSS4).end
    torch.testing.assert_close(back, latents, rtol=0, atol=1e-12)


def test_a_network_in_single_precision_is_inverted_to_its_rounding() -> None:
    (toy, flow), generator = network_flow(), seeded()
    for steps in (6, 30):
        assert roundtrip_error(flow, toy.sample(32, generator), steps) <= 1e-5


def test_slopes_that_are_linear_in_time_are_known_from_the_last_step() -> None:
    times = double([0.0, 1.0, 1.5, 3.5, 2.0])
    called = [0]

    def line(x: Tensor, t: Tensor) -> Tensor:
        called[-1] += 1
        return torch.ones_like(x) * (1 + 2 * t)

    for state, t in zip(gauss_legendre(line, START, times), times[1:], strict=True):
        torch.testing.assert_close(state, START + t + t**2, rtol=1e-14, atol=0)
        called.append(0)
    # An iteration, which changes nothing; the first step knows of one time, and needs another.
    assert called == [5, 2, 2, 2, 0]


def test_the_equations_of_the_stages_are_solved() -> None:
    times = double([0.0, 0.4, 0.5, 1.0])
    asked: list[tuple[Tensor, Tensor]] = []

    def noted(x: Tensor, t: Tensor) -> Tensor:
        asked.append((t, riccati(x, t)))
        return asked[-1][1]

    before = START
    states = gauss_legendre(noted, START, times)
    for (t, following), after in zip(pairwise(times), states, strict=True):
        h = following - t
        # The last calls at both nodes give the slopes of the step.
        places = (t + node * h for node in NODES)
        slopes = [next(k for s, k in reversed(asked) if torch.allclose(s, at)) for at in places]
        for i in range(2):
            inside = before + h * sum(a * k for a, k in zip(STAGES[i], slopes, strict=True))
            expected = riccati(inside, t + NODES[i] * h)
            torch.testing.assert_close(slopes[i], expected, rtol=0, atol=1e-14)
        torch.testing.assert_close(after, before + h * sum(slopes) / 2, rtol=0, atol=1e-14)
        before = after


def test_rotations_keep_lengths_and_uneven_steps_are_undone() -> None:
    def rotation(x: Tensor, t: Tensor) -> Tensor:
        speed = 1 + x.square().sum(dim=1, keepdim=True)
        return speed * torch.stack([-x[:, 1], x[:, 0]], dim=1)

    x = torch.rand(20, 2, generator=seeded(), dtype=torch.float64)
    times = double([0.0, 0.2, 0.24, 0.44])
    states = list(gauss_legendre(rotation, x, times))
    for state in states:
        torch.testing.assert_close(state.norm(dim=1), x.norm(dim=1), rtol=1e-13, atol=0)
    back = last(gauss_legendre, rotation, states[-1], times.flip(0))
    torch.testing.assert_close(back, x, rtol=0, atol=1e-13)


def test_a_batch_has_the_bits_of_its_members_where_the_velocity_has() -> None:
    """Members need different numbers of iterations; none goes on for another's sake."""
    stiffness = double([[0.01], [1.0], [3.0]])
    x = torch.ones(3, 2, dtype=torch.float64)
    times = torch.linspace(0, 1, 4, dtype=torch.float64)
    together = last(gauss_legendre, lambda x, t: -stiffness * x**3, x, times)
    for row in range(3):
        rate = stiffness[row]
        alone = last(gauss_legendre, lambda x, t, rate=rate: -rate * x**3, x[[row]], times)
        assert torch.equal(alone, together[[row]])


def test_a_slow_contraction_is_followed_to_its_end() -> None:
    for rate in (1.0, 2.2):
        x = double([[1.0], [-2.0]])
        end = last(gauss_legendre, lambda x, t, rate=rate: -rate * x, x, ONE_STEP)
        ratio = (1 - rate / 2 + rate**2 / 12) / (1 + rate / 2 + rate**2 / 12)
        torch.testing.assert_close(end, ratio * x, rtol=1e-12, atol=0)


def test_many_dimensions_that_swing_while_they_contract_are_no_rounding_errors() -> None:
    generator = seeded()
    weights, dim, errors = double(STAGES), 32, []
    one = torch.eye(2 * dim, dtype=torch.float64)
    for size in torch.linspace(2.3, 2.7, 30, dtype=torch.float64):
        matrix = normal(dim, dim, generator=generator)
        matrix *= size / torch.linalg.eigvals(matrix).abs().max()
        x = normal(1, dim, generator=generator)
        # How an iteration changes an error: by at most so much, in the long run.
        first = torch.kron(weights.diagonal().diag() + weights.triu(1), matrix)
        contraction = torch.linalg.solve(one - torch.kron(weights.tril(-1), matrix), first)
        if torch.linalg.eigvals(contraction).abs().max() > 0.96:
            continue
        slope = (x @ matrix.T).repeat(1, 2)[0]
        right = torch.linalg.solve(one - torch.kron(weights, matrix), slope)
        try:
            end = last(gauss_legendre, lambda y, t, matrix=matrix: y @ matrix.T, x, ONE_STEP)
        except DataError:
            continue
        expected = x + right.view(2, dim).mean(dim=0)
        errors.append(float((end - expected).abs().max() / expected.abs().max()))
    assert len(errors) > 10
    # Of the size of rounding errors of float32, from which slow changes cannot be told.
    assert max(errors) < 1e-6


VELOCITIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "linear": lambda x, t: -1000 * x,
    "bounded": lambda x, t: -100 * (10 * x).sin(),
    "not a number": lambda x, t: torch.where(t > 0.3, torch.nan, x),
    "infinite": lambda x, t: x / torch.zeros_like(x),
    "one stiff sample": lambda x, t: -double([[1.0], [1000.0]]) * x,
}


@pytest.mark.parametrize("kind", VELOCITIES)
def test_a_velocity_that_is_too_stiff_is_a_data_error(kind: str) -> None:
    x = double([[1.0, 0.3], [0.4, -2.0]])
    times = double([0.0, 0.5, 1.0])
    with pytest.raises(DataError, match=r"t = 0 of size 0\.5 has no solution.*use more steps"):
        last(gauss_legendre, VELOCITIES[kind], x, times)


def test_an_iteration_that_leaves_a_solution_has_not_found_it() -> None:
    # Its first changes are as small as rounding errors may be, and grow from there.
    x = double([[1e-5, -1e-5]])
    with pytest.raises(DataError, match="has no solution that"):
        last(gauss_legendre, lambda x, t: -8 * x.tanh(), x, ONE_STEP)
    # One of these samples is carried past a solution that repels the iteration.
    toy, flow = exact_flow("circles", 1)
    assert "has no solution that" in refusal(roundtrip_error, flow, toy.sample(300, seeded()), 1)
