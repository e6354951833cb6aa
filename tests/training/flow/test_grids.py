"""Grids of equal errors, and the choice of a number of steps."""

from functools import partial
from math import log2

import pytest
import torch
from torch import Tensor

from dnnlib.errors import UsageError
from tests.support.draws import double, seeded
from tests.support.flows import curved_flow
from training.flow.grids import (
    FEWEST_STEPS,
    LEAST_DENSITY,
    EqualErrorGrid,
    choose_steps,
    fit_equal_error_grid,
)
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS

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


def test_a_tolerance_that_no_number_of_steps_reaches_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flow = curved_flow()
    monkeypatch.setattr("training.flow.grids.MOST_STEPS", 16)
    even = partial(flow.schedule.times, t_max=END)
    with pytest.raises(UsageError, match=r"1e-14.*at best"):
        choose_steps(flow, latents_of(flow), even, SOLVERS["euler"], 1e-14)
