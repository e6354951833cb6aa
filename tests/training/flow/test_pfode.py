"""The probability flow: against closed forms, as an invertible map, and what it keeps of a run."""

import weakref
from collections.abc import Callable
from math import nan

import pytest
import torch
from torch import Tensor
from torch.func import jacfwd

from dnnlib.errors import DataError, UsageError
from training.data.toys import Toy
from training.flow.denoisers import MixtureDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.isotropic import EDMSchedule, VESchedule, VPSchedule
from training.flow.pfode import ProbabilityFlow, State
from training.flow.schedules import InflationSchedule, NoiseSchedule
from training.flow.solvers import SOLVERS

ExactFlow = Callable[..., tuple[Toy, ProbabilityFlow]]
RandomBasis = Callable[[int], EigenBasis]

RK4 = SOLVERS["rk4"]
GAP = {"g_type": "constant_inflation_gap"}
SCHEDULES = {
    "PRP": InflationSchedule.to_dimension(3, 3, top_variance=2.0),
    "PRR": InflationSchedule.to_dimension(1, 3, top_variance=2.0),
    "constant gap": InflationSchedule.to_dimension(2, 3, top_variance=2.0, end_std=0.5, **GAP),
    "EDM": EDMSchedule(3, t_min=0.1),
    "VP": VPSchedule(3, t_min=0.01),
    "VE": VESchedule(3, t_min=0.01),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)


def gaussian_flow(basis: EigenBasis, schedule: NoiseSchedule) -> ProbabilityFlow:
    """The exact flow of Gaussian data, whose denoiser is linear."""

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return basis.eigenvalues / (basis.eigenvalues + schedule.noise_variance(t)) * x

    return ProbabilityFlow(denoise, schedule, basis)


def gaussian_path(flow: ProbabilityFlow, start: Tensor, begin: Tensor, t: Tensor) -> Tensor:
    """Where ``start`` at ``begin`` is at time t: each dimension grows like its standard deviation,
    ``x_i(t) = x_i(0) s(t)/s(0) sqrt((xi_i + gamma_i(t)) / (xi_i + gamma_i(0)))``."""
    return start * (flow.latent_law(t).variance / flow.latent_law(begin).variance).sqrt()


def noisy_start(
    toy: Toy, flow: ProbabilityFlow, count: int, t: Tensor, generator: torch.Generator
) -> Tensor:
    """Scaled eigenspace samples of the law at time t."""
    clean = flow.basis.to_eigen(toy.sample(count, generator))
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    return flow.schedule.scale(t) * (clean + flow.schedule.noise_variance(t).sqrt() * noise)


@every_schedule
def test_the_velocity_is_the_time_derivative_of_the_exact_path(
    schedule: NoiseSchedule, random_basis: RandomBasis, generator: torch.Generator
) -> None:
    flow = gaussian_flow(random_basis(3), schedule)
    start = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    begin = torch.tensor(schedule.t_min, dtype=torch.float64)
    for t in schedule.times(3, min(6.0, schedule.default_t_max())):
        derivative = jacfwd(lambda s: gaussian_path(flow, start, begin, s))(t)
        velocity = flow.velocity(gaussian_path(flow, start, begin, t), t)
        torch.testing.assert_close(velocity, derivative, rtol=1e-10, atol=1e-12)


@every_schedule
def test_melting_gaussian_data_follows_the_closed_form(
    schedule: NoiseSchedule, random_basis: RandomBasis, generator: torch.Generator
) -> None:
    flow = gaussian_flow(random_basis(3), schedule)
    data = torch.randn(20, 3, generator=generator, dtype=torch.float64)
    melt = flow.melt(
        data, schedule.times(200, min(6.0, schedule.default_t_max())), RK4, save_every=50
    )
    for t, state in zip(melt.times, melt.states, strict=True):
        expected = gaussian_path(flow, melt.states[0], melt.times[0], t)
        torch.testing.assert_close(state, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("name", "kept", "options"),
    [("circles", 2, {}), ("circles", 1, {}), ("s_curve", 2, GAP), ("alt_swirl", 3, {})],
    ids=str,
)
def test_generating_from_a_melt_gives_the_data_back_at_fourth_order_or_better(
    name: str, kept: int, options: dict, exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    toy, flow = exact_flow(name, kept, **options)
    data, end = toy.sample(32, generator), flow.schedule.default_t_max()
    errors = []
    for steps in (25, 50, 100):
        times = flow.schedule.times(steps, end)
        back = flow.generate(flow.melt(data, times, RK4).end, times, RK4)
        error = flow.to_data(back.end, back.times[-1]) - data
        errors.append(float(error.square().mean().sqrt()))
    assert errors[0] < 1e-5
    assert errors[1] < errors[0] / 16
    assert errors[2] < errors[1] / 16


def test_an_edm_flow_melts_and_comes_back(
    exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    toy, known = exact_flow("circles")
    schedule = EDMSchedule(2)
    denoiser = MixtureDenoiser(*toy.mixture, basis=known.basis, schedule=schedule)
    flow = ProbabilityFlow(denoiser, schedule, known.basis)
    times = schedule.times(100, schedule.default_t_max())
    start = noisy_start(toy, flow, 2000, times[0], generator)
    melt = flow.simulate(start, times, RK4)
    back = flow.generate(melt.end, times, RK4)
    # Measured at 4e-5; a fifth-order error, as that of every roundtrip by rk4.
    assert (back.end - start).abs().max() < 1e-4
    ratio = melt.end.square().mean(0) / flow.latent_law(times[-1]).variance
    assert ((ratio - 1).abs() < 4 * (2 / 2000) ** 0.5).all()


@pytest.mark.parametrize(
    ("name", "kept", "options"),
    [("circles", 2, {}), ("circles", 1, {}), ("s_curve", 2, GAP), ("moons", 1, {})],
    ids=str,
)
def test_melted_noisy_data_has_the_law_and_the_variances_of_the_end(
    name: str,
    kept: int,
    options: dict,
    exact_flow: ExactFlow,
    law_distance: Callable[[Tensor, Tensor], float],
    generator: torch.Generator,
) -> None:
    count = 4000
    toy, flow = exact_flow(name, kept, **options)
    times = flow.schedule.times(25, flow.schedule.default_t_max())
    melted = flow.simulate(noisy_start(toy, flow, count, times[0], generator), times, RK4).end
    square = melted.square()
    error = square.std(0) / count**0.5
    assert ((square.mean(0) - flow.latent_law(times[-1]).variance).abs() < 4 * error).all()
    drawn = noisy_start(toy, flow, 20_000, times[-1], generator)
    assert law_distance(melted, drawn) < 2.4
    # A standard deviation that is off by a tenth would be seen.
    assert law_distance(1.1 * melted, drawn) > 2.4


def test_generated_samples_have_the_law_of_the_noisy_data(
    exact_flow: ExactFlow,
    law_distance: Callable[[Tensor, Tensor], float],
    generator: torch.Generator,
) -> None:
    toy, flow = exact_flow("circles")
    # So late that the Gaussian is the law to 1e-4 of its variance.
    times = flow.schedule.times(40, 17.0)
    latent = flow.latent_law(times[-1]).sample(2000, generator)
    generated = flow.generate(latent, times, RK4).end
    drawn = noisy_start(toy, flow, 20_000, times[0], generator)
    assert law_distance(generated, drawn) < 2.4
    assert law_distance(latent * flow.schedule.scale(times[0]), drawn) > 2.4


def test_samples_do_not_influence_each_other(
    exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    toy, flow = exact_flow("moons", 1)
    data, times = toy.sample(33, generator), flow.schedule.times(20, 4.0)
    whole = flow.melt(data, times, RK4).end
    halves = [flow.melt(part, times, RK4).end for part in data.split([20, 13])]
    torch.testing.assert_close(torch.cat(halves), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("save_every", "kept"),
    [(None, [0, 10]), (1, [*range(11)]), (4, [0, 4, 8, 10]), (5, [0, 5, 10]), (20, [0, 10])],
)
def test_states_are_kept_at_the_start_every_so_often_and_at_the_end(
    save_every: int | None, kept: list[int], random_basis: RandomBasis, generator: torch.Generator
) -> None:
    flow = gaussian_flow(random_basis(3), SCHEDULES["PRP"])
    times = flow.schedule.times(10, 5.0)
    data = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    every = flow.melt(data, times, RK4, save_every=1)
    some = flow.melt(data, times, RK4, save_every=save_every)
    assert torch.equal(some.times, times[kept])
    assert torch.equal(some.states, every.states[kept])
    assert torch.equal(some.updates, every.updates[kept])
    assert torch.equal(some.end, every.states[-1])


def test_updates_are_the_changes_of_the_last_step(
    random_basis: RandomBasis, generator: torch.Generator
) -> None:
    flow = gaussian_flow(random_basis(3), SCHEDULES["PRR"])
    data = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    melt = flow.melt(data, flow.schedule.times(6, 5.0), RK4, save_every=1)
    assert (melt.updates[0] == 0).all()
    torch.testing.assert_close(melt.updates[1:], melt.states.diff(dim=0), rtol=0, atol=1e-15)


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_calls_and_steps_are_counted_as_they_happen(
    solver, random_basis: RandomBasis, generator: torch.Generator
) -> None:
    plain = gaussian_flow(random_basis(3), SCHEDULES["PRP"])
    calls, steps = [], []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return plain.denoiser(x, t)

    flow = ProbabilityFlow(counted, plain.schedule, plain.basis)
    data = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    melt = flow.melt(
        data, flow.schedule.times(7, 5.0), solver, on_step=lambda: steps.append(len(calls))
    )
    assert melt.calls == len(calls)
    assert len(steps) == 7
    if solver.calls_per_step:
        first = solver.calls_per_step + solver.multistep
        assert steps == [first + solver.calls_per_step * index for index in range(7)]
        assert steps[-1] == len(calls)


def test_generation_visits_the_same_times_backwards(
    random_basis: RandomBasis, generator: torch.Generator
) -> None:
    flow = gaussian_flow(random_basis(3), SCHEDULES["PRP"])
    times = flow.schedule.times(6, 5.0)
    latent = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    generated = flow.generate(latent, times, RK4, save_every=1)
    assert torch.equal(generated.times, times.flip(0))
    assert torch.equal(generated.states[0], latent)


@every_schedule
def test_a_melt_starts_at_the_data(
    schedule: NoiseSchedule, random_basis: RandomBasis, generator: torch.Generator
) -> None:
    flow = gaussian_flow(random_basis(3), schedule)
    data = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    melt = flow.melt(data, schedule.times(2, 1.0), RK4)
    torch.testing.assert_close(flow.to_data(melt.states[0], melt.times[0]), data)


def test_single_precision_data_is_carried_in_double(random_basis: RandomBasis) -> None:
    flow = gaussian_flow(random_basis(3), SCHEDULES["PRP"])
    melt = flow.melt(torch.ones(4, 3), flow.schedule.times(10, 5.0), RK4)
    double = flow.melt(torch.ones(4, 3, dtype=torch.float64), flow.schedule.times(10, 5.0), RK4)
    assert melt.end.dtype == torch.float64
    torch.testing.assert_close(melt.end, double.end, rtol=1e-6, atol=0)


@pytest.mark.parametrize("bad_at", [0.0, 4.9])
def test_an_end_that_is_not_finite_is_a_data_error(
    bad_at: float, random_basis: RandomBasis
) -> None:
    basis, schedule = random_basis(3), SCHEDULES["PRP"]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, nan) if t >= bad_at else x

    flow = ProbabilityFlow(denoise, schedule, basis)
    with pytest.raises(DataError, match="finite"):
        flow.melt(torch.ones(2, 3), schedule.times(10, 5.0), RK4)


def test_states_cannot_be_saved_every_zero_steps(random_basis: RandomBasis) -> None:
    flow = gaussian_flow(random_basis(3), SCHEDULES["PRP"])
    with pytest.raises(UsageError, match="save_freq"):
        flow.melt(torch.ones(2, 3), flow.schedule.times(10, 5.0), RK4, save_every=0)


def test_states_go_one_by_one_to_who_asks_for_them(
    random_basis: RandomBasis, generator: torch.Generator
) -> None:
    flow = gaussian_flow(random_basis(3), SCHEDULES["PRR"])
    times = flow.schedule.times(10, 5.0)
    data = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    for options in ({}, {"save_every": 1}, {"save_every": 4}, {"save_every": 99}):
        for simulate in (flow.melt, flow.generate):
            given: list[State] = []
            streamed = simulate(data, times, RK4, on_state=given.append, **options)
            kept = simulate(data, times, RK4, **options)
            assert torch.equal(torch.stack([state.time for state in given]), kept.times)
            assert torch.equal(torch.stack([state.x for state in given]), kept.states)
            assert torch.equal(torch.stack([state.update for state in given]), kept.updates)
            assert torch.equal(streamed.times, kept.times[[0, -1]])
            assert torch.equal(streamed.states, kept.states[[0, -1]])
            assert torch.equal(streamed.updates, kept.updates[[0, -1]])
            assert streamed.calls == kept.calls


def test_states_are_given_as_they_are_made(random_basis: RandomBasis) -> None:
    flow = gaussian_flow(random_basis(3), SCHEDULES["PRP"])
    events: list[object] = []
    flow.melt(
        torch.ones(2, 3),
        flow.schedule.times(4, 5.0),
        RK4,
        save_every=2,
        on_step=lambda: events.append("step"),
        on_state=lambda state: events.append(float(state.time)),
    )
    assert events == [0.0, "step", 2.5, "step", "step", 5.0, "step"]


def test_states_that_were_given_away_are_not_kept(random_basis: RandomBasis) -> None:
    flow = gaussian_flow(random_basis(3), SCHEDULES["PRP"])
    given: list[weakref.ref[Tensor]] = []
    alive: list[int] = []

    def take(state: State) -> None:
        given.append(weakref.ref(state.x))
        alive.append(sum(reference() is not None for reference in given))

    flow.melt(torch.ones(2, 3), flow.schedule.times(30, 5.0), RK4, save_every=1, on_state=take)
    assert len(alive) == 31
    # The first, the one before and the new one.
    assert max(alive) == 3


def test_an_end_that_is_not_finite_is_not_given_away(random_basis: RandomBasis) -> None:
    basis, schedule = random_basis(3), SCHEDULES["PRP"]

    def denoise(x: Tensor, t: Tensor) -> Tensor:
        return torch.full_like(x, nan) if t >= 4.9 else x

    flow = ProbabilityFlow(denoise, schedule, basis)
    given: list[State] = []
    with pytest.raises(DataError, match="finite"):
        flow.melt(
            torch.ones(2, 3), schedule.times(10, 5.0), RK4, save_every=1, on_state=given.append
        )
    assert len(given) == 10
    assert all(state.x.isfinite().all() for state in given)


@pytest.fixture
def labelled_flow(random_basis: RandomBasis) -> ProbabilityFlow:
    """A flow that depends on labels of one number, zero if there are none."""

    def denoise(x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        return (x + (0 if labels is None else labels)).tanh()

    return ProbabilityFlow(denoise, SCHEDULES["PRR"], random_basis(3))


def test_a_flow_under_conditions_gives_each_point_its_own(
    labelled_flow: ProbabilityFlow, generator: torch.Generator
) -> None:
    data = torch.randn(4, 3, generator=generator, dtype=torch.float64)
    times = labelled_flow.schedule.times(10, 5.0)
    labels = torch.tensor([[0.0], [1.0], [-2.0], [1.0]], dtype=torch.float64)
    given = labelled_flow.given(labels=labels)
    together = given.melt(data, times, RK4).end
    for index in range(4):
        alone = labelled_flow.given(labels=labels[[index]]).melt(data[[index]], times, RK4).end
        torch.testing.assert_close(together[[index]], alone, rtol=0, atol=1e-13)
    free = labelled_flow.melt(data, times, RK4).end
    torch.testing.assert_close(together[0], free[0], rtol=0, atol=1e-13)
    assert ((together - free)[1:].abs() > 1e-3).any(dim=1).all()


def test_a_flow_in_blocks_is_the_same_flow(
    labelled_flow: ProbabilityFlow, generator: torch.Generator
) -> None:
    sizes: list[int] = []

    def counted(x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        sizes.append(len(x))
        return labelled_flow.denoiser(x, t, labels=labels)

    flow = ProbabilityFlow(counted, labelled_flow.schedule, labelled_flow.basis)
    data = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    labels = torch.randn(7, 1, generator=generator, dtype=torch.float64)
    times = flow.schedule.times(5, 5.0)
    blocks = flow.in_blocks(3)
    assert (blocks.schedule, blocks.basis) == (flow.schedule, flow.basis)
    found = blocks.given(labels=labels).melt(data, times, RK4, save_every=1)
    assert sizes == [3] * (3 * found.calls)
    expected = labelled_flow.given(labels=labels).melt(data, times, RK4, save_every=1)
    torch.testing.assert_close(found.states, expected.states, rtol=0, atol=1e-13)
