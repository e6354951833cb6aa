"""Grids of equal errors, and the choice of a number of steps."""

from collections.abc import Callable
from math import log2

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from training.data.toys import Toy
from training.flow.grids import (
    FEWEST_STEPS,
    LEAST_DENSITY,
    EqualErrorGrid,
    choose_steps,
    fit_equal_error_grid,
)
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS

ExactFlow = Callable[..., tuple[Toy, ProbabilityFlow]]
END = 6.0

every_schedule = pytest.mark.parametrize("kept", [2, 1], ids=["PRP", "PRR"])
one_step_solvers = pytest.mark.parametrize("name", ["heun", "rk4", "exp_rk5", "gauss4"])


def latents_of(flow: ProbabilityFlow, count: int = 32) -> Tensor:
    law = flow.latent_law(torch.tensor(END, dtype=torch.float64))
    return law.sample(count, torch.Generator().manual_seed(0))


def rms(difference: Tensor) -> float:
    return float(difference.square().mean().sqrt())


def test_times_of_any_number_of_steps_are_quantiles_of_the_grid() -> None:
    grid = EqualErrorGrid(torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64))
    assert grid(1).tolist() == [0, 4]
    assert grid(2).tolist() == [0, 1, 4]
    assert grid(4).tolist() == [0, 0.5, 1, 2.5, 4]


@every_schedule
@one_step_solvers
def test_adapted_times_reach_from_end_to_end_and_keep_steps_bounded(
    exact_flow: ExactFlow, kept: int, name: str
) -> None:
    _, flow = exact_flow("circles", kept)
    times = flow.schedule.times(1, END)
    found = fit_equal_error_grid(flow, latents_of(flow), times, SOLVERS[name])(40)
    assert found[0] == 0
    assert found[-1] == END
    steps = found.diff()
    assert (steps > 0).all()
    assert steps.max() / steps.min() <= 1.01 / LEAST_DENSITY


@every_schedule
@one_step_solvers
def test_steps_of_adapted_times_make_nearly_equal_errors(
    exact_flow: ExactFlow, kept: int, name: str
) -> None:
    _, flow = exact_flow("circles", kept)
    solver, latents = SOLVERS[name], latents_of(flow)
    grid = fit_equal_error_grid(flow, latents, flow.schedule.times(1, END), solver)

    def spread(times: Tensor) -> float:
        """How much the error of a step varies, in powers of two."""
        errors = []
        reference = flow.generate(latents, times, SOLVERS["exp_rk5"], save_every=1)
        for index in range(len(times) - 1):
            low, high = len(times) - 2 - index, len(times) - 1 - index
            pair = times[[low, high]]
            start = reference.states[index]
            fine = torch.linspace(float(pair[0]), float(pair[1]), 5, dtype=torch.float64)
            exact = flow.generate(start, fine, SOLVERS["exp_rk5"]).end
            std = flow.latent_std(pair[0]) if solver.standardized else torch.ones(2)
            errors.append(rms((flow.generate(start, pair, solver).end - exact) / std))
        return log2(max(errors) / min(errors))

    assert spread(grid(24)) < 0.75 * spread(flow.schedule.times(24, END))


@every_schedule
@pytest.mark.parametrize("name", ["exp_rk5", "gauss4"])
def test_adapted_times_lower_the_error_of_a_generation(
    exact_flow: ExactFlow, kept: int, name: str
) -> None:
    _, flow = exact_flow("circles", kept)
    solver = SOLVERS[name]
    grid = fit_equal_error_grid(flow, latents_of(flow), flow.schedule.times(1, END), solver)
    other = 2 * torch.randn(200, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    latent = other * latents_of(flow).std(dim=0) / 2
    exact = flow.generate(latent, flow.schedule.times(200, END), SOLVERS["exp_rk5"]).end
    adapted, even = (
        rms(flow.generate(latent, times, solver).end - exact)
        for times in (grid(10), flow.schedule.times(10, END))
    )
    assert adapted < even


def test_solvers_without_equal_steps_have_no_grid(exact_flow: ExactFlow) -> None:
    _, flow = exact_flow("circles")
    times = flow.schedule.times(1, END)
    for name in ("dopri5", "exp_ab2"):
        with pytest.raises(UsageError, match=name):
            fit_equal_error_grid(flow, latents_of(flow), times, SOLVERS[name])


@every_schedule
@pytest.mark.parametrize("name", ["rk4", "exp_ab2", "exp_rk5", "gauss4"])
@pytest.mark.parametrize("tolerance", [1e-2, 1e-3])
def test_the_chosen_number_of_steps_reaches_the_tolerance(
    exact_flow: ExactFlow, kept: int, name: str, tolerance: float
) -> None:
    _, flow = exact_flow("circles", kept)
    solver, latents = SOLVERS[name], latents_of(flow)

    def even(steps: int) -> Tensor:
        return flow.schedule.times(steps, END)

    def error(steps: int) -> float:
        exact = flow.generate(latents, even(150), SOLVERS["exp_rk5"]).end
        return rms(flow.generate(latents, even(steps), solver).end - exact)

    chosen = choose_steps(flow, latents, even, solver, tolerance)
    assert chosen.steps >= FEWEST_STEPS // 2
    assert error(chosen.steps) <= 1.3 * tolerance
    assert chosen.error <= tolerance * 1.0001


def test_a_tighter_tolerance_takes_more_steps(exact_flow: ExactFlow) -> None:
    _, flow = exact_flow("circles")

    def even(steps: int) -> Tensor:
        return flow.schedule.times(steps, END)

    counts = [
        choose_steps(flow, latents_of(flow), even, SOLVERS["exp_rk5"], tolerance).steps
        for tolerance in (1e-3, 1e-5, 1e-7)
    ]
    assert counts == sorted(set(counts))


def test_a_tolerance_out_of_reach_is_a_usage_error(
    exact_flow: ExactFlow, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, flow = exact_flow("circles")
    monkeypatch.setattr("training.flow.grids.MOST_STEPS", 16)
    with pytest.raises(UsageError, match=r"1e-14.*at best"):
        choose_steps(
            flow, latents_of(flow), lambda n: flow.schedule.times(n, END), SOLVERS["euler"], 1e-14
        )
    with pytest.raises(UsageError, match="rtol"):
        choose_steps(
            flow, latents_of(flow), lambda n: flow.schedule.times(n, END), SOLVERS["dopri5"], 1e-3
        )
