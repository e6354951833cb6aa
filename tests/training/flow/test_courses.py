"""Times of steps: grids of equal errors, numbers of steps, and courses."""

from functools import partial
from math import log2

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import curved_flow, exact_flow, gaussian_flow, noisy_points, random_basis
from training.flow.calls import ConditionedDenoiser
from training.flow.courses import NATS, USES, Course
from training.flow.grids import (
    FEWEST_STEPS,
    LEAST_DENSITY,
    EqualErrorGrid,
    choose_steps,
    fit_equal_error_grid,
)
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.flow.solvers.fitted import fitted
from training.flow.trials import choose_courses

END = 6.0


def latents_of(flow: ProbabilityFlow, count: int = 32, seed: int = 0) -> Tensor:
    law = flow.latent_law(double(END))
    return law.sample(count, seeded(seed))


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def test_times_of_any_number_of_steps_are_quantiles_of_the_grid() -> None:
    grid = EqualErrorGrid(double([0.0, 1.0, 4.0]))
    assert (grid(1).tolist(), grid(2).tolist()) == ([0, 4], [0, 1, 4])
    assert grid(4).tolist() == [0, 0.5, 1, 2.5, 4]


@pytest.mark.parametrize("name", ["rk4", "exp_rk5", "gauss4"])
def test_adapted_times_make_nearly_equal_errors_that_add_up_to_less(name: str) -> None:
    flow, solver = curved_flow(), SOLVERS[name]
    latents, best = latents_of(flow), SOLVERS["exp_rk5"]
    grid = fit_equal_error_grid(flow, latents, flow.schedule.times(1, END), solver)
    even = flow.schedule.times(24, END)
    found = grid(24)
    assert found[[0, -1]].tolist() == [0, END]
    steps = found.diff()
    assert (steps > 0).all()
    assert steps.max() / steps.min() <= 1.01 / LEAST_DENSITY

    def spread(times: Tensor) -> float:
        """How much the error of a step varies, in powers of two."""
        errors = []
        starts = flow.generate(latents, times, best, save_every=1).states
        for low in range(len(times) - 1):
            pair, start = times[[low, low + 1]], starts[len(times) - 2 - low]
            fine = torch.linspace(float(pair[0]), float(pair[1]), 5, dtype=torch.float64)
            exact = flow.generate(start, fine, best).end
            std = flow.latent_std(pair[0]) if solver.standardized else torch.ones(2)
            errors.append(rms((flow.generate(start, pair, solver).end - exact) / std))
        return log2(max(errors) / min(errors))

    assert spread(found) < 0.75 * spread(even)
    # Latents that the grid was not fitted to.
    others = latents_of(flow, 200, seed=1)
    exact = flow.generate(others, flow.schedule.times(100, END), best).end
    adapted, plain = (
        rms(flow.generate(others, times, solver).end - exact)
        for times in (grid(10), flow.schedule.times(10, END))
    )
    assert adapted < plain or not solver.standardized


@pytest.mark.parametrize("name", ["rk4", "exp_ab2", "exp_rk5", "gauss4"])
def test_the_chosen_number_of_steps_reaches_the_tolerance(name: str) -> None:
    flow, solver = curved_flow(), SOLVERS[name]
    latents = latents_of(flow)

    def even(steps: int) -> Tensor:
        return flow.schedule.times(steps, END)

    exact = flow.generate(latents, even(100), SOLVERS["exp_rk5"]).end
    counts = []
    for tolerance in (1e-2, 1e-3, 1e-4):
        chosen = choose_steps(flow, latents, even, solver, tolerance)
        counts.append(chosen.steps)
        assert chosen.steps >= FEWEST_STEPS // 2
        assert rms(flow.generate(latents, even(chosen.steps), solver).end - exact) < 1.3 * tolerance
        assert chosen.error <= tolerance * 1.0001
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


def test_a_tolerance_that_no_steps_reach_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    flow = curved_flow()
    monkeypatch.setattr("training.flow.grids.MOST_STEPS", 16)
    even = partial(flow.schedule.times, t_max=END)
    with pytest.raises(UsageError, match=r"1e-14.*at best"):
        choose_steps(flow, latents_of(flow), even, SOLVERS["euler"], 1e-14)


COUNT = 256


def with_courses(flow: ProbabilityFlow, noisy: Tensor) -> ProbabilityFlow:
    latents = flow.latent.sample(len(noisy), seeded(2))
    flow.courses = choose_courses(lambda rows: flow, noisy, latents, steps=32)
    return flow


@pytest.fixture(scope="module", params=["circles", pytest.param("bumps5", marks=pytest.mark.slow)])
def flow(request: pytest.FixtureRequest) -> ProbabilityFlow:
    """A flow that keeps all dimensions, or compresses most of five, with its courses."""
    toy, flow = exact_flow(request.param, dims_to_keep=2)
    return with_courses(flow, noisy_points(toy, flow, COUNT, flow.times()[0], seeded(1)))


def usual(off: Tensor) -> float:
    """What 9 of 10 are off by at most: where modes part, a few are off by much more."""
    return float(off.abs().flatten().quantile(0.9))


def test_courses_are_as_good_as_they_say_on_latents_at_few_calls(flow: ProbabilityFlow) -> None:
    latents = flow.latent.sample(500, seeded(3))
    right = flow.generate(latents, flow.times(40), "exp_rk5")
    points = flow.to_data(right.end, flow.times()[0])
    density = flow.log_prob(points, flow.times(40), "exp_rk5")
    assert usual(flow.log_prob(points) - density) < 2 * NATS
    for name, use in USES.items():
        course = flow.courses[name]
        assert course.error <= use.error
        way = (
            (flow.melt(points, *flow.course(name)))
            if use.melts
            else (flow.generate(latents, *flow.course(name)))
        )
        assert way.calls == course.calls <= 30
        off = (way.end - (latents if use.melts else right.end)) / flow.latent_std(way.times[-1])
        assert usual(off) < 2 * course.error
    assert flow.courses["look"].calls < flow.courses["points"].calls


def test_flows_go_by_courses_unless_times_or_a_solver_are_given(flow: ProbabilityFlow) -> None:
    latents = flow.latent.sample(5, seeded(4))
    assert torch.equal(flow.sample(5, seeded(4)), flow.decode(latents, *flow.course("points")))
    finer = flow.sample(5, seeded(4), flow.times())
    assert torch.equal(finer, flow.decode(latents, flow.times(), "exp_rk5"))
    assert torch.equal(flow.sample(5, seeded(4), solver="exp_rk5"), finer)
    elsewhere = ProbabilityFlow(
        flow.denoiser, flow.schedule, flow.basis, flow.end_time - 1, courses=flow.courses
    )
    assert torch.equal(elsewhere.course("points")[0], elsewhere.times())


def test_a_gaussian_flow_stands_still_and_takes_the_fewest_calls() -> None:
    schedule = InflationSchedule.to_dimension(3, 3, top_variance=2.0)
    flow = gaussian_flow(random_basis(3), schedule)
    noisy = flow.noisy_std(flow.times()[0]) * normal(COUNT, 3, seed=1)
    with_courses(flow, noisy)
    assert [course.calls for course in flow.courses.values()] == [4, 4, 4, 4, 18]
    assert flow.courses["densities"].nats == pytest.approx(0, abs=1e-9)


def test_each_trajectory_is_followed_under_its_own_conditions() -> None:
    toy, flow = exact_flow("circles")
    shifts = normal(2 * COUNT, 2, seed=5)
    denoiser = flow.denoiser

    def shifted(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        return denoiser(x - 0.1 * labels, t) + 0.1 * labels

    def under(rows: slice) -> ProbabilityFlow:
        return flow.with_denoiser(ConditionedDenoiser(shifted, {"labels": shifts[rows]}))

    noisy = noisy_points(toy, flow, COUNT, flow.times()[0], seeded(1)) + 0.1 * shifts[:COUNT]
    latents = flow.latent.sample(COUNT, seeded(2))
    courses = choose_courses(under, noisy, latents, steps=32)
    assert set(courses) == set(USES)
    assert courses["points"].calls <= 16


def test_a_fitted_method_goes_its_own_way_alone() -> None:
    way = double([0.0, 1.0, 3.0])
    weights = double([[1.0, 0.0], [-1.0, 3.0]])
    method = fitted(way, weights, double([0.5, 2.5]), dim=1).method
    with pytest.raises(UsageError, match="has 2 steps, from 0 to 3 at its own times"):
        list(method(lambda x, t: x, double([[1.0]]), way + 1))
    bare = fitted(way, weights, None, dim=1).method
    with pytest.raises(UsageError, match="no log densities"):
        list(bare(lambda x, t: x, double([[1.0, 0.0]]), way))
    # Two steps by hand: slopes are 1 and 2, and beside the state t is integrated.
    velocity = lambda x, t: torch.stack([x[:, 0], t.expand(len(x))], dim=1)  # noqa: E731
    states = list(method(velocity, double([[1.0, 0.0]]), way))
    assert states[-1].tolist() == [[2.0 - 1.0 + 6.0, 2.5]]


def test_a_course_says_what_is_wrong_with_it() -> None:
    course = Course("fitted", 3, 2, melts=False)
    with pytest.raises(ValueError, match="do not increase"):
        course.check()
    with pytest.raises(ValueError, match="'nothing', a solver that is not known"):
        Course("nothing", 3, 2, melts=False).check()


def test_a_quadrature_is_right_for_polynomials() -> None:
    course = Course("exp_rk5", 8, 5, melts=True, quadrature=True)
    course.place(lambda steps: torch.linspace(0.5, 2.5, steps + 1, dtype=torch.float64))
    for power in range(14):
        right = (2.5 ** (power + 1) - 0.5 ** (power + 1)) / (power + 1)
        assert float(course.integrals @ course.times**power) == pytest.approx(right, rel=1e-12)
    first, *inner, last = course.solver.quadrature or ()
    assert (first, last) == (0, 0)
    assert min(inner) > 0
