"""The adaptive method: tolerances, independence of a batch, and independent implementations."""

from collections.abc import Callable

import pytest
import torch
import torchdiffeq
from equations import START, last, riccati, riccati_solution, scipys_end
from torch import Tensor

from dnnlib.errors import DataError
from training.data.toys import Toy
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import adaptive, get_solver
from training.flow.solvers.adaptive import dormand_prince

ExactFlow = Callable[..., tuple[Toy, ProbabilityFlow]]

either_way = pytest.mark.parametrize(
    ("begin", "end"), [(0.0, 1.0), (1.0, 0.0)], ids=["forwards", "backwards"]
)


def stiffening(stiffness: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """``dx/dt = -k (x - sin k t)``, with a k for each sample."""

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        return -stiffness * (x - (stiffness * t[..., None]).sin())

    return velocity


@either_way
def test_the_error_falls_with_the_tolerance(begin: float, end: float) -> None:
    times = torch.tensor([begin, end], dtype=torch.float64)
    for tolerance in (1e-3, 1e-5, 1e-7, 1e-9, 1e-11):
        reached = last(
            dormand_prince(tolerance, tolerance), riccati, riccati_solution(begin), times
        )
        error = float((reached - riccati_solution(end)).abs().max())
        assert error < 10 * tolerance


def test_calls_grow_with_the_fifth_root_of_the_tolerance() -> None:
    counts = []
    times = torch.tensor([0.0, 10.0], dtype=torch.float64)

    def counted(x: Tensor, t: Tensor) -> Tensor:
        counts[-1] += 1
        return torch.stack([x[:, 1], -x[:, 0]], dim=1)

    x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
    for tolerance in (1e-5, 1e-10):
        counts.append(0)
        last(dormand_prince(tolerance, tolerance), counted, x, times)
    assert counts[1] / counts[0] == pytest.approx(10, rel=0.3)


@either_way
def test_states_between_are_right_and_do_not_depend_on_the_end(begin: float, end: float) -> None:
    times = torch.linspace(begin, end, 6, dtype=torch.float64)
    method = dormand_prince(1e-8, 1e-8)
    states = list(method(riccati, riccati_solution(begin), times))
    for t, state in zip(times[1:], states, strict=True):
        torch.testing.assert_close(state, riccati_solution(float(t)), rtol=1e-7, atol=1e-7)


def test_a_sample_has_the_same_bits_alone_and_with_stiffer_ones() -> None:
    stiffness = torch.tensor([[0.1], [1.0], [200.0], [5.0]], dtype=torch.float64)
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    times = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    method = dormand_prince(1e-6, 1e-6)
    together = list(method(stiffening(stiffness), x, times))
    for row in range(4):
        alone = list(method(stiffening(stiffness[[row]]), x[[row]], times))
        for one, whole in zip(alone, together, strict=True):
            assert torch.equal(one, whole[[row]])


def test_a_sample_of_an_exact_flow_is_the_same_alone_and_in_a_batch(
    exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    toy, flow = exact_flow("circles", 1)
    data = toy.sample(9, generator)
    times = flow.schedule.times(3, flow.schedule.default_t_max())
    solver = get_solver("dopri5", 1e-5, 1e-5)
    together = flow.melt(data, times, solver, save_every=1).states
    for row in range(0, 9, 4):
        alone = flow.melt(data[[row]], times, solver, save_every=1).states
        torch.testing.assert_close(alone, together[:, [row]], rtol=0, atol=1e-13)


@pytest.mark.parametrize("kept", [2, 1], ids=["PRP", "PRR"])
@pytest.mark.parametrize("backwards", [False, True], ids=["melt", "generate"])
def test_it_agrees_with_independent_implementations(
    kept: int, backwards: bool, exact_flow: ExactFlow, generator: torch.Generator
) -> None:
    toy, flow = exact_flow("circles", kept)
    times = flow.schedule.times(4, flow.schedule.default_t_max())
    times = times.flip(0) if backwards else times
    y = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    if not backwards:
        y = flow.schedule.scale(times[0]) * flow.basis.to_eigen(toy.sample(4, generator))
        y = y / flow.latent_std(times[0])
    found = list(dormand_prince(1e-9, 1e-9)(flow.standardized_velocity, y, times))
    right = scipys_end(flow.standardized_velocity, y, times[[0, -1]])
    torch.testing.assert_close(found[-1], right, rtol=0, atol=1e-7)
    for row in range(2):
        theirs = torchdiffeq.odeint(
            lambda t, x: flow.standardized_velocity(x, t),
            y[[row]],
            times,
            method="dopri5",
            rtol=1e-9,
            atol=1e-9,
        )
        ours = torch.stack([y, *found])[:, [row]]
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_more_times_do_not_make_the_steps_after_them_shorter() -> None:
    counts: list[int] = []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        counts[-1] += 1
        return riccati(x, t)

    # One saved state almost on top of another costs a step or two, not a new search for the size.
    for times in ([0.0, 0.5, 1.0], [0.0, 0.5, 0.5 + 1e-9, 1.0]):
        counts.append(0)
        last(dormand_prince(1e-8, 1e-8), counted, START, torch.tensor(times, dtype=torch.float64))
    assert counts[1] <= counts[0] + 12


@pytest.mark.parametrize("kind", ["jump", "not a number", "blows up"])
def test_a_tolerance_out_of_reach_is_a_data_error(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adaptive, "MAX_TRIALS", 500)
    velocities: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        # A jump in space that states are driven into from both sides.
        "jump": lambda x, t: -x.sign() * 1e3,
        "not a number": lambda x, t: torch.where(t[..., None] > 0.5, torch.nan, x),
        "blows up": lambda x, t: x**2,
    }
    x = torch.tensor([[2.0], [0.1]], dtype=torch.float64)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(DataError) as caught:
        last(dormand_prince(1e-10, 1e-10), velocities[kind], x, times)
    message = str(caught.value)
    assert "\n" not in message
    assert "rtol 1e-10, atol 1e-10" in message
    assert "near t = " in message


def test_tolerances_below_rounding_errors_are_a_data_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(adaptive, "MAX_TRIALS", 500)
    times = torch.tensor([0.0, 1.0], dtype=torch.float64)
    with pytest.raises(DataError, match="does not reach its tolerances"):
        last(dormand_prince(1e-30, 1e-30), riccati, START, times)


def test_a_state_that_rests_is_kept() -> None:
    times = torch.tensor([0.0, 1e-9, 1.0, 100.0], dtype=torch.float64)
    for state in dormand_prince(1e-6, 1e-6)(lambda x, t: torch.zeros_like(x), START, times):
        assert torch.equal(state, START)


def test_times_that_coincide_give_one_state() -> None:
    times = torch.tensor([0.0, 0.5, 0.5, 1.0], dtype=torch.float64)
    states = list(dormand_prince(1e-8, 1e-8)(riccati, START, times))
    assert torch.equal(states[0], states[1])
