"""What a flow offers to people: samples, latents, densities, solvers by name, clear refusals."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.support.draws import double, seeded
from training.flow.eigenbasis import EigenBasis
from training.flow.isotropic import EDMSchedule
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import SOLVERS
from training.names import DEFAULT_STEPS


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
