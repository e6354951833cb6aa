"""The adaptive method: tolerances, independence of a batch, and an independent implementation."""

from collections.abc import Callable

import pytest
import torch
import torchdiffeq
from torch import Tensor

from dnnlib.errors import DataError
from tests.support.draws import double, normal
from tests.support.equations import START, last, riccati, riccati_solution
from tests.support.flows import Counted, curved_flow
from training.flow.solvers import adaptive
from training.flow.solvers.adaptive import dormand_prince

either_way = pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (1.0, 0.0)])


def rotation(x: Tensor, t: Tensor) -> Tensor:
    return torch.stack([x[:, 1], -x[:, 0]], dim=1)


@either_way
def test_errors_fall_with_the_tolerance_also_in_between(begin: float, end: float) -> None:
    for tolerance in (1e-3, 1e-7, 1e-11):
        method = dormand_prince(tolerance, tolerance)
        reached = last(method, riccati, riccati_solution(begin), double([begin, end]))
        assert float((reached - riccati_solution(end)).abs().max()) < 10 * tolerance
    times = torch.linspace(begin, end, 6, dtype=torch.float64)
    states = list(dormand_prince(1e-8, 1e-8)(riccati, riccati_solution(begin), times))
    for t, state in zip(times[1:], states, strict=True):
        torch.testing.assert_close(state, riccati_solution(float(t)), rtol=1e-7, atol=1e-7)


def test_calls_grow_with_the_fifth_root_of_the_tolerance_and_not_with_the_times() -> None:
    counts = []
    for tolerance in (1e-5, 1e-10):
        counted = Counted(rotation)
        last(dormand_prince(tolerance, tolerance), counted, START[:, :2], double([0, 10]))
        counts.append(len(counted.times))
    assert counts[1] / counts[0] == pytest.approx(10, rel=0.3)
    counts = []
    # One saved state almost on top of another costs a step or two, not a new search for the size.
    for times in (double([0.0, 0.5, 1.0]), double([0.0, 0.5, 0.5 + 1e-9, 1.0])):
        counted = Counted(riccati)
        last(dormand_prince(1e-8, 1e-8), counted, START, times)
        counts.append(len(counted.times))
    assert counts[1] <= counts[0] + 12


def test_a_sample_has_the_same_bits_alone_and_with_stiffer_ones() -> None:
    def stiffening(stiffness: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        return lambda x, t: -stiffness * (x - (stiffness * t[..., None]).sin())

    stiffness = double([0.1, 1.0, 200.0, 5.0])[:, None]
    x = torch.linspace(-1, 1, 8, dtype=torch.float64).view(4, 2)
    method, times = dormand_prince(1e-6, 1e-6), double([0.0, 0.3, 1.0])
    together = list(method(stiffening(stiffness), x, times))
    for row in range(4):
        alone = list(method(stiffening(stiffness[[row]]), x[[row]], times))
        for one, whole in zip(alone, together, strict=True):
            assert torch.equal(one, whole[[row]])


@pytest.mark.parametrize("backwards", [False, True], ids=["melt", "generate"])
def test_it_agrees_with_an_independent_implementation(backwards: bool) -> None:
    flow = curved_flow()
    times = flow.schedule.times(4, flow.schedule.default_t_max())
    times = times.flip(0) if backwards else times
    y = normal(4, 2)
    v, dopri5 = flow.standardized_velocity, {"method": "dopri5", "rtol": 1e-9, "atol": 1e-9}
    found = list(dormand_prince(1e-9, 1e-9)(v, y, times))
    for row in range(2):
        theirs = torchdiffeq.odeint(lambda t, x: v(x, t), y[[row]], times, **dopri5)
        ours = torch.stack([y, *found])[:, [row]]
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


VELOCITIES: dict[str, tuple[float, Callable[[Tensor, Tensor], Tensor]]] = {
    # A jump in space that states are driven into from both sides.
    "jump": (1e-10, lambda x, t: -x.sign() * 1e3),
    "not a number": (1e-10, lambda x, t: torch.where(t[..., None] > 0.5, torch.nan, x)),
    "blows up": (1e-10, lambda x, t: x**2),
    "below rounding errors": (1e-30, riccati),
}


@pytest.mark.parametrize("kind", VELOCITIES)
def test_a_tolerance_out_of_reach_is_an_error(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adaptive, "MAX_TRIALS", 500)
    tolerance, velocity = VELOCITIES[kind]
    method, x = dormand_prince(tolerance, tolerance), double([2.0, 0.1])[:, None]
    with pytest.raises(DataError, match=rf"not reach its tol.*rtol {tolerance:g}.* near t = "):
        last(method, velocity, x, double([0.0, 1.0]))


def test_a_state_that_rests_is_kept_and_times_that_coincide_give_one_state() -> None:
    resting = dormand_prince(1e-6, 1e-6)(lambda x, t: 0 * x, START, double([0, 1e-9, 1, 100]))
    assert all(torch.equal(state, START) for state in resting)
    twice = list(dormand_prince(1e-8, 1e-8)(riccati, START, double([0, 0.5, 0.5, 1])))
    assert torch.equal(twice[0], twice[1])
