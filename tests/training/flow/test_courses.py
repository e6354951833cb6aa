"""Courses: as few calls as an answer needs."""

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double, normal, seeded
from tests.support.flows import exact_flow, gaussian_flow, noisy_points, random_basis
from training.flow.calls import ConditionedDenoiser
from training.flow.courses import NATS, USES, Course
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers.fitted import fitted
from training.flow.trials import LEAST_SIZE, choose_courses, gauss_rule

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


def test_a_course_is_as_good_as_it_says_on_fresh_latents_and_takes_few_calls(
    flow: ProbabilityFlow,
) -> None:
    latents = flow.latent.sample(500, seeded(3))
    right = flow.generate(latents, flow.times(40), "exp_rk5")
    points = flow.to_data(right.end, flow.times()[0])
    density = flow.log_prob(points, flow.times(40), "exp_rk5")
    assert usual(flow.log_prob(points) - density) < 2 * NATS
    for name, use in USES.items():
        course = flow.courses[name]
        assert course.error <= use.error
        go = flow.melt if use.melts else flow.generate
        way = go(points if use.melts else latents, *flow.course(name))
        assert way.calls == course.calls <= 30
        off = (way.end - (latents if use.melts else right.end)) / flow.latent_std(way.times[-1])
        assert usual(off) < 2 * course.error
    assert flow.courses["look"].calls < flow.courses["points"].calls


def test_samples_and_densities_go_by_courses_unless_times_or_a_solver_are_given(
    flow: ProbabilityFlow,
) -> None:
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


@pytest.mark.parametrize(("melts", "sign"), [(True, 1), (False, -1)])
def test_a_quadrature_is_right_for_sizes_times_polynomials(melts: bool, sign: int) -> None:
    course = Course("exp_rk5", 8, 5, melts, quadrature=True)
    fine = torch.linspace(0.5, 2.5, 100_001, dtype=torch.float64)
    sizes = (1 + LEAST_SIZE) * (0.5 - fine).exp() - LEAST_SIZE
    course.place(lambda steps: fine[[0, -1]], gauss_rule(fine[::5000], sizes[::5000]))
    for power in range(14):
        right = torch.trapezoid((-fine).exp() * fine**power, fine)
        reached = course.integrals @ ((-course.way).exp() * course.way**power)
        assert float(reached) == pytest.approx(sign * float(right), rel=1e-8)
    assert (sign * course.integrals[1:-1]).min() > 0 == course.integrals[[0, -1]].abs().max()
