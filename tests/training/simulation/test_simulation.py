"""What simulations share: grids of times, latent laws, and consistent results."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from dnnlib.errors import UsageError
from training.data.toys import Toy
from training.flow.eigenbasis import EigenBasis
from training.flow.latent import LatentLaw
from training.flow.pfode import ProbabilityFlow
from training.flow.schedules import InflationSchedule
from training.flow.solvers import DEFAULT_STEPS, SOLVERS
from training.simulation.integration import steps_and_end
from training.simulation.latents import latent_law, parse_eps
from training.simulation.simulator import Simulator

ExactFlow = Callable[..., tuple[Toy, ProbabilityFlow]]
RK4 = SOLVERS["rk4"]


@pytest.mark.parametrize(
    ("steps", "h", "expected"),
    [
        (None, None, (DEFAULT_STEPS, 7.01)),
        (20, None, (20, 7.01)),
        (701, 0.01, (701, 7.01)),
        (100, 0.02, (100, 2.0)),
        (10, 1.0, (10, 10.0)),
        (None, 0.01, (701, 7.01)),
    ],
)
def test_the_end_is_steps_times_h_and_by_default_the_networks(
    steps: int | None, h: float | None, expected: tuple[int, float]
) -> None:
    count, end = steps_and_end(steps, h, 7.01)
    assert count == expected[0]
    assert end == pytest.approx(expected[1], rel=1e-12)


def test_an_end_equal_up_to_rounding_is_the_networks_to_the_last_digit() -> None:
    assert 3 * 0.1 != 0.3
    assert steps_and_end(3, 0.1, 0.3) == (3, 0.3)


@pytest.mark.parametrize("h", [0.1, 0.2, 0.4, 0.3, 1.5])
def test_a_step_size_alone_does_not_lead_beyond_the_networks_end(h: float) -> None:
    steps, end = steps_and_end(None, h, 7.0)
    assert end <= 7.0
    assert end == pytest.approx(steps * h)


@pytest.mark.parametrize("text", ["auto", "empirical", "paper", "paper:1e-2"])
def test_named_eps_stay_names(text: str) -> None:
    assert parse_eps(text) == text


def test_a_number_is_an_eps() -> None:
    assert parse_eps("2.5e-3") == 2.5e-3


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "small", "", "paper:0", "auto:1"])
def test_other_eps_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="auto, empirical, or a positive"):
        parse_eps(text)


def test_eps_chooses_the_latent_law(exact_flow: ExactFlow, generator: torch.Generator) -> None:
    _, flow = exact_flow("s_curve", 1)
    law = flow.latent_law(torch.tensor(6.0, dtype=torch.float64))
    melted = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    expected = {
        "auto": law,
        2.5e-3: law.with_compressed(2.5e-3, 1),
        "empirical": LatentLaw.empirical(melted),
        "paper:0.01": LatentLaw(torch.tensor([1.0, 0.01, 0.01], dtype=torch.float64)),
    }
    for eps, right in expected.items():
        assert torch.equal(latent_law(flow, 6.0, eps, 1, melted).variance, right.variance)


def test_the_papers_law_says_the_variances_of_compressed_dimensions(
    exact_flow: ExactFlow,
) -> None:
    _, flow = exact_flow("circles")
    assert torch.equal(latent_law(flow, 6.0, "paper", 2).variance, torch.ones(2).double())
    _, flow = exact_flow("circles", 1)
    with pytest.raises(UsageError, match="1 dimensions are compressed"):
        latent_law(flow, 6.0, "paper", 1)


def test_an_empirical_law_needs_a_melt(exact_flow: ExactFlow) -> None:
    with pytest.raises(UsageError, match="melt"):
        latent_law(exact_flow("circles")[1], 6.0, "empirical", 2)


@pytest.fixture
def flow(random_basis: Callable[[int], EigenBasis]) -> ProbabilityFlow:
    """A nonlinear flow with a mean, a rotation and unequal noise."""
    schedule = InflationSchedule.to_dimension(1, 3, top_variance=2.0, end_std=0.7)
    return ProbabilityFlow(lambda x, t: x.tanh(), schedule, random_basis(3))


def test_a_simulator_melts_and_generates_as_its_flow_does(
    flow: ProbabilityFlow, generator: torch.Generator
) -> None:
    data = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    times = flow.schedule.times(10, 4.0)
    simulator = Simulator(flow, times, RK4, save_every=5)
    melt = simulator.melt(data)
    assert torch.equal(melt.trajectory.states, flow.melt(data, times, RK4, save_every=5).states)
    back = simulator.generate(melt.trajectory.end, "roundtrip")
    expected = flow.generate(melt.trajectory.end, times, RK4, save_every=5)
    assert torch.equal(back.trajectory.states, expected.states)
    assert torch.equal(back.trajectory.times, times[[10, 5, 0]])


def test_shares_of_the_samples_put_together_are_the_simulation_of_all(
    flow: ProbabilityFlow, generator: torch.Generator
) -> None:
    data = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    simulator = Simulator(flow, flow.schedule.times(10, 4.0), RK4, save_every=5)
    whole = simulator.melt(data).trajectory
    shares = [simulator.melt(share).trajectory for share in data.split([3, 4])]
    for name in ("states", "updates"):
        together = torch.cat([getattr(share, name) for share in shares], dim=1)
        torch.testing.assert_close(together, getattr(whole, name), rtol=0, atol=1e-13)


def test_facts_tell_the_cost_and_both_variances(
    flow: ProbabilityFlow, generator: torch.Generator
) -> None:
    data = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    melt = Simulator(flow, flow.schedule.times(10, 4.0), RK4, save_every=5).melt(data)
    facts = melt.facts(flow)
    assert facts["denoiser_calls"] == 40
    assert facts["end_time"] == 4.0
    assert facts["seconds"] > 0
    measured = (melt.trajectory.end**2).mean(0)
    np.testing.assert_allclose(facts["end_variance"], measured)
    exact = flow.latent_law(torch.tensor(4.0, dtype=torch.float64))
    np.testing.assert_allclose(facts["closed_form_variance"], exact.variance)
