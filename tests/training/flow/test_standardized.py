"""The standardized variable: a change of variables, in which Gaussian data stand still; and times
of shape ``[N]``, one for each row."""

import pytest
import torch
from torch.func import jvp

from tests.support.draws import normal, seeded
from tests.support.flows import SCHEDULES, bumps_under, exact_flow, gaussian_flow, random_basis
from training.flow.schedules import NoiseSchedule
from training.flow.solvers import SOLVERS, Solver

every_schedule = pytest.mark.parametrize("schedule", [SCHEDULES[k] for k in ("PRP", "PRR", "EDM")])


STANDARDIZED = {name: solver for name, solver in SOLVERS.items() if solver.standardized}


@every_schedule
def test_the_standardized_velocity_is_a_change_of_variables(schedule: NoiseSchedule) -> None:
    _, flow = bumps_under(schedule)
    y = normal(20, 3)
    for t in schedule.times(5, 4.0):
        # dx/dt = d(std y)/dt = std' y + std y'
        std, rate = jvp(flow.latent_std, (t,), (torch.ones_like(t),))
        expected = (flow.velocity(std * y, t) - rate * y) / std
        got = flow.standardized_velocity(y, t)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


@every_schedule
def test_rows_may_have_times_of_their_own(schedule: NoiseSchedule) -> None:
    _, flow = bumps_under(schedule)
    y = normal(6, 3)
    t = schedule.times(5, 4.0)
    for kind in ("velocity", "standardized_velocity", "noisy_std", "latent_std"):
        function = getattr(flow, kind)
        points = (y,) if "velocity" in kind else ()
        together = function(*points, t)
        assert together.shape == (6, 3)
        for row in range(6):
            alone = function(*(rows[[row]] for rows in points), t[row])
            torch.testing.assert_close(together[row], alone.view(3), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("name", STANDARDIZED)
@every_schedule
def test_gaussian_data_are_carried_exactly_in_any_steps(schedule: NoiseSchedule, name: str) -> None:
    flow = gaussian_flow(random_basis(3), schedule)
    data = normal(20, 3)
    for steps in (1, 4):
        times = schedule.times(steps, 5.0)
        melt = flow.melt(data, times, SOLVERS[name], save_every=1)
        start = melt.states[0] / flow.latent_std(times[0])
        for t, state in zip(times, melt.states, strict=True):
            expected = flow.latent_std(t) * start
            torch.testing.assert_close(state, expected, rtol=1e-12, atol=1e-12)
        back = flow.generate(melt.end, times, SOLVERS[name]).end
        torch.testing.assert_close(back, melt.states[0], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("solver", STANDARDIZED.values(), ids=STANDARDIZED)
def test_a_dimension_whose_noise_does_not_grow_moves_by_the_scale_alone(solver: Solver) -> None:
    toy, flow = exact_flow("bumps2", 1, g_type="orig")
    assert flow.schedule.growth_rates.tolist() == [2, 0]
    times = flow.schedule.times(4, flow.schedule.default_t_max())
    melt = flow.melt(toy.sample(16, seeded()), times, solver)
    expected = flow.schedule.scale(times[-1]) / flow.schedule.scale(times[0])
    moved = melt.end / melt.states[0]
    torch.testing.assert_close(moved[:, 1], expected.expand(16), rtol=1e-14, atol=0)
    assert (moved[:, 0] / moved[:, 1] - 1).abs().min() > 1e-3
    assert (flow.standardized_velocity(melt.states[0], times[0])[:, 1] == 0).all()
