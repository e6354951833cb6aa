"""The Gauss-Legendre method: its own inverse backwards, what it solves, and when it gives up."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from dnnlib.errors import DataError
from tests.support.draws import double, normal, seeded
from tests.support.equations import START, last, riccati
from tests.support.flows import curved_flow, exact_flow, network_flow
from tests.support.refusals import refusal
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS
from training.flow.solvers.implicit import NODES, STAGES, gauss_legendre

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
        slopes = [
            next(k for s, k in reversed(asked) if torch.allclose(s, t + node * h)) for node in NODES
        ]
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
