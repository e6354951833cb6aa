"""What a flow offers to people, and how its denoiser is called: with conditions, and in blocks."""

from collections.abc import Callable
from math import ceil

import pytest
import torch
from torch import Tensor, nn

from tests.support.draws import double, normal, seeded
from tests.support.flows import random_basis
from training.flow.calls import BlockwiseDenoiser, ConditionedDenoiser
from training.flow.denoisers import NetworkDenoiser
from training.flow.eigenbasis import EigenBasis
from training.flow.isotropic import EDMSchedule
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.names import DEFAULT_STEPS
from training.networks.mlp import ToyMLP

T = double(2.0)
Call = tuple[Tensor, Tensor, dict[str, Tensor]]


class Spy:
    """The sum of a point, its time and the first number of each condition; notes every call."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, x: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        self.calls.append((x.clone(), t, conditions))
        return x + t + sum(rows[:, :1] for rows in conditions.values())


@pytest.fixture
def points() -> Tensor:
    return normal(11, 3)


@pytest.mark.parametrize("rows", [1, 4, 11, 100])
def test_blocks_have_one_shape_and_give_what_one_call_gives(points: Tensor, rows: int) -> None:
    labels = torch.arange(22.0).view(11, 2)
    # One time for all, or one for each point.
    for t in (T, torch.linspace(1, 2, 11, dtype=torch.float64)):
        spy = Spy()

        def denoiser(x: Tensor, t: Tensor, spy: Spy = spy, **conditions: Tensor) -> Tensor:
            return spy(x, t[..., None], **conditions)

        out = BlockwiseDenoiser(denoiser, rows)(points, t, labels=labels, more=10 * labels)
        assert torch.equal(out, points + t[..., None] + 11 * labels[:, :1])
        assert len(spy.calls) == ceil(11 / rows)
        for x, times, conditions in spy.calls:
            assert x.shape == (rows, 3)
            shapes = {name: condition.shape for name, condition in conditions.items()}
            assert shapes == {"labels": (rows, 2), "more": (rows, 2)}
            assert times.shape == (*(rows,) * t.ndim, 1)
            # What fills the last block up has a time of the block: a schedule need not have 0.
            assert (times >= 1).all()
        if rows == 4:
            last, _, conditions = spy.calls[-1]
            assert torch.equal(last, torch.cat([points[8:], torch.zeros(1, 3)]))
            assert torch.equal(conditions["labels"], torch.cat([labels[8:], torch.zeros(1, 2)]))


@pytest.mark.parametrize("rows", [None, 4, 100])
@pytest.mark.parametrize("given", [1, 11])
def test_conditions_are_embedded_once_for_all_calls(points: Tensor, rows: int, given: int) -> None:
    network = ToyMLP(3, (-4.0, 4.0), label_dim=12, condition_shape=(2, 6)).eval()
    nn.init.normal_(network.output.weight)
    embedded: list[int] = []
    network.embedding.register_forward_hook(lambda *_: embedded.append(1))
    denoiser = NetworkDenoiser(network, random_basis(3), InflationSchedule.to_dimension(3, 3))
    labels = normal(given, 12, seed=3)
    expected = [denoiser(points, t, labels=labels.expand(11, -1)) for t in (T, 2 * T)]
    embedded.clear()
    in_blocks = BlockwiseDenoiser(denoiser, rows) if rows else denoiser
    calls = ConditionedDenoiser(in_blocks, {"labels": labels})
    for t, right in zip((T, 2 * T), expected, strict=True):
        torch.testing.assert_close(calls(points, t), right, rtol=0, atol=1e-6)
    assert len(embedded) == (ceil(given / rows) if rows else 1)


def test_no_points_make_no_call() -> None:
    spy, none = Spy(), torch.zeros(0, 3, dtype=torch.float64)
    out = BlockwiseDenoiser(spy, 4)(none, T, labels=torch.zeros(0, 2))
    assert (out.shape, out.dtype) == ((0, 3), torch.float64)
    assert spy.calls == []


@torch.no_grad()
def test_a_row_has_the_same_bits_whatever_comes_with_it() -> None:
    network = nn.Sequential(nn.Linear(192, 300), nn.SiLU(), nn.Linear(300, 192))
    points = torch.randn(40, 192, generator=seeded())
    blocks = BlockwiseDenoiser(lambda x, t: network(x), 8)
    whole = blocks(points, T)
    for size in (1, 5, 8, 13):
        assert torch.equal(torch.cat([blocks(part, T) for part in points.split(size)]), whole)
    torch.testing.assert_close(network(points), whole)


def test_conditions_are_the_same_at_every_call_also_in_blocks(points: Tensor) -> None:
    spy, labels = Spy(), torch.arange(22.0).view(11, 2)
    for inner in (spy, BlockwiseDenoiser(spy, 4)):
        denoiser = ConditionedDenoiser(inner, {"labels": labels})
        for t in (T, 2 * T):
            assert torch.equal(denoiser(points, t), points + t + labels[:, :1])
    assert [len(conditions["labels"]) for _, _, conditions in spy.calls] == [11] * 2 + [4] * 6
    assert torch.equal(spy.calls[3][2]["labels"], labels[4:8])


@pytest.fixture
def flow() -> ProbabilityFlow:
    """A nonlinear flow of data with a mean."""
    basis = EigenBasis(torch.tensor([0.5, -1.0]), torch.tensor([1.0, 0.5]), torch.eye(2))
    schedule = InflationSchedule.to_dimension(1, 2)
    return ProbabilityFlow(lambda x, t: x.tanh(), schedule, basis)


def test_encoding_and_decoding_are_a_melt_and_a_generation(flow: ProbabilityFlow) -> None:
    times = flow.schedule.times(DEFAULT_STEPS, flow.schedule.default_t_max())
    points = flow.sample(8, seeded())
    latents = flow.latent_law(times[-1]).sample(8, seeded())
    generated = flow.generate(latents, times, SOLVERS["exp_rk5"])
    assert torch.equal(points, flow.to_data(generated.end, times[0]))
    assert torch.equal(points, flow.decode(latents))
    assert torch.equal(flow.encode(points), flow.melt(points, times, SOLVERS["exp_rk5"]).end)
    torch.testing.assert_close(flow.encode(points), latents, rtol=0, atol=1e-3)
    assert torch.equal(flow.log_prob(points), flow.log_prob(points, times, SOLVERS["exp_rk5"]))


def test_a_flow_knows_its_end_time_whatever_becomes_of_it(flow: ProbabilityFlow) -> None:
    assert flow.end_time == flow.schedule.default_t_max()
    early = ProbabilityFlow(flow.denoiser, flow.schedule, flow.basis, end_time=3.0)
    labels = torch.zeros(2, 4)
    for derived in (early, early.in_blocks(5), early.given(labels=labels), early.to("cpu")):
        assert (derived.end_time, float(derived.times(7)[-1])) == (3.0, 3.0)
        assert len(derived.times(7)) == 8
    expected = flow.latent_law(double(3.0)).variance
    assert torch.equal(early.latent.variance, expected)
    assert float(early.melt(torch.zeros(2, 2)).times[-1]) == 3.0


def test_a_solver_can_be_named(flow: ProbabilityFlow) -> None:
    times, x = flow.times(3), torch.ones(2, 2, dtype=torch.float64)
    ways: tuple[Callable[..., Tensor], ...] = (
        lambda x, *how: flow.simulate(x, *how).end,
        lambda x, *how: flow.melt(x, *how).end,
        lambda x, *how: flow.generate(x, *how).end,
        flow.encode,
        flow.decode,
        flow.log_prob,
    )
    for way in ways:
        assert torch.equal(way(x, times, "heun"), way(x, times, SOLVERS["heun"]))


def test_what_is_printed_tells_schedule_dimensions_and_end_time(flow: ProbabilityFlow) -> None:
    assert repr(flow) == "ProbabilityFlow(PRRto1D, dim=2, end_time=4.899)"
    assert repr(flow.schedule) == "InflationSchedule(PRRto1D, dim=2, rho=1, gamma0=0.0005)"
    assert repr(EDMSchedule(3)) == "EDMSchedule(EDM, dim=3, t_min=0.002)"
    assert repr(flow.basis) == "EigenBasis(dim=2, participation_ratio=1.8)"
    melt = flow.melt(torch.zeros(5, 2), flow.times(2), "euler")
    assert repr(melt) == "Trajectory(2 states of 5 points, dim=2, t=0 to 4.899, calls=2)"
    drowned = InflationSchedule.to_dimension(2, 2, gamma0=1000.0)
    endless = ProbabilityFlow(flow.denoiser, drowned, flow.basis)
    assert repr(endless) == "ProbabilityFlow(PRP, dim=2, end_time=unknown)"
